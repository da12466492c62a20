package pebblestore

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleInMemory is Pebble as the store uses it, that compacts when it is told to.
func pebbleInMemory(t *testing.T, fs vfs.FS) *pebble.DB {
	t.Helper()
	db := openPebble(t, "", fs, func(o *pebble.Options) { o.DisableAutomaticCompactions = true })
	t.Cleanup(func() { closePebble(t, db) })
	return db
}

// openPebble opens Pebble with the store's options, but for what change changes.
func openPebble(t *testing.T, dir string, fs vfs.FS, change func(*pebble.Options)) *pebble.DB {
	t.Helper()
	o := &pebble.Options{FS: fs, DisableWAL: true, FormatMajorVersion: pebble.FormatNewest, Logger: logger{slog.New(slog.DiscardHandler)}}
	shape(o)
	change(o)
	db, err := pebble.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func closePebble(t *testing.T, db *pebble.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// flushMany has Pebble write a table of many records.
func flushMany(t *testing.T, db *pebble.DB) {
	t.Helper()
	random, value := rand.NewChaCha8([32]byte{}), make([]byte, 100) // which cannot be compressed
	for i := range uint32(2000) {
		random.Read(value)
		if err := db.Set(binary.BigEndian.AppendUint32(nil, i), value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
}

// It hangs on names that Pebble has for what it writes, and that a later version may change.
func TestPebbleRestsWhileItWritesTables(t *testing.T) {
	rests := 0
	mem := vfs.NewMem()
	db := pebbleInMemory(t, pacedFS{mem, 0, func(time.Duration) { rests++ }})
	if rests > 0 {
		t.Errorf("to open a database it rests %d times", rests)
	}
	flushMany(t, db)
	if rests < 10 {
		t.Errorf("while 200 KB are flushed it rests %d times", rests)
	}
	flushMany(t, db)
	before := rests
	if err := db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
		t.Fatal(err)
	}
	if rests-before < 10 {
		t.Errorf("while 200 KB are compacted it rests %d times", rests-before)
	}
}

func TestWhoWorksShortlyDoesNotRest(t *testing.T) {
	db := pebbleInMemory(t, pacedFS{vfs.NewMem(), time.Hour, func(took time.Duration) { t.Errorf("it rests after %s", took) }})
	flushMany(t, db)
}

// Pebble has no rest when it comes so late that it would soon let nobody write, and has it again
// when it has come after.
func TestPebbleDoesNotRestWhileItIsBehind(t *testing.T) {
	s := &Store{db: pebbleInMemory(t, vfs.NewMem())}
	for n := range manySublevels {
		if s.measure(); s.behind.Load() {
			t.Fatalf("%d tables are too many", n)
		}
		flushMany(t, s.db)
	}
	if s.measure(); !s.behind.Load() {
		t.Fatalf("%d tables over one another are not too many", manySublevels)
	}
	if s.mayRest() {
		t.Error("it rests although it is behind")
	}
	if err := s.db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
		t.Fatal(err)
	}
	if s.measure(); !s.mayRest() {
		t.Error("all is compacted, and it does not rest")
	}
}

func TestPebbleDoesNotRestWhileItLetsNobodyWrite(t *testing.T) {
	s := new(Store)
	s.stalls().WriteStallBegin(pebble.WriteStallBeginInfo{})
	if s.mayRest() {
		t.Error("it rests during a stall")
	}
	s.stalls().WriteStallEnd()
	if !s.mayRest() {
		t.Error("it does not rest after a stall")
	}
}
