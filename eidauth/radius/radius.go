// Package radius authenticates DHCPv6 clients with RADIUS servers (RFC 2865), by UDP or
// by TLS (RFC 6614). A question never blocks: a client that is asked about has to wait, and
// what came of it is remembered for a while.
//
// Message-Authenticator (RFC 3579 §3.2) is the first attribute of each request, and an
// answer without a right one is no answer: without it a stranger on the way can turn a
// refusal into an acceptance (CVE-2024-3596).
package radius

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc4372"
	"layeh.com/radius/rfc4679"
	"layeh.com/radius/rfc4818"
	"layeh.com/radius/rfc6911"

	"brightgid/eidauth"
	"brightgid/idcodec"
)

// Server is a RADIUS server.
type Server struct {
	Address string // host:port
	Secret  []byte
	TLS     *tls.Config // nil for UDP
}

// Names are what a client may be called by: a relay's options, or what the client says.
const (
	NameDUID      = "duid"       // in hex
	NameLinkLayer = "link-layer" // 02-00-00-00-00-07
)

// Names are all of them.
var Names = []string{string(eidauth.SubscriberID), string(eidauth.RemoteID), string(eidauth.InterfaceID), NameLinkLayer, NameDUID}

// Attributes of an Access-Accept that may hold the EID.
const (
	ChargeableUserIdentity = "chargeable-user-identity" // RFC 4372
	UserName               = "user-name"                // RFC 2865 §5.1
)

// Config is what New needs.
type Config struct {
	Servers []Server      // the first that lives is asked
	Timeout time.Duration // of one try
	Tries   int           // at each server

	Names         []string // what clients are called by: the first that is known of a client
	Password      []byte   // sent as User-Password; empty for the name
	NASIdentifier string
	NASAddress    netip.Addr // may be not valid

	// Identity are the attributes of an Access-Accept that name the subscriber, in order;
	// without them the subscriber is who was asked about.
	Identity []string

	Remember       time.Duration // an acceptance, if the server sends no Session-Timeout
	RememberReject time.Duration

	Now   func() time.Time
	Log   *slog.Logger
	Stats *Stats
}

// Stats counts what the servers answered.
type Stats struct {
	Accepted, Rejected, Failed, Unsigned, Overloaded atomic.Uint64
}

// Limits.
const (
	maxAsked = 256     // questions under way
	maxKnown = 200_000 // clients that are remembered
	deadFor  = 30 * time.Second
	retry    = time.Second // after nobody answered
)

// Source implements [eidauth.Source].
type Source struct {
	c       Config
	servers []*server
	asking  chan struct{}

	mu    sync.Mutex
	known map[[sha256.Size]byte]*known
}

// known is what is known of a client.
type known struct {
	done   chan struct{} // closed when it is
	id     eidauth.Identity
	err    error
	until  time.Time
	strict bool // the server said until when
}

type server struct {
	Server
	dead atomic.Int64 // until then, in Unix nanoseconds
	tls  *tlsClient
}

func newServer(x Server) *server {
	s := &server{Server: x}
	if x.TLS != nil {
		s.tls = &tlsClient{addr: x.Address, config: x.TLS, secret: x.Secret}
	}
	return s
}

// exchange sends a packet, by UDP again after each timeout, and waits for the answer.
func (x *server) exchange(ctx context.Context, p *radius.Packet, timeout time.Duration) (*radius.Packet, error) {
	if x.tls != nil {
		return x.tls.exchange(ctx, p)
	}
	if err := sign(p); err != nil {
		return nil, err
	}
	c := radius.Client{Retry: timeout}
	return c.Exchange(ctx, p, x.Address)
}

// New returns a source.
func New(c Config) (*Source, error) {
	switch {
	case len(c.Servers) == 0:
		return nil, errors.New("no server")
	case len(c.Names) == 0:
		return nil, errors.New("nothing that clients are called by")
	case c.Timeout <= 0 || c.Tries < 1:
		return nil, errors.New("no time for an answer, or no try")
	}
	for _, n := range c.Names {
		if !slices.Contains(Names, n) {
			return nil, fmt.Errorf("%q: want some of %s", n, strings.Join(Names, ", "))
		}
	}
	for _, a := range c.Identity {
		if a != ChargeableUserIdentity && a != UserName {
			return nil, fmt.Errorf("%q: want %s or %s", a, ChargeableUserIdentity, UserName)
		}
	}
	s := &Source{c: c, asking: make(chan struct{}, maxAsked), known: make(map[[sha256.Size]byte]*known)}
	for _, x := range c.Servers {
		if len(x.Secret) == 0 {
			return nil, fmt.Errorf("server %s: no secret", x.Address)
		}
		s.servers = append(s.servers, newServer(x))
	}
	return s, nil
}

// question is what a server is asked about a client.
type question struct {
	name                           []byte
	interfaceID, remoteID, calling []byte
}

func (q *question) key() [sha256.Size]byte {
	h := sha256.New()
	for _, f := range [][]byte{q.name, q.interfaceID, q.remoteID, q.calling} {
		fmt.Fprintf(h, "%d:", len(f))
		h.Write(f)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// maxValue is the longest value of an attribute (RFC 2865 §5).
const maxValue = 253

// ask returns the question about a client, or false if there is nothing to call it by.
func (s *Source) ask(c *eidauth.Client) (q question, ok bool) {
	option := func(get func(r *eidauth.Relay) []byte) []byte {
		for i := range c.Relays {
			if v := get(&c.Relays[i]); len(v) > 0 && len(v) <= maxValue {
				return slices.Clone(v)
			}
		}
		return nil
	}
	q.interfaceID = option(func(r *eidauth.Relay) []byte { return r.InterfaceID })
	q.remoteID = option(func(r *eidauth.Relay) []byte { return r.RemoteID })
	if ll := c.LinkLayer(); len(ll) > 0 {
		q.calling = []byte(strings.ToUpper(strings.ReplaceAll(net.HardwareAddr(ll).String(), ":", "-")))
	}
	for _, n := range s.c.Names {
		switch n {
		case string(eidauth.SubscriberID):
			q.name = option(func(r *eidauth.Relay) []byte { return r.SubscriberID })
		case string(eidauth.RemoteID):
			if len(q.remoteID) > 4 {
				q.name = q.remoteID[4:]
			}
		case string(eidauth.InterfaceID):
			q.name = q.interfaceID
		case NameLinkLayer:
			q.name = q.calling
		case NameDUID:
			q.name = []byte(hex.EncodeToString(c.DUID))
		}
		if len(q.name) > 0 && len(q.name) <= maxValue {
			return q, true
		}
	}
	return q, false
}

// Authenticate implements [eidauth.Source].
func (s *Source) Authenticate(c *eidauth.Client) (eidauth.Identity, error) {
	q, ok := s.ask(c)
	if !ok {
		return eidauth.Identity{}, eidauth.ErrUnknown
	}
	key, now := q.key(), s.c.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.known[key]
	if old != nil {
		select {
		case <-old.done:
			if now.Before(old.until) {
				return old.id, old.err
			}
		default:
			return eidauth.Identity{}, &eidauth.Pending{Done: old.done}
		}
	}
	select {
	case s.asking <- struct{}{}:
	default:
		s.c.Stats.Overloaded.Add(1)
		return eidauth.Identity{}, eidauth.ErrPending
	}
	s.makeRoom(now)
	k := &known{done: make(chan struct{})}
	s.known[key] = k
	go func() {
		defer func() { <-s.asking }()
		s.question(&q, k)
		if errors.Is(k.err, eidauth.ErrPending) && old != nil && old.err == nil && !old.strict {
			// Who was accepted stays so while nobody can be asked.
			k.id, k.err = old.id, nil
		}
		close(k.done)
	}()
	return eidauth.Identity{}, &eidauth.Pending{Done: k.done}
}

// makeRoom forgets clients when there are too many: those whose time is over, and if need
// be some.
func (s *Source) makeRoom(now time.Time) {
	if len(s.known) < maxKnown {
		return
	}
	left := maxKnown / 10
	for _, over := range []bool{true, false} {
		for key, k := range s.known {
			select {
			case <-k.done:
				if left > 0 && (!over || !now.Before(k.until)) {
					delete(s.known, key)
					left--
				}
			default:
			}
		}
	}
}

// question asks the servers, and notes what to remember until when.
func (s *Source) question(q *question, k *known) {
	reply, err := s.anybody(q)
	now := s.c.Now()
	if err != nil {
		s.c.Stats.Failed.Add(1)
		s.c.Log.Warn("no RADIUS server answers; clients wait", "error", err)
		k.err, k.until = eidauth.ErrPending, now.Add(retry)
		return
	}
	if reply.Code != radius.CodeAccessAccept { // a challenge cannot be answered by DHCPv6
		s.c.Stats.Rejected.Add(1)
		k.err, k.until = eidauth.ErrUnknown, now.Add(s.c.RememberReject)
		return
	}
	eid, err := s.identity(q, reply)
	if err != nil {
		s.c.Stats.Failed.Add(1)
		s.c.Log.Warn("a RADIUS server's acceptance has no identity in it that can be used", "reason", err)
		k.err, k.until = eidauth.ErrUnknown, now.Add(s.c.RememberReject)
		return
	}
	s.c.Stats.Accepted.Add(1)
	k.id, k.until = eidauth.Identity{EID: eid, Profile: profile(reply)}, now.Add(s.c.Remember)
	if t, err := rfc2865.SessionTimeout_Lookup(reply); err == nil {
		k.until, k.strict = now.Add(time.Duration(t)*time.Second), true
	}
}

// profile returns what an acceptance says of how to serve the client; nil for nothing. What
// cannot be read is left out.
func profile(reply *radius.Packet) *eidauth.Profile {
	p := eidauth.Profile{
		Class:       rfc2865.FilterID_GetString(reply),
		AddressPool: rfc6911.StatefulIPv6AddressPool_GetString(reply),
		PrefixPool:  rfc6911.DelegatedIPv6PrefixPool_GetString(reply),
	}
	if p.AddressPool == "" {
		p.AddressPool = rfc3162.FramedIPv6Pool_GetString(reply)
	}
	if n := rfc4818.DelegatedIPv6Prefix_Get(reply); n != nil {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			ones, _ := n.Mask.Size()
			p.Prefix = netip.PrefixFrom(a, ones).Masked()
		}
	}
	dns, _ := rfc6911.DNSServerIPv6Address_Gets(reply)
	for _, ip := range dns {
		if a, ok := netip.AddrFromSlice(ip); ok {
			p.DNS = append(p.DNS, a)
		}
	}
	if p.Class == "" && p.AddressPool == "" && p.PrefixPool == "" && !p.Prefix.IsValid() && len(p.DNS) == 0 {
		return nil
	}
	return &p
}

// identity returns the EID that an acceptance tells.
func (s *Source) identity(q *question, reply *radius.Packet) (idcodec.EID, error) {
	value := q.name
	for _, a := range s.c.Identity {
		v := rfc4372.ChargeableUserIdentity_Get(reply)
		if a == UserName {
			v = rfc2865.UserName_Get(reply)
		}
		// A server that does not have the identity may send one NUL (RFC 4372 §2.2).
		if len(v) > 0 && !(len(v) == 1 && v[0] == 0) {
			value = v
			break
		}
	}
	return idcodec.OpaqueEID("radius", value)
}

// anybody asks the servers in turn, those of which it is known that they do not answer
// last.
func (s *Source) anybody(q *question) (*radius.Packet, error) {
	now := s.c.Now().UnixNano()
	var order []*server
	for _, dead := range []bool{false, true} {
		for _, x := range s.servers {
			if (x.dead.Load() > now) == dead {
				order = append(order, x)
			}
		}
	}
	var errs []error
	for _, x := range order {
		reply, err := s.one(x, q)
		if err == nil {
			x.dead.Store(0)
			return reply, nil
		}
		x.dead.Store(s.c.Now().Add(deadFor).UnixNano())
		errs = append(errs, fmt.Errorf("%s: %w", x.Address, err))
	}
	return nil, errors.Join(errs...)
}

var (
	errUnsigned = errors.New("its answer has no Message-Authenticator that is right")
	errOther    = errors.New("its answer is to another question")
)

// one asks one server.
func (s *Source) one(x *server, q *question) (*radius.Packet, error) {
	p, err := s.request(x.Secret, q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.c.Tries)*s.c.Timeout)
	defer cancel()
	reply, err := x.exchange(ctx, p, s.c.Timeout)
	if err != nil {
		return nil, err
	}
	if reply.Identifier != p.Identifier {
		return nil, errOther
	}
	if !signed(reply, p.Authenticator) {
		s.c.Stats.Unsigned.Add(1)
		return nil, errUnsigned
	}
	return reply, nil
}

// request builds an Access-Request, not signed yet.
func (s *Source) request(secret []byte, q *question) (*radius.Packet, error) {
	p := radius.New(radius.CodeAccessRequest, secret)
	password := s.c.Password
	if len(password) == 0 {
		password = q.name[:min(len(q.name), 128)] // RFC 2865 §5.2
	}
	errs := []error{
		rfc2869.MessageAuthenticator_Set(p, make([]byte, macLen)),
		rfc2865.UserName_Set(p, q.name),
		rfc2865.UserPassword_Set(p, password),
		rfc2865.ServiceType_Set(p, rfc2865.ServiceType_Value_CallCheck),
		rfc2865.NASPortType_Set(p, rfc2865.NASPortType_Value_Virtual),
	}
	if s.c.NASIdentifier != "" {
		errs = append(errs, rfc2865.NASIdentifier_SetString(p, s.c.NASIdentifier))
	}
	if s.c.NASAddress.IsValid() {
		errs = append(errs, rfc3162.NASIPv6Address_Set(p, s.c.NASAddress.AsSlice()))
	}
	if len(q.interfaceID) > 0 {
		errs = append(errs, rfc2869.NASPortID_Set(p, q.interfaceID))
		if len(q.interfaceID) <= maxVendorValue {
			errs = append(errs, rfc4679.ADSLAgentCircuitID_Set(p, q.interfaceID))
		}
	}
	if len(q.remoteID) > 4 && len(q.remoteID) <= maxVendorValue {
		errs = append(errs, rfc4679.ADSLAgentRemoteID_Set(p, q.remoteID[4:]))
	}
	if len(q.calling) > 0 {
		errs = append(errs, rfc2865.CallingStationID_Set(p, q.calling))
	}
	return p, errors.Join(errs...)
}

// maxVendorValue is the longest value of an attribute within a Vendor-Specific one.
const maxVendorValue = maxValue - 6
