package lease

import (
	"context"
	"time"
)

// Pruner removes leases whose epochs' keys are erased, beside the traffic.
type Pruner struct {
	Store     Store // read beside other work
	Allocator *Allocator

	// Do runs what must not run beside other calls of the allocator.
	Do func(func())

	// Traffic counts messages. While it grows the Pruner rests RestFor times as long as it works.
	Traffic func() uint64

	Now  func() time.Time
	Rest func(context.Context, time.Duration) // returns after the time or when the context ends
}

const (
	// pruneAtOnce is how many leases are removed together, while messages wait.
	pruneAtOnce = 100

	// RestFor is how many times as long as it works a Pruner rests beside traffic.
	RestFor = 4
)

// Prune removes the leases of epochs before the oldest, and returns how many. When the context
// ends it returns early, without an error.
func (p *Pruner) Prune(ctx context.Context, oldest uint32) (removed int, err error) {
	var after []byte
	seen := p.Traffic()
	for ctx.Err() == nil {
		began := p.Now()
		old, next, err := p.Store.Old(oldest, after, pruneAtOnce)
		if err != nil {
			return removed, err
		}
		if len(old) > 0 {
			p.Do(func() { err = p.Allocator.Forget(old) })
			if err != nil {
				return removed, err
			}
		}
		removed += len(old)
		if after = next; after == nil {
			return removed, nil
		}
		worked := p.Now().Sub(began)
		if n := p.Traffic(); n != seen {
			seen = n
			p.Rest(ctx, RestFor*worked)
		}
	}
	return removed, nil
}
