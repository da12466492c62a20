package milter

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"brightgid/ledgeranchor"
	"brightgid/mail"
)

var now = time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC)

// book is a journal in memory.
type book struct {
	mu      sync.Mutex
	records []*ledgeranchor.Record
	err     error
}

func (b *book) Append(payload []byte) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	s, err := ledgeranchor.DecodeSigned(payload)
	if err != nil {
		return 0, err
	}
	r, err := ledgeranchor.Decode(s.Record)
	b.records = append(b.records, r)
	return uint64(len(b.records)), err
}

func author(t testing.TB, name string) *ledgeranchor.Author {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{"relay"}}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ledgeranchor.Author{Key: key, Certificate: c}
}

func TestMain(m *testing.M) {
	SetLog(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// site is a relay with its milter served on loopback.
type site struct {
	t      testing.TB
	config Config
	book   *book
	live   mail.Live
	macros map[string]string // that the MTA tells
	addr   string
	client *gomilter.Client
}

func newSite(t testing.TB, name string, known ...*ledgeranchor.Author) *site {
	t.Helper()
	s := &site{t: t, book: &book{}, live: mail.LivePass}
	a := author(t, name)
	s.config = Config{
		Relay: name, Author: a, Journal: s.book, OnFail: ActionTag, OnError: ActionTag, OnJournal: ActionTempfail, DNSTimeout: time.Second,
		Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler), Stats: new(Stats),
		Discover: func(context.Context, netip.Addr) (*mail.ISP, mail.Live, error) {
			if s.live == mail.LiveError {
				return nil, s.live, errors.New("no answer")
			}
			return &mail.ISP{Realm: "isp.example"}, s.live, nil
		},
		Relays: &mail.Verifier{Certificate: func(id ledgeranchor.Hash) (*x509.Certificate, bool) {
			for _, k := range append(known, a) {
				if k.ID() == id {
					return k.Certificate, true
				}
			}
			return nil, false
		}},
	}
	return s
}

func (s *site) serve() {
	s.t.Helper()
	r, err := New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := r.Server()
	go server.Serve(Listen(l))
	s.t.Cleanup(func() { server.Close() })
	s.addr = l.Addr().String()
	s.client = gomilter.NewClient("tcp", l.Addr().String(), gomilter.WithActions(gomilter.AllClientSupportedActionMasks))
}

type field struct{ name, value string }

// letter is a message on its way.
type letter struct {
	fields []field
	body   string
}

func plain() letter {
	return letter{[]field{{"From", "alice@example.org"}, {"Subject", "hello"}}, "Hi  Bob\r\n"}
}

func (s *site) session() *gomilter.ClientSession {
	s.t.Helper()
	macros := gomilter.NewMacroBag()
	for name, value := range s.macros {
		macros.Set(name, value)
	}
	c, err := s.client.Session(macros)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// deliver gives the milter a message as an MTA does, and applies what it changes.
func (s *site) deliver(c *gomilter.ClientSession, addr string, m letter) (letter, *gomilter.Action, bool) {
	s.t.Helper()
	must := func(_ *gomilter.Action, err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if addr != "" { // the first message of a connection
		must(c.Conn("client.example", gomilter.FamilyInet6, 1234, addr))
		must(c.Helo("client.example"))
	}
	must(c.Mail("alice@example.org", ""))
	must(c.Rcpt("bob@example.net", ""))
	must(c.DataStart())
	for _, f := range m.fields {
		must(c.HeaderField(f.name, f.value, nil))
	}
	must(c.HeaderEnd())
	for part := m.body; part != ""; {
		n := min(3, len(part))
		must(c.BodyChunk([]byte(part[:n])))
		part = part[n:]
	}
	mods, act, err := c.End()
	if err != nil {
		s.t.Fatal(err)
	}
	quarantined := false
	out := letter{append([]field{}, m.fields...), m.body}
	for _, x := range mods {
		switch x.Type {
		case gomilter.ActionInsertHeader:
			if x.HeaderIndex != 0 {
				s.t.Errorf("a field is inserted at %d", x.HeaderIndex)
			}
			out.fields = append([]field{{x.HeaderName, strings.TrimPrefix(x.HeaderValue, " ")}}, out.fields...)
		case gomilter.ActionChangeHeader:
			n := uint32(0)
			for i, f := range out.fields {
				if strings.EqualFold(f.name, x.HeaderName) {
					if n++; n == x.HeaderIndex {
						out.fields = append(out.fields[:i:i], out.fields[i+1:]...)
						break
					}
				}
			}
		case gomilter.ActionQuarantine:
			quarantined = true
		default:
			s.t.Errorf("it does %v", x.Type)
		}
	}
	return out, act, quarantined
}

func (m letter) values(name string) (out []string) {
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			out = append(out, f.value)
		}
	}
	return out
}

// chain reads a message's chain and checks it.
func (s *site) chain(m letter) *mail.Chain {
	s.t.Helper()
	var text strings.Builder
	for _, f := range m.fields {
		fmt.Fprintf(&text, "%s: %s\n", f.name, f.value)
	}
	x, err := mail.ReadMessage(strings.NewReader(text.String() + "\n" + m.body))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := x.Chain()
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.config.Relays.Verify(c, x.Content); err != nil {
		s.t.Fatal(err)
	}
	return c
}

const gid = "2001:db8:1:0:c7e2:7e0b:911e:c94b"

func TestAMessageGetsItsSourceAndAHop(t *testing.T) {
	s := newSite(t, "mx1.example")
	s.serve()
	c := s.session()
	for i := range 3 { // several messages of one connection
		addr := ""
		if i == 0 {
			addr = "IPv6:" + gid
		}
		m, act, _ := s.deliver(c, addr, plain())
		if act.Type != gomilter.ActionAccept {
			t.Fatalf("message %d: %v", i, act)
		}
		chain := s.chain(m)
		if chain.Source.Address.String() != gid || chain.Source.Realm != "isp.example" || chain.Source.Live != mail.LivePass || len(chain.Hops) != 1 || chain.Hops[0].Stage != ledgeranchor.StageRequest {
			t.Errorf("message %d: %+v", i, chain.Source)
		}
		if got := m.values("Authentication-Results"); len(got) != 1 || !strings.HasPrefix(got[0], "mx1.example; x-bright-source=pass policy.realm=isp.example") {
			t.Errorf("results: %q", got)
		}
		if len(s.book.records) != i+1 || s.book.records[i].Message != chain.Message() {
			t.Errorf("%d records", len(s.book.records))
		}
	}
	// A client without IPv6.
	m, act, _ := s.deliver(s.session(), "192.0.2.1", plain())
	if chain := s.chain(m); act.Type != gomilter.ActionAccept || chain.Source.Address.IsValid() || chain.Source.Live != mail.LiveNone {
		t.Errorf("%+v, %v", chain.Source, act)
	}
}

func TestTheNextRelayContinuesTheChain(t *testing.T) {
	one := newSite(t, "mx1.example")
	one.serve()
	two := newSite(t, "mx2.example", one.config.Author)
	two.config.Last = true
	two.serve()
	m, _, _ := one.deliver(one.session(), gid, plain())
	m, act, _ := two.deliver(two.session(), "2001:db8:ff::1", m)
	c := two.chain(m)
	if act.Type != gomilter.ActionAccept || len(c.Hops) != 2 || c.Hops[1].Stage != ledgeranchor.StageConfirmation || c.Source.Address.String() != gid || c.Hops[1].Clock <= c.Hops[0].Clock {
		t.Errorf("%v, %+v", act, c.Hops)
	}
	if two.config.Stats.Deliveries.Load() != 1 || two.config.Stats.Forged.Load() != 0 {
		t.Error("it was not counted as a delivery")
	}
	if len(two.book.records[0].Refs) != 1 || two.book.records[0].Refs[0] != c.Hops[0].Record {
		t.Error("the record does not rest on the first one")
	}
}

// What a message brings and does not hold is removed, and the chain begins here.
func TestForgedFieldsAreRemoved(t *testing.T) {
	one := newSite(t, "mx1.example")
	one.serve()
	genuine, _, _ := one.deliver(one.session(), gid, plain())
	stranger := newSite(t, "stranger.example")
	stranger.serve()
	unknown, _, _ := stranger.deliver(stranger.session(), gid, plain())
	changed := letter{append([]field{}, genuine.fields...), "another body"}
	twice := letter{append(append([]field{}, genuine.fields...), field{mail.SourceField, genuine.values(mail.SourceField)[0]}), genuine.body}
	rubbish := letter{append([]field{{"Bright-Hop", "x"}, {"BRIGHT-SOURCE", "y"}, {"Bright-hop", "z"}}, plain().fields...), "x"}
	results := letter{append([]field{{"Authentication-Results", "MX2.example; x-bright-source=pass"}, {"Authentication-Results", "other.example; spf=pass"}, {"Authentication-Results", "mx2.example 1; dkim=pass"}}, plain().fields...), "x"}
	many := letter{[]field{}, "x"}
	for range 200 {
		many.fields = append(many.fields, field{mail.HopField, "v=1"})
	}
	for name, m := range map[string]letter{"a changed body": changed, "a relay that nobody knows": unknown, "two sources": twice, "rubbish": rubbish, "results in our name": results, "an absurd chain": many} {
		two := newSite(t, "mx2.example", one.config.Author)
		two.serve()
		out, act, _ := two.deliver(two.session(), "2001:db8:5::5", m)
		c := two.chain(out)
		if act.Type != gomilter.ActionAccept || len(c.Hops) != 1 || c.Source.Address.String() != "2001:db8:5::5" {
			t.Errorf("%s: %v, %+v", name, act, c.Source)
		}
		got := out.values("Authentication-Results")
		ours := 0
		for _, v := range got {
			if strings.HasPrefix(strings.ToLower(v), "mx2.example") {
				ours++
			}
		}
		if ours != 1 {
			t.Errorf("%s: results %q", name, got)
		}
	}
}

// A header that nobody could check is refused, and what stands behind it does not get
// through.
func TestAHeaderThatIsTooLongIsRefused(t *testing.T) {
	long, many := letter{body: "x"}, letter{body: "x"}
	for range maxHeader/60_000 + 1 {
		long.fields = append(long.fields, field{"X-Padding", strings.Repeat("x", 60_000)})
	}
	for range maxFields + 1 {
		many.fields = append(many.fields, field{"A", "b"})
	}
	long.fields = append(long.fields, field{mail.SourceField, "forged"})
	for name, m := range map[string]letter{"in bytes": long, "in fields": many} {
		s := newSite(t, "mx1.example")
		s.serve()
		c := s.session()
		if _, act, _ := s.deliver(c, gid, m); act.Type != gomilter.ActionRejectWithCode || act.SMTPCode != 552 || len(s.book.records) != 0 {
			t.Errorf("%s: %v, %d records", name, act, len(s.book.records))
		}
		if _, act, _ := s.deliver(c, "", plain()); act.Type != gomilter.ActionAccept {
			t.Errorf("%s: the next message: %v", name, act)
		}
	}
}

// port has the MTA tell to which of its ports the client came.
func port(n string, change func(*site)) func(*site) {
	return func(s *site) {
		s.macros = map[string]string{gomilter.MacroDaemonPort: n}
		change(s)
	}
}

func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		name        string
		change      func(s *site)
		want        gomilter.ActionType
		quarantined bool
		records     int
	}{
		{"not leased, tag", func(s *site) { s.live = mail.LiveFail }, gomilter.ActionAccept, false, 1},
		{"not leased, reject", func(s *site) { s.live, s.config.OnFail = mail.LiveFail, ActionReject }, gomilter.ActionRejectWithCode, false, 0},
		{"not leased, quarantine", func(s *site) { s.live, s.config.OnFail = mail.LiveFail, ActionQuarantine }, gomilter.ActionAccept, true, 1},
		{"no answer, tag", func(s *site) { s.live = mail.LiveError }, gomilter.ActionAccept, false, 1},
		{"no answer, tempfail", func(s *site) { s.live, s.config.OnError = mail.LiveError, ActionTempfail }, gomilter.ActionTempFail, false, 0},
		{"no journal, tempfail", func(s *site) { s.book.err = errors.New("full") }, gomilter.ActionTempFail, false, 0},
		{"no journal, accept", func(s *site) { s.book.err, s.config.OnJournal = errors.New("full"), ActionAccept }, gomilter.ActionAccept, false, 0},
		{"a trusted network", func(s *site) { s.config.Trusted = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")} }, gomilter.ActionAccept, false, 0},
		{"an exempt port", port("10025", func(s *site) { s.config.Exempt = []uint16{10025} }), gomilter.ActionAccept, false, 0},
		{"another port than the exempt one", port("25", func(s *site) { s.config.Exempt = []uint16{10025} }), gomilter.ActionAccept, false, 1},
		{"no port told", func(s *site) { s.config.Exempt = []uint16{0, 10025} }, gomilter.ActionAccept, false, 1},
		{"a port that is none", port("10025; 25", func(s *site) { s.config.Exempt = []uint16{10025} }), gomilter.ActionAccept, false, 1},
		{"a port that is too large", port("75561", func(s *site) { s.config.Exempt = []uint16{10025} }), gomilter.ActionAccept, false, 1},
		{"a network to sign for", func(s *site) { s.config.SignFrom = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")} }, gomilter.ActionAccept, false, 1},
		{"a network not to sign for", func(s *site) { s.config.SignFrom = []netip.Prefix{netip.MustParsePrefix("2001:db8:2::/48")} }, gomilter.ActionAccept, false, 0},
		{"a domain to sign for", func(s *site) { s.config.SignDomains = []string{"Example.org"} }, gomilter.ActionAccept, false, 1},
		{"a domain above", func(s *site) { s.config.SignDomains = []string{"org."} }, gomilter.ActionAccept, false, 1},
		{"a domain not to sign for", func(s *site) { s.config.SignDomains = []string{"ample.org"} }, gomilter.ActionAccept, false, 0},
		{"an author who is known may be anywhere", port("587", func(s *site) {
			s.live, s.config.OnFail, s.config.Submission = mail.LiveFail, ActionReject, []uint16{587}
			s.macros[gomilter.MacroAuthAuthen] = "alice"
		}), gomilter.ActionAccept, false, 1},
		{"an author who is not known", port("587", func(s *site) {
			s.live, s.config.OnFail, s.config.Submission = mail.LiveFail, ActionReject, []uint16{587}
		}), gomilter.ActionRejectWithCode, false, 0},
		{"a name at a port for relays", port("25", func(s *site) {
			s.live, s.config.OnFail, s.config.Submission = mail.LiveFail, ActionReject, []uint16{587}
			s.macros[gomilter.MacroAuthAuthen] = "alice"
		}), gomilter.ActionRejectWithCode, false, 0},
	} {
		s := newSite(t, "mx1.example")
		c.change(s)
		s.serve()
		m, act, quarantined := s.deliver(s.session(), gid, plain())
		if act.Type != c.want || quarantined != c.quarantined || len(s.book.records) != c.records {
			t.Errorf("%s: %v, quarantined %v, %d records", c.name, act, quarantined, len(s.book.records))
		}
		if hops := len(m.values(mail.HopField)); hops != c.records {
			t.Errorf("%s: %d hops in the message, %d records", c.name, hops, c.records)
		}
	}
	s := newSite(t, "mx1.example")
	s.config.OnFail = "shrug"
	if _, err := New(s.config); err == nil {
		t.Error("a policy that is none was taken")
	}
}

// What is forged does not get through where no hop is added either.
func TestForgedFieldsGoAlsoWithoutAHop(t *testing.T) {
	for name, change := range map[string]func(*site){
		"no journal":               func(s *site) { s.book.err, s.config.OnJournal = errors.New("full"), ActionAccept },
		"a domain not to sign for": func(s *site) { s.config.SignDomains = []string{"example.com"} },
	} {
		s := newSite(t, "mx1.example")
		change(s)
		s.serve()
		m := letter{append([]field{{mail.SourceField, "v=1"}, {mail.HopField, "v=1"}, {"Authentication-Results", "mx1.example; x-bright-source=pass"}}, plain().fields...), "x"}
		out, act, _ := s.deliver(s.session(), gid, m)
		if act.Type != gomilter.ActionAccept || len(out.values(mail.SourceField))+len(out.values(mail.HopField)) != 0 {
			t.Errorf("%s: %v, %+v", name, act, out.fields)
		}
		for _, r := range out.values("Authentication-Results") {
			if strings.Contains(r, "pass") {
				t.Errorf("%s: results %q", name, r)
			}
		}
	}
}

// At a port for submission there is no relay before this one.
func TestAnAuthorBringsNoChain(t *testing.T) {
	one := newSite(t, "mx1.example")
	one.serve()
	m, _, _ := one.deliver(one.session(), gid, plain())
	two := newSite(t, "mx2.example", one.config.Author)
	two.config.Submission, two.macros = []uint16{465, 587}, map[string]string{gomilter.MacroDaemonPort: "587"}
	two.serve()
	out, act, _ := two.deliver(two.session(), "2001:db8:5::5", m)
	if c := two.chain(out); act.Type != gomilter.ActionAccept || len(c.Hops) != 1 || c.Source.Address.String() != "2001:db8:5::5" {
		t.Errorf("%v, %+v", act, c)
	}
}

// Packets that no MTA sends end their connection and no other.
func TestPacketsThatNoMTASends(t *testing.T) {
	s := newSite(t, "mx1.example")
	s.serve()
	negotiate := []byte("\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")
	packet := func(text string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	bad := [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 9, 'C'}, {0}, packet("\x00"), packet("Z"), packet("zzz")}
	for _, code := range "ABCDEHKLMNOQRTUXabcdefghmnopqrstuvwxyz" {
		for _, rest := range []string{"", "\x00", "\x00\x00\x00", "x", "x\x00", "x\x00y", "x\x006", "x\x006\x00", "x\x006\x00\x19", "x\x006\x00\x19addr", "x\x00\xff\x00\x19addr\x00", "C", "C\x00", "Cx", "Cx\x00", "Cx\x00y", strings.Repeat("\x00", 300), strings.Repeat("y", 300)} {
			bad = append(bad, packet(string(code)+rest))
		}
	}
	for _, first := range [][]byte{nil, negotiate} {
		for _, b := range bad {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(append(slices.Clone(first), b...)); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	if _, act, _ := s.deliver(s.session(), gid, plain()); act.Type != gomilter.ActionAccept {
		t.Errorf("the next message: %v", act)
	}
}

// A message that is given up leaves nothing, and many at once disturb none.
func TestManySessions(t *testing.T) {
	s := newSite(t, "mx1.example")
	s.serve()
	c := s.session()
	if _, err := c.Conn("x", gomilter.FamilyInet6, 1, gid); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Helo("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Mail("x", ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Abort(nil); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		session := s.session()
		all.Go(func() {
			for i := range 20 {
				m := plain()
				m.body = fmt.Sprintf("%d\r\n", i)
				addr := gid
				if i > 0 {
					addr = ""
				}
				if _, act, _ := s.deliver(session, addr, m); act.Type != gomilter.ActionAccept {
					t.Errorf("%v", act)
				}
			}
		})
	}
	all.Wait()
	clocks := make(map[uint64]bool)
	for _, r := range s.book.records {
		clocks[r.Hop.Clock] = true
	}
	if len(s.book.records) != 160 || len(clocks) != 160 {
		t.Errorf("%d records with %d clocks", len(s.book.records), len(clocks))
	}
}

// pipes is a listener whose connections are in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// Whatever an MTA sends, after it has negotiated or instead, ends at worst its connection.
func FuzzMTA(f *testing.F) {
	negotiated := "\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff"
	f.Add([]byte(negotiated + "\x00\x00\x00\x00"))
	f.Add([]byte(negotiated + "\x00\x00\x00\x11Cx\x006\x00\x192001:db8::1\x00\x00\x00\x00\x04M<>\x00\x00\x00\x00\x09LFrom\x00x\x00\x00\x00\x00\x02Bx\x00\x00\x00\x01E"))
	f.Add([]byte(negotiated + "\x00\x00\x00\x16DC{daemon_port}\x0010025\x00"))
	s := newSite(f, "mx1.example")
	r, err := New(s.config)
	if err != nil {
		f.Fatal(err)
	}
	l := make(pipes)
	server := r.Server()
	go server.Serve(Listen(l))
	f.Cleanup(func() {
		close(l)
		server.Close()
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		here, there := net.Pipe()
		l <- there
		go io.Copy(io.Discard, here)
		if err := here.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = here.Write(b) // the server may have ended the connection
		here.Close()
	})
}
