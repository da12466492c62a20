package eidauth

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"brightgid/idcodec"
)

var (
	inner = netip.MustParseAddr("fe80::1")
	outer = netip.MustParseAddr("2001:db8::1")
	rogue = netip.MustParseAddr("2001:db8::bad")

	duidLL  = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 7}
	duidLLT = []byte{0, 1, 0, 1, 9, 9, 9, 9, 2, 0, 0, 0, 0, 7}
	mac     = []byte{2, 0, 0, 0, 0, 7}
)

func chain(t *testing.T, sources ...Source) *Chain {
	t.Helper()
	return NewChain([]netip.Addr{inner, outer}, sources...)
}

func relaySource(t *testing.T, options ...RelayOption) Source {
	t.Helper()
	s, err := NewRelaySource(options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRelayOptionsMakeEIDs(t *testing.T) {
	full := Relay{
		Addr: outer, SubscriberID: []byte("line 7"), RemoteID: []byte{0, 0, 0x11, 0x8b, 'A', 'L'},
		InterfaceID: []byte("eth1"), ClientLinkLayer: []byte{0, 1, 2, 0, 0, 0, 0, 7},
	}
	for _, c := range []struct {
		options []RelayOption
		relay   Relay
		want    string
	}{
		{RelayOptions, full, "subscriber:line%207"},
		{[]RelayOption{RemoteID}, full, "relay:4491.AL"},
		{[]RelayOption{InterfaceID}, full, "port:2001:db8::1/eth1"},
		{[]RelayOption{ClientLinkLayer}, full, "lladdr:1.020000000007"},
		{RelayOptions, Relay{Addr: outer, RADIUS: []byte("\x01\x07alice\x19\x03c")}, "radius:alice"},
		{RelayOptions, Relay{Addr: outer, RADIUS: []byte("\x01\x07alice\x59\x04c7")}, "radius:c7"},
		{RelayOptions, Relay{Addr: outer, RADIUS: []byte("\x59\x03\x00\x01\x07alice")}, "radius:alice"},
		{RelayOptions, Relay{Addr: outer, RADIUS: []byte("\x19\x03c"), InterfaceID: []byte("eth1")}, "port:2001:db8::1/eth1"},
		{RelayOptions, Relay{Addr: outer, InterfaceID: []byte("eth1")}, "port:2001:db8::1/eth1"},
	} {
		id, err := chain(t, relaySource(t, c.options...)).Authenticate(&Client{DUID: duidLL, Relays: []Relay{c.relay}})
		if err != nil || id.MakeEID().Reveal() != c.want {
			t.Errorf("%v: %q, %v; want %q", c.options, id.MakeEID().Reveal(), err, c.want)
		}
	}
}

// A client's place is used again for the next; of who is known no EID is made.
func TestWhoARelayNamesCostsNoAllocation(t *testing.T) {
	c := chain(t, relaySource(t, RemoteID, InterfaceID, ClientLinkLayer))
	relays := []Relay{
		{Addr: outer, RemoteID: []byte("\x00\x00\x11\x8bAL")},
		{Addr: outer, InterfaceID: []byte("eth1")},
		{Addr: outer, ClientLinkLayer: []byte{0, 1, 2, 0, 0, 0, 0, 7}},
	}
	want := []string{"relay:4491.AL", "port:2001:db8::1/eth1", "lladdr:1.020000000007"}
	hasher := idcodec.NewLookupHasher([idcodec.RegistryKeyLen]byte{1})
	client := Client{DUID: duidLL}
	one := make([]Relay, 1)
	key := func(i int) idcodec.LookupKey {
		one[0] = relays[i]
		client.Relays = one
		id, err := c.Authenticate(&client)
		if err != nil {
			t.Fatal(err)
		}
		return hasher.OpaqueKey(id.Opaque)
	}
	for range 2 {
		for i := range relays {
			eid, err := idcodec.ParseEID(want[i])
			if err != nil {
				t.Fatal(err)
			}
			if key(i) != hasher.Key(eid) {
				t.Errorf("relay %d names another than %s", i, want[i])
			}
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		for i := range relays {
			key(i)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMalformedRelayOptionsAuthenticateNobody(t *testing.T) {
	for name, r := range map[string]Relay{
		"empty Subscriber-ID": {Addr: outer, SubscriberID: []byte{}},
		"short Remote-ID":     {Addr: outer, RemoteID: []byte{0, 0, 0, 1}},
		"empty Interface-ID":  {Addr: outer, InterfaceID: []byte{}},
		"short link layer":    {Addr: outer, ClientLinkLayer: []byte{0, 1}},
		"long Subscriber-ID":  {Addr: outer, SubscriberID: []byte(strings.Repeat("x", 300))},
		"torn RADIUS":         {Addr: outer, RADIUS: []byte("\x01\x07ali")},
		"RADIUS of no length": {Addr: outer, RADIUS: []byte("\x01\x00alice")},
		"no option":           {Addr: outer},
	} {
		if id, err := chain(t, relaySource(t, RelayOptions...)).Authenticate(&Client{DUID: duidLL, Relays: []Relay{r}}); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v, %v; want ErrUnknown", name, id, err)
		}
	}
}

// A client may send a Relay-forward of its own, and anybody may send one to the
// server.
func TestOnlyTrustedRelaysSpeakForSubscribers(t *testing.T) {
	table, err := NewTable([]Entry{{DUID: duidLL, Identity: identity(t, "static:alice")}})
	if err != nil {
		t.Fatal(err)
	}
	c := chain(t, relaySource(t, RelayOptions...), table)
	victim := []byte("victim")
	for _, tc := range []struct {
		name   string
		relays []Relay // from the client outwards
		want   string
		err    error
	}{
		{"a stranger as the only relay", []Relay{{Addr: rogue, SubscriberID: victim}}, "", ErrUntrustedRelay},
		{"a stranger outside a trusted relay", []Relay{{Addr: inner, SubscriberID: victim}, {Addr: rogue}}, "", ErrUntrustedRelay},
		{"a stranger inside a trusted relay", []Relay{{Addr: rogue, SubscriberID: victim}, {Addr: outer, SubscriberID: []byte("line")}}, "subscriber:line", nil},
		{"a stranger inside one that says nothing", []Relay{{Addr: rogue, SubscriberID: victim}, {Addr: outer}}, "static:alice", nil},
		{"trust behind a stranger", []Relay{{Addr: inner, SubscriberID: victim}, {Addr: rogue}, {Addr: outer, InterfaceID: []byte("p")}}, "port:2001:db8::1/p", nil},
		{"two trusted, the nearer is heard", []Relay{{Addr: inner, SubscriberID: []byte("near")}, {Addr: outer, SubscriberID: []byte("far")}}, "subscriber:near", nil},
		{"two trusted, only the outer says it", []Relay{{Addr: inner}, {Addr: outer, SubscriberID: []byte("far")}}, "subscriber:far", nil},
		{"a link-layer address from beyond", []Relay{{Addr: inner}, {Addr: outer, ClientLinkLayer: []byte{0, 1, 1, 2, 3, 4, 5, 6}}}, "static:alice", nil},
	} {
		id, err := c.Authenticate(&Client{DUID: duidLL, Relays: tc.relays})
		if !errors.Is(err, tc.err) || id.MakeEID().Reveal() != tc.want {
			t.Errorf("%s: %q, %v; want %q, %v", tc.name, id.MakeEID().Reveal(), err, tc.want, tc.err)
		}
	}
}

func identity(t *testing.T, s string) Identity {
	t.Helper()
	e, err := idcodec.ParseEID(s)
	if err != nil {
		t.Fatal(err)
	}
	return Identity{EID: e}
}

func TestTable(t *testing.T) {
	table, err := NewTable([]Entry{
		{DUID: []byte{0, 4, 1, 2, 3}, Identity: identity(t, "static:by-duid")},
		{LinkLayer: mac, Identity: identity(t, "static:by-mac")},
	})
	if err != nil {
		t.Fatal(err)
	}
	relayed := func(ll []byte) []Relay { return []Relay{{Addr: outer, ClientLinkLayer: ll}} }
	for _, c := range []struct {
		name   string
		client Client
		want   string
	}{
		{"a DUID", Client{DUID: []byte{0, 4, 1, 2, 3}}, "static:by-duid"},
		{"a DUID-LL", Client{DUID: duidLL}, "static:by-mac"},
		{"a DUID-LLT", Client{DUID: duidLLT}, "static:by-mac"},
		{"what the relay saw", Client{DUID: []byte{0, 4, 9}, Relays: relayed([]byte{0, 1, 2, 0, 0, 0, 0, 7})}, "static:by-mac"},
		{"a DUID's claim behind a relay that saw nothing", Client{DUID: duidLL, Relays: relayed(nil)}, ""},
		{"a DUID's claim against what the relay saw", Client{DUID: duidLL, Relays: relayed([]byte{0, 1, 2, 0, 0, 0, 0, 8})}, ""},
		{"a stranger", Client{DUID: []byte{0, 4, 9}}, ""},
		{"no DUID", Client{}, ""},
	} {
		id, err := table.Authenticate(&c.client)
		if (err == nil) != (c.want != "") || id.EID.Reveal() != c.want || err != nil && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %q, %v; want %q", c.name, id.EID.Reveal(), err, c.want)
		}
	}
}

func TestTableRefuses(t *testing.T) {
	id := identity(t, "static:a")
	for name, entries := range map[string][]Entry{
		"no key":      {{Identity: id}},
		"two keys":    {{DUID: duidLL, LinkLayer: mac, Identity: id}},
		"no identity": {{DUID: duidLL}},
		"two of them": {{DUID: duidLL, Identity: Identity{EID: id.EID, Sealed: &Sealed{}}}},
		"key twice":   {{DUID: duidLL, Identity: id}, {DUID: duidLL, Identity: id}},
	} {
		if _, err := NewTable(entries); err == nil {
			t.Errorf("%s: NewTable succeeded", name)
		}
	}
}

func TestPendingStopsTheChain(t *testing.T) {
	c := NewChain(nil, pending{}, func() Source {
		table, _ := NewTable([]Entry{{DUID: duidLL, Identity: identity(t, "static:a")}})
		return table
	}())
	if _, err := c.Authenticate(&Client{DUID: duidLL}); !errors.Is(err, ErrPending) {
		t.Errorf("%v, want ErrPending: a later source must not overtake one that is asking", err)
	}
}

type pending struct{}

func (pending) Authenticate(*Client) (Identity, error) { return Identity{}, ErrPending }
