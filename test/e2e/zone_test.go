//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// The reverse zone tells dig, drill and a validating unbound of an address that a real
// client holds, and of no other; released, it is gone.
func TestTheReverseZoneTellsWhatIsLeased(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	w.must(w.Zone())
	prefix, _ := w.attach("direct")
	w.must(w.Serve())
	c := w.newClient("dhclient")
	w.must(c.Start())
	addr := w.leased(prefix)
	_, err := w.Unbound()
	w.must(err)
	const resolver = "@::1"
	server := "@" + netlab.ServerAddr
	const apex = "1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
	ask := func(at string, args ...string) string {
		t.Helper()
		port := "53"
		if at == resolver {
			port = "5335"
		}
		out, err := w.Host.Output("dig", append([]string{at, "-p", port, "+time=3", "+tries=2"}, args...)...)
		w.must(err)
		return out
	}
	want := func(out string, texts ...string) {
		t.Helper()
		for _, x := range texts {
			if !strings.Contains(out, x) {
				t.Errorf("want %q in\n%s", x, out)
			}
		}
	}
	name := ".gid.isp.example."
	want(ask(server, "-x", addr.String()), "status: NOERROR", name, "flags: qr aa rd;")
	want(ask(server, "-x", addr.String(), "+tcp", "+dnssec"), "status: NOERROR", name, "RRSIG PTR 13 34")
	want(ask(server, "-x", addr.Next().String()), "status: NXDOMAIN", "SOA")
	want(ask(server, "_gid."+apex, "TXT"), "v=GID1; r=isp.example; e=86400")
	want(ask(server, apex, "AXFR"), "Transfer failed")
	want(ask(server, "isp.example", "A"), "status: REFUSED")

	// drill chases the signatures from the zone's key.
	out, err := w.Host.Output("drill", "-D", "-k", w.Path("anchor.key"), "-x", addr.String(), server)
	w.must(err)
	want(out, name, "RRSIG")

	// The resolver validates what is there and what is not.
	want(ask(resolver, "-x", addr.String(), "+dnssec"), "status: NOERROR", name, " ad;")
	denied := ask(resolver, "-x", addr.Next().String(), "+dnssec")
	want(denied, " ad;", "NSEC")
	if strings.Contains(denied, name) {
		t.Errorf("of an address that nobody leased the resolver says\n%s", denied)
	}
	want(ask(resolver, "_gid."+apex, "TXT", "+dnssec"), "v=GID1", " ad;")

	// The zone above is told the same key.
	records, err := w.Run("gidserver", "zone", "records", "--config", w.Config())
	w.must(err)
	want(records, "NS\tns1.isp.example.", "DS\t")

	w.must(c.Release())
	w.must(netlab.Until(15*time.Second, func() error {
		if out := ask(server, "-x", addr.String()); !strings.Contains(out, "status: NXDOMAIN") {
			return fmt.Errorf("after the release:\n%s", out)
		}
		return nil
	}))
	// A server that starts again knows its leases.
	other := w.newClient("dhclient")
	w.must(other.Start())
	next := w.leased(prefix)
	w.must(w.KillServer())
	w.must(w.Serve())
	want(ask(server, "-x", next.String()), "status: NOERROR", name)
	w.noEIDOnDisk()
}
