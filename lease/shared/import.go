package shared

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
)

// Source is a database of one server that is read whole, a part at a time, while nobody changes
// it. Each Scan calls f with up to limit entries after one, nil for the first, and returns the
// last, nil at the end. What f is given is its own during the call only. Values are as in the
// tables that [Table] names.
type Source interface {
	Subscribers() uint64 // how many there are; their numbers begin at 0 and leave none out
	Lengths() []uint8

	ScanKeys(after []byte, limit int, f func(key idcodec.LookupKey, number uint64) error) (next []byte, err error)
	ScanSubscribers(after []byte, limit int, f func(number uint64, value []byte) error) (next []byte, err error)
	ScanLeases(after []byte, limit int, f func(addr netip.Addr, record []byte) error) (next []byte, err error)
	ScanHistory(after []byte, limit int, f func(addr netip.Addr, start time.Time, record []byte) error) (next []byte, err error)
	ScanClients(after []byte, limit int, f func(c lease.Client, addrs []byte) error) (next []byte, err error)
	ScanLists(after []byte, limit int, f func(number uint64, addrs []byte) error) (next []byte, err error)
}

// Imported is how much a source has.
type Imported struct {
	Subscribers int `json:"subscribers"`
	Leases      int `json:"leases"`  // the newest of each address
	History     int `json:"history"` // leases that ended and that others followed
	Clients     int `json:"clients"` // identity associations
	rows        int
}

// ErrNotEmpty says that subscribers are in a database already.
var ErrNotEmpty = errors.New("there are subscribers in the database already; leases can only be copied to one that no server has used")

// importAtOnce is how many rows go into one commit.
const importAtOnce = 1000

// Count reads a source and returns how much it has.
func Count(ctx context.Context, from Source) (Imported, error) {
	var n Imported
	return n, each(ctx, from, func(rows []Row) error {
		n.add(rows)
		return nil
	})
}

func (n *Imported) add(rows []Row) {
	n.rows += len(rows)
	for i := range rows {
		switch rows[i].Table {
		case Subscribers:
			n.Subscribers++
		case Leases:
			n.Leases++
		case History:
			n.History++
		case Clients:
			n.Clients++
		}
	}
}

// Import copies a database of one server, which has as much as Count says, into one that servers
// will share, as the server of a name; progress, if it is not nil, is told how many rows are
// there and how many there will be. Until the end no subscriber number counts as given, so that an import that
// was interrupted can be done again. It returns [ErrNotEmpty] where one was.
//
// What a subscriber has used of a prefix is not copied: each server of a shared database counts
// for itself. So it may begin as many leases again as one that is new, and the search for a free
// slot begins anew, which finds those that are not free.
func Import(ctx context.Context, db DB, name string, keys Keyed, from Source, of Imported, progress func(done, of int)) error {
	registered, err := db.Registered(ctx)
	if err != nil {
		return err
	}
	if registered > 0 {
		return ErrNotEmpty
	}
	me, err := db.Attach(ctx, name, keys)
	if err != nil {
		return err
	}
	for _, bits := range from.Lengths() {
		if err := db.AddLength(ctx, bits); err != nil {
			return err
		}
	}
	c := Commit{Server: me.Server, Seq: me.firstSeq(), Prev: me.Last}
	rev, done := me.firstRev(), Imported{}
	err = each(ctx, from, func(rows []Row) error {
		for i := range rows {
			rev++
			rows[i].Rev, rows[i].Was = rev, Any
		}
		c.Seq++
		c.Rows = rows
		if err := db.Commit(ctx, &c); err != nil {
			return err
		}
		c.Prev = c.Seq
		done.add(rows)
		if progress != nil {
			progress(done.rows, of.rows)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case done != of:
		return fmt.Errorf("%+v were copied, of %+v: somebody else writes the database that is copied", done, of)
	case from.Subscribers() == 0:
		return nil
	}
	first, err := db.Take(ctx, me.Server, from.Subscribers())
	if err == nil && first != 0 {
		err = ErrNotEmpty // since a moment ago; the leases of both are there, and subscribers under one number
	}
	return err
}

// each calls f with all rows of a source, some at a time.
func each(ctx context.Context, from Source, f func([]Row) error) error {
	var rows []Row
	add := func(k Key, value []byte) error {
		rows = append(rows, Row{Key: k, Value: slices.Clone(value)})
		return nil
	}
	for _, scan := range []func(after []byte) ([]byte, error){
		func(after []byte) ([]byte, error) {
			return from.ScanSubscribers(after, importAtOnce, func(n uint64, value []byte) error { return add(SubscriberKey(n), value) })
		},
		func(after []byte) ([]byte, error) {
			return from.ScanKeys(after, importAtOnce, func(key idcodec.LookupKey, n uint64) error {
				return add(Key{Keys, string(key[:])}, binary.BigEndian.AppendUint64(nil, n))
			})
		},
		func(after []byte) ([]byte, error) {
			return from.ScanHistory(after, importAtOnce, func(addr netip.Addr, start time.Time, record []byte) error {
				return add(HistoryKey(&lease.Lease{Addr: addr, Start: start}), record)
			})
		},
		func(after []byte) ([]byte, error) {
			return from.ScanLeases(after, importAtOnce, func(addr netip.Addr, record []byte) error { return add(LeaseKey(addr), record) })
		},
		func(after []byte) ([]byte, error) {
			return from.ScanClients(after, importAtOnce, func(c lease.Client, addrs []byte) error { return add(ClientKey(c), addrs) })
		},
		func(after []byte) ([]byte, error) {
			return from.ScanLists(after, importAtOnce, func(n uint64, addrs []byte) error { return add(Key{Lists, number(n)}, addrs) })
		},
	} {
		var after []byte
		for more := true; more; more = after != nil {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			rows = rows[:0]
			if after, err = scan(after); err != nil {
				return fmt.Errorf("reading the database that is copied: %w", err)
			}
			if len(rows) > 0 {
				if err := f(rows); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
