package lease_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/pebblestore"
)

// Whatever clients do, an allocator with a cache, which forgets all the time or never, does as
// one without.
func TestACacheChangesNothing(t *testing.T) {
	for _, size := range []int{1, 4, 1000} {
		p := policy
		p.Preferred, p.Valid, p.MaxAge, p.PerSubscriber = 10*time.Minute, 20*time.Minute, 2*time.Hour, 6
		plain := newBench(t, p)
		store, err := pebblestore.Open(t.TempDir(), pebblestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		cache := lease.NewCache(store, size)
		for i := range byte(4) {
			if _, err := cache.Register(idcodec.LookupKey{i}, idcodec.NID{i}, noon); err != nil {
				t.Fatal(err)
			}
		}
		cached := lease.NewAllocator(cache, plain.keys, p)
		pool := poolOf("2001:db8:4000::/50", 56)
		pool.Policy = p
		rng := rand.New(rand.NewPCG(3, uint64(size)))
		at := noon
		var last []lease.Grant
		for step := range 3000 {
			at = at.Add(time.Duration(rng.IntN(120)) * time.Second)
			r := request(uint64(rng.IntN(4)), byte(rng.IntN(6)), uint32(rng.IntN(3)), prefixA, prefixB)
			if rng.IntN(2) == 0 {
				r = delegation(r.Subscriber, byte(rng.IntN(6)), uint32(rng.IntN(3)), pool)
			}
			do := func(a *lease.Allocator, what int) string {
				var g []lease.Grant
				var err error
				var had bool
				switch what {
				case 0:
					g, err = a.Offer(at, r)
				case 1, 2:
					g, err = a.Assign(at, r)
				case 3:
					g, err = a.Renew(at, r)
				case 4:
					had, err = a.Release(at, r, addrsOf(last))
				case 5:
					had, err = a.Decline(at, r, addrsOf(last))
				case 6:
					err = a.Register(at, r, netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", 1+r.Client.IAID)), time.Minute, 10*time.Minute)
				case 7:
					_, err = a.Rotate(at, r.Subscriber, nil)
				}
				if g != nil {
					last = append([]lease.Grant(nil), g...)
				}
				return fmt.Sprint(g, had, err)
			}
			what := rng.IntN(8)
			before := append([]lease.Grant(nil), last...)
			want := do(plain.Allocator, what)
			after := last
			last = before
			if got := do(cached, what); got != want {
				t.Fatalf("size %d, step %d, operation %d: with a cache %s, without %s", size, step, what, got, want)
			}
			last = after
			// A packet's memory is used again.
			for i := range r.Client.DUID {
				r.Client.DUID[i] = 0xee
			}
		}
	}
}

func addrsOf(g []lease.Grant) (out []netip.Addr) {
	for _, x := range g {
		out = append(out, x.Addr)
	}
	return out
}

// failing is a store that takes no update while it is broken.
type failing struct {
	lease.Store
	broken bool
}

var errBroken = errors.New("the disk is gone")

func (f *failing) Apply(u *lease.Update) error {
	if f.broken {
		return errBroken
	}
	return f.Store.Apply(u)
}

// What the store did not take is not in the cache either.
func TestACacheForgetsWhatWasNotStored(t *testing.T) {
	b := newBench(t, policy)
	f := &failing{Store: b.store}
	a := lease.NewAllocator(lease.NewCache(f, 100), b.keys, policy)
	r := request(1, 1, 1, prefixA)
	f.broken = true
	if _, err := a.Assign(noon, r); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	f.broken = false
	if _, err := a.Renew(noon, r); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("renewed: %v", err)
	}
	g, err := a.Assign(noon, r)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := b.store.Lease(g[0].Addr)
	if err != nil || stored.Subscriber != 1 || !bytes.Equal(stored.Client.DUID, r.Client.DUID) {
		t.Errorf("%+v, %v", stored, err)
	}
}
