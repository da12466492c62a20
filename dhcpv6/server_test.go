package dhcpv6

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/dhcpv6/udpbatch"
	"brightgid/lease"
)

// onLoopback returns a server that listens on the loopback interface only, and where.
func onLoopback(t testing.TB, h *Handler, barrier func() lease.Barrier, now func() time.Time) (*Server, *net.UDPAddr) {
	t.Helper()
	conns, err := udpbatch.Listen(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	batched, err := udpbatch.New(conns[0])
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		handler: h, barrier: barrier, feed: NewFeed(), now: now, stats: h.stats, log: h.log, park: make(chan *parked, maxParked),
		sockets: []*socket{{udp: conns[0], conn: batched, write: batched.NewWriter()}},
	}
	return s, &net.UDPAddr{IP: net.IPv6loopback, Port: conns[0].LocalAddr().(*net.UDPAddr).Port}
}

// heldBarrier is settled when it is told to.
type heldBarrier struct {
	once sync.Once
	done chan struct{}
	err  error
}

func (b *heldBarrier) Wait() error {
	<-b.done
	return b.err
}

func (b *heldBarrier) Settled() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

func (b *heldBarrier) settle(err error) {
	b.once.Do(func() {
		b.err = err
		close(b.done)
	})
}

// serveLab is a lab's handler behind a server whose barriers a test settles.
type serveLab struct {
	*lab
	server *Server
	conn   *net.UDPConn
	to     *net.UDPAddr
	taken  chan *heldBarrier // by each batch
	open   atomic.Bool       // barriers are settled from the beginning
	late   atomic.Int64      // how much later than noon it is
	stop   context.CancelFunc
	ended  chan error
}

func newServeLab(t *testing.T, prepare func(*Server)) *serveLab {
	t.Helper()
	l := &serveLab{lab: newLab(t, nil), taken: make(chan *heldBarrier, 2*inFlight), ended: make(chan error, 1)}
	l.h.auth = &profiles{}
	l.server, l.to = onLoopback(t, l.h, func() lease.Barrier {
		b := &heldBarrier{done: make(chan struct{})}
		if l.open.Load() {
			b.settle(nil)
		}
		l.taken <- b
		return b
	}, func() time.Time { return noon.Add(time.Duration(l.late.Load())) })
	l.alloc.Observe(l.server.Changed)
	if prepare != nil {
		prepare(l.server)
	}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	go func() { l.ended <- l.server.Serve(ctx) }()
	var err error
	if l.conn, err = net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.conn.Close()
		l.stop()
		l.open.Store(true)
		for limit := time.After(20 * time.Second); ; {
			select {
			case b := <-l.taken:
				b.settle(nil)
				continue
			case err := <-l.ended:
				if err != nil {
					t.Error(err)
				}
			case <-limit:
				t.Error("the server does not end")
			}
			return
		}
	})
	return l
}

// send sends the n-th Request of a client behind a relay.
func (l *serveLab) send(n byte) {
	l.t.Helper()
	m := msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1))
	m.TransactionID = dhcp6.TransactionID{1, 2, n}
	r := forward(m, netip.MustParseAddr("2001:db8:fffe::7"), linkLocal, generic(optionRelayPort, []byte{0, 0}))
	if _, err := l.conn.WriteToUDP(r.ToBytes(), l.to); err != nil {
		l.t.Fatal(err)
	}
}

// take returns the barrier of the next batch.
func (l *serveLab) take() *heldBarrier {
	l.t.Helper()
	select {
	case b := <-l.taken:
		return b
	case <-time.After(20 * time.Second):
		l.t.Fatal("the message is not handled")
		return nil
	}
}

// answered reads the answer to the n-th Request.
func (l *serveLab) answered(n byte) {
	l.t.Helper()
	got, err := l.read(20 * time.Second)
	if err != nil {
		l.t.Fatalf("request %d is not answered: %v", n, err)
	}
	if got != n {
		l.t.Errorf("request %d is answered, want %d", got, n)
	}
}

// silent checks that nothing is answered.
func (l *serveLab) silent(why string) {
	l.t.Helper()
	if n, err := l.read(50 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		l.t.Errorf("%s: request %d is answered, %v", why, n, err)
	}
}

func (l *serveLab) read(within time.Duration) (n byte, err error) {
	l.t.Helper()
	if err := l.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		l.t.Fatal(err)
	}
	b := make([]byte, 2048)
	k, err := l.conn.Read(b)
	if err != nil {
		return 0, err
	}
	m, err := dhcp6.RelayMessageFromBytes(b[:k])
	if err != nil {
		l.t.Fatal(err)
	}
	inner, err := m.GetInnerMessage()
	if err != nil {
		l.t.Fatal(err)
	}
	return inner.TransactionID[2], nil
}

// drops waits until so many answers were dropped for a reason.
func (l *serveLab) drops(d Drop, want uint64) {
	l.t.Helper()
	for began := time.Now(); l.stats.Dropped[d].Load() != want; time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			l.t.Fatalf("%d answers were dropped as %s, want %d", l.stats.Dropped[d].Load(), d, want)
		}
	}
}

// No answer leaves, and no follower is told, before the lease is durable.
func TestAnAnswerWaitsForItsBarrier(t *testing.T) {
	l := newServeLab(t, nil)
	following, changes := make(chan struct{}), make(chan Change, 1)
	go l.server.feed.Follow(t.Context(), func() error { close(following); return nil }, func(c Change) error { changes <- c; return nil })
	<-following
	l.send(1)
	b := l.take()
	l.silent("a barrier that is not settled")
	select {
	case c := <-changes:
		t.Errorf("a follower is told of %s before it is durable", c.Addr)
	default:
	}
	b.settle(nil)
	l.answered(1)
	select {
	case c := <-changes:
		if c.State != lease.Active || c.Theirs {
			t.Errorf("a follower is told of %+v", c)
		}
	case <-time.After(20 * time.Second):
		t.Error("a follower is not told of a lease that is durable")
	}
	l.open.Store(true)
	l.send(2)
	l.take()
	l.answered(2)
}

// What was not stored is not answered, and counted by the reason; the next is.
func TestWhatIsNotStoredIsNotAnswered(t *testing.T) {
	l := newServeLab(t, nil)
	for i, c := range []struct {
		err  error
		drop Drop
	}{
		{lease.ErrConflict, DropConflict}, {lease.ErrAway, DropAway}, {errors.New("the disk is gone"), DropNotDurable},
	} {
		l.send(byte(i))
		l.take().settle(c.err)
		l.drops(c.drop, 1)
		l.silent(c.drop.String())
	}
	l.send(9)
	l.take().settle(nil)
	l.answered(9)
}

// Others are handled while some wait, as many batches as may be, and answered in their order.
func TestOthersAreHandledWhileSomeWait(t *testing.T) {
	l := newServeLab(t, nil)
	var waiting []*heldBarrier
	for n := range byte(inFlight) {
		l.send(n)
		waiting = append(waiting, l.take()) // a batch each
	}
	l.send(inFlight)
	select {
	case <-l.taken:
		t.Errorf("more than %d batches wait", inFlight)
	case <-time.After(50 * time.Millisecond):
	}
	waiting[1].settle(nil)
	l.silent("the first waits")
	waiting[0].settle(nil)
	l.answered(0)
	l.answered(1)
	last := l.take() // for which there is room now
	for _, b := range append(waiting[2:], last) {
		b.settle(nil)
	}
	for n := range byte(inFlight - 1) {
		l.answered(2 + n)
	}
}

// Of a store that several servers share each message waits for itself: one that is refused takes no other
// with it.
func TestOneIsRefusedBesideOthers(t *testing.T) {
	l := newServeLab(t, (*Server).Share)
	for n := range byte(3) {
		l.send(n)
	}
	var barriers []*heldBarrier
	for range 3 {
		barriers = append(barriers, l.take())
	}
	barriers[1].settle(lease.ErrConflict)
	barriers[2].settle(nil)
	l.silent("the first waits")
	barriers[0].settle(nil)
	l.answered(0)
	l.answered(2)
	l.drops(DropConflict, 1)
	l.silent("a refused change")
}

// The lifetimes of an answer count from when it was made: one that had to wait for long is not sent.
func TestALateAnswerIsNotSent(t *testing.T) {
	l := newServeLab(t, nil)
	for n, late := range []time.Duration{maxDelay, maxDelay + time.Second} {
		l.late.Store(0)
		l.send(byte(n))
		b := l.take()
		// The batch has its time when its barrier is taken.
		l.late.Store(int64(late))
		b.settle(nil)
		if late <= maxDelay {
			l.answered(byte(n))
			continue
		}
		l.drops(DropNotDurable, 1)
		l.silent("a late answer")
	}
}

// What was promised is sent before a server ends.
func TestAServerEndsWhenItHasAnswered(t *testing.T) {
	l := newServeLab(t, nil)
	l.send(1)
	b := l.take()
	l.stop()
	select {
	case err := <-l.ended:
		t.Fatalf("the server ended while a message waited, %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	b.settle(nil)
	l.answered(1)
	select {
	case err := <-l.ended:
		if l.ended <- err; err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not end")
	}
}
