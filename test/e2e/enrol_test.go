//go:build e2e

package e2e

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"brightgid/internal/netlab"
)

// An identity provider enrols a client: it leases by its token, and the warrant leads to
// the EID, which the ISP never had. Somebody else's token leads to no address.
func TestAnEnrolledClientLeasesAndIsTraced(t *testing.T) {
	const eid = "user:" + canary + "-enrolled"
	for _, program := range []string{"dhclient", "dibbler-client"} {
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
			form, _, _ := strings.Cut(program, "-")
			lines, err := w.Run("tracectl", "enroll", "--identity", w.Path("provider"), "--escrow", w.Path("trustees", "escrow.json"), "--realm", "isp.example",
				"--duid", "00:03:00:01:"+clientMAC, "--eid-file", w.Path("provider.eid"), "--for", form)
			w.must(err)
			w.must(os.Remove(w.Path("provider.eid")))

			prefix, _ := w.attach("direct")
			w.must(w.Serve())
			c, err := w.client.NewClient(program, "eth0", lines)
			w.must(err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s wrote:\n%s", program, c.Log())
				}
			})
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
