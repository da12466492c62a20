package index

import (
	"math/rand/v2"
	"testing"
)

// What was added is always told; of what was not, few look as if they were, until more was added than there
// is room for.
func TestGone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var g gone
	if g.has(1) {
		t.Error("nothing was added, and has something")
	}
	const first = 20 * goneFirst
	added := make(map[uint32]bool)
	for len(added) < first {
		h := rng.Uint32()
		added[h] = true
		g.add(h)
	}
	for h := range added {
		if !g.has(h) {
			t.Fatalf("%x was added and is not there", h)
		}
	}
	if len(g.layers) != 3 {
		t.Errorf("%d layers for %d", len(g.layers), first)
	}
	wrong := 0
	const strangers = 100_000
	for n := 0; n < strangers; {
		if h := rng.Uint32(); !added[h] {
			n++
			if g.has(h) {
				wrong++
			}
		}
	}
	if most := float64(strangers*len(g.layers)) * goneMistake * 1.1; float64(wrong) > most || wrong == 0 {
		t.Errorf("%d of %d strangers look as if they had been added", wrong, strangers)
	}
}

// There are only so many layers, whatever is added; it goes to the last.
func TestGoneTakesNoMoreThanItMay(t *testing.T) {
	var g gone
	for n := range uint32(goneLayers) {
		g.left = 0
		g.add(n)
	}
	size := 0
	for _, l := range g.layers {
		size += int(l.Cap()) / 8
	}
	if len(g.layers) != goneLayers || size > 23<<20 {
		t.Errorf("%d layers of %d bytes together", len(g.layers), size)
	}
	g.left = 0
	g.add(12345)
	if len(g.layers) != goneLayers || !g.layers[goneLayers-1].Test(bytesOf(12345)) {
		t.Errorf("%d layers, and the last was not added to", len(g.layers))
	}
}
