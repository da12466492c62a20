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

// clientZone is BIND with a zone for clients' names.
type clientZone struct {
	w    *world
	host *netlab.Namespace
	addr string
}

const tsigKey = "key \"gid\" { algorithm hmac-sha256; secret \"c2l4dGVlbiBieXRlcyBvciBtb3Jl\"; };\n"

// newZone starts BIND on a host, and configures the server to keep the names of a link's clients there.
func (w *world) newZone(host *netlab.Namespace, addr, link string) *clientZone {
	w.t.Helper()
	dir := filepath.Join(w.lab.Dir, "named")
	conf := tsigKey + fmt.Sprintf(`options { directory %[1]q; pid-file "named.pid"; session-keyfile "session.key"; managed-keys-directory %[1]q; listen-on { none; }; listen-on-v6 port 5353 { %[2]s; }; recursion no; notify no; dnssec-validation no; };
controls { };
zone "clients.isp.example" { type primary; file "zone"; allow-update { key gid; }; };
`, dir, addr)
	w.must(os.MkdirAll(dir, 0o700))
	w.must(errors.Join(
		os.WriteFile(filepath.Join(dir, "named.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(dir, "zone"), []byte("$TTL 60\n@ SOA ns.isp.example. host.isp.example. 1 3600 600 86400 60\n@ NS ns.isp.example.\nwww AAAA 2001:db8::80\n"), 0o600)))
	w.nameClients(addr, link)
	named, err := host.Start("named", "-g", "-c", filepath.Join(dir, "named.conf"))
	w.must(err)
	logIfFailed(w.t, "named", named.Log)
	w.must(named.WaitLog("running", 20*time.Second))
	return &clientZone{w, host, addr}
}

// nameClients configures the server to keep the names of a link's clients in DNS.
func (w *world) nameClients(addr, link string) {
	w.t.Helper()
	w.must(errors.Join(
		os.WriteFile(w.Path("etc", "tsig.key"), []byte(tsigKey), 0o600),
		w.Configure("dns-update", fmt.Sprintf("server = \"[%s]:5353\"\nzone = \"clients.isp.example\"\nkey = \"tsig.key\"\n", addr)),
		w.Reconfigure("name = \""+link+"\"\n", "name = \""+link+"\"\nnames = true\n")))
}

// dig asks for a name in the zone.
func (z *clientZone) dig(name, typ string) string {
	z.w.t.Helper()
	out, err := z.host.Output("dig", "+short", "+tries=1", "@"+z.addr, "-p", "5353", name+".clients.isp.example", typ)
	z.w.must(err)
	return strings.TrimSpace(out)
}

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
			zone := w.newZone(w.Host, "::1", "access")
			w.must(w.Configure("metrics", "listen = \"[::1]:9547\"\n"))
			prefix, _ := w.attach("direct")
			w.must(w.Serve())
			dig := zone.dig
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
			logIfFailed(t, program, c.Log)
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
	w.nameClients("::1", "access")
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
