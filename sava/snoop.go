package sava

import (
	"bytes"
	"net/netip"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// Timers of RFC 7513 §11.
const (
	maxDHCPResponse   = 120 * time.Second      // MAX_DHCP_RESPONSE_TIME
	maxLeaseQuery     = 10 * time.Second       // MAX_LEASEQUERY_DELAY
	detectionTimeout  = 500 * time.Millisecond // DETECTION_TIMEOUT
	detectionProbes   = 2
	dataSnoopInterval = 60 * time.Second // DATA_SNOOPING_INTERVAL, for recoverBurst of them
)

// Limits for each port, so that a host can keep only its own port from being
// served.
const (
	messageInterval = 50 * time.Millisecond // of DHCPv6 messages, on the average
	messageBurst    = 40
	maxExchanges    = 32
	recoverBurst    = 8
	maxRecoveries   = 32
)

// ActionKind is what a [Snooper] wants done.
type ActionKind uint8

const (
	// Probe asks every other port whether a host there has the address, by a
	// Neighbour Solicitation of duplicate address detection.
	Probe ActionKind = 1

	// Query asks the server whether the address is leased (RFC 5007); the
	// answer goes to [Snooper.Answer].
	Query ActionKind = 2
)

// Action is something to be done for a snooper.
type Action struct {
	Kind   ActionKind
	Addr   netip.Addr
	Anchor Anchor // of the host that uses the address
}

// Snooper makes bindings of the DHCPv6 messages that it sees, by the state
// machine of RFC 7513 §6 and §7. A binding's states are there:
//
//	NO_BIND     no exchange, recovery or binding
//	INIT_BIND   an exchange waits for the server's answer
//	BOUND       the table has a binding
//	DETECTION   a recovery has asked whether another host has the address
//	RECOVERY    a recovery has asked the server whether it is leased
//
// It is not safe for concurrent use.
type Snooper struct {
	table *Table
	query bool // whether servers can be asked

	msg        message
	exchanges  map[exchangeKey]*exchange
	recoveries map[netip.Addr]*recovery
	ports      map[uint32]*portState
	actions    []Action
}

// exchangeKey names an exchange. The transaction id is what RFC 7513 tells
// exchanges apart by; every host on the link can see it and use it too. The
// address that the host speaks from is its own.
type exchangeKey struct {
	host netip.Addr
	xid  [3]byte
}

// exchange is a client's message that its server has not answered.
type exchange struct {
	anchor Anchor
	client []byte // its DUID
	typ    dhcp6.MessageType
	addrs  []netip.Addr // of a Confirm
	until  time.Time
}

// recovery finds out whose an address is that somebody uses.
type recovery struct {
	anchor  Anchor
	probes  int
	queried bool
	until   time.Time
}

// portState is what hosts at a port have used up.
type portState struct {
	messages, recovered pace
	exchanges           int
	recovering          int
}

// pace is a leaky bucket: the time until which what passed is paid for.
type pace struct{ paid time.Time }

func (p *pace) take(now time.Time, interval time.Duration, burst int) bool {
	if p.paid.Before(now) {
		p.paid = now
	}
	if p.paid.Sub(now) > interval*time.Duration(burst-1) {
		return false
	}
	p.paid = p.paid.Add(interval)
	return true
}

// NewSnooper returns a snooper that makes bindings in a table. query tells that
// its Query actions will be answered: without it an address is recovered only
// when the table knows that it is leased.
func NewSnooper(table *Table, query bool) *Snooper {
	return &Snooper{
		table: table, query: query, exchanges: make(map[exchangeKey]*exchange),
		recoveries: make(map[netip.Addr]*recovery), ports: make(map[uint32]*portState),
	}
}

func (s *Snooper) port(a Anchor) *portState {
	p := s.ports[a.Port]
	if p == nil {
		p = new(portState)
		s.ports[a.Port] = p
	}
	return p
}

// FromHost takes a DHCPv6 message, without its UDP header, that a host sent from
// an address of its own. It returns Valid, Malformed, or Limited for one too many.
func (s *Snooper) FromHost(a Anchor, host netip.Addr, b []byte, now time.Time) Reason {
	p := s.port(a)
	if !p.messages.take(now, messageInterval, messageBurst) {
		return Limited
	}
	m := &s.msg
	if err := m.parse(b); err != nil {
		return Malformed
	}
	switch m.typ {
	case dhcp6.MessageTypeSolicit:
		if !m.rapidCommit {
			return Valid
		}
	case dhcp6.MessageTypeRequest, dhcp6.MessageTypeConfirm, dhcp6.MessageTypeRenew, dhcp6.MessageTypeRebind:
	case dhcp6.MessageTypeRelease, dhcp6.MessageTypeDecline:
		for _, l := range m.addrs {
			s.end(l.Addr, a)
		}
		return Valid
	default:
		return Valid
	}
	key := exchangeKey{host, m.xid}
	x := s.exchanges[key]
	if x != nil && x.anchor.Port != a.Port {
		return WrongAnchor // who speaks from the address moved within two minutes, in the middle of an exchange
	}
	if x == nil {
		if p.exchanges >= maxExchanges {
			s.dropOldest(a.Port)
		}
		x = new(exchange)
		s.exchanges[key] = x
		p.exchanges++
	}
	*x = exchange{anchor: a, client: bytes.Clone(m.clientID), typ: m.typ, until: now.Add(maxDHCPResponse)}
	if m.typ == dhcp6.MessageTypeConfirm {
		for _, l := range m.addrs {
			x.addrs = append(x.addrs, l.Addr)
		}
	}
	return Valid
}

// dropOldest makes room for another exchange of a port.
func (s *Snooper) dropOldest(port uint32) {
	var oldest exchangeKey
	var until time.Time
	for k, x := range s.exchanges {
		if x.anchor.Port == port && (until.IsZero() || x.until.Before(until)) {
			oldest, until = k, x.until
		}
	}
	s.forget(oldest)
}

func (s *Snooper) forget(k exchangeKey) {
	if x := s.exchanges[k]; x != nil {
		s.ports[x.anchor.Port].exchanges--
		delete(s.exchanges, k)
	}
}

// end removes a binding that its own host gives back.
func (s *Snooper) end(addr netip.Addr, a Anchor) {
	_ = s.table.Change(addr, func(b Binding, bound bool) (Binding, bool) { // stays until its end if it cannot be removed
		e := makeEntry(addr, b)
		return b, bound && !(b.Port != 0 && e.holds(&a))
	})
}

// FromServer takes a DHCPv6 message, without its UDP header, that came from a
// trusted port for a host. When it returns, the bindings are made of which the
// host is about to learn.
func (s *Snooper) FromServer(host netip.Addr, b []byte, now time.Time) error {
	m := &s.msg
	if err := m.parse(b); err != nil {
		return err
	}
	if m.typ != dhcp6.MessageTypeReply {
		return nil
	}
	key := exchangeKey{host, m.xid}
	x := s.exchanges[key]
	if x == nil || !now.Before(x.until) || !bytes.Equal(x.client, m.clientID) {
		return nil
	}
	s.forget(key)
	if m.status != 0 {
		return nil
	}
	if x.typ == dhcp6.MessageTypeConfirm {
		// The server says that the addresses fit the link, not whose they are.
		for _, addr := range x.addrs {
			s.recover(addr, x.anchor, now)
		}
		return nil
	}
	for _, l := range m.addrs {
		if l.Valid == 0 {
			s.end(l.Addr, x.anchor)
			continue
		}
		if isBindable(l.Addr) {
			if err := s.table.Bind(l.Addr, Binding{Anchor: x.anchor, Until: now.Add(l.Valid)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// isUnicast reports whether an address may be bound at all.
func isUnicast(a netip.Addr) bool {
	return a.Is6() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() && !a.IsLoopback()
}

// isBindable reports whether a server's word binds an address, or one that stands for a
// prefix.
func isBindable(a netip.Addr) bool {
	if p, ok := PrefixOf(a); ok {
		a = p.Addr()
	}
	return isUnicast(a)
}

// Data takes note that a host uses an address which nobody is bound to
// (EVE_DATA_UNMATCH). Where the address is leased, or the server can be asked, it
// is found out whose it is.
func (s *Snooper) Data(addr netip.Addr, a Anchor, now time.Time) {
	_, b, bound := s.table.Covering(addr)
	if bound && b.Port != 0 && now.Before(b.Until) || !bound && !s.query {
		return
	}
	s.recover(addr, a, now)
}

// Moved takes note that a host uses a link-local address that another anchor has
// claimed. If no host there answers for it any more, the claim moves (RFC 6620
// §3.2.3).
func (s *Snooper) Moved(addr netip.Addr, a Anchor, now time.Time) { s.recover(addr, a, now) }

// recover begins a recovery: NO_BIND to DETECTION.
func (s *Snooper) recover(addr netip.Addr, a Anchor, now time.Time) {
	p := s.port(a)
	if s.recoveries[addr] != nil || !isUnicast(addr) && !addr.IsLinkLocalUnicast() || p.recovering >= maxRecoveries ||
		!p.recovered.take(now, dataSnoopInterval/recoverBurst, recoverBurst) {
		return
	}
	p.recovering++
	s.recoveries[addr] = &recovery{anchor: a, probes: 1, until: now.Add(detectionTimeout / detectionProbes)}
	s.actions = append(s.actions, Action{Probe, addr, a})
}

// Advertised takes note that somebody says to have an address: a Neighbour
// Advertisement that came in at a port.
func (s *Snooper) Advertised(addr netip.Addr, a Anchor) {
	if r := s.recoveries[addr]; r != nil && r.anchor != a {
		s.giveUp(addr, r)
	}
}

// giveUp ends a recovery: back to NO_BIND.
func (s *Snooper) giveUp(addr netip.Addr, r *recovery) {
	s.ports[r.anchor.Port].recovering--
	delete(s.recoveries, addr)
}

// Answer takes the server's answer to a Query: RECOVERY to BOUND or NO_BIND.
func (s *Snooper) Answer(d ClientData, now time.Time) {
	for _, l := range d.Addrs {
		if p, ok := PrefixOf(l.Addr); ok {
			s.answerPrefix(p, l, d.MAC, now)
			continue
		}
		r := s.recoveries[l.Addr]
		if r == nil || !r.queried {
			continue
		}
		s.giveUp(l.Addr, r)
		if l.Valid > 0 && (d.MAC.IsZero() || d.MAC == r.anchor.MAC) {
			_ = s.table.Bind(l.Addr, Binding{Anchor: r.anchor, Until: now.Add(l.Valid)}) // a full table: the host tries again
		}
	}
}

// answerPrefix ends the recoveries of addresses in a delegated prefix. Behind the router
// that has it nobody answers for an address on the link, so that only the link-layer
// address that the server tells shows who may use it.
func (s *Snooper) answerPrefix(p netip.Prefix, l Leased, mac MAC, now time.Time) {
	for addr, r := range s.recoveries {
		if !r.queried || !p.Contains(addr) {
			continue
		}
		s.giveUp(addr, r)
		if l.Valid > 0 && mac == r.anchor.MAC {
			_ = s.table.Bind(l.Addr, Binding{Anchor: r.anchor, Until: now.Add(l.Valid)}) // a full table: the host tries again
		}
	}
}

// Tick does what is due. It is to be called several times a second.
func (s *Snooper) Tick(now time.Time) {
	for k, x := range s.exchanges {
		if !now.Before(x.until) {
			s.forget(k) // INIT_BIND to NO_BIND
		}
	}
	for addr, r := range s.recoveries {
		if now.Before(r.until) {
			continue
		}
		switch {
		case r.queried: // the server does not answer
			s.giveUp(addr, r)
		case r.probes < detectionProbes:
			r.probes++
			r.until = now.Add(detectionTimeout / detectionProbes)
			s.actions = append(s.actions, Action{Probe, addr, r.anchor})
		default:
			s.detected(addr, r, now)
		}
	}
}

// detected goes on when no other host has the address: to BOUND, where the table
// knows of the lease, or to RECOVERY.
func (s *Snooper) detected(addr netip.Addr, r *recovery, now time.Time) {
	if addr.IsLinkLocalUnicast() {
		s.table.moveLocal(addr, r.anchor, now)
		s.giveUp(addr, r)
		return
	}
	leased := false
	err := s.table.Change(addr, func(b Binding, bound bool) (Binding, bool) {
		if bound && now.Before(b.Until) {
			leased = true
			if b.MAC.IsZero() || b.MAC == r.anchor.MAC {
				return Binding{Anchor: r.anchor, Until: b.Until}, true
			}
		}
		return b, bound
	})
	if leased || !s.query || err != nil {
		s.giveUp(addr, r)
		return
	}
	r.queried, r.until = true, now.Add(maxLeaseQuery)
	s.actions = append(s.actions, Action{Query, addr, r.anchor})
}

// Actions returns what is to be done since the last call. It is valid until the
// next call of any method.
func (s *Snooper) Actions() []Action {
	a := s.actions
	s.actions = s.actions[:0]
	return a
}
