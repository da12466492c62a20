// Package datasync makes files durable without keeping a thread.
//
// A Go program whose thread is in fdatasync(2) for a quarter of a millisecond has its scheduler
// take the processor from that thread, wake another and look every 20 µs whether it must do so again,
// which costs as much as the sync where syncs follow one another. Linux does the same by its
// asynchronous I/O (io_submit(2), IOCB_CMD_FDSYNC, since 4.18) and tells by an eventfd(2), for
// which the scheduler waits as it does for a socket.
package datasync

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syncer syncs one file at a time. It is safe for concurrent use; who comes while another waits,
// syncs by the system call.
type Syncer struct {
	mu    sync.Mutex
	ctx   uintptr // aio_context_t
	event *os.File
	buf   [8]byte // how many syncs have ended since the last read, which is one
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

// New returns a Syncer, or an error where the kernel has no asynchronous I/O.
func New() (*Syncer, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s := &Syncer{event: os.NewFile(uintptr(fd), "eventfd")}
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&s.ctx)), 0); e != 0 {
		return nil, errors.Join(fmt.Errorf("io_setup: %w", e), s.event.Close())
	}
	return s, nil
}

// Fdatasync returns when what was written to the file is on disk.
func (s *Syncer) Fdatasync(fd uintptr) error {
	if !s.mu.TryLock() {
		return unix.Fdatasync(int(fd))
	}
	defer s.mu.Unlock()
	if s.ctx == 0 {
		return unix.Fdatasync(int(fd))
	}
	raw, err := s.event.SyscallConn()
	if err != nil {
		return err
	}
	cb := &iocb{opcode: cmdFdatasync, fd: uint32(fd), flags: flagEventFD}
	err = raw.Control(func(event uintptr) { cb.eventFD = uint32(event) })
	if err != nil {
		return err
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, s.ctx, 1, uintptr(unsafe.Pointer(&cb))); e != 0 {
		// Whatever keeps the kernel from it (a filesystem without, memory), the call tells the truth.
		return unix.Fdatasync(int(fd))
	}
	if _, err := s.event.Read(s.buf[:]); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	var done ioEvent
	for {
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, s.ctx, 1, 1, uintptr(unsafe.Pointer(&done)), 0, 0)
		switch {
		case e == unix.EINTR:
		case e != 0:
			return fmt.Errorf("io_getevents: %w", e)
		case n == 1 && done.res < 0:
			return fmt.Errorf("fdatasync: %w", syscall.Errno(-done.res))
		case n == 1:
			return nil
		}
	}
}

// Close frees what the kernel holds, of a Syncer or of none. A sync after it is by the system call.
func (s *Syncer) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == 0 {
		return nil
	}
	_, _, e := unix.Syscall(unix.SYS_IO_DESTROY, s.ctx, 0, 0)
	s.ctx = 0
	if e != 0 {
		return errors.Join(fmt.Errorf("io_destroy: %w", e), s.event.Close())
	}
	return s.event.Close()
}
