package radius

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2869"
)

// macLen is the length of a Message-Authenticator in bytes.
const macLen = md5.Size

// mac returns the HMAC-MD5 of a packet whose Message-Authenticator is zero (RFC 3579
// §3.2), with the authenticator of its request.
func mac(p *radius.Packet, request [16]byte) ([]byte, error) {
	q := *p
	q.Authenticator = request
	q.Attributes = make(radius.Attributes, 0, len(p.Attributes))
	for _, a := range p.Attributes {
		if a.Type == rfc2869.MessageAuthenticator_Type {
			a = &radius.AVP{Type: a.Type, Attribute: make([]byte, macLen)}
		}
		q.Attributes = append(q.Attributes, a)
	}
	b, err := q.MarshalBinary()
	if err != nil {
		return nil, err
	}
	h := hmac.New(md5.New, p.Secret)
	h.Write(b)
	return h.Sum(nil), nil
}

// sign puts the right Message-Authenticator into a request that has one. Accounting has
// none: its Request Authenticator is made with the secret (RFC 2866 §3).
func sign(p *radius.Packet) error {
	if p.Code == radius.CodeAccountingRequest {
		return nil
	}
	sum, err := mac(p, p.Authenticator)
	if err != nil {
		return err
	}
	return rfc2869.MessageAuthenticator_Set(p, sum)
}

// signed reports whether an answer to a request has one right Message-Authenticator.
func signed(p *radius.Packet, request [16]byte) bool {
	got, err := rfc2869.MessageAuthenticator_Gets(p)
	if err != nil || len(got) != 1 || len(got[0]) != macLen {
		return false
	}
	want, err := mac(p, request)
	return err == nil && hmac.Equal(got[0], want)
}

// tlsClient speaks to a server by one TLS connection (RFC 6614), which it makes when there
// is none. Up to 256 questions are under way on it.
type tlsClient struct {
	addr   string
	config *tls.Config
	secret []byte

	mu      sync.Mutex
	conn    net.Conn
	next    byte
	waiting map[byte]*asked
}

type asked struct {
	wire   []byte
	answer chan answer
}

type answer struct {
	p   *radius.Packet
	err error
}

var (
	errBusy   = errors.New("256 questions are under way")
	errForged = errors.New("an answer is not the server's")
)

// exchange asks and waits for the answer.
func (c *tlsClient) exchange(ctx context.Context, p *radius.Packet) (*radius.Packet, error) {
	a, err := c.send(ctx, p)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		c.mu.Lock()
		if c.waiting[p.Identifier] == a { // it may be a later connection's
			delete(c.waiting, p.Identifier)
		}
		c.mu.Unlock()
		return nil, ctx.Err()
	case x := <-a.answer:
		return x.p, x.err
	}
}

func (c *tlsClient) send(ctx context.Context, p *radius.Packet) (*asked, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		d := tls.Dialer{Config: c.config}
		conn, err := d.DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return nil, err
		}
		c.conn, c.waiting = conn, make(map[byte]*asked)
		go c.read(conn, c.waiting)
	}
	if len(c.waiting) == 256 {
		return nil, errBusy
	}
	for c.waiting[c.next] != nil {
		c.next++
	}
	p.Identifier = c.next
	c.next++
	if err := sign(p); err != nil {
		return nil, err
	}
	wire, err := p.Encode()
	if err != nil {
		return nil, err
	}
	a := &asked{wire, make(chan answer, 1)}
	c.waiting[p.Identifier] = a
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.conn.SetWriteDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if _, err := c.conn.Write(wire); err != nil {
		delete(c.waiting, p.Identifier)
		_ = c.conn.Close() // its reader ends the others' wait
		c.conn = nil
		return nil, err
	}
	return a, nil
}

// idle is how long a connection is kept on which nothing comes.
const idle = 5 * time.Minute

// read hands answers to those who wait for them, until the connection ends.
func (c *tlsClient) read(conn net.Conn, waiting map[byte]*asked) {
	r := bufio.NewReader(conn)
	var err error
	for err == nil {
		if err = conn.SetReadDeadline(time.Now().Add(idle)); err == nil {
			err = c.readOne(r, waiting)
		}
	}
	_ = conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
	for _, a := range waiting {
		a.answer <- answer{err: err}
	}
	clear(waiting)
}

func (c *tlsClient) readOne(r *bufio.Reader, waiting map[byte]*asked) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	if n < 20 || n > radius.MaxPacketLength {
		return errForged
	}
	b := make([]byte, n)
	copy(b, head[:])
	if _, err := io.ReadFull(r, b[4:]); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := waiting[b[1]]
	if a == nil {
		return nil // it came too late
	}
	p, err := radius.Parse(b, c.secret)
	if err == nil && !radius.IsAuthenticResponse(b, a.wire, c.secret) {
		err = errForged
	}
	if err != nil {
		// Who waits is told when nobody can be given this connection any more.
		return err
	}
	delete(waiting, b[1])
	a.answer <- answer{p: p}
	return nil
}
