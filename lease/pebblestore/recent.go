package pebblestore

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"brightgid/lease/arena"
)

// table holds the records of leases by their addresses, and the addresses in the order in which
// they came.
type table struct {
	memory arena.Memory
	seed   maphash.Seed
	blocks *arena.Arena // address(16) length(2) record
	places *arena.Table // nil if there never was a lease

	order  [][16]byte
	runs   []run // of order, the first address of each being the least of the first run's
	sorted int   // how much of order is in runs

	given [][16]byte // scratch
	lines arena.Lines
}

// run is a part of the order that is sorted, but for what Pebble has of it.
type run [][16]byte

const headLen = 18

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// close gives the memory back, and the table is empty.
func (t *table) close() {
	t.blocks, t.places, t.order = nil, nil, nil
	t.memory.Close()
}

// len is how many records there are at the most.
func (t *table) len() int { return len(t.order) }

func (t *table) hash(addr [16]byte) uint32 { return uint32(maphash.Bytes(t.seed, addr[:])) }

// find returns the slot of an address, which is free if it has no record.
func (t *table) find(addr [16]byte, hash uint32) (at int, ok bool) {
	return t.places.Find(hash, func(r arena.Ref) bool { return [16]byte(t.blocks.At(r)) == addr })
}

// at returns the record that is in a block.
func (t *table) at(r arena.Ref) []byte {
	b := t.blocks.At(r)
	return b[headLen : headLen+int(binary.LittleEndian.Uint16(b[16:]))]
}

// get returns the record of an address, which is the table's.
func (t *table) get(addr [16]byte) ([]byte, bool) {
	if t.places == nil {
		return nil, false
	}
	at, ok := t.find(addr, t.hash(addr))
	if !ok {
		return nil, false
	}
	return t.at(t.places.At(at)), true
}

// slots adds where get begins to look.
func (t *table) slots(lines arena.Lines, addrs [][16]byte) arena.Lines {
	if t.places == nil {
		return lines
	}
	for _, a := range addrs {
		lines = lines.Slot(t.places, t.hash(a))
	}
	return lines
}

// records adds what they find there.
func (t *table) records(lines arena.Lines, addrs [][16]byte) arena.Lines {
	if t.places == nil {
		return lines
	}
	for _, a := range addrs {
		if r := t.places.Probably(t.hash(a)); r != 0 {
			lines = lines.Block(t.blocks, r, blockLen)
		}
	}
	return lines
}

// blockLen is how much of a block is looked at, which is seldom longer.
const blockLen = 128

func (t *table) put(addr [16]byte, record []byte) {
	if t.places == nil {
		t.blocks, t.places = arena.New(&t.memory), arena.NewTable(&t.memory)
	}
	hash := t.hash(addr)
	at, ok := t.find(addr, hash)
	if ok {
		old := t.places.At(at)
		b := t.at(old)
		if len(b) == len(record) {
			copy(b, record)
			return
		}
		t.blocks.Release(old, headLen+len(b))
	} else {
		t.order = append(t.order, addr)
	}
	r, b := t.blocks.Alloc(headLen + len(record))
	copy(b, addr[:])
	binary.LittleEndian.PutUint16(b[16:], uint16(len(record)))
	copy(b[headLen:], record)
	t.places.Set(at, r, hash)
}

func (t *table) remove(addr [16]byte) {
	if t.places == nil {
		return
	}
	if at, ok := t.find(addr, t.hash(addr)); ok {
		r := t.places.At(at)
		t.blocks.Release(r, headLen+len(t.at(r)))
		t.places.Remove(at)
	}
}

// reset empties the table and keeps its memory.
func (t *table) reset() {
	if t.places != nil {
		t.places.Clear()
		t.blocks.Reset()
	}
	t.order, t.runs, t.sorted = t.order[:0], t.runs[:0], 0
}

// again has be given again what was.
func (t *table) again() { t.runs, t.sorted = t.runs[:0], 0 }

// sortLen is how many addresses are sorted at once, which takes less than a millisecond.
const sortLen = 4096

// sort sorts some of the addresses, and reports whether there are more. What is put into the
// table after the first call is not seen.
func (t *table) sort() (more bool) {
	r := run(t.order[t.sorted:min(t.sorted+sortLen, len(t.order))])
	t.sorted += len(r)
	slices.SortFunc(r, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	if len(r) > 0 {
		t.runs = append(t.runs, r)
		t.up(len(t.runs) - 1)
	}
	return t.sorted < len(t.order)
}

// The runs are a heap by their first addresses.
func (t *table) less(i, j int) bool { return bytes.Compare(t.runs[i][0][:], t.runs[j][0][:]) < 0 }

func (t *table) up(i int) {
	for i > 0 && t.less(i, (i-1)/2) {
		t.runs[i], t.runs[(i-1)/2] = t.runs[(i-1)/2], t.runs[i]
		i = (i - 1) / 2
	}
}

func (t *table) down() {
	for i := 0; ; {
		least := i
		for j := 2*i + 1; j <= 2*i+2 && j < len(t.runs); j++ {
			if t.less(j, least) {
				least = j
			}
		}
		if least == i {
			return
		}
		t.runs[i], t.runs[least] = t.runs[least], t.runs[i]
		i = least
	}
}

// next returns the least address that was sorted and not returned.
func (t *table) next() (addr [16]byte, ok bool) {
	if len(t.runs) == 0 {
		return addr, false
	}
	addr = t.runs[0][0]
	if t.runs[0] = t.runs[0][1:]; len(t.runs[0]) == 0 {
		last := len(t.runs) - 1
		t.runs[0], t.runs = t.runs[last], t.runs[:last]
	}
	t.down()
	return addr, true
}

// give writes up to n of the records in the order of their addresses, which costs Pebble least,
// and reports whether there are more. All have to be sorted. given is whose they were.
func (t *table) give(batch *pebble.Batch, n int) (more bool) {
	t.given = t.given[:0]
	for more = true; more && len(t.given) < n; {
		var addr [16]byte
		if addr, more = t.next(); more {
			t.given = append(t.given, addr)
		}
	}
	t.lines = t.slots(t.lines, t.given).Fetch()
	t.lines = t.records(t.lines, t.given).Fetch()
	var key [17]byte
	key[0] = tagLease
	for _, addr := range t.given {
		if record, ok := t.get(addr); ok { // else it was removed
			copy(key[1:], addr[:])
			batch.Set(key[:], record, nil)
		}
	}
	return more
}

// atOnce is how many leases are given to Pebble while others wait, and restFor for how many times
// as long as that took nothing is done after it.
const (
	atOnce  = 128
	restFor = 4
)

// prepareEvery is how long the disk has between the parts of a file that is written ahead, which
// takes half a minute for 64 MiB; see preparing.
const prepareEvery = 100 * time.Millisecond

// Settle gives Pebble all leases that it has not, and does not rest. Nobody has to call it; who measures may.
func (s *Store) Settle() error {
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
	s.draining, s.recent = s.recent, s.empty
	s.mu.Unlock()
	return s.giveRest()
}

// giveRest gives Pebble what is in the table that is drained, some leases at a time. It rests between
// unless somebody waits, so that clients hardly do.
func (s *Store) giveRest() error {
	if s.draining == nil {
		return nil
	}
	for more := true; more; {
		began := time.Now()
		more = s.draining.sort() // nobody else looks at the order
		s.restUnlessBehind(time.Since(began))
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	t := s.draining
	for more := true; more; {
		began := time.Now()
		s.order.Lock()
		more = t.give(batch, atOnce)
		err := s.db.Apply(batch, pebble.NoSync)
		if err != nil {
			t.again()
		} else {
			s.mu.Lock()
			s.given()
			if s.moved++; !more {
				s.draining = nil
			}
			s.mu.Unlock()
		}
		s.order.Unlock()
		if err != nil {
			return err
		}
		if batch.Reset(); more {
			s.restUnlessBehind(time.Since(began))
		} else {
			t.reset()
			s.empty = t
		}
	}
	return nil
}

// given has leases that Pebble was given have a place each, if there is one, unless they were renewed
// meanwhile.
func (s *Store) given() {
	for _, addr := range s.draining.given {
		record, ok := s.draining.get(addr)
		if !ok {
			continue // it was removed
		}
		if _, again := s.recent.get(addr); !again {
			if k, ok := placesIn(record); ok {
				s.places.Take(k, &addr, record)
			}
		}
		s.draining.remove(addr)
	}
}

// restUnlessBehind is rest unless leases come faster than they go.
func (s *Store) restUnlessBehind(took time.Duration) {
	if s.hurry.Load() > 0 { // as while it is opened and has no log
		return
	}
	s.mu.RLock()
	behind := s.recent.len() > 2*maxRecent
	s.mu.RUnlock()
	if !behind && s.wal.Size() < 2*s.logLen.Load() {
		s.rest(took)
	}
}

// grown has a checkpoint made if it is time.
func (s *Store) grown(enough bool) {
	size := s.wal.Size()
	if !enough && size < s.logLen.Load() && (size < smallLog || s.prepared.Load()) {
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
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		var err error
		select {
		case <-s.stopping:
			return
		case <-s.wake:
			err = s.checkpoint()
		case <-day.C:
			err = s.tidy()
		}
		if err != nil {
			s.log.Error("what is in the lease database's log could not be written to where it belongs; the log is kept and grows", "error", err)
			select {
			case <-s.stopping:
				return
			case <-time.After(time.Second):
			}
		}
	}
}

// tidy has the log of a server that is not busy not keep for long what is to be forgotten.
func (s *Store) tidy() error {
	quiet := s.wal.Size() < smallLog
	err := s.flush()
	if err == nil && quiet {
		err = s.wal.Discard()
		s.prepared.Store(false)
	}
	return err
}

// checkpoint has Pebble durably write all that the log has so far, which is removed.
func (s *Store) checkpoint() error {
	s.prepared.Store(true)
	enough, rest, whole := s.logLen.Load(), s.preparing(), false
	if err := s.wal.Prepare(enough, func(took time.Duration, left int) bool {
		whole = left == 0
		return rest(took, left)
	}); err != nil {
		s.log.Warn("the next file of the lease database's log is not written ahead, which makes its syncs slower", "error", err)
	}
	err := s.flush()
	if err == nil && whole {
		// What is kept for the file after the next is shorter if it was the first, or the file of renewals has grown. But where
		// there was no time or room it is not tried again, since each checkpoint writes that file.
		var kept int64
		kept, err = s.wal.Spare()
		s.prepared.Store(kept >= enough)
	}
	return err
}

// rest has others work after something has taken so long, unless somebody waits, which it reports.
func (s *Store) rest(took time.Duration) bool {
	if s.hurry.Load() > 0 {
		return false
	}
	time.Sleep(restFor * took)
	return true
}

// preparing returns what rests after each step of writing a file ahead, which keeps not the processor but the disk from others, and
// ends it when a checkpoint is due. It is in no hurry unless the log grows so fast that it would not be done when that is
// minLog bytes long, which it is for as long.
func (s *Store) preparing() func(took time.Duration, left int) bool {
	began, before := time.Now(), s.wal.Size()
	return func(took time.Duration, left int) bool {
		size := s.wal.Size()
		s.mu.RLock()
		due := s.recent.len() >= maxRecent
		s.mu.RUnlock()
		if due || size >= s.logLen.Load() {
			return false
		}
		return s.rest(max(took, prepareStep(time.Since(began), size-before, minLog-size, left)/restFor))
	}
}

// prepareStep is how long each of the steps that are left may take where the log has grown by so many bytes since they began,
// and that much is left of it.
func prepareStep(since time.Duration, grown, room int64, left int) time.Duration {
	if grown <= 0 || left <= 0 {
		return prepareEvery
	}
	until := since.Seconds() * float64(max(0, room)) / float64(grown)
	return time.Duration(min(prepareEvery.Seconds(), until/float64(left)) * float64(time.Second))
}

// flush is a checkpoint without regard to the next.
func (s *Store) flush() error {
	files, err := s.wal.Cut()
	if err == nil {
		err = s.give()
	}
	if err == nil {
		err = s.db.Flush()
		s.measure()
	}
	if err == nil {
		err = s.saveRenewals()
	}
	if err == nil {
		err = s.wal.Remove(files)
	}
	return err
}
