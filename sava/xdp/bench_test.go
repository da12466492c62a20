//go:build e2e

package xdp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"brightgid/sava"
)

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// lookupOnly loads gid_lookup over a program's bindings.
func lookupOnly(b *testing.B, p *Program) *ebpf.Program {
	b.Helper()
	spec, err := loadObjects()
	if err != nil {
		b.Fatal(err)
	}
	spec.Maps[objectsMapBindings].MaxEntries = p.bindings.MaxEntries()
	spec.Maps[objectsMapCounters].MaxEntries = p.counters.MaxEntries()
	prog, err := p.program(spec, map[string]*ebpf.Map{objectsMapBindings: p.bindings, objectsMapCounters: p.counters}, objectsProgGidLookup, nil)
	if err != nil {
		b.Fatal(err)
	}
	return prog
}

// BenchmarkVerdict prints the time of a whole verdict in the kernel, that the
// source is bound to this port and link-layer address and for how long, as a ratio
// to a program that only looks the source up in the same map, in the same run.
// The goal is 1.5 at most. A source in a delegated prefix is looked up twice.
func BenchmarkVerdict(b *testing.B) {
	type kind struct {
		n        int
		prefixes bool
	}
	for _, k := range []kind{{100_000, false}, {1_000_000, false}, {1_000_000, true}} {
		n, what := k.n, "bindings"
		if k.prefixes {
			what = "prefixes"
		}
		b.Run(fmt.Sprintf("%s=%d", what, n), func(b *testing.B) {
			c := newCable(b)
			p := c.load(b, Options{Enforce: true, Limit: 2 * n})
			table := sava.NewTable(n, p)
			if k.prefixes { // and as many addresses, which are looked up beside them
				table = sava.NewTable(2*n, p)
				fillPrefixes(b, table, c.port, n)
			}
			fill(b, table, c.port, n)
			lookup := lookupOnly(b, p)
			rng := rand.New(rand.NewPCG(1, 2))
			plain := seeds(b)[0]
			time1 := func(prog *ebpf.Program, frame []byte) float64 {
				// The kernel's own figure is in whole nanoseconds; and it makes a
				// place for a program that is not attached, which takes long.
				const times = 2_000_000
				start := time.Now()
				action, err := prog.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: times})
				if err != nil || action != xdpPass {
					b.Fatalf("action %d, %v", action, err)
				}
				return float64(time.Since(start).Nanoseconds()) / times
			}
			var verdicts, lookups []float64
			for b.Loop() {
				for i := range 20 {
					a, mac := bindingOf(rng.IntN(n))
					alone := from(plain, a, mac)
					frame := alone
					if k.prefixes {
						frame = from(plain, prefixOf(rng.IntN(n)).Addr().Next(), hostMAC)
					}
					if i%2 == 0 {
						lookups = append(lookups, time1(lookup, alone))
					}
					verdicts = append(verdicts, time1(p.ports[0].program, frame))
					if i%2 == 1 {
						lookups = append(lookups, time1(lookup, alone))
					}
				}
			}
			v, l := median(verdicts), median(lookups)
			b.ReportMetric(l, "lookup-ns")
			b.ReportMetric(v, "verdict-ns")
			b.ReportMetric(v/l, "verdict/lookup")
		})
	}
}

// prefixOf returns the i-th of many delegated prefixes.
func prefixOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb9, byte(i >> 16), byte(i >> 8), byte(i)}), 56)
}

func fillPrefixes(b *testing.B, table *sava.Table, port uint32, n int) {
	b.Helper()
	until := time.Now().Add(time.Hour)
	for i := range n {
		key, err := sava.KeyOf(prefixOf(i))
		if err != nil {
			b.Fatal(err)
		}
		if err := table.Bind(key, sava.Binding{Anchor: sava.Anchor{Port: port, MAC: hostMAC}, Until: until}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkThroughput prints how many frames a second go through a veth pair to
// where they are counted behind the filter: without any, with this one, and with
// nftables over a set of the same addresses and link-layer addresses. Sending
// takes its share of the same processor.
func BenchmarkThroughput(b *testing.B) {
	if _, err := exec.LookPath("nft"); err != nil {
		b.Fatal("nftables is missing: make deps")
	}
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("bindings=%d", n), func(b *testing.B) {
			rates := map[string][]float64{}
			for b.Loop() {
				for _, how := range []string{"none", "gidfilter", "nftables"} {
					c := newCable(b)
					switch how {
					case "gidfilter":
						fill(b, sava.NewTable(n, c.load(b, Options{Enforce: true})), c.port, n)
					case "nftables":
						var rules strings.Builder
						rules.WriteString("table netdev f {\n set s { type ipv6_addr . ether_addr; size 1100000; }\n chain c { type filter hook ingress device port0 priority 0; policy drop;\n ip6 saddr . ether saddr @s accept\n}\n}\n")
						for i := 0; i < n; i += 1000 {
							rules.WriteString("add element netdev f s {")
							for j := i; j < i+1000; j++ {
								a, mac := bindingOf(j)
								fmt.Fprintf(&rules, "%s . %s,", a, net.HardwareAddr(mac[:]))
							}
							rules.WriteString("}\n")
						}
						nft := exec.Command("ip", "netns", "exec", c.device.Name, "nft", "-f", "-")
						nft.Stdin = strings.NewReader(rules.String())
						if out, err := nft.CombinedOutput(); err != nil {
							b.Fatalf("nft: %v: %.300s", err, out)
						}
					}
					for range 3 {
						rates[how] = append(rates[how], c.throughput(b, n))
					}
				}
			}
			none, ours, nft := median(rates["none"]), median(rates["gidfilter"]), median(rates["nftables"])
			b.ReportMetric(none, "none-frames/s")
			b.ReportMetric(ours, "gidfilter-frames/s")
			b.ReportMetric(nft, "nftables-frames/s")
			b.ReportMetric(ours/nft, "gidfilter/nftables")
		})
	}
}

// throughput sends frames of honest hosts out of eth0 for a second and returns how
// many a second came to port0's network stack.
func (c *cable) throughput(b *testing.B, hosts int) float64 {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(unix.SetsockoptInt(c.raw, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	rng := rand.New(rand.NewPCG(1, 2))
	plain := seeds(b)[0]
	frames := make([][]byte, 4096)
	for i := range frames {
		a, mac := bindingOf(rng.IntN(hosts))
		frames[i] = bytes.Clone(from(plain, a, mac))
	}
	sink := c.counter(b)
	defer unix.Close(sink)
	// Behind the filter, a packet socket counts, and the stack stops at the
	// destination's link-layer address, which is nobody's.
	for _, f := range frames {
		f[0], f[5] = 2, 0x77
	}
	start := time.Now()
	for i := 0; time.Since(start) < time.Second; {
		for range 256 {
			if _, err := unix.Write(c.raw, frames[i%len(frames)]); err != nil && err != unix.ENOBUFS {
				b.Fatal(err)
			}
			i++
		}
	}
	took := time.Since(start)
	time.Sleep(20 * time.Millisecond)
	stats, err := unix.GetsockoptTpacketStats(sink, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	must(err)
	if stats.Packets == 0 {
		b.Fatal("nothing has passed")
	}
	return float64(stats.Packets) / took.Seconds()
}

// counter opens a packet socket on port0 that counts the frames that pass, and
// keeps none: its buffer is full at once.
func (c *cable) counter(b *testing.B) int {
	b.Helper()
	fd := -1
	if err := c.device.Enter(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil {
			return err
		}
		udp, err := bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 20, Size: 1}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1}, bpf.RetConstant{Val: 1}, bpf.RetConstant{Val: 0},
		})
		if err != nil {
			return err
		}
		prog := make([]unix.SockFilter, len(udp))
		for i, x := range udp {
			prog[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
		}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: int(c.port), Protocol: 0xdd86}) // ETH_P_IPV6 in network order
	}); err != nil {
		b.Fatal(err)
	}
	return fd
}

// BenchmarkChanges prints how many bindings a second change, in the table and in
// the kernel, while another thread judges without pause, beside bare updates of
// the kernel's map. The goal is 50,000 a second, and no wrong verdict.
func BenchmarkChanges(b *testing.B) {
	c := newCable(b)
	p := c.load(b, Options{Enforce: true})
	table := sava.NewTable(0, p)
	fill(b, table, c.port, 1000)
	var rates, bare []float64
	total := uint64(0)
	for b.Loop() {
		stop := make(chan struct{})
		done := make(chan uint64)
		start := time.Now()
		go func() { done <- churn(b, table, c.port, stop) }()
		time.AfterFunc(time.Second, func() { close(stop) })
		verdicts, wrong := judgeMeanwhile(b, p, stop)
		if wrong > 0 {
			b.Fatalf("%d verdicts were wrong", wrong)
		}
		total += verdicts
		rates = append(rates, float64(<-done)/time.Since(start).Seconds())

		const updates = 50_000
		start = time.Now()
		for i := range updates {
			a, mac := bindingOf(1_000_000 + i%1000)
			key, v := p.clock.seal(a, sava.Binding{Anchor: sava.Anchor{Port: c.port, MAC: mac}, Until: start.Add(time.Hour)})
			if err := p.bindings.Update(&key, &v, ebpf.UpdateAny); err != nil {
				b.Fatal(err)
			}
		}
		bare = append(bare, updates/time.Since(start).Seconds())
	}
	r := median(rates)
	b.ReportMetric(r, "changes/s")
	b.ReportMetric(r/median(bare), "changes/bare-updates")
	b.ReportMetric(r/50_000, "changes/goal")
	b.ReportMetric(float64(total), "verdicts")
}
