package main

import (
	"testing"
	"time"
)

// Reading leases into memory takes a third of the time at most, whatever lies between two steps, and no client waits for
// one step longer than is allowed.
func TestReadFor(t *testing.T) {
	for _, since := range []time.Duration{0, time.Microsecond, breath, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, time.Second, time.Hour} {
		d := readFor(since)
		if 2*d > since || d > longestRead || d < min(since/2, longestRead) {
			t.Errorf("%v after %v", d, since)
		}
	}
}
