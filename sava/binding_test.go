package sava

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func numbered(n uint32) netip.Addr {
	b := [16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8}
	binary.BigEndian.PutUint32(b[12:], n)
	return netip.AddrFrom16(b)
}

// The table does what a map does, through growth, deletion and expiry.
func TestTableIsAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	table, want := NewTable(0, nil), make(map[netip.Addr]Binding)
	for step := range 200_000 {
		a := numbered(rng.Uint32N(5000))
		switch rng.IntN(4) {
		case 0, 1:
			b := Binding{Anchor{rng.Uint32(), rng.Uint32(), MAC{byte(rng.Uint32()), 1, 2, 3, 4, byte(rng.Uint32())}}, rng.IntN(2) == 0, noon.Add(time.Duration(rng.IntN(1000)) * time.Second)}
			want[a] = b
			if err := table.Bind(a, b); err != nil {
				t.Fatal(err)
			}
		case 2:
			delete(want, a)
			if err := table.Unbind(a); err != nil {
				t.Fatal(err)
			}
		case 3:
			got, ok := table.Lookup(a)
			if b, wantOK := want[a]; ok != wantOK || got != b {
				t.Fatalf("step %d: %s is %+v, %v; want %+v, %v", step, a, got, ok, b, wantOK)
			}
		}
		if step%50_000 == 49_999 {
			at := noon.Add(300 * time.Second)
			n := 0
			for a, b := range want {
				if b.Until.Before(at) {
					delete(want, a)
					n++
				}
			}
			if got := table.Expire(at); got != n {
				t.Fatalf("step %d: %d expired, want %d", step, got, n)
			}
		}
	}
	seen := 0
	table.Each(func(a netip.Addr, b Binding) bool {
		seen++
		if want[a] != b {
			t.Errorf("%s is %+v, want %+v", a, b, want[a])
		}
		return true
	})
	if seen != len(want) || table.Len() != len(want) {
		t.Errorf("%d bindings visited, %d counted, want %d", seen, table.Len(), len(want))
	}
}

// While bindings change, and the index is built anew, no lookup is wrong: what is
// bound all the time is found, whole, and what is never bound is not.
func TestLookupsAreRightWhileBindingsChange(t *testing.T) {
	table := NewTable(0, nil)
	const stable = 1000
	binding := func(n uint32) Binding { // its parts belong together
		return Binding{Anchor{n, n, MAC{2, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}}, false, noon.Add(time.Duration(n) * time.Second)}
	}
	for n := range uint32(stable) {
		if err := table.Bind(numbered(n), binding(n)); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	var changes atomic.Uint64
	var all sync.WaitGroup
	all.Go(func() {
		rng := rand.New(rand.NewPCG(3, 4))
		for i := uint32(0); !stop.Load(); i++ {
			n := stable + i%20_000
			if i/20_000%2 == 0 {
				_ = table.Bind(numbered(n), binding(n)) // there is room
			} else {
				_ = table.Unbind(numbered(n)) // no mirror to fail
			}
			_ = table.Bind(numbered(rng.Uint32N(stable)), binding(7)) // one of two values that a reader may see
			changes.Add(2)
		}
	})
	for r := range uint64(2) {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(5, r))
			for !stop.Load() {
				n := rng.Uint32N(stable)
				got, ok := table.Lookup(numbered(n))
				if !ok || got != binding(n) && got != binding(7) {
					t.Errorf("%d is %+v, %v", n, got, ok)
					stop.Store(true)
				}
				n = stable + rng.Uint32N(20_000)
				if got, ok := table.Lookup(numbered(n)); ok && got != binding(n) {
					t.Errorf("%d is %+v", n, got)
					stop.Store(true)
				}
				if got, ok := table.Lookup(numbered(1<<24 + n)); ok {
					t.Errorf("%d, which was never bound, is %+v", n, got)
					stop.Store(true)
				}
			}
		})
	}
	time.Sleep(time.Second)
	stop.Store(true)
	all.Wait()
	t.Logf("%d changes in a second", changes.Load())
}
