// Package udpbatch reads and writes many datagrams of a UDP socket over IPv6 with one system call
// (recvmmsg(2), sendmmsg(2)), with the addresses and interfaces that they came to and leave from
// (RFC 3542), and allocates nothing for them.
//
// The system calls do not wait, and Go's scheduler is not told of them: it would take the processor from
// a thread that is in one for more than 20 µs, as one that sends many datagrams is, and wake another.
//
// Datagrams to one peer that are as long as one another are handed over as one, which the kernel
// or the network adapter cuts up (generic segmentation offload, udp(7)'s UDP_SEGMENT): what a
// packet costs on its way through the kernel is then paid once for all of them. Those that came from one
// peer right after one another may be handed over as one by the kernel as well (UDP_GRO).
package udpbatch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Message is a datagram.
type Message struct {
	Data []byte

	// Peer is who sent it, or whom it goes to. Its zone is left out; where its address is
	// link-local, Interface tells.
	Peer netip.AddrPort

	// Local is the address that it came to, or that it leaves from; the zero Addr leaves that
	// to the kernel.
	Local netip.Addr

	// Interface is the index of the interface that it came in by, or that it leaves by; 0
	// leaves that to the kernel.
	Interface int

	// Received is when the kernel got it, in nanoseconds since 1970 by the system's clock, and 0 unless [Conn.Stamp]
	// asks for that. Of datagrams that the kernel has joined it is when it got the first.
	Received int64

	// Truncated says that it was longer than the Reader's buffers.
	Truncated bool
}

const (
	// maxSegments is how many datagrams the kernel cuts one into at the most (UDP_MAX_SEGMENTS
	// of the oldest version that does).
	maxSegments = 64

	// maxSegment is the length in bytes of the longest datagram that is sent so: it is no
	// fragment on a link of IPv6's least MTU.
	maxSegment = 1280 - 40 - 8

	// maxTogether bounds what is handed over as one, in bytes.
	maxTogether = 65535 - 40 - 8

	// lookBack is among how many groups a datagram's is looked for, so that datagrams to many
	// peers cost no more than those to few.
	lookBack = 8
)

// buffer is how many bytes of datagrams a socket holds that are not read yet.
const buffer = 4 << 20

// Listen opens sockets on a port of every address, over which the kernel spreads datagrams, each
// peer's to one of them. Multicast comes to those only that join a group themselves. It is an
// error that another program has the port.
func Listen(port, count int) (conns []*net.UDPConn, err error) {
	defer func() {
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			conns = nil
		}
	}()
	// Sockets that share the port would let in those of another program that does the same; one
	// that does not share it tells.
	alone, err := net.ListenUDP("udp6", &net.UDPAddr{Port: port})
	if err != nil {
		return nil, err
	}
	port = alone.LocalAddr().(*net.UDPAddr).Port
	if err := alone.Close(); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = errors.Join(
				os.NewSyscallError("SO_REUSEPORT", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)),
				os.NewSyscallError("IPV6_MULTICAST_ALL", unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)))
			// Larger buffers, by CAP_NET_ADMIN where the system's limit is lower, are better and no
			// condition of service.
			for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, buffer)
			}
		})
		return errors.Join(err, failed)
	}}
	for range count {
		c, err := config.ListenPacket(context.Background(), "udp6", net.JoinHostPort("::", strconv.Itoa(port)))
		if err != nil {
			return conns, err
		}
		conns = append(conns, c.(*net.UDPConn))
	}
	return conns, nil
}

// Conn is a UDP socket. Its Readers and Writers may be used by one goroutine each.
type Conn struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	whole atomic.Bool // the kernel or the adapter does not cut datagrams up
}

// New has a socket tell where datagrams came to, and take those that came together as one, where the
// kernel does that (since Linux 5.0).
func New(conn *net.UDPConn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("IPV6_RECVPKTINFO: %w", err)
	}
	if err := gro(raw, 1); err != nil {
		return nil, err
	}
	return &Conn{conn: conn, raw: raw}, nil
}

// gro has the kernel hand over datagrams as one, or not. One that cannot does not.
func gro(raw syscall.RawConn, on int) error {
	return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, on) })
}

// Singly has the kernel handle each datagram by itself from now on, both ways.
func (c *Conn) Singly() error {
	c.whole.Store(true)
	return gro(c.raw, 0)
}

// Stamp has the kernel tell, or tell no more, when it got each datagram (socket(7)'s SO_TIMESTAMPNS). Where no other program
// asks for that it begins a moment later, and tells until then when a datagram was read.
func (c *Conn) Stamp(on bool) error {
	value := 0
	if on {
		value = 1
	}
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = os.NewSyscallError("SO_TIMESTAMPNS", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, value))
	})
	return errors.Join(err, failed)
}

// mmsghdr is the kernel's (struct mmsghdr of socket.h).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A control message is length(8) level(4) type(4) and data up to a multiple of 8 bytes (RFC 3542
// §20), on processors of 64 bits.
const (
	cmsgHeader   = 16
	pktInfoLen   = 20 // address(16) index(4)
	pktInfoSpace = cmsgHeader + 24
	segmentLen   = 2 // when sent; the kernel tells it in 4
	segmentSpace = cmsgHeader + 8
	stampLen     = 16 // seconds(8) nanoseconds(8)
	stampSpace   = cmsgHeader + stampLen

	readSpace  = pktInfoSpace + segmentSpace + stampSpace
	writeSpace = pktInfoSpace + segmentSpace
)

// slot is the length in bytes of the memory for what the kernel hands over as one, which has up to 65535. It is
// an odd number of cache lines more than a power of two, since the beginnings of all would be in the same places of
// the processor's caches otherwise.
const slot = 1<<16 + 5*64

// Reader is memory for datagrams that are read together.
type Reader struct {
	conn *Conn
	size int
	hdrs []mmsghdr
	iovs []unix.Iovec
	name []unix.RawSockaddrInet6
	data []byte // a slot for each
	oob  [][readSpace]byte
	msgs []Message

	read  func(fd uintptr) bool // true when it is done
	poll  func(fd uintptr) bool // true always
	n     int
	errno syscall.Errno

	next int // of the n that were read, the first that was not returned as a whole
	done int // bytes of it that were
}

// NewReader returns a Reader of up to count datagrams of up to size bytes each, at most 65535. It has 64 KiB for each
// datagram, of which those are in use that something was written to.
func (c *Conn) NewReader(count, size int) *Reader {
	r := &Reader{
		conn: c, size: size, hdrs: make([]mmsghdr, count), iovs: make([]unix.Iovec, count), name: make([]unix.RawSockaddrInet6, count),
		data: make([]byte, count*slot), oob: make([][readSpace]byte, count), msgs: make([]Message, 0, count),
	}
	for i := range r.hdrs {
		r.iovs[i].Base = &r.data[i*slot]
		r.iovs[i].SetLen(slot)
		h := &r.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.name[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = &r.oob[i][0]
	}
	r.read = func(fd uintptr) bool {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])), uintptr(len(r.hdrs)), unix.MSG_DONTWAIT, 0, 0)
		r.n, r.errno = int(n), e
		return e != unix.EAGAIN && e != unix.EINTR
	}
	r.poll = func(fd uintptr) bool {
		if !r.read(fd) {
			r.n, r.errno = 0, 0
		}
		return true
	}
	return r
}

// Read waits for datagrams and returns those that are there. They are valid until the next call.
func (r *Reader) Read() ([]Message, error) { return r.receive(r.read) }

// Poll is Read that does not wait: it returns none where none is there.
func (r *Reader) Poll() ([]Message, error) { return r.receive(r.poll) }

func (r *Reader) receive(read func(fd uintptr) bool) ([]Message, error) {
	if r.next == r.n {
		for i := range r.hdrs {
			h := &r.hdrs[i].hdr
			h.Namelen = unix.SizeofSockaddrInet6
			h.SetControllen(len(r.oob[i]))
		}
		r.next = 0
		err := r.conn.raw.Read(read)
		if err == nil && r.errno != 0 {
			err = os.NewSyscallError("recvmmsg", r.errno)
		}
		if err != nil {
			r.n = 0
			return nil, err
		}
	}
	r.msgs = r.msgs[:0]
	for ; r.next < r.n && len(r.msgs) < cap(r.msgs); r.next++ {
		if r.cut(); r.done > 0 {
			break
		}
	}
	return r.msgs, nil
}

// cut appends the datagrams that the next of what was read was made of, as many as there is room for; done is
// where the rest of it begins, and 0 if there is none.
func (r *Reader) cut() {
	h := &r.hdrs[r.next]
	all := r.data[r.next*slot:][:h.n]
	m := Message{Peer: netip.AddrPortFrom(netip.AddrFrom16(r.name[r.next].Addr), port(r.name[r.next].Port))}
	var length int
	m.Local, m.Interface, length, m.Received = parseControl(r.oob[r.next][:h.hdr.Controllen])
	if length == 0 {
		length = len(all)
	}
	for len(r.msgs) < cap(r.msgs) {
		end := min(r.done+length, len(all))
		m.Data = all[r.done:end:end]
		m.Truncated = h.hdr.Flags&unix.MSG_TRUNC != 0 || len(m.Data) > r.size
		m.Data = m.Data[:min(len(m.Data), r.size)]
		r.msgs = append(r.msgs, m)
		if r.done = end; end == len(all) {
			r.done = 0
			return
		}
	}
}

// port turns the kernel's big-endian port to the processor's order, or back.
func port(p uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return binary.BigEndian.Uint16(b[:])
}

// parseControl returns what the control message IPV6_PKTINFO says; how long each datagram is if
// one of UDP_GRO says that there are several, the last of which may be shorter, and otherwise 0; and the
// time of one of SO_TIMESTAMPNS, which is 0 without.
func parseControl(oob []byte) (dst netip.Addr, index, length int, received int64) {
	for len(oob) >= cmsgHeader {
		n := binary.NativeEndian.Uint64(oob)
		if n < cmsgHeader || n > uint64(len(oob)) {
			break
		}
		level, typ := binary.NativeEndian.Uint32(oob[8:]), binary.NativeEndian.Uint32(oob[12:])
		switch {
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && n >= cmsgHeader+pktInfoLen:
			dst, index = netip.AddrFrom16([16]byte(oob[16:32])), int(binary.NativeEndian.Uint32(oob[32:]))
		case level == unix.IPPROTO_UDP && typ == unix.UDP_GRO && n >= cmsgHeader+4:
			length = int(binary.NativeEndian.Uint32(oob[16:]) & 0xffff)
		case level == unix.SOL_SOCKET && typ == unix.SO_TIMESTAMPNS && n >= cmsgHeader+stampLen:
			received = int64(binary.NativeEndian.Uint64(oob[16:]))*1e9 + int64(binary.NativeEndian.Uint64(oob[24:]))
		}
		oob = oob[min((n+7)&^7, uint64(len(oob))):]
	}
	return dst, index, length, received
}

// appendPktInfo says where a datagram leaves from.
func appendPktInfo(b []byte, src netip.Addr, index int) []byte {
	b = binary.NativeEndian.AppendUint64(b, cmsgHeader+pktInfoLen)
	b = binary.NativeEndian.AppendUint32(b, unix.IPPROTO_IPV6)
	b = binary.NativeEndian.AppendUint32(b, unix.IPV6_PKTINFO)
	if !src.IsValid() {
		src = netip.IPv6Unspecified()
	}
	raw := src.As16()
	b = append(b, raw[:]...)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return append(b, 0, 0, 0, 0)
}

// appendSegment says how long each datagram is that one is cut into.
func appendSegment(b []byte, size int) []byte {
	b = binary.NativeEndian.AppendUint64(b, cmsgHeader+segmentLen)
	b = binary.NativeEndian.AppendUint32(b, unix.IPPROTO_UDP)
	b = binary.NativeEndian.AppendUint32(b, unix.UDP_SEGMENT)
	b = binary.NativeEndian.AppendUint16(b, uint16(size))
	return append(b, 0, 0, 0, 0, 0, 0)
}

// Writer is memory for datagrams that are written together.
type Writer struct {
	conn   *Conn
	groups []group
	of     []int // the group of each message
	hdrs   []mmsghdr
	iovs   []unix.Iovec
	name   []unix.RawSockaddrInet6
	oob    [][writeSpace]byte

	write func(fd uintptr) bool
	from  int // of hdrs
	n     int
	errno syscall.Errno
}

// group is messages that are handed over as one.
type group struct {
	first  *Message
	count  int
	iovs   int // where its iovecs begin
	filled int
}

// NewWriter returns a Writer.
func (c *Conn) NewWriter() *Writer {
	w := &Writer{conn: c}
	w.write = func(fd uintptr) bool {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.hdrs[w.from])), uintptr(len(w.hdrs)-w.from), unix.MSG_DONTWAIT, 0, 0)
		w.n, w.errno = int(n), e
		return e != unix.EAGAIN && e != unix.EINTR
	}
	return w
}

// Write sends datagrams, of which none is empty. It calls refused for each that the kernel did not
// take, and sends the others. An error says that the socket cannot be used.
func (w *Writer) Write(msgs []Message, refused func(*Message, error)) error {
	return w.send(msgs, !w.conn.whole.Load(), refused)
}

func (w *Writer) send(msgs []Message, join bool, refused func(*Message, error)) error {
	if len(msgs) == 0 {
		return nil
	}
	w.arrange(msgs, join)
	defer runtime.KeepAlive(msgs)
	for w.from = 0; w.from < len(w.hdrs); w.from += w.n {
		if err := w.conn.raw.Write(w.write); err != nil {
			return err
		}
		if w.errno == 0 {
			continue
		}
		// The first was refused; those behind it may do better.
		err := os.NewSyscallError("sendmmsg", w.errno)
		w.n = 1
		if w.groups[w.from].count == 1 {
			refused(w.groups[w.from].first, err)
			continue
		}
		switch w.errno {
		case unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.ENOPROTOOPT:
			w.conn.whole.Store(true)
		}
		return w.singly(msgs, refused)
	}
	return nil
}

// singly sends what is not sent yet as it is, after a group was refused.
func (w *Writer) singly(msgs []Message, refused func(*Message, error)) error {
	var rest []Message
	for i := range msgs {
		if w.of[i] >= w.from {
			rest = append(rest, msgs[i])
		}
	}
	return w.send(rest, false, refused)
}

// arrange fills in the headers, one for each group.
func (w *Writer) arrange(msgs []Message, join bool) {
	w.groups, w.of = w.groups[:0], w.of[:0]
next:
	for i := range msgs {
		m := &msgs[i]
		if join && len(m.Data) <= maxSegment {
			for k := len(w.groups) - 1; k >= max(0, len(w.groups)-lookBack); k-- {
				g := &w.groups[k]
				if g.count < maxSegments && len(g.first.Data) == len(m.Data) && (g.count+1)*len(m.Data) <= maxTogether &&
					g.first.Peer == m.Peer && g.first.Local == m.Local && g.first.Interface == m.Interface {
					g.count++
					w.of = append(w.of, k)
					continue next
				}
			}
		}
		w.of = append(w.of, len(w.groups))
		w.groups = append(w.groups, group{first: m, count: 1})
	}
	n := len(w.groups)
	if cap(w.hdrs) < n {
		w.hdrs, w.name, w.oob = make([]mmsghdr, n), make([]unix.RawSockaddrInet6, n), make([][writeSpace]byte, n)
	}
	w.hdrs, w.name, w.oob = w.hdrs[:n], w.name[:n], w.oob[:n]
	if cap(w.iovs) < len(msgs) {
		w.iovs = make([]unix.Iovec, len(msgs))
	}
	w.iovs = w.iovs[:len(msgs)]
	at := 0
	for k := range w.groups {
		g := &w.groups[k]
		g.iovs = at
		at += g.count
		w.name[k] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port(g.first.Peer.Port()), Addr: g.first.Peer.Addr().As16()}
		if g.first.Peer.Addr().IsLinkLocalUnicast() {
			w.name[k].Scope_id = uint32(g.first.Interface)
		}
		oob := appendPktInfo(w.oob[k][:0], g.first.Local, g.first.Interface)
		if g.count > 1 {
			oob = appendSegment(oob, len(g.first.Data))
		}
		w.hdrs[k] = mmsghdr{}
		h := &w.hdrs[k].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&w.name[k])), unix.SizeofSockaddrInet6
		h.Iov = &w.iovs[g.iovs]
		h.SetIovlen(g.count)
		h.Control = &oob[0]
		h.SetControllen(len(oob))
	}
	for i := range msgs {
		g := &w.groups[w.of[i]]
		v := &w.iovs[g.iovs+g.filled]
		v.Base = &msgs[i].Data[0]
		v.SetLen(len(msgs[i].Data))
		g.filled++
	}
}
