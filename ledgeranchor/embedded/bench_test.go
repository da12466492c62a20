package embedded

import (
	"crypto/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/ledgertest"
)

// BenchmarkAppend prints how many records a second are appended and integrated, in
// batches of 500 that eight writers have signed, as a ratio to tessera alone with
// the same entries and batches in the same run. What the ledger does beside is to
// check signatures and roles, to look for each record and to index it. The goal is
// 0.8.
func BenchmarkAppend(b *testing.B) {
	const batch, batches, writers = 500, 80, 8
	c := ledgertest.NewCast(b)
	var all [][]*ledgeranchor.Signed
	now := time.Now()
	next := 0
	sign := func() {
		all = nil
		for range batches {
			var rs []*ledgeranchor.Record
			for range batch {
				rs = append(rs, ledgertest.Hop(next, ledgertest.Source(next), now.Add(time.Duration(next)*time.Microsecond)))
				next++
			}
			all = append(all, ledgertest.Sign(b, c.Relay, rs...))
		}
	}
	run := func(f func([]*ledgeranchor.Signed)) float64 {
		work := make(chan []*ledgeranchor.Signed, batches)
		for _, s := range all {
			work <- s
		}
		close(work)
		start := time.Now()
		var done sync.WaitGroup
		for range writers {
			done.Go(func() {
				for s := range work {
					f(s)
				}
			})
		}
		done.Wait()
		return batch * batches / time.Since(start).Seconds()
	}
	dir := create(b, c.Root)
	l := open(b, dir)
	ledgertest.Introduce(b, l, c.Relay)
	bare := bareTessera(b)
	var ours, theirs, proofs []float64
	for b.Loop() {
		sign()
		theirs = append(theirs, run(func(s []*ledgeranchor.Signed) {
			futures := make([]tessera.IndexFuture, len(s))
			for i := range s {
				e, err := s[i].Encode()
				if err != nil {
					b.Error(err)
				}
				futures[i] = bare.Add(b.Context(), tessera.NewEntry(e))
			}
			for _, f := range futures {
				if _, err := f(); err != nil {
					b.Error(err)
				}
			}
		}))
		ours = append(ours, run(func(s []*ledgeranchor.Signed) {
			if _, err := l.Append(b.Context(), s...); err != nil {
				b.Error(err)
			}
		}))
		for range 20 {
			s := ledgertest.Sign(b, c.Relay, ledgertest.Hop(next, ledgertest.Source(next), now))
			next++
			start := time.Now()
			if _, err := l.Append(b.Context(), s...); err != nil {
				b.Fatal(err)
			}
			if _, err := l.Prove(b.Context(), s[0].Name()); err != nil {
				b.Fatal(err)
			}
			proofs = append(proofs, float64(time.Since(start).Microseconds())/1000)
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	slices.Sort(proofs)
	o, t := ours[len(ours)/2], theirs[len(theirs)/2]
	b.ReportMetric(o, "records/s")
	b.ReportMetric(t, "tessera-records/s")
	b.ReportMetric(o/t, "ledger/tessera")
	b.ReportMetric(proofs[len(proofs)/2], "proof-p50-ms")
	b.ReportMetric(proofs[len(proofs)*99/100], "proof-p99-ms")
}

func bareTessera(b *testing.B) *tessera.Appender {
	b.Helper()
	skey, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		b.Fatal(err)
	}
	driver, err := posix.New(b.Context(), posix.Config{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	a, stop, _, err := tessera.NewAppender(b.Context(), driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithBatching(batchSize, batchAge).WithCheckpointInterval(checkpointInterval))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := stop(b.Context()); err != nil && b.Context().Err() == nil {
			b.Error(err)
		}
	})
	return a
}

// BenchmarkVerify prints how long it takes to check a proof: the log's signature,
// the inclusion, and the author's signature.
func BenchmarkVerify(b *testing.B) {
	c := ledgertest.NewCast(b)
	l := open(b, create(b, c.Root))
	ledgertest.Introduce(b, l, c.Relay)
	var rs []*ledgeranchor.Record
	for n := range 4000 {
		rs = append(rs, ledgertest.Hop(n, ledgertest.Source(n), time.Now()))
	}
	if _, err := l.Append(b.Context(), ledgertest.Sign(b, c.Relay, rs...)...); err != nil {
		b.Fatal(err)
	}
	p, err := l.Reader.Prove(b.Context(), 1234)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		members := c.Members(b) // which remembers nothing
		if _, err := p.Verify(l.verifier, members); err != nil {
			b.Fatal(err)
		}
	}
}
