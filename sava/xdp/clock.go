package xdp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
)

// clock translates between times and the kernel's jiffies, by which bindings end
// there. Both follow the monotonic clock, and so does the difference of two times.
type clock struct {
	jiffies uint64
	at      time.Time
	hz      float64 // jiffies a second
}

// rates are the values of CONFIG_HZ (kernel/Kconfig.hz).
var rates = []float64{100, 250, 300, 1000}

// clockInterval is long enough to tell the rates apart when a tick or two come
// late.
const clockInterval = 200 * time.Millisecond

// readClock learns the kernel's clock from gid_clock.
func readClock(prog *ebpf.Program) (c clock, err error) {
	read := func() (jiffies, nanoseconds uint64, err error) {
		out := make([]byte, 64)
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64), DataOut: out}); err != nil {
			return 0, 0, fmt.Errorf("the kernel's clock cannot be read: %w", err)
		}
		return binary.NativeEndian.Uint64(out), binary.NativeEndian.Uint64(out[8:]), nil
	}
	j0, t0, err := read()
	if err != nil {
		return c, err
	}
	time.Sleep(clockInterval)
	j1, t1, err := read()
	if err != nil {
		return c, err
	}
	c = clock{jiffies: j1, at: time.Now()}
	if c.hz = rateOf(j1-j0, time.Duration(t1-t0)); c.hz == 0 {
		return c, fmt.Errorf("the kernel's clock counts %d jiffies in %s, which is no rate of Linux's", j1-j0, time.Duration(t1-t0))
	}
	return c, nil
}

// rateOf returns the rate that so many jiffies in a time are nearest to; 0 for
// none.
func rateOf(jiffies uint64, in time.Duration) float64 {
	measured, best, off := float64(jiffies)/in.Seconds(), 0.0, 0.1
	for _, hz := range rates {
		if d := math.Abs(measured/hz - 1); d < off {
			best, off = hz, d
		}
	}
	return best
}

// jiffiesAt returns what the kernel's clock shows at a time, or shows last before.
func (c *clock) jiffiesAt(t time.Time) uint64 {
	return uint64(max(0, float64(c.jiffies)+math.Floor(t.Sub(c.at).Seconds()*c.hz)))
}

// timeOf returns when the kernel's clock shows so many jiffies.
func (c *clock) timeOf(jiffies uint64) time.Time {
	return c.at.Add(time.Duration((float64(jiffies) - float64(c.jiffies)) / c.hz * float64(time.Second)))
}
