package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DialTCP connects from an address of the host's, or from any if that is not valid.
func (n *Namespace) DialTCP(from netip.Addr, to netip.AddrPort) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if from.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	}
	err = n.Enter(func() error {
		conn, err = d.DialContext(context.Background(), "tcp6", to.String())
		return err
	})
	return conn, err
}

// SMTP is an SMTP client that says exactly what it is told to.
type SMTP struct {
	*textproto.Conn
	Extensions []string // what the server's answer to EHLO offers

	conn net.Conn
}

// smtpWithin is how long a server may take for an answer, on a busy machine.
const smtpWithin = 2 * time.Minute

// ReadResponse reads an answer and wants a status.
func (s *SMTP) ReadResponse(status int) (int, string, error) {
	if err := s.conn.SetDeadline(time.Now().Add(smtpWithin)); err != nil {
		return 0, "", err
	}
	return s.Conn.ReadResponse(status)
}

// SMTP connects to a relay's port and says EHLO.
func (n *Namespace) SMTP(from netip.Addr, to netip.AddrPort) (*SMTP, error) {
	conn, err := n.DialTCP(from, to)
	if err != nil {
		return nil, err
	}
	s := &SMTP{Conn: textproto.NewConn(conn), conn: conn}
	_, _, err = s.ReadResponse(220)
	if err == nil {
		var text string
		text, err = s.Do(250, "EHLO client.example")
		s.Extensions = strings.Split(text, "\n")
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Do gives a command and wants a status.
func (s *SMTP) Do(status int, format string, args ...any) (string, error) {
	if err := s.PrintfLine(format, args...); err != nil {
		return "", err
	}
	_, text, err := s.ReadResponse(status)
	return text, err
}

// Send sends a message as it is, which ends in CRLF and has no line that begins with a
// dot.
func (s *SMTP) Send(from, to string, message []byte) error {
	for _, c := range []struct {
		status int
		line   string
	}{{250, "MAIL FROM:<" + from + ">"}, {250, "RCPT TO:<" + to + ">"}, {354, "DATA"}} {
		if _, err := s.Do(c.status, "%s", c.line); err != nil {
			return err
		}
	}
	if _, err := s.W.Write(message); err != nil {
		return err
	}
	_, err := s.Do(250, ".")
	return err
}

// MailLoad sends messages over some connections, each after the one before.
type MailLoad struct {
	Host     *Namespace
	From     netip.Addr     // of the host's; any if it is not valid
	Server   netip.AddrPort // a relay
	Sessions int
	Messages int // in all; a negative number for as many as go until Stop
	Size     int // of each message, in bytes

	// Patient has a client that is refused, or whose connection breaks, try the same
	// message again, as an MTA does; else that ends the load.
	Patient bool

	// Accepted, if set, is called with the subject of each message that was accepted.
	Accepted func(subject string)

	stop atomic.Bool
}

// MailResult is what a load has done.
type MailResult struct {
	Accepted int
	Refused  int // attempts that were not accepted
	Elapsed  time.Duration
	Took     []time.Duration // from a message's MAIL command to its acceptance, sorted
}

// Percentile returns the time within which a part of the messages was accepted.
func (r *MailResult) Percentile(p float64) time.Duration {
	return r.Took[min(len(r.Took)-1, int(p*float64(len(r.Took))))]
}

// Stop ends the load after the messages that are under way.
func (l *MailLoad) Stop() { l.stop.Store(true) }

// Message returns a message of the load.
func (l *MailLoad) Message(subject string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: alice@example.org\r\nTo: bob@example.net\r\nSubject: %s\r\nMessage-ID: <%s@example.org>\r\n\r\n", subject, subject)
	for n := 0; b.Len() < l.Size; n++ {
		line := fmt.Sprintf("%08d All that is needed is a line that is about as long as lines are.", n)
		b.WriteString(line[:min(len(line), max(0, l.Size-b.Len()-2))])
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

// Run runs the load.
func (l *MailLoad) Run() (*MailResult, error) {
	var next atomic.Int64
	var mu sync.Mutex
	var all sync.WaitGroup
	r := &MailResult{}
	errs := make([]error, l.Sessions)
	began := time.Now()
	for i := range l.Sessions {
		all.Go(func() {
			var s *SMTP
			defer func() {
				if s != nil {
					_ = s.Close()
				}
			}()
			for !l.stop.Load() {
				n := next.Add(1)
				if l.Messages >= 0 && n > int64(l.Messages) {
					return
				}
				subject := "load-" + strconv.FormatInt(n, 10)
				m := l.Message(subject)
				for {
					took, err := l.one(&s, m)
					mu.Lock()
					if err == nil {
						r.Accepted++
						r.Took = append(r.Took, took)
						if l.Accepted != nil {
							l.Accepted(subject)
						}
					} else {
						r.Refused++
					}
					mu.Unlock()
					if err == nil || l.stop.Load() {
						break
					}
					if !l.Patient {
						errs[i] = err
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	r.Elapsed = time.Since(began)
	slices.Sort(r.Took)
	return r, errors.Join(errs...)
}

// one sends a message once, over a connection that it makes if there is none.
func (l *MailLoad) one(s **SMTP, m []byte) (took time.Duration, err error) {
	if *s == nil {
		if *s, err = l.Host.SMTP(l.From, l.Server); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err = (*s).Send("alice@example.org", "bob@"+mailDomain, m); err != nil {
		_ = (*s).Close()
		*s = nil
	}
	return time.Since(began), err
}
