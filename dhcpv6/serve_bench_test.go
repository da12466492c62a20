package dhcpv6

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"

	"brightgid/lease"
)

// BenchmarkServe is the whole server on loopback, with its store on disk: what
// BenchmarkFourMessageExchange measures from outside, for a profile.
func BenchmarkServe(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("it opens port 547, which needs root")
	}
	l := newLab(b, nil)
	l.h.log = slog.New(slog.DiscardHandler)
	l.h.cfg.Links[0].RelayLinks = []netip.Addr{netip.MustParseAddr("2001:db8:fffe::9")}
	l.h.cfg.Links[0].Interface = "lo"
	cache := lease.NewCache(l.store, 1<<15)
	l.h.leases = lease.NewAllocator(cache, l.keys, testPolicy())
	l.h.auth = &profiles{}
	s, err := Listen(l.h, l.store.Barrier, NewFeed(), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	pc := ipv6.NewPacketConn(conn)
	relayed := func(m *dhcp6.Message) []byte {
		r, err := dhcp6.EncapsulateRelay(m, dhcp6.MessageTypeRelayForward, netip.MustParseAddr("2001:db8:fffe::9").AsSlice(), linkLocal.AsSlice())
		if err != nil {
			b.Fatal(err)
		}
		r.AddOption(&dhcp6.OptionGeneric{OptionCode: optionRelayPort, OptionData: []byte{0, 0}})
		return r.ToBytes()
	}
	var msgs [2][]byte
	msgs[0] = relayed(msg(dhcp6.MessageTypeSolicit, 1, iana1(1)))
	msgs[1] = relayed(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1)))
	const open = 64
	in, out := make([]ipv6.Message, open), make([]ipv6.Message, open)
	to := &net.UDPAddr{IP: net.IPv6loopback, Port: ServerPort}
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 2048)}
		out[i] = ipv6.Message{Buffers: [][]byte{msgs[i%2]}, Addr: to}
	}
	send := func(n int) {
		for n > 0 {
			k, err := pc.WriteBatch(out[:n], 0)
			if err != nil {
				b.Fatal(err)
			}
			n -= k
		}
	}
	b.ResetTimer()
	send(open)
	for answered := 0; answered < 2*b.N; {
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			b.Fatal(err)
		}
		n, err := pc.ReadBatch(in, 0)
		if err != nil {
			b.Fatal(err)
		}
		answered += n
		send(n)
	}
}
