package index

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is what an index has from the kernel itself. The garbage collector knows nothing of
// it: it would keep as much again free as is in use.
type memory struct{ regions [][]byte }

// huge is from how many bytes on large pages are asked for: places are looked at at random,
// each of which costs two looks with small ones.
const huge = 4 << 20

// get returns n bytes, all zero. They take room when they are written to.
func (m *memory) get(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n) // and that ends the process if there is none
	}
	if n >= huge && len(m.regions) > 8 {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // better, and no condition
	}
	m.regions = append(m.regions, b)
	return b
}

// put gives back what get has returned.
func (m *memory) put(b []byte) {
	for i, r := range m.regions {
		if unsafe.SliceData(r) == unsafe.SliceData(b) {
			m.regions[i] = m.regions[len(m.regions)-1]
			m.regions = m.regions[:len(m.regions)-1]
			_ = unix.Munmap(b)
			return
		}
	}
}

// close gives everything back.
func (m *memory) close() {
	for _, b := range m.regions {
		_ = unix.Munmap(b)
	}
	m.regions = nil
}

// refs is memory for n places.
func (m *memory) refs(n int) []ref {
	b := m.get(n * int(unsafe.Sizeof(ref(0))))
	return unsafe.Slice((*ref)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

func (m *memory) putRefs(r []ref) {
	if len(r) > 0 {
		m.put(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(r))), len(r)*int(unsafe.Sizeof(ref(0)))))
	}
}
