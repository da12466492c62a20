package renewals

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A file of places begins with magic, the seed(8) and their CRC(4), and goes on with pieces, those that
// have nobody's places only being left out:
//
//	row(1) ‖ number(4) ‖ 2,048 places ‖ CRC(4)
//
// It is of the subscribers from 2,048 times its number on; rows 0 to 3 are of places for addresses, 4 and
// 5 of those for delegated prefixes. The file ends with
//
//	0xff ‖ how many pieces there are(4) ‖ CRC(4)
//
// All is big-endian; each CRC is CRC-32C of what is before it, from the last on.
const (
	magic    = "GIDREN1\n"
	startLen = len(magic) + 8 + 4
	headLen  = 1 + 4
	crcLen   = 4
	inPiece  = 2048
	pieceLen = inPiece * PlaceLen
	rowEnd   = 0xff
)

// ErrDamaged says that a file, or a place, is not as it was written.
var ErrDamaged = errors.New("the times of renewals are damaged")

var table = crc32.MakeTable(crc32.Castagnoli)

// Encoder makes a file of places, a piece at a time, so that who guards them need not keep others from
// them for all.
type Encoder struct {
	p      *Places
	begun  bool
	row    int
	piece  int // of that row
	pieces uint32
}

// Encode returns an encoder.
func (p *Places) Encode() *Encoder { return &Encoder{p: p} }

// Next looks at up to 64 KiB of places, appends the next part of the file to b, which may be nothing, and
// reports whether there are more. What of a place changes afterwards is not in the file.
func (e *Encoder) Next(b []byte) (_ []byte, more bool) {
	begin := len(b)
	if !e.begun {
		e.begun = true
		b = binary.BigEndian.AppendUint64(append(b, magic...), e.p.seed)
		return appendCRC(b, begin), true
	}
	for ; e.row < rows; e.row, e.piece = e.row+1, 0 {
		for e.piece < len(e.p.rows[e.row])*(chunkLen/pieceLen) {
			places, number := e.p.piece(e.row, e.piece), e.piece
			e.piece++
			switch {
			case places == nil:
				continue
			case allFree(places):
				return b, true
			}
			e.pieces++
			b = binary.BigEndian.AppendUint32(append(b, byte(e.row)), uint32(number))
			return appendCRC(append(b, places...), begin), true
		}
	}
	b = binary.BigEndian.AppendUint32(append(b, rowEnd), e.pieces)
	return appendCRC(b, begin), false
}

func allFree(places []byte) bool {
	for ; len(places) > 0; places = places[PlaceLen:] {
		if !isFree(places) {
			return false
		}
	}
	return true
}

func appendCRC(b []byte, begin int) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[begin:], table))
}

// Read reads a file of places.
func Read(r io.Reader) (*Places, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	b := make([]byte, headLen+pieceLen+crcLen)
	if err := readSummed(in, b[:startLen]); err != nil {
		return nil, err
	}
	if string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it begins as none does", ErrDamaged)
	}
	p := New(binary.BigEndian.Uint64(b[len(magic):]))
	pieces := uint32(0)
	for {
		row, err := in.Peek(1)
		if err != nil {
			p.Close()
			return nil, cutOff(err)
		}
		part := b
		if row[0] == rowEnd {
			part = b[:headLen+crcLen]
		}
		if err := readSummed(in, part); err != nil {
			p.Close()
			return nil, err
		}
		number := binary.BigEndian.Uint32(part[1:])
		if part[0] == rowEnd {
			if _, err := in.Peek(1); number != pieces || !errors.Is(err, io.EOF) {
				p.Close()
				return nil, fmt.Errorf("%w: it has %d pieces where it says %d, or something after its end", ErrDamaged, pieces, number)
			}
			return p, nil
		}
		if part[0] >= rows || p.room(Key(number)*inPiece<<rowBits+Key(part[0])) == nil {
			p.Close()
			return nil, fmt.Errorf("%w: a piece of row %d, number %d", ErrDamaged, part[0], number)
		}
		copy(p.piece(int(part[0]), int(number)), part[headLen:])
		pieces++
	}
}

// piece returns the places of a piece, nil if nobody near has one.
func (p *Places) piece(row, number int) []byte {
	const each = chunkLen / pieceLen
	chunk := p.rows[row][number/each]
	if chunk == nil {
		return nil
	}
	return chunk[number%each*pieceLen:][:pieceLen]
}

// readSummed reads a part that ends with the CRC of the rest.
func readSummed(r io.Reader, b []byte) error {
	if _, err := io.ReadFull(r, b); err != nil {
		return cutOff(err)
	}
	end := len(b) - crcLen
	if crc32.Checksum(b[:end], table) != binary.BigEndian.Uint32(b[end:]) {
		return fmt.Errorf("%w: a checksum does not match", ErrDamaged)
	}
	return nil
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too soon", ErrDamaged)
	}
	return err
}
