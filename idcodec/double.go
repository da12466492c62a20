package idcodec

import (
	"math/big"

	"github.com/bwesterb/go-ristretto"
	"github.com/bwesterb/go-ristretto/edwards25519"
	"github.com/cloudflare/circl/group"
)

// half is 1/2. To encode an element takes an inverse square root, a third of what its multiplication by a table
// takes; to encode the doubles of many takes one inversion for all, as in curve25519-dalek's
// double_and_compress_batch. So who wants r·P computes (r/2)·P.
var half = suite.NewScalar().Inv(suite.NewScalar().SetUint64(2))

// Constants of edwards25519 (RFC 9496 §4.1). Which of its two square roots 1/√(a−d) is does not matter here.
var (
	fieldD        = edwardsD()
	sqrtMinusOne  = new(edwards25519.FieldElement).SetI()
	invSqrtAMinus = invSqrtAMinusD()
)

func edwardsD() *edwards25519.FieldElement {
	num, den := new(edwards25519.FieldElement).SetBigInt(big.NewInt(121665)), new(edwards25519.FieldElement).SetBigInt(big.NewInt(121666))
	d := new(edwards25519.FieldElement).Mul(num, den.Inverse(den))
	return d.Neg(d)
}

func invSqrtAMinusD() *edwards25519.FieldElement {
	var zero, one, x edwards25519.FieldElement
	zero.SetZero()
	x.Sub(x.Sub(&zero, one.SetOne()), fieldD) // a is −1
	return x.InvSqrt(&x)
}

// double is a point P on the way to the encoding of 2P, which is (e·h : f·g : f·h : e·g) in extended
// coordinates (X : Y : Z : T).
type double struct{ e, f, g, h, eg, fh edwards25519.FieldElement }

func (x *double) set(p *edwards25519.ExtendedPoint) {
	var xx, yy, zz, dtt edwards25519.FieldElement
	xx.Square(&p.X)
	yy.Square(&p.Y)
	zz.Square(&p.Z)
	dtt.Mul(dtt.Square(&p.T), fieldD)
	x.e.Mul(&p.X, x.e.Add(&p.Y, &p.Y))
	x.f.Add(&zz, &dtt)
	x.g.Add(&yy, &xx)
	x.h.Sub(&zz, &dtt)
	x.eg.Mul(&x.e, &x.g)
	x.fh.Mul(&x.f, &x.h)
}

// encode writes the encoding of 2P, given 1/(e·f·g·h). It takes the same time for every point.
func (x *double) encode(dst *[elementLen]byte, inverse *edwards25519.FieldElement) {
	var zInv, tInv, minus, rotated, s, t edwards25519.FieldElement
	zInv.Mul(&x.eg, inverse)
	tInv.Mul(&x.fh, inverse)
	e, g, h, magic := x.e, x.g, x.h, *invSqrtAMinus
	rotate := s.Mul(&x.eg, &zInv).IsNegativeI()
	minus.Neg(&e)
	rotated.Mul(&x.f, sqrtMinusOne)
	e.ConditionalSet(&x.g, rotate)
	g.ConditionalSet(&minus, rotate)
	h.ConditionalSet(&rotated, rotate)
	magic.ConditionalSet(sqrtMinusOne, rotate)
	s.Mul(&h, &e)
	negative := s.Mul(&s, &zInv).IsNegativeI()
	minus.Neg(&g)
	g.ConditionalSet(&minus, negative)
	t.Mul(&g, &tInv)
	t.Mul(&t, &magic)
	s.Sub(&h, &g)
	s.Mul(&s, &t)
	minus.Neg(&s)
	s.ConditionalSet(&minus, s.IsNegativeI())
	s.BytesInto(dst)
}

// encodeDoubles writes the encodings of 2·points[i] into dst[i]. No point may be the identity, of which there
// would be no inverse.
func encodeDoubles(dst []*[elementLen]byte, points []ristretto.Point) {
	doubles := make([]double, len(points))
	before := make([]edwards25519.FieldElement, len(points)) // the product of all before each
	var product, inverse edwards25519.FieldElement
	product.SetOne()
	for i := range points {
		x := &doubles[i]
		x.set((*edwards25519.ExtendedPoint)(&points[i]))
		before[i] = product
		product.Mul(&product, inverse.Mul(&x.eg, &x.fh))
	}
	if product.IsNonZeroI() == 0 {
		panic("idcodec: encoding the identity")
	}
	product.Inverse(&product)
	for i := len(points) - 1; i >= 0; i-- {
		x := &doubles[i]
		x.encode(dst[i], inverse.Mul(&product, &before[i]))
		inverse.Mul(&x.eg, &x.fh)
		product.Mul(&product, &inverse)
	}
	clear(doubles) // one of them may be h^r
}

// halved returns s/2 for the multiplication of points.
func halved(s group.Scalar) (x ristretto.Scalar) {
	h := suite.NewScalar().Mul(s, half)
	if !x.SetBytesStrict((*[scalarLen]byte)(encode(nil, h))) {
		panic("idcodec: a scalar that is not reduced")
	}
	h.SetUint64(0)
	return x
}
