package netlab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Flow is numbered datagrams that a host sends at a steady pace and that another
// sends back, to tell how many are lost.
type Flow struct {
	there, here *net.UDPConn
	every       time.Duration
	sent        atomic.Uint64
	back        atomic.Uint64
	seen        map[uint64]bool // of the goroutine that hears
	heard       chan struct{}
	failed      atomic.Pointer[error]
	stop        chan struct{}
	done        chan struct{}
}

// flowPort is where flows are echoed; each flow has one more.
var flowPort atomic.Uint32

// StartFlow begins a flow of datagrams of a size in bytes between an address of a
// host and one of another, one every interval.
func StartFlow(host *Namespace, addr netip.Addr, other *Namespace, echo netip.Addr, size int, every time.Duration) (*Flow, error) {
	to := netip.AddrPortFrom(echo, uint16(20000+flowPort.Add(1)))
	f := &Flow{every: every, stop: make(chan struct{}), done: make(chan struct{}), seen: make(map[uint64]bool), heard: make(chan struct{})}
	var err error
	if f.there, err = other.ListenUDP(to); err != nil {
		return nil, err
	}
	if f.here, err = host.ListenUDP(netip.AddrPortFrom(addr, 0)); err != nil {
		f.there.Close()
		return nil, err
	}
	go func() { // echoes
		b := make([]byte, 64<<10)
		for {
			n, from, err := f.there.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = f.there.WriteToUDPAddrPort(b[:n], from) // a loss is what the flow counts
		}
	}()
	go func() { // hears the echoes
		defer close(f.heard)
		b := make([]byte, 64<<10)
		for {
			n, err := f.here.Read(b)
			if err != nil {
				return
			}
			if k := binary.BigEndian.Uint64(b); n == size && !f.seen[k] {
				f.seen[k] = true
				f.back.Add(1)
			}
		}
	}()
	go func() { // sends
		defer close(f.done)
		b := make([]byte, size)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for k := uint64(0); ; k++ {
			select {
			case <-f.stop:
				return
			case <-tick.C:
			}
			binary.BigEndian.PutUint64(b, k)
			if _, err := f.here.WriteToUDPAddrPort(b, to); err != nil {
				f.failed.CompareAndSwap(nil, &err)
			}
			f.sent.Add(1)
		}
	}()
	return f, nil
}

// Stop ends the flow and returns how many datagrams were sent and how many did
// not come back within a second, and when those were sent.
func (f *Flow) Stop() (sent, lost uint64, when string, err error) {
	close(f.stop)
	<-f.done
	deadline := time.Now().Add(time.Second)
	for time.Now().Before(deadline) && f.back.Load() < f.sent.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	sent, lost = f.sent.Load(), f.sent.Load()-f.back.Load()
	f.here.Close()
	f.there.Close()
	<-f.heard
	for k := uint64(0); k < sent; k++ {
		from := k
		for k < sent && !f.seen[k] {
			k++
		}
		if k > from {
			when += fmt.Sprintf(" %s-%s", time.Duration(from)*f.every, time.Duration(k)*f.every)
		}
	}
	if e := f.failed.Load(); e != nil {
		err = fmt.Errorf("a datagram could not be sent: %w", *e)
	}
	return sent, lost, when, err
}
