package sava

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

// index is a hash table of bindings with open addressing, which many may read
// while one writes. Each slot is guarded by a sequence number: odd while it is
// being written, and another one afterwards, so that a reader who saw it change
// reads again. A map behind a lock would cost a lookup more than the rest of a
// verdict.
type index struct {
	slots []slot
	mask  uint64
	seed  uint64
	used  int // slots that were ever taken, deleted ones too
	live  int
}

// slot holds a binding in words. sequence 0 means that it was never taken.
type slot struct {
	sequence atomic.Uint64
	hi, lo   atomic.Uint64 // the address; both 0 once it was deleted
	where    atomic.Uint64 // port ‖ VLAN
	mac      atomic.Uint64 // MAC ‖ 15 bits of nothing ‖ any VLAN
	until    atomic.Uint64 // unix nanoseconds
}

// minSlots is the size of an empty index. Sizes are powers of two.
const minSlots = 1 << 10

func newIndex(bindings int) *index {
	size := minSlots
	for size < 2*bindings {
		size *= 2
	}
	return &index{slots: make([]slot, size), mask: uint64(size - 1), seed: rand.Uint64()}
}

func words(addr netip.Addr) (hi, lo uint64) {
	b := addr.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// hash spreads addresses. Hosts look up what they like but do not choose what is
// bound, so that a load of one half keeps every search short.
func (x *index) hash(hi, lo uint64) uint64 {
	a, b := bits.Mul64(hi^x.seed^0x9e3779b97f4a7c15, lo^bits.RotateLeft64(x.seed, 32)^0xd6e8feb86659fd93)
	return a ^ b
}

// read returns a slot's content, whole.
func (s *slot) read(e *entry) (sequence uint64) {
	for {
		sequence = s.sequence.Load()
		if sequence == 0 {
			return 0
		}
		if sequence&1 != 0 {
			continue // being written; it takes some stores
		}
		e.hi, e.lo = s.hi.Load(), s.lo.Load()
		e.where, e.mac, e.until = s.where.Load(), s.mac.Load(), s.until.Load()
		if s.sequence.Load() == sequence {
			return sequence
		}
	}
}

func (s *slot) write(e *entry) {
	s.sequence.Add(1)
	s.hi.Store(e.hi)
	s.lo.Store(e.lo)
	s.where.Store(e.where)
	s.mac.Store(e.mac)
	s.until.Store(e.until)
	s.sequence.Add(1)
}

// entry is a slot's words outside the index.
type entry struct{ hi, lo, where, mac, until uint64 }

func makeEntry(addr netip.Addr, b Binding) (e entry) {
	e.hi, e.lo = words(addr)
	e.where = uint64(b.Port)<<32 | uint64(b.VLAN)
	e.mac = b.MAC.word()
	if b.AnyVLAN {
		e.mac |= 1
	}
	e.until = uint64(b.Until.UnixNano())
	return e
}

// word returns the MAC in the upper 48 bits.
func (m MAC) word() uint64 {
	return uint64(binary.BigEndian.Uint32(m[:]))<<32 | uint64(binary.BigEndian.Uint16(m[4:]))<<16
}

func (e *entry) addr() netip.Addr { return wordsAddr(e.hi, e.lo) }

// wordsAddr is the inverse of words.
func wordsAddr(hi, lo uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}

func (e *entry) binding() Binding {
	b := Binding{Anchor: Anchor{Port: uint32(e.where >> 32), VLAN: uint32(e.where)}, AnyVLAN: e.mac&1 != 0, Until: time.Unix(0, int64(e.until)).UTC()}
	binary.BigEndian.PutUint32(b.MAC[:], uint32(e.mac>>32))
	binary.BigEndian.PutUint16(b.MAC[4:], uint16(e.mac>>16))
	return b
}

// holds reports whether a frame's anchor is the binding's.
func (e *entry) holds(a *Anchor) bool {
	port, vlan, mac := uint32(e.where>>32), uint32(e.where), e.mac&^1
	return (port == 0 || port == a.Port) && (e.mac&1 != 0 || vlan == a.VLAN) && (mac == 0 || mac == a.MAC.word())
}

// isUnanchored reports whether nobody knows who may use the address.
func (e *entry) isUnanchored() bool { return e.where>>32 == 0 && e.mac&^1 == 0 }

// find reads the entry of an address.
func (x *index) find(hi, lo uint64, e *entry) bool {
	for i := x.hash(hi, lo); ; i++ {
		if x.slots[i&x.mask].read(e) == 0 {
			return false
		}
		if e.lo == lo && e.hi == hi {
			return true
		}
	}
}

// put writes an entry. The caller is the only writer and has seen to the space.
func (x *index) put(e *entry) {
	var old entry
	for i := x.hash(e.hi, e.lo); ; i++ {
		s := &x.slots[i&x.mask]
		sequence := s.read(&old)
		if sequence != 0 && (old.lo != e.lo || old.hi != e.hi) {
			continue
		}
		if sequence == 0 {
			x.used++
			x.live++
		}
		s.write(e)
		return
	}
}

// remove deletes the entry of an address. Its slot is not used again before the
// index is built anew, so that no search ends at it too early.
func (x *index) remove(hi, lo uint64) bool {
	var old entry
	for i := x.hash(hi, lo); ; i++ {
		s := &x.slots[i&x.mask]
		if s.read(&old) == 0 {
			return false
		}
		if old.lo == lo && old.hi == hi {
			s.write(&entry{})
			x.live--
			return true
		}
	}
}

// each calls f with every entry until it returns false.
func (x *index) each(f func(*entry) bool) {
	var e entry
	for i := range x.slots {
		if x.slots[i].read(&e) != 0 && (e.hi != 0 || e.lo != 0) && !f(&e) {
			return
		}
	}
}
