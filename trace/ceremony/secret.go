package ceremony

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/json"
	"fmt"
	"io"

	"brightgid/idcodec"
)

const secretFormat = "gid-ceremony-secret-1"

// Secret is what a member keeps until the ceremony has ended. Nothing prints it.
type Secret struct {
	Name string
	seed [32]byte
}

type secretJSON struct {
	Format string `json:"format"`
	Name   string `json:"name"`
	Seed   []byte `json:"seed"`
}

// NewSecret draws a member's secret.
func NewSecret(rand io.Reader, name string) (*Secret, error) {
	s := &Secret{Name: name}
	if _, err := io.ReadFull(rand, s.seed[:]); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	return s, nil
}

// String and GoString return a placeholder.
func (s *Secret) String() string   { return "[ceremony secret of " + s.Name + " withheld]" }
func (s *Secret) GoString() string { return s.String() }

// MarshalText returns the secret as JSON.
func (s *Secret) MarshalText() ([]byte, error) {
	b, err := json.Marshal(secretJSON{secretFormat, s.Name, s.seed[:]})
	return append(b, '\n'), err
}

// ParseSecret reads what MarshalText wrote. Its errors hold nothing of the secret.
func ParseSecret(text []byte) (*Secret, error) {
	var j secretJSON
	if err := json.Unmarshal(text, &j); err != nil || j.Format != secretFormat || len(j.Seed) != 32 || !trusteeName.MatchString(j.Name) {
		return nil, fmt.Errorf("not the secret of a ceremony's member (%s)", secretFormat)
	}
	s := &Secret{Name: j.Name, seed: [32]byte(j.Seed)}
	clear(j.Seed)
	return s, nil
}

// sealKey is the key that sub-shares for this member are sealed to.
func (s *Secret) sealKey() (*ecdh.PrivateKey, error) {
	b, err := hkdf.Key(sha256.New, s.seed[:], nil, "gid ceremony seal key", 32)
	if err != nil {
		return nil, err
	}
	return ecdh.X25519().NewPrivateKey(b)
}

// dealer derives what the member deals in a ceremony. Another roster gives another
// polynomial, so that no two ceremonies share one.
func (s *Secret) dealer(r *Roster, share *idcodec.Share) (*idcodec.Dealer, error) {
	stream := sha3.NewSHAKE256()
	for _, part := range []string{"gid ceremony polynomial\x00", string(s.seed[:]), r.Hash()} {
		stream.Write([]byte(part))
	}
	if r.old != nil {
		return idcodec.NewRedealer(stream, r.Threshold, share)
	}
	return idcodec.NewDealer(stream, r.Threshold)
}
