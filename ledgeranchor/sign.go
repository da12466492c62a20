package ledgeranchor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// MaxBatch is how many records may share a signature.
const MaxBatch = 1 << 12

const maxSigned = MaxRecord + 1024

// signatureContext begins what is signed.
const signatureContext = "gid-ledger-record-1\x00"

// Signed is a record with its author's signature. The signature is over the root of
// a Merkle tree (RFC 6962 §2.1) whose leaves are the records of a batch, so that an
// author signs, and a reader verifies, once for many.
//
// Its CBOR is the array [record, size, index, path, signature].
type Signed struct {
	_         struct{} `cbor:",toarray"`
	Record    []byte   // its CBOR
	Size      uint64   // of the batch
	Index     uint64   // within it
	Path      []Hash   // from the record to the root
	Signature []byte   // Ed25519, or ECDSA P-256 with SHA-256 in ASN.1, over signatureContext ‖ root
}

// Name returns the name of the record, whoever signed it with whatever others.
func (s *Signed) Name() Hash { return sha256.Sum256(s.Record) }

// Encode returns the CBOR of a signed record.
func (s *Signed) Encode() ([]byte, error) {
	b, err := encMode.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b) > maxSigned {
		return nil, fmt.Errorf("%w: %d bytes, %d at most", ErrOversized, len(b), maxSigned)
	}
	return b, nil
}

// DecodeSigned reads a signed record. The record in it is checked by
// [Members.Check].
func DecodeSigned(b []byte) (*Signed, error) {
	if len(b) > maxSigned {
		return nil, fmt.Errorf("%w: %d bytes, %d at most", ErrOversized, len(b), maxSigned)
	}
	var s Signed
	if err := decMode.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, again) {
		return nil, fmt.Errorf("%w: its encoding is not deterministic", ErrMalformed)
	}
	return &s, nil
}

// root returns the root that the signature is over.
func (s *Signed) root() ([]byte, error) {
	if s.Size < 1 || s.Size > MaxBatch || s.Index >= s.Size {
		return nil, fmt.Errorf("%w: record %d of a batch of %d", ErrMalformed, s.Index, s.Size)
	}
	path := make([][]byte, len(s.Path))
	for i := range s.Path {
		path[i] = s.Path[i][:]
	}
	root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, s.Index, s.Size, rfc6962.DefaultHasher.HashLeaf(s.Record), path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return root, nil
}

// Author signs records.
type Author struct {
	Key         crypto.Signer // Ed25519 or ECDSA P-256
	Certificate *x509.Certificate
}

// NewAuthor returns an author, whose key must be the certificate's.
func NewAuthor(key crypto.Signer, certificate *x509.Certificate) (*Author, error) {
	pub, ok := certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("the certificate belongs to another key")
	}
	if err := supported(certificate.PublicKey); err != nil {
		return nil, err
	}
	return &Author{Key: key, Certificate: certificate}, nil
}

func supported(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("want a key of Ed25519 or ECDSA P-256")
}

// ID names an author: the SHA-256 of its certificate.
func (a *Author) ID() Hash { return AuthorID(a.Certificate) }

// AuthorID names the author with a certificate.
func AuthorID(c *x509.Certificate) Hash { return sha256.Sum256(c.Raw) }

// Sign completes records, by version and author, and signs them in batches.
func (a *Author) Sign(records ...*Record) ([]*Signed, error) {
	var all []*Signed
	for len(records) > 0 {
		n := min(len(records), MaxBatch)
		batch, err := a.signBatch(records[:n])
		if err != nil {
			return nil, err
		}
		all, records = append(all, batch...), records[n:]
	}
	return all, nil
}

func (a *Author) signBatch(records []*Record) ([]*Signed, error) {
	id := a.ID()
	batch := make([]*Signed, len(records))
	levels := [][][]byte{make([][]byte, len(records))}
	for i, r := range records {
		r.Version, r.Author = 1, id
		b, err := r.Encode()
		if err != nil {
			return nil, err
		}
		batch[i] = &Signed{Record: b, Size: uint64(len(records)), Index: uint64(i)}
		levels[0][i] = rfc6962.DefaultHasher.HashLeaf(b)
	}
	// A node without a sibling goes up as it is (RFC 6962 §2.1).
	for len(levels[len(levels)-1]) > 1 {
		below := levels[len(levels)-1]
		var level [][]byte
		for i := 0; i < len(below); i += 2 {
			if i+1 < len(below) {
				level = append(level, rfc6962.DefaultHasher.HashChildren(below[i], below[i+1]))
			} else {
				level = append(level, below[i])
			}
		}
		levels = append(levels, level)
	}
	signature, err := a.sign(levels[len(levels)-1][0])
	if err != nil {
		return nil, err
	}
	for i, s := range batch {
		s.Signature = signature
		s.Path = make([]Hash, 0, bits.Len(uint(len(records))))
		for at, level := range levels {
			if sibling := i>>at ^ 1; sibling < len(level) && len(level) > 1 {
				s.Path = append(s.Path, Hash(level[sibling]))
			}
		}
	}
	return batch, nil
}

func toBeSigned(root []byte) []byte { return append([]byte(signatureContext), root...) }

func (a *Author) sign(root []byte) ([]byte, error) {
	text := toBeSigned(root)
	if _, ok := a.Key.Public().(ed25519.PublicKey); ok {
		return a.Key.Sign(rand.Reader, text, crypto.Hash(0))
	}
	digest := sha256.Sum256(text)
	return a.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

func verify(pub crypto.PublicKey, root, signature []byte) bool {
	text := toBeSigned(root)
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, text, signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(text)
		return k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, digest[:], signature)
	}
	return false
}

// MarshalJSON shows the record in a signed one, for people.
func (s *Signed) MarshalJSON() ([]byte, error) {
	r, err := Decode(s.Record)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Name Hash `json:"name"`
		*Record
	}{s.Name(), r})
}
