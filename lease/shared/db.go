// Package shared keeps the registry and the leases in a database that several servers share,
// each of which has the rows of its clients in memory.
//
// [Store] is what one server makes of it. It reads a row once, decides from memory, and
// commits what was decided in groups. Each row has a revision, and a write names the
// revision that it was decided on; where another server was there before, nothing of what the
// message would have changed is written, its client gets no answer, and asks again. So
// servers need not ask each other, nothing that is acknowledged is lost, and nothing is leased
// twice, whatever they believe.
//
// [DB] is what a database must do; sqlstore is the one that speaks to PostgreSQL and what
// speaks its protocol.
package shared

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"brightgid/lease"
)

// Table is one of the database's tables.
type Table uint8

// The tables, their keys and values. Numbers are big-endian.
const (
	Keys        Table = iota + 1 // lookup key(32) → subscriber(8)
	Subscribers                  // subscriber(8) → registered(8) ‖ NID
	Leases                       // address(16) → the record of its newest lease
	History                      // address(16) ‖ start(8) → the record of a lease that ended
	Clients                      // PD(1) ‖ IAID(4) ‖ DUID → addresses, 16 bytes each
	Lists                        // subscriber(8) → addresses, 16 bytes each
	Accounts                     // server(2) ‖ subscriber(8) ‖ prefix(8) → epoch(4) ‖ slot(2) ‖ even(8)
)

// Key names a row.
type Key struct {
	Table Table
	ID    string
}

// Row is a row as it is, or as it is to be.
type Row struct {
	Key
	Value []byte
	Rev   int64 // its revision, which no other has; 0 for a row that is not there
	Was   int64 // of a row that is to be: the revision that it takes the place of, or Any
}

// Any is for a row that takes the place of whatever is there.
const Any int64 = -1

const (
	// MaxServers is how many servers one database may have: the slots of a subscriber are
	// split between so many.
	MaxServers = 16

	// MaxStarts is how often a server may start under one name, so that no revision comes
	// twice.
	MaxStarts = 1 << 20
)

var (
	// ErrConflict says that a row is not of the revision any more that a write names.
	ErrConflict = lease.ErrConflict

	// ErrAway says that the database cannot be asked.
	ErrAway = lease.ErrAway

	// ErrClock says that a server's clock is not the database's, see [Options.Clock]. It is an ErrAway.
	ErrClock = fmt.Errorf("%w for this server, whose clock is not the database's", ErrAway)

	// ErrKeys says that a server has other keys than those it would share a database with.
	ErrKeys = errors.New("this server has other keys than those that it shares the database with; keyring, registry key and escrow key must be the same")

	// ErrServers says that a database has as many servers as it may have.
	ErrServers = errors.New("the database has as many servers as it may have")
)

// Attachment is what a server is in a database.
type Attachment struct {
	Server     int           // its number, below MaxServers
	Start      int           // how often it was attached before, below MaxStarts
	Next, End  uint64        // subscriber numbers that it may give: from Next, below End
	Last       int64         // its last commit, 0 for none that is known
	Heads      map[int]int64 // the last commit of each server
	Registered uint64        // the registry's end: one more than the highest number that servers may give
	Lengths    []uint8       // lengths of the delegated prefixes that were ever filed, the longest first
}

// firstRev is what revisions of rows that the server writes are above, and firstSeq what numbers of
// its commits are, so that those of one start are others than those of another.
func (a *Attachment) firstRev() int64 { return (int64(a.Server)*MaxStarts + int64(a.Start)) << 39 }
func (a *Attachment) firstSeq() int64 { return int64(a.Start) << 40 }

// WriterOf returns the number of the server that wrote a row of a revision.
func WriterOf(rev int64) int { return int(rev >> 39 / MaxStarts) }

// Keyed tells whether servers have the same keys. Tag returns a number, below 2^63, that
// nobody finds out keys by, and that is another one for other keys; it fails for an epoch
// whose key is erased.
type Keyed struct {
	Epoch uint32 // that it is
	Tag   func(epoch uint32) (int64, error)
}

// Check reports whether the keys are those that had a tag in an epoch, as far as that can
// still be told.
func (k Keyed) Check(epoch uint32, tag int64) error {
	if ours, err := k.Tag(epoch); err == nil && ours != tag {
		return ErrKeys
	}
	return nil
}

// Commit is rows that are written all or none.
type Commit struct {
	Server  int
	Seq     int64 // names it among the server's; later ones have higher numbers
	Prev    int64 // the server's commit before it, 0 for none
	Rows    []Row // no two of one key
	Changed []netip.Addr

	// Check, if not nil, is told the database's time before the commit is final. If it returns an error,
	// nothing is written.
	Check func(now time.Time) error
}

// Change tells what a commit has changed.
type Change struct {
	Server    int
	Seq, Prev int64
	Addrs     []netip.Addr
}

// DB is a database. All methods may be called beside one another. Any error but those that
// are named means that it is not known what became of a write.
type DB interface {
	// Attach makes a server known by a name, or finds it. It returns ErrServers where there
	// are too many, and ErrKeys for keys that are not those of the server that was attached
	// last.
	Attach(ctx context.Context, name string, keys Keyed) (Attachment, error)

	// Get returns the rows of keys, in their order.
	Get(ctx context.Context, keys []Key) ([]Row, error)

	// Commit writes rows durably. Where one is not of the revision that it is to take
	// the place of it writes nothing and returns ErrConflict, and where the commit's Check
	// returns an error it writes nothing and returns that. A commit that was written
	// before is not written again, and that is no error.
	Commit(ctx context.Context, c *Commit) error

	// Now returns the database's time.
	Now(ctx context.Context) (time.Time, error)

	// Take gives a server n subscriber numbers that nobody has, and returns the first;
	// lease.ErrFull if there are no more.
	Take(ctx context.Context, server int, n uint64) (first uint64, err error)

	// AddLength files a length of delegated prefixes.
	AddLength(ctx context.Context, bits uint8) error

	// Lengths returns the lengths that were filed, the longest first.
	Lengths(ctx context.Context) ([]uint8, error)

	// Changes returns up to limit changes of other servers than one after those that
	// are named, each server's in order. They are kept for KeepChanges.
	Changes(ctx context.Context, but int, after map[int]int64, limit int) ([]Change, error)

	// Remove removes leases, named by their addresses and starts.
	Remove(ctx context.Context, leases []lease.Lease) error

	// Forget removes up to limit leases of epochs before one, history included, and what
	// is filed under their clients and subscribers alone. It returns how many.
	Forget(ctx context.Context, before uint32, limit int) (int, error)

	// What follows does what lease.Store's methods of these names do.

	Subscriber(ctx context.Context, number uint64) (lease.Subscriber, error)
	Registered(ctx context.Context) (uint64, error)
	History(ctx context.Context, dst []lease.Lease, addr netip.Addr) ([]lease.Lease, error)
	Within(ctx context.Context, dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error)
	Old(ctx context.Context, before uint32, after []byte, limit int) (old []lease.Lease, next []byte, err error)
	Close() error

	// Each calls f with the newest lease of each address, and which server wrote it.
	Each(ctx context.Context, f func(l lease.Lease, by int) error) error
}

// KeepChanges is for how long at the least a database tells of changes.
const KeepChanges = 10 * time.Minute
