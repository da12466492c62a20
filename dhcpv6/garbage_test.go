package dhcpv6

import (
	"testing"
	"time"

	"brightgid/lease"
)

// Who a known client is, and what it has, is found and told without making garbage: a collection of it
// would hold the clients up that come meanwhile.
func TestAKnownClientMakesNoGarbage(t *testing.T) {
	for name, c := range map[string]struct {
		threshold float64
		most      float64 // that may be allocated for a batch
	}{
		"its lease is young":   {0.25, 0},
		"its lease is written": {0, 6}, // the barrier and the sync
	} {
		t.Run(name, func(t *testing.T) {
			m := newManyLab(t, 1000)
			m.load()
			defer m.close()
			policy := testPolicy()
			policy.CacheThreshold = c.threshold
			for i := range m.h.cfg.Links {
				m.h.cfg.Links[i].Policy = &policy
			}
			renewals, msgs := m.renewals(batchSize), make(someMessages, batchSize)
			for i := range msgs {
				msgs[i] = renewals.at(i)
			}
			out := make([]byte, 0, 1024)
			var f lease.Foreseen
			batch := func() {
				m.batch(msgs, out, &f)
				if c.threshold == 0 {
					if err := m.store.Barrier().Wait(); err != nil {
						t.Error(err)
					}
				}
			}
			m.now = m.now.Add(time.Minute)
			batch()
			if n := testing.AllocsPerRun(500, batch); n > c.most {
				t.Errorf("%v allocations for a batch of %d renewals, want at most %v", n, batchSize, c.most)
			}
		})
	}
}
