package shared

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"brightgid/lease"
)

// Run commits what waits, tells of what other servers change and stores what was promised
// when the database is back, until the context ends.
func (s *Store) Run(ctx context.Context) error {
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !s.Away() {
					_ = s.Follow(ctx) // it is tried again, and lost has told
				}
			}
		}
	}()
	defer func() { <-followed }()
	for {
		again := s.wake
		var retry <-chan time.Time
		s.mu.Lock()
		away, waits := s.away || s.wrong, s.flying != nil || len(s.queue) > 0 || len(s.deferred) > 0
		s.mu.Unlock()
		switch {
		case away:
			again, retry = nil, time.After(retryEvery)
		case waits:
			closed := make(chan struct{}, 1)
			closed <- struct{}{}
			again = closed
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-retry:
		}
		call, cancel := context.WithTimeout(ctx, s.o.Timeout)
		_ = s.Flush(call) // so is this
		cancel()
	}
}

// gather takes units from the queue for one commit. The caller holds mu.
func (s *Store) gather() *attempt {
	var a attempt
	rows := 0
	for len(s.queue) > 0 && (rows == 0 || rows+len(s.queue[0].rows) <= maxRows) {
		u := s.queue[0]
		s.queue = s.queue[1:]
		if slices.ContainsFunc(u.deps, func(d *unit) bool { return d.failed }) {
			s.fail(u, ErrConflict)
			continue
		}
		a.units = append(a.units, u)
		rows += len(u.rows)
	}
	if len(a.units) == 0 {
		return nil
	}
	s.seq++
	a.seq = s.seq
	return &a
}

// commit is what an attempt writes: of each row what the last unit makes of it, on the
// revision that the first was decided on.
func (s *Store) commit(a *attempt) *Commit {
	asked := s.look()
	c := &Commit{Server: s.me.Server, Seq: a.seq, Prev: s.prev, Check: func(now time.Time) error {
		if err := s.compare(asked, now); err != nil {
			return err
		}
		if slices.ContainsFunc(a.units, func(u *unit) bool { return !u.again && s.set(u.setting) }) {
			return ErrClock // it was decided by another
		}
		return nil
	}}
	at := make(map[Key]int)
	seen := make(map[netip.Addr]bool)
	for _, u := range a.units {
		for _, r := range u.rows {
			if i, ok := at[r.Key]; ok {
				r.Was = c.Rows[i].Was
				c.Rows[i] = r
				continue
			}
			at[r.Key] = len(c.Rows)
			c.Rows = append(c.Rows, r)
		}
		for _, addr := range u.changed {
			if !seen[addr] {
				seen[addr] = true
				c.Changed = append(c.Changed, addr)
			}
		}
	}
	return c
}

// Flush makes one commit of what waits, if anything does; while the database is away it
// tries the last one again. It must not be called beside itself.
func (s *Store) Flush(ctx context.Context) error {
	s.mu.Lock()
	if s.flying == nil {
		s.flying = s.gather()
	}
	a, away := s.flying, s.away
	s.mu.Unlock()
	for a != nil && len(a.units) > 0 {
		c := s.commit(a)
		err := s.db.Commit(ctx, c)
		if err == nil {
			s.written(a)
			break
		}
		switch {
		case errors.Is(err, ErrClock):
			s.refuse(a)
			return err
		case errors.Is(err, ErrConflict):
			err = s.sift(ctx, a, c)
		}
		if err != nil {
			return s.failed(ctx, err)
		}
	}
	if a == nil && away { // nothing to try it with
		if _, err := s.db.Lengths(ctx); err != nil {
			return s.failed(ctx, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = nil
	if s.away {
		s.away = false
		s.o.Log.Warn("the lease database is back", "renewals_to_store", len(s.deferred))
	}
	s.restore()
	return nil
}

// written tells units that they are durable.
func (s *Store) written(a *attempt) {
	s.stats.Commits.Add(1)
	s.stats.Units.Add(uint64(len(a.units)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prev = a.seq
	for _, u := range a.units {
		for _, r := range u.rows {
			if p, ok := s.pending[r.Key]; ok && p.rev == r.Rev {
				delete(s.pending, r.Key)
			}
			switch r.Table {
			case History, Subscribers: // which nobody reads by their keys
			default:
				s.cache.Put(r.Key, entry{r.Value, r.Rev})
			}
		}
		if u.again {
			s.stats.Reconciled.Add(uint64(len(u.rows)))
		}
		u.rows, u.deps = nil, nil // others may hold on to the unit, and must not to all before it
		u.answer(nil)
	}
}

// fail undoes a unit, of which nothing is written. The caller holds mu.
func (s *Store) fail(u *unit, err error) {
	u.failed = true
	for _, r := range u.rows {
		if p, ok := s.pending[r.Key]; ok && p.by == u {
			s.undo(r.Key)
		}
		if errors.Is(err, ErrConflict) {
			s.cache.Forget(r.Key)
		}
	}
	if errors.Is(err, ErrConflict) {
		s.stats.Conflicts.Add(1)
	}
	u.deps = nil
	u.answer(err)
}

// refuse undoes units, since the server's clock is not the database's, and those that wait behind them.
// Renewals that were promised while the database was away wait until it is.
func (s *Store) refuse(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	undone := func(u *unit) bool {
		if !u.again {
			s.fail(u, ErrClock)
		}
		return !u.again
	}
	a.units, s.queue = slices.DeleteFunc(a.units, undone), slices.DeleteFunc(s.queue, undone)
	if len(a.units) == 0 {
		s.flying = nil
	}
}

// undo has a row be again what it was before a unit that is not written. The caller holds mu.
func (s *Store) undo(k Key) {
	if d, ok := s.deferred[k]; ok {
		s.pending[k] = pendingRow{entry{d.rows[0].Value, d.rows[0].Rev}, d}
		return
	}
	delete(s.pending, k)
}

// sift takes those units out of an attempt that another server was before.
func (s *Store) sift(ctx context.Context, a *attempt, c *Commit) error {
	keys := make([]Key, 0, len(c.Rows))
	for _, r := range c.Rows {
		if r.Was != Any {
			keys = append(keys, r.Key)
		}
	}
	rows, err := s.db.Get(ctx, keys)
	if err != nil {
		return err
	}
	stored := make(map[Key]Row, len(rows))
	for _, r := range rows {
		stored[r.Key] = r
	}
	now := maps.Clone(stored)
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := a.units[:0]
	for _, u := range a.units {
		if u.again {
			if s.reconcile(u, now); len(u.rows) > 0 {
				kept = append(kept, u)
			}
		} else if !slices.ContainsFunc(u.deps, func(d *unit) bool { return d.failed }) && follows(u, now) {
			kept = append(kept, u)
		} else {
			s.fail(u, ErrConflict)
			for _, r := range u.rows {
				if is, ok := now[r.Key]; ok && is.Rev == stored[r.Key].Rev {
					s.cache.Put(r.Key, entry{is.Value, is.Rev})
				}
			}
			continue
		}
		for _, r := range u.rows {
			now[r.Key] = r
		}
	}
	a.units = kept
	return nil
}

// follows reports whether a unit was decided on rows as they are.
func follows(u *unit, now map[Key]Row) bool {
	own := make(map[Key]int64)
	for _, r := range u.rows {
		rev, ok := own[r.Key]
		if !ok {
			rev = now[r.Key].Rev
		}
		if r.Was != Any && r.Was != rev {
			return false
		}
		own[r.Key] = r.Rev
	}
	return true
}

// reconcile has renewals that were promised while the database was away follow what other
// servers have made of the leases meanwhile, and takes those out of the unit that are not to
// be written.
func (s *Store) reconcile(u *unit, now map[Key]Row) {
	u.rows = slices.DeleteFunc(u.rows, func(r Row) bool {
		is := now[r.Key]
		if is.Rev == r.Was {
			return false
		}
		addr := addrOf(r.Key)
		ours, err1 := lease.ParseRecord(addr, r.Value)
		theirs, err2 := lease.ParseRecord(addr, is.Value)
		switch {
		case err1 != nil || err2 != nil || !same(&ours, &theirs) || theirs.State != lease.Active:
			s.stats.Lost.Add(1)
			s.o.Log.Error("a renewal that was promised while the lease database was away cannot be stored: the lease is another one now", "address", addr)
		case !ours.ValidUntil.After(theirs.ValidUntil):
			s.stats.Reconciled.Add(1)
		default:
			return false
		}
		if p, ok := s.pending[r.Key]; ok && p.rev == r.Rev {
			delete(s.pending, r.Key)
		}
		s.cache.Forget(r.Key)
		return true
	})
	for i := range u.rows {
		u.rows[i].Was = now[u.rows[i].Key].Rev
	}
}

// lost notes that the database does not answer. Nobody waits for it any more: clients are
// told nothing, or what the operator allows.
func (s *Store) lost(err error) {
	s.stats.Failures.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.o.Now(); !s.away || now.Sub(s.told) > tellEvery {
		s.away, s.told = true, now
		s.o.Log.Error("the lease database does not answer; new leases must wait", "renewals_from_memory", s.o.Offline, "error", err)
	}
	if s.flying != nil { // what became of these nobody knows; they will be tried again
		for _, u := range s.flying.units {
			if s.promises(u) && !u.answered() {
				s.promise(u)
			}
			u.answer(ErrAway)
		}
	}
	queue := s.queue
	s.queue = nil
	for _, u := range queue {
		s.offline(u)
	}
	s.rouse() // it may wait for changes, of which there are none now
}

// failed notes that the database does not answer, if it was not the caller who ended it.
func (s *Store) failed(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.Canceled) {
		s.lost(err)
	}
	return err
}

// promises reports whether a unit may be answered before it is written: it makes leases longer that the
// database has. What it was decided on was written or is such a promise itself; a lease that is on its
// way to a database which does not answer may never come to be. The clock is as it was when the database was asked.
func (s *Store) promises(u *unit) bool {
	return u.extension && s.o.Offline && !s.set(u.setting) && !s.set(s.agreed) && !slices.ContainsFunc(u.deps, func(d *unit) bool {
		return d.failed || !d.again && !(d.answered() && d.err == nil)
	})
}

// promise answers a unit that is not written yet.
func (s *Store) promise(u *unit) {
	u.again = true
	s.stats.Offline.Add(1)
	u.answer(nil)
}

// offline decides about a unit while the database is away. The caller holds mu.
func (s *Store) offline(u *unit) {
	if !u.again {
		if !s.promises(u) {
			s.fail(u, ErrAway)
			return
		}
		s.promise(u)
	}
	for _, r := range u.rows {
		if d, ok := s.deferred[r.Key]; ok {
			r.Was = d.rows[0].Was
		}
		d := &unit{rows: []Row{r}, changed: []netip.Addr{addrOf(r.Key)}, again: true, done: make(chan struct{})}
		s.deferred[r.Key] = d
		if p, ok := s.pending[r.Key]; ok && p.rev == r.Rev {
			s.pending[r.Key] = pendingRow{p.entry, d}
		}
	}
}

// restore puts renewals that were promised before everything else. The caller holds mu.
func (s *Store) restore() {
	if len(s.deferred) == 0 {
		return
	}
	units := slices.Collect(maps.Values(s.deferred))
	slices.SortFunc(units, func(a, b *unit) int { return a.changed[0].Compare(b.changed[0]) })
	clear(s.deferred)
	s.queue = append(units, s.queue...)
}

// Follow reads what other servers have changed since the last call.
func (s *Store) Follow(ctx context.Context) error {
	s.following.Lock()
	defer s.following.Unlock()
	if err := s.askClock(ctx); err != nil {
		return err
	}
	lengths, err := s.db.Lengths(ctx)
	if err != nil {
		return s.failed(ctx, err)
	}
	if !slices.Equal(lengths, s.Lengths()) {
		s.lengths.Store(&lengths)
	}
	for {
		changes, err := s.db.Changes(ctx, s.me.Server, s.seen, changesAtOnce)
		if err != nil {
			return s.failed(ctx, err)
		}
		if len(changes) == 0 {
			return nil
		}
		if err := s.follow(ctx, changes); err != nil {
			return s.failed(ctx, err)
		}
		if len(changes) < changesAtOnce {
			return nil
		}
	}
}

func (s *Store) follow(ctx context.Context, changes []Change) error {
	missed := false
	var keys []Key
	known := make(map[netip.Addr]bool)
	seen := maps.Clone(s.seen)
	for _, c := range changes {
		missed = missed || c.Prev > seen[c.Server]
		seen[c.Server] = c.Seq
		for _, a := range c.Addrs {
			if !known[a] {
				known[a] = true
				keys = append(keys, LeaseKey(a))
			}
		}
	}
	rows, err := s.db.Get(ctx, keys)
	if err != nil {
		return err
	}
	leases := make([]lease.Lease, 0, len(rows))
	s.mu.Lock()
	if missed {
		s.cache.Clear()
	}
	for _, r := range rows {
		if r.Rev == 0 {
			s.cache.Forget(r.Key)
			continue
		}
		l, err := lease.ParseRecord(addrOf(r.Key), r.Value)
		if err != nil {
			continue // who asks for it is told
		}
		leases = append(leases, l)
		if known, ok := s.cache.Get(r.Key); ok {
			s.cache.Put(r.Key, entry{r.Value, r.Rev})
			if extends(l, known) {
				continue // it is filed where it was
			}
		}
		s.cache.Forget(ClientKey(l.Client))
		s.cache.Forget(Key{Lists, number(l.Subscriber)})
	}
	s.mu.Unlock()
	s.seen = seen
	for _, c := range changes {
		s.heard[c.Server] = s.o.Now()
	}
	if missed && s.o.Behind != nil {
		s.o.Behind()
	}
	if s.o.Observe != nil && len(leases) > 0 {
		s.o.Observe(leases)
	}
	return nil
}

// Refresh forgets what is in memory of a client, so that it is read anew. It is for who would
// tell the client that it has nothing.
func (s *Store) Refresh(c lease.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || s.open != nil {
		return
	}
	k := ClientKey(c)
	if _, ok := s.pending[k]; ok {
		return
	}
	var addrs []netip.Addr
	if e, ok := s.cache.Get(k); ok {
		addrs, _ = parseAddrs(nil, e.value)
	}
	for _, k := range append([]Key{k}, leaseKeys(addrs)...) {
		s.cache.Forget(k)
		delete(s.reads, k)
	}
}

func leaseKeys(addrs []netip.Addr) (keys []Key) {
	for _, a := range addrs {
		keys = append(keys, LeaseKey(a))
	}
	return keys
}
