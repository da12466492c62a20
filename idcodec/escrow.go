package idcodec

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/cloudflare/circl/group"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// MaxTrustees is how many trustees an escrow key may have.
const MaxTrustees = 255

// ErrEscrowKey is wrapped by every error about an escrow key's text, ErrShare by
// every error about a trustee's share.
var (
	ErrEscrowKey = errors.New("not a valid escrow key")
	ErrShare     = errors.New("not a valid trustee share")
)

// EscrowKeyID names an escrow key: the first eight bytes of
// SHA-256("gid escrow key v1" ‖ h).
type EscrowKeyID [8]byte

// String returns the name in hex.
func (id EscrowKeyID) String() string { return hex.EncodeToString(id[:]) }

// EscrowKey is the trustees' joint public key, with what is needed to check
// their decryption shares. Anybody may hold it.
type EscrowKey struct {
	threshold int
	h         *element
	trustees  []Trustee
	id        EscrowKeyID
}

// Trustee is one of those who open NIDs together.
type Trustee struct {
	Name  string
	Index uint16 // where the trustee's share lies on the polynomial; from 1

	verify *element // g^x_i
}

// Share is a trustee's part of the escrow secret. Nothing prints it.
type Share struct {
	key   EscrowKeyID
	name  string
	index uint16
	xi    group.Scalar
}

var trusteeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func escrowKeyID(h *element) EscrowKeyID {
	sum := sha256.Sum256(encode([]byte("gid escrow key v1"), h))
	return EscrowKeyID(sum[:8])
}

// Deal makes an escrow key and one share for each named trustee, of which
// threshold together open an NID. The dealer's secret lives only as long as the
// call and is never returned; where no dealer is trusted that far, use a
// distributed key generation.
func Deal(rand io.Reader, threshold int, names []string) (*EscrowKey, []*Share, error) {
	if len(names) < 1 || len(names) > MaxTrustees {
		return nil, nil, fmt.Errorf("%d trustees: want 1 to %d", len(names), MaxTrustees)
	}
	if threshold < 1 || threshold > len(names) {
		return nil, nil, fmt.Errorf("threshold %d: want 1 to %d, the number of trustees", threshold, len(names))
	}
	coefficients := make([]group.Scalar, threshold)
	for i := range coefficients {
		c, err := randomScalar(rand)
		if err != nil {
			return nil, nil, err
		}
		coefficients[i] = c
	}
	k := &EscrowKey{threshold: threshold, h: mulGen(coefficients[0])}
	k.id = escrowKeyID(k.h)
	shares := make([]*Share, len(names))
	seen := make(map[string]bool)
	for i, name := range names {
		if !trusteeName.MatchString(name) {
			return nil, nil, fmt.Errorf("trustee name %q: want 1 to 63 of a-z 0-9 . _ -, the first a letter or a digit", name)
		}
		if seen[name] {
			return nil, nil, fmt.Errorf("trustee name %q stands twice", name)
		}
		seen[name] = true
		index := uint16(i + 1)
		x := suite.NewScalar().SetUint64(uint64(index))
		xi := suite.NewScalar() // Horner's rule
		for j := threshold - 1; j >= 0; j-- {
			xi.Mul(xi, x)
			xi.Add(xi, coefficients[j])
		}
		k.trustees = append(k.trustees, Trustee{Name: name, Index: index, verify: mulGen(xi)})
		shares[i] = &Share{key: k.id, name: name, index: index, xi: xi}
	}
	for _, c := range coefficients {
		c.SetUint64(0)
	}
	return k, shares, nil
}

// ID returns the name of the key.
func (k *EscrowKey) ID() EscrowKeyID { return k.id }

// Threshold returns how many trustees open an NID together.
func (k *EscrowKey) Threshold() int { return k.threshold }

// Trustees returns all trustees, in the order of their indices.
func (k *EscrowKey) Trustees() []Trustee { return append([]Trustee(nil), k.trustees...) }

func (k *EscrowKey) trustee(index uint16) (Trustee, bool) {
	if index < 1 || int(index) > len(k.trustees) {
		return Trustee{}, false
	}
	return k.trustees[index-1], true
}

// Name returns the trustee's name.
func (s *Share) Name() string { return s.name }

// Key returns the name of the escrow key that the share is a part of.
func (s *Share) Key() EscrowKeyID { return s.key }

// String and GoString return a placeholder.
func (s *Share) String() string   { return "[share of " + s.name + " withheld]" }
func (s *Share) GoString() string { return s.String() }

type escrowKeyJSON struct {
	Format    string        `json:"format"`
	Threshold int           `json:"threshold"`
	Public    []byte        `json:"public"`
	Trustees  []trusteeJSON `json:"trustees"`
}

type trusteeJSON struct {
	Name   string `json:"name"`
	Verify []byte `json:"verify"`
}

type shareJSON struct {
	Format string `json:"format"`
	Key    string `json:"escrow_key"`
	Name   string `json:"name"`
	Index  uint16 `json:"index"`
	Secret []byte `json:"secret"`
}

const (
	escrowKeyFormat = "gid-escrow-key-1"
	shareFormat     = "gid-trustee-share-1"
	maxEscrowText   = 64 << 10
)

// MarshalText returns the key as JSON: the threshold, h, and the trustees' names
// and verification keys in the order of their indices, which count from 1.
func (k *EscrowKey) MarshalText() ([]byte, error) {
	j := escrowKeyJSON{Format: escrowKeyFormat, Threshold: k.threshold, Public: encode(nil, k.h)}
	for _, t := range k.trustees {
		j.Trustees = append(j.Trustees, trusteeJSON{t.Name, encode(nil, t.verify)})
	}
	return marshalJSONText(j)
}

// ParseEscrowKey reads what [EscrowKey.MarshalText] wrote and checks that the
// verification keys lie on one polynomial of the threshold's degree whose value
// at 0 is the public key, so that any t shares that verify also open.
func ParseEscrowKey(text []byte) (*EscrowKey, error) {
	var j escrowKeyJSON
	if err := unmarshalJSONText(text, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEscrowKey, err)
	}
	if j.Format != escrowKeyFormat {
		return nil, fmt.Errorf("%w: format %q: want %q", ErrEscrowKey, j.Format, escrowKeyFormat)
	}
	if len(j.Trustees) < 1 || len(j.Trustees) > MaxTrustees || j.Threshold < 1 || j.Threshold > len(j.Trustees) {
		return nil, fmt.Errorf("%w: %d of %d trustees: want 1 ≤ threshold ≤ trustees ≤ %d", ErrEscrowKey, j.Threshold, len(j.Trustees), MaxTrustees)
	}
	h, err := parseElement(j.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: public: %w", ErrEscrowKey, err)
	}
	k := &EscrowKey{threshold: j.Threshold, h: h, id: escrowKeyID(h)}
	seen := make(map[string]bool)
	for i, t := range j.Trustees {
		if !trusteeName.MatchString(t.Name) || seen[t.Name] {
			return nil, fmt.Errorf("%w: trustee %d: name %q is malformed or stands twice", ErrEscrowKey, i+1, t.Name)
		}
		seen[t.Name] = true
		v, err := parseElement(t.Verify)
		if err != nil {
			return nil, fmt.Errorf("%w: trustee %q: verify: %w", ErrEscrowKey, t.Name, err)
		}
		k.trustees = append(k.trustees, Trustee{Name: t.Name, Index: uint16(i + 1), verify: v})
	}
	if err := k.consistent(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEscrowKey, err)
	}
	return k, nil
}

// consistent checks every window of t neighbouring verification keys: each
// interpolates to h at 0, and so all of them lie on one polynomial.
func (k *EscrowKey) consistent() error {
	for first := 0; first+k.threshold <= len(k.trustees); first++ {
		window := k.trustees[first : first+k.threshold]
		indices := make([]uint16, len(window))
		for i, t := range window {
			indices[i] = t.Index
		}
		var weights []*scalar.Scalar
		var keys []*element
		for _, t := range window {
			weights, keys = append(weights, factor(lagrange(t.Index, indices))), append(keys, t.verify)
		}
		if !equal(new(element).MultiscalarMulVartime(weights, keys), k.h) {
			return fmt.Errorf("the verification keys of trustees %d to %d do not match the public key", first+1, first+k.threshold)
		}
	}
	return nil
}

// MarshalText returns the share as JSON. It is a secret; the caller keeps the
// file to its owner.
func (s *Share) MarshalText() ([]byte, error) {
	return marshalJSONText(shareJSON{shareFormat, s.key.String(), s.name, s.index, encode(nil, s.xi)})
}

// ParseShare reads what [Share.MarshalText] wrote. Its errors never hold the
// secret.
func ParseShare(text []byte) (*Share, error) {
	var j shareJSON
	if err := unmarshalJSONText(text, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShare, err)
	}
	if j.Format != shareFormat {
		return nil, fmt.Errorf("%w: format %q: want %q", ErrShare, j.Format, shareFormat)
	}
	id, err := hex.DecodeString(j.Key)
	if err != nil || len(id) != len(EscrowKeyID{}) {
		return nil, fmt.Errorf("%w: escrow_key: want %d bytes in hex", ErrShare, len(EscrowKeyID{}))
	}
	if !trusteeName.MatchString(j.Name) || j.Index < 1 || j.Index > MaxTrustees {
		return nil, fmt.Errorf("%w: name %q or index %d is malformed", ErrShare, j.Name, j.Index)
	}
	xi, err := parseScalar(j.Secret)
	clear(j.Secret)
	if err != nil {
		return nil, fmt.Errorf("%w: secret: %w", ErrShare, err)
	}
	if xi.IsZero() {
		return nil, fmt.Errorf("%w: secret: it is zero", ErrShare)
	}
	return &Share{EscrowKeyID(id), j.Name, j.Index, xi}, nil
}

func marshalJSONText(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// unmarshalJSONText decodes one JSON object without unknown fields. Errors of
// encoding/json name fields and offsets, not values, for the types used here.
func unmarshalJSONText(text []byte, v any) error {
	if len(text) > maxEscrowText {
		return fmt.Errorf("%d bytes are too many", len(text))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("data after the object")
	}
	return nil
}
