package lockedfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brightgid/internal/secretfile"
)

const work = 10

func said(p string) Passphrase { return func(string) ([]byte, error) { return []byte(p), nil } }

func TestALockedFileOpensWithItsPassphraseOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.share")
	b, err := Lock([]byte("a secret"), []byte("correct horse"), work)
	if err != nil || !Locked(b) || strings.Contains(string(b), "secret") {
		t.Fatalf("%v: %s", err, b)
	}
	if err := secretfile.Create(path, b); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path, said("correct horse")); err != nil || string(got) != "a secret" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Read(path, said("wrong horse")); err == nil || !strings.Contains(err.Error(), "does not open with this passphrase") {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, said("correct horse")); !errors.As(err, new(*secretfile.ModeError)) {
		t.Errorf("a file that others may read: %v", err)
	}
	if _, err := Lock([]byte("x"), []byte("short"), work); err == nil {
		t.Error("a short passphrase was taken")
	}
}

func TestAFileThatIsNotLockedIsReadAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.share")
	if err := secretfile.Create(path, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path, func(string) ([]byte, error) { t.Error("a passphrase was asked for"); return nil, nil }); err != nil || string(got) != "plain" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAPassphraseComesFromTheFirstLineOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pass")
	if err := secretfile.Create(path, []byte("correct horse\r\nsecond line\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := FromFile(path)(""); err != nil || string(got) != "correct horse" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path)(""); err == nil {
		t.Error("a passphrase that others may read was taken")
	}
}

// FuzzRead reads whatever claims to be locked.
func FuzzRead(f *testing.F) {
	b, err := Lock([]byte("a secret"), []byte("correct horse"), 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "scrypt") { // what scrypt costs is not of interest
			return
		}
		path := filepath.Join(t.TempDir(), "f")
		if os.WriteFile(path, []byte(s), 0o600) == nil {
			Read(path, said("x"))
		}
	})
}
