// Package identityfile keeps identities and certificates in files.
package identityfile

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"brightgid/internal/secretfile"
	"brightgid/trace"
)

// Read reads a key and its certificate, path.key and path.pem.
func Read(path string) (*trace.Identity, error) {
	key, err := secretfile.Read(path + ".key")
	if err != nil {
		return nil, err
	}
	defer clear(key)
	cert, err := os.ReadFile(path + ".pem")
	if err != nil {
		return nil, err
	}
	id, err := trace.ParseIdentity(key, cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// Create writes an identity as path.key, which is secret, and path.pem. It
// replaces neither.
func Create(path string, id *trace.Identity) error {
	for _, p := range []string{path + ".key", path + ".pem"} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already; nothing was changed", p)
		}
	}
	key, err := id.MarshalKey()
	if err != nil {
		return err
	}
	defer clear(key)
	if err := secretfile.Create(path+".key", key); err != nil {
		return err
	}
	return secretfile.CreatePublic(path+".pem", id.MarshalCertificate())
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
