package radius

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
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
	a.Sweep()                                        // the other's stop
	a.Sweep()
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
