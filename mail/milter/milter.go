// Package milter has a relay take part in the hop chain, as a milter (version 6) beside
// Postfix or Sendmail: at the end of each message it checks where the message came from,
// or that the chain that it brings holds, puts the relay's hop into its journal, and only
// then lets the message go with it.
package milter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/d--j/go-milter"

	"brightgid/ledgeranchor"
	"brightgid/mail"
)

// What is done with a message.
const (
	ActionTag        = "tag"        // let it go; its header says what is known
	ActionReject     = "reject"     // refuse it for good
	ActionQuarantine = "quarantine" // let the operator look at it
	ActionTempfail   = "tempfail"   // have the client try again
	ActionAccept     = "accept"     // let it go without a hop
)

// Config is what a relay does.
type Config struct {
	Relay   string // its name: d of its hops, and its Authentication-Results
	Author  *ledgeranchor.Author
	Last    bool // whether it delivers to mailboxes: its hops are confirmations
	Journal interface {
		Append(payload []byte) (uint64, error)
	}
	Discover func(ctx context.Context, addr netip.Addr) (*mail.ISP, mail.Live, error)
	Relays   *mail.Verifier // by which chains of other relays are checked

	Trusted     []netip.Prefix // networks whose messages are not looked at
	Exempt      []uint16       // ports of the MTA's whose messages are not looked at
	Submission  []uint16       // ports to which authors submit: what comes there begins a chain
	SignFrom    []netip.Prefix // for whom chains are begun; none: for every network
	SignDomains []string       // likewise, the sender's domain or one above it; none: for every domain

	OnFail    string // for sources that their ISP has not leased: tag, reject, quarantine
	OnError   string // for sources whose ISP cannot be asked: tag, tempfail
	OnJournal string // when the journal takes nothing: tempfail, accept

	DNSTimeout time.Duration
	Now        func() time.Time
	Log        *slog.Logger
	Stats      *Stats
}

// Stats counts messages.
type Stats struct {
	Requests, Deliveries, Forged, Failed, Refused, Unrecorded, Unsigned atomic.Uint64
}

// Limits of a message's header: half of what is read when a chain is checked, since
// relays on the way add fields. A message beyond them is refused; nobody could check it.
const (
	maxHeader = mail.MaxHeader / 2
	maxFields = mail.MaxFields / 2
)

// Relay is the milter of a relay. Its sessions share a clock.
type Relay struct {
	c     Config
	mu    sync.Mutex
	clock uint64
}

// New returns a relay's milter.
func New(c Config) (*Relay, error) {
	for _, x := range []struct {
		key, value string
		of         []string
	}{{"on-fail", c.OnFail, []string{ActionTag, ActionReject, ActionQuarantine}}, {"on-error", c.OnError, []string{ActionTag, ActionTempfail}},
		{"on-journal", c.OnJournal, []string{ActionTempfail, ActionAccept}}} {
		ok := false
		for _, v := range x.of {
			ok = ok || v == x.value
		}
		if !ok {
			return nil, fmt.Errorf("%s: %q: want one of %s", x.key, x.value, strings.Join(x.of, ", "))
		}
	}
	return &Relay{c: c}, nil
}

// SetLog has what the library warns of go to a log, for all relays of the process.
func SetLog(log *slog.Logger) {
	milter.LogWarning = func(format string, args ...any) { log.Warn("milter: " + fmt.Sprintf(format, args...)) }
}

// Server returns the milter's server. It is given connections by a listener of [Listen].
func (r *Relay) Server() *milter.Server {
	return milter.NewServer(
		milter.WithMilter(func() milter.Milter { return &session{r: r} }),
		milter.WithActions(milter.OptAddHeader|milter.OptChangeHeader|milter.OptQuarantine),
		milter.WithProtocols(milter.OptNoHelo|milter.OptNoData|milter.OptNoUnknown|milter.OptNoEOH|
			milter.OptNoHeaderReply|milter.OptNoConnReply|milter.OptNoMailReply|milter.OptNoRcptReply|milter.OptNoBodyReply),
		milter.WithMacroRequest(milter.StageConnect, []milter.MacroName{milter.MacroDaemonPort}),
		milter.WithMacroRequest(milter.StageMail, []milter.MacroName{milter.MacroAuthAuthen}),
		milter.WithReadTimeout(10*time.Minute), milter.WithWriteTimeout(time.Minute),
	)
}

// tick returns a clock that is later than the relay's last and not before the time, so
// that it need not be kept when the relay starts again.
func (r *Relay) tick(now time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = max(r.clock+1, uint64(max(0, now.UnixMilli())))
	return r.clock
}

// seen has the relay's clock follow a hop's.
func (r *Relay) seen(clock uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = max(r.clock, clock)
}

// session is one milter connection: one client, any number of messages.
type session struct {
	milter.NoOpMilter
	r       *Relay
	client  netip.Addr
	port    uint16 // of the MTA's, to which the client connected; 0 if the MTA does not tell
	message *message
}

// message is what is known of the message that is being read.
type message struct {
	from    string
	to      []string
	author  bool // whether it comes to a port for submission
	named   bool // whether the client there told the MTA who it is
	parsed  *mail.Message
	header  int // bytes of its header
	fields  int
	sorts   map[string]int // how many fields of each name that may have to go
	results []int          // Authentication-Results of our own name, by their place among those
}

func (m *message) tooLong() bool { return m.header > maxHeader || m.fields > maxFields }

func newMessage(from string) *message {
	return &message{from: from, parsed: &mail.Message{Content: mail.NewContent()}, sorts: make(map[string]int)}
}

// NewConnection implements milter.Milter.
func (s *session) NewConnection(milter.Modifier) error {
	s.client, s.port, s.message = netip.Addr{}, 0, nil
	return nil
}

// Connect implements milter.Milter.
func (s *session) Connect(_, family string, _ uint16, addr string, mod milter.Modifier) (*milter.Response, error) {
	s.client, s.port = netip.Addr{}, 0
	if port, err := strconv.ParseUint(mod.Get(milter.MacroDaemonPort), 10, 16); err == nil {
		s.port = uint16(port)
	}
	if family == "tcp4" || family == "tcp6" {
		// Sendmail writes IPv6:… before an address.
		a, err := netip.ParseAddr(strings.TrimPrefix(strings.TrimPrefix(addr, "IPv6:"), "ipv6:"))
		if err == nil {
			s.client = a.Unmap().WithZone("")
		}
	}
	return milter.RespContinue, nil
}

// MailFrom implements milter.Milter.
func (s *session) MailFrom(from, _ string, mod milter.Modifier) (*milter.Response, error) {
	s.message = newMessage(from)
	s.message.author = s.port != 0 && slices.Contains(s.r.c.Submission, s.port)
	s.message.named = mod.Get(milter.MacroAuthAuthen) != ""
	return milter.RespContinue, nil
}

// RcptTo implements milter.Milter.
func (s *session) RcptTo(to, _ string, _ milter.Modifier) (*milter.Response, error) {
	if m := s.message; m != nil && len(m.to) < mail.MaxRecipients {
		m.to = append(m.to, to)
	}
	return milter.RespContinue, nil
}

const resultsField = "Authentication-Results"

// Header implements milter.Milter.
func (s *session) Header(name, value string, _ milter.Modifier) (*milter.Response, error) {
	m := s.message
	if m == nil {
		return milter.RespContinue, nil
	}
	m.fields++
	if m.header += len(name) + len(value); m.tooLong() {
		return milter.RespContinue, nil // the end of the message refuses it
	}
	for _, n := range []string{mail.SourceField, mail.HopField, resultsField} {
		if strings.EqualFold(n, name) {
			m.sorts[n]++
			if n == resultsField && ours(value, s.r.c.Relay) {
				m.results = append(m.results, m.sorts[n])
			}
		}
	}
	m.parsed.Field(name, value)
	return milter.RespContinue, nil
}

// ours reports whether results claim to be of this relay (RFC 8601 §5).
func ours(value, relay string) bool {
	id, _, _ := strings.Cut(value, ";")
	id = strings.TrimSpace(id)
	if i := strings.IndexAny(id, " \t\r\n"); i >= 0 {
		id = id[:i]
	}
	return strings.EqualFold(strings.TrimSuffix(id, "."), strings.TrimSuffix(relay, "."))
}

// BodyChunk implements milter.Milter.
func (s *session) BodyChunk(chunk []byte, _ milter.Modifier) (*milter.Response, error) {
	if s.message != nil {
		s.message.parsed.Content.Write(chunk)
	}
	return milter.RespContinue, nil
}

// Abort implements milter.Milter.
func (s *session) Abort(milter.Modifier) error {
	s.message = nil
	return nil
}

// EndOfMessage implements milter.Milter.
func (s *session) EndOfMessage(mod milter.Modifier) (*milter.Response, error) {
	m := s.message
	s.message = nil
	if m == nil {
		return milter.RespTempFail, nil
	}
	if s.r.exempt(s.client, s.port) {
		return milter.RespAccept, nil
	}
	if m.tooLong() {
		s.r.c.Stats.Refused.Add(1)
		return respTooLong, nil
	}
	return s.r.pass(s.client, m, mod)
}

var (
	respRefused = reject(550, "5.7.1 The source address of this message is not leased by its provider")
	respTooLong = reject(552, "5.3.4 The header of this message is too long")
)

func reject(code uint16, reason string) *milter.Response {
	r, err := milter.RejectWithCodeAndReason(code, reason)
	if err != nil {
		panic(err) // the reason cannot stand in a reply: a mistake in the program
	}
	return r
}

// exempt reports whether messages of a client, or to a port, are not looked at.
func (r *Relay) exempt(client netip.Addr, port uint16) bool {
	return port != 0 && slices.Contains(r.c.Exempt, port) || within(r.c.Trusted, client)
}

func within(networks []netip.Prefix, a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// begins reports whether the relay begins chains for a client and a sender.
func (r *Relay) begins(client netip.Addr, sender string) bool {
	if len(r.c.SignFrom) > 0 && !within(r.c.SignFrom, client) {
		return false
	}
	if len(r.c.SignDomains) == 0 {
		return true
	}
	_, domain, _ := strings.Cut(strings.Trim(sender, "<>"), "@")
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	return slices.ContainsFunc(r.c.SignDomains, func(d string) bool {
		d = strings.ToLower(strings.TrimSuffix(d, "."))
		return domain == d || strings.HasSuffix(domain, "."+d)
	})
}

// pass decides upon a message and gives it the relay's hop.
func (r *Relay) pass(client netip.Addr, m *message, mod milter.Modifier) (*milter.Response, error) {
	now := r.c.Now()
	chain := r.chain(m)
	if chain == nil && !r.begins(client, m.from) {
		r.c.Stats.Unsigned.Add(1)
		if err := r.write(m, change{results: r.c.Relay + "; x-bright-source=none", strip: true}, mod); err != nil {
			return nil, err
		}
		return milter.RespAccept, nil
	}
	c := change{strip: chain == nil}
	quarantine := false
	var isp *mail.ISP
	if chain == nil {
		var live mail.Live
		isp, live = r.check(client)
		// Who is known to the MTA by name may be anywhere.
		lenient := m.author && m.named
		switch {
		case live == mail.LiveFail && r.c.OnFail == ActionReject && !lenient:
			r.c.Stats.Refused.Add(1)
			return respRefused, nil
		case live == mail.LiveFail && r.c.OnFail == ActionQuarantine && !lenient:
			quarantine = true
		case live == mail.LiveError && r.c.OnError == ActionTempfail:
			r.c.Stats.Refused.Add(1)
			return milter.RespTempFail, nil
		}
		if live == mail.LiveFail {
			r.c.Stats.Failed.Add(1)
		}
		var err error
		if chain, c.source, err = r.begin(client, isp, live, m, now); err != nil {
			return r.unrecorded(m, c.strip, err, mod)
		}
	}
	var err error
	if c.hop, err = r.hop(chain, m, now); err != nil {
		return r.unrecorded(m, c.strip, err, mod)
	}
	c.results = r.results(chain)
	if err := r.write(m, c, mod); err != nil {
		return nil, err // the connection to the MTA is broken
	}
	if quarantine {
		if err := mod.Quarantine("the source address is not leased by its provider"); err != nil {
			return nil, err
		}
	}
	return milter.RespAccept, nil
}

// chain returns the chain that a message brings, if other relays' keys say that it
// holds and it is the message's. What a message brings else is forged.
func (r *Relay) chain(m *message) *mail.Chain {
	if len(m.parsed.Hops) == 0 && len(m.parsed.Sources) == 0 {
		return nil
	}
	c, err := m.parsed.Chain()
	if err == nil && m.author {
		err = errors.New("it came from an author, before whom there is no relay")
	}
	if err == nil {
		_, err = r.c.Relays.Verify(c, m.parsed.Content)
	}
	if err == nil && c.Hops[len(c.Hops)-1].Stage == ledgeranchor.StageConfirmation {
		err = errors.New("it has ended with a confirmation")
	}
	if err != nil {
		r.c.Stats.Forged.Add(1)
		r.c.Log.Warn("a chain that does not hold was removed", "reason", err)
		return nil
	}
	r.seen(c.Hops[len(c.Hops)-1].Clock)
	return c
}

// check asks the source's ISP.
func (r *Relay) check(client netip.Addr) (*mail.ISP, mail.Live) {
	if !client.Is6() {
		return nil, mail.LiveNone
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.c.DNSTimeout)
	defer cancel()
	isp, live, err := r.c.Discover(ctx, client)
	if err != nil {
		r.c.Log.Warn("a source's ISP could not be asked", "reason", err)
	}
	return isp, live
}

// begin begins a chain with the client as its source.
func (r *Relay) begin(client netip.Addr, isp *mail.ISP, live mail.Live, m *message, now time.Time) (*mail.Chain, string, error) {
	salt, err := mail.NewSalt(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	s := &mail.Source{Live: live, At: now.UTC().Truncate(time.Second), Salt: salt, Fields: m.parsed.Content.Names()}
	if client.Is6() {
		s.Address = client
	}
	if isp != nil {
		s.Realm = isp.Realm
	}
	value, err := s.Format()
	if err != nil {
		return nil, "", err
	}
	c, err := mail.NewChain(s)
	return c, value, err
}

// hop adds the relay's hop, which is in the journal when it returns.
func (r *Relay) hop(c *mail.Chain, m *message, now time.Time) (string, error) {
	n := mail.Next{Relay: r.c.Relay, Clock: r.tick(now), At: now, Stage: ledgeranchor.StageDelivery, Content: m.parsed.Content.Sum(c.Source.Fields)}
	switch {
	case len(c.Hops) == 0:
		n.Stage = ledgeranchor.StageRequest
	case r.c.Last:
		n.Stage = ledgeranchor.StageConfirmation
	}
	n.Envelope.From = c.Source.Salt.TagOf(mail.RoleFrom, m.from)
	for _, to := range m.to {
		n.Envelope.To = append(n.Envelope.To, c.Source.Salt.TagOf(mail.RoleTo, to))
	}
	value, record, clock, err := c.Append(r.c.Author, n)
	if err != nil {
		return "", err
	}
	r.seen(clock)
	b, err := record.Encode()
	if err != nil {
		return "", err
	}
	if _, err := r.c.Journal.Append(b); err != nil {
		return "", err
	}
	if n.Stage == ledgeranchor.StageRequest {
		r.c.Stats.Requests.Add(1)
	} else {
		r.c.Stats.Deliveries.Add(1)
	}
	return value, nil
}

// unrecorded is for a message whose hop could not be recorded. What it brings that is
// forged does not get through either.
func (r *Relay) unrecorded(m *message, strip bool, err error, mod milter.Modifier) (*milter.Response, error) {
	r.c.Stats.Unrecorded.Add(1)
	r.c.Log.Error("a hop could not be recorded", "error", err, "message", r.c.OnJournal)
	if r.c.OnJournal == ActionTempfail {
		return milter.RespTempFail, nil
	}
	if err := r.write(m, change{strip: strip}, mod); err != nil {
		return nil, err
	}
	return milter.RespAccept, nil
}

// results returns what Authentication-Results tell (RFC 8601).
func (r *Relay) results(c *mail.Chain) string {
	result := map[mail.Live]string{mail.LivePass: "pass", mail.LiveFail: "fail", mail.LiveNone: "none", mail.LiveError: "temperror"}[c.Source.Live]
	text := fmt.Sprintf("%s; x-bright-source=%s", r.c.Relay, result)
	if c.Source.Realm != "" {
		text += " policy.realm=" + c.Source.Realm
	}
	if c.Source.Address.IsValid() {
		text += " policy.gid=\"" + c.Source.Address.String() + "\""
	}
	return text
}

// change is what is done to a message's header.
type change struct {
	source, hop, results string // fields to add, where they are not empty
	strip                bool   // whether the fields of a chain go, since none holds
}

// write removes what is forged and adds the relay's fields, the newest first.
func (r *Relay) write(m *message, c change, mod milter.Modifier) error {
	if c.strip {
		for _, name := range []string{mail.SourceField, mail.HopField} {
			for i := m.sorts[name]; i > 0; i-- {
				if err := mod.ChangeHeader(i, name, ""); err != nil {
					return err
				}
			}
		}
	}
	for i := len(m.results) - 1; i >= 0; i-- {
		if err := mod.ChangeHeader(m.results[i], resultsField, ""); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, value string }{{mail.SourceField, c.source}, {mail.HopField, c.hop}, {resultsField, c.results}} {
		if f.value == "" {
			continue
		}
		if err := mod.InsertHeader(0, f.name, strings.ReplaceAll(f.value, "\r\n", "\n")); err != nil {
			return err
		}
	}
	return nil
}
