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

	"brightgid/internal/netlab"
	"brightgid/internal/pglab"
)

// BenchmarkServersOnOneDatabase prints how many four-message exchanges a second two gidservers
// on one PostgreSQL complete beside one, each with clients of its own, and how much processor
// time the servers and the database use for each; and how many two complete whose clients send
// each message to the other than the one before, which nobody does on purpose. All of them,
// and the load, share the machine. The project's goal is 1.6 where cores allow it: two do, where each
// server may use an eighth of one and no more.
func BenchmarkServersOnOneDatabase(b *testing.B) {
	b.Run("whole-processors", func(b *testing.B) { serversOnOneDatabase(b, 0) })
	b.Run("an-eighth-of-a-processor-each", func(b *testing.B) { serversOnOneDatabase(b, 0.125) })
}

// serversOnOneDatabase has each server use so much of a processor, or what there is if that is 0.
func serversOnOneDatabase(b *testing.B, part float64) {
	const rounds, clients = 3, 10000
	// passes is how often known clients come in one measurement, and times how many more at once than new ones: a server
	// that has a share of a processor stands still for most of the time, whoever waits for it.
	passes, times := 1, 1
	if part > 0 {
		passes, times = 4, 4
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
	two, err := one.Second(relay)
	must(err)
	must(two.Reconfigure("server = \"one\"", "server = \"two\""))
	_, err = one.Run("gidserver", "database", "create", "--config", one.Config())
	must(err)
	must(one.Serve(everywhere...))
	must(two.Serve(everywhere...))
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
	// run has loads run at once and returns how long they take.
	run := func(loads []netlab.Load) time.Duration {
		b.Helper()
		var all sync.WaitGroup
		var resent atomic.Int64
		errs := make([]error, len(loads))
		began := time.Now()
		for i := range loads {
			all.Go(func() {
				r, err := loads[i].Run(30 * time.Second)
				if err == nil && r.Exchanges != loads[i].Total {
					err = fmt.Errorf("%d of %d exchanges ended well", r.Exchanges, loads[i].Total)
				}
				errs[i] = err
				if r != nil {
					resent.Add(int64(r.Resent))
				}
			})
		}
		all.Wait()
		must(errors.Join(errs...))
		if n := resent.Load(); n > 0 {
			b.Logf("%d messages were sent again", n)
		}
		return time.Since(began)
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
	type used struct{ rate, servers, database []float64 }
	ways := []string{"one", "two", "moving"}
	fresh, known := make([]used, len(ways)), make([]used, len(ways))
	next := uint32(0)
	measure := func(u *used, loads []netlab.Load, passes int) {
		servers, db := cpu(b, one.Server.Pid())+cpu(b, two.Server.Pid()), database()
		var took time.Duration
		for range passes {
			took += run(loads)
		}
		all := float64(passes * clients)
		u.rate = append(u.rate, all/took.Seconds())
		u.servers = append(u.servers, float64((cpu(b, one.Server.Pid())+cpu(b, two.Server.Pid())-servers).Microseconds())/all)
		u.database = append(u.database, float64((database()-db).Microseconds())/all)
	}
	for b.Loop() {
		var came [rounds][][]netlab.Load // by way
		for round := range rounds {
			for way := range ways {
				l := netlab.Load{Conn: conns[0], Server: first, Link: netip.MustParseAddr(netlab.RelayDown), Open: 6 * open, First: next, Total: clients, Keep: true}
				next += clients
				loads := []netlab.Load{l}
				switch way {
				case 1:
					loads = []netlab.Load{l, l}
					loads[1].Conn, loads[1].Server, loads[1].First = conns[1], second, l.First+clients/2
					for i := range loads {
						loads[i].Open, loads[i].Total = l.Open/2, clients/2
					}
				case 2:
					loads[0].Others = []netip.AddrPort{second}
				}
				measure(&fresh[way], loads, 1)
				came[round] = append(came[round], loads)
			}
		}
		time.Sleep(settleFor)
		for _, ways := range came {
			for way, loads := range ways {
				for i := range loads {
					loads[i].Open *= times
				}
				measure(&known[way], loads, passes)
			}
		}
	}
	for i, u := range [][]used{fresh, known} {
		what := []string{"new", "known"}[i]
		b.ReportMetric(median(u[0].rate), what+"/s")
		b.ReportMetric(median(u[0].servers), what+"-server-CPU-µs")
		b.ReportMetric(median(u[0].database), what+"-database-CPU-µs")
		b.ReportMetric(median(u[1].rate), what+"-two/s")
		b.ReportMetric(median(u[1].servers), what+"-two-server-CPU-µs")
		b.ReportMetric(median(u[1].rate)/median(u[0].rate), what+"-two÷one")
		b.ReportMetric(median(u[2].rate)/median(u[0].rate), what+"-moving÷one")
	}
	size, err := pg.Query("SELECT pg_database_size('" + pglab.Database + "')")
	must(err)
	bytes, err := strconv.ParseFloat(size, 64)
	must(err)
	b.ReportMetric(bytes/float64(next), "bytes/client")
}
