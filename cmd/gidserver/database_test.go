package main

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Leases are read for a third of the time, and no longer at once than is allowed, however long a call takes and whatever
// lies between two steps: but where that is long, less.
func TestReadBeside(t *testing.T) {
	for _, c := range []struct {
		call, wait  time.Duration // that a call of read takes, and a step waits for its turn
		least, most float64       // of the time
	}{
		{20 * time.Microsecond, 0, 0.2, 1. / 3},
		{150 * time.Microsecond, 0, 0.3, 1. / 3},
		{time.Millisecond, 0, 0.3, 1. / 3},
		{20 * time.Microsecond, time.Millisecond, 0.3, 1. / 3},
		{150 * time.Microsecond, time.Millisecond, 0.25, 1. / 3},
		{20 * time.Microsecond, 20 * time.Millisecond, 0.08, 0.1},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var reading, longest time.Duration
			do := func(f func()) {
				time.Sleep(c.wait)
				start := time.Now()
				f()
				took := time.Since(start)
				reading, longest = reading+took, max(longest, took)
			}
			left := 10_000
			err := readBeside(t.Context(), do, func(time.Time) (bool, error) {
				time.Sleep(c.call)
				left--
				return left > 0, nil
			})
			if err != nil || left != 0 {
				t.Fatalf("%+v: %d calls are left, %v", c, left, err)
			}
			if part := reading.Seconds() / time.Since(began).Seconds(); part < c.least || part > c.most+0.001 || longest > longestRead {
				t.Errorf("%+v: %.3f of the time, up to %v at once", c, part, longest)
			}
		})
	}
	failed := errors.New("the disk")
	if err := readBeside(t.Context(), func(f func()) { f() }, func(time.Time) (bool, error) { return true, failed }); err != failed {
		t.Errorf("a read that fails: %v", err)
	}
}
