package radius

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc4818"
	"layeh.com/radius/rfc6911"
)

// ledgerOf is an accounting server that writes down what it is told.
type ledgerOf struct {
	mu      sync.Mutex
	packets []*radius.Packet
	deaf    bool
}

func (l *ledgerOf) serve(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if !radius.IsAuthenticRequest(b[:n], secret) {
				t.Error("a request is not signed with the secret")
				continue
			}
			p, err := radius.Parse(append([]byte(nil), b[:n]...), secret)
			if err != nil {
				t.Error(err)
				continue
			}
			l.mu.Lock()
			deaf := l.deaf
			if !deaf {
				l.packets = append(l.packets, p)
			}
			l.mu.Unlock()
			if deaf {
				continue
			}
			wire, err := p.Response(radius.CodeAccountingResponse).Encode()
			if err != nil {
				t.Error(err)
			}
			_, _ = conn.WriteTo(wire, from)
		}
	}()
	return conn.LocalAddr().String()
}

func sweep(t *testing.T, a *Accountant) {
	t.Helper()
	if err := a.Sweep(nil); err != nil {
		t.Error(err)
	}
}

// Of servers that share their leases the one that changed a lease last tells of it, and another if
// that one is not there.
func TestSessionsOfServersThatShare(t *testing.T) {
	at := start()
	began := at.now()
	lease := netip.MustParsePrefix("2001:db8::1/128")
	session := func(minutes int, theirs bool) Session {
		return Session{Lease: lease, Start: began, Until: began.Add(time.Duration(minutes) * time.Minute), Renewed: true, Theirs: theirs}
	}
	fresh := session(60, false)
	fresh.Renewed = false
	later := session(60, true)
	later.Start = began.Add(30 * time.Minute)
	const (
		sta, sto, interim = rfc2866.AcctStatusType_Value_Start, rfc2866.AcctStatusType_Value_Stop, rfc2866.AcctStatusType_Value_InterimUpdate
	)
	over := func(a *Accountant) { at.pass(60*time.Minute + unseen) }
	gone := func(a *Accountant) { at.pass(60*time.Minute + abandon) }
	known := func(s Session) func(*Accountant) { return func(a *Accountant) { a.Known(s) } }
	changed := func(s Session) func(*Accountant) { return func(a *Accountant) { a.Changed(s) } }
	for _, c := range []struct {
		name      string
		do        []func(*Accountant)
		abandoned bool
		away      bool
		want      []rfc2866.AcctStatusType
		left      int
	}{
		{"ours runs out", []func(*Accountant){changed(fresh), over}, false, false, []rfc2866.AcctStatusType{sta, sto}, 0},
		{"ours has run out while nobody was there", []func(*Accountant){over, known(session(60, false))}, false, false, []rfc2866.AcctStatusType{sto}, 0},
		{"a moment ago", []func(*Accountant){changed(fresh), func(*Accountant) { at.pass(60 * time.Minute) }}, false, false, []rfc2866.AcctStatusType{sta}, 1},
		{"theirs runs out", []func(*Accountant){changed(session(60, true)), gone}, false, false, nil, 0},
		{"theirs has just run out", []func(*Accountant){changed(session(60, true)), over}, true, false, nil, 1},
		{"theirs runs out and nobody is there", []func(*Accountant){known(session(60, true)), gone}, true, false, []rfc2866.AcctStatusType{sto}, 0},
		{"nobody knows whether they are there", []func(*Accountant){known(session(60, true)), gone}, true, true, nil, 1},
		{"ours becomes theirs", []func(*Accountant){changed(fresh), changed(session(60, true)), gone}, false, false, []rfc2866.AcctStatusType{sta}, 0},
		{"ours is ended by them", []func(*Accountant){changed(fresh), changed(session(0, true)), gone}, true, false, []rfc2866.AcctStatusType{sta}, 0},
		{"theirs becomes ours", []func(*Accountant){changed(session(50, true)), changed(session(60, false)), over}, false, false, []rfc2866.AcctStatusType{interim, sto}, 0},
		{"theirs is ended by us", []func(*Accountant){known(session(60, true)), changed(session(0, false)), gone}, true, false, []rfc2866.AcctStatusType{sto}, 0},
		{"they begin another", []func(*Accountant){changed(fresh), changed(later)}, false, false, []rfc2866.AcctStatusType{sta, sto}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			at = start()
			a, err := NewAccountant(Config{Servers: []Server{{Address: "[::1]:1813", Secret: secret}}, Timeout: time.Second, Tries: 1, Now: func() time.Time { return at.now() }, Log: slog.New(slog.DiscardHandler)}, new(AccountingStats))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range c.do {
				f(a)
			}
			for range 2 {
				err := a.Sweep(func(s Session) (bool, error) {
					if c.away {
						return true, errors.New("away")
					}
					return c.abandoned, nil
				})
				if (err != nil) != c.away {
					t.Error(err)
				}
			}
			var told []rfc2866.AcctStatusType
			for len(a.queue) > 0 {
				m := <-a.queue
				told = append(told, m.status)
				if m.status == sto && !m.at.Equal(m.session.Until) {
					t.Errorf("its end is told as %s, want %s", m.at, m.session.Until)
				}
			}
			if !slices.Equal(told, c.want) || len(a.open) != c.left {
				t.Errorf("told %v, want %v; %d are open, want %d", told, c.want, len(a.open), c.left)
			}
		})
	}
}

func TestAccounting(t *testing.T) {
	at := start()
	book := &ledgerOf{deaf: true}
	stats := new(AccountingStats)
	a, err := NewAccountant(Config{Servers: []Server{{Address: book.serve(t), Secret: secret}}, Timeout: 100 * time.Millisecond, Tries: 1, Now: at.now, Log: slog.New(slog.DiscardHandler)}, stats)
	if err != nil {
		t.Fatal(err)
	}
	addr, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	session := func(addr netip.Addr, start time.Time, lasts time.Duration, renewed bool) Session {
		return Session{Lease: netip.PrefixFrom(addr, 128), Start: start, Until: at.now().Add(lasts), Renewed: renewed}
	}
	began := at.now()
	a.Known(session(other, began.Add(-time.Hour), time.Minute, true))
	a.Changed(session(addr, began, time.Hour, false)) // start
	at.pass(30 * time.Minute)
	a.Changed(session(addr, began, time.Hour, true)) // interim
	sweep(t, a)                                      // the other's stop
	sweep(t, a)
	a.Changed(Session{Lease: netip.PrefixFrom(addr, 128), Start: began, Until: at.now(), Renewed: true}) // stop
	a.Changed(Session{Lease: netip.PrefixFrom(addr, 128), Start: began, Until: at.now(), Renewed: true}) // and no second
	prefix := netip.MustParsePrefix("2001:db8:4000:100::/56")
	a.Changed(Session{Lease: prefix, Start: at.now(), Until: at.now().Add(time.Hour)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	time.Sleep(300 * time.Millisecond) // nobody hears; nothing is lost
	book.mu.Lock()
	book.deaf = false
	book.mu.Unlock()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		book.mu.Lock()
		n := len(book.packets)
		book.mu.Unlock()
		if n >= 5 || time.Now().After(until) {
			break
		}
	}
	cancel()
	<-done
	want := []struct {
		status rfc2866.AcctStatusType
		addr   netip.Addr
		lasted rfc2866.AcctSessionTime
	}{{rfc2866.AcctStatusType_Value_Start, addr, 0}, {rfc2866.AcctStatusType_Value_InterimUpdate, addr, 1800}, {rfc2866.AcctStatusType_Value_Stop, other, 3660}, {rfc2866.AcctStatusType_Value_Stop, addr, 1800}}
	if len(book.packets) != len(want)+1 {
		t.Fatalf("%d messages, want %d", len(book.packets), len(want)+1)
	}
	last := book.packets[len(want)]
	if p := rfc4818.DelegatedIPv6Prefix_Get(last); p == nil || p.String() != prefix.String() || len(rfc6911.FramedIPv6Address_Get(last)) != 0 {
		t.Errorf("of a delegation: %v", last.Attributes)
	}
	book.packets = book.packets[:len(want)]
	for i, p := range book.packets {
		got, _ := netip.AddrFromSlice(rfc6911.FramedIPv6Address_Get(p))
		if rfc2866.AcctStatusType_Get(p) != want[i].status || got != want[i].addr || rfc2866.AcctSessionTime_Get(p) != want[i].lasted {
			t.Errorf("message %d: %v of %s after %d s, want %+v", i, rfc2866.AcctStatusType_Get(p), got, rfc2866.AcctSessionTime_Get(p), want[i])
		}
		if len(rfc2865.UserName_Get(p)) != 0 || rfc2865.NASIdentifier_GetString(p) != "gidserver" {
			t.Errorf("message %d has %v", i, p.Attributes)
		}
	}
	if id := rfc2866.AcctSessionID_GetString; id(book.packets[0]) != id(book.packets[3]) || id(book.packets[0]) == id(book.packets[2]) {
		t.Error("the session's id changes, or is another's")
	}
	if stats.Sent.Load() != 5 || stats.Failed.Load() == 0 || stats.Lost.Load() != 0 {
		t.Errorf("sent %d, failed %d, lost %d", stats.Sent.Load(), stats.Failed.Load(), stats.Lost.Load())
	}
}
