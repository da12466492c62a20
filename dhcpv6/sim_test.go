package dhcpv6

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/shared"
	"brightgid/lease/shared/memdb"
)

// sim is several servers with one database, clients behind relays, and a network, in virtual
// time: what a seed does it does again. The servers are the product's own, from the message's
// bytes to the commit; the database is in memory and does what it is told, or not.
//
// Packets are lost, come twice, late and in another order. Servers lose the database, are not
// told what became of a commit, have clocks of their own, which jump at times, crash with all that
// they have in memory, and start again. Every third client is a router, which wants a prefix as well; there are
// fewer prefixes than routers, so that one which runs out is another's soon.
type sim struct {
	t     *testing.T
	o     simOptions
	rng   *rand.Rand
	now   time.Time
	queue events
	n     int // events so far
	trace hash.Hash

	db      *memdb.Database
	keys    *idcodec.Keyring
	escrow  *idcodec.EscrowKey
	share   *idcodec.Share
	servers []*simServer
	clients []*simClient
	calm    bool // nothing goes wrong any more

	owner map[netip.Addr]string       // the subscriber that an address was promised to
	bound []simBinding                // the first of each address, and all of prefixes
	held  map[netip.Prefix]simHolding // by whom, and until when
	count map[string]int
}

type simOptions struct {
	seed             uint64
	servers, clients int
	lines            int // subscribers
	length           time.Duration
	offline          bool // servers renew from memory
	crashes          bool
}

// simHolding is whose an address (a prefix of 128 bits) or a prefix is, and until when at the least.
type simHolding struct {
	client *simClient
	until  time.Time
}

// simBinding is what a subscriber took into use, of a server's promise of a time.
type simBinding struct {
	prefix netip.Prefix
	line   string
	at     time.Time
}

type simEvent struct {
	at time.Time
	n  int // of those at one time, the first that was planned comes first
	do func()
}

type events []simEvent

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(e[i].at.Compare(e[j].at), cmp.Compare(e[i].n, e[j].n)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func (s *sim) after(d time.Duration, do func()) {
	s.n++
	heap.Push(&s.queue, simEvent{s.now.Add(d), s.n, do})
}

func (s *sim) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.rng.Int64N(int64(high-low)))
}

func (s *sim) chance(p float64) bool { return !s.calm && s.rng.Float64() < p }

// note makes what happens part of what two runs are compared by.
func (s *sim) note(what string, more ...any) {
	s.count[what]++
	fmt.Fprintln(s.trace, s.now.UnixNano(), what, more)
}

const (
	simPreferred = 10 * time.Minute
	simValid     = 20 * time.Minute
)

var (
	simPrefix = netip.MustParsePrefix("2001:db8:7::/64")
	simPool   = idcodec.Pool{Prefix: netip.MustParsePrefix("2001:db8:4000::/60"), Bits: 64}
	simPolicy = lease.Policy{Preferred: simPreferred, Valid: simValid, MaxAge: time.Hour, DeclineHold: time.Hour, PerSubscriber: 64}
)

// simSkew is how far clocks are from the right time that nobody minds.
const simSkew = shared.DefaultClock - time.Second/2

// simServer is a server while it runs, and what is to come of it.
type simServer struct {
	s       *sim
	name    string
	conn    *memdb.Conn
	cut     bool // it has no way to the database
	store   *shared.Store
	handler *Handler
	waiting []simReply
	flushes bool // a flush is planned
	life    int  // which start of the server this is

	skew, leap time.Duration // how far its clock is ahead, mostly and now
}

func (v *simServer) now() time.Time { return v.s.now.Add(v.skew + v.leap) }

type simReply struct {
	barrier lease.Barrier
	data    []byte
	to      *simClient
	at      time.Time
}

// newSim makes one that begins at noon or, by seeds that are odd, in the evening, so that another epoch begins.
func newSim(t *testing.T, o simOptions) *sim {
	t.Helper()
	s := &sim{t: t, o: o, rng: rand.New(rand.NewPCG(o.seed, 1)), now: noon.Add(time.Duration(o.seed%2) * (11*time.Hour + 40*time.Minute)), trace: sha256.New(), db: memdb.New(),
		owner: make(map[netip.Addr]string), held: make(map[netip.Prefix]simHolding), count: make(map[string]int)}
	s.db.Clock = func() time.Time { return s.now }
	var err error
	random := rand.NewChaCha8([32]byte{byte(o.seed)})
	if s.keys, err = idcodec.NewKeyring(random, idcodec.DefaultEpochLength, 20000); err != nil {
		t.Fatal(err)
	}
	var shares []*idcodec.Share
	if s.escrow, shares, err = idcodec.Deal(random, 1, []string{"a"}); err != nil {
		t.Fatal(err)
	}
	s.share = shares[0]
	for i := range o.servers {
		v := &simServer{s: s, name: fmt.Sprintf("server-%d", i), conn: &memdb.Conn{Database: s.db}, skew: s.between(-simSkew, simSkew)}
		v.conn.Fault = v.fault
		s.servers = append(s.servers, v)
		v.start()
	}
	for i := range o.clients {
		c := &simClient{s: s, n: i, line: fmt.Sprintf("line-%d", i%o.lines), router: i%3 == 0}
		s.clients = append(s.clients, c)
		s.after(s.between(0, time.Minute), c.solicit)
	}
	return s
}

// fault decides about a call to the database.
func (v *simServer) fault() memdb.Fault {
	switch {
	case v.cut:
		return memdb.NotAsked
	case v.s.chance(0.004):
		return memdb.NotTold
	case v.s.chance(0.002):
		return memdb.NotAsked
	}
	return memdb.Answered
}

func (v *simServer) start() {
	s := v.s
	v.life++
	store, err := shared.New(context.Background(), v.conn, shared.Options{
		Name: v.name, Cache: 20, Offline: s.o.offline, Now: v.now, Elapsed: func() time.Duration { return s.now.Sub(noon) },
		Keys: shared.Keyed{Epoch: 1, Tag: func(uint32) (int64, error) { return 1, nil }},
	})
	if err != nil {
		if !errors.Is(err, memdb.ErrDown) {
			s.t.Fatal(err)
		}
		s.after(time.Second, v.start)
		return
	}
	sealer := idcodec.NewSealer(rand.NewChaCha8([32]byte{byte(v.life), byte(s.o.seed), v.name[len(v.name)-1]}), s.escrow, "isp.example", 0)
	relays, err := eidauth.NewRelaySource(eidauth.RelayOptions...)
	if err != nil {
		s.t.Fatal(err)
	}
	alloc := lease.NewAllocator(store, s.keys, simPolicy)
	alloc.Split(store.Server(), shared.MaxServers)
	alloc.Apart(2 * shared.DefaultClock)
	v.handler, err = NewHandler(Config{ServerID: serverID, Links: []Link{{Name: "far", Prefixes: []idcodec.Prefix{prefixOf(simPrefix)}, Pools: []lease.Pool{{Pool: simPool, Policy: simPolicy}}}}},
		eidauth.NewChain([]netip.Addr{relayAddr}, relays), lease.NewRegistrar(store, [32]byte{7}, sealer), alloc, new(Stats), slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	v.store = store
	s.note("start", v.name)
	v.follow(v.life)
	if s.o.crashes {
		s.after(s.between(time.Minute, time.Hour), func() { v.crash(v.life) })
	}
	s.after(s.between(time.Minute, 40*time.Minute), func() { v.disconnect(v.life) })
	s.after(s.between(time.Minute, 40*time.Minute), func() { v.leaps(v.life) })
}

// leaps has the clock be far from the right time for a while, as after a pause of the machine.
func (v *simServer) leaps(life int) {
	s := v.s
	if v.life != life || s.calm {
		return
	}
	v.leap = s.between(2*shared.DefaultClock, time.Hour)
	if s.rng.IntN(2) == 0 {
		v.leap = -v.leap
	}
	s.note("leap", v.name, v.leap)
	s.after(s.between(time.Millisecond, []time.Duration{time.Second, 3 * time.Minute}[s.rng.IntN(2)]), func() {
		v.leap = 0
		s.after(s.between(time.Minute, 40*time.Minute), func() { v.leaps(v.life) })
	})
}

// crash takes all that is in memory.
func (v *simServer) crash(life int) {
	if v.life != life || v.s.calm {
		return
	}
	v.s.note("crash", v.name, len(v.waiting))
	v.store, v.handler, v.waiting, v.flushes = nil, nil, nil, false
	v.life++
	v.s.after(v.s.between(time.Second, 2*time.Minute), v.start)
}

func (v *simServer) disconnect(life int) {
	if v.life != life || v.s.calm {
		return
	}
	v.cut = true
	v.s.note("cut", v.name)
	v.s.after(v.s.between(time.Second, 5*time.Minute), func() {
		v.cut = false
		v.s.after(v.s.between(time.Minute, 40*time.Minute), func() { v.disconnect(v.life) })
	})
}

func (v *simServer) follow(life int) {
	if v.life != life {
		return
	}
	if !v.store.Away() {
		_ = v.store.Follow(context.Background()) // the database may be away
	}
	v.s.after(time.Second, func() { v.follow(life) })
}

// flush commits what waits and sends what is decided; again, while something waits.
func (v *simServer) flush(life int) {
	if v.life != life {
		return
	}
	s := v.s
	v.flushes = false
	_ = v.store.Flush(context.Background()) // as with follow
	kept := v.waiting[:0]
	for _, r := range v.waiting {
		if !r.barrier.Settled() {
			kept = append(kept, r)
			continue
		}
		switch err := r.barrier.Wait(); {
		case err == nil && s.now.Sub(r.at) <= maxDelay:
			s.promised(v, r)
			s.carry(func() { r.to.receive(r.data, r.at) })
		case errors.Is(err, lease.ErrConflict):
			s.note("conflict", v.name)
		case errors.Is(err, lease.ErrAway):
			s.note("away", v.name)
		case err != nil:
			s.t.Errorf("%s: %v", v.name, err)
		}
	}
	v.waiting = kept
	if units, renewals := v.store.Waiting(); units+renewals+len(kept) > 0 || v.store.Away() {
		v.plan()
	}
}

func (v *simServer) plan() {
	if !v.flushes {
		v.flushes = true
		life := v.life
		wait := v.s.between(time.Millisecond, 30*time.Millisecond)
		if v.store.Away() {
			wait = 250 * time.Millisecond
		}
		v.s.after(wait, func() { v.flush(life) })
	}
}

func (v *simServer) receive(from *simClient, data []byte) {
	if v.handler == nil {
		return
	}
	var in received
	v.handler.receive(&Packet{Data: data, Src: netip.AddrPortFrom(relayAddr, ServerPort)}, &in)
	if v.s.rng.IntN(2) == 0 { // as the server does with what it reads at once
		var f lease.Foreseen
		v.handler.foresee(&in, &f)
		if want := len(in.msg.ias); len(f.Keys) != 1 || len(f.Clients) != want {
			v.s.t.Errorf("foreseen: %+v", f)
		}
		v.store.Prefetch(&f)
	}
	reply, _, drop := v.handler.answer(v.now(), &in, nil)
	barrier := v.store.Mark()
	if drop == DropInternal {
		v.s.t.Errorf("%s: an internal error", v.name)
	}
	if drop == 0 {
		v.waiting = append(v.waiting, simReply{barrier, reply, from, v.s.now})
	}
	v.plan()
}

// carry takes a packet over the network.
func (s *sim) carry(deliver func()) {
	copies := 1
	switch {
	case s.chance(0.1):
		copies = 0
	case s.chance(0.1):
		copies = 2
	}
	for range copies {
		delay := s.between(time.Millisecond, 20*time.Millisecond)
		if s.chance(0.05) {
			delay = s.between(20*time.Millisecond, 4*time.Second)
		}
		s.after(delay, deliver)
	}
}

// promised checks what a server is about to tell a client: that it is stored.
func (s *sim) promised(v *simServer, r simReply) {
	m := s.inner(r.data)
	if m.MessageType != dhcp6.MessageTypeReply {
		return
	}
	for _, g := range simGranted(m) {
		s.note("reply", v.name, r.to.n, g.Prefix)
		if g.valid == 0 || s.o.offline && g.Bits() == 128 {
			continue // offline, what is promised of an address may be stored later
		}
		addr := g.Addr()
		l, err := (&memdb.Conn{Database: s.db}).Get(context.Background(), []shared.Key{shared.LeaseKey(addr)})
		if err != nil {
			s.t.Fatal(err)
		}
		// Another server may have changed it since; no other has leased it to somebody else.
		is, err := lease.ParseRecord(addr, l[0].Value)
		if err != nil || string(is.Client.DUID) != string(r.to.duid()) {
			s.t.Errorf("seed %d: %s promises %s to client %d; the database has %+v, %v", s.o.seed, v.name, g.Prefix, r.to.n, is, err)
		}
	}
}

func (s *sim) inner(data []byte) *dhcp6.Message {
	r, err := dhcp6.RelayMessageFromBytes(data)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := r.GetInnerMessage()
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// simGranted are the addresses and prefixes of a message.
func simGranted(m *dhcp6.Message) (all []delegated) {
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			all = append(all, delegated{netip.PrefixFrom(netip.AddrFrom16([16]byte(a.IPv6Addr)), 128), a.PreferredLifetime, a.ValidLifetime})
		}
	}
	for _, ia := range m.Options.IAPD() {
		for _, p := range ia.Options.Prefixes() {
			ones, _ := p.Prefix.Mask.Size()
			all = append(all, delegated{netip.PrefixFrom(netip.AddrFrom16([16]byte(p.Prefix.IP)), ones), p.PreferredLifetime, p.ValidLifetime})
		}
	}
	return all
}

// simClient is a DHCPv6 client (RFC 9915 §18.2), which lives for ever and moves, releases and
// starts again at times.
type simClient struct {
	s     *sim
	n     int
	line  string
	state string
	xid   uint32
	tries int
	at    time.Time // of the exchange's first message
	lease map[netip.Prefix]time.Time
	t1    time.Time
	timer int // which one counts

	router bool
}

// has reports whether the client has an address, or a prefix.
func (c *simClient) has(prefix bool) bool {
	for p := range c.lease {
		if (p.Bits() < 128) == prefix {
			return true
		}
	}
	return false
}

func (c *simClient) duid() []byte {
	return binary.BigEndian.AppendUint32([]byte{0, 3, 0, 1, 2, 0}, uint32(c.n))
}

// wait has f called unless something else is waited for before.
func (c *simClient) wait(d time.Duration, f func()) {
	c.timer++
	n := c.timer
	c.s.after(d, func() {
		if c.timer == n {
			f()
		}
	})
}

func (c *simClient) begin(state string) {
	c.state, c.tries, c.at = state, 0, c.s.now
	c.xid = c.s.rng.Uint32() & 0xffffff
}

func (c *simClient) solicit() {
	c.begin("solicit")
	c.send()
}

// send sends the message of the client's state, to all servers, and again until it is
// answered or of no use any more.
func (c *simClient) send() {
	m, err := dhcp6.NewMessage()
	if err != nil {
		c.s.t.Fatal(err)
	}
	m.TransactionID = dhcp6.TransactionID{byte(c.xid >> 16), byte(c.xid >> 8), byte(c.xid)}
	ia := &dhcp6.OptIANA{IaId: [4]byte{0, 0, 0, 1}}
	m.AddOption(generic(dhcp6.OptionClientID, c.duid()))
	switch c.state {
	case "solicit":
		m.MessageType = dhcp6.MessageTypeSolicit
	case "request":
		m.MessageType = dhcp6.MessageTypeRequest
	case "renew":
		m.MessageType = dhcp6.MessageTypeRenew
		if c.s.now.After(c.t1.Add(simPreferred * 3 / 10)) {
			m.MessageType = dhcp6.MessageTypeRebind
		}
	case "release":
		m.MessageType = dhcp6.MessageTypeRelease
	}
	if m.MessageType != dhcp6.MessageTypeSolicit && m.MessageType != dhcp6.MessageTypeRebind {
		m.AddOption(generic(dhcp6.OptionServerID, serverID))
	}
	pd := iapd(1)
	if m.MessageType != dhcp6.MessageTypeSolicit {
		for _, p := range slices.SortedFunc(maps.Keys(c.lease), netip.Prefix.Compare) {
			if p.Bits() < 128 {
				pd = iapd(1, p)
			} else {
				ia.Options.Add(&dhcp6.OptIAAddress{IPv6Addr: p.Addr().AsSlice()})
			}
		}
	}
	m.AddOption(ia)
	if c.router {
		m.AddOption(pd)
	}
	data := forward(m, simPrefix.Addr().Next(), linkLocal, generic(38, []byte(c.line))).ToBytes()
	// A relay sends to all servers, or to one, which may be another one each time.
	to := c.s.servers
	if c.s.rng.IntN(2) == 0 {
		i := c.s.rng.IntN(len(to))
		to = to[i : i+1]
	}
	for _, v := range to {
		c.s.carry(func() { v.receive(c, data) })
	}
	c.tries++
	c.wait(min(time.Second<<min(c.tries, 6), 30*time.Second), c.again)
}

func (c *simClient) again() {
	c.drop()
	switch {
	case c.state == "request" && c.tries >= 10, c.state == "renew" && !c.has(false):
		c.solicit()
	case c.state == "release" && c.tries >= 4:
		c.over()
	default:
		c.send()
	}
}

// drop forgets addresses that have run out.
func (c *simClient) drop() {
	maps.DeleteFunc(c.lease, func(_ netip.Prefix, until time.Time) bool { return !c.s.now.Before(until) })
}

func (c *simClient) over() {
	c.lease, c.state = nil, ""
	c.wait(c.s.between(time.Second, 5*time.Minute), c.solicit)
}

// receive takes a message that was decided on at a time.
func (c *simClient) receive(data []byte, decided time.Time) {
	s := c.s
	m := s.inner(data)
	if got := uint32(m.TransactionID[0])<<16 | uint32(m.TransactionID[1])<<8 | uint32(m.TransactionID[2]); got != c.xid {
		return
	}
	switch {
	case c.state == "solicit" && m.MessageType == dhcp6.MessageTypeAdvertise:
		if len(simGranted(m)) == 0 {
			return
		}
		c.begin("request")
		c.lease = nil
		c.send()
		return
	case m.MessageType != dhcp6.MessageTypeReply:
		return
	case c.state == "release":
		c.over()
		return
	case c.state != "request" && c.state != "renew":
		return
	}
	all := simGranted(m)
	if !slices.ContainsFunc(all, func(g delegated) bool { return g.Bits() == 128 }) {
		c.drop()
		if c.state == "renew" { // no binding, so to say
			s.note("no binding", c.n)
		}
		c.solicit()
		return
	}
	if c.lease == nil {
		c.lease = make(map[netip.Prefix]time.Time)
	}
	for _, g := range all {
		if g.valid == 0 {
			delete(c.lease, g.Prefix)
			continue
		}
		c.bind(g, decided)
	}
	c.state = "bound"
	c.t1 = s.now.Add(s.between(simPreferred/2, simPreferred*6/10))
	if c.router && !c.has(true) { // somebody's may have run out
		c.wait(s.between(time.Second, 20*time.Second), c.solicit)
		return
	}
	c.wait(c.t1.Sub(s.now), c.next)
}

// next is what a client does that has an address: mostly it renews.
func (c *simClient) next() {
	switch {
	case c.s.chance(0.1):
		for p := range c.lease {
			delete(c.s.held, p)
		}
		c.begin("release")
	case c.s.chance(0.1): // it starts again, with nothing
		c.lease = nil
		c.solicit()
		return
	case c.s.chance(0.05): // it sleeps for longer than its lease
		c.wait(c.s.between(time.Minute, 2*simValid), c.solicit)
		c.state = "asleep"
		return
	default:
		c.begin("renew")
	}
	c.send()
}

// bind checks that nobody else has what a client takes into use, of which a server decided at a time.
func (c *simClient) bind(g delegated, decided time.Time) {
	s := c.s
	s.note("bound", c.n, g.Prefix)
	c.lease[g.Prefix] = s.now.Add(g.valid) // the lifetime counts from when the Reply came; the server's from before
	address := g.Bits() == 128
	if address {
		if other, ok := s.owner[g.Addr()]; ok && other != c.line {
			s.t.Errorf("seed %d: %s is bound to %s and was to %s", s.o.seed, g.Addr(), c.line, other)
		}
	} else {
		s.note("delegated", c.n, g.Prefix)
	}
	if _, known := s.owner[g.Addr()]; !known || !address {
		s.bound = append(s.bound, simBinding{g.Prefix, c.line, decided})
		s.owner[g.Addr()] = c.line
	}
	// Between clients of one subscriber, too; but what address is promised offline and lost in a
	// crash nobody else knows. The server's times are whole seconds.
	if h, ok := s.held[g.Prefix]; ok && h.client != c && decided.Before(h.until.Add(-time.Second)) && !(address && s.o.offline && s.o.crashes) {
		s.t.Errorf("seed %d: at %s %s is bound to client %d, and client %d has it until %s", s.o.seed, decided, g.Prefix, c.n, h.client.n, h.until)
	}
	// A Reply may overtake one that was decided on later.
	if h, ok := s.held[g.Prefix]; !ok || h.client != c || h.until.Before(decided.Add(g.valid)) {
		s.held[g.Prefix] = simHolding{c, decided.Add(g.valid)}
	}
}

// run runs the events until the time is over, then without faults until all is stored.
func (s *sim) run() {
	end := s.now.Add(s.o.length)
	for _, until := range []time.Time{end, end.Add(15 * time.Minute)} {
		for len(s.queue) > 0 && !s.queue[0].at.After(until) {
			e := heap.Pop(&s.queue).(simEvent)
			s.now = e.at
			e.do()
			if s.t.Failed() {
				return
			}
		}
		s.calm = true
		for _, v := range s.servers {
			v.cut, v.leap = false, 0
		}
	}
	for _, v := range s.servers {
		if v.store == nil || v.store.Away() {
			s.t.Errorf("seed %d: %s has no database long after all is well", s.o.seed, v.name)
			continue
		}
		if units, renewals := v.store.Waiting(); renewals > 0 || units > 100 {
			s.t.Errorf("seed %d: %s has %d messages' changes and %d renewals to store", s.o.seed, v.name, units, renewals)
		}
	}
	bound := 0
	for _, c := range s.clients {
		if c.has(false) {
			bound++
		}
	}
	if bound < len(s.clients)*9/10 {
		s.t.Errorf("seed %d: %d of %d clients have an address long after all is well", s.o.seed, bound, len(s.clients))
	}
	s.traceAll()
}

// traceAll finds who had what was ever taken into use, and when, from what is stored: each address, and
// each prefix each time.
func (s *sim) traceAll() {
	db := &memdb.Conn{Database: s.db}
	lines := make(map[uint64]string) // whose NIDs are open
	for _, b := range s.bound {
		history, err := db.History(context.Background(), nil, b.prefix.Addr())
		if err != nil {
			s.t.Fatal(err)
		}
		// A server's clock may be a little ahead, or behind. Who traces what somebody did within that of the end of
		// his lease finds the next one's as well, and is told of both.
		found := false
		for _, l := range history {
			if l.Start.After(b.at.Add(shared.DefaultClock)) || !l.ValidUntil.After(b.at.Add(-shared.DefaultClock)) {
				continue
			}
			if _, ok := lines[l.Subscriber]; !ok {
				lines[l.Subscriber] = s.open(l.Subscriber)
			}
			if lines[l.Subscriber] == "subscriber:"+b.line {
				found = true
				continue
			}
			if !l.Start.After(b.at.Add(-2*shared.DefaultClock)) && l.ValidUntil.After(b.at.Add(2*shared.DefaultClock)) {
				s.t.Errorf("seed %d: %s was bound to %s at %s and is traced to %q: %+v", s.o.seed, b.prefix, b.line, b.at, lines[l.Subscriber], l)
			}
		}
		if !found {
			s.t.Errorf("seed %d: %s was in use by %s at %s; the database has %+v", s.o.seed, b.prefix, b.line, b.at, history)
			continue
		}
		if b.prefix.Bits() < 128 {
			continue
		}
		l := history[0]
		key, err := s.keys.Key(l.Epoch)
		if err != nil {
			s.t.Fatal(err)
		}
		number, slot, err := key.Decode(idcodec.PrefixOf(l.Addr), idcodec.GIDOf(l.Addr))
		if err != nil || number != l.Subscriber || slot != l.Slot {
			s.t.Errorf("seed %d: %s says subscriber %d, slot %d, %v; its lease %d and %d", s.o.seed, l.Addr, number, slot, err, l.Subscriber, l.Slot)
		}
	}
	if len(lines) != s.o.lines {
		s.t.Errorf("seed %d: addresses lead to %d subscribers, there are %d", s.o.seed, len(lines), s.o.lines)
	}
}

// open opens a subscriber's NID, as the trustees would.
func (s *sim) open(number uint64) string {
	sub, err := (&memdb.Conn{Database: s.db}).Subscriber(context.Background(), number)
	if err != nil {
		s.t.Errorf("seed %d: subscriber %d: %v", s.o.seed, number, err)
		return ""
	}
	part, err := s.share.DecryptShare(rand.NewChaCha8([32]byte{}), s.escrow, "isp.example", sub.NID)
	if err != nil {
		s.t.Fatal(err)
	}
	eid, err := s.escrow.OpenNID("isp.example", sub.NID, []idcodec.DecryptionShare{part})
	if err != nil {
		s.t.Fatal(err)
	}
	return eid.Reveal()
}

// Whatever is lost, cut and crashes, no address is ever bound to two subscribers, none is in
// use at two clients at once, what a client is told is stored, and every address that was
// ever in use leads to its one subscriber. GID_SIM_SEEDS says how many runs are made of each
// kind; one, and a short one, if it is not set.
func TestServersThatShareADatabaseUnderFaults(t *testing.T) {
	seeds, length := uint64(1), time.Hour
	if s := os.Getenv("GID_SIM_SEEDS"); s != "" {
		var err error
		if seeds, err = strconv.ParseUint(s, 10, 16); err != nil {
			t.Fatal(err)
		}
		length = 3 * time.Hour
	}
	for name, o := range map[string]simOptions{
		"crashes":             {servers: 4, crashes: true},
		"offline":             {servers: 4, offline: true},
		"crashes and offline": {servers: 3, crashes: true, offline: true},
		"many servers":        {servers: shared.MaxServers, crashes: true, length: length / 3},
		"one server":          {servers: 1, crashes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range seeds {
				o.seed, o.clients, o.lines, o.length = seed+1, 60, 20, cmp.Or(o.length, length)
				s := newSim(t, o)
				s.run()
				t.Logf("seed %d: %v", o.seed, s.count)
				if t.Failed() {
					return
				}
				for _, what := range []string{"bound", "delegated", "reply", "cut", "leap", "away"} {
					if s.count[what] == 0 {
						t.Errorf("seed %d: %q never happened; the run shows little", o.seed, what)
					}
				}
				if o.servers > 1 && s.count["conflict"] == 0 || o.crashes && s.count["crash"] == 0 {
					t.Errorf("seed %d: no conflict or no crash; the run shows little", o.seed)
				}
			}
		})
	}
}

// A router that asks for more time for its address and its prefix while the database is away is answered as to the
// address, and one that asks for its prefix alone is not; nor is one that wants its prefix anew.
func TestNothingIsSaidOfPrefixesWhileTheDatabaseIsAway(t *testing.T) {
	s := newSim(t, simOptions{seed: 1, servers: 1, offline: true})
	v := s.servers[0]
	v.skew = 0
	s.calm = true
	c := &simClient{s: s, line: "line", router: true}
	ask := func(m *dhcp6.Message, err error) (*dhcp6.Message, Drop) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		m.AddOption(generic(dhcp6.OptionClientID, c.duid()))
		if m.MessageType != dhcp6.MessageTypeSolicit && m.MessageType != dhcp6.MessageTypeRebind {
			m.AddOption(generic(dhcp6.OptionServerID, serverID))
		}
		data := forward(m, simPrefix.Addr().Next(), linkLocal, generic(38, []byte(c.line))).ToBytes()
		reply, _, drop := v.handler.Handle(v.now(), &Packet{Data: data, Src: netip.AddrPortFrom(relayAddr, ServerPort)}, nil)
		mark := v.store.Mark()
		_ = v.store.Flush(context.Background()) // the mark tells
		if drop != 0 {
			return nil, drop
		}
		if err := mark.Wait(); err != nil {
			t.Fatalf("%s: %v", m.MessageType, err)
		}
		return s.inner(reply), 0
	}
	of := func(kind dhcp6.MessageType, options ...dhcp6.Option) (*dhcp6.Message, error) {
		m, err := dhcp6.NewMessage()
		if err == nil {
			m.MessageType = kind
			for _, o := range options {
				m.AddOption(o)
			}
		}
		return m, err
	}
	m, drop := ask(of(dhcp6.MessageTypeRequest, iana1(1), iapd(1)))
	if drop != 0 {
		t.Fatal(drop)
	}
	had := simGranted(m)
	if len(had) != 2 || had[0].Bits() != 128 || had[1].Bits() != 64 {
		t.Fatalf("granted are %v", had)
	}
	v.cut = true
	if _, err := v.store.Subscriber(0); !errors.Is(err, lease.ErrAway) {
		t.Fatalf("the database is not away: %v", err)
	}
	s.now = s.now.Add(5 * time.Minute)
	for _, kind := range []dhcp6.MessageType{dhcp6.MessageTypeRenew, dhcp6.MessageTypeRebind} {
		for _, options := range [][]dhcp6.Option{
			{iana1(1, had[0].Addr()), iapd(1, had[1].Prefix)}, {iapd(1, had[1].Prefix), iana1(1, had[0].Addr())},
		} {
			m, drop := ask(of(kind, options...))
			if drop != 0 {
				t.Errorf("%s: dropped as %s", kind, drop)
				continue
			}
			if got := simGranted(m); len(got) != 1 || got[0].Prefix != had[0].Prefix || got[0].valid != simValid || m.Options.OneIAPD() != nil {
				t.Errorf("%s: granted are %v, of the prefix is said %v", kind, got, m.Options.OneIAPD())
			}
		}
		if _, drop := ask(of(kind, iapd(1, had[1].Prefix))); drop != DropAway {
			t.Errorf("%s of a prefix alone: %s", kind, drop)
		}
	}
	for _, kind := range []dhcp6.MessageType{dhcp6.MessageTypeSolicit, dhcp6.MessageTypeRequest} {
		if _, drop := ask(of(kind, iana1(1), iapd(1, had[1].Prefix))); drop != DropAway {
			t.Errorf("%s: %s", kind, drop)
		}
	}
	v.cut = false
	for range 2 { // the first finds the database, and the second stores what was promised
		if err := v.store.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	m, drop = ask(of(dhcp6.MessageTypeRenew, iana1(1, had[0].Addr()), iapd(1, had[1].Prefix)))
	if drop != 0 || len(simGranted(m)) != 2 {
		t.Errorf("when it is back: %v, %s", m, drop)
	}
}

// What a seed does it does again, so that a failure can be looked at. Rows that a server reads at
// once come into its memory in one order: of few clients' rows, which others are forgotten for them
// decides what is asked of the database, and so what goes wrong.
func TestASeedDoesTheSameAgain(t *testing.T) {
	for _, seed := range []uint64{3, 6, 7} {
		var sums [3]string
		for i := range sums {
			s := newSim(t, simOptions{seed: seed, servers: 3, clients: 60, lines: 20, length: time.Hour, crashes: true, offline: true})
			s.run()
			sums[i] = fmt.Sprintf("%x", s.trace.Sum(nil))
		}
		if different := slices.Compact(sums[:]); len(different) > 1 {
			t.Errorf("seed %d: runs of it differ: %q", seed, different)
		}
	}
}
