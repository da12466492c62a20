package mail

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var source = netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94b")

const (
	sourceName = "b.4.9.c.e.1.1.9.b.0.e.7.2.e.7.c.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
	at48       = "_gid.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
	record     = `"v=GID1; r=isp.example; e=86400; l=isp.example/gid-ledger; s=https://resolve.isp.example:8547"`
)

// answers is a resolver that knows some records, by name and type, and says NXDOMAIN of
// the rest. change may spoil its answers.
type answers struct {
	records map[string]string
	change  func(q, m *dns.Msg) (*dns.Msg, error)
	mu      sync.Mutex
	asked   int
}

func (a *answers) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	a.mu.Lock()
	a.asked++
	a.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	m.AuthenticatedData = true
	text := a.records[q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]]
	if text == "" {
		m.Rcode = dns.RcodeNameError
	}
	for line := range strings.Lines(text) {
		rr, err := dns.NewRR(q.Question[0].Name + " 30 IN " + line)
		if err != nil {
			return nil, err
		}
		m.Answer = append(m.Answer, rr)
	}
	if a.change != nil {
		return a.change(q, m)
	}
	return m, nil
}

func isp() *answers {
	return &answers{records: map[string]string{at48 + " TXT": "TXT " + record, sourceName + " PTR": "PTR c7e27e0b911ec94b.gid.isp.example."}}
}

func TestASourceIsCheckedWithItsISP(t *testing.T) {
	forPTR := func(f func(m *dns.Msg)) func(q, m *dns.Msg) (*dns.Msg, error) {
		return func(q, m *dns.Msg) (*dns.Msg, error) {
			if q.Question[0].Qtype == dns.TypePTR {
				f(m)
			}
			return m, nil
		}
	}
	forTXT := func(f func(m *dns.Msg)) func(q, m *dns.Msg) (*dns.Msg, error) {
		return func(q, m *dns.Msg) (*dns.Msg, error) {
			if q.Question[0].Name == at48 {
				f(m)
			}
			return m, nil
		}
	}
	for _, c := range []struct {
		name   string
		addr   netip.Addr
		change func(a *answers)
		want   Live
		isp    bool
	}{
		{"leased", source, nil, LivePass, true},
		{"not leased", source.Next(), nil, LiveFail, true},
		{"nobody's", netip.MustParseAddr("2001:db8:ffff::1"), nil, LiveNone, false},
		{"IPv4", netip.MustParseAddr("192.0.2.1"), nil, LiveNone, false},
		{"mapped IPv4", netip.MustParseAddr("::ffff:192.0.2.1"), nil, LiveNone, false},
		{"denied compactly", source.Next(), func(a *answers) { a.change = forPTR(func(m *dns.Msg) { m.Rcode = dns.RcodeSuccess }) }, LiveFail, true},
		{"another text beside", source, func(a *answers) { a.records[at48+" TXT"] = "TXT \"v=spf1 -all\"\nTXT " + record }, LivePass, true},
		{"another text alone", source, func(a *answers) { a.records[at48+" TXT"] = "TXT \"v=spf1 -all\"" }, LiveNone, false},
		{"a record in pieces", source, func(a *answers) { a.records[at48+" TXT"] = `TXT "v=GID1; r=isp.ex" "ample; e=86400"` }, LivePass, true},
		{"an alias on the way", source, func(a *answers) {
			a.change = forPTR(func(m *dns.Msg) {
				cname, _ := dns.NewRR(sourceName + " 30 IN CNAME x.example.")
				m.Answer = append([]dns.RR{cname}, m.Answer...)
			})
		}, LivePass, true},

		// An unsigned net has no ISP, and an unsigned denial accuses nobody.
		{"nothing, not validated", netip.MustParseAddr("2001:db8:ffff::1"), func(a *answers) {
			a.change = func(_, m *dns.Msg) (*dns.Msg, error) { m.AuthenticatedData = false; return m, nil }
		}, LiveNone, false},
		{"a record, not validated", source, func(a *answers) { a.change = forTXT(func(m *dns.Msg) { m.AuthenticatedData = false }) }, LiveError, false},
		{"leased, not validated", source, func(a *answers) { a.change = forPTR(func(m *dns.Msg) { m.AuthenticatedData = false }) }, LiveError, true},
		{"not leased, not validated", source.Next(), func(a *answers) { a.change = forPTR(func(m *dns.Msg) { m.AuthenticatedData = false }) }, LiveError, true},

		// Resolvers that fail or lie.
		{"no resolver", source, func(a *answers) {
			a.change = func(_, _ *dns.Msg) (*dns.Msg, error) { return nil, errors.New("connection refused") }
		}, LiveError, false},
		{"a server's failure", source, func(a *answers) { a.change = forPTR(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }) }, LiveError, true},
		{"an answer to something else", source, func(a *answers) { a.change = forPTR(func(m *dns.Msg) { m.Question[0].Name = "x.example." }) }, LiveError, true},
		{"an answer that is none", source, func(a *answers) { a.change = forTXT(func(m *dns.Msg) { m.Response = false }) }, LiveError, false},
		{"another's answer", source, func(a *answers) { a.change = forTXT(func(m *dns.Msg) { m.Id++ }) }, LiveError, false},
		{"an answer that is cut", source, func(a *answers) { a.change = forTXT(func(m *dns.Msg) { m.Truncated = true }) }, LiveError, false},
		{"two records", source, func(a *answers) { a.records[at48+" TXT"] = "TXT " + record + "\nTXT " + record }, LiveError, false},
		{"a record that is huge", source, func(a *answers) {
			a.records[at48+" TXT"] = `TXT "v=GID1; r=x; e=1"` + strings.Repeat(` "`+strings.Repeat("x", 250)+`"`, 20)
		}, LiveError, false},
		{"a record without a realm", source, func(a *answers) { a.records[at48+" TXT"] = `TXT "v=GID1; e=86400"` }, LiveError, false},
		{"a realm that is none", source, func(a *answers) { a.records[at48+" TXT"] = `TXT "v=GID1; r=a b; e=86400"` }, LiveError, false},
		{"epochs of nothing", source, func(a *answers) { a.records[at48+" TXT"] = `TXT "v=GID1; r=x; e=0"` }, LiveError, false},
		{"an API without TLS", source, func(a *answers) { a.records[at48+" TXT"] = `TXT "v=GID1; r=x; e=1; s=http://x"` }, LiveError, false},
		{"a tag twice", source, func(a *answers) { a.records[at48+" TXT"] = `TXT "v=GID1; r=x; r=y; e=1"` }, LiveError, false},
	} {
		a := isp()
		if c.change != nil {
			c.change(a)
		}
		found, live, err := (&Discoverer{Resolver: a}).Check(context.Background(), c.addr)
		if live != c.want || (found != nil) != c.isp || (err != nil) != (c.want == LiveError) {
			t.Errorf("%s: %s, %+v, %v; want %s", c.name, live, found, err, c.want)
		}
		if err != nil && !errors.Is(err, ErrDiscovery) {
			t.Errorf("%s: %v, want ErrDiscovery", c.name, err)
		}
		if a.asked > len(discoveryBits)+1 {
			t.Errorf("%s: %d questions", c.name, a.asked)
		}
	}
	found, _, err := (&Discoverer{Resolver: isp()}).Check(context.Background(), source)
	if err != nil || found.Realm != "isp.example" || found.EpochLength != 24*time.Hour || found.Prefix != netip.MustParsePrefix("2001:db8:1::/48") ||
		found.Ledger != "isp.example/gid-ledger" || found.Resolve != "https://resolve.isp.example:8547" {
		t.Errorf("%+v, %v", found, err)
	}
	a := isp()
	a.change = func(_, m *dns.Msg) (*dns.Msg, error) { m.AuthenticatedData = false; return m, nil }
	if _, live, err := (&Discoverer{Resolver: a, Insecure: true}).Check(context.Background(), source); live != LivePass || err != nil {
		t.Errorf("without validation: %s, %v", live, err)
	}
}

// A real resolver's way: by UDP, by TCP when that is cut, and by another when one does
// not answer.
func TestResolversAreAskedInTurn(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	a := isp()
	var byTCP atomic.Int64
	handle := func(tcp bool) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m, err := a.Exchange(context.Background(), q)
			if err != nil {
				return
			}
			if q.Question[0].Qtype == dns.TypePTR {
				if tcp {
					byTCP.Add(1)
				} else {
					m.Answer, m.Truncated = nil, true
				}
			}
			w.WriteMsg(m)
		}
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handle(false)}, {Listener: l, Handler: handle(true)}} {
		go s.ActivateAndServe()
		defer s.Shutdown()
	}
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // it never answers
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	r := &Resolver{Addresses: []string{dead.LocalAddr().String(), pc.LocalAddr().String()}, Timeout: 300 * time.Millisecond}
	if _, live, err := (&Discoverer{Resolver: r}).Check(context.Background(), source); live != LivePass || err != nil || byTCP.Load() != 1 {
		t.Errorf("%s, %v; %d by TCP", live, err, byTCP.Load())
	}
	r.Addresses = r.Addresses[:1]
	if _, live, err := (&Discoverer{Resolver: r}).Check(context.Background(), source); live != LiveError || err == nil {
		t.Errorf("without one that answers: %s, %v", live, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, live, _ := (&Discoverer{Resolver: r}).Check(ctx, source); live != LiveError {
		t.Errorf("after the end: %s", live)
	}
}

func FuzzParseDiscovery(f *testing.F) {
	f.Add(strings.Trim(record, `"`))
	f.Add("v=GID1; r=x; e=1; z=\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if isp, err := parseDiscovery(s); err == nil && (isp.Realm == "" || isp.EpochLength <= 0) {
			t.Fatalf("%q: %+v", s, isp)
		}
	})
}

// Discovery records are remembered for as long as they last, and that there are none for
// a minute; whether an address is leased is asked each time.
func TestDiscoveryIsRemembered(t *testing.T) {
	at := time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC)
	a := isp()
	d := &Discoverer{Resolver: a, Now: func() time.Time { return at }}
	check := func(want Live, questions int) {
		t.Helper()
		before := a.asked
		if _, live, err := d.Check(context.Background(), source); err != nil || live != want || a.asked-before != questions {
			t.Errorf("at %s: %v, %v, by %d questions; want %v by %d", at.Format(time.TimeOnly), live, err, a.asked-before, want, questions)
		}
	}
	check(LivePass, 4) // at /64, /56, /48; the address
	check(LivePass, 1)
	delete(a.records, sourceName+" PTR")
	check(LiveFail, 1)
	at = at.Add(31 * time.Second) // the record lasts for 30
	check(LiveFail, 2)
	at = at.Add(time.Minute)
	check(LiveFail, 4)
	a.change = func(_, m *dns.Msg) (*dns.Msg, error) { return nil, errors.New("no answer") }
	if _, live, err := d.Check(context.Background(), source); live != LiveError || err == nil {
		t.Errorf("%v, %v", live, err)
	}
	// What a stranger makes it remember is bounded.
	a.change = nil
	for i := range maxKnown {
		b := source.As16()
		b[5], b[6], b[7] = 0xff, byte(i>>8), byte(i)
		if _, _, err := d.Check(context.Background(), netip.AddrFrom16(b)); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.known) > maxKnown {
		t.Errorf("%d names are remembered", len(d.known))
	}
}
