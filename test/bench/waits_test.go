//go:build e2e

package bench

import (
	"slices"
	"testing"
	"time"
)

// Who comes while a sync is under way waits for what is left of it and for the next.
func TestWaits(t *testing.T) {
	const µs = time.Microsecond
	for _, c := range []struct{ syncs, want []time.Duration }{
		{[]time.Duration{20 * µs, 10 * µs, 30 * µs}, []time.Duration{20 * µs, 30 * µs, 40 * µs}},
		{[]time.Duration{10 * µs, 500 * µs}, []time.Duration{510 * µs}},
		{[]time.Duration{500 * µs}, nil},
	} {
		if got := waits(c.syncs); !slices.Equal(got, c.want) {
			t.Errorf("syncs of %v: %v, want %v", c.syncs, got, c.want)
		}
	}
}
