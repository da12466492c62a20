package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Wire is a host's end of a cable: frames go out of it and come in from it as
// they are, past the host's own network stack.
type Wire struct {
	fd  int
	MAC net.HardwareAddr
}

// Wire opens an interface of the host. Frames that the host's stack sends are not
// seen.
func (n *Namespace) Wire(iface string) (*Wire, error) {
	w := &Wire{fd: -1}
	err := n.Enter(func() error {
		i, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		w.MAC = i.HardwareAddr
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: all})
	})
	if err != nil && w.fd >= 0 {
		unix.Close(w.fd)
	}
	return w, err
}

// Close closes the wire.
func (w *Wire) Close() error { return unix.Close(w.fd) }

// Send sends a frame.
func (w *Wire) Send(frame []byte) error {
	if _, err := unix.Write(w.fd, frame); err != nil {
		return fmt.Errorf("sending a frame of %d bytes: %w", len(frame), err)
	}
	return nil
}

// Receive returns the next frame, or nil if none comes in time.
func (w *Wire) Receive(within time.Duration) ([]byte, error) {
	tv := unix.NsecToTimeval(max(within, time.Microsecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	b := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(w.fd, b, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}
