// Package secretfile reads and writes files that only their owner may read.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxSize bounds what Read reads: no key file is larger.
const maxSize = 1 << 20

// ModeError says that others may read a file that holds a secret.
type ModeError struct {
	Path string
	Mode os.FileMode
}

func (e *ModeError) Error() string {
	return fmt.Sprintf("%s has mode %04o, so that others may use the secret in it; it must have mode 0600: chmod 600 %s", e.Path, e.Mode.Perm(), e.Path)
}

// Read returns a secret file's content. It refuses a file that group or others
// have any right to, with a [*ModeError].
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &ModeError{path, info.Mode()}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(b) > maxSize {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxSize)
	}
	return b, err
}

// Create writes a new file with mode 0600 and makes it durable. It refuses to
// replace a file.
func Create(path string, content []byte) error {
	return create(path, content, 0o600)
}

// CreatePublic is Create for what everybody may read, with mode 0644.
func CreatePublic(path string, content []byte) error {
	return create(path, content, 0o644)
}

func create(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err := fill(f, content, mode); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

// Replace puts new content, with mode 0600, in the place of a file. After a
// crash the file has either the old content or the new.
func Replace(path string, content []byte) error { return replace(path, content, 0o600) }

// ReplacePublic is Replace for what everybody may read, with mode 0644.
func ReplacePublic(path string, content []byte) error { return replace(path, content, 0o644) }

func replace(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	if err := fill(f, content, mode); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// fill writes, syncs and closes a new file. The mode is set again, for a umask
// may have narrowed it.
func fill(f *os.File, content []byte, mode os.FileMode) error {
	_, err := f.Write(content)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
