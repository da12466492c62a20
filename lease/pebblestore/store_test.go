package pebblestore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/index"
	"brightgid/lease/leasetest"
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

const crashDir = "PEBBLESTORE_CRASH_DIR"

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
	s, err := Open(dir, Options{})
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
	put := func(n uint64) {
		l := crashLease(n)
		fail(s.Apply(&lease.Update{
			Put:     []lease.Lease{l},
			Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}},
		}))
	}
	if n := s.Subscribers(); n > 0 {
		put(n - 1) // the kill may have come after its registration and before its lease
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

func crashLookup(n uint64) (k idcodec.LookupKey) {
	binary.BigEndian.PutUint64(k[:], n)
	return k
}

// After kill -9 in the middle of writing everything that a Wait answered for is
// there, and nothing half.
func TestKilledWriterLosesNothing(t *testing.T) {
	dir := t.TempDir()
	total := uint64(0)
	for round := range 6 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir)
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
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if s.Subscribers() < acked {
			t.Fatalf("round %d: %d subscribers after the kill, %d were acknowledged", round, s.Subscribers(), acked)
		}
		for n := range acked {
			if got, err := s.Lookup(crashLookup(n)); err != nil || got != n {
				t.Fatalf("round %d: subscriber %d: %d, %v", round, n, got, err)
			}
			l, err := s.Lease(crashLease(n).Addr)
			if err != nil || l.Subscriber != n {
				t.Fatalf("round %d: lease %d: %+v, %v", round, n, l, err)
			}
			if a, err := s.ByClient(nil, l.Client); err != nil || len(a) != 1 || a[0] != l.Addr {
				t.Fatalf("round %d: client of lease %d: %v, %v", round, n, a, err)
			}
		}
		total = acked
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total < 100 {
		t.Fatalf("only %d records were acknowledged; the test shows nothing", total)
	}
}
