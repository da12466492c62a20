package embedded

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
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

	"github.com/transparency-dev/tessera/client"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/ledgertest"
)

const origin = "test.example/gid-ledger"

func create(t testing.TB, roots ...*x509.Certificate) string {
	t.Helper()
	dir := t.TempDir()
	if err := Create(dir, origin, roots); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// outside reads a ledger's log as one would who has its public files only.
func outside(t testing.TB, dir string) *Reader {
	t.Helper()
	v, roots, err := ReadTrust(filepath.Join(dir, vkeyFile), filepath.Join(dir, rootsFile))
	if err != nil {
		t.Fatal(err)
	}
	return NewReader(client.FileFetcher{Root: filepath.Join(dir, logDir)}, v, roots)
}

func TestConformance(t *testing.T) {
	ledgertest.Run(t, ledgertest.NewCast(t), ledgertest.Harness{
		New: func(t *testing.T, root *x509.Certificate) ledgeranchor.Ledger { return open(t, create(t, root)) },
		Verify: func(t *testing.T, l ledgeranchor.Ledger, p ledgeranchor.Proof, c *ledgertest.Cast) (*ledgeranchor.Record, error) {
			text, err := p.MarshalText()
			if err != nil {
				return nil, err
			}
			parsed, err := ledgeranchor.ParseLogProof(text)
			if err != nil {
				return nil, err
			}
			return parsed.Verify(l.(*Ledger).verifier, c.Members(t))
		},
	})
}

// fill makes a closed ledger with some records in it.
func fill(t *testing.T, n int) (dir string, c *ledgertest.Cast) {
	c = ledgertest.NewCast(t)
	dir = create(t, c.Root)
	l, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Introduce(t, l, c.Relay)
	var rs []*ledgeranchor.Record
	for i := range n {
		rs = append(rs, ledgertest.Hop(i, ledgertest.Source(i), time.Now()))
	}
	if _, err := l.Append(t.Context(), ledgertest.Sign(t, c.Relay, rs...)...); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Reader.Prove(t.Context(), uint64(n)); err != nil { // the last is in a checkpoint
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, c
}

func TestALogThatWasEditedIsNotOpened(t *testing.T) {
	for _, c := range []struct {
		name, file string
		edit       func([]byte) []byte
	}{
		{"an entry", "log/tile/entries/000", func(b []byte) []byte { b[200] ^= 1; return b }},
		{"a late entry", "log/tile/entries/001.p/*", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"a tile", "log/tile/0/000", func(b []byte) []byte { b[40] ^= 1; return b }},
		{"the checkpoint", "log/checkpoint", func(b []byte) []byte { return bytes.Replace(b, []byte("\n301\n"), []byte("\n300\n"), 1) }},
		{"a cut bundle", "log/tile/entries/000", func(b []byte) []byte { return b[:len(b)-10] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := fill(t, 300)
			files, err := filepath.Glob(filepath.Join(dir, c.file))
			if err != nil || len(files) == 0 {
				t.Fatalf("no file %s: %v", c.file, err)
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(f, c.edit(b), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := outside(t, dir).CheckFiles(t.Context()); !errors.Is(err, ErrTampered) {
				t.Errorf("a check from outside: %v", err)
			}
			if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrTampered) {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

func TestALogThatWasCutBackIsNotOpened(t *testing.T) {
	dir, _ := fill(t, 10)
	if err := os.RemoveAll(filepath.Join(dir, logDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrTampered) {
		t.Errorf("without its log: %v", err)
	}
}

func TestTheIndexIsMadeAnewFromTheLog(t *testing.T) {
	dir, _ := fill(t, 600)
	if err := os.RemoveAll(filepath.Join(dir, indexDir)); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	for _, n := range []int{0, 255, 599} {
		found := 0
		for e, err := range l.Find(t.Context(), ledgeranchor.Query{Address: ledgertest.Source(n)}) {
			if err != nil || e.Record.Message != ledgertest.HashOf("message", n) {
				t.Errorf("message %d: %+v, %v", n, e, err)
			}
			found++
		}
		if found != 1 {
			t.Errorf("message %d is found %d times", n, found)
		}
	}
}

func TestARememberedHeadTellsAnotherHistory(t *testing.T) {
	dir, c := fill(t, 300)
	r := outside(t, dir)
	old, _, err := r.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	more, err := l.Append(t.Context(), ledgertest.Sign(t, c.Relay, ledgertest.Hop(1000, ledgertest.Source(1), time.Now()))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Reader.Prove(t.Context(), more[0].Position); err != nil {
		t.Fatal(err)
	}
	if h, err := r.Consistent(t.Context(), old); err != nil || h.Size != old.Size+1 {
		t.Errorf("%+v, %v", h, err)
	}
	for name, head := range map[string]ledgeranchor.Head{
		"another root":    {Origin: old.Origin, Size: old.Size, Root: ledgertest.HashOf("root", 1)},
		"a longer log":    {Origin: old.Origin, Size: old.Size + 100, Root: old.Root},
		"another log":     {Origin: "other.example", Size: old.Size, Root: old.Root},
		"another's place": {Origin: old.Origin, Size: old.Size - 1, Root: old.Root},
	} {
		if _, err := r.Consistent(t.Context(), &head); err == nil {
			t.Errorf("%s is taken for the same", name)
		}
	}
}

func TestAProofOfAnotherThingDoesNotHold(t *testing.T) {
	dir, c := fill(t, 300)
	l := open(t, dir)
	p, err := l.Reader.Prove(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	members := l.Members()
	if _, err := p.Verify(l.verifier, members); err != nil {
		t.Fatal(err)
	}
	other := create(t, c.Root)
	v, _, err := ReadTrust(filepath.Join(other, vkeyFile), filepath.Join(other, rootsFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(v, members); !errors.Is(err, ledgeranchor.ErrProof) {
		t.Errorf("with another log's key: %v", err)
	}
	if _, err := p.Verify(l.verifier, ledgeranchor.NewMembers(nil)); !errors.Is(err, ledgeranchor.ErrAuthor) {
		t.Errorf("without members: %v", err)
	}
	for i := range 8 * len(text) { // a changed bit anywhere
		changed := bytes.Clone(text)
		changed[i/8] ^= 1 << (i % 8)
		q, err := ledgeranchor.ParseLogProof(changed)
		if err != nil {
			continue
		}
		r, err := q.Verify(l.verifier, members)
		if err == nil {
			again, _ := q.MarshalText()
			t.Fatalf("bit %d was changed, and the proof holds: %+v\n%s", i, r, again)
		}
	}
}

func TestASecondOpenInOneProcessIsRefused(t *testing.T) {
	c := ledgertest.NewCast(t)
	dir := create(t, c.Root)
	open(t, dir)
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
}

func TestAKeyThatOthersMayReadIsRefused(t *testing.T) {
	dir := create(t)
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("%v", err)
	}
}

// The writers of TestKilledWritersLoseNothing are this test's binary.
const (
	writerDir  = "GID_LEDGER_WRITER_DIR"
	writerPEM  = "GID_LEDGER_WRITER_AUTHOR"
	writerFrom = "GID_LEDGER_WRITER_FROM"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		if err := writer(dir, os.Getenv(writerPEM), os.Getenv(writerFrom)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writer appends hops for ever, each second one of which another writer appends as
// well, and prints the number of each when it is acknowledged.
func writer(dir, author, from string) error {
	a, err := ledgertest.ReadAuthor(author)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(from)
	if err != nil {
		return err
	}
	l, err := Open(context.Background(), dir, Options{})
	if err != nil {
		return err
	}
	for ; ; n += 10 {
		var rs []*ledgeranchor.Record
		for i := range 10 {
			rs = append(rs, ledgertest.Hop(n+i, ledgertest.Source(n+i), time.UnixMilli(a.Certificate.NotBefore.UnixMilli()+int64(n+i))))
		}
		s, err := a.Sign(rs...)
		if err != nil {
			return err
		}
		if _, err := l.Append(context.Background(), s...); err != nil {
			return err
		}
		fmt.Println(n + 10)
	}
}

// What another process has appended is found by one that has the ledger open, and by
// one that opens it, while both go on.
func TestAProcessFindsWhatAnotherAppended(t *testing.T) {
	c := ledgertest.NewCast(t)
	dir := create(t, c.Root)
	l, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ledgertest.Introduce(t, l, c.Relay)
	author := filepath.Join(t.TempDir(), "author.pem")
	ledgertest.WriteAuthor(t, author, c.Relay)
	for round := range 2 { // the second opens a log that this process has taken further
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), writerDir+"="+dir, writerPEM+"="+author, writerFrom+"="+strconv.Itoa(round*1000))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		stuck := time.AfterFunc(30*time.Second, func() { child.Process.Kill() })
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatal("the other process has appended nothing")
		}
		stuck.Stop()
		n := 0
		for e, err := range l.Find(t.Context(), ledgeranchor.Query{Address: ledgertest.Source(round*1000 + 3)}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Record.Hop.Clock == uint64(round*1000+3) {
				n++
				if _, err := l.Get(t.Context(), e.Signed.Name()); err != nil {
					t.Error(err)
				}
			}
		}
		if n != 1 {
			t.Errorf("round %d: the record is found %d times", round, n)
		}
		child.Process.Kill()
		child.Wait()
		if _, err := l.Append(t.Context(), ledgertest.Sign(t, c.Relay, ledgertest.Hop(50_000+round, ledgertest.Source(1), time.Now()))...); err != nil {
			t.Fatal(err)
		}
	}
}

// introduce has a ledger know a cast's relay.
func introduce(t *testing.T, dir string, c *ledgertest.Cast) {
	t.Helper()
	l, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Introduce(t, l, c.Relay)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// holds checks that a ledger has the hops from 0 to before acked, and everything once, and that it is whole. It
// returns how many records there are.
func holds(t *testing.T, dir string, acked int) uint64 {
	t.Helper()
	l, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	size := l.index.size()
	if _, err := l.Reader.Prove(t.Context(), size-1); err != nil { // a checkpoint commits to the last
		t.Fatal(err)
	}
	h, _, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[uint64]bool)
	for e, err := range l.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Record.Kind != ledgeranchor.KindHop {
			continue
		}
		if seen[e.Record.Hop.Clock] {
			t.Fatalf("record %d is there twice", e.Record.Hop.Clock)
		}
		seen[e.Record.Hop.Clock] = true
	}
	for n := range acked {
		if !seen[uint64(n)] {
			t.Fatalf("record %d was acknowledged and is not there", n)
		}
	}
	if h.Size != size {
		t.Errorf("the log has %d records, the index %d", h.Size, size)
	}
	return size
}

// Several processes append to one log, some of it the same, and are killed: what
// was acknowledged is there, everything is there once, and the log is whole.
func TestKilledWritersLoseNothing(t *testing.T) {
	c := ledgertest.NewCast(t)
	dir := create(t, c.Root)
	introduce(t, dir, c)
	author := filepath.Join(t.TempDir(), "author.pem")
	ledgertest.WriteAuthor(t, author, c.Relay)
	const rounds = 4
	acked := 0
	for round := range rounds {
		from := acked
		var mu sync.Mutex
		var all sync.WaitGroup
		var kill sync.Once
		var children []*exec.Cmd
		for range 3 {
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), writerDir+"="+dir, writerPEM+"="+author, writerFrom+"="+strconv.Itoa(from))
			var stderr bytes.Buffer
			child.Stderr = &stderr
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			children = append(children, child)
			mu.Unlock()
			all.Go(func() {
				for lines := bufio.NewScanner(out); lines.Scan(); {
					n, err := strconv.Atoi(lines.Text())
					if err != nil {
						t.Errorf("the writer says %q", lines.Text())
						return
					}
					mu.Lock()
					acked = max(acked, n)
					mu.Unlock()
					kill.Do(func() {
						time.AfterFunc(time.Duration(30+41*round)*time.Millisecond, func() {
							mu.Lock()
							defer mu.Unlock()
							for _, c := range children {
								c.Process.Signal(syscall.SIGKILL)
							}
						})
					})
				}
				child.Wait()
				if stderr.Len() > 0 {
					t.Errorf("a writer failed: %s", stderr.String())
				}
			})
		}
		all.Wait()
		l, err := Open(t.Context(), dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	size := holds(t, dir, acked)
	if acked < 50 {
		t.Errorf("%d records were acknowledged, the log has %d; the test shows nothing", acked, size)
	}
}
