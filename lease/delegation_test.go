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
)

// poolOf returns a pool with the tests' policy.
func poolOf(prefix string, bits uint8) lease.Pool {
	return lease.Pool{Pool: idcodec.Pool{Prefix: netip.MustParsePrefix(prefix), Bits: bits}, Policy: policy}
}

// delegation asks for a prefix.
func delegation(subscriber uint64, duid byte, iaid uint32, pools ...lease.Pool) *lease.Request {
	r := request(subscriber, duid, iaid, prefixA)
	r.Client.PD, r.Pools = true, pools
	return r
}

func prefixOf(g lease.Grant) netip.Prefix { return netip.PrefixFrom(g.Addr, int(g.Bits)) }

func (b *bench) onePrefix(at time.Time, r *lease.Request) netip.Prefix {
	b.t.Helper()
	g := b.assign(at, r)
	if len(g) != 1 {
		b.t.Fatalf("%d grants, want 1", len(g))
	}
	return prefixOf(g[0])
}

// Where clocks may differ, a prefix that has run out is another client's only when it has by all of them, and its
// own client's at once; one that was released is anybody's at once.
func TestAPrefixWaitsForAllClocks(t *testing.T) {
	const apart = 10 * time.Second
	pool := poolOf("2001:db8:4000::/54", 56)
	for _, released := range []bool{false, true} {
		b := newBench(t, policy)
		b.Apart(apart)
		var had []netip.Prefix
		for i := range byte(4) {
			had = append(had, b.onePrefix(noon, delegation(uint64(i), i, 1, pool)))
		}
		end := noon.Add(policy.Valid)
		if released {
			end = noon.Add(time.Minute)
			for i := range byte(4) {
				if ok, err := b.Release(end, delegation(uint64(i), i, 1, pool), []netip.Addr{had[i].Addr()}); err != nil || !ok {
					t.Fatalf("%t, %v", ok, err)
				}
			}
		}
		for _, c := range []struct {
			after time.Duration
			free  bool
		}{{-time.Second, false}, {0, released}, {apart - time.Second, released}, {apart, true}} {
			if released && c.after < 0 {
				continue
			}
			g, err := b.Offer(end.Add(c.after), delegation(9, 9, 1, pool))
			if (err == nil && len(g) == 1) != c.free {
				t.Errorf("%s after the end, released: %t: another client is offered %v, %v; want one: %t", c.after, released, g, err, c.free)
			}
		}
		if p := b.onePrefix(end.Add(time.Second), delegation(0, 0, 1, pool)); p != had[0] {
			t.Errorf("released: %t: its own client gets %s, had %s", released, p, had[0])
		}
	}
}

func TestAPrefixIsItsClientsAlone(t *testing.T) {
	b := newBench(t, policy)
	pool := poolOf("2001:db8:4000::/40", 56)
	seen := make(map[netip.Prefix]string)
	for sub := range uint64(4) {
		for duid := range byte(2) {
			for iaid := range uint32(2) {
				who := fmt.Sprint(sub, duid, iaid)
				r := delegation(sub, duid+byte(10*sub), iaid, pool)
				offered, err := b.Offer(noon, r)
				if err != nil {
					t.Fatal(err)
				}
				offer := prefixOf(offered[0])
				p := b.onePrefix(noon, r)
				if p != offer || !pool.Has(p) {
					t.Errorf("%s: offered %s, got %s of %s", who, offer, p, pool.Prefix)
				}
				if other, ok := seen[p]; ok {
					t.Errorf("%s and %s both have %s", other, who, p)
				}
				seen[p] = who
				if again := b.onePrefix(noon.Add(time.Minute), r); again != p {
					t.Errorf("%s: asked again %s, before %s", who, again, p)
				}
				// The IA_NA of the same number is another association.
				if a := b.one(noon, request(sub, duid+byte(10*sub), iaid, prefixA)); pool.Prefix.Contains(a) {
					t.Errorf("%s: the address %s is of the pool", who, a)
				}
			}
		}
	}
}

// Each prefix of a small pool is had before it is full, and again when one is given back.
func TestAPoolIsUsedToTheLast(t *testing.T) {
	p := policy
	p.PerSubscriber = 1000
	b := newBench(t, p)
	pool := poolOf("2001:db8:4000::/48", 56)
	pool.Policy = p
	seen := make(map[netip.Prefix]bool)
	for i := range uint32(256) {
		got := b.onePrefix(noon.Add(time.Duration(i)*time.Second), delegation(uint64(i%4), byte(i%4), i, pool))
		if seen[got] {
			t.Fatalf("%s was delegated twice", got)
		}
		seen[got] = true
	}
	at := noon.Add(5 * time.Minute)
	stranger := delegation(1, 99, 1, pool)
	if _, err := b.Assign(at, stranger); !errors.Is(err, lease.ErrNoSlot) {
		t.Fatalf("of a full pool: %v", err)
	}
	r := delegation(3, 3, 7, pool)
	given := b.onePrefix(at, r)
	if ok, err := b.Release(at, r, []netip.Addr{given.Addr()}); err != nil || !ok {
		t.Fatal(ok, err)
	}
	at = at.Add(time.Minute)
	if got := b.onePrefix(at, stranger); got != given {
		t.Errorf("%s, want the one that was given back, %s", got, given)
	}
	if h, err := b.store.History(nil, given.Addr()); err != nil || len(h) != 2 || h[0].Subscriber != 1 || h[1].Subscriber != 3 || h[0].Bits != 56 {
		t.Errorf("its history: %v, %v", h, err)
	}
	// The one who gave it back finds it taken.
	if _, err := b.Renew(at, r); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("renewed by who gave it back: %v", err)
	}
}

func TestThePoolThatFitsTheWishIsTaken(t *testing.T) {
	b := newBench(t, policy)
	pools := []lease.Pool{poolOf("2001:db8:4000::/40", 56), poolOf("2001:db8:8000::/40", 60), poolOf("2001:db8:c000::/40", 64)}
	for i, c := range []struct{ wish, want uint8 }{{0, 56}, {56, 56}, {60, 60}, {64, 64}, {62, 60}, {48, 56}, {128, 64}} {
		r := delegation(0, byte(i), 1, pools...)
		r.Length = c.wish
		if p := b.onePrefix(noon, r); p.Bits() != int(c.want) {
			t.Errorf("who would like a /%d got %s", c.wish, p)
		}
		// What a client has, it keeps, whatever it would like later.
		r.Length = 64
		if p := b.onePrefix(noon, r); p.Bits() != int(c.want) {
			t.Errorf("who had a /%d and would like a /64 got %s", c.want, p)
		}
	}
	if _, err := b.Assign(noon, delegation(0, 77, 1)); !errors.Is(err, lease.ErrNoSlot) {
		t.Errorf("without a pool: %v", err)
	}
}

// Addresses and prefixes are counted apart, each by the policy of its place.
func TestPrefixesAreCountedApart(t *testing.T) {
	b := newBench(t, policy)
	pool := poolOf("2001:db8:4000::/40", 56)
	pool.Policy.PerSubscriber = 2
	for i := range uint32(policy.PerSubscriber) {
		b.one(noon, request(1, 1, i, prefixA))
	}
	b.onePrefix(noon, delegation(1, 1, 1, pool))
	b.onePrefix(noon, delegation(1, 1, 2, pool))
	if _, err := b.Assign(noon, delegation(1, 1, 3, pool)); !errors.Is(err, lease.ErrTooMany) {
		t.Errorf("a third prefix: %v", err)
	}
	if _, err := b.Assign(noon, request(1, 1, 100, prefixA)); !errors.Is(err, lease.ErrTooMany) {
		t.Errorf("one address too many: %v", err)
	}
}

// A pool's own policy says when a prefix is replaced: the old one runs out beside it.
func TestAPrefixAgesByItsPoolsPolicy(t *testing.T) {
	b := newBench(t, policy)
	pool := poolOf("2001:db8:4000::/40", 56)
	pool.Policy.MaxAge, pool.Policy.Preferred, pool.Policy.Valid = 6*time.Hour, time.Hour, 3*time.Hour
	r := delegation(1, 1, 1, pool)
	old := b.onePrefix(noon, r)
	at := noon
	for range 5 {
		at = at.Add(time.Hour)
		if g := b.renew(at, r); len(g) != 1 || prefixOf(g[0]) != old {
			t.Fatalf("after %s: %v", at.Sub(noon), g)
		}
	}
	at = at.Add(59 * time.Minute)
	g := b.renew(at, r)
	if len(g) != 2 || prefixOf(g[0]) == old || prefixOf(g[1]) != old || g[1].Preferred != 0 || g[1].Valid <= 0 || g[0].Bits != 56 || g[1].Bits != 56 {
		t.Fatalf("after six hours: %v, want another and what is left of %s", g, old)
	}
	// On demand, by the pool's policy too.
	fresh := prefixOf(g[0])
	if ls, err := b.Rotate(at, 1, func(*lease.Lease) lease.Policy { return pool.Policy }); err != nil || len(ls) != 2 {
		t.Fatal(ls, err)
	}
	if g := b.renew(at.Add(time.Second), r); prefixOf(g[0]) == fresh || prefixOf(g[0]) == old {
		t.Errorf("rotated and still %v", g)
	}
}

// Where a pool is divided otherwise than before, what is delegated of it stays its
// holder's.
func TestAPoolDividedOtherwise(t *testing.T) {
	p := policy
	p.PerSubscriber = 1 << 12
	for _, c := range []struct{ before, after uint8 }{{56, 60}, {60, 56}, {56, 64}, {64, 52}} {
		b := newBench(t, p)
		before, after := poolOf("2001:db8:4000::/48", c.before), poolOf("2001:db8:4000::/48", c.after)
		before.Policy, after.Policy = p, p
		var had []netip.Prefix
		for i := range uint32(40) {
			had = append(had, b.onePrefix(noon, delegation(0, 0, i, before)))
		}
		got := 0
		for i := range uint32(200) {
			g, err := b.Assign(noon.Add(time.Duration(i)*10*time.Second), delegation(1, 1, i, after))
			if errors.Is(err, lease.ErrNoSlot) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got++
			for _, h := range had {
				if q := prefixOf(g[0]); q.Overlaps(h) {
					t.Fatalf("/%d after /%d: %s shares addresses with %s", c.after, c.before, q, h)
				}
			}
		}
		if c.after != 52 && got == 0 {
			t.Errorf("/%d after /%d: nothing was delegated any more", c.after, c.before)
		}
	}
}

func TestCoveringFindsTheDelegationOfAnAddress(t *testing.T) {
	b := newBench(t, policy)
	r56, r64 := delegation(1, 1, 1, poolOf("2001:db8:4000::/40", 56)), delegation(2, 2, 1, poolOf("2001:db8:8000::/40", 64))
	p56, p64 := b.onePrefix(noon, r56), b.onePrefix(noon, r64)
	addr := b.one(noon, request(3, 3, 1, prefixA))
	inside := func(p netip.Prefix, last byte) netip.Addr {
		raw := p.Addr().As16()
		raw[7], raw[15] = raw[7]|last&(1<<(64-p.Bits())-1), last
		return netip.AddrFrom16(raw)
	}
	for _, c := range []struct {
		at   netip.Addr
		want uint64
	}{{inside(p56, 0xff), 1}, {inside(p56, 1), 1}, {p56.Addr(), 1}, {inside(p64, 0xff), 2}, {addr, 3}} {
		l, err := lease.Covering(b.store, c.at, noon)
		if err != nil || l.Subscriber != c.want || !l.Prefix().Contains(c.at) {
			t.Errorf("%s: %v, %v; want subscriber %d", c.at, l, err, c.want)
		}
	}
	next := netip.MustParseAddr("2001:db8:4000::")
	if p56.Contains(next) {
		next = netip.MustParseAddr("2001:db8:40ff:ff00::")
	}
	if l, err := lease.Covering(b.store, next, noon); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("an address of nobody's: %v, %v", l, err)
	}
}

// Whatever many clients do, in whatever order, no two hold prefixes that share addresses.
func TestPrefixesNeverOverlap(t *testing.T) {
	p := policy
	p.PerSubscriber, p.Preferred, p.Valid, p.MaxAge = 64, 10*time.Minute, 20*time.Minute, 2*time.Hour
	b := newBench(t, p)
	pools := []lease.Pool{poolOf("2001:db8:4000::/48", 52), poolOf("2001:db8:4000::/48", 56)}
	for i := range pools {
		pools[i].Policy = p
	}
	rng := rand.New(rand.NewPCG(8, 9))
	type key struct {
		sub  uint64
		iaid uint32
	}
	held := make(map[key]map[netip.Prefix]time.Time)
	at := noon
	division := 0
	for step := range 4000 {
		at = at.Add(time.Duration(rng.IntN(60)) * time.Second)
		if step%500 == 499 {
			division ^= 1
		}
		k := key{uint64(rng.IntN(4)), uint32(rng.IntN(6))}
		r := delegation(k.sub, byte(k.sub), k.iaid, pools[division])
		var grants []lease.Grant
		var err error
		switch rng.IntN(4) {
		case 0, 1:
			grants, err = b.Assign(at, r)
		case 2:
			grants, err = b.Renew(at, r)
		case 3:
			for q := range held[k] {
				if _, err := b.Release(at, r, []netip.Addr{q.Addr()}); err != nil {
					t.Fatal(err)
				}
				delete(held[k], q)
			}
		}
		if err != nil && !errors.Is(err, lease.ErrNotFound) && !errors.Is(err, lease.ErrNoSlot) && !errors.Is(err, lease.ErrTooFast) {
			t.Fatal(err)
		}
		for _, g := range grants {
			q := prefixOf(g)
			for other, all := range held {
				for o, until := range all {
					if other != k && o.Overlaps(q) && at.Before(until) {
						t.Fatalf("step %d: %v has %s until %s, and %v got %s", step, other, o, until, k, q)
					}
				}
			}
			if held[k] == nil {
				held[k] = make(map[netip.Prefix]time.Time)
			}
			held[k][q] = at.Truncate(time.Second).Add(g.Valid)
		}
	}
}

func TestClientIs(t *testing.T) {
	a := lease.Client{DUID: []byte{0, 3, 1}, IAID: 1}
	b := a
	b.DUID = bytes.Clone(a.DUID)
	if !a.Is(b) {
		t.Error("it is not itself")
	}
	b.PD = true
	if a.Is(b) {
		t.Error("an IA_NA is an IA_PD")
	}
}

// A fixed prefix is its holder's as long as it is renewed, in one interval for each epoch.
func TestAFixedPrefixDoesNotAge(t *testing.T) {
	b := newBench(t, policy)
	fixed := netip.MustParsePrefix("2001:db8:ee00::/48")
	r := delegation(1, 1, 1)
	r.Fixed = fixed
	if p := b.onePrefix(noon, r); p != fixed {
		t.Fatalf("%s", p)
	}
	other := delegation(2, 2, 1)
	other.Fixed = fixed
	if _, err := b.Assign(noon, other); !errors.Is(err, lease.ErrNoSlot) {
		t.Errorf("given to two: %v", err)
	}
	wider := delegation(2, 2, 2)
	wider.Fixed = netip.MustParsePrefix("2001:db8:ee00::/40")
	if _, err := b.Assign(noon, wider); !errors.Is(err, lease.ErrNoSlot) {
		t.Errorf("one around it was given: %v", err)
	}
	at := noon
	for range 24 * 5 {
		at = at.Add(time.Hour)
		if g := b.renew(at, r); len(g) != 1 || prefixOf(g[0]) != fixed || g[0].Preferred != policy.Preferred || g[0].Valid != policy.Valid {
			t.Fatalf("after %s: %v", at.Sub(noon), g)
		}
	}
	h, err := b.store.History(nil, fixed.Addr())
	if err != nil || len(h) != 6 {
		t.Fatalf("%d intervals in five days, %v", len(h), err)
	}
	for i := range h[1:] {
		if !h[i+1].ValidUntil.Equal(h[i].Start) || h[i+1].Epoch >= h[i].Epoch {
			t.Errorf("interval %d: %+v, then %+v", i, h[i+1], h[i])
		}
	}
}

// In what drains nothing is leased or extended; a renewal brings what is new beside what runs
// out.
func TestWhatDrainsRunsOut(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA)
	old := b.one(noon, r)
	until := noon.Add(policy.Valid)
	r = request(1, 1, 1, prefixB)
	r.Draining = []idcodec.Prefix{prefixA}
	at := noon.Add(30 * time.Minute)
	g := b.renew(at, r)
	if len(g) != 2 || idcodec.PrefixOf(g[0].Addr) != prefixB || g[1].Addr != old || g[1].Preferred != 0 || g[1].Valid != until.Sub(at) {
		t.Fatalf("renewed: %v", g)
	}
	at = at.Add(30 * time.Minute)
	if g = b.renew(at, r); len(g) != 2 || g[1].Addr != old || g[1].Valid != until.Sub(at) {
		t.Errorf("renewed again: %v", g)
	}
	if g = b.renew(until.Add(time.Second), r); len(g) != 1 {
		t.Errorf("after its end: %v", g)
	}
	// Where all drains, what a client has runs out, and others get nothing.
	all := request(2, 2, 1, prefixA)
	b.one(noon, all)
	all.Prefixes, all.Draining = nil, []idcodec.Prefix{prefixA}
	if g = b.renew(noon.Add(time.Minute), all); len(g) != 1 || g[0].Preferred != 0 {
		t.Errorf("where all drains: %v", g)
	}

	pool, next := poolOf("2001:db8:4000::/40", 56), poolOf("2001:db8:8000::/40", 56)
	pd := delegation(1, 1, 1, pool)
	had := b.onePrefix(noon, pd)
	pool.Drain = true
	pd.Pools = []lease.Pool{pool, next}
	if g = b.renew(noon.Add(time.Minute), pd); len(g) != 2 || !next.Has(prefixOf(g[0])) || prefixOf(g[1]) != had || g[1].Preferred != 0 {
		t.Errorf("a pool that drains: %v", g)
	}
	other := delegation(2, 2, 1, pool)
	if _, err := b.Assign(noon, other); !errors.Is(err, lease.ErrNoSlot) {
		t.Errorf("of a pool that drains: %v", err)
	}
	pd.Pools = []lease.Pool{pool}
	if g = b.renew(noon.Add(2*time.Minute), pd); len(g) != 1 || prefixOf(g[0]) != had || g[0].Preferred != 0 {
		t.Errorf("where all pools drain: %v", g)
	}
}

// A link's own policy holds for its addresses.
func TestALinkHasAPolicyOfItsOwn(t *testing.T) {
	b := newBench(t, policy)
	own := lease.Policy{Preferred: 10 * time.Minute, Valid: 20 * time.Minute, MaxAge: time.Hour, PerSubscriber: 1}
	r := request(1, 1, 1, prefixA)
	r.Policy = &own
	g := b.assign(noon, r)
	if g[0].Preferred != own.Preferred || g[0].Valid != own.Valid {
		t.Errorf("granted %v", g)
	}
	second := request(1, 1, 2, prefixA)
	second.Policy = &own
	if _, err := b.Assign(noon, second); !errors.Is(err, lease.ErrTooMany) {
		t.Errorf("a second address: %v", err)
	}
	own.PerSubscriber = 2
	at := noon
	for range 6 {
		at = at.Add(9 * time.Minute)
		g = b.renew(at, r)
	}
	if len(g) != 2 || g[1].Preferred != 0 {
		t.Errorf("after the link's greatest age: %v", g)
	}
}
