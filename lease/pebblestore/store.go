// Package pebblestore keeps the registry and the leases in a Pebble database in
// a directory of its own: the embedded default, for one server.
//
// Writes go to a log of its own (package wal) without waiting and are visible at once. A barrier is
// a point in it; any number of leases share one sync, and nobody holds a lock across the disk.
//
// Pebble keeps no log. What it has in memory is not lost, since the log has it until Pebble has
// written it. What goes into Pebble is sorted in memory, written, and rewritten some times, for each
// of which a renewal is too little. One that changes nothing but times goes to the place that its
// lease has in memory (package renewals), all of which are written into a file of their own when the log
// is long. Another, as of a lease without a place, is in a table before Pebble (recent.go) and comes to it later,
// once for all renewals of the lease meanwhile and together with others.
//
// Three things hold. A lease that is in such a table has no place. A place is of a record that Pebble
// has but for its times, or of none: whenever Pebble is given another, it is taken for that or left. And the
// file has nothing that the log has not durably had, nor of what Pebble has not written and the log
// not any more.
//
// After a crash all is there that a barrier was waited for. Of what came after it, each update is
// there wholly or not at all, and a renewal may be missing where something later of another lease is
// there: Pebble may have written what changes more than one record before the log was.
package pebblestore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/arena"
	"brightgid/lease/datasync"
	"brightgid/lease/renewals"
	"brightgid/lease/wal"
)

// Options are what Open may be told.
type Options struct {
	Log *slog.Logger

	// Rand is where the salts of the log's files are from, and the seed of the renewals' file; nil for the system's.
	Rand io.Reader

	// Reserve is how many bytes must be free before the store goes on after
	// the disk was full, or an eighth of the disk, if that is less. 0 means
	// DefaultReserve.
	Reserve uint64

	// ReadOnly opens the database for reading. It must not be open elsewhere.
	ReadOnly bool
}

// DefaultReserve leaves room for what Pebble writes in the background.
const DefaultReserve = 64 << 20

// When so many leases wait for Pebble, or the log is as long as the file of renewals, which is then written whole,
// they go to where they belong. So that file costs a renewal no more than the log does, unless it is longer than maxLog, which a
// start after a crash reads in about a second. What is shorter than minLog is not worth the trouble.
const (
	maxRecent = 1 << 19
	minLog    = 64 << 20
	maxLog    = 512 << 20
)

// What Pebble has in memory: what is written, in two tables of memTableLen bytes, one of which waits to
// be used again, and blocks of its files. It takes the room of the first from its cache.
const (
	memTableLen   = 32 << 20
	blockCacheLen = 32 << 20
)

// smallLog is when a process has been so busy for the first time that a file is written ahead.
const smallLog = 4 << 20

// Store is a lease.Store on disk.
type Store struct {
	dir string
	fs  vfs.FS
	db  *pebble.DB
	wal *wal.Log // nil if the store is for reading
	log *slog.Logger

	next  atomic.Uint64 // the next subscriber number
	batch *pebble.Batch // of Apply and Register, which do not overlap
	ops   []byte        // the same for the log
	value []byte

	// order is held by who writes leases to Pebble, so that an older one never comes after a newer.
	// Who holds mu as well takes it after this one. Renewals, which Pebble is given later, do not
	// wait for it.
	order sync.Mutex

	mu       sync.RWMutex     // guards what follows; draining is changed under order, too
	recent   *table           // leases that the log has and Pebble has not as they are, or not for long; it has each address
	draining *table           // those that are being given to it; nil if none are
	places   *renewals.Places // of those whose times Pebble has not; but for renewals changed under order, too
	moved    uint64           // how often leases went from one of these to Pebble
	evicted  []eviction       // scratch

	drain  sync.Mutex   // held while leases are given to Pebble
	empty  *table       // what recent will be when it is drained the next time
	hurry  atomic.Int32 // who waits until they are, or for Pebble
	behind atomic.Bool  // Pebble has more to do than it comes to

	logLen   atomic.Int64  // how long the log may become; see maxLog
	prepared atomic.Bool   // the log's next file was written ahead, or need not be
	wake     chan struct{} // a checkpoint is due
	stopping chan struct{}
	stopped  chan struct{} // no more are made

	full   atomic.Bool
	bits   atomic.Pointer[[]uint8] // lengths of prefixes, the longest first
	closed chan struct{}
}

var _ lease.Store = (*Store)(nil)

// ErrInUse says that another process has the database open.
var ErrInUse = errors.New("another process has it open; is gidserver running already?")

// Open opens the database in a directory, which it makes if there is none.
func Open(dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if !o.ReadOnly {
		if err := makeDir(dir); err != nil {
			return nil, fmt.Errorf("lease database: %w", err)
		}
	}
	logDir := filepath.Join(dir, "wal")
	left, err := wal.Exists(logDir)
	if err != nil {
		return nil, fmt.Errorf("lease database %s: %w", dir, err)
	}
	if o.ReadOnly && left {
		if err := recoverFirst(dir, o); err != nil {
			return nil, err
		}
	}
	s := &Store{
		dir: dir, log: o.Log, closed: make(chan struct{}), recent: newTable(), empty: newTable(),
		wake: make(chan struct{}, 1), stopping: make(chan struct{}), stopped: make(chan struct{}),
	}
	s.hurry.Add(1) // who waits until it is open
	defer s.hurry.Add(-1)
	compactions := newScheduler()
	s.fs = vfs.OnDiskFull(pacedFS{privateFS{vfs.Default}, paceEvery, s.pace}, func() { s.waitForSpace(o.Reserve) })
	opts := &pebble.Options{
		FS:                 s.fs,
		Logger:             logger{o.Log},
		ReadOnly:           o.ReadOnly,
		ErrorIfNotExists:   o.ReadOnly,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       memTableLen,
		DisableWAL:         true,
		EventListener:      s.stalls(),
	}
	shape(opts)
	opts.Experimental.CompactionScheduler = compactions
	cache := pebble.NewCache(2*memTableLen + blockCacheLen)
	defer cache.Unref()
	opts.Cache = cache
	s.db, err = pebble.Open(dir, opts)
	if errors.Is(err, syscall.EAGAIN) {
		err = ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("lease database %s: %w", dir, err)
	}
	compactions.opened() // and a replay may have to wait for some
	err = s.loadRenewals(o.ReadOnly, o.Rand)
	if err == nil && !o.ReadOnly {
		err = s.openLog(logDir, o)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		if s.places != nil {
			s.places.Close()
		}
		return nil, errors.Join(fmt.Errorf("lease database %s: %w", dir, err), s.db.Close())
	}
	if !o.ReadOnly {
		go s.checkpoints()
	}
	return s, nil
}

// makeDir makes a directory that is still there after a power cut.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return datasync.Dir(filepath.Dir(dir))
}

// recoverFirst opens a database for writing that a process has left which did not close it, and
// closes it.
func recoverFirst(dir string, o Options) error {
	o.ReadOnly = false
	s, err := Open(dir, o)
	switch {
	case errors.Is(err, ErrInUse):
		return err
	case err != nil:
		return fmt.Errorf("it was not closed and has to be recovered before it can be read: %w", err)
	}
	return s.Close()
}

// format returns the format of a database, 0 of one that is new.
func (s *Store) format(readOnly bool) (byte, error) {
	version, err := s.get(keyFormat)
	switch {
	case errors.Is(err, lease.ErrNotFound) && !readOnly:
		return 0, nil
	case err != nil:
		return 0, err
	case len(version) != 1 || version[0] == 0 || version[0] > formatVersion:
		return 0, fmt.Errorf("format %x: this program reads formats 1 to %d", version, formatVersion)
	}
	return version[0], nil
}

// setFormat has who knows older formats only not open the database from now on.
func (s *Store) setFormat() error {
	return errors.Join(s.db.Set(keyFormat, []byte{formatVersion}, pebble.NoSync), s.db.Flush())
}

// replay does an operation of a log that was left.
func (s *Store) replay(batch *pebble.Batch, key, value []byte, set bool) error {
	renewal := len(key) > 0 && key[0] == tagRenewal
	var place renewals.Key
	if renewal {
		var ok bool
		if place, ok = renewals.ParseKey(key[1:]); !ok {
			return lease.ErrDamaged
		}
	}
	switch {
	case renewal && set:
		return s.places.Set(place, value)
	case renewal:
		s.places.Clear(place)
		return nil
	case set:
		return batch.Set(key, value, nil)
	}
	return batch.Delete(key, nil)
}

// openLog does what a log has that was left, and begins one.
func (s *Store) openLog(dir string, o Options) error {
	batch := s.db.NewBatch()
	frames, err := wal.Replay(dir, func(operations []byte) error {
		err := wal.Operations(operations, func(key, value []byte, set bool) error {
			return s.replay(batch, key, value, set)
		})
		if err == nil && batch.Len() > 4<<20 {
			err = s.db.Apply(batch, pebble.NoSync)
			batch.Reset()
		}
		return err
	})
	if err == nil && frames > 0 {
		s.log.Info("the last process did not close the lease database; its log is replayed", "commits", frames)
		if err = s.db.Apply(batch, pebble.NoSync); err == nil {
			err = s.db.Flush()
		}
		if err == nil {
			err = s.saveRenewals()
		}
	}
	if err = errors.Join(err, batch.Close()); err != nil {
		return err
	}
	if err := wal.Clear(dir); err != nil {
		return err
	}
	s.wal, err = wal.New(dir, wal.Options{
		Log:    o.Log,
		Rand:   o.Rand,
		Full:   func() { s.waitForSpace(o.Reserve) },
		Failed: func(err error) { logger{o.Log}.Fatalf("%v", err) },
	})
	return err
}

// start finds the registry's end.
func (s *Store) start() error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tagSubscriber}, UpperBound: []byte{tagSubscriber + 1}})
	if err != nil {
		return err
	}
	if it.Last() {
		s.next.Store(binary.BigEndian.Uint64(it.Key()[1:]) + 1)
	}
	if err := it.Close(); err != nil {
		return err
	}
	lengths, err := s.get(keyLengths)
	if err != nil && !errors.Is(err, lease.ErrNotFound) {
		return err
	}
	s.bits.Store(&lengths)
	s.batch = s.db.NewBatch()
	return nil
}

// Lengths implements lease.Store.
func (s *Store) Lengths() []uint8 { return *s.bits.Load() }

// waitForSpace runs while the disk is full and all writes stand still, so that
// no reply is sent and nothing that was acknowledged is lost.
func (s *Store) waitForSpace(reserve uint64) {
	dir := s.dir
	s.full.Store(true)
	defer s.full.Store(false)
	if usage, err := vfs.Default.GetDiskUsage(dir); err == nil {
		reserve = min(reserve, usage.TotalBytes/8)
	}
	s.log.Error("disk full: no lease can be stored, so no client is answered; free some space",
		"directory", dir, "bytes_needed", reserve)
	for tick := 0; ; tick++ {
		select {
		case <-s.closed:
			return
		case <-time.After(100 * time.Millisecond):
		}
		usage, err := vfs.Default.GetDiskUsage(dir)
		if err == nil && usage.AvailBytes >= reserve {
			s.log.Warn("disk space is back: leases are stored again", "directory", dir)
			return
		}
		if tick%600 == 599 {
			s.log.Error("disk still full", "directory", dir, "bytes_free", usage.AvailBytes)
		}
	}
}

// Full reports whether the store waits for disk space.
func (s *Store) Full() bool { return s.full.Load() }

func (s *Store) get(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, lease.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return append([]byte(nil), v...), nil
}

// view calls f with the value of a key, which is valid only in f.
func (s *Store) view(key []byte, f func([]byte) error) error {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return lease.ErrNotFound
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	return f(v)
}

// Lookup implements lease.Store.
func (s *Store) Lookup(key idcodec.LookupKey) (n uint64, err error) {
	var buf [1 + len(key)]byte
	err = s.view(lookupKey(buf[:0], key), func(v []byte) error {
		if len(v) != 8 {
			return lease.ErrDamaged
		}
		n = binary.BigEndian.Uint64(v)
		return nil
	})
	return n, err
}

// Register implements lease.Store.
func (s *Store) Register(key idcodec.LookupKey, nid idcodec.NID, at time.Time) (uint64, error) {
	n := s.next.Load()
	if n > idcodec.MaxSubscriber {
		return 0, lease.ErrFull
	}
	s.reset()
	var kbuf [1 + len(key)]byte
	s.value = binary.BigEndian.AppendUint64(s.value[:0], n)
	s.set(lookupKey(kbuf[:0], key), s.value)
	s.value = append(binary.BigEndian.AppendUint64(s.value[:0], uint64(at.Unix())), nid...)
	s.set(subscriberKey(kbuf[:0], n), s.value)
	if err := s.write(nil, nil, nil); err != nil {
		return 0, err
	}
	s.next.Store(n + 1)
	return n, nil
}

// Subscriber implements lease.Store.
func (s *Store) Subscriber(n uint64) (lease.Subscriber, error) {
	v, err := s.get(subscriberKey(nil, n))
	if err != nil {
		return lease.Subscriber{}, err
	}
	if len(v) < 8 {
		return lease.Subscriber{}, lease.ErrDamaged
	}
	return lease.Subscriber{
		Number:     n,
		Registered: seconds(binary.BigEndian.Uint64(v)),
		NID:        idcodec.NID(v[8:]),
	}, nil
}

// Subscribers implements lease.Store.
func (s *Store) Subscribers() uint64 { return s.next.Load() }

// Lease implements lease.Store.
func (s *Store) Lease(addr netip.Addr) (lease.Lease, error) {
	var buf [recordLen]byte
	record, err := s.record(buf[:0], addr)
	if err != nil {
		return lease.Lease{}, err
	}
	return lease.ParseRecord(addr, record)
}

// recordLen is what nearly all records have room in.
const recordLen = 192

// record appends the record of a lease to b, as it is.
func (s *Store) record(b []byte, addr netip.Addr) ([]byte, error) {
	var key [17]byte
	for tries := 0; ; tries++ {
		if tries == 3 { // and from now on only renewals move any
			s.order.Lock()
			defer s.order.Unlock()
		}
		s.mu.RLock()
		record, ok := s.recentRecord(addr)
		b = append(b, record...)
		moved := s.moved
		s.mu.RUnlock()
		if ok {
			return b, nil
		}
		err := s.view(leaseKey(key[:0], addr), func(v []byte) error {
			b = append(b, v...)
			return nil
		})
		s.mu.RLock()
		same := moved == s.moved
		if same && err == nil {
			s.renewed(addr, b)
		}
		s.mu.RUnlock()
		if same {
			return b, err
		}
		b = b[:0]
	}
}

// renewed gives a record that Pebble has the times that its lease has. Who calls it holds mu.
func (s *Store) renewed(addr netip.Addr, record []byte) {
	if k, ok := placesIn(record); ok {
		raw := addr.As16()
		if t, ok := s.places.Times(k, &raw, record); ok {
			t.Put(record)
		}
	}
}

// recentRecord returns the record of a lease that Pebble has not as it is, or not for long. Who calls it
// holds mu, as long as which the record is valid.
func (s *Store) recentRecord(addr netip.Addr) (record []byte, ok bool) {
	raw := addr.As16()
	record, ok = s.recent.get(raw)
	if !ok && s.draining != nil {
		record, ok = s.draining.get(raw)
	}
	return record, ok
}

// History implements lease.Store.
func (s *Store) History(dst []lease.Lease, addr netip.Addr) ([]lease.Lease, error) {
	switch l, err := s.Lease(addr); {
	case err == nil:
		dst = append(dst, l)
	case !errors.Is(err, lease.ErrNotFound):
		return dst, err
	}
	lower := historyPrefix(nil, addr)
	upper := binary.BigEndian.AppendUint64(historyPrefix(nil, addr), 1<<64-1)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return dst, err
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		l, err := lease.ParseRecord(addr, it.Value())
		if err != nil {
			return dst, err
		}
		dst = append(dst, l)
	}
	return dst, it.Error()
}

// Within implements lease.Store. It merges the newest leases and the ended ones, both
// of which are in the order of addresses.
func (s *Store) Within(dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error) {
	newer := s.newer()
	var its [2]*pebble.Iterator
	var ok [2]bool
	for i, tag := range []byte{tagLease, tagHistory} {
		lower, upper := prefixBounds(tag, p)
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return dst, err
		}
		defer it.Close()
		its[i], ok[i] = it, it.First()
	}
	for found := 0; found < limit && (ok[0] || ok[1]); {
		i := 0
		if !ok[0] || ok[1] && bytes.Compare(its[1].Key()[1:17], its[0].Key()[1:17]) < 0 {
			i = 1
		}
		addr, record := addrOfKey(its[i].Key()), its[i].Value()
		if i == 0 {
			var err error
			if record, err = newer.record(addr, record); err != nil {
				return dst, err
			}
		}
		if record != nil {
			l, err := lease.ParseRecord(addr, record)
			if err != nil {
				return dst, err
			}
			if l.Overlaps(from, until) && (found == 0 || dst[len(dst)-1] != addr) {
				dst = append(dst, addr)
				found++
			}
		}
		ok[i] = its[i].Next()
	}
	return dst, errors.Join(its[0].Error(), its[1].Error())
}

// ByClient implements lease.Store.
func (s *Store) ByClient(dst []netip.Addr, c lease.Client) ([]netip.Addr, error) {
	var buf [1 + lease.MaxDUIDLen + 4]byte
	return s.addrs(dst, clientKey(buf[:0], c))
}

// BySubscriber implements lease.Store.
func (s *Store) BySubscriber(dst []netip.Addr, n uint64) ([]netip.Addr, error) {
	var buf [9]byte
	return s.addrs(dst, listKey(buf[:0], n))
}

func (s *Store) addrs(dst []netip.Addr, key []byte) ([]netip.Addr, error) {
	err := s.view(key, func(v []byte) error {
		if len(v)%16 != 0 {
			return lease.ErrDamaged
		}
		for ; len(v) > 0; v = v[16:] {
			dst = append(dst, netip.AddrFrom16([16]byte(v)))
		}
		return nil
	})
	if errors.Is(err, lease.ErrNotFound) {
		err = nil
	}
	return dst, err
}

// Account implements lease.Store.
func (s *Store) Account(n uint64, p idcodec.Prefix) (a lease.Account, err error) {
	var buf [17]byte
	err = s.view(accountKey(buf[:0], n, p), func(v []byte) error {
		if len(v) != 14 {
			return lease.ErrDamaged
		}
		a = lease.Account{
			Epoch: binary.BigEndian.Uint32(v),
			Slot:  binary.BigEndian.Uint16(v[4:]),
			Even:  seconds(binary.BigEndian.Uint64(v[6:])),
		}
		return nil
	})
	if errors.Is(err, lease.ErrNotFound) {
		err = nil
	}
	return a, err
}

// allOf reports whether all delegated prefixes among leases are of lengths.
func allOf(lengths []uint8, leases []lease.Lease) bool {
	for i := range leases {
		if bits := leases[i].Bits; bits != 0 && !slices.Contains(lengths, bits) {
			return false
		}
	}
	return true
}

// Apply implements lease.Store.
func (s *Store) Apply(u *lease.Update) error {
	s.reset()
	if u.Known && len(u.Archive)+len(u.Delete)+len(u.Clients)+len(u.Lists)+len(u.Accounts) == 0 && allOf(s.Lengths(), u.Put) {
		s.renew(u.Put)
		return nil
	}
	lengths := s.Lengths()
	var kbuf [1 + lease.MaxDUIDLen + 4]byte
	for i := range u.Archive {
		l := &u.Archive[i]
		s.set(historyKey(kbuf[:0], l), s.encode(l))
	}
	for i := range u.Put {
		l := &u.Put[i]
		s.set(leaseKey(kbuf[:0], l.Addr), s.encode(l))
		if l.Bits != 0 && !slices.Contains(lengths, l.Bits) {
			lengths = append(slices.Clone(lengths), l.Bits)
			slices.SortFunc(lengths, func(a, b uint8) int { return int(b) - int(a) })
			s.set(keyLengths, lengths)
		}
	}
	var gone []lease.Lease
	for i := range u.Delete {
		l := &u.Delete[i]
		switch newest, err := s.Lease(l.Addr); {
		case err == nil && newest.Start.Equal(l.Start):
			s.delete(leaseKey(kbuf[:0], l.Addr))
			gone = append(gone, newest)
		case err != nil && !errors.Is(err, lease.ErrNotFound):
			return err
		}
		s.delete(historyKey(kbuf[:0], l))
	}
	for i := range u.Clients {
		s.setAddrs(clientKey(kbuf[:0], u.Clients[i].Client), u.Clients[i].Addrs)
	}
	for i := range u.Lists {
		s.setAddrs(listKey(kbuf[:0], u.Lists[i].Subscriber), u.Lists[i].Addrs)
	}
	for i := range u.Accounts {
		c := &u.Accounts[i]
		s.value = binary.BigEndian.AppendUint32(s.value[:0], c.Account.Epoch)
		s.value = binary.BigEndian.AppendUint16(s.value, c.Account.Slot)
		s.value = binary.BigEndian.AppendUint64(s.value, uint64(c.Account.Even.Unix()))
		s.set(accountKey(kbuf[:0], c.Subscriber, c.Prefix), s.value)
	}
	if s.batch.Empty() {
		return nil
	}
	if err := s.write(u.Put, u.Archive, gone); err != nil {
		return err
	}
	if len(lengths) > len(s.Lengths()) {
		s.bits.Store(&lengths)
	}
	return nil
}

func (s *Store) encode(l *lease.Lease) []byte {
	s.value = lease.AppendRecord(s.value[:0], l)
	return s.value
}

// reset begins a change.
func (s *Store) reset() {
	s.batch.Reset()
	s.ops = s.ops[:0]
}

func (s *Store) set(key, value []byte) {
	s.batch.Set(key, value, nil)
	s.ops = wal.AppendSet(s.ops, key, value)
}

func (s *Store) delete(key []byte) {
	s.batch.Delete(key, nil)
	s.ops = wal.AppendDelete(s.ops, key)
}

func (s *Store) setAddrs(key []byte, addrs []netip.Addr) {
	if len(addrs) == 0 {
		s.delete(key)
		return
	}
	s.value = s.value[:0]
	for _, a := range addrs {
		b := a.As16()
		s.value = append(s.value, b[:]...)
	}
	s.set(key, s.value)
}

// Places adds what will be looked at when the leases of some places are renewed.
func (s *Store) Places(lines arena.Lines, keys []renewals.Key) arena.Lines {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range keys {
		lines = s.places.Lines(lines, k)
	}
	return lines
}

// renew files leases that nothing else changes with.
func (s *Store) renew(leases []lease.Lease) {
	var kbuf [17]byte
	s.mu.Lock()
	for i := range leases {
		l := &leases[i]
		record, raw, k := s.encode(l), l.Addr.As16(), placesOf(l)
		if at, place, ok := s.places.Renew(k, &raw, record); ok {
			s.ops = wal.AppendSet(s.ops, renewalKey(kbuf[:0], at), place)
			continue
		}
		s.leave(k, &raw)
		s.recent.put(raw, record)
		s.ops = wal.AppendSet(s.ops, leaseKey(kbuf[:0], l.Addr), record)
	}
	s.wal.Append(s.ops)
	enough := s.recent.len() >= maxRecent
	s.mu.Unlock()
	s.grown(enough)
}

// write makes the change, in which leases are put, some in the place of others that have ended, and some
// go.
func (s *Store) write(put, ended, gone []lease.Lease) error {
	s.order.Lock()
	err := s.evict(put, gone)
	if err == nil {
		err = s.db.Apply(s.batch, pebble.NoSync)
	}
	if err == nil {
		s.mu.Lock()
		for _, e := range s.evicted {
			s.leave(e.key, &e.addr)
		}
		for i := range ended { // of another subscriber, perhaps, whose place would keep the address
			raw := ended[i].Addr.As16()
			s.leave(placesOf(&ended[i]), &raw)
		}
		for i := range put {
			s.supersede(&put[i])
		}
		for i := range gone {
			raw := gone[i].Addr.As16()
			s.recent.remove(raw)
			if s.draining != nil {
				s.draining.remove(raw)
			}
			s.leave(placesOf(&gone[i]), &raw)
		}
		s.wal.Append(s.ops)
		s.mu.Unlock()
	}
	s.order.Unlock()
	if err != nil {
		return fmt.Errorf("lease database: %w", err)
	}
	s.grown(false)
	return nil
}

// eviction is of a lease that has a place which another will have.
type eviction struct {
	key  renewals.Key
	addr [16]byte
}

// evict adds to the change the leases whose places are needed, with the times that they have, and leaves
// in evicted which these are.
func (s *Store) evict(put, gone []lease.Lease) error {
	s.evicted = s.evicted[:0]
	for i := range put {
		e, raw, ok := eviction{key: placesOf(&put[i])}, put[i].Addr.As16(), false
		s.mu.RLock()
		e.addr, ok = s.places.Victim(e.key, &raw)
		s.mu.RUnlock()
		if !ok || slices.Contains(s.evicted, e) {
			continue
		}
		addr := netip.AddrFrom16(e.addr)
		var kbuf [17]byte
		s.value = s.value[:0]
		err := s.view(leaseKey(kbuf[:0], addr), func(v []byte) error {
			s.value = append(s.value, v...)
			return nil
		})
		switch {
		case err == nil:
			s.mu.RLock()
			s.renewed(addr, s.value)
			s.mu.RUnlock()
			is := func(l lease.Lease) bool { return l.Addr == addr }
			if !slices.ContainsFunc(put, is) && !slices.ContainsFunc(gone, is) { // or the change says how it is
				s.set(leaseKey(kbuf[:0], addr), s.value)
			}
		case !errors.Is(err, lease.ErrNotFound):
			return err
		}
		s.evicted = append(s.evicted, e)
	}
	return nil
}

// leave has an address have no place any more, which goes to the log with what it is for.
func (s *Store) leave(k renewals.Key, addr *[16]byte) {
	if at, ok := s.places.Leave(k, addr); ok {
		var kbuf [1 + renewals.KeyLen]byte
		s.ops = wal.AppendDelete(s.ops, renewalKey(kbuf[:0], at))
		s.moved++
	}
}

// supersede has a lease that Pebble has as it is now never be replaced by an older one. Where there is one in
// a table the newer is in its place, for who reads what Pebble had before.
func (s *Store) supersede(l *lease.Lease) {
	raw, k := l.Addr.As16(), placesOf(l)
	s.leave(k, &raw)
	_, ok := s.recent.get(raw)
	if s.draining != nil {
		if _, drained := s.draining.get(raw); drained {
			s.draining.remove(raw)
			ok = true
		}
	}
	if ok {
		s.recent.put(raw, s.encode(l))
	} else {
		s.places.Take(k, &raw, s.encode(l))
	}
}

// oldAtOnce is how many leases Old looks at, so that its caller can rest.
const oldAtOnce = 1 << 11

// Old implements lease.Store.
func (s *Store) Old(before uint32, after []byte, limit int) ([]lease.Lease, []byte, error) {
	lower := []byte{tagLease}
	if after != nil {
		lower = append(append([]byte(nil), after...), 0)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: []byte{tagHistory + 1}})
	if err != nil {
		return nil, nil, err
	}
	defer it.Close()
	var old []lease.Lease
	looked := 0
	for ok := it.First(); ok; ok = it.Next() {
		if looked++; looked > oldAtOnce {
			it.Prev()
			return old, append([]byte(nil), it.Key()...), it.Error()
		}
		if epoch, ok := lease.RecordEpoch(it.Value()); ok && epoch >= before {
			continue
		}
		l, err := lease.ParseRecord(addrOfKey(it.Key()), it.Value())
		if err != nil {
			return nil, nil, err
		}
		if it.Key()[0] == tagLease {
			if l, err = s.Lease(l.Addr); err != nil || l.Epoch >= before {
				if err != nil && !errors.Is(err, lease.ErrNotFound) {
					return nil, nil, err
				}
				continue // it was changed since
			}
		}
		old = append(old, l)
		if len(old) == limit {
			return old, append([]byte(nil), it.Key()...), it.Error()
		}
	}
	return old, nil, it.Error()
}

// eachAtOnce is for how many leases Each has an iterator, which keeps Pebble from removing files.
const eachAtOnce = 1 << 12

// Each implements lease.Store.
func (s *Store) Each(f func(lease.Lease) error) error {
	for after := []byte(nil); ; {
		next, err := s.ScanLeases(after, eachAtOnce, func(addr netip.Addr, record []byte) error {
			l, err := lease.ParseRecord(addr, record)
			if err != nil {
				return err
			}
			return f(l)
		})
		if err != nil || next == nil {
			return err
		}
		after = next
	}
}

// newer tells what is newer than what an iterator has of leases. It is made before the iterator.
type newer struct {
	s     *Store
	moved uint64
	buf   []byte
}

func (s *Store) newer() *newer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &newer{s: s, moved: s.moved}
}

// record returns the record of a lease of which an iterator has one; nil if it was removed meanwhile. It is valid
// until the next call, or as long as the iterator's.
func (n *newer) record(addr netip.Addr, old []byte) ([]byte, error) {
	s := n.s
	s.mu.RLock()
	record, ok := s.recentRecord(addr)
	if !ok {
		record = old
	}
	n.buf = append(n.buf[:0], record...)
	moved := s.moved != n.moved
	if !ok && !moved {
		s.renewed(addr, n.buf)
	}
	s.mu.RUnlock()
	if ok || !moved {
		return n.buf, nil
	}
	// Pebble has been given leases since, of which the iterator does not know.
	var err error
	n.buf, err = s.record(n.buf[:0], addr)
	if errors.Is(err, lease.ErrNotFound) {
		return nil, nil
	}
	return n.buf, err
}

// scan calls f with up to limit keys, but for their first bytes, and values under a tag, those
// after one. It returns the last, or nil at the end.
func (s *Store) scan(tag byte, after []byte, limit int, f func(key, value []byte) error) (next []byte, err error) {
	newer := s.newer()
	lower := append([]byte{tag}, after...)
	if after != nil {
		lower = append(lower, 0)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: []byte{tag + 1}})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		value := it.Value()
		if tag == tagLease {
			if value, err = newer.record(addrOfKey(it.Key()), value); err != nil {
				return nil, err
			}
		}
		if value != nil {
			if err := f(it.Key()[1:], value); err != nil {
				return nil, err
			}
		}
		if limit--; limit == 0 {
			return append([]byte(nil), it.Key()[1:]...), nil
		}
	}
	return nil, it.Error()
}

// ScanLeases implements index.Scanner.
func (s *Store) ScanLeases(after []byte, limit int, f func(netip.Addr, []byte) error) ([]byte, error) {
	return s.scan(tagLease, after, limit, func(k, v []byte) error { return f(netip.AddrFrom16([16]byte(k)), v) })
}

// ScanClients implements index.Scanner. Where it is to go on is a tag and a key.
func (s *Store) ScanClients(after []byte, limit int, f func(lease.Client, []byte) error) ([]byte, error) {
	tag := byte(tagClient)
	if len(after) > 0 {
		tag, after = after[0], after[1:]
	}
	if len(after) == 0 {
		after = nil
	}
	next, err := s.scan(tag, after, limit, func(k, v []byte) error {
		if len(k) < 4 {
			return lease.ErrDamaged
		}
		n := len(k) - 4
		return f(lease.Client{DUID: k[:n], IAID: binary.BigEndian.Uint32(k[n:]), PD: tag == tagDelegated}, v)
	})
	switch {
	case err != nil:
		return nil, err
	case next != nil:
		return append([]byte{tag}, next...), nil
	case tag == tagClient:
		return []byte{tagDelegated}, nil
	}
	return nil, nil
}

// ScanKeys implements index.Scanner.
func (s *Store) ScanKeys(after []byte, limit int, f func(idcodec.LookupKey, uint64) error) ([]byte, error) {
	return s.scan(tagLookup, after, limit, func(k, v []byte) error {
		if len(k) != len(idcodec.LookupKey{}) || len(v) != 8 {
			return lease.ErrDamaged
		}
		return f(idcodec.LookupKey(k), binary.BigEndian.Uint64(v))
	})
}

// ScanSubscribers implements shared.Source.
func (s *Store) ScanSubscribers(after []byte, limit int, f func(uint64, []byte) error) ([]byte, error) {
	return s.scanNumbers(tagSubscriber, after, limit, f)
}

// ScanLists implements shared.Source.
func (s *Store) ScanLists(after []byte, limit int, f func(uint64, []byte) error) ([]byte, error) {
	return s.scanNumbers(tagList, after, limit, f)
}

func (s *Store) scanNumbers(tag byte, after []byte, limit int, f func(uint64, []byte) error) ([]byte, error) {
	return s.scan(tag, after, limit, func(k, v []byte) error {
		if len(k) != 8 {
			return lease.ErrDamaged
		}
		return f(binary.BigEndian.Uint64(k), v)
	})
}

// ScanHistory implements shared.Source.
func (s *Store) ScanHistory(after []byte, limit int, f func(netip.Addr, time.Time, []byte) error) ([]byte, error) {
	return s.scan(tagHistory, after, limit, func(k, v []byte) error {
		if len(k) != 16+8 {
			return lease.ErrDamaged
		}
		return f(netip.AddrFrom16([16]byte(k)), time.Unix(int64(binary.BigEndian.Uint64(k[16:])), 0), v)
	})
}

// Barrier implements lease.Store. When nothing was written since the last
// barrier it returns that one.
func (s *Store) Barrier() lease.Barrier {
	if s.wal == nil {
		return done{}
	}
	return s.wal.Barrier()
}

// done is of a store that is not written.
type done struct{}

func (done) Wait() error   { return nil }
func (done) Settled() bool { return true }

// Close makes everything durable and closes the database.
func (s *Store) Close() error {
	if s.wal == nil {
		s.places.Close()
		return errors.Join(s.batch.Close(), s.db.Close())
	}
	err := s.wal.Barrier().Wait()
	s.hurry.Add(1)
	close(s.stopping)
	<-s.stopped
	err = errors.Join(err, s.flush(), s.wal.Close())
	s.mu.Lock()
	for _, t := range []*table{s.recent, s.draining, s.empty} {
		if t != nil {
			t.close()
		}
	}
	s.places.Close()
	s.mu.Unlock()
	close(s.closed)
	if err = errors.Join(err, s.batch.Close(), s.db.Close()); err != nil {
		return err // and the log has everything
	}
	return wal.Clear(filepath.Join(s.dir, "wal"))
}

// logger gives Pebble's messages to slog. Pebble calls Fatalf when it can no
// longer keep its promise to have stored something; nothing is right but to end
// the process, since an answer after that could be one that is not on disk.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}
func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}
func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("lease database failed; ending so that no lease is acknowledged that is not stored",
		"error", fmt.Sprintf(format, args...))
	os.Exit(1)
}
