package gidzone

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Limit bounds how often the same answer goes to the same network by UDP, where a
// source address may be forged: of what is too much every second answer is cut, so
// that who is there can ask by TCP, and the others are not given (response rate
// limiting, as BIND has it). Its memory is fixed.
type Limit struct {
	perSecond float64
	seed      maphash.Seed
	mu        sync.Mutex
	buckets   [1 << 14]bucket
	slip      uint64
}

type bucket struct {
	key    uint64
	tokens float64
	at     time.Time
}

// NewLimit returns a limit of so many answers a second; nil, for none, if that is 0.
func NewLimit(perSecond int) *Limit {
	if perSecond <= 0 {
		return nil
	}
	return &Limit{perSecond: float64(perSecond), seed: maphash.MakeSeed()}
}

// What is done with an answer.
type verdict int

const (
	send verdict = iota
	cut
	drop
)

// judge says what is to be done with an answer to a source.
func (l *Limit) judge(source netip.Addr, m *dns.Msg, now time.Time) verdict {
	if l == nil {
		return send
	}
	bits := 24
	if source = source.Unmap(); source.Is6() {
		bits = 56
	}
	p, err := source.WithZone("").Prefix(bits)
	if err != nil {
		return send
	}
	var h maphash.Hash
	h.SetSeed(l.seed)
	a := p.Addr().As16()
	h.Write(a[:])
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(m.Rcode)))
	// Answers that deny are alike; those that tell are told apart by their name.
	if len(m.Answer) > 0 {
		h.WriteString(m.Question[0].Name)
		h.Write(binary.BigEndian.AppendUint16(nil, m.Question[0].Qtype))
	}
	key := h.Sum64()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.buckets[key%uint64(len(l.buckets))]
	if b.key != key {
		*b = bucket{key: key, tokens: l.perSecond, at: now}
	}
	b.tokens = min(l.perSecond, b.tokens+now.Sub(b.at).Seconds()*l.perSecond)
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return send
	}
	if l.slip++; l.slip%2 == 0 {
		return cut
	}
	return drop
}
