package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"brightgid/idcodec"
)

// What works ahead takes a part of what others leave of the processors, and next to nothing where they
// leave nothing; of several, where little is ready, all.
func TestWhatWorksAheadTakesWhatIsLeft(t *testing.T) {
	const step = 100 * time.Microsecond
	for _, c := range []struct {
		procs   int
		allowed float64 // of a processor; 0: all
		others  float64 // processors that are busy with other things
		short   bool
		workers int
		want    float64 // of processors, of all workers
	}{
		{1, 0, 0, false, 1, 1. / aheadPart},
		{1, 0, 0.5, false, 1, 0.5 / aheadPart},
		{1, 0, 0.9, false, 1, 0.1 / aheadPart},
		{1, 0, 1, false, 1, leastIdle / aheadPart},
		{2, 0, 1, false, 1, 0.5 / aheadPart},
		{8, 0, 0, false, 7, 7. / aheadPart},
		{8, 0, 4, false, 7, 3.5 / aheadPart},
		{8, 0, 8, false, 7, 7 * leastIdle / aheadPart},

		{1, 0, 0, true, 1, 1. / aheadPart},
		{1, 0, 0.5, true, 1, 0.5 / aheadPart},
		{2, 0, 0, true, 1, 1},
		{2, 0, 1, true, 1, 1},
		{2, 0, 1.5, true, 1, 0.5},
		{8, 0, 0, true, 7, 7},
		{8, 0, 4, true, 7, 4},
		{8, 0, 8, true, 7, 8 * leastIdle},

		{2, 0.125, 0, false, 1, 0.125 / aheadPart},
		{2, 0.125, 0.1, false, 1, 0.025 / aheadPart},
		{2, 1.5, 0.5, false, 1, 1. / 1.5 / aheadPart},
		{2, 0.125, 0, true, 1, 0.125},
		{2, 0.125, 0.1, true, 1, 0.025},
		{2, 64, 1, true, 1, 1},
	} {
		var now time.Time
		var used time.Duration
		a := &ahead{procs: c.procs, allowed: func() float64 { return cmp.Or(c.allowed, math.Inf(1)) }, short: func() bool { return c.short }, used: func() time.Duration { return used }, now: func() time.Time { return now }, looked: now, idle: 1}
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
			t.Errorf("%v of %d processors are busy, it may use %v, little is ready: %t: it takes %.4f of them, want %.4f", c.others, c.procs, c.allowed, c.short, part, c.want)
		}
	}
}

// A step that took long, or that somebody else's work had interrupted, is not followed by a rest without end.
func TestARestEnds(t *testing.T) {
	a := newAhead(func() bool { return false })
	if d := a.rest(time.Hour); d != longest {
		t.Errorf("a rest of %s", d)
	}
	if processorTime() <= 0 {
		t.Error("the processor time is not told")
	}
}

// A step may stand still until the process is given more of the processors; what others used meanwhile is theirs.
func TestAStepThatStoodStill(t *testing.T) {
	const step, period, allowed = 100 * time.Microsecond, 10 * time.Millisecond, 0.125
	var now time.Time
	var used time.Duration
	a := &ahead{procs: 2, allowed: func() float64 { return allowed }, short: func() bool { return true }, used: func() time.Duration { return used }, now: func() time.Time { return now }, looked: now, idle: 1}
	if d := a.rest(step); d != 7*step {
		t.Errorf("of an eighth of a processor that nobody wants: a rest of %s, want %s", d, 7*step)
	}
	for range 100 {
		now = now.Add(period)
		used += time.Duration(allowed * float64(period)) // of which others had all but the step
		d := a.rest(period)
		if now.Sub(time.Time{}) > period && d < 7*step*10 {
			t.Fatalf("where others take nine tenths and more: a rest of %s", d)
		}
	}
	const enough = 20000 // steps of a slower processor, of which each is told as it is in the end
	for range enough {
		a.rest(2 * step)
	}
	if a.step < 2*step {
		t.Errorf("each step took %s, and is believed to have taken %s", 2*step, a.step)
	}
}

// BenchmarkSealedByAllProcessors prints how many EIDs a second one goroutine, as that which handles messages, has
// sealed while nothing is ready but what is made meanwhile, and how many where nothing is. The ratio would be
// the number of processors if the work were the only thing that they do and divided evenly.
func BenchmarkSealedByAllProcessors(b *testing.B) {
	k, _, err := idcodec.Deal(rand.Reader, 1, []string{"a"})
	if err != nil {
		b.Fatal(err)
	}
	eid, err := idcodec.ParseEID("radius:alice")
	if err != nil {
		b.Fatal(err)
	}
	const atOnce = 10_000
	sealing := func(s *idcodec.Sealer) float64 {
		began := time.Now()
		for range atOnce {
			if _, err := s.Seal(eid); err != nil {
				b.Fatal(err)
			}
		}
		return atOnce / time.Since(began).Seconds()
	}
	alone := idcodec.NewSealer(rand.Reader, k, "isp.example", 1)
	var rates, references []float64
	for b.Loop() {
		references = append(references, sealing(alone))
		s := idcodec.NewSealer(rand.Reader, k, "isp.example", sealedAhead)
		a := newAhead(func() bool { return s.Ready() < fewAhead })
		ctx, cancel := context.WithCancel(b.Context())
		var workers sync.WaitGroup
		for range a.workers() {
			workers.Go(func() {
				if err := s.Run(ctx, a.worker()); err != nil {
					b.Error(err)
				}
			})
		}
		rates = append(rates, sealing(s))
		cancel()
		workers.Wait()
	}
	slices.Sort(rates)
	slices.Sort(references)
	rate, reference := rates[len(rates)/2], references[len(references)/2]
	b.ReportMetric(rate, "seals/s")
	b.ReportMetric(reference, "alone/s")
	b.ReportMetric(rate/reference, "÷alone")
}

// A worker sleeps for as long as it has to in the end; of several processors not for less than a millisecond at once.
func TestAWorkerSleepsForWhatItOwes(t *testing.T) {
	for _, c := range []struct {
		procs       int
		first, then time.Duration // of sleep, after a step and after the next
	}{
		{1, 500 * time.Microsecond, 1000 * time.Microsecond},
		{2, 0, 1000 * time.Microsecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &ahead{procs: c.procs, allowed: func() float64 { return math.Inf(1) }, short: func() bool { return false }, used: func() time.Duration { return 0 }, now: time.Now, looked: time.Now(), idle: 1}
			began, rest := time.Now(), a.worker()
			const step = 500 * time.Microsecond / (aheadPart - 1)
			for i, want := range []time.Duration{c.first, c.then} {
				rest(step)
				if got := time.Since(began); got != want {
					t.Errorf("of %d processors: %s of sleep after %d steps, want %s", c.procs, got, i+1, want)
				}
			}
		})
	}
}
