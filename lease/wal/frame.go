package wal

import (
	"bufio"
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
	return replay(io.NewSectionReader(file, 0, info.Size()), maxPending, first, last, f)
}

// replay replays one file's contents, of which it reads so many bytes ahead, headLen at the least. It
// reports how many frames with operations it has, and whether it ends so that another may follow.
func replay(file *io.SectionReader, ahead int, first uint64, last bool, f func(operations []byte) error) (frames int, end bool, err error) {
	in := bufio.NewReaderSize(file, ahead)
	begin, err := peek(in, startLen)
	if err != nil {
		return 0, false, err
	}
	if last && len(bytes.Trim(begin, "\x00")) == 0 {
		return 0, false, nil // it was being made
	}
	if len(begin) < startLen {
		return 0, false, fmt.Errorf("%w: its beginning", ErrDamaged)
	}
	want, salt := start([8]byte(begin[len(magic):]))
	if !bytes.Equal(begin, want) {
		return 0, false, fmt.Errorf("%w: its beginning", ErrDamaged)
	}
	if _, err := in.Discard(startLen); err != nil {
		return 0, false, err
	}
	at := int64(startLen)
	var frame []byte
	for next := first; ; next++ {
		if frame, err = readFrame(in, frame, file.Size()-at, salt); err != nil {
			return 0, false, err
		}
		operations, ok := parse(frame, salt, next)
		if !ok {
			in.Reset(io.NewSectionReader(file, at, file.Size()-at))
			switch damaged, err := later(in, salt, next); {
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
		at += int64(len(frame))
	}
}

// readFrame reads the frame that comes next into mem, which grows as it must, and returns it; nothing if there is
// no head, or one of more than the file has left.
func readFrame(in *bufio.Reader, mem []byte, left int64, salt uint32) ([]byte, error) {
	b, err := peek(in, headLen)
	if err != nil {
		return nil, err
	}
	length, _, _, ok := head(b, salt)
	if !ok || headLen+int64(length) > left {
		return nil, nil
	}
	whole := headLen + int(length)
	frame := slices.Grow(mem[:0], whole)[:whole]
	_, err = io.ReadFull(in, frame)
	return frame, err
}

// later reports whether a frame comes that was written when one with a number was durable.
func later(in *bufio.Reader, salt uint32, number uint64) (bool, error) {
	for {
		b, err := peek(in, in.Size())
		if err != nil || len(b) < headLen {
			return false, err
		}
		some := b
		for ; len(b) >= headLen; b = b[1:] {
			if synced := binary.BigEndian.Uint64(b[20:]); synced < number {
				continue
			}
			if _, n, synced, ok := head(b, salt); ok && n > number && synced >= number {
				return true, nil
			}
		}
		if _, err := in.Discard(len(some) - len(b)); err != nil {
			return false, err
		}
	}
}

// peek returns the next n bytes, or all that there are.
func peek(in *bufio.Reader, n int) ([]byte, error) {
	b, err := in.Peek(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

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
