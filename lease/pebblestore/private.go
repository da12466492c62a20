package pebblestore

import (
	"errors"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// privateFS is the disk, on which nobody else reads what is created: Pebble leaves that to the
// directory, which an operator may have made.
type privateFS struct{ vfs.FS }

// Create implements vfs.FS.
func (p privateFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.FS.Create(name, category)
	if err == nil {
		err = private(name, f)
	}
	return f, err
}

// Lock implements vfs.FS.
func (p privateFS) Lock(name string) (io.Closer, error) {
	f, err := p.FS.Lock(name)
	if err == nil {
		err = private(name, f)
	}
	return f, err
}

// private makes a file its owner's, or closes it.
func private(name string, f io.Closer) error {
	err := os.Chmod(name, 0o600)
	if err != nil {
		err = errors.Join(err, f.Close())
	}
	return err
}
