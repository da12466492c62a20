//go:build fabric

package fabric

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/anchored"
	"brightgid/ledgeranchor/embedded"
	"brightgid/ledgeranchor/ledgertest"
)

// hops signs batches of hops, no two the same.
func hops(b *testing.B, batches, batch int, next *int) [][]*ledgeranchor.Signed {
	b.Helper()
	var all [][]*ledgeranchor.Signed
	for range batches {
		var rs []*ledgeranchor.Record
		for range batch {
			rs = append(rs, ledgertest.Hop(*next, ledgertest.Source(*next), cast.Relay.Certificate.NotBefore.Add(time.Duration(*next)*time.Millisecond)))
			*next++
		}
		all = append(all, ledgertest.Sign(b, cast.Relay, rs...))
	}
	return all
}

// BenchmarkAppend prints how many records a second are committed in transactions of 1,
// 100 and 1000, with a number of them in flight, and how long each takes; two of three
// organizations endorse. The reference is the rate with one record a transaction.
func BenchmarkAppend(b *testing.B) {
	l := open(b, "relays", channel(b))
	ledgertest.Introduce(b, l, cast.Relay)
	next := 0
	single := 0.0
	for _, x := range []struct{ batch, inFlight, batches int }{{1, 64, 512}, {100, 16, 160}, {1000, 8, 40}} {
		b.Run(fmt.Sprintf("records=%d", x.batch), func(b *testing.B) {
			var rates, took []float64
			for b.Loop() {
				work := make(chan []*ledgeranchor.Signed, x.batches)
				for _, s := range hops(b, x.batches, x.batch, &next) {
					work <- s
				}
				close(work)
				var mu sync.Mutex
				var all sync.WaitGroup
				start := time.Now()
				for range x.inFlight {
					all.Go(func() {
						for s := range work {
							begun := time.Now()
							if _, err := l.Append(context.Background(), s...); err != nil {
								b.Error(err)
								return
							}
							mu.Lock()
							took = append(took, float64(time.Since(begun).Microseconds())/1000)
							mu.Unlock()
						}
					})
				}
				all.Wait()
				rates = append(rates, float64(x.batches*x.batch)/time.Since(start).Seconds())
			}
			slices.Sort(rates)
			slices.Sort(took)
			rate := rates[len(rates)/2]
			if x.batch == 1 {
				single = rate
			}
			b.ReportMetric(rate, "records/s")
			b.ReportMetric(took[len(took)/2], "p50-ms")
			b.ReportMetric(took[len(took)*99/100], "p99-ms")
			if single > 0 {
				b.ReportMetric(rate/single, "records/single-records")
			}
		})
	}
}

// BenchmarkAnchored prints how many records a second a log takes whose heads are
// anchored on the channel meanwhile, and checks that the last is then proved by an
// anchored checkpoint. The goal is 20,000 a second. The reference is the same log
// without anchors.
func BenchmarkAnchored(b *testing.B) {
	const batch, writers, seconds = 500, 8, 5
	next := 0
	run := func(l ledgeranchor.Ledger) (rate float64, last ledgeranchor.Hash) {
		all := hops(b, 40_000*seconds/batch, batch, &next)
		work := make(chan []*ledgeranchor.Signed, len(all))
		for _, s := range all {
			work <- s
		}
		close(work)
		var done sync.WaitGroup
		start := time.Now()
		for range writers {
			done.Go(func() {
				for s := range work {
					if _, err := l.Append(context.Background(), s...); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		done.Wait()
		end := all[len(all)-1]
		return float64(len(all)*batch) / time.Since(start).Seconds(), end[len(end)-1].Name()
	}
	local := func() *embedded.Ledger {
		dir := b.TempDir()
		if err := embedded.Create(dir, "relay.example/gid-ledger", []*x509.Certificate{cast.Root}); err != nil {
			b.Fatal(err)
		}
		l, err := embedded.Open(b.Context(), dir, embedded.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		ledgertest.Introduce(b, l, cast.Authors()...)
		return l
	}
	for b.Loop() {
		alone, _ := run(local())
		shared := open(b, "relays", channel(b))
		l := anchored.New(local(), shared, anchored.Options{Author: cast.Log, Interval: time.Second})
		rate, last := run(l)
		start := time.Now()
		p, err := l.Prove(b.Context(), last)
		if err != nil {
			b.Fatal(err)
		}
		waited := time.Since(start)
		start = time.Now()
		if _, err := p.(*anchored.Proof).Verify(l.Verifier(), cast.Members(b), func(p ledgeranchor.Proof) (*ledgeranchor.Record, error) { return verifyFabric(b, p, cast) }); err != nil {
			b.Fatal(err)
		}
		verified := time.Since(start)
		anchors := 0
		for _, err := range shared.Find(b.Context(), ledgeranchor.Query{Kind: ledgeranchor.KindCheckpoint}) {
			if err != nil {
				b.Fatal(err)
			}
			anchors++
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(rate, "records/s")
		b.ReportMetric(rate/alone, "anchored/alone")
		b.ReportMetric(rate/20_000, "records/goal")
		b.ReportMetric(float64(anchors), "anchors")
		b.ReportMetric(float64(waited.Milliseconds()), "proof-ms")
		b.ReportMetric(float64(verified.Microseconds())/1000, "verify-ms")
	}
}
