package mail

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ISP is what an ISP's discovery record tells.
type ISP struct {
	Prefix      netip.Prefix // where it was found
	Realm       string
	EpochLength time.Duration
	Ledger      string // may be empty
	Resolve     string // may be empty
}

// Exchanger asks a resolver.
type Exchanger interface {
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// Discoverer finds the ISP of an address, and whether the address is leased, by DNS.
type Discoverer struct {
	Resolver Exchanger

	// Insecure takes answers that the resolver does not say it has validated (AD).
	// Without it such an answer is no answer.
	Insecure bool

	// Now, if set, has discovery records remembered for as long as they last, and that
	// there are none for a minute. Whether an address is leased is always asked.
	Now func() time.Time

	mu    sync.Mutex
	known map[string]known
}

// known is what was found at a name.
type known struct {
	isp   *ISP // nil for nothing
	until time.Time
}

// Limits of what is remembered.
const (
	maxKnown     = 10_000
	knownFor     = time.Hour   // a record, at most
	knownMissing = time.Minute // that there is none
)

// discoveryBits are the lengths of prefixes at which an ISP is looked for.
var discoveryBits = []int{64, 56, 48, 40, 32}

// discoveryLabel is below the reverse zone of an ISP's prefix.
const discoveryLabel = "_gid."

// maxText bounds a discovery record.
const maxText = 2048

var (
	errNoRecord = errors.New("there is no such record")

	// ErrDiscovery says that an ISP could not be asked, or that its answer is not to be
	// trusted.
	ErrDiscovery = errors.New("the source's ISP could not be asked")
)

// Check asks for the ISP of a source address and whether the address is leased. It
// returns LiveNone without an ISP, and with LiveError why.
func (d *Discoverer) Check(ctx context.Context, addr netip.Addr) (*ISP, Live, error) {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return nil, LiveNone, nil
	}
	isp, err := d.isp(ctx, addr)
	if err != nil {
		return nil, LiveError, err
	}
	if isp == nil {
		return nil, LiveNone, nil
	}
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return nil, LiveError, err
	}
	records, err := d.ask(ctx, name, dns.TypePTR)
	switch {
	case errors.Is(err, errNoRecord):
		return isp, LiveFail, nil
	case err != nil:
		return isp, LiveError, err
	}
	for _, r := range records {
		if p, ok := r.(*dns.PTR); ok && p.Ptr != "." {
			return isp, LivePass, nil
		}
	}
	return isp, LiveFail, nil
}

// isp looks for the discovery record; nil if there is none.
func (d *Discoverer) isp(ctx context.Context, addr netip.Addr) (*ISP, error) {
	for _, bits := range discoveryBits {
		p, err := addr.Prefix(bits)
		if err != nil {
			return nil, err
		}
		name, err := dns.ReverseAddr(p.Addr().String())
		if err != nil {
			return nil, err
		}
		found, err := d.at(ctx, discoveryLabel+name[2*(32-bits/4):], p)
		if found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}

// at returns the discovery record at a name, which is asked for if it is not remembered.
func (d *Discoverer) at(ctx context.Context, name string, p netip.Prefix) (*ISP, error) {
	if d.Now == nil {
		found, _, err := d.look(ctx, name, p)
		return found, err
	}
	now := d.Now()
	d.mu.Lock()
	k, ok := d.known[name]
	d.mu.Unlock()
	if ok && now.Before(k.until) {
		return k.isp, nil
	}
	found, lasts, err := d.look(ctx, name, p)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || len(d.known) >= maxKnown {
		d.known = make(map[string]known) // a resolver remembers too
	}
	d.known[name] = known{found, now.Add(lasts)}
	return found, nil
}

// look asks for the discovery record at a name, and tells how long it lasts.
func (d *Discoverer) look(ctx context.Context, name string, p netip.Prefix) (*ISP, time.Duration, error) {
	records, err := d.ask(ctx, name, dns.TypeTXT)
	if errors.Is(err, errNoRecord) {
		return nil, knownMissing, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var found *ISP
	lasts := knownMissing
	for _, r := range records {
		txt, ok := r.(*dns.TXT)
		if !ok {
			continue
		}
		isp, err := parseDiscovery(strings.Join(txt.Txt, ""))
		if errors.Is(err, errNoRecord) {
			continue // a text about something else
		}
		if err == nil && found != nil {
			err = errors.New("there are two")
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%w: the discovery record at %s: %w", ErrDiscovery, p, err)
		}
		isp.Prefix = p
		found, lasts = isp, min(knownFor, time.Duration(txt.Hdr.Ttl)*time.Second)
	}
	return found, lasts, nil
}

// parseDiscovery reads a discovery record:
//
//	v=GID1; r=<realm>; e=<epoch length in seconds>; l=<ledger>; s=<resolve API>
//
// Tags that are not known are passed over.
func parseDiscovery(text string) (*ISP, error) {
	parts := strings.Split(text, ";")
	if strings.TrimSpace(parts[0]) != "v=GID1" {
		return nil, errNoRecord
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("%d characters are too many", len(text))
	}
	isp := &ISP{}
	seen := make(map[string]bool)
	for _, p := range parts[1:] {
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if strings.TrimSpace(p) == "" {
			continue
		}
		if !ok || seen[name] {
			return nil, fmt.Errorf("%.40q is no tag, or stands twice", p)
		}
		seen[name] = true
		switch name {
		case "r":
			isp.Realm = value
		case "e":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("e=%.20s: want seconds", value)
			}
			isp.EpochLength = time.Duration(n) * time.Second
		case "l":
			isp.Ledger = value
		case "s":
			if !strings.HasPrefix(value, "https://") {
				return nil, fmt.Errorf("s=%.60s: want an https:// URL", value)
			}
			isp.Resolve = value
		}
	}
	if !word(isp.Realm) || isp.EpochLength == 0 {
		return nil, errors.New("want r=<realm> and e=<seconds>")
	}
	return isp, nil
}

// ask asks for records. errNoRecord says that the name or the type is not there.
func (d *Discoverer) ask(ctx context.Context, name string, qtype uint16) ([]dns.RR, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(1232, false)
	q.AuthenticatedData = true // RFC 6840 §5.7: tell me whether you have validated
	m, err := d.Resolver.Exchange(ctx, q)
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s %s: %s", ErrDiscovery, name, dns.TypeToString[qtype], fmt.Sprintf(format, args...))
	}
	switch {
	case err != nil:
		return nil, fail("%v", err)
	case !m.Response || m.Id != q.Id || len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, name) || m.Question[0].Qtype != qtype:
		return nil, fail("the answer is to another question")
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return nil, fail("%s", dns.RcodeToString[m.Rcode])
	case m.Truncated:
		return nil, fail("the answer is cut")
	case !d.Insecure && !m.AuthenticatedData:
		// Most of the net is not signed: that there is no discovery record is taken
		// from anybody. It can hide an ISP and accuse nobody, which "this address is
		// not leased" could.
		if qtype == dns.TypeTXT && (m.Rcode == dns.RcodeNameError || len(m.Answer) == 0) {
			return nil, errNoRecord
		}
		return nil, fail("the resolver has not validated the answer")
	case m.Rcode == dns.RcodeNameError:
		return nil, errNoRecord
	}
	// The resolver has followed aliases; only what was asked for counts.
	var out []dns.RR
	for _, r := range m.Answer {
		if r.Header().Rrtype == qtype && r.Header().Class == dns.ClassINET {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, errNoRecord
	}
	return out, nil
}

// Resolver asks resolvers at addresses, the first that answers, by UDP and if need be by
// TCP.
type Resolver struct {
	Addresses []string      // host:port
	Timeout   time.Duration // of one question to one of them
}

// Exchange implements [Exchanger].
func (r *Resolver) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if len(r.Addresses) == 0 {
		return nil, errors.New("no resolver is configured")
	}
	var errs []error
	for _, addr := range r.Addresses {
		for _, network := range []string{"udp", "tcp"} {
			c := &dns.Client{Net: network, Timeout: r.Timeout, UDPSize: 1232}
			m, _, err := c.ExchangeContext(ctx, q, addr)
			if err == nil && !m.Truncated {
				return m, nil
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s by %s: %w", addr, network, err))
				break // it does not answer; the next one
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}
