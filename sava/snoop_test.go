package sava

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

var (
	client  = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 0xa}
	here    = Anchor{myPort, 0, myMAC}
	there   = Anchor{otherPort, 0, otherMAC}
	another = netip.MustParseAddr("fe80::b")
)

func dhcpOption(code dhcp6.OptionCode, parts ...[]byte) []byte {
	data := slices.Concat(parts...)
	b := binary.BigEndian.AppendUint16(nil, uint16(code))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func iaAddr(a netip.Addr, valid uint32, options ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32(addr16(a), valid/2)
	return dhcpOption(dhcp6.OptionIAAddr, slices.Concat(append([][]byte{binary.BigEndian.AppendUint32(b, valid)}, options...)...))
}

func iaNA(inner ...[]byte) []byte {
	return dhcpOption(dhcp6.OptionIANA, append([][]byte{make([]byte, 12)}, inner...)...)
}

func statusOption(code byte) []byte { return dhcpOption(dhcp6.OptionStatusCode, []byte{0, code}) }

func dhcpMessage(typ dhcp6.MessageType, xid byte, options ...[]byte) []byte {
	return append([]byte{byte(typ), 0, 0, xid}, slices.Concat(append([][]byte{dhcpOption(dhcp6.OptionClientID, client)}, options...)...)...)
}

// snooping is a snooper with what the table binds an address to.
type snooping struct {
	*Snooper
	t *testing.T
}

func newSnooping(t *testing.T, query bool) snooping {
	return snooping{NewSnooper(NewTable(0, nil), query), t}
}

func (s snooping) fromHost(a Anchor, host netip.Addr, now time.Time, b []byte) {
	s.t.Helper()
	if r := s.FromHost(a, host, b, now); r != Valid {
		s.t.Fatalf("a message of a host is %s", r)
	}
}

func (s snooping) fromServer(host netip.Addr, now time.Time, b []byte) {
	s.t.Helper()
	if err := s.FromServer(host, b, now); err != nil {
		s.t.Fatal(err)
	}
}

func (s snooping) bound(addr netip.Addr, want Binding) {
	s.t.Helper()
	if got, ok := s.table.Lookup(addr); !ok || got.Anchor != want.Anchor || !got.Until.Equal(want.Until) {
		s.t.Errorf("%s: %v, %+v; want %+v", addr, ok, got, want)
	}
}

func (s snooping) unbound(addr netip.Addr) {
	s.t.Helper()
	if got, ok := s.table.Lookup(addr); ok {
		s.t.Errorf("%s is bound: %+v", addr, got)
	}
}

func (s snooping) actions(want ...Action) {
	s.t.Helper()
	if got := s.Actions(); !slices.Equal(got, want) {
		s.t.Errorf("actions %+v, want %+v", got, want)
	}
}

func TestAReplyBindsWhoAsked(t *testing.T) {
	for _, c := range []struct {
		name  string
		asks  []byte
		reply []byte
		bound bool
	}{
		{"request", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))), true},
		{"renew", dhcpMessage(dhcp6.MessageTypeRenew, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))), true},
		{"rebind", dhcpMessage(dhcp6.MessageTypeRebind, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))), true},
		{"solicit with rapid commit", dhcpMessage(dhcp6.MessageTypeSolicit, 1, dhcpOption(dhcp6.OptionRapidCommit)), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))), true},
		{"solicit without", dhcpMessage(dhcp6.MessageTypeSolicit, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))), false},
		{"an Advertise binds nobody", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeAdvertise, 1, iaNA(iaAddr(honest, 60))), false},
		{"another transaction", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 2, iaNA(iaAddr(honest, 60))), false},
		{"a message's status", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, statusOption(1), iaNA(iaAddr(honest, 60))), false},
		{"an IA's status", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(statusOption(2), iaAddr(honest, 60))), false},
		{"an address's status", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60, statusOption(2)))), false},
		{"no lifetime", dhcpMessage(dhcp6.MessageTypeRenew, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 0))), false},
		{"a group", dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(routers, 60))), false},
		{"a confirm tells of the link only", dhcpMessage(dhcp6.MessageTypeConfirm, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSnooping(t, false)
			s.fromHost(here, local, noon, c.asks)
			s.fromServer(local, noon.Add(time.Second), c.reply)
			if c.bound {
				s.bound(honest, Binding{Anchor: here, Until: noon.Add(61 * time.Second)})
			} else if n := s.table.Len(); n != 0 {
				t.Errorf("%d bindings", n)
			}
		})
	}
}

func TestOnlyTheHostThatAskedIsBound(t *testing.T) {
	reply := dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60)))
	s := newSnooping(t, false)
	s.fromHost(here, local, noon, dhcpMessage(dhcp6.MessageTypeRequest, 1))
	// Another host uses the same transaction id, from its own address.
	s.fromHost(there, another, noon, dhcpMessage(dhcp6.MessageTypeRequest, 1))
	s.fromServer(local, noon, reply)
	s.bound(honest, Binding{Anchor: here, Until: noon.Add(time.Minute)})

	// An answer to another client identifier, and one that comes too late.
	s = newSnooping(t, false)
	s.fromHost(here, local, noon, dhcpMessage(dhcp6.MessageTypeRequest, 1))
	foreign := slices.Clone(reply)
	foreign[len(client)+7]++ // the last byte of the DUID
	s.fromServer(local, noon, foreign)
	s.unbound(honest)
	s.fromServer(local, noon.Add(maxDHCPResponse), reply)
	s.unbound(honest)

	// An answer without a question.
	s = newSnooping(t, false)
	s.fromServer(local, noon, reply)
	s.unbound(honest)
}

func TestReleaseAndDeclineEndTheOwnBindingOnly(t *testing.T) {
	for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeRelease, dhcp6.MessageTypeDecline} {
		s := newSnooping(t, false)
		b := Binding{Anchor: here, Until: noon.Add(time.Hour)}
		if err := s.table.Bind(honest, b); err != nil {
			t.Fatal(err)
		}
		s.fromHost(there, another, noon, dhcpMessage(typ, 1, iaNA(iaAddr(honest, 0))))
		s.bound(honest, b)
		s.fromHost(here, local, noon, dhcpMessage(typ, 1, iaNA(iaAddr(honest, 0))))
		s.unbound(honest)
	}
}

func TestARecoveryAsksHostsThenTheServer(t *testing.T) {
	start := func(query bool) snooping {
		s := newSnooping(t, query)
		s.Data(honest, here, noon)
		return s
	}
	probe, ask := Action{Probe, honest, here}, Action{Query, honest, here}
	half := detectionTimeout / detectionProbes
	leased := ClientData{Addrs: []Leased{{honest, time.Minute}}, MAC: myMAC}

	t.Run("nothing is recovered where nobody can be asked", func(t *testing.T) {
		s := start(false)
		s.actions()
	})
	t.Run("leased", func(t *testing.T) {
		s := start(true)
		s.actions(probe)
		s.Data(honest, here, noon) // once is enough
		s.actions()
		s.Tick(noon.Add(half))
		s.actions(probe)
		s.Tick(noon.Add(2 * half))
		s.actions(ask)
		s.Answer(leased, noon.Add(time.Second))
		s.bound(honest, Binding{Anchor: here, Until: noon.Add(61 * time.Second)})
	})
	t.Run("another host has it", func(t *testing.T) {
		s := start(true)
		s.Advertised(honest, there)
		s.Tick(noon.Add(half))
		s.Tick(noon.Add(2 * half))
		s.actions(probe)
		s.unbound(honest)
	})
	t.Run("leased to another link-layer address", func(t *testing.T) {
		s := start(true)
		s.Tick(noon.Add(half))
		s.Tick(noon.Add(2 * half))
		s.Answer(ClientData{Addrs: leased.Addrs, MAC: otherMAC}, noon)
		s.unbound(honest)
	})
	t.Run("not leased", func(t *testing.T) {
		s := start(true)
		s.Tick(noon.Add(half))
		s.Tick(noon.Add(2 * half))
		s.Answer(ClientData{Addrs: []Leased{{honest, 0}}}, noon)
		s.unbound(honest)
	})
	t.Run("an answer that nobody asked for", func(t *testing.T) {
		s := start(true)
		s.Answer(leased, noon)
		s.unbound(honest)
	})
	t.Run("the server does not answer", func(t *testing.T) {
		s := start(true)
		s.Tick(noon.Add(half))
		s.Tick(noon.Add(2 * half))
		s.Tick(noon.Add(2*half + maxLeaseQuery))
		s.Answer(leased, noon.Add(time.Minute))
		s.unbound(honest)
	})
	t.Run("the table knows of the lease", func(t *testing.T) {
		s := newSnooping(t, false)
		until := noon.Add(time.Hour)
		if err := s.table.Bind(honest, Binding{AnyVLAN: true, Until: until}); err != nil {
			t.Fatal(err)
		}
		s.Data(honest, here, noon)
		s.Tick(noon.Add(half))
		s.Tick(noon.Add(2 * half))
		s.bound(honest, Binding{Anchor: here, Until: until})
	})
}

func TestAConfirmedHostIsBoundWhereItIs(t *testing.T) {
	s := newSnooping(t, false)
	until := noon.Add(time.Hour)
	if err := s.table.Bind(honest, Binding{Anchor: here, Until: until}); err != nil {
		t.Fatal(err)
	}
	moved := Anchor{otherPort, 0, myMAC}
	s.fromHost(moved, local, noon, dhcpMessage(dhcp6.MessageTypeConfirm, 1, iaNA(iaAddr(honest, 60))))
	s.fromServer(local, noon, dhcpMessage(dhcp6.MessageTypeReply, 1))
	s.actions(Action{Probe, honest, moved})
	s.Tick(noon.Add(detectionTimeout / 2))
	s.bound(honest, Binding{Anchor: here, Until: until}) // not before it is known that nobody else has it
	s.Tick(noon.Add(detectionTimeout))
	s.bound(honest, Binding{Anchor: moved, Until: until})
}

// RFC 7513 §11.1 (security considerations): a host that sends ever more messages,
// or uses ever more addresses, keeps only its own port from being served.
func TestAFloodFromOnePortStaysThere(t *testing.T) {
	s := newSnooping(t, true)
	b := Binding{Anchor: here, Until: noon.Add(time.Hour)}
	if err := s.table.Bind(honest, b); err != nil {
		t.Fatal(err)
	}
	limited := 0
	for i := range 100_000 {
		host := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		if s.FromHost(there, host, dhcpMessage(dhcp6.MessageTypeRequest, byte(i)), noon.Add(time.Duration(i)*time.Microsecond)) == Limited {
			limited++
		}
		s.Data(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 14: byte(i >> 8), 15: byte(i)}), there, noon)
	}
	if limited < 99_000 || len(s.exchanges) > maxExchanges || len(s.recoveries) > maxRecoveries {
		t.Errorf("%d messages were limited; %d exchanges, %d recoveries", limited, len(s.exchanges), len(s.recoveries))
	}
	s.bound(honest, b)
	s.fromHost(here, local, noon, dhcpMessage(dhcp6.MessageTypeRenew, 9))
	s.fromServer(local, noon, dhcpMessage(dhcp6.MessageTypeReply, 9, iaNA(iaAddr(honest, 7200))))
	s.bound(honest, Binding{Anchor: here, Until: noon.Add(2 * time.Hour)})
	s.Actions()
	s.Tick(noon.Add(time.Hour))
	if len(s.exchanges) != 0 {
		t.Errorf("%d exchanges are left", len(s.exchanges))
	}
}

// FuzzSnooper feeds messages of hosts and servers to a snooper: it never panics,
// never binds but by an answer, and stays within its limits.
func FuzzSnooper(f *testing.F) {
	f.Add(dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(iaAddr(honest, 60))))
	f.Add(dhcpMessage(dhcp6.MessageTypeSolicit, 1, dhcpOption(dhcp6.OptionRapidCommit)), dhcpMessage(dhcp6.MessageTypeReply, 1, iaNA(statusOption(2), iaAddr(honest, 60, statusOption(0)))))
	f.Add(dhcpMessage(dhcp6.MessageTypeConfirm, 1, iaNA(iaAddr(honest, 60))), dhcpMessage(dhcp6.MessageTypeReply, 1, dhcpOption(dhcp6.OptionIATA, []byte{0, 0, 0, 1}, iaAddr(honest, 60))))
	f.Add(dhcpMessage(dhcp6.MessageTypeRequest, 1), dhcpMessage(dhcp6.MessageTypeReply, 1, iaPD(iaPrefix(delegated, 60))))
	f.Add([]byte{3, 0, 0, 1, 0, 1, 0, 200}, []byte{7, 0, 0, 1, 0, 3, 0, 2, 0, 0})
	f.Fuzz(func(t *testing.T, host, server []byte) {
		s := NewSnooper(NewTable(0, nil), true)
		r := s.FromHost(here, local, host, noon)
		if r != Valid && r != Malformed {
			t.Fatalf("the first message is %s", r)
		}
		if s.table.Len() != 0 {
			t.Fatal("a host has bound itself")
		}
		asked := len(s.exchanges) > 0
		err := s.FromServer(local, server, noon)
		if n := s.table.Len(); n > maxAddrs || n > 0 && (!asked || err != nil && err != errDHCPv6) {
			t.Fatalf("%d bindings; asked: %v; %v", n, asked, err)
		}
		s.table.Each(func(a netip.Addr, b Binding) bool {
			if !isBindable(a) || b.Anchor != here || !b.Until.After(noon) {
				t.Fatalf("%s is bound: %+v", a, b)
			}
			return true
		})
		s.Tick(noon.Add(time.Hour))
		if len(s.Actions()) > maxRecoveries {
			t.Fatal("more is asked than may be")
		}
	})
}

func FuzzClientData(f *testing.F) {
	f.Add(slices.Concat(iaAddr(honest, 60), dhcpOption(dhcp6.OptionClientLinkLayerAddr, []byte{0, 1}, myMAC[:])))
	f.Add(iaAddr(honest, 60, statusOption(2)))
	f.Add(iaPrefix(delegated, 60))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseClientData(b)
		if err == nil && len(d.Addrs) > maxAddrs {
			t.Fatalf("%d addresses", len(d.Addrs))
		}
		for _, l := range d.Addrs {
			if _, ok := PrefixOf(l.Addr); !ok && l.Addr.IsMulticast() {
				t.Fatalf("%s is leased", l.Addr)
			}
		}
	})
}
