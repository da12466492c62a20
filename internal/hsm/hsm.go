// Package hsm uses signing keys in hardware tokens by PKCS #11. A key is named by a
// URI (RFC 7512), e.g.
//
//	pkcs11:token=court;object=judge?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/court.pin
//
// Keys are ECDSA on P-256, which all tokens have.
package hsm

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"brightgid/internal/secretfile"
)

// Scheme begins every URI.
const Scheme = "pkcs11:"

// Key names a key in a token.
type Key struct {
	Token, Serial string // by one of which the token is found
	Object        string // the key's label
	ID            []byte // the key's CKA_ID
	Module        string // path of the token's PKCS #11 module
	PINSource     string // path of a file that holds the PIN; empty to ask
}

// Parse reads a key's URI. A PIN in it is refused: URIs are read by many.
func Parse(uri string) (*Key, error) {
	rest, ok := strings.CutPrefix(uri, Scheme)
	if !ok {
		return nil, fmt.Errorf("%q: want a URI that begins with %s", uri, Scheme)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("PKCS #11 URI: %s", fmt.Sprintf(format, args...))
	}
	path, query, _ := strings.Cut(rest, "?")
	k := &Key{}
	seen := make(map[string]bool)
	attribute := func(pair string) error {
		name, value, ok := strings.Cut(pair, "=")
		text, err := url.PathUnescape(value)
		if !ok || err != nil {
			return bad("%q is no attribute", name)
		}
		if seen[name] {
			return bad("%s stands twice", name)
		}
		seen[name] = true
		switch name {
		case "token":
			k.Token = text
		case "serial":
			k.Serial = text
		case "object":
			k.Object = text
		case "id":
			k.ID = []byte(text)
		case "type":
			if text != "private" {
				return bad("type=%s: want private", text)
			}
		case "module-path":
			k.Module = text
		case "pin-source":
			k.PINSource = strings.TrimPrefix(strings.TrimPrefix(text, "file://"), "file:")
		case "pin-value":
			return bad("it has the PIN in it; put that into a file of mode 0600 and name it by pin-source")
		default:
			return bad("%s is not known here", name)
		}
		return nil
	}
	for _, p := range strings.Split(path, ";") {
		if err := attribute(p); err != nil {
			return nil, err
		}
	}
	if query != "" {
		for _, p := range strings.Split(query, "&") {
			if err := attribute(p); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case (k.Token == "") == (k.Serial == ""):
		return nil, bad("want the token's label (token) or its serial number (serial)")
	case k.Object == "" && len(k.ID) == 0:
		return nil, bad("want the key's label (object) or its id")
	case !filepath.IsAbs(k.Module):
		return nil, bad("module-path: want the absolute path of the token's PKCS #11 module")
	case k.PINSource != "" && !filepath.IsAbs(k.PINSource):
		return nil, bad("pin-source: want an absolute path")
	}
	return k, nil
}

// ErrNoPIN says that a PIN is needed and there is nobody to ask.
var ErrNoPIN = errors.New("the token wants its PIN: name a file that holds it by pin-source")

// pin gets the PIN.
func (k *Key) pin(ask func(what string) ([]byte, error)) (string, error) {
	if k.PINSource != "" {
		b, err := secretfile.Read(k.PINSource)
		if err != nil {
			return "", err
		}
		defer clear(b)
		line, _, _ := strings.Cut(string(b), "\n")
		return strings.TrimSpace(line), nil
	}
	if ask == nil {
		return "", ErrNoPIN
	}
	b, err := ask("the token " + k.Token + k.Serial)
	return string(b), err
}
