package mail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"brightgid/ledgeranchor"
)

// Limits of a message's header.
const (
	MaxHeader = 4 << 20 // bytes
	MaxFields = 10_000
)

// ErrHeader says that a message's header cannot be read.
var ErrHeader = errors.New("the message's header cannot be read")

// Message is what verification needs of a message: the chain's fields, as they stand in
// it, and the hash of its content.
type Message struct {
	Sources, Hops []string
	Content       *Content
}

// ReadMessage reads a message (RFC 5322) to its end. The body is hashed and not kept.
// Lines may end in CRLF or LF.
func ReadMessage(r io.Reader) (*Message, error) {
	m := &Message{Content: NewContent()}
	in := bufio.NewReaderSize(r, 64<<10)
	var field []byte
	read, fields := 0, 0
	take := func() error {
		if len(field) == 0 {
			return nil
		}
		defer func() { field = field[:0] }()
		if fields++; fields > MaxFields {
			return fmt.Errorf("%w: more than %d fields", ErrHeader, MaxFields)
		}
		name, value, ok := bytes.Cut(field, []byte(":"))
		name = bytes.TrimRight(name, " \t")
		if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t\x00") {
			return fmt.Errorf("%w: %.40q is no field", ErrHeader, field)
		}
		m.Field(string(name), string(value))
		return nil
	}
	var line []byte
	for first := true; ; first = false {
		line = line[:0]
		var err error
		for more := true; more; { // a line may be longer than the reader's buffer
			var part []byte
			part, err = in.ReadSlice('\n')
			if more = errors.Is(err, bufio.ErrBufferFull); err != nil && !more && !errors.Is(err, io.EOF) {
				return nil, err
			}
			if read += len(part); read > MaxHeader {
				return nil, fmt.Errorf("%w: more than %d bytes", ErrHeader, MaxHeader)
			}
			line = append(line, part...)
		}
		text := bytes.TrimRight(line, "\r\n")
		switch {
		case len(text) == 0 && len(line) > 0: // the empty line
			if err := take(); err != nil {
				return nil, err
			}
			_, err := io.Copy(m.Content, in)
			return m, err
		case len(text) > 0 && (text[0] == ' ' || text[0] == '\t') && len(field) > 0:
			field = append(append(field, "\r\n"...), text...)
		case first && bytes.HasPrefix(text, []byte("From ")) && !bytes.HasPrefix(text, []byte("From :")):
			// The line that mailbox files put before a message.
		case len(text) > 0:
			if err := take(); err != nil {
				return nil, err
			}
			field = append(field, text...)
		}
		if errors.Is(err, io.EOF) { // a message without a body
			return m, take()
		}
	}
}

// Field takes a field of the header, in the message's order.
func (m *Message) Field(name, value string) {
	value = strings.TrimPrefix(value, " ")
	switch {
	case strings.EqualFold(name, SourceField):
		if len(m.Sources) <= 1 { // two are one too many
			m.Sources = append(m.Sources, value[:min(len(value), maxValue+1)])
		}
	case strings.EqualFold(name, HopField):
		if len(m.Hops) <= MaxHops {
			m.Hops = append(m.Hops, value[:min(len(value), maxValue+1)])
		}
	default:
		m.Content.Field(name, value)
	}
}

// Chain reads the chain in the message's header.
func (m *Message) Chain() (*Chain, error) { return ParseChain(m.Sources, m.Hops) }

// EnvelopeOf returns what a hop's record tells of the envelope.
func EnvelopeOf(r *ledgeranchor.Record) (*Envelope, error) {
	var e Envelope
	if r.Kind != ledgeranchor.KindHop {
		return nil, fmt.Errorf("a %s has no envelope", r.Kind)
	}
	if err := cbor.Unmarshal(r.Body, &e); err != nil {
		return nil, err
	}
	if e.Version != 1 || len(e.To) > MaxRecipients {
		return nil, fmt.Errorf("an envelope of version %d with %d recipients", e.Version, len(e.To))
	}
	return &e, nil
}
