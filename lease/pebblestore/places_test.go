package pebblestore

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/renewals"
)

func apply(t *testing.T, s *Store, u lease.Update) {
	t.Helper()
	if err := s.Apply(&u); err != nil {
		t.Fatal(err)
	}
}

// newStore is an empty one, which is closed when the test has ended.
func newStore(t *testing.T) *Store {
	t.Helper()
	return storeIn(t, t.TempDir())
}

func storeIn(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fileOf reads a store's file of renewals.
func fileOf(t *testing.T, s *Store) *renewals.Places {
	t.Helper()
	f, err := os.Open(filepath.Join(s.dir, renewalsName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	places, err := renewals.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(places.Close)
	return places
}

// begin files a lease as its client's, which Pebble has at once.
func begin(l lease.Lease) lease.Update {
	return lease.Update{Put: []lease.Lease{l}, Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}}}
}

func renew(l lease.Lease) lease.Update { return lease.Update{Put: []lease.Lease{l}, Known: true} }

// Until when leases hold is in the file of renewals: without it, or with one that is not as it was
// written, they would seem to have ended before.
func TestNoDatabaseIsOpenedWithoutItsRenewals(t *testing.T) {
	for what, damage := range map[string]func(path string) error{
		"is missing": os.Remove,
		renewals.ErrDamaged.Error(): func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o600)
		},
	} {
		dir := t.TempDir()
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		apply(t, s, begin(leasetest.Lease(1, time.Unix(1e9, 0))))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, renewalsName)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%v: not its owner's only", info.Mode())
		}
		if err := damage(path); err != nil {
			t.Fatal(err)
		}
		for _, o := range []Options{{ReadOnly: true}, {}} {
			if s, err := Open(dir, o); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), renewalsName) {
				t.Errorf("%+v, %v; want %q", s, err, what)
			}
		}
	}
}

// What begins to be written while the file is is left by a kill, and does no harm.
func TestAHalfWrittenFileOfRenewalsIsPassedOver(t *testing.T) {
	dir := emptyDatabase(t)
	if err := os.WriteFile(filepath.Join(dir, renewalsNewName), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, begin(leasetest.Lease(1, time.Unix(1e9, 0))))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, renewalsNewName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// watchedFS tells of files of renewals that are written.
type watchedFS struct {
	vfs.FS
	written, renamed func()
}

type watchedFile struct {
	vfs.File
	written func()
}

func (f watchedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	if c == forRenewals {
		file = watchedFile{file, f.written}
	}
	return file, err
}

func (f watchedFile) Write(b []byte) (int, error) {
	f.written()
	return f.File.Write(b)
}

func (f watchedFS) Rename(from, to string) error {
	f.renamed()
	return f.FS.Rename(from, to)
}

// A renewal that comes while the file is written may be in it, so that the log has to have it first: or a
// power cut would leave a lease that holds longer than anybody was told.
func TestTheFileHasNothingThatTheLogHasNot(t *testing.T) {
	s := newStore(t)
	l := leasetest.Lease(1, time.Unix(1e9, 0))
	apply(t, s, begin(l))
	writes, renames := 0, 0
	s.fs = watchedFS{s.fs, func() {
		if writes++; writes == 1 {
			apply(t, s, renew(renewed(l, time.Hour)))
		}
	}, func() {
		renames++
		if !s.Barrier().Settled() {
			t.Error("the file has a renewal that the log could lose")
		}
	}}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	places := fileOf(t, s)
	raw := l.Addr.As16()
	if got, ok := places.Times(placesOf(&l), &raw, lease.AppendRecord(nil, &l)); !ok || got.Updated != 1e9+3600 || writes < 2 || renames != 1 {
		t.Errorf("%+v, %v: the renewal came too late to be in the file, and shows nothing", got, ok)
	}
}

// A file of which nothing has changed is not written again.
func TestTheFileIsWrittenWhenThereAreRenewals(t *testing.T) {
	s := newStore(t)
	renames := 0
	s.fs = watchedFS{s.fs, func() {}, func() { renames++ }}
	l := leasetest.Lease(1, time.Unix(1e9, 0))
	for i, step := range []struct {
		do   func()
		want int
	}{
		{func() {}, 0},
		{func() { apply(t, s, begin(l)) }, 1},
		{func() {}, 0},
		{func() { apply(t, s, renew(renewed(l, time.Hour))) }, 1},
		{func() {
			if _, err := s.Register(crashLookup(1), []byte{1}, l.Start); err != nil {
				t.Fatal(err)
			}
		}, 0},
	} {
		before := renames
		step.do()
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
		if renames-before != step.want {
			t.Errorf("step %d: written %d times, want %d", i, renames-before, step.want)
		}
	}
}

// Each file of the log is written ahead, though what is kept of the first is short, but not again and again where there is no room.
func TestTheLogIsWrittenAhead(t *testing.T) {
	s := newStore(t)
	const enough = 1 << 20
	for i, c := range []struct {
		logLen   int64
		prepared bool
	}{
		{enough, false}, // the next; that after it will be what is kept of the first
		{enough, true},
		{enough, true},
		{1 << 62, true}, // for which there is no room
	} {
		apply(t, s, begin(crashLease(uint64(i))))
		s.logLen.Store(c.logLen)
		if err := s.checkpoint(); err != nil {
			t.Fatal(err)
		}
		kept, err := s.wal.Spare()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.prepared.Load(); got != c.prepared || got != (kept >= enough) {
			t.Errorf("after checkpoint %d %d bytes are kept for the next file, all that are needed: %v", i, kept, got)
		}
	}
	s.hurry.Add(1)
	defer s.hurry.Add(-1)
	if err := s.wal.Discard(); err != nil {
		t.Fatal(err)
	}
	s.logLen.Store(enough)
	if err := s.checkpoint(); err != nil || !s.prepared.Load() {
		t.Errorf("after a checkpoint that somebody waited for %v, %v", s.prepared.Load(), err)
	}
}

func TestPrepareStep(t *testing.T) {
	for _, c := range []struct {
		grown, room int64
		left        int
		want        time.Duration
	}{
		{0, minLog, 10, prepareEvery},
		{1000, minLog, 0, prepareEvery},
		{1000, 1001, 1, prepareEvery}, // there is room for as much as in a second
		{1000, 1000, 100, 10 * time.Millisecond},
		{1000, 2000, 100, 20 * time.Millisecond},
		{1000, 0, 100, 0},
		{1000, -1, 100, 0},
	} {
		if got := prepareStep(time.Second, c.grown, c.room, c.left); got != c.want {
			t.Errorf("grown by %d in a second, room for %d and %d steps: %s each; want %s", c.grown, c.room, c.left, got, c.want)
		}
	}
}

// The log may become as long as the file of renewals, which is written whole when the log goes to where it belongs, and goes
// there when it is.
func TestTheLogIsAsLongAsTheRenewals(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.logLen.Load(); got != minLog {
		t.Errorf("a new database's log may have %d bytes; want %d", got, minLog)
	}
	const leases, each = 1100, 2048 // with one in each piece of the file, which has all places of so many subscribers
	for n := range uint64(leases) {
		apply(t, s, begin(crashLease(n*each)))
	}
	if err := errors.Join(s.flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, renewalsName))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() <= minLog {
		t.Fatalf("the file of renewals has %d bytes, which are too few for this test", info.Size())
	}
	if got := s.logLen.Load(); got != info.Size() {
		t.Errorf("a log may have %d bytes beside a file of %d", got, info.Size())
	}

	s = storeIn(t, dir)
	if got := s.logLen.Load(); got != info.Size() {
		t.Errorf("opened again, a log may have %d bytes beside a file of %d", got, info.Size())
	}
	s.prepared.Store(true) // which would cut it sooner
	const enough = 100 << 10
	s.logLen.Store(enough)
	more := func() (before, after int64) {
		before = s.wal.Size()
		apply(t, s, renew(crashRenewal(1)))
		return before, s.wal.Size()
	}
	for s.wal.Size() < enough-200 {
		if before, after := more(); after <= before {
			t.Fatalf("the log was cut when it had %d bytes", before)
		}
	}
	for {
		before, after := more()
		if after < before {
			break
		}
		if after > minLog/2 { // it takes a moment
			t.Fatalf("the log has %d bytes, and was not cut", after)
		}
	}
}

// An address that was one subscriber's and is another's is not kept in the first one's place when
// it is forgotten.
func TestAPlaceKeepsNoAddressThatIsForgotten(t *testing.T) {
	s := newStore(t)
	t0 := time.Unix(1e9, 0).UTC()
	first := leasetest.Lease(1, t0)
	apply(t, s, begin(first))
	second := leasetest.Lease(1, t0.Add(24*time.Hour))
	second.Subscriber = 2
	u := begin(second)
	u.Archive = append(u.Archive, first)
	apply(t, s, u)
	raw := first.Addr.As16()
	if s.places.Has(placesOf(&first), &raw) || !s.places.Has(placesOf(&second), &raw) {
		t.Error("the address is not in the second subscriber's place, or in the first one's, too")
	}
	apply(t, s, lease.Update{Delete: []lease.Lease{second, first}})
	if s.places.Has(placesOf(&second), &raw) {
		t.Error("the second subscriber's place keeps it")
	}
}

// While leases are renewed, change their places and are written to where they belong, whoever reads one
// finds it as it was at some time since it began to read.
func TestWhoReadsFindsNoOlderTimes(t *testing.T) {
	s := newStore(t)
	t0 := time.Unix(1e9, 0).UTC()
	const leases = 12 // of two subscribers, who have no places for so many
	now := make([]lease.Lease, leases)
	var told [leases]atomic.Int64
	for i := range now {
		now[i] = leasetest.Lease(i, t0)
		now[i].Subscriber = uint64(i % 2)
		apply(t, s, begin(now[i]))
		told[i].Store(t0.Unix())
	}
	var readers sync.WaitGroup
	var stop atomic.Bool
	var reads atomic.Int64
	check := func(i int, least int64, l lease.Lease, err error) {
		if err != nil || l.Updated.Unix() < least || l.ValidUntil.Sub(l.Updated) != 2*time.Hour {
			t.Errorf("lease %d is of %s until %s, %v; it was of %s when that was asked", i, l.Updated, l.ValidUntil, err, time.Unix(least, 0).UTC())
			stop.Store(true)
		}
		reads.Add(1)
	}
	readers.Go(func() {
		for n := 0; !stop.Load(); n++ {
			i := n % leases
			least := told[i].Load()
			l, err := s.Lease(now[i].Addr)
			check(i, least, l, err)
		}
	})
	readers.Go(func() {
		for !stop.Load() {
			var least [leases]int64
			for i := range least {
				least[i] = told[i].Load()
			}
			if err := s.Each(func(l lease.Lease) error {
				i := int(l.Addr.As16()[15])
				check(i, least[i], l, nil)
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	})
	readers.Go(func() {
		for !stop.Load() {
			if err := s.flush(); err != nil {
				t.Error(err)
			}
		}
	})
	began := time.Now()
	changes := 0
	for ; time.Since(began) < 2*time.Second && !stop.Load(); changes++ {
		i := (changes / 7) % leases
		l := renewed(leasetest.Lease(i, t0), time.Duration(changes+1)*time.Second)
		l.Subscriber = uint64(i % 2)
		l.Anchor.LinkLayer = []byte{byte(changes / 7)} // so that its place is of no record but this
		u := renew(l)
		if changes%7 == 0 && changes%5 > 0 { // mostly it has one, and else comes to Pebble by the table
			u = begin(l)
		}
		apply(t, s, u)
		told[i].Store(l.Updated.Unix())
	}
	stop.Store(true)
	readers.Wait()
	if changes < 1000 || reads.Load() < 1000 {
		t.Errorf("%d changes and %d reads show little", changes, reads.Load())
	}
}

// crashed is what a kill would leave of a store that does nothing.
func crashed(t *testing.T, s *Store) *Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "leases")
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	return storeIn(t, dir)
}

// What the log has of places is there after one crash and after another right behind it, and what it has
// of those that were left is nowhere.
func TestPlacesAfterCrashes(t *testing.T) {
	s := newStore(t)
	var want []lease.Lease
	for i := range 4 {
		l := leasetest.Lease(i, time.Unix(1e9, 0).UTC())
		apply(t, s, begin(l))
		want = append(want, renewed(l, time.Hour))
	}
	for i, l := range want {
		apply(t, s, renew(l))
		if i == 1 { // which is in the file and in the log, and those after it in the log only
			if err := s.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := want[0]
	want = want[1:]
	apply(t, s, lease.Update{Delete: []lease.Lease{gone}})
	apply(t, s, renew(renewed(want[0], time.Hour)))
	want[0] = renewed(want[0], time.Hour)
	if err := s.Barrier().Wait(); err != nil {
		t.Fatal(err)
	}
	once := crashed(t, s)
	for what, s := range map[string]*Store{"one crash": once, "two": crashed(t, once)} {
		for _, l := range want {
			raw := l.Addr.As16()
			if got, err := s.Lease(l.Addr); err != nil || !got.ValidUntil.Equal(l.ValidUntil) || !s.places.Has(placesOf(&l), &raw) {
				t.Errorf("after %s: until %s, %v; want %s", what, got.ValidUntil, err, l.ValidUntil)
			}
		}
		raw := gone.Addr.As16()
		if s.places.Has(placesOf(&gone), &raw) {
			t.Errorf("after %s a place has an address that was forgotten", what)
		}
	}
}

// A lease of which more than times is new, and again, is what it was last; and has a place when Pebble
// has it as it is.
func TestALeaseChangesBetweenItsPlaceAndTheTable(t *testing.T) {
	s := newStore(t)
	l := leasetest.Lease(1, time.Unix(1e9, 0).UTC())
	raw := l.Addr.As16()
	apply(t, s, begin(l))
	relay := l.Anchor.Relay
	for i, step := range []struct {
		relay  netip.Addr
		settle bool
		placed bool
	}{
		{relay, false, true},
		{netip.IPv6Loopback(), false, false},
		{relay, false, false},
		{relay, true, true},
		{netip.IPv6Loopback(), true, true},
		{netip.IPv6Loopback(), false, true},
	} {
		l = renewed(l, time.Minute)
		l.Anchor.Relay = step.relay
		apply(t, s, renew(l))
		if step.settle {
			if err := s.Settle(); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Lease(l.Addr); err != nil || !got.Updated.Equal(l.Updated) || got.Anchor.Relay != step.relay {
			t.Errorf("step %d: %+v, %v; want %+v", i, got, err, l)
		}
		if got := s.places.Has(placesOf(&l), &raw); got != step.placed {
			t.Errorf("step %d: in a place %v", i, got)
		}
	}
}
