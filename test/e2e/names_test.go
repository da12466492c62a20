//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// A client's name comes to BIND by a signed update when it has a lease, stays while it renews,
// and goes when the lease does; another client cannot take it. Where DNS refuses, clients are
// served all the same.
func TestClientsAreNamedInBIND(t *testing.T) {
	for program, line := range map[string][]string{
		"dhcpcd":         {"hostname laptop", "hostname_short", "fqdn both", "option dhcp6_fqdn"},
		"dibbler-client": {"option fqdn laptop"},
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Table: map[string]string{clientMAC: tableEID, lanMAC: "static:" + canary + "-other"}})
			dir := filepath.Join(w.lab.Dir, "named")
			const key = "key \"gid\" { algorithm hmac-sha256; secret \"c2l4dGVlbiBieXRlcyBvciBtb3Jl\"; };\n"
			conf := key + fmt.Sprintf(`options { directory %[1]q; pid-file "named.pid"; session-keyfile "session.key"; managed-keys-directory %[1]q; listen-on { none; }; listen-on-v6 port 5353 { ::1; }; recursion no; notify no; dnssec-validation no; };
controls { };
zone "clients.isp.example" { type primary; file "zone"; allow-update { key gid; }; };
`, dir)
			w.must(os.MkdirAll(dir, 0o700))
			w.must(errors.Join(
				os.WriteFile(filepath.Join(dir, "named.conf"), []byte(conf), 0o600),
				os.WriteFile(filepath.Join(dir, "zone"), []byte("$TTL 60\n@ SOA ns.isp.example. host.isp.example. 1 3600 600 86400 60\n@ NS ns.isp.example.\nwww AAAA 2001:db8::80\n"), 0o600),
				os.WriteFile(w.Path("etc", "tsig.key"), []byte(key), 0o600),
				w.Configure("dns-update", "server = \"[::1]:5353\"\nzone = \"clients.isp.example\"\nkey = \"tsig.key\"\n"),
				w.Configure("metrics", "listen = \"[::1]:9547\"\n")))
			text, err := os.ReadFile(w.Config())
			w.must(err)
			w.must(os.WriteFile(w.Config(), []byte(strings.Replace(string(text), "name = \"access\"\n", "name = \"access\"\nnames = true\n", 1)), 0o644))
			named, err := w.Host.Start("named", "-g", "-c", filepath.Join(dir, "named.conf"))
			w.must(err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("named wrote:\n%s", named.Log())
				}
			})
			w.must(named.WaitLog("running", 20*time.Second))
			prefix, _ := w.attach("direct")
			w.must(w.Serve())
			dig := func(name, typ string) string {
				t.Helper()
				out, err := w.Host.Output("dig", "+short", "+tries=1", "@::1", "-p", "5353", name+".clients.isp.example", typ)
				w.must(err)
				return strings.TrimSpace(out)
			}
			until := func(what string, ok func() bool) {
				t.Helper()
				w.must(netlab.Until(20*time.Second, func() error {
					if ok() {
						return nil
					}
					return fmt.Errorf("%s: the zone has %q", what, dig("laptop", "AAAA"))
				}))
			}
			c, err := w.client.NewClient(program, "eth0", line...)
			w.must(err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s wrote:\n%s", program, c.Log())
				}
			})
			w.must(c.Start())
			addr := w.leased(prefix)
			until("leased", func() bool { return dig("laptop", "AAAA") == addr.String() && dig("laptop", "DHCID") != "" })
			first := w.lease(addr, active)
			w.lease(addr, func(l netlab.Lease) bool { return l.Updated.After(first.Updated.Add(15 * time.Second)) })
			if got := dig("laptop", "AAAA"); got != addr.String() {
				t.Errorf("renewed beyond its first lifetime: %q", got)
			}

			// Another client of the same name, by the link's other end.
			other, err := w.lab.Namespace("other")
			w.must(err)
			w.must(w.Host.Do("ip", "link", "del", "eth1"))
			w.must(w.Direct(other, lanMAC))
			thief, err := other.NewClient(program, "eth0", line...)
			w.must(err)
			w.must(thief.Start())
			w.must(w.Server.WaitLog("a client's name is another's", 30*time.Second))
			if got := dig("laptop", "AAAA"); got != addr.String() {
				t.Errorf("another client has the name: %q", got)
			}
			if got := dig("www", "AAAA"); got != "2001:db8::80" {
				t.Errorf("www is %q", got)
			}
			// The first one's lease runs out, for its link is gone.
			until("over", func() bool { return dig("laptop", "AAAA") == "" && dig("laptop", "DHCID") == "" })
			if strings.Contains(w.Server.Log(), "laptop") {
				t.Error("a name stands in the log")
			}
			metrics, err := w.Host.Output("curl", "-sf", "http://[::1]:9547/metrics")
			w.must(err)
			for _, want := range []string{`gidserver_dns_updates_total{result="added"} 1`, `gidserver_dns_updates_total{result="removed"} 1`} {
				if !strings.Contains(metrics, want+"\n") {
					t.Errorf("no %s in the metrics:\n%s", want, metrics)
				}
			}
		})
	}
}

func TestWhatDNSRefusesStopsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	w.must(os.WriteFile(w.Path("etc", "tsig.key"), []byte("key \"gid\" { algorithm hmac-sha256; secret \"c2l4dGVlbiBieXRlcyBvciBtb3Jl\"; };\n"), 0o600))
	w.must(w.Configure("dns-update", "server = \"[::1]:5353\"\nzone = \"clients.isp.example\"\nkey = \"tsig.key\"\n"))
	text, err := os.ReadFile(w.Config())
	w.must(err)
	w.must(os.WriteFile(w.Config(), []byte(strings.Replace(string(text), "name = \"access\"\n", "name = \"access\"\nnames = true\n", 1)), 0o644))
	prefix, _ := w.attach("direct")
	w.must(w.Serve())
	c, err := w.client.NewClient("dhcpcd", "eth0", "hostname laptop", "hostname_short", "fqdn both")
	w.must(err)
	w.must(c.Start())
	first := w.lease(w.leased(prefix), active)
	w.must(w.Server.WaitLog("a DNS update failed; it is tried again", 20*time.Second))
	w.lease(first.Address, func(l netlab.Lease) bool { return l.Updated.After(first.Updated) })
	w.must(c.Release())
	w.lease(first.Address, func(l netlab.Lease) bool { return l.State == "released" })
}
