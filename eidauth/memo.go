package eidauth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// Credential is what a client has shown and that was found to hold for a while.
type Credential struct {
	From, Until time.Time
	Identity    Identity
}

// Credentials remembers credentials that were checked, so that a signature is checked once
// for each client and not with each message. The zero value is ready; it is safe for
// concurrent use.
type Credentials struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*Credential // by their hash with the DUID
}

// maxCredentials bounds those that are remembered.
const maxCredentials = 100_000

// Check returns the credential in b, which a client of a DUID has shown: a remembered one, or
// what check finds it to be, which is remembered.
func (c *Credentials) Check(duid, b []byte, check func() (*Credential, error)) (*Credential, error) {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(duid))))
	h.Write(duid)
	h.Write(b)
	key := [sha256.Size]byte(h.Sum(nil))
	c.mu.Lock()
	x := c.known[key]
	c.mu.Unlock()
	if x != nil {
		return x, nil
	}
	x, err := check()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxCredentials {
		c.known = make(map[[sha256.Size]byte]*Credential) // they are checked again when they come
	}
	c.known[key] = x
	return x, nil
}

var errCredential = errors.New("neither of its version nor base64url")

// DecodeCredential returns a credential that begins with its version, as it is, or, for
// clients that send text, in base64url without padding (RFC 4648 §5). b is not empty.
func DecodeCredential(b []byte, version byte) ([]byte, error) {
	if b[0] == version {
		return b, nil
	}
	raw := make([]byte, base64.RawURLEncoding.DecodedLen(len(b)))
	n, err := base64.RawURLEncoding.Strict().Decode(raw, b)
	if err != nil || n == 0 || raw[0] != version {
		return nil, errCredential
	}
	return raw[:n], nil
}

// SignedText returns what a client's credential is signed over: a purpose that ends in NUL,
// realm length(1) ‖ realm ‖ DUID length(2) ‖ DUID, and the credential's body.
func SignedText(purpose, realm string, duid, body []byte) []byte {
	b := append([]byte(purpose), byte(len(realm)))
	b = append(b, realm...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(duid)))
	b = append(b, duid...)
	return append(b, body...)
}
