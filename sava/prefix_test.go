package sava

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

var (
	delegated = netip.MustParsePrefix("2001:db8:4000:100::/56")
	inside    = netip.MustParseAddr("2001:db8:4000:1ab:1:2:3:4")
	beside    = netip.MustParseAddr("2001:db8:4000:200::1")
)

func iaPrefix(p netip.Prefix, valid uint32, options ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, valid/2), valid)
	b = append(append(b, byte(p.Bits())), addr16(p.Addr())...)
	return dhcpOption(dhcp6.OptionIAPrefix, slices.Concat(append([][]byte{b}, options...)...))
}

func iaPD(inner ...[]byte) []byte {
	return dhcpOption(dhcp6.OptionIAPD, append([][]byte{make([]byte, 12)}, inner...)...)
}

func keyOf(t testing.TB, p netip.Prefix) netip.Addr {
	t.Helper()
	k, err := KeyOf(p)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAPrefixAndItsKeyAreOneAnothersInverse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		var a [16]byte
		for i := range a {
			a[i] = byte(rng.Uint32())
		}
		p := netip.PrefixFrom(netip.AddrFrom16(a), 1+rng.IntN(MaxPrefix)).Masked()
		if p.Addr().Is4In6() {
			continue
		}
		k := keyOf(t, p)
		if back, ok := PrefixOf(k); !ok || back != p || !k.IsMulticast() {
			t.Fatalf("%s became %s and %s", p, k, back)
		}
	}
	for _, s := range []string{"2001:db8::/65", "2001:db8::1/128", "::/0", "192.0.2.0/24"} {
		if k, err := KeyOf(netip.MustParsePrefix(s)); err == nil {
			t.Errorf("%s became %s", s, k)
		}
	}
	for _, s := range []string{"ff02::1", "ff02::1:ff00:1", "ff05::2", "2001:db8::", "ff38::1:2:3:ff", "ff00::"} {
		if p, ok := PrefixOf(netip.MustParseAddr(s)); ok {
			t.Errorf("%s stands for %s", s, p)
		}
	}
}

func TestSourcesInADelegatedPrefix(t *testing.T) {
	f := newFilter(t, nil)
	bind := func(p netip.Prefix, b Binding) {
		t.Helper()
		if err := f.table.Bind(keyOf(t, p), b); err != nil {
			t.Fatal(err)
		}
	}
	bind(delegated, Binding{Anchor{myPort, 0, myMAC}, false, noon.Add(time.Hour)})
	bind(netip.MustParsePrefix("2001:db8:8000:7::/64"), Binding{Anchor{otherPort, 0, otherMAC}, false, noon.Add(time.Hour)})
	bind(netip.MustParsePrefix("2001:db8:c000::/48"), Binding{Anchor{myPort, 0, myMAC}, false, noon})
	bind(netip.MustParsePrefix("2001:db8:c001::/48"), Binding{AnyVLAN: true, Until: noon.Add(time.Hour)})
	for addr, want := range map[netip.Addr]Reason{
		inside: Valid, delegated.Addr(): Valid, beside: Unbound, honest: Valid,
		netip.MustParseAddr("2001:db8:8000:7::9"): WrongAnchor, netip.MustParseAddr("2001:db8:8000:8::9"): Unbound,
		netip.MustParseAddr("2001:db8:c000:5::9"): Expired, netip.MustParseAddr("2001:db8:c001:5::9"): Unbound,
		keyOf(t, delegated): Martian, // no frame is judged by a key
	} {
		if got := f.Check(myPort, build(t, spec{src: addr}), noon); got.Reason != want {
			t.Errorf("%s: %s, want %s", addr, got.Reason, want)
		}
	}
	if err := f.table.Unbind(keyOf(t, delegated)); err != nil {
		t.Fatal(err)
	}
	if got := f.Check(myPort, build(t, spec{src: inside}), noon); got.Reason != Unbound {
		t.Errorf("after the delegation: %s", got.Reason)
	}
}

func TestLengthsAreBounded(t *testing.T) {
	table := NewTable(0, nil)
	for i := range MaxLengths {
		if err := table.Bind(keyOf(t, netip.PrefixFrom(inside, 40+i).Masked()), Binding{Until: noon}); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Bind(keyOf(t, netip.PrefixFrom(inside, 64).Masked()), Binding{Until: noon}); !errors.Is(err, ErrLengths) {
		t.Errorf("one length too many: %v", err)
	}
	if table.Len() != MaxLengths {
		t.Errorf("%d bindings", table.Len())
	}
}

func TestDelegationsAreSnooped(t *testing.T) {
	key := keyOf(t, delegated)
	for _, c := range []struct {
		name  string
		reply []byte
		bound bool
	}{
		{"a prefix", iaPD(iaPrefix(delegated, 60)), true},
		{"an IA's status", iaPD(statusOption(6), iaPrefix(delegated, 60)), false},
		{"a prefix's status", iaPD(iaPrefix(delegated, 60, statusOption(6))), false},
		{"no lifetime", iaPD(iaPrefix(delegated, 0)), false},
		{"too long a prefix", iaPD(iaPrefix(netip.MustParsePrefix("2001:db8:4000:100::/80"), 60)), false},
		{"no length", iaPD(iaPrefix(netip.MustParsePrefix("::/0"), 60)), false},
		{"a group", iaPD(iaPrefix(netip.MustParsePrefix("ff00::/8"), 60)), false},
		{"all link-local addresses", iaPD(iaPrefix(netip.MustParsePrefix("fe80::/10"), 60)), false},
		{"the key as an address", iaNA(iaAddr(key, 60)), false},
	} {
		s := newSnooping(t, false)
		s.fromHost(here, local, noon, dhcpMessage(dhcp6.MessageTypeRequest, 1, iaPD()))
		s.fromServer(local, noon.Add(time.Second), dhcpMessage(dhcp6.MessageTypeReply, 1, c.reply))
		if c.bound {
			s.bound(key, Binding{Anchor: here, Until: noon.Add(61 * time.Second)})
		} else if n := s.table.Len(); n != 0 {
			t.Errorf("%s: %d bindings", c.name, n)
		}
	}
	// Only its own host gives it back.
	s := newSnooping(t, false)
	s.fromHost(here, local, noon, dhcpMessage(dhcp6.MessageTypeRequest, 1))
	s.fromServer(local, noon, dhcpMessage(dhcp6.MessageTypeReply, 1, iaPD(iaPrefix(delegated, 60))))
	s.fromHost(there, another, noon, dhcpMessage(dhcp6.MessageTypeRelease, 2, iaPD(iaPrefix(delegated, 60))))
	s.bound(key, Binding{Anchor: here, Until: noon.Add(time.Minute)})
	s.fromHost(here, local, noon, dhcpMessage(dhcp6.MessageTypeRelease, 3, iaPD(iaPrefix(delegated, 60))))
	s.unbound(key)
}

// Behind a router nobody answers for an address on the link, so that a prefix is recovered
// only for the link-layer address that the server tells.
func TestADelegationIsRecoveredByTheServersWordOnly(t *testing.T) {
	for _, c := range []struct {
		name  string
		told  MAC
		bound bool
	}{{"the router's", myMAC, true}, {"another's", otherMAC, false}, {"nobody's", MAC{}, false}} {
		s := newSnooping(t, true)
		now := noon
		s.Data(inside, here, now)
		s.actions(Action{Probe, inside, here})
		for range detectionProbes {
			now = now.Add(detectionTimeout / detectionProbes)
			s.Tick(now)
		}
		s.actions(Action{Probe, inside, here}, Action{Query, inside, here})
		s.Answer(ClientData{Addrs: []Leased{{keyOf(t, delegated), time.Minute}}, MAC: c.told}, now)
		if c.bound {
			s.bound(keyOf(t, delegated), Binding{Anchor: here, Until: now.Add(time.Minute)})
		} else if s.table.Len() != 0 {
			t.Errorf("%s: it is bound", c.name)
		}
		if len(s.recoveries) != 0 {
			t.Errorf("%s: the recovery goes on", c.name)
		}
	}
	// What a server tells of by itself and nobody has been seen to use stays so.
	s := newSnooping(t, false)
	if err := s.table.Lease(Leased{keyOf(t, delegated), time.Hour}, MAC{}, noon); err != nil {
		t.Fatal(err)
	}
	s.Data(inside, here, noon)
	for i := range 4 {
		s.Tick(noon.Add(time.Duration(i+1) * detectionTimeout / detectionProbes))
	}
	if b, ok := s.table.Lookup(keyOf(t, delegated)); !ok || b.Port != 0 {
		t.Errorf("%v, %+v", ok, b)
	}
}
