package shared_test

import (
	"errors"
	"testing"
	"time"

	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/shared"
	"brightgid/lease/shared/memdb"
)

// clocks are a database's and those of two servers, which may be set, and one that nobody sets.
type clocks struct {
	db, a, b time.Time
	elapsed  time.Duration
}

func (c *clocks) pass(d time.Duration) {
	c.db, c.a, c.b, c.elapsed = c.db.Add(d), c.a.Add(d), c.b.Add(d), c.elapsed+d
}

// clocked returns two servers of one database whose clocks are right.
func clocked(t *testing.T) (c *clocks, a, b *shared.Store, ca, cb *memdb.Conn) {
	c = &clocks{db: t0, a: t0, b: t0}
	elapsed := func() time.Duration { return c.elapsed }
	db := memdb.New()
	db.Clock = func() time.Time { return c.db }
	ca, cb = &memdb.Conn{Database: db}, &memdb.Conn{Database: db}
	return c, attach(t, ca, shared.Options{Name: "a", Offline: true, Now: func() time.Time { return c.a }, Elapsed: elapsed}),
		attach(t, cb, shared.Options{Name: "b", Now: func() time.Time { return c.b }, Elapsed: elapsed}), ca, cb
}

// A server whose clock is too far from the database's writes nothing, whether that is found out before or only
// when it writes, and reads nothing that clients are answered by; the others go on, and it does when its clock is right.
func TestAServerWithAnotherTimeIsRefused(t *testing.T) {
	for _, by := range []time.Duration{shared.DefaultClock + time.Millisecond, -shared.DefaultClock - time.Millisecond, 365 * 24 * time.Hour, -time.Hour} {
		for _, first := range []string{"commit", "look"} {
			c, a, b, _, _ := clocked(t)
			kept, l, other := leasetest.Lease(1, t0), leasetest.Lease(2, t0), leasetest.Lease(3, t0)
			if err := apply(t, a, put(kept)); err != nil {
				t.Fatal(err)
			}
			c.pass(time.Minute)
			c.a = c.a.Add(by)
			if first == "look" {
				if err := a.Follow(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			a.Mark()
			if err := a.Apply(put(l)); (err == nil) != (first == "commit") || err != nil && !errors.Is(err, shared.ErrClock) {
				t.Errorf("%s, %s: %v", by, first, err)
			}
			m := a.Mark()
			err := a.Flush(t.Context())
			if first == "commit" && (!errors.Is(err, shared.ErrClock) || !errors.Is(m.Wait(), shared.ErrClock)) {
				t.Errorf("%s: %v, want ErrClock", by, err)
			}
			if ahead, wrong := a.Clock(); !wrong || ahead != by {
				t.Errorf("%s, %s: the clock is %s ahead, wrong: %t", by, first, ahead, wrong)
			}
			if _, err := a.Lease(kept.Addr); !errors.Is(err, shared.ErrClock) || !errors.Is(err, lease.ErrAway) {
				t.Errorf("%s, %s: what is in memory: %v, want ErrClock, which is an ErrAway", by, first, err)
			}
			if _, err := b.Direct().Lease(l.Addr); !errors.Is(err, lease.ErrNotFound) {
				t.Errorf("%s, %s: what was refused: %v", by, first, err)
			}
			if err := apply(t, b, put(other)); err != nil {
				t.Errorf("%s, %s: the other server: %v", by, first, err)
			}
			if got, err := a.Direct().Lease(kept.Addr); err != nil || got.Subscriber != kept.Subscriber {
				t.Errorf("%s, %s: what the database is asked for directly: %v", by, first, err)
			}
			// It is a little off, as all are.
			c.pass(time.Minute)
			c.a = c.db.Add(shared.DefaultClock)
			if err := a.Follow(t.Context()); err != nil {
				t.Fatal(err)
			}
			a.Mark()
			if err := apply(t, a, put(l)); err != nil {
				t.Errorf("%s, %s: when the clock is right: %v", by, first, err)
			}
			if _, wrong := a.Clock(); wrong {
				t.Errorf("%s, %s: the clock is wrong still", by, first)
			}
		}
	}
}

// However long the database's answer takes, a clock is not held for wrong by that.
func TestASlowDatabaseIsNotAnotherTime(t *testing.T) {
	c, a, _, ca, _ := clocked(t)
	ca.Fault = func() memdb.Fault { // an hour passes before the answer, and the database's clock was right at some time in it
		c.db = c.a.Add(30 * time.Minute)
		c.a, c.elapsed = c.a.Add(time.Hour), c.elapsed+time.Hour
		return memdb.Answered
	}
	if err := apply(t, a, put(leasetest.Lease(1, t0))); err != nil {
		t.Errorf("%v", err)
	}
	if ahead, wrong := a.Clock(); ahead != 0 || wrong {
		t.Errorf("the clock is %s ahead, wrong: %t", ahead, wrong)
	}
}

// What was promised while the database was away is kept for when the clock is right, and nothing else is.
func TestPromisesOutliveAWrongClock(t *testing.T) {
	c, a, b, ca, _ := clocked(t)
	l := leasetest.Lease(1, t0)
	if err := apply(t, a, put(l)); err != nil {
		t.Fatal(err)
	}
	ca.Fault = func() memdb.Fault { return memdb.NotAsked }
	longer := l
	longer.ValidUntil = l.ValidUntil.Add(time.Hour)
	if err := apply(t, a, put(longer)); err != nil {
		t.Fatalf("it is not promised: %v", err)
	}
	ca.Fault = nil
	c.a = c.a.Add(-time.Hour)
	for range 3 {
		if err := a.Flush(t.Context()); !errors.Is(err, shared.ErrClock) {
			t.Errorf("%v, want ErrClock", err)
		}
	}
	if units, _ := a.Waiting(); units != 1 {
		t.Errorf("%d messages' changes wait, want 1", units)
	}
	c.a = c.db
	for range 2 {
		if err := a.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := b.Direct().Lease(l.Addr); err != nil || !got.ValidUntil.Equal(longer.ValidUntil) {
		t.Errorf("it ends at %s, %v; want %s", got.ValidUntil, err, longer.ValidUntil)
	}
	if units, renewals := a.Waiting(); units+renewals > 0 || a.Away() {
		t.Errorf("%d and %d wait, away: %t", units, renewals, a.Away())
	}
}

// What was decided by a clock that has been set since is not written, though the clock is right now.
func TestWhatAWrongClockDecidedIsNotWritten(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		c, a, b, _, _ := clocked(t)
		l := leasetest.Lease(1, t0)
		c.a = c.a.Add(by)
		if err := a.Apply(put(l)); err != nil {
			t.Fatal(err)
		}
		c.a = c.db
		m := a.Mark()
		if err := a.Flush(t.Context()); !errors.Is(err, shared.ErrClock) || !errors.Is(m.Wait(), shared.ErrClock) {
			t.Errorf("by a clock that was %s ahead: %v, want ErrClock", by, err)
		}
		if _, err := b.Direct().Lease(l.Addr); !errors.Is(err, lease.ErrNotFound) {
			t.Errorf("by a clock that was %s ahead: %v", by, err)
		}
		if err := apply(t, a, put(l)); err != nil {
			t.Errorf("by the clock that is right: %v", err)
		}
	}
}

// While the database is away nothing is promised by a clock that has been set since they agreed.
func TestNothingIsPromisedByAClockThatWasSet(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		c, a, _, ca, _ := clocked(t)
		l := leasetest.Lease(1, t0)
		if err := apply(t, a, put(l)); err != nil {
			t.Fatal(err)
		}
		ca.Fault = func() memdb.Fault { return memdb.NotAsked }
		extend := func() error {
			l.ValidUntil = l.ValidUntil.Add(time.Minute)
			return apply(t, a, put(l))
		}
		if err := extend(); err != nil || !a.CutOff() {
			t.Fatalf("it is not promised: %v", err)
		}
		c.a = c.a.Add(by)
		if _, err := a.Lease(l.Addr); !errors.Is(err, shared.ErrClock) {
			t.Errorf("set by %s: what is in memory: %v", by, err)
		}
		a.Mark()
		c.a = c.a.Add(-by)
		if err := a.Apply(put(l)); err != nil {
			t.Fatal(err)
		}
		c.a = c.a.Add(by) // after it was decided
		if err := a.Mark().Wait(); !errors.Is(err, lease.ErrAway) {
			t.Errorf("set by %s: promised: %v", by, err)
		}
		c.a = c.a.Add(-by)
		if err := extend(); err != nil {
			t.Errorf("as it was: %v", err)
		}
	}
}

// A clock that was set and that the database's agrees with is right from then on, also while the database is away.
func TestAClockThatWasSetRight(t *testing.T) {
	c, a, _, ca, _ := clocked(t)
	l := leasetest.Lease(1, t0)
	if err := apply(t, a, put(l)); err != nil {
		t.Fatal(err)
	}
	c.a, c.db = c.a.Add(time.Hour), c.db.Add(time.Hour)
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	ca.Fault = func() memdb.Fault { return memdb.NotAsked }
	for range 2 { // when it is found out, and when it is known
		l.ValidUntil = l.ValidUntil.Add(time.Minute)
		if err := apply(t, a, put(l)); err != nil {
			t.Errorf("it is not promised: %v", err)
		}
	}
}

// The answer to an earlier question that comes after that to a later one changes nothing.
func TestAnOldAnswerIsNotTheTime(t *testing.T) {
	c, a, _, ca, _ := clocked(t)
	if err := a.Apply(put(leasetest.Lease(1, t0))); err != nil {
		t.Fatal(err)
	}
	m := a.Mark()
	ca.Fault = func() memdb.Fault { // of what Follow asks first: meanwhile a commit learns that the clock is wrong
		ca.Fault = nil
		c.pass(time.Millisecond)
		c.db = c.db.Add(time.Hour)
		if err := a.Flush(t.Context()); !errors.Is(err, shared.ErrClock) || !errors.Is(m.Wait(), shared.ErrClock) {
			t.Errorf("the commit: %v, want ErrClock", err)
		}
		c.db = c.db.Add(-time.Hour)
		return memdb.Answered
	}
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ahead, wrong := a.Clock(); !wrong || ahead != -time.Hour {
		t.Errorf("the clock is %s ahead, wrong: %t; want what the commit learned", ahead, wrong)
	}
}

// A server that runs finds out by itself that its clock is wrong, and that it is right again.
func TestAClockIsLookedAt(t *testing.T) {
	c, a, _, _, _ := clocked(t)
	looks := func(want bool) {
		t.Helper()
		c.pass(time.Second)
		if err := a.Follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, wrong := a.Clock(); wrong != want {
			t.Errorf("wrong: %t, want %t", wrong, want)
		}
	}
	looks(false)
	c.a = c.a.Add(-time.Hour)
	looks(true)
	looks(true)
	c.a = c.db
	looks(false)
}
