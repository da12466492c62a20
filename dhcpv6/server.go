package dhcpv6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"brightgid/dhcpv6/udpbatch"
	"brightgid/lease"
)

// Multicast groups (RFC 9915 §7.1).
var (
	allRelaysAndServers = net.ParseIP("ff02::1:2")
	allServers          = net.ParseIP("ff05::1:3")
)

const (
	// batchSize is how many packets one system call reads or writes, and how
	// many leases share a sync at the least.
	batchSize = 32

	// maxPacket is the length in bytes of the longest message that is read. A
	// client's fits one link's MTU; eight relays add less than this.
	maxPacket = 8192

	// maxSockets is the number of sockets at the most, of which there is one for each
	// processor. One handler is behind all of them.
	maxSockets = 8

	// inFlight is how many batches of a socket are between being read and being sent.
	// While the disk writes some, the next are handled; when all wait for the
	// disk, packets wait in the socket and at last are lost, as UDP is.
	inFlight = 8

	// enough is how many batches are worth a sync of the disk while others could be handled first.
	// On one processor nobody would begin it before all wait, and the processor would be idle until
	// it ends.
	enough = 2

	// sharedInFlight is the same, of all sockets together, for a store that several servers
	// share, which takes longer and in which more go into one commit the more wait for it.
	sharedInFlight = 32

	// maxDelay is how old an answer may be. Its lifetimes count from when it
	// was made, and a client counts from when it came.
	maxDelay = 2 * time.Second

	// maxParked bounds the packets that wait for their clients' authentication, and
	// parkFor how long they do. A client asks again after about a second, and then
	// later and later (RFC 9915 §15).
	maxParked = 1024
	parkFor   = 10 * time.Second
)

// parked is a packet whose client is being authenticated.
type parked struct {
	packet udpbatch.Message
	done   <-chan struct{}
}

// Server is the sockets beside a Handler. Replies leave when their leases are
// durable.
type Server struct {
	handler *Handler
	barrier func() lease.Barrier // stands for all leases that are stored so far
	each    bool                 // a barrier is taken after each message

	prefetch func(*lease.Foreseen) // nil if the store does not want to know
	foreseen lease.Foreseen
	received [batchSize]received // of the batch that is handled
	now      func() time.Time
	stats    *Stats
	log      *slog.Logger

	sockets []*socket // the first is in the multicast groups
	groups  *ipv6.PacketConn

	feed    *Feed
	changes []lease.Lease // of the batch that is handled
	handled chan *batch
	waiting atomic.Int32 // batches for the disk

	park    chan *parked // to those that wait
	joining sync.Mutex

	mu     sync.Mutex // held while packets are handled
	ifaces struct {
		sync.RWMutex
		byIndex map[int]string
		joined  map[string]int
	}
}

// socket is one of the sockets that the kernel spreads packets over, each relay's to one.
type socket struct {
	udp   *net.UDPConn
	conn  *udpbatch.Conn
	write *udpbatch.Writer // of answers that have waited
	ready chan *batch      // which have them
}

// Listen opens the server's sockets, on the DHCPv6 server port of every address,
// and joins the multicast groups on the interfaces that the handler's links
// name. Changes that [Server.Changed] hears of go to the feed when they are durable.
func Listen(handler *Handler, barrier func() lease.Barrier, feed *Feed, now func() time.Time) (*Server, error) {
	s := &Server{handler: handler, barrier: barrier, feed: feed, now: now, stats: handler.stats, log: handler.log, park: make(chan *parked, maxParked)}
	conns, err := udpbatch.Listen(ServerPort, min(runtime.GOMAXPROCS(0), maxSockets))
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 socket: %w (is another DHCPv6 server or relay running here?)", err)
	}
	for _, c := range conns {
		batched, err := udpbatch.New(c)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("DHCPv6 socket: %w", err), closeAll(conns))
		}
		s.sockets = append(s.sockets, &socket{udp: c, conn: batched, write: batched.NewWriter()})
	}
	s.groups = ipv6.NewPacketConn(conns[0])
	s.ifaces.byIndex = make(map[int]string)
	s.ifaces.joined = make(map[string]int)
	if err := s.join(); err != nil {
		return nil, errors.Join(err, closeAll(conns))
	}
	return s, nil
}

func closeAll(conns []*net.UDPConn) (err error) {
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// join joins the groups on interfaces that are new, or that came back under
// another index.
func (s *Server) join() error {
	s.mu.Lock()
	links := s.handler.cfg.Links
	s.mu.Unlock()
	s.joining.Lock()
	defer s.joining.Unlock()
	s.leave(links)
	var failed error
	for _, l := range links {
		if l.Interface == "" {
			continue
		}
		ifi, err := net.InterfaceByName(l.Interface)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("link %q: interface %q: %w", l.Name, l.Interface, err))
			continue
		}
		if s.ifaces.joined[l.Interface] == ifi.Index {
			continue
		}
		for _, group := range []net.IP{allRelaysAndServers, allServers} {
			if err := s.groups.JoinGroup(ifi, &net.UDPAddr{IP: group}); err != nil && !errors.Is(err, unix.EADDRINUSE) {
				failed = errors.Join(failed, fmt.Errorf("link %q: joining %s on %q: %w", l.Name, group, l.Interface, err))
			}
		}
		s.ifaces.Lock()
		delete(s.ifaces.byIndex, s.ifaces.joined[l.Interface])
		s.ifaces.byIndex[ifi.Index] = l.Interface
		s.ifaces.joined[l.Interface] = ifi.Index
		s.ifaces.Unlock()
	}
	return failed
}

// leave leaves the groups on interfaces that no link has any more.
func (s *Server) leave(links []Link) {
	for name, index := range s.ifaces.joined {
		if slices.ContainsFunc(links, func(l Link) bool { return l.Interface == name }) {
			continue
		}
		for _, group := range []net.IP{allRelaysAndServers, allServers} {
			// The interface may be gone, and then so is the membership.
			_ = s.groups.LeaveGroup(&net.Interface{Index: index, Name: name}, &net.UDPAddr{IP: group})
		}
		s.ifaces.Lock()
		delete(s.ifaces.byIndex, index)
		delete(s.ifaces.joined, name)
		s.ifaces.Unlock()
	}
}

// Replace has another handler answer from the next packet on. Packets wait meanwhile in
// the socket. An interface that cannot be served is an error, and the handler in place.
func (s *Server) Replace(h *Handler) error {
	s.mu.Lock()
	s.handler = h
	s.mu.Unlock()
	return s.join()
}

// Share prepares the server for a store that several servers change. The barrier that Listen
// was given is taken after each message, and only that message's answer waits for it, since
// one may be refused beside others.
func (s *Server) Share() { s.each = true }

// Prefetch has f told of each batch of messages whose they are, before they are handled.
func (s *Server) Prefetch(f func(*lease.Foreseen)) { s.prefetch = f }

// Do runs f while no packet is handled, for work on what the handler uses.
func (s *Server) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	if s.each {
		s.barrier()
	}
}

// Send sends a message that answers none.
func (s *Server) Send(m Reconfigure) error {
	s.stats.Sent[dhcp6.MessageTypeReconfigure].Add(1)
	_, err := s.sockets[0].udp.WriteToUDP(m.Data, m.To)
	return err
}

// Changed notes a lease that a packet has changed; it is for
// lease.Allocator.Observe.
func (s *Server) Changed(l lease.Lease) {
	if s.feed.Following() {
		s.changes = append(s.changes, keep(l))
	}
}

// batch is packets on their way through the server.
type batch struct {
	socket  *socket
	free    chan *batch // where it goes back to
	out     []udpbatch.Message
	replies [][]byte // memory of the answers
	changes []lease.Lease
	at      time.Time
	parts   []part
}

// part is messages of a batch whose answers wait for one barrier: those up to an answer and
// a change, from where the part before it ends.
type part struct {
	barrier      lease.Barrier
	out, changes int
}

func newBatch(s *socket, free chan *batch) *batch {
	b := &batch{
		socket: s, free: free,
		out: make([]udpbatch.Message, 0, batchSize), replies: make([][]byte, batchSize),
	}
	for i := range b.replies {
		b.replies[i] = make([]byte, 0, 1024)
	}
	return b
}

// Serve answers packets until the context ends, and sends what it has promised
// before it returns.
func (s *Server) Serve(until context.Context) error {
	ctx, cancel := context.WithCancelCause(until)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		for _, k := range s.sockets {
			k.udp.SetReadDeadline(time.Unix(1, 0))
		}
	})
	defer stop()

	batches := inFlight
	if s.each {
		batches = max(inFlight, sharedInFlight/len(s.sockets))
	}
	// Batches come in the order in which they were handled, which is that in which the feed has to
	// be told of their changes.
	s.handled = make(chan *batch, (batches+1)*len(s.sockets))
	var senders, readers sync.WaitGroup
	settled := make(chan struct{})
	for _, k := range s.sockets {
		k.ready = make(chan *batch, batches+1)
		if len(s.sockets) > 1 {
			senders.Go(func() {
				for b := range k.ready {
					s.send(b, k.write)
					b.free <- b
				}
			})
		}
	}
	go func() {
		defer close(settled)
		for b := range s.handled {
			// Of one socket this goroutine sends as well, which is a waking less.
			s.settle(b)
			s.waiting.Add(-1)
			if len(s.sockets) > 1 {
				b.socket.ready <- b
			} else {
				s.send(b, b.socket.write)
				b.free <- b
			}
		}
	}()
	go s.watch(ctx)
	for _, k := range s.sockets {
		free := make(chan *batch, batches)
		for range batches {
			free <- newBatch(k, free)
		}
		readers.Go(func() {
			read, write := k.conn.NewReader(batchSize, maxPacket), k.conn.NewWriter()
			var b *batch // the same as long as it can be, which is in the processor's caches
			for {
				if b == nil {
					b = <-free
				}
				in, err := read.Read()
				if err != nil {
					cancel(err)
					return
				}
				if s.answer(b, in) {
					s.send(b, write)
				} else {
					b = nil
				}
			}
		})
	}
	readers.Go(func() {
		free := make(chan *batch, 1)
		free <- newBatch(s.sockets[0], free)
		write := s.sockets[0].conn.NewWriter()
		s.again(ctx.Done(), func(p *parked) {
			if b := <-free; s.answer(b, []udpbatch.Message{p.packet}) {
				s.send(b, write)
				b.free <- b
			}
		})
	})
	readers.Wait()
	close(s.handled)
	<-settled
	for _, k := range s.sockets {
		close(k.ready)
	}
	senders.Wait()
	for _, k := range s.sockets {
		k.udp.Close()
	}
	if until.Err() != nil {
		return nil
	}
	return fmt.Errorf("DHCPv6 socket: %w", context.Cause(ctx))
}

// watch joins the groups again on interfaces that went away and came back.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	var before string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := ""
		if err := s.join(); err != nil {
			now = err.Error()
		}
		if now != before && now != "" {
			s.log.Error("an interface cannot be served", "error", now)
		}
		before = now
	}
}

// answer handles packets as one batch. It reports that the answers may be sent at once, since they
// wait for nothing; else the batch is on its way, and comes back by itself.
func (s *Server) answer(b *batch, in []udpbatch.Message) (now bool) {
	b.out = b.out[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range in {
		s.receive(&in[i], &s.received[i])
	}
	if s.prefetch != nil {
		s.foreseen.Reset()
		for i := range in {
			s.handler.foresee(&s.received[i], &s.foreseen)
		}
		s.prefetch(&s.foreseen)
	}
	b.at = s.now()
	b.parts = b.parts[:0]
	for i := range in {
		s.handle(b, &in[i], &s.received[i])
		if s.each {
			b.parts = append(b.parts, part{s.barrier(), len(b.out), len(s.changes)})
		}
	}
	b.changes, s.changes = append(b.changes[:0], s.changes...), s.changes[:0]
	if len(b.out) == 0 && len(b.changes) == 0 {
		return true
	}
	if !s.each {
		b.parts = append(b.parts, part{s.barrier(), len(b.out), len(b.changes)})
	}
	if len(b.changes) == 0 && !slices.ContainsFunc(b.parts, func(p part) bool { return !p.barrier.Settled() }) {
		s.settle(b)
		return true
	}
	s.handled <- b // it has room for all batches
	if s.waiting.Add(1) == enough {
		runtime.Gosched()
	}
	return false
}

// again handles each parked packet when its client's authentication is decided, until it
// is told that it is over.
func (s *Server) again(over <-chan struct{}, handle func(*parked)) {
	ready := make(chan *parked)
	waiting := 0
	for {
		var more chan *parked
		if waiting < maxParked {
			more = s.park
		}
		select {
		case <-over:
			return
		case p := <-more:
			waiting++
			go func() {
				t := time.NewTimer(parkFor)
				defer t.Stop()
				select {
				case <-p.done:
				case <-t.C: // it is handled, and dropped if nothing is known yet
				case <-over:
					return
				}
				select {
				case ready <- p:
				case <-over:
				}
			}()
		case p := <-ready:
			waiting--
			handle(p)
		}
	}
}

// receive reads a packet into r.
func (s *Server) receive(in *udpbatch.Message, r *received) {
	s.ifaces.RLock()
	iface := s.ifaces.byIndex[in.Interface]
	s.ifaces.RUnlock()
	p := Packet{Data: in.Data, Src: in.Peer, Multicast: in.Local.IsMulticast(), Interface: iface}
	if in.Truncated {
		r.query, r.drop = false, DropOversized
		return
	}
	s.handler.receive(&p, r)
}

// handle answers a packet that receive has read.
func (s *Server) handle(b *batch, in *udpbatch.Message, r *received) {
	if !in.Local.IsValid() && !in.Truncated {
		return
	}
	k := len(b.out)
	reply, to, drop := s.handler.answer(b.at, r, b.replies[k][:0])
	if drop == DropPending && s.handler.pending != nil {
		p := &parked{*in, s.handler.pending}
		p.packet.Data = slices.Clone(in.Data)
		select {
		case s.park <- p:
		default: // too many wait; the client will ask again
		}
	}
	if drop != 0 {
		return
	}
	b.replies[k] = reply
	m := udpbatch.Message{Data: reply, Peer: to}
	if !in.Local.IsMulticast() { // else the kernel picks the interface's own
		m.Local = in.Local
	}
	if to.Addr().IsLinkLocalUnicast() {
		m.Interface = in.Interface
	}
	b.out = append(b.out, m)
}

// settle waits until the batch's leases are on disk, tells the feed, and leaves in the batch what
// may be sent.
func (s *Server) settle(b *batch) {
	var before part
	ready := b.out[:0]
	for _, p := range b.parts {
		out, changes := b.out[before.out:p.out], b.changes[before.changes:p.changes]
		before = p
		err := p.barrier.Wait()
		drop := DropNotDurable
		switch {
		case err == nil:
			s.feed.Publish(changes, false)
			if s.now().Sub(b.at) <= maxDelay {
				ready = append(ready, out...)
				continue
			}
		case errors.Is(err, lease.ErrConflict):
			drop = DropConflict
		case errors.Is(err, lease.ErrAway):
			drop = DropAway
		default:
			s.log.Error("leases could not be stored; clients are not answered", "error", err)
		}
		s.stats.Dropped[drop].Add(uint64(len(out)))
	}
	b.out = ready
}

// send sends what settle has left.
func (s *Server) send(b *batch, w *udpbatch.Writer) {
	if len(b.out) == 0 {
		return
	}
	err := w.Write(b.out, func(m *udpbatch.Message, err error) {
		s.stats.WriteErrors.Add(1)
		s.log.Debug("a reply was not sent", "to", m.Peer, "error", err)
	})
	if err != nil {
		s.stats.WriteErrors.Add(uint64(len(b.out)))
		s.log.Error("replies could not be sent", "error", err)
	}
}
