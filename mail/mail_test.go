package mail

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"brightgid/ledgeranchor"
)

var now = time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC)

const letter = "From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: A  letter\r\n\tthat is folded\r\nDate: Sun, 10 May 2026 09:00:00 +0000\r\nX-Other: not hashed\r\n\r\nHello  Bob,\r\n\r\n  this is it. \r\n\r\n\r\n"

// road is relays and a ledger.
type road struct {
	t       testing.TB
	relays  []*ledgeranchor.Author
	clocks  []uint64
	records map[ledgeranchor.Hash]*ledgeranchor.Record
}

func newRoad(t testing.TB, n int) *road {
	t.Helper()
	r := &road{t: t, clocks: make([]uint64, n), records: make(map[ledgeranchor.Hash]*ledgeranchor.Record)}
	for i := range n {
		r.relays = append(r.relays, author(t, fmt.Sprintf("relay%d.example", i+1), i%2 == 1, ledgeranchor.RoleRelay))
	}
	return r
}

func author(t testing.TB, name string, p256 bool, role string) *ledgeranchor.Author {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{role}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	var a ledgeranchor.Author
	var err error
	if p256 {
		a.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		_, a.Key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.Key.Public(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	if a.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &a
}

func (r *road) certificate(id ledgeranchor.Hash) (*x509.Certificate, bool) {
	for _, a := range r.relays {
		if a.ID() == id {
			return a.Certificate, true
		}
	}
	return nil, false
}

func (r *road) record(name ledgeranchor.Hash) (*ledgeranchor.Record, error) {
	if x := r.records[name]; x != nil {
		return x, nil
	}
	return nil, ledgeranchor.ErrNotFound
}

func (r *road) verifier() *Verifier { return &Verifier{Certificate: r.certificate, Record: r.record} }

func read(t testing.TB, text string) *Message {
	t.Helper()
	m, err := ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var envelope = Envelope{From: Tag{1}, To: []Tag{{2}, {3}}}

// pass has the i-th relay pass a message on.
func (r *road) pass(text string, i int) string {
	r.t.Helper()
	m := read(r.t, text)
	var c *Chain
	var err error
	stage, at := ledgeranchor.StageDelivery, now.Add(time.Duration(i)*time.Second)
	added := ""
	if i == 0 {
		stage = ledgeranchor.StageRequest
		salt, err := NewSalt(rand.Reader)
		if err != nil {
			r.t.Fatal(err)
		}
		if c, err = NewChain(&Source{Address: netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94b"), Realm: "isp.example", Live: LivePass, At: at, Salt: salt, Fields: m.Content.Names()}); err != nil {
			r.t.Fatal(err)
		}
		value, err := c.Source.Format()
		if err != nil {
			r.t.Fatal(err)
		}
		added = SourceField + ": " + value + "\r\n"
	} else if c, err = m.Chain(); err != nil {
		r.t.Fatal(err)
	}
	if i == len(r.relays)-1 && i > 0 {
		stage = ledgeranchor.StageConfirmation
	}
	next := ""
	if i+1 < len(r.relays) {
		next = r.relays[i+1].Certificate.Subject.CommonName
	}
	value, signed, clock, err := c.Append(r.relays[i], Next{Relay: r.relays[i].Certificate.Subject.CommonName, Clock: r.clocks[i], Stage: stage, At: at,
		Content: m.Content.Sum(c.Source.Fields), To: next, Envelope: envelope})
	if err != nil {
		r.t.Fatal(err)
	}
	r.clocks[i] = clock
	rec, err := ledgeranchor.Decode(signed.Record)
	if err != nil {
		r.t.Fatal(err)
	}
	r.records[signed.Name()] = rec
	return "Received: by relay; some day\r\n" + HopField + ": " + value + "\r\n" + added + text
}

func (r *road) passAll(text string) string {
	for i := range r.relays {
		text = r.pass(text, i)
	}
	return text
}

func (r *road) verify(text string) ([]Verdict, error) {
	m, err := ReadMessage(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	c, err := m.Chain()
	if err != nil {
		return nil, err
	}
	return r.verifier().Verify(c, m.Content)
}

func TestAChainOfThreeHolds(t *testing.T) {
	r := newRoad(t, 3)
	r.clocks[1] = 1000
	text := r.passAll(letter)
	verdicts, err := r.verify(text)
	if err != nil || len(verdicts) != 3 {
		t.Fatalf("%+v, %v", verdicts, err)
	}
	if a, b, c := verdicts[0].Hop.Clock, verdicts[1].Hop.Clock, verdicts[2].Hop.Clock; a != 1 || b != 1001 || c != 1002 {
		t.Errorf("clocks %d, %d, %d", a, b, c)
	}
	for line := range strings.SplitSeq(text, "\r\n") {
		if strings.HasPrefix(line, HopField) && len(line) > 998 {
			t.Errorf("a line of %d characters", len(line))
		}
	}
	e, err := EnvelopeOf(r.records[verdicts[1].Hop.Record])
	if err != nil || e.From != envelope.From || !slices.Equal(e.To, envelope.To) {
		t.Errorf("%+v, %v", e, err)
	}
	// Offline, with certificates only.
	m := read(t, text)
	c, err := m.Chain()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Verifier{Certificate: r.certificate}).Verify(c, m.Content); err != nil {
		t.Error(err)
	}
}

// What relays do on the way does not break it.
func TestAChainSurvivesWhatRelaysDo(t *testing.T) {
	r := newRoad(t, 3)
	text := r.passAll(letter)
	for name, change := range map[string]func(string) string{
		"lines that end in LF":      func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") },
		"a mailbox's first line":    func(s string) string { return "From alice@example.org Sun May 10 09:00:00 2026\n" + s },
		"fields added before":       func(s string) string { return "X-Spam: no\r\nReceived: by another\r\n" + s },
		"fields that were missing":  func(s string) string { return strings.Replace(s, "X-Other:", "Message-ID: <1@example>\r\nX-Other:", 1) },
		"a subject folded anew":     func(s string) string { return strings.Replace(s, "A  letter\r\n\tthat", "A letter that", 1) },
		"white space at ends":       func(s string) string { return strings.Replace(s, "Hello  Bob,", "Hello Bob, \t", 1) },
		"another field changed":     func(s string) string { return strings.Replace(s, "not hashed", "changed", 1) },
		"names in capitals":         func(s string) string { return strings.Replace(s, "Subject:", "SUBJECT :", 1) },
		"empty lines at the end":    func(s string) string { return s + "\r\n\r\n" },
		"the chain's fields folded": func(s string) string { return strings.ReplaceAll(s, "; l=", ";\r\n\t l=") },
		"the chain's fields moved": func(s string) string {
			i := strings.Index(s, HopField)
			j := i + strings.Index(s[i:], "\r\nReceived") + 2
			return strings.Replace(s[:i]+s[j:], "X-Other:", s[i:j]+"X-Other:", 1)
		},
	} {
		changed := change(text)
		if changed == text {
			t.Errorf("%s: nothing was changed", name)
		}
		if _, err := r.verify(changed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The first hop that does not hold is named.
func TestWhatDoesNotHoldIsNamed(t *testing.T) {
	r := newRoad(t, 3)
	text := r.passAll(letter)
	hop := func(s string, place int) (int, int) {
		i := strings.Index(s, fmt.Sprintf("i=%d;", place))
		i = strings.LastIndex(s[:i], HopField)
		j := i
		for {
			j += strings.Index(s[j:], "\r\n") + 2
			if s[j] != '\t' {
				return i, j
			}
		}
	}
	edit := func(place int, old, new string) func(string) string {
		return func(s string) string {
			i, j := hop(s, place)
			return s[:i] + strings.Replace(s[i:j], old, new, 1) + s[j:]
		}
	}
	for _, c := range []struct {
		name, want string
		change     func(string) string
	}{
		{"the body", "hop 3, relay3.example: the message is not what", func(s string) string { return strings.Replace(s, "this is it", "this is that", 1) }},
		{"the subject", "hop 3, relay3.example: the message is not what", func(s string) string { return strings.Replace(s, "that is folded", "that is forged", 1) }},
		{"a second subject", "hop 3", func(s string) string { return strings.Replace(s, "X-Other:", "Subject: another\r\nX-Other:", 1) }},
		{"a field less", "hop 3", func(s string) string { return strings.Replace(s, "To: bob@example.net\r\n", "", 1) }},
		{"the source", "hop 1, relay1.example: its signature", func(s string) string { return strings.Replace(s, "c7e2:7e0b", "c7e2:7e0c", 1) }},
		{"the live check", "hop 1, relay1.example: its signature", func(s string) string { return strings.Replace(s, "live=pass", "live=none", 1) }},
		{"the second hop's clock", "hop 2, relay2.example: its signature", edit(2, " l=2;", " l=3;")},
		{"the second hop's name", "hop 2, evil.example", edit(2, "relay2.example", "evil.example")},
		{"the second hop left out", "of which one is at place 3", func(s string) string {
			i, j := hop(s, 2)
			return s[:i] + s[j:]
		}},
		{"the last hop left out", "hop 2", func(s string) string {
			i, j := hop(s, 3)
			k, _ := hop(s, 2)
			return s[:i] + s[j:k] + strings.Replace(s[k:], "this is it", "this is that", 1)
		}},
		{"no source", "0 fields Bright-Source", func(s string) string { return strings.Replace(s, SourceField, "X-Source", 1) }},
		{"two sources", "2 fields Bright-Source", func(s string) string { return SourceField + ": x\r\n" + s }},
		{"a chain of nothing", "0 fields Bright-Hop", func(s string) string { return strings.ReplaceAll(s, HopField, "X-Hop") }},
		{"an absurd chain", "65 fields Bright-Hop", func(s string) string { return strings.Repeat(HopField+": v=1\r\n", 200) + s }},
		{"rubbish", "it is no list", func(s string) string { return strings.Replace(s, HopField+": v=1", HopField+": hello", 1) }},
		{"a tag more", "tags, want", func(s string) string { return strings.Replace(s, HopField+": v=1", HopField+": v=1; x=y", 1) }},
	} {
		changed := c.change(text)
		_, err := r.verify(changed)
		if !errors.Is(err, ErrChain) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

// A relay that signs something wrong is named: its own key does not help it.
func TestARelayThatLiesIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, want string
		lie        func(r *road, c *Chain, n *Next)
	}{
		{"an earlier clock", "one of the two lies about the order", func(r *road, c *Chain, n *Next) { c.Hops[0].Clock = 0 }},
		{"an earlier time", "before the hop before it", func(r *road, c *Chain, n *Next) { n.At = n.At.Add(-time.Hour) }},
		{"another content", "was changed between relay1.example and it", func(r *road, c *Chain, n *Next) { n.Content[0] ^= 1 }},
		{"a request in the middle", "a request at place 2", func(r *road, c *Chain, n *Next) { n.Stage = ledgeranchor.StageRequest }},
		{"another relay than was named", "had named relay2.example", func(r *road, c *Chain, n *Next) { n.Relay = "other.example" }},
		{"no record", "its record: the ledger has no such record", func(r *road, c *Chain, n *Next) { n.To = "forget" }},
	} {
		r := newRoad(t, 2)
		text := r.pass(letter, 0)
		m := read(t, text)
		chain, err := m.Chain()
		if err != nil {
			t.Fatal(err)
		}
		n := Next{Relay: "relay2.example", Stage: ledgeranchor.StageConfirmation, At: now.Add(time.Second), Content: m.Content.Sum(chain.Source.Fields), Envelope: envelope}
		c.lie(r, chain, &n)
		value, signed, _, err := chain.Append(r.relays[1], n)
		if err != nil {
			t.Fatal(err)
		}
		if n.To != "forget" {
			rec, _ := ledgeranchor.Decode(signed.Record)
			r.records[signed.Name()] = rec
		}
		verdicts, err := r.verify(HopField + ": " + value + "\r\n" + text)
		if !errors.Is(err, ErrChain) || !strings.Contains(fmt.Sprint(verdicts[1].Problems), c.want) || len(verdicts[0].Problems) > 0 {
			t.Errorf("%s: %v, %v; want %q", c.name, err, verdicts, c.want)
		}
	}
	// Who is no relay, and who is not known.
	r := newRoad(t, 1)
	r.relays[0] = author(t, "relay1.example", false, ledgeranchor.RoleJudge)
	text := r.pass(letter, 0)
	if _, err := r.verify(text); err == nil || !strings.Contains(err.Error(), "is no relay") {
		t.Errorf("a judge: %v", err)
	}
	r.relays = nil
	if _, err := r.verify(text); err == nil || !strings.Contains(err.Error(), "is not known") {
		t.Errorf("a stranger: %v", err)
	}
}

// A record that tells something else than the hop is named.
func TestARecordThatDisagreesIsNamed(t *testing.T) {
	for name, change := range map[string]func(*ledgeranchor.Record){
		"another message": func(x *ledgeranchor.Record) { x.Message[0] ^= 1 },
		"another source":  func(x *ledgeranchor.Record) { x.Addresses[0][15] ^= 1 },
		"no source":       func(x *ledgeranchor.Record) { x.Addresses = nil },
		"another clock": func(x *ledgeranchor.Record) {
			x.Hop = &ledgeranchor.Hop{Stage: x.Hop.Stage, Clock: 99, Content: x.Hop.Content}
		},
		"another time":   func(x *ledgeranchor.Record) { x.Time++ },
		"another author": func(x *ledgeranchor.Record) { x.Author[0] ^= 1 },
		"another kind":   func(x *ledgeranchor.Record) { x.Kind = ledgeranchor.KindWarrant },
		"no hop before":  func(x *ledgeranchor.Record) { x.Refs = nil },
	} {
		r := newRoad(t, 2)
		text := r.passAll(letter)
		c, err := read(t, text).Chain()
		if err != nil {
			t.Fatal(err)
		}
		change(r.records[c.Hops[1].Record])
		if _, err := r.verify(text); err == nil || !strings.Contains(err.Error(), "hop 2, relay2.example: its record") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The relaxed form of RFC 6376 §3.4.5's example, and other bodies.
func TestBodiesAreRelaxed(t *testing.T) {
	body := func(s string) string {
		c := NewContent()
		if _, err := io.Copy(c, iotest.OneByteReader(strings.NewReader(s))); err != nil {
			t.Fatal(err)
		}
		e := c.Sum(nil)
		return hex.EncodeToString(e[:])
	}
	example := body(" C \r\nD \t E\r\n\r\n\r\n")
	for _, same := range []string{" C\r\nD E\r\n", "\tC \nD E", " C\r\nD  \tE  \r\n \r\n\t\r\n", " C\nD E\n\n"} {
		if body(same) != example {
			t.Errorf("%q is not the same", same)
		}
	}
	for _, other := range []string{"C\r\nD E\r\n", " C\r\nDE\r\n", " C\r\n\r\nD E\r\n", " C\rD E\r\n", "", " C\r\nD E\x00\r\n"} {
		if body(other) == example {
			t.Errorf("%q is the same", other)
		}
	}
	if body("") != body("\r\n\r\n") || body("") != body(" \n") {
		t.Error("bodies of nothing differ")
	}
	if body("x\r") == body("x") {
		t.Error("a CR at the end is lost")
	}
	// In parts of any size.
	long := strings.Repeat("line  of text \r\n\r\n", 5000)
	c := NewContent()
	c.Write([]byte(long))
	if e := c.Sum(nil); hex.EncodeToString(e[:]) != body(long) {
		t.Error("the parts' sizes matter")
	}
	first := c.Sum(nil)
	if again := c.Sum(nil); again != first {
		t.Error("the sum changes when it is taken")
	}
}

func TestHeadersThatCannotBeRead(t *testing.T) {
	for name, text := range map[string]string{
		"no colon":         "Subject\r\n\r\nx",
		"a NUL in a name":  "Sub\x00ject: x\r\n\r\n",
		"a million fields": strings.Repeat("a: b\r\n", 1_000_000) + "\r\n",
		"a field too long": "a: " + strings.Repeat("b", MaxHeader+1) + "\r\n\r\n",
		"a name of spaces": "  : x\r\n\r\n",
	} {
		if _, err := ReadMessage(strings.NewReader(text)); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %v, want ErrHeader", name, err)
		}
	}
	if _, err := ReadMessage(iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that fails: %v", err)
	}
	if m := read(t, "Subject: x"); len(m.Content.Names()) != 1 {
		t.Error("a message without a body has no header")
	}
	if m := read(t, "Subject: "+strings.Repeat("y", 100_000)+"\r\n\r\nz"); len(m.Content.Names()) != 1 {
		t.Error("a line longer than the buffer is lost")
	}
}

func TestATagNeedsTheSalt(t *testing.T) {
	a, b := Salt{1}, Salt{2}
	if a.TagOf(RoleFrom, "Alice@Example.ORG") != a.TagOf(RoleFrom, "Alice@example.org") || a.TagOf(RoleFrom, "alice@example.org") == a.TagOf(RoleFrom, "Alice@example.org") {
		t.Error("a domain's case matters, or a local part's does not")
	}
	if a.TagOf(RoleFrom, "x@y") == b.TagOf(RoleFrom, "x@y") || a.TagOf(RoleFrom, "x@y") == a.TagOf(RoleTo, "x@y") {
		t.Error("tags are alike")
	}
}

func FuzzReadMessage(f *testing.F) {
	r := newRoad(f, 2)
	text := r.passAll(letter)
	f.Add([]byte(text))
	f.Add([]byte("a: b\n c\n\nbody\r"))
	v := r.verifier()
	want := read(f, text).Content.Sum(contentHeaders)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		c, err := m.Chain()
		if err != nil {
			return
		}
		if _, err := v.Verify(c, m.Content); err == nil && m.Content.Sum(c.Source.Fields) != c.Hops[0].Content {
			t.Fatalf("a forged message holds (%s)", want)
		}
	})
}

func FuzzParseChain(f *testing.F) {
	r := newRoad(f, 2)
	m := read(f, r.passAll(letter))
	f.Add(m.Sources[0], m.Hops[0])
	f.Fuzz(func(t *testing.T, source, hop string) {
		if s, err := parseSource(source); err == nil {
			value, err := s.Format()
			if err != nil || relaxedValue(value) != relaxedValue(source) {
				t.Fatalf("%q is written as %q, %v", source, value, err)
			}
		}
		if h, err := parseHop(hop); err == nil && relaxedValue(h.format(h.signature)) != relaxedValue(hop) {
			t.Fatalf("%q is written otherwise", hop)
		}
	})
}
