package lease_test

import (
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

var (
	policy = lease.Policy{
		Preferred: time.Hour, Valid: 2 * time.Hour, MaxAge: 36 * time.Hour,
		DeclineHold: 24 * time.Hour, PerSubscriber: 8,
	}
	prefixA = idcodec.PrefixOf(netip.MustParseAddr("2001:db8:1::"))
	prefixB = idcodec.PrefixOf(netip.MustParseAddr("2001:db8:2::"))
	noon    = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
)

type bench struct {
	*lease.Allocator
	store lease.Store
	keys  *idcodec.Keyring
	t     *testing.T
}

func newBench(t *testing.T, p lease.Policy) *bench {
	t.Helper()
	store, err := pebblestore.Open(t.TempDir(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	keys, err := idcodec.NewKeyring(rand.NewChaCha8([32]byte{1}), idcodec.DefaultEpochLength, 20000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(4) {
		if _, err := store.Register(idcodec.LookupKey{i}, idcodec.NID{i}, noon); err != nil {
			t.Fatal(err)
		}
	}
	return &bench{lease.NewAllocator(store, keys, p), store, keys, t}
}

func request(subscriber uint64, duid byte, iaid uint32, prefixes ...idcodec.Prefix) *lease.Request {
	return &lease.Request{
		Subscriber: subscriber,
		Client:     lease.Client{DUID: []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, duid}, IAID: iaid},
		Prefixes:   prefixes,
	}
}

func (b *bench) assign(at time.Time, r *lease.Request) []lease.Grant {
	b.t.Helper()
	g, err := b.Assign(at, r)
	if err != nil {
		b.t.Fatal(err)
	}
	return append([]lease.Grant(nil), g...)
}

func (b *bench) one(at time.Time, r *lease.Request) netip.Addr {
	b.t.Helper()
	g := b.assign(at, r)
	if len(g) != 1 {
		b.t.Fatalf("%d grants, want 1", len(g))
	}
	return g[0].Addr
}

func (b *bench) renew(at time.Time, r *lease.Request) []lease.Grant {
	b.t.Helper()
	g, err := b.Renew(at, r)
	if err != nil {
		b.t.Fatal(err)
	}
	return append([]lease.Grant(nil), g...)
}

// decode returns what an address says with the key of the epoch of a time.
func (b *bench) decode(addr netip.Addr, at time.Time) (uint64, uint16, error) {
	b.t.Helper()
	e, err := b.keys.EpochAt(at)
	if err != nil {
		b.t.Fatal(err)
	}
	k, err := b.keys.Key(e)
	if err != nil {
		b.t.Fatal(err)
	}
	return k.Decode(idcodec.PrefixOf(addr), idcodec.GIDOf(addr))
}

func TestOfferIsWhatAssignLeasesAndWritesNothing(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA, prefixB)
	offered, err := b.Offer(noon, r)
	if err != nil {
		t.Fatal(err)
	}
	offer := fmt.Sprint(offered)
	if h, err := b.store.BySubscriber(nil, 1); err != nil || len(h) != 0 {
		t.Errorf("after an offer the subscriber holds %v, %v", h, err)
	}
	if got := fmt.Sprint(b.assign(noon, r)); got != offer {
		t.Errorf("offered %s, assigned %s", offer, got)
	}
}

func TestAClientKeepsItsAddressesAndSharesThemWithNobody(t *testing.T) {
	b := newBench(t, policy)
	seen := make(map[netip.Addr]string)
	for sub := range uint64(3) {
		for duid := range byte(2) {
			for iaid := range uint32(2) {
				r := request(sub, duid+byte(10*sub), iaid, prefixA, prefixB)
				first := b.assign(noon, r)
				for i, p := range r.Prefixes {
					who := fmt.Sprint(sub, duid, iaid)
					if idcodec.PrefixOf(first[i].Addr) != p {
						t.Errorf("%s: %s is not in %s", who, first[i].Addr, p)
					}
					if other, ok := seen[first[i].Addr]; ok {
						t.Errorf("%s and %s both have %s", other, who, first[i].Addr)
					}
					seen[first[i].Addr] = who
					if got, _, err := b.decode(first[i].Addr, noon); err != nil || got != sub {
						t.Errorf("%s decodes to subscriber %d, %v", first[i].Addr, got, err)
					}
				}
				if again := b.assign(noon.Add(time.Minute), r); fmt.Sprint(again) != fmt.Sprint(first) {
					t.Errorf("asked again: %v, before %v", again, first)
				}
			}
		}
	}
}

func TestRenewExtendsToTheMaximumAgeThenReplaces(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA)
	old := b.one(noon, r)
	at := noon
	for ; at.Before(noon.Add(35 * time.Hour)); at = at.Add(30 * time.Minute) {
		g := b.renew(at, r)
		if len(g) != 1 || g[0].Addr != old || g[0].Preferred != policy.Preferred {
			t.Fatalf("after %s: %v, want %s for an hour", at.Sub(noon), g, old)
		}
		if end := at.Add(g[0].Valid); end.After(noon.Add(policy.MaxAge)) {
			t.Fatalf("after %s the lease lasts beyond the maximum age", at.Sub(noon))
		}
	}
	at = noon.Add(35*time.Hour + time.Second)
	g := b.renew(at, r)
	if len(g) != 2 || g[0].Addr == old || g[1].Addr != old {
		t.Fatalf("at the maximum age: %v, want a new address and the old one", g)
	}
	if g[0].Preferred != policy.Preferred || g[1].Preferred != 0 || g[1].Valid <= 0 || at.Add(g[1].Valid).After(noon.Add(policy.MaxAge)) {
		t.Errorf("lifetimes at the maximum age: %v", g)
	}
	if sub, _, err := b.decode(g[0].Addr, at); err != nil || sub != 1 {
		t.Errorf("the new address belongs to %d in its own epoch, %v", sub, err)
	}
	// Asked again, the same two; when the old one has run out, the new one alone.
	if g2 := b.renew(at.Add(time.Minute), r); len(g2) != 2 || g2[0].Addr != g[0].Addr || g2[1].Addr != old {
		t.Errorf("a minute later: %v", g2)
	}
	if g3 := b.renew(at.Add(61*time.Minute), r); len(g3) != 1 || g3[0].Addr != g[0].Addr {
		t.Errorf("when the old address is over: %v", g3)
	}
}

func TestRenewOfNothingIsNotFound(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA)
	if _, err := b.Renew(noon, r); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("never leased: %v, want ErrNotFound", err)
	}
	b.one(noon, r)
	if _, err := b.Renew(noon.Add(3*time.Hour), r); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("expired: %v, want ErrNotFound", err)
	}
	other := request(2, 1, 1, prefixA)
	if _, err := b.Renew(noon.Add(time.Minute), other); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("another subscriber's: %v, want ErrNotFound", err)
	}
	moved := request(1, 1, 1, prefixB)
	if _, err := b.Renew(noon.Add(time.Minute), moved); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("on another link: %v, want ErrNotFound", err)
	}
}

func TestADeviceThatChangesHandsGetsAnotherAddress(t *testing.T) {
	b := newBench(t, policy)
	first := b.one(noon, request(1, 1, 1, prefixA))
	second := b.one(noon.Add(time.Minute), request(2, 1, 1, prefixA))
	if first == second {
		t.Fatal("two subscribers were leased one address")
	}
	if l, err := b.store.Lease(first); err != nil || l.Subscriber != 1 || !l.Live(noon.Add(time.Hour)) {
		t.Errorf("the first subscriber's lease: %+v, %v", l, err)
	}
}

func TestExpiredAndReleasedLeasesAreHistoryWhenTheyBeginAgain(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA)
	addr := b.one(noon, r)
	if had, err := b.Release(noon.Add(time.Hour), r, []netip.Addr{addr}); !had || err != nil {
		t.Fatalf("Release: %v, %v", had, err)
	}
	again := noon.Add(5 * time.Hour)
	if got := b.one(again, r); got != addr {
		t.Errorf("after a release: %s, before %s", got, addr)
	}
	h, err := b.store.History(nil, addr)
	if err != nil || len(h) != 2 {
		t.Fatalf("history: %v, %v", h, err)
	}
	if !h[1].Start.Equal(noon) || !h[1].ValidUntil.Equal(noon.Add(time.Hour)) || h[1].State != lease.Released {
		t.Errorf("the released interval: %+v", h[1])
	}
	if !h[0].Start.Equal(again) || !h[0].Born.Equal(noon) {
		t.Errorf("the interval after it: %+v", h[0])
	}
	for _, c := range []struct {
		at   time.Duration
		want bool
	}{{-time.Second, false}, {0, true}, {59 * time.Minute, true}, {61 * time.Minute, false}, {5 * time.Hour, true}, {8 * time.Hour, false}} {
		at := noon.Add(c.at)
		if got := h[0].Overlaps(at, at) || h[1].Overlaps(at, at); got != c.want {
			t.Errorf("leased at +%s: %v, want %v", c.at, got, c.want)
		}
	}
}

func TestADeclinedAddressIsSetAside(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA)
	bad := b.one(noon, r)
	stranger := request(2, 9, 9, prefixA)
	if had, err := b.Decline(noon, stranger, []netip.Addr{bad}); had || err != nil {
		t.Errorf("a stranger's Decline: %v, %v", had, err)
	}
	if had, err := b.Decline(noon, r, []netip.Addr{bad}); !had || err != nil {
		t.Fatalf("Decline: %v, %v", had, err)
	}
	next := b.one(noon, r)
	_, slot1, _ := b.decode(bad, noon)
	_, slot2, _ := b.decode(next, noon)
	if next == bad || slot2 != slot1+1 {
		t.Errorf("after a Decline of slot %d: %s, slot %d", slot1, next, slot2)
	}
	if l, err := b.store.Lease(bad); err != nil || l.Overlaps(noon, noon.Add(time.Hour)) {
		t.Errorf("a declined address counts as leased: %+v, %v", l, err)
	}
}

func TestASubscriberHoldsNoMoreThanThePolicyAllows(t *testing.T) {
	b := newBench(t, policy)
	for i := range uint32(8) {
		b.one(noon, request(1, 1, i, prefixA))
	}
	if _, err := b.Assign(noon, request(1, 1, 8, prefixA)); !errors.Is(err, lease.ErrTooMany) {
		t.Errorf("a ninth: %v, want ErrTooMany", err)
	}
	if _, err := b.Assign(noon, request(2, 1, 8, prefixA)); err != nil {
		t.Errorf("another subscriber: %v", err)
	}
	// Over when its leases are.
	b.one(noon.Add(3*time.Hour), request(1, 1, 8, prefixA))
}

// What a client leaves on the disk by asking and releasing for ever is bounded,
// and it is not shut out for long.
func TestLeasesAreNotBegunTooFast(t *testing.T) {
	for name, iaid := range map[string]func(i uint32) uint32{
		"under ever new names": func(i uint32) uint32 { return i },
		"under one name":       func(uint32) uint32 { return 1 },
	} {
		b := newBench(t, policy)
		begun := 0
		for i := range uint32(1000) {
			r := request(1, 1, iaid(i), prefixA)
			g, err := b.Assign(noon, r)
			if errors.Is(err, lease.ErrTooFast) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			begun++
			if _, err := b.Release(noon, r, []netip.Addr{g[0].Addr}); err != nil {
				t.Fatal(err)
			}
		}
		if begun != lease.StartBurst {
			t.Errorf("%s: %d leases were begun at once, want %d", name, begun, lease.StartBurst)
		}
		if _, err := b.Assign(noon, request(2, 2, 1, prefixA)); err != nil {
			t.Errorf("%s: another subscriber: %v", name, err)
		}
		b.one(noon.Add(lease.StartEvery), request(1, 1, 5000, prefixA))
	}
}

// A client that asks and releases for ever under new names comes round through
// its 4096 slots and never gets an address that is held or declined.
func TestSlotsComeRoundInAnEpoch(t *testing.T) {
	b := newBench(t, policy)
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	keeper := request(1, 200, 0, prefixA)
	held := b.one(at, keeper)
	declined := request(1, 201, 0, prefixA)
	bad := b.one(at, declined)
	if _, err := b.Decline(at, declined, []netip.Addr{bad}); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(2 * 4096) {
		r := request(1, 1, i+1, prefixA)
		addr := b.one(at, r)
		if addr == held || addr == bad {
			t.Fatalf("round %d: %s is held or declined", i, addr)
		}
		if _, err := b.Release(at, r, []netip.Addr{addr}); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			b.renew(at, keeper)
		}
		at = at.Add(lease.StartEvery)
	}
	if at.Day() != 1 {
		t.Fatal("the epoch ended; the test shows nothing")
	}
	// The slots came round to an address that the first client had: it is
	// not the first client's any more.
	if _, err := b.Renew(at, request(1, 1, 1, prefixA)); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("a client whose address was leased on: %v, want ErrNotFound", err)
	}
}

func TestAnEpochsEndBetweenOfferAndAssign(t *testing.T) {
	b := newBench(t, policy)
	r := request(1, 1, 1, prefixA)
	midnight := time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)
	g, err := b.Offer(midnight.Add(-time.Second), r)
	if err != nil {
		t.Fatal(err)
	}
	offered := g[0].Addr
	at := midnight.Add(time.Second)
	addr := b.one(at, r)
	if addr == offered {
		t.Error("an address of the epoch before was leased")
	}
	if sub, _, err := b.decode(addr, at); err != nil || sub != 1 {
		t.Errorf("the lease decodes to %d, %v in its epoch", sub, err)
	}
	// A lease from before the end is renewed across it unchanged.
	r2 := request(2, 2, 1, prefixA)
	before := b.one(midnight.Add(-30*time.Minute), r2)
	if g := b.renew(midnight.Add(time.Minute), r2); len(g) != 1 || g[0].Addr != before {
		t.Errorf("renewed across the epoch's end: %v, before %s", g, before)
	}
}

func TestForgetRemovesOldEpochsAndTheListsThatNameThem(t *testing.T) {
	b := newBench(t, policy)
	for i := range uint32(5) {
		b.one(noon, request(1, 1, i, prefixA))
	}
	kept := b.one(noon.Add(48*time.Hour), request(1, 1, 9, prefixA))
	removed := 0
	var after []byte
	for {
		epoch, err := b.keys.EpochAt(noon.Add(24 * time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		old, next, err := b.store.Old(epoch, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Forget(old); err != nil {
			t.Fatal(err)
		}
		removed += len(old)
		if after = next; after == nil {
			break
		}
	}
	if removed != 5 {
		t.Errorf("%d leases forgotten, want 5", removed)
	}
	if a, err := b.store.ByClient(nil, request(1, 1, 0).Client); err != nil || len(a) != 0 {
		t.Errorf("the client's list still holds %v, %v", a, err)
	}
	if a, err := b.store.BySubscriber(nil, 1); err != nil || len(a) != 1 || a[0] != kept {
		t.Errorf("the subscriber's list holds %v, %v; want %s", a, err, kept)
	}
}

// Whatever clients do, at no time do two of them hold one address, and no
// address decodes to another subscriber than its holder.
func TestNoAddressIsEverHeldTwice(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	short := policy
	short.MaxAge, short.Valid, short.Preferred, short.DeclineHold = 3*time.Hour, 40*time.Minute, 20*time.Minute, time.Hour
	short.PerSubscriber = 64
	b := newBench(t, short)
	type holding struct {
		client string
		until  time.Time
	}
	holders := make(map[netip.Addr]holding)
	at := noon
	for step := range 20000 {
		at = at.Add(time.Duration(rng.IntN(60)) * time.Second)
		sub := rng.Uint64N(4)
		r := request(sub, byte(rng.IntN(3))+byte(sub)*10, rng.Uint32N(2), prefixA)
		name := fmt.Sprint(r.Client)
		var grants []lease.Grant
		var err error
		switch rng.IntN(6) {
		case 0, 1:
			grants, err = b.Assign(at, r)
		case 2, 3, 4:
			if grants, err = b.Renew(at, r); errors.Is(err, lease.ErrNotFound) {
				err = nil
			}
		case 5:
			addrs, _ := b.store.ByClient(nil, r.Client)
			end := b.Release
			if rng.IntN(3) == 0 {
				end = b.Decline
			}
			if _, err = end(at, r, addrs); err == nil {
				for _, a := range addrs {
					if l, err := b.store.Lease(a); holders[a].client == name && err == nil && !l.Live(at) {
						delete(holders, a)
					}
				}
			}
		}
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, g := range grants {
			if h, ok := holders[g.Addr]; ok && h.client != name && h.until.After(at) {
				t.Fatalf("step %d: %s is leased to %s while %s holds it", step, g.Addr, name, h.client)
			}
			holders[g.Addr] = holding{name, at.Add(g.Valid)}
			l, err := b.store.Lease(g.Addr)
			if err != nil || l.Subscriber != sub || !l.Live(at) {
				t.Fatalf("step %d: granted %s, stored %+v, %v", step, g.Addr, l, err)
			}
			if got, _, err := b.decode(g.Addr, l.Born); err != nil || got != sub {
				t.Fatalf("step %d: %s decodes to %d, %v; leased to %d", step, g.Addr, got, err, sub)
			}
		}
	}
}

// Rotated, a client gets another address beside its own at its next renewal, and others
// keep theirs.
func TestRotate(t *testing.T) {
	b := newBench(t, policy)
	mine, other := request(0, 1, 7, prefixA), request(1, 2, 7, prefixA)
	old, kept := b.one(noon, mine), b.one(noon, other)
	if g := b.renew(noon.Add(time.Minute), mine); len(g) != 1 || g[0].Addr != old {
		t.Fatalf("%v", g)
	}
	at := noon.Add(2 * time.Minute)
	if ls, err := b.Rotate(at, 0, nil); err != nil || len(ls) != 1 || ls[0].Addr != old {
		t.Fatalf("%v, %v", ls, err)
	}
	g := b.renew(at, mine)
	if len(g) != 2 || g[0].Addr == old || g[0].Preferred != policy.Preferred || g[1].Addr != old || g[1].Preferred != 0 || g[1].Valid <= 0 {
		t.Errorf("%v", g)
	}
	next := g[0].Addr
	if g := b.renew(at.Add(time.Minute), mine); len(g) != 2 || g[0].Addr != next {
		t.Errorf("the address changes again: %v", g)
	}
	if g := b.renew(at, other); len(g) != 1 || g[0].Addr != kept {
		t.Errorf("another subscriber's: %v", g)
	}
	if ls, err := b.Rotate(at, 3, nil); err != nil || len(ls) != 0 {
		t.Errorf("of who has none: %v, %v", ls, err)
	}
}

// Where clocks may differ, an address of a client's own making is another subscriber's only when it has run out by all
// of them, and its own subscriber's at any time.
func TestARegisteredAddressWaitsForAllClocks(t *testing.T) {
	const apart = 10 * time.Second
	own := prefixA.Addr(0xabcd010203040506)
	mine, other := request(0, 1, 7, prefixA), request(1, 2, 7, prefixA)
	end := noon.Add(time.Hour)
	for _, c := range []struct {
		who   *lease.Request
		after time.Duration
		want  error
	}{{other, -time.Second, lease.ErrTaken}, {other, 0, lease.ErrTaken}, {other, apart - time.Second, lease.ErrTaken}, {other, apart, nil}, {mine, time.Second, nil}} {
		b := newBench(t, policy)
		b.Apart(apart)
		if err := b.Register(noon, mine, own, time.Hour, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := b.Register(end.Add(c.after), c.who, own, time.Hour, time.Hour); !errors.Is(err, c.want) {
			t.Errorf("subscriber %d, %s after the end: %v, want %v", c.who.Subscriber, c.after, err, c.want)
		}
	}
}

// An address of a client's own making: registered, refreshed, of another epoch, ended; and
// never anybody else's meanwhile, nor leased by the allocator.
func TestRegister(t *testing.T) {
	b := newBench(t, policy)
	own := prefixA.Addr(0xabcd010203040506)
	mine, other := request(0, 1, 7, prefixA), request(1, 2, 7, prefixA)
	register := func(at time.Time, r *lease.Request, addr netip.Addr, valid time.Duration, want error) {
		t.Helper()
		if err := b.Register(at, r, addr, time.Hour, valid); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	is := func(at time.Time, live bool, start, until time.Time) {
		t.Helper()
		l, err := b.store.Lease(own)
		if err != nil || l.State != lease.Registered || l.Subscriber != 0 || l.Live(at) != live || !l.Start.Equal(start) || !l.ValidUntil.Equal(until) {
			t.Errorf("%+v, %v", l, err)
		}
	}
	register(noon, mine, own, 2*time.Hour, nil)
	is(noon, true, noon, noon.Add(2*time.Hour))
	register(noon.Add(time.Hour), mine, own, 2*time.Hour, nil)
	is(noon.Add(time.Hour), true, noon, noon.Add(3*time.Hour))
	register(noon.Add(time.Hour), other, own, time.Hour, lease.ErrTaken)
	register(noon.Add(time.Hour), other, own, 0, lease.ErrTaken)

	// The client's leases are others; it neither renews nor releases its own address so.
	leased := b.one(noon.Add(time.Hour), mine)
	if leased == own {
		t.Error("the address that is registered was leased")
	}
	if had, err := b.Release(noon.Add(time.Hour), mine, []netip.Addr{own}); had || err != nil {
		t.Errorf("released: %v, %v", had, err)
	}
	register(noon.Add(time.Hour), mine, leased, time.Hour, lease.ErrTaken)
	is(noon.Add(time.Hour), true, noon, noon.Add(3*time.Hour))
	if n, err := b.store.BySubscriber(nil, 0); err != nil || len(n) != 2 {
		t.Errorf("the subscriber has %v, %v", n, err)
	}

	// In another epoch it is another interval, so that the first can be forgotten.
	next := noon.Add(13 * time.Hour)
	register(next.Add(-2*time.Hour), mine, own, 4*time.Hour, nil)
	register(next, mine, own, 200*24*time.Hour, nil)
	is(next, true, next, next.Add(policy.MaxAge))
	history, err := b.store.History(nil, own)
	if err != nil || len(history) < 2 || !history[1].ValidUntil.Equal(next) || history[0].Epoch != history[1].Epoch+1 || !history[0].Born.Equal(noon) {
		t.Errorf("history %+v, %v", history, err)
	}
	// It ends when the client says so, and is then anybody's.
	register(next.Add(time.Minute), mine, own, 0, nil)
	is(next.Add(time.Minute), false, next, next.Add(time.Minute))
	register(next.Add(time.Minute), mine, own, 0, nil)
	register(next.Add(time.Minute), other, own, time.Hour, nil)

	// Nobody registers without end.
	many := request(2, 3, 7, prefixA)
	for i := range 2000 {
		a := prefixA.Addr(0x0102030405060000 + idcodec.GID(i))
		err := b.Register(noon, many, a, time.Hour, time.Hour)
		if errors.Is(err, lease.ErrTooMany) {
			if i != policy.PerSubscriber {
				t.Errorf("refused after %d", i)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("2,000 addresses were registered")
}

// Servers with a part each of the slots never lease one slot, however many leases begin.
func TestSplitSlotsNeverMeet(t *testing.T) {
	const parts = 16
	const each = (idcodec.MaxSlot + 1) / parts
	of := make(map[uint16]int)
	for _, part := range []int{0, 1, 15} {
		b := newBench(t, policy)
		b.Split(part, parts)
		at := noon
		for i := range each + 40 {
			r := request(1, byte(part), uint32(i), prefixA)
			addr := b.one(at, r)
			_, slot, err := b.decode(addr, at)
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := of[slot]; ok && other != part {
				t.Fatalf("slot %d is of part %d and of part %d", slot, other, part)
			}
			of[slot] = part
			if _, err := b.Release(at, r, []netip.Addr{addr}); err != nil {
				t.Fatal(err)
			}
			at = at.Add(20 * time.Second)
		}
	}
	if len(of) != 3*each {
		t.Errorf("%d slots came up, want all %d", len(of), 3*each)
	}
}

// A client that asks again soon gets the lease that it has with what is left of it, and nothing is
// written; not when something of it is other than it would be now, nor later.
func TestALeaseThatIsYoungIsGrantedAsItIs(t *testing.T) {
	p := policy
	p.CacheThreshold = 0.25
	r := request(1, 1, 1, prefixA)
	elsewhere := request(1, 1, 1, prefixA)
	elsewhere.Anchor.Relay = netip.MustParseAddr("2001:db8::2")
	longer := p
	longer.Valid = 3 * time.Hour
	longer.CacheThreshold = 0.25
	otherwise := request(1, 1, 1, prefixA)
	otherwise.Policy = &longer
	both := request(1, 1, 1, prefixA, prefixB)
	for name, c := range map[string]struct {
		after   time.Duration
		r       *lease.Request
		written bool
	}{
		"at once":                   {0, r, false},
		"soon":                      {14 * time.Minute, r, false},
		"late":                      {15 * time.Minute, r, true},
		"by a clock that went back": {-time.Minute, r, true},
		"from elsewhere":            {time.Minute, elsewhere, true},
		"under another policy":      {time.Minute, otherwise, true},
		"beside a new one":          {time.Minute, both, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, ask := range []func(*bench, time.Time, *lease.Request) []lease.Grant{
				func(b *bench, at time.Time, r *lease.Request) []lease.Grant { return b.assign(at, r) },
				func(b *bench, at time.Time, r *lease.Request) []lease.Grant { return b.renew(at, r) },
			} {
				b := newBench(t, p)
				addr := b.one(noon, r)
				before, err := b.store.Lease(addr)
				if err != nil {
					t.Fatal(err)
				}
				now := noon.Add(c.after)
				g := ask(b, now, c.r)[0]
				after, err := b.store.Lease(addr)
				if err != nil {
					t.Fatal(err)
				}
				if g.Addr != addr {
					t.Errorf("granted %s, had %s", g.Addr, addr)
				}
				if written := fmt.Sprint(before) != fmt.Sprint(after); written != c.written || (b.Cached() > 0) == c.written {
					t.Errorf("written: %v, counted as granted as it was: %d", written, b.Cached())
				}
				// What the client is told is what is stored.
				if !after.PreferredUntil.Equal(now.Add(g.Preferred)) || !after.ValidUntil.Equal(now.Add(g.Valid)) {
					t.Errorf("told %v at %v, stored %v", g, now, after)
				}
				if mine, err := b.store.ByClient(nil, r.Client); err != nil || len(mine) != len(c.r.Prefixes) {
					t.Errorf("filed under the client: %v, %v", mine, err)
				}
			}
		})
	}
}

// A lease that runs out beside a new one, one that was given back and a delegated prefix that is
// always the same are written whenever they are granted.
func TestALeaseThatIsNotAsNewIsWritten(t *testing.T) {
	p := policy
	p.CacheThreshold = 0.25
	b := newBench(t, p)
	r := request(1, 1, 1, prefixA)
	first := b.one(noon, r)
	if _, err := b.Release(noon.Add(time.Minute), r, []netip.Addr{first}); err != nil {
		t.Fatal(err)
	}
	if b.one(noon.Add(2*time.Minute), r) != first || b.Cached() != 0 {
		t.Error("a released lease was granted without a write, or another")
	}
	l, err := b.store.Lease(first)
	if err != nil || !l.Start.Equal(noon.Add(2*time.Minute)) {
		t.Errorf("the lease begins %v, %v", l.Start, err)
	}

	old := noon.Add(p.MaxAge - p.Preferred - time.Minute)
	for at := noon.Add(2 * time.Minute); at.Before(old); at = at.Add(time.Hour) {
		b.renew(at, r)
	}
	b.renew(old, r)
	cached := b.Cached()
	g := b.renew(old.Add(2*time.Minute), r) // too old for a full lifetime by now
	if len(g) != 2 || g[1].Addr != first || g[1].Preferred != 0 || b.Cached() != cached {
		t.Errorf("beside a new lease: %v", g)
	}

	fixed := request(2, 2, 1)
	fixed.Client.PD, fixed.Fixed = true, netip.MustParsePrefix("2001:db8:4000::/56")
	b.assign(noon, fixed)
	cached = b.Cached()
	b.assign(noon.Add(time.Minute), fixed)
	if l, err := b.store.Lease(fixed.Fixed.Addr()); err != nil || !l.Updated.Equal(noon.Add(time.Minute)) || b.Cached() != cached {
		t.Errorf("a fixed prefix was last written at %v, %v", l.Updated, err)
	}
}
