//go:build e2e

// Package bench measures the server over a veth pair, beside a bare UDP echo in
// the same run. The server and the echo have one CPU, the load another.
package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brightgid/internal/benchdoc"
	"brightgid/internal/netlab"
)

const (
	echoEnv   = "GID_BENCH_ECHO"
	pinnedEnv = "GID_BENCH_PINNED"
	serverCPU = "1"
	loadCPU   = "0"
	echoPort  = 7 // and the next is of the echo that joins datagrams

	// open is how many exchanges, or datagrams, are in flight; manyOpen where there are more.
	open     = 64
	manyOpen = 256

	// settleFor is longer than gidserver takes, after many new subscribers, to seal NIDs for the next
	// and to write a file of its log ahead.
	settleFor = 45 * time.Second

	// closedFor is how long closed loops go on at least, but of new clients, and openFor how long open ones: the
	// machine's own pauses, of which there are some each second, would decide about the slowest of a hundred
	// in less time.
	closedFor = 500 * time.Millisecond
	openFor   = 3 * time.Second

	// goal is the part of the echo's rate that gidserver is to reach.
	goal = 0.75

	// aheadFirst is the first of the clients whose NIDs are sealed ahead.
	aheadFirst = 1 << 20

	// pairs is how often in a round gidserver and the echo are measured one right after the other, and gidserver at half
	// of a rate: how fast the machine is changes from minute to minute.
	pairs = 3
)

var bin string

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	if os.Getenv(echoEnv) != "" {
		ended := make(chan error)
		go func() {
			ended <- netlab.EchoJoined(echoPort+1, func() {
				go func() { ended <- netlab.Echo(echoPort, func() { fmt.Println("ready") }) }()
			})
		}()
		fmt.Fprintln(os.Stderr, <-ended)
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
	debug.SetGCPercent(400) // of the load, whose pauses would be taken for the server's
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

// The parts of their preferred lifetimes in which servers grant leases as they are: a quarter; and
// none, so that each exchange writes a lease.
const (
	cached  = "0.25"
	written = "0"

	// keaWritten is as good as none for Kea, which takes no zero and counts whole seconds: in one second
	// it does not come to a client twice.
	keaWritten = "0.000001"
)

// BenchmarkFourMessageExchange prints how many four-message exchanges a second servers on
// one CPU complete, gidserver with leases durable before each Reply, and the CPU time of
// each, beside a UDP echo of the same size: gidserver, Kea with its memory file, which it
// does not sync, and ISC dhcpd, in turn, several times. Clients are new; or known, who ask again for
// what they have; or known while nothing is granted without being written. An exchange is two
// datagrams each way, so that messages/echoes compares like with like; the project's goals are 0.75
// of that, 2.4 of Kea's rate, and 2 ms for 99 of 100 exchanges at half of the rate.
// With GID_BENCH_ALONE set there are no other servers.
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
	isp, err := lab.NewISP(netlab.ISPOptions{Bin: bin, LogLevel: "info", Lease: "cache-threshold = " + cached})
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

	threshold := cached
	servers := []*rival{{name: "gidserver", start: func(t string) (*netlab.Process, error) {
		if t != threshold {
			if err := isp.Reconfigure("cache-threshold = "+threshold, "cache-threshold = "+t); err != nil {
				return nil, err
			}
			threshold = t
		}
		err := isp.Serve(pin...)
		return isp.Server, err
	}}}
	if os.Getenv("GID_BENCH_ALONE") == "" {
		servers = append(servers, rivals(b, isp, pin)...)
	}
	var lateKnown, lateWritten []float64 // how late exchanges of open loops began
	rests := false                       // open loops do
	// once runs one load, in a closed loop of so many exchanges, or in an open one of so many a second.
	once := func(s *rival, first, open int, rate float64, singly bool) *netlab.Result {
		l := &netlab.Load{
			Conn: conn, Server: netip.AddrPortFrom(server, 547), Link: netip.MustParseAddr(netlab.RelayDown),
			Open: open, Rate: int(rate), First: uint32(first), Total: clients, Keep: true, Singly: singly, Rests: rests,
		}
		if rate > 0 { // the load's collector would take its time from exchanges
			runtime.GC()
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
		}
		r, err := l.Run(5 * time.Second)
		if err != nil {
			b.Fatalf("%s, %d open, %.0f a second: %v after %d of %d exchanges", s.name, open, rate, err, r.Exchanges, clients)
		}
		if r.Exchanges != clients {
			b.Fatalf("%s: %d of %d exchanges ended well", s.name, r.Exchanges, clients)
		}
		return r
	}
	// load runs loads of the same clients for a while.
	load := func(s *rival, p *netlab.Process, m *measured, first, open int, rate float64, singly bool, while time.Duration) *netlab.Result {
		before := cpu(b, p.Pid())
		var all netlab.Result
		for {
			r := once(s, first, open, rate, singly)
			r.Exchanges, r.Elapsed, r.Latency = r.Exchanges+all.Exchanges, r.Elapsed+all.Elapsed, append(r.Latency, all.Latency...)
			r.Late, r.Delay = append(r.Late, all.Late...), append(r.Delay, all.Delay...)
			if all = *r; all.Elapsed > while {
				break
			}
		}
		m.add(&all, cpu(b, p.Pid())-before)
		return &all
	}
	half := func(s *rival, p *netlab.Process, m *measured, first int, rate float64, late *[]float64) {
		turns := 1
		if s.name == "gidserver" {
			turns = pairs
		}
		for range turns {
			r := load(s, p, m, first, open, rate/2, false, openFor)
			*late = append(*late, milliseconds(r.LatePercentile(0.99)))
		}
	}
	// echoes measures an echo.
	echoes := func(s *measured, port uint16, open, size int) float64 {
		const total = 200000
		before := cpu(b, echo.Pid())
		took, err := netlab.EchoLoad(echoConn, netip.AddrPortFrom(server, port), size, open, total)
		must(err)
		s.rate = append(s.rate, total/took.Seconds())
		s.cpu = append(s.cpu, float64((cpu(b, echo.Pid())-before).Microseconds())/total)
		return s.last()
	}
	var few, many, fewJoined, manyJoined measured // of the echoes, with as many open as the servers
	var disk, diskWaits measured
	var lost, lostBeside, together []float64
	for b.Loop() {
		for round := range rounds {
			for _, s := range servers {
				first := round * clients
				ours := s.name == "gidserver"
				size := 0
				// closed measures closed loops, of gidserver beside the echo and with a relay that has each datagram
				// by itself as well.
				closed := func(p *netlab.Process, m, singly, of, joined *measured, open int) {
					if !ours {
						load(s, p, m, first, open, 0, false, closedFor)
						return
					}
					for range pairs {
						r := load(s, p, m, first, open, 0, false, closedFor)
						size = (r.RequestSize + r.ReplySize) / 2
						m.ratio = append(m.ratio, 2*m.last()/echoes(of, echoPort, open, size))
						echoes(joined, echoPort+1, open, size)
						load(s, p, singly, first, open, 0, true, closedFor)
						singly.ratio = append(singly.ratio, 2*singly.last()/of.last())
					}
				}
				settle := func() {
					if ours {
						time.Sleep(settleFor)
					}
				}
				p, err := s.start(cached)
				must(err)
				load(s, p, &s.fresh, first, open, 0, false, 0)
				settle()
				if ours { // other new clients, for whom it has done most of the work
					load(s, p, &s.ahead, aheadFirst+first, open, 0, false, 0)
					settle()
				}
				closed(p, &s.known, &s.knownSingly, &few, &fewJoined, open)
				half(s, p, &s.knownHalf, first, s.known.last(), &lateKnown)
				if ours {
					half(s, p, &s.knownAsked, first, goal/2*few.last(), &lateKnown)
				}
				closed(p, &s.knownMany, &s.knownManySingly, &many, &manyJoined, manyOpen)
				must(p.Stop())
				p, err = s.start(written)
				must(err)
				once(s, first, open, 0, false) // until all that it has is in its memory
				if ours {
					// And until a file of its log is written ahead, which is once in a process.
					once(s, first, open, 0, false)
					settle()
				}
				closed(p, &s.written, &s.writtenSingly, &few, &fewJoined, open)
				rests = true // the disk is beside it
				half(s, p, &s.writtenHalf, first, s.written.last(), &lateWritten)
				if ours {
					half(s, p, &s.writtenAsked, first, goal/2*few.last(), &lateWritten)
				}
				if ours {
					must(pollingBeforeHalt(func() {
						half(s, p, &s.writtenPolled, first, s.written.last(), new([]float64))
						for range pairs {
							load(s, p, &s.writtenPolledClosed, first, open, 0, false, closedFor)
						}
					}))
				}
				rests = false
				if ours { // and what that changes, which is another thing on each machine
					half(s, p, &s.writtenPressed, first, s.written.last(), new([]float64))
				}
				closed(p, &s.writtenMany, &s.writtenManySingly, &many, &manyJoined, manyOpen)
				must(p.Stop())
				if !ours {
					continue
				}
				r, err := netlab.EchoRate(echoConn, netip.AddrPortFrom(server, echoPort), size, int(few.last()/2), 200000)
				must(err)
				few.p99 = append(few.p99, milliseconds(r.Percentile(0.99)))
				must(syncs(isp.Path("state"), openFor, &disk, &diskWaits))
				s.writtenPressed.ratio = append(s.writtenPressed.ratio, median(slices.Clone(s.writtenPressed.delay99[len(s.writtenPressed.delay99)-pairs:]))/last(diskWaits.p99))
				stall, _, err := stalls(openFor)
				must(err)
				lost = append(lost, stall)
				beside, part, err := stallsBeside(isp.Path("state"))
				must(err)
				lostBeside, together = append(lostBeside, beside), append(together, part)
			}
		}
	}
	gid := servers[0]
	b.ReportMetric(median(few.rate), "echoes/s")
	b.ReportMetric(median(few.cpu), "echo-CPU-µs")
	for _, k := range []struct {
		name string
		m    func(*rival) *measured
	}{
		{"new", func(s *rival) *measured { return &s.fresh }},
		{"new-sealed-ahead", func(s *rival) *measured { return s.freshest() }},
		{"known", func(s *rival) *measured { return &s.known }},
		{"written", func(s *rival) *measured { return &s.written }},
	} {
		m := k.m(gid)
		b.ReportMetric(median(m.rate), k.name+"-exchanges/s")
		b.ReportMetric(median(m.cpu), k.name+"-CPU-µs")
		if len(m.ratio) > 0 {
			b.ReportMetric(median(m.ratio), k.name+"-messages/echoes")
		}
		for _, s := range servers[1:] {
			b.ReportMetric(median(s.fresh.rate), s.name+"-new-exchanges/s")
			b.ReportMetric(median(m.rate)/median(k.m(s).rate), k.name+"-gidserver/"+s.name)
		}
	}
	b.ReportMetric(median(few.p99), "echo-half-load-p99-ms")
	b.ReportMetric(median(disk.p50), "fdatasync-p50-ms")
	b.ReportMetric(median(disk.p99), "fdatasync-p99-ms")
	b.ReportMetric(median(diskWaits.p99), "disk-alone-p99-ms")
	b.ReportMetric(median(gid.writtenPressed.ratio), "written-half-load-p99/disk-alone")
	b.ReportMetric(median(lateKnown), "known-begun-late-p99-ms")
	b.ReportMetric(median(lateWritten), "written-begun-late-p99-ms")
	b.ReportMetric(median(lost), "‰-lost-to-pauses")
	b.ReportMetric(median(lostBeside), "‰-lost-beside-syncs")
	b.ReportMetric(median(together), "of-which-in-step")
	b.ReportMetric(median(gid.known.p99), "known-p99-ms")
	for _, k := range []struct {
		name string
		m    *measured
	}{
		{"known-half-load", &gid.knownHalf}, {"known-half-goal", &gid.knownAsked},
		{"written-half-load", &gid.writtenHalf}, {"written-half-load-without-rest", &gid.writtenPressed}, {"written-half-goal", &gid.writtenAsked},
		{"written-half-load-polling", &gid.writtenPolled},
	} {
		if len(k.m.rate) == 0 {
			continue
		}
		b.ReportMetric(median(k.m.delay50), k.name+"-delay-p50-ms")
		b.ReportMetric(median(k.m.delay99), k.name+"-delay-p99-ms")
		b.ReportMetric(median(k.m.p99), k.name+"-p99-ms")
		b.Logf("%s: p99 of the delay, ms: %.2f; from when exchanges had to begin: %.2f", k.name, k.m.delay99, k.m.p99)
	}
	b.ReportMetric(median(gid.knownMany.ratio), fmt.Sprintf("known-messages/echoes-%d-open", manyOpen))
	b.ReportMetric(median(gid.writtenMany.ratio), fmt.Sprintf("written-messages/echoes-%d-open", manyOpen))
	b.ReportMetric(median(gid.knownSingly.ratio), "known-messages/echoes-singly")
	b.ReportMetric(median(gid.writtenSingly.ratio), "written-messages/echoes-singly")
	b.ReportMetric(median(fewJoined.rate), "joined-echoes/s")
	b.ReportMetric(median(manyJoined.rate), fmt.Sprintf("joined-echoes/s-%d-open", manyOpen))
	must(writeTable(servers, &few, &many, &fewJoined, &manyJoined, &disk, &diskWaits, median(lateKnown), median(lateWritten), median(lost), median(lostBeside), median(together)))
}

// rival is a server that is measured.
type rival struct {
	name  string
	start func(threshold string) (*netlab.Process, error)

	fresh, ahead                      measured // ahead: new clients whose NIDs are sealed as far as may be
	known, knownHalf, knownMany       measured
	written, writtenHalf, writtenMany measured
	knownAsked, writtenAsked          measured // at half of the rate that is the goal
	writtenPressed                    measured // as writtenHalf, with a load that does not rest

	// As writtenHalf and written, with processors that poll before they halt. Empty where the machine has no such setting.
	writtenPolled, writtenPolledClosed measured

	// Of gidserver, with a relay that sends and takes each datagram by itself.
	knownSingly, knownManySingly, writtenSingly, writtenManySingly measured
}

// freshest is ahead, or fresh of a server that does nothing ahead.
func (s *rival) freshest() *measured {
	if len(s.ahead.rate) > 0 {
		return &s.ahead
	}
	return &s.fresh
}

// measured is what came of loads of one kind: how many a second, how much processor time each took, in µs,
// and percentiles of how long they took, in ms, in open loops also without what the load itself took (delay); and the
// messages' part of the echoes right after them.
type measured struct{ rate, cpu, p50, p99, delay50, delay99, ratio []float64 }

func (m *measured) last() float64 { return last(m.rate) }

func last(x []float64) float64 { return x[len(x)-1] }

func (m *measured) add(r *netlab.Result, used time.Duration) {
	n := float64(r.Exchanges)
	m.rate = append(m.rate, n/r.Elapsed.Seconds())
	m.cpu = append(m.cpu, float64(used.Microseconds())/n)
	m.p50 = append(m.p50, milliseconds(r.Percentile(0.5)))
	m.p99 = append(m.p99, milliseconds(r.Percentile(0.99)))
	m.delay50 = append(m.delay50, milliseconds(r.DelayPercentile(0.5)))
	m.delay99 = append(m.delay99, milliseconds(r.DelayPercentile(0.99)))
}

// onCPU runs f on a thread that has a processor to itself, as far as this process goes.
func onCPU(number string, f func() error) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and it ends with the goroutine
		var one unix.CPUSet
		one.Set(n)
		err := unix.SchedSetaffinity(0, &one)
		if err == nil {
			err = f()
		}
		ended <- err
	}()
	return <-ended
}

// period is how long a time Linux divides processor time in (CFS bandwidth control), if a host's limits
// what a machine has.
const period = 100 * time.Millisecond

// haltPoll is the setting of Linux's haltpoll, the governor of virtual machines' idle processors: for how many nanoseconds
// one that has nothing to do looks for something before it halts, so that the machine's host need not wake it.
const haltPoll = "/sys/module/haltpoll/parameters/guest_halt_poll_ns"

// pollingBeforeHalt calls f while that is Linux's default, 200 µs, which some machines turn off. It does nothing where the
// governor is another or the setting may not be changed.
func pollingBeforeHalt(f func()) error {
	governor, err := os.ReadFile("/sys/devices/system/cpu/cpuidle/current_governor")
	if err != nil || strings.TrimSpace(string(governor)) != "haltpoll" {
		return nil
	}
	return withSetting(haltPoll, "200000", f)
}

// withSetting calls f while the kernel has another value for a setting, and has it be what it was afterwards, also where
// the process is told to end meanwhile. It does nothing where the setting may not be changed, as in a container.
func withSetting(path, value string, f func()) (err error) {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	told, over := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(told, os.Interrupt, unix.SIGTERM)
	defer signal.Stop(told)
	if os.WriteFile(path, []byte(value), 0) != nil {
		return nil
	}
	restore := func() error { return os.WriteFile(path, before, 0) }
	go func() {
		select {
		case s := <-told:
			if err := restore(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			signal.Reset(s)
			_ = unix.Kill(os.Getpid(), s.(unix.Signal)) // as if it had not waited
		case <-over:
		}
	}()
	defer func() {
		close(over)
		err = errors.Join(err, restore())
	}()
	f()
	return nil
}

// stalls looks at the clock without pause on the servers' processor, on which nothing else is done,
// and returns how many thousandths of the time it was kept from that for a millisecond and more: by
// the host that the machine runs on, mostly. What comes then waits. It also returns what part of
// that ended in the same tenth of each period, which is 1 where the machine has to wait for the next.
func stalls(d time.Duration) (permille, together float64, err error) {
	var lost time.Duration
	var ends [20]time.Duration // in each twentieth
	err = onCPU(serverCPU, func() error {
		began := time.Now()
		for last := began; last.Sub(began) < d; {
			now := time.Now()
			if gap := now.Sub(last); gap >= time.Millisecond {
				lost += gap
				ends[now.Sub(began)%period*time.Duration(len(ends))/period] += gap
			}
			last = now
		}
		return nil
	})
	for i := range ends {
		together = max(together, float64(ends[i]+ends[(i+1)%len(ends)])/float64(max(lost, 1)))
	}
	return 1000 * float64(lost) / float64(d), together, err
}

// stallsBeside is stalls while the other processor has the disk sync, one write after another.
func stallsBeside(dir string) (permille, together float64, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2)) // the load has one
	var over atomic.Bool
	ended := make(chan error)
	go func() {
		ended <- onCPU(loadCPU, func() error {
			for !over.Load() {
				if err := syncs(dir, period, new(measured), new(measured)); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	permille, together, err = stalls(openFor)
	over.Store(true)
	return permille, together, errors.Join(err, <-ended)
}

// syncs measures for a while how long the disk takes to have 4 KiB, one write after another in a file that
// was written before, as a server's log is; and how long one waits who comes at any time, see waits.
func syncs(dir string, while time.Duration, m, waited *measured) error {
	const count = 1000
	f, err := os.CreateTemp(dir, "syncs")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	if _, err := f.Write(make([]byte, count*len(page))); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	var took []time.Duration
	for start := time.Now(); time.Since(start) < while || len(took) < 2; {
		began := time.Now()
		if _, err := f.WriteAt(page, int64(len(took)%count*len(page))); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	all := waits(took)
	waited.p99 = append(waited.p99, milliseconds(all[len(all)*99/100]))
	slices.Sort(took)
	m.p50 = append(m.p50, milliseconds(took[len(took)/2]))
	m.p99 = append(m.p99, milliseconds(took[len(took)*99/100]))
	return nil
}

// waits returns how long those wait, in order, who come every 10 µs while one sync follows another and need what
// they bring on disk: until the one that is under way has ended, and the next. So it would be for clients of a server that
// does nothing but sync, once for all that wait.
func waits(syncs []time.Duration) (all []time.Duration) {
	for i, d := range syncs[:len(syncs)-1] {
		for ; d > 0; d -= 10 * time.Microsecond {
			all = append(all, d+syncs[i+1])
		}
	}
	slices.Sort(all)
	return all
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rivals are other servers of Debian's, for the same link.
func rivals(b *testing.B, isp *netlab.ISP, pin []string) (out []*rival) {
	b.Helper()
	for _, program := range []string{"kea-dhcp6", "dhcpd"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Fatalf("%s is missing: scripts/deps.sh bench", program)
		}
	}
	dir := isp.Path("rivals")
	write := func(name, text string) (string, error) {
		path := filepath.Join(dir, name)
		return path, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	leases, err := write("dhcpd.leases", "")
	if err != nil {
		b.Fatal(err)
	}
	kea := func(threshold string) (string, error) {
		if threshold == written {
			threshold = keaWritten
		}
		return write("kea.json", fmt.Sprintf(`{ "Dhcp6": { "interfaces-config": { "interfaces": [ "eth2/%s" ], "re-detect": false }, "server-id": { "type": "LL", "htype": 1, "identifier": "020000000001", "persist": false },
  "lease-database": { "type": "memfile", "persist": true, "name": "%s/kea.leases", "lfc-interval": 0 },
  "preferred-lifetime": 3600, "valid-lifetime": 7200, "cache-threshold": %s, "multi-threading": { "enable-multi-threading": false },
  "subnet6": [ { "id": 1, "subnet": "%s", "relay": { "ip-addresses": [ "%s" ] }, "pools": [ { "pool": "%s" } ] } ],
  "loggers": [ { "name": "kea-dhcp6", "severity": "INFO", "output_options": [ { "output": "stdout" } ] } ] } }
`, netlab.ServerAddr, dir, threshold, netlab.RelayPrefix, netlab.RelayDown, netlab.RelayPrefix))
	}
	dhcpd := func(threshold string) (string, error) {
		percent := map[string]int{cached: 25, written: 0}[threshold]
		return write("dhcpd.conf", fmt.Sprintf("default-lease-time 7200;\ndhcp-cache-threshold %d;\nsubnet6 2001:db8:ff::/64 { }\nsubnet6 %s { range6 %s; }\n", percent, netlab.RelayPrefix, netlab.RelayPrefix))
	}
	serve := func(config func(string) (string, error), ready string, args ...string) func(string) (*netlab.Process, error) {
		return func(threshold string) (*netlab.Process, error) {
			path, err := config(threshold)
			if err != nil {
				return nil, err
			}
			all := append(append([]string{}, pin[1:]...), args...)
			for i := range all {
				if all[i] == "CONFIG" {
					all[i] = path
				}
			}
			p, err := isp.Host.Start(pin[0], all...)
			if err != nil {
				return nil, err
			}
			return p, p.WaitLog(ready, 20*time.Second)
		}
	}
	return []*rival{
		{name: "Kea", start: serve(kea, "DHCP6_STARTED", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp6", "-c", "CONFIG")},
		{name: "dhcpd", start: serve(dhcpd, "Server starting service", "dhcpd", "-6", "-f", "-d", "-cf", "CONFIG", "-lf", leases, "-pf", filepath.Join(dir, "dhcpd.pid"), "eth2")},
	}
}

// writeTable writes what was measured into docs/benchmarks.md, and a plot of it, if asked to.
func writeTable(servers []*rival, few, many, fewJoined, manyJoined, disk, diskWaits *measured, lateKnown, lateWritten, lost, beside, together float64) error {
	rates := benchdoc.NewTable("Exchanges a second", "new clients", "new, sealed ahead", "known clients", fmt.Sprintf("known, %d open", manyOpen), "known, each written", fmt.Sprintf("written, %d open", manyOpen))
	names, values := []string{}, []float64{}
	for _, s := range servers {
		cells := []string{s.name}
		for _, m := range []*measured{&s.fresh, s.freshest(), &s.known, &s.knownMany, &s.written, &s.writtenMany} {
			cells = append(cells, fmt.Sprintf("%.0f", median(m.rate)))
		}
		rates.Row(cells...)
		names = append(names, s.name+", new", s.name+", known", s.name+", written")
		values = append(values, median(s.fresh.rate), median(s.known.rate), median(s.written.rate))
	}
	half := func(s *measured) string { return fmt.Sprintf("%.0f", median(s.rate)/2) }
	rates.Row("echo, two datagrams for an exchange", half(few), half(few), half(few), half(many), half(few), half(many))
	rates.Row("the same, joined by the kernel", half(fewJoined), half(fewJoined), half(fewJoined), half(manyJoined), half(fewJoined), half(manyJoined))
	gid := servers[0]
	to := func(m, e *measured) string { return fmt.Sprintf("%.2f", 2*median(m.rate)/median(e.rate)) }
	pair := func(m *measured) string { return fmt.Sprintf("%.2f", median(m.ratio)) }
	rates.Row("gidserver ÷ echo", to(&gid.fresh, few), to(&gid.ahead, few), pair(&gid.known), pair(&gid.knownMany), pair(&gid.written), pair(&gid.writtenMany))
	rates.Row("the same, with a relay that sends and takes each datagram by itself", "", "", pair(&gid.knownSingly), pair(&gid.knownManySingly), pair(&gid.writtenSingly), pair(&gid.writtenManySingly))
	for _, s := range servers[1:] {
		cells := []string{"gidserver ÷ " + s.name}
		for _, m := range [][2]*measured{{&gid.fresh, &s.fresh}, {&gid.ahead, &s.fresh}, {&gid.known, &s.known}, {&gid.knownMany, &s.knownMany}, {&gid.written, &s.written}, {&gid.writtenMany, &s.writtenMany}} {
			cells = append(cells, fmt.Sprintf("%.1f", median(m[0].rate)/median(m[1].rate)))
		}
		rates.Row(cells...)
	}
	costs := benchdoc.NewTable("", "CPU of an exchange, µs: new", "new, sealed ahead", "known", "written", "p99 of an exchange, ms: new", "new, sealed ahead", "known", "written")
	for _, s := range servers {
		cells := []string{s.name}
		for _, m := range []*measured{&s.fresh, s.freshest(), &s.known, &s.written} {
			cells = append(cells, fmt.Sprintf("%.1f", median(m.cpu)))
		}
		for _, m := range []*measured{&s.fresh, s.freshest(), &s.known, &s.written} {
			cells = append(cells, fmt.Sprintf("%.1f", median(m.p99)))
		}
		costs.Row(cells...)
	}
	one := fmt.Sprintf("%.1f", 2*median(few.cpu))
	costs.Row("echo, two datagrams", one, one, one, one, "", "", "", "")
	halves := benchdoc.NewTable("An exchange at half of the rate, ms", "known: delay, p50", "p99", "from when it had to begin, p99", "written: delay, p50", "p99", "from when it had to begin, p99")
	atHalf := func(name string, both ...*measured) {
		cells := []string{name}
		for _, m := range both {
			if m == nil {
				cells = append(cells, "", "", "")
				continue
			}
			cells = append(cells, fmt.Sprintf("%.2f", median(m.delay50)), fmt.Sprintf("%.2f", median(m.delay99)), fmt.Sprintf("%.2f", median(m.p99)))
		}
		halves.Row(cells...)
	}
	atHalf("gidserver", &gid.knownHalf, &gid.writtenHalf)
	atHalf("gidserver, the load not resting", nil, &gid.writtenPressed)
	if len(gid.writtenPolled.rate) > 0 {
		atHalf("gidserver, processors polling before they halt", nil, &gid.writtenPolled)
	}
	atHalf(fmt.Sprintf("gidserver, at half of the goal, %.2f of the echo's rate", goal/2), &gid.knownAsked, &gid.writtenAsked)
	for _, s := range servers[1:] {
		atHalf(s.name, &s.knownHalf, &s.writtenHalf)
	}
	halves.Row("echo, one datagram", "", "", fmt.Sprintf("%.2f", median(few.p99)), "", "", "")
	said := fmt.Sprintf("The delay at half of the rate, the load not resting, was %.1f times what the disk alone made it in the same round, "+
		"%.1f ms: who comes at any time waits for the rest of one sync and for the next. "+
		"In the same run the disk took %.2f ms for a sync, and %.2f in one of a hundred, with nothing else to do; at half of the rate one exchange in a hundred "+
		"began %.1f ms late or later (%.1f where each is written), for which the load or the machine is to blame; and the servers' processor, with nothing to do but to look at the clock, "+
		"stood still for a millisecond and more at a time in %.1f ‰ of the time, and in %.1f ‰ while the other had the disk sync one write after another; %.0f %% of the latter ended in the same tenth of each tenth of a second.\n",
		median(gid.writtenPressed.ratio), median(diskWaits.p99), median(disk.p50), median(disk.p99), lateKnown, lateWritten, lost, beside, 100*together)
	if len(gid.writtenPolledClosed.rate) > 0 {
		said += fmt.Sprintf("With processors that poll for 0.2 ms before they halt gidserver wrote %.0f exchanges a second with %d open, at %.1f µs.\n",
			median(gid.writtenPolledClosed.rate), open, median(gid.writtenPolledClosed.cpu))
	}
	plot, err := benchdoc.Bars("bench-dhcp", "Four-message exchanges a second, servers on one CPU", append(names, "echo"), append(values, median(few.rate)/2))
	if err != nil {
		return err
	}
	return benchdoc.Write("bench-dhcp", rates.String()+"\n"+costs.String()+"\n"+halves.String()+"\n"+said+"\n"+plot)
}
