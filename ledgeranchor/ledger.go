package ledgeranchor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"
)

// ErrNotFound says that a ledger has no such record.
var ErrNotFound = errors.New("the ledger has no such record")

// Ledger keeps signed records: each once, in one order, for ever. It is safe for
// concurrent use.
type Ledger interface {
	// Append gives records, MaxBatch at most, their places and returns when they are durable, and
	// on a ledger of several organisations committed. A record that the ledger
	// has keeps its place, so that Append may be tried again after any failure.
	// Either all records are taken or, with a [*RecordError] that tells of the
	// first that is refused, none.
	Append(ctx context.Context, records ...*Signed) ([]Receipt, error)

	// Get returns the record of a name, or ErrNotFound.
	Get(ctx context.Context, name Hash) (*Entry, error)

	// Find returns the records that a query asks for, in the order of their
	// times.
	Find(ctx context.Context, q Query) iter.Seq2[*Entry, error]

	// Prove returns what shows others that the ledger has a record. It waits
	// until there is such a proof, which takes up to seconds after Append.
	Prove(ctx context.Context, name Hash) (Proof, error)

	// Follow returns all records from a position on, and then those to come
	// until the context ends, in the order of the ledger.
	Follow(ctx context.Context, from uint64) iter.Seq2[*Entry, error]

	// Close ends the use of the ledger. What was appended stays.
	Close() error
}

// Receipt is a record's place.
type Receipt struct {
	Position uint64 `json:"position"`          // in the ledger's order, from 0
	Known    bool   `json:"known,omitempty"`   // it had been there before
	Block    uint64 `json:"block,omitempty"`   // of a Fabric channel
	Tx       string `json:"tx,omitempty"`      // of a Fabric channel, the transaction's id
	Channel  string `json:"channel,omitempty"` // of several
}

// Entry is a record in a ledger.
type Entry struct {
	Receipt
	Signed *Signed `json:"signed"`
	Record *Record `json:"-"` // what Signed holds
}

// Query asks for records. Its zero fields ask for nothing.
type Query struct {
	Kind        Kind
	Address     netip.Addr
	Warrant     Hash
	Message     Hash
	From, Until time.Time // of the records' times, both included; zero for no limit
}

// Check reports a query that no ledger can answer.
func (q *Query) Check() error {
	if q.Address.IsValid() && (!q.Address.Is6() || q.Address.Zone() != "") {
		return fmt.Errorf("query: %s is not an IPv6 address", q.Address)
	}
	return nil
}

// Wants reports whether a record is one that the query asks for.
func (q *Query) Wants(r *Record) bool {
	if q.Address.IsValid() {
		found, want := false, AddressOf(q.Address)
		for _, a := range r.Addresses {
			found = found || a == want
		}
		if !found {
			return false
		}
	}
	return (q.Kind == "" || q.Kind == r.Kind) &&
		(q.Warrant.IsZero() || q.Warrant == r.Warrant) && (q.Message.IsZero() || q.Message == r.Message) &&
		(q.From.IsZero() || !r.At().Before(q.From.Truncate(time.Millisecond))) && (q.Until.IsZero() || !r.At().After(q.Until))
}

// RecordError tells which record of an Append was refused, and why.
type RecordError struct {
	Index int // among those of the call
	Name  Hash
	Err   error
}

func (e *RecordError) Error() string { return fmt.Sprintf("record %s: %v", e.Name, e.Err) }

func (e *RecordError) Unwrap() error { return e.Err }

// CheckAll checks records that are to be appended at a time and returns them
// decoded. Its error is a [*RecordError].
func (m *Members) CheckAll(records []*Signed, now time.Time) ([]*Record, error) {
	out := make([]*Record, len(records))
	for i, s := range records {
		r, err := m.Check(s)
		if err == nil && r.At().After(now.Add(MaxSkew)) {
			err = fmt.Errorf("%w: %s, and now is %s", ErrFuture, r.At().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
		if err != nil {
			return nil, &RecordError{i, s.Name(), err}
		}
		out[i] = r
	}
	return out, nil
}

// Proof shows that a ledger has a record to whoever trusts the ledger's keys.
type Proof interface {
	// MarshalText returns the proof's published form.
	MarshalText() ([]byte, error)
}
