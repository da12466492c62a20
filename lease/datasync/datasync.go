// Package datasync makes files durable without keeping a thread.
//
// A Go program whose thread is in fdatasync(2) for a quarter of a millisecond has its scheduler
// take the processor from that thread, wake another and look every 20 µs whether it must do so again,
// which costs as much as the sync where syncs follow one another. Linux does the same by its
// asynchronous I/O (io_submit(2), IOCB_CMD_FDSYNC, since 4.18) and tells by an eventfd(2), for
// which the scheduler waits as it does for a socket. These system calls do not wait, so that it need
// not be told of them.
package datasync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syncer makes what was written to a file durable, a sync at a time. Start and Ended are for one
// goroutine at a time; Wait may be called beside them.
type Syncer struct {
	ctx   uintptr // aio_context_t
	event *os.File
	raw   syscall.RawConn // of event
	cb    iocb
	done  ioEvent

	instead bool // of what was begun the system call has made err
	err     error

	// Where the kernel does it only by the system call, a goroutine is in it.
	call   chan uintptr
	result chan error
	ended  chan struct{}
}

// iocb and ioEvent are the kernel's (include/uapi/linux/aio_abi.h).
type iocb struct {
	_       uint64 // data, which comes back in the event
	_       uint32 // key, the kernel's
	_       int32  // rw_flags
	opcode  uint16
	_       int16 // priority
	fd      uint32
	_       [3]uint64 // buffer, length and offset
	_       uint64    // reserved
	flags   uint32
	eventFD uint32
}

type ioEvent struct {
	_   uint64 // data
	_   uint64 // the iocb
	res int64
	_   int64
}

const (
	cmdFdatasync = 3 // IOCB_CMD_FDSYNC
	flagEventFD  = 1 // IOCB_FLAG_RESFD
)

// New returns a Syncer, which syncs by the system call where the kernel does not do it otherwise
// or has no room for it.
func New() *Syncer {
	s, err := newAIO()
	if err != nil {
		return newCaller()
	}
	return s
}

func newAIO() (*Syncer, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s := &Syncer{event: os.NewFile(uintptr(fd), "eventfd")}
	s.cb = iocb{opcode: cmdFdatasync, flags: flagEventFD, eventFD: uint32(fd)}
	if s.raw, err = s.event.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.event.Close())
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&s.ctx)), 0); e != 0 {
		return nil, errors.Join(fmt.Errorf("io_setup: %w", e), s.event.Close())
	}
	return s, nil
}

func newCaller() *Syncer {
	s := &Syncer{call: make(chan uintptr, 1), result: make(chan error, 1), ended: make(chan struct{}, 1)}
	go func() {
		defer close(s.ended)
		for fd := range s.call {
			s.result <- unix.Fdatasync(int(fd))
			select {
			case s.ended <- struct{}{}:
			default:
			}
		}
	}()
	return s
}

// Asynchronous reports whether the kernel syncs without keeping a thread.
func (s *Syncer) Asynchronous() bool { return s.call == nil }

// Start begins to make durable what was written to a file, which has to stay open until
// [Syncer.Ended] has said that it is done. Nothing may have been begun before that is not.
func (s *Syncer) Start(fd uintptr) {
	if s.call != nil {
		s.call <- fd
		return
	}
	s.cb.fd = uint32(fd)
	cb := &s.cb
	if _, _, e := unix.RawSyscall(unix.SYS_IO_SUBMIT, s.ctx, 1, uintptr(unsafe.Pointer(&cb))); e != 0 {
		// Whatever keeps the kernel from it (a file system without, memory), the call tells the truth.
		s.instead, s.err = true, unix.Fdatasync(int(fd))
		// An eventfd takes more than could ever be written here.
		_, _ = unix.Write(int(s.cb.eventFD), binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// Ended reports, without waiting, whether what was begun has ended, once, and if so how.
func (s *Syncer) Ended() (bool, error) {
	if s.call != nil {
		select {
		case err := <-s.result:
			return true, wrap(err)
		default:
			return false, nil
		}
	}
	if s.instead {
		s.instead = false
		return true, wrap(s.err)
	}
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_IO_GETEVENTS, s.ctx, 0, 1, uintptr(unsafe.Pointer(&s.done)), 0, 0)
		switch {
		case e == unix.EINTR:
		case e != 0:
			return true, fmt.Errorf("io_getevents: %w", e)
		case n == 0:
			return false, nil
		case s.done.res < 0:
			return true, wrap(syscall.Errno(-s.done.res))
		default:
			return true, nil
		}
	}
}

func wrap(err error) error {
	if err != nil {
		err = fmt.Errorf("fdatasync: %w", err)
	}
	return err
}

// Wait returns when Ended may have something to say, which is not sure, or an error after Close.
func (s *Syncer) Wait() error {
	if s.call != nil {
		if _, ok := <-s.ended; !ok {
			return os.ErrClosed
		}
		return nil
	}
	var count [8]byte // how many syncs have ended since
	var e unix.Errno
	if failed := s.raw.Read(func(fd uintptr) bool {
		// It does not wait, so that the scheduler need not know of it: see wal's writeAt.
		_, _, e = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
		return e != unix.EAGAIN && e != unix.EINTR
	}); failed != nil {
		return os.ErrClosed
	}
	if e != 0 {
		return e
	}
	return nil
}

// Close has Wait return an error and frees what the kernel holds. Nothing may be called after it,
// nor while something that was begun has not ended.
func (s *Syncer) Close() error {
	if s.call != nil {
		close(s.call)
		return nil
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_DESTROY, s.ctx, 0, 0); e != 0 {
		return errors.Join(fmt.Errorf("io_destroy: %w", e), s.event.Close())
	}
	return s.event.Close()
}

// Dir makes durable which files a directory has.
func Dir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
