package arena

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is what is had from the kernel itself. The garbage collector would keep as much again
// free as is in use. It is not safe for concurrent use.
type Memory struct{ regions [][]byte }

// huge is from how many bytes on large pages are asked for: places are looked at at random,
// each of which costs several looks with small ones.
const huge = 4 << 20

// Get returns n bytes, all zero. They take room when they are written to.
func (m *Memory) Get(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n) // and that ends the process if there is none
	}
	if n >= huge {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // better, and no condition
	}
	m.regions = append(m.regions, b)
	return b
}

// put gives back what Get has returned.
func (m *Memory) put(b []byte) {
	for i, r := range m.regions {
		if unsafe.SliceData(r) == unsafe.SliceData(b) {
			m.regions[i] = m.regions[len(m.regions)-1]
			m.regions = m.regions[:len(m.regions)-1]
			_ = unix.Munmap(b)
			return
		}
	}
}

// Close gives everything back. Nothing that was in it may be looked at after that.
func (m *Memory) Close() {
	for _, b := range m.regions {
		_ = unix.Munmap(b)
	}
	m.regions = nil
}

func (m *Memory) slots(n int) []slot {
	b := m.Get(n * int(unsafe.Sizeof(slot{})))
	return unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

func (m *Memory) putSlots(s []slot) {
	if len(s) > 0 {
		m.put(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(slot{}))))
	}
}
