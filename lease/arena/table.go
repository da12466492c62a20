package arena

// slot is a place and 32 bits of the hash of what is there, which tell nearly always without a look
// at it whether it is what is looked for, and where it belongs when slots are moved.
type slot struct {
	ref  Ref
	hash uint32
}

// Table is a set of places by the hash of what is there: open addressing with linear probing,
// at most four fifths full.
type Table struct {
	memory *Memory
	slots  []slot
	used   int
}

// NewTable returns a table in a memory.
func NewTable(m *Memory) *Table {
	t := &Table{memory: m}
	t.grow()
	return t
}

// Len is how many places are in the table.
func (t *Table) Len() int { return t.used }

// Slots is how many could be without one for another; At is for each of them.
func (t *Table) Slots() int { return len(t.slots) }

// At returns the place in a slot, 0 if it is free.
func (t *Table) At(at int) Ref { return t.slots[at].ref }

// home is where what a hash is of is, or behind it.
func (t *Table) home(hash uint32) int { return int(hash) & (len(t.slots) - 1) }

// Find returns the slot of what a hash is of and is says yes to, or the free one where it would
// be put.
func (t *Table) Find(hash uint32, is func(Ref) bool) (at int, ok bool) {
	mask := len(t.slots) - 1
	for i := t.home(hash); ; i = (i + 1) & mask {
		switch s := t.slots[i]; {
		case s.ref == 0:
			return i, false
		case s.hash == hash && is(s.ref):
			return i, true
		}
	}
}

// Probably returns the place of what a hash is of, or 0; it may be another's.
func (t *Table) Probably(hash uint32) Ref {
	mask := len(t.slots) - 1
	for i := t.home(hash); ; i = (i + 1) & mask {
		if s := t.slots[i]; s.ref == 0 || s.hash == hash {
			return s.ref
		}
	}
}

// Set puts a place into a slot that Find has returned for its hash; it may move all slots.
func (t *Table) Set(at int, r Ref, hash uint32) {
	if t.slots[at].ref == 0 {
		t.used++
	}
	t.slots[at] = slot{r, hash}
	if t.used*5 > len(t.slots)*4 {
		t.grow()
	}
}

func (t *Table) grow() {
	old := t.slots
	t.slots = t.memory.slots(max(1024, 2*len(old)))
	mask := len(t.slots) - 1
	for _, s := range old {
		if s.ref == 0 {
			continue
		}
		i := t.home(s.hash)
		for t.slots[i].ref != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
	t.memory.putSlots(old)
}

// Move says that what is in a slot is at another place now.
func (t *Table) Move(at int, r Ref) { t.slots[at].ref = r }

// Remove empties a slot, and moves those behind it that had to go past it.
func (t *Table) Remove(at int) {
	mask := len(t.slots) - 1
	t.used--
	for hole, i := at, at; ; {
		t.slots[hole] = slot{}
		for {
			i = (i + 1) & mask
			s := t.slots[i]
			if s.ref == 0 {
				return
			}
			// It may stay if its own place is behind the hole.
			if (i-t.home(s.hash))&mask >= (i-hole)&mask {
				t.slots[hole] = s
				hole = i
				break
			}
		}
	}
}

// Clear empties the table and keeps its memory.
func (t *Table) Clear() {
	clear(t.slots)
	t.used = 0
}
