package idcodec

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
)

// MaxEIDLen is the length in bytes of the longest EID.
const MaxEIDLen = 255

// ErrEID is wrapped by every error about an EID. Its text never holds the EID.
var ErrEID = errors.New("not a valid EID")

// EID is a prepared identity, "scheme:value", 1 to 255 bytes of UTF-8. The zero
// EID is no identity.
//
// Every way of printing an EID prints a placeholder, so that none gets into a
// log, an error or a metric by accident; [EID.Reveal] is the one way out.
type EID struct {
	withheld
	s string
}

// usernameSchemes are the schemes whose value is a user name that people type
// in different ways. Their values are prepared so that one person is one EID.
var usernameSchemes = map[string]bool{"radius": true, "user": true}

// ParseEID prepares an identity of the form "scheme:value".
//
// The scheme is a lower-case letter followed by lower-case letters, digits,
// '+', '-' or '.' (RFC 3986 §3.1, without its upper case). The value of a
// user-name scheme (radius, user) is prepared with the PRECIS profile
// UsernameCaseMapped, any other with OpaqueString (both RFC 8265), which keeps
// its case. Preparation is idempotent.
func ParseEID(s string) (EID, error) {
	if len(s) > MaxEIDLen {
		return EID{}, fmt.Errorf("%w: it has %d bytes, at most %d fit", ErrEID, len(s), MaxEIDLen)
	}
	scheme, value, ok := strings.Cut(s, ":")
	if !ok {
		return EID{}, fmt.Errorf("%w: no scheme (want scheme:value)", ErrEID)
	}
	if err := checkScheme(scheme); err != nil {
		return EID{}, err
	}
	if value == "" {
		return EID{}, fmt.Errorf("%w: the value of scheme %q is empty", ErrEID, scheme)
	}
	if !utf8.ValidString(value) {
		return EID{}, fmt.Errorf("%w: the value of scheme %q is not UTF-8", ErrEID, scheme)
	}
	profile := precis.OpaqueString
	if usernameSchemes[scheme] {
		profile = precis.UsernameCaseMapped
	}
	prepared, err := profile.String(value)
	if err != nil {
		// The profile's own error may quote what it was given.
		return EID{}, fmt.Errorf("%w: the value of scheme %q is not allowed by RFC 8265", ErrEID, scheme)
	}
	// A profile may lengthen what it maps, and may leave something that it
	// would map again; only a fixed point can be compared byte by byte.
	if again, err := profile.String(prepared); err != nil || again != prepared {
		return EID{}, fmt.Errorf("%w: the value of scheme %q has no stable form under RFC 8265", ErrEID, scheme)
	}
	if len(scheme)+1+len(prepared) > MaxEIDLen {
		return EID{}, fmt.Errorf("%w: it has %d bytes when prepared, at most %d fit", ErrEID, len(scheme)+1+len(prepared), MaxEIDLen)
	}
	return EID{s: scheme + ":" + prepared}, nil
}

func checkScheme(s string) error {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.'):
		default:
			return fmt.Errorf("%w: the scheme may hold a-z, and after the first letter 0-9 + - . as well", ErrEID)
		}
	}
	if s == "" {
		return fmt.Errorf("%w: the scheme is empty", ErrEID)
	}
	return nil
}

// OpaqueEID makes an EID from bytes that need not be text, such as a relay's
// Remote-ID. Bytes other than printable ASCII, and '%', are percent-encoded, so
// that different bytes are different EIDs.
func OpaqueEID(scheme string, value []byte) (EID, error) {
	o, err := NewOpaque(scheme, value)
	if err != nil {
		return EID{}, err
	}
	return o.EID(), nil
}

// Opaque is what [OpaqueEID] makes an EID of, while none is needed: who is known is found
// by the lookup key alone. It is printed as an EID is. The zero Opaque is no identity.
type Opaque struct {
	withheld
	scheme string
	value  []byte
}

// NewOpaque checks a scheme and a value as [OpaqueEID] does. What it returns points to the value.
func NewOpaque(scheme string, value []byte) (Opaque, error) {
	if err := checkScheme(scheme); err != nil {
		return Opaque{}, err
	}
	if len(value) == 0 {
		return Opaque{}, fmt.Errorf("%w: the value of scheme %q is empty", ErrEID, scheme)
	}
	n := len(scheme) + 1
	for _, c := range value {
		if n++; !plain(c) {
			n += 2
		}
	}
	if n > MaxEIDLen {
		return Opaque{}, fmt.Errorf("%w: it has %d bytes when encoded, at most %d fit", ErrEID, n, MaxEIDLen)
	}
	return Opaque{scheme: scheme, value: value}, nil
}

// plain reports whether a byte stands for itself in an opaque EID.
func plain(c byte) bool { return c > ' ' && c < 0x7f && c != '%' }

// appendTo appends the EID's bytes.
func (o Opaque) appendTo(b []byte) []byte {
	const hex = "0123456789ABCDEF"
	b = append(append(b, o.scheme...), ':')
	for _, c := range o.value {
		if plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// EID makes the EID.
func (o Opaque) EID() EID {
	if o.IsZero() {
		return EID{}
	}
	var buf [MaxEIDLen]byte
	b := o.appendTo(buf[:0])
	defer clear(b)
	return EID{s: string(b)}
}

// IsZero reports whether o is no identity.
func (o Opaque) IsZero() bool { return o.scheme == "" }

// Scheme returns the scheme of the EID, as [EID.Scheme] does.
func (o Opaque) Scheme() string { return o.scheme }

// Reveal returns the identity itself. Whoever calls it answers for where the
// result goes.
func (e EID) Reveal() string { return e.s }

// IsZero reports whether e is no identity.
func (e EID) IsZero() bool { return e.s == "" }

// Scheme returns the part before the colon, which tells how the subscriber
// authenticated but not who it is.
func (e EID) Scheme() string {
	scheme, _, _ := strings.Cut(e.s, ":")
	return scheme
}

// withheld prints as a placeholder whatever it is embedded in.
type withheld struct{}

const redacted = "[EID withheld]"

// String returns a placeholder.
func (withheld) String() string { return redacted }

// GoString returns a placeholder.
func (withheld) GoString() string { return redacted }

// Format prints a placeholder, whatever the verb.
func (withheld) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue gives slog a placeholder.
func (withheld) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives encoders a placeholder.
func (withheld) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LookupKey finds a known subscriber without storing the EID:
// HMAC-SHA256(registry key, EID).
type LookupKey [sha256.Size]byte

// RegistryKeyLen is the length in bytes of the key of a [LookupHasher].
const RegistryKeyLen = 32

// LookupHasher computes lookup keys. It reuses its state and is not safe for
// concurrent use.
type LookupHasher struct {
	mac hash.Hash
	buf []byte
	sum LookupKey
}

// NewLookupHasher returns a hasher under the registry key.
func NewLookupHasher(key [RegistryKeyLen]byte) *LookupHasher {
	return &LookupHasher{mac: hmac.New(sha256.New, key[:])}
}

// Key returns the lookup key of e.
func (h *LookupHasher) Key(e EID) LookupKey {
	h.buf = append(h.buf[:0], e.s...)
	return h.key()
}

// OpaqueKey returns the lookup key of the EID that o makes, without making it.
func (h *LookupHasher) OpaqueKey(o Opaque) LookupKey {
	h.buf = o.appendTo(h.buf[:0])
	return h.key()
}

// key returns the lookup key of what is in the buffer, which it clears.
func (h *LookupHasher) key() LookupKey {
	h.mac.Reset()
	h.mac.Write(h.buf)
	h.mac.Sum(h.sum[:0])
	clear(h.buf)
	return h.sum
}
