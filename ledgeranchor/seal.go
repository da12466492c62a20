package ledgeranchor

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A warrant's content is hidden from the ledger until its seal ends: its record has
// the warrant's hash, how many targets it names, until when the seal holds, and a
// commitment to the targets. When the seal has ended, records of kind publication
// open the commitment. They name no address: each target stands there as a tag, which
// whoever knows the address can compute, with the window in which it was sought.

// Terms are the body of a warrant's record: the CBOR array [2, seal until in unix
// milliseconds, commitment]. Records of before have the warrant's hash as their body
// and no terms.
type Terms struct {
	_         struct{} `cbor:",toarray"`
	Version   uint     // 2
	SealUntil uint64   // unix milliseconds
	Targets   Hash     // what publications open; see [Commit]
}

// Until returns when the seal ends.
func (t *Terms) Until() time.Time { return time.UnixMilli(int64(t.SealUntil)).UTC() }

// Encode returns the body.
func (t *Terms) Encode() ([]byte, error) {
	t.Version = 2
	return encMode.Marshal(t)
}

// Terms returns the terms of a warrant's record; nil if it has none.
func (r *Record) Terms() *Terms {
	var t Terms
	if r.Kind != KindWarrant || decMode.Unmarshal(r.Body, &t) != nil || t.Version != 2 || t.SealUntil > 1<<53 {
		return nil
	}
	return &t
}

// WarrantID is the secret of a sealed warrant, by which its tags are made.
type WarrantID [16]byte

// Tag stands for an address or a prefix: the first 16 bytes of
// HMAC-SHA256(id, address ‖ prefix length), an address having the length 128.
type Tag [16]byte

// TagOf returns the tag of a prefix, whose host bits must be zero.
func TagOf(id WarrantID, p netip.Prefix) (t Tag) {
	a := p.Addr().As16()
	h := hmac.New(sha256.New, id[:])
	h.Write(a[:])
	h.Write([]byte{byte(p.Bits())})
	copy(t[:], h.Sum(nil))
	return t
}

// Sealed is a target as it is published. Times are unix seconds.
type Sealed struct {
	_           struct{} `cbor:",toarray"`
	Tag         Tag
	From, Until uint64
}

// Commit is the commitment to targets: SHA-256 of "gid-warrant-targets-1" and a zero
// byte, id, and the targets in order, each as tag, from and until (8 bytes each).
func Commit(id WarrantID, targets []Sealed) (c Hash) {
	h := sha256.New()
	h.Write([]byte("gid-warrant-targets-1\x00"))
	h.Write(id[:])
	for _, t := range targets {
		h.Write(t.Tag[:])
		h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, t.From), t.Until))
	}
	return Hash(h.Sum(nil))
}

// PublicationSize is how many targets one record of a publication has at most.
const PublicationSize = 200

// Publication is the body of a publication's record: the CBOR array
// [1, part from 0, parts, id, targets].
type Publication struct {
	_       struct{} `cbor:",toarray"`
	Version uint     // 1
	Part    uint64
	Parts   uint64
	ID      WarrantID
	Targets []Sealed
}

// maxParts bounds a publication: 10,000 targets are 50 parts.
const maxParts = 256

// Publish returns the bodies of the records that open a commitment.
func Publish(id WarrantID, targets []Sealed) ([][]byte, error) {
	parts := (len(targets) + PublicationSize - 1) / PublicationSize
	if parts < 1 || parts > maxParts {
		return nil, fmt.Errorf("%w: %d targets to publish", ErrOversized, len(targets))
	}
	var out [][]byte
	for i := range parts {
		p := Publication{Version: 1, Part: uint64(i), Parts: uint64(parts), ID: id, Targets: targets[i*PublicationSize : min((i+1)*PublicationSize, len(targets))]}
		b, err := encMode.Marshal(&p)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// Publication returns the body of a publication's record.
func (r *Record) Publication() (*Publication, error) {
	var p Publication
	if err := decMode.Unmarshal(r.Body, &p); err != nil {
		return nil, err
	}
	if p.Version != 1 || p.Parts < 1 || p.Parts > maxParts || p.Part >= p.Parts || len(p.Targets) < 1 || len(p.Targets) > PublicationSize {
		return nil, fmt.Errorf("part %d of %d with %d targets", p.Part, p.Parts, len(p.Targets))
	}
	return &p, again(&p, r.Body)
}

// What a revocation is about.
const (
	RevokedWarrant     = "warrant"
	RevokedCertificate = "certificate"
)

// Revocation is the body of a revocation's record, the CBOR array [1, what, reason].
// The record's Warrant is the hash of the signed warrant, or of the certificate.
type Revocation struct {
	_       struct{} `cbor:",toarray"`
	Version uint     // 1
	What    string
	Reason  string // at most 1,000 bytes
}

// Encode returns the body.
func (v *Revocation) Encode() ([]byte, error) {
	v.Version = 1
	return encMode.Marshal(v)
}

// Revocation returns the body of a revocation's record.
func (r *Record) Revocation() (*Revocation, error) {
	var v Revocation
	if err := decMode.Unmarshal(r.Body, &v); err != nil {
		return nil, err
	}
	if v.Version != 1 || v.What != RevokedWarrant && v.What != RevokedCertificate || len(v.Reason) > 1000 {
		return nil, fmt.Errorf("it revokes a %.20q", v.What)
	}
	return &v, again(&v, r.Body)
}

// again reports an encoding that is not the deterministic one.
func again(v any, b []byte) error {
	x, err := encMode.Marshal(v)
	if err == nil && !bytes.Equal(x, b) {
		err = errors.New("its encoding is not deterministic")
	}
	return err
}

// published collects the parts of a publication.
type published struct {
	id    WarrantID
	parts [][]Sealed
	have  uint64
}

// take adds a part. A part that stands there already, and one that belongs to another
// publication of the warrant, is not taken.
func (p *published) take(x *Publication) error {
	if p.parts == nil {
		p.id, p.parts = x.ID, make([][]Sealed, x.Parts)
	}
	if x.ID != p.id || int(x.Parts) != len(p.parts) {
		return errors.New("it does not belong to the publication's other parts")
	}
	if p.parts[x.Part] == nil {
		p.have++
		p.parts[x.Part] = x.Targets
	}
	return nil
}

func (p *published) whole() bool { return p.parts != nil && p.have == uint64(len(p.parts)) }

func (p *published) targets() []Sealed {
	var out []Sealed
	for _, x := range p.parts {
		out = append(out, x...)
	}
	return out
}
