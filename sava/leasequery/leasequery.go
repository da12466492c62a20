// Package leasequery keeps a table of bindings as a DHCPv6 server's leases are, by
// Bulk (RFC 5460) and Active Leasequery (RFC 7653) over TCP with TLS.
package leasequery

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/sava"
)

// Messages of RFC 7653 that insomniacslk/dhcp does not name.
const (
	messageActiveLeaseQuery dhcp6.MessageType = 22
	messageStartTLS         dhcp6.MessageType = 23
)

// statusDataMissing says that the past is not known, which is no error here: a
// bulk query tells the present.
const statusDataMissing = 12

// Timers.
const (
	connectWithin = 15 * time.Second
	heardWithin   = time.Minute // three times a server's sign of life, on a connection that follows
	retryFirst    = time.Second
	retryMost     = time.Minute
)

// Client follows a server.
type Client struct {
	Dial  func(ctx context.Context) (net.Conn, error)
	TLS   *tls.Config
	DUID  []byte // by which it names itself
	Table *sava.Table
	Now   func() time.Time
	Log   *slog.Logger

	connected atomic.Bool
	synced    atomic.Int64 // unix seconds of the last whole answer; 0 for never
	changes   atomic.Uint64
}

// Status is how a client stands with its server.
type Status struct {
	Connected bool      `json:"connected"` // it hears of changes
	Synced    time.Time `json:"synced"`    // when it last heard of all leases; zero for never
	Changes   uint64    `json:"changes"`   // that it heard of
}

// Status returns how the client stands.
func (c *Client) Status() Status {
	s := Status{Connected: c.connected.Load(), Changes: c.changes.Load()}
	if t := c.synced.Load(); t != 0 {
		s.Synced = time.Unix(t, 0).UTC()
	}
	return s
}

// Run follows the server until the context ends. While there is no connection the
// table stays as it is.
func (c *Client) Run(ctx context.Context) error {
	wait := retryFirst
	for {
		begun := c.Now()
		err := c.follow(ctx)
		c.connected.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if c.Now().Sub(begun) > retryMost {
			wait = retryFirst
		}
		pause := wait/2 + mrand.N(wait/2) // filters that lost a server do not all come back at once
		c.Log.Warn("no leasequery connection; bindings stay as they are", "error", err, "retry_in", pause.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		wait = min(2*wait, retryMost)
	}
}

// follow follows the server over one connection.
func (c *Client) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	active, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer active.Close()
	s := &session{client: c, before: make(map[netip.Addr]sava.Binding), changed: make(map[netip.Addr]struct{})}
	if err := active.ask(messageActiveLeaseQuery, nil); err != nil {
		return err
	}
	// What is bound before the server has begun to tell of changes, and is then
	// neither told as a lease nor as a change, is leased no more.
	c.Table.Each(func(a netip.Addr, b sava.Binding) bool { s.before[a] = b; return true })
	c.connected.Store(true)
	followed := make(chan error, 1)
	go func() {
		defer cancel()
		followed <- s.changes(active)
	}()
	if err := s.bulk(ctx); err != nil {
		active.Close()
		return errors.Join(err, <-followed)
	}
	return <-followed
}

// session is one time of following a server.
type session struct {
	client *Client

	mu      sync.Mutex
	before  map[netip.Addr]sava.Binding // as the table was; nil when it was compared
	changed map[netip.Addr]struct{}     // since; what bulk says of them is older
}

// changes applies what the server tells until the connection ends.
func (s *session) changes(conn *connection) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(heardWithin)); err != nil {
			return err
		}
		typ, options, err := conn.read()
		if err != nil {
			return fmt.Errorf("active leasequery: %w", err)
		}
		switch typ {
		case dhcp6.MessageTypeLeaseQueryDone:
			return errors.Join(errors.New("active leasequery: the server ended it"), status(options))
		case dhcp6.MessageTypeLeaseQueryData:
		default:
			return fmt.Errorf("active leasequery: an unexpected message of type %d", typ)
		}
		if err := s.apply(options, true); err != nil {
			return fmt.Errorf("active leasequery: %w", err)
		}
	}
}

// bulk asks for all leases, over a connection of its own (RFC 7653 §9.1), and
// removes bindings that the server does not know.
func (s *session) bulk(ctx context.Context) error {
	conn, err := s.client.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	const queryByLinkAddress = 4 // of link-address "::", which is all links
	query := make([]byte, 17)
	query[0] = queryByLinkAddress
	if err := conn.ask(dhcp6.MessageTypeLeaseQuery, query); err != nil {
		return fmt.Errorf("bulk leasequery: %w", err)
	}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(heardWithin)); err != nil {
			return err
		}
		typ, options, err := conn.read()
		if err != nil {
			return fmt.Errorf("bulk leasequery: %w", err)
		}
		switch typ {
		case dhcp6.MessageTypeLeaseQueryData:
			if err := s.apply(options, false); err != nil {
				return fmt.Errorf("bulk leasequery: %w", err)
			}
		case dhcp6.MessageTypeLeaseQueryDone:
			if err := status(options); err != nil {
				return fmt.Errorf("bulk leasequery: %w", err)
			}
			if err := s.removeOthers(); err != nil {
				return err
			}
			s.client.synced.Store(s.client.Now().Unix())
			s.client.Log.Info("following the server's leases", "bindings", s.client.Table.Len())
			return nil
		default:
			return fmt.Errorf("bulk leasequery: an unexpected message of type %d", typ)
		}
	}
}

// apply makes the bindings that the client data in a message tell of.
func (s *session) apply(options []byte, change bool) error {
	return sava.EachOption(options, func(code dhcp6.OptionCode, data []byte) error {
		if code != dhcp6.OptionClientData {
			return nil
		}
		d, err := sava.ParseClientData(data)
		if err != nil {
			return err
		}
		if change {
			s.client.changes.Add(1)
		}
		now := s.client.Now()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range d.Addrs {
			if _, newer := s.changed[l.Addr]; newer && !change {
				continue
			}
			if s.before != nil {
				delete(s.before, l.Addr)
				if change {
					s.changed[l.Addr] = struct{}{}
				}
			}
			if err := s.client.Table.Lease(l, d.MAC, now); errors.Is(err, sava.ErrTableFull) || errors.Is(err, sava.ErrLengths) {
				s.client.Log.Error("a lease is not bound; its host cannot send", "error", err)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

// removeOthers removes bindings that were there before and that the server did not
// tell of. One that has changed meanwhile, by what the device saw itself, stays.
func (s *session) removeOthers() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, was := range s.before {
		err := s.client.Table.Change(a, func(b sava.Binding, bound bool) (sava.Binding, bool) { return b, bound && b != was })
		if err != nil {
			return err
		}
	}
	s.before, s.changed = nil, nil
	return nil
}

// StatusError is a status by which a server refuses or ends an answer.
type StatusError struct {
	Code uint16
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d (%s)", e.Code, e.Text) }

// status returns a message's status as an error; nil for success.
func status(options []byte) error {
	return sava.EachOption(options, func(code dhcp6.OptionCode, data []byte) error {
		if code == dhcp6.OptionStatusCode && len(data) >= 2 && binary.BigEndian.Uint16(data) != 0 {
			return &StatusError{binary.BigEndian.Uint16(data), string(data[2:])}
		}
		return nil
	})
}

// connection is a TLS connection that carries messages.
type connection struct {
	*tls.Conn
	in   *bufio.Reader
	xid  [3]byte
	duid []byte
	buf  []byte
}

// connect dials and begins TLS (RFC 7653 §8.4). The connection ends with the
// context.
func (c *Client) connect(ctx context.Context) (*connection, error) {
	within, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	plain, err := c.Dial(within)
	if err != nil {
		return nil, err
	}
	x := &connection{duid: c.DUID}
	if err := x.startTLS(within, plain, c.TLS); err != nil {
		plain.Close()
		return nil, err
	}
	context.AfterFunc(ctx, func() { plain.Close() })
	return x, nil
}

func (x *connection) startTLS(ctx context.Context, plain net.Conn, config *tls.Config) error {
	if err := plain.SetDeadline(time.Now().Add(connectWithin)); err != nil {
		return err
	}
	if _, err := rand.Read(x.xid[:]); err != nil {
		return err
	}
	if _, err := plain.Write(x.message(messageStartTLS, nil)); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	typ, options, err := x.readFrom(plain)
	if err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	if typ != messageStartTLS {
		return fmt.Errorf("STARTTLS: the server answered by a message of type %d", typ)
	}
	if err := status(options); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	x.Conn = tls.Client(plain, config)
	if err := x.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	x.in = bufio.NewReaderSize(x.Conn, 64<<10)
	return x.SetDeadline(time.Time{})
}

// message makes a message behind its length: type(1) transaction(3) options.
func (x *connection) message(typ dhcp6.MessageType, query []byte) []byte {
	b := []byte{0, 0, byte(typ), x.xid[0], x.xid[1], x.xid[2]}
	option := func(code dhcp6.OptionCode, data []byte) {
		b = binary.BigEndian.AppendUint16(b, uint16(code))
		b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
		b = append(b, data...)
	}
	if typ != messageStartTLS {
		option(dhcp6.OptionClientID, x.duid)
	}
	if query != nil {
		option(dhcp6.OptionLQQuery, query)
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	return b
}

// ask sends a query and waits for a reply that does not refuse it.
func (x *connection) ask(typ dhcp6.MessageType, query []byte) error {
	if err := x.SetDeadline(time.Now().Add(connectWithin)); err != nil {
		return err
	}
	if _, err := x.Write(x.message(typ, query)); err != nil {
		return err
	}
	got, options, err := x.read()
	if err != nil {
		return err
	}
	if got != dhcp6.MessageTypeLeaseQueryReply {
		return fmt.Errorf("the server answered by a message of type %d", got)
	}
	var refused *StatusError
	if err := status(options); err != nil && !(errors.As(err, &refused) && refused.Code == statusDataMissing) {
		return fmt.Errorf("the server refuses: %w", err)
	}
	return x.SetDeadline(time.Time{})
}

// read reads a message. Its options are valid until the next.
func (x *connection) read() (typ dhcp6.MessageType, options []byte, err error) {
	return x.readFrom(x.in)
}

func (x *connection) readFrom(r io.Reader) (typ dhcp6.MessageType, options []byte, err error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n < 4 {
		return 0, nil, fmt.Errorf("a message of %d bytes", n)
	}
	if x.buf == nil {
		x.buf = make([]byte, math.MaxUint16)
	}
	b := x.buf[:n]
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, err
	}
	if [3]byte(b[1:4]) != x.xid {
		return 0, nil, errors.New("a message of another transaction")
	}
	return dhcp6.MessageType(b[0]), b[4:], nil
}
