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
//	kind(1) ‖ number(4) ‖ 2,048 places ‖ CRC(4)
//
// A piece of kind 0 is of places for addresses, one of kind 1 of those for delegated prefixes, of the
// subscribers from 2,048 times its number on. It ends with
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
	kindEnd  = 0xff
)

// ErrDamaged says that a file, or a place, is not as it was written.
var ErrDamaged = errors.New("the times of renewals are damaged")

var table = crc32.MakeTable(crc32.Castagnoli)

// Encoder makes a file of places, a piece at a time, so that who guards them need not keep others from
// them for all.
type Encoder struct {
	p      *Places
	begun  bool
	kind   int
	piece  int // of that kind
	pieces uint32
}

// Encode returns an encoder.
func (p *Places) Encode() *Encoder { return &Encoder{p: p} }

// Next appends the next part of the file to b, up to 64 KiB and some bytes, and reports whether there
// are more. What of a place changes afterwards is not in the file.
func (e *Encoder) Next(b []byte) (_ []byte, more bool) {
	begin := len(b)
	if !e.begun {
		e.begun = true
		b = binary.BigEndian.AppendUint64(append(b, magic...), e.p.seed)
		return appendCRC(b, begin), true
	}
	const each = chunkLen / pieceLen
	for ; e.kind < len(e.p.kinds); e.kind, e.piece = e.kind+1, 0 {
		for chunks := e.p.kinds[e.kind]; e.piece < len(chunks)*each; e.piece++ {
			chunk := chunks[e.piece/each]
			if chunk == nil {
				continue
			}
			places := chunk[e.piece%each*pieceLen:][:pieceLen]
			if allFree(places) {
				continue
			}
			b = binary.BigEndian.AppendUint32(append(b, byte(e.kind)), uint32(e.piece))
			b = append(b, places...)
			e.piece++
			e.pieces++
			return appendCRC(b, begin), true
		}
	}
	b = binary.BigEndian.AppendUint32(append(b, kindEnd), e.pieces)
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
		kind, err := in.Peek(1)
		if err != nil {
			p.Close()
			return nil, cutOff(err)
		}
		part := b
		if kind[0] == kindEnd {
			part = b[:headLen+crcLen]
		}
		if err := readSummed(in, part); err != nil {
			p.Close()
			return nil, err
		}
		number := binary.BigEndian.Uint32(part[1:])
		if kind[0] == kindEnd {
			if _, err := in.Peek(1); number != pieces || !errors.Is(err, io.EOF) {
				p.Close()
				return nil, fmt.Errorf("%w: it has %d pieces where it says %d, or something after its end", ErrDamaged, pieces, number)
			}
			return p, nil
		}
		first := p.room(KeyOf(uint64(number)*inPiece, part[0] == 1))
		if part[0] > 1 || first == nil {
			p.Close()
			return nil, fmt.Errorf("%w: a piece of kind %d, number %d", ErrDamaged, part[0], number)
		}
		copy(p.pieceAt(part[0], number), part[headLen:])
		pieces++
	}
}

func (p *Places) pieceAt(kind byte, number uint32) []byte {
	n := uint64(number) * inPiece
	return p.kinds[kind][n/inChunk][n%inChunk*PlaceLen:][:pieceLen]
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
