//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

const (
	honestMAC   = "02:00:00:00:01:01"
	spooferMAC  = "02:00:00:00:01:02"
	inventorMAC = "02:00:00:00:01:03"
	honestEID   = "static:" + canary + "-honest"
)

var (
	server = netip.MustParseAddr(netlab.ServerAddr)
	router = netip.MustParseAddr(netlab.RelayDown)
)

// access is an access device with three hosts: one honest, one that uses the
// other's address, and one that invents addresses.
type access struct {
	*world
	*netlab.Access
	honest, spoofer, inventor *netlab.Namespace
	beyond                    *netlab.Wire // where what passed arrives
}

func newAccess(t *testing.T, lease string) *access {
	t.Helper()
	return newAccessWith(t, netlab.ISPOptions{Lease: lease})
}

func newAccessWith(t *testing.T, o netlab.ISPOptions) *access {
	t.Helper()
	o.LeaseQuery, o.Table = true, map[string]string{honestMAC: honestEID, spooferMAC: "static:" + canary + "-spoofer"}
	w := newWorld(t, o)
	acc, err := w.Access()
	w.must(err)
	a := &access{world: w, Access: acc}
	t.Cleanup(func() {
		if a.Filter == nil {
			return
		}
		if strings.Contains(a.Filter.Log(), "DATA RACE") { // it is built to find them
			t.Error("gidfilter has a data race")
		}
		if strings.Contains(a.Filter.Log(), canary) {
			t.Error("gidfilter's log holds an EID")
		}
		if t.Failed() {
			stats, err := a.Run("stats")
			t.Logf("gidfilter's counters (%v):\n%s", err, stats)
			t.Logf("gidfilter wrote:\n%s", a.Filter.Log())
		}
	})
	for _, h := range []struct {
		ns   **netlab.Namespace
		name string
		mac  string
	}{{&a.honest, "honest", honestMAC}, {&a.spoofer, "spoofer", spooferMAC}, {&a.inventor, "inventor", inventorMAC}} {
		*h.ns, err = acc.Host(h.name, h.mac)
		w.must(err)
	}
	a.beyond, err = acc.Router.Wire("down0")
	w.must(err)
	t.Cleanup(func() { a.beyond.Close() })
	w.must(acc.TrustFilter())
	w.must(w.Serve())
	relay, err := w.Dnsmasq(acc.Router)
	w.must(err)
	logIfFailed(t, "the relay", relay.Log)
	return a
}

// lease has a client on a host get an address by way of the filter, and gives the
// host its routes.
func (a *access) lease(host *netlab.Namespace, iface, program string) (netip.Addr, netlab.Client) {
	a.t.Helper()
	c, err := host.NewClient(program, iface)
	a.must(err)
	a.t.Cleanup(func() {
		if a.t.Failed() {
			a.t.Logf("%s wrote:\n%s", program, c.Log())
		}
	})
	a.must(c.Start())
	addr := a.addressOf(host, iface)
	a.must(host.Do("ip", "route", "replace", router.String(), "dev", iface))
	a.must(host.Do("ip", "route", "replace", "default", "via", router.String(), "dev", iface))
	return addr, c
}

func (a *access) addressOf(host *netlab.Namespace, iface string) netip.Addr {
	a.t.Helper()
	var got netip.Addr
	a.must(netlab.Until(30*time.Second, func() error {
		addrs, err := host.Addresses(iface)
		if err != nil {
			return err
		}
		for _, x := range addrs {
			if netip.MustParsePrefix(netlab.RelayPrefix).Contains(x) {
				got = x
				return nil
			}
		}
		return fmt.Errorf("addresses of %s: %v", host.Name, addrs)
	}))
	return got
}

// passed sends frames from a host and returns which of them arrived beyond the
// device.
func (a *access) passed(from *netlab.Wire, frames map[string][][]byte) map[string]int {
	a.t.Helper()
	for f := []byte{0}; f != nil; { // what arrived before
		var err error
		f, err = a.beyond.Receive(time.Millisecond)
		a.must(err)
	}
	for _, name := range slices.Sorted(maps.Keys(frames)) {
		for _, f := range frames[name] {
			a.must(from.Send(f))
		}
	}
	arrived := make(map[string]int)
	quiet := time.Now().Add(500 * time.Millisecond)
	for time.Now().Before(quiet) {
		f, err := a.beyond.Receive(time.Until(quiet))
		a.must(err)
		for name := range frames {
			if bytes.Contains(f, []byte(mark(name))) {
				arrived[name]++
			}
		}
	}
	return arrived
}

// mark is what frames of a kind hold. No kind's mark is within another's.
func mark(name string) string { return "<" + name + ">" }

// wire opens a host's interface.
func (a *access) wire(host *netlab.Namespace, iface string) *netlab.Wire {
	a.t.Helper()
	w, err := host.Wire(iface)
	a.must(err)
	a.t.Cleanup(func() { w.Close() })
	return w
}

// all makes frames of every kind from an address and a link-layer address.
func (a *access) all(from net.HardwareAddr, src netip.Addr, which func(kind) bool) map[string][][]byte {
	frames := make(map[string][][]byte)
	for _, k := range kinds {
		if which(k) {
			frames[k.name] = k.make(a.t, from, a.beyond.MAC, src, router, mark(k.name))
		}
	}
	return frames
}

func every(kind) bool { return true }

// nothing checks that none of a lot of frames passed.
func (a *access) nothing(what string, arrived map[string]int) {
	a.t.Helper()
	for name, n := range arrived {
		a.t.Errorf("%s: %s passed (%d)", what, name, n)
	}
}

// bound waits until the filter has bound an address to a port.
func (a *access) bound(addr netip.Addr, port string) {
	a.t.Helper()
	a.must(netlab.Until(10*time.Second, func() error {
		all, err := a.Bindings()
		if err != nil {
			return err
		}
		for _, b := range all {
			if b.Address == addr.String() && b.Interface == port {
				return nil
			}
		}
		return fmt.Errorf("%s is not bound to %q; bindings: %+v", addr, port, all)
	}))
}

// synced waits until the filter follows the server.
func (a *access) synced() {
	a.t.Helper()
	a.must(netlab.Until(20*time.Second, func() error {
		s, err := a.Stats()
		if err == nil && (!s.LeaseQuery.Connected || s.LeaseQuery.Synced.IsZero()) {
			err = fmt.Errorf("the filter does not follow the server: %+v", s.LeaseQuery)
		}
		return err
	}))
}

// flow starts a flow of datagrams from a host to the ISP.
func (a *access) flow(host *netlab.Namespace, addr netip.Addr, size int) *netlab.Flow {
	a.t.Helper()
	f, err := netlab.StartFlow(host, addr, a.ISP.Host, server, size, 5*time.Millisecond)
	a.must(err)
	return f
}

// lossless ends a flow that must have lost nothing.
func (a *access) lossless(what string, f *netlab.Flow) {
	a.t.Helper()
	sent, lost, when, err := f.Stop()
	a.must(err)
	if lost != 0 || sent == 0 {
		a.t.Errorf("%s: %d of %d datagrams were lost, those of%s", what, lost, sent, when)
	}
}

func TestFilterLetsOnlyLeasedAddressesSend(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			a := newAccess(t, "")
			args := a.FollowServer()
			if mode == "generic" {
				args = append(args, "--generic")
			}
			a.must(a.StartFilter(args...))
			a.synced()
			addr, _ := a.lease(a.honest, "eth0", "dhclient")
			other, _ := a.lease(a.spoofer, "eth0", "dhcpcd")
			a.bound(addr, "port0")
			a.bound(other, "port1")

			honest, spoofer, inventor := a.wire(a.honest, "eth0"), a.wire(a.spoofer, "eth0"), a.wire(a.inventor, "eth0")
			arrived := a.passed(honest, a.all(honest.MAC, addr, every))
			for _, k := range kinds {
				if want := len(k.make(t, honest.MAC, a.beyond.MAC, addr, router, mark(k.name))); k.honest && arrived[k.name] != want {
					t.Errorf("from the address's own host %d of %d frames of %s passed", arrived[k.name], want, k.name)
				} else if !k.honest && arrived[k.name] != 0 {
					t.Errorf("%s passed", k.name)
				}
			}
			a.nothing("the other's address, from the own link-layer address", a.passed(spoofer, a.all(spoofer.MAC, addr, every)))
			a.nothing("the other's address, from the other's link-layer address", a.passed(spoofer, a.all(honest.MAC, addr, every)))
			own := func(k kind) bool { return k.name != "a claim to the address" } // of its own it may be made from whatever link-layer address
			a.nothing("the own address, from the other's link-layer address", a.passed(spoofer, a.all(honest.MAC, other, own)))
			rng := rand.New(rand.NewPCG(1, 2))
			for range 5 {
				invented := netip.MustParsePrefix(netlab.RelayPrefix).Addr().As16()
				for i := 8; i < 16; i++ {
					invented[i] = byte(rng.Uint32())
				}
				a.nothing("an invented address", a.passed(inventor, a.all(inventor.MAC, netip.AddrFrom16(invented), every)))
			}
			for _, src := range []string{netlab.RelayDown, netlab.ServerAddr, "2001:db8:ffff::1", "::1", "ff02::1", "::ffff:192.0.2.1", "fe80::1:2:3:4"} {
				if s := netip.MustParseAddr(src); src == "fe80::1:2:3:4" { // whoever uses it first may
					if n := a.passed(honest, a.all(honest.MAC, s, func(k kind) bool { return k.name == "udp" })); n["udp"] != 1 {
						t.Errorf("a link-local address of its own: %v", n)
					}
					a.nothing("the other's link-local address", a.passed(spoofer, a.all(spoofer.MAC, s, every)))
				} else {
					a.nothing(src, a.passed(inventor, a.all(inventor.MAC, s, every)))
				}
			}

			s, err := a.Stats()
			a.must(err)
			for _, c := range []struct{ port, reason string }{
				{"port0", "valid"}, {"port1", "valid"}, {"port1", "wrong-anchor"}, {"port2", "unbound"}, {"port2", "martian"}, {"port2", "malformed"}, {"up0", "trusted"},
			} {
				if s.Frames(c.port, c.reason) == 0 {
					t.Errorf("no frame of %s is counted as %s: %+v", c.port, c.reason, s.Ports)
				}
			}
			if s.Ports[0].XDP != mode || s.InjectErrors != 0 {
				t.Errorf("XDP is %s, %d frames were lost in user space", s.Ports[0].XDP, s.InjectErrors)
			}
			drops, err := a.Run("drops")
			a.must(err)
			if !strings.Contains(drops, "wrong-anchor") || !strings.Contains(drops, addr.String()) {
				t.Errorf("gidfilter drops says:\n%s", drops)
			}
		})
	}
}

func TestFilterLosesNothingOfHonestHosts(t *testing.T) {
	t.Parallel()
	a := newAccess(t, shortLease)
	a.must(a.StartFilter(a.FollowServer()...))
	a.synced()
	addr, _ := a.lease(a.honest, "eth0", "dhcpcd")
	small, large := a.flow(a.honest, addr, 100), a.flow(a.honest, addr, 4000) // in fragments

	// A million bytes by TCP, both ways.
	var listener net.Listener
	a.must(a.ISP.Host.Enter(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(server.String(), "80"))
		return err
	}))
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			_, _ = io.Copy(c, c) // the other end counts
			c.Close()
		}
	}()
	var conn net.Conn
	a.must(a.honest.Enter(func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(server.String(), "80"), 5*time.Second)
		return err
	}))
	defer conn.Close()
	const million = 1_000_000
	go func() {
		_, _ = conn.Write(make([]byte, million)) // the reader counts
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	a.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	if n, err := io.Copy(io.Discard, conn); n != million || err != nil {
		t.Errorf("%d bytes came back: %v", n, err)
	}

	// The spoofer floods the device with what user space has to look at, all the
	// while that the honest host renews its lease.
	// dnsmasq waits half a second for the link-layer address of each sender; this
	// one answers.
	a.must(a.spoofer.Do("ip", "address", "add", "fe80::bad/64", "dev", "eth0", "nodad"))
	spoofer := a.wire(a.spoofer, "eth0")
	stop := make(chan struct{})
	flooded := make(chan int)
	go func() {
		n := 0
		frames := a.all(spoofer.MAC, netip.MustParseAddr("fe80::bad"), func(k kind) bool { return k.honest })
		solicit := ether(spoofer.MAC, a.beyond.MAC, ipv6(netip.MustParseAddr("fe80::bad"), netip.MustParseAddr("ff02::1:2"), 17, 1,
			upper(t, netip.MustParseAddr("fe80::bad"), netip.MustParseAddr("ff02::1:2"), "\x03xid", dhcpPorts())))
		for {
			select {
			case <-stop:
				flooded <- n
				return
			default:
			}
			for _, fs := range frames {
				for _, f := range fs {
					if spoofer.Send(f) == nil && spoofer.Send(solicit) == nil {
						n += 2
					}
				}
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	first := a.world.lease(addr, func(netlab.Lease) bool { return true })
	a.world.lease(addr, func(l netlab.Lease) bool { return l.ValidUntil.Sub(first.ValidUntil) > 15*time.Second }) // renewed, several times
	close(stop)
	if n := <-flooded; n < 1000 {
		t.Errorf("a flood of %d frames", n)
	}
	a.lossless("small datagrams, while the lease was renewed and the device was flooded", small)
	a.lossless("datagrams in fragments", large)
	s, err := a.Stats()
	a.must(err)
	if s.Frames("port1", "limited") == 0 {
		t.Errorf("nothing of the flood was limited: %+v", s.Ports)
	}
}

func TestFilterEnforcesWithoutAProcessAndWithoutAServer(t *testing.T) {
	t.Parallel()
	a := newAccess(t, "")
	a.must(a.StartFilter(a.FollowServer()...))
	a.synced()
	addr, client := a.lease(a.honest, "eth0", "dhclient")
	a.bound(addr, "port0")
	spoofer := a.wire(a.spoofer, "eth0")
	spoof := func(when string) {
		t.Helper()
		a.nothing(when, a.passed(spoofer, a.all(spoofer.MAC, addr, every)))
	}
	f := a.flow(a.honest, addr, 100)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		a.must(a.Filter.Signal(signal))
		_ = a.Filter.Wait(10 * time.Second) // its status tells of the signal
		spoof("without a process, after " + signal.String())
		a.must(a.StartFilter(a.FollowServer()...))
		if !strings.Contains(a.Filter.Log(), "bindings of an earlier run go on") {
			t.Error("the new process has not taken the bindings over")
		}
		a.bound(addr, "port0")
		spoof("after a restart")
	}
	a.synced()

	// The server goes away, and comes back.
	a.must(a.KillServer())
	a.must(netlab.Until(20*time.Second, func() error {
		s, err := a.Stats()
		if err == nil && s.LeaseQuery.Connected {
			err = fmt.Errorf("the filter has not noticed")
		}
		return err
	}))
	spoof("without a server")
	a.bound(addr, "port0")
	a.must(a.Serve())
	a.synced()
	a.lossless("while filter and server came and went", f)

	// A lease that ends, ends at the filter as well.
	a.must(client.Release())
	honest := a.wire(a.honest, "eth0")
	a.must(netlab.Until(10*time.Second, func() error {
		all, err := a.Bindings()
		for _, b := range all {
			if b.Address == addr.String() {
				return fmt.Errorf("a released address is bound: %+v", b)
			}
		}
		return err
	}))
	a.nothing("a released address", a.passed(honest, a.all(honest.MAC, addr, every)))

	// Nothing enforces any more, and everything passes: what the test is about is
	// the filter's doing.
	a.must(a.Filter.Stop())
	out, err := a.Run("detach")
	a.must(err)
	if !strings.Contains(out, "port0") {
		t.Errorf("gidfilter detach says %q", out)
	}
	a.must(netlab.Until(20*time.Second, func() error { // what is sent may come late
		if n := a.passed(spoofer, a.all(spoofer.MAC, addr, func(k kind) bool { return k.name == "udp" })); n["udp"] != 1 {
			return fmt.Errorf("without a filter: %v", n)
		}
		return nil
	}))
}

func TestFilterFollowsAHostToAnotherPort(t *testing.T) {
	t.Parallel()
	a := newAccess(t, "")
	a.must(a.Connect(a.honest, "eth1", honestMAC)) // the same host, later at port3
	a.must(a.honest.Do("ip", "link", "set", "eth1", "down"))
	a.must(a.StartFilter(a.FollowServer()...))
	a.synced()
	addr, _ := a.lease(a.honest, "eth0", "dhclient")
	a.bound(addr, "port0")
	a.must(a.honest.Do("ip", "link", "set", "eth1", "up"))
	moved := a.wire(a.honest, "eth1")
	a.nothing("at the other port, before the host has moved", a.passed(moved, a.all(moved.MAC, addr, every)))
	a.must(a.honest.Do("ip", "link", "set", "eth0", "down"))
	again, _ := a.lease(a.honest, "eth1", "dhclient")
	if again != addr {
		t.Fatalf("the host has %s now, and had %s", again, addr)
	}
	a.bound(addr, "port3")
	f := a.flow(a.honest, addr, 100)
	time.Sleep(time.Second)
	a.lossless("at the other port", f)
	if n := a.passed(moved, a.all(moved.MAC, addr, func(k kind) bool { return k.honest })); len(n) == 0 {
		t.Error("nothing passes at the other port")
	}
}

// Without leasequery the filter knows of leases what it sees; of those that it has
// not seen it asks the server, when their hosts send.
func TestFilterRecoversWhatItHasNotSeen(t *testing.T) {
	t.Parallel()
	a := newAccess(t, "")
	addr, _ := a.lease(a.honest, "eth0", "dhcpcd") // before there is a filter
	a.must(a.StartFilter("--query", "["+netlab.ServerAddr+"]:547"))
	spoofer := a.wire(a.spoofer, "eth0")
	// The spoofer is first to use the address, but the host that has it answers.
	a.nothing("before the honest host has sent", a.passed(spoofer, a.all(spoofer.MAC, addr, every)))
	time.Sleep(time.Second)
	all, err := a.Bindings()
	a.must(err)
	for _, b := range all {
		if b.Address == addr.String() && b.Interface != "port0" { // the answer may have told where the host is
			t.Errorf("the spoofer has got %+v", b)
		}
	}
	f := a.flow(a.honest, addr, 100)
	a.bound(addr, "port0")
	if sent, lost, _, err := f.Stop(); err != nil || lost == sent {
		t.Errorf("%d of %d datagrams were lost: %v", lost, sent, err)
	}
	f = a.flow(a.honest, addr, 100)
	time.Sleep(time.Second)
	a.lossless("once recovered", f)
	a.nothing("after the honest host was recovered", a.passed(spoofer, a.all(spoofer.MAC, addr, every)))
	a.nothing("an address that is not leased", a.passed(spoofer, a.all(spoofer.MAC, netip.MustParseAddr("2001:db8:2::bad"), every)))
}

func TestFilterMonitors(t *testing.T) {
	t.Parallel()
	a := newAccess(t, "")
	a.must(a.StartFilter(append(a.FollowServer(), "--mode", "monitor", "--metrics", "[::1]:9100")...))
	a.synced()
	addr, _ := a.lease(a.honest, "eth0", "dhclient")
	// What the host sent before the filter knew of its lease tells nothing of where it is.
	f := a.flow(a.honest, addr, 100)
	a.bound(addr, "port0")
	if _, _, _, err := f.Stop(); err != nil {
		t.Error(err)
	}
	spoofer := a.wire(a.spoofer, "eth0")
	arrived := a.passed(spoofer, a.all(spoofer.MAC, addr, func(k kind) bool { return k.name == "udp" || k.name == "an advertisement" }))
	if arrived["udp"] != 1 || arrived["an advertisement"] != 1 {
		t.Errorf("in mode monitor %v passed, want everything, once", arrived)
	}
	s, err := a.Stats()
	a.must(err)
	if s.Frames("port1", "wrong-anchor") < 2 {
		t.Errorf("counted: %+v", s.Ports)
	}
	var page []byte
	a.must(a.Device.Enter(func() error {
		c, err := net.Dial("tcp", "[::1]:9100")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n")); err != nil {
			return err
		}
		page, err = io.ReadAll(c)
		return err
	}))
	for _, want := range []string{`gidfilter_frames_total{interface="port1",reason="wrong-anchor"}`, "gidfilter_leasequery_connected 1", "gidfilter_enforcing 0"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	if bytes.Contains(page, []byte("2001:db8")) {
		t.Error("the metrics name an address")
	}
}
