package idcodec

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// Elements come from one library and scalars from another: both have to take the same encodings for elements, those
// that no element has included (RFC 9496 §4.3.1), and come to the same products.
func TestBothLibrariesHaveOneGroup(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{9})
	var candidates [][]byte
	for i := range 4000 {
		b := make([]byte, elementLen)
		_, _ = rng.Read(b)
		if i%4 > 0 {
			b[0] &^= 1   // not negative
			b[31] &= 127 // below 2^255
		}
		candidates = append(candidates, b)
	}
	for i := range uint64(40) { // about 0, and about p = 2^255 − 19
		small, large := make([]byte, elementLen), bytes.Repeat([]byte{0xff}, elementLen)
		binary.LittleEndian.PutUint64(small, i)
		binary.LittleEndian.PutUint64(large, -i-1)
		large[31] = 0x7f
		candidates = append(candidates, small, large)
	}
	taken := 0
	for _, b := range candidates {
		theirs := suite.NewElement()
		want := theirs.UnmarshalBinary(b) == nil && !theirs.IsIdentity()
		ours, err := parseElement(b)
		if (err == nil) != want {
			t.Fatalf("%x: %v, and for the other library %t", b, err, want)
		}
		if err != nil {
			continue
		}
		taken++
		s, err := randomScalar(rng)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := encode(nil, mul(ours, s)), encode(nil, suite.NewElement().Mul(theirs, s)); !bytes.Equal(got, want) {
			t.Fatalf("%x times %v is %x, and for the other library %x", b, s, got, want)
		}
		if got, want := encode(nil, mulGen(s)), encode(nil, suite.NewElement().MulGen(s)); !bytes.Equal(got, want) {
			t.Fatalf("the generator times %v is %x, and for the other library %x", s, got, want)
		}
	}
	if taken < 100 || taken > len(candidates)-100 {
		t.Errorf("%d of %d are elements", taken, len(candidates))
	}
}
