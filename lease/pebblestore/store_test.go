package pebblestore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/index"
	"brightgid/lease/leasetest"
	"brightgid/lease/wal"
)

func TestConformance(t *testing.T) {
	conformance(t, func(s *Store) lease.Store { return s })
}

// The same with a cache before it, which forgets all the time.
func TestConformanceBehindACache(t *testing.T) {
	conformance(t, func(s *Store) lease.Store { return lease.NewCache(s, 3) })
}

// And with an index of what holds before it.
func TestConformanceBehindAnIndex(t *testing.T) {
	conformance(t, func(s *Store) lease.Store {
		x := index.New(s, 3)
		for more := true; more; {
			var err error
			if more, err = x.Load(100, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)); err != nil {
				t.Fatal(err)
			}
		}
		return x
	})
}

func conformance(t *testing.T, wrap func(*Store) lease.Store) {
	dirs := make(map[lease.Store]string)
	open := func(t *testing.T, dir string) lease.Store {
		opened, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := wrap(opened)
		dirs[s] = dir
		t.Cleanup(func() {
			if _, ok := dirs[s]; ok {
				s.Close()
			}
		})
		return s
	}
	leasetest.Run(t,
		func(t *testing.T) lease.Store { return open(t, filepath.Join(t.TempDir(), "leases")) },
		func(t *testing.T, s lease.Store) lease.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			dir := dirs[s]
			delete(dirs, s)
			return open(t, dir)
		})
}

func TestDirectoryIsForItsOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "leases")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %o, %v; want 700", info.Mode().Perm(), err)
	}
}

// Nobody else reads the database's files, also where an operator has made its directory for all.
func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "leases")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := storeIn(t, dir)
	l := crashLease(1)
	apply(t, s, begin(l))
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	apply(t, s, renew(renewed(l, time.Minute)))
	found := make(map[string]bool)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", path, info.Mode().Perm())
		}
		found[filepath.Ext(path)] = true
		return err
	})
	if err != nil || !found[".sst"] || !found[".wal"] {
		t.Errorf("%v; kinds of files: %v", err, found)
	}
}

// What is random of a database's files is from who opens it.
func TestRandomnessIsPassedIn(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{Rand: repeated('s')})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	logs, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("files of the log: %v, %v", logs, err)
	}
	for _, path := range []string{logs[0], filepath.Join(dir, renewalsName)} {
		if b, err := os.ReadFile(path); err != nil || !bytes.Contains(b, []byte("ssssssss")) {
			t.Errorf("%s: %x, %v", path, b, err)
		}
	}
}

// repeated is a source of nothing but one byte.
type repeated byte

func (r repeated) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r)
	}
	return len(b), nil
}

// Alone, a store leaves no number out.
func TestSubscribersAreCounted(t *testing.T) {
	dir := t.TempDir()
	for start := range 2 {
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if _, err := s.Register(idcodec.LookupKey{byte(start), byte(i)}, idcodec.NID{1}, time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := s.Subscribers(), uint64(100*(start+1)); got != want {
			t.Errorf("Subscribers = %d, want %d", got, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Open(dir, Options{}); err == nil {
		t.Error("two stores opened one directory")
	}
}

func TestBarrierWithoutWritesIsTheLastOne(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Apply(&lease.Update{Put: []lease.Lease{leasetest.Lease(1, time.Unix(1e9, 0))}}); err != nil {
		t.Fatal(err)
	}
	a := s.Barrier()
	if b := s.Barrier(); a != b {
		t.Error("a barrier with nothing new is a sync of its own")
	}
	if err := a.Wait(); err != nil {
		t.Fatal(err)
	}
}

const (
	crashDir   = "PEBBLESTORE_CRASH_DIR"
	crashAcked = "PEBBLESTORE_CRASH_ACKED" // how many the writer before it has told of
)

// TestMain runs the writer of TestKilledWriterLosesNothing when it is the child.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashWriter(dir)
	}
	os.Exit(m.Run())
}

// crashWriter registers subscribers and leases to them for ever, and prints a
// number once everything up to it was waited for.
func crashWriter(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Open(dir, Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	fail(err)
	type ack struct {
		upTo uint64
		b    lease.Barrier
	}
	acks := make(chan ack, 4)
	go func() {
		for a := range acks {
			fail(a.b.Wait())
			fmt.Println(a.upTo)
		}
	}()
	s.prepared.Store(true) // or the store would make checkpoints beside these
	go func() {            // what is in the log goes to where it belongs meanwhile
		for {
			fail(s.flush())
			time.Sleep(3 * time.Millisecond)
		}
	}()
	put := func(n uint64) {
		for _, u := range crashUpdates(n) {
			fail(s.Apply(&u))
		}
	}
	// Of what nobody was told that it is durable, the kill may have left anything.
	acked, err := strconv.ParseUint(os.Getenv(crashAcked), 10, 64)
	fail(err)
	for n := acked; n < s.Subscribers(); n++ {
		put(n)
	}
	for {
		for range 16 {
			n := s.Subscribers()
			_, err := s.Register(crashLookup(n), idcodec.NID{1, 2, 3}, time.Unix(1e9, 0))
			fail(err)
			put(n)
		}
		acks <- ack{s.Subscribers(), s.Barrier()}
	}
}

func crashLease(n uint64) lease.Lease {
	l := leasetest.Lease(0, time.Unix(1e9, 0))
	l.Subscriber = n
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], n)
	l.Addr = netip.AddrFrom16(b)
	l.Client.IAID = uint32(n)
	return l
}

// crashRenewal is the lease after a renewal.
func crashRenewal(n uint64) lease.Lease {
	return renewed(crashLease(n), time.Duration(n%5000)*time.Second)
}

func renewed(l lease.Lease, after time.Duration) lease.Lease {
	l.Updated, l.PreferredUntil, l.ValidUntil = l.Updated.Add(after), l.PreferredUntil.Add(after), l.ValidUntil.Add(after)
	return l
}

// crashUpdates is what is done with the subscriber's leases: the first is renewed; the relay is another meanwhile; and so
// many others begin that it loses its place, and is renewed without one, or not.
func crashUpdates(n uint64) (u []lease.Update) {
	first := func(l lease.Lease) {
		u = append(u, lease.Update{
			Put:     []lease.Lease{l},
			Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}},
		})
	}
	renew := func(l lease.Lease) { u = append(u, lease.Update{Put: []lease.Lease{l}, Known: true}) }
	l := crashLease(n)
	first(l)
	l = crashRenewal(n)
	renew(l)
	switch n % 4 {
	case 1:
		l.Anchor.Relay = netip.IPv6Loopback()
		renew(renewed(l, time.Second))
		renew(renewed(l, 2*time.Second))
	case 2, 3:
		for i := range byte(5) {
			other := crashLease(n)
			addr := other.Addr.As16()
			addr[0], other.Client.DUID = i+1, []byte{0, 3, i}
			other.Addr = netip.AddrFrom16(addr)
			first(renewed(other, time.Hour)) // so that the first is the one to go
			renew(renewed(other, 2*time.Hour))
		}
		if n%4 == 3 {
			renew(renewed(l, time.Second))
		}
	}
	return u
}

func crashLookup(n uint64) (k idcodec.LookupKey) {
	binary.BigEndian.PutUint64(k[:], n)
	return k
}

// holds checks that a store has all that a writer has told of, and nothing half.
func holds(t *testing.T, s *Store, acked uint64) {
	t.Helper()
	if s.Subscribers() < acked {
		t.Fatalf("%d subscribers, %d were acknowledged", s.Subscribers(), acked)
	}
	for n := range acked {
		if got, err := s.Lookup(crashLookup(n)); err != nil || got != n {
			t.Fatalf("subscriber %d of %d: %d, %v", n, acked, got, err)
		}
		want := make(map[netip.Addr]lease.Lease)
		for _, u := range crashUpdates(n) {
			want[u.Put[0].Addr] = u.Put[0]
		}
		for addr, want := range want {
			l, err := s.Lease(addr)
			if got := lease.AppendRecord(nil, &l); err != nil || !bytes.Equal(got, lease.AppendRecord(nil, &want)) {
				t.Fatalf("lease %d of %d: %+v, %v; want %+v", n, acked, l, err, want)
			}
			if a, err := s.ByClient(nil, l.Client); err != nil || len(a) != 1 || a[0] != l.Addr {
				t.Fatalf("client of lease %d of %d: %v, %v", n, acked, a, err)
			}
		}
	}
}

// After kill -9 in the middle of writing everything that a Wait answered for is
// there, and nothing half.
func TestKilledWriterLosesNothing(t *testing.T) {
	dir := t.TempDir()
	total := uint64(0)
	for round := range 6 {
		t.Logf("round %d", round)
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir, crashAcked+"="+strconv.FormatUint(total, 10))
		var stderr bytes.Buffer
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acked := uint64(0)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if acked == 0 { // a busy machine takes its time until the first
				time.AfterFunc(time.Duration(20+17*round)*time.Millisecond, func() { child.Process.Signal(syscall.SIGKILL) })
			}
			if acked, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		child.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("the writer failed: %s", stderr.String())
		}
		if left, err := wal.Exists(filepath.Join(dir, "wal")); err != nil || !left {
			t.Fatalf("round %d: the kill has left a log: %v, %v", round, left, err)
		}
		s, err := Open(dir, Options{ReadOnly: round%2 == 0})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		holds(t, s, acked)
		total = acked
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total < 100 {
		t.Fatalf("only %d records were acknowledged; the test shows nothing", total)
	}
}

// older makes a database of a format that has all in Pebble and its log, as format 1 had.
func older(t *testing.T, format byte) (dir string, l lease.Lease) {
	t.Helper()
	dir, l = t.TempDir(), leasetest.Lease(1, time.Unix(1e9, 0))
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: logger{slog.New(slog.DiscardHandler)}})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string][]byte{
		string(keyFormat):                {format},
		string(leaseKey(nil, l.Addr)):    lease.AppendRecord(nil, &l),
		string(subscriberKey(nil, 6)):    append(make([]byte, 8), 1, 2, 3),
		string(listKey(nil, 1)):          l.Addr.AsSlice(),
		string(clientKey(nil, l.Client)): l.Addr.AsSlice(),
	} {
		if err := db.Set([]byte(key), value, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil { // which leaves all in Pebble's log
		t.Fatal(err)
	}
	return dir, l
}

func TestOlderFormatsAreReadAndBecomeFormat3(t *testing.T) {
	for format := range byte(formatVersion - 1) {
		t.Run(fmt.Sprint(format+1), func(t *testing.T) { testAnOlderFormat(t, format+1) })
	}
}

func testAnOlderFormat(t *testing.T, format byte) {
	dir, l := older(t, format)
	for _, o := range []Options{{ReadOnly: true}, {}, {}, {ReadOnly: true}} {
		s, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Lease(l.Addr); err != nil || got.Subscriber != l.Subscriber || s.Subscribers() != 7 {
			t.Errorf("%+v, %v; %d subscribers", got, err, s.Subscribers())
		}
		if !o.ReadOnly {
			if got, err := s.get(keyFormat); err != nil || got[0] != 3 {
				t.Errorf("format %v, %v", got, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALaterFormatIsRefused(t *testing.T) {
	dir, _ := older(t, 4)
	for _, o := range []Options{{ReadOnly: true}, {}} {
		if s, err := Open(dir, o); err == nil || !strings.Contains(err.Error(), "format 04") {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// emptyDatabase is the directory of a database that is closed.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A log that cannot be read is not passed over.
func TestADamagedLogIsRefused(t *testing.T) {
	dir := emptyDatabase(t)
	l, err := wal.New(filepath.Join(dir, "wal"), wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.Append([]byte("no operation"))
		if err := l.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{ReadOnly: true}, {}} {
		if _, err := Open(dir, o); !errors.Is(err, wal.ErrDamaged) || !strings.Contains(err.Error(), ".wal: frame 1") {
			t.Errorf("%v", err)
		}
	}
}

// A closed database has no log: all is where it belongs.
func TestCloseLeavesNoLog(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(&lease.Update{Put: []lease.Lease{leasetest.Lease(1, time.Unix(1e9, 0))}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "wal")); err != nil || len(left) != 0 {
		t.Errorf("the log's directory has %v, %v", left, err)
	}
	// As when only Pebble knew it.
	if err := os.Remove(filepath.Join(dir, "wal")); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Lease(leasetest.Lease(1, time.Time{}).Addr); err != nil {
		t.Error(err)
	}
}

// When the log has become long, what is in it goes to where it belongs, without being told to.
func TestCheckpointsComeByThemselves(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.hurry.Add(1) // so that the next file is not written ahead for half a minute
	n := uint64(0)
	for ; s.wal.Size() < smallLog-1000; n++ {
		apply(t, s, lease.Update{Put: []lease.Lease{crashLease(n)}})
		apply(t, s, renew(crashRenewal(n)))
	}
	for s.wal.Size() < smallLog && !s.prepared.Load() { // of which it does not matter what comes after the cut
		apply(t, s, renew(crashRenewal(0)))
	}
	waiting := func() int {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.draining != nil {
			return s.draining.len()
		}
		return s.recent.len()
	}
	files := func() int {
		names, err := filepath.Glob(filepath.Join(s.dir, "wal", "*.wal"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	for deadline := time.Now().Add(30 * time.Second); waiting() > 0 || s.wal.Size() >= smallLog || files() > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d leases wait, and the log has %d bytes in %d files", waiting(), s.wal.Size(), files())
		}
	}
	places := fileOf(t, s)
	inPlaces := uint64(0)
	for i := range n {
		want := crashRenewal(i)
		raw := want.Addr.As16()
		if err := s.view(leaseKey(nil, want.Addr), func(record []byte) error {
			got := lease.RecordTimes(record)
			if times, ok := places.Times(placesOf(&want), &raw, record); ok {
				got = times
				inPlaces++
			}
			if got != lease.RecordTimes(lease.AppendRecord(nil, &want)) {
				return fmt.Errorf("%+v; want %+v", got, want)
			}
			return nil
		}); err != nil {
			t.Fatalf("lease %d of %d where it belongs: %v", i, n, err)
		}
	}
	if inPlaces != n {
		t.Errorf("%d of %d leases have places", inPlaces, n)
	}
}

// What is forgotten is not in the log of a quiet server for ever.
func TestTheLogIsTidied(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := leasetest.Lease(1, time.Unix(1e9, 0))
	l.Client.DUID = []byte("whom nobody remembers")
	inLog := func() bool {
		t.Helper()
		found := false
		if err := filepath.WalkDir(filepath.Join(dir, "wal"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			found = found || bytes.Contains(b, l.Client.DUID)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	for range 2 { // a file that is kept for the next is another case than none
		if err := s.Apply(&lease.Update{Put: []lease.Lease{l}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
		if !inLog() {
			t.Fatal("the log does not have the lease")
		}
		if err := s.Apply(&lease.Update{Delete: []lease.Lease{l}}); err != nil {
			t.Fatal(err)
		}
		if err := s.tidy(); err != nil {
			t.Fatal(err)
		}
		if inLog() {
			t.Fatal("the log has what is forgotten")
		}
		if err := s.wal.Prepare(minLog, func(time.Duration, int) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
}

// Who looks for old leases is not kept long where there are none, and finds all.
func TestOldLooksAtFewAtOnce(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t0 := time.Unix(1e9, 0).UTC()
	const leases, every = 4*oldAtOnce + 7, oldAtOnce - 5
	var u lease.Update
	want := 0
	for i := range leases {
		l := leasetest.Lease(i, t0)
		l.Epoch = 2
		if i%every == 0 {
			l.Epoch = 1
			want++
		}
		u.Put = append(u.Put, l)
	}
	ended := leasetest.Lease(3, t0.Add(-time.Hour))
	ended.Epoch = 1
	u.Archive = []lease.Lease{ended}
	want++
	if err := s.Apply(&u); err != nil {
		t.Fatal(err)
	}
	calls, found := 0, make(map[string]bool)
	for next := []byte(nil); calls == 0 || next != nil; calls++ {
		var old []lease.Lease
		if old, next, err = s.Old(2, next, 2); err != nil {
			t.Fatal(err)
		}
		for _, l := range old {
			found[l.Addr.String()+l.Start.String()] = true
			if l.Epoch != 1 {
				t.Errorf("%s is of epoch %d", l.Addr, l.Epoch)
			}
		}
	}
	if len(found) != want || calls < leases/oldAtOnce {
		t.Errorf("%d are found in %d calls, want %d", len(found), calls, want)
	}
}

// A lease that Pebble is being given never comes after a newer one of its address.
func TestAnOlderLeaseNeverComesBack(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t0 := time.Unix(1e9, 0).UTC()
	const leases = 1000
	for round := range 20 {
		at := time.Duration(round) * time.Minute
		now := func(i int, at time.Duration) lease.Lease {
			l := renewed(leasetest.Lease(i, t0), at)
			l.Anchor.LinkLayer = []byte{byte(round)} // so that it has no place at first
			return l
		}
		for i := range leases {
			u := renew(now(i, at))
			u.Known = round > 0
			apply(t, s, u)
		}
		given := make(chan error)
		go func() { given <- s.give() }()
		for i := range leases {
			// With its client's list, so that Pebble has it at once, or not.
			if l := now(i, at+time.Second); i%2 == 0 {
				apply(t, s, begin(l))
			} else {
				apply(t, s, renew(l))
				apply(t, s, renew(l))
			}
			if l, err := s.Lease(now(i, at).Addr); err != nil || !l.Updated.Equal(now(i, at+time.Second).Updated) {
				t.Fatalf("round %d, lease %d, while leases are given: of %s, %v", round, i, l.Updated, err)
			}
		}
		if err := <-given; err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Duration{at + time.Second, at + 2*time.Second} {
			for i := range leases {
				l := now(i, at)
				if got, err := s.Lease(l.Addr); err != nil || !got.Updated.Equal(l.Updated) {
					t.Fatalf("round %d, lease %d: of %s, %v; want %s", round, i, got.Updated, err, l.Updated)
				}
				apply(t, s, renew(now(i, at+time.Second)))
			}
		}
	}
}

// Whatever changes, and wherever it is meanwhile, all reads say the same as a store that is nothing
// but maps would.
func TestReadsWhereverALeaseIs(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	flushing := func() (stop func()) {
		ending, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-ending:
					return
				default:
				}
				if err := s.flush(); err != nil {
					t.Error(err)
				}
			}
		}()
		return func() { close(ending); <-ended }
	}
	stop := flushing()
	rng := rand.New(rand.NewPCG(1, 2))
	t0 := time.Unix(1e9, 0).UTC()
	const addrs = 300
	newest := make(map[int]lease.Lease)
	ended := make(map[int][]lease.Lease)
	starts := func(l []lease.Lease) (out []int64) {
		for i := range l {
			out = append(out, l[i].Start.Unix(), l[i].Updated.Unix())
		}
		return out
	}
	renewals, moves, placed := 0, 0, 0
	for i := range 4000 {
		now := t0.Add(time.Duration(i) * time.Second)
		n := rng.IntN(addrs)
		l, known := newest[n]
		var u lease.Update
		switch k := rng.IntN(20); {
		case !known || k == 0: // another interval
			if known {
				u.Archive = append(u.Archive, l)
				ended[n] = append(ended[n], l)
			}
			l = leasetest.Lease(n, now)
			l.Epoch = uint32(i / 500)
			if l.Subscriber /= 12; n%5 == 0 { // a subscriber has more leases than places
				l.Bits, l.Client.PD = 128, true
			}
			u.Put = append(u.Put, l)
			u.Clients = []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}}
			newest[n] = l
			moves++
		case k == 1: // it is forgotten, the ended ones before it as well
			u.Delete = append(append(u.Delete, l), ended[n]...)
			delete(newest, n)
			delete(ended, n)
		default:
			l = renewed(l, now.Sub(l.Updated))
			if k == 2 { // the record is of another length
				l.Anchor.LinkLayer = make([]byte, rng.IntN(9))
			}
			u.Put = append(u.Put, l)
			u.Known = true
			newest[n] = l
			renewals++
		}
		before := s.wal.Size()
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		if grown := s.wal.Size() - before; u.Known && grown > 0 && grown < 80 {
			placed++ // or it was cut meanwhile
		}
		if i%400 == 399 { // a new process begins with what the last has written
			stop()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(dir, Options{}); err != nil {
				t.Fatal(err)
			}
			stop = flushing()
		}
		addr := leasetest.Lease(n, t0).Addr
		want := slices.Clone(ended[n])
		slices.Reverse(want)
		if l, ok := newest[n]; ok {
			want = append([]lease.Lease{l}, want...)
		}
		if got, err := s.History(nil, addr); err != nil || !slices.Equal(starts(got), starts(want)) {
			t.Fatalf("step %d: History = %v, %v; want %v", i, starts(got), err, starts(want))
		}
		if i%40 != 0 {
			continue
		}
		seen := 0
		if err := s.Each(func(l lease.Lease) error {
			n := int(l.Addr.As16()[14])<<8 | int(l.Addr.As16()[15])
			if seen++; !newest[n].Updated.Equal(l.Updated) {
				return fmt.Errorf("lease %d was changed at %s, not %s", n, newest[n].Updated, l.Updated)
			}
			return nil
		}); err != nil || seen != len(newest) {
			t.Fatalf("step %d: %d leases, %v; want %d", i, seen, err, len(newest))
		}
		within, err := s.Within(nil, netip.PrefixFrom(addr, 64), t0, now, addrs)
		if err != nil || len(within) != len(newest) {
			t.Fatalf("step %d: %d addresses, %v; want %d", i, len(within), err, len(newest))
		}
		epoch := uint32(i/500) / 2
		old, _, err := s.Old(epoch, nil, addrs*100)
		want = nil
		for n, l := range newest {
			for _, l := range append(slices.Clone(ended[n]), l) {
				if l.Epoch < epoch {
					want = append(want, l)
				}
			}
		}
		if err != nil || len(old) != len(want) {
			t.Fatalf("step %d: %d are old, %v; want %d", i, len(old), err, len(want))
		}
	}
	stop()
	if renewals < 1000 || moves < 100 || placed < 300 || placed > renewals-300 {
		t.Errorf("%d renewals, of which %d went to places, and %d intervals show little", renewals, placed, moves)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Pebble takes the memory of its tables from that for blocks of its files, of which some has to be left:
// where it was not, each read of what is not there read some files.
func TestThereIsRoomForBlocksOfFiles(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	key := func(i int) []byte { return binary.BigEndian.AppendUint32([]byte("test"), uint32(i)) }
	fill := rand.NewChaCha8([32]byte{})
	value := make([]byte, 1<<18)
	for i := range 3 * memTableLen / len(value) { // until it has had two
		_, _ = fill.Read(value)
		if err := s.db.Set(key(i), value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	const times = 100
	before := s.db.Metrics().BlockCache
	for range times {
		if _, err := s.get(key(0)); err != nil {
			t.Fatal(err)
		}
	}
	// Once each may be, and Pebble itself reads something about new files.
	if after := s.db.Metrics().BlockCache; after.Misses-before.Misses >= times || after.Hits-before.Hits < times {
		t.Errorf("of the blocks for %d reads of the same %d were not in memory, and %d were", times, after.Misses-before.Misses, after.Hits-before.Hits)
	}
}

// What reads leases in order finds renewals where they are, and gives Pebble none of them, for which all
// clients would wait.
func TestReadsInOrderFindRenewals(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t0 := time.Unix(1e9, 0).UTC()
	const leases = 100
	first, second := lease.Update{}, lease.Update{Known: true}
	for i := range leases {
		l := leasetest.Lease(i, t0)
		first.Put = append(first.Put, l)
		l.Updated, l.PreferredUntil, l.ValidUntil = t0.Add(time.Hour), t0.Add(time.Hour), t0.Add(24*time.Hour)
		if i%2 == 0 {
			l.Anchor.Relay = netip.IPv6Loopback()
		}
		second.Put = append(second.Put, l)
	}
	if err := s.Apply(&first); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(&second); err != nil {
		t.Fatal(err)
	}
	waiting := s.recent.len()
	if waiting != leases/2 {
		t.Fatalf("%d renewals wait, want those of which the relay was another: %d", waiting, leases/2)
	}
	late := t0.Add(23 * time.Hour)
	found, err := s.Within(nil, netip.PrefixFrom(first.Put[0].Addr, 64), late, late, 2*leases)
	if err != nil || len(found) != leases {
		t.Errorf("%d hold after they would have ended, %v; want %d", len(found), err, leases)
	}
	seen := 0
	if err := s.Each(func(l lease.Lease) error {
		if !l.Updated.Equal(t0.Add(time.Hour)) {
			t.Errorf("%s is of %s", l.Addr, l.Updated)
		}
		seen++
		return nil
	}); err != nil || seen != leases {
		t.Errorf("%d leases, %v; want %d", seen, err, leases)
	}
	if n := s.recent.len(); n != waiting {
		t.Errorf("%d renewals wait after the reads, and %d before", n, waiting)
	}
	// Who has an iterator from before they are given finds them after it.
	newer := s.newer()
	if err := s.Settle(); err != nil {
		t.Fatal(err)
	}
	old := lease.AppendRecord(nil, &first.Put[0])
	if record, err := newer.record(first.Put[0].Addr, old); err != nil || !bytes.Equal(record, lease.AppendRecord(nil, &second.Put[0])) {
		t.Errorf("%x, %v", record, err)
	}
	if err := s.Apply(&lease.Update{Delete: second.Put[:1]}); err != nil {
		t.Fatal(err)
	}
	if record, err := newer.record(first.Put[0].Addr, old); err != nil || record != nil {
		t.Errorf("a lease that is gone: %x, %v", record, err)
	}
	// And who has one from before a lease is changed with something else, be it while it is given.
	for i, giving := range []bool{false, true} {
		l := second.Put[1+i]
		l.Updated = t0.Add(2 * time.Hour)
		old := lease.AppendRecord(nil, &l)
		if err := s.Apply(&lease.Update{Put: []lease.Lease{l}, Known: true}); err != nil {
			t.Fatal(err)
		}
		if giving {
			s.mu.Lock()
			s.draining, s.recent = s.recent, s.empty
			s.mu.Unlock()
		}
		newer := s.newer()
		l.Updated = t0.Add(3 * time.Hour)
		if err := s.Apply(&lease.Update{Put: []lease.Lease{l}, Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}}}); err != nil {
			t.Fatal(err)
		}
		if record, err := newer.record(l.Addr, old); err != nil || !bytes.Equal(record, lease.AppendRecord(nil, &l)) {
			t.Errorf("while it is given, %t: %x, %v", giving, record, err)
		}
	}
}
