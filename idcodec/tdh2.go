package idcodec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/group"
	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// TDH2 is the threshold cryptosystem of Shoup and Gennaro, "Securing Threshold
// Cryptosystems against Chosen Ciphertext Attack", Journal of Cryptology 15
// (2002), §4, in the group ristretto255 (RFC 9496). Names follow the paper:
// x is the secret, h = g^x, ĝ (gBar) a second generator, and a ciphertext is
// (c, L, u, ū, e, f).
//
// One thing differs: the paper pads the message with H1(h^r); here a key
// derived from h^r encrypts it with an AEAD (nid.go). The proof (e, f) covers
// the AEAD's output in the place of c, as it does in the paper, so that a
// ciphertext is known to be whole before a share is computed on it.

// suite is the group as circl has it, which hashes to it (RFC 9380) and calculates with scalars.
var suite = group.Ristretto255

// element is one of the group's elements as curve25519-voi has it, which multiplies by vectors (AVX2).
type element = curve.RistrettoPoint

const (
	elementLen = 32
	scalarLen  = 32
)

// Domain separation tags for hashing to ristretto255 (RFC 9380 §3.1).
var (
	dstGBar   = []byte("GID-NID-v1 second generator")
	dstRandom = []byte("GID-NID-v1 random scalar")
	dstProof  = []byte("GID-NID-v1 ciphertext proof")
	dstShare  = []byte("GID-NID-v1 share proof")
)

// gBar is the second generator: a point whose discrete logarithm nobody knows,
// since it is a hash.
var gBar = generator(dstGBar)

// gBarExpanded multiplies it in variable time.
var gBarExpanded = curve.NewExpandedRistrettoPoint(gBar)

func generator(dst []byte) *element {
	e := new(element)
	if err := e.UnmarshalBinary(encode(nil, suite.HashToElement([]byte("ristretto255"), dst))); err != nil {
		panic(fmt.Sprintf("idcodec: a hash to ristretto255: %v", err))
	}
	return e
}

var errElement = errors.New("not the encoding of a group element other than the identity")

func parseElement(b []byte) (*element, error) {
	e := new(element)
	if len(b) != elementLen || e.UnmarshalBinary(b) != nil || e.IsIdentity() {
		return nil, errElement
	}
	return e, nil
}

var errScalar = errors.New("not the canonical encoding of a scalar")

func parseScalar(b []byte) (group.Scalar, error) {
	s := suite.NewScalar()
	if len(b) != scalarLen || s.UnmarshalBinary(b) != nil {
		return nil, errScalar
	}
	return s, nil
}

type marshaler interface{ MarshalBinary() ([]byte, error) }

// encode appends an element or a scalar, whose encoding cannot fail.
func encode(b []byte, m marshaler) []byte {
	enc, err := m.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("idcodec: encoding in ristretto255: %v", err))
	}
	return append(b, enc...)
}

// randomScalar draws a uniform scalar from rand: 512 bits hashed to the field,
// since the group's own method takes no source of randomness.
func randomScalar(rand io.Reader) (group.Scalar, error) {
	var seed [64]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	s := suite.HashToScalar(seed[:], dstRandom)
	clear(seed[:])
	if s.IsZero() {
		return nil, errors.New("reading randomness: drew a zero scalar; the source is broken")
	}
	return s, nil
}

// factor returns a scalar as curve25519-voi has it.
func factor(s group.Scalar) *scalar.Scalar {
	b, err := s.MarshalBinary()
	x := scalar.New()
	if err == nil {
		_, err = x.SetCanonicalBytes(b)
	}
	clear(b) // it may be a secret
	if err != nil {
		panic(fmt.Sprintf("idcodec: encoding a scalar of ristretto255: %v", err))
	}
	return x
}

func identity() *element { return curve.NewRistrettoPoint() }

// mul and mulGen take as long whatever the scalar is, which may be a secret.
func mul(e *element, s group.Scalar) *element {
	x := factor(s)
	defer x.Zero()
	return new(element).Mul(e, x)
}

func mulGen(s group.Scalar) *element {
	x := factor(s)
	defer x.Zero()
	return new(element).MulBasepoint(curve.RISTRETTO_BASEPOINT_TABLE, x)
}

func equal(a, b *element) bool { return a.Equal(b) == 1 }

// transcript hashes length-prefixed parts, so that no two lists of parts are
// the same bytes.
func transcript(dst []byte, parts ...[]byte) group.Scalar {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return suite.HashToScalar(b, dst)
}

// kem is the part of a ciphertext that carries h^r and proves that whoever
// made it knew r.
type kem struct {
	u, uBar       *element
	uRaw, uBarRaw []byte // their encodings
	e, f          group.Scalar
}

const kemLen = 2*elementLen + 2*scalarLen

func parseKEM(b []byte) (k kem, err error) {
	if len(b) != kemLen {
		return kem{}, fmt.Errorf("want %d bytes, have %d", kemLen, len(b))
	}
	if k.u, err = parseElement(b[:32]); err != nil {
		return kem{}, fmt.Errorf("u: %w", err)
	}
	if k.uBar, err = parseElement(b[32:64]); err != nil {
		return kem{}, fmt.Errorf("ū: %w", err)
	}
	k.uRaw, k.uBarRaw = b[:32:32], b[32:64:64]
	if k.e, err = parseScalar(b[64:96]); err != nil {
		return kem{}, fmt.Errorf("e: %w", err)
	}
	if k.f, err = parseScalar(b[96:128]); err != nil {
		return kem{}, fmt.Errorf("f: %w", err)
	}
	return k, nil
}

// valid checks the proof: e = H(c, L, u, w, ū, w̄) with w = g^f/u^e and
// w̄ = ĝ^f/ū^e. How long it takes depends on the ciphertext, which is public.
func (k *kem) valid(c, label []byte) bool {
	f, minusE := factor(k.f), factor(k.e)
	minusE.Neg(minusE)
	var w, wBar element
	w.DoubleScalarMulBasepointVartime(minusE, k.u, f)
	wBar.ExpandedMultiscalarMulVartime([]*scalar.Scalar{f}, []*curve.ExpandedRistrettoPoint{gBarExpanded}, []*scalar.Scalar{minusE}, []*element{k.uBar})
	return k.e.IsEqual(challenge(k.uRaw, encode(nil, &w), k.uBarRaw, encode(nil, &wBar), c, label))
}

// challenge is e = H(c, L, u, w, ū, w̄), of elements in their encodings.
func challenge(u, w, uBar, wBar, c, label []byte) group.Scalar {
	return transcript(dstProof, c, label, u, w, uBar, wBar)
}

// decryptionShare is u^x_i with a proof that its logarithm to u is that of the
// trustee's verification key to g.
type decryptionShare struct {
	ui     *element
	ei, fi group.Scalar
}

func newDecryptionShare(rand io.Reader, k *kem, xi group.Scalar, hi *element, index uint16) (decryptionShare, error) {
	si, err := randomScalar(rand)
	if err != nil {
		return decryptionShare{}, err
	}
	d := decryptionShare{ui: mul(k.u, xi)}
	d.ei = d.challenge(k, hi, index, mul(k.u, si), mulGen(si))
	d.fi = suite.NewScalar().Mul(xi, d.ei)
	d.fi.Add(d.fi, si)
	return d, nil
}

// valid checks the proof against the trustee's verification key hi. How long it takes depends on the proof's numbers, which tell
// nothing of what the share is.
func (d *decryptionShare) valid(k *kem, hi *element, index uint16) bool {
	f, minusE := factor(d.fi), factor(d.ei)
	minusE.Neg(minusE)
	var uHat, hHat element
	uHat.MultiscalarMulVartime([]*scalar.Scalar{f, minusE}, []*element{k.u, d.ui})
	hHat.DoubleScalarMulBasepointVartime(minusE, hi, f)
	return d.ei.IsEqual(d.challenge(k, hi, index, &uHat, &hHat))
}

// challenge is the paper's H4(u_i, û_i, ĥ_i), bound to the trustee and to u as
// well.
func (d *decryptionShare) challenge(k *kem, hi *element, index uint16, uHat, hHat *element) group.Scalar {
	return transcript(dstShare, binary.BigEndian.AppendUint16(nil, index), encode(nil, hi), k.uRaw,
		encode(nil, d.ui), encode(nil, uHat), encode(nil, hHat))
}

// lagrange returns the coefficient at 0 of the share with the given index among
// indices, which are distinct and not zero.
func lagrange(index uint16, indices []uint16) group.Scalar {
	num, den := suite.NewScalar().SetUint64(1), suite.NewScalar().SetUint64(1)
	xi := suite.NewScalar().SetUint64(uint64(index))
	for _, j := range indices {
		if j == index {
			continue
		}
		xj := suite.NewScalar().SetUint64(uint64(j))
		num.Mul(num, xj)
		den.Mul(den, suite.NewScalar().Sub(xj, xi))
	}
	return num.Mul(num, den.Inv(den))
}
