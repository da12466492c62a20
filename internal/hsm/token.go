//go:build cgo

package hsm

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/ThalesGroup/crypto11"
)

// Available reports whether tokens can be used: the program was built with cgo.
const Available = true

// Open finds a key. ask, which may be nil, is asked for the PIN where the URI names no
// file of it. The token stays open until the process ends.
func Open(uri string, ask func(what string) ([]byte, error)) (crypto.Signer, error) {
	k, err := Parse(uri)
	if err != nil {
		return nil, err
	}
	token, err := k.open(ask)
	if err != nil {
		return nil, err
	}
	keys, err := token.FindKeyPairs(k.ID, []byte(k.Object))
	if err == nil && len(keys) != 1 {
		err = fmt.Errorf("it has %d key pairs %q, want one", len(keys), k.Object)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the token %s%s: %w", k.Token, k.Serial, err), token.Close())
	}
	return keys[0], nil
}

// Generate makes a key in a token. It must have no key of this name yet.
func Generate(uri string, ask func(what string) ([]byte, error)) (crypto.Signer, error) {
	k, err := Parse(uri)
	if err != nil {
		return nil, err
	}
	if k.Object == "" {
		return nil, errors.New("PKCS #11 URI: want the new key's label (object)")
	}
	token, err := k.open(ask)
	if err != nil {
		return nil, err
	}
	there, err := token.FindKeyPairs(nil, []byte(k.Object))
	if err == nil && len(there) > 0 {
		err = fmt.Errorf("it has a key %q already; nothing was changed", k.Object)
	}
	var key crypto.Signer
	if err == nil {
		id := k.ID
		if len(id) == 0 {
			id = make([]byte, 16)
			if _, err := rand.Read(id); err != nil {
				return nil, err
			}
		}
		key, err = token.GenerateECDSAKeyPairWithLabel(id, []byte(k.Object), elliptic.P256())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the token %s%s: %w", k.Token, k.Serial, err), token.Close())
	}
	return key, nil
}

func (k *Key) open(ask func(what string) ([]byte, error)) (*crypto11.Context, error) {
	pin, err := k.pin(ask)
	if err != nil {
		return nil, err
	}
	token, err := crypto11.Configure(&crypto11.Config{Path: k.Module, TokenLabel: k.Token, TokenSerial: k.Serial, Pin: pin, MaxSessions: 4})
	if err != nil {
		return nil, fmt.Errorf("the token %s%s by %s: %w", k.Token, k.Serial, k.Module, err)
	}
	return token, nil
}
