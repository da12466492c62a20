package main

import (
	"testing"
	"time"
)

// What works ahead takes a part of what others leave of the processors, and next to nothing where they
// leave nothing.
func TestWhatWorksAheadTakesWhatIsLeft(t *testing.T) {
	const step = 100 * time.Microsecond
	for _, c := range []struct {
		procs   int
		others  float64 // processors that are busy with other things
		workers int
		want    float64 // of processors, of all workers
	}{
		{1, 0, 1, 1. / aheadPart},
		{1, 0.5, 1, 0.5 / aheadPart},
		{1, 0.9, 1, 0.1 / aheadPart},
		{1, 1, 1, leastIdle / aheadPart},
		{2, 1, 1, 0.5 / aheadPart},
		{8, 0, 4, 4. / aheadPart},
		{8, 4, 4, 2. / aheadPart},
		{8, 8, 4, 4 * leastIdle / aheadPart},
	} {
		var now time.Time
		var used time.Duration
		a := &ahead{procs: c.procs, used: func() time.Duration { return used }, now: func() time.Time { return now }, looked: now, idle: 1}
		if a.workers() != c.workers {
			t.Errorf("of %d processors: %d workers, want %d", c.procs, a.workers(), c.workers)
		}
		pass := func(d time.Duration) {
			now = now.Add(d)
			used += time.Duration(float64(d) * c.others)
		}
		var worked time.Duration // of one, in the second half
		const all = 20 * time.Second
		for now.Sub(time.Time{}) < all {
			pass(step)
			used += step * time.Duration(c.workers)
			for range c.workers - 1 { // they work at the same time
				a.rest(step)
			}
			if now.Sub(time.Time{}) > all/2 {
				worked += step
			}
			pass(a.rest(step))
		}
		if part := worked.Seconds() / (all / 2).Seconds() * float64(c.workers); part < 0.9*c.want || part > 1.1*c.want {
			t.Errorf("%v of %d processors are busy: it takes %.4f of them, want %.4f", c.others, c.procs, part, c.want)
		}
	}
}

// A step that took long, or that somebody else's work had interrupted, is not followed by a rest without end.
func TestARestEnds(t *testing.T) {
	a := newAhead()
	if d := a.rest(time.Hour); d != longest {
		t.Errorf("a rest of %s", d)
	}
	if processorTime() <= 0 {
		t.Error("the processor time is not told")
	}
}
