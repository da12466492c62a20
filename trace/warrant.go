package trace

import (
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"time"

	"brightgid/ledgeranchor"
)

const warrantType = "gid-warrant-2+jws"

// MaxTargets is how many targets one warrant may name, MaxWindow how long the time
// window of each may be, MinPrefix how short a prefix.
const (
	MaxTargets = 10_000
	MaxWindow  = 366 * 24 * time.Hour
	MinPrefix  = 48
)

// MaxSeal is how long after its issue a warrant's content may be hidden.
const MaxSeal = 10 * 366 * 24 * time.Hour

// Warrant is an order to recover the EIDs behind addresses in time windows.
// Fields follow the warrant object of ETSI TS 103 120 where it has one.
type Warrant struct {
	ID         string    `json:"id"`          // 16 random bytes in hex; the secret of the seal
	Case       string    `json:"case"`        // the authority's file number
	Authority  string    `json:"authority"`   // who orders it
	LegalBasis string    `json:"legal_basis"` // by what law
	Purpose    string    `json:"purpose"`
	Realm      string    `json:"realm"` // the ISP that is to answer
	Issued     time.Time `json:"issued"`
	ValidFrom  time.Time `json:"valid_from"`
	ValidUntil time.Time `json:"valid_until"`

	// SealUntil is how long the content stays hidden from the public ledger; none
	// for not at all.
	SealUntil time.Time `json:"seal_until,omitzero"`

	Targets []Target `json:"targets"`
	Holder  Holder   `json:"holder"`
}

// Target is an address, or a prefix with all the addresses in it, in a time window,
// both ends included.
type Target struct {
	Address netip.Addr   `json:"address,omitzero"`
	Prefix  netip.Prefix `json:"prefix,omitzero"`
	From    time.Time    `json:"from"`
	Until   time.Time    `json:"until"`
}

// Covers returns the target's prefix, which for an address has the length 128.
func (t *Target) Covers() netip.Prefix {
	if t.Address.IsValid() {
		return netip.PrefixFrom(t.Address, 128)
	}
	return t.Prefix
}

// String returns the address or the prefix, in the form of RFC 5952.
func (t *Target) String() string {
	if t.Address.IsValid() {
		return t.Address.String()
	}
	return t.Prefix.String()
}

// Same reports whether two targets are the same.
func (t *Target) Same(o *Target) bool {
	return t.Address == o.Address && t.Prefix == o.Prefix && t.From.Equal(o.From) && t.Until.Equal(o.Until)
}

// Holder is who may carry the warrant out.
type Holder struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"` // SHA-256 of the holder's certificate, hex
	SealTo      []byte `json:"seal_to"`     // X25519 public key that approvals are sealed to
}

// NewID returns a fresh warrant ID.
func NewID(rand io.Reader) (string, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(rand, b); err != nil {
		return "", fmt.Errorf("reading randomness: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// Check reports what keeps a warrant from being signed or followed.
func (w *Warrant) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrWarrant, fmt.Sprintf(format, args...))
	}
	if id, err := hex.DecodeString(w.ID); err != nil || len(id) != 16 {
		return bad("id: want 16 bytes in hex")
	}
	for _, f := range []struct{ name, value string }{
		{"case", w.Case}, {"authority", w.Authority}, {"legal_basis", w.LegalBasis}, {"purpose", w.Purpose},
		{"realm", w.Realm}, {"holder.name", w.Holder.Name},
	} {
		if f.value == "" || len(f.value) > 1000 {
			return bad("%s: want 1 to 1000 bytes", f.name)
		}
	}
	if w.Issued.IsZero() || !w.ValidFrom.Before(w.ValidUntil) {
		return bad("valid_from and valid_until: want a time and a later one")
	}
	if w.SealUntil.After(w.Issued.Add(MaxSeal)) {
		return bad("seal_until: more than ten years after the warrant was issued")
	}
	if fp, err := hex.DecodeString(w.Holder.Certificate); err != nil || len(fp) != 32 {
		return bad("holder.certificate: want a SHA-256 in hex")
	}
	if _, err := ecdh.X25519().NewPublicKey(w.Holder.SealTo); err != nil {
		return bad("holder.seal_to: want an X25519 public key")
	}
	if len(w.Targets) < 1 || len(w.Targets) > MaxTargets {
		return bad("targets: %d, want 1 to %d", len(w.Targets), MaxTargets)
	}
	for i := range w.Targets {
		if err := w.Targets[i].check(w.Issued); err != nil {
			return fmt.Errorf("%w: targets[%d]: %w", ErrWarrant, i, err)
		}
	}
	return nil
}

// check holds a target against the limits.
func (t *Target) check(issued time.Time) error {
	a := t.Address
	if t.Prefix.IsValid() {
		a = t.Prefix.Addr()
	}
	switch {
	case t.Address.IsValid() == t.Prefix.IsValid():
		return fmt.Errorf("want an address or a prefix")
	case !a.Is6() || a.Is4In6() || a.Zone() != "":
		return fmt.Errorf("%s: want IPv6", a)
	case t.Prefix.IsValid() && t.Prefix != t.Prefix.Masked():
		return fmt.Errorf("%s: it has bits beyond its length", t.Prefix)
	case t.Prefix.IsValid() && t.Prefix.Bits() < MinPrefix:
		return fmt.Errorf("%w: the prefix %s is shorter than /%d", ErrScope, t.Prefix, MinPrefix)
	case t.From.IsZero() || t.Until.Before(t.From):
		return fmt.Errorf("the window ends before it begins")
	case t.Until.Sub(t.From) > MaxWindow:
		return fmt.Errorf("%w: the window is longer than %s", ErrScope, MaxWindow)
	case t.Until.After(issued):
		return fmt.Errorf("%w: the window ends after the warrant was issued", ErrScope)
	}
	return nil
}

// Sign checks the warrant and signs it.
func (w *Warrant) Sign(authority *Identity) (string, error) {
	if err := w.Check(); err != nil {
		return "", err
	}
	return Sign(authority, warrantType, w)
}

// OpenWarrant checks a signed warrant: that an authority of roots signed it, that
// it is in force at a time, and that its content is sound.
func OpenWarrant(signed string, roots []*x509.Certificate, at time.Time) (*Warrant, error) {
	w, _, err := openWarrant(signed, roots, at)
	return w, err
}

func openWarrant(signed string, roots []*x509.Certificate, at time.Time) (*Warrant, *x509.Certificate, error) {
	w, signer, err := readWarrant(signed, roots, at)
	if err != nil {
		return nil, nil, err
	}
	if at.Before(w.ValidFrom) || at.After(w.ValidUntil) {
		return nil, nil, fmt.Errorf("%w: from %s to %s it is, and now is %s", ErrExpired,
			w.ValidFrom.Format(time.RFC3339), w.ValidUntil.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return w, signer, nil
}

// readWarrant is openWarrant for a warrant that need not be in force.
func readWarrant(signed string, roots []*x509.Certificate, at time.Time) (*Warrant, *x509.Certificate, error) {
	var w Warrant
	signer, err := Open(signed, warrantType, roots, at, &w)
	if err != nil {
		return nil, nil, err
	}
	return &w, signer, w.Check()
}

// sealed returns the warrant's secret and its targets as they are published.
func (w *Warrant) sealed() (ledgeranchor.WarrantID, []ledgeranchor.Sealed) {
	b, _ := hex.DecodeString(w.ID) // Check has seen that it is hex
	id := ledgeranchor.WarrantID(b)
	out := make([]ledgeranchor.Sealed, len(w.Targets))
	for i := range w.Targets {
		t := &w.Targets[i]
		out[i] = ledgeranchor.Sealed{Tag: ledgeranchor.TagOf(id, t.Covers()), From: unix(t.From), Until: unix(t.Until)}
	}
	return id, out
}

func unix(t time.Time) uint64 { return uint64(max(0, t.Unix())) }

// terms returns what the warrant's record tells of it. The seal of a warrant without
// one has ended when it was issued.
func (w *Warrant) terms() *ledgeranchor.Terms {
	until := w.SealUntil
	if until.IsZero() {
		until = w.Issued
	}
	return &ledgeranchor.Terms{SealUntil: uint64(max(0, until.UnixMilli())), Targets: ledgeranchor.Commit(w.sealed())}
}

// documentHash names a document as records do.
func documentHash(signed string) ledgeranchor.Hash { return sha256.Sum256([]byte(signed)) }
