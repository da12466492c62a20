//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// On demand a subscriber gets another address at the next renewal, beside the old one, which
// goes on meanwhile; who follows the leases sees it come.
func TestASubscriberIsRotatedOnDemand(t *testing.T) {
	for _, program := range []string{"dhclient", "dibbler-client"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
			prefix, _ := w.attach("direct")
			w.must(w.Serve())
			follow, err := w.Host.Start(filepath.Join(bin, "gidserver"), "leases", "--config", w.Config(), "--follow", "--json")
			w.must(err)
			w.must(w.newClient(program).Start())
			old := w.leased(prefix)
			w.must(follow.WaitLog(old.String(), 20*time.Second))

			out, err := w.Run("gidserver", "rotate", "--config", w.Config(), "--subscriber-of", old.String(), "--dry-run")
			if err != nil || !strings.Contains(out, old.String()+"\n1 address(es) would be replaced") {
				t.Errorf("%v, %s", err, out)
			}
			renewed := w.lease(old, active).Updated
			w.lease(old, func(l netlab.Lease) bool { return l.Updated.After(renewed) })
			if leases, err := w.Leases(); err != nil || len(leases) != 1 {
				t.Fatalf("after a dry run there are %v, %v", leases, err)
			}

			out, err = w.Run("gidserver", "rotate", "--config", w.Config(), "--subscriber-of", old.String())
			if err != nil || !strings.Contains(out, "1 address(es) are replaced") {
				t.Errorf("%v, %s", err, out)
			}
			next := w.leased(prefix, old)
			w.must(follow.WaitLog(next.String(), 20*time.Second))
			a, b := w.lease(old, func(netlab.Lease) bool { return true }), w.lease(next, active)
			if a.Subscriber != b.Subscriber || !a.ValidUntil.After(b.Start) {
				t.Errorf("the old lease %+v and the new one %+v do not overlap", a, b)
			}
			if _, err := w.Run("gidserver", "rotate", "--config", w.Config(), "--subscriber-of", next.Next().String()); err == nil || !strings.Contains(err.Error(), "is not leased now") {
				t.Errorf("an address that nobody has: %v", err)
			}
			// Who follows does not hold up the server's end.
			began := time.Now()
			w.must(w.Server.Stop())
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the server took %s to end", took)
			}
		})
	}
}

// Clients that take Reconfigure messages renew at once, however long their leases are.
func TestReconfigureHasAClientRenewAtOnce(t *testing.T) {
	for _, way := range []string{"direct", "dhcrelay"} {
		for _, program := range []string{"dhcpcd"} { // no other of Debian 12's takes them and works
			t.Run(program+"/"+way, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, netlab.ISPOptions{Lease: "preferred = \"1h\"\nvalid = \"2h\"\n", LogLevel: "debug"})
				prefix, _ := w.attach(way)
				w.must(w.Serve())
				c, err := w.client.NewClient(program, "eth0", "option dhcp6_reconfigure_accept")
				w.must(err)
				logIfFailed(t, program, c.Log)
				w.must(c.Start())
				old := w.leased(prefix)
				w.lease(old, active)
				out, err := w.Run("gidserver", "rotate", "--config", w.Config(), "--subscriber-of", old.String())
				if err != nil || !strings.Contains(out, "1 client(s) are told to renew at once") {
					t.Errorf("%v, %s", err, out)
				}
				next := w.leased(prefix, old)
				if a, b := w.lease(old, active), w.lease(next, active); a.Subscriber != b.Subscriber {
					t.Errorf("%+v is followed by %+v", a, b)
				}
			})
		}
	}
}
