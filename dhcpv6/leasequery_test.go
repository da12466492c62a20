package dhcpv6

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/idcodec"
	"brightgid/lease"
)

// memory is leases in a slice.
type memory []lease.Lease

func (m memory) Lease(a netip.Addr) (lease.Lease, error) {
	for _, x := range m {
		if x.Addr == a {
			return x, nil
		}
	}
	return lease.Lease{}, lease.ErrNotFound
}

func (m memory) Lengths() (all []uint8) {
	for _, x := range m {
		if x.Bits != 0 && !slices.Contains(all, x.Bits) {
			all = append(all, x.Bits)
		}
	}
	return all
}

func (m memory) Each(f func(lease.Lease) error) error {
	for _, x := range m {
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

func held(addr string, n byte, until time.Time) lease.Lease {
	return lease.Lease{
		Addr: netip.MustParseAddr(addr), State: lease.Active, Client: lease.Client{DUID: duidOf(n).ToBytes(), IAID: 1},
		Anchor: lease.Anchor{LinkLayer: mac(n), Relay: relayAddr}, Updated: until.Add(-time.Hour), PreferredUntil: until.Add(-time.Minute), ValidUntil: until,
	}
}

// queryLab is a leasequery server on pipes, within a synctest bubble.
type queryLab struct {
	t       *testing.T
	server  *LeaseQueryServer
	feed    *Feed
	clients *tls.Config
	conns   chan net.Conn
	stop    func()
	ended   chan error
}

func (l *queryLab) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *queryLab) Close() error   { close(l.conns); return nil }
func (l *queryLab) Addr() net.Addr { return &net.TCPAddr{} }

// pair makes a certificate for localhost that is its own authority.
func pair(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "filter"}, DNSNames: []string{"localhost"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func newQueryLab(t *testing.T, leases LeaseSource) *queryLab {
	serverCert, serverPool := pair(t)
	clientCert, clientPool := pair(t)
	l := &queryLab{
		t: t, feed: NewFeed(), conns: make(chan net.Conn), ended: make(chan error, 1),
		clients: &tls.Config{RootCAs: serverPool, ServerName: "localhost", Certificates: []tls.Certificate{clientCert}},
	}
	l.server = NewLeaseQueryServer(Config{QuerySecret: []byte("secret"),
		ServerID: duidOf(99).ToBytes(),
		Links: []Link{
			{Name: "a", Prefixes: []idcodec.Prefix{prefixOf(prefixA)}, Pools: []lease.Pool{testPool("2001:db8:4000::/40", 56)}},
			{Name: "b", Prefixes: []idcodec.Prefix{prefixOf(prefixB)}, RelayLinks: []netip.Addr{netip.MustParseAddr("2001:db8:ff::2")}},
		},
	}, leases, l.feed, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{serverCert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientPool}, time.Now, slog.New(slog.DiscardHandler))
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	go func() { l.ended <- l.server.Serve(ctx, l) }()
	return l
}

// end stops the server and waits for it.
func (l *queryLab) end() {
	l.t.Helper()
	l.stop()
	if err := <-l.ended; err != nil {
		l.t.Errorf("the server ended with %v", err)
	}
}

// dial connects without TLS.
func (l *queryLab) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// secure connects with TLS.
func (l *queryLab) secure() *tls.Conn {
	l.t.Helper()
	c := l.dial()
	send(l.t, c, dhcp6.MessageType(messageStartTLS))
	if got := receive(l.t, c); got.typ != messageStartTLS {
		l.t.Fatalf("STARTTLS was answered by type %d", got.typ)
	}
	conn := tls.Client(c, l.clients)
	if err := conn.Handshake(); err != nil {
		l.t.Fatal(err)
	}
	return conn
}

func send(t *testing.T, w io.Writer, typ dhcp6.MessageType, options ...dhcp6.Option) {
	t.Helper()
	m := dhcp6.Message{MessageType: typ, TransactionID: dhcp6.TransactionID{1, 2, 3}, Options: dhcp6.MessageOptions{Options: options}}
	b := m.ToBytes()
	if _, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		t.Fatal(err)
	}
}

// answer is a message of the server, read by another implementation.
type answer struct {
	typ     dhcp6.MessageType
	options dhcp6.Options
}

func receive(t *testing.T, r io.Reader) answer {
	t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	a := answer{typ: dhcp6.MessageType(b[0])}
	if [3]byte(b[1:]) != [3]byte{1, 2, 3} {
		t.Errorf("transaction %x", b[1:4])
	}
	if err := a.options.FromBytes(b[4:]); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a answer) status() iana.StatusCode {
	if o, ok := a.options.GetOne(dhcp6.OptionStatusCode).(*dhcp6.OptStatusCode); ok {
		return o.StatusCode
	}
	return iana.StatusSuccess
}

// binding returns the address of a LEASEQUERY-DATA, its valid lifetime and its
// link-layer address.
func (a answer) binding(t *testing.T) (addr netip.Addr, valid time.Duration, linkLayer string) {
	t.Helper()
	data := a.options.GetOne(dhcp6.OptionClientData)
	if data == nil {
		t.Fatalf("no client data in %v", a)
	}
	var inner dhcp6.Options
	if err := inner.FromBytes(data.ToBytes()); err != nil {
		t.Fatal(err)
	}
	ia := inner.GetOne(dhcp6.OptionIAAddr).(*dhcp6.OptIAAddress)
	addr, _ = netip.AddrFromSlice(ia.IPv6Addr)
	if o := inner.GetOne(dhcp6.OptionClientLinkLayerAddr); o != nil {
		linkLayer = net.HardwareAddr(o.ToBytes()[2:]).String()
	}
	if inner.GetOne(dhcp6.OptionClientID) == nil || inner.GetOne(dhcp6.OptionCLTTime) == nil {
		t.Errorf("client data without a client or a time: %v", inner)
	}
	return addr, ia.ValidLifetime, linkLayer
}

func clientID() dhcp6.Option { return dhcp6.OptClientID(duidOf(50)) }

// lq makes an OPTION_LQ_QUERY.
func lq(kind byte, link string, options ...dhcp6.Option) dhcp6.Option {
	b := append([]byte{kind}, netip.MustParseAddr(link).AsSlice()...)
	return &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionLQQuery, OptionData: append(b, dhcp6.Options(options).ToBytes()...)}
}

// rest reads bindings until the end of the answer.
func rest(t *testing.T, r io.Reader) (addrs []string, end iana.StatusCode) {
	t.Helper()
	for {
		a := receive(t, r)
		switch a.typ {
		case dhcp6.MessageTypeLeaseQueryDone:
			return addrs, a.status()
		case dhcp6.MessageTypeLeaseQueryData:
			addr, _, _ := a.binding(t)
			addrs = append(addrs, addr.String())
		default:
			t.Fatalf("type %d within a bulk answer", a.typ)
		}
	}
}

func relayIDOption(n byte) dhcp6.Option {
	return &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionRelayID, OptionData: duidOf(n).ToBytes()}
}

func remoteIDOption(id string) dhcp6.Option {
	return &dhcp6.OptRemoteID{EnterpriseNumber: 9, RemoteID: []byte(id)}
}

// What relays say of a client's line is kept where leasequery may ask by it: the Remote-ID as
// a hash only.
func TestWhatLeaseQueriesAskByIsKept(t *testing.T) {
	for _, secret := range []string{"", "secret"} {
		l := newLab(t, func(c *Config) { c.QuerySecret = []byte(secret) })
		inner, err := dhcp6.EncapsulateRelay(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1)), dhcp6.MessageTypeRelayForward, netip.MustParseAddr("2001:db8:3::1").AsSlice(), linkLocal.AsSlice())
		if err != nil {
			t.Fatal(err)
		}
		inner.AddOption(remoteIDOption("line 7"))
		inner.AddOption(relayIDOption(7))
		reply, _, drop := l.h.Handle(l.now, &Packet{Data: inner.ToBytes(), Src: netip.AddrPortFrom(relayAddr, 547)}, nil)
		if drop != 0 {
			t.Fatal(drop)
		}
		m, err := dhcp6.RelayMessageFromBytes(reply)
		if err != nil {
			t.Fatal(err)
		}
		in, err := m.GetInnerMessage()
		if err != nil {
			t.Fatal(err)
		}
		le, err := l.store.Lease(addresses(t, in)[0].addr)
		if err != nil {
			t.Fatal(err)
		}
		kept := string(le.Anchor.RelayID) == string(duidOf(7).ToBytes()) && string(le.Anchor.RemoteID) == string(remoteIDHash([]byte(secret), []byte("\x00\x00\x00\x09line 7")))
		if kept != (secret != "") {
			t.Errorf("with the secret %q it is filed as %+v", secret, le.Anchor)
		}
	}
}

func TestBulkLeaseQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		leases := memory{
			held("2001:db8:1::a", 1, now.Add(time.Hour)),
			held("2001:db8:1::b", 2, now.Add(-time.Second)),
			held("2001:db8:2::a", 1, now.Add(time.Hour)),
			held("2001:db8:2::c", 3, now.Add(time.Hour)),
		}
		leases[3].State = lease.Released
		leases[2].Anchor.RelayID, leases[2].Anchor.RemoteID = duidOf(7).ToBytes(), remoteIDHash([]byte("secret"), []byte("\x00\x00\x00\x09line 7"))
		l := newQueryLab(t, leases)
		defer l.end()
		conn := l.secure()
		defer conn.Close()
		one := func(a string) dhcp6.Option {
			return &dhcp6.OptIAAddress{IPv6Addr: netip.MustParseAddr(a).AsSlice()}
		}
		for _, c := range []struct {
			name    string
			query   []dhcp6.Option
			status  iana.StatusCode
			answers []string
		}{
			{"everything", []dhcp6.Option{clientID(), lq(queryByLinkAddress, "::")}, 0, []string{"2001:db8:1::a", "2001:db8:2::a"}},
			{"a link by its prefix", []dhcp6.Option{clientID(), lq(queryByLinkAddress, "2001:db8:1::1")}, 0, []string{"2001:db8:1::a"}},
			{"a link by its relay", []dhcp6.Option{clientID(), lq(queryByLinkAddress, "2001:db8:ff::2")}, 0, []string{"2001:db8:2::a"}},
			{"an address", []dhcp6.Option{clientID(), lq(queryByAddress, "::", one("2001:db8:2::a"))}, 0, []string{"2001:db8:2::a"}},
			{"an address that is over", []dhcp6.Option{clientID(), lq(queryByAddress, "::", one("2001:db8:1::b"))}, 0, nil},
			{"an address that never was", []dhcp6.Option{clientID(), lq(queryByAddress, "::", one("2001:db8:1::f"))}, 0, nil},
			{"a client", []dhcp6.Option{clientID(), lq(queryByClientID, "::", dhcp6.OptClientID(duidOf(1)))}, 0, []string{"2001:db8:1::a", "2001:db8:2::a"}},
			{"a client on a link", []dhcp6.Option{clientID(), lq(queryByClientID, "2001:db8:2::1", dhcp6.OptClientID(duidOf(1)))}, 0, []string{"2001:db8:2::a"}},
			{"an unknown link", []dhcp6.Option{clientID(), lq(queryByLinkAddress, "2001:db8:9::1")}, statusNotConfigured, nil},
			{"without who asks", []dhcp6.Option{lq(queryByLinkAddress, "::")}, statusMalformedQuery, nil},
			{"without what is asked", []dhcp6.Option{clientID()}, statusUnknownQueryType, nil},
			{"an address without one", []dhcp6.Option{clientID(), lq(queryByAddress, "::")}, statusMalformedQuery, nil},
			{"a client without one", []dhcp6.Option{clientID(), lq(queryByClientID, "::")}, statusMalformedQuery, nil},
			{"a relay", []dhcp6.Option{clientID(), lq(queryByRelayID, "::", relayIDOption(7))}, 0, []string{"2001:db8:2::a"}},
			{"another relay", []dhcp6.Option{clientID(), lq(queryByRelayID, "::", relayIDOption(8))}, 0, nil},
			{"a relay without one", []dhcp6.Option{clientID(), lq(queryByRelayID, "::")}, statusMalformedQuery, nil},
			{"a remote id", []dhcp6.Option{clientID(), lq(queryByRemoteID, "::", remoteIDOption("line 7"))}, 0, []string{"2001:db8:2::a"}},
			{"a remote id on another link", []dhcp6.Option{clientID(), lq(queryByRemoteID, "2001:db8:1::1", remoteIDOption("line 7"))}, 0, nil},
			{"another remote id", []dhcp6.Option{clientID(), lq(queryByRemoteID, "::", remoteIDOption("line 8"))}, 0, nil},
			{"a remote id without one", []dhcp6.Option{clientID(), lq(queryByRemoteID, "::")}, statusMalformedQuery, nil},
			{"what nobody knows", []dhcp6.Option{clientID(), lq(77, "::")}, statusUnknownQueryType, nil},
			{"another server", []dhcp6.Option{clientID(), dhcp6.OptServerID(duidOf(98)), lq(queryByLinkAddress, "::")}, statusNotConfigured, nil},
		} {
			send(t, conn, dhcp6.MessageTypeLeaseQuery, c.query...)
			first := receive(t, conn)
			if first.typ != dhcp6.MessageTypeLeaseQueryReply || first.status() != c.status {
				t.Errorf("%s: type %d, status %d; want %d", c.name, first.typ, first.status(), c.status)
			}
			if first.options.GetOne(dhcp6.OptionServerID) == nil {
				t.Errorf("%s: no server identifier", c.name)
			}
			if c.status != 0 {
				continue
			}
			if got, end := rest(t, conn); !slices.Equal(got, c.answers) || end != 0 {
				t.Errorf("%s: %v, status %d; want %v", c.name, got, end, c.answers)
			}
		}
	})
}

func TestClientDataTellsWhoAndUntilWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		direct := held("2001:db8:1::b", 2, time.Now().Add(time.Hour))
		direct.Anchor.Relay = netip.Addr{}
		l := newQueryLab(t, memory{held("2001:db8:1::a", 1, time.Now().Add(90*time.Second+1)), direct})
		defer l.end()
		conn := l.secure()
		defer conn.Close()
		send(t, conn, dhcp6.MessageTypeLeaseQuery, clientID(), lq(queryByLinkAddress, "::"))
		receive(t, conn)
		addr, valid, mac := receive(t, conn).binding(t)
		if addr.String() != "2001:db8:1::a" || mac != "02:00:00:00:00:01" {
			t.Errorf("%s of %s", addr, mac)
		}
		if valid != 91*time.Second {
			t.Errorf("valid for %s; want what is left, rounded up: 91s", valid)
		}
		if addr, _, mac = receive(t, conn).binding(t); addr != direct.Addr || mac != "" {
			t.Errorf("%s of %q; want no link-layer address that is only in a DUID", addr, mac)
		}
	})
}

type unreadable struct{ memory }

func (b unreadable) Each(f func(lease.Lease) error) error {
	return errors.Join(b.memory.Each(f), errors.New("the disk is gone"))
}

func TestAnAnswerThatIsNotWholeSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, unreadable{memory{held("2001:db8:1::a", 1, time.Now().Add(time.Hour))}})
		defer l.end()
		conn := l.secure()
		defer conn.Close()
		send(t, conn, dhcp6.MessageTypeLeaseQuery, clientID(), lq(queryByLinkAddress, "::"))
		receive(t, conn)
		if _, end := rest(t, conn); end != statusQueryTerminated {
			t.Errorf("status %d; want QueryTerminated", end)
		}
	})
}

func TestNothingIsToldWithoutTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, memory{held("2001:db8:1::a", 1, time.Now().Add(time.Hour))})
		defer l.end()
		for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeLeaseQuery, messageActiveLeaseQuery} {
			c := l.dial()
			send(t, c, typ, clientID(), lq(queryByLinkAddress, "::"))
			if a := receive(t, c); a.typ != dhcp6.MessageTypeLeaseQueryReply || a.status() != statusNotAllowed {
				t.Errorf("type %d status %d; want NotAllowed", a.typ, a.status())
			}
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the connection goes on: %v", err)
			}
		}
		// A stranger's certificate, and none.
		stranger, _ := pair(t)
		for _, certs := range [][]tls.Certificate{{stranger}, nil} {
			c := l.dial()
			send(t, c, dhcp6.MessageType(messageStartTLS))
			receive(t, c)
			cfg := l.clients.Clone()
			cfg.Certificates = certs
			conn := tls.Client(c, cfg)
			err := conn.Handshake()
			if err == nil { // in TLS 1.3 a client learns of it when it reads
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), "tls") && err != io.EOF {
				t.Errorf("a stranger was not refused: %v", err)
			}
			c.Close()
		}
		// Garbage, and silence.
		c := l.dial()
		if _, err := c.Write([]byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a message of 64 KiB was waited for: %v", err)
		}
		c = l.dial()
		begun := time.Now()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(begun) != handshakeTime {
			t.Errorf("one who says nothing was let go after %s: %v", time.Since(begun), err)
		}
	})
}

func TestTooManyQueriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, memory{})
		var conns []net.Conn
		for range maxQueriers {
			conns = append(conns, l.dial())
		}
		c := l.dial()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("one more than %d connections: %v", maxQueriers, err)
		}
		conns[0].Close()
		synctest.Wait()
		l.secure().Close()
		l.end()
		for _, c := range conns {
			c.Close()
		}
	})
}

// activeConn begins an active leasequery.
func (l *queryLab) active(options ...dhcp6.Option) (*tls.Conn, answer) {
	l.t.Helper()
	conn := l.secure()
	send(l.t, conn, messageActiveLeaseQuery, append(options, clientID())...)
	a := receive(l.t, conn)
	if a.typ != dhcp6.MessageTypeLeaseQueryReply {
		l.t.Fatalf("an active leasequery was answered by type %d", a.typ)
	}
	if b := a.options.GetOne(dhcp6.OptionLQBaseTime); b == nil || binary.BigEndian.Uint32(b.ToBytes()) != uint32(time.Now().Unix()-946684800) {
		l.t.Errorf("base time %v", b)
	}
	synctest.Wait()
	return conn, a
}

func TestActiveLeaseQueryFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, memory{})
		defer l.end()
		conn, a := l.active()
		defer conn.Close()
		if a.status() != 0 || !l.feed.Following() {
			t.Fatalf("status %d, following %v", a.status(), l.feed.Following())
		}
		given := held("2001:db8:1::a", 1, time.Now().Add(time.Hour))
		taken := given
		taken.State = lease.Released
		l.feed.Publish([]lease.Lease{given, taken}, false)
		for _, want := range []time.Duration{time.Hour, 0} {
			addr, valid, _ := receive(t, conn).binding(t)
			if addr != given.Addr || valid != want {
				t.Errorf("%s valid for %s; want %s", addr, valid, want)
			}
		}
		begun := time.Now()
		for range 3 {
			if a := receive(t, conn); a.typ != dhcp6.MessageTypeLeaseQueryData || len(a.options) != 0 {
				t.Errorf("an idle connection carries %v", a)
			}
		}
		if d := time.Since(begun); d != 3*keepAlive {
			t.Errorf("three signs of life in %s; want %s", d, 3*keepAlive)
		}
		conn.Close()
		synctest.Wait()
		if l.feed.Following() {
			t.Error("who is gone is still followed")
		}
	})
}

func TestActiveLeaseQueryFromThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, memory{})
		defer l.end()
		conn, a := l.active(&dhcp6.OptionGeneric{OptionCode: dhcp6.OptionLQStartTime, OptionData: []byte{0, 0, 0, 1}})
		defer conn.Close()
		if a.status() != statusDataMissing || !l.feed.Following() {
			t.Errorf("status %d; want DataMissing, and the present", a.status())
		}
	})
}

func TestAFollowerThatFallsBehindIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, memory{})
		defer l.end()
		conn, _ := l.active()
		defer conn.Close()
		x := held("2001:db8:1::a", 1, time.Now().Add(time.Hour))
		for range 2 * feedQueue {
			l.feed.Publish([]lease.Lease{x}, true)
		}
		n := 0
		for {
			a := receive(t, conn)
			if a.typ == dhcp6.MessageTypeLeaseQueryDone {
				if a.status() != statusQueryTerminated {
					t.Errorf("status %d; want QueryTerminated", a.status())
				}
				break
			}
			n++
		}
		if n > feedQueue+1024 {
			t.Errorf("%d changes were kept", n)
		}
	})
}

func TestTheServersEndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newQueryLab(t, memory{})
		conn, _ := l.active()
		defer conn.Close()
		l.stop()
		if a := receive(t, conn); a.typ != dhcp6.MessageTypeLeaseQueryDone || a.status() != statusQueryTerminated {
			t.Errorf("type %d status %d; want DONE, QueryTerminated", a.typ, a.status())
		}
		l.end()
	})
}

func TestTheAllocatorsChangesReachTheFeed(t *testing.T) {
	l := newLab(t, nil)
	s := &Server{feed: NewFeed()}
	l.alloc.Observe(s.Changed)
	l.lease(1, 1)
	if len(s.changes) != 0 {
		t.Error("changes are kept for nobody")
	}
	w := s.feed.follow()
	defer s.feed.unfollow(w)
	got := l.lease(2, 1)
	var changed []netip.Addr
	for _, c := range s.changes {
		if !c.Live(l.now) || string(c.Client.DUID) != string(duidOf(2).ToBytes()) {
			t.Errorf("a change of %v", c)
		}
		changed = append(changed, c.Addr)
	}
	if !slices.Equal(changed, addrsOf(got)) {
		t.Errorf("changes of %v; leased were %v", changed, addrsOf(got))
	}
}

func TestLeaseQueriesByUDP(t *testing.T) {
	l := newLab(t, nil)
	granted := l.lease(1, 1)[0]
	l.h.AnswerLeaseQueries(l.store, []netip.Addr{relayAddr})
	ask := func(from netip.Addr, typ byte, options ...dhcp6.Option) (answer, Drop) {
		t.Helper()
		m := dhcp6.Message{MessageType: dhcp6.MessageTypeLeaseQuery, TransactionID: dhcp6.TransactionID{1, 2, 3}}
		m.AddOption(clientID())
		m.AddOption(lq(typ, "::", options...))
		src := netip.AddrPortFrom(from, 40000)
		b, to, drop := l.h.Handle(l.now, &Packet{Data: m.ToBytes(), Src: src}, nil)
		if drop != 0 {
			return answer{}, drop
		}
		if to != src {
			t.Errorf("the answer goes to %s", to)
		}
		return receive(t, bytes.NewReader(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))), 0
	}
	one := func(a netip.Addr) dhcp6.Option { return &dhcp6.OptIAAddress{IPv6Addr: a.AsSlice()} }
	if _, drop := ask(linkLocal, queryByAddress, one(granted.addr)); drop != DropNotAllowed {
		t.Errorf("a stranger's query: drop %s", drop)
	}
	a, _ := ask(relayAddr, queryByAddress, one(granted.addr))
	if addr, valid, _ := a.binding(t); a.typ != dhcp6.MessageTypeLeaseQueryReply || addr != granted.addr || valid != 2*time.Hour {
		t.Errorf("type %d: %s for %s", a.typ, addr, valid)
	}
	if a, _ := ask(relayAddr, queryByAddress, one(netip.MustParseAddr("2001:db8:1::dead"))); a.status() != 0 || a.options.GetOne(dhcp6.OptionClientData) != nil {
		t.Errorf("of an address that is not leased: %v", a)
	}
	if a, _ := ask(relayAddr, queryByLinkAddress); a.status() != statusUnknownQueryType {
		t.Errorf("a query for everything by UDP: %v", a)
	}
}

func FuzzLeaseQuery(f *testing.F) {
	seed := func(typ dhcp6.MessageType, options ...dhcp6.Option) {
		m := dhcp6.Message{MessageType: typ, Options: dhcp6.MessageOptions{Options: options}}
		f.Add(m.ToBytes())
	}
	seed(dhcp6.MessageTypeLeaseQuery, clientID(), lq(queryByLinkAddress, "::"))
	seed(dhcp6.MessageTypeLeaseQuery, clientID(), lq(queryByAddress, "::", &dhcp6.OptIAAddress{IPv6Addr: net.IPv6loopback}))
	seed(dhcp6.MessageTypeLeaseQuery, clientID(), lq(queryByClientID, "::", dhcp6.OptClientID(duidOf(1))))
	seed(messageActiveLeaseQuery, clientID())
	now := time.Unix(1e9, 0)
	q := leaseQuery{serverID: duidOf(99).ToBytes(), leases: memory{held("2001:db8:1::a", 1, now.Add(time.Hour))}}
	f.Fuzz(func(t *testing.T, b []byte) {
		query, err := parseQuery(b)
		if err != nil {
			return
		}
		status, text := q.check(&query)
		out := q.reply(nil, &query, now, status, text)
		if status == 0 && query.typ == dhcp6.MessageTypeLeaseQuery {
			if err := q.each(&query, now, func(x *lease.Lease) error { out = q.data(out, query.xid, x, false, now); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		for len(out) > 0 { // whatever was asked, the answer can be read
			n := int(binary.BigEndian.Uint16(out))
			for b := out[6 : 2+n]; len(b) > 0; { // not by the library, which knows DUIDs better than to echo any
				if _, _, b, err = nextOption(b); err != nil {
					t.Fatal(err)
				}
			}
			out = out[2+n:]
		}
	})
}
