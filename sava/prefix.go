package sava

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// MaxPrefix is the length of the longest prefix that can be bound. Delegated prefixes are
// that or shorter, so that hosts can make addresses in them (RFC 7421).
const MaxPrefix = 64

// MaxLengths is how many lengths of prefixes there may be among a table's bindings: a
// source that is not bound alone is looked up once for each.
const MaxLengths = 8

// ErrLengths says that prefixes of more than [MaxLengths] lengths are to be bound.
var ErrLengths = errors.New("prefixes of too many lengths are bound")

// KeyOf returns the address that stands for a delegated prefix in a [Table], so that one
// set of bindings holds both: ff, the prefix's length, six bytes of nothing, and its first
// 64 bits. No frame is judged by a source like that, for it is a multicast address.
func KeyOf(p netip.Prefix) (netip.Addr, error) {
	if !p.Addr().Is6() || p.Bits() < 1 || p.Bits() > MaxPrefix {
		return netip.Addr{}, fmt.Errorf("prefix %s: want IPv6 and a length of 1 to %d", p, MaxPrefix)
	}
	hi, _ := words(p.Addr())
	return wordsAddr(prefixKey(hi, uint8(p.Bits()))), nil
}

// PrefixOf returns the prefix that an address stands for in a [Table], if it does.
func PrefixOf(key netip.Addr) (p netip.Prefix, ok bool) {
	b := key.As16()
	if b[0] != 0xff || b[1] < 1 || b[1] > MaxPrefix || [6]byte(b[2:8]) != [6]byte{} {
		return netip.Prefix{}, false
	}
	_, lo := words(key)
	p = netip.PrefixFrom(wordsAddr(lo, 0), int(b[1]))
	return p, p.Masked() == p
}

// prefixKey returns the words of the key of a prefix of some length that an address
// with an upper half is in.
func prefixKey(hi uint64, length uint8) (keyHi, keyLo uint64) {
	return 0xff<<56 | uint64(length)<<48, hi & (^uint64(0) << (64 - length))
}

// lengths is the set of lengths of bound prefixes, which only grows: bit n-1 is /n.
type lengths struct{ set atomic.Uint64 }

// add makes a length one of the set.
func (l *lengths) add(n int) error {
	old := l.set.Load()
	bit := uint64(1) << (n - 1)
	if old&bit == 0 && bits.OnesCount64(old) == MaxLengths {
		return ErrLengths
	}
	l.set.Store(old | bit)
	return nil
}

// match reads the entry of an address, or that of the prefix that it is in, and tells
// under which words it stands.
func (t *Table) match(hi, lo uint64, e *entry) (keyHi, keyLo uint64, ok bool) {
	x := t.index.Load()
	if x.find(hi, lo, e) {
		return hi, lo, true
	}
	for set := t.lengths.set.Load(); set != 0; set &= set - 1 {
		keyHi, keyLo = prefixKey(hi, uint8(bits.TrailingZeros64(set)+1))
		if x.find(keyHi, keyLo, e) {
			return keyHi, keyLo, true
		}
	}
	return 0, 0, false
}

// Covering returns the binding of an address or of the prefix that it is in, which may
// have expired, and the address under which it stands in the table.
func (t *Table) Covering(addr netip.Addr) (key netip.Addr, b Binding, ok bool) {
	hi, lo := words(addr)
	var e entry
	if hi, lo, ok = t.match(hi, lo, &e); !ok {
		return netip.Addr{}, Binding{}, false
	}
	return wordsAddr(hi, lo), e.binding(), true
}
