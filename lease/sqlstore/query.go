package sqlstore

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"brightgid/lease"
	"brightgid/lease/shared"
)

// Subscriber implements shared.DB.
func (d *DB) Subscriber(ctx context.Context, n uint64) (lease.Subscriber, error) {
	var value []byte
	err := d.pool.QueryRow(ctx, "SELECT value FROM gid_subscribers WHERE id = $1", number(int64(n))).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return lease.Subscriber{}, lease.ErrNotFound
	}
	if err != nil {
		return lease.Subscriber{}, d.broken(err)
	}
	return shared.ParseSubscriber(n, value)
}

// Registered implements shared.DB.
func (d *DB) Registered(ctx context.Context) (uint64, error) {
	var n int64
	err := d.pool.QueryRow(ctx, "SELECT value FROM gid_meta WHERE name = 'numbers'").Scan(&n)
	return uint64(n), err
}

// records reads rows of an id that begins with the address, and of a value.
func records(rows pgx.Rows, f func(id []byte, l lease.Lease) error) (int, error) {
	n := 0
	var id, value []byte
	_, err := pgx.ForEachRow(rows, []any{&id, &value}, func() error {
		l, err := record(id, value)
		if err != nil {
			return err
		}
		n++
		return f(id, l)
	})
	return n, err
}

func record(id, value []byte) (lease.Lease, error) {
	if len(id) < 16 {
		return lease.Lease{}, lease.ErrDamaged
	}
	return lease.ParseRecord(netip.AddrFrom16([16]byte(id)), value)
}

// History implements shared.DB.
func (d *DB) History(ctx context.Context, dst []lease.Lease, addr netip.Addr) ([]lease.Lease, error) {
	raw := addr.As16()
	var b pgx.Batch
	add := func(rows pgx.Rows) error {
		_, err := records(rows, func(_ []byte, l lease.Lease) error {
			dst = append(dst, l)
			return nil
		})
		return err
	}
	b.Queue("SELECT id, value FROM gid_leases WHERE id = $1", raw[:]).Query(add)
	b.Queue("SELECT id, value FROM gid_history WHERE id >= $1 AND id <= $2 ORDER BY id DESC", raw[:], last(raw)).Query(add)
	if err := d.pool.SendBatch(ctx, &b).Close(); err != nil {
		return dst, d.broken(err)
	}
	return dst, nil
}

// last is the last key of an address's history.
func last(raw [16]byte) []byte {
	return append(raw[:], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
}

// Within implements shared.DB.
func (d *DB) Within(ctx context.Context, dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error) {
	lower := p.Masked().Addr().As16()
	upper := lower
	for bit := p.Bits(); bit < 128; bit++ {
		upper[bit/8] |= 0x80 >> (bit % 8)
	}
	const held = "state <> $3 AND starts <= $4 AND ends > $5"
	rows, err := d.pool.Query(ctx, `SELECT id FROM (
		(SELECT id FROM gid_leases WHERE id >= $1 AND id <= $2 AND `+held+` ORDER BY id LIMIT $6)
		UNION
		(SELECT DISTINCT substring(id from 1 for 16) AS id FROM gid_history WHERE id >= $1 AND id <= $7 AND `+held+` ORDER BY id LIMIT $6)
	) AS found ORDER BY id LIMIT $6`, lower[:], upper[:], int64(lease.Declined), until.Unix(), from.Unix(), limit, last(upper))
	if err != nil {
		return dst, d.broken(err)
	}
	var id []byte
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		if len(id) != 16 {
			return lease.ErrDamaged
		}
		dst = append(dst, netip.AddrFrom16([16]byte(id)))
		return nil
	})
	return dst, err
}

// Old implements shared.DB. Where it is to go on is a table's number, an epoch and an id.
func (d *DB) Old(ctx context.Context, before uint32, after []byte, limit int) (old []lease.Lease, next []byte, err error) {
	names := []string{"gid_leases", "gid_history"}
	table, epoch, id := 0, int64(-1), []byte{}
	if len(after) >= 5 {
		table, epoch, id = int(after[0]), int64(binary.BigEndian.Uint32(after[1:])), after[5:]
	}
	for ; table < len(names); table, epoch, id = table+1, -1, []byte{} {
		rows, err := d.pool.Query(ctx, "SELECT id, value FROM "+names[table]+" WHERE epoch < $1 AND (epoch > $2 OR epoch = $2 AND id > $3) ORDER BY epoch, id LIMIT $4",
			int64(before), epoch, id, limit-len(old))
		if err != nil {
			return nil, nil, d.broken(err)
		}
		if _, err := records(rows, func(id []byte, l lease.Lease) error {
			old = append(old, l)
			next = append(binary.BigEndian.AppendUint32([]byte{byte(table)}, l.Epoch), id...)
			return nil
		}); err != nil {
			return nil, nil, err
		}
		if len(old) == limit {
			return old, next, nil
		}
	}
	return old, nil, nil
}

// Each implements shared.DB. It reads page by page, so that nothing is held back from others.
func (d *DB) Each(ctx context.Context, f func(l lease.Lease, by int) error) error {
	for after := []byte{}; ; {
		rows, err := d.pool.Query(ctx, "SELECT id, rev, value FROM gid_leases WHERE id > $1 ORDER BY id LIMIT $2", after, page)
		if err != nil {
			return d.broken(err)
		}
		leases, writers := make([]lease.Lease, 0, page), make([]int, 0, page)
		var id, value []byte
		var rev int64
		if _, err := pgx.ForEachRow(rows, []any{&id, &rev, &value}, func() error {
			l, err := record(id, value) // of which nothing points into the row
			after = append(after[:0], id...)
			leases, writers = append(leases, l), append(writers, shared.WriterOf(rev))
			return err
		}); err != nil {
			return err
		}
		for i, l := range leases {
			if err := f(l, writers[i]); err != nil {
				return err
			}
		}
		if len(leases) < page {
			return nil
		}
	}
}

// Remove implements shared.DB.
func (d *DB) Remove(ctx context.Context, leases []lease.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	var addrs, history [][]byte
	var starts []int64
	for i := range leases {
		addrs = append(addrs, []byte(shared.LeaseKey(leases[i].Addr).ID))
		history = append(history, []byte(shared.HistoryKey(&leases[i]).ID))
		starts = append(starts, leases[i].Start.Unix())
	}
	return d.retry(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM gid_leases AS t USING unnest($1::bytea[], $2::bigint[]) AS n(id, starts) WHERE t.id = n.id AND t.starts = n.starts", addrs, starts); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM gid_history WHERE id = ANY($1)", history)
		return err
	})
}

// Forget implements shared.DB.
func (d *DB) Forget(ctx context.Context, before uint32, limit int) (int, error) {
	old, _, err := d.Old(ctx, before, nil, limit)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	if err := d.Remove(ctx, old); err != nil {
		return 0, err
	}
	clients, lists := make(map[string]bool), make(map[string]bool)
	for i := range old {
		clients[shared.ClientKey(old[i].Client).ID] = true
		lists[string(number(int64(old[i].Subscriber)))] = true
	}
	if err := d.unfile(ctx, "gid_clients", clients); err != nil {
		return 0, err
	}
	return len(old), d.unfile(ctx, "gid_lists", lists)
}

// unfile removes those lists of addresses of which no address has a lease any more.
func (d *DB) unfile(ctx context.Context, table string, ids map[string]bool) error {
	var all [][]byte
	for id := range ids {
		all = append(all, []byte(id))
	}
	rows, err := d.pool.Query(ctx, "SELECT id, rev, value FROM "+table+" WHERE id = ANY($1)", all)
	if err != nil {
		return d.broken(err)
	}
	type list struct {
		ID    []byte
		Rev   int64
		Value []byte
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[list])
	if err != nil {
		return err
	}
	var addrs [][]byte
	for _, l := range found {
		for v := l.Value; len(v) >= 16; v = v[16:] {
			addrs = append(addrs, v[:16])
		}
	}
	rows, err = d.pool.Query(ctx, "SELECT id FROM gid_leases WHERE id = ANY($1)", addrs)
	if err != nil {
		return d.broken(err)
	}
	live := make(map[string]bool)
	var id []byte
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		live[string(id)] = true
		return nil
	}); err != nil {
		return err
	}
	var empty [][]byte
	var revs []int64
	for _, l := range found {
		held := false
		for v := l.Value; len(v) >= 16; v = v[16:] {
			held = held || live[string(v[:16])]
		}
		if !held {
			empty, revs = append(empty, l.ID), append(revs, l.Rev)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	_, err = d.pool.Exec(ctx, "DELETE FROM "+table+" AS t USING unnest($1::bytea[], $2::bigint[]) AS n(id, rev) WHERE t.id = n.id AND t.rev = n.rev", empty, revs)
	return err
}
