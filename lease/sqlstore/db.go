// Package sqlstore is a shared.DB in SQL, for PostgreSQL and for databases that speak its
// protocol and the part of its language that YugabyteDB and CockroachDB know as well.
package sqlstore

import (
	"bytes"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"brightgid/lease"
	"brightgid/lease/shared"
)

// Schema is the statements that make the tables. They change nothing that exists.
//
//go:embed schema.sql
var Schema string

const (
	format      = 1
	connections = 8
	page        = 1000                  // rows that Each reads at a time
	tries       = 2 * shared.MaxServers // of a transaction that collides with others'
	sweepEvery  = time.Minute
)

// Options are what Open may be told.
type Options struct {
	// URL names the database as libpq does: a URL or keywords and values, with several
	// hosts and target_session_attrs=read-write where one takes over from another. A
	// password has no place in it.
	URL string

	// Password is the password; empty where the server asks for none or ~/.pgpass has it.
	Password string

	// Create has the tables made if there are none.
	Create bool

	Now func() time.Time // time.Now if nil
}

// DB is a database.
type DB struct {
	pool  *pgxpool.Pool
	now   func() time.Time
	swept time.Time // when old changes were removed last; Commit's
}

var _ shared.DB = (*DB)(nil)

// Check reports what is wrong with a URL, for who only reads a configuration.
func Check(url string) error {
	_, err := parse(url)
	return err
}

func parse(url string) (*pgxpool.Config, error) {
	bare, err := pgconn.ParseConfig(url)
	if err != nil {
		// The error may repeat what it could not read.
		return nil, errors.New("database: want postgres://user@host/database or the like")
	}
	if strings.Contains(url, "password=") || bare.Password != "" && strings.Contains(url, ":"+bare.Password+"@") {
		return nil, errors.New("database: the URL holds a password; put it into a file of its own")
	}
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("database: want postgres://user@host/database or the like")
	}
	secure := func(host string, t *tls.Config) error {
		a, err := netip.ParseAddr(host)
		here := err == nil && a.IsLoopback() || filepath.IsAbs(host) || strings.HasPrefix(host, "@") || host == "localhost"
		switch {
		case t == nil && !here:
			return fmt.Errorf("database: the connection to %s would not be encrypted; say sslmode=verify-full", host)
		case t == nil:
			return nil
		case t.InsecureSkipVerify && t.VerifyPeerCertificate == nil && !here:
			return fmt.Errorf("database: anybody could answer for %s; say sslmode=verify-full", host)
		}
		t.MinVersion = tls.VersionTLS13
		return nil
	}
	cc := &c.ConnConfig.Config
	if err := secure(cc.Host, cc.TLSConfig); err != nil {
		return nil, err
	}
	for _, f := range cc.Fallbacks {
		if err := secure(f.Host, f.TLSConfig); err != nil {
			return nil, err
		}
	}
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = shared.DefaultTimeout
	}
	c.MaxConns = connections
	c.AfterConnect = byIndex
	return c, nil
}

// byIndex has what is asked for by its key be found by the index. PostgreSQL may plan a prepared
// statement once for all its executions, and while a table is small it plans to read all of it;
// it keeps to that while the table grows, until its rows are counted again.
func byIndex(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SET enable_seqscan = off")
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == undefinedObject || pg.Code == notSupported) {
		return nil // a database that plans otherwise
	}
	return err
}

// Open connects to a database.
func Open(ctx context.Context, o Options) (*DB, error) {
	c, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Password != "" {
		c.ConnConfig.Password = o.Password
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d, err := connect(ctx, c, o.Now)
	if err != nil {
		return nil, err
	}
	err = d.durable(ctx)
	if err == nil {
		err = d.tables(ctx, o.Create)
	}
	if err != nil {
		d.pool.Close()
		return nil, fmt.Errorf("database: %w", err)
	}
	return d, nil
}

func connect(ctx context.Context, c *pgxpool.Config, now func() time.Time) (*DB, error) {
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return &DB{pool: pool, now: now}, nil
}

// durable checks that what the database acknowledges is stored.
func (d *DB) durable(ctx context.Context) error {
	for _, name := range []string{"fsync", "synchronous_commit"} {
		var value *string
		if err := d.pool.QueryRow(ctx, "SELECT current_setting($1, true)", name).Scan(&value); err != nil {
			return err
		}
		if value != nil && *value == "off" {
			return fmt.Errorf("%s is off: it would acknowledge what it has not stored", name)
		}
	}
	return nil
}

// tables checks the database's format, and makes the tables if that is wanted.
func (d *DB) tables(ctx context.Context, create bool) error {
	if create {
		// Two servers may do this at once, which PostgreSQL does not bear.
		if err := d.retry(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, Schema)
			return err
		}); err != nil {
			return fmt.Errorf("making the tables: %w", err)
		}
	}
	var is int64
	err := d.pool.QueryRow(ctx, "SELECT value FROM gid_meta WHERE name = 'format'").Scan(&is)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == undefinedTable:
		return errors.New("it has no tables of gidserver; run gidserver database create")
	case err != nil:
		return err
	case is != format:
		return fmt.Errorf("it has format %d, this program reads format %d", is, format)
	}
	return nil
}

// SQLSTATE codes.
const (
	serializationFailure = "40001"
	deadlock             = "40P01"
	uniqueViolation      = "23505"
	duplicateTable       = "42P07"
	duplicateObject      = "42710"
	undefinedTable       = "42P01"
	undefinedObject      = "42704"
	notSupported         = "0A000"
)

// collisions are the codes of what two transactions do to one another.
var collisions = []string{serializationFailure, deadlock, uniqueViolation, duplicateTable, duplicateObject}

// retry runs a transaction, again if it collides with another.
func (d *DB) retry(ctx context.Context, f func(pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, d.pool, f)
		var pg *pgconn.PgError
		switch {
		case err == nil, errors.Is(err, shared.ErrConflict), errors.Is(err, shared.ErrClock), errors.Is(err, shared.ErrServers), errors.Is(err, shared.ErrKeys):
			return err
		case errors.Is(err, errWritten):
			return nil
		case errors.As(err, &pg) && try < tries && slices.Contains(collisions, pg.Code):
			select {
			case <-time.After(rand.N(time.Duration(try) * 2 * time.Millisecond)):
			case <-ctx.Done():
			}
			continue
		}
		return d.broken(err) // say it was a standby's, which was the primary
	}
}

// errWritten ends a transaction whose work was done before.
var errWritten = errors.New("written before")

// Attach implements shared.DB.
func (d *DB) Attach(ctx context.Context, name string, keys shared.Keyed) (a shared.Attachment, err error) {
	err = d.retry(ctx, func(tx pgx.Tx) error {
		a = shared.Attachment{Heads: make(map[int]int64)}
		if err := compare(ctx, tx, keys); err != nil {
			return err
		}
		var id, starts, first, upto int64
		err := tx.QueryRow(ctx, "SELECT id, starts, first, upto FROM gid_servers WHERE name = $1 FOR UPDATE", name).Scan(&id, &starts, &first, &upto)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			rows, err := tx.Query(ctx, "SELECT id FROM gid_servers ORDER BY id")
			if err != nil {
				return err
			}
			taken, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err != nil {
				return err
			}
			for slices.Contains(taken, id) {
				id++
			}
			if id >= shared.MaxServers {
				return shared.ErrServers
			}
			if _, err := tx.Exec(ctx, "INSERT INTO gid_servers (id, name, starts, first, upto) VALUES ($1, $2, 1, 0, 0)", id, name); err != nil {
				return err
			}
		case err != nil:
			return err
		case starts >= shared.MaxStarts:
			return fmt.Errorf("server %q has started %d times; give it another name", name, starts)
		default:
			if _, err := tx.Exec(ctx, "UPDATE gid_servers SET starts = starts + 1 WHERE id = $1", id); err != nil {
				return err
			}
		}
		a.Server, a.Start = int(id), int(starts)
		a.Next, a.End = uint64(first), uint64(upto)
		var last []byte
		err = tx.QueryRow(ctx, "SELECT id FROM gid_subscribers WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT 1", number(first), number(upto)).Scan(&last)
		switch {
		case err == nil && len(last) == 8:
			a.Next = binary.BigEndian.Uint64(last) + 1
		case !errors.Is(err, pgx.ErrNoRows):
			return errors.Join(err, lease.ErrDamaged)
		}
		var numbers int64
		if err := tx.QueryRow(ctx, "SELECT value FROM gid_meta WHERE name = 'numbers'").Scan(&numbers); err != nil {
			return err
		}
		a.Registered = uint64(numbers)
		for server := range shared.MaxServers {
			var seq int64
			err := tx.QueryRow(ctx, "SELECT seq FROM gid_changes WHERE server = $1 ORDER BY seq DESC LIMIT 1", server).Scan(&seq)
			if errors.Is(err, pgx.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			a.Heads[server] = seq
		}
		a.Last = a.Heads[a.Server]
		return nil
	})
	if err != nil {
		return a, err
	}
	a.Lengths, err = d.Lengths(ctx)
	return a, err
}

// compare checks a server's keys, and leaves what the next one's are compared with.
func compare(ctx context.Context, tx pgx.Tx, keys shared.Keyed) error {
	var epoch, tag int64
	err := tx.QueryRow(ctx, "SELECT epoch, tag FROM gid_keyed ORDER BY epoch DESC LIMIT 1").Scan(&epoch, &tag)
	if err == nil {
		err = keys.Check(uint32(epoch), tag)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if tag, err = keys.Tag(keys.Epoch); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM gid_keyed WHERE epoch < $1", int64(keys.Epoch)); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO gid_keyed (epoch, tag) VALUES ($1, $2) ON CONFLICT (epoch) DO NOTHING", int64(keys.Epoch), tag)
	return err
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

var tables = map[shared.Table]string{
	shared.Keys: "gid_keys", shared.Subscribers: "gid_subscribers", shared.Leases: "gid_leases", shared.History: "gid_history",
	shared.Clients: "gid_clients", shared.Lists: "gid_lists", shared.Accounts: "gid_accounts",
}

// Get implements shared.DB.
func (d *DB) Get(ctx context.Context, keys []shared.Key) ([]shared.Row, error) {
	ids := make(map[shared.Table][][]byte)
	for _, k := range keys {
		ids[k.Table] = append(ids[k.Table], []byte(k.ID))
	}
	found := make(map[shared.Key]shared.Row, len(keys))
	var b pgx.Batch
	for table, ids := range ids {
		b.Queue("SELECT id, rev, value FROM "+tables[table]+" WHERE id = ANY($1)", ids).Query(func(rows pgx.Rows) error {
			var id, value []byte
			var rev int64
			_, err := pgx.ForEachRow(rows, []any{&id, &rev, &value}, func() error {
				k := shared.Key{Table: table, ID: string(id)}
				found[k] = shared.Row{Key: k, Rev: rev, Value: bytes.Clone(value)}
				return nil
			})
			return err
		})
	}
	if err := d.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, d.broken(err)
	}
	out := make([]shared.Row, len(keys))
	for i, k := range keys {
		if r, ok := found[k]; ok {
			out[i] = r
		} else {
			out[i] = shared.Row{Key: k}
		}
	}
	return out, nil
}

// broken has connections made anew after an error.
func (d *DB) broken(err error) error {
	d.pool.Reset()
	return err
}

// columns are arrays of what rows of one table are written with.
type columns struct {
	ids, values                 [][]byte
	revs, was                   []int64
	epochs, states, start, ends []int64
}

func (c *columns) add(r *shared.Row) error {
	c.ids, c.values = append(c.ids, []byte(r.ID)), append(c.values, r.Value)
	c.revs, c.was = append(c.revs, r.Rev), append(c.was, r.Was)
	if r.Table != shared.Leases && r.Table != shared.History {
		return nil
	}
	l, err := lease.ParseRecord(netip.AddrFrom16([16]byte([]byte(r.ID))), r.Value)
	if err != nil {
		return err
	}
	c.epochs, c.states = append(c.epochs, int64(l.Epoch)), append(c.states, int64(l.State))
	c.start, c.ends = append(c.start, l.Start.Unix()), append(c.ends, l.ValidUntil.Unix())
	return nil
}

// queue adds the statement that writes the rows to a batch. was is what kind of revision
// they take the place of: 0 for none, 1 for one that is known, shared.Any.
func (c *columns) queue(b *pgx.Batch, table shared.Table, was int64, wrong *bool) {
	name := tables[table]
	args := []any{c.ids, c.revs, c.values}
	names, types := []string{"id", "rev", "value"}, []string{"bytea", "bigint", "bytea"}
	if c.epochs != nil {
		args = append(args, c.epochs, c.states, c.start, c.ends)
		names, types = append(names, "epoch", "state", "starts", "ends"), append(types, "bigint", "bigint", "bigint", "bigint")
	}
	assign := func(from string) string {
		var out []string
		for _, n := range names[1:] {
			out = append(out, n+" = "+from+"."+n)
		}
		return strings.Join(out, ", ")
	}
	if was > 0 {
		args, names, types = append(args, c.was), append(names, "was"), append(types, "bigint")
	}
	var arrays []string
	for i, t := range types {
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, t))
	}
	all := strings.Join(names, ", ")
	rows := "unnest(" + strings.Join(arrays, ", ") + ") AS n(" + all + ")"
	var sql string
	switch {
	case was > 0:
		names = names[:len(names)-1]
		sql = "UPDATE " + name + " AS t SET " + assign("n") + " FROM " + rows + " WHERE t.id = n.id AND t.rev = n.was"
	case was == 0:
		sql = "INSERT INTO " + name + " (" + all + ") SELECT " + all + " FROM " + rows + " ON CONFLICT (id) DO NOTHING"
	default:
		sql = "INSERT INTO " + name + " (" + all + ") SELECT " + all + " FROM " + rows + " ON CONFLICT (id) DO UPDATE SET " + assign("excluded")
	}
	want := int64(len(c.ids))
	b.Queue(sql, args...).Exec(func(t pgconn.CommandTag) error {
		if t.RowsAffected() != want {
			*wrong = true
		}
		return nil
	})
}

// Commit implements shared.DB. Rows go in the order of their tables and keys, so that two
// servers' commits do not wait for one another crosswise.
func (d *DB) Commit(ctx context.Context, c *shared.Commit) error {
	type kind struct {
		table shared.Table
		was   int64
	}
	rows := slices.Clone(c.Rows)
	slices.SortFunc(rows, func(a, b shared.Row) int { return strings.Compare(a.ID, b.ID) })
	groups := make(map[kind]*columns)
	for i := range rows {
		k := kind{rows[i].Table, min(rows[i].Was, 1)}
		if groups[k] == nil {
			groups[k] = new(columns)
		}
		if err := groups[k].add(&rows[i]); err != nil {
			return err
		}
	}
	addrs := make([]byte, 0, 16*len(c.Changed))
	for _, a := range c.Changed {
		raw := a.As16()
		addrs = append(addrs, raw[:]...)
	}
	now := d.now()
	return d.retry(ctx, func(tx pgx.Tx) error {
		var b pgx.Batch
		before, wrong := false, false
		var is time.Time
		b.Queue("INSERT INTO gid_changes (server, seq, prev, at, addrs) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server, seq) DO NOTHING",
			c.Server, c.Seq, c.Prev, now.Unix(), addrs).Exec(func(t pgconn.CommandTag) error {
			before = t.RowsAffected() == 0
			return nil
		})
		if c.Check != nil {
			b.Queue(clock).QueryRow(func(row pgx.Row) error { return row.Scan(&is) })
		}
		if now.Sub(d.swept) > sweepEvery {
			d.swept = now
			b.Queue("DELETE FROM gid_changes WHERE server = $1 AND at < $2", c.Server, now.Add(-shared.KeepChanges-sweepEvery).Unix())
		}
		for table := shared.Keys; table <= shared.Accounts; table++ {
			for _, was := range []int64{1, 0, shared.Any} {
				if g := groups[kind{table, was}]; g != nil {
					g.queue(&b, table, was, &wrong)
				}
			}
		}
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		switch {
		case before: // by a try whose answer was lost; nothing else of this one has had an effect
			return errWritten
		case wrong:
			return shared.ErrConflict
		case c.Check != nil:
			return c.Check(is)
		}
		return nil
	})
}

// clock asks what time it is now, and not when the transaction began.
const clock = "SELECT clock_timestamp()"

// Now implements shared.DB.
func (d *DB) Now(ctx context.Context) (now time.Time, err error) {
	if err := d.pool.QueryRow(ctx, clock).Scan(&now); err != nil {
		return now, d.broken(err)
	}
	return now, nil
}

// Take implements shared.DB.
func (d *DB) Take(ctx context.Context, server int, n uint64) (first uint64, err error) {
	err = d.retry(ctx, func(tx pgx.Tx) error {
		var end int64
		if err := tx.QueryRow(ctx, "UPDATE gid_meta SET value = value + $1 WHERE name = 'numbers' RETURNING value", int64(n)).Scan(&end); err != nil {
			return err
		}
		first = uint64(end) - n
		_, err := tx.Exec(ctx, "UPDATE gid_servers SET first = $2, upto = $3 WHERE id = $1", server, int64(first), end)
		return err
	})
	return first, err
}

// AddLength implements shared.DB.
func (d *DB) AddLength(ctx context.Context, bits uint8) error {
	_, err := d.pool.Exec(ctx, "INSERT INTO gid_lengths (bits) VALUES ($1) ON CONFLICT (bits) DO NOTHING", int64(bits))
	return err
}

// Lengths implements shared.DB.
func (d *DB) Lengths(ctx context.Context) (all []uint8, err error) {
	rows, err := d.pool.Query(ctx, "SELECT bits FROM gid_lengths ORDER BY bits DESC")
	if err != nil {
		return nil, d.broken(err)
	}
	var bits int64
	_, err = pgx.ForEachRow(rows, []any{&bits}, func() error {
		all = append(all, uint8(bits))
		return nil
	})
	return all, err
}

// Changes implements shared.DB.
func (d *DB) Changes(ctx context.Context, but int, after map[int]int64, limit int) (all []shared.Change, err error) {
	var b pgx.Batch
	for server := range shared.MaxServers {
		if server == but {
			continue
		}
		b.Queue("SELECT seq, prev, addrs FROM gid_changes WHERE server = $1 AND seq > $2 ORDER BY seq LIMIT $3", server, after[server], limit).Query(func(rows pgx.Rows) error {
			var addrs []byte
			c := shared.Change{Server: server}
			_, err := pgx.ForEachRow(rows, []any{&c.Seq, &c.Prev, &addrs}, func() error {
				if len(addrs)%16 != 0 {
					return lease.ErrDamaged
				}
				c.Addrs = nil
				for ; len(addrs) > 0; addrs = addrs[16:] {
					c.Addrs = append(c.Addrs, netip.AddrFrom16([16]byte(addrs)))
				}
				if len(all) < limit {
					all = append(all, c)
				}
				return nil
			})
			return err
		})
	}
	if err := d.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, d.broken(err)
	}
	return all, nil
}

// Close implements shared.DB.
func (d *DB) Close() error {
	d.pool.Close()
	return nil
}
