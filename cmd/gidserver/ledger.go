package main

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"brightgid/internal/ledgerfile"
	"brightgid/ledgeranchor"
)

// lateLedger is the ledger that resolutions stand on, opened when the first warrant
// comes. Addresses are leased whether or not it can be reached; warrants are answered
// only when it can.
type lateLedger struct {
	directory, fabric string

	mu sync.Mutex
	l  ledgeranchor.Ledger
	m  *ledgeranchor.Members
}

func (x *lateLedger) open(ctx context.Context) (ledgeranchor.Ledger, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.l != nil {
		return x.l, nil
	}
	// What is opened outlives the request that it is opened for.
	l, m, err := ledgerfile.Open(context.WithoutCancel(ctx), x.directory, x.fabric)
	if err != nil {
		return nil, fmt.Errorf("the ledger: %w", err)
	}
	x.l, x.m = l, m
	return l, nil
}

// Members implements trace's ledger that tells whose records count.
func (x *lateLedger) Members() *ledgeranchor.Members {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		return ledgeranchor.NewMembers(nil)
	}
	return x.m
}

// Append implements trace.Ledger.
func (x *lateLedger) Append(ctx context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error) {
	l, err := x.open(ctx)
	if err != nil {
		return nil, err
	}
	return l.Append(ctx, records...)
}

// Find implements trace.Ledger.
func (x *lateLedger) Find(ctx context.Context, q ledgeranchor.Query) iter.Seq2[*ledgeranchor.Entry, error] {
	l, err := x.open(ctx)
	if err != nil {
		return func(yield func(*ledgeranchor.Entry, error) bool) { yield(nil, err) }
	}
	return l.Find(ctx, q)
}

// Prove implements trace.Ledger.
func (x *lateLedger) Prove(ctx context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error) {
	l, err := x.open(ctx)
	if err != nil {
		return nil, err
	}
	return l.Prove(ctx, name)
}

// Close closes the ledger, if it was opened.
func (x *lateLedger) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.l == nil {
		return nil
	}
	err := x.l.Close()
	x.l = nil
	return err
}
