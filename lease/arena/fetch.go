package arena

import "unsafe"

// Lines are places in memory that will be looked at soon, each of which stands for the line of
// the processor's cache that it is in.
//
// They are collected first and then fetched all at once. Before a processor fetches a line it has to
// find out where that is, and seems to go on with other work only as far as it can see; but it does so
// for many that are asked for one right after the other.
type Lines []unsafe.Pointer

// Memory adds the first n bytes of b, or all.
func (l Lines) Memory(b []byte, n int) Lines {
	n = min(n, len(b))
	p := unsafe.Pointer(unsafe.SliceData(b))
	for i := 0; i < n; i += lineLen - int((uintptr(p)+uintptr(i))%lineLen) {
		l = append(l, unsafe.Add(p, i))
	}
	return l
}

// Slot adds where Find begins to look for what has a hash.
func (l Lines) Slot(t *Table, hash uint32) Lines {
	return append(l, unsafe.Pointer(&t.slots[t.home(hash)]))
}

// Block adds the first n bytes of a block.
func (l Lines) Block(a *Arena, r Ref, n int) Lines { return l.Memory(a.At(r), n) }

// Fetch has the processor fetch the lines, and does not wait until they have come. It returns
// none, for others.
func (l Lines) Fetch() Lines {
	fetch(unsafe.SliceData(l), len(l))
	return l[:0]
}

// lineLen is how many bytes a processor fetches at once.
const lineLen = 64
