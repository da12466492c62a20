// Package ecert has clients authenticate by certificates (E-Certs): a certificate authority
// that the operator trusts, a Fabric CA or any other, has certified the subscriber, whose key
// signs that a client of a DUID is the subscriber's, for a while.
//
// A proof is
//
//	version(1) ‖ signed(8) ‖ until(8) ‖ certificate length(2) ‖ certificate ‖ signature(64)
//
// big-endian, times in Unix seconds, the certificate in DER. The signature is Ed25519, or
// ECDSA with P-256 and SHA-256 as r ‖ s, over
//
//	"gid-ecert-1" ‖ 0 ‖ realm length(1) ‖ realm ‖ DUID length(2) ‖ DUID ‖ what precedes it
//
// It is carried in the Vendor-specific Information option (RFC 9915 §21.17), as option 2 of
// the operator's enterprise number, as it is or in base64url (RFC 4648 §5, without padding).
//
// The EID is ecert:<first 8 bytes of the SHA-256 of the issuer's public key, in hex>.<common
// name>: an authority must not give one name to two.
package ecert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"brightgid/eidauth"
	"brightgid/idcodec"
)

const (
	version      = 1
	headLen      = 1 + 8 + 8 + 2
	maxDUID      = 130 // RFC 9915 §11.1
	signatureLen = 64
	prefix       = "gid-ecert-1\x00"

	// OptionCode is the proof's code among the options of an enterprise.
	OptionCode = 2

	// MaxCertificate is the length in bytes of the longest certificate, so that a proof and
	// what else a client says cross any link in one datagram.
	MaxCertificate = 1000
)

// What is wrong with a proof.
var (
	ErrMalformed   = errors.New("it is malformed")
	ErrCertificate = errors.New("its certificate is not of an authority that is trusted here")
	ErrRevoked     = errors.New("its certificate is revoked")
	ErrForeign     = errors.New("it was not signed for this client and realm, or was changed")
	ErrTime        = errors.New("it does not hold yet, or does not any more, or for too long")
)

// Prove makes a proof for a client, by the key of a subscriber's certificate.
func Prove(rand io.Reader, key crypto.Signer, certificate *x509.Certificate, realm string, duid []byte, signed, until time.Time) ([]byte, error) {
	switch n := len(duid); {
	case n < 3 || n > maxDUID:
		return nil, fmt.Errorf("DUID: %d bytes, want 3 to %d (RFC 9915 §11.1)", n, maxDUID)
	case realm == "" || len(realm) > idcodec.MaxLabelLen:
		return nil, fmt.Errorf("realm: %d bytes, want 1 to %d", len(realm), idcodec.MaxLabelLen)
	case len(certificate.Raw) > MaxCertificate:
		return nil, fmt.Errorf("the certificate has %d bytes, want %d at most", len(certificate.Raw), MaxCertificate)
	case !signed.Before(until) || signed.Unix() < 0:
		return nil, errors.New("the proof's time ends before it begins")
	}
	b := binary.BigEndian.AppendUint64([]byte{version}, uint64(signed.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(certificate.Raw)))
	b = append(b, certificate.Raw...)
	text := eidauth.SignedText(prefix, realm, duid, b)
	switch public := certificate.PublicKey.(type) {
	case ed25519.PublicKey:
		sig, err := key.Sign(rand, text, crypto.Hash(0))
		if err != nil {
			return nil, err
		}
		return append(b, sig...), nil
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, errors.New("the certificate's key is on a curve other than P-256")
		}
		sum := sha256.Sum256(text)
		der, err := key.Sign(rand, sum[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		var sig struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
			return nil, errors.New("the key's signature is not of ECDSA")
		}
		raw := make([]byte, signatureLen)
		sig.R.FillBytes(raw[:32])
		sig.S.FillBytes(raw[32:])
		return append(b, raw...), nil
	default:
		return nil, fmt.Errorf("the certificate's key is a %T; want Ed25519 or ECDSA with P-256", public)
	}
}

// Encode returns a proof as text.
func Encode(proof []byte) string { return base64.RawURLEncoding.EncodeToString(proof) }

// Config is what New needs.
type Config struct {
	Roots      []*x509.Certificate    // of authorities
	Revoked    []*x509.RevocationList // of theirs
	Enterprise uint32
	Realm      string
	Lifetime   time.Duration // of a proof, at most
	Now        func() time.Time
}

// Source implements [eidauth.Source].
type Source struct {
	c       Config
	pool    *x509.CertPool
	revoked map[string]bool // issuer ‖ serial number

	known eidauth.Credentials
}

// skew is how far a client's clock may be ahead.
const skew = 5 * time.Minute

// New returns a source. Each revocation list must be signed by one of the roots.
func New(c Config) (*Source, error) {
	if len(c.Roots) == 0 {
		return nil, errors.New("no authority")
	}
	s := &Source{c: c, pool: x509.NewCertPool(), revoked: make(map[string]bool)}
	for _, r := range c.Roots {
		s.pool.AddCert(r)
	}
	for _, l := range c.Revoked {
		signed := false
		for _, r := range c.Roots {
			signed = signed || bytes.Equal(l.RawIssuer, r.RawSubject) && l.CheckSignatureFrom(r) == nil
		}
		if !signed {
			return nil, fmt.Errorf("the revocation list of %q is not signed by an authority that is trusted", l.Issuer.CommonName)
		}
		for _, e := range l.RevokedCertificateEntries {
			s.revoked[string(l.RawIssuer)+e.SerialNumber.String()] = true
		}
	}
	return s, nil
}

// Authenticate implements [eidauth.Source]. A client without a proof, or with one that does
// not hold, is unknown to it.
func (s *Source) Authenticate(c *eidauth.Client) (eidauth.Identity, error) {
	b := eidauth.VendorOption(c.Vendor, s.c.Enterprise, OptionCode)
	if b == nil {
		return eidauth.Identity{}, eidauth.ErrUnknown
	}
	id, err := s.check(c.DUID, b)
	if err != nil {
		return id, fmt.Errorf("%w: its proof by certificate: %w", eidauth.ErrUnknown, err)
	}
	return id, nil
}

func (s *Source) check(duid, b []byte) (eidauth.Identity, error) {
	now := s.c.Now()
	x, err := s.known.Check(duid, b, func() (*eidauth.Credential, error) { return s.parse(duid, b, now) })
	if err != nil {
		return eidauth.Identity{}, err
	}
	if now.Add(skew).Before(x.From) || !now.Before(x.Until) {
		return eidauth.Identity{}, ErrTime
	}
	return x.Identity, nil
}

// parse checks a proof: its certificate, its signature, its time. It holds no longer than
// the certificate.
func (s *Source) parse(duid, b []byte, now time.Time) (*eidauth.Credential, error) {
	b, err := eidauth.DecodeCredential(b, version)
	if err != nil {
		return nil, ErrMalformed
	}
	if len(b) < headLen+signatureLen || len(b) > headLen+MaxCertificate+signatureLen {
		return nil, ErrMalformed
	}
	body, sig := b[:len(b)-signatureLen], b[len(b)-signatureLen:]
	if int(binary.BigEndian.Uint16(body[headLen-2:])) != len(body)-headLen {
		return nil, ErrMalformed
	}
	cert, err := x509.ParseCertificate(body[headLen:])
	if err != nil {
		return nil, ErrMalformed
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: s.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil || len(chains[0]) < 2 {
		return nil, ErrCertificate
	}
	issuer := chains[0][1]
	if s.revoked[string(cert.RawIssuer)+cert.SerialNumber.String()] {
		return nil, ErrRevoked
	}
	if !verify(cert.PublicKey, eidauth.SignedText(prefix, s.c.Realm, duid, body), sig) {
		return nil, ErrForeign
	}
	from, until := binary.BigEndian.Uint64(body[1:]), binary.BigEndian.Uint64(body[9:])
	if from >= until || until > 1<<40 || until-from > uint64(s.c.Lifetime/time.Second) {
		return nil, ErrTime
	}
	x := &eidauth.Credential{From: time.Unix(int64(from), 0), Until: time.Unix(int64(until), 0)}
	if cert.NotAfter.Before(x.Until) {
		x.Until = cert.NotAfter
	}
	x.Identity.EID, err = EID(cert, issuer)
	return x, err
}

func verify(public any, text, sig []byte) bool {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, text, sig)
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return false
		}
		sum := sha256.Sum256(text)
		return ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	}
	return false
}

// EID returns the EID of a certificate that an authority has issued.
func EID(cert, issuer *x509.Certificate) (idcodec.EID, error) {
	if cert.Subject.CommonName == "" {
		return idcodec.EID{}, errors.New("its certificate has no common name")
	}
	sum := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	return idcodec.OpaqueEID("ecert", fmt.Appendf(nil, "%x.%s", sum[:8], cert.Subject.CommonName))
}
