package idcodec

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
	"golang.org/x/crypto/chacha20poly1305"
)

// bases multiply the fixed elements g, h and ĝ by a scalar.
type bases struct {
	g, h, gBar func(*element, *scalar.Scalar)
}

// ephemeral is what an NID needs that does not depend on what is sealed: the scalars r and
// s of TDH2 and all their multiples, in their encodings, so that many kept ready take little
// memory, and the AEAD's key from h^r. It is used once.
type ephemeral struct {
	r, s             [scalarLen]byte
	u, uBar, w, wBar [elementLen]byte
	key              [chacha20poly1305.KeySize]byte
}

func newEphemeral(rand io.Reader, k *EscrowKey, b bases) (*ephemeral, error) {
	e := new(ephemeral)
	var x, y scalar.Scalar // r and s
	defer x.Zero()
	defer y.Zero()
	if err := drawScalar(rand, &e.r, &x); err != nil {
		return nil, err
	}
	if err := drawScalar(rand, &e.s, &y); err != nil {
		return nil, err
	}
	var p element
	var hr curve.CompressedRistretto
	for _, m := range []struct {
		base   func(*element, *scalar.Scalar)
		by     *scalar.Scalar
		result *curve.CompressedRistretto
	}{
		{b.h, &x, &hr},
		{b.g, &x, (*curve.CompressedRistretto)(&e.u)},
		{b.g, &y, (*curve.CompressedRistretto)(&e.w)},
		{b.gBar, &x, (*curve.CompressedRistretto)(&e.uBar)},
		{b.gBar, &y, (*curve.CompressedRistretto)(&e.wBar)},
	} {
		m.base(&p, m.by) // the last is no secret
		m.result.SetRistrettoPoint(&p)
	}
	key, err := boxKey(k.nidHeader(), e.u[:], hr[:])
	clear(hr[:])
	if err != nil {
		return nil, err
	}
	copy(e.key[:], key)
	clear(key)
	return e, nil
}

// drawScalar draws a uniform scalar and writes its encoding.
func drawScalar(rand io.Reader, encoded *[scalarLen]byte, x *scalar.Scalar) error {
	r, err := randomScalar(rand)
	if err != nil {
		return err
	}
	encode(encoded[:0], r)
	r.SetUint64(0)
	_, err = x.SetCanonicalBytes(encoded[:])
	return err
}

// seal makes the NID: what the AEAD makes of the EID, and the proof that u and ū have the
// same logarithm r to g and ĝ.
func (e *ephemeral) seal(k *EscrowKey, label string, eid EID) (NID, error) {
	defer e.forget()
	header := k.nidHeader()
	padded := padEID(eid)
	box, err := sealBox(header, label, e.key[:], padded)
	clear(padded)
	if err != nil {
		return nil, err
	}
	r, err1 := parseScalar(e.r[:])
	s, err2 := parseScalar(e.s[:])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	proof := challenge(e.u[:], e.w[:], e.uBar[:], e.wBar[:], box, headerLabel(header, label))
	f := suite.NewScalar().Mul(r, proof)
	f.Add(f, s)
	r.SetUint64(0)
	s.SetUint64(0)
	n := append(append(header, e.u[:]...), e.uBar[:]...)
	return append(encode(encode(n, proof), f), box...), nil
}

// forget erases what would open the NID.
func (e *ephemeral) forget() {
	clear(e.key[:])
	clear(e.r[:])
	clear(e.s[:])
}

// tableOf returns the multiplication of one element by a table of its multiples.
func tableOf(e *element) func(*element, *scalar.Scalar) {
	return byTable(curve.NewRistrettoBasepointTable(e))
}

func byTable(table *curve.RistrettoBasepointTable) func(*element, *scalar.Scalar) {
	return func(product *element, s *scalar.Scalar) { product.MulBasepoint(table, s) }
}

// multiplesOf returns the multiplication of one element.
func multiplesOf(e *element) func(*element, *scalar.Scalar) {
	return func(product *element, s *scalar.Scalar) { product.Mul(e, s) }
}

// Sealer seals many EIDs to one escrow key under one label. It has the part of the work
// that does not depend on the EID done beforehand while [Sealer.Run] runs, so that Seal
// costs a tenth. It is safe for concurrent use if its source of randomness is.
type Sealer struct {
	k     *EscrowKey
	label string
	rand  io.Reader
	bases bases
	spare chan *ephemeral
}

// NewSealer returns a sealer that keeps so many ephemeral parts ready.
func NewSealer(rand io.Reader, k *EscrowKey, label string, spare int) *Sealer {
	return &Sealer{k, label, rand, bases{byTable(curve.RISTRETTO_BASEPOINT_TABLE), tableOf(k.h), tableOf(gBar)}, make(chan *ephemeral, spare)}
}

// Seal is [SealNID].
func (s *Sealer) Seal(eid EID) (NID, error) {
	if err := checkSeal(s.label, eid); err != nil {
		return nil, err
	}
	select {
	case e := <-s.spare:
		return e.seal(s.k, s.label, eid)
	default:
	}
	e, err := newEphemeral(s.rand, s.k, s.bases)
	if err != nil {
		return nil, err
	}
	return e.seal(s.k, s.label, eid)
}

// Ready returns how many ephemeral parts are ready.
func (s *Sealer) Ready() int { return len(s.spare) }

// Run makes ephemeral parts until the context ends, and then erases those that are left. It calls
// rest after each, with what it took, so that what else the processor has to do need not wait until the
// scheduler takes it away, which is after 10 ms. Several may run at once.
func (s *Sealer) Run(ctx context.Context, rest func(took time.Duration)) error {
	for ctx.Err() == nil {
		began := time.Now()
		e, err := newEphemeral(s.rand, s.k, s.bases)
		if err != nil {
			return err
		}
		took := time.Since(began)
		select {
		case s.spare <- e:
		case <-ctx.Done():
			e.forget()
		}
		rest(took)
	}
	for {
		select {
		case e := <-s.spare:
			e.forget()
		default:
			return nil
		}
	}
}
