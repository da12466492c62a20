package embedded

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"brightgid/ledgeranchor"
)

// index finds records by name, address, warrant, message and kind. It holds nothing
// that the log does not: its files may be deleted, and are then made anew.
//
// It is a list of segments, files that never change, each of which has the keys of a
// range of positions in order; and a tail of records that are in no segment yet,
// which every process keeps in memory for itself. Four segments of a size become
// one. So any number of processes share it without a word, and what an append costs
// does not grow. A key is 64 bits of hash: who asks checks what is found.
type index struct {
	dir string

	mu       sync.RWMutex
	segments []*segment         // in order, from position 0 on without a gap
	tail     map[uint64][]place // by key
	slots    []slot             // of the tail
	start    uint64             // the tail's first position
	end      uint64             // how many records are indexed

	merging sync.WaitGroup
}

const (
	blockSize = 1 << 12 // records of the smallest segment
	fanOut    = 4       // segments that become one
)

// place is where a record is, in the order that queries give.
type place struct{ time, position uint64 }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.time, q.time), cmp.Compare(p.position, q.position))
}

// slot is a key of a record.
type slot struct {
	key uint64
	place
}

func (s slot) compare(t slot) int { return cmp.Or(cmp.Compare(s.key, t.key), s.place.compare(t.place)) }

// Keys, of which each sort has its own.
func nameKey(h ledgeranchor.Hash) uint64 { return binary.BigEndian.Uint64(h[:]) }

func keyOf(sort byte, value []byte) uint64 {
	var b [33]byte
	b[0] = sort
	return xxhash.Sum64(b[:1+copy(b[1:], value)])
}

func addressKey(a ledgeranchor.Address) uint64 { return keyOf('a', a[:]) }
func warrantKey(h ledgeranchor.Hash) uint64    { return keyOf('w', h[:]) }
func messageKey(h ledgeranchor.Hash) uint64    { return keyOf('m', h[:]) }
func kindKey(k ledgeranchor.Kind) uint64       { return keyOf('k', []byte(k)) }

// slotsOf appends the slots of a record. Hops, which are most records, are not found
// by their kind.
func slotsOf(dst []slot, position uint64, name ledgeranchor.Hash, r *ledgeranchor.Record) []slot {
	p := place{r.Time, position}
	dst = append(dst, slot{nameKey(name), p})
	for _, a := range r.Addresses {
		dst = append(dst, slot{addressKey(a), p})
	}
	if !r.Warrant.IsZero() {
		dst = append(dst, slot{warrantKey(r.Warrant), p})
	}
	if !r.Message.IsZero() {
		dst = append(dst, slot{messageKey(r.Message), p})
	}
	if r.Kind != ledgeranchor.KindHop {
		dst = append(dst, slot{kindKey(r.Kind), p})
	}
	return dst
}

// openIndex opens the index in a directory, which is made if it is not there.
func openIndex(dir string) (*index, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	x := &index{dir: dir, tail: make(map[uint64][]place)}
	for range 10 {
		err := x.load()
		if err == nil {
			x.start, x.end = x.covered(), x.covered()
			return x, nil
		}
		x.unload()
		if !errors.Is(err, os.ErrNotExist) { // another process has merged it meanwhile
			return nil, err
		}
	}
	return nil, fmt.Errorf("index %s: its files change all the time", dir)
}

// load opens the longest segments that cover all that is covered.
func (x *index) load() error {
	names, err := os.ReadDir(x.dir)
	if err != nil {
		return err
	}
	type span struct{ from, to uint64 }
	var all []span
	for _, n := range names {
		if from, to, ok := parseSegmentName(n.Name()); ok {
			all = append(all, span{from, to})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to)) })
	for _, s := range all {
		if s.from == x.covered() {
			g, err := openSegment(x.dir, s.from, s.to)
			if err != nil {
				return err
			}
			x.segments = append(x.segments, g)
		}
	}
	return nil
}

func (x *index) covered() uint64 {
	if len(x.segments) == 0 {
		return 0
	}
	return x.segments[len(x.segments)-1].to
}

func (x *index) unload() {
	for _, g := range x.segments {
		g.close()
	}
	x.segments = nil
}

// Close gives up the index's files. Merges that have begun are finished before.
func (x *index) Close() error {
	x.merging.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unload()
	return nil
}

// size returns how many records are indexed.
func (x *index) size() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.end
}

// add indexes the records from a position on, which must not be beyond the end. What
// is indexed, by whichever process, is left out.
func (x *index) add(from uint64, names []ledgeranchor.Hash, records []*ledgeranchor.Record) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if from > x.end {
		return fmt.Errorf("index %s: it has %d records, and is to go on at %d", x.dir, x.end, from)
	}
	for i, r := range records {
		if from+uint64(i) < x.end {
			continue
		}
		n := len(x.slots)
		x.slots = slotsOf(x.slots, x.end, names[i], r)
		for _, s := range x.slots[n:] {
			x.tail[s.key] = append(x.tail[s.key], s.place)
		}
		x.end++
		if x.end-x.start == blockSize {
			if err := x.seal(); err != nil {
				return err
			}
		}
	}
	return nil
}

// seal makes a segment of the tail, which is as long as one.
func (x *index) seal() error {
	slices.SortFunc(x.slots, slot.compare)
	if err := writeSegment(x.dir, x.start, x.end, len(x.slots), slices.Values(x.slots)); err != nil {
		return err
	}
	g, err := openSegment(x.dir, x.start, x.end)
	if errors.Is(err, os.ErrNotExist) { // another process has merged it already
		return x.reload()
	}
	if err != nil {
		return err
	}
	x.segments = append(x.segments, g)
	x.start, x.slots = x.end, x.slots[:0]
	clear(x.tail)
	if x.mergeable() != nil {
		x.merging.Go(x.merge)
	}
	return nil
}

// reload takes the segments that other processes have made instead of the own ones
// and the tail. They may cover more.
func (x *index) reload() error {
	x.unload()
	if err := x.load(); err != nil {
		return err
	}
	if x.covered() < x.end {
		return fmt.Errorf("index %s: records from %d on are in no segment any more", x.dir, x.covered())
	}
	x.end = x.covered()
	x.start, x.slots = x.end, x.slots[:0]
	clear(x.tail)
	return nil
}

// mergeable returns segments of a size that make a whole one of the next.
func (x *index) mergeable() []*segment {
	for i := 0; i+fanOut <= len(x.segments); i++ {
		g := x.segments[i : i+fanOut]
		size := g[0].to - g[0].from
		if g[0].from%(size*fanOut) == 0 && g[fanOut-1].to == g[0].from+size*fanOut {
			return slices.Clone(g)
		}
	}
	return nil
}

// merge makes one of segments while there are some to be merged. An error leaves
// them as they are.
func (x *index) merge() {
	for {
		x.mu.RLock()
		old := x.mergeable()
		x.mu.RUnlock()
		if old == nil {
			return
		}
		// Only this goroutine and seal change segments, and seal appends; but two
		// merges may meet.
		if !x.mergeOf(old) {
			return
		}
	}
}

func (x *index) mergeOf(old []*segment) bool {
	from, to, n := old[0].from, old[len(old)-1].to, 0
	for _, g := range old {
		if !g.hold() {
			return false
		}
		defer g.release()
		n += g.len()
	}
	if err := writeSegment(x.dir, from, to, n, mergeSlots(old)); err != nil {
		return false
	}
	merged, err := openSegment(x.dir, from, to)
	if err != nil {
		return false
	}
	x.mu.Lock()
	i := slices.Index(x.segments, old[0])
	if i < 0 || i+len(old) > len(x.segments) || x.segments[i+len(old)-1] != old[len(old)-1] {
		x.mu.Unlock()
		merged.close()
		return false
	}
	x.segments = slices.Replace(x.segments, i, i+len(old), merged)
	x.mu.Unlock()
	for _, g := range old {
		g.close()
		_ = os.Remove(filepath.Join(x.dir, segmentName(g.from, g.to))) // another process may have done it
	}
	return true
}

// mergeSlots gives the slots of segments in order.
func mergeSlots(all []*segment) iter.Seq[slot] {
	return func(yield func(slot) bool) {
		at := make([]int, len(all))
		for {
			best := -1
			var least slot
			for i, g := range all {
				if at[i] < g.len() {
					if s := g.slot(at[i]); best < 0 || s.compare(least) < 0 {
						best, least = i, s
					}
				}
			}
			if best < 0 || !yield(least) {
				return
			}
			at[best]++
		}
	}
}

// find returns the places of a key after a place and until a time, in order, some
// at least if there are any.
func (x *index) find(key uint64, after place, until uint64, limit int) []place {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []place
	for _, p := range x.tail[key] {
		if p.compare(after) > 0 && p.time <= until {
			out = append(out, p)
		}
	}
	for _, g := range x.segments {
		out = g.find(out, key, after, until, limit)
	}
	slices.SortFunc(out, place.compare)
	return out[:min(len(out), limit)]
}

// positions returns the positions of a key's places in a time, in the order of
// time and position.
func (x *index) positions(key uint64, from, until uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		const page = 1000
		after := place{}
		if from > 0 {
			after = place{from - 1, math.MaxUint64}
		}
		for {
			found := x.find(key, after, until, page)
			for _, p := range found {
				if !yield(p.position) {
					return
				}
			}
			if len(found) < page {
				return
			}
			after = found[len(found)-1]
		}
	}
}

// A segment's file is a header and its slots, in order, each of three numbers of 8
// bytes in big-endian order: key, time, position.
const (
	segmentMagic  = "gid-index-1\n\x00\x00\x00\x00"
	segmentHeader = len(segmentMagic) + 8 // and the number of slots
	slotSize      = 24
)

func segmentName(from, to uint64) string { return fmt.Sprintf("%d-%d.segment", from, to) }

func parseSegmentName(name string) (from, to uint64, ok bool) {
	span, ok := strings.CutSuffix(name, ".segment")
	a, b, ok2 := strings.Cut(span, "-")
	from, err1 := strconv.ParseUint(a, 10, 64)
	to, err2 := strconv.ParseUint(b, 10, 64)
	return from, to, ok && ok2 && err1 == nil && err2 == nil && from < to && from%blockSize == 0 && to%blockSize == 0
}

// writeSegment writes a segment, unless it is there.
func writeSegment(dir string, from, to uint64, n int, slots iter.Seq[slot]) (err error) {
	path := filepath.Join(dir, segmentName(from, to))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("index: %w", err), os.Remove(f.Name()))
		}
	}()
	b := make([]byte, 0, 1<<16)
	b = append(b, segmentMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	for s := range slots {
		b = binary.BigEndian.AppendUint64(b, s.key)
		b = binary.BigEndian.AppendUint64(b, s.time)
		b = binary.BigEndian.AppendUint64(b, s.position)
		if len(b) > cap(b)-slotSize {
			if _, err := f.Write(b); err != nil {
				return errors.Join(err, f.Close())
			}
			b = b[:0]
		}
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil { // a name must not be there before its content
		return err
	}
	return os.Rename(f.Name(), path)
}

// segment is a segment's file in memory.
type segment struct {
	from, to uint64
	data     []byte // the whole file
	slots    []byte

	mu     sync.Mutex // of what follows
	held   int
	closed bool
}

func openSegment(dir string, from, to uint64) (*segment, error) {
	path := filepath.Join(dir, segmentName(from, to))
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	bad := func(what string) error {
		return fmt.Errorf("index %s: %s; delete the directory, and it is made anew", path, what)
	}
	if info.Size() < int64(segmentHeader) {
		return nil, bad("it is cut off")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	g := &segment{from: from, to: to, data: data, slots: data[segmentHeader:]}
	if n := binary.BigEndian.Uint64(data[len(segmentMagic):]); string(data[:len(segmentMagic)]) != segmentMagic || n != uint64(len(g.slots))/slotSize || len(g.slots)%slotSize != 0 {
		g.close()
		return nil, bad("it is no segment")
	}
	return g, nil
}

// hold keeps the segment in memory until release.
func (g *segment) hold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.held++
	return true
}

func (g *segment) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held--
	g.unmap()
}

func (g *segment) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.unmap()
}

func (g *segment) unmap() {
	if g.closed && g.held == 0 && g.data != nil {
		_ = unix.Munmap(g.data) // it is what Mmap returned
		g.data, g.slots = nil, nil
	}
}

func (g *segment) len() int { return len(g.slots) / slotSize }

func (g *segment) slot(i int) slot {
	b := g.slots[i*slotSize : (i+1)*slotSize]
	return slot{binary.BigEndian.Uint64(b), place{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}}
}

// find appends places of a key, limit of them at most.
func (g *segment) find(dst []place, key uint64, after place, until uint64, limit int) []place {
	want := slot{key, after}
	// Keys are spread evenly, so that a key's slot is near where its value says.
	// From there the reach doubles until the slot is within.
	n := g.len()
	guess, _ := bits.Mul64(key, uint64(n))
	low, high := int(guess), int(guess)
	for reach := 8; low > 0 && g.slot(low).compare(want) > 0; reach *= 2 {
		low = max(0, low-reach)
	}
	for reach := 8; high < n && g.slot(high).compare(want) <= 0; reach *= 2 {
		high = min(n, high+reach)
	}
	for low < high {
		if mid := (low + high) / 2; g.slot(mid).compare(want) <= 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	for i := low; i < n && limit > 0; i++ {
		s := g.slot(i)
		if s.key != key || s.time > until {
			break
		}
		dst = append(dst, s.place)
		limit--
	}
	return dst
}
