//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brightgid/internal/netlab"
)

// An identity provider enrols a client: it leases by its token, and the warrant leads to
// the EID, which the ISP never had. Somebody else's token leads to no address.
func TestAnEnrolledClientLeasesAndIsTraced(t *testing.T) {
	const eid = "user:" + canary + "-enrolled"
	for _, program := range []string{"dhclient", "dibbler-client", "systemd-networkd"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Table: map[string]string{"02:00:00:00:00:99": tableEID}})
			_, err := w.Run("tracectl", "identity", "new", "--name", "identity provider", "--out", w.Path("provider"))
			w.must(err)
			pem, err := os.ReadFile(w.Path("provider.pem"))
			w.must(err)
			// The provider's files are not the ISP's; the EID is removed once it is sealed.
			w.must(errors.Join(
				os.WriteFile(w.Path("etc", "issuers.pem"), pem, 0o644),
				os.WriteFile(w.Path("provider.eid"), []byte(eid+"\n"), 0o600),
				w.Configure("enrolment", "issuers = \"issuers.pem\"\nenterprise = 32473\n")))
			form, _, _ := strings.Cut(strings.TrimPrefix(program, "systemd-"), "-")
			lines, err := w.Run("tracectl", "enroll", "--identity", w.Path("provider"), "--escrow", w.Path("trustees", "escrow.json"), "--realm", "isp.example",
				"--duid", "00:03:00:01:"+clientMAC, "--eid-file", w.Path("provider.eid"), "--for", form)
			w.must(err)
			w.must(os.Remove(w.Path("provider.eid")))

			prefix, _ := w.attach("direct")
			w.must(w.Serve())
			c, err := w.client.NewClient(program, "eth0", lines)
			w.must(err)
			logIfFailed(t, program, c.Log)
			w.must(c.Start())
			addr := w.leased(prefix)
			first := w.lease(addr, active)
			w.lease(addr, func(l netlab.Lease) bool { return l.Updated.After(first.Updated) }) // renewed, by the token
			w.noEIDOnDisk()
			got, err := w.Trace("trace", addr, first.Start)
			w.must(err)
			if want := []string{eid}; !slices.Equal(got, want) {
				t.Errorf("the trace gives %q, want %q", got, want)
			}
			w.must(c.Release())

			// Another client with the same token.
			thief, err := w.lab.Namespace("thief")
			w.must(err)
			w.must(w.Host.Do("ip", "link", "del", "eth1"))
			w.must(w.Direct(thief, "02:00:00:00:00:66"))
			stolen, err := thief.NewClient(program, "eth0", lines)
			w.must(err)
			w.must(stolen.Start())
			w.must(w.Server.WaitLog("it was not issued for this client and realm", 30e9))
			if addrs, err := thief.Addresses("eth0"); err != nil || len(addrs) > 0 {
				t.Errorf("the thief has %v, %v", addrs, err)
			}
		})
	}
}

// A subscriber proves by a certificate, of an authority that openssl keeps, whose its client
// is. When the certificate is revoked, the client gets nothing more.
func TestAClientWithACertificateLeasesAndIsTraced(t *testing.T) {
	for _, program := range []string{"dhclient", "dibbler-client"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Table: map[string]string{"02:00:00:00:00:99": tableEID}})
			ca := w.Path("ca")
			w.must(os.MkdirAll(filepath.Join(ca, "new"), 0o700))
			w.must(errors.Join(
				os.WriteFile(filepath.Join(ca, "index.txt"), nil, 0o600),
				os.WriteFile(filepath.Join(ca, "conf"), []byte("[ca]\ndefault_ca=c\n[c]\ndatabase="+ca+"/index.txt\nnew_certs_dir="+ca+"/new\nrand_serial=yes\ndefault_md=sha256\npolicy=p\ndefault_days=2\ndefault_crl_days=2\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid:always\n[p]\ncommonName=supplied\n"), 0o600)))
			openssl := func(args ...string) {
				t.Helper()
				cmd := exec.Command("openssl", args...)
				cmd.Dir = ca
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("openssl %v: %v: %s", args, err, out)
				}
			}
			ec := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"}
			openssl(append([]string{"req", "-x509", "-days", "2", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", "ca.key", "-out", "ca.pem"}, ec...)...)
			openssl(append([]string{"req", "-new", "-subj", "/CN=" + canary + "-certified", "-keyout", "alice.key", "-out", "alice.csr"}, ec...)...)
			sign := []string{"ca", "-batch", "-config", "conf", "-keyfile", "ca.key", "-cert", "ca.pem"}
			openssl(append(sign, "-notext", "-in", "alice.csr", "-out", "alice.pem")...)
			openssl(append(sign, "-gencrl", "-out", "crl.pem")...)
			w.must(w.Configure("enrolment", fmt.Sprintf("authorities = %q\nrevoked = %q\nenterprise = 32473\n", ca+"/ca.pem", ca+"/crl.pem")))
			form, _, _ := strings.Cut(program, "-")
			lines, err := w.Run("tracectl", "prove", "--identity", ca+"/alice", "--realm", "isp.example", "--duid", "00:03:00:01:"+clientMAC, "--lasts", "1h", "--for", form)
			w.must(err)
			prefix, _ := w.attach("direct")
			w.must(w.Serve())
			c, err := w.client.NewClient(program, "eth0", lines)
			w.must(err)
			logIfFailed(t, program, c.Log)
			w.must(c.Start())
			first := w.lease(w.leased(prefix), active)
			got, err := w.Trace("trace", first.Address, first.Start)
			w.must(err)
			if len(got) != 1 || !strings.HasPrefix(got[0], "ecert:") || !strings.HasSuffix(got[0], "."+canary+"-certified") {
				t.Errorf("the trace gives %q", got)
			}
			if strings.Contains(w.Server.Log(), canary) {
				t.Error("an EID stands in the log")
			}
			openssl(append(sign, "-revoke", "alice.pem")...)
			openssl(append(sign, "-gencrl", "-out", "crl.pem")...)
			_, err = w.Run("gidserver", "reload", "--config", w.Config())
			w.must(err)
			w.lease(first.Address, func(l netlab.Lease) bool { return l.State == "expired" })
		})
	}
}
