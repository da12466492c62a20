//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

const (
	radiusSecret = "mellon-9f21"
	radiusEID    = canary + "-alice"
)

// radiusHost is a host with RADIUS servers, next to the ISP's.
type radiusHost struct {
	w    *world
	host *netlab.Namespace
	dir  string
}

const radiusAddr = "2001:db8:ff::21"

// newRADIUS makes the host. users are FreeRADIUS's.
func (w *world) newRADIUS(users string) *radiusHost {
	w.t.Helper()
	host, err := w.lab.Namespace("radius")
	w.must(err)
	r := &radiusHost{w, host, filepath.Join(w.lab.Dir, "radius")}
	w.must(w.lab.Connect(host, "eth0", "", w.Host, "radius", ""))
	w.must(errors.Join(
		host.Do("ip", "address", "add", radiusAddr+"/128", "dev", "eth0", "nodad"),
		host.Do("ip", "route", "add", "default", "via", "fe80::1", "dev", "eth0"),
		w.Host.Do("ip", "address", "add", "fe80::1/64", "dev", "radius", "nodad"),
		w.Host.Do("ip", "route", "add", radiusAddr+"/128", "dev", "radius"),
		os.MkdirAll(r.dir, 0o700)))
	conf := fmt.Sprintf(`logdir = %[1]s
run_dir = %[1]s
name = radiusd
libdir = /usr/lib/freeradius
max_request_time = 30
security {
  allow_vulnerable_openssl = yes
}
client isp {
  ipv6addr = ::/0
  secret = %[2]s
  require_message_authenticator = yes
}
modules {
  pap {
  }
  files {
    filename = %[1]s/users
  }
  detail {
    filename = %[1]s/detail
    header = "%%t"
    permissions = 0600
  }
}
server default {
  listen {
    type = auth
    ipv6addr = %[3]s
    port = 1812
  }
  listen {
    type = acct
    ipv6addr = %[3]s
    port = 1813
  }
  accounting {
    detail
  }
  authorize {
    files
    pap
  }
  authenticate {
    Auth-Type PAP {
      pap
    }
  }
  post-auth {
    update reply {
      Message-Authenticator := 0x00
    }
    Post-Auth-Type REJECT {
      update reply {
        Message-Authenticator := 0x00
      }
    }
  }
}
`, r.dir, radiusSecret, radiusAddr)
	dictionary := "$INCLUDE /usr/share/freeradius/dictionary\n"
	w.must(errors.Join(
		os.WriteFile(filepath.Join(r.dir, "radiusd.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(r.dir, "users"), []byte(users), 0o600),
		os.WriteFile(filepath.Join(r.dir, "dictionary"), []byte(dictionary), 0o600),
		os.WriteFile(w.Path("etc", "radius.secret"), []byte(radiusSecret+"\n"), 0o600)))
	return r
}

func (r *radiusHost) path(name string) string { return filepath.Join(r.dir, name) }

// freeradius starts the server.
func (r *radiusHost) freeradius() *netlab.Process {
	r.w.t.Helper()
	p, err := r.host.Start("freeradius", "-f", "-l", "stdout", "-xx", "-d", r.dir)
	r.w.must(err)
	r.w.t.Cleanup(func() {
		if r.w.t.Failed() {
			r.w.t.Logf("freeradius wrote:\n%s", p.Log())
		}
	})
	r.w.must(p.WaitLog("Ready to process requests", 20*time.Second))
	return p
}

const radiusUsers = `"` + relayLine + `" Cleartext-Password := "` + relayLine + `"
	Chargeable-User-Identity := "` + radiusEID + `",
	Session-Timeout := 3600

DEFAULT Auth-Type := Reject
`

// radiusSettings are those of the tests.
const radiusSettings = "secret = \"radius.secret\"\ntimeout = \"1s\"\ntries = 2\n"

// FreeRADIUS says who is behind a line that a relay names; the first of the servers that
// are configured does not live.
func TestFreeRADIUSSaysWhoAClientIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	w.newRADIUS(radiusUsers).freeradius()
	w.must(w.Configure("radius", "servers = [\"["+radiusAddr+"]:1899\", \"["+radiusAddr+"]:1812\"]\n"+radiusSettings))
	w.must(w.Configure("radius", "accounting = [\"["+radiusAddr+"]:1813\"]\n"))
	w.must(w.Configure("metrics", "listen = \"[::1]:9547\"\n"))
	prefix, _ := w.attach("dhcrelay")
	w.must(w.Serve())
	c := w.newClient("dhclient")
	w.must(c.Start())
	addr := w.leased(prefix)
	lease := w.lease(addr, active)
	w.lease(addr, func(l netlab.Lease) bool { return l.Updated.After(lease.Updated) }) // it is renewed
	// Accounting tells of the address's lease, and of nobody's name.
	detail := func() string {
		b, err := os.ReadFile(filepath.Join(w.lab.Dir, "radius", "detail"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(b)
	}
	w.must(c.Release())
	w.must(netlab.Until(20*time.Second, func() error {
		text := detail()
		for _, want := range []string{"Acct-Status-Type = Start", "Acct-Status-Type = Interim-Update", "Acct-Status-Type = Stop", "Framed-IPv6-Address = " + addr.String()} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %q in the accounts:\n%s", want, text)
			}
		}
		return nil
	}))
	if text := detail(); strings.Contains(text, canary) || strings.Contains(text, "User-Name") {
		t.Errorf("a name stands in the accounts:\n%s", text)
	}
	metrics, err := w.Host.Output("curl", "-sf", "http://[::1]:9547/metrics")
	w.must(err)
	if !strings.Contains(metrics, "gidserver_radius_total{result=\"accepted\"} 1\n") || !strings.Contains(metrics, "gidserver_subscribers 1\n") || strings.Contains(metrics, canary) {
		t.Errorf("the metrics are\n%s", metrics)
	}
	got, err := w.Trace("trace", addr, lease.Start)
	w.must(err)
	if want := []string{"radius:" + radiusEID}; !slices.Equal(got, want) {
		t.Errorf("the trace gives %q, want %q", got, want)
	}
	w.noEIDOnDisk()
}

// FreeRADIUS says from which pools a client is served, and of which class it is.
func TestFreeRADIUSGivesPools(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Delegate: "name = \"gold\"\nper-subscriber = 2"})
	w.newRADIUS(strings.Replace(radiusUsers, "	Session-Timeout", `	Framed-IPv6-Pool := "gold",
	Delegated-IPv6-Prefix-Pool := "gold",
	Filter-Id := "business",
	Session-Timeout`, 1)).freeradius()
	w.must(w.Configure("radius", "servers = [\"["+radiusAddr+"]:1812\"]\n"+radiusSettings))
	w.must(w.Configure("radius", "accounting = [\"["+radiusAddr+"]:1813\"]\n"))
	text, err := os.ReadFile(w.Config())
	w.must(err)
	own := "prefixes = [\"" + netlab.RelayPrefix + "\"]\n"
	w.must(os.WriteFile(w.Config(), []byte(strings.Replace(string(text), own, own+"pools = { gold = [\"2001:db8:3::/64\"] }\n", 1)+
		"\n[[class]]\nname = \"business\"\noptions = { domain-search = \"business.example\" }\n"), 0o644))
	w.attach("dhcrelay")
	w.must(w.Serve())
	c, err := w.client.NewRouter("dhclient", "eth0", "")
	w.must(err)
	w.must(c.Start())
	addr := w.leased(netip.MustParsePrefix("2001:db8:3::/64"))
	p, _ := w.delegated(netlab.RelayPool, active)
	w.must(netlab.Until(20*time.Second, func() error {
		if b, err := os.ReadFile(filepath.Join(w.lab.Dir, "radius", "detail")); err != nil || !strings.Contains(string(b), "Delegated-IPv6-Prefix = "+p.String()) || !strings.Contains(string(b), "Framed-IPv6-Address = "+addr.String()) {
			return fmt.Errorf("the accounts do not tell of %s and %s: %v\n%s", addr, p, err, b)
		}
		return nil
	}))
	leases, err := c.(interface{ Leases() (string, error) }).Leases()
	w.must(err)
	if !strings.Contains(leases, "business.example") {
		t.Errorf("the client has\n%s", leases)
	}
	if strings.Contains(w.Server.Log(), canary) {
		t.Error("an EID stands in the log")
	}
}

// Who FreeRADIUS does not know gets no address, and neither does anybody whose server's
// answers are signed with another secret. Clients that need no RADIUS are served
// meanwhile.
func TestRADIUSRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		users, secret, told string
	}{
		"a refusal":                {"DEFAULT Auth-Type := Reject\n", radiusSecret, "this client is not authenticated"},
		"another secret":           {radiusUsers, "wrong", "no RADIUS server answers"},
		"nobody behind the server": {"", radiusSecret, "no RADIUS server answers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
			r := w.newRADIUS(c.users)
			w.must(w.Configure("radius", "servers = [\"["+radiusAddr+"]:1812\"]\n"+radiusSettings))
			w.must(os.WriteFile(w.Path("etc", "radius.secret"), []byte(c.secret+"\n"), 0o600))
			if c.users != "" {
				r.freeradius()
			}
			w.attach("dhcrelay")
			// Another client, on the server's own link, whom the table knows.
			other, err := w.lab.Namespace("other")
			w.must(err)
			w.must(w.Host.Do("ip", "link", "del", "eth1"))
			w.must(w.Direct(other, clientMAC))
			w.must(w.Serve())
			asks := w.newClient("dhclient")
			w.must(asks.Start())
			w.must(w.Server.WaitLog(c.told, 30*time.Second))
			known, err := other.NewClient("dhclient", "eth0")
			w.must(err)
			began := time.Now()
			w.must(known.Start())
			w.must(netlab.Until(20*time.Second, func() error {
				leases, err := w.Leases()
				if err == nil && len(leases) != 1 {
					err = fmt.Errorf("%d leases", len(leases))
				}
				return err
			}))
			t.Logf("the client that needs no RADIUS waited for %s", time.Since(began))
			if addrs, err := w.client.Addresses("eth0"); err != nil || len(addrs) > 0 {
				t.Errorf("the client has %v, %v", addrs, err)
			}
			if strings.Contains(w.Server.Log(), canary) {
				t.Error("an EID stands in the log")
			}
		})
	}
}

// By TLS, to radsecproxy in front of FreeRADIUS, each with a certificate.
func TestRADIUSByTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	r := w.newRADIUS(radiusUsers)
	w.must(w.Configure("radius", "servers = [\"tls:["+radiusAddr+"]:2083\"]\nca = \"proxy.pem\"\ntls-identity = \"client\"\ntimeout = \"1s\"\n"))
	r.freeradius()
	for name, san := range map[string]string{r.path("proxy"): "IP:" + radiusAddr, w.Path("etc", "client"): "DNS:gidserver.isp.example"} {
		out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=lab", "-addext", "subjectAltName="+san,
			"-keyout", name+".key", "-out", name+".pem").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	copyFile := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		w.must(err)
		w.must(os.WriteFile(to, b, 0o600))
	}
	copyFile(r.path("proxy.pem"), w.Path("etc", "proxy.pem"))
	copyFile(w.Path("etc", "client.pem"), r.path("client.pem"))
	w.must(os.WriteFile(r.path("radsecproxy.conf"), fmt.Appendf(nil, `ListenTLS [%[2]s]:2083
SourceUDP [%[2]s]:*
LogLevel 2
tls default {
  CACertificateFile %[1]s/client.pem
  CertificateFile %[1]s/proxy.pem
  CertificateKeyFile %[1]s/proxy.key
}
client isp {
  host [::]/0
  type tls
  secret radsec
  certificateNameCheck off
}
server freeradius {
  host [%[2]s]
  port 1812
  type udp
  secret %[3]s
}
realm * {
  server freeradius
}
`, r.dir, radiusAddr, radiusSecret), 0o600))
	p, err := r.host.Start("radsecproxy", "-f", "-c", r.path("radsecproxy.conf"))
	w.must(err)
	logIfFailed(t, "radsecproxy", p.Log)
	w.must(netlab.Until(10*time.Second, func() error {
		return r.host.Do("bash", "-c", "exec 3<>/dev/tcp/"+radiusAddr+"/2083")
	}))
	prefix, _ := w.attach("dhcrelay")
	w.must(w.Serve())
	c := w.newClient("dhclient")
	w.must(c.Start())
	addr := w.leased(prefix)
	got, err := w.Trace("trace", addr, w.lease(addr, active).Start)
	w.must(err)
	if want := []string{"radius:" + radiusEID}; !slices.Equal(got, want) {
		t.Errorf("the trace gives %q, want %q", got, want)
	}
	w.noEIDOnDisk()
}
