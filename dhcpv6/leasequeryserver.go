package dhcpv6

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/lease"
)

// Limits of leasequery connections.
const (
	maxQueriers   = 64               // connections at once
	queryIdle     = 2 * time.Minute  // until a connection without a query is closed
	writeWithin   = 30 * time.Second // until one that does not read is closed
	handshakeTime = 10 * time.Second
	farewell      = time.Second // to end what was begun when the server stops
	maxQuery      = 4096        // bytes of a message from a querier
)

// keepAlive is how often an idle active leasequery is heard from (RFC 7653 §9.2).
// It is less than half of what a follower should wait.
const keepAlive = 20 * time.Second

// LeaseQueryServer answers Bulk (RFC 5460) and Active Leasequery (RFC 7653) over
// TCP. It speaks TLS 1.3 only, begun by a STARTTLS message, and only with those
// whose certificates it is given: bindings tell who was where.
type LeaseQueryServer struct {
	query atomic.Pointer[leaseQuery]
	feed  *Feed
	tls   *tls.Config
	now   func() time.Time
	log   *slog.Logger
}

// NewLeaseQueryServer returns a server for the leases of a handler's links.
func NewLeaseQueryServer(cfg Config, leases LeaseSource, feed *Feed, tlsConfig *tls.Config, now func() time.Time, log *slog.Logger) *LeaseQueryServer {
	s := &LeaseQueryServer{feed: feed, tls: tlsConfig, now: now, log: log}
	s.query.Store(&leaseQuery{serverID: cfg.ServerID, links: cfg.Links, leases: leases, secret: cfg.QuerySecret})
	return s
}

// Relink has the server answer for other links from the next query on.
func (s *LeaseQueryServer) Relink(links []Link) {
	q := *s.query.Load()
	q.links = links
	s.query.Store(&q)
}

// Serve answers queriers until the context ends.
func (s *LeaseQueryServer) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxQueriers)
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("leasequery: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log.Warn("too many leasequery connections; one was refused", "from", conn.RemoteAddr())
			conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			hurry := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now().Add(farewell)) }) // it may be closed
			defer hurry()
			if err := s.serve(ctx, conn); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
				s.log.Info("a leasequery connection ended", "from", conn.RemoteAddr(), "reason", err)
			}
		})
	}
}

// serve speaks with one querier.
func (s *LeaseQueryServer) serve(ctx context.Context, plain net.Conn) error {
	conn, err := s.startTLS(ctx, plain)
	if err != nil {
		return err
	}
	defer conn.Close()
	s.log.Info("a leasequery connection", "from", plain.RemoteAddr(), "name", conn.ConnectionState().PeerCertificates[0].Subject.CommonName)
	out := bufio.NewWriterSize(&deadlineWriter{ctx, conn}, 64<<10)
	in := bufio.NewReader(conn)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(queryIdle)); err != nil {
			return err
		}
		b, err := readMessage(in)
		if err != nil {
			return err
		}
		q, err := parseQuery(b)
		if err != nil {
			return fmt.Errorf("a query that cannot be read: %w", err)
		}
		if q.typ == messageActiveLeaseQuery {
			return s.active(ctx, conn, in, out, &q)
		}
		if q.typ != dhcp6.MessageTypeLeaseQuery {
			return fmt.Errorf("an unexpected message of type %d", q.typ)
		}
		if err := s.bulk(out, &q); err != nil {
			return err
		}
	}
}

// startTLS waits for a STARTTLS message, answers it and shakes hands (RFC 7653
// §8.4). Any other message is refused.
func (s *LeaseQueryServer) startTLS(ctx context.Context, plain net.Conn) (*tls.Conn, error) {
	if err := plain.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	b, err := readMessage(plain)
	if err != nil {
		return nil, err
	}
	q, err := parseQuery(b)
	if err != nil {
		return nil, err
	}
	if q.typ != messageStartTLS {
		_, err := plain.Write(s.query.Load().reply(nil, &q, s.now(), statusNotAllowed, "begin with STARTTLS"))
		return nil, errors.Join(errors.New("it did not begin with STARTTLS"), err)
	}
	w := s.query.Load().message(nil, messageStartTLS, q.xid)
	if _, err := plain.Write(finish(&w, 0)); err != nil {
		return nil, err
	}
	conn := tls.Server(plain, s.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return conn, plain.SetDeadline(time.Time{})
}

// readMessage reads a message behind its length (RFC 5460 §5.1).
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n < 4 || n > maxQuery {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// deadlineWriter gives every write some time and no more.
type deadlineWriter struct {
	ctx  context.Context // once it has ended, the time is set already
	conn net.Conn
}

func (w *deadlineWriter) Write(b []byte) (int, error) {
	if w.ctx.Err() == nil {
		if err := w.conn.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
			return 0, err
		}
	}
	return w.conn.Write(b)
}

// bulk answers a LEASEQUERY (RFC 5460 §6): a reply, the bindings, and the end.
func (s *LeaseQueryServer) bulk(out *bufio.Writer, q *query) error {
	if status, text := s.query.Load().check(q); status != iana.StatusSuccess {
		if _, err := out.Write(s.query.Load().reply(nil, q, s.now(), status, text)); err != nil {
			return err
		}
		return out.Flush()
	}
	if _, err := out.Write(s.query.Load().reply(nil, q, s.now(), iana.StatusSuccess, "")); err != nil {
		return err
	}
	now := s.now()
	var b []byte
	err := s.query.Load().each(q, now, func(x *lease.Lease) error {
		b = s.query.Load().data(b[:0], q.xid, x, false, now)
		_, err := out.Write(b)
		return err
	})
	end := s.query.Load().done(nil, q.xid, iana.StatusSuccess, "")
	if err != nil {
		s.log.Error("a leasequery could not be answered whole", "error", err)
		end = s.query.Load().done(nil, q.xid, statusQueryTerminated, "the leases could not be read")
	}
	if _, err := out.Write(end); err != nil {
		return err
	}
	return out.Flush()
}

// active answers an ACTIVELEASEQUERY (RFC 7653 §9): changes as they come, until
// the connection ends. Changes before it are not kept apart from the leases; a
// follower that asks for them hears that data are missing and makes a bulk query.
func (s *LeaseQueryServer) active(ctx context.Context, conn *tls.Conn, in io.Reader, out *bufio.Writer, q *query) error {
	status, text := s.query.Load().check(q)
	if status == iana.StatusSuccess && q.since {
		status, text = statusDataMissing, "changes of the past are not kept; make a bulk query"
	}
	w := s.feed.follow()
	defer s.feed.unfollow(w)
	if _, err := out.Write(s.query.Load().reply(nil, q, s.now(), status, text)); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if status != iana.StatusSuccess && status != statusDataMissing {
		return nil
	}
	// A follower says nothing more; when it can be read, it is gone.
	gone := make(chan error, 1)
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	go func() {
		_, err := in.Read(make([]byte, 1))
		if err == nil {
			err = errors.New("a message during an active leasequery")
		}
		gone <- err
	}()
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	var b []byte
	for {
		b = b[:0]
		select {
		case <-ctx.Done():
			b = s.query.Load().done(b, q.xid, statusQueryTerminated, "the server stops")
		case err := <-gone:
			return err
		case <-w.behind:
			b = s.query.Load().done(b, q.xid, statusQueryTerminated, "too many changes wait; begin anew")
		case x := <-w.changes:
			b = s.query.Load().data(b, q.xid, &x.Lease, true, s.now())
		case <-idle.C:
			b = s.query.Load().data(b, q.xid, nil, true, s.now())
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
		if len(w.changes) == 0 || dhcp6.MessageType(b[2]) == dhcp6.MessageTypeLeaseQueryDone {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if dhcp6.MessageType(b[2]) == dhcp6.MessageTypeLeaseQueryDone {
			return nil
		}
	}
}
