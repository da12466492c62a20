package trace

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// MaxDocument is the length in bytes of the longest signed document.
const MaxDocument = 64 << 20

// ErrSignature says that a document is not signed, or not by one who is trusted
// for it.
var ErrSignature = errors.New("signature refused")

// Hash names a signed document: the SHA-256 of its compact serialization, in
// hex.
func Hash(signed string) string {
	sum := sha256.Sum256([]byte(signed))
	return hex.EncodeToString(sum[:])
}

// sign returns a JWS (RFC 7515, compact) of v with EdDSA and the signer's
// certificate in its header (x5c).
func sign(id *Identity, typ string, v any) (string, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).
		WithHeader("x5c", [][]byte{id.Certificate.Raw})
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: id.Key}, opts)
	if err != nil {
		return "", err
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// open checks a JWS against roots at a time and decodes its payload into v. It
// returns the signer's certificate.
func open(signed, typ string, roots []*x509.Certificate, at time.Time, v any) (*x509.Certificate, error) {
	if len(signed) > MaxDocument {
		return nil, fmt.Errorf("%s: %d bytes are too many", typ, len(signed))
	}
	jws, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("%s: %w: not a JWS in compact form: %w", typ, ErrSignature, err)
	}
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
	payload, err := jws.Verify(signer.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: it does not verify with the key of %q", typ, ErrSignature, signer.Subject.CommonName)
	}
	if err := decodeStrict(payload, v); err != nil {
		return nil, fmt.Errorf("%s: %w", typ, err)
	}
	return signer, nil
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
