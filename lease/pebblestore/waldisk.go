package pebblestore

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"brightgid/lease/datasync"
)

// walCategory is what Pebble says of the files that its log is in.
const walCategory = "pebble-wal"

// walDisk is a file system that syncs the files of Pebble's log by a datasync.Syncer.
type walDisk struct {
	vfs.FS
	syncer *datasync.Syncer
}

type walFile struct {
	vfs.File
	syncer *datasync.Syncer
}

func (d walDisk) file(f vfs.File, category vfs.DiskWriteCategory, err error) (vfs.File, error) {
	if err != nil || category != walCategory || f.Fd() == vfs.InvalidFd {
		return f, err
	}
	return walFile{f, d.syncer}, nil
}

// Create implements vfs.FS.
func (d walDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, category)
	return d.file(f, category, err)
}

// ReuseForWrite implements vfs.FS.
func (d walDisk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(oldname, newname, category)
	return d.file(f, category, err)
}

// Unwrap implements vfs.FS.
func (d walDisk) Unwrap() vfs.FS { return d.FS }

// SyncData implements vfs.File.
func (f walFile) SyncData() error { return f.syncer.Fdatasync(f.Fd()) }
