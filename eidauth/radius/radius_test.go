package radius

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc4372"
	"layeh.com/radius/rfc4818"
	"layeh.com/radius/rfc6911"

	"brightgid/eidauth"
)

var secret = []byte("correct horse")

// respond answers a request; nil for no answer.
type respond func(q *radius.Packet) *radius.Packet

// accept answers with an acceptance that change may add to, and signs it.
func accept(change func(p *radius.Packet)) respond {
	return func(q *radius.Packet) *radius.Packet { return answered(q, radius.CodeAccessAccept, change) }
}

func answered(q *radius.Packet, code radius.Code, change func(p *radius.Packet)) *radius.Packet {
	p := q.Response(code)
	if err := rfc2869.MessageAuthenticator_Set(p, make([]byte, macLen)); err != nil {
		panic(err)
	}
	if change != nil {
		change(p)
	}
	if err := sign(p); err != nil { // p has the request's authenticator
		panic(err)
	}
	return p
}

// fake is a RADIUS server that does what a test wants.
type fake struct {
	t     *testing.T
	asked atomic.Int32 // but for those that were sent again on a slow machine
	mu    sync.Mutex
	do    respond
	last  *radius.Packet
	done  map[string]int // how often each was seen; 2 once it was answered
}

func (f *fake) set(do respond) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.do = do
}

func (f *fake) answer(b []byte) []byte {
	f.mu.Lock()
	if f.done == nil {
		f.done = make(map[string]int)
	}
	if f.done[string(b)]++; f.done[string(b)] <= 2 { // a last try goes out as its time ends, or not
		f.asked.Add(1)
	}
	f.mu.Unlock()
	q, err := radius.Parse(b, secret)
	if err != nil {
		f.t.Error(err)
		return nil
	}
	if q.Attributes[0].Type != rfc2869.MessageAuthenticator_Type || !signed(q, q.Authenticator) {
		f.t.Error("a request does not begin with a right Message-Authenticator")
	}
	kept, err := radius.Parse(b, secret)
	if err != nil {
		f.t.Error(err)
		return nil
	}
	f.mu.Lock()
	do := f.do
	f.last = kept
	f.mu.Unlock()
	p := do(q)
	if p == nil {
		return nil
	}
	wire, err := p.Encode()
	if err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done[string(b)] = 2
	return wire
}

// newFake serves by UDP and returns the server's address.
func newFake(t *testing.T, do respond) (*fake, string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &fake{t: t, do: do}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if wire := f.answer(bytes.Clone(b[:n])); wire != nil {
				_, _ = conn.WriteTo(wire, from)
			}
		}
	}()
	return f, conn.LocalAddr().String()
}

// clock is a time that tests move.
type clock struct{ atomic.Int64 }

func (c *clock) now() time.Time       { return time.Unix(0, c.Load()) }
func (c *clock) pass(d time.Duration) { c.Add(int64(d)) }

func newSource(t *testing.T, at *clock, change func(*Config), addrs ...string) *Source {
	t.Helper()
	c := Config{Timeout: 200 * time.Millisecond, Tries: 2, Names: []string{string(eidauth.SubscriberID), NameLinkLayer, NameDUID}, NASIdentifier: "gidserver",
		NASAddress: netip.MustParseAddr("2001:db8::53"), Identity: []string{ChargeableUserIdentity, UserName}, Remember: time.Hour, RememberReject: time.Minute,
		Now: at.now, Log: slog.New(slog.DiscardHandler), Stats: new(Stats)}
	for _, a := range addrs {
		c.Servers = append(c.Servers, Server{Address: a, Secret: secret})
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start() *clock {
	c := new(clock)
	c.Store(time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC).UnixNano())
	return c
}

// decide asks until it is decided, as a server does.
func decide(t *testing.T, s *Source, c *eidauth.Client) (string, error) {
	t.Helper()
	for range 20 {
		began := time.Now()
		id, err := s.Authenticate(c)
		if took := time.Since(began); took > time.Second {
			t.Errorf("a question blocked for %s", took)
		}
		if p := (*eidauth.Pending)(nil); errors.As(err, &p) {
			select {
			case <-p.Done:
			case <-time.After(20 * time.Second):
				t.Fatal("it is never decided")
			}
			continue
		}
		return id.EID.Reveal(), err
	}
	t.Fatal("it is pending for ever")
	return "", nil
}

func line(id string) *eidauth.Client {
	return &eidauth.Client{DUID: []byte{0, 4, 1}, Relays: []eidauth.Relay{{Addr: netip.MustParseAddr("2001:db8::1"), SubscriberID: []byte(id), InterfaceID: []byte("eth1/7"),
		RemoteID: []byte{0, 0, 0x11, 0x8b, 'A', 'L'}, ClientLinkLayer: []byte{0, 1, 2, 0, 0, 0, 0, 7}}}}
}

func TestAnAcceptanceNamesTheSubscriber(t *testing.T) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for name, c := range map[string]struct {
		do   respond
		want string
		err  error
	}{
		"nothing":     {accept(nil), "radius:line%207", nil},
		"a user name": {accept(func(p *radius.Packet) { must(rfc2865.UserName_SetString(p, "alice@isp")) }), "radius:alice@isp", nil},
		"a chargeable identity": {accept(func(p *radius.Packet) {
			must(rfc4372.ChargeableUserIdentity_SetString(p, "c-17"))
			must(rfc2865.UserName_SetString(p, "x"))
		}), "radius:c-17", nil},
		"a NUL for an identity":    {accept(func(p *radius.Packet) { must(rfc4372.ChargeableUserIdentity_Set(p, []byte{0})) }), "radius:line%207", nil},
		"a refusal":                {func(q *radius.Packet) *radius.Packet { return answered(q, radius.CodeAccessReject, nil) }, "", eidauth.ErrUnknown},
		"a challenge":              {func(q *radius.Packet) *radius.Packet { return answered(q, radius.CodeAccessChallenge, nil) }, "", eidauth.ErrUnknown},
		"no Message-Authenticator": {func(q *radius.Packet) *radius.Packet { return q.Response(radius.CodeAccessAccept) }, "", eidauth.ErrPending},
		"a wrong one": {func(q *radius.Packet) *radius.Packet {
			p := answered(q, radius.CodeAccessAccept, nil)
			must(rfc2865.UserName_SetString(p, "changed after it was signed"))
			return p
		}, "", eidauth.ErrPending},
		"two": {func(q *radius.Packet) *radius.Packet {
			p := answered(q, radius.CodeAccessAccept, nil)
			p.Add(rfc2869.MessageAuthenticator_Type, make([]byte, macLen))
			return p
		}, "", eidauth.ErrPending},
		"another secret": {func(q *radius.Packet) *radius.Packet {
			q.Secret = []byte("wrong")
			return answered(q, radius.CodeAccessAccept, nil)
		}, "", eidauth.ErrPending},
		"another question": {func(q *radius.Packet) *radius.Packet {
			q.Identifier++
			return answered(q, radius.CodeAccessAccept, nil)
		}, "", eidauth.ErrPending},
		"silence": {func(*radius.Packet) *radius.Packet { return nil }, "", eidauth.ErrPending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, addr := newFake(t, c.do)
			s := newSource(t, start(), nil, addr)
			got, err := decide(t, s, line("line 7"))
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("%q, %v; want %q, %v", got, err, c.want, c.err)
			}
			f.mu.Lock()
			q := f.last
			f.mu.Unlock()
			if rfc2865.UserName_GetString(q) != "line 7" || rfc2865.UserPassword_GetString(q) != "line 7" || rfc2865.CallingStationID_GetString(q) != "02-00-00-00-00-07" ||
				rfc2869.NASPortID_GetString(q) != "eth1/7" || rfc2865.NASIdentifier_GetString(q) != "gidserver" {
				t.Errorf("the request has %v", q.Attributes)
			}
		})
	}
}

// What an acceptance says of how to serve the client comes with it, and stays so while it
// is remembered.
func TestAnAcceptanceSaysHowToServe(t *testing.T) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	f, addr := newFake(t, accept(func(p *radius.Packet) {
		must(rfc2865.FilterID_SetString(p, "business"))
		must(rfc3162.FramedIPv6Pool_SetString(p, "silver"))
		must(rfc6911.StatefulIPv6AddressPool_SetString(p, "gold"))
		must(rfc6911.DelegatedIPv6PrefixPool_SetString(p, "homes"))
		must(rfc6911.DNSServerIPv6Address_Add(p, net.ParseIP("2001:db8::53")))
		must(rfc6911.DNSServerIPv6Address_Add(p, net.ParseIP("2001:db8::54")))
		must(rfc4818.DelegatedIPv6Prefix_Set(p, &net.IPNet{IP: net.ParseIP("2001:db8:ee00::"), Mask: net.CIDRMask(48, 128)}))
	}))
	s := newSource(t, start(), nil, addr)
	want := eidauth.Profile{Class: "business", AddressPool: "gold", PrefixPool: "homes", Prefix: netip.MustParsePrefix("2001:db8:ee00::/48"),
		DNS: []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("2001:db8::54")}}
	for range 2 {
		if _, err := decide(t, s, line("a")); err != nil {
			t.Fatal(err)
		}
		id, err := s.Authenticate(line("a"))
		if err != nil || id.Profile == nil || !reflect.DeepEqual(*id.Profile, want) {
			t.Errorf("%+v, %v; want %+v", id.Profile, err, want)
		}
	}
	f.set(accept(func(p *radius.Packet) { must(rfc3162.FramedIPv6Pool_SetString(p, "silver")) }))
	if _, err := decide(t, s, line("b")); err != nil {
		t.Fatal(err)
	}
	if id, _ := s.Authenticate(line("b")); id.Profile == nil || id.Profile.AddressPool != "silver" {
		t.Errorf("%+v", id.Profile)
	}
	f.set(accept(nil))
	if _, err := decide(t, s, line("c")); err != nil {
		t.Fatal(err)
	}
	if id, _ := s.Authenticate(line("c")); id.Profile != nil {
		t.Errorf("of nothing: %+v", id.Profile)
	}
}

func TestWhatIsKnownIsNotAskedAgain(t *testing.T) {
	at := start()
	f, addr := newFake(t, accept(nil))
	s := newSource(t, at, nil, addr)
	check := func(id, want string, err error, asked int32) {
		t.Helper()
		before := f.asked.Load()
		got, e := decide(t, s, line(id))
		n := f.asked.Load() - before
		if got != want || !errors.Is(e, err) || n != asked {
			t.Errorf("%q, %v, asked %d times; want %q, %v, %d", got, e, f.asked.Load()-before, want, err, asked)
		}
	}
	check("a", "radius:a", nil, 1)
	check("a", "radius:a", nil, 0)
	check("b", "radius:b", nil, 1)
	at.pass(time.Hour)
	check("a", "radius:a", nil, 1)
	// Who was accepted stays so while no server answers, and nobody else gets in.
	at.pass(time.Hour)
	f.set(func(*radius.Packet) *radius.Packet { return nil })
	check("a", "radius:a", nil, 2)
	check("c", "", eidauth.ErrPending, 2)
	check("c", "", eidauth.ErrPending, 0)
	at.pass(2 * retry)
	// A refusal ends it, and is remembered for a minute.
	f.set(func(q *radius.Packet) *radius.Packet { return answered(q, radius.CodeAccessReject, nil) })
	check("a", "", eidauth.ErrUnknown, 1)
	check("a", "", eidauth.ErrUnknown, 0)
	at.pass(time.Minute)
	// The server's own time counts, also when it does not answer at its end.
	f.set(accept(func(p *radius.Packet) {
		if err := rfc2865.SessionTimeout_Set(p, 30); err != nil {
			panic(err)
		}
	}))
	check("a", "radius:a", nil, 1)
	at.pass(29 * time.Second)
	check("a", "radius:a", nil, 0)
	at.pass(time.Second)
	f.set(func(*radius.Packet) *radius.Packet { return nil })
	check("a", "", eidauth.ErrPending, 2)
}

func TestAnotherServerIsAskedWhenOneIsDead(t *testing.T) {
	at := start()
	silent, one := newFake(t, func(*radius.Packet) *radius.Packet { return nil })
	second, two := newFake(t, accept(nil))
	s := newSource(t, at, nil, one, two)
	for i := range 5 {
		if got, err := decide(t, s, line(fmt.Sprint(i))); err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if n := silent.asked.Load(); n < 2 || n > 3 || second.asked.Load() != 5 {
		t.Errorf("the dead server was asked %d times, the other %d", silent.asked.Load(), second.asked.Load())
	}
	// It is tried again after a while, and comes first when it lives.
	at.pass(deadFor)
	silent.set(accept(nil))
	before := silent.asked.Load()
	for i := range 3 {
		if got, err := decide(t, s, line(fmt.Sprint("again ", i))); err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if silent.asked.Load()-before != 3 || second.asked.Load() != 5 {
		t.Errorf("the server that is back was asked %d times, the other %d", silent.asked.Load(), second.asked.Load())
	}
}

// Slow answers do not hold up anybody, and there is an end to how many are waited for.
func TestQuestionsAreBounded(t *testing.T) {
	hold := make(chan struct{})
	_, addr := newFake(t, func(*radius.Packet) *radius.Packet { <-hold; return nil })
	defer close(hold)
	s := newSource(t, start(), nil, addr)
	for i := range maxAsked + 50 {
		if _, err := s.Authenticate(line(fmt.Sprint(i))); !errors.Is(err, eidauth.ErrPending) {
			t.Fatal(err)
		}
	}
	if n := s.c.Stats.Overloaded.Load(); n != 50 {
		t.Errorf("%d questions were not asked, want 50", n)
	}
	// What is remembered is bounded too.
	done := make(chan struct{})
	close(done)
	for i := range maxKnown {
		s.known[[32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}] = &known{done: done, until: s.c.Now().Add(time.Hour)}
	}
	s.mu.Lock()
	s.makeRoom(s.c.Now())
	n := len(s.known)
	s.mu.Unlock()
	if n >= maxKnown {
		t.Errorf("%d clients are remembered", n)
	}
}

func TestClientsAreCalledByWhatIsKnownOfThem(t *testing.T) {
	_, addr := newFake(t, accept(nil))
	for _, c := range []struct {
		names  []string
		client *eidauth.Client
		want   string
	}{
		{Names, line("l"), "radius:l"},
		{[]string{"remote-id"}, line("l"), "radius:AL"},
		{[]string{"interface-id"}, line("l"), "radius:eth1/7"},
		{[]string{NameLinkLayer}, line("l"), "radius:02-00-00-00-00-07"},
		{[]string{NameDUID}, line("l"), "radius:000401"},
		{[]string{"subscriber-id", NameDUID}, &eidauth.Client{DUID: []byte{0, 4, 1}}, "radius:000401"},
		{[]string{"subscriber-id"}, &eidauth.Client{DUID: []byte{0, 4, 1}}, ""},
		{[]string{"subscriber-id"}, line(strings.Repeat("x", 300)), ""},
	} {
		s := newSource(t, start(), func(x *Config) { x.Names = c.names }, addr)
		got, err := decide(t, s, c.client)
		if got != c.want || (c.want == "") != errors.Is(err, eidauth.ErrUnknown) {
			t.Errorf("%v: %q, %v; want %q", c.names, got, err, c.want)
		}
	}
}

func TestConfigurationsThatAskNobodyAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no server":    func(c *Config) { c.Servers = nil },
		"no secret":    func(c *Config) { c.Servers[0].Secret = nil },
		"no name":      func(c *Config) { c.Names = nil },
		"a wrong name": func(c *Config) { c.Names = []string{"shoe-size"} },
		"no time":      func(c *Config) { c.Timeout = 0 },
		"no identity":  func(c *Config) { c.Identity = []string{"class"} },
	} {
		c := Config{Servers: []Server{{Address: "[::1]:1812", Secret: secret}}, Timeout: time.Second, Tries: 1, Names: Names}
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

// By TLS: many questions on one connection, which is made again when it breaks; an answer
// that is not the server's ends it.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"radius.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	l, err := tls.Listen("tcp", "[::1]:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := &fake{t: t, do: accept(nil)}
	var conns atomic.Int32
	var forge atomic.Bool
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer conn.Close()
				head := make([]byte, 4)
				for {
					if _, err := io.ReadFull(conn, head); err != nil {
						return
					}
					b := make([]byte, int(head[2])<<8|int(head[3]))
					copy(b, head)
					if _, err := io.ReadFull(conn, b[4:]); err != nil {
						return
					}
					wire := f.answer(b)
					if forge.Load() && wire != nil {
						wire[5] ^= 1
					}
					if _, err := conn.Write(wire); err != nil {
						return
					}
				}
			}()
		}
	}()
	client := &tls.Config{RootCAs: pool, ServerName: "radius.example", MinVersion: tls.VersionTLS13}
	s := newSource(t, start(), func(c *Config) {
		c.Servers = []Server{{Address: l.Addr().String(), Secret: secret, TLS: client}}
		c.Timeout = 5 * time.Second
	})
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if got, err := decide(t, s, line(fmt.Sprint(i))); err != nil || got != fmt.Sprint("radius:", i) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	forge.Store(true)
	if got, err := decide(t, s, line("forged")); !errors.Is(err, eidauth.ErrPending) {
		t.Errorf("a forged answer: %q, %v", got, err)
	}
	forge.Store(false)
	if got, err := decide(t, s, line("after")); err != nil {
		t.Errorf("after a forged answer: %q, %v", got, err)
	}
	// A server whose certificate nobody issued that is trusted.
	s = newSource(t, start(), func(c *Config) {
		c.Servers = []Server{{Address: l.Addr().String(), Secret: secret, TLS: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "radius.example", MinVersion: tls.VersionTLS13}}}
	})
	if got, err := decide(t, s, line("x")); !errors.Is(err, eidauth.ErrPending) {
		t.Errorf("a stranger's server: %q, %v", got, err)
	}
}

// Whatever a server sends is an answer or is none.
func FuzzAnswer(f *testing.F) {
	q := radius.New(radius.CodeAccessRequest, secret)
	wire, err := answered(q, radius.CodeAccessAccept, nil).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	s := &Source{c: Config{Identity: []string{ChargeableUserIdentity, UserName}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := radius.Parse(b, secret)
		if err != nil {
			return
		}
		signed(p, q.Authenticator)
		_, _ = s.identity(&question{name: []byte("x")}, p)
	})
}
