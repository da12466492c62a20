// Package identityfile keeps identities and certificates in files: NAME.key with the
// secret, or the URI of a key in a token, and NAME.pem with the certificate.
package identityfile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"brightgid/internal/hsm"
	"brightgid/internal/secretfile"
	"brightgid/trace"
)

// Read reads a key and its certificate, path.key and path.pem. The first line of the
// key's file may be a PKCS #11 URI, which must then name a file with the PIN.
func Read(path string) (*trace.Identity, error) { return Open(path, nil) }

// Open is Read for who can be asked for a token's PIN.
func Open(path string, ask func(what string) ([]byte, error)) (*trace.Identity, error) {
	key, err := secretfile.Read(path + ".key")
	if err != nil {
		return nil, err
	}
	defer clear(key)
	cert, err := os.ReadFile(path + ".pem")
	if err != nil {
		return nil, err
	}
	var token crypto.Signer
	rest := key
	if bytes.HasPrefix(key, []byte(hsm.Scheme)) {
		var uri []byte
		uri, rest, _ = bytes.Cut(key, []byte("\n"))
		if token, err = hsm.Open(strings.TrimSpace(string(uri)), ask); err != nil {
			return nil, fmt.Errorf("%s.key: %w", path, err)
		}
	}
	id, err := trace.ParseIdentityOf(token, rest, cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// Create writes an identity as path.key, which is secret, and path.pem. It
// replaces neither.
func Create(path string, id *trace.Identity) error {
	key, err := id.MarshalKey()
	if err != nil {
		return err
	}
	defer clear(key)
	return create(path, key, id)
}

// CreateOf writes an identity whose key is in a token.
func CreateOf(path, uri string, id *trace.Identity) error {
	unseal, err := id.MarshalUnseal()
	if err != nil {
		return err
	}
	defer clear(unseal)
	return create(path, append([]byte(uri+"\n"), unseal...), id)
}

func create(path string, key []byte, id *trace.Identity) error {
	if err := Free(path); err != nil {
		return err
	}
	if err := secretfile.Create(path+".key", key); err != nil {
		return err
	}
	return secretfile.CreatePublic(path+".pem", id.MarshalCertificate())
}

// Free reports that an identity's files exist already.
func Free(path string) error {
	for _, p := range []string{path + ".key", path + ".pem"} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already; nothing was changed", p)
		}
	}
	return nil
}

// Certificates reads a PEM file. An empty file is none: nobody is trusted yet.
func Certificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil, nil
	}
	certs, err := trace.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}
