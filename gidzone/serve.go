package gidzone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// Limits of the service.
const (
	maxUDP         = 1232 // bytes of an answer by UDP (RFC 9715)
	maxConnections = 512
	maxTCPQueries  = 128
	idle           = 10 * time.Second
	readTimeout    = 5 * time.Second
)

// Stats counts answers.
type Stats struct {
	Answered, Denied, Refused, Limited atomic.Uint64
}

// Serve answers by UDP and TCP at an address until the context ends.
func Serve(ctx context.Context, listen string, z *Zones, limit *Limit, stats *Stats, now func() time.Time, log *slog.Logger) error {
	pc, err := net.ListenPacket("udp", listen)
	if err != nil {
		return fmt.Errorf("zone: %w", err)
	}
	// The same port, where it was chosen here.
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		return errors.Join(fmt.Errorf("zone: %w", err), pc.Close())
	}
	return ServeOn(ctx, pc, l, z, limit, stats, now, log)
}

// ServeOn is Serve on sockets that are there already, which it closes.
func ServeOn(ctx context.Context, pc net.PacketConn, l net.Listener, z *Zones, limit *Limit, stats *Stats, now func() time.Time, log *slog.Logger) error {
	handler := func(udp bool) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			at := now()
			m := z.Answer(q, at)
			switch {
			case m.Rcode == dns.RcodeRefused:
				stats.Refused.Add(1)
			case len(m.Answer) > 0:
				stats.Answered.Add(1)
			default:
				stats.Denied.Add(1)
			}
			if udp {
				switch limit.judge(addrOf(w.RemoteAddr()), m, at) {
				case drop:
					stats.Limited.Add(1)
					return
				case cut:
					stats.Limited.Add(1)
					m.Answer, m.Ns, m.Truncated = nil, nil, true
				}
				size := dns.MinMsgSize
				if e := q.IsEdns0(); e != nil {
					size = min(max(size, int(e.UDPSize())), maxUDP)
				}
				m.Truncate(size)
			}
			if err := w.WriteMsg(m); err != nil && ctx.Err() == nil {
				log.Debug("an answer was not sent", "error", err)
			}
		}
	}
	servers := []*dns.Server{
		{PacketConn: pc, Handler: handler(true), UDPSize: maxUDP},
		{Listener: netutil.LimitListener(l, maxConnections), Handler: handler(false), ReadTimeout: readTimeout, WriteTimeout: readTimeout,
			IdleTimeout: func() time.Duration { return idle }, MaxTCPQueries: maxTCPQueries},
	}
	ended := make(chan error, len(servers))
	started := make(chan struct{}, len(servers))
	for _, s := range servers {
		s.NotifyStartedFunc = func() { started <- struct{}{} }
		go func() { ended <- s.ActivateAndServe() }()
	}
	var err error
	running := len(servers)
	up := 0
	for up < len(servers) && err == nil {
		select {
		case <-started:
			up++
		case err = <-ended:
			running--
		}
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-ended:
			running--
		}
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for _, s := range servers {
		_ = s.ShutdownContext(stop) // one that does not run says so
	}
	_, _ = pc.Close(), l.Close() // they may be closed already
	for range running {
		<-ended
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// addrOf returns the address of a peer.
func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
