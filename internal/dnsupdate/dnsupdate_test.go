package dnsupdate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const secret = "c2l4dGVlbiBieXRlcyBvciBtb3Jl"

// The example of RFC 4701 §3.6.1.
func TestDHCID(t *testing.T) {
	duid, err := hex.DecodeString("000100064" + "12df166010203040506")
	if err != nil {
		t.Fatal(err)
	}
	if got := dhcid(duid, "chi6.example.com."); got != "AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA=" {
		t.Errorf("%s", got)
	}
}

func TestKeys(t *testing.T) {
	k, err := ParseKey([]byte("key \"gid\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + secret + "\";\n};\n"))
	if err != nil || k != (Key{"gid.", dns.HmacSHA256, secret}) {
		t.Errorf("%+v, %v", k, err)
	}
	for _, s := range []string{"", "key gid { secret \"x\"; };", "key gid { algorithm hmac-md5; secret \"" + secret + "\"; };", "key gid { algorithm hmac-sha256; secret \"c2hvcnQ=\"; };"} {
		if _, err := ParseKey([]byte(s)); err == nil || strings.Contains(err.Error(), "c2hvcnQ=") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// server is a DNS server that checks updates as RFC 2136 says, as far as these tests need it.
type server struct {
	t    *testing.T
	mu   sync.Mutex
	rrs  map[string]dns.RR // by text
	code int               // of every answer, if not 0
	addr string
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, rrs: make(map[string]dns.RR), addr: l.Addr().String()}
	d := &dns.Server{Listener: l, Handler: s, TsigSecret: map[string]string{"gid.": secret}, MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }}
	go func() { _ = d.ActivateAndServe() }()
	t.Cleanup(func() { _ = d.Shutdown() })
	return s
}

func key(rr dns.RR) string {
	c := dns.Copy(rr)
	c.Header().Ttl, c.Header().Class = 0, dns.ClassINET
	return c.String()
}

func (s *server) has(name string, typ uint16) bool {
	for _, rr := range s.rrs {
		if rr.Header().Name == name && (typ == dns.TypeANY || rr.Header().Rrtype == typ) {
			return true
		}
	}
	return false
}

func (s *server) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := new(dns.Msg).SetReply(m)
	r.Rcode = s.update(w, m)
	r.SetTsig("gid.", dns.HmacSHA256, 300, time.Now().Unix())
	_ = w.WriteMsg(r)
}

func (s *server) update(w dns.ResponseWriter, m *dns.Msg) int {
	if m.IsTsig() == nil || w.TsigStatus() != nil {
		return dns.RcodeNotAuth
	}
	if s.code != 0 {
		return s.code
	}
	for _, p := range m.Answer {
		h := p.Header()
		switch {
		case h.Class == dns.ClassNONE && h.Rrtype == dns.TypeANY && s.has(h.Name, dns.TypeANY):
			return dns.RcodeYXDomain
		case h.Class == dns.ClassNONE && h.Rrtype != dns.TypeANY && s.has(h.Name, h.Rrtype):
			return dns.RcodeYXRrset
		case h.Class == dns.ClassINET && s.rrs[key(p)] == nil:
			return dns.RcodeNXRrset
		}
	}
	for _, u := range m.Ns {
		switch h := u.Header(); h.Class {
		case dns.ClassINET:
			s.rrs[key(u)] = u
		case dns.ClassNONE:
			delete(s.rrs, key(u))
		case dns.ClassANY:
			for k, rr := range s.rrs {
				if rr.Header().Name == h.Name && rr.Header().Rrtype == h.Rrtype {
					delete(s.rrs, k)
				}
			}
		}
	}
	return dns.RcodeSuccess
}

func (s *server) want(what string, records ...string) {
	s.t.Helper()
	var got string
	for range 200 {
		s.mu.Lock()
		got = ""
		for _, rr := range s.rrs {
			switch x := rr.(type) {
			case *dns.AAAA:
				got += x.Hdr.Name + " " + x.AAAA.String() + ";"
			case *dns.DHCID:
				got += x.Hdr.Name + " DHCID;"
			}
		}
		s.mu.Unlock()
		ok := len(strings.Split(got, ";"))-1 == len(records)
		for _, r := range records {
			ok = ok && strings.Contains(got, r+";")
		}
		if ok {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Errorf("%s: the zone has %s want %v", what, got, records)
}

// leases are what servers share.
type leases struct {
	mu    sync.Mutex
	held  map[netip.Addr]held
	away  bool
	asked int
}

type held struct {
	duid  []byte
	until time.Time
}

func (l *leases) set(addr netip.Addr, duid []byte, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[addr] = held{duid, until}
}

func (l *leases) get(addr netip.Addr) ([]byte, time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if l.away {
		return nil, time.Time{}, errors.New("away")
	}
	return l.held[addr].duid, l.held[addr].until, nil
}

func open(t *testing.T, s *server, journal string, stats *Stats, shared *leases) (*Updater, func()) {
	t.Helper()
	u, err := Open(Config{Lease: shared.get, Server: s.addr, Zone: "clients.example", Key: Key{"gid.", dns.HmacSHA256, secret}, TTL: time.Minute, Journal: journal, Now: time.Now, Log: slog.New(slog.DiscardHandler), Stats: stats})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	return u, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestNamesComeAndGo(t *testing.T) {
	s, stats, journal := newServer(t), new(Stats), filepath.Join(t.TempDir(), "names")
	u, stop := open(t, s, journal, stats, new(leases))
	a, b, c := netip.MustParseAddr("2001:db8::a"), netip.MustParseAddr("2001:db8::b"), netip.MustParseAddr("2001:db8::c")
	alice, mallory := []byte{0, 3, 1}, []byte{0, 3, 2}
	later := time.Now().Add(time.Hour)
	u.Set(a, "laptop.clients.example.", alice, later)
	s.want("a name", "laptop.clients.example. 2001:db8::a", "laptop.clients.example. DHCID")
	u.Set(b, "laptop.clients.example.", alice, later)
	s.want("its second address", "laptop.clients.example. 2001:db8::a", "laptop.clients.example. 2001:db8::b", "laptop.clients.example. DHCID")
	u.Set(c, "laptop.clients.example.", mallory, later)
	for range 100 {
		if stats.Conflicts.Load() > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.want("another's name", "laptop.clients.example. 2001:db8::a", "laptop.clients.example. 2001:db8::b", "laptop.clients.example. DHCID")
	if n := stats.Conflicts.Load(); n != 1 {
		t.Errorf("%d conflicts", n)
	}
	u.End(a)
	s.want("an address less", "laptop.clients.example. 2001:db8::b", "laptop.clients.example. DHCID")
	// Another process goes on; what comes to its end meanwhile goes when it is back.
	u.Set(b, "", alice, time.Now().Add(3*time.Second)) // a shorter time than is known is none
	stop()
	text, err := os.ReadFile(journal)
	if err != nil || !strings.Contains(string(text), "2001:db8::b") {
		t.Errorf("the journal: %v, %s", err, text)
	}
	if i, err := os.Stat(journal); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v, %v", i.Mode(), err)
	}
	f, err := os.OpenFile(journal, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"addr":"2001:db8::c","na`); err != nil { // cut off by a crash
		t.Fatal(err)
	}
	f.Close()
	u, stop = open(t, s, journal, stats, new(leases))
	u.Set(b, "phone.clients.example.", alice, later) // another name: the old one goes, and at the next renewal it comes
	s.want("between two names")
	u.Set(b, "phone.clients.example.", alice, time.Now().Add(2*time.Second))
	s.want("the other name", "phone.clients.example. 2001:db8::b", "phone.clients.example. DHCID")
	s.want("at its end")
	stop()
	if text, err := os.ReadFile(journal); err != nil || strings.Contains(string(text), "laptop") && !strings.Contains(string(text), "forget") {
		t.Errorf("the journal: %v, %s", err, text)
	}
}

// Of two servers that share their leases the one that knows a client's name takes it out of the zone
// only if the client has not leased the address at the other, and puts it back if that happens
// meanwhile.
func TestNamesOfLeasesThatServersShare(t *testing.T) {
	addr, alice, mallory := netip.MustParseAddr("2001:db8::a"), []byte{0, 3, 1}, []byte{0, 3, 2}
	const name = "laptop.clients.example."
	stands := []string{name + " 2001:db8::a", name + " DHCID"}
	later := time.Now().Add(time.Hour)
	begin := func(t *testing.T) (*server, *leases, *Updater, *Stats) {
		s, l, stats := newServer(t), &leases{held: make(map[netip.Addr]held)}, new(Stats)
		u, stop := open(t, s, filepath.Join(t.TempDir(), "names"), stats, l)
		t.Cleanup(stop)
		l.set(addr, alice, later)
		u.Set(addr, name, alice, later)
		s.want("leased", stands...)
		return s, l, u, stats
	}
	asked := func(t *testing.T, l *leases, n int) {
		t.Helper()
		for range 200 {
			l.mu.Lock()
			is := l.asked
			l.mu.Unlock()
			if is >= n {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("nobody asks for the lease %d times", n)
	}
	t.Run("renewed at the other", func(t *testing.T) {
		s, l, u, stats := begin(t)
		u.Set(addr, name, alice, time.Now().Add(-time.Second)) // as far as this one knows
		asked(t, l, 1)
		s.want("renewed", stands...)
		if stats.Removed.Load() != 0 {
			t.Error("it was removed")
		}
		l.set(addr, alice, time.Time{})
		u.End(addr)
		s.want("released")
	})
	t.Run("leased at the other while it goes", func(t *testing.T) {
		s, l, u, _ := begin(t)
		l.set(addr, alice, time.Time{})
		s.mu.Lock() // the update waits, between the two times the lease is asked for
		u.End(addr)
		asked(t, l, 1)
		l.set(addr, alice, later)
		s.mu.Unlock()
		asked(t, l, 2)
		s.want("leased again", stands...)
	})
	t.Run("leased by another client", func(t *testing.T) {
		s, l, u, _ := begin(t)
		l.set(addr, mallory, later)
		u.Set(addr, "", mallory, later)
		s.want("another's")
	})
	t.Run("the leases cannot be asked for", func(t *testing.T) {
		s, l, u, stats := begin(t)
		l.mu.Lock()
		l.away = true
		l.mu.Unlock()
		u.End(addr)
		asked(t, l, 1)
		for range 200 {
			if stats.Failed.Load() > 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		s.want("nobody knows", stands...)
		if stats.Failed.Load() != 1 {
			t.Errorf("%d failures", stats.Failed.Load())
		}
	})
}

// What a server refuses is tried again, and keeps nobody else's from being done.
func TestRefusals(t *testing.T) {
	s, stats := newServer(t), new(Stats)
	s.code = dns.RcodeRefused
	u, stop := open(t, s, filepath.Join(t.TempDir(), "names"), stats, new(leases))
	defer stop()
	for i := range 20 {
		u.Set(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), fmt.Sprintf("h%d.clients.example.", i), []byte{0, 3, byte(i)}, time.Now().Add(time.Hour))
	}
	for range 200 {
		if stats.Refused.Load() == 20 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := stats.Refused.Load(); n != 20 || stats.Added.Load() != 0 {
		t.Errorf("%d refused, %d added", n, stats.Added.Load())
	}
	s.mu.Lock()
	s.code = 0
	s.mu.Unlock()
	u.Set(netip.MustParseAddr("2001:db8::ff"), "ff.clients.example.", []byte{0, 3, 9}, time.Now().Add(time.Hour))
	s.want("after refusals", "ff.clients.example. 2001:db8::ff", "ff.clients.example. DHCID")
}

func TestName(t *testing.T) {
	u := &Updater{zone: "clients.example."}
	for _, c := range []struct {
		said  string
		whole bool
		want  string
	}{
		{"laptop", false, "laptop.clients.example."}, {"Laptop", false, "laptop.clients.example."}, {"laptop.home", false, "laptop.clients.example."},
		{"laptop.clients.example", true, "laptop.clients.example."}, {"a.b.clients.example.", true, "a.b.clients.example."}, {"www.bank.example", true, "www.clients.example."},
		{"clients.example", true, "clients.clients.example."}, {"", false, ""}, {"-x", false, ""}, {"x_y", false, ""}, {"x y", false, ""}, {strings.Repeat("x", 64), false, ""}, {"ü", false, ""},
	} {
		got, ok := u.Name(c.said, c.whole)
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%q: %q, %v; want %q", c.said, got, ok, c.want)
		}
	}
}
