package trace

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// MaxDocument is the length in bytes of the longest document.
const MaxDocument = 64 << 20

// Hash names a signed document: the SHA-256 of its compact serialization, in
// hex.
func Hash(signed string) string {
	sum := sha256.Sum256([]byte(signed))
	return hex.EncodeToString(sum[:])
}

// opaque lets JOSE use a key that may be in a hardware token.
type opaque struct{ key crypto.Signer }

func (o opaque) Public() *jose.JSONWebKey { return &jose.JSONWebKey{Key: o.key.Public()} }

func (o opaque) Algs() []jose.SignatureAlgorithm {
	if _, ok := o.key.Public().(ed25519.PublicKey); ok {
		return []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return []jose.SignatureAlgorithm{jose.ES256}
}

// SignPayload signs as RFC 7518 §3.4 (ES256) and RFC 8037 §3.1 (EdDSA) say.
func (o opaque) SignPayload(payload []byte, alg jose.SignatureAlgorithm) ([]byte, error) {
	if alg == jose.EdDSA {
		return o.key.Sign(rand.Reader, payload, crypto.Hash(0))
	}
	sum := sha256.Sum256(payload)
	der, err := o.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 || sig.R.Sign() < 0 || sig.S.Sign() < 0 {
		return nil, errors.New("the key gave no ECDSA signature")
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

var signatureAlgorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256}

// Sign returns a JWS (RFC 7515, compact) of v, with EdDSA or ES256 and with the
// signer's certificate and those that issued it in its header (x5c).
func Sign(id *Identity, typ string, v any) (string, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	jws, err := signBytes(id, typ, payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

func signBytes(id *Identity, typ string, payload []byte) (*jose.JSONWebSignature, error) {
	chain := [][]byte{id.Certificate.Raw}
	for _, c := range id.Chain {
		chain = append(chain, c.Raw)
	}
	o := opaque{id.Key}
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("x5c", chain)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: o.Algs()[0], Key: o}, opts)
	if err != nil {
		return nil, err
	}
	return s.Sign(payload)
}

// Open checks a JWS of a type against roots at a time and decodes its payload into v,
// strictly. It returns the signer's certificate.
func Open(signed, typ string, roots []*x509.Certificate, at time.Time, v any) (*x509.Certificate, error) {
	if len(signed) > MaxDocument {
		return nil, fmt.Errorf("%s: %d bytes are too many", typ, len(signed))
	}
	jws, err := jose.ParseSignedCompact(signed, signatureAlgorithms)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: not a JWS in compact form: %w", typ, ErrSignature, err)
	}
	signer, err := signerOf(jws, typ, roots, at)
	if err != nil {
		return nil, err
	}
	payload, err := jws.Verify(signer.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: it does not verify with the key of %q", typ, ErrSignature, signer.Subject.CommonName)
	}
	if err := decodeStrict(payload, v); err != nil {
		return nil, fmt.Errorf("%s: %w", typ, err)
	}
	// Of a signature there are several encodings in base64; of a document there
	// shall be one, or it would have several hashes.
	if again, err := jws.CompactSerialize(); err != nil || again != signed {
		return nil, fmt.Errorf("%s: %w: its encoding is not the one that there is", typ, ErrSignature)
	}
	return signer, nil
}

// typeOf returns the type that a JWS in compact form says to be of; nothing if it cannot
// be read.
func typeOf(signed string) string {
	if len(signed) > MaxDocument {
		return ""
	}
	jws, err := jose.ParseSignedCompact(signed, signatureAlgorithms)
	if err != nil {
		return ""
	}
	typ, _ := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType].(string)
	return typ
}

// signerOf returns the certificate that signed, if it leads to a root.
func signerOf(jws *jose.JSONWebSignature, typ string, roots []*x509.Certificate, at time.Time) (*x509.Certificate, error) {
	header := jws.Signatures[0].Protected
	if got := header.ExtraHeaders[jose.HeaderType]; got != typ {
		return nil, fmt.Errorf("%s: %w: the document is a %q", typ, ErrSignature, got)
	}
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	chains, err := header.Certificates(x509.VerifyOptions{
		Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w: the signer's certificate is not trusted: %w", typ, ErrSignature, err)
	}
	signer := chains[0][0]
	if _, ok := signer.PublicKey.(*ecdsa.PublicKey); !ok {
		if _, ok := signer.PublicKey.(ed25519.PublicKey); !ok {
			return nil, fmt.Errorf("%s: %w: the signer's key is a %T", typ, ErrSignature, signer.PublicKey)
		}
	}
	return signer, nil
}

// Payload decodes a JWS of a type without looking at its signature: for documents that
// bring the certificate by which they are to be opened.
func Payload(signed, typ string, v any) error {
	if len(signed) > MaxDocument {
		return fmt.Errorf("%s: %d bytes are too many", typ, len(signed))
	}
	jws, err := jose.ParseSignedCompact(signed, signatureAlgorithms)
	if err != nil {
		return fmt.Errorf("%s: not a JWS in compact form: %w", typ, err)
	}
	if got := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]; got != typ {
		return fmt.Errorf("%s: the document is a %q", typ, got)
	}
	if err := decodeStrict(jws.UnsafePayloadWithoutVerification(), v); err != nil {
		return fmt.Errorf("%s: %w", typ, err)
	}
	return nil
}

// decodeStrict decodes one JSON value without unknown fields.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("data after the end")
	}
	return nil
}
