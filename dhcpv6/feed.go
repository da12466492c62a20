package dhcpv6

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"brightgid/lease"
)

// feedQueue is how many changes wait for a follower that reads slowly. One that
// falls further behind is told so and begins anew.
const feedQueue = 1 << 14

// Feed tells followers of leases that have changed, when the change is durable.
type Feed struct {
	mu        sync.Mutex
	followers map[*follower]struct{}
	n         atomic.Int32 // followers, for who should not wait for the lock
}

// Change is what has become of a lease.
type Change struct {
	lease.Lease
	Theirs bool // another server has changed it, with which this one shares its database
}

// NewFeed returns a feed without followers.
func NewFeed() *Feed { return &Feed{followers: make(map[*follower]struct{})} }

// Lose tells all followers that changes were lost, so that they begin anew.
func (f *Feed) Lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.followers {
		close(w.behind)
		delete(f.followers, w)
	}
	f.n.Store(0)
}

// follower is one who listens to a feed.
type follower struct {
	changes chan Change
	behind  chan struct{} // closed when changes were lost
}

func (f *Feed) follow() *follower {
	w := &follower{changes: make(chan Change, feedQueue), behind: make(chan struct{})}
	f.mu.Lock()
	f.followers[w] = struct{}{}
	f.n.Store(int32(len(f.followers)))
	f.mu.Unlock()
	return w
}

func (f *Feed) unfollow(w *follower) {
	f.mu.Lock()
	delete(f.followers, w)
	f.n.Store(int32(len(f.followers)))
	f.mu.Unlock()
}

// ErrBehind says that a follower reads more slowly than leases change.
var ErrBehind = errors.New("more changes wait than are kept; begin anew")

// Follow calls begin when it follows, and then f with each change, until the context ends
// or one of them returns an error, which it returns.
func (f *Feed) Follow(ctx context.Context, begin func() error, change func(Change) error) error {
	w := f.follow()
	defer f.unfollow(w)
	if err := begin(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.behind:
			return ErrBehind
		case c := <-w.changes:
			if err := change(c); err != nil {
				return err
			}
		}
	}
}

// Following reports whether anybody follows, so that nobody need collect changes
// for none.
func (f *Feed) Following() bool { return f.n.Load() > 0 }

// Publish hands changes to all followers; theirs says that another server has made them. It never
// waits for a follower.
func (f *Feed) Publish(changes []lease.Lease, theirs bool) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.followers {
		for _, l := range changes {
			select {
			case w.changes <- Change{l, theirs}:
				continue
			default:
			}
			close(w.behind)
			delete(f.followers, w)
			f.n.Store(int32(len(f.followers)))
			break
		}
	}
}

// keep copies a lease out of the packet that its strings point into.
func keep(l lease.Lease) lease.Lease {
	l.Client.DUID = bytes.Clone(l.Client.DUID)
	l.Anchor.LinkLayer = bytes.Clone(l.Anchor.LinkLayer)
	l.Anchor.RelayID = bytes.Clone(l.Anchor.RelayID)
	l.Anchor.RemoteID = bytes.Clone(l.Anchor.RemoteID)
	return l
}
