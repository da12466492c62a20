package idcodec

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// Widths in bits of the fields of a GID's plaintext, most significant first:
// subscriber ‖ slot ‖ check.
const (
	SubscriberBits = 36
	SlotBits       = 12
	CheckBits      = 16
)

// MaxSubscriber is the largest subscriber number, MaxSlot the largest slot.
const (
	MaxSubscriber = 1<<SubscriberBits - 1
	MaxSlot       = 1<<SlotBits - 1
)

// KeyLen is the length in bytes of an epoch key.
const KeyLen = 32

var (
	// ErrForged says that an identifier was not made with this key, prefix
	// and epoch: its check is not zero. One forgery in 2^16 escapes it, and
	// is refused where its subscriber number is beyond the registry's end.
	ErrForged = errors.New("forged GID: its check is not zero")

	// ErrRange says that a subscriber number or a slot does not fit its field.
	ErrRange = errors.New("out of range")
)

// GID is a 64-bit interface identifier; as bytes it is big-endian.
type GID uint64

// Prefix is the upper half of an IPv6 address, the /64 that a GID lives in.
type Prefix [8]byte

// PrefixFrom returns p's 64 bits. It refuses anything but an IPv6 /64 without
// host bits.
func PrefixFrom(p netip.Prefix) (Prefix, error) {
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 64 || p.Masked() != p {
		return Prefix{}, fmt.Errorf("prefix %s: want an IPv6 /64 without host bits", p)
	}
	return PrefixOf(p.Addr()), nil
}

// PrefixOf returns the upper half of a.
func PrefixOf(a netip.Addr) Prefix {
	b := a.As16()
	return Prefix(b[:8])
}

// Netip returns p as a /64.
func (p Prefix) Netip() netip.Prefix { return netip.PrefixFrom(p.Addr(0), 64) }

// String returns p in CIDR notation.
func (p Prefix) String() string { return p.Netip().String() }

// Addr returns the address in p whose interface identifier is g.
func (p Prefix) Addr(g GID) netip.Addr {
	var b [16]byte
	copy(b[:8], p[:])
	binary.BigEndian.PutUint64(b[8:], uint64(g))
	return netip.AddrFrom16(b)
}

// GIDOf returns the interface identifier of a.
func GIDOf(a netip.Addr) GID {
	b := a.As16()
	return GID(binary.BigEndian.Uint64(b[8:]))
}

// EpochKey encodes and decodes the GIDs of one epoch. It is safe for concurrent
// use.
//
// The permutation is FF1 of NIST SP 800-38G with radix 2, n = 64, AES-256 and
// the 11-byte tweak prefix ‖ epoch. For these parameters FF1's first block P is
// the same for every tweak and is encrypted once for a key, and Q is exactly
// one block, so that each of the ten rounds costs one AES block. On amd64 the
// rounds are assembly, elsewhere crypto/aes; both are tested against the same
// reference.
type EpochKey struct {
	block cipher.Block
	// firstHi and firstLo are AES_K(P), the CBC-MAC state before Q.
	firstHi, firstLo uint64
	epoch            uint32
	xk               roundKeys
}

// ff1P is FF1's block P (SP 800-38G, Algorithm 7, step 5): version 1, method 2,
// addition 1, radix 2 in 3 bytes, 10 rounds, u = 32, n = 64, t = 11.
var ff1P = [aes.BlockSize]byte{1, 2, 1, 0, 0, 2, 10, 32, 0, 0, 0, 64, 0, 0, 0, 11}

// NewEpochKey returns the codec of an epoch, which has 24 bits.
func NewEpochKey(key [KeyLen]byte, epoch uint32) (*EpochKey, error) {
	if epoch > MaxEpoch {
		return nil, fmt.Errorf("epoch %d: %w: it has 24 bits", epoch, ErrRange)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	var first [aes.BlockSize]byte
	block.Encrypt(first[:], ff1P[:])
	k := &EpochKey{
		block:   block,
		firstHi: binary.BigEndian.Uint64(first[:8]),
		firstLo: binary.BigEndian.Uint64(first[8:]),
		epoch:   epoch,
	}
	k.xk.expand(&key)
	return k, nil
}

// Epoch returns the epoch that k belongs to.
func (k *EpochKey) Epoch() uint32 { return k.epoch }

// Encode returns the GID of a subscriber's slot in a prefix.
func (k *EpochKey) Encode(p Prefix, subscriber uint64, slot uint16) (GID, error) {
	if subscriber > MaxSubscriber {
		return 0, fmt.Errorf("subscriber %d: %w: it has %d bits", subscriber, ErrRange, SubscriberBits)
	}
	if slot > MaxSlot {
		return 0, fmt.Errorf("slot %d: %w: it has %d bits", slot, ErrRange, SlotBits)
	}
	return GID(k.permute(p, subscriber<<(SlotBits+CheckBits)|uint64(slot)<<CheckBits)), nil
}

// Decode returns the subscriber number and the slot in g, or [ErrForged] if g
// was not encoded under this key, prefix and epoch.
func (k *EpochKey) Decode(p Prefix, g GID) (subscriber uint64, slot uint16, err error) {
	x := k.unpermute(p, uint64(g))
	if x&(1<<CheckBits-1) != 0 {
		return 0, 0, ErrForged
	}
	return x >> (SlotBits + CheckBits), uint16(x >> CheckBits & MaxSlot), nil
}

// q returns Q ⊕ AES_K(P) for round 0 and B = 0, big-endian: the prefix, then the
// epoch in three bytes, the round, and B in four.
func (k *EpochKey) q(p Prefix) (hi, lo uint64) {
	return binary.BigEndian.Uint64(p[:]) ^ k.firstHi, k.firstLo ^ uint64(k.epoch)<<40
}

// rounds is a pair of blocks for cipher.Block, whose arguments escape to the
// heap; a pool of them keeps Encode and Decode free of allocation.
type rounds struct{ q, r [aes.BlockSize]byte }

var roundsPool = sync.Pool{New: func() any { return new(rounds) }}

// permuteGo is the permutation on crypto/aes.
func (k *EpochKey) permuteGo(p Prefix, x uint64) uint64 {
	s := roundsPool.Get().(*rounds)
	hi, lo := k.q(p)
	binary.BigEndian.PutUint64(s.q[:8], hi)
	a, b := uint32(x>>32), uint32(x)
	for i := uint64(0); i < 10; i++ {
		binary.BigEndian.PutUint64(s.q[8:], lo^i<<32^uint64(b))
		k.block.Encrypt(s.r[:], s.q[:])
		// y is the first d = 8 bytes of R; modulo 2^32 its lower half counts.
		a, b = b, a+binary.BigEndian.Uint32(s.r[4:8])
	}
	roundsPool.Put(s)
	return uint64(a)<<32 | uint64(b)
}

// unpermuteGo undoes permuteGo.
func (k *EpochKey) unpermuteGo(p Prefix, x uint64) uint64 {
	s := roundsPool.Get().(*rounds)
	hi, lo := k.q(p)
	binary.BigEndian.PutUint64(s.q[:8], hi)
	a, b := uint32(x>>32), uint32(x)
	for i := uint64(10); i > 0; i-- {
		binary.BigEndian.PutUint64(s.q[8:], lo^(i-1)<<32^uint64(a))
		k.block.Encrypt(s.r[:], s.q[:])
		a, b = b-binary.BigEndian.Uint32(s.r[4:8]), a
	}
	roundsPool.Put(s)
	return uint64(a)<<32 | uint64(b)
}
