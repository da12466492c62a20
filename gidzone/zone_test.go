package gidzone

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var (
	now    = time.Date(2026, 5, 10, 9, 12, 34, 0, time.UTC)
	live   = netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94b")
	gone   = netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94c")
	apex48 = "1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
)

func config(t testing.TB, signed bool) Config {
	t.Helper()
	c := Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("2001:db8:ff00::/40")},
		NS:       []string{"ns1.isp.example", "ns2.isp.example."}, Mailbox: "hostmaster.isp.example", Names: "gid.isp.example",
		Realm: "isp.example", EpochLength: 24 * time.Hour, Ledger: "isp.example/gid-ledger", Resolve: "https://resolve.isp.example:8547",
	}
	if signed {
		k, err := NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.Key = k
	}
	return c
}

func zones(t testing.TB, signed bool) *Zones {
	t.Helper()
	var b Bindings
	b.Set(netip.PrefixFrom(live, 128), now.Add(10*time.Second))
	b.Set(netip.PrefixFrom(gone, 128), now.Add(-time.Second))
	z, err := New(config(t, signed), &b, now)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func reverse(t testing.TB, a netip.Addr) string {
	t.Helper()
	n, err := dns.ReverseAddr(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ask asks as resolvers do: with EDNS, and DO or CO if wanted.
func ask(z *Zones, name string, qtype uint16, do, co bool) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(1232, do)
	if co {
		q.IsEdns0().SetCo(true)
	}
	return z.Answer(q, now)
}

func TestWhatIsAtEachName(t *testing.T) {
	z := zones(t, false)
	other, err := Apex(netip.MustParsePrefix("2001:db8:ff00::/40"))
	if err != nil || other != "f.f.8.b.d.0.1.0.0.2.ip6.arpa." {
		t.Fatalf("%s, %v", other, err)
	}
	for _, c := range []struct {
		name   string
		qtype  uint16
		rcode  int
		answer string
	}{
		{reverse(t, live), dns.TypePTR, dns.RcodeSuccess, "PTR\tc7e27e0b911ec94b.gid.isp.example."},
		{strings.ToUpper(reverse(t, live)), dns.TypePTR, dns.RcodeSuccess, "PTR\tc7e27e0b911ec94b.gid.isp.example."},
		{reverse(t, live), dns.TypeTXT, dns.RcodeSuccess, ""},
		{reverse(t, live), dns.TypeANY, dns.RcodeSuccess, "HINFO\t\"RFC8482\""},
		{reverse(t, gone), dns.TypePTR, dns.RcodeNameError, ""},
		{reverse(t, live.Next().Next()), dns.TypePTR, dns.RcodeNameError, ""},
		// Between zone and address there is something, leased or not.
		{reverse(t, live)[16:], dns.TypeNS, dns.RcodeSuccess, ""},
		{"f.f." + apex48, dns.TypeA, dns.RcodeSuccess, ""},
		{apex48, dns.TypeSOA, dns.RcodeSuccess, "SOA\tns1.isp.example. hostmaster.isp.example."},
		{apex48, dns.TypeNS, dns.RcodeSuccess, "NS\tns2.isp.example."},
		{apex48, dns.TypeDS, dns.RcodeSuccess, ""},
		{apex48, dns.TypeDNSKEY, dns.RcodeSuccess, ""},
		{"_gid." + apex48, dns.TypeTXT, dns.RcodeSuccess, `"v=GID1; r=isp.example; e=86400; l=isp.example/gid-ledger; s=https://resolve.isp.example:8547"`},
		{"_GID." + other, dns.TypeTXT, dns.RcodeSuccess, "v=GID1"},
		{"_gid." + apex48, dns.TypePTR, dns.RcodeSuccess, ""},
		{"x._gid." + apex48, dns.TypeTXT, dns.RcodeNameError, ""},
		{"www." + apex48, dns.TypeA, dns.RcodeNameError, ""},
		{"g." + apex48, dns.TypePTR, dns.RcodeNameError, ""},
		{"1." + reverse(t, live), dns.TypePTR, dns.RcodeNameError, ""},
		{"11." + apex48, dns.TypePTR, dns.RcodeNameError, ""},
		{"\\000." + apex48, dns.TypePTR, dns.RcodeNameError, ""},
		{"2" + apex48, dns.TypePTR, dns.RcodeRefused, ""},
		{"ip6.arpa.", dns.TypeSOA, dns.RcodeRefused, ""},
		{".", dns.TypeNS, dns.RcodeRefused, ""},
		{"isp.example.", dns.TypeA, dns.RcodeRefused, ""},
		{apex48, dns.TypeAXFR, dns.RcodeRefused, ""},
		{apex48, dns.TypeNXNAME, dns.RcodeFormatError, ""},
	} {
		m := ask(z, c.name, c.qtype, false, false)
		text := fmt.Sprint(m.Answer)
		if m.Rcode != c.rcode || c.answer == "" != (len(m.Answer) == 0) || !strings.Contains(text, c.answer) {
			t.Errorf("%s %s: %s %s; want %s %q", c.name, dns.TypeToString[c.qtype], dns.RcodeToString[m.Rcode], text, dns.RcodeToString[c.rcode], c.answer)
		}
		if ok := c.rcode == dns.RcodeSuccess || c.rcode == dns.RcodeNameError; m.Authoritative != ok {
			t.Errorf("%s: authoritative %v", c.name, m.Authoritative)
		}
		if len(m.Answer) == 0 && m.Authoritative && (len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA || m.Ns[0].Header().Ttl != liveTTL) {
			t.Errorf("%s: the denial is %v", c.name, m.Ns)
		}
		for _, rr := range m.Answer {
			if rr.Header().Name != c.name {
				t.Errorf("asked for %s and told of %s", c.name, rr.Header().Name)
			}
		}
	}
	if ttl := ask(z, reverse(t, live), dns.TypePTR, false, false).Answer[0].Header().Ttl; ttl != 10 {
		t.Errorf("a lease of ten seconds more is told for %d", ttl)
	}
}

// verified checks every set of a section by the zone's key.
func verified(t *testing.T, key *dns.DNSKEY, section []dns.RR) map[uint16]bool {
	t.Helper()
	sets := make(map[uint16][]dns.RR)
	sigs := make(map[uint16]*dns.RRSIG)
	for _, rr := range section {
		if s, ok := rr.(*dns.RRSIG); ok {
			sigs[s.TypeCovered] = s
		} else {
			sets[rr.Header().Rrtype] = append(sets[rr.Header().Rrtype], rr)
		}
	}
	out := make(map[uint16]bool)
	for typ, set := range sets {
		s := sigs[typ]
		if s == nil {
			t.Errorf("%s is not signed", dns.TypeToString[typ])
			continue
		}
		if err := s.Verify(key, set); err != nil || !s.ValidityPeriod(now) {
			t.Errorf("%s: %v, in its time: %v", dns.TypeToString[typ], err, s.ValidityPeriod(now))
		}
		out[typ] = true
	}
	return out
}

func TestAnswersAreSignedAndDenialsAreCompact(t *testing.T) {
	z := zones(t, true)
	key := ask(z, apex48, dns.TypeDNSKEY, true, false).Answer[0].(*dns.DNSKEY)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  uint16 // in the answer
		types []uint16
	}{
		{apex48, dns.TypeDNSKEY, dns.TypeDNSKEY, nil},
		{apex48, dns.TypeSOA, dns.TypeSOA, nil},
		{apex48, dns.TypeNS, dns.TypeNS, nil},
		{"_gid." + apex48, dns.TypeTXT, dns.TypeTXT, nil},
		{reverse(t, live), dns.TypePTR, dns.TypePTR, nil},
		{strings.ToUpper(reverse(t, live)), dns.TypePTR, dns.TypePTR, nil},
		{apex48, dns.TypeA, 0, []uint16{dns.TypeNS, dns.TypeSOA, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeDNSKEY}},
		{"_gid." + apex48, dns.TypeA, 0, []uint16{dns.TypeTXT, dns.TypeRRSIG, dns.TypeNSEC}},
		{reverse(t, live), dns.TypeA, 0, []uint16{dns.TypePTR, dns.TypeRRSIG, dns.TypeNSEC}},
		{reverse(t, live)[8:], dns.TypePTR, 0, []uint16{dns.TypeRRSIG, dns.TypeNSEC}},
		{reverse(t, gone), dns.TypePTR, 0, []uint16{dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNXNAME}},
		{"www." + apex48, dns.TypeA, 0, []uint16{dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNXNAME}},
	} {
		m := ask(z, c.name, c.qtype, true, false)
		if m.Rcode != dns.RcodeSuccess { // to a validator that does not know of RFC 9824
			t.Errorf("%s: %s", c.name, dns.RcodeToString[m.Rcode])
		}
		if !m.IsEdns0().Do() {
			t.Errorf("%s: DO is not told back", c.name)
		}
		if c.want != 0 {
			if !verified(t, key, m.Answer)[c.want] {
				t.Errorf("%s: the answer is %v", c.name, m.Answer)
			}
			continue
		}
		have := verified(t, key, m.Ns)
		if !have[dns.TypeSOA] || !have[dns.TypeNSEC] || len(m.Answer) > 0 {
			t.Errorf("%s: the denial is %v", c.name, m.Ns)
		}
		for _, rr := range m.Ns {
			if n, ok := rr.(*dns.NSEC); ok && (fmt.Sprint(n.TypeBitMap) != fmt.Sprint(c.types) || n.NextDomain != "\\000."+c.name || n.Hdr.Name != c.name) {
				t.Errorf("%s: %v, want the types %v", c.name, n, c.types)
			}
		}
	}
	// To who understands, what is not there is not there.
	if m := ask(z, reverse(t, gone), dns.TypePTR, true, true); m.Rcode != dns.RcodeNameError || !m.IsEdns0().Co() {
		t.Errorf("with CO: %v", m)
	}
	if m := ask(z, reverse(t, gone), dns.TypePTR, false, false); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
		t.Errorf("without DO: %v", m)
	}
	// And what a parent has to say of the zone fits.
	var ds *dns.DS
	for _, rr := range z.Records() {
		if d, ok := rr.(*dns.DS); ok && d.Hdr.Name == apex48 {
			ds = d
		}
	}
	if ds == nil || ds.Digest != key.ToDS(dns.SHA256).Digest {
		t.Errorf("the DS is %v", ds)
	}
}

func TestSignaturesAreMadeAnewInTime(t *testing.T) {
	z := zones(t, true)
	first := ask(z, apex48, dns.TypeSOA, true, false).Answer[1].(*dns.RRSIG)
	q := new(dns.Msg)
	q.SetQuestion(apex48, dns.TypeSOA)
	q.SetEdns0(1232, true)
	later := now.Add(time.Hour)
	if s := z.Answer(q, now.Add(10*time.Minute)).Answer[1].(*dns.RRSIG); s.Signature != first.Signature {
		t.Error("a signature is made twice within an hour")
	}
	if s := z.Answer(q, later).Answer[1].(*dns.RRSIG); s.Signature == first.Signature || s.Expiration != first.Expiration+3600 {
		t.Errorf("an hour later: %v", s)
	}
}

func TestQuestionsThatAreNoneAreRefused(t *testing.T) {
	z := zones(t, true)
	q := func(change func(*dns.Msg)) int {
		m := new(dns.Msg)
		m.SetQuestion(apex48, dns.TypeSOA)
		m.SetEdns0(1232, false)
		change(m)
		return z.Answer(m, now).Rcode
	}
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"an answer":     {func(m *dns.Msg) { m.Response = true }, dns.RcodeFormatError},
		"an update":     {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"a notify":      {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"class CH":      {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"EDNS 1":        {func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		if got := q(c.change); got != c.want {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[got], dns.RcodeToString[c.want])
		}
	}
}

func TestConfigurationsThatMakeNoSense(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no prefix":         func(c *Config) { c.Prefixes = nil },
		"no name server":    func(c *Config) { c.NS = nil },
		"IPv4":              func(c *Config) { c.Prefixes[0] = netip.MustParsePrefix("192.0.2.0/24") },
		"half a digit":      func(c *Config) { c.Prefixes[0] = netip.MustParsePrefix("2001:db8::/46") },
		"all of the net":    func(c *Config) { c.Prefixes[0] = netip.MustParsePrefix("2000::/4") },
		"bits beyond":       func(c *Config) { c.Prefixes[0] = netip.MustParsePrefix("2001:db8::1/48") },
		"overlapping":       func(c *Config) { c.Prefixes[0] = netip.MustParsePrefix("2001:db8:ff00::/48") },
		"no mailbox":        func(c *Config) { c.Mailbox = "" },
		"a name too long":   func(c *Config) { c.Names = strings.Repeat("a", 64) + ".example" },
		"the root as names": func(c *Config) { c.Names = "." },
	} {
		c := config(t, false)
		change(&c)
		if _, err := New(c, new(Bindings), now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// A long discovery record is several character strings.
	c := config(t, false)
	c.Resolve = "https://" + strings.Repeat("r", 400) + ".example"
	z, err := New(c, new(Bindings), now)
	if err != nil {
		t.Fatal(err)
	}
	if txt := ask(z, "_gid."+apex48, dns.TypeTXT, false, false).Answer[0].(*dns.TXT).Txt; len(txt) != 2 || len(txt[0]) != 255 || !strings.HasSuffix(strings.Join(txt, ""), c.Resolve) {
		t.Errorf("%q", txt)
	}
}

func TestAKeySurvivesItsFile(t *testing.T) {
	k, err := NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseKey(text)
	if err != nil || !back.private.Equal(k.private) {
		t.Error(err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), bytes.Replace(text, []byte("M"), []byte("N"), 1)} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestBindingsEnd(t *testing.T) {
	var b Bindings
	for i := range 1000 {
		a := live.As16()
		a[14], a[15] = byte(i>>8), byte(i)
		b.Set(netip.PrefixFrom(netip.AddrFrom16(a), 128), now.Add(time.Duration(i-500)*time.Second))
	}
	if n := b.Sweep(now); n != 499 {
		t.Errorf("%d are left, want 499", n)
	}
	b.Set(netip.PrefixFrom(live, 128), now.Add(time.Minute))
	if got := b.Left(live, now); got != time.Minute {
		t.Errorf("left: %s", got)
	}
	b.Set(netip.PrefixFrom(live, 128), time.Time{})
	if got := b.Left(live, now); got != 0 {
		t.Errorf("released: %s", got)
	}
}

func TestAFloodIsLimitedAndItsTargetSpared(t *testing.T) {
	z := zones(t, false)
	l := NewLimit(10)
	victim, other := netip.MustParseAddr("2001:db8:bad::1"), netip.MustParseAddr("2001:db8:600d::1")
	m := ask(z, reverse(t, gone), dns.TypePTR, false, false)
	count := make(map[verdict]int)
	at := now
	for range 1000 { // in a second
		count[l.judge(victim, m, at)]++
		at = at.Add(time.Millisecond)
	}
	if count[send] < 15 || count[send] > 25 || count[cut] < 400 || count[drop] < 400 {
		t.Errorf("%v", count)
	}
	if l.judge(other, m, at) != send {
		t.Error("another network pays for it")
	}
	answer := ask(z, reverse(t, live), dns.TypePTR, false, false)
	if l.judge(victim, answer, at) != send {
		t.Error("another answer pays for it")
	}
	if l.judge(victim, m, at.Add(time.Second)) != send {
		t.Error("it does not end")
	}
	if NewLimit(0).judge(victim, m, at) != send {
		t.Error("no limit limits")
	}
}

func TestServedByUDPAndTCP(t *testing.T) {
	z := zones(t, true)
	pc, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stats := new(Stats)
	ended := make(chan error, 1)
	go func() {
		ended <- ServeOn(ctx, pc, l, z, NewLimit(5), stats, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	}()
	q := new(dns.Msg)
	q.SetQuestion(reverse(t, live), dns.TypePTR)
	for network, addr := range map[string]string{"udp": pc.LocalAddr().String(), "tcp": l.Addr().String()} {
		c := &dns.Client{Net: network, Timeout: 5 * time.Second}
		m, _, err := c.Exchange(q, addr)
		if err != nil || len(m.Answer) != 1 {
			t.Errorf("%s: %v, %v", network, m, err)
		}
	}
	// More than the limit: cut short, and then asked for by TCP.
	truncated := false
	for range 20 {
		c := &dns.Client{Net: "udp", Timeout: 200 * time.Millisecond}
		if m, _, err := c.Exchange(q, pc.LocalAddr().String()); err == nil && m.Truncated {
			truncated = true
		}
	}
	if !truncated || stats.Limited.Load() == 0 {
		t.Errorf("%d answers were limited, cut: %v", stats.Limited.Load(), truncated)
	}
	// What is no message ends nothing.
	u, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.Write([]byte("\x00\x01rubbish"))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	z := zones(f, true)
	for _, name := range []string{apex48, reverse(f, live), "_gid." + apex48, "\\000\\255." + apex48} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypePTR)
		q.SetEdns0(1232, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		m := z.Answer(q, now)
		if m.Id != q.Id || !m.Response {
			t.Fatal("it is no answer")
		}
		if _, err := m.Pack(); err != nil {
			t.Fatalf("%v: %v", err, m)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	for name, signed := range map[string]bool{"plain": false, "signed": true} {
		b.Run(name, func(b *testing.B) {
			z := zones(b, signed)
			q := new(dns.Msg)
			q.SetQuestion(reverse(b, live), dns.TypePTR)
			q.SetEdns0(1232, signed)
			for b.Loop() {
				if len(z.Answer(q, now).Answer) == 0 {
					b.Fatal("no answer")
				}
			}
		})
	}
}

func TestAddressesInDelegatedPrefixesAreLive(t *testing.T) {
	b := new(Bindings)
	now := time.Unix(1_800_000_000, 0)
	b.Set(netip.MustParsePrefix("2001:db8:4000:100::/56"), now.Add(time.Minute))
	b.Set(netip.MustParsePrefix("2001:db8:8000:7::/64"), now.Add(time.Hour))
	for addr, want := range map[string]time.Duration{
		"2001:db8:4000:1ff:1:2:3:4": time.Minute, "2001:db8:4000:100::": time.Minute, "2001:db8:4000:200::1": 0,
		"2001:db8:8000:7::9": time.Hour, "2001:db8:8000:6::9": 0, "2001:db8::1": 0,
	} {
		if got := b.Left(netip.MustParseAddr(addr), now); got != want {
			t.Errorf("%s has %s left, want %s", addr, got, want)
		}
	}
	if n := b.Sweep(now.Add(2 * time.Minute)); n != 1 {
		t.Errorf("%d bindings are left", n)
	}
	b.Set(netip.MustParsePrefix("2001:db8:8000:7::/64"), time.Time{})
	if got := b.Left(netip.MustParseAddr("2001:db8:8000:7::9"), now); got != 0 {
		t.Errorf("given back, it has %s left", got)
	}
}
