package wal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened returns a log in a directory that is its alone.
func opened(t testing.TB, o Options) (*Log, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := New(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l, dir
}

// record is the n-th thing that a test appends.
func record(n int) []byte {
	return AppendSet(nil, fmt.Appendf(nil, "key %d", n), fmt.Appendf(nil, "value %d", n))
}

// put appends the n-th record and waits.
func put(t testing.TB, l *Log, n int) {
	t.Helper()
	l.Append(record(n))
	if err := l.Barrier().Wait(); err != nil {
		t.Fatal(err)
	}
}

func cut(t testing.TB, l *Log) int {
	t.Helper()
	n, err := l.Cut()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// replayed returns what a log has, as one.
func replayed(dir string) (all []byte, frames int, err error) {
	frames, err = Replay(dir, func(operations []byte) error {
		all = append(all, operations...)
		return nil
	})
	return all, frames, err
}

// has checks that a log has the records from one to before another.
func has(t testing.TB, dir string, from, to int) {
	t.Helper()
	var want []byte
	for n := from; n < to; n++ {
		want = append(want, record(n)...)
	}
	if got, _, err := replayed(dir); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the log has %q, %v; want %q", got, err, want)
	}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWhatWasAppendedIsReplayed(t *testing.T) {
	l, dir := opened(t, Options{})
	for n := range 10 {
		put(t, l, n)
		if n == 3 || n == 6 {
			cut(t, l)
		}
	}
	l.Append(record(10)) // which nobody waits for
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 0, 11)
	if _, frames, _ := replayed(dir); frames != 11 {
		t.Errorf("%d frames, want 11", frames)
	}
	if exists, err := Exists(dir); err != nil || !exists {
		t.Errorf("Exists = %v, %v", exists, err)
	}
	if _, err := New(dir, Options{}); err == nil {
		t.Error("a log was begun where there is one")
	}
	if err := Clear(dir); err != nil {
		t.Fatal(err)
	}
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("a cleared log has %v", names)
	}
}

// The file of a log, which other implementations can be held against.
func TestFormat(t *testing.T) {
	l, dir := opened(t, Options{Rand: strings.NewReader("8 secret")})
	l.Append(AppendSet(nil, []byte("a"), []byte("bc")))
	l.Append(AppendDelete(nil, []byte("d")))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "0000000000000001.wal"))
	if err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString([]byte("GIDWAL1\n8 secret")) + "483a000d" +
		"f43c94e2" + "03740e03" + "0000000e" + "0000000000000001" + "0000000000000000" +
		"53000100000002616263" + "44000164"
	if hex.EncodeToString(got) != want {
		t.Errorf("the file is\n%x, want\n%s", got, want)
	}
	info, err := os.Stat(filepath.Join(dir, "0000000000000001.wal"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}

func TestOperations(t *testing.T) {
	type op struct {
		key, value string
		set        bool
	}
	want := []op{{"a", "", true}, {"b", "", false}, {"", strings.Repeat("x", 70000), true}}
	var b []byte
	for _, o := range want {
		if o.set {
			b = AppendSet(b, []byte(o.key), []byte(o.value))
		} else {
			b = AppendDelete(b, []byte(o.key))
		}
	}
	var got []op
	collect := func(key, value []byte, set bool) error {
		got = append(got, op{string(key), string(value), set})
		return nil
	}
	if err := Operations(b, collect); err != nil || !slices.Equal(got, want) {
		t.Errorf("Operations: %v, %v", got, err)
	}
	for n := 1; n < len(b); n++ {
		got = got[:0]
		if err := Operations(b[:n], collect); !errors.Is(err, ErrDamaged) && !slices.Equal(got, want[:len(got)]) {
			t.Fatalf("%d bytes of it: %v, %v", n, got, err)
		}
	}
	stop := errors.New("stop")
	if err := Operations(b, func([]byte, []byte, bool) error { return stop }); err != stop {
		t.Errorf("the error of f came back as %v", err)
	}
}

// Wherever the machine stops, what was waited for is there, and of the rest a beginning.
func TestTornAnywhere(t *testing.T) {
	l, dir := opened(t, Options{})
	path := filepath.Join(dir, nameOf(1))
	ends := []int64{size(t, path)}
	for n := range 3 {
		put(t, l, n)
		ends = append(ends, size(t, path))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 0, 0)
	// A file's beginning is durable before it is written to.
	for n := startLen; n < len(whole); n++ {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := 0
		for want < 3 && ends[want+1] <= int64(n) {
			want++
		}
		has(t, dir, 0, want)
		// What the disk has of a frame may be anything.
		torn := append(slices.Clone(whole[:n]), make([]byte, len(whole)-n)...)
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		has(t, dir, 0, want)
	}
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// A change of any byte of what was durable when something later was written is told. Of the last
// frame it cannot be told from a write that was not finished.
func TestDamageIsTold(t *testing.T) {
	l, dir := opened(t, Options{})
	put(t, l, 0)
	put(t, l, 1)
	cut(t, l)
	put(t, l, 2)
	put(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lastFrame := headLen + len(record(3))
	for _, first := range []uint64{1, 4} {
		path := filepath.Join(dir, nameOf(first))
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			damaged := slices.Clone(whole)
			damaged[i] ^= 1 << (i % 8)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			all, _, err := replayed(dir)
			switch {
			case first == 4 && i >= len(whole)-lastFrame:
				if err != nil {
					t.Errorf("byte %d of the last frame: %v", i, err)
				}
			case !errors.Is(err, ErrDamaged):
				t.Errorf("file %d with byte %d changed replays as %q, %v", first, i, all, err)
			}
		}
		without := slices.Delete(slices.Clone(whole), startLen, startLen+headLen+len(record(0)))
		if err := os.WriteFile(path, without, 0o600); err != nil {
			t.Fatal(err)
		}
		if all, _, err := replayed(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("file %d without its first frame replays as %q, %v", first, all, err)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has(t, dir, 0, 4)
	if err := os.Remove(filepath.Join(dir, nameOf(1))); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 2, 4) // as after Remove
	for name, make := range map[string]func() error{
		"a file that is missing between others": func() error { return os.WriteFile(filepath.Join(dir, nameOf(9)), nil, 0o600) },
		"a file that is named otherwise":        func() error { return os.WriteFile(filepath.Join(dir, "x.wal"), nil, 0o600) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := replayed(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range []string{nameOf(9), "x.wal"} {
			if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

// A file is written again when it is not needed any more, and of what it had before nothing counts,
// be there a frame of the new log in it or none.
func TestAFileIsWrittenAgain(t *testing.T) {
	l, dir := opened(t, Options{})
	for n := range 20 {
		put(t, l, n)
	}
	before := cut(t, l)
	put(t, l, 20)
	if err := l.Remove(before); err != nil {
		t.Fatal(err)
	}
	if names := files(t, dir); !slices.Equal(names, []string{nameOf(22), spareName}) {
		t.Fatalf("files: %v", names)
	}
	old := size(t, filepath.Join(dir, spareName))
	for _, more := range []int{0, 1} {
		if more == 0 {
			before = cut(t, l)
		} else {
			put(t, l, 21)
		}
		if names := files(t, dir); !slices.Equal(names, []string{nameOf(22), nameOf(24)}) {
			t.Fatalf("files: %v", names)
		}
		if got := size(t, filepath.Join(dir, nameOf(24))); got != old {
			t.Fatalf("the file that is written again has %d bytes, and had %d", got, old)
		}
		has(t, dir, 20, 21+more)
	}
	if err := l.Remove(before); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 21, 22)
	if err := l.Remove(5); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 21, 22)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A second cut with nothing between cuts nothing.
func TestCutOfNothing(t *testing.T) {
	l, dir := opened(t, Options{})
	if n := cut(t, l); n != 0 {
		t.Errorf("a new log was cut into %d files", n)
	}
	put(t, l, 0)
	if n := cut(t, l); n != 1 || l.Size() != 0 {
		t.Errorf("%d files were cut off, %d bytes left", n, l.Size())
	}
	if n := cut(t, l); n != 1 {
		t.Errorf("%d files were cut off, the second time", n)
	}
	put(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 0, 2)
}

func TestPrepare(t *testing.T) {
	l, dir := opened(t, Options{})
	put(t, l, 0)
	kept := func(want int64) {
		t.Helper()
		if got, err := l.Spare(); got != want || err != nil {
			t.Errorf("%d bytes are kept for the next file, %v; want %d", got, err, want)
		}
	}
	kept(0)
	steps := 0
	count := func(_ time.Duration, left int) bool {
		if steps++; left != 3<<20/step-steps {
			t.Errorf("%d steps are left after %d", left, steps)
		}
		return true
	}
	if err := l.Prepare(3<<20, count); err != nil {
		t.Fatal(err)
	}
	kept(3 << 20)
	if got := size(t, filepath.Join(dir, spareName)); got != 3<<20 || steps != 3<<20/step {
		t.Errorf("%d bytes were written ahead in %d steps", got, steps)
	}
	before := cut(t, l)
	put(t, l, 1)
	if got := size(t, filepath.Join(dir, nameOf(3))); got != 3<<20 {
		t.Errorf("the next file has %d bytes", got)
	}
	has(t, dir, 0, 2)
	if err := l.Remove(before); err != nil {
		t.Fatal(err)
	}
	first, err := l.Spare()
	if err != nil || first == 0 {
		t.Errorf("%d bytes are kept of the first file, %v", first, err)
	}
	steps = 0
	if err := l.Prepare(3<<20, func(_ time.Duration, left int) bool {
		if want := int(3<<20-first-1) / step; left != want { // rounded up, less the one that was made
			t.Errorf("%d steps are left; want %d", left, want)
		}
		steps++
		return false
	}); err != nil || steps != 1 {
		t.Errorf("%d steps though it was told to end, %v", steps, err)
	}
	if err := l.Prepare(1<<62, count); err != nil || steps != 1 {
		t.Errorf("%d steps where there is no room, %v", steps, err)
	}
	for range 2 {
		if err := l.Discard(); err != nil {
			t.Fatal(err)
		}
		if names := files(t, dir); !slices.Equal(names, []string{nameOf(3)}) {
			t.Errorf("after what was kept is discarded there are %v", names)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 1, 2)
	if err := Clear(dir); err != nil {
		t.Fatal(err)
	}
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("a cleared log has %v", names)
	}
}

func TestBarriers(t *testing.T) {
	l, _ := opened(t, Options{})
	none := l.Barrier()
	if !none.Settled() || none.Wait() != nil {
		t.Error("a barrier before which nothing is has to be waited for")
	}
	l.Append(record(0))
	a := l.Barrier()
	if a == none || l.Barrier() != a {
		t.Error("a barrier is not of what is before it")
	}
	if a.Settled() {
		t.Error("a barrier that nobody has waited for is settled")
	}
	l.Append(record(1))
	b := l.Barrier()
	if err := b.Wait(); err != nil {
		t.Fatal(err)
	}
	if !a.Settled() || !b.Settled() || a.Wait() != nil {
		t.Error("a barrier is not settled that is before one that is")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// heldSyncer ends syncs when it is told to.
type heldSyncer struct {
	wake chan struct{}

	mu    sync.Mutex
	begun int
	ended bool
	err   error
}

func (s *heldSyncer) Start(uintptr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
}

func (s *heldSyncer) Ended() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended, err := s.ended, s.err
	s.ended, s.err = false, nil
	return ended, err
}

func (s *heldSyncer) Wait() error {
	if _, ok := <-s.wake; !ok {
		return os.ErrClosed
	}
	return nil
}

func (s *heldSyncer) Close() error {
	close(s.wake)
	return nil
}

// end ends the sync that is under way.
func (s *heldSyncer) end(err error) {
	s.mu.Lock()
	s.ended, s.err = true, err
	s.mu.Unlock()
	s.wake <- struct{}{}
}

// want checks how many syncs were begun.
func (s *heldSyncer) want(t testing.TB, begun int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun != begun {
		t.Errorf("%d syncs were begun, want %d", s.begun, begun)
	}
}

// after runs f beside the test and returns what tells that it has returned.
func after(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func notYet(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
		t.Errorf("%s did not wait", what)
	case <-time.After(50 * time.Millisecond):
	}
}

func soon(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s waits for ever", what)
	}
}

// A cut waits for the sync that is under way and lets none begin meanwhile: of two syncs at once the
// kernel tells but one of what it could not write.
func TestACutWaitsForASync(t *testing.T) {
	s := &heldSyncer{wake: make(chan struct{})}
	l, dir := opened(t, Options{syncer: s})
	wait := func(b *Barrier) func() {
		return func() {
			if err := b.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
	l.Append(record(0))
	first := after(wait(l.Barrier()))
	notYet(t, first, "who waits for a sync")
	cutting := after(func() { cut(t, l) })
	notYet(t, cutting, "the cut")
	l.Append(record(1))
	second := after(wait(l.Barrier()))
	notYet(t, second, "who waits beside a cut")
	s.want(t, 1)
	s.end(nil)
	soon(t, first, "who waits for the sync")
	soon(t, cutting, "the cut")
	soon(t, second, "who waits for what the cut is of")
	s.want(t, 1)
	l.Append(record(2))
	third := after(wait(l.Barrier()))
	notYet(t, third, "who waits after the cut")
	s.want(t, 2)
	s.end(nil)
	soon(t, third, "who waits after the cut")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	has(t, dir, 0, 3)
}

// What the sync under way has failed to write fails the cut that waits for it.
func TestACutAfterASyncThatFails(t *testing.T) {
	s := &heldSyncer{wake: make(chan struct{})}
	l, _ := opened(t, Options{syncer: s})
	l.Append(record(0))
	b := l.Barrier()
	waiting := after(func() {
		if err := b.Wait(); !errors.Is(err, unix.EIO) {
			t.Errorf("Wait: %v", err)
		}
	})
	notYet(t, waiting, "who waits for a sync")
	cutting := after(func() {
		if _, err := l.Cut(); !errors.Is(err, unix.EIO) {
			t.Errorf("Cut: %v", err)
		}
	})
	notYet(t, cutting, "the cut")
	s.end(unix.EIO)
	soon(t, waiting, "who waits for the sync")
	soon(t, cutting, "the cut")
	if b.Settled() {
		t.Error("what was not written is settled")
	}
	if err := l.Close(); !errors.Is(err, unix.EIO) {
		t.Errorf("Close: %v", err)
	}
}

// Many append and wait, cuts come between, and each finds what it has waited for in the files.
func TestConcurrently(t *testing.T) {
	l, dir := opened(t, Options{})
	const writers, each = 8, 100
	var wg sync.WaitGroup
	var waited atomic.Int64
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				l.Append(record(w*each + i))
				if rand.IntN(4) == 0 {
					continue
				}
				if err := l.Barrier().Wait(); err != nil {
					t.Error(err)
				}
				waited.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for waited.Load() < writers*each/2 && !t.Failed() {
			if _, err := l.Cut(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	wg.Wait()
	<-done
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	last := make(map[string]int)
	found := 0
	if _, err := Replay(dir, func(b []byte) error {
		return Operations(b, func(key, value []byte, set bool) error {
			var n int
			if _, err := fmt.Sscanf(string(key), "key %d", &n); err != nil {
				return err
			}
			w := fmt.Sprint(n / each)
			if n%each != last[w] {
				return fmt.Errorf("record %d of writer %s comes after %d", n%each, w, last[w])
			}
			last[w]++
			found++
			return nil
		})
	}); err != nil || found != writers*each {
		t.Errorf("%d records are replayed, %v; want %d", found, err, writers*each)
	}
}

// What cannot be written fails all that wait for it, once and for ever.
func TestFailure(t *testing.T) {
	var failed []error
	l, _ := opened(t, Options{Failed: func(err error) { failed = append(failed, err) }})
	put(t, l, 0)
	if err := l.file.Close(); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 3; n++ {
		l.Append(record(n))
		if err := l.Barrier().Wait(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Wait: %v", err)
		}
	}
	if _, err := l.Cut(); err == nil {
		t.Error("a log that has failed was cut")
	}
	if len(failed) != 1 || !errors.Is(failed[0], os.ErrClosed) {
		t.Errorf("Failed was called with %v", failed)
	}
	if err := l.Close(); err == nil {
		t.Error("a log that has failed was closed without an error")
	}
}

// The kernel may write less than it is given.
func TestLessIsWritten(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 8, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	n, err := writeAt(f, []byte("longer than eight"), 1)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if n != 7 || err != nil {
		t.Errorf("%d bytes, %v; want the 7 that there was room for", n, err)
	}
}

// A disk that is full is waited for, and what is kept for the next file makes room first.
func TestFullDisk(t *testing.T) {
	waited := 0
	l, dir := opened(t, Options{Full: func() { waited++ }})
	put(t, l, 0)
	if err := l.Prepare(step, func(time.Duration, int) bool { return true }); err != nil {
		t.Fatal(err)
	}
	for i, err := range []error{unix.ENOSPC, &fs.PathError{Op: "write", Err: unix.EDQUOT}} {
		l.mu.Lock()
		again := l.full(err)
		l.mu.Unlock()
		if !again || waited != i {
			t.Errorf("%v: try again %v, waited %d times", err, again, waited)
		}
		if names := files(t, dir); !slices.Equal(names, []string{nameOf(1)}) {
			t.Errorf("%v: files %v", err, names)
		}
	}
	if l.full(unix.EIO) {
		t.Error("an error of the disk is waited for")
	}
	put(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 0, 2)
}

// While one waits for space others append, take barriers and wait, and all is written in the end,
// be it one who waits for a barrier or one who cuts.
func TestOthersGoOnWhileTheDiskIsFull(t *testing.T) {
	for _, cutFirst := range []bool{false, true} {
		t.Run(fmt.Sprint("cut first ", cutFirst), func(t *testing.T) { othersGoOn(t, cutFirst) })
	}
}

func othersGoOn(t *testing.T, cutFirst bool) {
	entered, release := make(chan struct{}), make(chan struct{})
	l, dir := opened(t, Options{Full: func() {
		entered <- struct{}{}
		<-release
	}})
	put(t, l, 0)
	none, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	l.mu.Lock()
	disk := l.file
	l.file = none
	l.mu.Unlock()
	results := make(chan error, 3)
	wait := func(n int) {
		l.Append(record(n))
		b := l.Barrier()
		go func() { results <- b.Wait() }()
	}
	cut := func() {
		_, err := l.Cut()
		results <- err
	}
	if cutFirst {
		l.Append(record(1))
		go cut()
		<-entered
		wait(2)
		l.Append(record(3))
		go func() { results <- l.Barrier().Wait() }()
	} else {
		wait(1)
		<-entered
		wait(2)
		l.Append(record(3))
		go cut()
	}
	select {
	case err := <-results:
		t.Fatalf("something was durable on a full disk, %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l.mu.Lock()
	l.file = disk
	l.mu.Unlock()
	close(release)
	for range cap(results) {
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("somebody waits for ever")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, dir, 0, 4)
}

// What is more than waits is written without being waited for, and is there all the same.
func TestMuchAtOnce(t *testing.T) {
	l, dir := opened(t, Options{})
	big := AppendSet(nil, []byte("k"), make([]byte, 300<<10))
	for range 10 {
		l.Append(big)
	}
	if n := len(l.pending); n > maxPending+len(big) {
		t.Errorf("%d bytes are pending", n)
	}
	if err := l.Barrier().Wait(); err != nil {
		t.Fatal(err)
	}
	all, frames, err := replayed(dir)
	if err != nil || len(all) != 10*len(big) || frames < 2 {
		t.Errorf("%d bytes in %d frames, %v", len(all), frames, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A long file is replayed, and looked through for what comes after its last frame, with little of it in memory.
func TestReplayTakesLittleMemory(t *testing.T) {
	l, dir := opened(t, Options{})
	some := AppendSet(nil, []byte("k"), make([]byte, 10<<10))
	const frames = 1000
	for range frames {
		l.Append(some)
		if err := l.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, nameOf(1))
	if err := os.Truncate(path, 4*size(t, path)); err != nil { // as a file is that was prepared
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := Replay(dir, func([]byte) error { return nil })
	runtime.ReadMemStats(&after)
	if n != frames || err != nil {
		t.Fatalf("%d frames, %v", n, err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 2*maxPending {
		t.Errorf("to replay %d bytes took %d of memory", size(t, path), took)
	}
}

// Whatever is in a file, it is replayed up to where it makes no sense, or refused.
func FuzzReplay(f *testing.F) {
	l, dir := opened(f, Options{Rand: strings.NewReader("8 secret")})
	put(f, l, 0)
	put(f, l, 1)
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, nameOf(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte(magic))
	damaged := bytes.Clone(whole) // of which the second frame tells
	damaged[startLen] ^= 1
	f.Add(damaged)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, all := 0, []byte(nil)
		in := func(ahead int) (int, bool, error) {
			n, all = 0, nil
			return replay(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), ahead, 1, true, func(operations []byte) error {
				n++
				all = append(all, operations...)
				return Operations(operations, func([]byte, []byte, bool) error { return nil })
			})
		}
		frames, end, err := in(max(len(b), headLen))
		if err == nil && frames != n {
			t.Errorf("%d frames, and f was called %d times", frames, n)
		}
		whole := all
		for _, ahead := range []int{headLen, headLen + 1} {
			if f, e, err2 := in(ahead); f != frames || e != end || fmt.Sprint(err2) != fmt.Sprint(err) || !bytes.Equal(all, whole) {
				t.Errorf("%d bytes at a time: %d frames, an end: %v, %v; all at once: %d, %v, %v", ahead, f, e, err2, frames, end, err)
			}
		}
	})
}

// BenchmarkSyncs is a record of a lease's size with a barrier each, 32 of which are waited for at once.
func BenchmarkSyncs(b *testing.B) {
	l, _ := opened(b, Options{})
	value := make([]byte, 110)
	n := 0
	for b.Loop() {
		l.Append(AppendSet(nil, value[:17], value))
		if n++; n%32 == 0 {
			if err := l.Barrier().Wait(); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
