//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
	"brightgid/internal/pglab"
)

// A gidserver that has leased from its embedded database moves to a PostgreSQL, which a second one
// shares from then on: clients renew what they have, who asks anew gets it again at either server,
// nobody gets what another has, and addresses that were leased before are traced.
func TestLeasesMoveToASharedDatabase(t *testing.T) {
	t.Parallel()
	pg := newPostgres(t)
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info", Lease: "preferred = \"1h\"\nvalid = \"2h\"\ncache-threshold = 0.0\n"})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	w.must(w.Serve())
	conn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 547))
	w.must(err)
	defer conn.Close()
	one, two := netip.AddrPortFrom(netip.MustParseAddr(netlab.ServerAddr), 547), netip.AddrPortFrom(netip.MustParseAddr(netlab.SecondAddr), 547)
	load := func(server netip.AddrPort, first uint32, total int, known map[uint32]netlab.Held) *netlab.Result {
		t.Helper()
		l := &netlab.Load{Conn: conn, Server: server, Link: netip.MustParseAddr(netlab.RelayDown), Open: 64, First: first, Total: total, Keep: true}
		if known != nil {
			l.Kind, l.Known = netlab.Renew, known
		}
		r, err := l.Run(30 * time.Second)
		if err != nil || r.Exchanges != total || r.Refused > 0 {
			t.Fatalf("%d of %d exchanges, %d were refused, %v", r.Exchanges, total, r.Refused, err)
		}
		return r
	}
	addresses := func(s *netlab.ISP) map[netip.Addr]netlab.Lease {
		t.Helper()
		all, err := s.Leases()
		w.must(err)
		m := make(map[netip.Addr]netlab.Lease)
		for _, l := range all {
			m[l.Address] = l
		}
		return m
	}
	const clients = 400
	held := load(one, 0, clients, nil).Held
	before := addresses(w.ISP)
	if len(before) != clients {
		t.Fatalf("%d addresses are leased", len(before))
	}

	database := func(args ...string) (string, error) {
		return w.Run("gidserver", append(append([]string{"database"}, args...), "--config", w.Config())...)
	}
	if _, err := database("import"); err == nil || !strings.Contains(err.Error(), "no database.url") {
		t.Errorf("an import to nowhere: %v", err)
	}
	w.must(w.Configure("database", fmt.Sprintf("url = %q\nserver = \"one\"\n", pglab.Sockets(pg))))
	_, err = database("create")
	w.must(err)
	if _, err := database("import"); err == nil || !strings.Contains(err.Error(), "is gidserver running already?") {
		t.Errorf("an import while the server runs: %v", err)
	}
	w.must(w.Server.Stop())
	for range 2 {
		out, err := database("import", "--dry-run")
		if want := fmt.Sprintf("%d subscribers, %d leases, 0 that ended before them, and %d clients would be copied", clients, clients, clients); err != nil || !strings.Contains(out, want) {
			t.Errorf("a dry run: %v\n%s", err, out)
		}
	}
	out, err := database("import", "--json")
	w.must(err)
	var n struct{ Subscribers, Leases, History, Clients int }
	if err := json.Unmarshal([]byte(out[strings.LastIndex(out, "{"):]), &n); err != nil || n.Subscribers != clients || n.Leases != clients || n.Clients != clients {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := database("import"); err == nil || !strings.Contains(err.Error(), "subscribers in the database already") {
		t.Errorf("a second import: %v", err)
	}

	w.must(w.Serve())
	second, err := w.Second(relay)
	w.must(err)
	t.Cleanup(func() {
		if second.Server == nil {
			return
		}
		if strings.Contains(second.Server.Log(), "DATA RACE") {
			t.Error("the second gidserver has a data race")
		}
		if t.Failed() {
			t.Logf("the second gidserver wrote:\n%s", second.Server.Log())
		}
	})
	w.must(second.Reconfigure("server = \"one\"", "server = \"two\""))
	w.must(second.Serve())
	load(one, 0, clients, held) // which fails where one gets another address
	load(two, 0, clients, nil)
	for _, s := range []*netlab.ISP{w.ISP, second} {
		after := addresses(s)
		for addr, l := range before {
			if now := after[addr]; now.Subscriber != l.Subscriber || now.State != "active" || !now.Start.Equal(l.Start) {
				t.Errorf("%s was leased as %+v and is as %+v", addr, l, now)
			}
		}
		if len(after) != clients {
			t.Errorf("%d addresses are leased, %d were", len(after), clients)
		}
	}
	load(one, clients, 100, nil)
	load(two, clients+100, 100, nil)
	after := addresses(second)
	if len(after) != clients+200 {
		t.Errorf("%d addresses are leased to %d clients", len(after), clients+200)
	}
	for addr, l := range after {
		if _, ok := before[addr]; (l.Subscriber < clients) != ok {
			t.Errorf("subscriber %d has %s, which was somebody's before: %t", l.Subscriber, addr, ok)
		}
	}
	for addr, l := range before {
		got, err := w.Trace("trace-moved", addr, l.Start)
		if err != nil || len(got) != 1 || !strings.Contains(got[0], "port-") {
			t.Errorf("the trace of %s gives %q, %v", addr, got, err)
		}
		break
	}
}
