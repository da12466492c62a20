// Package memdb is a shared.DB in memory, for tests: it fails when it is told to.
package memdb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/shared"
)

// Database is what servers share. Each has a [Conn] to it.
type Database struct {
	mu      sync.Mutex
	rows    map[shared.Key]shared.Row
	changes map[int][]shared.Change
	servers []*server
	numbers uint64
	lengths []uint8
	keyed   *keyed

	// Clock is the database's; nil for the system's.
	Clock func() time.Time
}

type keyed struct {
	epoch uint32
	tag   int64
}

type server struct {
	name        string
	starts      int
	first, upto uint64
}

// New returns an empty database.
func New() *Database {
	return &Database{rows: make(map[shared.Key]shared.Row), changes: make(map[int][]shared.Change)}
}

// Fault is what goes wrong with a call.
type Fault int

// Faults. Answered means that nothing does.
const (
	Answered Fault = iota
	NotAsked       // the database does not hear of the call
	NotTold        // the database does what it is asked for, and the caller does not hear of it
)

// ErrDown is what a call that failed returns.
var ErrDown = errors.New("no connection")

// Conn is a server's connection.
type Conn struct {
	*Database

	// Fault, if not nil, decides about each call.
	Fault func() Fault
}

var _ shared.DB = (*Conn)(nil)

// do runs f as one transaction, or fails.
func (c *Conn) do(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fault := Answered
	if c.Fault != nil {
		fault = c.Fault()
	}
	if fault == NotAsked {
		return ErrDown
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f(); fault != NotTold {
		return err
	}
	return ErrDown
}

// Attach implements shared.DB.
func (c *Conn) Attach(ctx context.Context, name string, keys shared.Keyed) (a shared.Attachment, err error) {
	err = c.do(ctx, func() error {
		if c.keyed != nil {
			if err := keys.Check(c.keyed.epoch, c.keyed.tag); err != nil {
				return err
			}
		}
		tag, err := keys.Tag(keys.Epoch)
		if err != nil {
			return err
		}
		if c.keyed == nil || c.keyed.epoch < keys.Epoch {
			c.keyed = &keyed{keys.Epoch, tag}
		}
		i := slices.IndexFunc(c.servers, func(s *server) bool { return s.name == name })
		if i < 0 {
			if i = len(c.servers); i == shared.MaxServers {
				return shared.ErrServers
			}
			c.servers = append(c.servers, &server{name: name})
		}
		s := c.servers[i]
		a = shared.Attachment{Server: i, Start: s.starts, Next: s.first, End: s.upto, Heads: make(map[int]int64), Registered: c.numbers, Lengths: slices.Clone(c.lengths)}
		s.starts++
		for n := s.first; n < s.upto; n++ {
			if _, ok := c.rows[shared.SubscriberKey(n)]; ok {
				a.Next = n + 1
			}
		}
		for id, all := range c.changes {
			a.Heads[id] = all[len(all)-1].Seq
		}
		a.Last = a.Heads[a.Server]
		return nil
	})
	return a, err
}

// Get implements shared.DB.
func (c *Conn) Get(ctx context.Context, keys []shared.Key) (out []shared.Row, err error) {
	err = c.do(ctx, func() error {
		for _, k := range keys {
			r := c.rows[k]
			r.Key = k
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// Commit implements shared.DB.
func (c *Conn) Commit(ctx context.Context, x *shared.Commit) error {
	return c.do(ctx, func() error {
		all := c.changes[x.Server]
		if slices.ContainsFunc(all, func(o shared.Change) bool { return o.Seq == x.Seq }) {
			return nil
		}
		for _, r := range x.Rows {
			if r.Was != shared.Any && c.rows[r.Key].Rev != r.Was {
				return shared.ErrConflict
			}
		}
		if x.Check != nil {
			if err := x.Check(c.time()); err != nil {
				return err
			}
		}
		for _, r := range x.Rows {
			r.Value = bytes.Clone(r.Value)
			c.rows[r.Key] = r
		}
		c.changes[x.Server] = append(all, shared.Change{Server: x.Server, Seq: x.Seq, Prev: x.Prev, Addrs: slices.Clone(x.Changed)})
		return nil
	})
}

func (d *Database) time() time.Time {
	if d.Clock == nil {
		return time.Now()
	}
	return d.Clock()
}

// Now implements shared.DB.
func (c *Conn) Now(ctx context.Context) (now time.Time, err error) {
	err = c.do(ctx, func() error {
		now = c.time()
		return nil
	})
	return now, err
}

// Take implements shared.DB.
func (c *Conn) Take(ctx context.Context, server int, n uint64) (first uint64, err error) {
	err = c.do(ctx, func() error {
		if c.numbers > idcodec.MaxSubscriber {
			return lease.ErrFull
		}
		first = c.numbers
		c.numbers += n
		c.servers[server].first, c.servers[server].upto = first, c.numbers
		return nil
	})
	return first, err
}

// AddLength implements shared.DB.
func (c *Conn) AddLength(ctx context.Context, bits uint8) error {
	return c.do(ctx, func() error {
		if !slices.Contains(c.lengths, bits) {
			c.lengths = append(c.lengths, bits)
			slices.SortFunc(c.lengths, func(a, b uint8) int { return int(b) - int(a) })
		}
		return nil
	})
}

// Lengths implements shared.DB.
func (c *Conn) Lengths(ctx context.Context) (all []uint8, err error) {
	err = c.do(ctx, func() error {
		all = slices.Clone(c.lengths)
		return nil
	})
	return all, err
}

// Changes implements shared.DB.
func (c *Conn) Changes(ctx context.Context, but int, after map[int]int64, limit int) (out []shared.Change, err error) {
	err = c.do(ctx, func() error {
		for _, server := range slices.Sorted(maps.Keys(c.changes)) {
			for _, x := range c.changes[server] {
				if server != but && x.Seq > after[server] && len(out) < limit {
					out = append(out, x)
				}
			}
		}
		return nil
	})
	return out, err
}

// Trim forgets all changes but the last n of each server.
func (d *Database) Trim(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for server, all := range d.changes {
		d.changes[server] = slices.Clone(all[max(0, len(all)-n):])
	}
}

// leases returns the leases of a table that f wants, in order. The caller holds mu.
func (c *Conn) leases(table shared.Table, f func(*lease.Lease) bool) (out []lease.Lease, err error) {
	for k, r := range c.rows {
		if k.Table != table {
			continue
		}
		l, err := lease.ParseRecord(netip.AddrFrom16([16]byte([]byte(k.ID[:16]))), r.Value)
		if err != nil {
			return nil, err
		}
		if f(&l) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b lease.Lease) int { return cmp.Or(a.Addr.Compare(b.Addr), b.Start.Compare(a.Start)) })
	return out, nil
}

// Subscriber implements shared.DB.
func (c *Conn) Subscriber(ctx context.Context, n uint64) (x lease.Subscriber, err error) {
	err = c.do(ctx, func() (err error) {
		r, ok := c.rows[shared.SubscriberKey(n)]
		if !ok {
			return lease.ErrNotFound
		}
		x, err = shared.ParseSubscriber(n, r.Value)
		return err
	})
	return x, err
}

// Registered implements shared.DB.
func (c *Conn) Registered(ctx context.Context) (n uint64, err error) {
	err = c.do(ctx, func() error {
		n = c.numbers
		return nil
	})
	return n, err
}

// History implements shared.DB.
func (c *Conn) History(ctx context.Context, dst []lease.Lease, addr netip.Addr) ([]lease.Lease, error) {
	err := c.do(ctx, func() error {
		for _, table := range []shared.Table{shared.Leases, shared.History} {
			all, err := c.leases(table, func(l *lease.Lease) bool { return l.Addr == addr })
			if err != nil {
				return err
			}
			dst = append(dst, all...)
		}
		return nil
	})
	return dst, err
}

// Within implements shared.DB.
func (c *Conn) Within(ctx context.Context, dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error) {
	err := c.do(ctx, func() error {
		var addrs []netip.Addr
		for _, table := range []shared.Table{shared.Leases, shared.History} {
			all, err := c.leases(table, func(l *lease.Lease) bool { return p.Contains(l.Addr) && l.Overlaps(from, until) })
			if err != nil {
				return err
			}
			for _, l := range all {
				addrs = append(addrs, l.Addr)
			}
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		addrs = slices.Compact(addrs)
		dst = append(dst, addrs[:min(limit, len(addrs))]...)
		return nil
	})
	return dst, err
}

// Old implements shared.DB.
func (c *Conn) Old(ctx context.Context, before uint32, after []byte, limit int) (old []lease.Lease, next []byte, err error) {
	err = c.do(ctx, func() error {
		var keys []string
		for k := range c.rows {
			if name := string([]byte{byte(k.Table)}) + k.ID; (k.Table == shared.Leases || k.Table == shared.History) && name > string(after) {
				keys = append(keys, name)
			}
		}
		slices.Sort(keys)
		for _, name := range keys {
			l, err := lease.ParseRecord(netip.AddrFrom16([16]byte([]byte(name[1:17]))), c.rows[shared.Key{Table: shared.Table(name[0]), ID: name[1:]}].Value)
			if err != nil {
				return err
			}
			if l.Epoch >= before {
				continue
			}
			if old = append(old, l); len(old) == limit {
				next = []byte(name)
				return nil
			}
		}
		return nil
	})
	return old, next, err
}

// Each implements shared.DB.
func (c *Conn) Each(ctx context.Context, f func(l lease.Lease, by int) error) error {
	var all []lease.Lease
	var by []int
	if err := c.do(ctx, func() (err error) {
		all, err = c.leases(shared.Leases, func(*lease.Lease) bool { return true })
		for _, l := range all {
			by = append(by, shared.WriterOf(c.rows[shared.LeaseKey(l.Addr)].Rev))
		}
		return err
	}); err != nil {
		return err
	}
	for i, l := range all {
		if err := f(l, by[i]); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements shared.DB.
func (c *Conn) Remove(ctx context.Context, leases []lease.Lease) error {
	return c.do(ctx, func() error {
		for i := range leases {
			l := &leases[i]
			k := shared.LeaseKey(l.Addr)
			if r, ok := c.rows[k]; ok {
				if newest, err := lease.ParseRecord(l.Addr, r.Value); err != nil {
					return err
				} else if newest.Start.Equal(l.Start) {
					delete(c.rows, k)
				}
			}
			delete(c.rows, shared.HistoryKey(l))
		}
		return nil
	})
}

// Forget implements shared.DB.
func (c *Conn) Forget(ctx context.Context, before uint32, limit int) (int, error) {
	old, _, err := c.Old(ctx, before, nil, limit)
	if err == nil {
		err = c.Remove(ctx, old)
	}
	if err != nil {
		return 0, err
	}
	return len(old), c.do(ctx, func() error {
		for k, r := range c.rows {
			if k.Table != shared.Clients && k.Table != shared.Lists {
				continue
			}
			held := false
			for v := r.Value; len(v) >= 16; v = v[16:] {
				_, ok := c.rows[shared.LeaseKey(netip.AddrFrom16([16]byte(v)))]
				held = held || ok
			}
			if !held {
				delete(c.rows, k)
			}
		}
		return nil
	})
}

// Close implements shared.DB. The database stays.
func (c *Conn) Close() error { return nil }

// Dump returns all rows in the order of their keys.
func (d *Database) Dump() []shared.Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Values(d.rows), func(a, b shared.Row) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), strings.Compare(a.ID, b.ID))
	})
}
