package main

import (
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"brightgid/internal/cgroup"
)

// ahead has what works ahead of need rest after each step, for so long that it takes only a part of what the
// process leaves of its processors: much without traffic, and next to nothing where clients want all. Where little
// is ready and the process has several processors, it takes all that is left of them: clients who come
// would else wait for what is not ready, one after the other, while the other processors have nothing to do. It is safe for
// concurrent use.
type ahead struct {
	procs   int                  // that the process has
	allowed func() float64       // of how many it may use the time, see cgroup.Processors
	short   func() bool          // little is ready
	used    func() time.Duration // of the processors' time, so far
	now     func() time.Time

	mu     sync.Mutex
	asked  time.Time     // when usable was
	usable float64       // of how many processors it has the time
	looked time.Time     // when idle was measured last
	before time.Duration // what was used then
	own    time.Duration // of that, what the steps since then took
	step   time.Duration // of that, what one takes; see rest
	idle   float64       // part of usable that nothing else used
}

// aheadPart: a worker takes a sixth of what is idle of one processor, or of the part of one that the process may use. Where there
// is but one and all of it is idle, a step takes less than a tenth of a millisecond, and who sleeps for less than a millisecond
// sleeps for one, so that it is less than a tenth.
const aheadPart = 6

const (
	slower    = 1 << 10               // so that it forgets what a faster processor took
	askEvery  = 5 * time.Second       // who runs the process may change what it may use
	lookEvery = 10 * time.Millisecond // about as long as a goroutine may have a processor
	leastIdle = 0.04                  // so that it does not stand still
	longest   = 100 * time.Millisecond
)

// newAhead returns one for this process.
func newAhead(short func() bool) *ahead {
	allowed := func() float64 { return cgroup.Processors(os.DirFS("/")) }
	return &ahead{procs: runtime.GOMAXPROCS(0), allowed: allowed, short: short, used: processorTime, now: time.Now, looked: time.Now(), before: processorTime(), idle: 1}
}

// workers is how many there should be: of several processors one is left, for packets.
func (a *ahead) workers() int { return max(1, a.procs-1) }

// rest returns how long to rest after a step that took so long. All steps are alike: the shortest of late tells what one takes of a
// processor. A longer one stood still meanwhile, since another thread had the processor or the process had used up what it may
// use, and what others used then is not its own.
func (a *ahead) rest(took time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.step += a.step / slower; a.step == 0 || took < a.step {
		a.step = took
	}
	a.own += a.step
	now := a.now()
	if a.usable == 0 || now.Sub(a.asked) >= askEvery {
		a.asked, a.usable = now, min(a.allowed(), float64(a.procs))
	}
	if now.Sub(a.looked) >= lookEvery {
		used := a.used()
		busy := used - a.before - a.own
		a.idle = 1 - busy.Seconds()/now.Sub(a.looked).Seconds()/a.usable
		a.looked, a.before, a.own = now, used, 0
	}
	idle := min(max(a.idle, leastIdle), 1)
	share := idle * min(a.usable, 1) / aheadPart
	if a.procs > 1 && a.short() {
		share = min(1, idle*a.usable/float64(a.workers()))
	}
	return min(time.Duration(float64(a.step)*(1-share)/share), longest)
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
