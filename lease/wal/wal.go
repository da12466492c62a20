// Package wal is a log of changes that are durable before the database has written them, which it
// then may do when it likes, each key once.
//
// Who waits for a [Barrier] when no sync is under way begins one, of all that was appended until
// then; what is appended while one is goes into the next, which begins when that has ended and
// somebody waits. So there are no more syncs than are waited for, and each is of as much as came
// while others were busy. Frames and files are in frame.go.
package wal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brightgid/lease/datasync"
)

// maxPending is how many bytes wait for a barrier at the most before they are written without one.
const maxPending = 1 << 20

// Options are what New may be told.
type Options struct {
	Log *slog.Logger

	// Rand is where the files' salts are from; nil for the system's.
	Rand io.Reader

	// Full is called when the disk is full, again and again as long as it is, and returns when
	// it is worth another try. With none the log fails.
	Full func()

	// Failed is called once, when the log can no longer keep what it promises.
	Failed func(error)

	syncer syncer // nil for the disk's
}

// syncer is [datasync.Syncer].
type syncer interface {
	Start(fd uintptr)
	Ended() (bool, error)
	Wait() error
	Close() error
}

// Log is a log that is written. It is safe for concurrent use.
type Log struct {
	dir     string
	o       Options
	syncer  syncer
	watched chan struct{} // closed when nothing waits for the syncer any more

	mu      sync.Mutex
	ended   *sync.Cond // a sync has, or a wait for space, or a cut, or the log has failed
	file    *os.File
	salt    uint32   // the CRC of the file's
	files   []uint64 // by the numbers of their first frames; file is the last
	spare   bool
	offset  int64
	pending []byte // the frame that is next, with room for its head
	written []byte // the one before it
	number  uint64 // of the last frame that was written
	begun   uint64 // up to which frame the sync that is under way goes
	syncing bool
	stuck   bool // somebody writes, without the lock: the disk is full
	cutting bool // somebody cuts, and until then no sync begins
	err     error
	last    *Barrier

	synced atomic.Uint64 // up to which frame all is durable
	size   atomic.Int64  // bytes since the last cut
}

// New begins a log in a directory, which is made if there is none, and has to be empty: see
// [Replay] and [Clear].
func New(dir string, o Options) (*Log, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("write-ahead log: %w", err)
	}
	if err := datasync.Dir(filepath.Dir(dir)); err != nil { // or the directory might be gone with the power
		return nil, fmt.Errorf("write-ahead log: %w", err)
	}
	l := &Log{dir: dir, o: o, watched: make(chan struct{}), pending: make([]byte, headLen, 64<<10)}
	l.ended = sync.NewCond(&l.mu)
	switch exists, err := Exists(dir); {
	case err != nil:
		return nil, fmt.Errorf("write-ahead log: %w", err)
	case exists:
		return nil, fmt.Errorf("write-ahead log: there is one in %s already", dir)
	}
	if err := l.create(1); err != nil {
		return nil, fmt.Errorf("write-ahead log: %w", err)
	}
	if l.syncer = o.syncer; l.syncer == nil {
		s := datasync.New()
		if !s.Asynchronous() {
			o.Log.Debug("the log is synced by the system call, which costs more")
		}
		l.syncer = s
	}
	go l.watch()
	return l, nil
}

// watch waits for syncs, but for those that somebody else sees to have ended before.
func (l *Log) watch() {
	defer close(l.watched)
	for l.syncer.Wait() == nil {
		l.mu.Lock()
		l.look()
		l.mu.Unlock()
	}
}

// create makes the file that the next frames go to, from one that is not needed any more if there
// is such, which the file system need not find room for.
func (l *Log) create(first uint64) (err error) {
	path := filepath.Join(l.dir, nameOf(first))
	if l.spare {
		l.spare = false
		if err := os.Rename(filepath.Join(l.dir, spareName), path); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	var salt [8]byte
	if _, err := io.ReadFull(l.o.Rand, salt[:]); err != nil {
		return errors.Join(err, f.Close())
	}
	head, sum := start(salt)
	_, err = f.WriteAt(head, 0)
	if err = errors.Join(err, f.Sync(), datasync.Dir(l.dir)); err != nil {
		return errors.Join(err, f.Close())
	}
	if l.file != nil {
		err = l.file.Close()
	}
	l.file, l.salt, l.offset, l.files = f, sum, int64(len(head)), append(l.files, first)
	l.size.Store(0)
	return err
}

// Append adds operations, which will be replayed all or none; see [AppendSet] and [AppendDelete].
func (l *Log) Append(operations []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, operations...)
	l.size.Add(int64(len(operations)))
	if len(l.pending) > maxPending && !l.stuck {
		l.write()
	}
}

// Size is how many bytes were appended since the last cut.
func (l *Log) Size() int64 { return l.size.Load() }

// write writes the frame that is next.
func (l *Log) write() {
	frame := l.pending
	l.pending, l.written = append(l.written[:0], frame[:headLen]...), frame
	if l.err != nil {
		return
	}
	l.number++
	seal(frame, l.salt, l.number, l.synced.Load())
	for len(frame) > 0 {
		n, err := writeAt(l.file, frame, l.offset)
		frame = frame[n:]
		l.offset += int64(n)
		if err != nil && !l.full(err) {
			l.fail(err)
			return
		}
	}
}

// shortFrame is what is written without telling the scheduler. To copy more may take so long that other
// goroutines should have the processor meanwhile.
const shortFrame = 64 << 10

// writeAt writes at least some of b where it returns no error.
//
// Go's scheduler is not told of a short write, which the kernel copies without waiting for the disk. Its
// monitor sleeps while no goroutine can run, which is so once in each sync, and whoever tells the scheduler of a system
// call wakes it, to look every 20 µs whether that blocks: a tenth of the processor's time. Where
// the kernel does hold up who writes, as when there is much that the disk has not yet, the processor is kept from
// other goroutines; those that file leases would have to wait for the log anyway.
func writeAt(f *os.File, b []byte, at int64) (int, error) {
	if len(b) <= shortFrame && strconv.IntSize == 64 { // with fewer bits an offset is two arguments
		n, _, e := unix.RawSyscall6(unix.SYS_PWRITE64, f.Fd(), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0)
		if e == 0 && n > 0 {
			return int(n), nil
		}
	}
	return f.WriteAt(b, at) // and it tells what is wrong
}

// full reports whether an error is that the disk is full, and if so returns when it is worth
// another try. Others may append and take barriers meanwhile.
func (l *Log) full(err error) bool {
	if l.o.Full == nil || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return false
	}
	if l.spare && l.discard() == nil {
		return true
	}
	l.stuck = true
	l.mu.Unlock()
	l.o.Full()
	l.mu.Lock()
	l.stuck = false
	l.ended.Broadcast()
	return true
}

// discard removes what is kept of a file for the next.
func (l *Log) discard() error {
	l.spare = false
	return os.Remove(filepath.Join(l.dir, spareName))
}

func (l *Log) fail(err error) {
	if l.err != nil {
		return
	}
	l.err = fmt.Errorf("write-ahead log: %w", err)
	l.ended.Broadcast()
	if l.o.Failed != nil {
		l.o.Failed(l.err)
	}
}

// begin writes what is next and begins a sync.
func (l *Log) begin() {
	if len(l.pending) > headLen {
		l.write()
	}
	if l.err != nil || l.cutting { // who cuts may have come while the disk was full
		return
	}
	l.begun, l.syncing = l.number, true
	l.syncer.Start(l.file.Fd())
}

// look sees whether a sync has ended. It begins none, which might wait for space: who waits for a
// barrier does, and is woken.
func (l *Log) look() {
	if !l.syncing {
		return
	}
	ended, err := l.syncer.Ended()
	if !ended {
		return
	}
	l.syncing = false
	if err != nil {
		// What the kernel could not write it may hold for clean now: nobody may try again.
		l.fail(err)
		return
	}
	l.synced.Store(l.begun)
	l.ended.Broadcast()
}

// Barrier is a point in the log.
type Barrier struct {
	log    *Log
	number uint64
}

// Barrier returns the point that all is before which was appended so far. It is the same as long
// as nothing is appended.
func (l *Log) Barrier() *Barrier {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	number := l.number
	if len(l.pending) > headLen {
		number++
	}
	if l.last != nil && l.last.number == number {
		return l.last
	}
	l.last = &Barrier{l, number}
	return l.last
}

// Wait returns when everything before the barrier is durable.
func (b *Barrier) Wait() error {
	if b.Settled() {
		return nil
	}
	l := b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	for !b.Settled() && l.err == nil {
		if l.syncing || l.stuck || l.cutting {
			l.ended.Wait()
		} else {
			l.begin()
		}
	}
	if b.Settled() {
		return nil
	}
	return l.err
}

// Settled reports whether everything before the barrier is durable.
func (b *Barrier) Settled() bool { return b.log.synced.Load() >= b.number }

// Cut has what is appended from now on go to another file, and returns how many there are before
// it. [Log.Remove] removes them, when the database has durably written what is in them.
func (l *Log) Cut() (files int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.cutting {
		l.ended.Wait()
	}
	// Others would begin one sync after another if they could meanwhile. One that is under way has to
	// have ended: the kernel tells only one of two of what it could not write.
	l.cutting = true
	defer func() {
		l.cutting = false
		l.ended.Broadcast()
	}()
	for (l.stuck || l.syncing) && l.err == nil {
		l.ended.Wait()
	}
	if l.err != nil {
		return 0, l.err
	}
	if l.offset == int64(startLen) && len(l.pending) == headLen {
		return len(l.files) - 1, nil
	}
	for len(l.pending) > headLen && l.err == nil { // others may append while the disk is full
		l.write()
	}
	l.write() // with nothing in it, which is the end
	if l.err != nil {
		return 0, l.err
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		l.fail(err)
		return 0, l.err
	}
	l.synced.Store(l.number)
	l.ended.Broadcast()
	err = l.create(l.number + 1)
	for err != nil && l.full(err) {
		err = l.create(l.number + 1)
	}
	if err != nil {
		l.fail(err)
	}
	return len(l.files) - 1, l.err
}

// Remove removes the oldest n files, which were cut off.
func (l *Log) Remove(n int) error {
	for range n {
		l.mu.Lock()
		if len(l.files) < 2 {
			l.mu.Unlock()
			return nil
		}
		oldest, keep := filepath.Join(l.dir, nameOf(l.files[0])), !l.spare
		l.files = l.files[1:]
		l.mu.Unlock()
		// A file must not come back when one after it is gone, for the older value would be
		// the last to be replayed.
		var err error
		if keep {
			err = os.Rename(oldest, filepath.Join(l.dir, spareName))
		} else {
			err = os.Remove(oldest)
		}
		if err := errors.Join(err, datasync.Dir(l.dir)); err != nil {
			return fmt.Errorf("write-ahead log: %w", err)
		}
		if keep {
			l.mu.Lock()
			l.spare = true
			l.mu.Unlock()
		}
	}
	return nil
}

// Discard removes what is kept of a file for the next. It must not be called beside Cut, Prepare or
// Remove.
func (l *Log) Discard() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.spare {
		return nil
	}
	if err := l.discard(); err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	return nil
}

// step is how much of a file is written ahead at once, and made durable, so that no sync of what
// somebody waits for finds it unwritten.
const step = 256 << 10

// Prepare makes the file that comes after the next [Log.Cut], or what is kept for it of one that
// was removed, size bytes long, so that a sync has nothing to do there but to write what is new.
// After each of many steps it calls on with how long that took and how many are left, and ends if that returns false. It
// does nothing if that would take more than a quarter of the free space. It must not be called
// beside Cut or Remove.
func (l *Log) Prepare(size int64, on func(took time.Duration, left int) bool) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(l.dir, &disk); err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	if int64(disk.Bavail)*disk.Bsize/4 < size {
		return nil
	}
	path, flags := filepath.Join(l.dir, spareName), os.O_WRONLY|os.O_CREATE
	l.mu.Lock()
	if !l.spare {
		flags |= os.O_TRUNC
	}
	l.spare = false // until it is done
	l.mu.Unlock()
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	if err := errors.Join(extend(f, size, on), f.Close()); err != nil {
		return fmt.Errorf("write-ahead log: %w", errors.Join(err, os.Remove(path)))
	}
	l.mu.Lock()
	l.spare = true
	l.mu.Unlock()
	return nil
}

// Spare returns how long the file is that is kept for the next, 0 if there is none.
func (l *Log) Spare() (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock() // who finds the disk full removes it
	if !l.spare {
		return 0, nil
	}
	info, err := os.Stat(filepath.Join(l.dir, spareName))
	if err != nil {
		return 0, fmt.Errorf("write-ahead log: %w", err)
	}
	return info.Size(), nil
}

// extend writes zeros after the end of a file up to a size.
func extend(f *os.File, size int64, on func(took time.Duration, left int) bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, step)
	for at := info.Size(); at < size; at += step {
		began := time.Now()
		if _, err := f.WriteAt(zeros, at); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if left := size - at - step; !on(time.Since(began), int(max(0, left+step-1)/step)) {
			break
		}
	}
	return nil
}

// Close makes everything durable and closes the log. Nothing may be called after it.
func (l *Log) Close() error {
	err := l.Barrier().Wait()
	l.mu.Lock()
	for l.syncing && l.err == nil {
		l.ended.Wait()
	}
	l.mu.Unlock()
	err = errors.Join(err, l.syncer.Close())
	<-l.watched
	return errors.Join(err, l.file.Close())
}
