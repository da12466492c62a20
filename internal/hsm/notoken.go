//go:build !cgo

package hsm

import (
	"crypto"
	"errors"
)

// Available reports whether tokens can be used: the program was built with cgo.
const Available = false

var errBuild = errors.New("this program was built without cgo and cannot use PKCS #11 modules: build it with CGO_ENABLED=1")

// Open cannot find a key.
func Open(uri string, _ func(string) ([]byte, error)) (crypto.Signer, error) {
	if _, err := Parse(uri); err != nil {
		return nil, err
	}
	return nil, errBuild
}

// Generate cannot make a key.
func Generate(uri string, ask func(string) ([]byte, error)) (crypto.Signer, error) {
	return Open(uri, ask)
}
