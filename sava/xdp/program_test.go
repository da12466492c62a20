//go:build e2e

package xdp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

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
	host, device *netlab.Namespace
	port         uint32
	raw          int // a packet socket on eth0
	in           *net.UDPConn
}

func newCable(t *testing.T) *cable {
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
	c := &cable{}
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

func (c *cable) load(t *testing.T, o Options) *Program {
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
				if e.Port != c.port || e.Len != len(e.Data) {
					t.Errorf("port %d, %d bytes of %d", e.Port, len(e.Data), e.Len)
				}
				got = append(got, bytes.Clone(e.Data))
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
