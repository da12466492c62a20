package shared

import (
	"context"
	"errors"
	"time"
)

// Servers that share a database must have one time: a prefix that has run out by one server's clock, which gives it to
// the next subscriber, holds by another's, which has told its client so; and who traces it later by times that are
// wrong finds the wrong one. The database's clock is the one that all can ask. A server whose clock is another answers no
// clients, as if the database were away, until they agree.

// DefaultClock is how far a server's clock may be from the database's if nothing else is said: much more than NTP leaves,
// and so little that nobody misses a prefix which rests for twice as long before it is somebody else's.
const DefaultClock = 5 * time.Second

// clockEvery is how often the database is asked what time it is, besides in each commit.
const clockEvery = time.Second

// ahead returns how far a server's clock is ahead of the database's at the least, and negative how far it is
// behind: what the database said was its time at some moment between when it was asked and when its answer came.
func ahead(asked, said, answered time.Time) time.Duration {
	switch {
	case said.Before(asked):
		return asked.Sub(said)
	case said.After(answered):
		return answered.Sub(said)
	}
	return 0
}

// setting returns what the clock is set to: its time without what has elapsed, which is another when it is set again.
func (s *Store) setting() time.Duration {
	return s.o.Now().Round(0).Sub(time.Unix(0, 0)) - s.o.Elapsed()
}

// set reports whether the clock has been set by more than it may be wrong since it had a setting.
func (s *Store) set(since time.Duration) bool { return (s.setting() - since).Abs() > s.o.Clock }

// Clock returns how far the server's clock is ahead of the database's at the least, or negative behind, as far
// as it is known, and whether it is too far.
func (s *Store) Clock() (ahead time.Duration, wrong bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ahead, s.wrong
}

// CompareClock asks the database what time it is, and returns ErrClock where the server's clock is too far from that.
func (s *Store) CompareClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	asked := s.look()
	said, err := s.db.Now(ctx)
	if err != nil {
		return s.failed(ctx, err)
	}
	return s.compare(asked, said)
}

// moment is what the server's clocks say at one: the one that may be set, and the one that nobody sets.
type moment struct {
	time    time.Time
	elapsed time.Duration
}

func (s *Store) look() moment { return moment{s.o.Now(), s.o.Elapsed()} }

// compare takes notice of what the database said was its time when it was asked, unless it was asked later already, and
// returns ErrClock where the server's is too far from it.
func (s *Store) compare(asked moment, said time.Time) error {
	now := s.o.Now()
	d := ahead(asked.time, said, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if asked.elapsed < s.asked {
		if s.wrong || d.Abs() > s.o.Clock {
			return ErrClock
		}
		return nil
	}
	was := s.wrong
	s.ahead, s.asked = d, asked.elapsed
	if s.wrong = s.ahead.Abs() > s.o.Clock; !s.wrong {
		s.agreed = s.setting()
	}
	switch {
	case s.wrong && (!was || now.Sub(s.complained).Abs() > tellEvery):
		s.complained = now
		s.o.Log.Error("this server's clock is not the lease database's; until they agree its clients get no answers: have both hosts keep time by NTP",
			"ahead_seconds", s.ahead.Seconds(), "allowed_seconds", s.o.Clock.Seconds())
	case was && !s.wrong:
		s.o.Log.Warn("this server's clock is the lease database's again")
	}
	if s.wrong {
		return ErrClock
	}
	return nil
}

// askClock compares the clocks if that was not done of late. The caller holds following.
func (s *Store) askClock(ctx context.Context) error {
	now := s.o.Now()
	if now.Sub(s.compared).Abs() < clockEvery {
		return nil
	}
	if err := s.CompareClock(ctx); err != nil && !errors.Is(err, ErrClock) { // of which who asks for leases is told
		return err
	}
	s.compared = now
	return nil
}
