package mail

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"strings"

	"brightgid/ledgeranchor"
)

// contentHeaders are the fields that content is hashed with where a message has them,
// by their lower-case names, in the order of the hash.
var contentHeaders = []string{"from", "to", "cc", "reply-to", "subject", "date", "message-id", "in-reply-to", "references", "mime-version", "content-type"}

// Content hashes a message as relays do not change it: chosen fields and the body, both
// in the relaxed form of DKIM (RFC 6376 §3.4.2, §3.4.4), with a line ending in LF alone
// taken for one in CRLF. The body is written to it and not kept.
//
// The hash is SHA-256 of "gid-content-1", a zero byte, each field of the names that are
// chosen, in their order and then in the message's, as "name:value" CRLF, an empty line,
// and the SHA-256 of the body.
type Content struct {
	fields map[string][]string
	body   relaxed
}

// NewContent returns a hash of a message of which nothing is known yet.
func NewContent() *Content {
	return &Content{fields: make(map[string][]string), body: relaxed{h: sha256.New()}}
}

// maxField bounds what is kept of a field.
const maxField = 64 << 10

// Field takes a field of the header, in the message's order. Fields that are not chosen
// are not kept.
func (c *Content) Field(name, value string) {
	name = strings.ToLower(name)
	for _, h := range contentHeaders {
		if h == name && len(c.fields[h]) < maxInstances {
			c.fields[h] = append(c.fields[h], relaxedValue(value[:min(len(value), maxField)]))
		}
	}
}

// maxInstances is how many fields of a name count.
const maxInstances = 16

// Write takes a part of the body.
func (c *Content) Write(p []byte) (int, error) { return c.body.Write(p) }

// Names returns the chosen fields that the message has.
func (c *Content) Names() []string {
	var out []string
	for _, h := range contentHeaders {
		if len(c.fields[h]) > 0 {
			out = append(out, h)
		}
	}
	return out
}

// Sum returns the hash with the fields of some names. Relays add fields that are
// missing, so that what the first relay saw counts, whatever came later.
func (c *Content) Sum(names []string) (e ledgeranchor.Hash) {
	h := sha256.New()
	h.Write([]byte("gid-content-1\x00"))
	for _, known := range contentHeaders {
		for _, n := range names {
			if n != known {
				continue
			}
			for _, v := range c.fields[n] {
				h.Write([]byte(n + ":" + v + "\r\n"))
			}
			break
		}
	}
	h.Write([]byte("\r\n"))
	h.Write(c.body.sum())
	return ledgeranchor.Hash(h.Sum(nil))
}

// relaxedValue unfolds a field's value and reduces white space.
func relaxedValue(v string) string {
	var b strings.Builder
	space := false
	for i := range len(v) {
		switch c := v[i]; c {
		case ' ', '\t', '\r', '\n':
			space = b.Len() > 0
		default:
			if space {
				b.WriteByte(' ')
				space = false
			}
			b.WriteByte(c)
		}
	}
	return b.String()
}

// relaxed hashes a body in the relaxed form. It keeps nothing but counts.
type relaxed struct {
	h     hash.Hash
	out   []byte
	cr    bool // a CR was read that may begin a line's end
	space bool // white space was read that may be within a line
	empty int  // lines' ends that are written if something follows
	any   bool
}

func (r *relaxed) Write(p []byte) (int, error) {
	r.out = r.out[:0]
	for _, c := range p {
		if r.cr {
			r.cr = false
			if c != '\n' {
				r.char('\r')
			}
		}
		switch c {
		case '\r':
			r.cr = true
		case '\n':
			r.space = false
			r.empty++
		case ' ', '\t':
			r.space = true
		default:
			r.char(c)
		}
		if len(r.out) > 4096 {
			r.h.Write(r.out)
			r.out = r.out[:0]
		}
	}
	r.h.Write(r.out)
	return len(p), nil
}

// char takes a character that is not white space.
func (r *relaxed) char(c byte) {
	for ; r.empty > 0; r.empty-- {
		r.out = append(r.out, '\r', '\n')
		if len(r.out) > 4096 {
			r.h.Write(r.out)
			r.out = r.out[:0]
		}
	}
	if r.space {
		r.out = append(r.out, ' ')
		r.space = false
	}
	r.out = append(r.out, c)
	r.any = true
}

// sum ends the body: empty lines at its end do not count, and what is there ends with
// a line's end.
func (r *relaxed) sum() []byte {
	x := *r
	x.out = nil
	if x.cr {
		x.char('\r')
	}
	clone, ok := x.h.(hash.Cloner)
	if !ok {
		panic("mail: SHA-256 cannot be cloned")
	}
	copied, err := clone.Clone()
	if err != nil {
		panic(err) // it can
	}
	copied.Write(x.out)
	if x.any {
		copied.Write([]byte("\r\n"))
	}
	return bytes.Clone(copied.Sum(nil))
}
