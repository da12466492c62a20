package index

import "encoding/binary"

// ref is a place in an arena, in units of 8 bytes; 0 is none.
type ref uint32

const (
	slabSize = 32 << 20
	unit     = 8
	maxUnits = 64 // of the longest block
)

// arena is memory for short blocks. A freed block is used again for one of its length.
type arena struct {
	*memory
	slabs [][]byte
	next  int // in the last slab
	free  [maxUnits + 1][]ref
}

// alloc returns a block of at least n bytes.
func (a *arena) alloc(n int) (ref, []byte) {
	units := (n + unit - 1) / unit
	if f := a.free[units]; len(f) > 0 {
		r := f[len(f)-1]
		a.free[units] = f[:len(f)-1]
		return r, a.block(r)[:units*unit]
	}
	if len(a.slabs) == 0 || a.next+units*unit > slabSize {
		a.slabs = append(a.slabs, a.get(slabSize))
		if a.next = 0; len(a.slabs) == 1 {
			a.next = unit // so that no block is at 0
		}
	}
	r := ref((len(a.slabs)-1)*(slabSize/unit) + a.next/unit)
	a.next += units * unit
	return r, a.block(r)[:units*unit]
}

// block returns the memory from a place on.
func (a *arena) block(r ref) []byte {
	return a.slabs[r/(slabSize/unit)][r%(slabSize/unit)*unit:]
}

func (a *arena) release(r ref, n int) {
	units := (n + unit - 1) / unit
	a.free[units] = append(a.free[units], r)
}

// Blocks are of two kinds, after a byte that tells and their length(2):
//
//	lease: address(16), the record
//	list: PD(1) IAID(4) DUID's length(1) DUID, addresses, 16 bytes each
const (
	kindLease = 1
	kindList  = 2
	headLen   = 3
)

// of returns the contents of a block.
func (a *arena) of(r ref) (kind byte, b []byte) {
	b = a.block(r)
	return b[0], b[headLen : headLen+int(binary.LittleEndian.Uint16(b[1:]))]
}

// table is a set of places by the hash of what is there: open addressing with linear probing,
// at most four fifths full.
type table struct {
	*memory
	slots []ref
	used  int
}

// find returns the slot of what a hash is of and is says yes to, or the free one where it would
// be put.
func (t *table) find(hash uint64, is func(ref) bool) (slot int, ok bool) {
	mask := len(t.slots) - 1
	for i := int(hash) & mask; ; i = (i + 1) & mask {
		switch r := t.slots[i]; {
		case r == 0:
			return i, false
		case is(r):
			return i, true
		}
	}
}

// set puts a place into a slot that find has returned; it may move all slots.
func (t *table) set(slot int, r ref, hash func(ref) uint64) {
	if t.slots[slot] == 0 {
		t.used++
	}
	t.slots[slot] = r
	if t.used*5 > len(t.slots)*4 {
		t.grow(hash)
	}
}

func (t *table) grow(hash func(ref) uint64) {
	old := t.slots
	t.slots = t.refs(max(1024, 2*len(old)))
	mask := len(t.slots) - 1
	for _, r := range old {
		if r == 0 {
			continue
		}
		i := int(hash(r)) & mask
		for t.slots[i] != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = r
	}
	t.putRefs(old)
}

// remove empties a slot, and moves those behind it that had to go past it.
func (t *table) remove(slot int, hash func(ref) uint64) {
	mask := len(t.slots) - 1
	t.used--
	for hole, i := slot, slot; ; {
		t.slots[hole] = 0
		for {
			i = (i + 1) & mask
			r := t.slots[i]
			if r == 0 {
				return
			}
			// It may stay if its own place is behind the hole.
			if home := int(hash(r)) & mask; (i-home)&mask >= (i-hole)&mask {
				t.slots[hole] = r
				hole = i
				break
			}
		}
	}
}
