//go:build e2e

// Package bench measures the server over a veth pair, beside a bare UDP echo in
// the same run. The server and the echo have one CPU, the load another.
package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

const (
	echoEnv   = "GID_BENCH_ECHO"
	pinnedEnv = "GID_BENCH_PINNED"
	serverCPU = "1"
	loadCPU   = "0"
	echoPort  = 7

	// open is how many exchanges, or datagrams, are in flight.
	open = 64
)

var bin string

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	if os.Getenv(echoEnv) != "" {
		conn, err := net.ListenUDP("udp6", &net.UDPAddr{Port: echoPort})
		if err == nil {
			fmt.Println("ready")
			err = netlab.Echo(conn)
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if socket := os.Getenv(milterEnv); socket != "" {
		fmt.Fprintln(os.Stderr, nothingMilter(socket))
		return 1
	}
	dir, err := os.MkdirTemp("", "gid-bench-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if os.Getenv(pinnedEnv) == "" { // again, on the load's CPU only
		if out, err := exec.Command("go", "build", "-o", dir, "../../cmd/...").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
			return 1
		}
		c := exec.Command("taskset", append([]string{"-c", loadCPU, os.Args[0]}, os.Args[1:]...)...)
		c.Env = append(os.Environ(), pinnedEnv+"="+dir)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	bin = os.Getenv(pinnedEnv)
	return m.Run()
}

// cpu returns the processor time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, s := range f[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// BenchmarkFourMessageExchange prints how many four-message exchanges a second a
// server on one CPU completes, leases durable before each Reply, and the CPU time
// of each, beside a UDP echo of the same size. An exchange is two datagrams each
// way, so that messages/echoes compares like with like; the project's goal for it
// is 0.75.
func BenchmarkFourMessageExchange(b *testing.B) {
	const rounds, clients = 3, 20000
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
	isp, err := lab.NewISP(netlab.ISPOptions{Bin: bin, LogLevel: "info"})
	must(err)
	client, err := lab.Namespace("client")
	must(err)
	relay, err := isp.Relayed(client, "")
	must(err)
	pin := []string{"taskset", "-c", serverCPU, "env", "GOMAXPROCS=1"}
	must(isp.Serve(pin...))
	echo, err := isp.Host.Start(pin[0], append(pin[1:], echoEnv+"=1", os.Args[0])...)
	must(err)
	must(echo.WaitLog("ready", 10*time.Second))

	server := netip.MustParseAddr(netlab.ServerAddr)
	conn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 547))
	must(err)
	defer conn.Close()
	echoConn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 0))
	must(err)
	defer echoConn.Close()

	exchange := func(first uint32) (perSecond, cpuMicros float64, r *netlab.Result) {
		l := &netlab.Load{Conn: conn, Server: netip.AddrPortFrom(server, 547), Link: netip.MustParseAddr(netlab.RelayDown),
			Open: open, First: first, Total: clients}
		before := cpu(b, isp.Server.Pid())
		r, err := l.Run(5 * time.Second)
		must(err)
		if r.Exchanges != clients {
			b.Fatalf("%d of %d exchanges ended well", r.Exchanges, clients)
		}
		used := cpu(b, isp.Server.Pid()) - before
		return float64(clients) / r.Elapsed.Seconds(), float64(used.Microseconds()) / clients, r
	}
	var echoes, echoCPU, fresh, freshCPU, known, knownCPU, p50, p99 []float64
	for b.Loop() {
		for round := range rounds {
			first := uint32(round * clients)
			n, c, _ := exchange(first)
			fresh, freshCPU = append(fresh, n), append(freshCPU, c)
			n, c, r := exchange(first)
			known, knownCPU = append(known, n), append(knownCPU, c)
			p50 = append(p50, float64(r.Percentile(0.5).Microseconds())/1000)
			p99 = append(p99, float64(r.Percentile(0.99).Microseconds())/1000)

			const total = 200000
			before := cpu(b, echo.Pid())
			took, err := netlab.EchoLoad(echoConn, netip.AddrPortFrom(server, echoPort), (r.RequestSize+r.ReplySize)/2, open, total)
			must(err)
			echoes = append(echoes, total/took.Seconds())
			echoCPU = append(echoCPU, float64((cpu(b, echo.Pid())-before).Microseconds())/total)
		}
	}
	e, k, f := median(echoes), median(known), median(fresh)
	b.ReportMetric(e, "echoes/s")
	b.ReportMetric(median(echoCPU), "echo-CPU-µs")
	b.ReportMetric(k, "known-exchanges/s")
	b.ReportMetric(median(knownCPU), "known-CPU-µs")
	b.ReportMetric(f, "new-exchanges/s")
	b.ReportMetric(median(freshCPU), "new-CPU-µs")
	b.ReportMetric(median(p50), "p50-ms")
	b.ReportMetric(median(p99), "p99-ms")
	b.ReportMetric(2*k/e, "known-messages/echoes")
	b.ReportMetric(2*f/e, "new-messages/echoes")
}
