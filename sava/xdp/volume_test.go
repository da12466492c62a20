//go:build e2e

package xdp

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"brightgid/sava"
)

// run runs a port's program so many times on a frame, or more when a signal comes
// between, and returns how many frames it has counted as passing and as others, and
// what it did with the last.
func (p *Program) run(t testing.TB, frame []byte, times uint32) (passed, others uint64, passes bool) {
	t.Helper()
	count := func() (passed, others uint64) {
		n, err := p.Counters(0)
		if err != nil {
			t.Fatal(err)
		}
		for r, k := range n {
			if sava.Reason(r).Pass() {
				passed += k
			} else {
				others += k
			}
		}
		return passed, others
	}
	passedBefore, othersBefore := count()
	action, err := p.ports[0].program.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: times})
	if err != nil {
		t.Fatal(err)
	}
	passed, others = count()
	return passed - passedBefore, others - othersBefore, action == xdpPass
}

// from gives a frame of seeds another source address and another link-layer
// address, also where Neighbour Discovery repeats them. Checksums are nobody's
// business here.
func from(frame []byte, src netip.Addr, mac sava.MAC) []byte {
	a, b := src.As16(), honest.As16()
	frame = bytes.ReplaceAll(frame, b[:], a[:])
	return bytes.ReplaceAll(frame, hostMAC[:], mac[:])
}

func bindingOf(i int) (netip.Addr, sava.MAC) {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 5: 1, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}),
		sava.MAC{2, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

// Every kind of frame with a source that its host has no right to, ten million of
// them, and a million of hosts that have it.
func TestTenMillionForgedFramesAndAMillionHonestOnes(t *testing.T) {
	const subscribers, forgeries, forgeryRepeats, honestFrames, honestRepeats = 10_000, 10_000, 1000, 10_000, 100
	c := newCable(t)
	p := c.load(t, Options{Enforce: true})
	table := sava.NewTable(0, p)
	until := time.Now().Add(time.Hour)
	for i := range subscribers {
		a, mac := bindingOf(i)
		port := c.port
		if i%2 == 1 {
			port++ // the other half is at another port
		}
		if err := table.Bind(a, sava.Binding{Anchor: sava.Anchor{Port: port, MAC: mac}, Until: until}); err != nil {
			t.Fatal(err)
		}
	}
	filter := sava.NewFilter(table, nil, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	all := seeds(t)
	total := 0
	for i := range forgeries {
		k := rng.IntN(subscribers)
		a, mac := bindingOf(k)
		switch i % 4 {
		case 0: // another's address at this port, from the own link-layer address
			a, _ = bindingOf(k &^ 1)
			_, mac = bindingOf(k | 1)
		case 1: // an address and its link-layer address, at another port than theirs
			a, mac = bindingOf(k | 1)
		case 2: // an invented identifier
			b := a.As16()
			for j := 8; j < 16; j++ {
				b[j] = byte(rng.Uint32())
			}
			a = netip.AddrFrom16(b)
		case 3: // an invented prefix
			b := a.As16()
			b[4] = byte(1 + rng.IntN(255))
			a = netip.AddrFrom16(b)
		}
		kind := i / 4 % len(all)
		frame := from(all[kind], a, mac)
		if v := filter.Check(c.port, frame, time.Now()); v.Reason.Pass() && v.Src() == a {
			t.Fatalf("the filter lets forgery %d, of kind %d, pass: %x", i, kind, frame)
		} else if v.Reason.Pass() {
			continue // a link-local source, which is whose it is
		}
		if passed, _, passes := p.run(t, frame, forgeryRepeats); passed != 0 || passes {
			t.Fatalf("the kernel lets %d of forgery %d, of kind %d, pass: %x", passed, i, kind, frame)
		}
		total += forgeryRepeats
	}
	for total < 10_000_000 { // for those that were left out
		frame := from(all[rng.IntN(2)*4], netip.MustParseAddr("2001:db8:2::1"), hostMAC)
		if passed, _, passes := p.run(t, frame, 100_000); passed != 0 || passes {
			t.Fatalf("the kernel lets %d pass: %x", passed, frame)
		}
		total += 100_000
	}
	for i := range honestFrames {
		a, mac := bindingOf(rng.IntN(subscribers) &^ 1)
		kind := i % len(all)
		frame := from(all[kind], a, mac)
		if v := filter.Check(c.port, frame, time.Now()); !v.Reason.Pass() || v.Src() != a {
			kind = 0
			frame = from(all[kind], a, mac) // a kind that honest hosts do not send
		}
		if _, passes, handedUp := p.verdict(t, frame); handedUp {
			continue // user space lets it pass
		} else if !passes {
			t.Fatalf("the kernel drops an honest frame of kind %d: %x", kind, frame)
		}
		if passed, others, passes := p.run(t, frame, honestRepeats); passed < honestRepeats || others != 0 || !passes {
			t.Fatalf("the kernel drops %d of %d honest frames of kind %d: %x", others, passed+others, kind, frame)
		}
	}
	frame := from(all[0], func() netip.Addr { a, _ := bindingOf(0); return a }(), func() sava.MAC { _, m := bindingOf(0); return m }())
	if passed, others, _ := p.run(t, frame, 1_000_000); passed < 1_000_000 || others != 0 {
		t.Errorf("of %d honest frames %d do not pass", passed+others, others)
	}
}

// churn changes bindings as fast as it can until it is stopped: addresses change
// between two hosts, and others come and go.
func churn(t testing.TB, table *sava.Table, port uint32, stop <-chan struct{}) (changes uint64) {
	until := time.Now().Add(time.Hour)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return changes
		default:
		}
		a, mac := bindingOf(1_000_000 + i%1000)
		if i/1000%2 == 1 {
			mac[0] ^= 4
		}
		var err error
		if i%3 == 2 {
			err = table.Unbind(a)
		} else {
			err = table.Bind(a, sava.Binding{Anchor: sava.Anchor{Port: port, MAC: mac}, Until: until})
		}
		if err != nil {
			t.Error(err)
			return changes
		}
		changes++
	}
}

// judgeMeanwhile judges frames while bindings change, and returns how many
// verdicts were wrong: of hosts whose bindings do not change, of addresses nobody
// is bound to, and of a host that is never one of the two between which an address
// changes.
func judgeMeanwhile(t testing.TB, p *Program, stop <-chan struct{}) (verdicts, wrong uint64) {
	const times = 200
	all := seeds(t)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return verdicts, wrong
		default:
		}
		a, mac := bindingOf(i % 1000) // always bound
		switch i % 3 {
		case 1:
			a, mac = bindingOf(2_000_000 + i%1000) // never
		case 2:
			a, mac = bindingOf(1_000_000 + i%1000)
			mac[0] ^= 8
		}
		passed, others, _ := p.run(t, from(all[0], a, mac), times)
		verdicts += passed + others
		if i%3 == 0 {
			wrong += others
		} else {
			wrong += passed
		}
	}
}

func fill(t testing.TB, table *sava.Table, port uint32, n int) {
	t.Helper()
	until := time.Now().Add(time.Hour)
	for i := range n {
		a, mac := bindingOf(i)
		if err := table.Bind(a, sava.Binding{Anchor: sava.Anchor{Port: port, MAC: mac}, Until: until}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerdictsAreRightWhileBindingsChange(t *testing.T) {
	c := newCable(t)
	p := c.load(t, Options{Enforce: true})
	table := sava.NewTable(0, p)
	fill(t, table, c.port, 1000)
	stop := make(chan struct{})
	var changes atomic.Uint64
	var all sync.WaitGroup
	all.Go(func() { changes.Store(churn(t, table, c.port, stop)) })
	time.AfterFunc(3*time.Second, func() { close(stop) })
	verdicts, wrong := judgeMeanwhile(t, p, stop)
	all.Wait()
	if wrong > 0 || verdicts < 100_000 || changes.Load() < 10_000 {
		t.Errorf("%d of %d verdicts were wrong while %d bindings changed", wrong, verdicts, changes.Load())
	}
}
