package shared_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/shared"
	"brightgid/lease/shared/memdb"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func attach(t *testing.T, db shared.DB, o shared.Options) *shared.Store {
	t.Helper()
	if o.Name == "" {
		o.Name = "one"
	}
	if o.Cache == 0 {
		o.Cache = 100
	}
	if o.Keys.Tag == nil {
		o.Keys.Tag = func(uint32) (int64, error) { return 1, nil }
	}
	s, err := shared.New(t.Context(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run flushes a store behind the test.
func run(t *testing.T, s *shared.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func TestConformance(t *testing.T) {
	for name, size := range map[string]int{"with all in memory": 1000, "with next to nothing in memory": 1} {
		t.Run(name, func(t *testing.T) {
			dbs := make(map[lease.Store]*memdb.Database)
			open := func(t *testing.T, db *memdb.Database) lease.Store {
				s := attach(t, &memdb.Conn{Database: db}, shared.Options{Cache: size})
				run(t, s)
				dbs[leasetest.Marking{Marker: s}] = db
				return leasetest.Marking{Marker: s}
			}
			leasetest.Run(t, func(t *testing.T) lease.Store { return open(t, memdb.New()) },
				func(t *testing.T, s lease.Store) lease.Store { return open(t, dbs[s]) })
		})
	}
}

func put(l lease.Lease) *lease.Update { return &lease.Update{Put: []lease.Lease{l}} }

// apply is one message that changes leases and is committed.
func apply(t *testing.T, s *shared.Store, u *lease.Update) error {
	t.Helper()
	if err := s.Apply(u); err != nil {
		return err
	}
	b := s.Mark()
	if err := s.Flush(t.Context()); err != nil {
		t.Log(err)
	}
	return b.Wait()
}

func pair(t *testing.T) (a, b *shared.Store, ca, cb *memdb.Conn) {
	db := memdb.New()
	ca, cb = &memdb.Conn{Database: db}, &memdb.Conn{Database: db}
	return attach(t, ca, shared.Options{Name: "a", Offline: true}), attach(t, cb, shared.Options{Name: "b"}), ca, cb
}

// Who decided on what another has changed since is refused, is not answered, and does better
// next time; nobody else in the commit is hurt.
func TestOnlyWhoDecidedOnWhatIsOldIsRefused(t *testing.T) {
	a, b, _, _ := pair(t)
	l := leasetest.Lease(1, t0)
	if err := apply(t, a, put(l)); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Lease(l.Addr); err != nil || got.Subscriber != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	b.Mark()
	l.State = lease.Released
	if err := apply(t, a, put(l)); err != nil {
		t.Fatal(err)
	}
	// b still believes that it is active, and extends it beside another's.
	old, err := b.Lease(l.Addr)
	if err != nil || old.State != lease.Active {
		t.Fatalf("%+v, %v: the test shows nothing", old, err)
	}
	if err := b.Apply(put(old)); err != nil {
		t.Fatal(err)
	}
	stale := b.Mark()
	if err := b.Apply(put(leasetest.Lease(2, t0))); err != nil {
		t.Fatal(err)
	}
	other := b.Mark()
	// What follows from a write that is refused is refused as well.
	again, err := b.Lease(l.Addr)
	if err != nil {
		t.Fatal(err)
	}
	reader := b.Mark()
	if err := b.Apply(put(again)); err != nil {
		t.Fatal(err)
	}
	follower := b.Mark()
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]lease.Barrier{"stale": stale, "reader": reader, "follower": follower} {
		if err := x.Wait(); !errors.Is(err, shared.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	if err := other.Wait(); err != nil {
		t.Errorf("a message beside it: %v", err)
	}
	if got, err := b.Lease(l.Addr); err != nil || got.State != lease.Released {
		t.Errorf("the next look: %+v, %v", got, err)
	}
	if err := b.Barrier().Wait(); !errors.Is(err, shared.ErrConflict) {
		t.Errorf("the barrier of all: %v", err)
	}
}

// Two servers that meet one subscriber at once give it one number.
func TestASubscriberGetsOneNumber(t *testing.T) {
	a, b, _, _ := pair(t)
	key := idcodec.LookupKey{1}
	for _, s := range []*shared.Store{a, b} {
		if _, err := s.Lookup(key); !errors.Is(err, lease.ErrNotFound) {
			t.Fatal(err)
		}
	}
	na, err1 := a.Register(key, idcodec.NID{1}, t0)
	nb, err2 := b.Register(key, idcodec.NID{2}, t0)
	if err1 != nil || err2 != nil || na == nb {
		t.Fatalf("%d, %v; %d, %v", na, err1, nb, err2)
	}
	// b leases to the number that it believes in; no row of that is another's.
	l := leasetest.Lease(9, t0)
	l.Subscriber = nb
	ma, mb := a.Mark(), b.Mark()
	if n, err := b.Lookup(key); err != nil || n != nb {
		t.Fatalf("%d, %v", n, err)
	}
	if err := b.Apply(put(l)); err != nil {
		t.Fatal(err)
	}
	leased := b.Mark()
	if err := errors.Join(a.Flush(t.Context()), b.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := ma.Wait(); err != nil {
		t.Error(err)
	}
	for _, x := range []lease.Barrier{mb, leased} {
		if err := x.Wait(); !errors.Is(err, shared.ErrConflict) {
			t.Errorf("%v, want ErrConflict", err)
		}
	}
	if n, err := b.Lookup(key); err != nil || n != na {
		t.Errorf("b finds %d, %v; want %d", n, err, na)
	}
	if _, err := b.Lease(l.Addr); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("the lease to a number that nobody has: %v", err)
	}
}

// A commit whose answer is lost counts as one, not as none and not as two.
func TestACommitWhoseAnswerIsLost(t *testing.T) {
	a, b, ca, _ := pair(t)
	l := leasetest.Lease(1, t0)
	fault := memdb.NotTold
	ca.Fault = func() memdb.Fault { return fault }
	if _, err := a.Lease(l.Addr); !errors.Is(err, shared.ErrAway) {
		t.Fatal(err)
	}
	fault = memdb.Answered
	if err := a.Flush(t.Context()); err != nil { // it is back
		t.Fatal(err)
	}
	if err := a.Apply(put(l)); err != nil {
		t.Fatal(err)
	}
	m := a.Mark()
	fault = memdb.NotTold
	if err := a.Flush(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if err := m.Wait(); !errors.Is(err, shared.ErrAway) {
		t.Errorf("the client is told %v", err)
	}
	// Meanwhile another goes on with it.
	l.State = lease.Released
	if _, err := b.Lease(l.Addr); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, b, put(l)); err != nil {
		t.Fatal(err)
	}
	fault = memdb.Answered
	if err := a.Flush(t.Context()); err != nil || a.Away() {
		t.Fatal(err)
	}
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Lease(l.Addr); err != nil || got.State != lease.Released {
		t.Errorf("%+v, %v: the commit was written again", got, err)
	}
}

// A lease that is on its way to a database which stops to answer may never be there: to renew it is
// promised to nobody, neither in the same commit nor after it.
func TestOnlyWhatIsStoredIsRenewedWhileTheDatabaseIsAway(t *testing.T) {
	for name, fault := range map[string]memdb.Fault{"it was not asked": memdb.NotAsked, "it did not tell": memdb.NotTold} {
		t.Run(name, func(t *testing.T) {
			a, _, ca, _ := pair(t)
			change := func(l lease.Lease) lease.Barrier {
				t.Helper()
				if err := a.Apply(put(l)); err != nil {
					t.Fatal(err)
				}
				return a.Mark()
			}
			longer := func(l lease.Lease, by time.Duration) lease.Lease {
				l.Updated, l.ValidUntil = l.Updated.Add(by), l.ValidUntil.Add(by)
				return l
			}
			stored, fresh := leasetest.Lease(1, t0), leasetest.Lease(2, t0)
			if err := apply(t, a, put(stored)); err != nil {
				t.Fatal(err)
			}
			refused := map[string]lease.Barrier{"a new lease": change(fresh), "its renewal in the same commit": change(longer(fresh, time.Minute))}
			promised := map[string]lease.Barrier{"a renewal": change(longer(stored, time.Minute))}
			ca.Fault = func() memdb.Fault { return fault }
			if err := a.Flush(t.Context()); err == nil || !a.Away() {
				t.Fatalf("%v, away: %v; the test shows nothing", err, a.Away())
			}
			refused["its renewal after it"] = change(longer(fresh, 2*time.Minute))
			promised["the next"] = change(longer(stored, 2*time.Minute))
			promised["the one after"] = change(longer(stored, 3*time.Minute))
			for what, b := range refused {
				if !b.Settled() {
					t.Errorf("%s waits", what)
				} else if err := b.Wait(); !errors.Is(err, shared.ErrAway) {
					t.Errorf("%s: %v, want ErrAway", what, err)
				}
			}
			for what, b := range promised {
				if !b.Settled() {
					t.Errorf("%s waits", what)
				} else if err := b.Wait(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			ca.Fault = nil
			for range 3 {
				if err := a.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if l, err := a.Lease(stored.Addr); err != nil || !l.ValidUntil.Equal(stored.ValidUntil.Add(3*time.Minute)) {
				t.Errorf("what was promised: %+v, %v", l, err)
			}
			if _, err := a.Lease(fresh.Addr); err != nil {
				t.Errorf("what was under way: %v", err)
			}
		})
	}
}

// While the database is away leases that are known are renewed, if that is allowed, and
// nothing else; what was promised is stored when it is back.
func TestRenewalsWhileTheDatabaseIsAway(t *testing.T) {
	a, b, ca, _ := pair(t)
	var leases []lease.Lease
	for i := range 4 {
		leases = append(leases, leasetest.Lease(i, t0))
		if err := apply(t, a, put(leases[i])); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Lease(leases[i].Addr); err != nil {
			t.Fatal(err)
		}
	}
	b.Mark()
	ca.Fault = func() memdb.Fault { return memdb.NotAsked }
	extend := func(l lease.Lease, by time.Duration) lease.Lease {
		l.Updated, l.PreferredUntil, l.ValidUntil = l.Updated.Add(by), l.PreferredUntil.Add(by), l.ValidUntil.Add(by)
		return l
	}
	for _, by := range []time.Duration{time.Hour, 2 * time.Hour} {
		for i := range leases {
			if err := apply(t, a, put(extend(leases[i], by))); err != nil {
				t.Errorf("lease %d is not extended by %s: %v", i, by, err)
			}
		}
	}
	if !a.Away() {
		t.Error("nobody has noticed")
	}
	if err := apply(t, a, put(leasetest.Lease(9, t0))); !errors.Is(err, shared.ErrAway) {
		t.Errorf("a new lease: %v", err)
	}
	released := leases[0]
	released.State = lease.Released
	if err := apply(t, a, put(released)); !errors.Is(err, shared.ErrAway) {
		t.Errorf("a release: %v", err)
	}
	if got, err := a.Lease(leases[0].Addr); err != nil || !got.ValidUntil.Equal(extend(leases[0], 2*time.Hour).ValidUntil) {
		t.Errorf("in memory: %+v, %v", got, err)
	}
	a.Mark()
	// The other server has the database: it extends one less, one more, and releases one.
	if err := apply(t, b, put(extend(leases[1], time.Hour))); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, b, put(extend(leases[2], 3*time.Hour))); err != nil {
		t.Fatal(err)
	}
	released = leases[3]
	released.State = lease.Released
	if err := apply(t, b, put(released)); err != nil {
		t.Fatal(err)
	}
	ca.Fault = nil
	for range 3 {
		if err := a.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if units, renewals := a.Waiting(); a.Away() || units+renewals > 0 {
		t.Errorf("%d units and %d renewals wait", units, renewals)
	}
	for i, want := range []time.Duration{2 * time.Hour, 2 * time.Hour, 3 * time.Hour, 0} {
		got, err := b.Direct().Lease(leases[i].Addr)
		if err != nil || !got.ValidUntil.Equal(extend(leases[i], want).ValidUntil) {
			t.Errorf("lease %d ends at %s, %v; want %s more than at first", i, got.ValidUntil, err, want)
		}
	}
	if got, _ := b.Direct().Lease(leases[3].Addr); got.State != lease.Released {
		t.Errorf("what was released is %s again", got.State)
	}
	if n := a.Stats().Lost.Load(); n != 1 {
		t.Errorf("%d renewals count as lost, want 1", n)
	}
	// The first was under way when the database went.
	if n := a.Stats().Reconciled.Load(); n != 4 {
		t.Errorf("%d renewals count as stored, want 4", n)
	}
}

// Without leave, nothing is promised that is not stored.
func TestNothingIsPromisedWithoutLeave(t *testing.T) {
	_, b, _, cb := pair(t)
	l := leasetest.Lease(1, t0)
	if err := apply(t, b, put(l)); err != nil {
		t.Fatal(err)
	}
	cb.Fault = func() memdb.Fault { return memdb.NotAsked }
	for range 2 { // when it is found out, and when it is known
		l.ValidUntil = l.ValidUntil.Add(time.Hour)
		if err := apply(t, b, put(l)); !errors.Is(err, shared.ErrAway) {
			t.Errorf("%v, want ErrAway", err)
		}
	}
}

// A server tells of what others change, and says when it has missed something.
func TestChangesOfOthersAreTold(t *testing.T) {
	db := memdb.New()
	var seen []netip.Addr
	behind := 0
	a := attach(t, &memdb.Conn{Database: db}, shared.Options{Name: "a"})
	conn := &memdb.Conn{Database: db}
	b := attach(t, conn, shared.Options{Name: "b", Behind: func() { behind++ }, Observe: func(all []lease.Lease) {
		for _, l := range all {
			seen = append(seen, l.Addr)
		}
	}})
	c := leasetest.Lease(1, t0).Client
	if all, err := b.ByClient(nil, c); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	b.Mark()
	l := leasetest.Lease(1, t0)
	u := put(l)
	u.Clients = []lease.ClientList{{Client: c, Addrs: []netip.Addr{l.Addr}}}
	if err := errors.Join(apply(t, a, u), b.Follow(t.Context())); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0] != l.Addr {
		t.Errorf("told of %v", seen)
	}
	if all, err := b.ByClient(nil, c); err != nil || len(all) != 1 {
		t.Errorf("the client has %v, %v", all, err)
	}
	if _, err := b.Lease(l.Addr); err != nil {
		t.Fatal(err)
	}
	b.Mark()
	// Of a renewal it needs to read no more than the lease.
	l.ValidUntil = l.ValidUntil.Add(time.Hour)
	if err := errors.Join(apply(t, a, put(l)), b.Follow(t.Context())); err != nil {
		t.Fatal(err)
	}
	conn.Fault = func() memdb.Fault { return memdb.NotAsked }
	if all, err := b.ByClient(nil, c); err != nil || len(all) != 1 {
		t.Errorf("after a renewal the client has %v, %v", all, err)
	}
	if is, err := b.Lease(l.Addr); err != nil || !is.ValidUntil.Equal(l.ValidUntil) {
		t.Errorf("after a renewal until %s the lease is %+v, %v", l.ValidUntil, is, err)
	}
	conn.Fault = nil
	b.Mark()
	for i := range 3 {
		if err := apply(t, a, put(leasetest.Lease(10+i, t0))); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Follow(t.Context()); err != nil || behind > 0 {
		t.Errorf("behind %d times before anything was missed, %v", behind, err)
	}
	for i := range 3 {
		if err := apply(t, a, put(leasetest.Lease(20+i, t0))); err != nil {
			t.Fatal(err)
		}
	}
	db.Trim(1)
	if err := b.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if behind != 1 {
		t.Errorf("behind %d times, want 1", behind)
	}
}

// Servers know which of them wrote a lease, and whether that one has been silent since it ran out.
func TestWhoseALeaseIs(t *testing.T) {
	db := memdb.New()
	now := t0
	at := func() time.Time { return now }
	db.Clock = at
	a := attach(t, &memdb.Conn{Database: db}, shared.Options{Name: "a", Now: at})
	b := attach(t, &memdb.Conn{Database: db}, shared.Options{Name: "b", Now: at})
	follow := func() {
		t.Helper()
		if err := errors.Join(a.Follow(t.Context()), b.Follow(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	first, second, other := leasetest.Lease(1, t0), leasetest.Lease(2, t0), leasetest.Lease(3, t0)
	other.ValidUntil = t0.Add(100 * time.Hour)
	if err := errors.Join(apply(t, a, put(first)), apply(t, a, put(second))); err != nil {
		t.Fatal(err)
	}
	follow()
	second.Updated = t0.Add(time.Minute) // it is renewed at the other server
	if err := apply(t, b, put(second)); err != nil {
		t.Fatal(err)
	}
	follow()
	for _, c := range []struct {
		s    *shared.Store
		want map[netip.Addr]bool
	}{{a, map[netip.Addr]bool{first.Addr: true, second.Addr: false}}, {b, map[netip.Addr]bool{first.Addr: false, second.Addr: true}}} {
		got := make(map[netip.Addr]bool)
		if err := c.s.EachWritten(func(l lease.Lease, ours bool) error {
			got[l.Addr] = ours
			return nil
		}); err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%v, %v; want %v", got, err, c.want)
		}
	}
	abandoned := func(what string, l lease.Lease, want bool) {
		t.Helper()
		if got, err := b.Abandoned(l.Addr, l.Start, l.ValidUntil); err != nil || got != want {
			t.Errorf("%s: %t, %v; want %t", what, got, err, want)
		}
	}
	now = first.ValidUntil.Add(time.Minute)
	abandoned("the other is silent", first, true)
	abandoned("its own", second, true)
	abandoned("one that is not there", leasetest.Lease(9, t0), false)
	longer := first
	longer.ValidUntil = first.ValidUntil.Add(-time.Minute)
	abandoned("one that went on", longer, false)
	if err := apply(t, a, put(other)); err != nil {
		t.Fatal(err)
	}
	follow()
	abandoned("the other is not silent", first, false)
	now = other.ValidUntil.Add(time.Minute)
	abandoned("nor was it before that one ran out", other, true)

	stop := errors.New("stop")
	if err := a.EachWritten(func(lease.Lease, bool) error { return stop }); err != stop || a.Away() {
		t.Errorf("%v, away: %t", err, a.Away())
	}
}

// A server that is started again gives the numbers that it has left, and none twice.
func TestNumbersGoOnAfterARestart(t *testing.T) {
	db := memdb.New()
	var last uint64
	for start := range 3 {
		s := attach(t, &memdb.Conn{Database: db}, shared.Options{})
		for i := range 5 {
			n, err := s.Register(idcodec.LookupKey{byte(start), byte(i)}, idcodec.NID{1}, t0)
			if err != nil || (start > 0 || i > 0) && n != last+1 {
				t.Fatalf("start %d, number %d: %d, %v", start, i, n, err)
			}
			last = n
			s.Mark()
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A server with other keys is refused, also epochs later.
func TestOtherKeysAreRefused(t *testing.T) {
	db := &memdb.Conn{Database: memdb.New()}
	keys := func(now uint32, secret int64) shared.Options {
		return shared.Options{Name: "x", Keys: shared.Keyed{Epoch: now, Tag: func(epoch uint32) (int64, error) {
			if epoch < now-10 {
				return 0, idcodec.ErrForgotten
			}
			return secret * int64(epoch), nil
		}}}
	}
	for _, c := range []struct {
		now    uint32
		secret int64
		want   error
	}{{100, 7, nil}, {105, 7, nil}, {105, 8, shared.ErrKeys}, {101, 7, nil}, {112, 8, shared.ErrKeys}, {112, 7, nil}, {200, 8, nil}} {
		if _, err := shared.New(t.Context(), db, keys(c.now, c.secret)); !errors.Is(err, c.want) {
			t.Errorf("epoch %d, keys %d: %v, want %v", c.now, c.secret, err, c.want)
		}
	}
}

// A store that has nothing to write finds out that its database is back all the same.
func TestAnIdleStoreComesBack(t *testing.T) {
	a, _, ca, _ := pair(t)
	var down atomic.Bool
	ca.Fault = func() memdb.Fault {
		if down.Load() {
			return memdb.NotAsked
		}
		return memdb.Answered
	}
	run(t, a)
	time.Sleep(10 * time.Millisecond) // it waits for something to do
	down.Store(true)
	if _, err := a.Lease(leasetest.Lease(1, t0).Addr); !errors.Is(err, shared.ErrAway) || !a.Away() {
		t.Fatalf("%v: the database is not away", err)
	}
	a.Mark()
	down.Store(false)
	for deadline := time.Now().Add(10 * time.Second); a.Away(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is away for ever")
		}
	}
}
