package idcodec

import (
	"crypto/rand"
	"testing"

	"github.com/bwesterb/go-ristretto"
	"github.com/bwesterb/go-ristretto/edwards25519"
)

// Whatever the points, and whichever of the points on the curve stands for each, the encodings of their doubles
// are those that the library writes.
func TestDoublesAreEncodedAsTheLibraryDoes(t *testing.T) {
	torsion := []func(*edwards25519.ExtendedPoint) *edwards25519.ExtendedPoint{
		(*edwards25519.ExtendedPoint).SetZero, (*edwards25519.ExtendedPoint).SetTorsion1, (*edwards25519.ExtendedPoint).SetTorsion2, (*edwards25519.ExtendedPoint).SetTorsion3,
	}
	for n := range 200 {
		points := make([]ristretto.Point, n%7)
		got := make([][elementLen]byte, len(points))
		var dst []*[elementLen]byte
		for i := range points {
			var p ristretto.Point
			switch n % 3 {
			case 0:
				p.Rand()
			case 1:
				p.SetBase()
			default:
				var x ristretto.Scalar
				p.ScalarMultBase(x.SetUint64(uint64(n)))
			}
			var other edwards25519.ExtendedPoint
			torsion[(n+i)%len(torsion)](&other)
			e := (*edwards25519.ExtendedPoint)(&points[i])
			e.Add((*edwards25519.ExtendedPoint)(&p), &other)
			dst = append(dst, &got[i])
		}
		encodeDoubles(dst, points)
		for i := range points {
			var want [elementLen]byte
			new(ristretto.Point).Add(&points[i], &points[i]).BytesInto(&want)
			if got[i] != want {
				t.Fatalf("point %d of %d: %x, want %x", i, len(points), got[i], want)
			}
		}
	}
}

func TestHalves(t *testing.T) {
	for range 100 {
		s, err := randomScalar(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		x := halved(s)
		var got [scalarLen]byte
		x.Add(&x, &x).BytesInto(&got)
		if string(got[:]) != string(encode(nil, s)) {
			t.Fatalf("twice the half of %x is %x", encode(nil, s), got)
		}
	}
}

func TestTheIdentityIsNotEncoded(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the identity was encoded among others, all of which would be wrong")
		}
	}()
	points := make([]ristretto.Point, 2)
	points[0].SetBase()
	points[1].SetZero()
	var a, b [elementLen]byte
	encodeDoubles([]*[elementLen]byte{&a, &b}, points)
}
