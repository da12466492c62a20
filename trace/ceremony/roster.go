// Package ceremony makes an escrow key between its trustees, without a dealer, and
// deals a key that is there out to new trustees. It follows Gennaro, Jarecki, Krawczyk
// and Rabin, "Secure Distributed Key Generation for Discrete-Log Based Cryptosystems",
// Journal of Cryptology 20 (2007), with files in the place of a broadcast channel:
// each trustee writes one signed file a round and all read all of them, however they
// are carried. That all have read the same is checked by the hashes in the verdicts.
//
// The rounds of a key generation:
//
//	deal     commitments to a polynomial, and a sealed sub-share for each trustee
//	verdict  which deals were read, and of whom the trustee complains
//	answer   by those complained of: the sub-shares in question, in the open
//	open     the dealer's part of the public key
//	expose   only if a dealer does not open, or falsely: its sub-shares, to rebuild its part
//
// A resharing has deal, verdict and answer: old trustees deal their shares out to the
// new ones, and the escrow key stays what it is.
//
// A dealer who cheats is named and left out. A trustee keeps one secret, a seed, from
// which all that it deals is derived, so that a step may be taken again at any time.
// The package does no input or output.
package ceremony

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"brightgid/idcodec"
	"brightgid/trace"
)

const (
	rosterFormat = "gid-ceremony-1"
	joinType     = "gid-ceremony-join-1+jws"
	maxText      = 4 << 20
)

// ErrRoster says that a roster, or what goes into one, is not in order.
var ErrRoster = errors.New("the ceremony's roster is not in order")

var trusteeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Member is one who takes part.
type Member struct {
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"` // DER; signs the member's files
	SealTo      []byte `json:"seal_to"`     // X25519 public key that sub-shares are sealed to
}

// Roster is what a ceremony is about. All members must have the same; its hash names
// the ceremony.
type Roster struct {
	Format    string    `json:"format"`
	ID        string    `json:"id"` // 16 random bytes in hex
	Created   time.Time `json:"created"`
	Threshold int       `json:"threshold"`
	Trustees  []Member  `json:"trustees"` // in the order of their indices

	// Of a resharing: the key that is dealt out again, and those of its trustees
	// who take part.
	EscrowKey json.RawMessage `json:"escrow_key,omitempty"`
	Dealers   []Member        `json:"dealers,omitempty"`

	old *idcodec.EscrowKey
	raw []byte
}

// Join returns a signed announcement by which somebody is put on a roster.
func Join(id *trace.Identity, secret *Secret) (string, error) {
	if !trusteeName.MatchString(secret.Name) {
		return "", fmt.Errorf("%w: name %q: want 1 to 63 of a-z 0-9 . _ -, the first a letter or a digit", ErrRoster, secret.Name)
	}
	seal, err := secret.sealKey()
	if err != nil {
		return "", err
	}
	return trace.Sign(id, joinType, Member{secret.Name, id.Certificate.Raw, seal.PublicKey().Bytes()})
}

// OpenJoin reads an announcement. Whose it is, is to be compared by the fingerprint of
// its certificate, which need not lead to any root.
func OpenJoin(signed string, at time.Time) (*Member, error) {
	var m Member
	if err := trace.Payload(signed, joinType, &m); err != nil {
		return nil, err
	}
	c, err := m.certificate()
	if err != nil {
		return nil, err
	}
	if _, err := trace.Open(signed, joinType, []*x509.Certificate{c}, at, &m); err != nil {
		return nil, err
	}
	return &m, m.check()
}

func (m *Member) certificate() (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(m.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: the certificate of %q: %w", ErrRoster, m.Name, err)
	}
	return c, nil
}

func (m *Member) check() error {
	if !trusteeName.MatchString(m.Name) {
		return fmt.Errorf("%w: name %q is malformed", ErrRoster, m.Name)
	}
	if _, err := m.certificate(); err != nil {
		return err
	}
	if _, err := ecdh.X25519().NewPublicKey(m.SealTo); err != nil {
		return fmt.Errorf("%w: the key of %q is no X25519 public key", ErrRoster, m.Name)
	}
	return nil
}

// Fingerprint is the SHA-256 of the member's certificate, in hex.
func (m *Member) Fingerprint() string {
	sum := sha256.Sum256(m.Certificate)
	return hex.EncodeToString(sum[:])
}

// NewRoster makes the roster of a key generation; or, with the old key and those of
// its trustees who deal, of a resharing.
func NewRoster(rand io.Reader, now time.Time, threshold int, trustees []Member, old *idcodec.EscrowKey, dealers []Member) (*Roster, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	r := &Roster{Format: rosterFormat, ID: hex.EncodeToString(b), Created: now.UTC().Truncate(time.Second), Threshold: threshold, Trustees: trustees, Dealers: dealers}
	if old != nil {
		text, err := old.MarshalText()
		if err != nil {
			return nil, err
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return nil, err
		}
		r.EscrowKey = compact.Bytes()
	}
	text, err := r.marshal()
	if err != nil {
		return nil, err
	}
	return ParseRoster(text)
}

func (r *Roster) marshal() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// Text returns the roster's text, of which there is one.
func (r *Roster) Text() []byte { return bytes.Clone(r.raw) }

// ParseRoster reads a roster and checks it.
func ParseRoster(text []byte) (*Roster, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRoster, fmt.Sprintf(format, args...))
	}
	if len(text) > maxText {
		return nil, bad("%d bytes are too many", len(text))
	}
	var r Roster
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, bad("%v", err)
	}
	if len(r.EscrowKey) > 0 {
		var err error
		if r.old, err = idcodec.ParseEscrowKey(r.EscrowKey); err != nil {
			return nil, bad("%v", err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, r.EscrowKey); err != nil {
			return nil, bad("%v", err)
		}
		r.EscrowKey = compact.Bytes()
	}
	again, err := r.marshal()
	if err != nil || !bytes.Equal(again, text) {
		return nil, bad("its text is not as a roster is written")
	}
	if r.Format != rosterFormat {
		return nil, bad("format %q: want %q", r.Format, rosterFormat)
	}
	if id, err := hex.DecodeString(r.ID); err != nil || len(id) != 16 {
		return nil, bad("id: want 16 bytes in hex")
	}
	if len(r.Trustees) < 1 || len(r.Trustees) > idcodec.MaxTrustees || r.Threshold < 1 || r.Threshold > len(r.Trustees) {
		return nil, bad("%d of %d trustees: want 1 ≤ threshold ≤ trustees ≤ %d", r.Threshold, len(r.Trustees), idcodec.MaxTrustees)
	}
	for _, list := range [][]Member{r.Trustees, r.Dealers} {
		seen := make(map[string]bool)
		for i := range list {
			if err := list[i].check(); err != nil {
				return nil, err
			}
			for _, x := range []string{list[i].Name, string(list[i].Certificate), string(list[i].SealTo)} {
				if seen[x] {
					return nil, bad("%q stands twice", list[i].Name)
				}
				seen[x] = true
			}
		}
	}
	if (r.old == nil) != (len(r.Dealers) == 0) {
		return nil, bad("a resharing has both an escrow key and dealers")
	}
	if r.old != nil {
		if len(r.Dealers) < r.old.Threshold() {
			return nil, bad("%d of the %d old trustees needed", len(r.Dealers), r.old.Threshold())
		}
		for i := range r.Dealers {
			if r.oldIndex(r.Dealers[i].Name) == 0 {
				return nil, bad("%q is no trustee of the escrow key %s", r.Dealers[i].Name, r.old.ID())
			}
		}
	}
	r.raw = bytes.Clone(text)
	return &r, nil
}

// Hash names the ceremony.
func (r *Roster) Hash() string {
	sum := sha256.Sum256(r.raw)
	return hex.EncodeToString(sum[:])
}

// Resharing returns the key that is dealt out again; nil in a key generation.
func (r *Roster) Resharing() *idcodec.EscrowKey { return r.old }

// dealers are those who deal: everybody, or the old trustees.
func (r *Roster) dealers() []Member {
	if r.old != nil {
		return r.Dealers
	}
	return r.Trustees
}

// index returns a trustee's index, 0 for none.
func (r *Roster) index(name string) uint16 {
	for i := range r.Trustees {
		if r.Trustees[i].Name == name {
			return uint16(i + 1)
		}
	}
	return 0
}

// oldIndex returns an old trustee's index, 0 for none.
func (r *Roster) oldIndex(name string) uint16 {
	for _, t := range r.old.Trustees() {
		if t.Name == name {
			return t.Index
		}
	}
	return 0
}

func (r *Roster) names() []string {
	var out []string
	for i := range r.Trustees {
		out = append(out, r.Trustees[i].Name)
	}
	return out
}
