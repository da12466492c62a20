package lease_test

import (
	"context"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
)

// All that is old goes and nothing else, and beside traffic the pruner rests as long as it says,
// of which it asks after each step.
func TestPrune(t *testing.T) {
	for name, c := range map[string]struct {
		traffic func(calls uint64) uint64
		rests   bool
	}{
		"beside traffic": {func(calls uint64) uint64 { return calls }, true},
		"alone":          {func(uint64) uint64 { return 7 }, false},
		"nobody knows":   {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy
			p.PerSubscriber = 1024
			b := newBench(t, p)
			const old, young = 250, 30
			for i := range uint32(old) {
				b.one(noon, request(1, 1, i, prefixA))
			}
			later := noon.Add(20 * idcodec.DefaultEpochLength)
			for i := range uint32(young) {
				b.one(later, request(2, 2, i, prefixA))
			}
			epoch, err := b.keys.EpochAt(later)
			if err != nil {
				t.Fatal(err)
			}
			// Each look at the clock is a second after the one before, so that a step takes one.
			now, calls, steps := later, uint64(0), 0
			var rested time.Duration
			pruner := &lease.Pruner{
				Store: b.store, Allocator: b.Allocator,
				Do: func(f func()) { steps++; f() },
				Pace: &lease.Pace{
					Now:  func() time.Time { now = now.Add(time.Second); return now },
					Rest: func(_ context.Context, d time.Duration) { rested += d },
				},
			}
			if c.traffic != nil {
				pruner.Pace.Traffic = func() uint64 { calls++; return c.traffic(calls) }
			}
			removed, err := pruner.Prune(context.Background(), epoch)
			if err != nil || removed != old || steps != 3 {
				t.Errorf("%d removed in %d steps, %v", removed, steps, err)
			}
			if c.rests != (rested > 0) || c.rests && rested < lease.RestFor*2*time.Second {
				t.Errorf("rested %v", rested)
			}
			left, next, err := b.store.Old(epoch+1, nil, 2*young)
			if err != nil || next != nil || len(left) != young {
				t.Errorf("%d are left, %v", len(left), err)
			}
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			if removed, err := pruner.Prune(ended, epoch+1); removed != 0 || err != nil {
				t.Errorf("after the end: %d, %v", removed, err)
			}
		})
	}
}
