package pebblestore

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pacedFS has who writes a table in the background, for a flush or a compaction, rest again and
// again. Go's scheduler lets a goroutine go on for 10 ms before another gets the processor, and who
// waits for a packet, then for a sync and then for its turn to send waits several times.
type pacedFS struct {
	vfs.FS
	every time.Duration // without a rest
	rest  func(took time.Duration)
}

// paceEvery is about as long as a batch of messages takes.
const paceEvery = 200 * time.Microsecond

// What Pebble says that it creates tables for.
const (
	forFlush      vfs.DiskWriteCategory = "pebble-memtable-flush"
	forCompaction vfs.DiskWriteCategory = "pebble-compaction"
)

// Create implements vfs.FS.
func (p pacedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.FS.Create(name, category)
	if err != nil || category != forFlush && category != forCompaction {
		return f, err
	}
	return &pacedFile{File: f, fs: p, rested: time.Now()}, nil
}

// pacedFile is a table that is written, a few dozen records at a time.
type pacedFile struct {
	vfs.File
	fs     pacedFS
	rested time.Time // when it did last
}

// Write implements vfs.File.
func (f *pacedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	if took := time.Since(f.rested); took >= f.fs.every {
		f.fs.rest(took)
		f.rested = time.Now()
	}
	return n, err
}

const (
	// maxPace is how long a rest is at the most, whatever the disk took.
	maxPace = time.Millisecond

	// manySublevels is when Pebble does not come after: it begins with half as many (see shape).
	manySublevels = 32
)

// pace has Pebble rest for as long as it worked, so that it has half of a processor, unless somebody
// waits for it or it falls behind.
func (s *Store) pace(took time.Duration) {
	if s.mayRest() {
		time.Sleep(min(took, maxPace))
	}
}

func (s *Store) mayRest() bool { return s.hurry.Load() == 0 && !s.behind.Load() }

// measure looks whether Pebble falls behind.
func (s *Store) measure() {
	s.behind.Store(s.db.Metrics().Levels[0].Sublevels >= manySublevels)
}

// Backlog is what Pebble has to do in the background.
type Backlog struct {
	Bytes uint64 // about how many it has to rewrite until the database is in order
	Busy  bool   // it writes a table
}

// Backlog returns what Pebble has to do. Bytes that only grow say that leases are written faster
// than it comes to them.
func (s *Store) Backlog() Backlog {
	m := s.db.Metrics()
	return Backlog{m.Compact.EstimatedDebt, m.Compact.NumInProgress > 0 || m.Flush.NumInProgress > 0}
}

// stalls has Pebble not rest while it lets nobody write.
func (s *Store) stalls() *pebble.EventListener {
	return &pebble.EventListener{
		WriteStallBegin: func(pebble.WriteStallBeginInfo) { s.hurry.Add(1) },
		WriteStallEnd:   func() { s.hurry.Add(-1) },
	}
}
