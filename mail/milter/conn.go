package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

// listener gives the milter's server connections with fewer system calls.
type listener struct{ net.Listener }

// Listen wraps a listener for [milter.Server.Serve].
func Listen(l net.Listener) net.Listener { return listener{l} }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 4<<10)}, nil
}

// writeWithin bounds the time that an MTA takes to read answers.
const writeWithin = time.Minute

// maxPacket bounds a packet's bytes; an MTA that was offered so much sends a mebibyte.
const maxPacket = 1<<20 + 1

var errPacket = errors.New("a milter packet that is none")

// wellFormed reports whether the library's server reads what comes with a command without
// a panic: it takes a string's end for granted in some.
func wellFormed(command byte, data []byte) bool {
	end := bytes.IndexByte(data, 0)
	switch command {
	case 'C': // a name, a family of addresses
		return end >= 0 && end+1 < len(data)
	case 'M', 'R': // an address
		return end >= 0
	default: // of macros, for which command they are
		return len(data) > 0
	}
}

// conn is an MTA's connection. What is written goes out when more is read: the answers to
// a command, and what it changes, are one write, and the commands that an MTA sends
// without waiting are one read. Packets by which the library's server would panic end it.
type conn struct {
	net.Conn
	r    *bufio.Reader
	left int // bytes of the packet that is being read

	mu sync.Mutex // the server closes connections from elsewhere
	w  *bufio.Writer
}

// Read implements net.Conn. It never returns bytes of two packets.
func (c *conn) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.r.Buffered() < 4 {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
		head, err := c.r.Peek(5)
		if err != nil {
			return 0, err
		}
		n := binary.BigEndian.Uint32(head)
		if n == 0 || n > maxPacket {
			return 0, errPacket
		}
		switch head[4] {
		case 'C', 'D', 'M', 'R':
			packet, err := c.r.Peek(4 + int(n)) // errors if it is longer than the buffer
			if err != nil {
				return 0, err
			}
			if !wellFormed(head[4], packet[5:]) {
				return 0, errPacket
			}
		}
		c.left = 4 + int(n)
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w.Available() < len(p) { // packets are not torn, where they can be whole
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	return c.w.Write(p)
}

func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *conn) flushLocked() error {
	if c.w.Buffered() == 0 {
		return nil
	}
	if err := c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	return c.w.Flush()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	return errors.Join(c.flush(), c.Conn.Close())
}
