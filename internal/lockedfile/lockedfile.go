// Package lockedfile keeps secrets in files that a passphrase locks: age's format with
// a scrypt recipient (C2SP age), in ASCII armour, so that age itself can open them too.
package lockedfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/term"

	"brightgid/internal/secretfile"
)

// DefaultWork is the work factor of new files: scrypt with N = 2^18 takes about a
// second. MaxWork bounds what a file may ask for.
const (
	DefaultWork = 18
	MaxWork     = 22
)

// MinPassphrase is the length in bytes of the shortest passphrase that a new file takes.
const MinPassphrase = 8

// Passphrase gets a passphrase; what it is for is told.
type Passphrase func(what string) ([]byte, error)

// Locked reports whether a file's content is locked.
func Locked(content []byte) bool {
	return bytes.HasPrefix(content, []byte(armor.Header)) || bytes.HasPrefix(content, []byte("age-encryption.org/"))
}

// Read returns the content of a secret file, unlocked if it is locked. Files that
// others may read are refused, locked or not.
func Read(path string, pass Passphrase) ([]byte, error) {
	content, err := secretfile.Read(path)
	if err != nil || !Locked(content) {
		return content, err
	}
	p, err := pass(path)
	if err != nil {
		return nil, fmt.Errorf("%s is locked: %w", path, err)
	}
	defer clear(p)
	id, err := age.NewScryptIdentity(string(p))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	id.SetMaxWorkFactor(MaxWork)
	var in io.Reader = bytes.NewReader(content)
	if bytes.HasPrefix(content, []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, id)
	if err != nil {
		return nil, fmt.Errorf("%s: it does not open with this passphrase, or is damaged", path)
	}
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: it is damaged: %w", path, err)
	}
	return out, nil
}

// Lock returns content locked by a passphrase.
func Lock(content, passphrase []byte, work int) ([]byte, error) {
	if len(passphrase) < MinPassphrase {
		return nil, fmt.Errorf("the passphrase has %d bytes: want %d or more", len(passphrase), MinPassphrase)
	}
	to, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(work)
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	err = errors.Join(w.Close(), a.Close())
	return b.Bytes(), err
}

// FromFile returns a Passphrase that a file's first line holds.
func FromFile(path string) Passphrase {
	return func(string) ([]byte, error) {
		content, err := secretfile.Read(path)
		if err != nil {
			return nil, err
		}
		line, _, _ := strings.Cut(string(content), "\n")
		return []byte(strings.TrimSuffix(line, "\r")), nil
	}
}

// FromTerminal asks on the terminal; for a new file twice.
func FromTerminal(fresh bool) Passphrase {
	return func(what string) ([]byte, error) {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return nil, errors.New("there is no terminal to ask for the passphrase; give --passphrase-file")
		}
		defer tty.Close()
		ask := func(prompt string) ([]byte, error) {
			fmt.Fprint(tty, prompt)
			p, err := term.ReadPassword(int(tty.Fd()))
			fmt.Fprintln(tty)
			return p, err
		}
		p, err := ask("Passphrase for " + what + ": ")
		if err != nil || !fresh {
			return p, err
		}
		again, err := ask("Once more: ")
		if err != nil {
			return nil, err
		}
		defer clear(again)
		if !bytes.Equal(p, again) {
			clear(p)
			return nil, errors.New("the two passphrases differ")
		}
		return p, nil
	}
}
