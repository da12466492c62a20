package arena_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"unsafe"

	"brightgid/lease/arena"
)

// Whatever is put in, moved and removed, whose hashes may be alike, the table has what a map has
// and the blocks hold what was written to them.
func TestATableIsAMap(t *testing.T) {
	for _, bits := range []int{3, 12, 32} { // of a hash, so that many collide or few
		var m arena.Memory
		blocks, table := arena.New(&m), arena.NewTable(&m)
		want := make(map[uint32][]byte)
		rng := rand.New(rand.NewPCG(uint64(bits), 1))
		hash := func(k uint32) uint32 { return k * 0x9e3779b9 & (1<<bits - 1) }
		find := func(k uint32) (int, bool) {
			return table.Find(hash(k), func(r arena.Ref) bool { return binary.BigEndian.Uint32(blocks.At(r)) == k })
		}
		write := func(k uint32) (arena.Ref, []byte) {
			r, b := blocks.Alloc(4 + rng.IntN(100))
			binary.BigEndian.PutUint32(b, k)
			for i := range b[4:] {
				b[4+i] = byte(rng.Uint32())
			}
			return r, bytes.Clone(b)
		}
		var lines arena.Lines
		const keys = 3000
		most := 0
		for i := range 40_000 {
			k := rng.Uint32N(keys)
			at, ok := find(k)
			if b := want[k]; ok != (b != nil) || ok && !bytes.Equal(blocks.At(table.At(at))[:len(b)], b) {
				t.Fatalf("%d bits, step %d: key %d: found %t, want %x", bits, i, k, ok, b)
			}
			lines = lines.Slot(table, hash(k))
			if r := table.Probably(hash(k)); ok && r == 0 {
				t.Fatalf("%d bits, step %d: key %d is not probably there", bits, i, k)
			} else if r != 0 {
				lines = lines.Block(blocks, r, 200)
			}
			if rng.IntN(50) == 0 {
				lines = lines.Fetch() // which changes nothing
			}
			switch {
			case !ok:
				r, b := write(k)
				table.Set(at, r, hash(k))
				want[k] = b
			case rng.IntN(3) == 0:
				blocks.Release(table.At(at), len(want[k]))
				r, b := write(k)
				table.Move(at, r)
				want[k] = b
			case rng.IntN(3) == 0:
				blocks.Release(table.At(at), len(want[k]))
				table.Remove(at)
				delete(want, k)
			}
			if table.Len() != len(want) {
				t.Fatalf("%d bits, step %d: %d places, want %d", bits, i, table.Len(), len(want))
			}
			most = max(most, len(want))
			if i == 30_000 {
				table.Clear()
				blocks.Reset()
				clear(want)
			}
		}
		if most*5 > table.Slots()*4 || most < keys/4 {
			t.Errorf("%d bits: %d slots for %d places", bits, table.Slots(), most)
		}
		m.Close()
	}
}

// Each line of what is asked for is fetched once.
func TestLines(t *testing.T) {
	var m arena.Memory
	defer m.Close()
	b := m.Get(1 << 20)
	for at := range 130 {
		for n := range 200 {
			lines := arena.Lines(nil).Memory(b[at:at+200], n)
			want := 0
			if n > 0 {
				want = (at+n-1)/64 - at/64 + 1
			}
			if len(lines) != want {
				t.Fatalf("%d bytes at %d: %d lines, want %d", n, at, len(lines), want)
			}
			for i, p := range lines {
				if off := uintptr(p) - uintptr(unsafe.Pointer(&b[0])); int(off)/64 != at/64+i {
					t.Fatalf("%d bytes at %d: line %d is of byte %d", n, at, i, off)
				}
			}
			if left := lines.Fetch(); len(left) != 0 {
				t.Fatal("lines are left")
			}
		}
	}
	if none := arena.Lines(nil).Memory(nil, 10).Fetch(); len(none) != 0 {
		t.Error("lines of no memory")
	}
	if n := len(arena.Lines(nil).Memory(b[:70], 100)); n != 2 {
		t.Errorf("of less than was asked for: %d lines", n)
	}
}

// Blocks are there as long as they are not freed, in however many slabs, and memory that was used
// is used again.
func TestBlocksAreUsedAgain(t *testing.T) {
	var m arena.Memory
	defer m.Close()
	a := arena.New(&m)
	const n = 150_000 // more than a slab
	fill := func() (refs []arena.Ref) {
		for i := range n {
			r, b := a.Alloc(arena.MaxLen)
			if r == 0 || len(b) != arena.MaxLen {
				t.Fatalf("block %d at %d, %d bytes", i, r, len(b))
			}
			binary.BigEndian.PutUint32(b[arena.MaxLen-4:], uint32(i))
			refs = append(refs, r)
		}
		for i, r := range refs {
			if got := binary.BigEndian.Uint32(a.At(r)[arena.MaxLen-4:]); got != uint32(i) {
				t.Fatalf("block %d has %d", i, got)
			}
		}
		return refs
	}
	refs := fill()
	held := a.Slabs()
	for _, r := range refs {
		a.Release(r, arena.MaxLen)
	}
	fill()
	a.Reset()
	fill()
	if a.Slabs() != held || held < 2 {
		t.Errorf("%d slabs, %d at first", a.Slabs(), held)
	}
}
