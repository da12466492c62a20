// Package journal keeps a relay's records on disk until they stand on the ledger. What
// was appended is durable when Append returns, also after a kill or a power cut; what is
// marked as done is removed. Several appends share one sync.
//
// Its files are segments, named by the sequence number of their first entry. An entry is
//
//	length(4) ‖ CRC-32C of what follows(4) ‖ number(8) ‖ group(8) ‖ payload
//
// big-endian, the group being the number of the first entry that was synced with it. A
// file "done" holds the number before which everything is done.
package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Limits.
const (
	MaxEntry    = 64 << 10 // bytes of a payload
	segmentSize = 16 << 20 // bytes at most, and a quarter of the journal's limit
	headLen     = 24
	maxGroup    = 1024 // entries of one sync
)

// Errors.
var (
	// ErrFull says that the journal has as many bytes as it may have: the ledger has
	// not taken records for long.
	ErrFull = errors.New("the journal is full")

	// ErrCorrupt says that an entry that was durable is damaged.
	ErrCorrupt = errors.New("the journal is damaged")

	// ErrInUse says that another process has the journal open.
	ErrInUse = errors.New("another process has the journal open")

	errClosed = errors.New("the journal is closed")
)

// Entry is what was appended.
type Entry struct {
	Number  uint64
	Payload []byte
}

// Journal is an open journal. It is safe for concurrent use, by one consumer.
type Journal struct {
	dir   string
	limit int64
	lock  *os.File

	mu       sync.Mutex
	more     *sync.Cond // the consumer waits for entries
	segments []segment
	next     uint64 // number of the next entry
	done     uint64 // everything before is done
	place    place  // where the consumer has read to; its alone
	failed   error  // a write that failed: nothing more is taken
	closed   bool

	closing  sync.RWMutex // held for reading while a request is handed over
	requests chan *request
	ended    chan struct{}
	file     *os.File // the last segment, of the writer alone
}

type segment struct {
	first uint64
	size  int64
}

type request struct {
	payload []byte
	number  uint64
	ack     chan error
}

// Open opens the journal in a directory, which it makes if there is none, and reads what
// is in it. An entry that was being written when the process ended is cut off. limit
// bounds the bytes of entries that are not done.
func Open(dir string, limit int64) (_ *Journal, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{dir: dir, limit: limit, requests: make(chan *request), ended: make(chan struct{})}
	j.more = sync.NewCond(&j.mu)
	if j.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.lock.Close())
		}
	}()
	if err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
	} else if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := j.load(); err != nil {
		return nil, fmt.Errorf("journal %s: %w", dir, err)
	}
	go j.write()
	return j, nil
}

func (j *Journal) path(s *segment) string {
	return filepath.Join(j.dir, fmt.Sprintf("%016x.seg", s.first))
}

// load finds the segments and the end of the last one.
func (j *Journal) load() error {
	text, err := os.ReadFile(filepath.Join(j.dir, "done"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A power cut may leave the file empty, since it is not always synced; then all that
	// is there is done again.
	told := false
	if err == nil {
		if j.done, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			told = true
		}
	}
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".seg")
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(name, 16, 64)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrCorrupt, e.Name())
		}
		j.segments = append(j.segments, segment{first: first})
	}
	slices.SortFunc(j.segments, func(a, b segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	if !told && len(j.segments) > 0 {
		j.done = j.segments[0].first
	}
	j.next = j.done
	for i := range j.segments {
		s := &j.segments[i]
		if i == 0 && s.first > j.done || i > 0 && s.first != j.next {
			return fmt.Errorf("%w: entries %d to %d are missing", ErrCorrupt, j.next, s.first)
		}
		last := i == len(j.segments)-1
		n, size, err := j.scan(s, last)
		if err != nil {
			return err
		}
		s.size, j.next = size, s.first+n
	}
	if len(j.segments) == 0 {
		return j.rotate()
	}
	if j.done > j.next {
		return fmt.Errorf("%w: it ends at %d, and %d were done", ErrCorrupt, j.next, j.done)
	}
	s := &j.segments[len(j.segments)-1]
	if j.file, err = os.OpenFile(j.path(s), os.O_RDWR, 0o600); err != nil {
		return err
	}
	// Of the last segment only what is whole counts.
	return errors.Join(j.file.Truncate(s.size), again(j.file, s.size), j.file.Sync(), seek(j.file, s.size))
}

// again writes once more what a file has up to a size. What the kernel could not write, for which the journal has
// failed before it was opened anew, it may hold for written, so that no sync is of it; and a power cut
// would leave a hole before entries that were acknowledged since.
func again(f *os.File, size int64) error {
	b := make([]byte, size)
	_, err := f.ReadAt(b, 0)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	return err
}

// scan counts a segment's entries and where they end. In the last one the end may be
// torn: what was being written, and was not acknowledged. But an entry after which
// another group begins had been synced, and is damaged.
func (j *Journal) scan(s *segment, last bool) (n uint64, size int64, err error) {
	b, err := os.ReadFile(j.path(s))
	if err != nil {
		return 0, 0, err
	}
	for len(b[size:]) > 0 {
		e, _, err := parseEntry(b[size:])
		if err != nil || e.Number != s.first+n {
			if !last || later(b[size:], s.first+n) {
				return 0, 0, fmt.Errorf("%w: entry %d", ErrCorrupt, s.first+n)
			}
			break
		}
		n++
		size += int64(headLen + len(e.Payload))
	}
	return n, size, nil
}

// later reports whether an entry of a group that began after a number is in b.
func later(b []byte, number uint64) bool {
	for i := 1; i+headLen < len(b); i++ {
		if group := binary.BigEndian.Uint64(b[i+16:]); group <= number || group > number+1<<32 {
			continue
		}
		if _, _, err := parseEntry(b[i:]); err == nil {
			return true
		}
	}
	return false
}

// rotate begins a segment. The writer or load calls it.
func (j *Journal) rotate() error {
	s := segment{first: j.next}
	f, err := os.OpenFile(j.path(&s), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(j.dir); err != nil {
		return errors.Join(err, f.Close())
	}
	if j.file != nil {
		err = j.file.Close()
	}
	j.file = f
	j.mu.Lock()
	if n := len(j.segments); n > 0 && j.segments[n-1].first == s.first {
		j.segments = j.segments[:n-1]
	}
	j.segments = append(j.segments, s)
	j.mu.Unlock()
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Append adds an entry and returns its number when it is on disk.
func (j *Journal) Append(payload []byte) (uint64, error) {
	if len(payload) == 0 || len(payload) > MaxEntry {
		return 0, fmt.Errorf("journal: an entry of %d bytes: want 1 to %d", len(payload), MaxEntry)
	}
	r := &request{payload: payload, ack: make(chan error, 1)}
	j.closing.RLock()
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if closed {
		j.closing.RUnlock()
		return 0, errClosed
	}
	j.requests <- r
	j.closing.RUnlock()
	err := <-r.ack
	return r.number, err
}

// write is the writer: it gathers appends and syncs them together.
func (j *Journal) write() {
	defer close(j.ended)
	var b []byte
	for r := range j.requests {
		group := []*request{r}
	gather:
		for len(group) < maxGroup {
			select {
			case r, ok := <-j.requests:
				if !ok {
					break gather
				}
				group = append(group, r)
			default:
				break gather
			}
		}
		b = b[:0]
		err := j.room(group)
		if err == nil {
			for i, r := range group {
				r.number = j.next + uint64(i)
				b = appendEntry(b, r.number, j.next, r.payload)
			}
			err = j.put(b, uint64(len(group)))
		}
		for _, r := range group {
			r.ack <- err
		}
	}
}

// room reports that there is none for a group.
func (j *Journal) room(group []*request) error {
	var bytes int64
	for _, r := range group {
		bytes += int64(headLen + len(r.payload))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if j.sizeLocked()+bytes > j.limit {
		return ErrFull
	}
	return nil
}

// put writes a group's bytes and syncs them. What fails to be written may be on disk in
// part: nothing more is taken then, for what comes after it would be lost with it.
func (j *Journal) put(b []byte, n uint64) error {
	_, err := j.file.Write(b)
	if err == nil {
		err = unix.Fdatasync(int(j.file.Fd()))
	}
	if errors.Is(err, unix.ENOSPC) {
		// What was written of it is cut off, and the next group may find room.
		j.mu.Lock()
		size := j.segments[len(j.segments)-1].size
		j.mu.Unlock()
		if cut := errors.Join(j.file.Truncate(size), seek(j.file, size)); cut == nil {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	if err != nil {
		return j.fail(err)
	}
	j.mu.Lock()
	last := &j.segments[len(j.segments)-1]
	last.size += int64(len(b))
	j.next += n
	full := last.size >= min(segmentSize, j.limit/4)
	j.more.Broadcast()
	j.mu.Unlock()
	if full {
		if err := j.rotate(); err != nil {
			_ = j.fail(err) // the group is durable; what comes after it is not taken
		}
	}
	return nil
}

func seek(f *os.File, to int64) error {
	_, err := f.Seek(to, io.SeekStart)
	return err
}

func (j *Journal) fail(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = fmt.Errorf("journal: %w; it takes nothing more until it is opened again", err)
	return j.failed
}

// sizeLocked is how many bytes the segments have that are not wholly done.
func (j *Journal) sizeLocked() int64 {
	var n int64
	for i := range j.segments {
		n += j.segments[i].size
	}
	return n
}

// Size returns how many bytes the journal has, of the limit, and how many entries are
// not done.
func (j *Journal) Size() (bytes, limit int64, entries uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sizeLocked(), j.limit, j.next - j.done
}

// Wait waits until there are entries that are not done, and returns up to so many of the
// oldest. It returns none when the journal is closed.
func (j *Journal) Wait(most int) ([]Entry, error) {
	j.mu.Lock()
	for j.done == j.next && !j.closed {
		j.more.Wait()
	}
	if j.closed || j.done == j.next {
		j.mu.Unlock()
		return nil, nil
	}
	from, until := j.done, min(j.next, j.done+uint64(most))
	segments := slices.Clone(j.segments)
	j.mu.Unlock()
	return j.read(segments, from, until)
}

// place is where an entry stands, or will.
type place struct {
	number  uint64
	segment uint64 // the number of its first entry
	offset  int64
}

// read reads entries of segments that are complete up to a number.
func (j *Journal) read(segments []segment, from, until uint64) ([]Entry, error) {
	var out []Entry
	next := j.place
	for i := range segments {
		s := &segments[i]
		if i+1 < len(segments) && segments[i+1].first <= from || s.first >= until {
			continue
		}
		begin := place{number: s.first, segment: s.first}
		if j.place.segment == s.first && j.place.number > s.first && j.place.number <= from {
			begin = j.place // what comes before it need not be read
		}
		entries, end, err := j.readSegment(s, begin, from, until)
		if err != nil {
			return nil, err
		}
		out, next = append(out, entries...), end
	}
	if uint64(len(out)) != until-from {
		return nil, fmt.Errorf("%w: entries %d to %d are not there", ErrCorrupt, from, until)
	}
	j.place = next
	return out, nil
}

// readSegment reads a segment's entries from a place on, and keeps those between two
// numbers. What is beyond the segment's size is being written.
func (j *Journal) readSegment(s *segment, at place, from, until uint64) (out []Entry, _ place, err error) {
	f, err := os.Open(j.path(s))
	if err != nil {
		return nil, at, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.NewSectionReader(f, at.offset, s.size-at.offset), MaxEntry+headLen)
	for at.number < until && at.offset < s.size {
		head, err := r.Peek(4)
		var b []byte
		if err == nil {
			b, err = r.Peek(headLen + int(min(binary.BigEndian.Uint32(head), MaxEntry)))
		}
		var e Entry
		if err == nil {
			e, _, err = parseEntry(b)
		}
		if err != nil || e.Number != at.number {
			return nil, at, fmt.Errorf("%w: entry %d", ErrCorrupt, at.number)
		}
		if e.Number >= from {
			out = append(out, Entry{e.Number, slices.Clone(e.Payload)})
		}
		at.number++
		at.offset += int64(len(b))
		if _, err := r.Discard(len(b)); err != nil {
			return nil, at, err
		}
	}
	return out, at, nil
}

// Done marks all entries before a number as done and removes the segments that are
// wholly so. After a crash some that are done may come again.
func (j *Journal) Done(before uint64) error {
	j.mu.Lock()
	if before > j.next {
		j.mu.Unlock()
		return fmt.Errorf("journal: entry %d is not there", before)
	}
	if before <= j.done {
		j.mu.Unlock()
		return nil
	}
	j.done = before
	var gone []segment
	for len(j.segments) > 1 && j.segments[1].first <= before {
		gone = append(gone, j.segments[0])
		j.segments = j.segments[1:]
	}
	j.mu.Unlock()
	// What is done may be done again, so that this need not be durable, but before
	// segments go, or they would be missed.
	if err := replace(filepath.Join(j.dir, "done"), strconv.FormatUint(before, 10)+"\n", len(gone) > 0); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for i := range gone {
		if err := os.Remove(j.path(&gone[i])); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

// replace puts new content in the place of a file, and makes that durable if asked.
func replace(path, content string, durable bool) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil || !durable {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Close ends the use of the journal, when appends that have begun are durable.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.more.Broadcast()
	j.mu.Unlock()
	j.closing.Lock() // nobody hands a request over any more
	close(j.requests)
	j.closing.Unlock()
	<-j.ended
	return errors.Join(j.file.Close(), j.lock.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendEntry(b []byte, number, group uint64, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	sum := len(b)
	b = binary.BigEndian.AppendUint32(b, 0)
	begin := len(b)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, group)
	b = append(b, payload...)
	binary.BigEndian.PutUint32(b[sum:], crc32.Checksum(b[begin:], castagnoli))
	return b
}

var errEntry = errors.New("an entry is torn or damaged")

// parseEntry reads the entry that b begins with, and returns what comes after it.
func parseEntry(b []byte) (e Entry, rest []byte, err error) {
	if len(b) < headLen {
		return e, nil, errEntry
	}
	end := headLen + int64(binary.BigEndian.Uint32(b))
	if end == headLen || end > headLen+MaxEntry || end > int64(len(b)) {
		return e, nil, errEntry
	}
	if crc32.Checksum(b[8:end], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return e, nil, errEntry
	}
	return Entry{binary.BigEndian.Uint64(b[8:]), b[headLen:end]}, b[end:], nil
}
