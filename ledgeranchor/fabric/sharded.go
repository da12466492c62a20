package fabric

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"brightgid/ledgeranchor"
)

// shardBits are the bits of a position that tell the shard.
const shardBits = 6

// MaxShards is how many channels a ledger may be spread over.
const MaxShards = 1 << shardBits

// Sharded implements [ledgeranchor.Ledger] over several channels. Records about
// addresses of one /64 are on one channel, those of a warrant without addresses on
// one, and certificates on all. The order of one channel is not that of another: a
// position is the channel's own times 64, and the channel's place.
type Sharded struct {
	shards []ledgeranchor.Ledger
}

// NewSharded returns a ledger over channels, whose number and order must never
// change.
func NewSharded(channels ...ledgeranchor.Ledger) (*Sharded, error) {
	if len(channels) < 1 || len(channels) > MaxShards {
		return nil, fmt.Errorf("%d channels: want 1 to %d", len(channels), MaxShards)
	}
	return &Sharded{channels}, nil
}

// Close implements [ledgeranchor.Ledger].
func (s *Sharded) Close() error {
	var errs []error
	for _, l := range s.shards {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

func (s *Sharded) of(b []byte) int { return int(xxhash.Sum64(b) % uint64(len(s.shards))) }

// ofAddress returns the shard of an address, by its /64.
func (s *Sharded) ofAddress(a netip.Addr) int {
	b := a.As16()
	return s.of(b[:8])
}

// ofRecord returns a record's shard; -1 for all.
func (s *Sharded) ofRecord(r *ledgeranchor.Record) (int, error) {
	switch {
	case r.Kind == ledgeranchor.KindCertificate:
		return -1, nil
	case len(r.Addresses) > 0:
		n := s.ofAddress(r.Addresses[0].Addr())
		for _, a := range r.Addresses[1:] {
			if s.ofAddress(a.Addr()) != n {
				return 0, fmt.Errorf("%w: its addresses are of several shards; make a record for each prefix", ledgeranchor.ErrMalformed)
			}
		}
		return n, nil
	case !r.Warrant.IsZero():
		return s.of(r.Warrant[:]), nil
	case !r.Message.IsZero():
		return s.of(r.Message[:]), nil
	}
	return s.of(r.Author[:]), nil
}

func (s *Sharded) receipt(r ledgeranchor.Receipt, shard int) ledgeranchor.Receipt {
	r.Position = r.Position<<shardBits | uint64(shard)
	return r
}

// Append implements [ledgeranchor.Ledger]. Records of several shards are as many
// transactions: when one is refused, those of others may have been taken.
func (s *Sharded) Append(ctx context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error) {
	parts := make([][]int, len(s.shards))
	for i, x := range records {
		r, err := ledgeranchor.Decode(x.Record)
		shard := 0
		if err == nil {
			shard, err = s.ofRecord(r)
		}
		if err != nil {
			return nil, &ledgeranchor.RecordError{Index: i, Name: x.Name(), Err: err}
		}
		for n := range parts {
			if shard == n || shard < 0 {
				parts[n] = append(parts[n], i)
			}
		}
	}
	out := make([]ledgeranchor.Receipt, len(records))
	errs := make([]error, len(s.shards))
	var mu sync.Mutex
	var all sync.WaitGroup
	for n, part := range parts {
		if len(part) == 0 {
			continue
		}
		all.Go(func() {
			some := make([]*ledgeranchor.Signed, len(part))
			for k, i := range part {
				some[k] = records[i]
			}
			receipts, err := s.shards[n].Append(ctx, some...)
			var which *ledgeranchor.RecordError
			if errors.As(err, &which) && which.Index < len(part) {
				err = &ledgeranchor.RecordError{Index: part[which.Index], Name: which.Name, Err: which.Err}
			}
			errs[n] = err
			mu.Lock()
			defer mu.Unlock()
			for k, r := range receipts {
				out[part[k]] = s.receipt(r, n)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// where asks one shard after the other for a record.
func where[T any](s *Sharded, ask func(ledgeranchor.Ledger) (T, error)) (x T, shard int, err error) {
	for n, l := range s.shards {
		if x, err = ask(l); !errors.Is(err, ledgeranchor.ErrNotFound) {
			return x, n, err
		}
	}
	return x, 0, ledgeranchor.ErrNotFound
}

// Get implements [ledgeranchor.Ledger].
func (s *Sharded) Get(ctx context.Context, name ledgeranchor.Hash) (*ledgeranchor.Entry, error) {
	e, n, err := where(s, func(l ledgeranchor.Ledger) (*ledgeranchor.Entry, error) { return l.Get(ctx, name) })
	if err != nil {
		return nil, err
	}
	e.Receipt = s.receipt(e.Receipt, n)
	return e, nil
}

// Prove implements [ledgeranchor.Ledger].
func (s *Sharded) Prove(ctx context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error) {
	p, _, err := where(s, func(l ledgeranchor.Ledger) (ledgeranchor.Proof, error) { return l.Prove(ctx, name) })
	return p, err
}

// Find implements [ledgeranchor.Ledger]. A query that names an address asks one
// channel only.
func (s *Sharded) Find(ctx context.Context, q ledgeranchor.Query) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		type source struct {
			shard int
			next  func() (*ledgeranchor.Entry, error, bool)
			entry *ledgeranchor.Entry
		}
		var sources []*source
		for n, l := range s.shards {
			if q.Address.Is6() && s.ofAddress(q.Address) != n {
				continue
			}
			next, stop := iter.Pull2(l.Find(ctx, q))
			defer stop()
			sources = append(sources, &source{shard: n, next: next})
		}
		advance := func(x *source) (more bool, err error) {
			e, err, ok := x.next()
			if ok && err == nil {
				e.Receipt = s.receipt(e.Receipt, x.shard)
				x.entry = e
			}
			return ok, err
		}
		// By time, and each certificate once, though it is on every channel.
		live := sources[:0]
		for _, x := range sources {
			more, err := advance(x)
			if err != nil {
				yield(nil, err)
				return
			}
			if more {
				live = append(live, x)
			}
		}
		certificates := make(map[ledgeranchor.Hash]bool)
		for len(live) > 0 {
			best := slices.MinFunc(live, func(a, b *source) int { return a.entry.Record.At().Compare(b.entry.Record.At()) })
			e := best.entry
			name := e.Signed.Name()
			if e.Record.Kind != ledgeranchor.KindCertificate || !certificates[name] {
				if e.Record.Kind == ledgeranchor.KindCertificate {
					certificates[name] = true
				}
				if !yield(e, nil) {
					return
				}
			}
			more, err := advance(best)
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				live = slices.DeleteFunc(live, func(x *source) bool { return x == best })
			}
		}
	}
}

// Follow implements [ledgeranchor.Ledger]. Records of one channel come in its order;
// a certificate comes from each.
func (s *Sharded) Follow(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		type item struct {
			entry *ledgeranchor.Entry
			err   error
		}
		ctx, cancel := context.WithCancel(ctx)
		items := make(chan item)
		var all sync.WaitGroup
		defer all.Wait()
		defer cancel()
		for n, l := range s.shards {
			all.Go(func() {
				for e, err := range l.Follow(ctx, from>>shardBits) {
					if err == nil {
						if e.Receipt = s.receipt(e.Receipt, n); e.Position < from {
							continue
						}
					}
					select {
					case items <- item{e, err}:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		go func() {
			all.Wait()
			close(items)
		}()
		for x := range items {
			if !yield(x.entry, x.err) || x.err != nil {
				return
			}
		}
	}
}
