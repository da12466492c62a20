package pebblestore

import (
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"brightgid/lease/datasync"
)

// recorded is a file system that notes what is written for what.
type recorded struct {
	vfs.FS
	mu    sync.Mutex
	files []vfs.File // of the log, as the file system beneath made them
}

func (r *recorded) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := r.FS.Create(name, category)
	if category == walCategory {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.files = append(r.files, f)
	}
	return f, err
}

// Pebble's log is synced by the Syncer, and nothing else is: a Pebble that calls it otherwise would
// be slower and otherwise right, so that nothing but this test would tell.
func TestTheLogAndNothingElseIsSyncedSo(t *testing.T) {
	syncer, err := datasync.New()
	if err != nil {
		t.Fatal(err)
	}
	defer syncer.Close()
	disk := &recorded{FS: walDisk{vfs.Default, syncer}}
	db, err := pebble.Open(t.TempDir(), &pebble.Options{FS: disk, Logger: logger{slog.New(slog.DiscardHandler)}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := db.Set([]byte("k"), []byte("v"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if len(disk.files) == 0 || slices.ContainsFunc(disk.files, func(f vfs.File) bool { _, ok := f.(walFile); return !ok }) {
		t.Errorf("files of the log: %T", disk.files)
	}
	f, err := walDisk{vfs.Default, syncer}.Create(t.TempDir()+"/table", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.(walFile); ok {
		t.Error("a file that is not of the log is synced as it is")
	}
}
