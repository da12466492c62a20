package trace

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"time"
)

// Identity is the key and the certificate of one who signs or asks: an
// authority, an ISP, a trustee, a warrant holder.
type Identity struct {
	Key         crypto.Signer // Ed25519 or ECDSA P-256; it may be in a hardware token
	Certificate *x509.Certificate
	Chain       []*x509.Certificate // those that issued it, from the nearest, without the root

	// Unseal opens what is sealed to a warrant holder; nil for others.
	Unseal *ecdh.PrivateKey
}

// Subject is whom a certificate is for.
type Subject struct {
	Name  string
	Roles []string // what the ledger lets it write, as organizational units
	Hosts []string // names and addresses, for a TLS server
}

// NewIdentity makes an identity with a fresh Ed25519 key and a self-signed
// certificate, which others take as their root of trust.
func NewIdentity(rand io.Reader, s Subject, notBefore, notAfter time.Time) (*Identity, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("identity: reading randomness: %w", err)
	}
	return Certify(rand, ed25519.NewKeyFromSeed(seed), s, notBefore, notAfter)
}

// Certify makes an identity of a key that is there already, with a self-signed
// certificate.
func Certify(rand io.Reader, key crypto.Signer, s Subject, notBefore, notAfter time.Time) (*Identity, error) {
	if s.Name == "" {
		return nil, errors.New("identity: the name is empty")
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return nil, fmt.Errorf("identity: reading randomness: %w", err)
	}
	serial[0] &= 0x7f
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: s.Name, OrganizationalUnit: s.Roles},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, h := range s.Hosts {
		if a, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, a.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return withKey(key, []*x509.Certificate{cert})
}

// withKey joins a key and its certificate, which the chain begins with.
func withKey(key crypto.Signer, chain []*x509.Certificate) (*Identity, error) {
	switch k := key.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("identity: a key on the curve %s; want Ed25519 or ECDSA P-256", k.Params().Name)
		}
	default:
		return nil, fmt.Errorf("identity: a key of type %T; want Ed25519 or ECDSA P-256", k)
	}
	pub, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("identity: the certificate belongs to another key")
	}
	return &Identity{Key: key, Certificate: chain[0], Chain: chain[1:]}, nil
}

// NewHolder makes an identity that approvals can be sealed to.
func NewHolder(rand io.Reader, s Subject, notBefore, notAfter time.Time) (*Identity, error) {
	id, err := NewIdentity(rand, s, notBefore, notAfter)
	if err != nil {
		return nil, err
	}
	return id, id.CanUnseal(rand)
}

// CanUnseal gives an identity a key that approvals can be sealed to.
func (id *Identity) CanUnseal(rand io.Reader) (err error) {
	secret := make([]byte, 32)
	if _, err := io.ReadFull(rand, secret); err != nil {
		return fmt.Errorf("identity: reading randomness: %w", err)
	}
	id.Unseal, err = ecdh.X25519().NewPrivateKey(secret)
	clear(secret)
	return err
}

// Holder returns what a warrant says of its holder.
func (id *Identity) Holder() (Holder, error) {
	if id.Unseal == nil {
		return Holder{}, errors.New("identity: it is no warrant holder's; nothing can be sealed to it")
	}
	return Holder{
		Name:        id.Certificate.Subject.CommonName,
		Certificate: Fingerprint(id.Certificate),
		SealTo:      id.Unseal.PublicKey().Bytes(),
	}, nil
}

// Fingerprint is the SHA-256 of a certificate, in hex.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// MarshalKey returns the identity's secrets as PEM (PKCS #8). A key in a token
// cannot be written.
func (id *Identity) MarshalKey() ([]byte, error) {
	keys := []crypto.PrivateKey{id.Key}
	if id.Unseal != nil {
		keys = append(keys, id.Unseal)
	}
	var out []byte
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return out, nil
}

// MarshalUnseal returns the key that approvals are sealed to, alone, as PEM; nothing
// if there is none.
func (id *Identity) MarshalUnseal() ([]byte, error) {
	if id.Unseal == nil {
		return nil, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(id.Unseal)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// MarshalCertificate returns the identity's certificate, and those that issued it, as
// PEM.
func (id *Identity) MarshalCertificate() []byte {
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Certificate.Raw})
	for _, c := range id.Chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// ParseIdentity reads what MarshalKey and MarshalCertificate wrote. Its errors
// hold nothing of the key.
func ParseIdentity(key, certificates []byte) (*Identity, error) {
	return ParseIdentityOf(nil, key, certificates)
}

// ParseIdentityOf is ParseIdentity for a key that is in a token: the text of keys may
// then hold the key that approvals are sealed to, and no other.
func ParseIdentityOf(token crypto.Signer, keys, certificates []byte) (*Identity, error) {
	chain, err := ParseCertificates(certificates)
	if err != nil {
		return nil, err
	}
	signer := token
	var unseal *ecdh.PrivateKey
	for {
		var block *pem.Block
		if block, keys = pem.Decode(keys); block == nil {
			break
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || block.Type != "PRIVATE KEY" {
			return nil, errors.New("identity: the key file holds a block that is no PKCS #8 private key")
		}
		switch k := parsed.(type) {
		case crypto.Signer:
			if signer != nil {
				return nil, errors.New("identity: the key file holds two signing keys")
			}
			signer = k
		case *ecdh.PrivateKey:
			unseal = k
		default:
			return nil, fmt.Errorf("identity: the key file holds a %T; want Ed25519, ECDSA P-256 or X25519", parsed)
		}
	}
	if signer == nil {
		return nil, errors.New("identity: the key file holds no signing key")
	}
	id, err := withKey(signer, chain)
	if err != nil {
		return nil, err
	}
	id.Unseal = unseal
	return id, nil
}

// ParseCertificates reads one or more certificates in PEM.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("certificates: a %q block among them", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("certificates: none found; want PEM")
	}
	return certs, nil
}
