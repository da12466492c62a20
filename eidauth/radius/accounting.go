package radius

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc4818"
	"layeh.com/radius/rfc6911"
)

// Session is an interval in which an address was leased.
type Session struct {
	Lease   netip.Prefix // a delegated prefix, or an address with 128 bits
	Start   time.Time
	Until   time.Time // when it ends, if it is not renewed, or ended
	Renewed bool      // whether it has been, since it began
	Theirs  bool      // another server, of those that share the leases, tells of it
}

// id names the session the same at each message.
func (s *Session) id() string {
	h := sha256.New()
	what := s.Lease.String()
	if s.Lease.IsSingleIP() {
		what = s.Lease.Addr().String()
	}
	fmt.Fprintf(h, "%s %d", what, s.Start.Unix())
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Accountant tells RADIUS servers of sessions (RFC 2866): that they began, went on, and
// ended, by their addresses. No message has a name of anybody in it.
type Accountant struct {
	servers []*server
	timeout time.Duration
	tries   int
	nas     func(*radius.Packet) error
	now     func() time.Time
	log     *slog.Logger
	stats   *AccountingStats

	queue chan *accounting

	mu   sync.Mutex
	open map[netip.Prefix]Session
}

// AccountingStats counts messages.
type AccountingStats struct{ Sent, Failed, Lost atomic.Uint64 }

type accounting struct {
	status  rfc2866.AcctStatusType
	session Session
	at      time.Time
}

// maxWaiting bounds the messages that wait for a server; more are lost, and counted.
const maxWaiting = 100_000

// NewAccountant returns an accountant, which sends when [Accountant.Run] runs. Of the
// configuration it takes servers, times, and what the NAS is called.
func NewAccountant(c Config, stats *AccountingStats) (*Accountant, error) {
	if len(c.Servers) == 0 || c.Timeout <= 0 || c.Tries < 1 {
		return nil, errors.New("no server, or no time for an answer")
	}
	a := &Accountant{timeout: c.Timeout, tries: c.Tries, now: c.Now, log: c.Log, stats: stats, queue: make(chan *accounting, maxWaiting), open: make(map[netip.Prefix]Session)}
	for _, x := range c.Servers {
		a.servers = append(a.servers, newServer(x))
	}
	a.nas = func(p *radius.Packet) error {
		id := c.NASIdentifier
		if id == "" {
			id = "gidserver" // one of the two must be there (RFC 2866 §4.1)
		}
		err := rfc2865.NASIdentifier_SetString(p, id)
		if c.NASAddress.IsValid() {
			err = errors.Join(err, rfc3162.NASIPv6Address_Set(p, c.NASAddress.AsSlice()))
		}
		return err
	}
	return a, nil
}

func (a *Accountant) tell(status rfc2866.AcctStatusType, s Session) {
	at := a.now()
	if status == rfc2866.AcctStatusType_Value_Stop {
		at = s.Until // so that it is the same whoever tells, and however often
	}
	select {
	case a.queue <- &accounting{status, s, at}:
	default:
		a.stats.Lost.Add(1)
	}
}

// Known notes a session that began before, of which nothing is to be told but its end. One that
// has ended already, of which nobody was told, ends with the next [Accountant.Sweep].
func (a *Accountant) Known(s Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[s.Lease] = s
}

// Changed tells of a session that began, was renewed, or has ended. Of one that is theirs it only
// notes it: the server that changed it tells.
func (a *Accountant) Changed(s Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, known := a.open[s.Lease]
	if known && !old.Start.Equal(s.Start) {
		a.end(old)
		known = false
	}
	over := !s.Until.After(a.now())
	switch {
	case over && s.Theirs:
		delete(a.open, s.Lease)
		return
	case over:
		if known {
			a.end(s)
		}
		return
	case s.Theirs:
	case s.Renewed:
		a.tell(rfc2866.AcctStatusType_Value_InterimUpdate, s)
	default:
		a.tell(rfc2866.AcctStatusType_Value_Start, s)
	}
	a.open[s.Lease] = s
}

// end tells that a session ended, if that is this server's to tell.
func (a *Accountant) end(s Session) {
	if !s.Theirs {
		a.tell(rfc2866.AcctStatusType_Value_Stop, s)
	}
	delete(a.open, s.Lease)
}

// unseen is for how long a session may have ended before that is told: another server may have
// renewed it at the last moment, and this one not have seen it yet.
const unseen = 2 * time.Second

// abandon is how long after the end of a session another server has to tell of it.
const abandon = time.Minute

// Sweep ends sessions that were not renewed in time. Of one that is theirs abandoned is asked, a
// minute after its end, whether the other server is not there to tell of it; if so this one does. It
// may be nil if no session is theirs. While it fails such sessions stay, and Sweep returns its error.
func (a *Accountant) Sweep(abandoned func(Session) (bool, error)) error {
	a.mu.Lock()
	now := a.now()
	var theirs []Session
	for _, s := range a.open {
		switch {
		case s.Until.After(now.Add(-unseen)):
		case !s.Theirs:
			a.end(s)
		case !s.Until.After(now.Add(-abandon)):
			theirs = append(theirs, s)
		}
	}
	a.mu.Unlock()
	for _, s := range theirs {
		left, err := abandoned(s) // which may take its time
		if err != nil {
			return err
		}
		a.mu.Lock()
		if is, ok := a.open[s.Lease]; ok && is == s {
			s.Theirs = !left
			a.end(s)
		}
		a.mu.Unlock()
	}
	return nil
}

// again is how long the servers are left alone when none answers.
const again = 5 * time.Second

// Run sends what is told, in its order, until the context ends. While no server answers
// messages wait.
func (a *Accountant) Run(ctx context.Context) error {
	for {
		var m *accounting
		select {
		case <-ctx.Done():
			return nil
		case m = <-a.queue:
		}
		for {
			err := a.send(ctx, m)
			if err == nil {
				a.stats.Sent.Add(1)
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			a.stats.Failed.Add(1)
			a.log.Warn("no RADIUS server takes accounting; it waits", "error", err, "messages", len(a.queue)+1)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(again):
			}
		}
	}
}

func (a *Accountant) send(ctx context.Context, m *accounting) error {
	var errs []error
	for _, x := range a.servers {
		p, err := a.packet(x.Secret, m)
		if err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, time.Duration(a.tries)*a.timeout)
		reply, err := x.exchange(within, p, a.timeout)
		cancel()
		if err == nil && (reply.Code != radius.CodeAccountingResponse || reply.Identifier != p.Identifier) {
			err = errOther
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", x.Address, err))
	}
	return errors.Join(errs...)
}

// packet builds an Accounting-Request.
func (a *Accountant) packet(secret []byte, m *accounting) (*radius.Packet, error) {
	p := radius.New(radius.CodeAccountingRequest, secret)
	errs := []error{
		rfc2866.AcctStatusType_Set(p, m.status),
		rfc2866.AcctSessionID_SetString(p, m.session.id()),
		leased(p, m.session.Lease),
		rfc2869.EventTimestamp_Set(p, m.at),
		a.nas(p),
	}
	if m.status != rfc2866.AcctStatusType_Value_Start {
		errs = append(errs, rfc2866.AcctSessionTime_Set(p, rfc2866.AcctSessionTime(max(0, m.at.Sub(m.session.Start).Seconds()))))
	}
	return p, errors.Join(errs...)
}

// leased says what a session is of: Framed-IPv6-Address (RFC 6911) or
// Delegated-IPv6-Prefix (RFC 4818).
func leased(p *radius.Packet, l netip.Prefix) error {
	if l.IsSingleIP() {
		return rfc6911.FramedIPv6Address_Set(p, l.Addr().AsSlice())
	}
	return rfc4818.DelegatedIPv6Prefix_Set(p, &net.IPNet{IP: l.Addr().AsSlice(), Mask: net.CIDRMask(l.Bits(), 128)})
}
