// Package token has clients authenticate by enrolment tokens: an identity provider that
// knows the subscriber seals its NID beforehand, so that the DHCPv6 server leases to a
// subscriber whose EID it never sees.
//
// A token is
//
//	version(1) ‖ issuer(32) ‖ not before(8) ‖ not after(8) ‖ handle(32) ‖
//	NID length(2) ‖ NID ‖ signature(64)
//
// big-endian, times in Unix seconds. The issuer is named by the SHA-256 of its
// certificate. The handle is HMAC-SHA256(a key of the issuer's, EID): tokens of one
// subscriber have the same, and it tells nobody else who that is. The signature is
// Ed25519 over
//
//	"gid-token-1" ‖ 0 ‖ realm length(1) ‖ realm ‖ DUID length(2) ‖ DUID ‖ what precedes it
//
// so that a token holds for one realm and one client. It is carried in the Vendor-specific
// Information option (RFC 9915 §21.17), as option 1 of the operator's enterprise number,
// as it is or in base64url (RFC 4648 §5, without padding) for clients that send text.
package token

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"brightgid/eidauth"
	"brightgid/idcodec"
)

const (
	version   = 1
	headLen   = 1 + sha256.Size + 8 + 8 + sha256.Size + 2
	maxDUID   = 130 // RFC 9915 §11.1
	signature = "gid-token-1\x00"

	// OptionCode is the token's code among the options of an enterprise.
	OptionCode = 1

	// MaxLen is the length in bytes of the longest token.
	MaxLen = headLen + idcodec.MaxNIDLen + ed25519.SignatureSize
)

// What is wrong with a token.
var (
	ErrMalformed = errors.New("it is malformed")
	ErrIssuer    = errors.New("its issuer is not known")
	ErrForeign   = errors.New("it was not issued for this client and realm, or was changed")
	ErrTime      = errors.New("it does not hold yet, or does not any more")
)

// Issuer makes tokens.
type Issuer struct {
	key    ed25519.PrivateKey
	id     [sha256.Size]byte
	realm  string
	escrow *idcodec.EscrowKey
}

// NewIssuer returns an issuer of tokens for a realm, whose NIDs the trustees of an escrow
// key open.
func NewIssuer(key ed25519.PrivateKey, certificate *x509.Certificate, realm string, escrow *idcodec.EscrowKey) (*Issuer, error) {
	public, ok := certificate.PublicKey.(ed25519.PublicKey)
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the issuer's certificate is not of its key, or not of Ed25519")
	}
	if realm == "" || len(realm) > idcodec.MaxLabelLen {
		return nil, fmt.Errorf("realm: %d bytes, want 1 to %d", len(realm), idcodec.MaxLabelLen)
	}
	return &Issuer{key, sha256.Sum256(certificate.Raw), realm, escrow}, nil
}

// Issue makes a token by which a client authenticates as a subscriber.
func (i *Issuer) Issue(rand io.Reader, eid idcodec.EID, duid []byte, notBefore, notAfter time.Time) ([]byte, error) {
	if n := len(duid); n < 3 || n > maxDUID {
		return nil, fmt.Errorf("DUID: %d bytes, want 3 to %d (RFC 9915 §11.1)", n, maxDUID)
	}
	if !notBefore.Before(notAfter) || notBefore.Unix() < 0 {
		return nil, errors.New("the token's time ends before it begins")
	}
	nid, err := idcodec.SealNID(rand, i.escrow, i.realm, eid)
	if err != nil {
		return nil, err
	}
	secret := sha256.Sum256(append([]byte("gid-token-handle\x00"), i.key.Seed()...))
	handle := idcodec.NewLookupHasher(secret).Key(eid)
	b := append([]byte{version}, i.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(notBefore.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(notAfter.Unix()))
	b = append(b, handle[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(nid)))
	b = append(b, nid...)
	return append(b, ed25519.Sign(i.key, eidauth.SignedText(signature, i.realm, duid, b))...), nil
}

// Encode returns a token as text.
func Encode(token []byte) string { return base64.RawURLEncoding.EncodeToString(token) }

// Config is what New needs.
type Config struct {
	Issuers    []*x509.Certificate
	Enterprise uint32
	Realm      string
	Escrow     *idcodec.EscrowKey
	Registry   [idcodec.RegistryKeyLen]byte // under which subscribers are found
	Now        func() time.Time
}

// Source implements [eidauth.Source].
type Source struct {
	c       Config
	issuers map[[sha256.Size]byte]ed25519.PublicKey

	known eidauth.Credentials
}

// New returns a source.
func New(c Config) (*Source, error) {
	s := &Source{c: c, issuers: make(map[[sha256.Size]byte]ed25519.PublicKey)}
	for _, x := range c.Issuers {
		key, ok := x.PublicKey.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("issuer %q: its key is not of Ed25519", x.Subject.CommonName)
		}
		s.issuers[sha256.Sum256(x.Raw)] = key
	}
	if len(s.issuers) == 0 {
		return nil, errors.New("no issuer")
	}
	return s, nil
}

// Authenticate implements [eidauth.Source]. A client without a token, or with one that
// does not hold, is unknown to it.
func (s *Source) Authenticate(c *eidauth.Client) (eidauth.Identity, error) {
	b := eidauth.VendorOption(c.Vendor, s.c.Enterprise, OptionCode)
	if b == nil {
		return eidauth.Identity{}, eidauth.ErrUnknown
	}
	id, err := s.check(c.DUID, b)
	if err != nil {
		return id, fmt.Errorf("%w: its enrolment token: %w", eidauth.ErrUnknown, err)
	}
	return id, nil
}

func (s *Source) check(duid, b []byte) (eidauth.Identity, error) {
	x, err := s.known.Check(duid, b, func() (*eidauth.Credential, error) { return s.parse(duid, b) })
	if err != nil {
		return eidauth.Identity{}, err
	}
	if now := s.c.Now(); now.Before(x.From) || !now.Before(x.Until) {
		return eidauth.Identity{}, ErrTime
	}
	return x.Identity, nil
}

// parse checks a token's signature, and then what is signed.
func (s *Source) parse(duid, b []byte) (*eidauth.Credential, error) {
	b, err := eidauth.DecodeCredential(b, version)
	if err != nil {
		return nil, ErrMalformed
	}
	if len(b) < headLen+ed25519.SignatureSize || len(b) > MaxLen {
		return nil, ErrMalformed
	}
	body, sig := b[:len(b)-ed25519.SignatureSize], b[len(b)-ed25519.SignatureSize:]
	if int(binary.BigEndian.Uint16(body[headLen-2:])) != len(body)-headLen {
		return nil, ErrMalformed
	}
	issuer := [sha256.Size]byte(body[1:])
	public, ok := s.issuers[issuer]
	if !ok {
		return nil, ErrIssuer
	}
	if !ed25519.Verify(public, eidauth.SignedText(signature, s.c.Realm, duid, body), sig) {
		return nil, ErrForeign
	}
	const times = 1 + sha256.Size
	from, until := binary.BigEndian.Uint64(body[times:]), binary.BigEndian.Uint64(body[times+8:])
	if from >= until || until > 1<<40 {
		return nil, ErrTime
	}
	nid := idcodec.NID(append([]byte(nil), body[headLen:]...))
	if err := s.c.Escrow.CheckNID(s.c.Realm, nid); err != nil {
		return nil, err
	}
	return &eidauth.Credential{From: time.Unix(int64(from), 0), Until: time.Unix(int64(until), 0),
		Identity: eidauth.Identity{Sealed: &eidauth.Sealed{Key: s.lookup(body[1:times], body[times+16:headLen-2]), NID: nid}}}, nil
}

// lookup returns the key under which the registry files a subscriber of an issuer. It is
// none of an EID's: those have no NUL in them.
func (s *Source) lookup(issuer, handle []byte) idcodec.LookupKey {
	m := hmac.New(sha256.New, s.c.Registry[:])
	m.Write([]byte("\x00gid-token\x00"))
	m.Write(issuer)
	m.Write(handle)
	return idcodec.LookupKey(m.Sum(nil))
}
