package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/recent"
)

// Options are what New may be told.
type Options struct {
	// Name is the server's among those of the database; each has one of its own.
	Name string

	// Keys are compared with those of the database's other servers.
	Keys Keyed

	// Cache is about how many clients' rows stay in memory.
	Cache int

	// Offline has renewals of addresses in memory hold before they are stored while the
	// database is away. They are stored when it is back; until then nobody else knows,
	// and if the server ends they are lost. Prefixes, which are another subscriber's when they
	// have run out, are not extended meanwhile.
	Offline bool

	// Clock is how far the server's clock may be from the database's; zero means DefaultClock.
	Clock time.Duration

	// Timeout is how long the database may take to answer; zero means DefaultTimeout.
	Timeout time.Duration

	Log *slog.Logger

	// Now is the time; nil for the system's.
	Now func() time.Time

	// Elapsed is a clock that nobody sets; nil for the system's.
	Elapsed func() time.Duration

	// Observe, if not nil, is called with leases that other servers have changed.
	Observe func([]lease.Lease)

	// Behind, if not nil, is called when changes of other servers were missed.
	Behind func()
}

// DefaultTimeout is about how long a client waits that asked.
const DefaultTimeout = 2 * time.Second

const (
	maxSince      = 4096 // units of which a barrier tells
	numbersAtOnce = 1024 // that a server takes for new subscribers
	maxRows       = 4096 // of one commit; a unit that is longer goes alone
	retryEvery    = 250 * time.Millisecond
	followEvery   = 200 * time.Millisecond
	changesAtOnce = 256
	tellEvery     = time.Minute // that the database is away
)

// Stats are counts of what a store did.
type Stats struct {
	Commits    atomic.Uint64 // that were written
	Units      atomic.Uint64 // messages whose changes were written
	Conflicts  atomic.Uint64 // messages that another server was before
	Offline    atomic.Uint64 // renewals that were answered while the database was away
	Reconciled atomic.Uint64 // of them, those that were stored afterwards
	Lost       atomic.Uint64 // of them, those that were not, since the lease is another one now
	Failures   atomic.Uint64 // of the database, to answer
}

// Store is a lease.Store over a database that other servers use, too. What is read through
// it may be older than what the database has; what is written on that ground is refused then.
//
// [Store.Mark] ends what one message changes: all of it is written or none. Reads and writes
// are for one goroutine at a time, but those of [Store.Direct], which are for any. Something
// must call [Store.Flush] or [Store.Run] for writes to become durable.
type Store struct {
	db    DB
	o     Options
	me    Attachment
	stats Stats
	wake  chan struct{}

	lengths    atomic.Pointer[[]uint8]
	registered atomic.Uint64

	mu         sync.Mutex
	cache      *recent.Map[Key, entry]
	pending    map[Key]pendingRow            // that no commit has written yet
	reads      map[Key]entry                 // of the message
	fresh      *recent.Map[uint64, struct{}] // subscribers that this server has registered
	deps       []*unit                       // whose changes the message has read
	open       *unit                         // the message's changes; nil for none yet
	queue      []*unit
	flying     *attempt
	since      []*unit // units since the last barrier
	last       *barrier
	away       bool
	told       time.Time     // when the log was told so last
	ahead      time.Duration // see Clock
	wrong      bool
	complained time.Time     // about the clock, in the log
	agreed     time.Duration // setting when the clock was the database's last
	asked      time.Duration // elapsed when the database was asked what ahead and wrong are from
	deferred   map[Key]*unit // renewals that were promised while the database was away
	rev, seq   int64
	prev       int64 // the last commit that was written
	next       uint64
	end        uint64

	following sync.Mutex
	seen      map[int]int64     // what is known of each server's commits
	heard     map[int]time.Time // when each server's last commit was seen
	compared  time.Time         // when the clocks were, but for commits
}

// entry is a row in memory.
type entry struct {
	value []byte
	rev   int64
}

type pendingRow struct {
	entry
	by *unit
}

// unit is what one message changes.
type unit struct {
	rows      []Row
	changed   []netip.Addr
	deps      []*unit       // that it has read from
	setting   time.Duration // of the clock that it was decided by
	extension bool          // it only extends leases that are known
	again     bool          // it is such an extension that was promised already

	failed bool // nothing of it is or will be written
	err    error
	done   chan struct{} // closed when err is known
}

func (u *unit) answered() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

func (u *unit) answer(err error) {
	if !u.answered() {
		u.err = err
		close(u.done)
	}
}

// Wait implements lease.Barrier.
func (u *unit) Wait() error {
	<-u.done
	return u.err
}

// Settled implements lease.Barrier.
func (u *unit) Settled() bool { return u.answered() }

// attempt is units on their way to the database.
type attempt struct {
	seq   int64
	units []*unit
}

// barrier stands for units.
type barrier struct{ units []*unit }

// Wait implements lease.Barrier.
func (b *barrier) Wait() error {
	var failed error
	for _, u := range b.units {
		if err := u.Wait(); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

// Settled implements lease.Barrier.
func (b *barrier) Settled() bool {
	return !slices.ContainsFunc(b.units, func(u *unit) bool { return !u.answered() })
}

// New attaches a server to a database.
func New(ctx context.Context, db DB, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Clock == 0 {
		o.Clock = DefaultClock
	}
	if o.Elapsed == nil {
		start := time.Now()
		o.Elapsed = func() time.Duration { return time.Since(start) }
	}
	me, err := db.Attach(ctx, o.Name, o.Keys)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: db, o: o, me: me, wake: make(chan struct{}, 1),
		cache: recent.New[Key, entry](4 * o.Cache), pending: make(map[Key]pendingRow), reads: make(map[Key]entry),
		fresh:    recent.New[uint64, struct{}](o.Cache),
		deferred: make(map[Key]*unit), seen: me.Heads, prev: me.Last, next: me.Next, end: me.End,
		rev: me.firstRev(), seq: me.firstSeq(),
	}
	s.heard = make(map[int]time.Time)
	if s.seen == nil {
		s.seen = make(map[int]int64)
	}
	s.agreed = s.setting()
	s.registered.Store(me.Registered)
	s.lengths.Store(&me.Lengths)
	return s, nil
}

// Server returns the server's number among those of the database.
func (s *Store) Server() int { return s.me.Server }

// Stats returns the store's counts.
func (s *Store) Stats() *Stats { return &s.stats }

// Away reports whether the database cannot be asked.
func (s *Store) Away() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// CutOff reports whether the database cannot be asked and leases in memory are extended all the same, see [Options.Offline].
func (s *Store) CutOff() bool { return s.o.Offline && s.Away() }

// Waiting returns how many messages' changes wait to be stored, and how many renewals that
// were promised.
func (s *Store) Waiting() (units, renewals int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if units = len(s.queue); s.flying != nil {
		units += len(s.flying.units)
	}
	return units, len(s.deferred)
}

// ask calls f with a context that ends when the database has had its time.
func (s *Store) ask(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	err := f(ctx)
	switch {
	case err == nil, errors.Is(err, lease.ErrNotFound), errors.Is(err, lease.ErrDamaged), errors.Is(err, lease.ErrFull):
		return err
	}
	s.lost(err)
	return fmt.Errorf("%w: %w", ErrAway, err)
}

// row returns a row as the message sees it. A guess is that there is none, if that must be asked.
func (s *Store) row(k Key, guess bool) (entry, error) {
	s.mu.Lock()
	if s.wrong || s.away && s.set(s.agreed) {
		s.mu.Unlock()
		return entry{}, ErrClock
	}
	if p, ok := s.pending[k]; ok {
		if p.by != s.open && !slices.Contains(s.deps, p.by) {
			s.deps = append(s.deps, p.by)
		}
		s.reads[k] = p.entry
		s.mu.Unlock()
		return p.entry, nil
	}
	if e, ok := s.reads[k]; ok { // a message sees one state of a row
		s.mu.Unlock()
		return e, nil
	}
	if e, ok := s.cache.Get(k); ok {
		s.reads[k] = e
		s.mu.Unlock()
		return e, nil
	}
	away := s.away
	if guess && !away {
		s.cache.Put(k, entry{})
		s.reads[k] = entry{}
		s.mu.Unlock()
		return entry{}, nil
	}
	s.mu.Unlock()
	if away {
		return entry{}, ErrAway
	}
	var rows []Row
	if err := s.ask(func(ctx context.Context) (err error) {
		rows, err = s.db.Get(ctx, []Key{k})
		return err
	}); err != nil {
		return entry{}, err
	}
	e := entry{rows[0].Value, rows[0].Rev}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.Put(k, e)
	s.reads[k] = e
	return e, nil
}

// value returns a row's value, or lease.ErrNotFound.
func (s *Store) value(k Key) ([]byte, error) {
	return s.valueOr(k, false)
}

func (s *Store) valueOr(k Key, guess bool) ([]byte, error) {
	e, err := s.row(k, guess)
	if err == nil && e.rev == 0 {
		err = lease.ErrNotFound
	}
	return e.value, err
}

// Lookup implements lease.Store.
func (s *Store) Lookup(key idcodec.LookupKey) (uint64, error) {
	v, err := s.value(Key{Keys, string(key[:])})
	if err != nil {
		return 0, err
	}
	return parseNumber(v)
}

// Lease implements lease.Store.
func (s *Store) Lease(addr netip.Addr) (lease.Lease, error) {
	v, err := s.value(LeaseKey(addr))
	if err != nil {
		return lease.Lease{}, err
	}
	return lease.ParseRecord(addr, v)
}

// Guess is Lease for an address that this server alone would lease: what is not in memory it
// takes for absent, without asking. If it is wrong, what is written on that ground is refused,
// and the next guess is right.
func (s *Store) Guess(addr netip.Addr) (lease.Lease, error) {
	v, err := s.valueOr(LeaseKey(addr), true)
	if err != nil {
		return lease.Lease{}, err
	}
	return lease.ParseRecord(addr, v)
}

// Prefetch reads what the messages of these clients need, all at once.
func (s *Store) Prefetch(f *lease.Foreseen) {
	var keys []Key
	for i := range f.Keys {
		keys = append(keys, Key{Keys, string(f.Keys[i][:])})
	}
	for i := range f.Clients {
		keys = append(keys, ClientKey(f.Clients[i]))
	}
	known := s.fetch(keys)
	var more []Key
	for _, k := range keys { // in their order: what is read last is forgotten last
		e := known[k]
		switch {
		case e.rev == 0:
		case k.Table == Keys:
			more = append(more, Key{Lists, string(e.value)})
		default:
			addrs, _ := parseAddrs(nil, e.value) // who needs it is told
			more = append(more, leaseKeys(addrs)...)
		}
	}
	s.fetch(more)
}

// fetch reads rows that are not in memory, and returns all. What it cannot read is left for
// who needs it.
func (s *Store) fetch(keys []Key) map[Key]entry {
	known := make(map[Key]entry, len(keys))
	var missing []Key
	s.mu.Lock()
	for _, k := range keys {
		if p, ok := s.pending[k]; ok {
			known[k] = p.entry
		} else if e, ok := s.cache.Get(k); ok {
			known[k] = e
		} else if _, twice := known[k]; !twice {
			known[k] = entry{}
			missing = append(missing, k)
		}
	}
	away := s.away || s.wrong
	s.mu.Unlock()
	if len(missing) == 0 || away {
		return known
	}
	var rows []Row
	if s.ask(func(ctx context.Context) (err error) {
		rows, err = s.db.Get(ctx, missing)
		return err
	}) != nil {
		return known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		known[r.Key] = entry{r.Value, r.Rev}
		s.cache.Put(r.Key, known[r.Key])
	}
	return known
}

// ByClient implements lease.Store.
func (s *Store) ByClient(dst []netip.Addr, c lease.Client) ([]netip.Addr, error) {
	return s.addrs(dst, ClientKey(c))
}

// BySubscriber implements lease.Store.
func (s *Store) BySubscriber(dst []netip.Addr, n uint64) ([]netip.Addr, error) {
	return s.addrs(dst, Key{Lists, number(n)})
}

func (s *Store) addrs(dst []netip.Addr, k Key) ([]netip.Addr, error) {
	e, err := s.row(k, false)
	if err != nil {
		return dst, err
	}
	return parseAddrs(dst, e.value)
}

// Account implements lease.Store. Each server has accounts of its own.
func (s *Store) Account(n uint64, p idcodec.Prefix) (lease.Account, error) {
	s.mu.Lock()
	_, fresh := s.fresh.Get(n)
	s.mu.Unlock()
	v, err := s.valueOr(accountKey(s.me.Server, n, p), fresh)
	if errors.Is(err, lease.ErrNotFound) {
		return lease.Account{}, nil
	}
	if err != nil {
		return lease.Account{}, err
	}
	return parseAccount(v)
}

// put adds a row to the message's changes. The caller holds mu and has read the row.
func (s *Store) put(k Key, value []byte, was int64) {
	if s.open == nil {
		s.open = &unit{done: make(chan struct{}), setting: s.setting()}
	}
	s.rev++
	s.open.rows = append(s.open.rows, Row{Key: k, Value: value, Rev: s.rev, Was: was})
	s.pending[k] = pendingRow{entry{value, s.rev}, s.open}
}

// Register implements lease.Store.
func (s *Store) Register(key idcodec.LookupKey, nid idcodec.NID, at time.Time) (uint64, error) {
	k := Key{Keys, string(key[:])}
	before, err := s.row(k, false)
	if err != nil {
		return 0, err
	}
	if s.next == s.end {
		if s.Away() {
			return 0, ErrAway
		}
		if err := s.ask(func(ctx context.Context) (err error) {
			s.next, err = s.db.Take(ctx, s.me.Server, numbersAtOnce)
			return err
		}); err != nil {
			s.next = s.end
			return 0, err
		}
		s.end = s.next + numbersAtOnce
	}
	n := s.next
	if n > idcodec.MaxSubscriber {
		return 0, lease.ErrFull
	}
	s.next++
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(k, []byte(number(n)), before.rev)
	s.put(Key{Subscribers, number(n)}, AppendSubscriber(nil, at, nid), Any)
	// Nobody else has the number: nothing is filed under it.
	s.reads[Key{Lists, number(n)}] = entry{}
	s.cache.Put(Key{Lists, number(n)}, entry{})
	s.fresh.Put(n, struct{}{})
	s.registered.Store(max(s.registered.Load(), n+1))
	return n, nil
}

// change is a row that an update changes.
type change struct {
	key   Key
	value []byte
}

// Apply implements lease.Store. What it deletes is deleted at once.
func (s *Store) Apply(u *lease.Update) error {
	if err := s.addLengths(u.Put); err != nil {
		return err
	}
	var changes []change
	for i := range u.Put {
		changes = append(changes, change{LeaseKey(u.Put[i].Addr), lease.AppendRecord(nil, &u.Put[i])})
	}
	for i := range u.Clients {
		changes = append(changes, change{ClientKey(u.Clients[i].Client), appendAddrs([]byte{}, u.Clients[i].Addrs)})
	}
	for i := range u.Lists {
		changes = append(changes, change{Key{Lists, number(u.Lists[i].Subscriber)}, appendAddrs([]byte{}, u.Lists[i].Addrs)})
	}
	for i := range u.Accounts {
		x := &u.Accounts[i]
		changes = append(changes, change{accountKey(s.me.Server, x.Subscriber, x.Prefix), appendAccount(nil, x.Account)})
	}
	before := make([]entry, len(changes))
	for i := range changes {
		var err error
		if before[i], err = s.row(changes[i].key, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	extension := s.open == nil && len(u.Put) == len(changes) && len(u.Archive) == 0 && len(u.Put) > 0
	if s.open != nil && s.open.extension {
		extension = len(u.Put) == len(changes) && len(u.Archive) == 0
	}
	for i := range u.Archive {
		l := &u.Archive[i]
		s.put(HistoryKey(l), lease.AppendRecord(nil, l), Any)
		s.open.changed = append(s.open.changed, l.Addr)
	}
	for i, c := range changes {
		was := before[i].rev
		if p, ok := s.pending[c.key]; ok { // this update has it twice
			was = p.rev
		}
		s.put(c.key, c.value, was)
		if c.key.Table == Leases {
			extension = extension && u.Put[i].Bits == 0 && extends(u.Put[i], before[i])
			s.open.changed = append(s.open.changed, u.Put[i].Addr)
		}
	}
	if s.open != nil {
		s.open.extension = extension
	}
	s.mu.Unlock()
	if len(u.Delete) == 0 {
		return nil
	}
	return s.remove(u.Delete)
}

// remove removes leases at once.
func (s *Store) remove(leases []lease.Lease) error {
	if err := s.settle(); err != nil {
		return err
	}
	if err := s.ask(func(ctx context.Context) error { return s.db.Remove(ctx, leases) }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range leases {
		delete(s.reads, LeaseKey(leases[i].Addr))
		s.cache.Forget(LeaseKey(leases[i].Addr))
	}
	return nil
}

// addLengths files lengths of prefixes that were never filed.
func (s *Store) addLengths(leases []lease.Lease) error {
	for i := range leases {
		bits := leases[i].Bits
		known := s.Lengths()
		if bits == 0 || slices.Contains(known, bits) {
			continue
		}
		if err := s.ask(func(ctx context.Context) error { return s.db.AddLength(ctx, bits) }); err != nil {
			return err
		}
		known = append(slices.Clone(known), bits)
		slices.SortFunc(known, func(a, b uint8) int { return int(b) - int(a) })
		s.lengths.Store(&known)
	}
	return nil
}

// extends reports whether a lease is one that is known, for longer: by a clock that is behind it may
// end earlier.
func extends(l lease.Lease, before entry) bool {
	old, err := lease.ParseRecord(l.Addr, before.value)
	return err == nil && same(&l, &old) && old.State == lease.Active && l.State == lease.Active && !l.ValidUntil.Before(old.ValidUntil)
}

// same reports whether two are one lease at two times.
func same(a, b *lease.Lease) bool {
	return a.Addr == b.Addr && a.Bits == b.Bits && a.Subscriber == b.Subscriber && a.Start.Equal(b.Start) && a.Born.Equal(b.Born) && a.Client.Is(b.Client)
}

// Mark ends a message. The barrier stands for what the message changed and for what others
// changed that it has read.
func (s *Store) Mark() lease.Barrier {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mark()
}

func (s *Store) mark() lease.Barrier {
	clear(s.reads)
	u := s.open
	deps := s.deps
	s.open, s.deps = nil, nil
	if u == nil {
		return &barrier{units: deps}
	}
	u.deps = deps
	if s.since = append(s.since, u); len(s.since) >= maxSince {
		// Nobody takes barriers; of what is written they would not tell anyway.
		s.since = slices.DeleteFunc(s.since, func(u *unit) bool { return u.answered() && u.err == nil })
		s.since = s.since[:min(len(s.since), maxSince/2)]
	}
	if s.wrong {
		s.fail(u, ErrClock)
		return u
	}
	if s.away {
		s.offline(u)
		return u
	}
	s.queue = append(s.queue, u)
	s.rouse()
	return u
}

// rouse has Run look what there is to do.
func (s *Store) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Barrier implements lease.Store.
func (s *Store) Barrier() lease.Barrier {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark()
	if len(s.since) > 0 || s.last == nil {
		s.last = &barrier{units: s.since}
		s.since = nil
	}
	return s.last
}

// settle waits until nothing is under way but what the open message has changed.
func (s *Store) settle() error {
	s.mu.Lock()
	var all []*unit
	if s.flying != nil {
		all = append(all, s.flying.units...)
	}
	all = append(all, s.queue...)
	away := s.away
	s.mu.Unlock()
	if away {
		return ErrAway
	}
	for _, u := range all {
		if err := u.Wait(); errors.Is(err, ErrAway) {
			return err
		}
	}
	return nil
}

// query calls f when what was written can be seen.
func (s *Store) query(f func(context.Context) error) error {
	if err := s.settle(); err != nil {
		return err
	}
	return s.ask(f)
}

// Subscriber implements lease.Store.
func (s *Store) Subscriber(n uint64) (x lease.Subscriber, err error) {
	err = s.query(func(ctx context.Context) (err error) {
		x, err = s.db.Subscriber(ctx, n)
		return err
	})
	return x, err
}

// Subscribers implements lease.Store, as far as this server knows; Direct's asks the database.
func (s *Store) Subscribers() uint64 { return s.registered.Load() }

// Lengths implements lease.Store.
func (s *Store) Lengths() []uint8 { return *s.lengths.Load() }

// History implements lease.Store.
func (s *Store) History(dst []lease.Lease, addr netip.Addr) ([]lease.Lease, error) {
	n := len(dst)
	err := s.query(func(ctx context.Context) (err error) {
		dst, err = s.db.History(ctx, dst[:n], addr)
		return err
	})
	return dst, err
}

// Within implements lease.Store. It knows of what the open message has changed.
func (s *Store) Within(dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error) {
	n := len(dst)
	if err := s.query(func(ctx context.Context) (err error) {
		dst, err = s.db.Within(ctx, dst[:n], p, from, until, limit)
		return err
	}); err != nil {
		return dst[:n], err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		return dst, nil
	}
	for _, r := range s.open.rows {
		if r.Table != Leases || !p.Contains(addrOf(r.Key)) || slices.Contains(dst[n:], addrOf(r.Key)) {
			continue
		}
		if l, err := lease.ParseRecord(addrOf(r.Key), r.Value); err == nil && l.Overlaps(from, until) {
			dst = append(dst, l.Addr)
		}
	}
	slices.SortFunc(dst[n:], netip.Addr.Compare)
	return dst[:min(len(dst), n+limit)], nil
}

// Old implements lease.Store.
func (s *Store) Old(before uint32, after []byte, limit int) (old []lease.Lease, next []byte, err error) {
	err = s.query(func(ctx context.Context) (err error) {
		old, next, err = s.db.Old(ctx, before, after, limit)
		return err
	})
	return old, next, err
}

// Each implements lease.Store. It takes as long as it takes.
func (s *Store) Each(f func(lease.Lease) error) error {
	return s.EachWritten(func(l lease.Lease, _ bool) error { return f(l) })
}

// EachWritten is Each that tells which leases this server has written.
func (s *Store) EachWritten(f func(l lease.Lease, ours bool) error) error {
	if err := s.settle(); err != nil {
		return err
	}
	var stopped error
	err := s.db.Each(context.Background(), func(l lease.Lease, by int) error {
		stopped = f(l, by == s.me.Server)
		return stopped
	})
	if err == nil || stopped != nil || errors.Is(err, lease.ErrDamaged) {
		return err
	}
	s.lost(err)
	return fmt.Errorf("%w: %w", ErrAway, err)
}

// Abandoned reports whether a lease that ran out is still as it was then, and the server that wrote it
// has committed nothing since, as far as this one has seen: it may be gone, and have nobody told that
// the lease is over. A lease that this server wrote itself is abandoned.
func (s *Store) Abandoned(addr netip.Addr, start, ended time.Time) (bool, error) {
	r, err := direct{s}.get(LeaseKey(addr))
	if err != nil || r.Rev == 0 {
		return false, err
	}
	l, err := lease.ParseRecord(addr, r.Value)
	if err != nil || !l.Start.Equal(start) || !l.ValidUntil.Equal(ended) {
		return false, err
	}
	by := WriterOf(r.Rev)
	s.following.Lock()
	defer s.following.Unlock()
	return by == s.me.Server || !s.heard[by].After(ended), nil
}

// Forget removes up to limit leases of epochs before one, with what is filed under their
// clients and subscribers alone, and returns how many.
func (s *Store) Forget(ctx context.Context, before uint32, limit int) (int, error) {
	return s.db.Forget(ctx, before, limit)
}

// Close makes everything durable and closes the database. Flush must not be called any more.
func (s *Store) Close() error {
	s.Barrier()
	var err error
	for {
		s.mu.Lock()
		waits := s.flying != nil || len(s.queue) > 0 || len(s.deferred) > 0
		s.mu.Unlock()
		if !waits {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
		err = s.Flush(ctx)
		cancel()
		if err != nil {
			if _, n := s.Waiting(); n > 0 {
				err = fmt.Errorf("%d renewals that were promised are lost: %w", n, err)
			}
			break
		}
	}
	return errors.Join(err, s.db.Close())
}

func parseNumber(v []byte) (uint64, error) {
	if len(v) != 8 {
		return 0, lease.ErrDamaged
	}
	var n uint64
	for _, b := range v {
		n = n<<8 | uint64(b)
	}
	return n, nil
}
