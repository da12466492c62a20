package dhcpv6

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/idcodec"
	"brightgid/lease"
)

func testPool(prefix string, bits uint8) lease.Pool {
	return lease.Pool{Pool: idcodec.Pool{Prefix: netip.MustParsePrefix(prefix), Bits: bits}, Policy: testPolicy()}
}

// newPoolLab is a lab whose first link has two pools.
func newPoolLab(t testing.TB) *lab {
	return newLab(t, func(c *Config) {
		c.Links[0].Pools = []lease.Pool{testPool("2001:db8:4000::/40", 56), testPool("2001:db8:8000::/40", 64)}
	})
}

// iapd makes an IA_PD with prefixes that a client has or would like.
func iapd(iaid byte, prefixes ...netip.Prefix) *dhcp6.OptIAPD {
	o := &dhcp6.OptIAPD{IaId: [4]byte{0, 0, 0, iaid}}
	for _, p := range prefixes {
		o.Options.Add(&dhcp6.OptIAPrefix{Prefix: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}})
	}
	return o
}

type delegated struct {
	netip.Prefix
	preferred, valid time.Duration
}

// prefixes returns what an answer's only IA_PD holds.
func prefixes(t *testing.T, m *dhcp6.Message) (out []delegated) {
	t.Helper()
	ia := m.Options.OneIAPD()
	if ia == nil {
		t.Fatalf("no IA_PD in %s", m.Summary())
	}
	for _, p := range ia.Options.Prefixes() {
		addr, _ := netip.AddrFromSlice(p.Prefix.IP)
		ones, _ := p.Prefix.Mask.Size()
		out = append(out, delegated{netip.PrefixFrom(addr, ones), p.PreferredLifetime, p.ValidLifetime})
	}
	return out
}

func pdStatus(t *testing.T, m *dhcp6.Message) iana.StatusCode {
	t.Helper()
	ia := m.Options.OneIAPD()
	if ia == nil || ia.Options.Status() == nil {
		t.Fatalf("no IA_PD with a status in %s", m.Summary())
	}
	return ia.Options.Status().StatusCode
}

// An address and a prefix in one exchange, from the Solicit to the Release.
func TestAPrefixIsDelegatedBesideAnAddress(t *testing.T) {
	l := newPoolLab(t)
	adv := l.ask(msg(dhcp6.MessageTypeSolicit, 1, iana1(1), iapd(1)))
	offer := prefixes(t, adv)
	rep := l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), iapd(1, offer[0].Prefix)))
	got := prefixes(t, rep)
	if len(got) != 1 || got[0] != offer[0] || got[0].Bits() != 56 || got[0].preferred != time.Hour || got[0].valid != 2*time.Hour {
		t.Fatalf("offered %v, delegated %v", offer, got)
	}
	na, pd := rep.Options.OneIANA(), rep.Options.OneIAPD()
	if len(na.Options.Addresses()) != 2 || na.T1 != pd.T1 || na.T2 != pd.T2 || pd.T1 != 30*time.Minute || pd.T2 != 48*time.Minute {
		t.Errorf("T1 and T2 of the addresses %s, %s, of the prefix %s, %s", na.T1, na.T2, pd.T1, pd.T2)
	}
	le, err := l.store.Lease(got[0].Addr())
	if err != nil || le.Bits != 56 || le.Client.IAID != 1 || !le.Client.PD {
		t.Fatalf("it is filed as %+v, %v", le, err)
	}
	l.now = l.now.Add(30 * time.Minute)
	for _, m := range []*dhcp6.Message{msg(dhcp6.MessageTypeRenew, 1, toServer(), iapd(1, got[0].Prefix)), msg(dhcp6.MessageTypeRebind, 1, iapd(1, got[0].Prefix))} {
		if again := prefixes(t, l.ask(m)); len(again) != 1 || again[0] != got[0] {
			t.Errorf("%s: %v, want %v", m.MessageType, again, got)
		}
	}
	// The other client gets another, and cannot end this one's.
	other := prefixes(t, l.ask(msg(dhcp6.MessageTypeRequest, 2, toServer(), iapd(1, got[0].Prefix))))
	if len(other) != 1 || other[0].Prefix == got[0].Prefix {
		t.Errorf("another client got %v", other)
	}
	if s := pdStatus(t, l.ask(msg(dhcp6.MessageTypeRelease, 2, toServer(), iapd(1, got[0].Prefix)))); s != iana.StatusNoBinding {
		t.Errorf("released by another: %s", s)
	}
	if le, _ := l.store.Lease(got[0].Addr()); !le.Live(l.now) {
		t.Error("another client ended the delegation")
	}
	// Prefixes are not declined.
	if rep := l.ask(msg(dhcp6.MessageTypeDecline, 1, toServer(), iapd(1, got[0].Prefix))); rep.Options.OneIAPD() != nil {
		t.Errorf("declined: %s", rep.Summary())
	}
	if rep := l.ask(msg(dhcp6.MessageTypeRelease, 1, toServer(), iapd(1, got[0].Prefix))); rep.Options.OneIAPD() != nil || rep.Options.Status().StatusCode != iana.StatusSuccess {
		t.Errorf("released: %s", rep.Summary())
	}
	if le, _ := l.store.Lease(got[0].Addr()); le.State != lease.Released {
		t.Errorf("after the release it is %s", le.State)
	}
}

func TestTheLengthOfAPrefixIsAWish(t *testing.T) {
	l := newPoolLab(t)
	for i, c := range []struct{ wish, want string }{{"::/64", "2001:db8:8000::/40"}, {"::/56", "2001:db8:4000::/40"}, {"::/48", "2001:db8:4000::/40"}, {"2001:db8:ffff::/64", "2001:db8:8000::/40"}} {
		p := prefixes(t, l.ask(msg(dhcp6.MessageTypeSolicit, 1, iapd(byte(i+1), netip.MustParsePrefix(c.wish)))))
		if len(p) != 1 || !netip.MustParsePrefix(c.want).Contains(p[0].Addr()) {
			t.Errorf("who would like %s is offered %v, want one of %s", c.wish, p, c.want)
		}
	}
}

// Who says that it knows how to leave a part of a prefix out is told which (RFC 6603), whenever the prefix is
// its; nobody else is.
func TestAPartOfAPrefixIsExcluded(t *testing.T) {
	for _, c := range []struct {
		pool     string
		bits     uint8
		excluded string
		want     []byte // the option's data
	}{
		{"2001:db8:4000::/40", 56, "0:0:0:ff::/64", []byte{64, 0xff}},
		{"2001:db8:4000::/40", 56, "::/57", []byte{57, 0}},
		{"2001:db8:4000::/40", 56, "0:0:0:80::/57", []byte{57, 0x80}},
		{"2001:db8:4000::/40", 52, "0:0:0:0abc::/64", []byte{64, 0xab, 0xc0}},
		{"2001:db8:4000::/40", 61, "0:0:0:5::/64", []byte{64, 0xa0}},
		{"2001:db8:4000::/40", 61, "0:0:0:5:8000::/65", []byte{65, 0xb0}},
		{"2001:db8:4000::/40", 64, "::8000:0:0:0/72", []byte{72, 0x80}},
		{"2001:db8:4000::/40", 60, "::f:1122:3344:5566:7788/128", []byte{128, 0xf1, 0x12, 0x23, 0x34, 0x45, 0x56, 0x67, 0x78, 0x80}},
	} {
		l := newLab(t, func(cfg *Config) {
			p := testPool(c.pool, c.bits)
			p.Excluded = netip.MustParsePrefix(c.excluded)
			cfg.Links[0].Pools = []lease.Pool{testPool("2001:db8:8000::/40", 48), p}
		})
		wish := netip.PrefixFrom(netip.IPv6Unspecified(), int(c.bits))
		oro := dhcp6.OptRequestedOption(dhcp6.OptionDNSRecursiveNameServer, dhcp6.OptionPDExclude)
		told := func(m *dhcp6.Message) []byte {
			t.Helper()
			all := m.Options.OneIAPD().Options.Prefixes()
			if len(all) == 0 {
				t.Fatalf("no prefix in %s", m.Summary())
			}
			o := all[0].Options.GetOne(dhcp6.OptionPDExclude)
			if len(m.Options.Get(dhcp6.OptionPDExclude)) > 0 || len(all) > 1 && all[1].Options.GetOne(dhcp6.OptionPDExclude) != nil {
				t.Errorf("%s: the option is where it does not belong", c.excluded)
			}
			if o == nil {
				return nil
			}
			return o.ToBytes()
		}
		adv := l.ask(msg(dhcp6.MessageTypeSolicit, 1, oro, iapd(1, wish)))
		got := prefixes(t, adv)[0].Prefix
		foreign := netip.MustParsePrefix("2001:db8:4f00::/60") // which it is told not to use
		for _, m := range []*dhcp6.Message{
			msg(dhcp6.MessageTypeSolicit, 1, oro, iapd(1, wish)),
			msg(dhcp6.MessageTypeRequest, 1, toServer(), oro, iapd(1, got)),
			msg(dhcp6.MessageTypeRenew, 1, toServer(), oro, iapd(1, got, foreign)),
			msg(dhcp6.MessageTypeRebind, 1, oro, iapd(1, got)),
		} {
			if o := told(l.ask(m)); !slices.Equal(o, c.want) {
				t.Errorf("%s: of a /%d %s is excluded as %x, want %x", m.MessageType, c.bits, c.excluded, o, c.want)
			}
		}
		if o := told(l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iapd(1, got)))); o != nil {
			t.Errorf("who did not ask is told of %x", o)
		}
		if o := told(l.ask(msg(dhcp6.MessageTypeSolicit, 1, oro, iapd(2, netip.MustParsePrefix("::/48"))))); o != nil {
			t.Errorf("of a prefix of another pool %x is excluded", o)
		}
	}
}

// dhcpcd 9.4 makes mistakes with what it was told to exclude, of which the server takes no offence; from others, and
// more than those, it does.
func TestWhatDhcpcdExcludes(t *testing.T) {
	l := newPoolLab(t)
	p := prefixes(t, l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iapd(1))))[0].Prefix
	pd := iapd(1, p)
	plain := msg(dhcp6.MessageTypeRenew, 1, toServer(), pd).ToBytes()
	pd.Options.Add(&dhcp6.OptionGeneric{OptionCode: dhcp6.OptionPDExclude})
	m := msg(dhcp6.MessageTypeRenew, 1, toServer(), pd).ToBytes()
	for i, c := range []struct {
		b    []byte
		drop Drop
	}{
		{m, 0}, {append(m[:len(m):len(m)], 0), 0}, {append(m[:len(m):len(m)], 0, 0, 0), 0}, {append(m[:len(m):len(m)], make([]byte, 10)...), 0},
		{append(m[:len(m):len(m)], 0, 1), DropMalformed}, {append(plain[:len(plain):len(plain)], 0, 0), DropMalformed}, {m[:len(m)-1], DropMalformed},
	} {
		reply, drop := l.raw(c.b)
		if drop != c.drop || (reply == nil) != (drop != 0) {
			t.Errorf("case %d: %s, want %s", i, drop, c.drop)
		}
	}
}

// What is excluded is a part of each prefix, and less than all of it.
func TestWhatCannotBeExcluded(t *testing.T) {
	for excluded, good := range map[string]bool{"::/56": false, "::/48": false, "0:0:0:100::/64": false, "0:0:0:ff::1/64": false, "10.0.0.0/8": false, "0:0:0:80::/57": true} {
		p := testPool("2001:db8:4000::/40", 56)
		p.Excluded = netip.MustParsePrefix(excluded)
		if err := p.Check(); (err == nil) != good {
			t.Errorf("%s: %v", excluded, err)
		}
	}
}

func TestPrefixesThatCannotBeHad(t *testing.T) {
	l := newPoolLab(t)
	foreign := netip.MustParsePrefix("2001:db8:4000::/60") // of the pool, not of its length
	rep := l.ask(msg(dhcp6.MessageTypeRebind, 1, iapd(1, foreign)))
	if p := prefixes(t, rep); len(p) != 1 || p[0].Prefix != foreign || p[0].valid != 0 {
		t.Errorf("a prefix that is of no pool: %v", p)
	}
	if ia := rep.Options.OneIAPD(); ia.T1 != 0 || ia.T2 != 0 {
		t.Errorf("T1 and T2 of nothing: %s, %s", ia.T1, ia.T2)
	}
	if s := pdStatus(t, l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iapd(1, netip.MustParsePrefix("2001:db8:4000::/56"))))); s != iana.StatusNoBinding {
		t.Errorf("a prefix that was not delegated: %s", s)
	}
	for _, m := range []*dhcp6.Message{msg(dhcp6.MessageTypeSolicit, 9, iapd(1)), msg(dhcp6.MessageTypeRequest, 9, toServer(), iapd(1))} {
		if s := pdStatus(t, l.ask(m)); s != iana.StatusNoPrefixAvail {
			t.Errorf("%s of who is not authenticated: %s", m.MessageType, s)
		}
	}
	var many []dhcp6.Option
	for i := range byte(maxIAs + 1) {
		many = append(many, iapd(i+1))
	}
	l.dropped(msg(dhcp6.MessageTypeSolicit, 1, many...), DropTooMuch)
	l.dropped(msg(dhcp6.MessageTypeSolicit, 1, iapd(1), iapd(1)), DropMalformed)
	for _, bad := range [][]byte{{0, 0, 0, 1}, append(make([]byte, 12), 0, 26, 0, 1, 0), append(append(make([]byte, 12), 0, 26, 0, 25), append(make([]byte, 8), append([]byte{129}, make([]byte, 16)...)...)...)} {
		l.dropped(msg(dhcp6.MessageTypeSolicit, 1, &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionIAPD, OptionData: bad}), DropMalformed)
	}
}

func TestPoolsThatLinksCannotHave(t *testing.T) {
	for name, pools := range map[string][]lease.Pool{
		"one that has a link's addresses":   {testPool("2001:db8::/40", 56)},
		"two with the same addresses":       {testPool("2001:db8:4000::/40", 56), testPool("2001:db8:4000::/36", 56)},
		"one of longer prefixes than a /64": {testPool("2001:db8:4000::/56", 72)},
		"too many":                          slices.Repeat([]lease.Pool{testPool("2001:db8:4000::/40", 56)}, lease.MaxPrefixes+1),
	} {
		l := newPoolLab(t)
		cfg := l.h.cfg
		cfg.Links = slices.Clone(cfg.Links)
		cfg.Links[0].Pools = pools
		if _, err := NewHandler(cfg, l.h.auth, l.h.reg, l.alloc, l.stats, l.h.log); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

// A query by an address in a delegated prefix is answered by the prefix (RFC 5007
// §4.1.2.2), and one by the link has its pools' too.
func TestLeaseQueriesKnowPrefixes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		pd := held("2001:db8:4000:100::", 1, now.Add(time.Hour))
		pd.Bits, pd.Client.PD = 56, true
		over := held("2001:db8:4000:300::", 2, now.Add(-time.Second))
		over.Bits, over.Client.PD = 56, true
		l := newQueryLab(t, memory{held("2001:db8:1::a", 1, now.Add(time.Hour)), pd, over})
		defer l.end()
		conn := l.secure()
		defer conn.Close()
		addr := func(a string) dhcp6.Option {
			return &dhcp6.OptIAAddress{IPv6Addr: netip.MustParseAddr(a).AsSlice()}
		}
		for _, c := range []struct {
			name  string
			query dhcp6.Option
			want  int
		}{
			{"an address in it", lq(queryByAddress, "::", addr("2001:db8:4000:1ff::9")), 1},
			{"its first", lq(queryByAddress, "::", addr("2001:db8:4000:100::")), 1},
			{"one beside it", lq(queryByAddress, "::", addr("2001:db8:4000:200::")), 0},
			{"one of a prefix that is over", lq(queryByAddress, "::", addr("2001:db8:4000:300::1")), 0},
			{"its link", lq(queryByLinkAddress, "2001:db8:1::1"), 1},
			{"another link", lq(queryByLinkAddress, "2001:db8:2::1"), 0},
			{"its client", lq(queryByClientID, "::", dhcp6.OptClientID(duidOf(1))), 1},
		} {
			send(t, conn, dhcp6.MessageTypeLeaseQuery, clientID(), c.query)
			receive(t, conn)
			got := 0
			for a := receive(t, conn); a.typ == dhcp6.MessageTypeLeaseQueryData; a = receive(t, conn) {
				var inner dhcp6.MessageOptions
				if err := inner.FromBytes(a.options.GetOne(dhcp6.OptionClientData).ToBytes()); err != nil {
					t.Fatal(err)
				}
				if p, ok := inner.GetOne(dhcp6.OptionIAPrefix).(*dhcp6.OptIAPrefix); ok {
					if got++; p.Prefix.String() != "2001:db8:4000:100::/56" || p.ValidLifetime != time.Hour {
						t.Errorf("%s: %s for %s", c.name, p.Prefix, p.ValidLifetime)
					}
				}
			}
			if got != c.want {
				t.Errorf("%s: %d prefixes, want %d", c.name, got, c.want)
			}
		}
	})
}
