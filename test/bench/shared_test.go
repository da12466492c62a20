//go:build e2e

package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"brightgid/internal/benchdoc"
	"brightgid/internal/netlab"
	"brightgid/internal/pglab"
)

// Each server tells its metrics on its own host.
const (
	metricsAt  = "[::1]:9547"
	metricsURL = "http://" + metricsAt + "/metrics"
)

// BenchmarkServersOnOneDatabase prints how many four-message exchanges a second two gidservers
// on one PostgreSQL complete beside one, each with clients of its own, and how much processor
// time the servers and the database use for each; and how many two complete whose clients send
// each message to the other than the one before, which nobody does on purpose. All of them,
// and the load, share the machine. The project's goal is 1.6 where cores allow it: two do, where each
// server may use an eighth of one and no more.
func BenchmarkServersOnOneDatabase(b *testing.B) {
	var eighth, whole [len(kinds)]shared
	b.Run("whole-processors", func(b *testing.B) { whole = serversOnOneDatabase(b, 0) })
	b.Run("an-eighth-of-a-processor-each", func(b *testing.B) { eighth = serversOnOneDatabase(b, 0.125) })
	if eighth[known].rate[moving] == nil || whole[known].rate[moving] == nil {
		return // one of them failed, or was not asked for
	}
	if err := writeShared(eighth, whole); err != nil {
		b.Fatal(err)
	}
}

// The ways in which clients come to servers: all to one, half to each of two, all to each of two in turn.
const (
	oneServer = iota
	twoServers
	moving
)

var ways = [...]string{oneServer: "one server", twoServers: "two servers", moving: "two servers whose clients change"}

// shared is what came of clients of one kind, by way: how many exchanges a second, and how much processor time
// of the servers and of the database each took, in µs, a figure for each round.
type shared struct{ rate, servers, database [len(ways)][]float64 }

func (s *shared) times(way int) float64 { return median(s.rate[way]) / median(s.rate[oneServer]) }

// The kinds of clients, in the order in which serversOnOneDatabase returns what came of them.
const (
	fresh = iota
	known
)

var kinds = [...]string{fresh: "new", known: "known"}

// writeShared writes what came of servers with an eighth of a processor and of such with whole ones into
// docs/benchmarks.md, and a plot of it, if asked to.
func writeShared(eighth, whole [len(kinds)]shared) error {
	columns := []struct {
		name string
		*shared
	}{
		{"an eighth each: new", &eighth[fresh]}, {"known", &eighth[known]},
		{"whole processors: new", &whole[fresh]}, {"known", &whole[known]},
	}
	head := []string{""}
	for _, c := range columns {
		head = append(head, c.name)
	}
	table := benchdoc.NewTable(head...)
	row := func(what, format string, of func(s *shared) float64) {
		cells := []string{what}
		for _, c := range columns {
			cells = append(cells, fmt.Sprintf(format, of(c.shared)))
		}
		table.Row(cells...)
	}
	row("one server, exchanges a second", "%.0f", func(s *shared) float64 { return median(s.rate[oneServer]) })
	row("two servers, each with half of what is open", "%.0f", func(s *shared) float64 { return median(s.rate[twoServers]) })
	row("two servers ÷ one", "%.2f", func(s *shared) float64 { return s.times(twoServers) })
	row("two servers whose clients change between them with every message, ÷ one", "%.2f", func(s *shared) float64 { return s.times(moving) })
	row("processor time of each, µs: of the server", "%.0f", func(s *shared) float64 { return median(s.servers[oneServer]) })
	row("of two servers", "%.0f", func(s *shared) float64 { return median(s.servers[twoServers]) })
	row("of the database, one server", "%.0f", func(s *shared) float64 { return median(s.database[oneServer]) })
	row("of the database, two servers", "%.0f", func(s *shared) float64 { return median(s.database[twoServers]) })
	var names []string
	var values []float64
	for i, kind := range kinds {
		names = append(names, "one, "+kind, "two, "+kind)
		values = append(values, median(eighth[i].rate[oneServer]), median(eighth[i].rate[twoServers]))
	}
	plot, err := benchdoc.Bars("bench-servers", "Four-message exchanges a second, servers with an eighth of a processor each", names, values)
	if err != nil {
		return err
	}
	return benchdoc.Write("bench-servers", table.String()+"\n"+plot)
}

// serversOnOneDatabase has each server use so much of a processor, or what there is if that is 0, and returns
// what came of new clients and of known ones.
func serversOnOneDatabase(b *testing.B, part float64) (came [len(kinds)]shared) {
	// clients come to a server in each turn, and those that are known again and again, for so many exchanges.
	const rounds, exchanges = 3, 40000
	// A server that has a share of a processor stands still for most of the time, whoever waits for it, so that more known
	// clients are open at once; and it makes less ahead for new ones.
	clients, times := 10000, 1
	if part > 0 {
		clients, times = 4000, 4
	}
	lab, err := netlab.New()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := lab.Close(); err != nil {
			b.Error(err)
		}
	})
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	pg, err := pglab.New("max_wal_size=16GB", "checkpoint_timeout=1h", "wal_compression=lz4")
	must(err)
	b.Cleanup(func() {
		if err := pg.Close(); err != nil {
			b.Error(err)
		}
	})
	everywhere := []string{"taskset", "-c", loadCPU + "," + serverCPU}
	must(exec.Command("taskset", "-a", "-p", "-c", loadCPU+","+serverCPU, strconv.Itoa(pg.Pid())).Run())
	one, err := lab.NewISP(netlab.ISPOptions{Bin: bin, LogLevel: "info"})
	must(err)
	client, err := lab.Namespace("client")
	must(err)
	relay, err := one.Relayed(client, "")
	must(err)
	must(one.Configure("database", fmt.Sprintf("url = %q\nserver = \"one\"\n", pglab.Sockets(pg))))
	must(one.Configure("metrics", fmt.Sprintf("listen = %q\n", metricsAt)))
	two, err := one.Second(relay)
	must(err)
	must(two.Reconfigure("server = \"one\"", "server = \"two\""))
	_, err = one.Run("gidserver", "database", "create", "--config", one.Config())
	must(err)
	wrap := everywhere
	if part > 0 {
		wrap = append(netlab.SeesShare(), everywhere...)
	}
	must(one.Serve(wrap...))
	must(two.Serve(wrap...))
	if part > 0 {
		must(lab.Share(one.Server.Pid(), part))
		must(lab.Share(two.Server.Pid(), part))
	}
	var conns [2]*net.UDPConn
	for i, addr := range []string{netlab.RelayAddr, netlab.RelayDown} {
		conns[i], err = relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(addr), 547))
		must(err)
		defer conns[i].Close()
	}
	// run has loads run at once, and returns how many exchanges there were while each load had as many open as it may,
	// and how long that was: until the first of them had none left to begin. After that not every server has all it can
	// do, and what is left tells how evenly the machine gave, not what servers can do. It also returns how many messages
	// were sent again, in all.
	run := func(loads []netlab.Load) (done int64, took time.Duration, again int64) {
		b.Helper()
		var all sync.WaitGroup
		var full sync.Once
		var acked, resent atomic.Int64
		errs := make([]error, len(loads))
		began := time.Now()
		for i := range loads {
			all.Go(func() {
				l, left := loads[i], loads[i].Total-loads[i].Open
				l.Acked = func(uint32, netip.Addr) {
					n := acked.Add(1)
					if left--; left == 0 {
						full.Do(func() { done, took = n, time.Since(began) })
					}
				}
				r, err := l.Run(30 * time.Second)
				if err == nil && r.Exchanges != l.Total {
					err = fmt.Errorf("%d of %d exchanges ended well, %d without an address; clients from %d on", r.Exchanges, l.Total, r.Refused, l.First)
				}
				errs[i] = err
				if r != nil {
					resent.Add(int64(r.Resent))
				}
			})
		}
		all.Wait()
		must(errors.Join(errs...))
		return done, took, resent.Load()
	}
	// settle waits until both servers have NIDs sealed ahead for all who come in a turn, which they do while it is the
	// other's, too: so nobody begins with less than there is need of.
	settle := func() {
		b.Helper()
		const until, seldom = 2 * time.Minute, 2 * time.Second // since each look takes the server's time
		for _, isp := range []*netlab.ISP{one, two} {
			for began := time.Now(); ; time.Sleep(seldom) {
				metrics, err := isp.Host.Output("curl", "-sf", metricsURL)
				must(err)
				_, text, _ := strings.Cut(metrics, "\ngidserver_sealed_ahead ")
				text, _, _ = strings.Cut(text, "\n")
				if n, err := strconv.ParseFloat(text, 64); err == nil && n >= float64(clients) {
					break
				}
				if time.Since(began) > until {
					b.Fatalf("after %s %q NIDs are sealed ahead, want %d", until, text, clients)
				}
			}
		}
	}
	first, second := netip.AddrPortFrom(netip.MustParseAddr(netlab.ServerAddr), 547), netip.AddrPortFrom(netip.MustParseAddr(netlab.SecondAddr), 547)

	database := func() time.Duration { // of all its processes, those that ended included
		out, err := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(pg.Pid())).Output()
		must(err)
		total := cpu(b, pg.Pid())
		for _, f := range strings.Fields(string(out)) {
			pid, err := strconv.Atoi(f)
			must(err)
			total += cpu(b, pid)
		}
		return total
	}
	next := uint32(0)
	measure := func(kind, way int, loads []netlab.Load) {
		servers, db := cpu(b, one.Server.Pid())+cpu(b, two.Server.Pid()), database()
		done, took, again := run(loads)
		if again > 0 {
			b.Logf("%s: %d messages of %s clients were sent again", ways[way], again, kinds[kind])
		}
		all := 0
		for i := range loads {
			all += loads[i].Total
		}
		s := &came[kind]
		s.rate[way] = append(s.rate[way], float64(done)/took.Seconds())
		s.servers[way] = append(s.servers[way], float64((cpu(b, one.Server.Pid())+cpu(b, two.Server.Pid())-servers).Microseconds())/float64(all))
		s.database[way] = append(s.database[way], float64((database()-db).Microseconds())/float64(all))
	}
	for b.Loop() {
		var turns [rounds][len(ways)][]netlab.Load
		for round := range rounds {
			for way := range ways {
				l := netlab.Load{Conn: conns[0], Server: first, Link: netip.MustParseAddr(netlab.RelayDown), Open: 6 * open, First: next, Total: clients, Keep: true}
				next += uint32(clients)
				loads := []netlab.Load{l}
				switch way {
				case twoServers: // as many to each, so that none begins with more sealed for each of its clients
					l.Open /= 2
					loads = []netlab.Load{l, l}
					loads[1].Conn, loads[1].Server, loads[1].First = conns[1], second, next
					next += uint32(clients)
				case moving:
					loads[0].Others = []netip.AddrPort{second}
				}
				settle()
				measure(fresh, way, loads)
				turns[round][way] = loads
			}
		}
		settle()
		for _, turn := range turns {
			for way, loads := range turn {
				for i := range loads {
					loads[i].Open *= times
					loads[i].Clients, loads[i].Total = loads[i].Total, exchanges/len(loads)
				}
				measure(known, way, loads)
			}
		}
	}
	for i := range came {
		s, what := &came[i], kinds[i]
		b.ReportMetric(median(s.rate[oneServer]), what+"/s")
		b.ReportMetric(median(s.servers[oneServer]), what+"-server-CPU-µs")
		b.ReportMetric(median(s.database[oneServer]), what+"-database-CPU-µs")
		b.ReportMetric(median(s.rate[twoServers]), what+"-two/s")
		b.ReportMetric(median(s.servers[twoServers]), what+"-two-server-CPU-µs")
		b.ReportMetric(s.times(twoServers), what+"-two÷one")
		b.ReportMetric(s.times(moving), what+"-moving÷one")
	}
	size, err := pg.Query("SELECT pg_database_size('" + pglab.Database + "')")
	must(err)
	bytes, err := strconv.ParseFloat(size, 64)
	must(err)
	b.ReportMetric(bytes/float64(next), "bytes/client")
	return came
}
