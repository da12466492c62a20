// Package anchored is an embedded ledger whose heads stand on a ledger that others
// share: the bulk of the records stays here, and what they were cannot be changed
// without others seeing it. What the shared ledger has to take does not grow with the
// records.
package anchored

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/embedded"
)

// DefaultInterval is how often a new head is anchored, unless told otherwise.
const DefaultInterval = 2 * time.Second

// anchorWithin bounds an attempt to anchor.
const anchorWithin = time.Minute

// Options are what New needs.
type Options struct {
	Author   *ledgeranchor.Author // of the checkpoints on the shared ledger, with the role log
	Interval time.Duration        // 0 for DefaultInterval
	Log      *slog.Logger         // nil for none
	Now      func() time.Time
}

// Ledger implements [ledgeranchor.Ledger]: records are appended to the log on this
// machine, found there and followed there. A record's proof is by a checkpoint that
// stands on the shared ledger.
type Ledger struct {
	*embedded.Ledger
	shared ledgeranchor.Ledger
	o      Options
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	last ledgeranchor.Head // that is anchored
	err  error             // of the last attempt
}

// New anchors a log on a shared ledger. Both are the caller's to close, after Close.
func New(local *embedded.Ledger, shared ledgeranchor.Ledger, o Options) *Ledger {
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Ledger{Ledger: local, shared: shared, o: o, stop: stop}
	l.done.Go(func() { l.run(ctx) })
	return l
}

// Close anchors the log's last head, if that takes no longer than a minute, and ends
// anchoring.
func (l *Ledger) Close() error {
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), anchorWithin)
	defer cancel()
	return l.Anchor(ctx)
}

// Status tells which head is anchored, and why no later one is, if an attempt has
// failed since.
func (l *Ledger) Status() (anchored ledgeranchor.Head, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.err
}

func (l *Ledger) run(ctx context.Context) {
	tick := time.NewTicker(l.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(ctx, anchorWithin)
		if err := l.Anchor(attempt); err != nil && ctx.Err() == nil {
			l.o.Log.Warn("the log's head is not anchored; records are kept meanwhile", "error", err)
		}
		cancel()
	}
}

// Anchor puts the log's head on the shared ledger, if it is not there.
func (l *Ledger) Anchor(ctx context.Context) error {
	h, checkpoint, err := l.Head(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	done := l.last == *h
	l.mu.Unlock()
	if done || h.Size == 0 {
		return nil
	}
	err = l.put(ctx, checkpoint)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = err; err == nil {
		l.last = *h
	}
	return err
}

func (l *Ledger) put(ctx context.Context, checkpoint []byte) error {
	intro, err := l.o.Author.Introduce()
	if err != nil {
		return err
	}
	signed, err := l.o.Author.Sign(&ledgeranchor.Record{Kind: ledgeranchor.KindCheckpoint, Time: uint64(l.o.Now().UnixMilli()), Body: checkpoint})
	if err != nil {
		return err
	}
	_, err = l.shared.Append(ctx, signed[0])
	if errors.Is(err, ledgeranchor.ErrAuthor) {
		_, err = l.shared.Append(ctx, intro, signed[0])
	}
	return err
}

const proofPoll = 100 * time.Millisecond

// Prove implements [ledgeranchor.Ledger]. The proof is a [*Proof]. It waits for a
// checkpoint that commits to the record to be anchored.
func (l *Ledger) Prove(ctx context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error) {
	position, err := l.Position(ctx, name)
	if err != nil {
		return nil, err
	}
	for {
		anchor, checkpoint, err := l.anchorOf(ctx, position)
		if err != nil {
			return nil, err
		}
		if checkpoint != nil {
			p, err := l.ProveAt(ctx, position, checkpoint)
			if err != nil {
				return nil, err
			}
			of, err := l.shared.Prove(ctx, anchor)
			if err != nil {
				return nil, err
			}
			return &Proof{Log: p, Anchor: of}, nil
		}
		select {
		case <-ctx.Done():
			_, last := l.Status()
			return nil, errors.Join(fmt.Errorf("no anchored checkpoint commits to record %d yet: %w", position, ctx.Err()), last)
		case <-time.After(proofPoll):
		}
	}
}

// anchorOf finds the first anchored checkpoint of this log that commits to a
// position.
func (l *Ledger) anchorOf(ctx context.Context, position uint64) (name ledgeranchor.Hash, checkpoint []byte, err error) {
	author := l.o.Author.ID()
	for e, err := range l.shared.Find(ctx, ledgeranchor.Query{Kind: ledgeranchor.KindCheckpoint}) {
		if err != nil {
			return name, nil, err
		}
		if e.Record.Author != author {
			continue
		}
		if h, err := ledgeranchor.OpenCheckpoint(e.Record.Body, l.Verifier()); err == nil && position < h.Size {
			return e.Signed.Name(), e.Record.Body, nil
		}
	}
	return name, nil, nil
}

// Proof shows that a log has a record, by a checkpoint that a shared ledger has.
type Proof struct {
	Log    *ledgeranchor.LogProof
	Anchor ledgeranchor.Proof // of the checkpoint's record
}

const proofFormat = "gid-anchored-proof-1"

type proofText struct {
	Format string `json:"format"`
	Log    string `json:"log"`    // a tlog-proof
	Anchor string `json:"anchor"` // the shared ledger's proof
}

// MarshalText implements [ledgeranchor.Proof].
func (p *Proof) MarshalText() ([]byte, error) {
	log, err := p.Log.MarshalText()
	if err != nil {
		return nil, err
	}
	anchor, err := p.Anchor.MarshalText()
	if err != nil {
		return nil, err
	}
	return json.Marshal(proofText{proofFormat, string(log), string(anchor)})
}

// ParseProof reads a proof's text; parse reads that of the shared ledger.
func ParseProof(text []byte, parse func([]byte) (ledgeranchor.Proof, error)) (*Proof, error) {
	var t proofText
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	if t.Format != proofFormat {
		return nil, fmt.Errorf("proof: format %q: want %q", t.Format, proofFormat)
	}
	log, err := ledgeranchor.ParseLogProof([]byte(t.Log))
	if err != nil {
		return nil, err
	}
	anchor, err := parse([]byte(t.Anchor))
	if err != nil {
		return nil, err
	}
	return &Proof{log, anchor}, nil
}

// Verify checks a proof: the log's, and by verifyAnchor that of the shared ledger,
// whose record must hold the very checkpoint.
func (p *Proof) Verify(log note.Verifier, members *ledgeranchor.Members, verifyAnchor func(ledgeranchor.Proof) (*ledgeranchor.Record, error)) (*ledgeranchor.Record, error) {
	r, err := p.Log.Verify(log, members)
	if err != nil {
		return nil, err
	}
	anchor, err := verifyAnchor(p.Anchor)
	if err != nil {
		return nil, fmt.Errorf("its anchor: %w", err)
	}
	if anchor.Kind != ledgeranchor.KindCheckpoint || !bytes.Equal(anchor.Body, p.Log.Checkpoint) {
		return nil, fmt.Errorf("%w: the checkpoint is not the anchored one", ledgeranchor.ErrProof)
	}
	return r, nil
}
