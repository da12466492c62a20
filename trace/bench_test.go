package trace

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cloudflare/circl/group"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/pebblestore"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/embedded"
)

// onLedger puts a court on an embedded ledger, with the real clock.
func onLedger(b *testing.B) *court {
	b.Helper()
	c := newCourt(b)
	dir := b.TempDir()
	if err := embedded.Create(dir, "bench.example/ledger", c.roots); err != nil {
		b.Fatal(err)
	}
	l, err := embedded.Open(b.Context(), dir, embedded.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	c.onLedger = l
	c.rng.r = rand.Reader
	c.resolver.Party = *c.party(c.isp)
	return c
}

// From a warrant that stands on the ledger to the signed report: the ISP's answer,
// three trustees' approvals and the recovery, each step's record durable before the
// next. The reference is the ledger alone: as many records, one after the other, and as
// many proofs.
func BenchmarkWarrantToReport(b *testing.B) {
	c := onLedger(b)
	addr := c.lease(1, noon, time.Hour, true)
	var warrants []string
	for range b.N {
		warrants = append(warrants, c.submit(c.warrant(at(addr, noon))))
	}
	b.ResetTimer()
	for _, w := range warrants {
		d, _ := c.resolve(w)
		if r, _ := c.report(d, 0, 1, 2); r.Findings[0].Persons[0].EID != "radius:bob" {
			b.Fatal("somebody else")
		}
	}
	b.StopTimer()
	took := b.Elapsed() / time.Duration(b.N)

	began := time.Now()
	const rounds = 5
	for i := range rounds {
		var names []ledgeranchor.Hash
		warrant := documentHash(fmt.Sprint("reference", i))
		for k := range 5 {
			s, err := c.party(c.isp).record(context.Background(), &ledgeranchor.Record{Kind: ledgeranchor.KindResolution, Warrant: warrant, Refs: []ledgeranchor.Hash{{1}}, Body: []byte{byte(k)}})
			if err != nil {
				b.Fatal(err)
			}
			names = append(names, s[0].Name)
		}
		for _, n := range names {
			if _, err := c.onLedger.Prove(context.Background(), n); err != nil {
				b.Fatal(err)
			}
		}
	}
	alone := time.Since(began) / rounds
	b.ReportMetric(took.Seconds()*1e3, "ms/trace")
	b.ReportMetric(took.Seconds(), "of-1s")
	b.ReportMetric(float64(took)/float64(alone), "trace÷ledger")
}

// Ten thousand address-times of as many subscribers in one warrant: the ISP's answer,
// an approval of each of three trustees, and the recovery. The reference is one scalar
// multiplication in ristretto255 by circl.
func BenchmarkTenThousandAddressTimes(b *testing.B) {
	c := onLedger(b)
	c.registry.nids = nil
	for i := range MaxTargets {
		c.subscribe(fmt.Sprintf("radius:subscriber-%d", i))
	}
	store, err := pebblestore.Open(b.TempDir(), pebblestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	var targets []Target
	for _, a := range fill(b, c, store, MaxTargets) {
		targets = append(targets, at(a, noon))
	}
	c.resolver.Registry = store
	e, s := group.Ristretto255.Generator(), group.Ristretto255.RandomNonZeroScalar(rand.Reader)
	began := time.Now()
	const muls = 2000
	for range muls {
		e.Mul(e, s)
	}
	mul := time.Since(began) / muls
	var total time.Duration
	for b.Loop() {
		b.StopTimer()
		w := c.submit(c.warrant(targets...))
		b.StartTimer()
		began := time.Now()
		d, _ := c.resolve(w)
		r, text := c.report(d, 0, 1, 2)
		total += time.Since(began)
		if len(r.Findings) != MaxTargets || len(text) == 0 {
			b.Fatal("something is missing")
		}
	}
	took := total / time.Duration(b.N)
	b.ReportMetric(took.Seconds(), "s/10000")
	b.ReportMetric(took.Seconds()/60, "of-60s")
	b.ReportMetric(float64(took)/float64(mul)/MaxTargets, "multiplications/NID")
}

// The ISP's answer to a warrant for one address, with few and with many leases in the
// database; and the part of it that looks into the database.
func BenchmarkResolution(b *testing.B) {
	var few time.Duration
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := onLedger(b)
			dir := b.TempDir()
			store, err := pebblestore.Open(dir, pebblestore.Options{})
			if err != nil {
				b.Fatal(err)
			}
			addrs := fill(b, c, store, n)
			// Opened again, so that in both cases the leases come from files.
			if err := store.Close(); err != nil {
				b.Fatal(err)
			}
			if store, err = pebblestore.Open(dir, pebblestore.Options{}); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			c.resolver.Registry = store
			one := func(i int) netip.Addr { return addrs[i*7919%n] }
			var warrants []string
			for i := range b.N {
				warrants = append(warrants, c.submit(c.warrant(at(one(i), noon))))
			}
			b.ResetTimer()
			for _, w := range warrants {
				if _, r := c.resolve(w); r.Answers[0].Candidates[0].Found != FoundLease {
					b.Fatalf("%+v", r)
				}
			}
			b.StopTimer()
			each := b.Elapsed() / time.Duration(b.N)
			if n == 10_000 {
				few = each // of the last round, the longest
			}
			const lookups = 20_000
			began := time.Now()
			for i := range lookups {
				if a, err := c.resolver.answerAddress(at(one(i), noon), c.keys.Oldest()); err != nil || len(a.Candidates) != 1 {
					b.Fatalf("%+v, %v", a, err)
				}
			}
			b.ReportMetric(each.Seconds()*1e3, "ms/warrant")
			b.ReportMetric(float64(each)/float64(few), "÷at-10000")
			b.ReportMetric(float64(time.Since(began).Microseconds())/lookups, "µs/lookup")
		})
	}
}

// fill leases an address to each of n subscribers, who have the court's NIDs in turn.
func fill(b *testing.B, c *court, store *pebblestore.Store, n int) []netip.Addr {
	b.Helper()
	var addrs []netip.Addr
	var u lease.Update
	for i := range n {
		a := c.lease(uint64(i), noon, time.Hour, false)
		e, err := c.keys.EpochAt(noon)
		if err != nil {
			b.Fatal(err)
		}
		var key idcodec.LookupKey
		copy(key[:], fmt.Sprint(i))
		if _, err := store.Register(key, c.registry.nids[i%len(c.registry.nids)], noon); err != nil {
			b.Fatal(err)
		}
		u.Put = append(u.Put, lease.Lease{Addr: a, Subscriber: uint64(i), Epoch: e, State: lease.Active, Client: lease.Client{DUID: []byte{0, 3}, IAID: uint32(i)},
			Born: noon, Start: noon, Updated: noon, PreferredUntil: noon.Add(time.Hour), ValidUntil: noon.Add(time.Hour)})
		addrs = append(addrs, a)
		if len(u.Put) == 1000 || i == n-1 {
			if err := store.Apply(&u); err != nil {
				b.Fatal(err)
			}
			u.Reset()
		}
	}
	if err := store.Barrier().Wait(); err != nil {
		b.Fatal(err)
	}
	return addrs
}
