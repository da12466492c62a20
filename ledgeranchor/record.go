package ledgeranchor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Limits of a record.
const (
	MaxRecord    = 16 << 10 // bytes of a record, without its signature
	MaxAddresses = 256
	MaxRefs      = 256
	MaxBody      = 8 << 10 // bytes

	// MaxSkew is how far a record's time may be ahead of the ledger's clock.
	MaxSkew = 2 * time.Minute
)

// Errors about records. Those of a ledger's Append wrap them and name the record.
var (
	ErrMalformed = errors.New("the record is malformed")
	ErrOversized = errors.New("the record is too large")
	ErrFuture    = errors.New("the record is of a time to come")
	ErrSignature = errors.New("the record's signature does not verify")
	ErrAuthor    = errors.New("the record's author is no member")
	ErrRole      = errors.New("the record's author may not write records of this kind")
)

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// String returns h in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is no hash.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText returns h in hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads a hash in hex.
func (h *Hash) UnmarshalText(b []byte) error {
	x, err := ParseHash(string(b))
	*h = x
	return err
}

// ParseHash reads a hash in hex.
func ParseHash(s string) (h Hash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%q: want a SHA-256 in hex", s)
	}
	return Hash(b), nil
}

// Address is an IPv6 address in network byte order.
type Address [16]byte

// AddressOf returns a as it stands in records; a must be an IPv6 address.
func AddressOf(a netip.Addr) Address { return a.As16() }

// Addr returns the address.
func (a Address) Addr() netip.Addr { return netip.AddrFrom16(a) }

// MarshalText returns a in the form of RFC 5952.
func (a Address) MarshalText() ([]byte, error) { return a.Addr().MarshalText() }

// Kind is what a record tells.
type Kind string

// Kinds of records, and the role of who may write each.
const (
	KindCertificate Kind = "certificate" // a member's certificate; by itself
	KindHop         Kind = "hop"         // a relay saw a message; relay
	KindWarrant     Kind = "warrant"     // an authority orders a recovery; judge
	KindResolution  Kind = "resolution"  // an ISP answered a warrant; isp
	KindApproval    Kind = "approval"    // a trustee gave shares; trustee
	KindDisclosure  Kind = "disclosure"  // a warrant was carried out; holder
	KindCheckpoint  Kind = "checkpoint"  // the head of an embedded log; log
	KindRevocation  Kind = "revocation"  // a warrant, or a certificate, counts no more; judge
	KindPublication Kind = "publication" // what a warrant named, after its seal; judge
)

// Roles of members: the organizational units of their certificates.
const (
	RoleRelay   = "relay"
	RoleJudge   = "judge"
	RoleISP     = "isp"
	RoleTrustee = "trustee"
	RoleHolder  = "holder"
	RoleLog     = "log"
)

// roleFor is the role that a kind of record needs.
var roleFor = map[Kind]string{
	KindHop: RoleRelay, KindWarrant: RoleJudge, KindResolution: RoleISP, KindApproval: RoleTrustee,
	KindDisclosure: RoleHolder, KindCheckpoint: RoleLog, KindRevocation: RoleJudge, KindPublication: RoleJudge,
}

// Roles returns all roles.
func Roles() []string {
	return []string{RoleRelay, RoleJudge, RoleISP, RoleTrustee, RoleHolder, RoleLog}
}

// IsRole reports whether there is such a role.
func IsRole(r string) bool { return slices.Contains(Roles(), r) }

// RoleFor returns the role that a kind of record needs; none for a certificate.
func RoleFor(k Kind) (role string, ok bool) {
	role, ok = roleFor[k]
	return role, ok || k == KindCertificate
}

// Stage is where in its journey a relay saw a message.
type Stage uint8

// Stages of a message, in their order.
const (
	StageRequest      Stage = 1 // taken from the subscriber
	StageDelivery     Stage = 2 // passed on
	StageConfirmation Stage = 3 // taken by the last relay's own queue
)

var stageNames = [...]string{StageRequest: "request", StageDelivery: "delivery", StageConfirmation: "confirmation"}

// String returns the stage's name.
func (s Stage) String() string {
	if s < StageRequest || int(s) >= len(stageNames) {
		return fmt.Sprintf("stage(%d)", uint8(s))
	}
	return stageNames[s]
}

// MarshalText returns the stage's name.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Hop is what a hop record tells beside its message: the coordinate (l, e, o, n) of
// a temporal proof, of which o is the record's author.
type Hop struct {
	Stage   Stage  `cbor:"1,keyasint" json:"stage"`
	Clock   uint64 `cbor:"2,keyasint" json:"clock"`                            // l, Lamport's
	Content Hash   `cbor:"3,keyasint" json:"content"`                          // e, of the canonical message
	Next    Hash   `cbor:"4,keyasint,omitempty,omitzero" json:"next,omitzero"` // n, the next relay's author id
}

// Record is what an author accounts for. Its CBOR is a map with these small integer
// keys, without those that are empty.
type Record struct {
	Version   uint      `cbor:"1,keyasint" json:"version"` // 1
	Kind      Kind      `cbor:"2,keyasint" json:"kind"`
	Time      uint64    `cbor:"3,keyasint" json:"time"`   // unix milliseconds
	Author    Hash      `cbor:"4,keyasint" json:"author"` // SHA-256 of the author's certificate
	Addresses []Address `cbor:"5,keyasint,omitempty" json:"addresses,omitempty"`
	Warrant   Hash      `cbor:"6,keyasint,omitempty,omitzero" json:"warrant,omitzero"` // of the signed document
	Message   Hash      `cbor:"7,keyasint,omitempty,omitzero" json:"message,omitzero"` // a commitment to it
	Refs      []Hash    `cbor:"8,keyasint,omitempty" json:"refs,omitempty"`            // names of the records that it rests on
	Hop       *Hop      `cbor:"9,keyasint,omitempty" json:"hop,omitempty"`
	Count     uint64    `cbor:"10,keyasint,omitempty" json:"count,omitempty"` // of address-times, where they are not told
	Body      []byte    `cbor:"11,keyasint,omitempty" json:"body,omitempty"`  // what the kind wants beside
}

// At returns the record's time.
func (r *Record) At() time.Time { return time.UnixMilli(int64(r.Time)).UTC() }

var encMode = func() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	m, err := o.EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

var decMode = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxArrayElements: MaxRefs, MaxMapPairs: 16, MaxNestedLevels: 4,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// Encode checks a record and returns its CBOR.
func (r *Record) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	b, err := encMode.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes, %d at most", ErrOversized, len(b), MaxRecord)
	}
	return b, nil
}

// Decode reads a record's CBOR. There is one encoding of a record and no other is
// taken.
func Decode(b []byte) (*Record, error) {
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes, %d at most", ErrOversized, len(b), MaxRecord)
	}
	var r Record
	if err := decMode.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := r.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, again) {
		return nil, fmt.Errorf("%w: its encoding is not deterministic", ErrMalformed)
	}
	return &r, nil
}

// check holds a record against its kind.
func (r *Record) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrMalformed, r.Kind, fmt.Sprintf(format, args...))
	}
	if r.Version != 1 {
		return fmt.Errorf("%w: version %d, want 1", ErrMalformed, r.Version)
	}
	if _, known := RoleFor(r.Kind); !known {
		return fmt.Errorf("%w: unknown kind %.40q", ErrMalformed, string(r.Kind))
	}
	switch {
	case len(r.Addresses) > MaxAddresses:
		return fmt.Errorf("%w: %d addresses, %d at most", ErrOversized, len(r.Addresses), MaxAddresses)
	case len(r.Refs) > MaxRefs:
		return fmt.Errorf("%w: %d refs, %d at most", ErrOversized, len(r.Refs), MaxRefs)
	case len(r.Body) > MaxBody:
		return fmt.Errorf("%w: a body of %d bytes, %d at most", ErrOversized, len(r.Body), MaxBody)
	case r.Time == 0 || r.Time > 1<<53:
		return bad("time: want unix milliseconds")
	case r.Author.IsZero():
		return bad("author: want the SHA-256 of a certificate")
	case (r.Kind == KindHop) != (r.Hop != nil):
		return bad("hop: it belongs to records of kind hop")
	}
	switch r.Kind {
	case KindCertificate:
		if len(r.Body) == 0 || Hash(sha256.Sum256(r.Body)) != r.Author {
			return bad("body: want the author's own certificate")
		}
	case KindHop:
		switch {
		case len(r.Addresses) > 1:
			return bad("addresses: want the message's source, or none")
		case r.Message.IsZero() || r.Hop.Content.IsZero():
			return bad("message and hop.content: want hashes")
		case r.Hop.Stage < StageRequest || r.Hop.Stage > StageConfirmation:
			return bad("hop.stage: %d", r.Hop.Stage)
		}
	case KindCheckpoint:
		if len(r.Body) == 0 {
			return bad("body: want a checkpoint")
		}
	case KindRevocation:
		if r.Warrant.IsZero() {
			return bad("warrant: want the hash of what is revoked")
		}
		if _, err := r.Revocation(); err != nil {
			return bad("body: %v", err)
		}
	case KindWarrant, KindResolution, KindApproval, KindDisclosure, KindPublication:
		if r.Warrant.IsZero() {
			return bad("warrant: want the hash of the signed warrant")
		}
		if r.Kind != KindWarrant && len(r.Refs) == 0 {
			return bad("refs: want the records that it rests on")
		}
		if r.Kind == KindPublication {
			if _, err := r.Publication(); err != nil {
				return bad("body: %v", err)
			}
		}
	}
	return nil
}
