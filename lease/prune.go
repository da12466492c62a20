package lease

import (
	"context"
	"time"
)

// Pace has work that is done in steps leave most of the time to others while there is traffic.
type Pace struct {
	// Traffic counts messages. While it grows there is a rest after each step, RestFor times as long
	// as the step. Nil is for who cannot know: there always is.
	Traffic func() uint64

	Now  func() time.Time
	Rest func(context.Context, time.Duration) // returns after the time or when the context ends

	seen  uint64
	begun bool
}

// RestFor is how many times as long as a step takes there is a rest after it.
const RestFor = 4

// Step does a step of the work and rests, unless it fails.
func (p *Pace) Step(ctx context.Context, step func() error) error {
	if p.Traffic != nil && !p.begun {
		p.begun, p.seen = true, p.Traffic()
	}
	began := p.Now()
	if err := step(); err != nil {
		return err
	}
	worked := p.Now().Sub(began)
	if p.Traffic != nil {
		n := p.Traffic()
		if n == p.seen {
			return nil
		}
		p.seen = n
	}
	p.Rest(ctx, RestFor*worked)
	return nil
}

// Pruner removes leases whose epochs' keys are erased, beside the traffic.
type Pruner struct {
	Store     Store // read beside other work
	Allocator *Allocator
	Pace      *Pace

	// Do runs what must not run beside other calls of the allocator.
	Do func(func())
}

// pruneAtOnce is how many leases are removed together, while messages wait.
const pruneAtOnce = 100

// Prune removes the leases of epochs before the oldest, and returns how many. When the context
// ends it returns early, without an error.
func (p *Pruner) Prune(ctx context.Context, oldest uint32) (removed int, err error) {
	var next []byte
	for more := true; more && ctx.Err() == nil; more = next != nil {
		err := p.Pace.Step(ctx, func() error {
			old, after, err := p.Store.Old(oldest, next, pruneAtOnce)
			if err != nil {
				return err
			}
			if len(old) > 0 {
				p.Do(func() { err = p.Allocator.Forget(old) })
			}
			if err == nil {
				removed += len(old)
			}
			next = after
			return err
		})
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}
