//go:build e2e

package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/d--j/go-milter"

	"brightgid/internal/netlab"
)

// milterEnv has the test's program be a milter that does nothing, at a socket; with
// muteEnv one that asks not to be told of anything but the end of a message.
const (
	milterEnv = "GID_BENCH_MILTER"
	muteEnv   = "GID_BENCH_MUTE"
)

func nothingMilter(socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		return err
	}
	fmt.Println("ready")
	options := []milter.Option{milter.WithMilter(func() milter.Milter { return milter.NoOpMilter{} })}
	if os.Getenv(muteEnv) != "" {
		options = append(options, milter.WithProtocols(milter.OptNoConnect|milter.OptNoHelo|milter.OptNoMailFrom|milter.OptNoRcptTo|
			milter.OptNoBody|milter.OptNoHeaders|milter.OptNoEOH|milter.OptNoUnknown|milter.OptNoData))
	}
	return milter.NewServer(options...).Serve(l)
}

// BenchmarkPostfix prints how many messages a second Postfix accepts with gidmilter
// beside it, which asks the source's ISP by DNS, signs, and has its journal on disk
// before each acceptance, over what Postfix accepts without it in the same run; and what
// that adds to the time from MAIL to acceptance. The goal of the ratio is 0.9. Beside
// stand a milter that is told of everything and does nothing, which is what milters cost
// as such, and a mute one, which is told of nothing but the end of messages and is the least
// that any milter costs. All have all CPUs; mail is thrown away behind the queue.
func BenchmarkPostfix(b *testing.B) {
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	lab, err := netlab.New()
	must(err)
	b.Cleanup(func() {
		if err := lab.Close(); err != nil {
			b.Error(err)
		}
	})
	const mac = "02:00:00:00:00:07"
	isp, err := lab.NewISP(netlab.ISPOptions{Bin: bin, LogLevel: "info", Table: map[string]string{mac: "static:bench"}})
	must(err)
	must(isp.Zone())
	client, err := lab.Namespace("client")
	must(err)
	must(isp.Direct(client, mac))
	all := []string{"taskset", "-c", loadCPU + "," + serverCPU}
	const with, without, nothing, mute = "with", "without", "nothing", "mute"
	ways := []string{with, without, nothing, mute}
	relays := make(map[string]*netlab.MailRelay)
	for place, way := range ways {
		m, err := isp.MailRelay("relay"+way, place+1, netlab.MailRelayOptions{Without: way == without, Discard: true})
		must(err)
		m.Wrap = all
		relays[way] = m
	}
	must(isp.Serve(all...))
	c, err := client.NewClient("dhclient", "eth0")
	must(err)
	must(c.Start())
	prefix := netip.MustParsePrefix(netlab.DirectPrefix)
	var addr netip.Addr
	must(netlab.Until(30*time.Second, func() error {
		addrs, err := client.Addresses("eth0")
		for _, a := range addrs {
			if prefix.Contains(a) {
				addr = a
				return nil
			}
		}
		return fmt.Errorf("no address yet: %w", err)
	}))
	must(isp.Routes(client))
	_, err = isp.Unbound()
	must(err)
	must(relays[with].StartMilter())
	for way, more := range map[string]string{nothing: "", mute: "1"} {
		idle, err := relays[way].Host.Start(all[0], append(all[1:], "env", milterEnv+"="+relays[way].Socket(), muteEnv+"="+more, os.Args[0])...)
		must(err)
		must(idle.WaitLog("ready", 10*time.Second))
	}
	for _, m := range relays {
		must(m.StartPostfix())
	}
	for _, size := range []struct{ kib, messages int }{{4, 900}, {64, 450}} {
		b.Run(fmt.Sprintf("%dKiB", size.kib), func(b *testing.B) {
			const rounds, sessions = 3, 8
			rate, p99 := make(map[string][]float64), make(map[string][]float64)
			for b.Loop() {
				for round := range rounds {
					for i := range ways {
						way := ways[(round+i)%len(ways)]
						m := relays[way]
						// Postfix's own load generator tells the rate.
						began := time.Now()
						must(client.Do("smtp-source", "-s", fmt.Sprint(sessions), "-m", fmt.Sprint(size.messages), "-l", fmt.Sprint(size.kib<<10),
							"-f", "alice@example.org", "-t", "bob@example.net", "inet:["+m.Addr.String()+"]:25"))
						rate[way] = append(rate[way], float64(size.messages)/time.Since(began).Seconds())
						r, err := (&netlab.MailLoad{Host: client, From: addr, Server: netip.AddrPortFrom(m.Addr, 25), Sessions: sessions / 2, Messages: size.messages / 2, Size: size.kib << 10}).Run()
						must(err)
						p99[way] = append(p99[way], float64(r.Percentile(0.99).Microseconds())/1000)
					}
				}
			}
			for _, way := range ways {
				b.ReportMetric(median(rate[way]), way+"/s")
				b.ReportMetric(median(p99[way]), "p99-"+way+"-ms")
			}
			b.ReportMetric(median(rate[with])/median(rate[without]), "with/without")
			b.ReportMetric(median(rate[nothing])/median(rate[without]), "nothing/without")
			b.ReportMetric(median(rate[mute])/median(rate[without]), "mute/without")
			b.ReportMetric(median(p99[with])-median(p99[without]), "p99-added-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
