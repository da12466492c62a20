package idcodec

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Pool is a prefix that is divided into equal prefixes, which are delegated.
type Pool struct {
	Prefix netip.Prefix
	Bits   uint8 // length of what is delegated
}

// Limits of a pool. A delegated prefix is a /64 or shorter, so that hosts can make
// addresses in it (RFC 7421), and the two lengths differ by MinPoolBits at least and
// MaxPoolBits at most.
const (
	MaxDelegated = 64
	MinPoolBits  = 2
	MaxPoolBits  = 48
)

// Check returns an error if a pool cannot be one.
func (p Pool) Check() error {
	a := p.Prefix.Addr()
	switch {
	case !p.Prefix.IsValid() || !a.Is6() || a.Is4In6() || p.Prefix.Masked() != p.Prefix:
		return fmt.Errorf("pool %s: want an IPv6 prefix without host bits", p.Prefix)
	case p.Bits > MaxDelegated:
		return fmt.Errorf("pool %s: delegated prefixes of /%d: want /%d or shorter", p.Prefix, p.Bits, MaxDelegated)
	case int(p.Bits)-p.Prefix.Bits() < MinPoolBits || int(p.Bits)-p.Prefix.Bits() > MaxPoolBits:
		return fmt.Errorf("pool %s: delegated prefixes of /%d: want lengths that differ by %d to %d", p.Prefix, p.Bits, MinPoolBits, MaxPoolBits)
	}
	return nil
}

// Size returns how many prefixes a pool has.
func (p Pool) Size() uint64 { return 1 << (int(p.Bits) - p.Prefix.Bits()) }

// Has reports whether a prefix is one of the pool's.
func (p Pool) Has(q netip.Prefix) bool {
	return q.Bits() == int(p.Bits) && p.Prefix.Contains(q.Addr())
}

// at returns a pool's prefix by its place.
func (p Pool) at(place uint64) netip.Prefix {
	b := p.Prefix.Addr().As16()
	hi := binary.BigEndian.Uint64(b[:8]) | place<<(64-p.Bits)
	binary.BigEndian.PutUint64(b[:8], hi)
	return netip.PrefixFrom(netip.AddrFrom16(b), int(p.Bits))
}

// Delegate returns the prefix of a pool that stands at an index, from 0 to the pool's
// size, in the order of the epoch. The order is a permutation which nobody knows who
// has not the epoch's key: neighbours in it are not neighbours in the pool, and a
// subscriber's prefixes in two epochs cannot be linked. An index is no subscriber: whose a
// prefix was, only the lease history tells.
//
// The permutation is FF1 of NIST SP 800-38G with radix 2, the pool's width as n,
// AES-256 and the 12-byte tweak pool's upper half ‖ its length ‖ epoch (3). The
// domains of pools are smaller than the million that its revision asks for; what is
// hidden is an order, and no attacker chooses what is encrypted.
func (k *EpochKey) Delegate(p Pool, index uint64) (netip.Prefix, error) {
	if err := p.Check(); err != nil {
		return netip.Prefix{}, err
	}
	if index >= p.Size() {
		return netip.Prefix{}, fmt.Errorf("index %d in a pool of %d: %w", index, p.Size(), ErrRange)
	}
	n := uint(int(p.Bits) - p.Prefix.Bits())
	u := n / 2
	v := n - u
	s := roundsPool.Get().(*rounds)
	defer roundsPool.Put(s)
	const t = 12
	first := [aes.BlockSize]byte{1, 2, 1, 0, 0, 2, 10, byte(u), 0, 0, 0, byte(n), 0, 0, 0, t}
	s.q = first
	k.block.Encrypt(s.r[:], s.q[:])
	first = s.r
	addr := p.Prefix.Addr().As16()
	a, b := index>>v, index&(1<<v-1)
	for i := range byte(10) {
		copy(s.q[:], addr[:8])
		binary.BigEndian.PutUint32(s.q[8:], uint32(p.Prefix.Bits())<<24|k.epoch)
		// Padding, the round and B end at the 16th byte: B has up to 3 (24 bits).
		binary.BigEndian.PutUint32(s.q[12:], uint32(i)<<(8*((v+7)/8))|uint32(b))
		for j := range s.q {
			s.q[j] ^= first[j]
		}
		k.block.Encrypt(s.r[:], s.q[:])
		m := u
		if i%2 == 1 {
			m = v
		}
		// y is the first d = 8 bytes of R; modulo 2^m their low bits count.
		a, b = b, (a+binary.BigEndian.Uint64(s.r[:8]))&(1<<m-1)
	}
	// After an even number of rounds a has u bits and b has v.
	return p.at(a<<v | b), nil
}
