package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"

	_ "modernc.org/sqlite" // the driver

	"brightgid/ledgeranchor"
)

// index finds records by name, address, warrant and message. It holds nothing that
// the log does not, and is made anew when it is missing.
type index struct {
	db *sql.DB
}

// schema begins with a version; another one's file is made anew.
const schema = `
CREATE TABLE record (
	position INTEGER PRIMARY KEY,
	name BLOB NOT NULL UNIQUE,
	kind TEXT NOT NULL,
	time INTEGER NOT NULL,
	warrant BLOB,
	message BLOB
) STRICT;
CREATE INDEX record_warrant ON record (warrant, time) WHERE warrant IS NOT NULL;
CREATE INDEX record_message ON record (message, time) WHERE message IS NOT NULL;
CREATE INDEX record_kind ON record (kind, time) WHERE kind <> 'hop';
CREATE TABLE address (
	address BLOB NOT NULL,
	time INTEGER NOT NULL,
	position INTEGER NOT NULL,
	PRIMARY KEY (address, time, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE size (size INTEGER NOT NULL) STRICT;
INSERT INTO size VALUES (0);
PRAGMA user_version = 1;
`

const schemaVersion = 1

func openIndex(ctx context.Context, path string) (*index, error) {
	// The log is what must last; after a crash the index catches up.
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=synchronous(normal)&_pragma=busy_timeout(10000)&_pragma=cache_size(-65536)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	x := &index{db}
	if err := x.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("index %s: %w (it may be deleted, and is made anew from the log)", path, err), db.Close())
	}
	return x, nil
}

func (x *index) prepare(ctx context.Context) error {
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch version {
	case schemaVersion:
		return nil
	case 0:
		if _, err := tx.ExecContext(ctx, schema); err != nil {
			return err
		}
		return tx.Commit()
	}
	return fmt.Errorf("it is of version %d, and this program knows version %d", version, schemaVersion)
}

func (x *index) Close() error { return x.db.Close() }

// size returns how many of the log's records are indexed.
func (x *index) size(ctx context.Context) (n uint64, err error) {
	return n, x.db.QueryRowContext(ctx, "SELECT size FROM size").Scan(&n)
}

func (x *index) position(ctx context.Context, name ledgeranchor.Hash) (at uint64, known bool, err error) {
	err = x.db.QueryRowContext(ctx, "SELECT position FROM record WHERE name = ?", name[:]).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return at, err == nil, err
}

// indexTx adds records.
type indexTx struct {
	tx                          *sql.Tx
	lookup, insert, addressStmt *sql.Stmt
}

func (x *index) begin(ctx context.Context) (*indexTx, error) {
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	t := &indexTx{tx: tx}
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&t.lookup, "SELECT position FROM record WHERE name = ?"},
		{&t.insert, "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)"},
		{&t.addressStmt, "INSERT OR IGNORE INTO address VALUES (?, ?, ?)"},
	} {
		if *s.stmt, err = tx.PrepareContext(ctx, s.text); err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
	}
	return t, nil
}

// rollback undoes what was not committed.
func (t *indexTx) rollback() { _ = t.tx.Rollback() } // after a commit it has nothing to do

func (t *indexTx) position(name ledgeranchor.Hash) (at uint64, known bool, err error) {
	err = t.lookup.QueryRow(name[:]).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return at, err == nil, err
}

func (t *indexTx) add(position uint64, name ledgeranchor.Hash, r *ledgeranchor.Record) error {
	if _, err := t.insert.Exec(position, name[:], string(r.Kind), r.Time, orNull(r.Warrant), orNull(r.Message)); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for _, a := range r.Addresses {
		if _, err := t.addressStmt.Exec(a[:], r.Time, position); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	return nil
}

func orNull(h ledgeranchor.Hash) any {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

func (t *indexTx) commit(size uint64) error {
	if _, err := t.tx.Exec("UPDATE size SET size = ?", size); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return t.tx.Commit()
}

// pageSize is how many positions are read at once: a reader must not keep the
// index from being written for long.
const pageSize = 1000

// find returns the positions of the records that a query asks for, in the order of
// time and position.
func (x *index) find(ctx context.Context, q *ledgeranchor.Query) iter.Seq2[uint64, error] {
	var where []string
	var args []any
	also := func(condition string, arg any) { where, args = append(where, condition), append(args, arg) }
	from := "record"
	if q.Address.IsValid() {
		a := ledgeranchor.AddressOf(q.Address)
		from = "address CROSS JOIN record USING (position, time)"
		also("address = ?", a[:])
	}
	if q.Kind != "" {
		also("kind = ?", string(q.Kind))
	}
	if !q.Warrant.IsZero() {
		also("warrant = ?", q.Warrant[:])
	}
	if !q.Message.IsZero() {
		also("message = ?", q.Message[:])
	}
	if !q.From.IsZero() {
		also("time >= ?", q.From.UnixMilli())
	}
	if !q.Until.IsZero() {
		also("time <= ?", q.Until.UnixMilli())
	}
	also("(time, position) > (?, ?)", nil)
	text := "SELECT time, position FROM " + from + " WHERE " + strings.Join(where, " AND ") + " ORDER BY time, position LIMIT ?"
	return func(yield func(uint64, error) bool) {
		lastTime, lastPosition := int64(-1), int64(-1)
		for {
			rows, err := x.db.QueryContext(ctx, text, append(args[:len(args)-1:len(args)-1], lastTime, lastPosition, pageSize)...)
			if err != nil {
				yield(0, err)
				return
			}
			var page []uint64
			for rows.Next() {
				if err = rows.Scan(&lastTime, &lastPosition); err != nil {
					break
				}
				page = append(page, uint64(lastPosition))
			}
			if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
				yield(0, err)
				return
			}
			for _, p := range page {
				if !yield(p, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}
