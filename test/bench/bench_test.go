//go:build e2e

// Package bench measures the server over a veth pair, beside a bare UDP echo in
// the same run. The server and the echo have one CPU, the load another.
package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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

// BenchmarkFourMessageExchange prints how many four-message exchanges a second servers on
// one CPU complete, gidserver with leases durable before each Reply, and the CPU time of
// each, beside a UDP echo of the same size: gidserver, Kea with its memory file, which it
// does not sync, and ISC dhcpd, in turn, several times. An exchange is two datagrams each
// way, so that messages/echoes compares like with like; the project's goals are 0.75 of
// that and 2.4 of Kea's rate. GID_BENCH_TABLE names a file for a table and a plot beside it;
// with GID_BENCH_ALONE set there are no other servers.
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

	servers := []*rival{{name: "gidserver", start: func() (*netlab.Process, error) { err := isp.Serve(pin...); return isp.Server, err }}}
	if os.Getenv("GID_BENCH_ALONE") == "" {
		servers = append(servers, rivals(b, isp, pin)...)
	}
	var echoes, echoCPU []float64
	for b.Loop() {
		for round := range rounds {
			for _, s := range servers {
				p, err := s.start()
				must(err)
				first := uint32(round * clients)
				var r *netlab.Result
				for _, m := range []*measured{&s.fresh, &s.known} {
					l := &netlab.Load{Conn: conn, Server: netip.AddrPortFrom(server, 547), Link: netip.MustParseAddr(netlab.RelayDown), Open: open, First: first, Total: clients, Keep: true}
					before := cpu(b, p.Pid())
					r, err = l.Run(5 * time.Second)
					must(err)
					if r.Exchanges != clients {
						b.Fatalf("%s: %d of %d exchanges ended well", s.name, r.Exchanges, clients)
					}
					m.add(r, cpu(b, p.Pid())-before)
				}
				must(p.Stop())
				if s.name != "gidserver" {
					continue
				}
				const total = 200000
				before := cpu(b, echo.Pid())
				took, err := netlab.EchoLoad(echoConn, netip.AddrPortFrom(server, echoPort), (r.RequestSize+r.ReplySize)/2, open, total)
				must(err)
				echoes = append(echoes, total/took.Seconds())
				echoCPU = append(echoCPU, float64((cpu(b, echo.Pid())-before).Microseconds())/total)
			}
		}
	}
	e, gid := median(echoes), servers[0]
	b.ReportMetric(e, "echoes/s")
	b.ReportMetric(median(echoCPU), "echo-CPU-µs")
	b.ReportMetric(median(gid.known.rate), "known-exchanges/s")
	b.ReportMetric(median(gid.known.cpu), "known-CPU-µs")
	b.ReportMetric(median(gid.fresh.rate), "new-exchanges/s")
	b.ReportMetric(median(gid.fresh.cpu), "new-CPU-µs")
	b.ReportMetric(median(gid.known.p50), "p50-ms")
	b.ReportMetric(median(gid.known.p99), "p99-ms")
	b.ReportMetric(2*median(gid.known.rate)/e, "known-messages/echoes")
	b.ReportMetric(2*median(gid.fresh.rate)/e, "new-messages/echoes")
	for _, s := range servers[1:] {
		b.ReportMetric(median(s.fresh.rate), s.name+"-new-exchanges/s")
		b.ReportMetric(median(gid.fresh.rate)/median(s.fresh.rate), "new-gidserver/"+s.name)
		b.ReportMetric(median(gid.known.rate)/median(s.known.rate), "known-gidserver/"+s.name)
	}
	if path := os.Getenv("GID_BENCH_TABLE"); path != "" {
		must(writeTable(path, servers, e, median(echoCPU)))
	}
}

// rival is a server that is measured.
type rival struct {
	name         string
	start        func() (*netlab.Process, error)
	fresh, known measured
}

// measured is what came of loads of one kind.
type measured struct{ rate, cpu, p50, p99 []float64 }

func (m *measured) add(r *netlab.Result, used time.Duration) {
	n := float64(r.Exchanges)
	m.rate = append(m.rate, n/r.Elapsed.Seconds())
	m.cpu = append(m.cpu, float64(used.Microseconds())/n)
	m.p50 = append(m.p50, float64(r.Percentile(0.5).Microseconds())/1000)
	m.p99 = append(m.p99, float64(r.Percentile(0.99).Microseconds())/1000)
}

// rivals are other servers of Debian's, for the same link.
func rivals(b *testing.B, isp *netlab.ISP, pin []string) (out []*rival) {
	b.Helper()
	for _, program := range []string{"kea-dhcp6", "dhcpd"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Fatalf("%s is missing: scripts/deps.sh bench", program)
		}
	}
	dir := isp.Path("rivals")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			b.Fatal(err)
		}
		return path
	}
	kea := write("kea.json", fmt.Sprintf(`{ "Dhcp6": { "interfaces-config": { "interfaces": [ "eth2/%s" ], "re-detect": false }, "server-id": { "type": "LL", "htype": 1, "identifier": "020000000001", "persist": false },
  "lease-database": { "type": "memfile", "persist": true, "name": "%s/kea.leases", "lfc-interval": 0 },
  "preferred-lifetime": 3600, "valid-lifetime": 7200, "multi-threading": { "enable-multi-threading": false },
  "subnet6": [ { "id": 1, "subnet": "%s", "relay": { "ip-addresses": [ "%s" ] }, "pools": [ { "pool": "%s" } ] } ],
  "loggers": [ { "name": "kea-dhcp6", "severity": "INFO", "output_options": [ { "output": "stdout" } ] } ] } }
`, netlab.ServerAddr, dir, netlab.RelayPrefix, netlab.RelayDown, netlab.RelayPrefix))
	dhcpd := write("dhcpd.conf", fmt.Sprintf("default-lease-time 7200;\nsubnet6 2001:db8:ff::/64 { }\nsubnet6 %s { range6 %s; }\n", netlab.RelayPrefix, netlab.RelayPrefix))
	leases := write("dhcpd.leases", "")
	serve := func(ready string, args ...string) func() (*netlab.Process, error) {
		return func() (*netlab.Process, error) {
			p, err := isp.Host.Start(pin[0], append(append([]string{}, pin[1:]...), args...)...)
			if err != nil {
				return nil, err
			}
			return p, p.WaitLog(ready, 20*time.Second)
		}
	}
	return []*rival{
		{name: "Kea", start: serve("DHCP6_STARTED", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp6", "-c", kea)},
		{name: "dhcpd", start: serve("Server starting service", "dhcpd", "-6", "-f", "-d", "-cf", dhcpd, "-lf", leases, "-pf", filepath.Join(dir, "dhcpd.pid"), "eth2")},
	}
}

// writeTable writes what was measured into a Markdown file, between two marks, and a plot of it
// beside the file.
func writeTable(path string, servers []*rival, echoes, echoCPU float64) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const begin, end = "<!-- bench-dhcp: make bench-dhcp writes this -->\n", "<!-- /bench-dhcp -->"
	head, rest, ok1 := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s: no marks %q and %q", path, begin, end)
	}
	var t strings.Builder
	fmt.Fprintf(&t, "| Server | new clients, exchanges/s | CPU of each, µs | p99, ms | known clients, exchanges/s | CPU of each, µs | p99, ms |\n|---|---|---|---|---|---|---|\n")
	names, values := []string{}, []float64{}
	for _, s := range servers {
		f, k := &s.fresh, &s.known
		fmt.Fprintf(&t, "| %s | %.0f | %.1f | %.1f | %.0f | %.1f | %.1f |\n", s.name, median(f.rate), median(f.cpu), median(f.p99), median(k.rate), median(k.cpu), median(k.p99))
		names, values = append(names, s.name+", new", s.name+", known"), append(values, median(f.rate), median(k.rate))
	}
	fmt.Fprintf(&t, "| echo, two datagrams for an exchange | %.0f | %.1f | | | | |\n\n![Exchanges a second](bench-dhcp.svg)\n", echoes/2, 2*echoCPU)
	names, values = append(names, "echo"), append(values, echoes/2)
	return errors.Join(
		os.WriteFile(path, []byte(head+begin+t.String()+end+tail), 0o644),
		os.WriteFile(filepath.Join(filepath.Dir(path), "bench-dhcp.svg"), []byte(bars("Four-message exchanges a second, servers on one CPU", names, values)), 0o644))
}

// bars is a bar chart as SVG.
func bars(title string, names []string, values []float64) string {
	var b strings.Builder
	const left, width, row = 150, 420, 24
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">`+"\n", left+width+90, row*len(names)+40)
	fmt.Fprintf(&b, `<text x="8" y="20" font-weight="bold">%s</text>`+"\n", title)
	most := slices.Max(values)
	for i, n := range names {
		y := 32 + row*i
		w := width * values[i] / most
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="#4477aa"/><text x="%.1f" y="%d">%.0f</text>`+"\n",
			left-8, y+15, n, left, y+2, w, row-6, left+w+6, y+15, values[i])
	}
	b.WriteString("</svg>\n")
	return b.String()
}
