//go:build e2e

package xdp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"brightgid/internal/netlab"
	"brightgid/sava"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "\nTHE TESTS OF THE XDP PROGRAM CANNOT RUN without root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var (
	hostMAC = sava.MAC{2, 0, 0, 0, 0, 0x0a}
	portMAC = sava.MAC{2, 0, 0, 0, 0, 0x01}
	honest  = netip.MustParseAddr("2001:db8:1::a")
	gateway = netip.MustParseAddr("2001:db8:1::1")
)

// cable is a host, a device, and a cable between the host's eth0 and the
// device's port0.
type cable struct {
	lab          *netlab.Lab
	host, device *netlab.Namespace
	port         uint32
	raw          int // a packet socket on eth0
	in           *net.UDPConn
}

func newCable(t testing.TB) *cable {
	t.Helper()
	lab, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &cable{lab: lab}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c.host, err = lab.Namespace("host")
	must(err)
	c.device, err = lab.Namespace("device")
	must(err)
	must(lab.Connect(c.host, "eth0", net.HardwareAddr(hostMAC[:]).String(), c.device, "port0", net.HardwareAddr(portMAC[:]).String()))
	must(c.device.Do("ip", "address", "add", gateway.String()+"/64", "dev", "port0", "nodad"))
	must(c.device.Enter(func() error {
		i, err := net.InterfaceByName("port0")
		if err == nil {
			c.port = uint32(i.Index)
		}
		return err
	}))
	must(c.host.Enter(func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if c.raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(c.raw, &unix.SockaddrLinklayer{Ifindex: i.Index})
	}))
	t.Cleanup(func() { unix.Close(c.raw) })
	c.in, err = c.device.ListenUDP(netip.AddrPortFrom(gateway, 9))
	must(err)
	t.Cleanup(func() { c.in.Close() })
	return c
}

func (c *cable) load(t testing.TB, o Options) *Program {
	t.Helper()
	var p *Program
	o.Ports = []Port{{Index: c.port, Name: "port0"}}
	if err := c.device.Enter(func() (err error) { p, err = Load(o); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// udp makes a frame from src that says a text to the device's port 9.
func udp(t testing.TB, src netip.Addr, text string, between ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: gateway.AsSlice()}
	u := &layers.UDP{SrcPort: 1000, DstPort: 9}
	if err := u.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	ls := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: hostMAC[:], DstMAC: portMAC[:], EthernetType: layers.EthernetTypeIPv6}, ip, u, gopacket.Payload(text)}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func (c *cable) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := unix.Write(c.raw, frame); err != nil {
		t.Fatal(err)
	}
}

// receive returns the text of the next packet that passed, or "".
func (c *cable) receive(t *testing.T, within time.Duration) string {
	t.Helper()
	b := make([]byte, 2048)
	if err := c.in.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	n, err := c.in.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func eachMode(t *testing.T, f func(t *testing.T, generic bool)) {
	for _, generic := range []bool{false, true} {
		t.Run(map[bool]string{false: "native", true: "generic"}[generic], func(t *testing.T) { f(t, generic) })
	}
}

func TestOnlyWhatIsBoundPasses(t *testing.T) {
	eachMode(t, func(t *testing.T, generic bool) {
		c := newCable(t)
		p := c.load(t, Options{Enforce: true, Generic: generic})
		if got, want := p.Mode(0), map[bool]string{false: "native", true: "generic"}[generic]; got != want {
			t.Fatalf("attached in mode %s, want %s", got, want)
		}
		c.send(t, udp(t, honest, "before"))
		if err := p.Bind(honest, sava.Binding{Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		c.send(t, udp(t, honest, "bound"))
		if got := c.receive(t, time.Second); got != "bound" {
			t.Errorf("received %q, want what was sent while bound", got)
		}
		if err := p.Unbind(honest); err != nil {
			t.Fatal(err)
		}
		c.send(t, udp(t, honest, "after"))
		if got := c.receive(t, 100*time.Millisecond); got != "" {
			t.Errorf("%q passed without a binding", got)
		}
		n, err := p.Counters(0)
		if err != nil {
			t.Fatal(err)
		}
		if n[sava.Valid] != 1 || n[sava.Unbound] != 2 {
			t.Errorf("counted %v", n)
		}
	})
}

func TestWhatIsHandedUpIsHeldUntilItIsInjected(t *testing.T) {
	eachMode(t, func(t *testing.T, generic bool) {
		c := newCable(t)
		p := c.load(t, Options{Enforce: true, Generic: generic})
		local := netip.MustParseAddr("fe80::a") // claimed by nobody yet
		frame := udp(t, local, "from a link-local address")
		var got [][]byte
		var mu sync.Mutex
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- p.HandedUp(ctx, func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Port != c.port || e.Len != len(e.Data) || e.Copy {
					t.Errorf("port %d, %d bytes of %d, a copy: %v", e.Port, len(e.Data), e.Len, e.Copy)
				}
				if len(e.Data) > 20 && e.Data[20] == byte(layers.IPProtocolUDP) { // the host reports its groups as well
					got = append(got, bytes.Clone(e.Data))
				}
			})
		}()
		c.send(t, frame)
		if text := c.receive(t, 100*time.Millisecond); text != "" {
			t.Errorf("%q passed before it was judged", text)
		}
		mu.Lock()
		if len(got) != 1 || !bytes.Equal(got[0], frame) {
			t.Fatalf("handed up: %x; want %x", got, frame)
		}
		mu.Unlock()
		if err := c.device.Enter(func() error { return p.Inject(c.port, frame) }); err != nil {
			t.Fatal(err)
		}
		if text := c.receive(t, time.Second); text != "from a link-local address" {
			t.Errorf("after it was injected: %q", text)
		}
		time.Sleep(50 * time.Millisecond)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(got) != 1 {
			t.Errorf("an injected frame was handed up again: %d times", len(got))
		}
	})
}

// verdict runs a port's program on a frame and tells the reason that it counts, or
// whether it leaves the frame to user space.
func (p *Program) verdict(t testing.TB, frame []byte) (reason sava.Reason, passes, handedUp bool) {
	t.Helper()
	before, err := p.Counters(0)
	if err != nil {
		t.Fatal(err)
	}
	action, err := p.ports[0].program.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: 1})
	if err != nil {
		t.Fatal(err)
	}
	after, err := p.Counters(0)
	if err != nil {
		t.Fatal(err)
	}
	handedUp = true
	for r := range after {
		if after[r] != before[r] && sava.Reason(r) != sava.Limited {
			reason, handedUp = sava.Reason(r), false
		}
	}
	return reason, action == xdpPass, handedUp
}

const xdpPass = 2

// seeds are frames of all kinds from the honest host.
func seeds(t testing.TB) [][]byte {
	nd := func(typ uint8, src, target netip.Addr, options ...byte) []byte {
		ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: gateway.AsSlice()}
		m := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
		if err := m.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		b := gopacket.NewSerializeBuffer()
		body := append(append(make([]byte, 4), target.AsSlice()...), options...)
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: hostMAC[:], DstMAC: portMAC[:], EthernetType: layers.EthernetTypeIPv6}, ip, m, gopacket.Payload(body)); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(b.Bytes())
	}
	mine := append([]byte{1, 1}, hostMAC[:]...)
	plain := udp(t, honest, "a text")
	inPrefix := udp(t, netip.MustParseAddr("2001:db8:4000:1ab::9"), "a text")
	tagged := func(tags ...byte) []byte { return slices.Concat(plain[:12], tags, plain[12:]) }
	chain := func(next byte, headers ...byte) []byte {
		b := slices.Concat(plain[:54], headers, plain[54:])
		b[20] = next
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
		return b
	}
	return [][]byte{
		plain, udp(t, gateway, "another's"), udp(t, netip.MustParseAddr("fe80::a"), "local"), udp(t, netip.IPv6Unspecified(), "nobody's"),
		nd(135, honest, gateway, mine...), nd(136, honest, honest, append([]byte{2, 1}, hostMAC[:]...)...), nd(136, honest, gateway),
		nd(135, honest, gateway, append([]byte{1, 1}, portMAC[:]...)...), nd(135, honest, gateway, 14, 1, 0, 0, 0, 0, 0, 0), nd(135, netip.IPv6Unspecified(), honest),
		nd(134, honest, honest), nd(137, honest, honest), nd(133, honest, honest), nd(135, honest, gateway, 14, 0, 0, 0, 0, 0, 0, 0),
		tagged(0x81, 0, 0, 7), tagged(0x88, 0xa8, 0, 7, 0x81, 0, 0, 8), tagged(0x81, 0, 0, 7, 0x81, 0, 0, 7, 0x81, 0, 0, 7),
		chain(0, 17, 0, 1, 4, 0, 0, 0, 0), chain(60, 43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 253, 0, 0, 0, 0, 0), chain(44, 17, 0, 0, 1, 0, 0, 0, 7), chain(44, 17, 0, 0, 9, 0, 0, 0, 7),
		chain(51, 17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1), chain(44, 58, 0, 0, 1, 0, 0, 0, 7, 135, 0, 0, 0), chain(41), chain(50), chain(59), chain(60, 0, 0, 1, 4, 0, 0, 0, 0),
		inPrefix, udp(t, netip.MustParseAddr("2001:db8:4000:2cd::9"), "another's"), udp(t, netip.MustParseAddr("2001:db8:8000:7::9"), "over"),
		udp(t, netip.MustParseAddr("2001:db8:c000:7::9"), "somebody's"), udp(t, netip.MustParseAddr("ff38::2001:db8:4000:100"), "a key"), nd(136, netip.MustParseAddr("2001:db8:4000:1ab::9"), netip.MustParseAddr("2001:db8:4000:1ff::9")),
	}
}

// The kernel's verdict is the filter's, or is left to it: on frames of every kind,
// and on as many more with bytes changed and ends cut off.
func TestTheKernelJudgesAsTheFilterDoes(t *testing.T) {
	c := newCable(t)
	for _, recover := range []bool{false, true} {
		p := c.load(t, Options{Enforce: true, Recover: recover})
		table := sava.NewTable(0, p)
		for a, b := range map[netip.Addr]sava.Binding{
			honest:                               {Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, Until: time.Now().Add(time.Hour)},
			netip.MustParseAddr("2001:db8:1::b"): {Anchor: sava.Anchor{Port: c.port + 1, MAC: hostMAC}, Until: time.Now().Add(time.Hour)},
			netip.MustParseAddr("2001:db8:1::c"): {Anchor: sava.Anchor{Port: c.port, MAC: portMAC}, AnyVLAN: true, Until: time.Now().Add(time.Hour)},
			netip.MustParseAddr("2001:db8:1::d"): {Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, AnyVLAN: true, Until: time.Now().Add(-time.Minute)},
			netip.MustParseAddr("2001:db8:1::e"): {AnyVLAN: true, Until: time.Now().Add(time.Hour)},
		} {
			if err := table.Bind(a, b); err != nil {
				t.Fatal(err)
			}
		}
		for s, b := range map[string]sava.Binding{
			"2001:db8:4000:100::/56": {Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, Until: time.Now().Add(time.Hour)},
			"2001:db8:4000:200::/56": {Anchor: sava.Anchor{Port: c.port, MAC: portMAC}, Until: time.Now().Add(time.Hour)},
			"2001:db8:8000:7::/64":   {Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, AnyVLAN: true, Until: time.Now().Add(-time.Minute)},
			"2001:db8:c000::/35":     {AnyVLAN: true, Until: time.Now().Add(time.Hour)},
		} {
			key, err := sava.KeyOf(netip.MustParsePrefix(s))
			if err != nil {
				t.Fatal(err)
			}
			if err := table.Bind(key, b); err != nil {
				t.Fatal(err)
			}
		}
		filter := sava.NewFilter(table, nil, nil)
		decided := 0
		check := func(what string, frame []byte) {
			t.Helper()
			reason, passes, handedUp := p.verdict(t, frame)
			if handedUp {
				if passes {
					t.Errorf("%s: %x passes before it is judged", what, frame)
				}
				return
			}
			decided++
			v := filter.Check(c.port, frame, time.Now())
			// Of two reasons to drop a frame, the kernel finds that of the source first.
			if passes != v.Reason.Pass() || passes != reason.Pass() || passes && reason != v.Reason {
				t.Errorf("%s: the kernel says %s (passes: %v), the filter %s: %x", what, reason, passes, v.Reason, frame)
			}
		}
		rng := rand.New(rand.NewPCG(1, 2))
		all := seeds(t)
		for i, frame := range all {
			check(fmt.Sprintf("seed %d", i), frame)
		}
		if decided < len(all)/2 {
			t.Errorf("the kernel decides %d of %d frames", decided, len(all))
		}
		for i := range 30_000 {
			frame := bytes.Clone(all[i%len(all)])
			for range rng.IntN(3) + 1 {
				frame[12+rng.IntN(len(frame)-12)] = byte(rng.Uint32())
			}
			if rng.IntN(4) == 0 {
				frame = frame[:14+rng.IntN(len(frame)-13)]
			}
			check("a changed seed", frame)
			if t.Failed() {
				return
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is bound is found again by who comes after, prefixes too, and their lengths are
// known before the new program judges its first frame.
func TestPrefixesOutliveTheProcess(t *testing.T) {
	eachMode(t, func(t *testing.T, generic bool) {
		c := newCable(t)
		if err := c.lab.MountBPF(filepath.Join(c.lab.Dir, "bpf")); err != nil {
			t.Fatal(err)
		}
		pin := filepath.Join(c.lab.Dir, "bpf", "gidfilter")
		delegated := netip.MustParsePrefix("2001:db8:4000:100::/56")
		frame := udp(t, netip.MustParseAddr("2001:db8:4000:1ab::9"), "from behind a router")
		first := c.load(t, Options{Enforce: true, Generic: generic, Pin: pin})
		key, err := sava.KeyOf(delegated)
		if err != nil {
			t.Fatal(err)
		}
		b := sava.Binding{Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, Until: time.Now().Add(time.Hour)}
		if err := sava.NewTable(0, first).Bind(key, b); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		c.send(t, frame)
		if got := c.receive(t, 5*time.Second); got != "from behind a router" {
			t.Errorf("without a process: %q", got)
		}
		second := c.load(t, Options{Enforce: true, Generic: generic, Pin: pin})
		if reason, passes, _ := second.verdict(t, frame); !passes {
			t.Errorf("before the bindings are taken over: %s", reason)
		}
		table := sava.NewTable(0, second)
		if n, err := second.Adopt(time.Now(), table.Adopt); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if got, ok := table.Lookup(key); !ok || got.Anchor != b.Anchor {
			t.Errorf("%v, %+v", ok, got)
		}
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Detach(pin); err != nil {
			t.Fatal(err)
		}
	})
}

// Neighbour Discovery of a bound host passes in the kernel, so that hosts keep
// their neighbours while no process judges; user space gets a copy.
func TestNeighbourDiscoveryOfABoundHostNeedsNoProcess(t *testing.T) {
	c := newCable(t)
	p := c.load(t, Options{Enforce: true})
	if err := p.Bind(honest, sava.Binding{Anchor: sava.Anchor{Port: c.port, MAC: hostMAC}, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []sava.Reason{4: sava.Valid, 5: sava.Valid, 6: sava.Unbound, 7: sava.WrongAnchor} {
		if want == 0 && i < 4 {
			continue
		}
		if reason, passes, handedUp := p.verdict(t, seeds(t)[i]); reason != want || passes != want.Pass() || handedUp {
			t.Errorf("seed %d is %s, passes: %v, handed up: %v; want %s", i, reason, passes, handedUp, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	copies := 0
	if err := p.HandedUp(ctx, func(e Event) {
		if e.Copy {
			copies++
		}
	}); err != nil {
		t.Fatal(err)
	}
	if copies != 2 {
		t.Errorf("%d copies, want those of the two that passed", copies)
	}
}
