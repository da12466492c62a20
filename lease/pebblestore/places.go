package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"brightgid/lease/datasync"
	"brightgid/lease/renewals"
)

// What the file of renewals is called, and while it is written.
const (
	renewalsName    = "renewals"
	renewalsNewName = "renewals.new"
)

// forRenewals is what the file is created for.
const forRenewals vfs.DiskWriteCategory = "renewals"

// loadRenewals reads the file of renewals, and makes one for a database that is new or of an older
// format, which is of this one from then on, with a seed for its sums.
func (s *Store) loadRenewals(readOnly bool, random io.Reader) error {
	version, err := s.format(readOnly)
	if err != nil {
		return err
	}
	if version < formatVersion {
		var seed [8]byte
		if _, err := io.ReadFull(random, seed[:]); err != nil {
			return err
		}
		s.places = renewals.New(binary.BigEndian.Uint64(seed[:]))
		if readOnly {
			return nil
		}
		if err := s.writeRenewals(); err != nil {
			return err
		}
		return s.setFormat()
	}
	f, err := os.Open(s.fs.PathJoin(s.dir, renewalsName))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the file %s is missing: until when leases hold is in it; put it back as it was, or the whole directory from one backup", renewalsName)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if s.places, err = renewals.Read(f); err != nil {
		return fmt.Errorf("the file %s: %w; put the whole directory back from one backup", renewalsName, err)
	}
	info, err := f.Stat()
	if err == nil {
		s.setLogLen(info.Size())
	}
	return err
}

// setLogLen says how long the log may become beside a file of renewals of so many bytes.
func (s *Store) setLogLen(size int64) { s.logLen.Store(min(max(size, minLog), maxLog)) }

// saveRenewals writes the file of renewals if there are any since it was written. What they are of
// Pebble has to have written.
func (s *Store) saveRenewals() error {
	s.mu.Lock()
	changed := s.places.Changed()
	s.mu.Unlock()
	if !changed {
		return nil
	}
	err := s.writeRenewals()
	if err != nil {
		s.mu.Lock()
		s.places.Change()
		s.mu.Unlock()
	}
	return err
}

// writeRenewals writes the file of renewals, which is the new one whole or the old one at any time.
func (s *Store) writeRenewals() error {
	path := s.fs.PathJoin(s.dir, renewalsNewName)
	f, err := s.fs.Create(path, forRenewals)
	if err != nil {
		return err
	}
	f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: 512 << 10})
	e, part, size := s.places.Encode(), []byte(nil), int64(0)
	for more := true; more && err == nil; {
		began := time.Now()
		s.mu.RLock()
		part, more = e.Next(part[:0])
		s.mu.RUnlock()
		size += int64(len(part))
		if _, err = f.Write(part); more {
			s.restUnlessBehind(time.Since(began))
		}
	}
	if err == nil && s.wal != nil {
		err = s.wal.Barrier().Wait() // nothing is in the file that the log could lose
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.fs.Rename(path, s.fs.PathJoin(s.dir, renewalsName)); err != nil {
		return err
	}
	s.setLogLen(size)
	return datasync.Dir(s.dir)
}
