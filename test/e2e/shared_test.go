//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brightgid/internal/netlab"
	"brightgid/internal/pglab"
)

// newPostgres starts a PostgreSQL for a test.
func newPostgres(t *testing.T) *pglab.Cluster {
	t.Helper()
	pg, err := pglab.New()
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, pg)
	return pg
}

// closeAfter ends a PostgreSQL after a test.
func closeAfter(t *testing.T, pg *pglab.Cluster) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PostgreSQL wrote:\n%s", pg.Log())
		}
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Two gidservers share a PostgreSQL with a standby. Clients send each message to the other
// server than the one before. Then the primary is killed under load: leases that are known
// are renewed meanwhile, and when the standby has taken over all goes on. Nothing that was
// acknowledged is lost and nothing is leased twice, and an address that one server leased is
// traced at the other.
func TestTheDatabaseOfTwoServersFailsOver(t *testing.T) {
	t.Parallel()
	primary := newPostgres(t)
	standby, err := primary.Standby("two")
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, standby)
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info", Lease: "preferred = \"1h\"\nvalid = \"2h\"\n"})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	w.must(w.Configure("database", fmt.Sprintf("url = %q\nserver = \"one\"\noffline-renewals = true\n", pglab.Sockets(primary, standby))))
	second, err := w.Second(relay)
	w.must(err)
	t.Cleanup(func() {
		if second.Server != nil {
			if strings.Contains(second.Server.Log(), "DATA RACE") {
				t.Error("the second gidserver has a data race")
			}
			if t.Failed() {
				_ = second.Server.Signal(syscall.SIGQUIT)
				time.Sleep(time.Second)
				t.Logf("the second gidserver wrote:\n%s", second.Server.Log())
			}
		}
	})
	w.must(second.Reconfigure("server = \"one\"", "server = \"two\""))
	if err := w.Serve(); err == nil || !strings.Contains(w.Server.Log(), "gidserver database create") {
		t.Errorf("a database without tables: %v\n%s", err, w.Server.Log())
	}
	_, err = w.Run("gidserver", "database", "create", "--config", w.Config())
	w.must(err)
	w.must(w.Serve())
	w.must(second.Serve())

	conn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 547))
	w.must(err)
	defer conn.Close()
	var mu sync.Mutex
	acknowledged := make(map[netip.Addr]uint32)
	one, two := netip.AddrPortFrom(netip.MustParseAddr(netlab.ServerAddr), 547), netip.AddrPortFrom(netip.MustParseAddr(netlab.SecondAddr), 547)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	load := func(first uint32, total int) *netlab.Load {
		return &netlab.Load{Conn: conn, Server: one, Others: []netip.AddrPort{two}, Link: netip.MustParseAddr(netlab.RelayDown), Open: 64, First: first, Total: total, Keep: true, Retry: 500 * time.Millisecond,
			Acked: func(client uint32, addr netip.Addr) {
				mu.Lock()
				defer mu.Unlock()
				if other, ok := acknowledged[addr]; ok && other != client {
					t.Errorf("%s is leased to clients %d and %d", addr, other, client)
				}
				acknowledged[addr] = client
			}}
	}
	const known, more = 1000, 4000
	before, err := load(0, known).Run(30 * time.Second)
	w.must(err)
	if before.Refused > 0 {
		t.Errorf("%d clients got nothing", before.Refused)
	}

	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		l := load(known, more)
		l.Stop = stop
		_, err := l.Run(60 * time.Second)
		ended <- err
	}()
	w.must(netlab.Until(30*time.Second, func() error {
		if n := count(); n < known+more/4 {
			return fmt.Errorf("%d leases are acknowledged", n)
		}
		return nil
	}))
	w.must(primary.Kill())
	w.must(netlab.Until(20*time.Second, func() error {
		out, err := w.Run("gidserver", "status", "--config", w.Config())
		if err == nil && !strings.Contains(out, "IS AWAY") {
			err = fmt.Errorf("the server has not noticed:\n%s", out)
		}
		return err
	}))
	close(stop)
	if err := <-ended; !errors.Is(err, netlab.ErrStopped) {
		t.Errorf("the load was over before the primary was killed: %v", err)
	}
	at := count()
	// A server renews what it has leased, and is silent to others.
	renew := load(0, known)
	renew.Others, renew.Kind, renew.Known, renew.Open = nil, netlab.Renew, before.Held, known
	renewed, err := renew.Run(5 * time.Second)
	if err == nil || renewed.Exchanges < known/4 || renewed.Refused > 0 {
		status, _ := w.Run("gidserver", "status", "--config", w.Config())
		t.Errorf("%d of %d renewals while there is no database, %d refused, %v\n%s", renewed.Exchanges, known, renewed.Refused, err, status)
	}
	if none, err := load(known+more, 10).Run(2 * time.Second); err == nil || none.Exchanges > 0 {
		t.Errorf("%d new leases without a database, %v", none.Exchanges, err)
	}
	promoted := make(chan error, 1)
	go func() {
		time.Sleep(time.Second)
		promoted <- standby.Promote()
	}()
	after, err := load(known, more).Run(60 * time.Second)
	w.must(err)
	w.must(<-promoted)
	t.Logf("%d leases were acknowledged before the primary was killed; %d of %d were renewed without it; %d messages were sent again", at, renewed.Exchanges, known, after.Resent)
	if after.Exchanges != more || after.Refused > 0 {
		t.Errorf("%d of %d clients have a lease, %d were refused", after.Exchanges, more, after.Refused)
	}
	w.must(netlab.Until(20*time.Second, func() error {
		for _, s := range []*netlab.ISP{w.ISP, second} {
			out, err := s.Run("gidserver", "status", "--config", s.Config())
			if err == nil && !strings.Contains(out, "0 messages' changes, 0 renewals") {
				err = fmt.Errorf("not all is stored:\n%s", out)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	// Each server lists the same, and all that was acknowledged.
	var lists [2][]netlab.Lease
	for i, s := range []*netlab.ISP{w.ISP, second} {
		lists[i], err = s.Leases()
		w.must(err)
	}
	stored := make(map[netip.Addr]netlab.Lease)
	for _, l := range lists[0] {
		stored[l.Address] = l
	}
	if len(lists[1]) != len(stored) {
		t.Errorf("one server lists %d leases, the other %d", len(stored), len(lists[1]))
	}
	for addr, client := range acknowledged {
		if l, ok := stored[addr]; !ok || l.State != "active" {
			t.Errorf("client %d was promised %s, which is stored as %+v", client, addr, l)
		}
	}
	parts := make(map[uint16]bool)
	for _, l := range stored {
		parts[l.Slot/256] = true
	}
	if len(parts) != 2 {
		t.Errorf("leases are of the slots of %d servers, want 2", len(parts))
	}
	// A server that is told to end while clients ask ends soon, and well; the other goes on.
	stopped := make(chan error, 1)
	go func() {
		time.Sleep(200 * time.Millisecond)
		stopped <- second.Server.Stop()
	}()
	if last, err := load(known+more+100, more).Run(60 * time.Second); err != nil || last.Exchanges != more {
		t.Errorf("%d of %d clients have a lease of the server that is left, %v", last.Exchanges, more, err)
	}
	w.must(<-stopped)
	// The EID of a client is found at the other server than the one that leased.
	i := slices.IndexFunc(lists[0], func(l netlab.Lease) bool { return l.Slot/256 == 1 })
	if i < 0 {
		t.Fatal("the second server has leased nothing")
	}
	l := lists[0][i]
	got, err := w.Trace("trace-shared", l.Address, l.Start)
	if line := fmt.Sprintf("port-%08x", acknowledged[l.Address]); err != nil || len(got) != 1 || !strings.Contains(got[0], line) {
		t.Errorf("the trace of client %d gives %q, %v", acknowledged[l.Address], got, err)
	}
}

// A server whose clock is not the database's answers no clients until it is. The database's is what is set here.
func TestAServerWithAnotherTimeThanTheDatabaseIsSilent(t *testing.T) {
	t.Parallel()
	pg := newPostgres(t)
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info"})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	// The function that gidserver asks is found before PostgreSQL's own.
	w.must(w.Configure("database", fmt.Sprintf("url = %q\nserver = \"one\"\n", pglab.Sockets(pg)+" options='-csearch_path=public,pg_catalog'")))
	w.must(w.Configure("metrics", "listen = \"[::1]:9547\"\n"))
	_, err = w.Run("gidserver", "database", "create", "--config", w.Config())
	w.must(err)
	w.must(pg.SQL("CREATE TABLE clock (ahead interval)"))
	w.must(pg.SQL("INSERT INTO clock VALUES ('0')"))
	w.must(pg.SQL("CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM public.clock'"))
	w.must(w.Serve())
	conn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 547))
	w.must(err)
	defer conn.Close()
	const clients = 20
	load := func(first uint32) (*netlab.Result, error) {
		l := netlab.Load{Conn: conn, Server: netip.AddrPortFrom(netip.MustParseAddr(netlab.ServerAddr), 547), Link: netip.MustParseAddr(netlab.RelayDown), Open: clients, First: first, Total: clients, Retry: 500 * time.Millisecond}
		return l.Run(3 * time.Second)
	}
	says := func(what, metric string) {
		t.Helper()
		w.must(netlab.Until(10*time.Second, func() error {
			out, err := w.Run("gidserver", "status", "--config", w.Config())
			if err == nil && !strings.Contains(out, what) {
				err = fmt.Errorf("gidserver status does not say %q:\n%s", what, out)
			}
			return err
		}))
		out, err := w.Host.Output("curl", "-sf", "http://[::1]:9547/metrics")
		w.must(err)
		if !strings.Contains(out, metric) {
			t.Errorf("the metrics do not say %q:\n%s", metric, out)
		}
	}
	for i, c := range []struct{ ahead, says string }{{"1 minute", "s behind): clients get no answers"}, {"-1 hour", "s ahead): clients get no answers"}} {
		ahead := c.ahead
		says("answers; this is server 0", "\ngidserver_database_clock_wrong 0\n")
		if r, err := load(uint32(2 * i * clients)); err != nil || r.Exchanges != clients {
			t.Errorf("%+v, %v; want %d exchanges", r, err, clients)
		}
		w.must(pg.SQL("UPDATE clock SET ahead = '" + ahead + "'"))
		// Those that it knows wait as those do that it does not.
		for _, first := range []int{2 * i * clients, (2*i + 1) * clients} {
			if r, err := load(uint32(first)); err == nil || r.Exchanges > 0 {
				t.Errorf("the database is %s ahead: %d exchanges, %v", ahead, r.Exchanges, err)
			}
		}
		says(c.says, "\ngidserver_database_clock_wrong 1\n")
		w.must(pg.SQL("UPDATE clock SET ahead = '0'"))
	}
	says("answers; this is server 0", "\ngidserver_database_clock_wrong 0\n")
	if n := strings.Count(w.Server.Log(), "this server's clock is not the lease database's"); n != 2 {
		t.Errorf("the log says so %d times, want 2, once for each time", n)
	}
}
