package trace

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
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
// authority, an ISP, a warrant holder.
type Identity struct {
	Key         ed25519.PrivateKey
	Certificate *x509.Certificate

	// Unseal opens what is sealed to a warrant holder; nil for others.
	Unseal *ecdh.PrivateKey
}

// Subject is whom a certificate is for.
type Subject struct {
	Name  string
	Roles []string // what the ledger lets it write, as organizational units
	Hosts []string // names and addresses, for a TLS server
}

// NewIdentity makes an identity with a self-signed certificate, which others
// take as their root of trust.
func NewIdentity(rand io.Reader, s Subject, notBefore, notAfter time.Time) (*Identity, error) {
	if s.Name == "" {
		return nil, errors.New("identity: the name is empty")
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("identity: reading randomness: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
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
	return &Identity{Key: key, Certificate: cert}, nil
}

// NewHolder makes an identity that approvals can be sealed to.
func NewHolder(rand io.Reader, s Subject, notBefore, notAfter time.Time) (*Identity, error) {
	id, err := NewIdentity(rand, s, notBefore, notAfter)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := io.ReadFull(rand, secret); err != nil {
		return nil, fmt.Errorf("identity: reading randomness: %w", err)
	}
	id.Unseal, err = ecdh.X25519().NewPrivateKey(secret)
	return id, err
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

// MarshalKey returns the identity's secrets as PEM (PKCS #8).
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

// MarshalCertificate returns the identity's certificate as PEM.
func (id *Identity) MarshalCertificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Certificate.Raw})
}

// ParseIdentity reads what MarshalKey and MarshalCertificate wrote. Its errors
// hold nothing of the key.
func ParseIdentity(key, certificate []byte) (*Identity, error) {
	certs, err := ParseCertificates(certificate)
	if err != nil {
		return nil, err
	}
	id := &Identity{Certificate: certs[0]}
	for {
		var block *pem.Block
		if block, key = pem.Decode(key); block == nil {
			break
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || block.Type != "PRIVATE KEY" {
			return nil, errors.New("identity: the key file holds a block that is no PKCS #8 private key")
		}
		switch k := parsed.(type) {
		case ed25519.PrivateKey:
			id.Key = k
		case *ecdh.PrivateKey:
			id.Unseal = k
		default:
			return nil, fmt.Errorf("identity: the key file holds a %T; want Ed25519 and X25519", parsed)
		}
	}
	if id.Key == nil {
		return nil, errors.New("identity: the key file holds no Ed25519 key")
	}
	if pub, ok := id.Certificate.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(id.Key.Public()) {
		return nil, errors.New("identity: the certificate belongs to another key")
	}
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
