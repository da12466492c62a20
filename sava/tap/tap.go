// Package tap is a port's packet socket: by it a device hears what it says to
// hosts itself, and sends what its snooper wants sent.
package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxFrame is more than a DHCPv6 message is long.
const maxFrame = 4096

// outgoing are DHCPv6 messages to hosts that leave the port: a relay or a server
// may run on the device itself, and then no port sees them come in. VLAN tags are
// beside the frame here, not in it.
var outgoing = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 7},
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 14 + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
	bpf.LoadAbsolute{Off: 14 + 40 + 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 546, SkipTrue: 1},
	bpf.RetConstant{Val: maxFrame},
	bpf.RetConstant{Val: 0},
}

// Tap is the packet socket of a port.
type Tap struct {
	file     *os.File
	hardware net.HardwareAddr
}

// Open opens the packet socket of an interface.
func Open(index int) (*Tap, error) {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return nil, err
	}
	prog, err := bpf.Assemble(outgoing)
	if err != nil {
		return nil, err
	}
	// The socket hears nothing before it is bound, and is filtered by then.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "packet socket of "+i.Name)
	filter := make([]unix.SockFilter, len(prog))
	for k, x := range prog {
		filter[k] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), f.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: networkOrder(unix.ETH_P_ALL)}); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), f.Close())
	}
	return &Tap{file: f, hardware: i.HardwareAddr}, nil
}

// networkOrder returns the value whose bytes in memory are v in network byte order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// HardwareAddr returns the port's own link-layer address.
func (t *Tap) HardwareAddr() net.HardwareAddr { return t.hardware }

// Close closes the socket.
func (t *Tap) Close() error { return t.file.Close() }

// Send sends a frame out of the port.
func (t *Tap) Send(frame []byte) error {
	_, err := t.file.Write(frame)
	return err
}

// Run calls f with every DHCPv6 message, a whole frame, that the device sends to
// hosts at the port, until the context ends. The frame is f's during the call.
func (t *Tap) Run(ctx context.Context, f func(frame []byte)) error {
	stop := context.AfterFunc(ctx, func() { _ = t.file.SetReadDeadline(time.Unix(0, 1)) }) // it may be closed
	defer stop()
	b := make([]byte, maxFrame)
	for {
		n, err := t.file.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN):
			continue // until it is up again
		case err != nil:
			return fmt.Errorf("packet socket: %w", err)
		}
		f(b[:n])
	}
}
