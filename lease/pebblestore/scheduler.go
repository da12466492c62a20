package pebblestore

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// shape has Pebble have few and large levels, and begin when it has much for them: each renewed lease is
// somewhere else among all, so that to have half a million of them in a level is to write most of that
// level anew.
func shape(o *pebble.Options) {
	o.LBaseMaxBytes = 512 << 20
	o.L0CompactionThreshold = manySublevels // it begins with half as many
	o.L0StopWritesThreshold = 3 * manySublevels / 2
	// What is not in the others is in the last level, or nowhere, of which the index knows. With many leases
	// its filters would be larger than the cache.
	last := len(o.Levels) - 1
	for i := range last {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.Levels[last].FilterPolicy = pebble.NoFilterPolicy
}

// scheduler lets Pebble compact one thing at a time, as its own does, but not before it is open: Open
// waits for what was begun meanwhile, which with many leases is some seconds in which nobody would get
// an answer.
type scheduler struct {
	db      pebble.DBForCompaction
	wake    chan struct{}
	ending  chan struct{}
	stopped chan struct{}

	mu   sync.Mutex // Pebble's locks come before it
	open bool
	busy bool
}

var (
	_ pebble.CompactionScheduler   = (*scheduler)(nil)
	_ pebble.CompactionGrantHandle = (*scheduler)(nil)
)

func newScheduler() *scheduler {
	return &scheduler{wake: make(chan struct{}, 1), ending: make(chan struct{}), stopped: make(chan struct{})}
}

// opened says that Pebble is open.
func (s *scheduler) opened() {
	s.mu.Lock()
	s.open = true
	s.mu.Unlock()
	s.UpdateGetAllowedWithoutPermission()
}

// take reports whether a compaction may begin, which has the turn then.
func (s *scheduler) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || s.busy {
		return false
	}
	s.busy = true
	return true
}

func (s *scheduler) release() {
	s.mu.Lock()
	s.busy = false
	s.mu.Unlock()
}

// Register implements pebble.CompactionScheduler.
func (s *scheduler) Register(_ int, db pebble.DBForCompaction) {
	s.db = db
	go s.run()
}

// Unregister implements pebble.CompactionScheduler.
func (s *scheduler) Unregister() {
	close(s.ending)
	<-s.stopped
}

// run begins what Pebble was not allowed to begin by itself.
func (s *scheduler) run() {
	defer close(s.stopped)
	tick := time.NewTicker(100 * time.Millisecond) // as Pebble's own
	defer tick.Stop()
	for {
		select {
		case <-s.ending:
			return
		case <-tick.C:
		case <-s.wake:
		}
		if !s.take() {
			continue
		}
		if waits, _ := s.db.GetWaitingCompaction(); !waits || !s.db.Schedule(s) {
			s.release()
		}
	}
}

// TrySchedule implements pebble.CompactionScheduler.
func (s *scheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if !s.take() {
		return false, nil
	}
	return true, s
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (s *scheduler) UpdateGetAllowedWithoutPermission() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Done implements pebble.CompactionGrantHandle.
func (s *scheduler) Done() {
	s.release()
	s.UpdateGetAllowedWithoutPermission() // what waits is begun by nobody else
}

// Started implements pebble.CompactionGrantHandle.
func (s *scheduler) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (s *scheduler) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (s *scheduler) CumulativeStats(pebble.CompactionGrantHandleStats) {}
