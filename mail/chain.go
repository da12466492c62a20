package mail

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"brightgid/ledgeranchor"
)

// MaxHops is how many hops a chain may have.
const MaxHops = 64

// ErrChain is wrapped by every error about a chain.
var ErrChain = errors.New("the hop chain does not hold")

// Live is what the ISP's reverse zone said of a source address.
type Live string

// Results of the live check.
const (
	LivePass  Live = "pass"  // the address is leased
	LiveFail  Live = "fail"  // the ISP is known, and the address is not leased
	LiveNone  Live = "none"  // no ISP answers for the address
	LiveError Live = "error" // the ISP could not be asked
)

// Source is what the first relay says of where a message came from. In a header it is
//
//	Bright-Source: v=1; a=<address>; r=<realm>; live=<result>; t=<unix seconds>;
//		s=<salt>; h=<fields that content is hashed with>
//
// with "-" where there is nothing, and base64 for the salt.
type Source struct {
	Address netip.Addr // IPv6; none if the message came otherwise
	Realm   string     // of the ISP; empty if none is known
	Live    Live
	At      time.Time // whole seconds
	Salt    Salt
	Fields  []string
}

// Salt hides from the ledger what a message's tags stand for.
type Salt [16]byte

// NewSalt draws a salt.
func NewSalt(rand io.Reader) (s Salt, err error) {
	if _, err := io.ReadFull(rand, s[:]); err != nil {
		return s, fmt.Errorf("reading randomness: %w", err)
	}
	return s, nil
}

// Tag stands for a mailbox on the ledger: the first 16 bytes of
// HMAC-SHA256(salt, role ‖ 0 ‖ mailbox), the mailbox's domain in lower case.
type Tag [16]byte

// Roles of mailboxes.
const (
	RoleFrom = "from" // of the envelope
	RoleTo   = "to"
)

// TagOf returns a mailbox's tag.
func (s Salt) TagOf(role, mailbox string) (t Tag) {
	if at := strings.LastIndexByte(mailbox, '@'); at >= 0 {
		mailbox = mailbox[:at] + strings.ToLower(mailbox[at:])
	}
	h := hmac.New(sha256.New, s[:])
	h.Write([]byte(role + "\x00" + mailbox))
	copy(t[:], h.Sum(nil))
	return t
}

// Envelope is the body of a hop's record: the CBOR array [1, from, [to, …]] of tags.
type Envelope struct {
	_       struct{} `cbor:",toarray"`
	Version uint     // 1
	From    Tag
	To      []Tag
}

// MaxRecipients is how many recipients a record tells of; a message to more has the
// first of them.
const MaxRecipients = 128

// MessageID commits to a message: SHA-256 of "gid-message-1", a zero byte, the salt and
// the hash of the content as the first relay saw it.
func MessageID(s Salt, content ledgeranchor.Hash) ledgeranchor.Hash {
	h := sha256.New()
	h.Write([]byte("gid-message-1\x00"))
	h.Write(s[:])
	h.Write(content[:])
	return ledgeranchor.Hash(h.Sum(nil))
}

// Hop is one relay's coordinate in a chain. In a header it is
//
//	Bright-Hop: v=1; i=<place from 1>; d=<relay>; o=<its author id>; l=<clock>;
//		st=<stage>; t=<unix milliseconds>; e=<content>; n=<next relay>; rec=<record>; b=<signature>
//
// with base64 for hashes and the signature, and "-" for a next relay that is not known.
type Hop struct {
	Place   int
	Relay   string            // its name
	Author  ledgeranchor.Hash // its author id, o
	Clock   uint64            // l
	Stage   ledgeranchor.Stage
	At      time.Time         // whole milliseconds
	Content ledgeranchor.Hash // e
	Next    string            // the name of the next relay, n; empty if not known
	Record  ledgeranchor.Hash // the name of its record

	signature []byte
}

// Chain is a message's source and the hops that it has taken.
type Chain struct {
	Source *Source
	Hops   []*Hop

	source string   // as it stands in the header, relaxed
	hops   []string // the same, by place
}

var b64 = base64.StdEncoding.Strict()

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func fromDash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

// word reports whether a text can stand in a tag.
func word(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ';' || r == '=' })
}

// Format returns the value of Bright-Source.
func (s *Source) Format() (string, error) {
	if s.Realm != "" && !word(s.Realm) {
		return "", fmt.Errorf("%w: realm %.40q", ErrChain, s.Realm)
	}
	addr := ""
	if s.Address.IsValid() {
		addr = s.Address.String()
	}
	value := formatTags([]tag{{"v", "1"}, {"a", orDash(addr)}, {"r", orDash(s.Realm)}, {"live", string(s.Live)}, {"t", strconv.FormatInt(s.At.Unix(), 10)},
		{"s", b64.EncodeToString(s.Salt[:])}, {"h", orDash(strings.Join(s.Fields, ":"))}})
	_, err := parseSource(value)
	return value, err
}

func parseSource(value string) (*Source, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrChain, SourceField, fmt.Sprintf(format, args...))
	}
	t, err := parseTags(value, "v", "a", "r", "live", "t", "s", "h")
	if err != nil {
		return nil, bad("%v", err)
	}
	if t["v"] != "1" {
		return nil, bad("version %.20q", t["v"])
	}
	s := &Source{Realm: fromDash(t["r"]), Live: Live(t["live"])}
	if t["a"] != "-" {
		if s.Address, err = netip.ParseAddr(t["a"]); err != nil || !s.Address.Is6() || s.Address.Is4In6() || s.Address.Zone() != "" || s.Address.String() != t["a"] {
			return nil, bad("a=%.60s: want an IPv6 address as RFC 5952 writes it", t["a"])
		}
	}
	if t["r"] != "-" && !word(t["r"]) {
		return nil, bad("r=%.40s: want a realm", t["r"])
	}
	switch s.Live {
	case LivePass, LiveFail, LiveNone, LiveError:
	default:
		return nil, bad("live=%.20s", t["live"])
	}
	at, err := strconv.ParseInt(t["t"], 10, 64)
	if err != nil || at < 0 || at > 1<<40 || strconv.FormatInt(at, 10) != t["t"] {
		return nil, bad("t=%.30s: want unix seconds", t["t"])
	}
	s.At = time.Unix(at, 0).UTC()
	salt, err := b64.DecodeString(t["s"])
	if err != nil || len(salt) != len(s.Salt) {
		return nil, bad("s: want 16 bytes in base64")
	}
	s.Salt = Salt(salt)
	if t["h"] != "-" {
		s.Fields = strings.Split(t["h"], ":")
		last := -1
		for _, f := range s.Fields {
			i := slices.Index(contentHeaders, f)
			if i <= last {
				return nil, bad("h=%.80s: want fields of %s, in this order", t["h"], strings.Join(contentHeaders, ":"))
			}
			last = i
		}
	}
	return s, nil
}

var hopTags = []string{"v", "i", "d", "o", "l", "st", "t", "e", "n", "rec", "b"}

// format returns the value of Bright-Hop with a signature, or with none for what is
// signed.
func (h *Hop) format(signature []byte) string {
	hash := func(x ledgeranchor.Hash) string { return b64.EncodeToString(x[:]) }
	return formatTags([]tag{{"v", "1"}, {"i", strconv.Itoa(h.Place)}, {"d", h.Relay}, {"o", hash(h.Author)}, {"l", strconv.FormatUint(h.Clock, 10)}, {"st", h.Stage.String()},
		{"t", strconv.FormatInt(h.At.UnixMilli(), 10)}, {"e", hash(h.Content)}, {"n", orDash(h.Next)}, {"rec", hash(h.Record)}, {"b", b64.EncodeToString(signature)}})
}

func parseHop(value string) (*Hop, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrChain, HopField, fmt.Sprintf(format, args...))
	}
	t, err := parseTags(value, hopTags...)
	if err != nil {
		return nil, bad("%v", err)
	}
	h := &Hop{Relay: t["d"], Next: fromDash(t["n"])}
	if t["v"] != "1" {
		return nil, bad("version %.20q", t["v"])
	}
	if h.Place, err = strconv.Atoi(t["i"]); err != nil || h.Place < 1 || h.Place > MaxHops {
		return nil, bad("i=%.20s: want 1 to %d", t["i"], MaxHops)
	}
	if !word(h.Relay) || h.Next != "" && !word(h.Next) {
		return nil, bad("d, n: want names")
	}
	if h.Clock, err = strconv.ParseUint(t["l"], 10, 63); err != nil {
		return nil, bad("l=%.30s: want a number", t["l"])
	}
	for s := ledgeranchor.StageRequest; s <= ledgeranchor.StageConfirmation; s++ {
		if s.String() == t["st"] {
			h.Stage = s
		}
	}
	if h.Stage == 0 {
		return nil, bad("st=%.30s", t["st"])
	}
	at, err := strconv.ParseInt(t["t"], 10, 64)
	if err != nil || at < 0 || at > 1<<53 {
		return nil, bad("t=%.30s: want unix milliseconds", t["t"])
	}
	h.At = time.UnixMilli(at).UTC()
	for _, x := range []struct {
		name string
		to   *ledgeranchor.Hash
	}{{"o", &h.Author}, {"e", &h.Content}, {"rec", &h.Record}} {
		b, err := b64.DecodeString(t[x.name])
		if err != nil || len(b) != len(x.to) {
			return nil, bad("%s: want a hash in base64", x.name)
		}
		*x.to = ledgeranchor.Hash(b)
	}
	if h.signature, err = b64.DecodeString(t["b"]); err != nil || len(h.signature) < 8 || len(h.signature) > 80 {
		return nil, bad("b: want a signature in base64")
	}
	if relaxedValue(h.format(h.signature)) != relaxedValue(value) {
		return nil, bad("it is not as a hop is written")
	}
	return h, nil
}

// ParseChain reads the fields of a message. Their order does not matter: hops tell
// their places.
func ParseChain(sources, hops []string) (*Chain, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrChain, fmt.Sprintf(format, args...))
	}
	if len(sources) != 1 {
		return nil, bad("%d fields %s, want one", len(sources), SourceField)
	}
	if len(hops) < 1 || len(hops) > MaxHops {
		return nil, bad("%d fields %s, want 1 to %d", len(hops), HopField, MaxHops)
	}
	c := &Chain{Hops: make([]*Hop, len(hops)), hops: make([]string, len(hops)), source: relaxedValue(sources[0])}
	var err error
	if c.Source, err = parseSource(sources[0]); err != nil {
		return nil, err
	}
	for _, value := range hops {
		h, err := parseHop(value)
		if err != nil {
			return nil, err
		}
		if h.Place > len(hops) || c.Hops[h.Place-1] != nil {
			return nil, bad("%d hops, of which one is at place %d; want each place once", len(hops), h.Place)
		}
		c.Hops[h.Place-1], c.hops[h.Place-1] = h, relaxedValue(value)
	}
	return c, nil
}

// NewChain begins a chain with its source. The value of Bright-Source is its Format.
func NewChain(s *Source) (*Chain, error) {
	value, err := s.Format()
	if err != nil {
		return nil, err
	}
	return &Chain{Source: s, source: relaxedValue(value)}, nil
}

// Message returns the commitment to the chain's message, when it has a hop.
func (c *Chain) Message() ledgeranchor.Hash { return MessageID(c.Source.Salt, c.Hops[0].Content) }

// Next is what a relay adds to a chain.
type Next struct {
	Relay    string
	Clock    uint64 // of the relay itself; the hop's is later than it and the chain's
	Stage    ledgeranchor.Stage
	At       time.Time
	Content  ledgeranchor.Hash
	To       string // the next relay's name, if it is known
	Envelope Envelope
}

// Append adds a relay's hop. It returns the value of its Bright-Hop field, the signed
// record that goes to the ledger, and the relay's clock after it.
func (c *Chain) Append(a *ledgeranchor.Author, n Next) (value string, record *ledgeranchor.Signed, clock uint64, err error) {
	if len(c.Hops) >= MaxHops {
		return "", nil, 0, fmt.Errorf("%w: it has %d hops already", ErrChain, len(c.Hops))
	}
	if !word(n.Relay) || n.To != "" && !word(n.To) {
		return "", nil, 0, fmt.Errorf("%w: %.40q and %.40q: want names of relays", ErrChain, n.Relay, n.To)
	}
	h := &Hop{Place: len(c.Hops) + 1, Relay: n.Relay, Author: a.ID(), Clock: n.Clock + 1, Stage: n.Stage, At: n.At.UTC().Truncate(time.Millisecond), Content: n.Content, Next: n.To}
	first := n.Content
	if len(c.Hops) > 0 {
		last := c.Hops[len(c.Hops)-1]
		h.Clock = max(h.Clock, last.Clock+1)
		first = c.Hops[0].Content
	}
	n.Envelope.Version = 1
	n.Envelope.To = n.Envelope.To[:min(len(n.Envelope.To), MaxRecipients)]
	body, err := encMode.Marshal(&n.Envelope)
	if err != nil {
		return "", nil, 0, err
	}
	r := &ledgeranchor.Record{
		Kind: ledgeranchor.KindHop, Time: uint64(h.At.UnixMilli()), Message: MessageID(c.Source.Salt, first), Body: body,
		Hop: &ledgeranchor.Hop{Stage: h.Stage, Clock: h.Clock, Content: h.Content},
	}
	if c.Source.Address.IsValid() {
		r.Addresses = []ledgeranchor.Address{ledgeranchor.AddressOf(c.Source.Address)}
	}
	if len(c.Hops) > 0 {
		r.Refs = []ledgeranchor.Hash{c.Hops[len(c.Hops)-1].Record}
	}
	signed, err := a.Sign(r)
	if err != nil {
		return "", nil, 0, err
	}
	h.Record = signed[0].Name()
	digest := c.digest(h, len(c.Hops))
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := a.Key.Public().(ed25519.PublicKey); ok {
		opts = crypto.Hash(0)
	}
	if h.signature, err = a.Key.Sign(rand.Reader, digest[:], opts); err != nil {
		return "", nil, 0, err
	}
	value = h.format(h.signature)
	c.Hops, c.hops = append(c.Hops, h), append(c.hops, relaxedValue(value))
	return value, signed[0], h.Clock, nil
}

var encMode = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// digest is what a hop signs: SHA-256 of "gid-hop-1", a zero byte, the source, all hops
// before and the hop itself without its signature, each relaxed and ended by CRLF. An
// Ed25519 key signs the digest as a message.
func (c *Chain) digest(h *Hop, before int) [sha256.Size]byte {
	x := sha256.New()
	x.Write([]byte("gid-hop-1\x00" + c.source + "\r\n"))
	for _, v := range c.hops[:before] {
		x.Write([]byte(v + "\r\n"))
	}
	x.Write([]byte(relaxedValue(h.format(nil)) + "\r\n"))
	return [sha256.Size]byte(x.Sum(nil))
}

func verifySignature(pub crypto.PublicKey, digest, signature []byte) bool {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, signature)
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, digest, signature)
	}
	return false
}

// Skew is how far relays' clocks may disagree.
const Skew = 5 * time.Minute

// Verifier re-checks chains.
type Verifier struct {
	// Certificate returns the certificate of a relay, if it is known.
	Certificate func(author ledgeranchor.Hash) (*x509.Certificate, bool)

	// Record returns a record of the ledger; nil to check offline.
	Record func(name ledgeranchor.Hash) (*ledgeranchor.Record, error)
}

// Verdict is what a verification found of a hop.
type Verdict struct {
	Hop      *Hop
	Problems []string // none when it holds
}

// Verify re-checks a chain, hop by hop, and that the content that was read is what the
// last hop saw. It returns a verdict for each hop, and an error that names the first
// that does not hold.
func (v *Verifier) Verify(c *Chain, content *Content) ([]Verdict, error) {
	out := make([]Verdict, len(c.Hops))
	for i := range c.Hops {
		out[i] = Verdict{c.Hops[i], v.hop(c, i)}
	}
	last := &out[len(out)-1]
	if content.Sum(c.Source.Fields) != last.Hop.Content {
		last.Problems = append(last.Problems, "the message is not what this relay passed on: it was changed after it, or by it")
	}
	for i := range out {
		if len(out[i].Problems) > 0 {
			return out, fmt.Errorf("%w: hop %d, %s: %s", ErrChain, i+1, out[i].Hop.Relay, out[i].Problems[0])
		}
	}
	return out, nil
}

// hop checks one hop against those before it.
func (v *Verifier) hop(c *Chain, i int) (problems []string) {
	h := c.Hops[i]
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	cert, known := v.Certificate(h.Author)
	switch {
	case !known:
		bad("the relay's certificate %.16s… is not known", h.Author)
	case !slices.Contains(cert.Subject.OrganizationalUnit, ledgeranchor.RoleRelay):
		bad("%q is no relay", cert.Subject.CommonName)
	case h.At.Before(cert.NotBefore) || h.At.After(cert.NotAfter):
		bad("the relay's certificate was not valid at %s", h.At.Format(time.RFC3339))
	default:
		if d := c.digest(h, i); !verifySignature(cert.PublicKey, d[:], h.signature) {
			bad("its signature does not verify with the key of %q: it, or what stands before it, was changed", cert.Subject.CommonName)
		}
	}
	if first := h.Stage == ledgeranchor.StageRequest; first != (i == 0) {
		bad("a %s at place %d", h.Stage, i+1)
	}
	if h.Stage == ledgeranchor.StageConfirmation && i < len(c.Hops)-1 {
		bad("a confirmation with a hop after it")
	}
	if i > 0 {
		p := c.Hops[i-1]
		if h.Clock <= p.Clock {
			bad("its clock is %d and that of the hop before it %d: one of the two lies about the order", h.Clock, p.Clock)
		}
		if h.At.Before(p.At.Add(-Skew)) {
			bad("it is of %s, before the hop before it", h.At.Format(time.RFC3339))
		}
		if h.Content != p.Content {
			bad("the message was changed between %s and it", p.Relay)
		}
		if p.Next != "" && !strings.EqualFold(p.Next, h.Relay) {
			bad("the hop before it had named %s", p.Next)
		}
	}
	if v.Record != nil {
		if err := v.record(c, i); err != nil {
			bad("its record: %v", err)
		}
	}
	return problems
}

// record holds a hop against its record on the ledger.
func (v *Verifier) record(c *Chain, i int) error {
	h := c.Hops[i]
	r, err := v.Record(h.Record)
	if err != nil {
		return err
	}
	want := ledgeranchor.Hop{Stage: h.Stage, Clock: h.Clock, Content: h.Content}
	switch {
	case r.Kind != ledgeranchor.KindHop || r.Hop == nil:
		return fmt.Errorf("it is a %s", r.Kind)
	case r.Author != h.Author:
		return fmt.Errorf("it is of another author, %.16s…", r.Author)
	case *r.Hop != want || r.Time != uint64(h.At.UnixMilli()):
		return errors.New("it tells another stage, clock, content or time")
	case r.Message != c.Message():
		return errors.New("it is about another message")
	case c.Source.Address.IsValid() != (len(r.Addresses) == 1) || len(r.Addresses) == 1 && r.Addresses[0].Addr() != c.Source.Address:
		return errors.New("it tells another source")
	case i > 0 && !slices.Contains(r.Refs, c.Hops[i-1].Record):
		return errors.New("it does not rest on the record of the hop before")
	}
	return nil
}
