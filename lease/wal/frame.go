package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brightgid/lease/datasync"
)

// A log is files that are named by the number of their first frame, 16 hexadecimal digits and
// ".wal". Each begins with magic, a salt(8), which is random and secret, and the CRC-32C of both(4),
// and goes on with frames, which are numbered from 1 on:
//
//	head's CRC(4) ‖ operations' CRC(4) ‖ operations' length(4) ‖ number(8) ‖ synced(8) ‖ operations
//
// All is big-endian. synced is the number up to which all frames were durable when it was
// written. Both CRCs are CRC-32C of the salt and of what they are of, the head's of what follows
// it. The salt keeps from counting what an older log has left in a file that is written again,
// and what a client has put into its identifier so that it should look like a frame. A frame
// without operations ends a file that another follows, and is durable before that begins. An
// operation is one of
//
//	'S' ‖ key's length(2) ‖ value's length(4) ‖ key ‖ value
//	'D' ‖ key's length(2) ‖ key
const (
	magic     = "GIDWAL1\n"
	startLen  = len(magic) + 8 + 4
	headLen   = 28
	suffix    = ".wal"
	spareName = "spare"

	opSet    = 'S'
	opDelete = 'D'
)

// ErrDamaged says that something which was durable cannot be read.
var ErrDamaged = errors.New("the write-ahead log is damaged")

var table = crc32.MakeTable(crc32.Castagnoli)

func nameOf(first uint64) string { return fmt.Sprintf("%016x%s", first, suffix) }

// AppendSet appends an operation to b that sets a key, of up to 65,535 bytes, to a value.
func AppendSet(b, key, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, opSet), uint16(len(key)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(append(b, key...), value...)
}

// AppendDelete appends an operation to b that deletes a key, of up to 65,535 bytes.
func AppendDelete(b, key []byte) []byte {
	return append(binary.BigEndian.AppendUint16(append(b, opDelete), uint16(len(key))), key...)
}

// Operations calls f with each operation of those that were appended to one another; set is
// false for one that deletes. What f is given is its own during the call only.
func Operations(b []byte, f func(key, value []byte, set bool) error) error {
	for len(b) > 0 {
		kind, head := b[0], 3
		if kind == opSet {
			head = 7
		}
		if kind != opSet && kind != opDelete || len(b) < head {
			return ErrDamaged
		}
		keyLen, valueLen := int(binary.BigEndian.Uint16(b[1:])), 0
		if kind == opSet {
			valueLen = int(binary.BigEndian.Uint32(b[3:]))
		}
		if b = b[head:]; len(b) < keyLen+valueLen {
			return ErrDamaged
		}
		if err := f(b[:keyLen], b[keyLen:keyLen+valueLen], kind == opSet); err != nil {
			return err
		}
		b = b[keyLen+valueLen:]
	}
	return nil
}

// seal fills in the head of a frame, for which there is room.
func seal(frame []byte, salt uint32, number, synced uint64) {
	binary.BigEndian.PutUint32(frame[4:], crc32.Update(salt, table, frame[headLen:]))
	binary.BigEndian.PutUint32(frame[8:], uint32(len(frame)-headLen))
	binary.BigEndian.PutUint64(frame[12:], number)
	binary.BigEndian.PutUint64(frame[20:], synced)
	binary.BigEndian.PutUint32(frame, crc32.Update(salt, table, frame[4:headLen]))
}

// head reads the head of a frame at the start of b.
func head(b []byte, salt uint32) (length uint32, number, synced uint64, ok bool) {
	if len(b) < headLen || crc32.Update(salt, table, b[4:headLen]) != binary.BigEndian.Uint32(b) {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint64(b[12:]), binary.BigEndian.Uint64(b[20:]), true
}

// parse returns the operations of a frame at the start of b that has a number.
func parse(b []byte, salt uint32, number uint64) (operations []byte, ok bool) {
	length, n, _, ok := head(b, salt)
	if !ok || n != number || uint64(length) > uint64(len(b)-headLen) {
		return nil, false
	}
	operations = b[headLen : headLen+length]
	return operations, crc32.Update(salt, table, operations) == binary.BigEndian.Uint32(b[4:])
}

// start returns what a file begins with, and the CRC of its salt.
func start(salt [8]byte) ([]byte, uint32) {
	b := append([]byte(magic), salt[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, table)), crc32.Checksum(salt[:], table)
}

// list returns the files of a log, the oldest first.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(name, 16, 64)
		if err != nil || e.Name() != nameOf(first) {
			return nil, fmt.Errorf("%w: %s is none of its files", ErrDamaged, e.Name())
		}
		files = append(files, first)
	}
	slices.Sort(files)
	return files, nil
}

// Exists reports whether there is a log in a directory, which a process has left that did not
// close and clear it.
func Exists(dir string) (bool, error) {
	files, err := list(dir)
	return len(files) > 0, err
}

// Replay calls f with the operations of each frame of a log that nobody writes, in their order,
// and returns how many frames there were. Those that were being written when the process or the
// machine stopped do not count; nobody was told that they were durable. It returns [ErrDamaged]
// if one is missing of which somebody may have been. In memory is a frame, or a megabyte, at a time; what f is given is its own
// during the call only.
func Replay(dir string, f func(operations []byte) error) (frames int, err error) {
	files, err := list(dir)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	next, ended := uint64(0), true
	for i, first := range files {
		if i > 0 && (!ended || first != next) {
			return 0, fmt.Errorf("%s: %w: frames %d to %d are missing", dir, ErrDamaged, next, first-1)
		}
		n, end, err := replayFile(filepath.Join(dir, nameOf(first)), first, i == len(files)-1, f)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", filepath.Join(dir, nameOf(first)), err)
		}
		frames += n
		next, ended = first+uint64(n), end
		if end {
			next++
		}
	}
	return frames, nil
}

func replayFile(path string, first uint64, last bool, f func(operations []byte) error) (frames int, end bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, false, err
	}
	return replay(&window{in: file, left: info.Size(), ahead: maxPending}, first, last, f)
}

// replay replays one file's contents, and reports how many frames with operations it has, and
// whether it ends so that another may follow.
func replay(w *window, first uint64, last bool, f func(operations []byte) error) (frames int, end bool, err error) {
	if err := w.fill(startLen); err != nil {
		return 0, false, err
	}
	if begin := w.b[:min(len(w.b), startLen)]; last && len(bytes.Trim(begin, "\x00")) == 0 {
		return 0, false, nil // it was being made
	}
	if len(w.b) < startLen {
		return 0, false, fmt.Errorf("%w: its beginning", ErrDamaged)
	}
	begin, salt := start([8]byte(w.b[len(magic):]))
	if !bytes.HasPrefix(w.b, begin) {
		return 0, false, fmt.Errorf("%w: its beginning", ErrDamaged)
	}
	w.pass(startLen)
	for next := first; ; next++ {
		if err := w.fillFrame(salt); err != nil {
			return 0, false, err
		}
		operations, ok := parse(w.b, salt, next)
		if !ok {
			switch damaged, err := later(w, salt, next); {
			case err != nil:
				return 0, false, err
			case damaged:
				return 0, false, fmt.Errorf("%w: frame %d", ErrDamaged, next)
			}
			return frames, false, nil
		}
		if len(operations) == 0 {
			return frames, true, nil
		}
		if err := f(operations); err != nil {
			return 0, false, fmt.Errorf("frame %d: %w", next, err)
		}
		frames++
		w.pass(headLen + len(operations))
	}
}

// later reports whether there is a frame from here on that was written when one with a number was durable.
func later(w *window, salt uint32, number uint64) (bool, error) {
	for {
		if err := w.fill(headLen); err != nil || len(w.b) < headLen {
			return false, err
		}
		b := w.b
		for ; len(b) >= headLen; b = b[1:] {
			if synced := binary.BigEndian.Uint64(b[20:]); synced < number {
				continue
			}
			if _, n, synced, ok := head(b, salt); ok && n > number && synced >= number {
				return true, nil
			}
		}
		w.pass(len(w.b) - len(b))
	}
}

// window is what of a file is in memory while it is replayed, which may be much longer.
type window struct {
	in    io.Reader
	left  int64  // bytes that in has yet
	ahead int    // how many it reads at once at the least
	b     []byte // what comes next
	mem   []byte // what b is in
}

// fill has n bytes come next, or all that the file has.
func (w *window) fill(n int) error {
	if len(w.b) >= n || w.left == 0 {
		return nil
	}
	if n = max(n, w.ahead); cap(w.mem) < n {
		w.mem = make([]byte, n)
	}
	have := copy(w.mem[:cap(w.mem)], w.b)
	more := w.mem[have : have+int(min(w.left, int64(cap(w.mem)-have)))]
	if _, err := io.ReadFull(w.in, more); err != nil {
		return err
	}
	w.left -= int64(len(more))
	w.b = w.mem[:have+len(more)]
	return nil
}

// fillFrame has the frame come next of which the head does, or as much as makes sure that there is none.
func (w *window) fillFrame(salt uint32) error {
	if err := w.fill(headLen); err != nil {
		return err
	}
	length, _, _, ok := head(w.b, salt)
	if whole := headLen + int64(length); ok && whole <= int64(len(w.b))+w.left {
		return w.fill(int(whole))
	}
	return nil
}

// pass goes on after n bytes.
func (w *window) pass(n int) { w.b = w.b[n:] }

// Clear removes the files of a log that nobody writes, when the database has durably written
// what is in them.
func Clear(dir string) error {
	files, err := list(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	for _, first := range files { // the oldest first; see Remove
		if err := errors.Join(os.Remove(filepath.Join(dir, nameOf(first))), datasync.Dir(dir)); err != nil {
			return fmt.Errorf("write-ahead log: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(dir, spareName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	return nil
}
