package gidzone

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bindings are the addresses and prefixes that are leased, in memory. They are safe for
// concurrent use.
type Bindings struct {
	shards  [64]shard
	lengths atomic.Uint64 // of prefixes: bit n-1 for /n
}

type shard struct {
	mu    sync.RWMutex
	until map[[16]byte]int64 // unix seconds
}

func (b *Bindings) shard(a [16]byte) *shard {
	// A GID is as good as random; prefixes end in zeros.
	return &b.shards[binary.BigEndian.Uint64(a[8:])*0x9e3779b97f4a7c15>>58]
}

// key is under what a prefix is filed, of /64 or shorter: no address that is leased
// begins so (RFC 4291 §2.7).
func key(p netip.Prefix) (k [16]byte) {
	a := p.Masked().Addr().As16()
	k[0], k[1] = 0xff, byte(p.Bits())
	copy(k[8:], a[:8])
	return k
}

// Set says until when an address is leased, or a prefix of /64 or shorter; the zero
// time, that it is not.
func (b *Bindings) Set(p netip.Prefix, until time.Time) {
	a := p.Addr().As16()
	if !p.IsSingleIP() {
		a = key(p)
		b.lengths.Or(1 << (p.Bits() - 1))
	}
	s := b.shard(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.IsZero() {
		delete(s.until, a)
		return
	}
	if s.until == nil {
		s.until = make(map[[16]byte]int64)
	}
	s.until[a] = until.Unix()
}

// Left returns how long an address is leased yet, alone or in a prefix; nothing if it is
// not.
func (b *Bindings) Left(addr netip.Addr, now time.Time) time.Duration {
	left := b.left(addr.As16(), now)
	for lengths := b.lengths.Load(); lengths != 0; lengths &= lengths - 1 {
		p, err := addr.Prefix(bits.TrailingZeros64(lengths) + 1)
		if err == nil {
			left = max(left, b.left(key(p), now))
		}
	}
	return left
}

func (b *Bindings) left(a [16]byte, now time.Time) time.Duration {
	s := b.shard(a)
	s.mu.RLock()
	until, ok := s.until[a]
	s.mu.RUnlock()
	if !ok {
		return 0
	}
	return max(0, time.Unix(until, 0).Sub(now))
}

// Sweep removes bindings that have ended and returns how many are left.
func (b *Bindings) Sweep(now time.Time) int {
	n := 0
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		for a, until := range s.until {
			if until <= now.Unix() {
				delete(s.until, a)
			}
		}
		n += len(s.until)
		s.mu.Unlock()
	}
	return n
}
