package trace

import (
	"crypto/ecdh"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const warrantType = "gid-warrant-1+jws"

// MaxTargets is how many addresses one warrant may name, MaxWindow how long the
// time window of each may be.
const (
	MaxTargets = 10_000
	MaxWindow  = 366 * 24 * time.Hour
)

// ErrWarrant is wrapped by every error about a warrant's content.
var ErrWarrant = errors.New("the warrant does not stand")

// Warrant is an order to recover the EIDs behind addresses in time windows.
// Fields follow the warrant object of ETSI TS 103 120 where it has one.
type Warrant struct {
	ID         string    `json:"id"`          // 16 random bytes in hex
	Case       string    `json:"case"`        // the authority's file number
	Authority  string    `json:"authority"`   // who orders it
	LegalBasis string    `json:"legal_basis"` // by what law
	Purpose    string    `json:"purpose"`
	Issued     time.Time `json:"issued"`
	ValidFrom  time.Time `json:"valid_from"`
	ValidUntil time.Time `json:"valid_until"`
	Targets    []Target  `json:"targets"`
	Holder     Holder    `json:"holder"`
}

// Target is an address in a time window, both ends included.
type Target struct {
	Address netip.Addr `json:"address"`
	From    time.Time  `json:"from"`
	Until   time.Time  `json:"until"`
}

// Holder is who may carry the warrant out.
type Holder struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"` // SHA-256 of the TLS client certificate, hex
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
		{"holder.name", w.Holder.Name},
	} {
		if f.value == "" || len(f.value) > 1000 {
			return bad("%s: want 1 to 1000 bytes", f.name)
		}
	}
	if w.Issued.IsZero() || !w.ValidFrom.Before(w.ValidUntil) {
		return bad("valid_from and valid_until: want a time and a later one")
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
	for i, t := range w.Targets {
		switch {
		case !t.Address.Is6() || t.Address.Is4In6() || t.Address.Zone() != "":
			return bad("targets[%d].address: want an IPv6 address", i)
		case t.From.IsZero() || t.Until.Before(t.From):
			return bad("targets[%d]: the window ends before it begins", i)
		case t.Until.Sub(t.From) > MaxWindow:
			return bad("targets[%d]: the window is longer than %s", i, MaxWindow)
		case t.Until.After(w.Issued):
			return bad("targets[%d]: the window ends after the warrant was issued", i)
		}
	}
	return nil
}

// Sign checks the warrant and signs it.
func (w *Warrant) Sign(authority *Identity) (string, error) {
	if err := w.Check(); err != nil {
		return "", err
	}
	return sign(authority, warrantType, w)
}

// CountTargets returns how many targets a signed warrant names. Its signature is
// not checked.
func CountTargets(signed string) (int, error) {
	if len(signed) > MaxDocument {
		return 0, fmt.Errorf("%s: %d bytes are too many", warrantType, len(signed))
	}
	jws, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil {
		return 0, fmt.Errorf("%s: not a JWS in compact form: %w", warrantType, err)
	}
	if got := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]; got != warrantType {
		return 0, fmt.Errorf("%s: the document is a %q", warrantType, got)
	}
	var w Warrant
	if err := decodeStrict(jws.UnsafePayloadWithoutVerification(), &w); err != nil {
		return 0, fmt.Errorf("%s: %w", warrantType, err)
	}
	return len(w.Targets), w.Check()
}

// OpenWarrant checks a signed warrant: that an authority of roots signed it, that
// it is in force at a time, and that its content is sound.
func OpenWarrant(signed string, roots []*x509.Certificate, at time.Time) (*Warrant, error) {
	var w Warrant
	if _, err := open(signed, warrantType, roots, at, &w); err != nil {
		return nil, err
	}
	if err := w.Check(); err != nil {
		return nil, err
	}
	if at.Before(w.ValidFrom) || at.After(w.ValidUntil) {
		return nil, fmt.Errorf("%w: it is in force from %s to %s, and now is %s", ErrWarrant,
			w.ValidFrom.Format(time.RFC3339), w.ValidUntil.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return &w, nil
}
