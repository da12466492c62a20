//go:build e2e

package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// BenchmarkPostfix prints how many messages a second Postfix accepts with gidmilter
// beside it, which asks the source's ISP by DNS, signs, and has its journal on disk
// before each acceptance, over what Postfix accepts without it in the same run; and what
// that adds to the time from MAIL to acceptance. The goal of the ratio is 0.9. Both have
// all CPUs; mail is thrown away behind the queue.
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
	relays := make(map[bool]*netlab.MailRelay)
	for place, without := range []bool{false, true} {
		m, err := isp.MailRelay(fmt.Sprintf("relay%d", place+1), place+1, netlab.MailRelayOptions{Without: without, Discard: true})
		must(err)
		m.Wrap = all
		relays[!without] = m
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
	must(relays[true].StartMilter())
	for _, m := range relays {
		must(m.StartPostfix())
	}
	for _, size := range []struct{ kib, messages int }{{4, 1500}, {64, 600}} {
		b.Run(fmt.Sprintf("%dKiB", size.kib), func(b *testing.B) {
			const rounds, sessions = 5, 8
			rate, p99 := make(map[bool][]float64), make(map[bool][]float64)
			for b.Loop() {
				for round := range rounds {
					for _, with := range []bool{round%2 == 0, round%2 != 0} {
						m := relays[with]
						// Postfix's own load generator tells the rate.
						began := time.Now()
						must(client.Do("smtp-source", "-s", fmt.Sprint(sessions), "-m", fmt.Sprint(size.messages), "-l", fmt.Sprint(size.kib<<10),
							"-f", "alice@example.org", "-t", "bob@example.net", "inet:["+m.Addr.String()+"]:25"))
						rate[with] = append(rate[with], float64(size.messages)/time.Since(began).Seconds())
						r, err := (&netlab.MailLoad{Host: client, From: addr, Server: netip.AddrPortFrom(m.Addr, 25), Sessions: sessions / 2, Messages: size.messages / 2, Size: size.kib << 10}).Run()
						must(err)
						p99[with] = append(p99[with], float64(r.Percentile(0.99).Microseconds())/1000)
					}
				}
			}
			b.ReportMetric(median(rate[true]), "with/s")
			b.ReportMetric(median(rate[false]), "without/s")
			b.ReportMetric(median(rate[true])/median(rate[false]), "with/without")
			b.ReportMetric(median(p99[true]), "p99-with-ms")
			b.ReportMetric(median(p99[false]), "p99-without-ms")
			b.ReportMetric(median(p99[true])-median(p99[false]), "p99-added-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
