// Package powercut takes the power from a program that writes, for tests: again and again it shows
// what the disk has at a moment in the midst of writing.
//
// The disk is a file in a tmpfs with an ext4 in it, which the kernel mounts by a loop device. What a program has
// written and not synced is in the kernel's memory and not in that file, so that a copy of it is what
// would be left if the power went. While a copy is made and looked at the program is stopped; then it
// goes on, as if nothing had been.
//
// A sync that is under way when the program is stopped ends before the copy is made, so that a program which tells
// of something a moment too early is not found out. A real disk may also have written later things and not earlier ones; here the file has them in the
// order in which the kernel gave them to it.
package powercut

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Writer is a program that writes for ever, and prints a line when something is durable.
type Writer struct {
	// Prepare makes in a directory what the writer finds there; it may be nil.
	Prepare func(t *testing.T, dir string)

	// Start returns the command that writes in a directory.
	Start func(dir string) *exec.Cmd

	// Check looks at what a cut has left of the directory, where all has to be that the writer has told
	// of by these lines. It may write there, and has to close what it opens.
	Check func(t *testing.T, dir string, lines []string)
}

// inMounts says that the test is in a mount namespace of its own, with which its file systems go.
const inMounts = "GID_POWERCUT_MOUNTS"

// Alone reports whether the test has a mount namespace to itself. If not it has the test run anew where it
// has, and the test is to return. It needs root.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems and must run as root")
	}
	if os.Getenv(inMounts) != "" {
		return true
	}
	inner := exec.Command("unshare", "--mount", "--propagation", "private", "--kill-child", "--fork",
		os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "5m")
	inner.Env = append(os.Environ(), inMounts+"=1")
	out, err := inner.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Fatal(err)
	}
	return false
}

// Run cuts the power of a writer so many times. The test runs anew, and so has to call Run first.
func Run(t *testing.T, cuts int, w Writer) {
	t.Helper()
	if !Alone(t) {
		return
	}
	d := NewDisk(t)
	const name = "state"
	if w.Prepare != nil {
		w.Prepare(t, filepath.Join(d.Dir, name))
	}
	p := start(t, w.Start(filepath.Join(d.Dir, name)))
	p.wait(t)
	for cut := range cuts {
		time.Sleep(time.Duration(20+rand.IntN(100)) * time.Millisecond)
		told := p.told()
		d.Cut(t, p.cmd.Process.Pid, func(left string) { w.Check(t, filepath.Join(left, name), told) })
		t.Logf("cut %d, after %d lines: all is there", cut, len(told))
	}
	if len(p.told()) < 2*cuts {
		t.Errorf("the writer has told of %d things; the test shows nothing", len(p.told()))
	}
}

// Disk is an ext4 in a file of a tmpfs.
type Disk struct {
	Dir           string // where it is mounted
	image, device string
}

// NewDisk makes a disk, which goes with the test's mount namespace; see [Alone].
func NewDisk(t *testing.T) *Disk {
	t.Helper()
	dir := t.TempDir()
	d := &Disk{image: filepath.Join(dir, "image"), Dir: t.TempDir()}
	mount(t, "tmpfs", dir, "size=2g,mode=700", "-t", "tmpfs")
	command(t, "truncate", "--size", "800M", d.image)
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=8", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", d.image)
	mount(t, d.image, d.Dir, "loop")
	d.device = filepath.Base(command(t, "findmnt", "--noheadings", "--output", "SOURCE", d.Dir))
	return d
}

// mount mounts a file system for as long as the test goes on.
func mount(t *testing.T, what, at, options string, more ...string) {
	t.Helper()
	command(t, "mount", append(more, "-o", options, what, at)...)
	t.Cleanup(func() { unmount(t, at) })
}

// unmount unmounts a file system, of which a test that has failed may have left files open.
func unmount(t *testing.T, at string) {
	t.Helper()
	command(t, "umount", "--lazy", at)
}

// Cut stops a child, the only one that writes to the disk, and calls f with a directory that has what is left of
// the disk if the power goes now. Then the child goes on.
func (d *Disk) Cut(t *testing.T, pid int, f func(dir string)) {
	t.Helper()
	defer stop(t, pid)()
	copied, left := d.image+".cut", t.TempDir()
	for try := 0; ; try++ {
		// The kernel goes on with what it was asked for, and has its own times for some of it.
		before := d.still(t)
		command(t, "cp", "--sparse=always", d.image, copied)
		if d.writes(t) == before {
			break
		}
		if try == 50 {
			t.Fatal("the disk is written to all the time by what is stopped")
		}
	}
	defer os.Remove(copied)
	command(t, "mount", "-o", "loop", copied, left) // which replays the file system's own log
	defer unmount(t, left)
	f(left)
}

// writes are the disk's counter of writes and how many requests it has under way.
func (d *Disk) writes(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/block", d.device, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b))
	if len(f) < 9 {
		t.Fatalf("%s: %q", d.device, b)
	}
	return fmt.Sprintf("%s written, %s under way", f[4], f[8])
}

// still returns the disk's counters when it has done what it was asked for.
func (d *Disk) still(t *testing.T) string {
	t.Helper()
	before := d.writes(t)
	for same := 0; same < 4; same++ {
		time.Sleep(3 * time.Millisecond)
		if now := d.writes(t); now != before || !strings.HasSuffix(now, " 0 under way") {
			before, same = now, 0
		}
	}
	return before
}

// process is a writer that runs.
type process struct {
	cmd *exec.Cmd

	mu    sync.Mutex
	lines []string
}

func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		all := bufio.NewScanner(out)
		for all.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, all.Text())
			p.mu.Unlock()
		}
		read <- all.Err()
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("the writer ended by itself: %v", err)
		}
		if err := <-read; err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	return p
}

// told are the lines that the writer has printed so far.
func (p *process) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// wait returns when the writer has told of something.
func (p *process) wait(t *testing.T) {
	t.Helper()
	for began := time.Now(); len(p.told()) == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("the writer tells of nothing")
		}
	}
}

// stop stops a child, and returns when none of its threads runs any more, nor is in a system call. What it
// returns has it go on.
func stop(t *testing.T, pid int) (goOn func()) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for {
		var state unix.WaitStatus
		_, err := unix.Wait4(pid, &state, unix.WUNTRACED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || !state.Stopped() {
			t.Fatalf("the writer did not stop: %v, status %#x", err, state)
		}
		break
	}
	return func() {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}
}

// command returns what a program writes.
func command(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
