package ledgeranchor

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	f_log "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// ErrProof says that a proof does not hold.
var ErrProof = errors.New("the proof does not hold")

// LogProof proves that a transparency log has a record. Its text is that of C2SP's
// tlog-proof, with the signed record as its extra data:
//
//	c2sp.org/tlog-proof@v1
//	extra <signed record in base64>
//	index <position>
//	<hash in base64>        for each step of the inclusion proof
//
//	<signed checkpoint>
type LogProof struct {
	Signed     []byte // the CBOR of the signed record, which is the log's entry
	Index      uint64
	Path       []Hash
	Checkpoint []byte // a signed note
}

const tlogProof = "c2sp.org/tlog-proof@v1"

// maxProof bounds a proof's text: a record of 17 KiB in base64, 64 hashes and a
// checkpoint.
const maxProof = 64 << 10

// MarshalText implements [Proof].
func (p *LogProof) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	b64 := base64.StdEncoding.EncodeToString
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", tlogProof, b64(p.Signed), p.Index)
	for _, h := range p.Path {
		fmt.Fprintln(&b, b64(h[:]))
	}
	b.WriteString("\n")
	b.Write(p.Checkpoint)
	return b.Bytes(), nil
}

// ParseLogProof reads a proof's text.
func ParseLogProof(text []byte) (*LogProof, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("proof: %s", fmt.Sprintf(format, args...))
	}
	if len(text) > maxProof {
		return nil, bad("%d bytes are too many", len(text))
	}
	head, checkpoint, ok := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) < 3 || lines[0] != tlogProof {
		return nil, bad("want %q, extra, index, hashes, an empty line and a checkpoint", tlogProof)
	}
	p := &LogProof{Checkpoint: []byte(checkpoint)}
	extra, ok1 := strings.CutPrefix(lines[1], "extra ")
	index, ok2 := strings.CutPrefix(lines[2], "index ")
	if !ok1 || !ok2 {
		return nil, bad("want lines \"extra …\" and \"index …\"")
	}
	b64 := base64.StdEncoding.Strict()
	var err error
	if p.Signed, err = b64.DecodeString(extra); err != nil {
		return nil, bad("extra: %v", err)
	}
	if p.Index, err = strconv.ParseUint(index, 10, 64); err != nil || strconv.FormatUint(p.Index, 10) != index {
		return nil, bad("index %q: want a number", index)
	}
	for i, l := range lines[3:] {
		h, err := b64.DecodeString(l)
		if err != nil || len(h) != len(Hash{}) || i >= 64 {
			return nil, bad("step %d of the inclusion proof: want a hash in base64", i)
		}
		p.Path = append(p.Path, Hash(h))
	}
	return p, nil
}

// Head is the head of a log: what its checkpoints commit to.
type Head struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   Hash   `json:"root"`
}

// OpenCheckpoint checks a log's signature on its checkpoint (C2SP tlog-checkpoint).
func OpenCheckpoint(checkpoint []byte, log note.Verifier) (*Head, error) {
	c, _, _, err := f_log.ParseCheckpoint(checkpoint, log.Name(), log)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	// note reads other encodings of a signature as well; of a proof there shall be one.
	for line := range strings.Lines(string(checkpoint)) {
		if rest, ok := strings.CutPrefix(line, "— "); ok {
			_, sig, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
			if _, err := base64.StdEncoding.Strict().DecodeString(sig); err != nil {
				return nil, fmt.Errorf("checkpoint: a signature that is not encoded as it should be: %w", err)
			}
		}
	}
	if len(c.Hash) != len(Hash{}) {
		return nil, fmt.Errorf("checkpoint: a root of %d bytes", len(c.Hash))
	}
	return &Head{Origin: c.Origin, Size: c.Size, Root: Hash(c.Hash)}, nil
}

// Verify checks a proof: the log's signature, that the log has the entry, and that
// a member signed the record in it. The member's certificate must be known to
// members.
func (p *LogProof) Verify(log note.Verifier, members *Members) (*Record, error) {
	head, err := OpenCheckpoint(p.Checkpoint, log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	path := make([][]byte, len(p.Path))
	for i := range p.Path {
		path[i] = p.Path[i][:]
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, head.Size, rfc6962.DefaultHasher.HashLeaf(p.Signed), path, head.Root[:]); err != nil {
		return nil, fmt.Errorf("%w: the log at size %d does not have the record at %d: %w", ErrProof, head.Size, p.Index, err)
	}
	s, err := DecodeSigned(p.Signed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	r, err := members.Check(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return r, nil
}
