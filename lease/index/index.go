// Package index keeps the leases that hold in memory, before a store on disk: what a client that
// renews asks for is there, however many there are; and that what a new client asks for is not there,
// nearly always.
//
// It takes about 150 bytes for a lease of a subscriber with one client. Hashes are of a random
// key, so that nobody can choose what collides.
package index

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/bits-and-blooms/bitset"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/arena"
)

// Scanner is a store that can be read whole, a part at a time. Each function calls f with up to
// limit entries after one, nil for the first, and returns the last, nil at the end. What f is
// given is its own during the call only.
type Scanner interface {
	lease.Store

	// ScanLeases reads the record of the newest lease of every address.
	ScanLeases(after []byte, limit int, f func(addr netip.Addr, record []byte) error) (next []byte, err error)

	// ScanClients reads the addresses that are filed under every client, 16 bytes each.
	ScanClients(after []byte, limit int, f func(c lease.Client, addrs []byte) error) (next []byte, err error)

	// ScanKeys reads every lookup key and its subscriber number.
	ScanKeys(after []byte, limit int, f func(key idcodec.LookupKey, number uint64) error) (next []byte, err error)
}

// keep is for how long a lease stays that has ended; a client may come back.
const keep = time.Hour

// Index is a store with what holds in memory. It is for one goroutine at a time, through which
// all writes go; others read the store behind it.
type Index struct {
	*lease.Cache // for what is not here

	source Scanner
	phase  int    // of Load: leases, clients, keys
	after  []byte // up to where Load has come in it

	relays  relays
	record  []byte // scratch, as is packed
	packed  packed
	memory  arena.Memory
	seed    maphash.Seed
	blocks  *arena.Arena
	addrs   *arena.Table // of leases
	clients *arena.Table // of lists, and of leases for clients that have just one
	swept   int          // slot of addrs up to which leases were looked at
	unswept int          // how many of them may be looked at by now
	last    time.Time    // when that was counted

	// Subscribers by the first half of their lookup keys, a subscriber's place being its
	// number and one.
	keys    *arena.Table
	halves  [][]byte // 16 bytes each, halvesAtOnce of them together
	changes []byte   // scratch

	// What need not be asked of the store, which does not have it.
	gone   gone          // leases and clients that are only in the store
	first  uint64        // of the subscribers registered since the index was made
	unused bitset.BitSet // those of them who have neither addresses nor accounts

	behind fetcher // the store, if it is one
	ahead  ahead
	near   near
}

// New returns a store with an index that is empty; Load fills it. size is of how many clients
// what is not indexed is remembered.
func New(s Scanner, size int) *Index {
	x := &Index{Cache: lease.NewCache(s, size), source: s, seed: maphash.MakeSeed(), first: s.Subscribers()}
	x.behind, _ = s.(fetcher)
	x.blocks = arena.New(&x.memory)
	x.addrs, x.clients, x.keys = arena.NewTable(&x.memory), arena.NewTable(&x.memory), arena.NewTable(&x.memory)
	return x
}

// Load reads up to limit entries of the store into the index, but for leases that have ended by
// now, and reports whether there are more. It may be called between other calls; what is not
// read yet is asked of the store meanwhile.
func (x *Index) Load(limit int, now time.Time) (more bool, err error) {
	until := max(0, now.Add(-keep).Unix())
	switch x.phase {
	case 0:
		x.after, err = x.source.ScanLeases(x.after, limit, func(addr netip.Addr, record []byte) error {
			raw := addr.As16()
			if _, known := x.findAddr(raw); known {
				return nil
			}
			if ends := lease.RecordTimes(record).ValidUntil; ends > until {
				x.put(addr, record)
			} else {
				x.gone.add(x.hashAddr(raw))
			}
			return nil
		})
	case 1:
		x.after, err = x.source.ScanClients(x.after, limit, func(c lease.Client, addrs []byte) error {
			if _, known := x.findClient(c); !known {
				x.fileAs(c, addrs)
			}
			return nil
		})
	case 2:
		x.after, err = x.source.ScanKeys(x.after, limit, func(key idcodec.LookupKey, number uint64) error {
			x.register(key, number)
			return nil
		})
	default:
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the leases: %w", err)
	}
	if x.after == nil {
		x.phase++
	}
	return !x.loaded(), nil
}

// loaded reports whether all of the store was read, so that what is neither in memory nor gone from it is
// not in the store.
func (x *Index) loaded() bool { return x.phase > 2 }

// Close closes the store and gives the memory back. Nothing may be called after it.
func (x *Index) Close() error {
	x.memory.Close()
	return x.Cache.Close()
}

// Len returns how many leases are in memory.
func (x *Index) Len() int { return x.addrs.Len() }

// clientOf returns the client of a block; its DUID is the block's.
func (x *Index) clientOf(r arena.Ref) (c lease.Client) {
	kind, b := x.block(r)
	if kind == kindList {
		return lease.Client{DUID: b[6 : 6+b[5]], IAID: binary.BigEndian.Uint32(b[1:]), PD: b[0] == 1}
	}
	return packed(b[16:]).client()
}

func (x *Index) addrOf(r arena.Ref) [16]byte {
	_, b := x.block(r)
	return [16]byte(b)
}

func (x *Index) hashAddr(a [16]byte) uint32 { return uint32(maphash.Bytes(x.seed, a[:])) }

func (x *Index) hashClient(c lease.Client) uint32 {
	b := append(x.changes[:0], byte(0))
	if c.PD {
		b[0] = 1
	}
	b = append(binary.BigEndian.AppendUint32(b, c.IAID), c.DUID...)
	x.changes = b
	return uint32(maphash.Bytes(x.seed, b))
}

func (x *Index) findAddr(a [16]byte) (int, bool) {
	return x.addrs.Find(x.hashAddr(a), func(r arena.Ref) bool { return x.addrOf(r) == a })
}

func (x *Index) findClient(c lease.Client) (int, bool) {
	return x.clients.Find(x.hashClient(c), func(r arena.Ref) bool { return x.clientOf(r).Is(c) })
}

// Blocks are of two kinds, after a byte that tells and their length(2):
//
//	lease: address(16), the record, packed
//	list: PD(1) IAID(4) DUID's length(1) DUID, addresses, 16 bytes each
const (
	kindLease = 1
	kindList  = 2
	headLen   = 3
)

// block returns the contents of a block.
func (x *Index) block(r arena.Ref) (kind byte, b []byte) {
	b = x.blocks.At(r)
	return b[0], b[headLen : headLen+int(binary.LittleEndian.Uint16(b[1:]))]
}

// add makes a block of two parts.
func (x *Index) add(kind byte, a, b []byte) arena.Ref {
	r, p := x.blocks.Alloc(headLen + len(a) + len(b))
	p[0] = kind
	binary.LittleEndian.PutUint16(p[1:], uint16(len(a)+len(b)))
	copy(p[headLen+copy(p[headLen:], a):], b)
	return r
}

func (x *Index) drop(r arena.Ref) {
	kind, b := x.block(r)
	if kind == kindLease {
		if n := &x.near.leases[x.hashAddr([16]byte(b))%nearby]; *n == r {
			*n = 0
		}
	}
	x.blocks.Release(r, headLen+len(b))
}

// lease returns the block of the lease of an address.
func (x *Index) lease(raw [16]byte) (r arena.Ref, ok bool) {
	hash := x.hashAddr(raw)
	if r := x.near.leases[hash%nearby]; r != 0 && x.addrOf(r) == raw {
		return r, true
	}
	at, ok := x.addrs.Find(hash, func(r arena.Ref) bool { return x.addrOf(r) == raw })
	return x.addrs.At(at), ok
}

// put files a lease's record under its address.
func (x *Index) put(addr netip.Addr, record []byte) {
	raw := addr.As16()
	p := x.pack(x.packed[:0], record)
	x.packed = p
	old, ok := x.lease(raw)
	if !ok {
		here, _ := x.findAddr(raw)
		x.addrs.Set(here, x.add(kindLease, raw[:], p), x.hashAddr(raw))
		return
	}
	_, b := x.block(old)
	if len(b) == 16+len(p) && packed(b[16:]).client().Is(p.client()) {
		copy(b[16:], p) // as with every renewal
		return
	}
	before := x.clientOf(old)
	at, filed := x.findClient(before)
	filed = filed && x.clients.At(at) == old
	r := x.add(kindLease, raw[:], p)
	switch {
	case filed && x.clientOf(r).Is(before):
		x.clients.Move(at, r)
	case filed:
		x.gone.add(x.hashClient(before))
		x.clients.Remove(at)
	}
	here, _ := x.findAddr(raw)
	x.addrs.Move(here, r)
	x.drop(old)
}

// forget removes a lease; who asks for it is told by the store.
func (x *Index) forget(addr netip.Addr) {
	raw := addr.As16()
	if at, ok := x.findAddr(raw); ok {
		x.removeAt(at)
	} else {
		x.gone.add(x.hashAddr(raw)) // it may be in the store, or not
	}
}

func (x *Index) removeAt(here int) {
	r := x.addrs.At(here)
	x.gone.add(x.hashAddr(x.addrOf(r)))
	c := x.clientOf(r)
	if at, ok := x.findClient(c); ok && x.clients.At(at) == r {
		x.gone.add(x.hashClient(c))
		x.clients.Remove(at)
	}
	x.addrs.Remove(here)
	x.drop(r)
}

// fileAs files addresses, 16 bytes each, under a client, if one of them is here.
func (x *Index) fileAs(c lease.Client, addrs []byte) {
	x.unfile(c)
	here := false
	for b := addrs; len(b) >= 16; b = b[16:] {
		at, ok := x.findAddr([16]byte(b))
		if r := x.addrs.At(at); ok && len(addrs) == 16 && x.clientOf(r).Is(c) {
			at, _ = x.findClient(c)
			x.clients.Set(at, r, x.hashClient(c))
			return
		}
		here = here || ok
	}
	if !here || headLen+6+len(c.DUID)+len(addrs) > arena.MaxLen {
		if len(addrs) > 0 {
			x.gone.add(x.hashClient(c))
		}
		return
	}
	head := make([]byte, 0, 6+lease.MaxDUIDLen)
	if head = append(head, 0); c.PD {
		head[0] = 1
	}
	head = append(append(binary.BigEndian.AppendUint32(head, c.IAID), byte(len(c.DUID))), c.DUID...)
	at, _ := x.findClient(c)
	x.clients.Set(at, x.add(kindList, head, addrs), x.hashClient(c))
}

// unfile removes what is filed under a client.
func (x *Index) unfile(c lease.Client) {
	at, ok := x.findClient(c)
	if !ok {
		return
	}
	r := x.clients.At(at)
	x.clients.Remove(at)
	if kind, _ := x.block(r); kind == kindList {
		x.drop(r)
	}
}

const halvesAtOnce = 1 << 18

// half is where a subscriber's is.
func (x *Index) half(number uint64) []byte {
	return x.halves[number/halvesAtOnce][number%halvesAtOnce*16:][:16]
}

func (x *Index) halfOf(r arena.Ref) [16]byte { return [16]byte(x.half(uint64(r) - 1)) }

// maxNumbers bounds the subscribers that are indexed. Numbers begin at 0 and leave none out.
const maxNumbers = 1 << 31

func (x *Index) register(key idcodec.LookupKey, number uint64) {
	if number >= maxNumbers {
		return
	}
	half := [16]byte(key[:])
	for uint64(len(x.halves)) <= number/halvesAtOnce {
		x.halves = append(x.halves, x.memory.Get(16*halvesAtOnce))
	}
	copy(x.half(number), half[:])
	hash := x.hashAddr(half)
	at, _ := x.keys.Find(hash, func(r arena.Ref) bool { return x.halfOf(r) == half })
	x.keys.Set(at, arena.Ref(number+1), hash)
}

// Lookup implements lease.Store.
func (x *Index) Lookup(key idcodec.LookupKey) (uint64, error) {
	half := [16]byte(key[:])
	hash := x.hashAddr(half)
	if n := x.near.numbers[hash%nearby]; n != 0 && [16]byte(x.half(uint64(n)-1)) == half {
		return uint64(n) - 1, nil
	}
	if at, ok := x.keys.Find(hash, func(r arena.Ref) bool { return x.halfOf(r) == half }); ok {
		return uint64(x.keys.At(at)) - 1, nil
	}
	if x.loaded() && x.Subscribers() <= maxNumbers {
		return 0, lease.ErrNotFound
	}
	return x.Cache.Lookup(key)
}

// Register implements lease.Store.
func (x *Index) Register(key idcodec.LookupKey, nid idcodec.NID, at time.Time) (uint64, error) {
	n, err := x.Cache.Register(key, nid, at)
	if err == nil {
		x.register(key, n)
		x.unused.Set(uint(n - x.first))
	}
	return n, err
}

// Lease implements lease.Store.
func (x *Index) Lease(addr netip.Addr) (lease.Lease, error) {
	l, _, err := x.LeaseIn(addr, nil)
	return l, err
}

// LeaseIn is Lease of which what the lease points to is appended to buf, and is valid as long as
// the buffer is.
func (x *Index) LeaseIn(addr netip.Addr, buf []byte) (lease.Lease, []byte, error) {
	if r, ok := x.lease(addr.As16()); ok {
		_, b := x.block(r)
		x.record = x.unpack(x.record[:0], b[16:])
		return lease.ParseRecordIn(addr, x.record, buf)
	}
	if x.loaded() && !x.gone.has(x.hashAddr(addr.As16())) {
		return lease.Lease{}, buf, lease.ErrNotFound
	}
	l, err := x.Cache.Lease(addr)
	return l, buf, err
}

// ByClient implements lease.Store.
func (x *Index) ByClient(dst []netip.Addr, c lease.Client) ([]netip.Addr, error) {
	at, ok := x.findClient(c)
	if !ok {
		if x.loaded() && !x.gone.has(x.hashClient(c)) {
			return dst, nil
		}
		return x.Cache.ByClient(dst, c)
	}
	kind, b := x.block(x.clients.At(at))
	if kind == kindLease {
		return append(dst, netip.AddrFrom16([16]byte(b))), nil
	}
	for b = b[6+int(b[5]):]; len(b) >= 16; b = b[16:] {
		dst = append(dst, netip.AddrFrom16([16]byte(b)))
	}
	return dst, nil
}

// isUnused reports whether a subscriber is so new that it has neither addresses nor accounts.
func (x *Index) isUnused(number uint64) bool {
	return number >= x.first && x.unused.Test(uint(number-x.first))
}

func (x *Index) use(number uint64) {
	if number >= x.first {
		x.unused.Clear(uint(number - x.first))
	}
}

// BySubscriber implements lease.Store.
func (x *Index) BySubscriber(dst []netip.Addr, number uint64) ([]netip.Addr, error) {
	if x.isUnused(number) {
		return dst, nil
	}
	return x.Cache.BySubscriber(dst, number)
}

// Account implements lease.Store.
func (x *Index) Account(number uint64, p idcodec.Prefix) (lease.Account, error) {
	if x.isUnused(number) {
		return lease.Account{}, nil
	}
	return x.Cache.Account(number, p)
}

// Apply implements lease.Store.
func (x *Index) Apply(u *lease.Update) error {
	for i := range u.Lists {
		x.use(u.Lists[i].Subscriber)
	}
	for i := range u.Accounts {
		x.use(u.Accounts[i].Subscriber)
	}
	if err := x.Cache.ApplyBehind(u); err != nil {
		// What of it is stored, nobody knows.
		for i := range u.Put {
			x.forget(u.Put[i].Addr)
		}
		for i := range u.Delete {
			x.forget(u.Delete[i].Addr)
		}
		for i := range u.Clients {
			x.unfile(u.Clients[i].Client)
			x.gone.add(x.hashClient(u.Clients[i].Client))
		}
		return err
	}
	var now time.Time
	buf := make([]byte, 0, arena.MaxLen)
	for i := range u.Put {
		l := &u.Put[i]
		buf = lease.AppendRecord(buf[:0], l)
		x.put(l.Addr, buf)
		if l.Updated.After(now) {
			now = l.Updated
		}
	}
	for i := range u.Delete {
		x.forget(u.Delete[i].Addr)
	}
	for i := range u.Clients {
		buf = buf[:0]
		for _, a := range u.Clients[i].Addrs {
			raw := a.As16()
			buf = append(buf, raw[:]...)
		}
		x.fileAs(u.Clients[i].Client, buf)
	}
	if !now.IsZero() {
		x.sweep(now)
	}
	return nil
}

// sweep looks at one lease, and removes it if it ended long before now. With each change it is
// another's turn, but no sooner than it need be so that in an hour all have theirs: each is somewhere
// else in memory, which costs as much as the change. Of slots there are at most two and a half times as
// many as there were leases, so that where as many clients renew twice an hour it takes 75 minutes.
func (x *Index) sweep(now time.Time) {
	if d := now.Sub(x.last); d > 0 {
		slots := x.addrs.Slots()
		x.unswept = min(slots, x.unswept+int(float64(slots)*min(1, d.Hours())))
		x.last = now
	}
	if x.unswept == 0 {
		return
	}
	x.unswept--
	if x.swept++; x.swept >= x.addrs.Slots() {
		x.swept = 0
	}
	r := x.addrs.At(x.swept)
	if r == 0 {
		return
	}
	_, b := x.block(r)
	if packed(b[16:]).ends() <= uint64(max(0, now.Add(-keep).Unix())) {
		x.removeAt(x.swept)
	}
}
