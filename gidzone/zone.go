package gidzone

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Times to live, in seconds. Of an address that is leased or not a resolver shall not
// remember long.
const (
	staticTTL = 3600
	liveTTL   = 30
)

// How long signatures hold. They are made for whole hours, so that those of records
// that do not change can be kept for one.
const (
	signedBefore = 3 * time.Hour // clocks of resolvers may be behind
	signedFor    = 48 * time.Hour
)

// Config is what zones are made of.
type Config struct {
	// Prefixes are the ISP's, a zone each: multiples of four bits, from /16 to /124.
	Prefixes []netip.Prefix

	// NS are the names of the zones' servers; the first is the primary one.
	NS []string

	// Mailbox is the SOA's, as a name: hostmaster.isp.example.
	Mailbox string

	// Names is the domain of the names that PTR records give: an address has
	// <interface identifier in hex>.<Names>.
	Names string

	// The discovery record, TXT at _gid.<zone>:
	//
	//	v=GID1; r=<realm>; e=<epoch length in seconds>; l=<ledger>; s=<resolve API>
	//
	// l and s are left out if they are empty.
	Realm           string
	EpochLength     time.Duration
	Ledger, Resolve string

	Key *Key // nil for zones that are not signed
}

// Zones answers questions. It is safe for concurrent use.
type Zones struct {
	c        Config
	bindings *Bindings
	zones    []*zone
	serial   uint32
}

type zone struct {
	apex    string
	prefix  netip.Prefix
	soa     *dns.SOA
	ns      []dns.RR
	txt     *dns.TXT
	dnskey  *dns.DNSKEY
	mu      sync.Mutex
	signed  map[uint16]*dns.RRSIG // of records at the apex and _gid, by type
	forHour int64
}

// Discovery is the label below a zone that tells who the ISP is.
const Discovery = "_gid"

// New returns zones over bindings. began is the time that their serial number tells.
func New(c Config, bindings *Bindings, began time.Time) (*Zones, error) {
	z := &Zones{c: c, bindings: bindings, serial: uint32(began.Unix())}
	if len(c.Prefixes) == 0 || len(c.NS) == 0 {
		return nil, errors.New("zones: want a prefix and a name server, at least")
	}
	for _, n := range append(append([]string{}, c.NS...), c.Mailbox, c.Names) {
		if _, ok := dns.IsDomainName(n); !ok || n == "" || n == "." {
			return nil, fmt.Errorf("zones: %q is no domain name", n)
		}
	}
	txt := discoveryText(&c)
	for _, p := range c.Prefixes {
		apex, err := Apex(p)
		if err != nil {
			return nil, err
		}
		for _, other := range z.zones {
			if other.prefix.Overlaps(p) {
				return nil, fmt.Errorf("zones: %s and %s overlap", other.prefix, p)
			}
		}
		head := func(name string, t uint16) dns.RR_Header {
			return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: staticTTL}
		}
		x := &zone{apex: apex, prefix: p, txt: &dns.TXT{Hdr: head(Discovery+"."+apex, dns.TypeTXT), Txt: txt}}
		x.soa = &dns.SOA{Hdr: head(apex, dns.TypeSOA), Ns: dns.Fqdn(c.NS[0]), Mbox: dns.Fqdn(c.Mailbox), Serial: z.serial,
			Refresh: 86400, Retry: 7200, Expire: 3600000, Minttl: liveTTL}
		for _, n := range c.NS {
			x.ns = append(x.ns, &dns.NS{Hdr: head(apex, dns.TypeNS), Ns: dns.Fqdn(n)})
		}
		if c.Key != nil {
			x.dnskey = c.Key.record(apex)
		}
		z.zones = append(z.zones, x)
	}
	return z, nil
}

// discoveryText returns the character strings of the discovery record, 255 bytes each
// at most.
func discoveryText(c *Config) []string {
	text := fmt.Sprintf("v=GID1; r=%s; e=%d", c.Realm, c.EpochLength/time.Second)
	if c.Ledger != "" {
		text += "; l=" + c.Ledger
	}
	if c.Resolve != "" {
		text += "; s=" + c.Resolve
	}
	var out []string
	for len(text) > 255 {
		out, text = append(out, text[:255]), text[255:]
	}
	return append(out, text)
}

// Apex returns the name of a prefix's reverse zone.
func Apex(p netip.Prefix) (string, error) {
	if !p.Addr().Is6() || p.Addr().Is4In6() || p != p.Masked() || p.Bits()%4 != 0 || p.Bits() < 16 || p.Bits() > 124 {
		return "", fmt.Errorf("zones: %s: want an IPv6 prefix of /16 to /124 whose length is a multiple of 4", p)
	}
	name, err := dns.ReverseAddr(p.Addr().String())
	if err != nil {
		return "", fmt.Errorf("zones: %s: %w", p, err)
	}
	return name[2*(32-p.Bits()/4):], nil
}

// Records returns what the operator of the zone above has to put there for each zone:
// its NS and, if it is signed, DS records.
func (z *Zones) Records() []dns.RR {
	var out []dns.RR
	for _, x := range z.zones {
		out = append(out, x.ns...)
		if x.dnskey != nil {
			out = append(out, x.dnskey.ToDS(dns.SHA256))
		}
	}
	return out
}

// what is at a name
type node int

const (
	nothing   node = iota
	apex           // of the zone
	discovery      // _gid
	between        // an empty name between the zone and addresses
	address
)

// find returns the zone that a name is in, what is there, and the address.
func (z *Zones) find(name string) (*zone, node, netip.Addr) {
	name = strings.ToLower(name)
	for _, x := range z.zones {
		rest, ok := strings.CutSuffix(name, x.apex)
		if !ok || rest != "" && !strings.HasSuffix(rest, ".") {
			continue
		}
		rest = strings.TrimSuffix(rest, ".")
		switch {
		case rest == "":
			return x, apex, netip.Addr{}
		case rest == Discovery:
			return x, discovery, netip.Addr{}
		}
		n, addr := x.nibbles(rest)
		return x, n, addr
	}
	return nil, nothing, netip.Addr{}
}

// nibbles reads the labels below a zone, the last digit of an address first.
func (x *zone) nibbles(rest string) (node, netip.Addr) {
	a := x.prefix.Addr().As16()
	digits := (len(rest) + 1) / 2
	have := x.prefix.Bits() / 4
	if len(rest)%2 == 0 || have+digits > 32 {
		return nothing, netip.Addr{}
	}
	for i := range len(rest) {
		c := rest[len(rest)-1-i]
		if i%2 == 1 {
			if c != '.' {
				return nothing, netip.Addr{}
			}
			continue
		}
		v := strings.IndexByte("0123456789abcdef", c)
		if v < 0 {
			return nothing, netip.Addr{}
		}
		at := have + i/2
		a[at/2] |= byte(v) << (4 * (1 - at%2))
	}
	if have+digits < 32 {
		return between, netip.Addr{}
	}
	return address, netip.AddrFrom16(a)
}

// target is what an address's PTR points to.
func (z *Zones) target(addr netip.Addr) string {
	a := addr.As16()
	return fmt.Sprintf("%x.%s", a[8:], dns.Fqdn(z.c.Names))
}

// Answer answers a question. It always returns an answer; limits on its size are the
// caller's.
func (z *Zones) Answer(q *dns.Msg, now time.Time) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Compress = true
	m.RecursionAvailable, m.AuthenticatedData, m.CheckingDisabled = false, false, false
	fail := func(code int) *dns.Msg {
		m.Rcode = code
		return m
	}
	var edns *dns.OPT
	if edns = q.IsEdns0(); edns != nil {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetUDPSize(maxUDP)
		opt.SetDo(edns.Do())
		m.Extra = append(m.Extra, opt)
		if edns.Version() != 0 {
			opt.SetExtendedRcode(uint16(dns.RcodeBadVers))
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return fail(dns.RcodeNotImplemented)
	case len(q.Question) != 1 || q.Response:
		return fail(dns.RcodeFormatError)
	}
	question := q.Question[0]
	x, n, addr := z.find(question.Name)
	if x == nil || question.Qclass != dns.ClassINET {
		return fail(dns.RcodeRefused)
	}
	switch question.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		return fail(dns.RcodeRefused) // who holds which address is not to be listed
	case dns.TypeNXNAME, dns.TypeOPT, dns.TypeTSIG:
		return fail(dns.RcodeFormatError) // RFC 9824 §3.5
	}
	m.Authoritative = true
	signed := edns != nil && edns.Do() && x.dnskey != nil
	r := &reply{z: z, x: x, m: m, name: question.Name, signed: signed, now: now}

	left := time.Duration(0)
	if n == address {
		left = z.bindings.Left(addr, now)
		if left <= 0 {
			n = nothing
		}
	}
	var types []uint16
	switch n {
	case nothing:
		// RFC 9824 §2, §4.1: the denial is an empty name to who does not say that
		// it understands, if it validates; else it is NXDOMAIN.
		if !signed || edns.Co() {
			m.Rcode = dns.RcodeNameError
		}
		if opt := m.IsEdns0(); opt != nil && edns.Co() {
			opt.SetCo(true)
		}
		types = []uint16{dns.TypeNXNAME}
	case apex:
		types = []uint16{dns.TypeNS, dns.TypeSOA}
		if x.dnskey != nil {
			types = append(types, dns.TypeDNSKEY)
		}
	case discovery:
		types = []uint16{dns.TypeTXT}
	case address:
		types = []uint16{dns.TypePTR}
	}
	set := r.records(n, question.Qtype, addr, left)
	if len(set) == 0 {
		r.deny(types)
		return m
	}
	m.Answer = append(m.Answer, set...)
	if question.Qtype != dns.TypeANY {
		r.sign(set, &m.Answer)
	}
	return m
}

// reply is an answer that is being made.
type reply struct {
	z      *Zones
	x      *zone
	m      *dns.Msg
	name   string // as it was asked for
	signed bool
	now    time.Time
}

// records returns the records of a type at a name.
func (r *reply) records(n node, qtype uint16, addr netip.Addr, left time.Duration) []dns.RR {
	own := func(rr dns.RR) dns.RR { // with the name as it was asked for
		c := dns.Copy(rr)
		c.Header().Name = r.name
		return c
	}
	if qtype == dns.TypeANY && (n == apex || n == discovery || n == address) {
		// RFC 8482 §4.2.
		return []dns.RR{&dns.HINFO{Hdr: dns.RR_Header{Name: r.name, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: staticTTL}, Cpu: "RFC8482"}}
	}
	switch {
	case n == apex && qtype == dns.TypeSOA:
		return []dns.RR{own(r.x.soa)}
	case n == apex && qtype == dns.TypeNS:
		var out []dns.RR
		for _, rr := range r.x.ns {
			out = append(out, own(rr))
		}
		return out
	case n == apex && qtype == dns.TypeDNSKEY && r.x.dnskey != nil:
		return []dns.RR{own(r.x.dnskey)}
	case n == discovery && qtype == dns.TypeTXT:
		return []dns.RR{own(r.x.txt)}
	case n == address && qtype == dns.TypePTR:
		ttl := uint32(min(liveTTL, max(1, left/time.Second)))
		return []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: r.name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}, Ptr: r.z.target(addr)}}
	}
	return nil
}

// deny says that there are no records of the type, or nothing at all: the SOA, and
// where it is signed an NSEC of the name itself (RFC 9824 §3).
func (r *reply) deny(types []uint16) {
	soa := dns.Copy(r.x.soa).(*dns.SOA)
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
	r.m.Ns = append(r.m.Ns, soa)
	r.sign([]dns.RR{soa}, &r.m.Ns)
	if !r.signed {
		return
	}
	nsec := &dns.NSEC{Hdr: dns.RR_Header{Name: r.name, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: soa.Hdr.Ttl}, NextDomain: "\\000." + r.name}
	nsec.TypeBitMap = bitmap(types)
	r.m.Ns = append(r.m.Ns, nsec)
	r.sign([]dns.RR{nsec}, &r.m.Ns)
}

// bitmap returns the types of an NSEC, in their order, with its own and its
// signature's.
func bitmap(types []uint16) []uint16 {
	all := append([]uint16{dns.TypeRRSIG, dns.TypeNSEC}, types...)
	for i := 1; i < len(all); i++ {
		for k := i; k > 0 && all[k] < all[k-1]; k-- {
			all[k], all[k-1] = all[k-1], all[k]
		}
	}
	return all
}

// sign adds a signature of records to a section, if the answer is signed.
func (r *reply) sign(set []dns.RR, section *[]dns.RR) {
	if !r.signed {
		return
	}
	h := set[0].Header()
	sig := r.x.signature(set, r.z.c.Key, r.now)
	if sig == nil {
		r.m.Rcode = dns.RcodeServerFailure
		return
	}
	c := *sig
	c.Hdr.Name = h.Name
	c.Hdr.Ttl = h.Ttl
	*section = append(*section, &c)
}

// signature signs records. Those of what does not change are kept for an hour.
func (x *zone) signature(set []dns.RR, key *Key, now time.Time) *dns.RRSIG {
	h := set[0].Header()
	hour := now.Unix() / 3600
	static := h.Rrtype == dns.TypeSOA || h.Rrtype == dns.TypeNS || h.Rrtype == dns.TypeDNSKEY || h.Rrtype == dns.TypeTXT
	if static {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.forHour != hour {
			x.forHour, x.signed = hour, make(map[uint16]*dns.RRSIG)
		}
		if s := x.signed[h.Rrtype]; s != nil {
			return s
		}
		// What is signed has the TTL of the zone, whatever the answer's.
		original := make([]dns.RR, len(set))
		for i := range set {
			original[i] = dns.Copy(set[i])
			original[i].Header().Ttl = staticTTL
		}
		set, h = original, original[0].Header()
	}
	begin := time.Unix(hour*3600, 0)
	s := &dns.RRSIG{
		Hdr: dns.RR_Header{Name: h.Name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: h.Ttl}, TypeCovered: h.Rrtype, Algorithm: x.dnskey.Algorithm, OrigTtl: h.Ttl,
		Inception: uint32(begin.Add(-signedBefore).Unix()), Expiration: uint32(begin.Add(signedFor).Unix()), KeyTag: x.dnskey.KeyTag(), SignerName: x.apex,
	}
	if err := s.Sign(key.private, set); err != nil {
		return nil
	}
	if static {
		x.signed[h.Rrtype] = s
	}
	return s
}

func toBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
