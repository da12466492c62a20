package sava

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"brightgid/idcodec"
)

// The tests build frames with gopacket's serializers.

var (
	noon    = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	honest  = netip.MustParseAddr("2001:db8:1::a")
	victim  = netip.MustParseAddr("2001:db8:1::b")
	nobody  = netip.MustParseAddr("2001:db8:1::c")
	gone    = netip.MustParseAddr("2001:db8:1::d")
	server  = netip.MustParseAddr("2001:db8:ff::1")
	local   = netip.MustParseAddr("fe80::a")
	routers = netip.MustParseAddr("ff02::2")
	unspec  = netip.IPv6Unspecified()

	myMAC    = MAC{2, 0, 0, 0, 0, 0xa}
	otherMAC = MAC{2, 0, 0, 0, 0, 0xb}
)

const (
	myPort    = 7
	otherPort = 8
	uplink    = 9
)

func newFilter(t testing.TB, forger Forger) *Filter {
	t.Helper()
	table := NewTable(0, nil)
	for a, b := range map[netip.Addr]Binding{
		honest: {Anchor{myPort, 0, myMAC}, false, noon.Add(time.Hour)},
		victim: {Anchor{otherPort, 0, otherMAC}, false, noon.Add(time.Hour)},
		gone:   {Anchor{myPort, 0, myMAC}, false, noon},
	} {
		if err := table.Bind(a, b); err != nil {
			t.Fatal(err)
		}
	}
	return NewFilter(table, []uint32{uplink}, forger)
}

// spec describes a frame; the zero values are an honest host's.
type spec struct {
	mac      MAC
	src, dst netip.Addr
	hop      uint8
	vlans    []uint16
	inner    []gopacket.SerializableLayer
	next     layers.IPProtocol
}

func build(t testing.TB, s spec) []byte {
	t.Helper()
	if s.mac == (MAC{}) {
		s.mac = myMAC
	}
	if !s.src.IsValid() {
		s.src = honest
	}
	if !s.dst.IsValid() {
		s.dst = server
	}
	if s.hop == 0 {
		s.hop = 255
	}
	ls := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: s.mac[:], DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6}}
	for i, id := range s.vlans {
		if i == 0 {
			ls[0].(*layers.Ethernet).EthernetType = layers.EthernetTypeDot1Q
			if len(s.vlans) > 1 {
				ls[0].(*layers.Ethernet).EthernetType = layers.EthernetTypeQinQ
			}
		}
		typ := layers.EthernetTypeIPv6
		if i+1 < len(s.vlans) {
			typ = layers.EthernetTypeDot1Q
		}
		ls = append(ls, &layers.Dot1Q{VLANIdentifier: id, Type: typ})
	}
	ip := &layers.IPv6{Version: 6, HopLimit: s.hop, SrcIP: s.src.AsSlice(), DstIP: s.dst.AsSlice(), NextHeader: s.next}
	if s.inner == nil {
		ip.NextHeader = layers.IPProtocolTCP
		s.inner = []gopacket.SerializableLayer{&layers.TCP{SrcPort: 1000, DstPort: 25, SYN: true}, gopacket.Payload("hello")}
	}
	ls = append(ls, ip)
	for _, l := range s.inner {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
		}
		ls = append(ls, l)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func raw(next layers.IPProtocol, b ...byte) spec {
	return spec{next: next, inner: []gopacket.SerializableLayer{gopacket.Payload(b)}}
}

func udp(src netip.Addr, from, to layers.UDPPort) spec {
	return spec{src: src, next: layers.IPProtocolUDP, inner: []gopacket.SerializableLayer{&layers.UDP{SrcPort: from, DstPort: to}, gopacket.Payload("x")}}
}

func icmp(src netip.Addr, typ uint8, body ...byte) spec {
	return spec{src: src, next: layers.IPProtocolICMPv6, inner: []gopacket.SerializableLayer{
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}, gopacket.Payload(body)}}
}

// nd is Neighbour Discovery about a target, with link-layer options.
func nd(src netip.Addr, typ uint8, target netip.Addr, options ...byte) spec {
	t := target.As16()
	return icmp(src, typ, append(append(make([]byte, 4), t[:]...), options...)...)
}

func llOption(typ byte, m MAC) []byte { return append([]byte{typ, 1}, m[:]...) }

func with(s spec, change func(*spec)) spec {
	change(&s)
	return s
}

func TestVerdicts(t *testing.T) {
	frag := func(offset uint16, more bool, next byte) []byte {
		o := offset << 3
		if more {
			o |= 1
		}
		return []byte{next, 0, byte(o >> 8), byte(o), 0, 0, 0, 1}
	}
	tcp := []byte{0x03, 0xe8, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0}
	for _, c := range []struct {
		name string
		spec spec
		want Reason
	}{
		{"honest TCP", spec{}, Valid},
		{"honest UDP", udp(honest, 1000, 53), Valid},
		{"honest echo", icmp(honest, 128, 0, 1, 0, 1), Valid},
		{"another's address", spec{src: victim}, WrongAnchor},
		{"another's address with its MAC", spec{src: victim, mac: otherMAC}, WrongAnchor}, // from another port
		{"own address with another MAC", spec{mac: otherMAC}, WrongAnchor},
		{"own address in a VLAN", spec{vlans: []uint16{5}}, WrongAnchor},
		{"an address of nobody", spec{src: nobody}, Unbound},
		{"an address whose lease is over", spec{src: gone}, Expired},
		{"a group as source", spec{src: routers}, Martian},
		{"a group as MAC", spec{mac: MAC{3}}, Martian},
		{"loopback", spec{src: netip.IPv6Loopback()}, Martian},
		{"a mapped IPv4 address", spec{src: netip.MustParseAddr("::ffff:192.0.2.1")}, Martian},

		{"link-local", udp(local, 1000, 5353), Valid},
		{"a DHCPv6 client", with(udp(local, 546, 547), func(s *spec) { s.dst = netip.MustParseAddr("ff02::1:2") }), Valid},
		{"a rogue DHCPv6 server", udp(local, 547, 546), Martian},
		{"a rogue DHCPv6 relay", udp(honest, 547, 547), Martian},

		{"DAD of one's own", nd(unspec, 135, honest), Valid},
		{"DAD of another's", nd(unspec, 135, victim), WrongAnchor},
		{"DAD of nobody's", nd(unspec, 135, nobody), Unbound},
		{"DAD of a link-local address", nd(unspec, 135, netip.MustParseAddr("fe80::77")), Valid},
		{"DAD with a link-layer option", nd(unspec, 135, honest, llOption(1, myMAC)...), Malformed},
		{"router solicitation from ::", icmp(unspec, 133, 0, 0, 0, 0), Valid},
		{"a listener report from ::", icmp(unspec, 143, make([]byte, 4)...), Valid},
		{"TCP from ::", spec{src: unspec}, Martian},
		{"UDP from ::", udp(unspec, 546, 547), Martian},
		{"an echo from ::", icmp(unspec, 128, 0, 1, 0, 1), Martian},
		{"a neighbour advertisement from ::", nd(unspec, 136, honest), Martian},

		{"asking for a neighbour", nd(honest, 135, victim, llOption(1, myMAC)...), Valid},
		{"asking with another's MAC", nd(honest, 135, victim, llOption(1, otherMAC)...), WrongAnchor},
		{"advertising oneself", nd(honest, 136, honest, llOption(2, myMAC)...), Valid},
		{"advertising another", nd(honest, 136, victim, llOption(2, myMAC)...), WrongAnchor},
		{"advertising nobody", nd(honest, 136, nobody, llOption(2, myMAC)...), Unbound},
		{"advertising another's MAC", nd(honest, 136, honest, llOption(2, otherMAC)...), WrongAnchor},
		{"advertising a long link-layer address", nd(honest, 136, honest, append([]byte{2, 2}, make([]byte, 14)...)...), WrongAnchor},
		{"an option of length zero", nd(honest, 135, victim, 1, 0, 0, 0, 0, 0, 0, 0), Malformed},
		{"an option beyond the end", nd(honest, 135, victim, 1, 2, 0, 0, 0, 0, 0, 0), Malformed},
		{"a solicitation from afar", with(nd(honest, 135, victim), func(s *spec) { s.hop = 64 }), Malformed},
		{"a short solicitation", icmp(honest, 135, 0, 0, 0, 0), Malformed},
		{"a router advertisement", icmp(local, 134, make([]byte, 12)...), Martian},
		{"a redirect", icmp(local, 137, make([]byte, 36)...), Martian},

		{"a first fragment", raw(44, append(frag(0, true, 6), tcp...)...), Valid},
		{"a later fragment", raw(44, append(frag(100, false, 6), 1, 2, 3)...), Valid},
		{"another's later fragment", with(raw(44, append(frag(100, false, 6), 1, 2, 3)...), func(s *spec) { s.src = victim }), WrongAnchor},
		{"a later fragment from ::", with(raw(44, append(frag(100, false, 58), 1, 2, 3)...), func(s *spec) { s.src = unspec }), Martian},
		{"a solicitation in a fragment", raw(44, append(frag(0, true, 58), append([]byte{135, 0, 0, 0}, make([]byte, 20)...)...)...), Malformed},
		{"an advertisement behind options", raw(60, append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, append([]byte{136, 0, 0, 0, 0, 0, 0, 0}, addr16(victim)...)...)...), WrongAnchor},
		{"a rogue server behind options", raw(60, 17, 0, 1, 4, 0, 0, 0, 0, 0x02, 0x23, 0x02, 0x22, 0, 8, 0, 0), Martian},
		{"TCP behind routing and authentication headers", raw(43, append([]byte{51, 0, 0, 0, 0, 0, 0, 0, 6, 4}, append(make([]byte, 22), tcp...)...)...), Valid},
		{"another's, behind options", with(raw(60, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp...)...), func(s *spec) { s.src = victim }), WrongAnchor},
		{"options twice as hop-by-hop", raw(60, 0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0), Malformed},
		{"TCP behind hop-by-hop options", raw(0, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp...)...), Valid},
		{"another's, behind hop-by-hop options", with(raw(0, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp...)...), func(s *spec) { s.src = victim }), WrongAnchor},
		{"an advertisement of another's behind hop-by-hop options", raw(0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, append([]byte{136, 0, 0, 0, 0, 0, 0, 0}, addr16(victim)...)...)...), WrongAnchor},
		{"hop-by-hop options beyond the end", raw(0, 6, 9, 1, 4, 0, 0, 0, 0), Malformed},
		{"two fragment headers", raw(44, append(frag(0, true, 44), frag(0, true, 6)...)...), Malformed},
		{"options beyond the end", raw(60, 6, 9, 1, 4, 0, 0, 0, 0), Malformed},
		{"seventeen headers", raw(60, bytesRepeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 17)...), Malformed},
		{"another's packet in one's own", spec{next: 41, inner: []gopacket.SerializableLayer{gopacket.Payload(build(t, spec{src: victim})[14:])}}, Valid},
		{"one's own packet in another's", spec{src: victim, next: 41, inner: []gopacket.SerializableLayer{gopacket.Payload(build(t, spec{})[14:])}}, WrongAnchor},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFilter(t, nil)
			if got := f.Check(myPort, build(t, c.spec), noon); got.Reason != c.want {
				t.Errorf("%s, want %s", got.Reason, c.want)
			}
			if got := f.Check(uplink, build(t, c.spec), noon); got.Reason != Trusted {
				t.Errorf("from a trusted port: %s", got.Reason)
			}
		})
	}
}

func addr16(a netip.Addr) []byte { b := a.As16(); return b[:] }

func bytesRepeat(b []byte, n int) []byte { return slices.Repeat(b, n) }

func TestVLANsAreAnchors(t *testing.T) {
	f := newFilter(t, nil)
	for _, c := range []struct {
		bound uint32
		tags  []uint16
		want  Reason
	}{
		{0, nil, Valid}, {0, []uint16{5}, WrongAnchor},
		{5 << 16, []uint16{5}, Valid}, {5 << 16, nil, WrongAnchor}, {5 << 16, []uint16{6}, WrongAnchor}, {5 << 16, []uint16{5, 5}, WrongAnchor},
		{5<<16 | 6, []uint16{5, 6}, Valid}, {5<<16 | 6, []uint16{6, 5}, WrongAnchor}, {5<<16 | 6, []uint16{5}, WrongAnchor},
		{0, []uint16{1, 2, 3}, Malformed},
	} {
		if err := f.table.Bind(honest, Binding{Anchor{myPort, c.bound, myMAC}, false, noon.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if got := f.Check(myPort, build(t, spec{vlans: c.tags}), noon); got.Reason != c.want {
			t.Errorf("bound to %#x, tags %v: %s, want %s", c.bound, c.tags, got.Reason, c.want)
		}
	}
}

func TestUnknownPartsOfAnAnchorAreNotAsked(t *testing.T) {
	f := newFilter(t, nil)
	until := noon.Add(time.Hour)
	for name, c := range map[string]struct {
		b    Binding
		want Reason
	}{
		"any port":        {Binding{Anchor{0, 0, myMAC}, false, until}, Valid},
		"any MAC":         {Binding{Anchor{myPort, 0, MAC{}}, false, until}, Valid},
		"any VLAN":        {Binding{Anchor{myPort, 77, myMAC}, true, until}, Valid},
		"another port":    {Binding{Anchor{otherPort, 0, MAC{}}, true, until}, WrongAnchor},
		"only that MAC":   {Binding{Anchor{0, 0, otherMAC}, true, until}, WrongAnchor},
		"any port, ended": {Binding{Anchor{0, 0, myMAC}, true, noon}, Expired},
	} {
		if err := f.table.Bind(honest, c.b); err != nil {
			t.Fatal(err)
		}
		if got := f.Check(myPort, build(t, spec{}), noon); got.Reason != c.want {
			t.Errorf("%s: %s, want %s", name, got.Reason, c.want)
		}
	}
}

func TestLifetimesRunOn(t *testing.T) {
	f := newFilter(t, nil)
	frame := build(t, spec{})
	if got := f.Check(myPort, frame, noon.Add(time.Hour-time.Nanosecond)); got.Reason != Valid {
		t.Errorf("at its last moment: %s", got.Reason)
	}
	if got := f.Check(myPort, frame, noon.Add(time.Hour)); got.Reason != Expired {
		t.Errorf("at its end: %s", got.Reason)
	}
	if n := f.table.Expire(noon.Add(30 * time.Minute)); n != 1 {
		t.Errorf("%d bindings were removed, want the one that ended", n)
	}
	if got := f.Check(myPort, frame, noon); got.Reason != Valid {
		t.Errorf("after the others were removed: %s", got.Reason)
	}
	if err := f.table.Unbind(honest); err != nil {
		t.Fatal(err)
	}
	if got := f.Check(myPort, frame, noon); got.Reason != Unbound {
		t.Errorf("after a release: %s", got.Reason)
	}
}

func TestLinkLocalBelongsToWhoUsesItFirst(t *testing.T) {
	f := newFilter(t, nil)
	mine, theirs := build(t, udp(local, 1, 2)), build(t, with(udp(local, 1, 2), func(s *spec) { s.mac = otherMAC }))
	if got := f.Check(myPort, mine, noon); got.Reason != Valid {
		t.Errorf("the first: %s", got.Reason)
	}
	if got := f.Check(otherPort, theirs, noon.Add(time.Minute)); got.Reason != WrongAnchor {
		t.Errorf("another: %s", got.Reason)
	}
	if got := f.Check(myPort, mine, noon.Add(50*time.Minute)); got.Reason != Valid {
		t.Errorf("the first again: %s", got.Reason)
	}
	if got := f.Check(otherPort, theirs, noon.Add(100*time.Minute)); got.Reason != WrongAnchor {
		t.Errorf("another, while it is in use: %s", got.Reason)
	}
	if got := f.Check(otherPort, theirs, noon.Add(4*time.Hour)); got.Reason != Valid {
		t.Errorf("another, when nobody uses it any more: %s", got.Reason)
	}
}

func TestAFloodOfLinkLocalAddressesIsBounded(t *testing.T) {
	f := newFilter(t, nil)
	valid := 0
	for i := range 1000 {
		a := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)})
		if f.Check(myPort, build(t, udp(a, 1, 2)), noon).Reason == Valid {
			valid++
		}
	}
	if valid != maxLocal || len(f.table.local) != maxLocal {
		t.Errorf("%d claims by one port, want %d", valid, maxLocal)
	}
	a := netip.MustParseAddr("fe80::ffff:1")
	if got := f.Check(otherPort, build(t, udp(a, 1, 2)), noon); got.Reason != Valid {
		t.Errorf("another port is shut out: %s", got.Reason)
	}
	f.table.Expire(noon.Add(2 * time.Hour))
	if len(f.table.local) != 0 || len(f.table.claims) != 0 {
		t.Errorf("%d claims of %d ports are left", len(f.table.local), len(f.table.claims))
	}
}

func TestAFullTableKeepsWhatItHas(t *testing.T) {
	table := NewTable(2, nil)
	b := Binding{Anchor{myPort, 0, myMAC}, false, noon}
	for _, a := range []netip.Addr{honest, victim} {
		if err := table.Bind(a, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Bind(nobody, b); !errors.Is(err, ErrTableFull) {
		t.Errorf("a third: %v, want ErrTableFull", err)
	}
	b.Until = noon.Add(time.Hour)
	if err := table.Bind(honest, b); err != nil {
		t.Errorf("renewing one that is in it: %v", err)
	}
	if table.Len() != 2 {
		t.Errorf("%d bindings", table.Len())
	}
}

func TestForgedSourcesAreToldFromUnboundOnes(t *testing.T) {
	ring, err := idcodec.NewKeyring(rand.NewChaCha8([32]byte{1}), idcodec.DefaultEpochLength, 20560)
	if err != nil {
		t.Fatal(err)
	}
	prefix := idcodec.PrefixOf(honest)
	f := newFilter(t, &EpochForger{Keys: ring, Prefixes: []idcodec.Prefix{prefix}, MaxAge: 36 * time.Hour})
	address := func(at time.Time) netip.Addr {
		e, err := ring.EpochAt(at)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ring.Key(e)
		if err != nil {
			t.Fatal(err)
		}
		g, err := k.Encode(prefix, 5, 1)
		if err != nil {
			t.Fatal(err)
		}
		return prefix.Addr(g)
	}
	for name, c := range map[string]struct {
		src  netip.Addr
		want Reason
	}{
		"a GID of today that is not leased":  {address(noon), Unbound},
		"a GID of yesterday":                 {address(noon.Add(-24 * time.Hour)), Unbound},
		"a GID of last week":                 {address(noon.Add(-7 * 24 * time.Hour)), Forged},
		"a GID of tomorrow":                  {address(noon.Add(24 * time.Hour)), Forged},
		"an invented address":                {nobody, Forged},
		"an address of a prefix without GID": {server, Unbound},
		"a leased one":                       {honest, Valid},
	} {
		if got := f.Check(myPort, build(t, spec{src: c.src}), noon); got.Reason != c.want {
			t.Errorf("%s: %s, want %s", name, got.Reason, c.want)
		}
	}
}

func TestFramesThatAreNotIPv6AreLeftAlone(t *testing.T) {
	f := newFilter(t, nil)
	arp := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, myMAC[:]...), 0x08, 0x06, 0, 1)
	if got := f.Check(myPort, arp, noon); got.Reason != NotIPv6 || !got.Reason.Pass() {
		t.Errorf("ARP: %s", got.Reason)
	}
}

// A frame that was cut anywhere is malformed, never taken for something else.
func TestTruncatedFramesAreMalformed(t *testing.T) {
	f := newFilter(t, nil)
	for name, s := range map[string]spec{
		"TCP": {}, "tagged": {vlans: []uint16{1, 2}}, "a solicitation": nd(honest, 135, victim, llOption(1, myMAC)...),
		"options": raw(60, 6, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4), "a fragment": raw(44, 6, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3),
		"Hop-by-Hop options": raw(0, 17, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4, 0, 8, 0, 0),
	} {
		frame := build(t, s)
		for n := range frame {
			if got := f.Check(myPort, frame[:n], noon); got.Reason != Malformed {
				t.Errorf("%s, cut to %d of %d bytes: %s", name, n, len(frame), got.Reason)
			}
		}
		if got := f.Check(myPort, append(frame, make([]byte, 20)...), noon); got.Reason == Malformed {
			t.Errorf("%s, padded as Ethernet does: %s", name, got.Reason)
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	f := newFilter(t, nil)
	for name, s := range map[string]spec{
		"TCP": {}, "a spoofed one": {src: victim}, "tagged twice": {vlans: []uint16{1, 2}}, "ND": nd(honest, 135, victim, llOption(1, myMAC)...),
		"link-local": udp(local, 1, 2), "a fragment": raw(44, 6, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3),
		"Hop-by-Hop options": raw(0, 17, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4, 0, 8, 0, 0),
	} {
		frame := build(t, s)
		f.Check(myPort, frame, noon)
		if n := testing.AllocsPerRun(200, func() { f.Check(myPort, frame, noon) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzCheck(f *testing.F) {
	filter := newFilter(f, nil)
	for _, s := range []spec{{}, {vlans: []uint16{1, 2}}, nd(unspec, 135, honest), nd(honest, 136, honest, llOption(2, myMAC)...),
		udp(local, 546, 547), raw(44, 58, 0, 0, 1, 0, 0, 0, 1, 135), raw(0, 60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0, 143, 0, 0, 0), raw(51, 6, 4)} {
		f.Add(build(f, s), uint32(myPort))
	}
	f.Fuzz(func(t *testing.T, frame []byte, port uint32) {
		if port == uplink {
			return
		}
		before := slices.Clone(frame)
		v := filter.Check(port, frame, noon)
		if !slices.Equal(frame, before) {
			t.Fatal("the frame was changed")
		}
		if v.Reason >= NumReasons || v.Reason == Trusted {
			t.Fatalf("verdict %d", v.Reason)
		}
		// Nobody but the honest host's anchor sends from a global address.
		if v.Reason == Valid && !v.Src().IsLinkLocalUnicast() && !v.Src().IsUnspecified() {
			b, ok := filter.table.Lookup(v.Src())
			if !ok || v.Anchor != b.Anchor {
				t.Fatalf("%s passed from %+v", v.Src(), v.Anchor)
			}
		}
	})
}

// BenchmarkCheck prints a verdict's time as a ratio to gopacket's bare decoding
// of the same layers, Ethernet, IPv6 and UDP, in the same run, with 100,000
// bindings.
func BenchmarkCheck(b *testing.B) {
	f := newFilter(b, nil)
	for i := range 100_000 {
		a := netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 12: byte(i >> 16), 13: byte(i >> 8), 14: byte(i), 15: 1})
		if err := f.table.Bind(a, Binding{Anchor{otherPort, 0, otherMAC}, false, noon.Add(time.Hour)}); err != nil {
			b.Fatal(err)
		}
	}
	frame := build(b, udp(honest, 1000, 53)) // its ports are looked at, as a DHCPv6 server's
	var eth layers.Ethernet
	var vlan layers.Dot1Q
	var ip6 layers.IPv6
	var udp layers.UDP
	parser := gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &eth, &vlan, &ip6, &udp)
	parser.IgnoreUnsupported = true
	found := make([]gopacket.LayerType, 0, 8)
	const n = 20000
	var bare, check []float64
	for b.Loop() {
		start := time.Now()
		for range n {
			if err := parser.DecodeLayers(frame, &found); err != nil {
				b.Fatal(err)
			}
		}
		bare = append(bare, float64(time.Since(start).Nanoseconds())/n)
		start = time.Now()
		for range n {
			if v := f.Check(myPort, frame, noon); v.Reason != Valid {
				b.Fatal(v.Reason)
			}
		}
		check = append(check, float64(time.Since(start).Nanoseconds())/n)
	}
	slices.Sort(bare)
	slices.Sort(check)
	mb, mc := bare[len(bare)/2], check[len(check)/2]
	b.ReportMetric(mb, "decode-ns")
	b.ReportMetric(mc, "check-ns")
	b.ReportMetric(mc/mb, "check/decode")
	b.ReportMetric(testing.AllocsPerRun(100, func() { f.Check(myPort, frame, noon) }), "allocs")
}
