//go:build e2e

package pebblestore

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brightgid/lease"
)

// A full disk stops the writer, says so, and lets it go on when space returns.
func TestFullDiskWaitsForSpace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test mounts a small file system and must run as root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=700"); err != nil {
		t.Fatalf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	var log syncBuffer
	s, err := Open(filepath.Join(dir, "leases"), Options{
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	write := func(n uint64) error {
		l := crashLease(n)
		if err := s.Apply(&lease.Update{Put: []lease.Lease{l}}); err != nil {
			return err
		}
		return s.Barrier().Wait()
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()

	done := make(chan error, 1)
	n := uint64(1)
	go func() { // the log's last page has room for some records
		for ; n < 100000 && !s.Full(); n++ {
			if err := write(n); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	waitFor(t, "the store to notice the full disk", s.Full)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
		t.Fatal("a write was acknowledged while the disk was full")
	case <-time.After(500 * time.Millisecond):
	}
	if got := log.String(); !strings.Contains(got, "disk full") {
		t.Errorf("the log does not say so: %s", got)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// The blocked write is done now; the loop ends or goes on.
	waitFor(t, "service again", func() bool { return !s.Full() })
	waitFor(t, "the log to say that space is back", func() bool { return strings.Contains(log.String(), "space is back") })
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the blocked write never returned")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(filepath.Join(dir, "leases"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for i := range n {
		if _, err := again.Lease(crashLease(i).Addr); err != nil {
			t.Fatalf("lease %d of %d that were acknowledged: %v", i, n, err)
		}
	}
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// syncBuffer is a buffer that a logger may write while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
