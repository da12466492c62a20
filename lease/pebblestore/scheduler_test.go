package pebblestore

import (
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Who starts a server does not wait for what the last one had left to compact, and it is not
// forgotten.
func TestPebbleCompactsNothingUntilItIsOpen(t *testing.T) {
	mem := vfs.NewMem()
	db := openPebble(t, "", mem, func(o *pebble.Options) { o.DisableAutomaticCompactions = true })
	for range manySublevels / 2 {
		flushMany(t, db)
	}
	closePebble(t, db)

	s := newScheduler()
	db = openPebble(t, "", mem, func(o *pebble.Options) { o.Experimental.CompactionScheduler = s })
	defer closePebble(t, db)
	for range 5 {
		flushMany(t, db) // after each of which Pebble asks
	}
	time.Sleep(300 * time.Millisecond) // in which the scheduler looks again
	if n := db.Metrics().Compact.Count; n > 0 {
		t.Errorf("%d compactions before it is open", n)
	}
	s.opened()
	for deadline := time.Now().Add(30 * time.Second); db.Metrics().Levels[0].Sublevels > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is open, and has %d sublevels", db.Metrics().Levels[0].Sublevels)
		}
	}
}

// One compaction has the turn, and who does not need it gives it back.
func TestTheTurnIsOneCompactions(t *testing.T) {
	s := newScheduler()
	if ok, _ := s.TrySchedule(); ok {
		t.Fatal("it was let compact before it was open")
	}
	s.opened()
	ok, turn := s.TrySchedule()
	if !ok {
		t.Fatal("it is open and may not compact")
	}
	if ok, _ := s.TrySchedule(); ok {
		t.Fatal("two have the turn")
	}
	turn.Done()
	if ok, _ := s.TrySchedule(); !ok {
		t.Fatal("the turn was not given back")
	}
}

// A process may have ended when Pebble let nobody write any more.
func TestADatabaseThatPebbleLetsNobodyWriteToIsOpened(t *testing.T) {
	dir := emptyDatabase(t)
	most := 0
	db := openPebble(t, dir, vfs.Default, func(o *pebble.Options) {
		most = o.L0StopWritesThreshold
		o.L0StopWritesThreshold, o.DisableAutomaticCompactions = 2*most, true
	})
	for range most + 1 {
		flushMany(t, db)
	}
	closePebble(t, db)
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	flushed := make(chan error)
	go func() { flushed <- errors.Join(s.db.Flush(), s.Close()) }()
	select {
	case err := <-flushed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it can still not be written to")
	}
}
