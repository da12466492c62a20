package gidzone

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// Bindings are the addresses that are leased, in memory. They are safe for concurrent
// use.
type Bindings struct {
	shards [64]shard
}

type shard struct {
	mu    sync.RWMutex
	until map[[16]byte]int64 // unix seconds
}

func (b *Bindings) shard(a [16]byte) *shard {
	// A GID is as good as random.
	return &b.shards[binary.BigEndian.Uint64(a[8:])%uint64(len(b.shards))]
}

// Set says until when an address is leased; the zero time, that it is not.
func (b *Bindings) Set(addr netip.Addr, until time.Time) {
	a := addr.As16()
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

// Left returns how long an address is leased yet; nothing if it is not.
func (b *Bindings) Left(addr netip.Addr, now time.Time) time.Duration {
	a := addr.As16()
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
