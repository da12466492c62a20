//go:build e2e

package sqlstore

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"brightgid/internal/pglab"
	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/shared"
)

// BenchmarkGroupCommit renews leases on a PostgreSQL that syncs, so many in one commit, and
// prints how many times as many a second that is as one by one. It is what a server gains
// by committing what has come while the last commit was under way.
func BenchmarkGroupCommit(b *testing.B) {
	c, err := pglab.New()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	d, err := Open(b.Context(), Options{URL: pglab.URL(c), Create: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	const leases = 20000
	s, err := shared.New(b.Context(), d, shared.Options{Name: "one", Cache: 2 * leases, Keys: keyed(1), Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	all := make([]lease.Lease, leases)
	for i := range all {
		all[i] = leasetest.Lease(i, t0)
		raw := all[i].Addr.As16()
		binary.BigEndian.PutUint32(raw[12:], uint32(i))
		all[i].Addr = netip.AddrFrom16(raw)
	}
	write := func(n, units int) {
		for i := range units {
			l := &all[(n+i)%leases]
			l.ValidUntil = l.ValidUntil.Add(time.Second)
			if err := s.Apply(&lease.Update{Put: []lease.Lease{*l}}); err != nil {
				b.Fatal(err)
			}
			s.Mark()
		}
		barrier := s.Barrier()
		for {
			if err := s.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			if units, _ := s.Waiting(); units == 0 {
				break
			}
		}
		if err := barrier.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	for n := 0; n < leases; n += 1000 {
		write(n, 1000)
	}
	size, err := c.Query("SELECT pg_total_relation_size('gid_leases')")
	if err != nil {
		b.Fatal(err)
	}
	bytes, err := strconv.ParseFloat(size, 64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(bytes/leases, "bytes/lease")
	rates := make(map[int][]float64)
	groups := []int{1, 8, 64, 512, 4096}
	for b.Loop() {
		for range 3 {
			for _, g := range groups {
				n, began := 0, time.Now()
				for time.Since(began) < time.Second {
					write(n, g)
					n += g
				}
				rates[g] = append(rates[g], float64(n)/time.Since(began).Seconds())
			}
		}
	}
	median := func(g int) float64 {
		slices.Sort(rates[g])
		return rates[g][len(rates[g])/2]
	}
	b.ReportMetric(median(1), "1-at-a-time/s")
	for _, g := range groups[1:] {
		b.ReportMetric(median(g)/median(1), fmt.Sprintf("%d-in-one÷1", g))
	}
}
