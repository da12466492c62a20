//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

const lanMAC = "02:00:00:00:00:17" // of a router's other interface

// delegated waits until the server has delegated a prefix of a pool, as a test wants it.
func (w *world) delegated(pool string, want func(netlab.Lease) bool) (netip.Prefix, netlab.Lease) {
	w.t.Helper()
	var prefix netip.Prefix
	var found netlab.Lease
	w.must(netlab.Until(30*time.Second, func() error {
		leases, err := w.Leases()
		if err != nil {
			return err
		}
		for _, l := range leases {
			p, err := netip.ParsePrefix(l.Prefix)
			if err == nil && netip.MustParsePrefix(pool).Contains(p.Addr()) && want(l) {
				prefix, found = p, l
				return nil
			}
		}
		return fmt.Errorf("the leases are %+v", leases)
	}))
	return prefix, found
}

// Clients of the distribution ask for an address and a prefix, renew both, use the prefix
// where they can, and give both back.
func TestRealRoutersAreDelegatedPrefixes(t *testing.T) {
	for _, way := range []string{"direct", "dnsmasq"} {
		for program := range netlab.Routers {
			t.Run(program+"/"+way, func(t *testing.T) {
				t.Parallel()
				// dibbler names itself by any of its interfaces.
				w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Delegate: "per-subscriber = 2", Table: map[string]string{clientMAC: tableEID, lanMAC: tableEID}})
				link, eid := w.attach(way)
				pool := netlab.DirectPool
				if way != "direct" {
					pool = netlab.RelayPool
				}
				home, err := w.lab.Namespace("home")
				w.must(err)
				w.must(w.lab.Connect(w.client, "lan0", lanMAC, home, "eth0", ""))
				w.must(w.Serve())
				c, err := w.client.NewRouter(program, "eth0", "lan0")
				w.must(err)
				logIfFailed(t, program, c.Log)
				w.must(c.Start())
				addr := w.leased(link)
				p, first := w.delegated(pool, active)
				if p.Bits() != 56 || first.Subscriber != w.lease(addr, active).Subscriber {
					t.Errorf("%s is delegated to subscriber %d", p, first.Subscriber)
				}
				w.must(netlab.Until(20*time.Second, func() error {
					if strings.Contains(c.Log(), strings.TrimSuffix(p.Addr().String(), ":")) {
						return nil
					}
					return fmt.Errorf("the client does not tell of %s", p)
				}))
				if program == "dhcp6c" || program == "systemd-networkd" { // they number the other interface themselves
					w.must(netlab.Until(20*time.Second, func() error {
						addrs, err := w.client.Addresses("lan0")
						if err == nil && !slices.ContainsFunc(addrs, p.Contains) {
							err = fmt.Errorf("lan0 has %v, want one of %s", addrs, p)
						}
						return err
					}))
				}
				w.delegated(pool, func(l netlab.Lease) bool {
					return active(l) && l.Prefix == first.Prefix && l.Updated.After(first.Updated) && l.ValidUntil.After(first.ValidUntil)
				})
				w.must(c.Release())
				_, released := w.delegated(pool, func(l netlab.Lease) bool {
					return l.State == "released" || l.State == "expired" && program == "systemd-networkd" // which gives nothing back
				})

				// Whoever used an address in it is traced.
				got, err := w.Trace("trace", p.Addr().Next(), released.Start)
				w.must(err)
				if !slices.Equal(got, []string{eid}) {
					t.Errorf("the trace of an address in %s gives %q, want %q", p, got, eid)
				}
				w.noEIDOnDisk()
			})
		}
	}
}

// A router takes the address of its uplink from the part of its prefix that is excluded for that (RFC 6603), and
// that of the link behind it from another.
func TestARouterNumbersItsUplinkFromItsPrefix(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Delegate: "per-subscriber = 2\nexcluded = \"0:0:0:ff::/64\"", Table: map[string]string{clientMAC: tableEID}})
	w.attach("dnsmasq")
	home, err := w.lab.Namespace("home")
	w.must(err)
	w.must(w.lab.Connect(w.client, "lan0", lanMAC, home, "eth0", ""))
	w.must(w.Serve())
	c, err := w.client.NewClient("dhcpcd", "eth0", "ia_pd 1 eth0/255 lan0/5")
	w.must(err)
	logIfFailed(t, "dhcpcd", c.Log)
	w.must(c.Start())
	p, _ := w.delegated(netlab.RelayPool, active)
	for iface, subnet := range map[string]byte{"eth0": 0xff, "lan0": 5} {
		want := netip.PrefixFrom(numbered(p, subnet, 0), 64)
		w.must(netlab.Until(20*time.Second, func() error {
			addrs, err := w.client.Addresses(iface)
			if err == nil && !slices.ContainsFunc(addrs, want.Contains) {
				err = fmt.Errorf("%s has %v, want one of %s", iface, addrs, want)
			}
			return err
		}))
	}
	w.must(c.Release())
}

// A host behind a router sends through the filter from the router's prefix, nobody else
// does, and a warrant finds whose router it was.
func TestHostsBehindARouterSendFromItsPrefix(t *testing.T) {
	t.Parallel()
	a := newAccessWith(t, netlab.ISPOptions{Lease: "preferred = \"5m\"\nvalid = \"10m\"\n", Delegate: "per-subscriber = 2"})
	a.must(a.StartFilter(a.FollowServer()...))
	home, err := a.lab.Namespace("home")
	a.must(err)
	a.must(a.lab.Connect(a.honest, "lan0", "", home, "eth0", ""))
	c, err := a.honest.NewRouter("dhcp6c", "eth0", "lan0")
	a.must(err)
	logIfFailed(t, "the router", c.Log)
	a.must(c.Start())
	wan := a.addressOf(a.honest, "eth0")
	p, l := a.delegated(netlab.RelayPool, active)
	host := numbered(p, 0xab, 9)
	inner := numbered(p, 0xab, 1)
	a.must(a.honest.Do("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"))
	a.must(a.honest.Do("ip", "address", "add", inner.String()+"/64", "dev", "lan0", "nodad"))
	a.must(a.honest.Do("ip", "route", "replace", router.String(), "dev", "eth0"))
	a.must(a.honest.Do("ip", "route", "replace", "default", "via", router.String(), "dev", "eth0"))
	a.must(home.Do("ip", "address", "add", host.String()+"/64", "dev", "eth0", "nodad"))
	a.must(home.Do("ip", "route", "replace", "default", "via", inner.String(), "dev", "eth0"))
	a.must(a.Router.Do("ip", "route", "add", p.String(), "via", wan.String(), "dev", "down0"))
	a.must(a.ISP.Host.Do("ip", "route", "add", p.String(), "via", netlab.RelayAddr))
	a.must(netlab.Until(20*time.Second, func() error { // neighbours are found
		f := a.flow(home, host, 100)
		time.Sleep(200 * time.Millisecond)
		sent, lost, _, err := f.Stop()
		if err == nil && (sent == 0 || lost > 0) {
			err = fmt.Errorf("%d of %d datagrams from behind the router were lost", lost, sent)
		}
		return err
	}))
	flow := a.flow(home, host, 500)

	// Frames straight onto the line: from the prefix, from beside it, and from it at
	// another's port.
	mac, err := net.ParseMAC(honestMAC)
	a.must(err)
	other, err := net.ParseMAC(spooferMAC)
	a.must(err)
	down, err := a.Router.LinkLayer("down0")
	a.must(err)
	to, err := net.ParseMAC(down)
	a.must(err)
	arrive := func(from *netlab.Namespace, mac net.HardwareAddr, src netip.Addr) bool {
		t.Helper()
		name := "from " + src.String()
		return a.passed(a.wire(from, "eth0"), map[string][][]byte{name: {ether(mac, to, ipv6(src, router, 17, 64, udpTo(t, src, router, mark(name))))}})[name] > 0
	}
	beside := netip.PrefixFrom(p.Addr(), 55).Masked().Addr()
	if p.Contains(beside) {
		raw := beside.As16()
		raw[6] |= 1
		beside = netip.AddrFrom16(raw)
	}
	check := func(when string) {
		t.Helper()
		if !arrive(a.honest, mac, host) || !arrive(a.honest, mac, wan) {
			t.Errorf("%s: the router's own do not pass", when)
		}
		if arrive(a.honest, mac, beside.Next()) {
			t.Errorf("%s: an address beside the prefix passes", when)
		}
		if arrive(a.spoofer, other, host) || arrive(a.spoofer, mac, host) {
			t.Errorf("%s: the prefix passes at another's port", when)
		}
	}
	check("delegated")
	out, err := a.Access.Run("bindings", "--address", host.String())
	a.must(err)
	if !strings.Contains(out, p.String()) || !strings.Contains(out, honestMAC) {
		t.Errorf("the bindings of %s are %q", host, out)
	}

	// It stays so when the filter dies, and when another takes over.
	a.Filter.Kill()
	check("without a process")
	a.must(a.StartFilter(a.FollowServer()...))
	check("with another process")
	a.lossless("from behind the router, while one filter died and another took over", flow)

	persons, err := a.Trace("trace", host, l.Start.Add(time.Second))
	a.must(err)
	if !slices.Equal(persons, []string{honestEID}) {
		t.Errorf("the trace of %s gives %q", host, persons)
	}

	// Given back, it is nobody's.
	a.must(c.Release())
	a.delegated(netlab.RelayPool, func(l netlab.Lease) bool { return l.State == "released" })
	a.must(netlab.Until(10*time.Second, func() error {
		if arrive(a.honest, mac, host) {
			return fmt.Errorf("an address of the prefix that was given back still passes")
		}
		return nil
	}))
}

// numbered returns an address in a subnet of a /56.
func numbered(p netip.Prefix, subnet, host byte) netip.Addr {
	raw := p.Addr().As16()
	raw[7], raw[15] = subnet, host
	return netip.AddrFrom16(raw)
}
