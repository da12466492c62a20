// Package renewals keeps what a renewal changes of a lease, its three times, in one of the places that
// each subscriber has, four for addresses and two for delegated prefixes. A database that is asked to
// renew a lease then need not be given a record: among many leases nearly each renewal would be one that
// it has to sort in, to write, and to rewrite some times.
//
// A place is of one lease at a time, of a record that the database has but for its times. It is 32
// bytes, numbers being big-endian:
//
//	address(16) ‖ rest(4) ‖ updated(4) ‖ preferred(4) ‖ valid(4)
//
// rest is the beginning of XXH64 of the file's seed and of the record without its times; updated is in
// seconds since 1970, never 0, until 2106; preferred and valid are the seconds from then on until the lease is no
// longer preferred, and valid. A place that is all zero is nobody's.
package renewals

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"brightgid/lease"
	"brightgid/lease/arena"
)

// PlaceLen is the length of a place in bytes.
const PlaceLen = 32

const (
	offRest      = 16
	offUpdated   = 20
	offPreferred = 24
	offValid     = 28
)

// Places are in rows, in each of which every subscriber has one: some rows are for addresses, those after
// them for prefixes. Of a row that few use there is not much in memory.
const (
	rows        = 6
	forPrefixes = 4 // the first row that is
	rowBits     = 3
)

// Key names a place: a subscriber's number, and in the last bits a row. The first row for addresses
// stands for all of these where a lease is looked for, and so does the first for prefixes.
type Key uint64

// KeyOf returns the key of a subscriber's places for addresses, or for delegated prefixes.
func KeyOf(number uint64, delegated bool) Key {
	k := Key(min(number, maxNumbers) << rowBits) // the last has no places
	if delegated {
		k += forPrefixes
	}
	return k
}

func (k Key) number() uint64 { return uint64(k >> rowBits) }
func (k Key) row() int       { return int(k & (1<<rowBits - 1)) }

// end is the key after the last of the subscriber's places that are for the same.
func (k Key) end() Key {
	if k.row() < forPrefixes {
		return k - Key(k.row()) + forPrefixes
	}
	return k - Key(k.row()) + rows
}

// KeyLen is the length of a key's bytes.
const KeyLen = 8

// Append appends the key's bytes to b.
func (k Key) Append(b []byte) []byte { return binary.BigEndian.AppendUint64(b, uint64(k)) }

// ParseKey reads what Append writes.
func ParseKey(b []byte) (Key, bool) {
	if len(b) != KeyLen {
		return 0, false
	}
	return Key(binary.BigEndian.Uint64(b)), true
}

const (
	chunkLen = 4 << 20 // bytes; so many are had from the kernel at once
	inChunk  = chunkLen / PlaceLen

	// maxNumbers bounds the subscribers that have places.
	maxNumbers = 1 << 32
)

// Places are the places of all subscribers. They are not safe for concurrent use.
type Places struct {
	memory  arena.Memory
	seed    uint64
	rows    [rows][][]byte // chunks, nil where nobody has a place
	changed bool
}

// New returns places that are all nobody's. The seed is secret, so that no client can choose what
// has the same hash.
func New(seed uint64) *Places { return &Places{seed: seed} }

// Close gives the memory back. Nothing may be called after it.
func (p *Places) Close() {
	p.rows = [rows][][]byte{}
	p.memory.Close()
}

// Change has Changed report that one was.
func (p *Places) Change() { p.changed = true }

// Changed reports whether a place was changed since the last call.
func (p *Places) Changed() bool {
	was := p.changed
	p.changed = false
	return was
}

// at returns a place, nil if nobody near it has one.
func (p *Places) at(k Key) []byte {
	if k.row() >= rows {
		return nil
	}
	chunks, n := p.rows[k.row()], k.number()
	if n/inChunk >= uint64(len(chunks)) || chunks[n/inChunk] == nil {
		return nil
	}
	return chunks[n/inChunk][n%inChunk*PlaceLen:][:PlaceLen:PlaceLen]
}

// room returns a place, nil if there can be none.
func (p *Places) room(k Key) []byte {
	n := k.number()
	if n >= maxNumbers || k.row() >= rows {
		return nil
	}
	chunks := &p.rows[k.row()]
	for uint64(len(*chunks)) <= n/inChunk {
		*chunks = append(*chunks, nil)
	}
	if (*chunks)[n/inChunk] == nil {
		(*chunks)[n/inChunk] = p.memory.Get(chunkLen)
	}
	return p.at(k)
}

// Lines adds the memory of places to what will be looked at soon.
func (p *Places) Lines(lines arena.Lines, k Key) arena.Lines {
	for end := k.end(); k < end; k++ {
		b := p.at(k)
		if b == nil {
			break // and hardly anybody has one in the rows after it
		}
		lines = lines.Memory(b, PlaceLen)
	}
	return lines
}

func isFree(b []byte) bool { return binary.BigEndian.Uint32(b[offUpdated:]) == 0 }

// of returns the place of an address, nil if it has none.
func (p *Places) of(k Key, addr *[16]byte) (Key, []byte) {
	for end := k.end(); k < end; k++ {
		if b := p.at(k); is(b, addr) {
			return k, b
		}
	}
	return 0, nil
}

// Has reports whether an address has a place.
func (p *Places) Has(k Key, addr *[16]byte) bool {
	_, b := p.of(k, addr)
	return b != nil
}

// Victim returns the address whose lease was not renewed for longest, if another's has to go for this one to have a place.
func (p *Places) Victim(k Key, addr *[16]byte) (victim [16]byte, ok bool) {
	if p.Has(k, addr) || k.number() >= maxNumbers {
		return victim, false
	}
	oldest := int64(1<<63 - 1)
	for end := k.end(); k < end; k++ {
		b := p.at(k)
		if b == nil || isFree(b) {
			return victim, false
		}
		if t := times(b).Updated; t < oldest {
			victim, oldest = [16]byte(b), t
		}
	}
	return victim, true
}

// is reports whether a place is an address's.
func is(b []byte, addr *[16]byte) bool { return b != nil && [16]byte(b) == *addr && !isFree(b) }

// rest is the hash of a record without its times.
func (p *Places) rest(record []byte) uint32 {
	before, after := lease.RecordRest(record)
	var buf [384]byte // no record is longer
	b := binary.BigEndian.AppendUint64(buf[:0], p.seed)
	b = append(append(b, before...), after...)
	return uint32(xxhash.Sum64(b) >> 32)
}

// fill has a place be of a lease, unless its times do not fit.
func fill(b []byte, addr *[16]byte, rest uint32, t lease.Times) bool {
	updated, preferred, valid := t.Updated, t.PreferredUntil-t.Updated, t.ValidUntil-t.Updated
	if updated <= 0 || updated > 1<<32-1 || preferred < 0 || preferred > 1<<32-1 || valid < 0 || valid > 1<<32-1 {
		return false
	}
	copy(b, addr[:])
	binary.BigEndian.PutUint32(b[offRest:], rest)
	binary.BigEndian.PutUint32(b[offUpdated:], uint32(updated))
	binary.BigEndian.PutUint32(b[offPreferred:], uint32(preferred))
	binary.BigEndian.PutUint32(b[offValid:], uint32(valid))
	return true
}

// times is what fill has filled in.
func times(b []byte) lease.Times {
	updated := int64(binary.BigEndian.Uint32(b[offUpdated:]))
	return lease.Times{
		Updated:        updated,
		PreferredUntil: updated + int64(binary.BigEndian.Uint32(b[offPreferred:])),
		ValidUntil:     updated + int64(binary.BigEndian.Uint32(b[offValid:])),
	}
}

// Renew sets the times of the lease of an address to those of its new record, and returns its place,
// which is valid until the next call, and that's key. It does nothing if the lease has no place, or if
// anything but times is new.
func (p *Places) Renew(k Key, addr *[16]byte, record []byte) (at Key, place []byte, ok bool) {
	at, b := p.of(k, addr)
	if b == nil {
		return 0, nil, false
	}
	rest := p.rest(record)
	if rest != binary.BigEndian.Uint32(b[offRest:]) || !fill(b, addr, rest, lease.RecordTimes(record)) {
		return 0, nil, false
	}
	p.changed = true
	return at, b, true
}

// Take has a lease that the database has this record of have a place, if there is one that is nobody's or
// its own.
func (p *Places) Take(k Key, addr *[16]byte, record []byte) {
	_, b := p.of(k, addr)
	for end := k.end(); b == nil && k < end; k++ {
		if b = p.room(k); b == nil {
			return
		}
		if !isFree(b) {
			b = nil
		}
	}
	if b == nil {
		return
	}
	if !fill(b, addr, p.rest(record), lease.RecordTimes(record)) {
		clear(b)
	}
	p.changed = true
}

// Leave has a place be nobody's that is of an address, and returns its key if one was.
func (p *Places) Leave(k Key, addr *[16]byte) (at Key, ok bool) {
	at, b := p.of(k, addr)
	if b == nil {
		return 0, false
	}
	clear(b)
	p.changed = true
	return at, true
}

// Times returns the times of the lease of an address of which the database has this record, unless
// it has no place, or another record has.
func (p *Places) Times(k Key, addr *[16]byte, record []byte) (t lease.Times, ok bool) {
	_, b := p.of(k, addr)
	if b == nil || p.rest(record) != binary.BigEndian.Uint32(b[offRest:]) {
		return t, false
	}
	return times(b), true
}

// Clear has a place be nobody's, by its own key.
func (p *Places) Clear(k Key) {
	if b := p.at(k); b != nil {
		clear(b)
		p.changed = true
	}
}

// Set has a place be as Renew has returned it, by its own key.
func (p *Places) Set(k Key, place []byte) error {
	if len(place) != PlaceLen {
		return ErrDamaged
	}
	b := p.room(k)
	if b == nil {
		return ErrDamaged
	}
	copy(b, place)
	p.changed = true
	return nil
}
