package datasync

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
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

func syncer(t testing.TB) *Syncer {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatalf("%v: this kernel has no asynchronous I/O, without which gidserver syncs by the system call", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Syncs of several goroutines and files all return, those that the Syncer has no time for as well.
func TestSyncs(t *testing.T) {
	s := syncer(t)
	var wg sync.WaitGroup
	for range 4 {
		f := file(t)
		wg.Go(func() {
			for range 50 {
				if _, err := f.Write([]byte("a record")); err != nil {
					t.Error(err)
				}
				if err := s.Fdatasync(f.Fd()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// Each sync is the kernel's, which has told of it once, and not the system call, which would do as
// well and for which no other test would fail.
func TestTheKernelSyncs(t *testing.T) {
	s, f := syncer(t), file(t)
	for range 3 {
		s.buf = [8]byte{}
		if _, err := f.Write([]byte("a record")); err != nil {
			t.Fatal(err)
		}
		if err := s.Fdatasync(f.Fd()); err != nil {
			t.Fatal(err)
		}
		if n := binary.NativeEndian.Uint64(s.buf[:]); n != 1 {
			t.Errorf("the kernel has told %d times", n)
		}
	}
}

func TestWhatCannotBeSyncedIsAnError(t *testing.T) {
	s := syncer(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := s.Fdatasync(w.Fd()); err == nil {
		t.Error("a pipe was synced")
	}
	f := file(t)
	fd := f.Fd()
	f.Close()
	if err := s.Fdatasync(fd); err == nil {
		t.Error("a closed file was synced")
	}
	f = file(t)
	if err := s.Fdatasync(f.Fd()); err != nil {
		t.Errorf("after errors: %v", err)
	}
}

func TestAfterCloseTheSystemCallSyncs(t *testing.T) {
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Fdatasync(file(t).Fd()); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := (*Syncer)(nil).Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkFdatasync beside the system call, each after a write of 4 KiB.
func BenchmarkFdatasync(b *testing.B) {
	s, f := syncer(b), file(b)
	data := make([]byte, 4096)
	var took [2]time.Duration
	for i := 0; b.Loop(); i++ {
		for k, sync := range []func() error{
			func() error { return s.Fdatasync(f.Fd()) },
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
