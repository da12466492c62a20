package ledgeranchor

import (
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Members knows whose signatures count, and for what. It begins with roots that
// its user trusts, and learns of certificates under them from records of kind
// certificate. It is safe for concurrent use.
type Members struct {
	roots *x509.CertPool

	mu   sync.RWMutex
	byID map[Hash]*x509.Certificate

	// What has been verified: a batch's records share a signature. The map is
	// emptied when it is full.
	verified map[verifiedKey]struct{}
}

type verifiedKey struct {
	author    Hash
	root      Hash
	signature [72]byte // of an ECDSA signature, the longest
}

const maxVerified = 1 << 14

// NewMembers returns members that are, or were issued by, one of the roots.
func NewMembers(roots []*x509.Certificate) *Members {
	m := &Members{roots: x509.NewCertPool(), byID: make(map[Hash]*x509.Certificate), verified: make(map[verifiedKey]struct{})}
	for _, c := range roots {
		m.roots.AddCert(c)
	}
	return m
}

// maxMembers bounds the certificates that members are known by. Only roots can
// make more.
const maxMembers = 1 << 20

// Add makes a member known by its certificate, which must be, or be issued by, a
// root at a time.
func (m *Members) Add(c *x509.Certificate, at time.Time) error {
	if err := supported(c.PublicKey); err != nil {
		return fmt.Errorf("%w: its certificate: %w", ErrAuthor, err)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: m.roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("%w: %w", ErrAuthor, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.byID) >= maxMembers {
		return fmt.Errorf("%w: there are %d members already", ErrAuthor, maxMembers)
	}
	m.byID[AuthorID(c)] = c
	return nil
}

// Certificate returns a member's certificate.
func (m *Members) Certificate(id Hash) (*x509.Certificate, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c, ok := m.byID[id]
	return c, ok
}

// Check reads a signed record and reports what is wrong with it: that it is not
// well-formed, that its author is no member, had no certificate at the time, or
// has not the role, or that the signature is not the author's.
func (m *Members) Check(s *Signed) (*Record, error) {
	r, err := Decode(s.Record)
	if err != nil {
		return nil, err
	}
	c, known := m.Certificate(r.Author)
	if r.Kind == KindCertificate {
		if c, err = x509.ParseCertificate(r.Body); err != nil {
			return nil, fmt.Errorf("%w: certificate: %w", ErrMalformed, err)
		}
		if err := supported(c.PublicKey); err != nil {
			return nil, fmt.Errorf("%w: its certificate: %w", ErrAuthor, err)
		}
	} else if !known {
		return nil, fmt.Errorf("%w: %s has not put its certificate on the ledger", ErrAuthor, r.Author)
	}
	if at := r.At(); at.Before(c.NotBefore) || at.After(c.NotAfter) {
		return nil, fmt.Errorf("%w: the certificate of %q is not valid at %s", ErrAuthor, c.Subject.CommonName, at.Format(time.RFC3339))
	}
	if role, _ := RoleFor(r.Kind); role != "" && !slices.Contains(c.Subject.OrganizationalUnit, role) {
		return nil, fmt.Errorf("%w: a %s needs the role %q; %q has %q", ErrRole, r.Kind, role, c.Subject.CommonName, c.Subject.OrganizationalUnit)
	}
	root, err := s.root()
	if err != nil {
		return nil, err
	}
	key := verifiedKey{author: r.Author, root: Hash(root)}
	if len(s.Signature) > len(key.signature) {
		return nil, fmt.Errorf("%w: a signature of %d bytes", ErrSignature, len(s.Signature))
	}
	copy(key.signature[:], s.Signature)
	m.mu.RLock()
	_, done := m.verified[key]
	m.mu.RUnlock()
	if !done {
		if !verify(c.PublicKey, root, s.Signature) {
			return nil, fmt.Errorf("%w with the key of %q", ErrSignature, c.Subject.CommonName)
		}
		m.mu.Lock()
		if len(m.verified) >= maxVerified {
			clear(m.verified)
		}
		m.verified[key] = struct{}{}
		m.mu.Unlock()
	}
	if r.Kind == KindCertificate && !known {
		if err := m.Add(c, r.At()); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Introduce returns the record by which an author becomes a member. It is always
// the same one.
func (a *Author) Introduce() (*Signed, error) {
	s, err := a.Sign(&Record{Kind: KindCertificate, Time: uint64(a.Certificate.NotBefore.UnixMilli()), Body: a.Certificate.Raw})
	if err != nil {
		return nil, err
	}
	return s[0], nil
}
