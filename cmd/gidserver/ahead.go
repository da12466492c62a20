package main

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ahead has what works ahead of need rest after each step, for so long that it takes only a part of what the
// process leaves of its processors: much without traffic, and next to nothing where clients want all. Where little
// is ready and the process has several processors, it takes all that is left of them: clients who come
// would else wait for what is not ready, one after the other, while the other processors have nothing to do. It is safe for
// concurrent use.
type ahead struct {
	procs int                  // that the process has
	short func() bool          // little is ready
	used  func() time.Duration // of the processors' time, so far
	now   func() time.Time

	mu     sync.Mutex
	looked time.Time // when idle was measured last
	before time.Duration
	own    time.Duration // what the steps since then took
	idle   float64       // part of the processors that nothing else used
}

// aheadPart: a worker takes a sixth of what is idle of one processor. Where there is but one and all of it is, a step takes less than
// a tenth of a millisecond, and who sleeps for less than a millisecond sleeps for one, so that it is less than a tenth.
const aheadPart = 6

const (
	lookEvery = 10 * time.Millisecond // about as long as a goroutine may have a processor
	leastIdle = 0.04                  // so that it does not stand still
	longest   = 100 * time.Millisecond
)

// newAhead returns one for this process.
func newAhead(short func() bool) *ahead {
	return &ahead{procs: runtime.GOMAXPROCS(0), short: short, used: processorTime, now: time.Now, looked: time.Now(), before: processorTime(), idle: 1}
}

// workers is how many there should be: of several processors one is left, for packets.
func (a *ahead) workers() int { return max(1, a.procs-1) }

// rest returns how long to rest after a step that took so long.
func (a *ahead) rest(took time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.own += took
	if now := a.now(); now.Sub(a.looked) >= lookEvery {
		used := a.used()
		busy := used - a.before - a.own
		a.idle = 1 - busy.Seconds()/now.Sub(a.looked).Seconds()/float64(a.procs)
		a.looked, a.before, a.own = now, used, 0
	}
	idle := min(max(a.idle, leastIdle), 1)
	share := idle / aheadPart
	if a.procs > 1 && a.short() {
		share = min(1, idle*float64(a.procs)/float64(a.workers()))
	}
	return min(time.Duration(float64(took)*(1-share)/share), longest)
}

// leastSleep is about as long as the shortest sleep takes while no other thread looks at the clock.
const leastSleep = time.Millisecond

// worker returns what has one worker sleep after each step that took so long. Of several processors it may have
// one for some steps, so that it does not sleep for longer than it has to.
func (a *ahead) worker() func(took time.Duration) {
	var owed time.Duration
	return func(took time.Duration) {
		if owed += a.rest(took); a.procs == 1 || owed >= leastSleep {
			time.Sleep(owed)
			owed = 0
		}
	}
}

// processorTime is what the process has used.
func processorTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0 // which no kernel says; and then it rests as if there were no traffic
	}
	return time.Duration(t.Nano())
}
