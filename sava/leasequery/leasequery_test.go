package leasequery

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/sava"
)

var mac = sava.MAC{2, 0, 0, 0, 0, 0x0a}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// server is the other side of a client, played by a test. Its messages are made
// with insomniacslk/dhcp.
type server struct {
	t      *testing.T
	conns  chan net.Conn
	config *tls.Config
	down   atomic.Bool
}

func newClient(t *testing.T) (*Client, *server) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
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
	s := &server{t: t, conns: make(chan net.Conn), config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	return &Client{
		Dial: func(ctx context.Context) (net.Conn, error) {
			if s.down.Load() {
				return nil, errors.New("connection refused")
			}
			here, there := net.Pipe()
			s.conns <- there
			return here, nil
		},
		TLS: &tls.Config{RootCAs: pool, ServerName: "localhost"}, DUID: []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 9},
		Table: sava.NewTable(0, nil), Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}, s
}

// conn is a connection that a client has made.
type conn struct {
	t *testing.T
	net.Conn
	xid dhcp6.TransactionID
}

// accept takes the next connection through STARTTLS and reads its query.
func (s *server) accept() (*conn, *dhcp6.Message) {
	s.t.Helper()
	plain := <-s.conns
	c := &conn{t: s.t, Conn: plain}
	if m := c.receive(); m.MessageType != messageStartTLS {
		s.t.Fatalf("the client begins with %d, not STARTTLS", m.MessageType)
	}
	c.say(messageStartTLS)
	c.Conn = tls.Server(plain, s.config)
	return c, c.receive()
}

func (c *conn) receive() *dhcp6.Message {
	c.t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	m, err := dhcp6.MessageFromBytes(b)
	if err != nil {
		c.t.Fatal(err)
	}
	c.xid = m.TransactionID
	return m
}

func (c *conn) say(typ dhcp6.MessageType, options ...dhcp6.Option) {
	c.t.Helper()
	m := dhcp6.Message{MessageType: typ, TransactionID: c.xid, Options: dhcp6.MessageOptions{Options: options}}
	b := m.ToBytes()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		c.t.Fatal(err)
	}
}

// data tells of a lease.
func (c *conn) data(a string, valid time.Duration, mac *sava.MAC) {
	c.t.Helper()
	inner := dhcp6.Options{&dhcp6.OptIAAddress{IPv6Addr: addr(a).AsSlice(), PreferredLifetime: valid, ValidLifetime: valid}}
	if mac != nil {
		inner = append(inner, dhcp6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac[:]))
	}
	c.say(dhcp6.MessageTypeLeaseQueryData, &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionClientData, OptionData: inner.ToBytes()})
}

func status12(code iana.StatusCode) dhcp6.Option { return &dhcp6.OptStatusCode{StatusCode: code} }

// begin takes a client to the point where it follows and asks for everything.
func (s *server) begin() (active, bulk *conn) {
	s.t.Helper()
	active, q := s.accept()
	if q.MessageType != messageActiveLeaseQuery || q.Options.ClientID() == nil {
		s.t.Fatalf("the first query is %v", q)
	}
	active.say(dhcp6.MessageTypeLeaseQueryReply)
	bulk, q = s.accept()
	if o := q.GetOneOption(dhcp6.OptionLQQuery); q.MessageType != dhcp6.MessageTypeLeaseQuery || o == nil || o.ToBytes()[0] != 4 {
		s.t.Fatalf("the second query is %v", q)
	}
	bulk.say(dhcp6.MessageTypeLeaseQueryReply)
	return active, bulk
}

func (s *server) end(c *conn) {
	s.t.Helper()
	c.say(dhcp6.MessageTypeLeaseQueryDone)
	synctest.Wait()
}

// bound checks what the table says of an address; a nil want is nothing.
func bound(t *testing.T, c *Client, a string, want *sava.Binding) {
	t.Helper()
	got, ok := c.Table.Lookup(addr(a))
	if want == nil {
		if ok {
			t.Errorf("%s is bound: %+v", a, got)
		}
		return
	}
	if !ok || got.Anchor != want.Anchor || got.AnyVLAN != want.AnyVLAN || !got.Until.Equal(want.Until) {
		t.Errorf("%s is %+v, %v; want %+v", a, got, ok, *want)
	}
}

func running(t *testing.T, f func(c *Client, s *server)) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newClient(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		f(c, s)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the client ended with %v", err)
		}
	})
}

func TestTheTableBecomesWhatTheServerSays(t *testing.T) {
	running(t, func(c *Client, s *server) {
		until := time.Now().Add(time.Hour)
		own := sava.Anchor{Port: 7, VLAN: 1 << 16, MAC: mac}
		for _, x := range []struct {
			a string
			b sava.Binding
		}{
			{"2001:db8::1", sava.Binding{Anchor: own, Until: until}},                            // seen by the device
			{"2001:db8::2", sava.Binding{Anchor: own, Until: until}},                            // released while nobody listened
			{"2001:db8::3", sava.Binding{Anchor: own, Until: time.Now().Add(-time.Second)}},     // over; the address is somebody else's now
			{"2001:db8::4", sava.Binding{Anchor: sava.Anchor{Port: 7, MAC: mac}, Until: until}}, // somebody else's as well
		} {
			if err := c.Table.Bind(addr(x.a), x.b); err != nil {
				t.Fatal(err)
			}
		}
		active, bulk := s.begin()
		other := sava.MAC{2, 0, 0, 0, 0, 0x0b}
		bulk.data("2001:db8::1", 2*time.Hour, nil)
		bulk.data("2001:db8::3", 2*time.Hour, nil)
		bulk.data("2001:db8::4", 2*time.Hour, &other)
		bulk.data("2001:db8::5", 2*time.Hour, &mac)
		bound(t, c, "2001:db8::2", &sava.Binding{Anchor: own, Until: until}) // until the answer is whole
		s.end(bulk)
		later := time.Now().Add(2 * time.Hour)
		bound(t, c, "2001:db8::1", &sava.Binding{Anchor: own, Until: later})
		bound(t, c, "2001:db8::2", nil)
		bound(t, c, "2001:db8::3", &sava.Binding{AnyVLAN: true, Until: later})
		bound(t, c, "2001:db8::4", &sava.Binding{Anchor: sava.Anchor{MAC: other}, AnyVLAN: true, Until: later})
		bound(t, c, "2001:db8::5", &sava.Binding{Anchor: sava.Anchor{MAC: mac}, AnyVLAN: true, Until: later})
		if st := c.Status(); !st.Connected || st.Synced.IsZero() {
			t.Errorf("status %+v", st)
		}
		active.data("2001:db8::6", time.Hour, &mac)
		active.data("2001:db8::5", 0, &mac)
		active.say(dhcp6.MessageTypeLeaseQueryData) // a sign of life
		synctest.Wait()
		bound(t, c, "2001:db8::6", &sava.Binding{Anchor: sava.Anchor{MAC: mac}, AnyVLAN: true, Until: time.Now().Add(time.Hour)})
		bound(t, c, "2001:db8::5", nil)
		if n := c.Status().Changes; n != 2 {
			t.Errorf("%d changes", n)
		}
	})
}

func TestAChangeIsNewerThanTheBulkAnswer(t *testing.T) {
	running(t, func(c *Client, s *server) {
		active, bulk := s.begin()
		active.data("2001:db8::1", 0, &mac) // released after the server has read its leases
		active.data("2001:db8::2", time.Hour, &mac)
		synctest.Wait()
		if err := c.Table.Bind(addr("2001:db8::3"), sava.Binding{Anchor: sava.Anchor{Port: 7}, Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err) // leased meanwhile, seen by the device before the server's word came
		}
		bulk.data("2001:db8::1", time.Hour, &mac)
		s.end(bulk)
		bound(t, c, "2001:db8::1", nil)
		if _, ok := c.Table.Lookup(addr("2001:db8::2")); !ok {
			t.Error("a lease of the meantime was removed")
		}
		if _, ok := c.Table.Lookup(addr("2001:db8::3")); !ok {
			t.Error("a binding that the device made meanwhile was removed")
		}
	})
}

func TestBindingsStayWhileThereIsNoServer(t *testing.T) {
	running(t, func(c *Client, s *server) {
		active, bulk := s.begin()
		bulk.data("2001:db8::1", 10*time.Minute, &mac)
		s.end(bulk)
		want := &sava.Binding{Anchor: sava.Anchor{MAC: mac}, AnyVLAN: true, Until: time.Now().Add(10 * time.Minute)}
		s.down.Store(true)
		active.Close()
		time.Sleep(20 * time.Minute)
		bound(t, c, "2001:db8::1", want) // and over, for its lifetime runs on
		if c.Status().Connected {
			t.Error("the client says that it is connected")
		}
		s.down.Store(false)
		_, bulk = s.begin()
		bulk.data("2001:db8::2", time.Hour, &mac)
		s.end(bulk)
		bound(t, c, "2001:db8::1", nil)
		if !c.Status().Connected {
			t.Error("the client says that it is not connected")
		}
	})
}

func TestAnAnswerThatIsNotWholeRemovesNothing(t *testing.T) {
	for name, end := range map[string]func(bulk, active *conn){
		"query terminated": func(bulk, _ *conn) { bulk.say(dhcp6.MessageTypeLeaseQueryDone, status12(11)) },
		"cut off":          func(bulk, _ *conn) { bulk.Close() },
		"the other is cut": func(_, active *conn) { active.Close() },
		"garbage": func(bulk, _ *conn) {
			bulk.say(dhcp6.MessageTypeLeaseQueryData, &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionClientData, OptionData: []byte{0, 5, 0, 99}})
		},
		"silence": func(*conn, *conn) { time.Sleep(heardWithin + time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			running(t, func(c *Client, s *server) {
				b := sava.Binding{Anchor: sava.Anchor{Port: 7}, Until: time.Now().Add(time.Hour)}
				if err := c.Table.Bind(addr("2001:db8::1"), b); err != nil {
					t.Fatal(err)
				}
				active, bulk := s.begin()
				bulk.data("2001:db8::2", time.Hour, &mac)
				end(bulk, active)
				active, bulk = s.begin() // it begins anew
				bound(t, c, "2001:db8::1", &b)
				active.Close()
				bulk.Close()
				s.down.Store(true)
			})
		})
	}
}

func TestARefusalIsTriedAgain(t *testing.T) {
	running(t, func(c *Client, s *server) {
		active, _ := s.accept()
		active.say(dhcp6.MessageTypeLeaseQueryReply, status12(10))
		active, q := s.accept()
		if q.MessageType != messageActiveLeaseQuery {
			t.Errorf("after a refusal: %v", q)
		}
		active.say(dhcp6.MessageTypeLeaseQueryReply, status12(12)) // the past is missing, which nobody asked for
		if _, q := s.accept(); q.MessageType != dhcp6.MessageTypeLeaseQuery {
			t.Errorf("after DataMissing: %v", q)
		}
	})
}

func TestOnlyTheServerIsBelieved(t *testing.T) {
	running(t, func(c *Client, s *server) {
		c.TLS.RootCAs = x509.NewCertPool()
		plain := <-s.conns
		x := &conn{t: t, Conn: plain}
		x.receive()
		x.say(messageStartTLS)
		if err := tls.Server(plain, s.config).Handshake(); err == nil {
			t.Error("a stranger's certificate was taken")
		}
		plain.Close()
		plain = <-s.conns // again; and now one who will not speak TLS
		x = &conn{t: t, Conn: plain}
		x.receive()
		x.say(messageStartTLS, status12(15))
		if _, err := plain.Read(make([]byte, 1)); err == nil {
			t.Error("the client goes on without TLS")
		}
		s.down.Store(true)
	})
}

// FuzzAnswers reads what a server says, whole messages and others, as the client
// does: it never panics, and binds no more addresses than were told.
func FuzzAnswers(f *testing.F) {
	inner := dhcp6.Options{&dhcp6.OptIAAddress{IPv6Addr: addr("2001:db8::1").AsSlice(), ValidLifetime: time.Hour}, dhcp6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac[:])}
	for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeLeaseQueryData, dhcp6.MessageTypeLeaseQueryDone} {
		m := dhcp6.Message{MessageType: typ, Options: dhcp6.MessageOptions{Options: dhcp6.Options{
			&dhcp6.OptionGeneric{OptionCode: dhcp6.OptionClientData, OptionData: inner.ToBytes()}, status12(12)}}}
		b := m.ToBytes()
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
		f.Add(append(b, b...))
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := &Client{Table: sava.NewTable(0, nil), Now: func() time.Time { return time.Unix(1e9, 0) }, Log: slog.New(slog.DiscardHandler)}
		s := &session{client: c, before: make(map[netip.Addr]sava.Binding), changed: make(map[netip.Addr]struct{})}
		x := &connection{}
		r := bytes.NewReader(stream)
		for {
			_, options, err := x.readFrom(r)
			if err != nil {
				break
			}
			_ = status(options)
			_ = s.apply(options, len(options)%2 == 0)
		}
		if n := c.Table.Len(); n > len(stream)/28 { // an IAADDR's length
			t.Fatalf("%d bindings of %d bytes", n, len(stream))
		}
	})
}
