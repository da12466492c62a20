// Package dnsupdate keeps the names of DHCPv6 clients in a DNS zone, by dynamic updates (RFC
// 2136) that are signed (TSIG, RFC 8945). A name belongs to the client that had it first: a
// DHCID record beside it says whose it is (RFC 4701), and an update of another client is
// refused (RFC 4703).
package dnsupdate

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"brightgid/internal/secretfile"
)

// Limits.
const (
	maxNames   = 1 << 20          // that are kept
	timeout    = 5 * time.Second  // of one exchange
	retry      = 30 * time.Second // after a server did not answer
	workers    = 4
	spareLines = 10_000 // of what was, in the journal
	fudge      = 300    // seconds by which clocks may differ (RFC 8945 §10)
)

// Key signs updates.
type Key struct {
	Name, Algorithm string // as in DNS, with dots at the end
	Secret          string // base64
}

var keyText = regexp.MustCompile(`(?s)^\s*key\s+"?([A-Za-z0-9._-]+)"?\s*\{\s*algorithm\s+"?([a-z0-9-]+)"?\s*;\s*secret\s+"([A-Za-z0-9+/=]+)"\s*;\s*\}\s*;\s*$`)

// ParseKey reads a key as tsig-keygen writes it. Its error holds nothing of the secret.
func ParseKey(text []byte) (Key, error) {
	m := keyText.FindStringSubmatch(string(text))
	if m == nil {
		return Key{}, errors.New(`not a key; want: key "name" { algorithm hmac-sha256; secret "…"; };`)
	}
	k := Key{dns.CanonicalName(m[1]), dns.CanonicalName(m[2]), m[3]}
	switch k.Algorithm {
	case dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512:
	default:
		return Key{}, fmt.Errorf("algorithm %s: want hmac-sha256, hmac-sha384 or hmac-sha512", m[2])
	}
	if b, err := base64.StdEncoding.DecodeString(k.Secret); err != nil || len(b) < 16 {
		return Key{}, errors.New("its secret is not base64, or shorter than 16 bytes")
	}
	return k, nil
}

// Config is what Open needs.
type Config struct {
	Server  string // host:port
	Zone    string
	Key     Key
	TTL     time.Duration
	Journal string // a file, where names are kept that are in the zone
	Now     func() time.Time

	// Lease says which client has an address, and until when; the zero time if none has. It is asked
	// before a name is taken out of the zone and after it: of servers that share their leases
	// another may have leased the address anew.
	Lease func(netip.Addr) (duid []byte, until time.Time, err error)

	Log   *slog.Logger
	Stats *Stats
}

// Stats counts updates.
type Stats struct {
	Added, Removed, Conflicts, Refused, Failed atomic.Uint64
}

// binding is a name of a client's address.
type binding struct {
	Addr    netip.Addr `json:"addr"`
	Name    string     `json:"name,omitempty"`
	DHCID   string     `json:"dhcid,omitempty"`
	Until   int64      `json:"until,omitempty"` // Unix seconds; 0 for one that is to go
	Stands  bool       `json:"stands,omitempty"`
	Forget  bool       `json:"forget,omitempty"`  // in the journal: nothing is known of it any more
	Renamed bool       `json:"renamed,omitempty"` // its client has another name now, so that this one is to go in any case
	working bool
	after   time.Time // when to try again
}

// Updater keeps a zone. Set and End return at once; Run does the work.
type Updater struct {
	c    Config
	zone string

	mu      sync.Mutex
	names   map[netip.Addr]*binding
	todo    []*binding // about which something is to be done at once
	journal *os.File
	lines   int // in the journal
	wake    chan struct{}
}

// Open reads the journal, which it makes if there is none.
func Open(c Config) (*Updater, error) {
	u := &Updater{c: c, zone: dns.CanonicalName(c.Zone), names: make(map[netip.Addr]*binding), wake: make(chan struct{}, 1)}
	if _, ok := dns.IsDomainName(u.zone); !ok || u.zone == "." {
		return nil, fmt.Errorf("zone %q: not a domain name", c.Zone)
	}
	if err := u.read(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Journal, err)
	}
	return u, u.rewrite()
}

func (u *Updater) read() error {
	f, err := os.Open(u.c.Journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var b binding
		if json.Unmarshal(lines.Bytes(), &b) != nil {
			continue // the end of a line that was cut off by a crash
		}
		if b.Forget {
			delete(u.names, b.Addr)
		} else {
			u.names[b.Addr] = &b
		}
	}
	return lines.Err()
}

// rewrite makes the journal hold what is known, and nothing that was.
func (u *Updater) rewrite() error {
	var text []byte
	for _, b := range u.names {
		line, err := json.Marshal(b)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	if _, err := os.Stat(u.c.Journal); err == nil {
		if err := secretfile.Replace(u.c.Journal, text); err != nil {
			return err
		}
	} else if err := secretfile.Create(u.c.Journal, text); err != nil {
		return err
	}
	if u.journal != nil {
		if err := u.journal.Close(); err != nil {
			return err
		}
	}
	u.lines = len(u.names)
	var err error
	u.journal, err = os.OpenFile(u.c.Journal, os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// note writes a binding's state behind the others. An error is only logged: at worst a name
// stays in the zone until its client comes again.
func (u *Updater) note(b binding) {
	line, err := json.Marshal(b)
	if err == nil {
		_, err = u.journal.Write(append(line, '\n'))
	}
	if u.lines++; err == nil && u.lines > 4*len(u.names)+spareLines {
		err = u.rewrite()
	}
	if err != nil {
		u.c.Log.Error("a name could not be noted", "file", u.c.Journal, "error", err)
	}
}

// Name returns the name in the zone for what a client says to be called, in lower case and
// with a dot at the end; false if it cannot be one. whole tells that the client gave a whole
// name, of which outside the zone only the first label counts.
func (u *Updater) Name(said string, whole bool) (string, bool) {
	said = strings.TrimSuffix(strings.ToLower(said), ".")
	if whole && strings.HasSuffix(said+".", "."+u.zone) {
		said = strings.TrimSuffix(said+".", "."+u.zone)
	} else {
		said, _, _ = strings.Cut(said, ".")
	}
	for label := range strings.SplitSeq(said, ".") {
		if !hostLabel.MatchString(label) {
			return "", false
		}
	}
	name := said + "." + u.zone
	_, ok := dns.IsDomainName(name)
	return name, ok && len(name) <= 254
}

var hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// dhcid is the record's data by which a name is a client's (RFC 4701 §3.3, §3.5): identifier
// type 2, a DUID; digest type 1, SHA-256.
func dhcid(duid []byte, name string) string {
	wire := make([]byte, 256)
	n, err := dns.PackDomainName(name, wire, 0, nil, false)
	if err != nil {
		return "" // Name has checked it
	}
	sum := sha256.Sum256(append(slices.Clone(duid), wire[:n]...))
	b := binary.BigEndian.AppendUint16(nil, 2)
	return base64.StdEncoding.EncodeToString(append(append(b, 1), sum[:]...))
}

// of reports whether a name is a client's.
func (b *binding) of(duid []byte) bool { return dhcid(duid, b.Name) == b.DHCID }

// Set says that an address is a client's, who has a name, until a time. Without a name the client
// keeps the one that it has.
func (u *Updater) Set(addr netip.Addr, name string, duid []byte, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := u.names[addr]
	if name == "" {
		switch {
		case old == nil || old.Until == 0:
		case !old.of(duid):
			u.end(old)
		case old.Until < until.Unix():
			old.Until = until.Unix()
			u.note(*old)
		}
		return
	}
	id := dhcid(duid, name)
	if old != nil && old.Name == name && old.DHCID == id && old.Until != 0 {
		old.Until = until.Unix()
		u.note(*old)
		return
	}
	if old == nil && len(u.names) >= maxNames {
		return
	}
	if old != nil && (old.Stands || old.working) {
		// What stands goes first; the client's next renewal brings the new name.
		old.Renamed = old.Name != name || old.DHCID != id
		u.end(old)
		return
	}
	b := &binding{Addr: addr, Name: name, DHCID: id, Until: until.Unix()}
	u.names[addr] = b
	u.note(*b)
	u.nudge(b)
}

// End says that an address is nobody's any more.
func (u *Updater) End(addr netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if b := u.names[addr]; b != nil && b.Until != 0 {
		u.end(b)
	}
}

func (u *Updater) end(b *binding) {
	b.Until, b.after = 0, time.Time{}
	u.note(*b)
	u.nudge(b)
}

func (u *Updater) nudge(b *binding) {
	u.todo = append(u.todo, b)
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// due returns a binding that something is to be done about, or nil.
func (u *Updater) due() *binding {
	now := u.c.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.todo) > 0 {
		b := u.todo[0]
		u.todo = u.todo[1:]
		if u.names[b.Addr] == b && b.due(now) {
			b.working = true
			return b
		}
	}
	return nil
}

func (b *binding) due(now time.Time) bool {
	return !b.working && !now.Before(b.after) && (b.Until <= now.Unix() || !b.Stands)
}

// sweep finds what has come to its end, and what is to be tried again.
func (u *Updater) sweep() {
	now := u.c.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.todo = u.todo[:0]
	for _, b := range u.names {
		if b.due(now) {
			u.todo = append(u.todo, b)
		}
	}
}

// sweepEvery is how often that is looked for.
const sweepEvery = 2 * time.Second

// Run keeps the zone until the context ends.
func (u *Updater) Run(ctx context.Context) error {
	work := make(chan *binding)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for b := range work {
				u.do(ctx, b)
			}
		})
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	u.sweep()
	for ctx.Err() == nil {
		b := u.due()
		if b == nil {
			select {
			case <-ctx.Done():
			case <-u.wake:
			case <-tick.C:
				u.sweep()
			}
			continue
		}
		select {
		case work <- b:
		case <-ctx.Done():
		}
	}
	close(work)
	all.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.journal.Close()
}

// What a server answers to an update.
var (
	errConflict = errors.New("the name is another client's")
	errRefused  = errors.New("the server refuses the update")
)

// do does what is to be done about a binding.
func (u *Updater) do(ctx context.Context, b *binding) {
	u.mu.Lock()
	x, over := *b, b.Until <= u.c.Now().Unix()
	u.mu.Unlock()
	var err error
	var leased time.Time // until when it is, after all
	stood := x.Stands
	switch {
	case over:
		leased, err = u.takeOut(ctx, &x)
	case !over:
		err = u.add(ctx, &x)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	b.working = false
	if u.names[x.Addr] != b {
		return
	}
	switch {
	case err == nil && leased.After(u.c.Now()):
		b.Until, b.Stands, b.after = leased.Unix(), x.Stands, time.Time{}
		u.note(*b)
		u.nudge(b)
	case err == nil && over, errors.Is(err, errConflict):
		// Whose name it is, nobody tells here: names are told to DNS only.
		if errors.Is(err, errConflict) && !over {
			u.c.Stats.Conflicts.Add(1)
			u.c.Log.Info("a client's name is another's; it was not updated", "address", x.Addr)
		} else if stood {
			u.c.Stats.Removed.Add(1)
		}
		delete(u.names, x.Addr)
		u.note(binding{Addr: x.Addr, Forget: true})
	case err == nil:
		u.c.Stats.Added.Add(1)
		b.Stands = true
		u.note(*b)
	case ctx.Err() != nil:
	default:
		b.Stands = x.Stands
		b.after = u.c.Now().Add(retry)
		if errors.Is(err, errRefused) {
			u.c.Stats.Refused.Add(1)
		} else {
			u.c.Stats.Failed.Add(1)
		}
		u.c.Log.Warn("a DNS update failed; it is tried again", "address", x.Addr, "server", u.c.Server, "error", err)
	}
}

// takeOut removes a name that stands, unless its client has the address still or again, and returns
// until when it has.
func (u *Updater) takeOut(ctx context.Context, b *binding) (leased time.Time, err error) {
	if leased, err = u.leased(b); err != nil || leased.After(u.c.Now()) || !b.Stands {
		return leased, err
	}
	if err := u.remove(ctx, b); err != nil {
		return time.Time{}, err
	}
	b.Stands = false
	return u.leased(b) // another server may have found the name where it was
}

// leased returns until when the client of a name that is not to go in any case has the address.
func (u *Updater) leased(b *binding) (time.Time, error) {
	if b.Renamed {
		return time.Time{}, nil
	}
	duid, until, err := u.c.Lease(b.Addr)
	if err != nil || !b.of(duid) {
		return time.Time{}, err
	}
	return until, nil
}

func (u *Updater) records(b *binding) (aaaa *dns.AAAA, id *dns.DHCID) {
	head := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: b.Name, Rrtype: t, Class: dns.ClassINET, Ttl: uint32(u.c.TTL / time.Second)}
	}
	return &dns.AAAA{Hdr: head(dns.TypeAAAA), AAAA: b.Addr.AsSlice()}, &dns.DHCID{Hdr: head(dns.TypeDHCID), Digest: b.DHCID}
}

// add puts a name into the zone (RFC 4703 §5.3): one that nobody has, or that is the client's.
func (u *Updater) add(ctx context.Context, b *binding) error {
	aaaa, id := u.records(b)
	m := new(dns.Msg).SetUpdate(u.zone)
	m.NameNotUsed([]dns.RR{aaaa})
	m.Insert([]dns.RR{aaaa, id})
	code, err := u.exchange(ctx, m)
	if err != nil || code != dns.RcodeYXDomain {
		return result(code, err)
	}
	m = new(dns.Msg).SetUpdate(u.zone)
	m.Used([]dns.RR{id})
	m.Insert([]dns.RR{aaaa})
	code, err = u.exchange(ctx, m)
	if err == nil && (code == dns.RcodeNXRrset || code == dns.RcodeNameError) {
		return errConflict
	}
	return result(code, err)
}

// remove takes an address from its name, and the name out of the zone when no address is left
// (RFC 4703 §5.5).
func (u *Updater) remove(ctx context.Context, b *binding) error {
	aaaa, id := u.records(b)
	m := new(dns.Msg).SetUpdate(u.zone)
	m.Used([]dns.RR{id})
	m.Remove([]dns.RR{aaaa})
	code, err := u.exchange(ctx, m)
	if err == nil && (code == dns.RcodeNXRrset || code == dns.RcodeNameError) {
		return errConflict // it has become another's; there is nothing of ours
	}
	if err := result(code, err); err != nil {
		return err
	}
	m = new(dns.Msg).SetUpdate(u.zone)
	m.Used([]dns.RR{id})
	m.RRsetNotUsed([]dns.RR{aaaa})
	a := &dns.A{Hdr: dns.RR_Header{Name: b.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}}
	m.RRsetNotUsed([]dns.RR{a})
	m.RemoveRRset([]dns.RR{id})
	code, err = u.exchange(ctx, m)
	if err == nil && (code == dns.RcodeYXRrset || code == dns.RcodeNXRrset || code == dns.RcodeNameError) {
		return nil // another address of the client's has the name
	}
	return result(code, err)
}

func result(code int, err error) error {
	switch {
	case err != nil:
		return err
	case code == dns.RcodeSuccess:
		return nil
	}
	return fmt.Errorf("%w: %s", errRefused, dns.RcodeToString[code])
}

// exchange signs an update and sends it, by TCP.
func (u *Updater) exchange(ctx context.Context, m *dns.Msg) (int, error) {
	m.SetTsig(u.c.Key.Name, u.c.Key.Algorithm, fudge, u.c.Now().Unix())
	c := dns.Client{Net: "tcp", Timeout: timeout, TsigSecret: map[string]string{u.c.Key.Name: u.c.Key.Secret}}
	reply, _, err := c.ExchangeContext(ctx, m, u.c.Server)
	if err != nil {
		return 0, err
	}
	if reply.IsTsig() == nil {
		return 0, errors.New("the server's answer is not signed")
	}
	return reply.Rcode, nil
}
