package index

import (
	"encoding/binary"

	"github.com/bits-and-blooms/bloom/v3"
)

// gone tells of nearly all that the store does not have that it does not, without asking it. What is
// in the store and not in memory, since it ended long ago, was added; of what was not, one in a hundred
// looks as if it were, for each layer.
//
// It grows with what is added, some layers of Bloom filters each eight times as large as the one
// before, until they have taken 23 MB, for 19 million; then more and more looks as if it were there, and
// the store is asked.
type gone struct {
	layers []*bloom.BloomFilter
	left   int // how many more are for the last layer
}

const (
	goneFirst   = 1 << 15 // how many are for the first layer
	goneLayers  = 4
	goneMistake = 0.01
)

func (g *gone) add(hash uint32) {
	if g.has(hash) {
		return
	}
	if g.left == 0 && len(g.layers) < goneLayers {
		g.left = goneFirst << (3 * len(g.layers))
		g.layers = append(g.layers, bloom.NewWithEstimates(uint(g.left), goneMistake))
	}
	g.left = max(0, g.left-1)
	g.layers[len(g.layers)-1].Add(bytesOf(hash))
}

// has reports whether what a hash is of was added, or something that looks like it.
func (g *gone) has(hash uint32) bool {
	for _, l := range g.layers {
		if l.Test(bytesOf(hash)) {
			return true
		}
	}
	return false
}

func bytesOf(hash uint32) []byte { return binary.BigEndian.AppendUint32(nil, hash) }
