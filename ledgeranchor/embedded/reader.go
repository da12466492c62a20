package embedded

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"

	"brightgid/ledgeranchor"
)

// Reader reads a log from outside, with public keys only: its files, or what an
// HTTP server gives of them. It is safe for concurrent use.
type Reader struct {
	fetcher  fsck.Fetcher
	verifier note.Verifier
	members  *ledgeranchor.Members

	mu     sync.Mutex // of the last bundle that was read
	number uint64
	bundle api.EntryBundle
}

// NewReader returns a reader of a log with a key, whose members are those that
// roots have issued. client.FileFetcher and client.HTTPFetcher are fetchers.
func NewReader(f fsck.Fetcher, log note.Verifier, roots []*x509.Certificate) *Reader {
	return &Reader{fetcher: f, verifier: log, members: ledgeranchor.NewMembers(roots)}
}

// Verifier returns the log's public key.
func (r *Reader) Verifier() note.Verifier { return r.verifier }

// Members returns the members that the reader has met so far.
func (r *Reader) Members() *ledgeranchor.Members { return r.members }

// Head returns the log's last checkpoint, whose signature it checks.
func (r *Reader) Head(ctx context.Context) (*ledgeranchor.Head, []byte, error) {
	b, err := r.fetcher.ReadCheckpoint(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("the log's checkpoint: %w", err)
	}
	h, err := ledgeranchor.OpenCheckpoint(b, r.verifier)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	return h, b, nil
}

// entry returns the entry at a position of the log at a size.
func (r *Reader) entry(ctx context.Context, position, size uint64) (*ledgeranchor.Signed, error) {
	const width = 256 // entries of a full bundle (C2SP tlog-tiles)
	number, i := position/width, int(position%width)
	r.mu.Lock()
	defer r.mu.Unlock()
	if number != r.number || i >= len(r.bundle.Entries) {
		b, err := client.GetEntryBundle(ctx, r.fetcher.ReadEntryBundle, number, size)
		if err != nil {
			return nil, err
		}
		r.number, r.bundle = number, b
	}
	if i >= len(r.bundle.Entries) {
		return nil, fmt.Errorf("%w: entry %d is missing from its bundle", ErrTampered, position)
	}
	s, err := ledgeranchor.DecodeSigned(r.bundle.Entries[i])
	if err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", ErrTampered, position, err)
	}
	return s, nil
}

func (r *Reader) read(ctx context.Context, position, size uint64) (*ledgeranchor.Entry, error) {
	s, err := r.entry(ctx, position, size)
	if err != nil {
		return nil, err
	}
	rec, err := r.members.Check(s)
	if err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", ErrTampered, position, err)
	}
	return &ledgeranchor.Entry{Receipt: ledgeranchor.Receipt{Position: position}, Signed: s, Record: rec}, nil
}

// Entries returns the records from a position on, up to the last checkpoint, and
// checks the signature of each.
func (r *Reader) Entries(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		h, _, err := r.Head(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for ; from < h.Size; from++ {
			e, err := r.read(ctx, from, h.Size)
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Follow implements [ledgeranchor.Ledger]: records come when a checkpoint commits
// to them.
func (r *Reader) Follow(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		tick := time.NewTicker(checkpointInterval)
		defer tick.Stop()
		for {
			for e, err := range r.Entries(ctx, from) {
				if ctx.Err() != nil || !yield(e, err) || err != nil {
					return
				}
				from++
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// Prove proves what is at a position. It waits for a checkpoint that commits to it.
func (r *Reader) Prove(ctx context.Context, position uint64) (*ledgeranchor.LogProof, error) {
	for {
		h, checkpoint, err := r.Head(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && position < h.Size {
			return r.prove(ctx, position, h, checkpoint)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no checkpoint commits to record %d yet: %w", position, ctx.Err())
		case <-time.After(proofPoll):
		}
	}
}

// ProveAt proves what is at a position of the log by one of its checkpoints, which
// must commit to it.
func (r *Reader) ProveAt(ctx context.Context, position uint64, checkpoint []byte) (*ledgeranchor.LogProof, error) {
	h, err := ledgeranchor.OpenCheckpoint(checkpoint, r.verifier)
	if err != nil {
		return nil, err
	}
	if position >= h.Size {
		return nil, fmt.Errorf("the checkpoint at size %d does not commit to record %d", h.Size, position)
	}
	return r.prove(ctx, position, h, checkpoint)
}

func (r *Reader) prove(ctx context.Context, position uint64, h *ledgeranchor.Head, checkpoint []byte) (*ledgeranchor.LogProof, error) {
	s, err := r.entry(ctx, position, h.Size)
	if err != nil {
		return nil, err
	}
	p := &ledgeranchor.LogProof{Index: position, Checkpoint: checkpoint}
	if p.Signed, err = s.Encode(); err != nil {
		return nil, err
	}
	builder, err := client.NewProofBuilder(ctx, h.Size, r.fetcher.ReadTile)
	if err != nil {
		return nil, err
	}
	path, err := builder.InclusionProof(ctx, position)
	if err != nil {
		return nil, err
	}
	for _, step := range path {
		p.Path = append(p.Path, ledgeranchor.Hash(step))
	}
	return p, nil
}

// Consistent checks that the log at its last checkpoint has all that it had at a
// head that somebody remembers, in the same order.
func (r *Reader) Consistent(ctx context.Context, old *ledgeranchor.Head) (*ledgeranchor.Head, error) {
	h, _, err := r.Head(ctx)
	if err != nil {
		return nil, err
	}
	if old.Origin != h.Origin {
		return nil, fmt.Errorf("the remembered head is of %q, the log is %q", old.Origin, h.Origin)
	}
	if old.Size > h.Size {
		return nil, fmt.Errorf("%w: it had %d records, and has %d", ErrTampered, old.Size, h.Size)
	}
	builder, err := client.NewProofBuilder(ctx, h.Size, r.fetcher.ReadTile)
	if err != nil {
		return nil, err
	}
	path, err := builder.ConsistencyProof(ctx, old.Size, h.Size)
	if err != nil {
		return nil, err
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, h.Size, path, old.Root[:], h.Root[:]); err != nil {
		return nil, fmt.Errorf("%w: it is another one than at size %d: %w", ErrTampered, old.Size, err)
	}
	return h, nil
}
