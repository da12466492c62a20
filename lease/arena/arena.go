// Package arena keeps many short blocks of bytes in memory, and finds them by hash. The garbage
// collector knows nothing of them.
package arena

// Ref is a place in an arena, in units of 8 bytes; 0 is none.
type Ref uint32

const (
	slabSize = 32 << 20
	unit     = 8
	maxUnits = 64

	// MaxLen is how many bytes a block has at the most.
	MaxLen = maxUnits * unit
)

// Arena is memory for short blocks. A freed block is used again for one of its length.
type Arena struct {
	memory *Memory
	slabs  [][]byte
	slab   int // that is being filled
	next   int // in it
	free   [maxUnits + 1][]Ref
}

// New returns an arena in a memory.
func New(m *Memory) *Arena { return &Arena{memory: m, next: unit} } // so that no block is at 0

// Alloc returns a block of n bytes, up to MaxLen. What is in it is of no meaning.
func (a *Arena) Alloc(n int) (Ref, []byte) {
	units := (n + unit - 1) / unit
	if f := a.free[units]; len(f) > 0 {
		r := f[len(f)-1]
		a.free[units] = f[:len(f)-1]
		return r, a.At(r)[:n]
	}
	if a.next+units*unit > slabSize {
		a.slab++
		a.next = 0
	}
	if a.slab == len(a.slabs) {
		a.slabs = append(a.slabs, a.memory.Get(slabSize))
	}
	r := Ref(a.slab*(slabSize/unit) + a.next/unit)
	a.next += units * unit
	return r, a.At(r)[:n]
}

// At returns the memory from a place on, its block being the beginning.
func (a *Arena) At(r Ref) []byte {
	return a.slabs[r/(slabSize/unit)][r%(slabSize/unit)*unit:]
}

// Release frees a block of n bytes.
func (a *Arena) Release(r Ref, n int) {
	units := (n + unit - 1) / unit
	a.free[units] = append(a.free[units], r)
}

// Reset frees all blocks and keeps the memory.
func (a *Arena) Reset() {
	a.slab, a.next = 0, unit
	for i := range a.free {
		a.free[i] = a.free[i][:0]
	}
}
