package gidzone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/miekg/dns"
)

// Key signs zones: ECDSA P-256 with SHA-256 (algorithm 13, RFC 6605), one key for the
// key's own set and for everything else.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey draws a key.
func NewKey(rand io.Reader) (*Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("zone key: %w", err)
	}
	return &Key{k}, nil
}

// MarshalText returns the key as PEM (PKCS #8).
func (k *Key) MarshalText() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads what MarshalText wrote. Its errors hold nothing of the key.
func ParseKey(text []byte) (*Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("zone key: not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	k, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("zone key: want ECDSA P-256 in PKCS #8")
	}
	return &Key{k}, nil
}

// record returns the key's DNSKEY record at a zone.
func (k *Key) record(apex string) *dns.DNSKEY {
	r := &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: apex, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: staticTTL},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	// RFC 6605 §4: x ‖ y, 32 bytes each, as the uncompressed point has them.
	point, err := k.private.PublicKey.Bytes()
	if err != nil || len(point) != 65 {
		panic("gidzone: a P-256 key without a point") // ParseKey and NewKey make no such
	}
	r.PublicKey = toBase64(point[1:])
	return r
}
