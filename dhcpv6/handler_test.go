package dhcpv6

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/pebblestore"
)

// The tests build and read messages with insomniacslk/dhcp, an implementation
// that shares no code with this one.

var (
	noon      = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	serverID  = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1}
	linkLocal = netip.MustParseAddr("fe80::1234")
	relayAddr = netip.MustParseAddr("2001:db8:ffff::1")
	prefixA   = netip.MustParsePrefix("2001:db8:1::/64")
	prefixB   = netip.MustParsePrefix("2001:db8:2::/64")
	prefixC   = netip.MustParsePrefix("2001:db8:3::/64")
)

type lab struct {
	t     testing.TB
	h     *Handler
	store lease.Store
	alloc *lease.Allocator
	keys  *idcodec.Keyring
	stats *Stats
	now   time.Time
	log   *strings.Builder
}

func mac(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }

func duidOf(n byte) dhcp6.DUID {
	return &dhcp6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac(n)}
}

func testPolicy() lease.Policy {
	return lease.Policy{Preferred: time.Hour, Valid: 2 * time.Hour, MaxAge: 36 * time.Hour, DeclineHold: 24 * time.Hour, PerSubscriber: 8}
}

// newLab has subscribers alice (MAC …01) and bob (MAC …02) in its table, a link
// "lan" with two prefixes on eth1, and a link "far" behind relays.
func newLab(t testing.TB, change func(*Config)) *lab {
	t.Helper()
	store, err := pebblestore.Open(t.TempDir(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	rng := rand.NewChaCha8([32]byte{1})
	keys, err := idcodec.NewKeyring(rng, idcodec.DefaultEpochLength, 20000)
	if err != nil {
		t.Fatal(err)
	}
	escrow, _, err := idcodec.Deal(rng, 1, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	var entries []eidauth.Entry
	for i, name := range []string{"alice", "bob"} {
		eid, err := idcodec.ParseEID("static:" + name)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, eidauth.Entry{LinkLayer: mac(byte(i + 1)), Identity: eidauth.Identity{EID: eid}})
	}
	table, err := eidauth.NewTable(entries)
	if err != nil {
		t.Fatal(err)
	}
	relays, err := eidauth.NewRelaySource(eidauth.RelayOptions...)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		ServerID: serverID,
		Links: []Link{
			{Name: "lan", Interface: "eth1", Prefixes: []idcodec.Prefix{prefixOf(prefixA), prefixOf(prefixB)}},
			{Name: "far", Prefixes: []idcodec.Prefix{prefixOf(prefixC)}, RelayLinks: []netip.Addr{netip.MustParseAddr("2001:db8:fffe::7")}},
		},
		DNS:    []netip.Addr{netip.MustParseAddr("2001:db8::53")},
		Search: []string{"isp.example", "example.net."},
	}
	if change != nil {
		change(&cfg)
	}
	l := &lab{t: t, store: store, keys: keys, stats: new(Stats), now: noon, log: new(strings.Builder)}
	l.alloc = lease.NewAllocator(store, keys, testPolicy())
	sealer := idcodec.NewSealer(rng, escrow, "isp.example", 0)
	reg := lease.NewRegistrar(store, [32]byte{7}, sealer)
	auth := eidauth.NewChain([]netip.Addr{relayAddr}, relays, table)
	l.h, err = NewHandler(cfg, auth, reg, l.alloc, l.stats, slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func prefixOf(p netip.Prefix) idcodec.Prefix { return idcodec.PrefixOf(p.Addr()) }

// raw hands bytes to the handler as if a client on eth1 had sent them.
func (l *lab) raw(data []byte) ([]byte, Drop) {
	reply, to, drop := l.h.Handle(l.now, &Packet{
		Data: data, Src: netip.AddrPortFrom(linkLocal, 546), Multicast: true, Interface: "eth1"}, nil)
	if drop == 0 && to != netip.AddrPortFrom(linkLocal, 546) {
		l.t.Errorf("the answer goes to %s", to)
	}
	return reply, drop
}

// ask hands a message to the handler and parses the answer.
func (l *lab) ask(m *dhcp6.Message) *dhcp6.Message {
	l.t.Helper()
	reply, drop := l.raw(m.ToBytes())
	if drop != 0 {
		l.t.Fatalf("%s: dropped as %s", m.MessageType, drop)
	}
	out, err := dhcp6.MessageFromBytes(reply)
	if err != nil {
		l.t.Fatalf("%s: the answer cannot be read: %v", m.MessageType, err)
	}
	if out.TransactionID != m.TransactionID {
		l.t.Errorf("%s: transaction %s answered as %s", m.MessageType, m.TransactionID, out.TransactionID)
	}
	if sid := out.Options.ServerID(); sid == nil || !bytes.Equal(sid.ToBytes(), serverID) {
		l.t.Errorf("%s: the answer's server identifier is %v", m.MessageType, sid)
	}
	if c, o := m.Options.ClientID(), out.Options.ClientID(); c != nil && (o == nil || !c.Equal(o)) {
		l.t.Errorf("%s: the answer's client identifier is %v", m.MessageType, o)
	}
	return out
}

// dropped hands a message to the handler, which must not answer.
func (l *lab) dropped(m *dhcp6.Message, want Drop) {
	l.t.Helper()
	before := l.stats.Dropped[want].Load()
	if reply, drop := l.raw(m.ToBytes()); drop != want || reply != nil {
		l.t.Errorf("%s: %s, want %s", m.MessageType, drop, want)
	}
	if l.stats.Dropped[want].Load() != before+1 {
		l.t.Errorf("%s: the drop as %s is not counted once", m.MessageType, want)
	}
}

// msg builds a client's message. MAC …n is the client; n = 0 is none.
func msg(typ dhcp6.MessageType, n byte, options ...dhcp6.Option) *dhcp6.Message {
	m := &dhcp6.Message{MessageType: typ, TransactionID: dhcp6.TransactionID{1, 2, n}}
	if n != 0 {
		m.AddOption(dhcp6.OptClientID(duidOf(n)))
	}
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

func toServer() dhcp6.Option {
	d, err := dhcp6.DUIDFromBytes(serverID)
	if err != nil {
		panic(err)
	}
	return dhcp6.OptServerID(d)
}

func iana1(iaid uint32, addrs ...netip.Addr) *dhcp6.OptIANA {
	o := &dhcp6.OptIANA{}
	binary.BigEndian.PutUint32(o.IaId[:], iaid)
	for _, a := range addrs {
		o.Options.Add(&dhcp6.OptIAAddress{IPv6Addr: a.AsSlice()})
	}
	return o
}

type granted struct {
	addr             netip.Addr
	preferred, valid time.Duration
}

// addresses returns what an answer's only IA_NA holds.
func addresses(t testing.TB, m *dhcp6.Message) []granted {
	t.Helper()
	ias := m.Options.IANA()
	if len(ias) != 1 {
		t.Fatalf("%d IA_NA options, want 1: %s", len(ias), m.Summary())
	}
	if s := ias[0].Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		t.Fatalf("IA_NA has status %s: %s", s.StatusCode, s.StatusMessage)
	}
	var out []granted
	for _, a := range ias[0].Options.Addresses() {
		addr, _ := netip.AddrFromSlice(a.IPv6Addr)
		out = append(out, granted{addr, a.PreferredLifetime, a.ValidLifetime})
	}
	return out
}

func iaStatus(t testing.TB, m *dhcp6.Message) iana.StatusCode {
	t.Helper()
	ias := m.Options.IANA()
	if len(ias) != 1 || ias[0].Options.Status() == nil {
		t.Fatalf("want one IA_NA with a status: %s", m.Summary())
	}
	if len(ias[0].Options.Addresses()) > 0 {
		t.Errorf("an IA_NA with a status holds addresses: %s", m.Summary())
	}
	if ias[0].Options.Status().StatusMessage == "" {
		t.Error("a status without a text")
	}
	return ias[0].Options.Status().StatusCode
}

// lease takes a client through the four messages.
func (l *lab) lease(n byte, iaid uint32) []granted {
	l.t.Helper()
	adv := l.ask(msg(dhcp6.MessageTypeSolicit, n, iana1(iaid)))
	if adv.MessageType != dhcp6.MessageTypeAdvertise {
		l.t.Fatalf("a Solicit is answered by %s", adv.MessageType)
	}
	req := iana1(iaid)
	for _, a := range addresses(l.t, adv) {
		req.Options.Add(&dhcp6.OptIAAddress{IPv6Addr: a.addr.AsSlice()})
	}
	rep := l.ask(msg(dhcp6.MessageTypeRequest, n, toServer(), req))
	if rep.MessageType != dhcp6.MessageTypeReply {
		l.t.Fatalf("a Request is answered by %s", rep.MessageType)
	}
	return addresses(l.t, rep)
}

func addrsOf(g []granted) (out []netip.Addr) {
	for _, a := range g {
		out = append(out, a.addr)
	}
	return out
}

// subscriberOf decodes an address with the key of the time's epoch.
func (l *lab) subscriberOf(a netip.Addr) uint64 {
	l.t.Helper()
	e, _ := l.keys.EpochAt(l.now)
	k, err := l.keys.Key(e)
	if err != nil {
		l.t.Fatal(err)
	}
	n, _, err := k.Decode(idcodec.PrefixOf(a), idcodec.GIDOf(a))
	if err != nil {
		l.t.Fatalf("%s is no GID of now: %v", a, err)
	}
	return n
}

func TestFourMessagesLeaseAGIDInEachPrefix(t *testing.T) {
	l := newLab(t, nil)
	got := l.lease(1, 7)
	if len(got) != 2 || !prefixA.Contains(got[0].addr) || !prefixB.Contains(got[1].addr) {
		t.Fatalf("leased %v, want one address in each prefix", got)
	}
	for _, g := range got {
		if g.preferred != time.Hour || g.valid != 2*time.Hour {
			t.Errorf("lifetimes %s and %s", g.preferred, g.valid)
		}
		if n := l.subscriberOf(g.addr); n != 0 {
			t.Errorf("%s belongs to subscriber %d, want the first", g.addr, n)
		}
		stored, err := l.store.Lease(g.addr)
		if err != nil || !stored.Live(noon) || stored.Client.IAID != 7 || !bytes.Equal(stored.Anchor.LinkLayer, mac(1)) {
			t.Errorf("stored %+v, %v", stored, err)
		}
	}
	if bob := l.lease(2, 7); l.subscriberOf(bob[0].addr) != 1 {
		t.Errorf("the second subscriber's address %s belongs to %d", bob[0].addr, l.subscriberOf(bob[0].addr))
	}
}

func TestAnAdvertiseStoresNoLease(t *testing.T) {
	l := newLab(t, nil)
	adv := addresses(t, l.ask(msg(dhcp6.MessageTypeSolicit, 1, iana1(1))))
	if _, err := l.store.Lease(adv[0].addr); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("an advertised address is leased: %v", err)
	}
	if again := l.lease(1, 1); again[0].addr != adv[0].addr {
		t.Errorf("advertised %s, leased %s", adv[0].addr, again[0].addr)
	}
}

func TestTheSameDUIDAndIAIDKeepsItsAddress(t *testing.T) {
	l := newLab(t, nil)
	first := addrsOf(l.lease(1, 1))
	second := addrsOf(l.lease(1, 2))
	if slices.Equal(first, second) {
		t.Errorf("two IAs share %v", first)
	}
	for range 5 {
		l.now = l.now.Add(20 * time.Minute)
		if got := addrsOf(l.lease(1, 1)); !slices.Equal(got, first) {
			t.Errorf("at %s: %v, first %v", l.now.Format(time.TimeOnly), got, first)
		}
	}
}

func TestSeveralIAsInOneMessage(t *testing.T) {
	l := newLab(t, nil)
	rep := l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), iana1(2), iana1(3)))
	seen := make(map[string]bool)
	for _, ia := range rep.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			seen[a.IPv6Addr.String()] = true
		}
	}
	if len(rep.Options.IANA()) != 3 || len(seen) != 6 {
		t.Errorf("%d IAs with %d addresses, want 3 with 6", len(rep.Options.IANA()), len(seen))
	}
}

func TestRapidCommit(t *testing.T) {
	rapid := &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionRapidCommit}
	on := newLab(t, func(c *Config) { c.RapidCommit = true })
	rep := on.ask(msg(dhcp6.MessageTypeSolicit, 1, rapid, iana1(1)))
	if rep.MessageType != dhcp6.MessageTypeReply || rep.Options.GetOne(dhcp6.OptionRapidCommit) == nil {
		t.Fatalf("answered by %s", rep.Summary())
	}
	if a := addresses(t, rep)[0].addr; !live(t, on, a) {
		t.Errorf("%s is not leased", a)
	}
	if adv := on.ask(msg(dhcp6.MessageTypeSolicit, 2, iana1(1))); adv.MessageType != dhcp6.MessageTypeAdvertise {
		t.Errorf("without the option: %s", adv.MessageType)
	}
	off := newLab(t, nil)
	if adv := off.ask(msg(dhcp6.MessageTypeSolicit, 1, rapid, iana1(1))); adv.MessageType != dhcp6.MessageTypeAdvertise || adv.Options.GetOne(dhcp6.OptionRapidCommit) != nil {
		t.Errorf("not configured: %s", adv.Summary())
	}
}

func live(t *testing.T, l *lab, a netip.Addr) bool {
	t.Helper()
	got, err := l.store.Lease(a)
	return err == nil && got.Live(l.now)
}

func TestPreferenceAndSettings(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Preference = 200; c.InfoRefresh = time.Hour })
	oro := dhcp6.OptRequestedOption(dhcp6.OptionDNSRecursiveNameServer, dhcp6.OptionDomainSearchList, dhcp6.OptionInformationRefreshTime)
	adv := l.ask(msg(dhcp6.MessageTypeSolicit, 1, oro, iana1(1)))
	if p := adv.Options.GetOne(dhcp6.OptionPreference); p == nil || p.ToBytes()[0] != 200 {
		t.Errorf("preference %v", p)
	}
	info := l.ask(msg(dhcp6.MessageTypeInformationRequest, 0, oro))
	for name, m := range map[string]*dhcp6.Message{"Advertise": adv, "Reply": info} {
		if dns := m.Options.DNS(); len(dns) != 1 || dns[0].String() != "2001:db8::53" {
			t.Errorf("%s: DNS %v", name, dns)
		}
		if s := m.Options.DomainSearchList(); s == nil || !slices.Equal(s.Labels, []string{"isp.example", "example.net"}) {
			t.Errorf("%s: search list %v", name, s)
		}
	}
	if r := info.Options.GetOne(dhcp6.OptionInformationRefreshTime); r == nil {
		t.Error("no information refresh time")
	}
	if info.Options.ClientID() != nil {
		t.Error("a client identifier that was not sent comes back")
	}
	if quiet := l.ask(msg(dhcp6.MessageTypeInformationRequest, 1)); len(quiet.Options.DNS()) != 0 || quiet.Options.DomainSearchList() != nil {
		t.Errorf("settings that were not asked for: %s", quiet.Summary())
	}
}

// Some options go to who does not ask for them, too, whatever has set them, and once.
func TestOptionsThatAreAlwaysSent(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.Options = []Option{{Code: 4242, Data: []byte("all")}, {Code: 4243, Data: []byte("asked")}}
		c.Links[0].Options = []Option{{Code: 4242, Data: []byte("link")}}
		c.Classes = []Class{{Name: "phones", Option: 16, How: Equals, Value: []byte("phone"), Options: []Option{{Code: 4242, Data: []byte("class")}}}}
		c.Always = []uint16{4242, uint16(dhcp6.OptionDNSRecursiveNameServer), 9999}
	})
	for name, m := range map[string]*dhcp6.Message{
		"link":  msg(dhcp6.MessageTypeSolicit, 1, iana1(1)),
		"class": msg(dhcp6.MessageTypeInformationRequest, 1, &dhcp6.OptionGeneric{OptionCode: 16, OptionData: []byte("phone")}),
	} {
		rep := l.ask(m)
		if all := rep.Options.Get(4242); len(all) != 1 || string(all[0].ToBytes()) != name {
			t.Errorf("%s: always sent is %v", name, all)
		}
		if rep.Options.GetOne(4243) != nil || rep.Options.GetOne(9999) != nil || rep.Options.DomainSearchList() != nil || len(rep.Options.DNS()) != 1 {
			t.Errorf("%s: %s", name, rep.Summary())
		}
	}
	asks := l.ask(msg(dhcp6.MessageTypeSolicit, 1, dhcp6.OptRequestedOption(4242, 4243), iana1(1)))
	if len(asks.Options.Get(4242)) != 1 || asks.Options.GetOne(4243) == nil {
		t.Errorf("who asks gets %s", asks.Summary())
	}
}

func TestTimersFollowThePreferredLifetime(t *testing.T) {
	timers := func(l *lab) string {
		ia := l.ask(msg(dhcp6.MessageTypeSolicit, 1, iana1(1))).Options.OneIANA()
		return fmt.Sprint(ia.T1, " ", ia.T2)
	}
	if got := timers(newLab(t, nil)); got != "30m0s 48m0s" {
		t.Errorf("T1 and T2 are %s", got)
	}
	if got := timers(newLab(t, func(c *Config) { c.T1, c.T2 = time.Minute, 2*time.Hour })); got != "1m0s 1h0m0s" {
		t.Errorf("configured T1 and T2 are %s", got)
	}
}

func TestAnUnauthenticatedClientGetsNoAddress(t *testing.T) {
	l := newLab(t, nil)
	for _, m := range []*dhcp6.Message{
		msg(dhcp6.MessageTypeSolicit, 9, iana1(1)),
		msg(dhcp6.MessageTypeRequest, 9, toServer(), iana1(1)),
	} {
		if s := iaStatus(t, l.ask(m)); s != iana.StatusNoAddrsAvail {
			t.Errorf("%s: %s, want NoAddrsAvail", m.MessageType, s)
		}
	}
	for _, m := range []*dhcp6.Message{
		msg(dhcp6.MessageTypeRenew, 9, toServer(), iana1(1)),
		msg(dhcp6.MessageTypeRebind, 9, iana1(1)),
	} {
		if s := iaStatus(t, l.ask(m)); s != iana.StatusNoBinding {
			t.Errorf("%s: %s, want NoBinding", m.MessageType, s)
		}
	}
	if l.store.Subscribers() != 0 {
		t.Error("a stranger is registered")
	}
}

func TestRenewAndRebindExtend(t *testing.T) {
	l := newLab(t, nil)
	first := l.lease(1, 1)
	for i, m := range []func(dhcp6.Option) *dhcp6.Message{
		func(ia dhcp6.Option) *dhcp6.Message { return msg(dhcp6.MessageTypeRenew, 1, toServer(), ia) },
		func(ia dhcp6.Option) *dhcp6.Message { return msg(dhcp6.MessageTypeRebind, 1, ia) },
	} {
		l.now = l.now.Add(45 * time.Minute)
		got := addresses(t, l.ask(m(iana1(1, addrsOf(first)...))))
		if !slices.Equal(addrsOf(got), addrsOf(first)) || got[0].valid != 2*time.Hour {
			t.Errorf("%d: extended to %v, had %v", i, got, first)
		}
		if stored, err := l.store.Lease(first[0].addr); err != nil || !stored.ValidUntil.Equal(l.now.Add(2*time.Hour)) || !stored.Start.Equal(noon) {
			t.Errorf("%d: stored %+v, %v", i, stored, err)
		}
	}
}

func TestRenewOfWhatIsNotTheClients(t *testing.T) {
	l := newLab(t, nil)
	alice, bob := l.lease(1, 1), l.lease(2, 1)
	renew := func(ia dhcp6.Option) *dhcp6.Message {
		return l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), ia))
	}
	if s := iaStatus(t, renew(iana1(99))); s != iana.StatusNoBinding {
		t.Errorf("an IA that was never leased: %s, want NoBinding", s)
	}
	strange := netip.MustParseAddr("2001:db8:99::1")
	got := addresses(t, renew(iana1(1, append(addrsOf(alice), bob[0].addr, strange)...)))
	lifetimes := make(map[netip.Addr]time.Duration)
	for _, g := range got {
		lifetimes[g.addr] = g.valid
	}
	if len(got) != 4 || lifetimes[alice[0].addr] != 2*time.Hour || lifetimes[bob[0].addr] != 0 || lifetimes[strange] != 0 {
		t.Errorf("renewed %v; want her own, and zero for the others", got)
	}
	if got := addresses(t, renew(iana1(99, strange))); len(got) != 1 || got[0].valid != 0 {
		t.Errorf("an address of another link: %v, want lifetime 0", got)
	}
	if stored, _ := l.store.Lease(bob[0].addr); stored.Subscriber != 1 || !stored.Live(l.now) {
		t.Errorf("the other's lease is now %+v", stored)
	}
}

func TestAnEpochsEndInTheMiddleOfAnExchange(t *testing.T) {
	l := newLab(t, nil)
	midnight := time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)
	l.now = midnight.Add(-time.Second)
	adv := addresses(t, l.ask(msg(dhcp6.MessageTypeSolicit, 1, iana1(1))))
	l.now = midnight.Add(time.Second)
	rep := addresses(t, l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1, addrsOf(adv)...))))
	if len(rep) != 2 || rep[0].addr == adv[0].addr {
		t.Fatalf("leased %v, advertised %v in the epoch before", rep, adv)
	}
	if l.subscriberOf(rep[0].addr) != 0 {
		t.Error("the lease belongs to somebody else")
	}
	if stored, err := l.store.Lease(rep[0].addr); err != nil || stored.Epoch != mustEpoch(t, l) {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

func mustEpoch(t *testing.T, l *lab) uint32 {
	t.Helper()
	e, err := l.keys.EpochAt(l.now)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnEpochsEndBetweenLeaseAndRenewal(t *testing.T) {
	l := newLab(t, nil)
	l.now = time.Date(2026, 5, 1, 23, 45, 0, 0, time.UTC)
	first := l.lease(1, 1)
	l.now = l.now.Add(30 * time.Minute) // another epoch
	got := addresses(t, l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iana1(1, addrsOf(first)...))))
	if !slices.Equal(addrsOf(got), addrsOf(first)) {
		t.Errorf("renewed %v, had %v", got, first)
	}
	// Up to its age, then the next is beside it and it runs out.
	for range 40 {
		l.now = l.now.Add(55 * time.Minute)
		got = addresses(t, l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iana1(1, addrsOf(got)...))))
		if len(got) > 2 {
			break
		}
	}
	if len(got) != 4 {
		t.Fatalf("at its maximum age: %v, want two new and two old addresses", got)
	}
	for _, g := range got {
		old := slices.Contains(addrsOf(first), g.addr)
		if old != (g.preferred == 0) || g.valid == 0 {
			t.Errorf("%s (old: %v) has lifetimes %s and %s", g.addr, old, g.preferred, g.valid)
		}
	}
	if ia := l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iana1(1))).Options.OneIANA(); ia.T1 != 30*time.Minute {
		t.Errorf("an address that runs out sets T1 to %s", ia.T1)
	}
}

func TestReleaseEndsTheLease(t *testing.T) {
	l := newLab(t, nil)
	mine := addrsOf(l.lease(1, 1))
	theirs := addrsOf(l.lease(2, 1))
	l.now = l.now.Add(time.Minute)
	rep := l.ask(msg(dhcp6.MessageTypeRelease, 1, toServer(), iana1(1, append(mine, theirs...)...)))
	if s := rep.Options.Status(); s == nil || s.StatusCode != iana.StatusSuccess {
		t.Errorf("status %v", s)
	}
	for _, a := range mine {
		if stored, err := l.store.Lease(a); err != nil || stored.State != lease.Released || !stored.ValidUntil.Equal(l.now) {
			t.Errorf("%s: %+v, %v", a, stored, err)
		}
	}
	if !live(t, l, theirs[0]) {
		t.Error("a client released another's address")
	}
	rep = l.ask(msg(dhcp6.MessageTypeRelease, 1, toServer(), iana1(42, mine...)))
	if s := iaStatus(t, rep); s != iana.StatusNoBinding {
		t.Errorf("an unknown IA: %s, want NoBinding", s)
	}
}

func TestAStrangerWithTheClientsDUIDReleasesNothing(t *testing.T) {
	l := newLab(t, nil)
	far := l.relayed(relayAddr, "line-1")
	rep, _ := far(msg(dhcp6.MessageTypeRequest, 5, toServer(), iana1(1)))
	addr := addresses(t, rep)[0].addr
	// The same DUID and IAID from another line, and from a relay nobody trusts.
	other, _ := l.relayed(relayAddr, "line-2")(msg(dhcp6.MessageTypeRelease, 5, toServer(), iana1(1, addr)))
	if s := iaStatus(t, other); s != iana.StatusNoBinding {
		t.Errorf("from another line: %s, want NoBinding", s)
	}
	rogue, _ := l.relayed(netip.MustParseAddr("2001:db8::bad"), "line-1")(msg(dhcp6.MessageTypeDecline, 5, toServer(), iana1(1, addr)))
	if s := iaStatus(t, rogue); s != iana.StatusNoBinding {
		t.Errorf("from a rogue relay: %s, want NoBinding", s)
	}
	if !live(t, l, addr) {
		t.Error("the lease is over")
	}
}

func TestADeclinedAddressIsSetAsideAndTheNextSlotLeased(t *testing.T) {
	l := newLab(t, nil)
	first := l.lease(1, 1)
	rep := l.ask(msg(dhcp6.MessageTypeDecline, 1, toServer(), iana1(1, first[0].addr)))
	if s := rep.Options.Status(); s == nil || s.StatusCode != iana.StatusSuccess {
		t.Errorf("status %v", s)
	}
	next := l.lease(1, 1)
	if next[0].addr == first[0].addr || next[1].addr != first[1].addr {
		t.Errorf("after a Decline of %s: %v", first[0].addr, next)
	}
	a, _ := l.store.Lease(first[0].addr)
	b, _ := l.store.Lease(next[0].addr)
	if a.State != lease.Declined || b.Slot != a.Slot+1 {
		t.Errorf("declined %+v, then leased %+v", a, b)
	}
}

func TestConfirmLooksAtTheLinkOnly(t *testing.T) {
	l := newLab(t, nil)
	on, off := netip.MustParseAddr("2001:db8:1::77"), netip.MustParseAddr("2001:db8:99::77")
	status := func(addrs ...netip.Addr) iana.StatusCode {
		return l.ask(msg(dhcp6.MessageTypeConfirm, 9, iana1(1, addrs...))).Options.Status().StatusCode
	}
	if s := status(on); s != iana.StatusSuccess {
		t.Errorf("on the link: %s", s)
	}
	if s := status(on, off); s != iana.StatusNotOnLink {
		t.Errorf("off the link: %s", s)
	}
	l.dropped(msg(dhcp6.MessageTypeConfirm, 9, iana1(1)), DropNothingToConfirm)
}

func TestRequestForAnAddressOffTheLink(t *testing.T) {
	l := newLab(t, nil)
	rep := l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1, netip.MustParseAddr("2001:db8:99::1"))))
	if s := iaStatus(t, rep); s != iana.StatusNotOnLink {
		t.Errorf("%s, want NotOnLink", s)
	}
}

// An IA_TA, which RFC 9915 no longer knows, is passed over as an unknown option is: what else
// the client asks for it gets.
func TestTemporaryAddressesAreNotLeased(t *testing.T) {
	l := newLab(t, nil)
	ta := &dhcp6.OptIATA{IaId: [4]byte{0, 0, 0, 1}}
	for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeSolicit, dhcp6.MessageTypeRequest} {
		m := msg(typ, 1, iana1(1), ta)
		if typ == dhcp6.MessageTypeRequest {
			m.AddOption(toServer())
		}
		rep := l.ask(m)
		if len(addresses(t, rep)) != 2 || len(rep.Options.IATA()) != 0 {
			t.Errorf("%s: %s", typ, rep.Summary())
		}
	}
	if held, err := l.store.BySubscriber(nil, 0); err != nil || len(held) != 2 {
		t.Errorf("the subscriber holds %v, %v", held, err)
	}
}

func TestPrefixDelegationIsRefusedPolitely(t *testing.T) {
	l := newLab(t, nil)
	pd := &dhcp6.OptIAPD{IaId: [4]byte{0, 0, 0, 5}}
	for typ, want := range map[dhcp6.MessageType]iana.StatusCode{
		dhcp6.MessageTypeSolicit: iana.StatusNoPrefixAvail, dhcp6.MessageTypeRequest: iana.StatusNoPrefixAvail,
		dhcp6.MessageTypeRenew: iana.StatusNoBinding, dhcp6.MessageTypeRelease: iana.StatusNoBinding,
	} {
		m := msg(typ, 1, pd)
		if typ != dhcp6.MessageTypeSolicit {
			m.AddOption(toServer())
		}
		rep := l.ask(m)
		ia := rep.Options.OneIAPD()
		if ia == nil || ia.IaId != pd.IaId || ia.Options.Status() == nil || ia.Options.Status().StatusCode != want {
			t.Errorf("%s: %s, want %s", typ, rep.Summary(), want)
		}
	}
}

// RFC 9915 §16, rule by rule.
func TestMessagesThatMustNotBeAnswered(t *testing.T) {
	l := newLab(t, nil)
	another := dhcp6.OptServerID(duidOf(99))
	for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeSolicit, dhcp6.MessageTypeConfirm, dhcp6.MessageTypeRebind} {
		l.dropped(msg(typ, 0, iana1(1)), DropNoClientID)
		l.dropped(msg(typ, 1, toServer(), iana1(1)), DropServerID)
	}
	for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeRequest, dhcp6.MessageTypeRenew, dhcp6.MessageTypeRelease, dhcp6.MessageTypeDecline} {
		l.dropped(msg(typ, 0, toServer(), iana1(1)), DropNoClientID)
		l.dropped(msg(typ, 1, iana1(1)), DropServerID)
		l.dropped(msg(typ, 1, another, iana1(1)), DropServerID)
	}
	l.dropped(msg(dhcp6.MessageTypeInformationRequest, 1, another), DropServerID)
	l.dropped(msg(dhcp6.MessageTypeInformationRequest, 1, iana1(1)), DropUnexpectedIA)
	for _, typ := range []dhcp6.MessageType{0, dhcp6.MessageTypeAdvertise, dhcp6.MessageTypeReply, dhcp6.MessageTypeReconfigure, dhcp6.MessageTypeRelayReply, 77, 255} {
		l.dropped(msg(typ, 1, iana1(1)), DropType)
	}
	m := msg(dhcp6.MessageTypeSolicit, 1, iana1(1)).ToBytes()
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: m, Src: netip.AddrPortFrom(linkLocal, 546), Interface: "eth1"}, nil); drop != DropUnicast {
		t.Errorf("a unicast Solicit: %s, want %s", drop, DropUnicast)
	}
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: m, Src: netip.AddrPortFrom(linkLocal, 546), Multicast: true, Interface: "eth9"}, nil); drop != DropNoLink {
		t.Errorf("from an interface without a link: %s, want %s", drop, DropNoLink)
	}
}

func TestMalformedMessagesAreDroppedAndCounted(t *testing.T) {
	l := newLab(t, nil)
	good := msg(dhcp6.MessageTypeSolicit, 1, iana1(1, netip.MustParseAddr("2001:db8:1::1"))).ToBytes()
	for n := range good {
		if n == 4 || n == 18 { // a whole message, of options fewer
			continue
		}
		if reply, drop := l.raw(good[:n]); drop != DropMalformed || reply != nil {
			t.Errorf("cut to %d of %d bytes: %s, want %s", n, len(good), drop, DropMalformed)
		}
	}
	opt := func(code uint16, data ...byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, code)
		return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
	}
	head := []byte{1, 0, 0, 1}
	id := opt(1, duidOf(1).ToBytes()...)
	for name, options := range map[string][][]byte{
		"a DUID of 2 bytes":           {opt(1, 0, 3)},
		"a DUID of 131 bytes":         {opt(1, make([]byte, 131)...)},
		"two client identifiers":      {id, id},
		"an IA_NA of 11 bytes":        {id, opt(3, make([]byte, 11)...)},
		"an IAID twice":               {id, opt(3, make([]byte, 12)...), opt(3, make([]byte, 12)...)},
		"an IA Address of 23 bytes":   {id, opt(3, append(make([]byte, 12), opt(5, make([]byte, 23)...)...)...)},
		"an IA Address with rubbish":  {id, opt(3, append(make([]byte, 12), opt(5, make([]byte, 25)...)...)...)},
		"an IA_PD of 11 bytes":        {id, opt(25, make([]byte, 11)...)},
		"an odd Option Request":       {id, opt(6, 0, 23, 0)},
		"two Option Requests":         {id, opt(6, 0, 23), opt(6, 0, 24)},
		"a Rapid Commit with content": {id, opt(14, 1)},
		"an option beyond the end":    {id, {0, 8, 0, 200, 1}},
	} {
		if reply, drop := l.raw(append(bytes.Clone(head), bytes.Join(options, nil)...)); drop != DropMalformed || reply != nil {
			t.Errorf("%s: %s, want %s", name, drop, DropMalformed)
		}
	}
	var many [][]byte
	for i := range byte(maxIAs + 1) {
		many = append(many, opt(3, append([]byte{0, 0, 0, i}, make([]byte, 8)...)...))
	}
	if _, drop := l.raw(append(append(bytes.Clone(head), id...), bytes.Join(many, nil)...)); drop != DropTooMuch {
		t.Errorf("%d IAs: %s, want %s", len(many), drop, DropTooMuch)
	}
	if n := l.store.Subscribers(); n != 0 {
		t.Errorf("malformed messages registered %d subscribers", n)
	}
}

// relayed sends through one relay with a Subscriber-ID and an Interface-ID, and
// returns the client's answer and the Relay-reply.
func (l *lab) relayed(relay netip.Addr, subscriber string, extra ...dhcp6.Option) func(*dhcp6.Message) (*dhcp6.Message, *dhcp6.RelayMessage) {
	return func(m *dhcp6.Message) (*dhcp6.Message, *dhcp6.RelayMessage) {
		l.t.Helper()
		r := forward(m, netip.MustParseAddr("2001:db8:3::1"), linkLocal,
			append([]dhcp6.Option{dhcp6.OptInterfaceID([]byte("port-3")), generic(38, []byte(subscriber))}, extra...)...)
		return l.viaRelay(r, relay, 547, 547)
	}
}

func generic(code dhcp6.OptionCode, data []byte) dhcp6.Option {
	return &dhcp6.OptionGeneric{OptionCode: code, OptionData: data}
}

func forward(inner dhcp6.DHCPv6, link, peer netip.Addr, options ...dhcp6.Option) *dhcp6.RelayMessage {
	r := &dhcp6.RelayMessage{MessageType: dhcp6.MessageTypeRelayForward, LinkAddr: link.AsSlice(), PeerAddr: peer.AsSlice()}
	for _, o := range options {
		r.AddOption(o)
	}
	r.AddOption(dhcp6.OptRelayMessage(inner))
	return r
}

func (l *lab) viaRelay(r *dhcp6.RelayMessage, src netip.Addr, port, wantPort uint16) (*dhcp6.Message, *dhcp6.RelayMessage) {
	l.t.Helper()
	reply, to, drop := l.h.Handle(l.now, &Packet{Data: r.ToBytes(), Src: netip.AddrPortFrom(src, port)}, nil)
	if drop != 0 {
		l.t.Fatalf("dropped as %s", drop)
	}
	if to != netip.AddrPortFrom(src, wantPort) {
		l.t.Errorf("the answer goes to %s, want port %d of %s", to, wantPort, src)
	}
	rr, err := dhcp6.RelayMessageFromBytes(reply)
	if err != nil {
		l.t.Fatalf("the answer cannot be read: %v", err)
	}
	m, err := rr.GetInnerMessage()
	if err != nil {
		l.t.Fatal(err)
	}
	return m, rr
}

func TestARelaysWordAuthenticatesAndIsEchoed(t *testing.T) {
	l := newLab(t, nil)
	m, rr := l.relayed(relayAddr, "line-1")(msg(dhcp6.MessageTypeRequest, 50, toServer(), iana1(1)))
	got := addresses(t, m)
	if len(got) != 1 || !prefixC.Contains(got[0].addr) {
		t.Errorf("leased %v, want an address in %s", got, prefixC)
	}
	if rr.MessageType != dhcp6.MessageTypeRelayReply || !rr.LinkAddr.Equal(net.ParseIP("2001:db8:3::1")) || rr.PeerAddr.String() != linkLocal.String() {
		t.Errorf("Relay-reply %s", rr.Summary())
	}
	if id := rr.Options.GetOne(dhcp6.OptionInterfaceID); id == nil || string(id.ToBytes()) != "port-3" {
		t.Errorf("Interface-ID %v comes back", id)
	}
	if rr.Options.GetOne(38) != nil {
		t.Error("a Subscriber-ID comes back that nobody asked for")
	}
	// Two devices on one line are one subscriber, two lines are two.
	m2, _ := l.relayed(relayAddr, "line-1")(msg(dhcp6.MessageTypeRequest, 51, toServer(), iana1(1)))
	m3, _ := l.relayed(relayAddr, "line-2")(msg(dhcp6.MessageTypeRequest, 52, toServer(), iana1(1)))
	a, b, c := l.subscriberOf(got[0].addr), l.subscriberOf(addresses(t, m2)[0].addr), l.subscriberOf(addresses(t, m3)[0].addr)
	if a != b || a == c {
		t.Errorf("subscribers %d and %d on one line, %d on another", a, b, c)
	}
	if stored, err := l.store.Lease(got[0].addr); err != nil || stored.Anchor.Relay != relayAddr {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

func TestARelayThatNobodyTrustsGetsNoAddress(t *testing.T) {
	l := newLab(t, nil)
	// Even for a client that the table knows.
	m, _ := l.relayed(netip.MustParseAddr("2001:db8::bad"), "line-1")(msg(dhcp6.MessageTypeSolicit, 1, iana1(1)))
	if s := iaStatus(t, m); s != iana.StatusNoAddrsAvail {
		t.Errorf("%s, want NoAddrsAvail", s)
	}
}

func TestEchoRequestAndRelayPort(t *testing.T) {
	l := newLab(t, nil)
	ero := generic(dhcp6.OptionEchoRequest, []byte{0, 37, 0, 38, 0, 18, 0, 9})
	remote := generic(dhcp6.OptionRemoteID, []byte{0, 0, 0, 9, 'r'})
	r := forward(msg(dhcp6.MessageTypeSolicit, 50, iana1(1)), netip.MustParseAddr("2001:db8:3::1"), linkLocal,
		ero, remote, generic(38, []byte("line")), dhcp6.OptInterfaceID([]byte("p")), generic(135, []byte{0, 0}))
	_, rr := l.viaRelay(r, relayAddr, 40000, 40000)
	for code, want := range map[dhcp6.OptionCode]int{37: 1, 38: 1, 18: 1, 135: 1, 43: 0, 9: 1} {
		if got := len(rr.Options.Get(code)); got != want {
			t.Errorf("option %d comes back %d times, want %d", code, got, want)
		}
	}
}

func TestEightRelaysButNotNine(t *testing.T) {
	l := newLab(t, nil)
	nest := func(depth int) *dhcp6.RelayMessage {
		var m dhcp6.DHCPv6 = msg(dhcp6.MessageTypeSolicit, 50, iana1(1))
		for i := range depth {
			link := netip.IPv6Unspecified()
			if i == 0 {
				link = netip.MustParseAddr("2001:db8:fffe::7") // far's, by name
			}
			m = forward(m, link, relayAddr, dhcp6.OptInterfaceID(fmt.Appendf(nil, "hop-%d", i)))
		}
		return m.(*dhcp6.RelayMessage)
	}
	m, rr := l.viaRelay(nest(8), relayAddr, 547, 547)
	if got := addresses(t, m); len(got) != 1 || !prefixC.Contains(got[0].addr) {
		t.Errorf("over eight relays: %v", got)
	}
	for i := 7; i >= 0; i-- {
		if id := rr.Options.GetOne(dhcp6.OptionInterfaceID); id == nil || string(id.ToBytes()) != fmt.Sprintf("hop-%d", i) {
			t.Errorf("level %d: Interface-ID %v", i, id)
		}
		if inner, ok := rr.Options.RelayMessage().(*dhcp6.RelayMessage); ok {
			rr = inner
		} else if i > 0 {
			t.Fatalf("only %d levels come back", 8-i)
		}
	}
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: nest(9).ToBytes(), Src: netip.AddrPortFrom(relayAddr, 547)}, nil); drop != DropHops {
		t.Errorf("over nine relays: %s, want %s", drop, DropHops)
	}
}

func TestMalformedRelaysAreDropped(t *testing.T) {
	l := newLab(t, nil)
	good := forward(msg(dhcp6.MessageTypeSolicit, 50, iana1(1)), netip.MustParseAddr("2001:db8:3::1"), linkLocal).ToBytes()
	for n := range good {
		if _, _, drop := l.h.Handle(l.now, &Packet{Data: good[:n], Src: netip.AddrPortFrom(relayAddr, 547)}, nil); drop != DropMalformed {
			t.Fatalf("cut to %d bytes: %s, want %s", n, drop, DropMalformed)
		}
	}
	twice := append(bytes.Clone(good), good[34:]...)
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: twice, Src: netip.AddrPortFrom(relayAddr, 547)}, nil); drop != DropMalformed {
		t.Errorf("two relayed messages: %s, want %s", drop, DropMalformed)
	}
	nowhere := forward(msg(dhcp6.MessageTypeSolicit, 50, iana1(1)), netip.MustParseAddr("2001:db8:77::1"), linkLocal).ToBytes()
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: nowhere, Src: netip.AddrPortFrom(relayAddr, 547)}, nil); drop != DropNoLink {
		t.Errorf("from a link that is not configured: %s, want %s", drop, DropNoLink)
	}
}

// broken is a Leases that fails, as a store without a disk would.
type broken struct{ Leases }

func (broken) Assign(time.Time, *lease.Request) ([]lease.Grant, error) {
	return nil, errors.New("no disk")
}

func TestAFailingStoreMeansNoAnswer(t *testing.T) {
	l := newLab(t, nil)
	l.h.leases = broken{l.h.leases}
	l.dropped(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1)), DropInternal)
	if !strings.Contains(l.log.String(), "no disk") {
		t.Error("the log does not say why")
	}
}

func TestPendingAuthenticationMeansNoAnswer(t *testing.T) {
	l := newLab(t, nil)
	l.h.auth = pendingAuth{}
	l.dropped(msg(dhcp6.MessageTypeSolicit, 1, iana1(1)), DropPending)
}

type pendingAuth struct{}

func (pendingAuth) Authenticate(*eidauth.Client) (eidauth.Identity, error) {
	return eidauth.Identity{}, eidauth.ErrPending
}

func TestLogsHoldNoEID(t *testing.T) {
	l := newLab(t, nil)
	l.lease(1, 1)
	l.ask(msg(dhcp6.MessageTypeSolicit, 9, iana1(1)))
	l.relayed(relayAddr, "canary-line")(msg(dhcp6.MessageTypeSolicit, 50, iana1(1)))
	for i := range uint32(9) {
		l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(i+100)))
	}
	for _, secret := range []string{"alice", "canary-line"} {
		if strings.Contains(l.log.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, l.log.String())
		}
	}
	if !strings.Contains(l.log.String(), "holds as many addresses") {
		t.Errorf("the log does not tell of a refusal:\n%s", l.log.String())
	}
}

func TestNewHandlerRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"a short DUID":           {ServerID: []byte{0, 3}},
		"a link without prefix":  {ServerID: serverID, Links: []Link{{Name: "x"}}},
		"a prefix on two links":  {ServerID: serverID, Links: []Link{{Name: "x", Prefixes: []idcodec.Prefix{{1}}}, {Name: "y", Prefixes: []idcodec.Prefix{{1}}}}},
		"an empty label":         {ServerID: serverID, Search: []string{"a..b"}},
		"a label of 64 bytes":    {ServerID: serverID, Search: []string{strings.Repeat("a", 64)}},
		"a name beyond 255 byte": {ServerID: serverID, Search: []string{strings.Repeat("abcdefg.", 40)}},
	} {
		if _, err := NewHandler(cfg, nil, nil, nil, new(Stats), slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: NewHandler succeeded", name)
		}
	}
}

// Messages that were all read, and whose senders were all asked for, before the first was answered
// get the answers that they get one by one.
func TestMessagesThatAreReadTogether(t *testing.T) {
	far := func(m *dhcp6.Message, subscriber string) *Packet {
		r := forward(m, netip.MustParseAddr("2001:db8:3::1"), linkLocal, dhcp6.OptInterfaceID([]byte("port-3")), generic(38, []byte(subscriber)))
		return &Packet{Data: r.ToBytes(), Src: netip.AddrPortFrom(relayAddr, 547)}
	}
	near := func(m *dhcp6.Message) *Packet {
		return &Packet{Data: m.ToBytes(), Src: netip.AddrPortFrom(linkLocal, 546), Multicast: true, Interface: "eth1"}
	}
	in := []*Packet{
		near(msg(dhcp6.MessageTypeSolicit, 1, iana1(1))),
		near(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), iana1(2))),
		far(msg(dhcp6.MessageTypeRequest, 2, toServer(), iana1(1)), "line-7"),
		{Data: []byte{1, 2}, Src: netip.AddrPortFrom(linkLocal, 546), Multicast: true, Interface: "eth1"},
		far(msg(dhcp6.MessageTypeRequest, 3, toServer(), iana1(1)), "line-8"),
		near(msg(dhcp6.MessageTypeRequest, 9, toServer(), iana1(1))), // who is nobody's
		near(msg(dhcp6.MessageTypeRenew, 1, toServer(), iana1(1))),
		{Data: []byte{byte(dhcp6.MessageTypeLeaseQuery), 1, 2, 3}, Src: netip.AddrPortFrom(linkLocal, 546)},
		near(msg(dhcp6.MessageTypeConfirm, 1, iana1(1, prefixA.Addr().Next()))),
		near(msg(dhcp6.MessageTypeSolicit, 0, iana1(1))),
		far(msg(dhcp6.MessageTypeRelease, 2, toServer(), iana1(1)), "line-7"),
		near(msg(dhcp6.MessageTypeInformationRequest, 1)),
		near(msg(dhcp6.MessageTypeRequest, 2, toServer(), iana1(1))),
	}
	type answer struct {
		reply []byte
		to    netip.AddrPort
		drop  Drop
	}
	var singly, together []answer
	one := newLab(t, nil)
	for _, p := range in {
		reply, to, drop := one.h.Handle(one.now, p, nil)
		singly = append(singly, answer{reply, to, drop})
	}
	all := newLab(t, nil)
	read := make([]received, len(in))
	for turn := range 2 { // the second time all memory was used before
		var f lease.Foreseen
		for i, p := range in {
			all.h.receive(p, &read[i])
			all.h.foresee(&read[i], &f)
		}
		if len(f.Keys) != 7 || len(f.Clients) != 9 {
			t.Errorf("%d keys and %d clients are foreseen", len(f.Keys), len(f.Clients))
		}
		together = together[:0]
		for i := range read {
			reply, to, drop := all.h.answer(all.now, &read[i], nil)
			together = append(together, answer{reply, to, drop})
		}
		if turn == 1 {
			for i, p := range in { // as often
				reply, to, drop := one.h.Handle(one.now, p, nil)
				singly[i] = answer{reply, to, drop}
			}
		}
		for i := range in {
			if !reflect.DeepEqual(singly[i], together[i]) {
				t.Errorf("turn %d, message %d: %x to %s, %s; one by one %x to %s, %s", turn, i,
					together[i].reply, together[i].to, together[i].drop, singly[i].reply, singly[i].to, singly[i].drop)
			}
		}
	}
	if !reflect.DeepEqual(all.stats, one.stats) {
		t.Error("other counts")
	}
}

func FuzzHandle(f *testing.F) {
	l := newLab(f, func(c *Config) { c.RapidCommit = true })
	addr := netip.MustParseAddr("2001:db8:1::1")
	for typ := dhcp6.MessageType(1); typ < 12; typ++ {
		m := msg(typ, 1, toServer(), iana1(1, addr), dhcp6.OptRequestedOption(23, 24, 32))
		f.Add(m.ToBytes(), true)
		f.Add(msg(typ, 1, iana1(1, addr), generic(14, nil)).ToBytes(), true)
		f.Add(forward(m, netip.MustParseAddr("2001:db8:3::1"), linkLocal, generic(38, []byte("x")), generic(43, []byte{0, 38})).ToBytes(), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, multicast bool) {
		l.now = l.now.Add(time.Second)
		src := linkLocal
		if !multicast {
			src = relayAddr
		}
		before := bytes.Clone(data)
		reply, to, drop := l.h.Handle(l.now, &Packet{Data: data, Src: netip.AddrPortFrom(src, 546), Multicast: multicast, Interface: "eth1"}, nil)
		if !bytes.Equal(before, data) {
			t.Fatal("the packet was changed")
		}
		if drop != 0 {
			if reply != nil || drop >= NumDrops || drop == DropInternal {
				t.Fatalf("dropped as %s with %d bytes of answer", drop, len(reply))
			}
			return
		}
		if !to.IsValid() {
			t.Fatal("an answer that goes nowhere")
		}
		if _, err := dhcp6.FromBytes(reply); err != nil {
			t.Fatalf("the answer cannot be read: %v\n%x", err, reply)
		}
	})
}

func BenchmarkHandle(b *testing.B) {
	l := newLab(b, nil)
	l.h.log = slog.New(slog.DiscardHandler)
	solicit := msg(dhcp6.MessageTypeSolicit, 1, iana1(1)).ToBytes()
	request := msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1)).ToBytes()
	out := make([]byte, 0, 1024)
	in := Packet{Src: netip.AddrPortFrom(linkLocal, 546), Multicast: true, Interface: "eth1"}
	for name, data := range map[string][]byte{"solicit": solicit, "request": request} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			in.Data = data
			for b.Loop() {
				if _, _, drop := l.h.Handle(l.now, &in, out); drop != 0 {
					b.Fatal(drop)
				}
			}
		})
	}
}

// A link's own options go before those of all; who does not ask gets none.
func TestOptionsOfLinks(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.Options = []Option{{31, bytes.Repeat([]byte{1}, 16)}, {103, []byte("https://all.example/")}}
		c.Links[0].Options = []Option{{103, []byte("https://lan.example/")}, {4242, []byte{7}}}
	})
	ask := func(codes ...dhcp6.OptionCode) map[dhcp6.OptionCode]string {
		got := make(map[dhcp6.OptionCode]string)
		for _, o := range l.ask(msg(dhcp6.MessageTypeInformationRequest, 1, dhcp6.OptRequestedOption(codes...))).Options.Options {
			if o.Code() != dhcp6.OptionClientID && o.Code() != dhcp6.OptionServerID {
				got[o.Code()] = string(o.ToBytes())
			}
		}
		return got
	}
	if got := ask(31, 103, 4242, 4243); len(got) != 3 || got[31] != strings.Repeat("\x01", 16) || got[103] != "https://lan.example/" || got[4242] != "\x07" {
		t.Errorf("%q", got)
	}
	if got := ask(4243); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// inform is an ADDR-REG-INFORM of client n.
func inform(n byte, addr netip.Addr, valid uint32, more ...dhcp6.Option) *dhcp6.Message {
	data := append(addr.AsSlice(), 0, 0, 0, 60)
	data = binary.BigEndian.AppendUint32(data, valid)
	return msg(messageAddrRegInform, n, append([]dhcp6.Option{generic(dhcp6.OptionIAAddr, data)}, more...)...)
}

func TestAddressRegistration(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Register = true })
	own := netip.MustParseAddr("2001:db8:1::abcd")
	send := func(src netip.Addr, m *dhcp6.Message) ([]byte, Drop) {
		reply, to, drop := l.h.Handle(l.now, &Packet{Data: m.ToBytes(), Src: netip.AddrPortFrom(src, 546), Multicast: true, Interface: "eth1"}, nil)
		if drop == 0 && to != netip.AddrPortFrom(src, 546) {
			t.Errorf("the answer goes to %s", to)
		}
		return reply, drop
	}
	m := inform(1, own, 3600)
	reply, drop := send(own, m)
	want := append([]byte{byte(messageAddrRegReply), 1, 2, 1}, m.ToBytes()[4+4+len(duidOf(1).ToBytes()):]...)
	if drop != 0 || !bytes.Equal(reply, want) {
		t.Errorf("%x, %s; want %x", reply, drop, want)
	}
	got, err := l.store.Lease(own)
	if err != nil || got.State != lease.Registered || !got.ValidUntil.Equal(l.now.Add(time.Hour)) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, c := range map[string]struct {
		src  netip.Addr
		m    *dhcp6.Message
		want Drop
	}{
		"from another address":  {linkLocal, inform(1, own, 3600), DropRegistration},
		"of another link":       {netip.MustParseAddr("2001:db8:77::1"), inform(1, netip.MustParseAddr("2001:db8:77::1"), 3600), DropRegistration},
		"another's":             {own, inform(2, own, 3600), DropRegistration},
		"of a stranger":         {netip.MustParseAddr("2001:db8:1::77"), inform(99, netip.MustParseAddr("2001:db8:1::77"), 3600), DropRegistration},
		"of nobody":             {own, inform(0, own, 3600), DropNoClientID},
		"for a server":          {own, inform(1, own, 3600, generic(dhcp6.OptionServerID, serverID)), DropServerID},
		"with wishes":           {own, inform(1, own, 3600, dhcp6.OptRequestedOption(23)), DropMalformed},
		"of two addresses":      {own, inform(1, own, 3600, generic(dhcp6.OptionIAAddr, make([]byte, 24))), DropMalformed},
		"of none":               {own, msg(messageAddrRegInform, 1), DropMalformed},
		"of half an address":    {own, msg(messageAddrRegInform, 1, generic(dhcp6.OptionIAAddr, make([]byte, 20))), DropMalformed},
		"a server's own answer": {own, msg(messageAddrRegReply, 1), DropType},
	} {
		if reply, drop := send(c.src, c.m); drop != c.want || reply != nil {
			t.Errorf("%s: %s, want %s", name, drop, c.want)
		}
	}
	// Through a relay, which says where it came from.
	far := netip.MustParseAddr("2001:db8:3::abcd")
	answer, _ := l.viaRelay(forward(inform(50, far, 3600), netip.MustParseAddr("2001:db8:3::1"), far, generic(38, []byte("line 9"))), relayAddr, 547, 547)
	if answer.MessageType != messageAddrRegReply {
		t.Errorf("%s", answer.Summary())
	}
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: forward(inform(50, far, 3600), netip.MustParseAddr("2001:db8:3::1"), linkLocal, generic(38, []byte("line 9"))).ToBytes(), Src: netip.AddrPortFrom(relayAddr, 547)}, nil); drop != DropRegistration {
		t.Errorf("from another address, by a relay: %s", drop)
	}
	// It ends, and is told to be possible to who asks.
	if _, drop := send(own, inform(1, own, 0)); drop != 0 {
		t.Errorf("its end: %s", drop)
	}
	if got, err := l.store.Lease(own); err != nil || got.Live(l.now) {
		t.Errorf("%+v, %v", got, err)
	}
	info := l.ask(msg(dhcp6.MessageTypeInformationRequest, 1, dhcp6.OptRequestedOption(dhcp6.OptionCode(optionAddrRegEnable))))
	if o := info.Options.GetOne(dhcp6.OptionCode(optionAddrRegEnable)); o == nil || len(o.ToBytes()) != 0 {
		t.Errorf("the option that says so is %v", o)
	}
	l = newLab(t, nil)
	if _, drop := send(own, inform(1, own, 3600)); drop != DropType {
		t.Errorf("where it is not allowed: %s", drop)
	}
}
