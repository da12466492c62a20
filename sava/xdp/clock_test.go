package xdp

import (
	"testing"
	"time"
)

func TestRatesAreToldApart(t *testing.T) {
	for _, hz := range rates {
		for _, late := range []float64{-2, 0, 2} { // ticks
			for _, took := range []time.Duration{clockInterval, 3 * clockInterval, 20 * clockInterval} {
				if late != 0 && hz == 100 && took == clockInterval {
					late /= 2 // two of its ticks are a tenth of the interval
				}
				if got := rateOf(uint64(took.Seconds()*hz+late), took); got != hz {
					t.Errorf("%v jiffies a second, %v late in %s: %v", hz, late, took, got)
				}
			}
		}
	}
	if got := rateOf(34, clockInterval); got != 0 {
		t.Errorf("170 jiffies a second are %v", got)
	}
}

func TestJiffiesAndTimesAreOneAnothersInverse(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, hz := range rates {
		c := clock{jiffies: 4294667296 + 12345, at: at, hz: hz} // the kernel begins five minutes before 2^32
		for _, d := range []time.Duration{0, time.Second, time.Hour, 30 * 24 * time.Hour, 136 * 365 * 24 * time.Hour, -time.Minute} {
			tick := time.Duration(float64(time.Second)/hz) + time.Microsecond
			if back := c.timeOf(c.jiffiesAt(at.Add(d))); at.Add(d).Sub(back) < -time.Microsecond || at.Add(d).Sub(back) > tick {
				t.Errorf("%v Hz: %s from now is %s when it comes back", hz, d, back.Sub(at))
			}
		}
	}
}
