//go:build e2e

package bench

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
	"brightgid/internal/pglab"
)

// BenchmarkServersOnOneDatabase prints how many four-message exchanges a second two gidservers
// on one PostgreSQL complete beside one, and how much processor time the servers and the
// database use for each. All of them, and the load, share the machine; where the database
// uses more than the servers it is what ends the growth. The project's goal is 1.6 where cores
// allow it.
func BenchmarkServersOnOneDatabase(b *testing.B) {
	const rounds, clients = 3, 10000
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
	pg, err := pglab.New()
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
	conn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 547))
	must(err)
	defer conn.Close()
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
	type sample struct{ fresh, known, servers, database []float64 }
	var samples [2]sample
	next := uint32(0)
	for b.Loop() {
		for range rounds {
			for n := range samples {
				s := &samples[n]
				l := netlab.Load{Conn: conn, Server: first, Link: netip.MustParseAddr(netlab.RelayDown), Open: 4 * open, First: next, Total: clients, Keep: true}
				if n == 1 {
					l.Others = []netip.AddrPort{second}
				}
				next += clients
				for _, rates := range []*[]float64{&s.fresh, &s.known} {
					load := l
					servers, db := cpu(b, one.Server.Pid())+cpu(b, two.Server.Pid()), database()
					r, err := load.Run(30 * time.Second)
					must(err)
					if r.Exchanges != clients {
						b.Fatalf("%d of %d exchanges ended well", r.Exchanges, clients)
					}
					*rates = append(*rates, clients/r.Elapsed.Seconds())
					s.servers = append(s.servers, float64((cpu(b, one.Server.Pid())+cpu(b, two.Server.Pid())-servers).Microseconds())/clients)
					s.database = append(s.database, float64((database()-db).Microseconds())/clients)
				}
			}
		}
	}
	b.ReportMetric(median(samples[0].fresh), "one-new/s")
	b.ReportMetric(median(samples[0].known), "one-known/s")
	b.ReportMetric(median(samples[1].fresh)/median(samples[0].fresh), "two÷one-new")
	b.ReportMetric(median(samples[1].known)/median(samples[0].known), "two÷one-known")
	b.ReportMetric(median(samples[0].servers), "server-CPU-µs")
	b.ReportMetric(median(samples[0].database), "database-CPU-µs")
}
