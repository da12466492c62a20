package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func open(t testing.TB, dir string, limit int64) *Journal {
	t.Helper()
	j, err := Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func payload(n int) []byte { return fmt.Appendf(nil, "entry %d %s", n, strings.Repeat("x", n%200)) }

func fill(t testing.TB, j *Journal, from, until int) {
	t.Helper()
	for n := from; n < until; n++ {
		got, err := j.Append(payload(n))
		if err != nil || got != uint64(n) {
			t.Fatalf("entry %d: number %d, %v", n, got, err)
		}
	}
}

// all takes everything that is not done.
func all(t testing.TB, j *Journal, from, until int) {
	t.Helper()
	next := from
	for next < until {
		es, err := j.Wait(7)
		if err != nil || len(es) == 0 {
			t.Fatalf("at %d: %d entries, %v", next, len(es), err)
		}
		for _, e := range es {
			if e.Number != uint64(next) || string(e.Payload) != string(payload(next)) {
				t.Fatalf("entry %d is %d: %q", next, e.Number, e.Payload)
			}
			next++
		}
		if err := j.Done(uint64(next)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, left := j.Size(); left != 0 {
		t.Errorf("%d entries are left", left)
	}
}

func TestWhatIsAppendedIsThereUntilItIsDone(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<30)
	fill(t, j, 0, 100)
	if err := j.Done(30); err != nil {
		t.Fatal(err)
	}
	if err := j.Done(10); err != nil { // nothing is undone
		t.Fatal(err)
	}
	if err := j.Done(101); err == nil {
		t.Error("what is not there is done")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, 1<<30)
	fill(t, j, 100, 120)
	all(t, j, 30, 120)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, 1<<30)
	fill(t, j, 120, 121)
	all(t, j, 120, 121)
}

func TestSegmentsThatAreDoneAreRemoved(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<40)
	big := make([]byte, MaxEntry)
	n := 0
	for range 3 * segmentSize / MaxEntry {
		binary.BigEndian.PutUint64(big, uint64(n))
		if _, err := j.Append(big); err != nil {
			t.Fatal(err)
		}
		n++
	}
	files := func() int {
		t.Helper()
		m, err := filepath.Glob(filepath.Join(dir, "*.seg"))
		if err != nil {
			t.Fatal(err)
		}
		return len(m)
	}
	if files() < 3 {
		t.Fatalf("%d segments", files())
	}
	before, _, _ := j.Size()
	if err := j.Done(uint64(n)); err != nil {
		t.Fatal(err)
	}
	if after, _, _ := j.Size(); files() != 1 || after >= before/2 {
		t.Errorf("%d segments are left, %d bytes of %d", files(), after, before)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, 1<<40)
	if got, err := j.Append([]byte("x")); err != nil || got != uint64(n) {
		t.Errorf("number %d, %v; want %d", got, err, n)
	}
}

func TestAFullJournalTakesNothingUntilSomethingIsDone(t *testing.T) {
	for _, limit := range []int64{1 << 20, 2 * segmentSize} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			j := open(t, t.TempDir(), limit)
			big := make([]byte, MaxEntry)
			n := uint64(0)
			for {
				got, err := j.Append(big)
				if errors.Is(err, ErrFull) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				n = got + 1
			}
			if bytes, limit, _ := j.Size(); bytes > limit {
				t.Errorf("%d bytes of %d", bytes, limit)
			}
			if err := j.Done(n); err != nil {
				t.Fatal(err)
			}
			if _, err := j.Append(big); err != nil {
				t.Errorf("after all was done: %v", err)
			}
			for _, bad := range [][]byte{nil, make([]byte, MaxEntry+1)} {
				if _, err := j.Append(bad); err == nil {
					t.Errorf("an entry of %d bytes was taken", len(bad))
				}
			}
		})
	}
}

// The last segment cut at any byte: what is whole before it is there, and it goes on.
func TestATornEndIsCutOff(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<30)
	fill(t, j, 0, 5)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "0000000000000000.seg")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) {
		copied := t.TempDir()
		if err := os.WriteFile(filepath.Join(copied, filepath.Base(file)), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(copied, 1<<30)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n := 0
		for rest := whole[:cut]; ; n++ {
			_, after, err := parseEntry(rest)
			if err != nil {
				break
			}
			rest = after
		}
		fill(t, j, n, n+2)
		all(t, j, 0, n+2)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What the kernel holds for written need not be on the disk when a sync has failed before.
func TestOpenWritesTheEndAgain(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<20)
	fill(t, j, 0, 100)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "0000000000000000.seg"))
	if err != nil {
		t.Fatal(err)
	}
	before := written(t)
	j = open(t, dir, 1<<20)
	if n := written(t) - before; n < info.Size() {
		t.Errorf("%d bytes were written, of a segment that has %d", n, info.Size())
	}
	all(t, j, 0, 100)
}

// written is how many bytes this process has given to the kernel to write.
func written(t testing.TB) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "wchar:"); ok {
			n, err = strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		}
	}
	if err != nil || n == 0 {
		t.Fatalf("/proc/self/io: %v\n%s", err, b)
	}
	return n
}

// A damaged entry after which another was synced is no torn end.
func TestADamagedEntryIsTold(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<30)
	fill(t, j, 0, 5) // each a group of its own
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "0000000000000000.seg")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, err := parseEntry(whole)
	if err != nil {
		t.Fatal(err)
	}
	last := len(whole) - (headLen + len(payload(4)))
	for at := range last {
		changed := append([]byte{}, whole...)
		changed[at] ^= 0x40
		if err := os.WriteFile(file, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := Open(dir, 1<<30); !errors.Is(err, ErrCorrupt) {
			j.Close()
			t.Fatalf("byte %d of %d changed: %v, want ErrCorrupt", at, len(rest), err)
		}
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, filepath.Join(dir, "0000000000000007.seg")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "done"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, 1<<30); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a segment that is missing: %v", err)
	}
}

// What is done is not synced each time: without that file all that is there comes again.
func TestAPowerCutMayForgetWhatIsDone(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "torn": "1x"} {
		dir := t.TempDir()
		j := open(t, dir, 1<<30)
		fill(t, j, 0, 10)
		if err := j.Done(7); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "done"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		j = open(t, dir, 1<<30)
		if _, _, left := j.Size(); left != 10 {
			t.Errorf("%s: %d entries are left, want 10", name, left)
		}
		all(t, j, 0, 10)
	}
}

func TestOneProcessHasTheJournal(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<30)
	if _, err := Open(dir, 1<<30); !errors.Is(err, ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if _, err := j.Append([]byte("x")); err == nil {
		t.Error("a closed journal takes entries")
	}
	if es, err := j.Wait(1); err != nil || es != nil {
		t.Errorf("waiting on a closed journal: %v, %v", es, err)
	}
}

func TestManyAppendWhileOneConsumes(t *testing.T) {
	j := open(t, t.TempDir(), 1<<30)
	const writers, each = 16, 100
	seen := make(map[string]bool)
	consumed := make(chan error, 1)
	go func() {
		for len(seen) < writers*each {
			es, err := j.Wait(50)
			if err != nil || len(es) == 0 {
				consumed <- fmt.Errorf("%d entries: %w", len(es), err)
				return
			}
			for _, e := range es {
				seen[string(e.Payload)] = true
			}
			if err := j.Done(es[len(es)-1].Number + 1); err != nil {
				consumed <- err
				return
			}
		}
		consumed <- nil
	}()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if _, err := j.Append(fmt.Appendf(nil, "%d/%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-consumed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the consumer waits for ever")
	}
}

const writerDir = "GID_JOURNAL_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		fmt.Fprintln(os.Stderr, writer(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writer appends numbers for ever, by several at once, and prints each that is
// acknowledged.
func writer(dir string) error {
	j, err := Open(dir, 1<<40)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	failed := make(chan error)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				n, err := j.Append(fmt.Appendf(nil, "%d %d %d", os.Getpid(), w, i))
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				fmt.Println(n, os.Getpid(), w, i)
				mu.Unlock()
			}
		}()
	}
	return <-failed
}

// told reads a line of the writer's.
func told(line string) (n uint64, text string, ok bool) {
	number, text, ok := strings.Cut(line, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, text, ok && err == nil && strings.Count(text, " ") == 2
}

// holds checks that a journal has all that was acknowledged, each under its number.
func holds(t *testing.T, dir string, acked map[uint64]string) {
	t.Helper()
	j, err := Open(dir, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	got := make(map[uint64]string)
	for {
		_, _, left := j.Size()
		if left == 0 {
			break
		}
		es, err := j.Wait(1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			got[e.Number] = string(e.Payload)
		}
		if err := j.Done(es[len(es)-1].Number + 1); err != nil {
			t.Fatal(err)
		}
	}
	for n, text := range acked {
		if !strings.HasPrefix(got[n], text) {
			t.Fatalf("entry %d was acknowledged as %q and is %q", n, text, got[n])
		}
	}
}

// kill -9 at any moment: every entry that was acknowledged is there, under its number.
func TestAKilledWriterLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acked := make(map[uint64]string)
	for round := range 12 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(40+37*round)*time.Millisecond, func() { c.Process.Signal(syscall.SIGKILL) })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n, text, ok := told(lines.Text())
			if !ok {
				break // cut by the kill
			}
			acked[n] = text
		}
		c.Wait()
	}
	holds(t, dir, acked)
	if len(acked) < 100 {
		t.Errorf("only %d entries were acknowledged; the test shows nothing", len(acked))
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(appendEntry(appendEntry(nil, 0, 0, []byte("a")), 1, 0, []byte("b")), "0\n")
	f.Add(appendEntry(nil, 5, 5, []byte("a")), "7\n")
	f.Fuzz(func(t *testing.T, segment []byte, done string) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "0000000000000000.seg"), segment, 0o600)
		os.WriteFile(filepath.Join(dir, "done"), []byte(done), 0o600)
		j, err := Open(dir, 1<<30)
		if err != nil {
			return
		}
		n, err := j.Append([]byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Done(n); err != nil {
			t.Fatal(err)
		}
		if es, err := j.Wait(1); err != nil || len(es) != 1 || string(es[0].Payload) != "x" {
			t.Fatalf("%v, %v", es, err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Appends of many together, beside a sync of its own for each of the same entries.
func BenchmarkAppend(b *testing.B) {
	text := make([]byte, 500)
	const together = 64
	var grouped time.Duration
	for b.Loop() {
		j := open(b, b.TempDir(), 1<<40)
		began := time.Now()
		var all sync.WaitGroup
		for range together {
			all.Go(func() {
				for range 50 {
					if _, err := j.Append(text); err != nil {
						b.Error(err)
					}
				}
			})
		}
		all.Wait()
		grouped += time.Since(began)
	}
	grouped /= time.Duration(b.N)
	f, err := os.Create(filepath.Join(b.TempDir(), "alone"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	const alone = 500
	for range alone {
		if _, err := f.Write(text); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	each := time.Since(began) / alone
	b.ReportMetric(together*50/grouped.Seconds(), "entries/s")
	b.ReportMetric(together*50*each.Seconds()/grouped.Seconds(), "÷sync-each")
}
