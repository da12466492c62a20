package datasync

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func file(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func closed(t testing.TB, s *Syncer) *Syncer {
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// both runs a test with the kernel's asynchronous syncs and with the system call.
func both(t *testing.T, test func(*testing.T, *Syncer)) {
	t.Run("asynchronous", func(t *testing.T) {
		s := New()
		if !s.Asynchronous() {
			t.Fatal("this kernel has no asynchronous I/O, without which gidserver syncs by the system call")
		}
		test(t, closed(t, s))
	})
	t.Run("by the call", func(t *testing.T) { test(t, closed(t, newCaller())) })
}

// fdatasync begins a sync and waits until it has ended.
func fdatasync(s *Syncer, fd uintptr) error {
	s.Start(fd)
	for {
		if err := s.Wait(); err != nil {
			return err
		}
		if ended, err := s.Ended(); ended {
			return err
		}
	}
}

func TestSyncs(t *testing.T) {
	both(t, func(t *testing.T, s *Syncer) {
		a, b := file(t), file(t)
		for range 50 {
			for _, f := range []*os.File{a, b} {
				if _, err := f.Write([]byte("a record")); err != nil {
					t.Fatal(err)
				}
				if err := fdatasync(s, f.Fd()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if ended, err := s.Ended(); ended {
			t.Errorf("a sync that was never begun has ended: %v", err)
		}
	})
}

// Who asks instead of waiting is told as well, and who waits then is woken for nothing at the most.
func TestEndedWithoutWaiting(t *testing.T) {
	both(t, func(t *testing.T, s *Syncer) {
		f := file(t)
		for range 3 {
			s.Start(f.Fd())
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Microsecond) {
				ended, err := s.Ended()
				if err != nil || time.Now().After(deadline) {
					t.Fatalf("ended: %v, %v", ended, err)
				}
				if ended {
					break
				}
			}
		}
		if err := fdatasync(s, f.Fd()); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatCannotBeSyncedIsAnError(t *testing.T) {
	both(t, func(t *testing.T, s *Syncer) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		if err := fdatasync(s, w.Fd()); err == nil {
			t.Error("a pipe was synced")
		}
		f := file(t)
		fd := f.Fd()
		f.Close()
		if err := fdatasync(s, fd); err == nil {
			t.Error("a closed file was synced")
		}
		if err := fdatasync(s, file(t).Fd()); err != nil {
			t.Errorf("after errors: %v", err)
		}
	})
}

func TestCloseEndsAWait(t *testing.T) {
	for _, s := range []*Syncer{New(), newCaller()} {
		ended := make(chan error)
		go func() { ended <- s.Wait() }()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("Wait after Close: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Wait goes on after Close")
		}
	}
}

// BenchmarkFdatasync beside the system call, each after a write of 4 KiB.
func BenchmarkFdatasync(b *testing.B) {
	s, f := closed(b, New()), file(b)
	data := make([]byte, 4096)
	var took [2]time.Duration
	for i := 0; b.Loop(); i++ {
		for k, sync := range []func() error{
			func() error { return fdatasync(s, f.Fd()) },
			func() error { return unix.Fdatasync(int(f.Fd())) },
		} {
			if _, err := f.Write(data); err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if err := sync(); err != nil {
				b.Fatal(err)
			}
			took[k] += time.Since(start)
		}
	}
	b.ReportMetric(float64(took[0])/float64(took[1]), "aio/fdatasync")
}
