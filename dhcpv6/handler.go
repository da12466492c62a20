// Package dhcpv6 is a DHCPv6 server (RFC 9915) whose addresses are GIDs.
//
// [Handler] is the protocol: a packet and the time go in, a packet comes out,
// and there is no socket in it. Each message has a file of its own: solicit.go,
// request.go, renew.go and so on. [Server] is the sockets beside it.
package dhcpv6

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/lease"
)

// UDP ports (RFC 9915 §7.2).
const (
	ClientPort = 546
	ServerPort = 547
)

// Link is a link that clients are on.
type Link struct {
	Name string

	// Interface is the server's interface on the link; empty for a link that
	// is reached through relays only.
	Interface string

	// Prefixes are what addresses are leased from, one from each for every
	// identity association.
	Prefixes []idcodec.Prefix

	// Named are those of Prefixes that are only for clients to whom they are given by
	// the name of their pool; the others are for all the others.
	Named map[string][]idcodec.Prefix

	// Policy, if not nil, is for the link's addresses instead of the allocator's.
	Policy *lease.Policy

	// Draining are those of Prefixes from which nothing is leased any more; addresses in
	// them run out beside new ones.
	Draining []idcodec.Prefix

	// Pools are what prefixes are delegated from, one of one of them for every
	// identity association of prefix delegation.
	Pools []lease.Pool

	// Options go before those of all links.
	Options []Option

	// Names allows clients to be named in DNS.
	Names bool

	// RelayLinks are link-addresses of relays that stand for the link besides
	// those within its prefixes.
	RelayLinks []netip.Addr
}

// Option is an option that clients get who ask for it (RFC 9915 §21.7).
type Option struct {
	Code uint16
	Data []byte
}

// Config is what a Handler is told. It does not change.
type Config struct {
	ServerID    []byte // the server's DUID
	Preference  uint8  // RFC 9915 §21.8; 0 is not sent
	RapidCommit bool   // answer Rapid Commit (RFC 9915 §21.14)
	Register    bool   // let clients register addresses that they made themselves (RFC 9686)
	Links       []Link
	DNS         []netip.Addr // RFC 3646, sent when asked for
	Search      []string     // RFC 3646, absolute domain names
	Options     []Option     // others, of all links
	Always      []uint16     // codes of those of all the options here that go to who does not ask for them, too
	Classes     []Class      // the first of a client's goes before the second

	// QuerySecret, if not empty, has the server keep of relays what leasequery asks by: a
	// Remote-ID as its hash under this secret.
	QuerySecret []byte

	// Reserved is the class of subscribers, by their lookup keys.
	Reserved map[idcodec.LookupKey]string

	// T1 and T2 are when a client renews and rebinds; zero means 0.5 and 0.8
	// of the preferred lifetime (RFC 9915 §21.4).
	T1, T2 time.Duration

	// InfoRefresh is RFC 9915 §21.23's time; zero means it is not sent.
	InfoRefresh time.Duration
}

// Authenticator tells who a client is; *eidauth.Chain does.
type Authenticator interface {
	Authenticate(c *eidauth.Client) (eidauth.Identity, error)
}

// Registrar gives an identity its subscriber number; *lease.Registrar does.
type Registrar interface {
	Key(eid idcodec.EID) idcodec.LookupKey
	OpaqueKey(o idcodec.Opaque) idcodec.LookupKey
	Lookup(key idcodec.LookupKey) (uint64, error) // lease.ErrNotFound if it has none
	Register(now time.Time, key idcodec.LookupKey, eid idcodec.EID) (uint64, error)
	RegisterSealed(now time.Time, key idcodec.LookupKey, nid idcodec.NID) (uint64, error)
}

// Leases decides about addresses; *lease.Allocator does. What it returns is
// valid until the next call.
type Leases interface {
	Offer(now time.Time, r *lease.Request) ([]lease.Grant, error)
	Assign(now time.Time, r *lease.Request) ([]lease.Grant, error)
	Renew(now time.Time, r *lease.Request) ([]lease.Grant, error)
	Release(now time.Time, r *lease.Request, addrs []netip.Addr) (bool, error)
	Decline(now time.Time, r *lease.Request, addrs []netip.Addr) (bool, error)
	Register(now time.Time, r *lease.Request, addr netip.Addr, preferred, valid time.Duration) error
}

// Packet is a datagram as it came in.
type Packet struct {
	Data      []byte
	Src       netip.AddrPort
	Multicast bool   // it was sent to a multicast address
	Interface string // where it came in
}

// Handler answers DHCPv6 messages. It is not safe for concurrent use.
type Handler struct {
	cfg     Config
	options map[*Link][]Option // of each link, with those of all
	open    map[*Link]served   // what clients get who are given no pool by name
	auth    Authenticator
	reg     Registrar
	leases  Leases
	stats   *Stats
	log     *slog.Logger

	reconfigure *Reconfigurer // nil if clients are not given keys
	names       Names         // nil if clients are not named in DNS

	queries  leaseQuery
	queriers []netip.Addr

	// pending is closed when a message that was dropped for DropPending may be handled
	// again; nil if that is not known.
	pending <-chan struct{}

	// What one message needs is kept from call to call.
	received received
	granted  []int
	written  []uint16
	exchange exchange
}

// received is a packet that was read, and perhaps who sent it, before it is answered. Its memory
// is used again for another.
type received struct {
	Packet
	query bool // a LEASEQUERY, of which nothing else is here
	drop  Drop // why there will be no answer; 0 if there may be one
	msg   message
	hops  []hop // from the outermost inwards

	// Who sent it; see identify.
	asked  bool
	relays []eidauth.Relay
	client eidauth.Client
	id     eidauth.Identity
	key    idcodec.LookupKey
	err    error
}

// NewHandler returns a handler. It refuses a configuration that no client could
// be served with.
func NewHandler(cfg Config, auth Authenticator, reg Registrar, leases Leases, stats *Stats, log *slog.Logger) (*Handler, error) {
	if n := len(cfg.ServerID); n < 3 || n > lease.MaxDUIDLen {
		return nil, fmt.Errorf("server DUID: %d bytes, want 3 to %d", n, lease.MaxDUIDLen)
	}
	seen := make(map[idcodec.Prefix]string)
	for _, l := range cfg.Links {
		if len(l.Prefixes) == 0 || len(l.Prefixes) > lease.MaxPrefixes {
			return nil, fmt.Errorf("link %q: %d prefixes, want 1 to %d", l.Name, len(l.Prefixes), lease.MaxPrefixes)
		}
		for _, p := range l.Prefixes {
			if other, ok := seen[p]; ok {
				return nil, fmt.Errorf("prefix %s is on link %q and on link %q", p, other, l.Name)
			}
			seen[p] = l.Name
		}
	}
	if err := checkPools(cfg.Links); err != nil {
		return nil, err
	}
	h := &Handler{cfg: cfg, auth: auth, reg: reg, leases: leases, stats: stats, log: log, options: make(map[*Link][]Option), open: make(map[*Link]served)}
	for i := range cfg.Links {
		h.open[&cfg.Links[i]] = cfg.Links[i].unnamed()
	}
	return h, errors.Join(checkClasses(cfg.Classes), h.gatherOptions())
}

// checkPools refuses pools that share addresses with one another or with links.
func checkPools(links []Link) error {
	var taken []netip.Prefix
	for _, l := range links {
		for _, p := range l.Prefixes {
			taken = append(taken, p.Netip())
		}
	}
	for _, l := range links {
		if len(l.Pools) > lease.MaxPrefixes {
			return fmt.Errorf("link %q: %d pools, want up to %d", l.Name, len(l.Pools), lease.MaxPrefixes)
		}
		for _, p := range l.Pools {
			if err := p.Check(); err != nil {
				return fmt.Errorf("link %q: %w", l.Name, err)
			}
			if i := slices.IndexFunc(taken, p.Prefix.Overlaps); i >= 0 {
				return fmt.Errorf("link %q: the pool %s shares addresses with %s", l.Name, p.Prefix, taken[i])
			}
			taken = append(taken, p.Prefix)
		}
	}
	return nil
}

// AnswerLeaseQueries has the handler answer LEASEQUERY messages by UDP (RFC 5007)
// of those who may ask, by the addresses that they send from.
func (h *Handler) AnswerLeaseQueries(leases LeaseSource, queriers []netip.Addr) {
	h.queries = leaseQuery{serverID: h.cfg.ServerID, links: h.cfg.Links, leases: leases, secret: h.cfg.QuerySecret}
	h.queriers = queriers
}

// leaseQuery answers a LEASEQUERY.
func (h *Handler) leaseQuery(now time.Time, in *Packet, out []byte) ([]byte, netip.AddrPort, Drop) {
	if !slices.Contains(h.queriers, in.Src.Addr().WithZone("")) {
		return nil, netip.AddrPort{}, DropNotAllowed
	}
	q, err := parseQuery(in.Data)
	if err != nil {
		return nil, netip.AddrPort{}, DropMalformed
	}
	reply, err := h.queries.datagram(out, &q, now)
	if err != nil {
		h.log.Error("a leasequery could not be answered", "error", err)
		return nil, netip.AddrPort{}, DropInternal
	}
	return reply, in.Src, 0
}

// exchange is one client's message on its way through the handler.
type exchange struct {
	in    *received
	now   time.Time
	msg   *message
	link  *Link
	hops  []hop      // from the outermost inwards
	src   netip.Addr // where the client sent from
	reply builder
	text  string // what kept the client from authenticating
	given given  // what authentication says of how to serve it
	to    netip.AddrPort
	iface string
	req   lease.Request

	// The IAs of an answer have one T1 and one T2 (RFC 9915 §21.4), which are known
	// when all are written.
	granted  []int         // where the T1 of IAs with leases stand in the reply
	shortest time.Duration // preferred lifetime among their leases; 0 for none
}

// Handle answers a packet: it appends the answer to out and returns where it
// goes, or no answer and the reason, which it has counted. Leases in the answer
// are in the store but may not be durable yet; the caller waits for the store's
// barrier before it sends.
func (h *Handler) Handle(now time.Time, in *Packet, out []byte) (reply []byte, to netip.AddrPort, drop Drop) {
	h.receive(in, &h.received)
	return h.answer(now, &h.received, out)
}

// receive reads a packet into o. It is answered, or counted as dropped, when o is given to answer.
func (h *Handler) receive(in *Packet, o *received) {
	*o = received{Packet: *in, msg: o.msg, hops: o.hops[:0], relays: o.relays[:0], client: o.client}
	if len(in.Data) > 0 && dhcp6.MessageType(in.Data[0]) == dhcp6.MessageTypeLeaseQuery {
		o.query = true
		return
	}
	hops, inner, err := unwrap(o.hops, in.Data, in.Src.Addr())
	o.hops = hops
	if err == nil {
		err = o.msg.parse(inner)
	}
	switch {
	case errors.Is(err, errHops):
		o.drop = DropHops
	case errors.Is(err, errTooMuch):
		o.drop = DropTooMuch
	case err != nil:
		o.drop = DropMalformed
	}
	if o.drop != 0 {
		return
	}
	if int(o.msg.typ) < len(h.stats.Received) {
		h.stats.Received[o.msg.typ].Add(1)
	}
	// RFC 9915 took Server Unicast away: a client that has no relay before it
	// speaks to the multicast address only.
	if len(o.hops) == 0 && !in.Multicast {
		o.drop = DropUnicast
		return
	}
	o.drop = h.validate(&o.msg)
}

// answer is Handle for a packet that was read.
func (h *Handler) answer(now time.Time, o *received, out []byte) (reply []byte, to netip.AddrPort, drop Drop) {
	if o.query {
		reply, to, drop = h.leaseQuery(now, &o.Packet, out)
	} else if drop = o.drop; drop == 0 {
		reply, to, drop = h.serve(now, o, out)
	}
	o.id = eidauth.Identity{} // which is kept no longer than it is needed
	o.client.Reset()
	if drop != 0 {
		h.stats.Dropped[drop].Add(1)
	}
	return reply, to, drop
}

func (h *Handler) serve(now time.Time, o *received, out []byte) ([]byte, netip.AddrPort, Drop) {
	to := o.destination()
	x := &h.exchange
	*x = exchange{now: now, in: o, msg: &o.msg, hops: o.hops, src: o.Src.Addr(), to: to, iface: o.Interface, granted: h.granted[:0]}
	if n := len(o.hops); n > 0 {
		x.src = o.hops[n-1].peer()
	}
	if x.link = h.findLink(o.Interface, o.hops); x.link == nil {
		h.log.Debug("no link is configured for a client", "interface", o.Interface, "relay_hops", len(o.hops))
		return nil, to, DropNoLink
	}
	x.reply.b = out
	var nesting [maxHops]int
	for i := range o.hops {
		nesting[i] = o.hops[i].openReply(&x.reply)
	}
	if drop := h.dispatch(x); drop != 0 {
		return nil, to, drop
	}
	h.setTimers(x)
	h.granted = x.granted
	for i := len(o.hops) - 1; i >= 0; i-- {
		x.reply.close(nesting[i])
	}
	if len(x.reply.b)-len(out) > maxReply {
		return nil, to, DropTooMuch
	}
	return x.reply.b, to, 0
}

// maxReply is the length in bytes of the longest UDP payload.
const maxReply = 65535 - 8 - 40

// destination returns where the answer to a packet goes (RFC 9915 §18.3.11,
// §19.3; RFC 8357 §5.2).
func (o *received) destination() netip.AddrPort {
	switch {
	case len(o.hops) == 0:
		return netip.AddrPortFrom(o.Src.Addr(), ClientPort)
	case o.hops[0].port != nil:
		return o.Src
	}
	return netip.AddrPortFrom(o.Src.Addr(), ServerPort)
}

// validate applies RFC 9915 §16, which says what a server must not answer.
func (h *Handler) validate(m *message) Drop {
	ours := m.serverID != nil && bytes.Equal(m.serverID, h.cfg.ServerID)
	switch m.typ {
	case dhcp6.MessageTypeSolicit, dhcp6.MessageTypeConfirm, dhcp6.MessageTypeRebind: // §16.2, §16.5, §16.7
		if m.clientID == nil {
			return DropNoClientID
		}
		if m.serverID != nil {
			return DropServerID
		}
	case dhcp6.MessageTypeRequest, dhcp6.MessageTypeRenew, dhcp6.MessageTypeRelease, dhcp6.MessageTypeDecline: // §16.4, §16.6, §16.8, §16.9
		if m.clientID == nil {
			return DropNoClientID
		}
		if !ours {
			return DropServerID
		}
	case dhcp6.MessageTypeInformationRequest: // §16.12
		if m.serverID != nil && !ours {
			return DropServerID
		}
		if len(m.ias) > 0 {
			return DropUnexpectedIA
		}
	case messageAddrRegInform:
		return h.validateRegistration(m)
	default: // for clients and relays (§16.3, §16.10, §16.11, §16.14), or unknown
		return DropType
	}
	return 0
}

// findLink returns the client's link: by the link-address of the relay nearest
// to the client that gives one (RFC 9915 §13.1), else by the interface.
func (h *Handler) findLink(iface string, hops []hop) *Link {
	for i := len(hops) - 1; i >= 0; i-- {
		a := hops[i].link()
		if a.IsUnspecified() {
			continue // a lightweight relay (RFC 6221 §5.1)
		}
		for j := range h.cfg.Links {
			l := &h.cfg.Links[j]
			if slices.Contains(l.RelayLinks, a) || slices.Contains(l.Prefixes, idcodec.PrefixOf(a)) {
				return l
			}
		}
		return nil
	}
	for j := range h.cfg.Links {
		if l := &h.cfg.Links[j]; l.Interface != "" && l.Interface == iface {
			return l
		}
	}
	return nil
}

func (h *Handler) dispatch(x *exchange) Drop {
	switch x.msg.typ {
	case dhcp6.MessageTypeSolicit:
		return h.solicit(x)
	case dhcp6.MessageTypeRequest:
		return h.request(x)
	case dhcp6.MessageTypeConfirm:
		return h.confirm(x)
	case dhcp6.MessageTypeRenew, dhcp6.MessageTypeRebind:
		return h.renew(x)
	case dhcp6.MessageTypeRelease:
		return h.release(x)
	case dhcp6.MessageTypeDecline:
		return h.decline(x)
	case dhcp6.MessageTypeInformationRequest:
		return h.informationRequest(x)
	case messageAddrRegInform:
		return h.registration(x)
	}
	return DropType
}

// begin starts the answer: its type, the transaction, and who speaks to whom
// (RFC 9915 §18.3).
func (h *Handler) begin(x *exchange, typ dhcp6.MessageType) {
	h.stats.Sent[typ].Add(1)
	x.reply.b = append(x.reply.b, byte(typ), x.msg.xid[0], x.msg.xid[1], x.msg.xid[2])
	if x.msg.clientID != nil {
		x.reply.option(dhcp6.OptionClientID, x.msg.clientID)
	}
	x.reply.option(dhcp6.OptionServerID, h.cfg.ServerID)
}

// Texts of status codes, for people who read a client's log.
const (
	textUnknown    = "this client is not authenticated"
	textUntrusted  = "this relay may not speak for subscribers"
	textTooFast    = "this subscriber begins leases too fast"
	textTooMany    = "this subscriber holds as many addresses as it may"
	textNoSlot     = "no address is left in this epoch"
	textNoBinding  = "no lease of this client on this link"
	textNotOnLink  = "an address is not appropriate for this link"
	textOnLink     = "all addresses are appropriate for this link"
	textNoPrefix   = "this server delegates no prefixes here"
	textPoolFull   = "no prefix is left"
	textNoPool     = "this link has no pool of that name"
	textReleased   = "released"
	textDeclined   = "set aside"
	textUnavailble = "the server cannot lease now"
)

// identify asks who has sent a packet, and makes the lookup key.
func (h *Handler) identify(o *received) {
	o.asked = true
	for i := len(o.hops) - 1; i >= 0; i-- { // from the nearest to the client outwards
		o.relays = append(o.relays, o.hops[i].relay)
	}
	o.client.DUID, o.client.Vendor, o.client.Relays = o.msg.clientID, o.msg.vendors, o.relays
	if o.id, o.err = h.auth.Authenticate(&o.client); o.err != nil {
		return
	}
	switch {
	case o.id.Sealed != nil:
		o.key = o.id.Sealed.Key
	case !o.id.Opaque.IsZero():
		o.key = h.reg.OpaqueKey(o.id.Opaque)
	default:
		o.key = h.reg.Key(o.id.EID)
	}
}

// authenticate finds the client's subscriber number. When it returns false
// without a reason to drop, x.text says why the client gets nothing.
func (h *Handler) authenticate(x *exchange) (bool, Drop) {
	o := x.in
	if !o.asked {
		h.identify(o)
	}
	id, err := &o.id, o.err
	switch {
	case err == nil:
	case errors.Is(err, eidauth.ErrPending):
		h.pending = nil
		if p := (*eidauth.Pending)(nil); errors.As(err, &p) {
			h.pending = p.Done
		}
		return false, DropPending
	case errors.Is(err, eidauth.ErrUntrustedRelay):
		x.text = textUntrusted
	case errors.Is(err, eidauth.ErrUnknown):
		x.text = textUnknown
	default:
		h.log.Error("authentication failed", "error", err)
		return false, DropInternal
	}
	if err != nil {
		h.stats.Unauthenticated.Add(1)
		h.log.Debug("a client gets no address", "duid", hexBytes(x.msg.clientID), "link", x.link.Name, "reason", x.text, "error", err)
		return false, 0
	}
	n, err := h.reg.Lookup(o.key)
	switch {
	case !errors.Is(err, lease.ErrNotFound):
	case id.Sealed != nil:
		n, err = h.reg.RegisterSealed(x.now, o.key, id.Sealed.NID)
	default:
		n, err = h.reg.Register(x.now, o.key, id.MakeEID())
	}
	if err != nil {
		return false, h.failed("the registry failed", err)
	}
	anchor := lease.Anchor{}
	// An address that is the identity itself is not written down.
	if ll := o.client.LinkLayer(); len(ll) <= lease.MaxLinkLayerLen && id.Scheme() != "lladdr" {
		anchor.LinkLayer = ll
	}
	if len(x.hops) > 0 {
		anchor.Relay = x.hops[0].relay.Addr.WithZone("")
	}
	if len(h.cfg.QuerySecret) > 0 {
		for i := len(x.hops) - 1; i >= 0; i-- { // the nearest to the client that tells
			if anchor.RelayID == nil && len(x.hops[i].id) <= lease.MaxDUIDLen {
				anchor.RelayID = x.hops[i].id
			}
			if anchor.RemoteID == nil && x.hops[i].relay.RemoteID != nil {
				anchor.RemoteID = remoteIDHash(h.cfg.QuerySecret, x.hops[i].relay.RemoteID)
			}
		}
	}
	x.req = lease.Request{Subscriber: n, Anchor: anchor}
	h.serveAs(x, id.Profile)
	return true, 0
}

// foresee adds of whom a packet is that was read, if that will be asked. What it adds points into
// the packet.
func (h *Handler) foresee(o *received, f *lease.Foreseen) {
	if o.query || o.drop != 0 {
		return
	}
	switch o.msg.typ {
	case dhcp6.MessageTypeSolicit, dhcp6.MessageTypeRequest, dhcp6.MessageTypeRenew, dhcp6.MessageTypeRebind, dhcp6.MessageTypeRelease, dhcp6.MessageTypeDecline:
	default:
		return
	}
	whose := -1
	if h.identify(o); o.err == nil {
		whose = len(f.Keys)
		f.Keys = append(f.Keys, o.key)
	}
	for i := range o.msg.ias {
		a := &o.msg.ias[i]
		f.Clients = append(f.Clients, lease.Client{DUID: o.msg.clientID, IAID: a.iaid, PD: a.pd})
		f.Whose = append(f.Whose, whose)
	}
}

// failed says why a message gets no answer whose fault it is not. Of a store that is away the
// store tells itself, once.
func (h *Handler) failed(what string, err error, more ...any) Drop {
	if errors.Is(err, lease.ErrAway) {
		return DropAway
	}
	h.log.Error(what, append(more, "error", err)...)
	return DropInternal
}

// hexBytes prints as hex, and only when it is logged.
type hexBytes []byte

func (b hexBytes) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("%x", []byte(b))) }

// forIA returns the lease request of one of the message's IAs.
func (x *exchange) forIA(a *ia) *lease.Request {
	x.req.Client = lease.Client{DUID: x.msg.clientID, IAID: a.iaid, PD: a.pd}
	x.req.Length = a.length
	return &x.req
}

// refusal tells a client why its IA gets no address. It returns false for an
// error that is the server's own.
func refusal(a *ia, err error) (text string, ok bool) {
	switch {
	case errors.Is(err, lease.ErrNoSlot) && a.pd:
		return textPoolFull, true
	case errors.Is(err, lease.ErrTooMany):
		return textTooMany, true
	case errors.Is(err, lease.ErrTooFast):
		return textTooFast, true
	case errors.Is(err, lease.ErrNoSlot):
		return textNoSlot, true
	case errors.Is(err, lease.ErrFull), errors.Is(err, idcodec.ErrForgotten), errors.Is(err, idcodec.ErrFarFuture), errors.Is(err, idcodec.ErrRange):
		return textUnavailble, true
	}
	return "", false
}

// grants writes an IA with leases, and, if withdraw, what the client has no right to
// with lifetimes of zero.
func (h *Handler) grants(x *exchange, a *ia, grants []lease.Grant, withdraw bool) {
	start := x.reply.openIA(a, 0, 0)
	if len(grants) > 0 {
		x.granted = append(x.granted, start+4)
	}
	for _, g := range grants {
		if g.Preferred > 0 && (x.shortest == 0 || g.Preferred < x.shortest) {
			x.shortest = g.Preferred
		}
		if a.pd {
			p := netip.PrefixFrom(g.Addr, int(g.Bits))
			x.reply.iaPrefix(p, x.excluded(p), g.Preferred, g.Valid)
		} else {
			x.reply.iaAddr(g.Addr, g.Preferred, g.Valid)
		}
	}
	if withdraw {
		for _, addr := range a.addrs {
			if !slices.ContainsFunc(grants, func(g lease.Grant) bool { return g.Addr == addr }) {
				x.reply.iaAddr(addr, 0, 0)
			}
		}
		for _, p := range a.prefixes {
			if !slices.ContainsFunc(grants, func(g lease.Grant) bool { return g.Addr == p.Addr() && int(g.Bits) == p.Bits() }) {
				x.reply.iaPrefix(p, netip.Prefix{}, 0, 0)
			}
		}
	}
	x.reply.close(start)
}

// excluded returns what the client has to leave out of a prefix, if it says that it knows how to (RFC 6603 §4.1).
func (x *exchange) excluded(p netip.Prefix) netip.Prefix {
	for i := range x.req.Pools {
		if pool := &x.req.Pools[i]; pool.Excluded.IsValid() && pool.Has(p) && x.msg.requests(dhcp6.OptionPDExclude) {
			return pool.Excluded
		}
	}
	return netip.Prefix{}
}

// setTimers writes T1 and T2 for the shortest preferred lifetime among leases that do not
// run out, never longer than it (RFC 9915 §21.4), into all IAs that have leases.
func (h *Handler) setTimers(x *exchange) {
	t1, t2 := x.shortest/2, x.shortest*4/5
	if h.cfg.T1 > 0 {
		t1 = min(h.cfg.T1, x.shortest)
	}
	if h.cfg.T2 > 0 {
		t2 = min(h.cfg.T2, x.shortest)
	}
	for _, at := range x.granted {
		binary.BigEndian.PutUint32(x.reply.b[at:], wireSeconds(t1))
		binary.BigEndian.PutUint32(x.reply.b[at+4:], wireSeconds(t2))
	}
}

// gatherOptions puts together what each link's clients get.
func (h *Handler) gatherOptions() error {
	var all []Option
	if len(h.cfg.DNS) > 0 {
		o := Option{Code: uint16(dhcp6.OptionDNSRecursiveNameServer)}
		for _, a := range h.cfg.DNS {
			o.Data = append(o.Data, a.AsSlice()...)
		}
		all = append(all, o)
	}
	search, err := encodeDomains(h.cfg.Search)
	if err != nil {
		return err
	}
	if len(search) > 0 {
		all = append(all, Option{uint16(dhcp6.OptionDomainSearchList), search})
	}
	if h.cfg.Register {
		all = append(all, Option{Code: optionAddrRegEnable})
	}
	all = append(all, h.cfg.Options...)
	for i := range h.cfg.Links {
		l := &h.cfg.Links[i]
		own := slices.Clone(l.Options)
		for _, o := range all {
			if !slices.ContainsFunc(own, func(x Option) bool { return x.Code == o.Code }) {
				own = append(own, o)
			}
		}
		slices.SortFunc(own, func(a, b Option) int { return int(a.Code) - int(b.Code) })
		h.options[l] = own
	}
	return nil
}

// encodeDomains encodes a search list as RFC 1035 §3.1 does, uncompressed (RFC
// 9915 §10).
func encodeDomains(names []string) ([]byte, error) {
	var b []byte
	for _, name := range names {
		start := len(b)
		for label := range bytes.SplitSeq(bytes.TrimSuffix([]byte(name), []byte(".")), []byte(".")) {
			if len(label) < 1 || len(label) > 63 {
				return nil, fmt.Errorf("domain name %q: a label has %d bytes, want 1 to 63", name, len(label))
			}
			b = append(append(b, byte(len(label))), label...)
		}
		b = append(b, 0)
		if len(b)-start > 255 {
			return nil, fmt.Errorf("domain name %q: longer than 255 bytes", name)
		}
	}
	return b, nil
}
