package sava

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// MAC is an Ethernet address.
type MAC [6]byte

// IsZero reports whether m is no address.
func (m MAC) IsZero() bool { return m == MAC{} }

// Anchor is what a host cannot choose for itself (RFC 7039 §1, "binding
// anchor"), as far as the device sees it.
type Anchor struct {
	Port uint32 // the device's port, by interface index
	VLAN uint32 // outer tag << 16 | inner tag; 0 for none
	MAC  MAC
}

// Binding says from where an address may send, and until when. A zero Port means
// any port and a zero MAC any address, when the source of the binding does not
// know them; where VLAN counts, see AnyVLAN. When both are zero, the address is
// leased but nobody knows to whom: it may not be used until [Snooper] finds out.
type Binding struct {
	Anchor
	AnyVLAN bool
	Until   time.Time
}

// Limits on what hosts can make grow.
const (
	// DefaultLimit is how many bindings a table holds unless told otherwise.
	DefaultLimit = 1 << 20

	// maxLocal is how many link-local addresses one port may claim.
	maxLocal = 32
)

// localIdle is how long a link-local address stays claimed by a port that does
// not use it.
const localIdle = time.Hour

// ErrTableFull says that a table holds as many bindings as it may. Those in it
// stay.
var ErrTableFull = errors.New("the binding table is full")

// Mirror is told of every change to a table, before the change is made: it has
// bindings where frames pass by themselves. An error keeps the change from being
// made.
type Mirror interface {
	Bind(addr netip.Addr, b Binding) error
	Unbind(addr netip.Addr) error
}

// noMirror is the mirror of a table that has none.
type noMirror struct{}

func (noMirror) Bind(netip.Addr, Binding) error { return nil }
func (noMirror) Unbind(netip.Addr) error        { return nil }

// Table is a set of bindings of addresses and, under the addresses that stand for them
// (see [KeyOf]), of delegated prefixes. It is safe for concurrent use; a change is seen
// by every lookup that begins after it.
type Table struct {
	limit   int
	mirror  Mirror
	lengths lengths

	mu    sync.Mutex // of writers
	index atomic.Pointer[index]

	// Link-local addresses belong to who uses them first (RFC 6620 §3).
	localMu sync.Mutex
	local   map[netip.Addr]claim
	claims  map[uint32]int // by port
}

type claim struct {
	anchor   Anchor
	used     time.Time
	mirrored time.Time
}

// NewTable returns an empty table of at most limit bindings; 0 means
// DefaultLimit. mirror, if not nil, is told of its changes.
func NewTable(limit int, mirror Mirror) *Table {
	if limit == 0 {
		limit = DefaultLimit
	}
	if mirror == nil {
		mirror = noMirror{}
	}
	t := &Table{limit: limit, mirror: mirror, local: make(map[netip.Addr]claim), claims: make(map[uint32]int)}
	t.index.Store(newIndex(0))
	return t
}

// Bind adds or replaces the binding of an address.
func (t *Table) Bind(addr netip.Addr, b Binding) error {
	return t.Change(addr, func(Binding, bool) (Binding, bool) { return b, true })
}

// Change makes the binding of an address what f makes of it, and nobody changes it
// meanwhile. f gets the binding, if there is one, and returns whether there shall
// be one.
func (t *Table) Change(addr netip.Addr, f func(old Binding, bound bool) (b Binding, bind bool)) error {
	hi, lo := words(addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.index.Load()
	var old entry
	var was Binding
	bound := x.find(hi, lo, &old)
	if bound {
		was = old.binding()
	}
	b, bind := f(was, bound)
	switch {
	case !bind && !bound:
		return nil
	case !bind:
		if err := t.mirror.Unbind(addr); err != nil {
			return err
		}
		x.remove(hi, lo)
		return nil
	case !bound && x.live >= t.limit:
		return ErrTableFull
	}
	e := makeEntry(addr, b)
	if bound && e == old {
		return nil
	}
	if p, ok := PrefixOf(addr); ok && !bound {
		if err := t.lengths.add(p.Bits()); err != nil {
			return err
		}
	}
	if err := t.mirror.Bind(addr, b); err != nil {
		return err
	}
	if !bound && x.used >= len(x.slots)/2 {
		x = t.rebuild(x)
	}
	x.put(&e)
	return nil
}

// rebuild makes an index without deleted slots and with room to grow. Readers of
// the old one finish with it.
func (t *Table) rebuild(old *index) *index {
	x := newIndex(2 * (old.live + 1))
	old.each(func(e *entry) bool { x.put(e); return true })
	t.index.Store(x)
	return x
}

// Unbind removes the binding of an address.
func (t *Table) Unbind(addr netip.Addr) error {
	return t.Change(addr, func(b Binding, _ bool) (Binding, bool) { return b, false })
}

// Lookup returns the binding of an address, which may have expired.
func (t *Table) Lookup(addr netip.Addr) (Binding, bool) {
	hi, lo := words(addr)
	var e entry
	if !t.index.Load().find(hi, lo, &e) {
		return Binding{}, false
	}
	return e.binding(), true
}

// Len returns how many bindings there are, expired ones among them.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.index.Load().live
}

// Each calls f with every binding, until it returns false. The table may change
// meanwhile; a binding that changes may be seen as it was or as it is.
func (t *Table) Each(f func(netip.Addr, Binding) bool) {
	t.index.Load().each(func(e *entry) bool { return f(e.addr(), e.binding()) })
}

// Expire removes bindings that ended before a time, and claims to link-local
// addresses that nobody uses. It returns how many bindings it removed.
func (t *Table) Expire(before time.Time) int {
	t.mu.Lock()
	x := t.index.Load()
	n := x.live
	x.each(func(e *entry) bool {
		if int64(e.until) < before.UnixNano() && t.mirror.Unbind(e.addr()) == nil {
			x.remove(e.hi, e.lo)
		}
		return true
	})
	n -= x.live
	t.mu.Unlock()

	t.localMu.Lock()
	defer t.localMu.Unlock()
	for a, c := range t.local {
		if before.Sub(c.used) > localIdle {
			t.drop(a, c)
		}
	}
	return n
}

// drop takes a claim away, unless the mirror cannot.
func (t *Table) drop(a netip.Addr, c claim) bool {
	if t.mirror.Unbind(a) != nil {
		return false
	}
	delete(t.local, a)
	if t.claims[c.anchor.Port]--; t.claims[c.anchor.Port] == 0 {
		delete(t.claims, c.anchor.Port)
	}
	return true
}

// claimLocal claims a link-local address for an anchor, or tells that another
// has it or that the port has too many.
func (t *Table) claimLocal(addr netip.Addr, a Anchor, now time.Time) Reason {
	t.localMu.Lock()
	defer t.localMu.Unlock()
	c, taken := t.local[addr]
	switch {
	case taken && c.anchor == a:
		c.used = now
		return t.claim(addr, c)
	case taken && (now.Sub(c.used) <= localIdle || !t.drop(addr, c)):
		return WrongAnchor
	}
	if t.claims[a.Port] >= maxLocal {
		return Unbound
	}
	if r := t.claim(addr, claim{anchor: a, used: now}); r != Valid {
		return r
	}
	t.claims[a.Port]++
	return Valid
}

// Adopt takes a binding over that a mirror has kept, of a leased or of a
// link-local address.
func (t *Table) Adopt(addr netip.Addr, b Binding, now time.Time) error {
	if !addr.IsLinkLocalUnicast() {
		return t.Bind(addr, b)
	}
	if t.claimLocal(addr, b.Anchor, now) != Valid {
		return ErrTableFull
	}
	return nil
}

// moveLocal takes a link-local address from who claimed it and gives it to another
// anchor.
func (t *Table) moveLocal(addr netip.Addr, a Anchor, now time.Time) {
	t.localMu.Lock()
	c, taken := t.local[addr]
	moved := !taken || t.drop(addr, c)
	t.localMu.Unlock()
	if moved {
		t.claimLocal(addr, a, now)
	}
}

// claim files a claim, and tells the mirror if it has not heard of it lately.
func (t *Table) claim(addr netip.Addr, c claim) Reason {
	if c.used.Sub(c.mirrored) > localIdle/4 {
		if t.mirror.Bind(addr, Binding{Anchor: c.anchor, Until: c.used.Add(localIdle)}) != nil {
			return Unbound
		}
		c.mirrored = c.used
	}
	t.local[addr] = c
	return Valid
}
