// Package netlab makes small networks of Linux network namespaces, starts real
// programs in them and removes every trace of them afterwards. The end-to-end
// tests, the benchmarks and the demo run in it. It needs root.
package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namePrefix marks this package's namespaces; the process id of the owner
// follows, so that a later lab can remove what a killed one left.
const namePrefix = "gidlab"

// Lab is a set of namespaces and of processes in them.
type Lab struct {
	// Dir is a directory for the lab's files. It goes with the lab.
	Dir string

	id     string
	mu     sync.Mutex
	spaces []*Namespace
	mounts []string
	groups []string // control groups
	procs  []*Process
	closed bool
}

var (
	labMu    sync.Mutex
	labCount int
)

// New makes an empty lab.
func New() (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run as root, or with sudo")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("the program ip is missing: apt-get install iproute2")
	}
	labMu.Lock()
	defer labMu.Unlock()
	if labCount == 0 {
		sweep()
	}
	labCount++
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", namePrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	return &Lab{Dir: dir, id: fmt.Sprintf("%s%d-%d", namePrefix, os.Getpid(), labCount)}, nil
}

// dead reports whether a name is of a lab whose owner is no more.
func dead(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return false
	}
	pid, _, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(pid)
	return err == nil && n != os.Getpid() && syscall.Kill(n, 0) == syscall.ESRCH
}

// sweep removes the namespaces, mounts, control groups and files of owners that are no more. What
// it cannot remove, it leaves.
func sweep() {
	if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "bpf" {
				if rel, err := filepath.Rel(os.TempDir(), f[1]); err == nil && dead(strings.Split(rel, "/")[0]) {
					_ = unix.Unmount(f[1], unix.MNT_DETACH)
				}
			}
		}
	}
	if dirs, err := os.ReadDir(os.TempDir()); err == nil {
		for _, d := range dirs {
			if dead(d.Name()) {
				_ = os.RemoveAll(filepath.Join(os.TempDir(), d.Name()))
			}
		}
	}
	sweepGroups()
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if dead(name) {
			_ = remove(name)
		}
	}
}

// remove ends what runs in a namespace of ours and deletes it.
func remove(name string) error {
	if pids, err := exec.Command("ip", "netns", "pids", name).Output(); err == nil {
		for _, f := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(f); err == nil && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
			}
		}
	}
	return run("ip", "netns", "delete", name)
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Close ends all processes of the lab, removes its namespaces, and its files. It
// may be called twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	procs, spaces, mounts, groups := l.procs, l.spaces, l.mounts, l.groups
	l.mu.Unlock()
	var errs []error
	for i := len(procs) - 1; i >= 0; i-- {
		procs[i].signalGroup()
	}
	for _, n := range spaces { // with what has left its group, as daemons do
		errs = append(errs, remove(n.Name))
	}
	for _, p := range procs {
		<-p.done
	}
	for _, m := range mounts {
		errs = append(errs, unix.Unmount(m, unix.MNT_DETACH))
	}
	for _, g := range groups {
		errs = append(errs, removeGroup(g))
	}
	return errors.Join(append(errs, os.RemoveAll(l.Dir))...)
}

// Namespace is one host of a lab.
type Namespace struct {
	Name string
	lab  *Lab
}

// Namespace makes a host.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	n := &Namespace{Name: l.id + "-" + name, lab: l}
	if err := run("ip", "netns", "add", n.Name); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.spaces = append(l.spaces, n)
	l.mu.Unlock()
	// Duplicate address detection keeps an address tentative for a second or
	// two, and is not what the labs are about.
	for _, s := range []string{"all.accept_dad=0", "default.accept_dad=0", "all.accept_ra=0", "default.accept_ra=0"} {
		if err := n.Do("sysctl", "-qw", "net.ipv6.conf."+s); err != nil {
			return nil, err
		}
	}
	return n, n.Do("ip", "link", "set", "lo", "up")
}

// Connect joins two hosts by a cable, whose ends have the given names and MAC
// addresses; an empty one is chosen by the kernel.
func (l *Lab) Connect(a *Namespace, aName, aMAC string, b *Namespace, bName, bMAC string) error {
	args := []string{"link", "add", aName, "netns", a.Name}
	if aMAC != "" {
		args = append(args, "address", aMAC)
	}
	args = append(args, "type", "veth", "peer", "name", bName, "netns", b.Name)
	if bMAC != "" {
		args = append(args, "address", bMAC)
	}
	if err := run("ip", args...); err != nil {
		return err
	}
	return errors.Join(a.Do("ip", "link", "set", aName, "up"), b.Do("ip", "link", "set", bName, "up"))
}

// command prepares a program in the namespace.
func (n *Namespace) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
	c.Dir = n.lab.Dir
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// Do runs a program to its end. Its output is in the error.
func (n *Namespace) Do(name string, args ...string) error {
	_, err := n.Output(name, args...)
	return err
}

// Output runs a program to its end, within a minute, and returns what it wrote
// to standard output.
func (n *Namespace) Output(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := n.command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Process is a program that runs in a namespace.
type Process struct {
	cmd  *exec.Cmd
	log  buffer
	done chan struct{}
	err  error
}

// Start starts a program. What it writes is kept; see [Process.Log].
func (n *Namespace) Start(name string, args ...string) (*Process, error) {
	p := &Process{cmd: n.command(context.Background(), name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	if n.lab.closed {
		return nil, errors.New("the lab is closed")
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	n.lab.procs = append(n.lab.procs, p)
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the id of the process; "ip netns exec" has become the program.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log returns what the process wrote so far.
func (p *Process) Log() string { return p.log.String() }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the process to end.
func (p *Process) Wait(within time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		return fmt.Errorf("%s did not end within %s; it wrote:\n%s", filepath.Base(p.cmd.Args[4]), within, p.Log())
	}
}

// Stop asks the process to end, and makes it after ten seconds.
func (p *Process) Stop() error {
	_ = p.Signal(syscall.SIGTERM) // it may have ended by itself
	if err := p.Wait(10 * time.Second); p.running() {
		p.Kill()
		return err
	}
	return nil
}

func (p *Process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the process and its group at once.
func (p *Process) Kill() {
	p.signalGroup()
	<-p.done
}

func (p *Process) signalGroup() {
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL) // the group may be gone
}

// WaitLog waits until the process has written a text.
func (p *Process) WaitLog(text string, within time.Duration) error {
	return Until(within, func() error {
		if strings.Contains(p.Log(), text) {
			return nil
		}
		if !p.running() {
			return Final{fmt.Errorf("the process ended (%v) without writing %q; it wrote:\n%s", p.err, text, p.Log())}
		}
		return fmt.Errorf("%q was not written; only:\n%s", text, p.Log())
	})
}

// Final is an error that waiting does not mend.
type Final struct{ error }

// Until calls f until it returns nil, and returns its last error when that takes
// too long.
func Until(within time.Duration, f func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil || errors.As(err, new(Final)) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w", within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// buffer may be written and read at once. It keeps the last megabyte or two.
type buffer struct {
	mu sync.Mutex
	b  []byte
}

const bufferSize = 2 << 20

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	if len(b.b) > bufferSize {
		b.b = append([]byte(nil), b.b[len(b.b)-bufferSize/2:]...)
	}
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}
