package netlab

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// slow is a server that takes a while to answer each message, and if it is deaf does not answer the first Request that it gets.
type slow struct {
	conn  *net.UDPConn
	takes time.Duration
	deaf  bool
	err   chan error
}

// serve answers until the connection is closed.
func (s *slow) serve() {
	s.err <- func() error {
		buf := make([]byte, 2048)
		for {
			n, peer, err := s.conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return nil
			} else if err != nil {
				return err
			}
			came := time.Now()
			relayed, err := dhcp6.RelayMessageFromBytes(buf[:n])
			if err != nil {
				return err
			}
			m, err := relayed.GetInnerMessage()
			if err != nil {
				return err
			}
			if m.MessageType == dhcp6.MessageTypeRequest && s.deaf {
				s.deaf = false
				continue
			}
			answer := map[dhcp6.MessageType]dhcp6.MessageType{
				dhcp6.MessageTypeSolicit: dhcp6.MessageTypeAdvertise,
				dhcp6.MessageTypeRequest: dhcp6.MessageTypeReply,
			}[m.MessageType]
			reply, err := dhcp6.NewMessage()
			if err != nil {
				return err
			}
			reply.MessageType, reply.TransactionID = answer, m.TransactionID
			addr := netip.MustParseAddr("2001:db8:2::").As16()
			copy(addr[8:], relayed.PeerAddr[8:])
			reply.AddOption(&dhcp6.OptIANA{Options: dhcp6.IdentityOptions{Options: dhcp6.Options{
				&dhcp6.OptIAAddress{IPv6Addr: addr[:], ValidLifetime: time.Hour},
			}}})
			reply.AddOption(dhcp6.OptServerID(&dhcp6.DUIDLL{LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}))
			wrapped, err := dhcp6.NewRelayReplFromRelayForw(relayed, reply)
			if err != nil {
				return err
			}
			time.Sleep(s.takes - time.Since(came))
			if _, err := s.conn.WriteToUDPAddrPort(wrapped.ToBytes(), peer); err != nil {
				return err
			}
		}
	}()
}

func listen(t *testing.T) (*net.UDPConn, netip.AddrPort) {
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// The delay of an exchange is what the server takes for its two answers, from when what was not answered was sent
// first, and none of what the load takes to read them.
func TestDelayIsTheServers(t *testing.T) {
	const (
		takes = 2 * time.Millisecond
		retry = 60 * time.Millisecond
		total = 40
	)
	for _, rate := range []int{0, 100} {
		there, server := listen(t)
		here, _ := listen(t)
		s := slow{there, takes, true, make(chan error, 1)}
		go s.serve()
		l := Load{Conn: here, Server: server, Link: netip.MustParseAddr("2001:db8:2::1"), Open: 1, Total: total, Rate: rate, Rests: rate > 0, Retry: retry}
		r, err := l.Run(5 * time.Second)
		there.Close()
		if err := errors.Join(err, <-s.err); err != nil {
			t.Fatal(err)
		}
		if r.Exchanges != total || r.Resent == 0 {
			t.Errorf("%d exchanges, %d messages sent again", r.Exchanges, r.Resent)
		}
		if rate == 0 {
			if len(r.Delay) != 0 {
				t.Errorf("%d delays in a closed loop, whose datagrams are not stamped", len(r.Delay))
			}
			continue
		}
		if len(r.Delay) != total {
			t.Fatalf("%d delays of %d exchanges", len(r.Delay), total)
		}
		var slowest time.Duration
		for i, d := range r.Delay {
			if slowest = max(slowest, d); d < 2*takes || d > r.Latency[i] {
				t.Errorf("a delay of %v and a latency of %v, where the server takes %v", d, r.Latency[i], 2*takes)
			}
		}
		if slowest < retry {
			t.Errorf("the longest delay is %v, though one Request was answered only when it was sent again after %v", slowest, retry)
		}
	}

	// The second of two Replies comes while the load does something else.
	const elsewhere = 500 * time.Millisecond
	there, server := listen(t)
	here, _ := listen(t)
	s := slow{there, takes, false, make(chan error, 1)}
	go s.serve()
	l := Load{Conn: here, Server: server, Link: netip.MustParseAddr("2001:db8:2::1"), Total: 2, Rate: 1 << 20, Acked: func(uint32, netip.Addr) { time.Sleep(elsewhere) }}
	r, err := l.Run(5 * time.Second)
	there.Close()
	if err := errors.Join(err, <-s.err); err != nil {
		t.Fatal(err)
	}
	if len(r.Delay) != 2 || r.Latency[1] < elsewhere || r.Delay[1] > elsewhere/2 {
		t.Errorf("delays of %v and latencies of %v, where the load read the second %v late", r.Delay, r.Latency, elsewhere)
	}
}

// Clients come again and again, but for one whose message was lost: it comes when it has been answered. No client is open
// twice, however many may be open.
func TestClientsComeAgain(t *testing.T) {
	const clients, total = 5, 60
	for _, c := range []struct{ open, rate int }{{2, 0}, {2 * clients, 0}, {0, 2000}} {
		there, server := listen(t)
		here, _ := listen(t)
		s := slow{there, 0, true, make(chan error, 1)}
		go s.serve()
		came := make(map[uint32]int)
		l := Load{Conn: here, Server: server, Link: netip.MustParseAddr("2001:db8:2::1"), Open: c.open, Rate: c.rate, First: 7, Total: total, Clients: clients, Keep: true,
			Retry: 60 * time.Millisecond, Acked: func(client uint32, _ netip.Addr) { came[client]++ }}
		r, err := l.Run(5 * time.Second)
		there.Close()
		if err := errors.Join(err, <-s.err); err != nil {
			t.Fatal(err)
		}
		if r.Exchanges != total || r.Resent == 0 || len(came) != clients || len(r.Held) != clients {
			t.Errorf("%d open, %d a second: %d exchanges, %d messages sent again, %v: of each client; %d hold something", c.open, c.rate, r.Exchanges, r.Resent, came, len(r.Held))
		}
	}
}
