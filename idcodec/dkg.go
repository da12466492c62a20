package idcodec

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/group"
)

// What trustees need to make an escrow key without a dealer: the distributed key
// generation of Gennaro, Jarecki, Krawczyk and Rabin, "Secure Distributed Key
// Generation for Discrete-Log Based Cryptosystems", Journal of Cryptology 20 (2007),
// §4, and the resharing of Desmedt and Jajodia. Who sends what to whom, and who is
// believed, is the work of package ceremony; here is the arithmetic.
//
// Each dealer i has a polynomial f_i and a blinding one f'_i, commits to their
// coefficients by g^a·k^b (Pedersen), and gives trustee j the sub-share f_i(j), f'_i(j).
// Then each shows g^a (Feldman). The secret is the sum of all f_i(0).

// kBlind is the generator of the blinding part, whose logarithm nobody knows.
var kBlind = generator([]byte("GID-DKG-v1 blinding generator"))

// Dealer is a dealer's secret: a polynomial, and in a key generation a blinding one.
// Nothing prints it.
type Dealer struct{ f, blind []group.Scalar }

// String and GoString return a placeholder.
func (d *Dealer) String() string   { return "[dealer's secret withheld]" }
func (d *Dealer) GoString() string { return d.String() }

// NewDealer draws a dealer's polynomials for a key generation with a threshold.
func NewDealer(rand io.Reader, threshold int) (*Dealer, error) {
	if threshold < 1 || threshold > MaxTrustees {
		return nil, fmt.Errorf("threshold %d: want 1 to %d", threshold, MaxTrustees)
	}
	d := &Dealer{}
	var err error
	if d.f, err = randomScalars(rand, threshold); err != nil {
		return nil, err
	}
	d.blind, err = randomScalars(rand, threshold)
	return d, err
}

// NewRedealer draws a polynomial, for a new threshold, that deals a trustee's share
// out again. It needs no blinding, since what it deals is not chosen.
func NewRedealer(rand io.Reader, threshold int, s *Share) (*Dealer, error) {
	if threshold < 1 || threshold > MaxTrustees {
		return nil, fmt.Errorf("threshold %d: want 1 to %d", threshold, MaxTrustees)
	}
	f, err := randomScalars(rand, threshold)
	if err != nil {
		return nil, err
	}
	f[0] = s.xi.Copy()
	return &Dealer{f: f}, nil
}

func randomScalars(rand io.Reader, n int) ([]group.Scalar, error) {
	out := make([]group.Scalar, n)
	for i := range out {
		var err error
		if out[i], err = randomScalar(rand); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// eval returns the value of a polynomial at an index, by Horner's rule.
func eval(f []group.Scalar, index uint16) group.Scalar {
	x := suite.NewScalar().SetUint64(uint64(index))
	y := suite.NewScalar()
	for i := len(f) - 1; i >= 0; i-- {
		y.Mul(y, x)
		y.Add(y, f[i])
	}
	return y
}

// SubShare is what a dealer gives one trustee: f(j), and f'(j) in a key generation.
// Nothing prints it.
type SubShare struct{ value, blind group.Scalar }

// String and GoString return a placeholder.
func (s SubShare) String() string   { return "[sub-share withheld]" }
func (s SubShare) GoString() string { return s.String() }

// SubShareLen is the length in bytes of a sub-share: f(j) ‖ f'(j), little-endian as
// ristretto255 encodes scalars.
const SubShareLen = 2 * scalarLen

// MarshalBinary returns the sub-share, which is a secret.
func (s SubShare) MarshalBinary() ([]byte, error) {
	return encode(encode(nil, s.value), s.blind), nil
}

// ParseSubShare reads what MarshalBinary wrote.
func ParseSubShare(b []byte) (s SubShare, err error) {
	if len(b) != SubShareLen {
		return s, fmt.Errorf("%w: a sub-share of %d bytes", ErrShare, len(b))
	}
	v, err1 := parseScalar(b[:scalarLen])
	w, err2 := parseScalar(b[scalarLen:])
	if err1 != nil || err2 != nil {
		return s, fmt.Errorf("%w: a sub-share with a number that is none", ErrShare)
	}
	return SubShare{v, w}, nil
}

// SubShare returns what the trustee with an index gets.
func (d *Dealer) SubShare(index uint16) SubShare {
	s := SubShare{value: eval(d.f, index), blind: suite.NewScalar()}
	if d.blind != nil {
		s.blind = eval(d.blind, index)
	}
	return s
}

// Commitments are commitments to the coefficients of a polynomial, from the constant
// one on. As JSON they are an array of group elements in base64.
type Commitments []*element

// Commitments returns what the dealer publishes first: g^a·k^b for each coefficient,
// or g^a where there is no blinding.
func (d *Dealer) Commitments() Commitments {
	c := d.Reveal()
	for i := range d.blind {
		c[i].Add(c[i], mul(kBlind, d.blind[i]))
	}
	return c
}

// Reveal returns g^a for each coefficient.
func (d *Dealer) Reveal() Commitments {
	c := make(Commitments, len(d.f))
	for i, a := range d.f {
		c[i] = mulGen(a)
	}
	return c
}

// MarshalJSON implements json.Marshaler.
func (c Commitments) MarshalJSON() ([]byte, error) {
	out := make([]string, len(c))
	for i, e := range c {
		out[i] = base64.StdEncoding.EncodeToString(encode(nil, e))
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Commitments) UnmarshalJSON(b []byte) error {
	var in []string
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if len(in) < 1 || len(in) > MaxTrustees {
		return fmt.Errorf("%d commitments: want 1 to %d", len(in), MaxTrustees)
	}
	*c = make(Commitments, len(in))
	for i, s := range in {
		raw, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil {
			return fmt.Errorf("commitment %d: %w", i, err)
		}
		e := new(element)
		if len(raw) != elementLen || e.UnmarshalBinary(raw) != nil {
			return fmt.Errorf("commitment %d: not the encoding of a group element", i)
		}
		(*c)[i] = e
	}
	return nil
}

// at returns the commitment to the polynomial's value at an index.
func (c Commitments) at(index uint16) *element {
	x := suite.NewScalar().SetUint64(uint64(index))
	y := identity()
	for i := len(c) - 1; i >= 0; i-- {
		y = mul(y, x)
		y.Add(y, c[i])
	}
	return y
}

// Holds reports whether a sub-share is the one that was committed to, as
// [Dealer.Commitments] does.
func (c Commitments) Holds(index uint16, s SubShare) bool {
	e := mulGen(s.value)
	e.Add(e, mul(kBlind, s.blind))
	return equal(e, c.at(index))
}

// HoldsRevealed reports whether a sub-share is of the polynomial that was revealed, as
// [Dealer.Reveal] does.
func (c Commitments) HoldsRevealed(index uint16, s SubShare) bool {
	return equal(mulGen(s.value), c.at(index))
}

// DealsShareOf reports whether a polynomial that was revealed deals out the share of a
// trustee.
func (c Commitments) DealsShareOf(t Trustee) bool { return equal(c[0], t.verify) }

// Rebuild returns what a dealer who does not reveal should have revealed, from
// sub-shares of a threshold of trustees that hold.
func Rebuild(threshold int, indices []uint16, subs []SubShare) (Commitments, error) {
	if len(indices) < threshold || len(indices) != len(subs) || threshold < 1 {
		return nil, fmt.Errorf("%w: %d of the %d sub-shares needed", ErrTooFewShares, len(indices), threshold)
	}
	f := make([]group.Scalar, threshold)
	for i := range f {
		f[i] = suite.NewScalar()
	}
	for i := range threshold {
		// The Lagrange polynomial of point i, by its coefficients.
		l := []group.Scalar{suite.NewScalar().SetUint64(1)}
		den := suite.NewScalar().SetUint64(1)
		xi := suite.NewScalar().SetUint64(uint64(indices[i]))
		for j := range threshold {
			if j == i {
				continue
			}
			if indices[j] == indices[i] {
				return nil, errors.New("two sub-shares of one trustee")
			}
			xj := suite.NewScalar().SetUint64(uint64(indices[j]))
			next := make([]group.Scalar, len(l)+1) // l·(x − xj)
			for k := range next {
				next[k] = suite.NewScalar()
				if k > 0 {
					next[k].Add(next[k], l[k-1])
				}
				if k < len(l) {
					next[k].Sub(next[k], suite.NewScalar().Mul(l[k], xj))
				}
			}
			l = next
			den.Mul(den, suite.NewScalar().Sub(xi, xj))
		}
		den.Inv(den)
		den.Mul(den, subs[i].value)
		for k := range l {
			f[k].Add(f[k], suite.NewScalar().Mul(l[k], den))
		}
	}
	return (&Dealer{f: f}).Reveal(), nil
}

// JoinKey makes the escrow key of a key generation from what its dealers revealed.
func JoinKey(names []string, revealed []Commitments) (*EscrowKey, error) {
	weights := make([]group.Scalar, len(revealed))
	for i := range weights {
		weights[i] = suite.NewScalar().SetUint64(1)
	}
	return join(names, revealed, weights)
}

// RejoinKey makes the escrow key that a resharing leaves, from what the trustees of
// the old key with the given indices revealed. Its public part is the old key's.
func RejoinKey(old *EscrowKey, names []string, indices []uint16, revealed []Commitments) (*EscrowKey, error) {
	if len(indices) != len(revealed) || len(indices) < old.threshold {
		return nil, fmt.Errorf("%w: %d of the %d old trustees needed", ErrTooFewShares, len(indices), old.threshold)
	}
	k, err := join(names, revealed, weightsAtZero(indices))
	if err == nil && !equal(k.h, old.h) {
		err = fmt.Errorf("%w: what was dealt is not the old key", ErrEscrowKey)
	}
	return k, err
}

func weightsAtZero(indices []uint16) []group.Scalar {
	out := make([]group.Scalar, len(indices))
	for i, x := range indices {
		out[i] = lagrange(x, indices)
	}
	return out
}

func join(names []string, revealed []Commitments, weights []group.Scalar) (*EscrowKey, error) {
	if len(revealed) == 0 {
		return nil, fmt.Errorf("%w: no dealer", ErrEscrowKey)
	}
	sum := make(Commitments, len(revealed[0]))
	for k := range sum {
		sum[k] = identity()
		for i, c := range revealed {
			if len(c) != len(sum) {
				return nil, fmt.Errorf("%w: dealers of different thresholds", ErrEscrowKey)
			}
			sum[k].Add(sum[k], mul(c[k], weights[i]))
		}
	}
	j := escrowKeyJSON{Format: escrowKeyFormat, Threshold: len(sum), Public: encode(nil, sum[0])}
	for i, n := range names {
		j.Trustees = append(j.Trustees, trusteeJSON{n, encode(nil, sum.at(uint16(i+1)))})
	}
	text, err := marshalJSONText(j)
	if err != nil {
		return nil, err
	}
	return ParseEscrowKey(text)
}

// JoinShare adds up the sub-shares that a trustee got in a key generation.
func (k *EscrowKey) JoinShare(index uint16, subs []SubShare) (*Share, error) {
	sum := suite.NewScalar()
	for _, s := range subs {
		sum.Add(sum, s.value)
	}
	return k.newShare(index, sum)
}

// RejoinShare weighs the sub-shares that a trustee got in a resharing, from the old
// trustees with the given indices.
func (k *EscrowKey) RejoinShare(index uint16, indices []uint16, subs []SubShare) (*Share, error) {
	if len(indices) != len(subs) {
		return nil, fmt.Errorf("%w: %d sub-shares of %d dealers", ErrShare, len(subs), len(indices))
	}
	sum := suite.NewScalar()
	for i, w := range weightsAtZero(indices) {
		sum.Add(sum, w.Mul(w, subs[i].value))
	}
	return k.newShare(index, sum)
}

// Holds reports a share that is not the one that the key has for its trustee.
func (k *EscrowKey) Holds(s *Share) error {
	t, ok := k.trustee(s.index)
	if s.key != k.id || !ok || t.Name != s.name {
		return fmt.Errorf("%w: the share of %q belongs to escrow key %s, not to %s", ErrShare, s.name, s.key, k.id)
	}
	if !equal(mulGen(s.xi), t.verify) {
		return fmt.Errorf("%w: the share of %q does not match its verification key: it is of another ceremony, or the file is damaged", ErrShare, s.name)
	}
	return nil
}

// newShare checks a share against its verification key.
func (k *EscrowKey) newShare(index uint16, xi group.Scalar) (*Share, error) {
	t, ok := k.trustee(index)
	if !ok || !equal(mulGen(xi), t.verify) {
		return nil, fmt.Errorf("%w: the sub-shares do not add up to the share of trustee %d", ErrShare, index)
	}
	return &Share{key: k.id, name: t.Name, index: index, xi: xi}, nil
}
