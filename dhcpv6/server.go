package dhcpv6

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

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
	batchSize = 64

	// maxPacket is the length in bytes of the longest message that is read. A
	// client's fits one link's MTU; eight relays add less than this.
	maxPacket = 8192

	// inFlight is how many batches are between being read and being sent.
	// While the disk writes one, the next is handled; when all wait for the
	// disk, packets wait in the socket and at last are lost, as UDP is.
	inFlight = 4

	// sharedInFlight is the same for a store that several servers share, which takes longer
	// and in which more go into one commit the more wait for it.
	sharedInFlight = 32

	// maxDelay is how old an answer may be. Its lifetimes count from when it
	// was made, and a client counts from when it came.
	maxDelay = 2 * time.Second

	socketBuffer = 4 << 20

	// maxParked bounds the packets that wait for their clients' authentication, and
	// parkFor how long they do. A client asks again after about a second, and then
	// later and later (RFC 9915 §15).
	maxParked = 1024
	parkFor   = 10 * time.Second
)

// parked is a packet whose client is being authenticated.
type parked struct {
	data  []byte
	oob   []byte
	flags int
	addr  net.Addr
	done  <-chan struct{}
}

// Server is the sockets beside a Handler. Replies leave when their leases are
// durable.
type Server struct {
	handler *Handler
	barrier func() lease.Barrier // stands for all leases that are stored so far
	each    bool                 // a barrier is taken after each message

	prefetch func(*lease.Foreseen) // nil for a store that is near
	foreseen lease.Foreseen
	now      func() time.Time
	stats    *Stats
	log      *slog.Logger

	conn *net.UDPConn
	pc   *ipv6.PacketConn

	feed    *Feed
	changes []lease.Lease // of the batch that is handled

	park    chan *parked // to those that wait
	joining sync.Mutex

	mu     sync.Mutex // held while packets are handled
	ifaces struct {
		sync.RWMutex
		byIndex map[int]string
		joined  map[string]int
	}
}

// Listen opens the server's socket, on the DHCPv6 server port of every address,
// and joins the multicast groups on the interfaces that the handler's links
// name. Changes that [Server.Changed] hears of go to the feed when they are durable.
func Listen(handler *Handler, barrier func() lease.Barrier, feed *Feed, now func() time.Time) (*Server, error) {
	s := &Server{handler: handler, barrier: barrier, feed: feed, now: now, stats: handler.stats, log: handler.log, park: make(chan *parked, maxParked)}
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{Port: ServerPort})
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 socket: %w (is another DHCPv6 server or relay running here?)", err)
	}
	s.conn, s.pc = conn, ipv6.NewPacketConn(conn)
	enlarge(conn)
	if err := s.pc.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true); err != nil {
		return nil, errors.Join(fmt.Errorf("DHCPv6 socket: %w", err), conn.Close())
	}
	s.ifaces.byIndex = make(map[int]string)
	s.ifaces.joined = make(map[string]int)
	if err := s.join(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// enlarge gives a socket larger buffers, by CAP_NET_ADMIN where the system's limit is lower. They
// are better and no condition of service.
func enlarge(conn *net.UDPConn) {
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
	})
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
			if err := s.pc.JoinGroup(ifi, &net.UDPAddr{IP: group}); err != nil && !errors.Is(err, unix.EADDRINUSE) {
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
			_ = s.pc.LeaveGroup(&net.Interface{Index: index, Name: name}, &net.UDPAddr{IP: group})
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
// one may be refused beside others. prefetch is told whose messages are to be handled next.
func (s *Server) Share(prefetch func(*lease.Foreseen)) { s.each, s.prefetch = true, prefetch }

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
	_, err := s.conn.WriteToUDP(m.Data, m.To)
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
	in      []ipv6.Message
	out     []ipv6.Message
	replies [][]byte // memory of the answers
	oob     [][]byte // memory of their control messages
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

func newBatch() *batch {
	b := &batch{
		in:      make([]ipv6.Message, batchSize),
		out:     make([]ipv6.Message, 0, batchSize),
		replies: make([][]byte, batchSize),
		oob:     make([][]byte, batchSize),
	}
	for i := range b.in {
		b.in[i].Buffers = [][]byte{make([]byte, maxPacket)}
		b.in[i].OOB = make([]byte, 128)
		b.replies[i] = make([]byte, 0, 1024)
		b.oob[i] = make([]byte, 0, pktInfoSpace)
	}
	return b
}

// Serve answers packets until the context ends, and sends what it has promised
// before it returns.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	defer s.conn.Close()

	batches := inFlight
	if s.each {
		batches = sharedInFlight
	}
	free := make(chan *batch, batches)
	for range batches {
		free <- newBatch()
	}
	handled := make(chan *batch, batches)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for b := range handled {
			s.send(b)
			free <- b
		}
	}()
	go s.watch(ctx)
	over := make(chan struct{})
	var late sync.WaitGroup
	late.Go(func() {
		s.again(over, func(p *parked) {
			b := <-free
			if s.resume(b, p); len(b.out) > 0 || len(b.changes) > 0 {
				handled <- b
			} else {
				free <- b
			}
		})
	})
	var err error
	for err == nil {
		b := <-free
		if err = s.read(b); err == nil && (len(b.out) > 0 || len(b.changes) > 0) {
			handled <- b
		} else {
			free <- b
		}
	}
	close(over)
	late.Wait()
	close(handled)
	<-sent
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("DHCPv6 socket: %w", err)
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

// read reads and handles one batch.
func (s *Server) read(b *batch) error {
	for i := range b.in {
		b.in[i].OOB = b.in[i].OOB[:cap(b.in[i].OOB)]
	}
	b.out = b.out[:0]
	n, err := s.pc.ReadBatch(b.in, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prefetch != nil {
		s.foreseen.Keys, s.foreseen.Clients = s.foreseen.Keys[:0], s.foreseen.Clients[:0]
		for i := range b.in[:n] {
			if src, ok := b.in[i].Addr.(*net.UDPAddr); ok {
				addr, _ := netip.AddrFromSlice(src.IP)
				s.handler.foresee(b.in[i].Buffers[0][:b.in[i].N], addr, &s.foreseen)
			}
		}
		s.prefetch(&s.foreseen)
	}
	s.handleAll(b, b.in[:n])
	return nil
}

// handleAll handles packets of one batch; the caller holds mu.
func (s *Server) handleAll(b *batch, in []ipv6.Message) {
	b.at = s.now()
	b.parts = b.parts[:0]
	for i := range in {
		s.handle(b, &in[i])
		if s.each {
			b.parts = append(b.parts, part{s.barrier(), len(b.out), len(s.changes)})
		}
	}
	b.changes, s.changes = append(b.changes[:0], s.changes...), s.changes[:0]
	if !s.each && (len(b.out) > 0 || len(b.changes) > 0) {
		b.parts = append(b.parts, part{s.barrier(), len(b.out), len(b.changes)})
	}
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

// resume handles a parked packet as a batch.
func (s *Server) resume(b *batch, p *parked) {
	b.out = b.out[:0]
	in := &b.in[0]
	in.OOB = in.OOB[:cap(in.OOB)]
	in.N, in.NN = copy(in.Buffers[0], p.data), copy(in.OOB, p.oob)
	in.Flags, in.Addr = p.flags, p.addr
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handleAll(b, b.in[:1])
}

func (s *Server) handle(b *batch, in *ipv6.Message) {
	if in.Flags&unix.MSG_TRUNC != 0 {
		s.stats.Dropped[DropOversized].Add(1)
		return
	}
	src, ok := in.Addr.(*net.UDPAddr)
	if !ok {
		return
	}
	dst, index, ok := parsePktInfo(in.OOB[:in.NN])
	if !ok {
		return
	}
	addr, _ := netip.AddrFromSlice(src.IP)
	s.ifaces.RLock()
	iface := s.ifaces.byIndex[index]
	s.ifaces.RUnlock()
	k := len(b.out)
	reply, to, drop := s.handler.Handle(b.at, &Packet{
		Data:      in.Buffers[0][:in.N],
		Src:       netip.AddrPortFrom(addr, uint16(src.Port)),
		Multicast: dst.IsMulticast(),
		Interface: iface,
	}, b.replies[k][:0])
	if drop == DropPending && s.handler.pending != nil {
		select {
		case s.park <- &parked{slices.Clone(in.Buffers[0][:in.N]), slices.Clone(in.OOB[:in.NN]), in.Flags, in.Addr, s.handler.pending}:
		default: // too many wait; the client will ask again
		}
	}
	if drop != 0 {
		return
	}
	b.replies[k] = reply
	if dst.IsMulticast() {
		dst = netip.IPv6Unspecified() // the kernel picks the interface's own
	}
	b.oob[k] = appendPktInfo(b.oob[k][:0], dst, index, to.Addr())
	b.out = append(b.out, ipv6.Message{
		Buffers: [][]byte{reply},
		OOB:     b.oob[k],
		Addr:    &net.UDPAddr{IP: src.IP, Port: int(to.Port()), Zone: src.Zone},
	})
}

// send waits until the batch's leases are on disk and sends its answers.
func (s *Server) send(b *batch) {
	var before part
	ready := b.out[:0]
	for _, p := range b.parts {
		out, changes := b.out[before.out:p.out], b.changes[before.changes:p.changes]
		before = p
		err := p.barrier.Wait()
		drop := DropNotDurable
		switch {
		case err == nil:
			s.feed.Publish(changes)
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
	for out := ready; len(out) > 0; {
		n, err := s.pc.WriteBatch(out, 0)
		if err != nil {
			// The first packet was refused, say for want of a route; those
			// behind it may do better.
			s.stats.WriteErrors.Add(1)
			s.log.Debug("a reply was not sent", "to", out[0].Addr, "error", err)
			n = 1
		}
		out = out[n:]
	}
}

// A control message IPV6_PKTINFO: length(8) level(4) type(4) address(16)
// index(4), and 4 bytes to the next multiple of 8 (RFC 3542 §6).
const (
	pktInfoLen   = 16 + 20
	pktInfoSpace = 40
)

// parsePktInfo returns the destination and the interface of a packet.
func parsePktInfo(oob []byte) (dst netip.Addr, index int, ok bool) {
	for len(oob) >= 16 {
		n := binary.NativeEndian.Uint64(oob)
		if n < 16 || n > uint64(len(oob)) {
			break
		}
		if binary.NativeEndian.Uint32(oob[8:]) == unix.IPPROTO_IPV6 &&
			binary.NativeEndian.Uint32(oob[12:]) == unix.IPV6_PKTINFO && n >= pktInfoLen {
			return netip.AddrFrom16([16]byte(oob[16:32])), int(binary.NativeEndian.Uint32(oob[32:])), true
		}
		oob = oob[min((n+7)&^7, uint64(len(oob))):]
	}
	return netip.Addr{}, 0, false
}

// appendPktInfo makes an answer leave from the address that was asked, and, when
// it goes to a link-local address, by the interface that the question came in.
func appendPktInfo(b []byte, src netip.Addr, index int, to netip.Addr) []byte {
	if !to.IsLinkLocalUnicast() {
		index = 0
	}
	b = binary.NativeEndian.AppendUint64(b, pktInfoLen)
	b = binary.NativeEndian.AppendUint32(b, unix.IPPROTO_IPV6)
	b = binary.NativeEndian.AppendUint32(b, unix.IPV6_PKTINFO)
	raw := src.As16()
	b = append(b, raw[:]...)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return append(b, 0, 0, 0, 0)
}
