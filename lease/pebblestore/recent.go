package pebblestore

import (
	"bytes"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// table holds the records of leases by their addresses, in the order in which they came.
type table struct {
	places map[[16]byte]place
	order  [][16]byte
	chunks [][]byte
	chunk  int // that is being filled
	given  int // of order, which Pebble has
}

// place is where a record is.
type place struct {
	chunk  uint32
	offset uint32
	length uint32
}

const chunkLen = 1 << 18

func newTable() *table { return &table{places: make(map[[16]byte]place)} }

// len is how many records there are at the most.
func (t *table) len() int { return len(t.order) }

func (t *table) at(p place) []byte {
	return t.chunks[p.chunk][p.offset : p.offset+p.length]
}

func (t *table) get(addr [16]byte) ([]byte, bool) {
	p, ok := t.places[addr]
	if !ok {
		return nil, false
	}
	return t.at(p), true
}

func (t *table) put(addr [16]byte, record []byte) {
	if p, ok := t.places[addr]; ok && int(p.length) == len(record) {
		copy(t.at(p), record)
		return
	} else if !ok {
		t.order = append(t.order, addr)
	}
	if len(t.chunks) > 0 && len(t.chunks[t.chunk])+len(record) > chunkLen {
		t.chunk++
	}
	if t.chunk == len(t.chunks) {
		t.chunks = append(t.chunks, make([]byte, 0, chunkLen))
	}
	c := t.chunks[t.chunk]
	t.places[addr] = place{uint32(t.chunk), uint32(len(c)), uint32(len(record))}
	t.chunks[t.chunk] = append(c, record...)
}

func (t *table) remove(addr [16]byte) { delete(t.places, addr) }

// reset empties the table and keeps its memory.
func (t *table) reset() {
	clear(t.places)
	t.order, t.chunk, t.given = t.order[:0], 0, 0
	for i := range t.chunks {
		t.chunks[i] = t.chunks[i][:0]
	}
}

// give writes up to n of the records, those that came first, and reports whether there are more.
func (t *table) give(batch *pebble.Batch, n int) (more bool) {
	some := t.order[t.given:min(t.given+n, len(t.order))]
	t.given += len(some)
	// In their order it costs Pebble less.
	slices.SortFunc(some, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	var key [17]byte
	key[0] = tagLease
	for i := range some {
		if record, ok := t.get(some[i]); ok { // else it was removed
			copy(key[1:], some[i][:])
			batch.Set(key[:], record, nil)
		}
	}
	return t.given < len(t.order)
}

// atOnce is how many leases are given to Pebble while others wait, and restFor for how many times
// as long as that took nothing is done after it.
const (
	atOnce  = 128
	restFor = 4
)

// settle gives Pebble all that it has not, for who reads what is in order.
func (s *Store) settle() error {
	s.mu.RLock()
	nothing := s.recent.len() == 0 && s.draining == nil
	s.mu.RUnlock()
	if nothing {
		return nil
	}
	s.hurry.Add(1)
	defer s.hurry.Add(-1)
	return s.give()
}

// give gives Pebble all leases that it has not when it is called.
func (s *Store) give() error {
	s.drain.Lock()
	defer s.drain.Unlock()
	if err := s.giveRest(); err != nil { // that an error has left
		return err
	}
	s.mu.Lock()
	s.draining, s.recent, s.empty = s.recent, s.empty, nil
	s.mu.Unlock()
	return s.giveRest()
}

// giveRest gives Pebble what is in the table for that, some leases at a time. It rests between
// unless somebody waits, so that clients hardly do.
func (s *Store) giveRest() error {
	if s.draining == nil {
		return nil
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	for more := true; more; {
		began := time.Now()
		s.mu.Lock()
		more = s.draining.give(batch, atOnce)
		err := s.db.Apply(batch, pebble.NoSync)
		switch {
		case err != nil:
			s.draining.given = 0
		case !more:
			s.draining.reset()
			s.draining, s.empty = nil, s.draining
		}
		behind := s.recent.len() > 2*maxRecent
		s.mu.Unlock()
		if err != nil {
			return err
		}
		batch.Reset()
		if more && !behind && s.wal.Size() < 2*maxLog {
			s.rest(time.Since(began))
		}
	}
	return nil
}

// grown has a checkpoint made if it is time.
func (s *Store) grown(enough bool) {
	size := s.wal.Size()
	if !enough && size < maxLog && (size < smallLog || s.prepared.Load()) {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // it will be
	}
}

// checkpoints makes checkpoints when they are due.
func (s *Store) checkpoints() {
	defer close(s.stopped)
	for {
		select {
		case <-s.stopping:
			return
		case <-s.wake:
		}
		if err := s.checkpoint(); err != nil {
			s.log.Error("what is in the lease database's log could not be written to where it belongs; the log is kept and grows", "error", err)
		}
	}
}

// checkpoint has Pebble durably write all that the log has so far, which is removed.
func (s *Store) checkpoint() error {
	s.prepared.Store(true)
	if err := s.wal.Prepare(maxLog, s.rest); err != nil {
		s.log.Warn("the next file of the lease database's log is not written ahead, which makes its syncs slower", "error", err)
	}
	return s.flush()
}

// rest has others work after something has taken so long, unless somebody waits, which it reports.
func (s *Store) rest(took time.Duration) bool {
	if s.hurry.Load() > 0 {
		return false
	}
	time.Sleep(restFor * took)
	return true
}

// flush is a checkpoint without regard to the next.
func (s *Store) flush() error {
	files, err := s.wal.Cut()
	if err == nil {
		err = s.give()
	}
	if err == nil {
		err = s.db.Flush()
	}
	if err == nil {
		err = s.wal.Remove(files)
	}
	return err
}
