// Package lease keeps the ISP's registry of subscribers and their leases with
// history, and decides which address a client gets.
//
// [Store] is what a database must do; pebblestore is the embedded one.
// [Allocator] is the policy on top of it. Neither ever sees an EID: a subscriber
// is a lookup key, a number and an NID.
package lease

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"brightgid/idcodec"
)

// State tells what became of a lease. An active lease whose valid lifetime has
// passed is over without a change of state.
type State uint8

const (
	Active   State = 1
	Released State = 2 // given back by the client
	Declined State = 3 // in use by somebody else on the link, said the client

	// Registered is a lease that is none: an address that the client made itself and
	// told of (RFC 9686). When it ends it keeps this state.
	Registered State = 4
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Released:
		return "released"
	case Declined:
		return "declined"
	case Registered:
		return "registered"
	}
	return "unknown"
}

// MaxDUIDLen is the length in bytes of the longest DUID (RFC 9915 §11.1: a type
// of 2 bytes and at most 128 more).
const MaxDUIDLen = 130

// MaxLinkLayerLen is the length in bytes of the longest link-layer address that
// is kept.
const MaxLinkLayerLen = 16

// Client is an identity association of a client: whom DHCPv6 leases to.
type Client struct {
	DUID []byte
	IAID uint32
	PD   bool // an IA_PD, whose IAIDs are others than those of IA_NAs (RFC 9915 §4.2)
}

// Is reports whether two identity associations are the same.
func (c Client) Is(d Client) bool {
	return c.IAID == d.IAID && c.PD == d.PD && bytes.Equal(c.DUID, d.DUID)
}

// Anchor is where a lease may be used from, as far as the server knows.
type Anchor struct {
	LinkLayer []byte     // from RFC 6939's option or the DUID; may be empty
	Relay     netip.Addr // the relay that spoke for the client; zero for none

	// RelayID is the DUID by which a relay names itself (RFC 5460 §5.4.1), and RemoteID
	// what [RemoteIDLen] bytes a keyed hash makes of the line that it names (RFC 4649),
	// which may be a name. Both are for who asks by them; empty if they are not kept.
	RelayID  []byte
	RemoteID []byte
}

// equal reports whether two are the same place.
func (a *Anchor) equal(b *Anchor) bool {
	return a.Relay == b.Relay && bytes.Equal(a.LinkLayer, b.LinkLayer) && bytes.Equal(a.RelayID, b.RelayID) && bytes.Equal(a.RemoteID, b.RemoteID)
}

// RemoteIDLen is the length in bytes of a Remote-ID's hash.
const RemoteIDLen = 16

// Lease is one interval in which a client held an address or a prefix. Times are
// whole seconds.
type Lease struct {
	Addr       netip.Addr // the first of a delegated prefix
	Bits       uint8      // length of a delegated prefix; 0 for an address
	Subscriber uint64
	Slot       uint16
	Epoch      uint32
	State      State
	Client     Client
	Anchor     Anchor

	Born           time.Time // when the address was first leased; its age counts from here
	Start          time.Time // when this interval began
	Updated        time.Time // the client's last transaction (RFC 5007 §4.1.2.3)
	PreferredUntil time.Time
	ValidUntil     time.Time // when the interval ends, or ended
}

// Prefix returns what is leased: a delegated prefix, or one of 128 bits.
func (l *Lease) Prefix() netip.Prefix {
	if l.Bits == 0 {
		return netip.PrefixFrom(l.Addr, 128)
	}
	return netip.PrefixFrom(l.Addr, int(l.Bits))
}

// Live reports whether the lease holds at t.
func (l *Lease) Live(t time.Time) bool {
	return (l.State == Active || l.State == Registered) && t.Before(l.ValidUntil)
}

// Holds reports whether nobody else may have what is leased at t: it is live or set
// aside.
func (l *Lease) Holds(t time.Time) bool { return l.State != Released && t.Before(l.ValidUntil) }

// Overlaps reports whether the lease held at some time from from to until, both
// included.
func (l *Lease) Overlaps(from, until time.Time) bool {
	return l.State != Declined && !l.Start.After(until) && l.ValidUntil.After(from)
}

var (
	// ErrNotFound says that a store has no such record.
	ErrNotFound = errors.New("not found")

	// ErrConflict says that a change was not made, since another server has changed
	// meanwhile what it was decided on.
	ErrConflict = errors.New("another server was there before")

	// ErrAway says that a store cannot be asked for the time being.
	ErrAway = errors.New("the lease database is away")

	// ErrFull says that a registry has handed out every subscriber number.
	ErrFull = errors.New("the registry is full: no subscriber number is left")
)

// Subscriber is a registry entry.
type Subscriber struct {
	Number     uint64
	NID        idcodec.NID
	Registered time.Time
}

// Store is a database of subscribers and leases. A delegated prefix is filed under its
// first address, which is no address that is leased alone.
//
// A write is visible to reads as soon as the call returns, and durable when a
// [Barrier] taken after it has been waited for. Reads may run beside anything;
// writes come from one goroutine at a time, which is the caller's to arrange.
type Store interface {
	// Lookup returns the subscriber number of a lookup key, or ErrNotFound.
	Lookup(key idcodec.LookupKey) (uint64, error)

	// Register files a new subscriber under the next number.
	Register(key idcodec.LookupKey, nid idcodec.NID, at time.Time) (uint64, error)

	// Subscriber returns an entry of the registry, or ErrNotFound.
	Subscriber(number uint64) (Subscriber, error)

	// Subscribers returns the registry's end: all numbers that were handed out are below
	// it. Where servers share a registry some below it were not.
	Subscribers() uint64

	// Lease returns the newest lease of an address, or ErrNotFound.
	Lease(addr netip.Addr) (Lease, error)

	// History appends all leases of an address to dst, the newest first.
	History(dst []Lease, addr netip.Addr) ([]Lease, error)

	// Within appends up to limit addresses of a prefix that were leased at some
	// time from from to until, both included, in their order, each once.
	Within(dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error)

	// ByClient appends the addresses that are filed under a client.
	ByClient(dst []netip.Addr, c Client) ([]netip.Addr, error)

	// BySubscriber appends the addresses that are filed under a subscriber.
	BySubscriber(dst []netip.Addr, number uint64) ([]netip.Addr, error)

	// Lengths returns the lengths of the delegated prefixes that were ever filed, the
	// longest first. It is the caller's to read only.
	Lengths() []uint8

	// Account returns what a subscriber has used of a prefix; the zero
	// Account if nothing.
	Account(subscriber uint64, p idcodec.Prefix) (Account, error)

	// Apply makes the changes of an update, all or none.
	Apply(u *Update) error

	// Old returns up to limit leases, history included, whose addresses are
	// of epochs before the given one. after, the last answer of the call
	// before, is where to go on; next is nil at the end. It may return fewer, or none,
	// before the end, so as not to take long.
	Old(before uint32, after []byte, limit int) (old []Lease, next []byte, err error)

	// Each calls f with the newest lease of every address in order, until f
	// returns an error, which it returns. The lease is f's to keep.
	Each(f func(Lease) error) error

	// Barrier stands for everything that was written before it.
	Barrier() Barrier

	Close() error
}

// Foreseen is of whom messages are that will be handled together, as far as that can be told
// beforehand, so that what they need can be fetched at once: from a store that is far away, or
// from memory that is not in the processor's caches.
type Foreseen struct {
	Keys    []idcodec.LookupKey
	Clients []Client
	Whose   []int // of each client: which of the keys is that of who is behind it, or -1
}

// Reset forgets all.
func (f *Foreseen) Reset() {
	f.Keys, f.Clients, f.Whose = f.Keys[:0], f.Clients[:0], f.Whose[:0]
}

// Prefixes is what tells of delegated prefixes; a [Store] does.
type Prefixes interface {
	Lengths() []uint8
	Lease(addr netip.Addr) (Lease, error)
}

// Covering returns the newest lease of the address, or else of a delegated prefix that
// it is in, one that holds at t before others. It returns ErrNotFound for neither.
func Covering(s Prefixes, addr netip.Addr, t time.Time) (found Lease, err error) {
	found, err = s.Lease(addr)
	if err == nil && found.Live(t) || err != nil && !errors.Is(err, ErrNotFound) {
		return found, err
	}
	known := err == nil
	for _, bits := range s.Lengths() {
		first := netip.PrefixFrom(addr, int(bits)).Masked().Addr()
		l, err := s.Lease(first)
		switch {
		case errors.Is(err, ErrNotFound) || err == nil && l.Bits != bits:
		case err != nil:
			return Lease{}, err
		case l.Live(t):
			return l, nil
		case !known:
			found, known = l, true
		}
	}
	if !known {
		return Lease{}, ErrNotFound
	}
	return found, nil
}

// Barrier is a point in a store's stream of writes.
type Barrier interface {
	// Wait returns when all writes before the barrier are on disk.
	Wait() error

	// Settled reports whether it is known what Wait returns, so that it returns at once.
	Settled() bool
}

// Update is a set of changes to leases. The zero Update changes nothing; Reset
// makes it that again.
type Update struct {
	Put      []Lease       // the newest lease of its address
	Archive  []Lease       // a lease that ended and that another follows
	Delete   []Lease       // a lease to forget; its Addr and Start name it
	Clients  []ClientList  // which addresses are filed under a client
	Lists    []AddressList // which addresses are filed under a subscriber
	Accounts []AccountChange

	// Known says that each address of Put has a lease already, as when it is renewed. A store may
	// rest on it.
	Known bool
}

// ClientList files addresses under a client; none removes the entry.
type ClientList struct {
	Client Client
	Addrs  []netip.Addr
}

// AddressList files addresses under a subscriber; none removes the entry.
type AddressList struct {
	Subscriber uint64
	Addrs      []netip.Addr
}

// Account is what a subscriber has used of a prefix.
type Account struct {
	Epoch uint32    // the epoch that Slot is of
	Slot  uint16    // where the search for a free slot begins
	Even  time.Time // when no new lease is on the account; see [Allocator]
}

// AccountChange is a new Account of a subscriber in a prefix.
type AccountChange struct {
	Subscriber uint64
	Prefix     idcodec.Prefix
	Account    Account
}

// Reset empties u and keeps its memory.
func (u *Update) Reset() {
	u.Put, u.Archive, u.Delete = u.Put[:0], u.Archive[:0], u.Delete[:0]
	u.Clients, u.Lists, u.Accounts = u.Clients[:0], u.Lists[:0], u.Accounts[:0]
	u.Known = false
}
