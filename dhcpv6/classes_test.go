package dhcpv6

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/lease"
)

func oro(codes ...dhcp6.OptionCode) dhcp6.Option { return dhcp6.OptRequestedOption(codes...) }

func vendorClass(text string) dhcp6.Option {
	return &dhcp6.OptVendorClass{EnterpriseNumber: 32473, Data: [][]byte{[]byte(text)}}
}

// Options of a client's classes go before those of its link; of two classes the first.
func TestClassesHaveOptionsOfTheirOwn(t *testing.T) {
	const ntp, boot = 41, 42 // any whose data may be a text
	alice, err := idcodec.ParseEID("static:alice")
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(c *Config) {
		c.Options = []Option{{ntp, []byte("all")}}
		c.Links[0].Options = []Option{{boot, []byte("link")}}
		c.Classes = []Class{
			{Name: "phones", Option: 16, How: Contains, Value: []byte("phone"), Options: []Option{{ntp, []byte("phones")}, {17, []byte("\x00\x00\x7e\xd9")}}},
			{Name: "exact", Option: 16, How: Equals, Value: []byte("\x00\x00\x7e\xd9\x00\x03abc"), Options: []Option{{boot, []byte("exact")}}},
			{Name: "ours", Option: 16, How: Begins, Value: []byte("\x00\x00\x7e\xd9"), Options: []Option{{ntp, []byte("ours")}, {boot, []byte("ours")}}},
			{Name: "any", Option: 15, How: Present, Options: []Option{{boot, []byte("any")}}},
			{Name: "business", Options: []Option{{boot, []byte("business")}}},
		}
		c.Reserved = map[idcodec.LookupKey]string{idcodec.NewLookupHasher([32]byte{7}).Key(alice): "business"}
	})
	ask := func(n byte, typ dhcp6.MessageType, options ...dhcp6.Option) string {
		t.Helper()
		out := l.ask(msg(typ, n, append(options, oro(ntp, boot, 17))...))
		var got []string
		for _, code := range []dhcp6.OptionCode{ntp, boot} {
			all := out.GetOption(code)
			if len(all) > 1 {
				t.Errorf("option %d stands %d times", code, len(all))
			}
			if len(all) == 1 {
				got = append(got, strings.TrimLeft(string(all[0].ToBytes()), "\x00"))
			}
		}
		if out.GetOneOption(17) != nil {
			got = append(got, "vendor")
		}
		return strings.Join(got, " ")
	}
	user := &dhcp6.OptUserClass{UserClasses: [][]byte{[]byte("x")}}
	for _, c := range []struct {
		name string
		got  string
		want string
	}{
		{"a reservation", ask(1, dhcp6.MessageTypeSolicit, iana1(1)), "all business"},
		{"none", ask(2, dhcp6.MessageTypeSolicit, iana1(1)), "all link"},
		{"a vendor class", ask(2, dhcp6.MessageTypeSolicit, iana1(1), vendorClass("a phone")), "phones ours vendor"},
		{"an exact one", ask(2, dhcp6.MessageTypeSolicit, iana1(1), vendorClass("abc")), "ours exact"},
		{"an option that is there", ask(2, dhcp6.MessageTypeSolicit, iana1(1), user), "all any"},
		{"before authentication", ask(9, dhcp6.MessageTypeInformationRequest, vendorClass("a phone")), "phones ours vendor"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

// profiles authenticates everybody as one subscriber, with what a test gives.
type profiles struct{ p *eidauth.Profile }

func (p *profiles) Authenticate(*eidauth.Client) (eidauth.Identity, error) {
	eid, err := idcodec.ParseEID("static:alice")
	return eidauth.Identity{EID: eid, Profile: p.p}, err
}

func TestAuthenticationNamesPools(t *testing.T) {
	gold := prefixOf(netip.MustParsePrefix("2001:db8:5::/64"))
	l := newLab(t, func(c *Config) {
		named := testPool("2001:db8:8000::/40", 60)
		named.Name = "gold"
		c.Links[0].Prefixes = []idcodec.Prefix{prefixOf(prefixA), gold}
		c.Links[0].Named = map[string][]idcodec.Prefix{"gold": {gold}}
		c.Links[0].Pools = []lease.Pool{testPool("2001:db8:4000::/40", 56), named}
	})
	p := &profiles{}
	l.h.auth = p
	var iaid byte
	ask := func(profile *eidauth.Profile) (na []netip.Prefix, pd []delegated, m *dhcp6.Message) {
		t.Helper()
		p.p = profile
		iaid++
		m = l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(uint32(iaid)), iapd(iaid), oro(23)))
		for _, a := range m.Options.OneIANA().Options.Addresses() {
			addr, _ := netip.AddrFromSlice(a.IPv6Addr)
			na = append(na, netip.PrefixFrom(addr, 64).Masked())
		}
		return na, prefixes(t, m), m
	}
	na, pd, _ := ask(nil)
	if !slices.Equal(na, []netip.Prefix{prefixA}) || len(pd) != 1 || pd[0].Bits() != 56 {
		t.Errorf("without a name: %v, %v", na, pd)
	}
	na, pd, m := ask(&eidauth.Profile{AddressPool: "gold", PrefixPool: "gold", DNS: []netip.Addr{netip.MustParseAddr("2001:db8::5353")}})
	if !slices.Equal(na, []netip.Prefix{gold.Netip()}) || len(pd) != 1 || pd[0].Bits() != 60 {
		t.Errorf("gold: %v, %v", na, pd)
	}
	if dns := m.Options.DNS(); len(dns) != 1 || dns[0].String() != "2001:db8::5353" {
		t.Errorf("its resolvers: %v", dns)
	}
	na, pd, m = ask(&eidauth.Profile{AddressPool: "silver", PrefixPool: "silver"})
	if len(na) != 0 || len(pd) != 0 || m.Options.OneIANA().Options.Status().StatusCode != iana.StatusNoAddrsAvail || pdStatus(t, m) != iana.StatusNoPrefixAvail {
		t.Errorf("a pool that is not there: %s", m.Summary())
	}
	fixed := netip.MustParsePrefix("2001:db8:ee00::/48")
	if _, pd, _ = ask(&eidauth.Profile{Prefix: fixed}); len(pd) != 1 || pd[0].Prefix != fixed {
		t.Errorf("a prefix of its own: %v", pd)
	}
	if again := prefixes(t, l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iapd(iaid, fixed)))); len(again) != 1 || again[0].Prefix != fixed {
		t.Errorf("renewed: %v", again)
	}
	// Prefixes that cannot be: of a link, of a pool, too long. The client is served as others.
	for _, s := range []string{"2001:db8:1::/48", "2001:db8:4000::/56", "2001:db8:ee00::/80", "fe80::/48"} {
		if _, pd, _ := ask(&eidauth.Profile{Prefix: netip.MustParsePrefix(s)}); len(pd) != 1 || pd[0].Bits() != 56 {
			t.Errorf("%s was given: %v", s, pd)
		}
	}
}

func TestALinkDrains(t *testing.T) {
	l := newLab(t, nil)
	old := l.lease(1, 1)
	cfg := l.h.cfg
	cfg.Links = slices.Clone(cfg.Links)
	cfg.Links[0].Draining = []idcodec.Prefix{prefixOf(prefixA)}
	h, err := NewHandler(cfg, l.h.auth, l.h.reg, l.alloc, l.stats, l.h.log)
	if err != nil {
		t.Fatal(err)
	}
	l.h = h
	got := addresses(t, l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iana1(1, addrsOf(old)...))))
	if len(got) != 2 || got[0].addr != old[1].addr || got[1].addr != old[0].addr || got[1].preferred != 0 || got[1].valid == 0 {
		t.Errorf("renewed: %v, had %v", got, old)
	}
	if got := l.lease(2, 1); len(got) != 1 || !prefixB.Contains(got[0].addr) {
		t.Errorf("a new client has %v", got)
	}
	// A Confirm tells of the link, which has the prefix yet.
	if m := l.ask(msg(dhcp6.MessageTypeConfirm, 1, iana1(1, old[0].addr))); m.Options.Status().StatusCode != iana.StatusSuccess {
		t.Errorf("confirmed: %s", m.Summary())
	}
}
