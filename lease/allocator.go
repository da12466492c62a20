package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"brightgid/idcodec"
)

// slotTries bounds the search for a free slot, and with it what one message can
// cost. Pools, which are meant to be full, are searched longer; once in vain, not for
// exhaustedFor.
const (
	slotTries    = 64
	poolTries    = 1 << 12
	exhaustedFor = 10 * time.Second
)

// maxPerClient is how many addresses stay filed under one identity association:
// a current and an ageing one in each prefix of a link.
const maxPerClient = 2 * MaxPrefixes

// MaxPrefixes is how many prefixes a link may have, and how many pools.
const MaxPrefixes = 8

// A subscriber may begin StartBurst leases in a prefix at once, and one every
// StartEvery after that. Each leaves a record behind for as long as its epoch is
// kept, so that a client which asks and releases for ever must not fill the disk.
const (
	StartBurst = 256
	StartEvery = 10 * time.Second
)

var (
	// ErrTooMany says that a subscriber holds as many addresses as the
	// policy allows.
	ErrTooMany = errors.New("the subscriber holds as many addresses as it may")

	// ErrTooFast says that a subscriber begins leases faster than it may.
	ErrTooFast = errors.New("the subscriber begins leases faster than it may")

	// ErrNoSlot says that no slot of the subscriber is free in this prefix
	// and epoch.
	ErrNoSlot = errors.New("no free slot in this prefix until the next epoch")

	// ErrTaken says that an address cannot be registered: it is leased, set aside, or
	// registered by another subscriber.
	ErrTaken = errors.New("the address is not the client's to register")
)

// Policy is how long and how many. Durations are whole seconds.
type Policy struct {
	Preferred     time.Duration // lifetimes of a fresh lease
	Valid         time.Duration
	MaxAge        time.Duration // an address is renewed up to this age
	DeclineHold   time.Duration // a declined address is set aside for so long
	PerSubscriber int           // addresses that one subscriber may hold at once

	// CacheThreshold is the part of its preferred lifetime, 0 to 1, in which a lease that the
	// client asks for again is granted as it is, with what is left of its lifetimes, and not
	// written. 0 has every grant begin both anew.
	CacheThreshold float64
}

// Keys gives the codec of an epoch; *idcodec.Keyring does.
type Keys interface {
	EpochAt(t time.Time) (uint32, error)
	Key(epoch uint32) (*idcodec.EpochKey, error)
}

// Pool is a pool of prefixes with the policy that holds for them.
type Pool struct {
	idcodec.Pool
	Policy Policy
	Name   string // of a pool for those only to whom it is given by name; empty for all
	Drain  bool   // nothing is delegated from it any more, and what is runs out

	// Excluded is what the router that a prefix is delegated to has to leave to the link before it
	// (RFC 6603), the same part of each: a prefix in "::/Bits". The zero Prefix is for none.
	Excluded netip.Prefix
}

// Check returns an error if a pool cannot be one.
func (p *Pool) Check() error {
	if err := p.Pool.Check(); err != nil || p.Excluded == (netip.Prefix{}) {
		return err
	}
	all := netip.PrefixFrom(netip.IPv6Unspecified(), int(p.Bits))
	if !p.Excluded.IsValid() || p.Excluded.Masked() != p.Excluded || p.Excluded.Bits() <= all.Bits() || !all.Contains(p.Excluded.Addr()) {
		return fmt.Errorf("pool %s: excluded %s: want a prefix in %s, longer than it and without host bits", p.Prefix, p.Excluded, all)
	}
	return nil
}

// Grant is an address or a prefix for a client, with the lifetimes that it is told.
type Grant struct {
	Addr      netip.Addr // the first of a delegated prefix
	Bits      uint8      // length of a delegated prefix; 0 for an address
	Preferred time.Duration
	Valid     time.Duration
}

// Allocator decides which address a client gets and files it. It is not safe for
// concurrent use; its results hold until the next call.
type Allocator struct {
	store  Store
	near   nearStore   // the store, or nil
	cutOff cutOffStore // the same
	keys   Keys
	policy Policy

	observe func(Lease)
	cached  atomic.Uint64
	update  Update
	addrs   []netip.Addr
	known   []Lease
	buf     []byte // what the known leases point to
	grants  []Grant
	places  []place

	firstSlot, slots uint16        // that new leases may have
	apart            time.Duration // see Apart

	exhausted map[netip.Prefix]time.Time // pools, and until when they are not searched to the end
}

// place is what leases are made in: a prefix of the link, where a client gets an
// address, or a pool.
type place struct {
	within netip.Prefix
	bits   uint8 // length of what is delegated; 0 for addresses
	policy *Policy
	drain  bool // leases run out in it
}

// fixed reports whether the place is one prefix.
func (p *place) fixed() bool { return int(p.bits) == p.within.Bits() }

// has reports whether a lease is of the place.
func (p *place) has(l *Lease) bool { return l.Bits == p.bits && p.within.Contains(l.Addr) }

// account is under what a subscriber's use of the place is filed.
func (p *place) account() idcodec.Prefix { return idcodec.PrefixOf(p.within.Addr()) }

// NewAllocator returns an allocator over a store.
func NewAllocator(store Store, keys Keys, policy Policy) *Allocator {
	near, _ := store.(nearStore)
	cutOff, _ := store.(cutOffStore)
	return &Allocator{store: store, near: near, cutOff: cutOff, keys: keys, policy: policy, slots: idcodec.MaxSlot + 1, exhausted: make(map[netip.Prefix]time.Time)}
}

// Split has new addresses be of the part-th of so many parts of each subscriber's slots, so
// that servers which share a store and have a part each lease what no other of them does.
// Prefixes, of which there are fewer, are only looked for from different places on.
func (a *Allocator) Split(part, parts int) {
	a.slots = uint16((idcodec.MaxSlot + 1) / parts)
	a.firstSlot = uint16(part) * a.slots
}

// Apart says how far the clocks of servers that share the store may be from one another. What was a client's and is over
// goes to another client only after that, since by another server's clock it may hold.
func (a *Allocator) Apart(by time.Duration) { a.apart = by }

// nextSlot returns the slot after one.
func (a *Allocator) nextSlot(slot uint16, p *place) uint16 {
	if slot++; p.bits == 0 && slot-a.firstSlot >= a.slots {
		return a.firstSlot
	}
	return slot
}

// SetPolicy has another policy hold from now on; leases are as they are until they are
// renewed.
func (a *Allocator) SetPolicy(p Policy) { a.policy = p }

// Observe has f called with every lease that changes, before it is durable. What
// the lease points to is f's only during the call.
func (a *Allocator) Observe(f func(Lease)) { a.observe = f }

// apply makes the changes of the update and tells who observes.
func (a *Allocator) apply() error {
	if err := a.store.Apply(&a.update); err != nil {
		return err
	}
	if a.observe != nil {
		for i := range a.update.Put {
			a.observe(a.update.Put[i])
		}
	}
	return nil
}

// Request names an identity association and where it is.
type Request struct {
	Subscriber uint64
	Client     Client
	Anchor     Anchor
	Policy     *Policy          // for addresses on the client's link; nil for the allocator's
	Prefixes   []idcodec.Prefix // of the client's link
	Draining   []idcodec.Prefix // of the link, in which addresses run out
	Pools      []Pool           // of the client's link, for an IA_PD
	Length     uint8            // of the prefix that an IA_PD would like; 0 for any
	Fixed      netip.Prefix     // that an IA_PD gets and no other, if valid; it does not age
}

// gather finds the places that a client may have leases in: for addresses all prefixes
// of the link, for prefixes all pools.
func (a *Allocator) gather(r *Request) {
	a.places = a.places[:0]
	policy := a.policyOf(r)
	if !r.Client.PD {
		for _, p := range r.Prefixes {
			a.places = append(a.places, place{within: p.Netip(), policy: policy})
		}
		for _, p := range r.Draining {
			a.places = append(a.places, place{within: p.Netip(), policy: policy, drain: true})
		}
		return
	}
	if r.Fixed.IsValid() {
		a.places = append(a.places, place{within: r.Fixed, bits: uint8(r.Fixed.Bits()), policy: policy})
		return
	}
	for i := range r.Pools {
		p := &r.Pools[i]
		a.places = append(a.places, place{p.Prefix, p.Bits, &p.Policy, p.Drain})
	}
}

// policyOf returns the policy for addresses.
func (a *Allocator) policyOf(r *Request) *Policy {
	if r.Policy != nil {
		return r.Policy
	}
	return &a.policy
}

// onLink reports whether a lease is in one of the places.
func (a *Allocator) onLink(l *Lease) bool {
	for i := range a.places {
		if a.places[i].has(l) {
			return true
		}
	}
	return false
}

// choose leaves the one pool that a prefix is leased from: where the client has one, or
// that whose prefixes are as long as it would like, the next shorter or the next longer
// (RFC 8168 §3.2).
func (a *Allocator) choose(r *Request, known []Lease) {
	best := -1
	rank := func(p *place) int {
		for i := range known {
			if l := &known[i]; p.has(l) && l.Subscriber == r.Subscriber && l.State == Active {
				return -1
			}
		}
		switch {
		case r.Length == 0:
			return 0
		case p.bits > r.Length:
			return 256 + int(p.bits-r.Length)
		}
		return int(r.Length - p.bits)
	}
	a.places = slices.DeleteFunc(a.places, func(p place) bool { return p.drain })
	for i := range a.places {
		if best < 0 || rank(&a.places[i]) < rank(&a.places[best]) {
			best = i
		}
	}
	if best >= 0 {
		a.places[0] = a.places[best]
		a.places = a.places[:1]
	}
}

// Offer returns what Assign would, and writes nothing.
func (a *Allocator) Offer(now time.Time, r *Request) ([]Grant, error) {
	return a.assign(now, r, false, false)
}

// Assign leases one address in each prefix: the one that the client has, while
// it lives, and a new one otherwise. For an IA_PD it leases one prefix, of one pool.
func (a *Allocator) Assign(now time.Time, r *Request) ([]Grant, error) {
	return a.assign(now, r, true, false)
}

// Renew extends the client's leases. Where an address is too old for a full
// preferred lifetime a new one is leased beside it and the old one runs out, as
// RFC 8981 §3.4 does with temporary addresses. It returns ErrNotFound when the
// client has no lease on the link that lives.
func (a *Allocator) Renew(now time.Time, r *Request) ([]Grant, error) {
	grants, err := a.renew(now, r)
	if s, ok := a.store.(refresher); ok && errors.Is(err, ErrNotFound) {
		s.Refresh(r.Client)
		return a.renew(now, r)
	}
	return grants, err
}

// refresher is a store whose reads may be old; Refresh has the next ones of a client be new.
type refresher interface{ Refresh(c Client) }

func (a *Allocator) renew(now time.Time, r *Request) ([]Grant, error) {
	now = now.Truncate(time.Second)
	known, err := a.leases(r.Client)
	if err != nil {
		return nil, err
	}
	a.gather(r)
	for i := range known {
		if known[i].State == Active && known[i].Live(now) && known[i].Subscriber == r.Subscriber && a.onLink(&known[i]) {
			return a.assignTo(now, r, known, true, true)
		}
	}
	return nil, ErrNotFound
}

// nearStore is a store that has leases in memory. LeaseIn is Lease of which what the lease points to is
// appended to buf, so that to read a lease makes no garbage.
type nearStore interface {
	LeaseIn(addr netip.Addr, buf []byte) (Lease, []byte, error)
}

// cutOffStore is a store that may promise that leases are extended while it cannot store that.
type cutOffStore interface{ CutOff() bool }

// leases returns the newest lease of each address that is filed under a client. They are valid
// until the next call.
func (a *Allocator) leases(c Client) ([]Lease, error) {
	var err error
	if a.addrs, err = a.store.ByClient(a.addrs[:0], c); err != nil {
		return nil, err
	}
	known := a.known[:0]
	a.buf = a.buf[:0]
	for _, addr := range a.addrs {
		var l Lease
		if a.near != nil {
			l, a.buf, err = a.near.LeaseIn(addr, a.buf)
		} else {
			l, err = a.store.Lease(addr)
		}
		if errors.Is(err, ErrNotFound) {
			continue // forgotten since
		}
		if err != nil {
			return nil, err
		}
		if l.Client.Is(c) {
			known = append(known, l) // else leased to another client since
		}
	}
	a.known = known
	return known, nil
}

func (a *Allocator) assign(now time.Time, r *Request, commit, ageing bool) ([]Grant, error) {
	now = now.Truncate(time.Second)
	known, err := a.leases(r.Client)
	if err != nil {
		return nil, err
	}
	return a.assignTo(now, r, known, commit, ageing)
}

// assignTo is assign for a client whose leases are known.
func (a *Allocator) assignTo(now time.Time, r *Request, known []Lease, commit, ageing bool) ([]Grant, error) {
	a.grants = a.grants[:0]
	a.update.Reset()
	a.gather(r)
	if r.Client.PD {
		a.choose(r, known)
		if len(a.places) == 0 && !ageing {
			return nil, ErrNoSlot
		}
	}
	fresh := 0
	for i := range a.places {
		p := &a.places[i]
		if p.drain {
			continue
		}
		current := -1
		for i := range known {
			l := &known[i]
			if p.has(l) && l.Subscriber == r.Subscriber && l.State != Declined && l.State != Registered &&
				(p.fixed() || l.Born.Add(p.policy.MaxAge).Sub(now) >= p.policy.Preferred) &&
				(current < 0 || l.Born.After(known[current].Born)) {
				if p.bits != 0 && !l.Live(now) {
					// A pool may have been divided otherwise, and back, meanwhile.
					free, _, err := a.free(now, r, l.Addr, p)
					if err != nil {
						return nil, err
					}
					if !free {
						continue
					}
				}
				current = i
			}
		}
		if current >= 0 {
			if err := a.extend(now, r, p, &known[current]); err != nil {
				return nil, err
			}
			continue
		}
		if err := a.lease(now, r, p, fresh); err != nil {
			return nil, err
		}
		fresh++
	}
	if ageing {
		a.gather(r) // any on the link, not only in the pool that was chosen
		for i := range known {
			a.age(now, r, &known[i])
		}
	}
	if !commit || len(a.update.Put) == 0 {
		return a.grants, nil
	}
	if fresh > 0 || len(a.update.Archive) > 0 {
		a.file(now, r, known)
	}
	a.update.Known = fresh == 0
	if err := a.apply(); err != nil {
		return nil, err
	}
	return a.grants, nil
}

// extend grants a lease that the client has, or had, anew, or as it is where that will do.
func (a *Allocator) extend(now time.Time, r *Request, p *place, l *Lease) error {
	if asItIs(now, r, p, l) {
		a.cached.Add(1)
		a.grants = append(a.grants, Grant{l.Addr, l.Bits, l.PreferredUntil.Sub(now), l.ValidUntil.Sub(now)})
		return nil
	}
	if p.bits != 0 && a.cutOff != nil && a.cutOff.CutOff() {
		// What is not stored another server does not know, which gives a prefix that has run out to somebody else.
		return ErrAway
	}
	if !l.Live(now) {
		account, err := a.begin(now, r.Subscriber, p.account())
		if err != nil {
			return err
		}
		a.update.Accounts = append(a.update.Accounts, AccountChange{r.Subscriber, p.account(), account})
		a.update.Archive = append(a.update.Archive, *l)
		l.Start = now
	}
	if p.fixed() {
		if err := a.again(now, l); err != nil {
			return err
		}
	}
	l.State = Active
	l.Updated = now
	l.Anchor = r.Anchor
	valid := min(p.policy.Valid, l.Born.Add(p.policy.MaxAge).Sub(now))
	l.PreferredUntil = now.Add(p.policy.Preferred)
	l.ValidUntil = now.Add(valid)
	a.update.Put = append(a.update.Put, *l)
	a.grants = append(a.grants, Grant{l.Addr, l.Bits, p.policy.Preferred, valid})
	return nil
}

// asItIs reports whether a lease is so new that it need not be written again: it is as the
// policy would have it, for a client that is where it was.
func asItIs(now time.Time, r *Request, p *place, l *Lease) bool {
	age := now.Sub(l.Updated)
	return age >= 0 && float64(age) < p.policy.CacheThreshold*float64(p.policy.Preferred) &&
		l.State == Active && l.Live(now) && !p.fixed() && l.Anchor.equal(&r.Anchor) &&
		l.PreferredUntil.Equal(l.Updated.Add(p.policy.Preferred)) &&
		l.ValidUntil.Sub(l.Updated) == min(p.policy.Valid, l.Born.Add(p.policy.MaxAge).Sub(l.Updated))
}

// Cached returns how many leases were granted as they were; see [Policy]'s CacheThreshold. It may
// be called beside other calls.
func (a *Allocator) Cached() uint64 { return a.cached.Load() }

// again begins the interval of a fixed prefix anew where another epoch has begun, so that
// it is forgotten like others.
func (a *Allocator) again(now time.Time, l *Lease) error {
	epoch, err := a.keys.EpochAt(now)
	if err != nil {
		return err
	}
	if l.Live(now) && l.Epoch != epoch && !l.Start.Equal(now) {
		before := *l
		before.ValidUntil, before.PreferredUntil = now, earlier(l.PreferredUntil, now)
		a.update.Archive = append(a.update.Archive, before)
		l.Start = now
	}
	l.Born, l.Epoch = now, epoch
	return nil
}

// begin puts a new lease on a subscriber's account, or returns ErrTooFast. The
// account is a leaky bucket that is known by when it is empty.
func (a *Allocator) begin(now time.Time, subscriber uint64, p idcodec.Prefix) (Account, error) {
	account, err := a.store.Account(subscriber, p)
	if err != nil {
		return Account{}, err
	}
	if account.Even.Before(now) {
		account.Even = now
	}
	account.Even = account.Even.Add(StartEvery)
	if account.Even.Sub(now) > StartBurst*StartEvery {
		return Account{}, ErrTooFast
	}
	return account, nil
}

// age lets a live lease that is on the link but not granted run out.
func (a *Allocator) age(now time.Time, r *Request, l *Lease) {
	if l.State != Active || !l.Live(now) || l.Subscriber != r.Subscriber || !a.onLink(l) ||
		slices.ContainsFunc(a.grants, func(g Grant) bool { return g.Addr == l.Addr }) {
		return
	}
	if l.PreferredUntil.After(now) {
		l.PreferredUntil = now
	}
	l.Updated = now
	a.update.Put = append(a.update.Put, *l)
	a.grants = append(a.grants, Grant{l.Addr, l.Bits, 0, l.ValidUntil.Sub(now)})
}

// lease grants an address or a prefix that the client never had. fresh is how many the
// same call has granted already.
func (a *Allocator) lease(now time.Time, r *Request, p *place, fresh int) error {
	held, err := a.held(now, r.Subscriber, p.bits != 0)
	if err != nil {
		return err
	}
	if len(held)+fresh >= p.policy.PerSubscriber {
		return ErrTooMany
	}
	epoch, err := a.keys.EpochAt(now)
	if err != nil {
		return err
	}
	key, err := a.keys.Key(epoch)
	if err != nil {
		return err
	}
	account, err := a.begin(now, r.Subscriber, p.account())
	if err != nil {
		return err
	}
	if account.Epoch != epoch {
		account.Epoch, account.Slot = epoch, a.firstSlot
	}
	if p.bits == 0 && account.Slot-a.firstSlot >= a.slots {
		account.Slot = a.firstSlot // they were split otherwise before
	}
	for range a.tries(now, p) {
		slot := account.Slot
		addr, reserved, err := a.candidate(key, r.Subscriber, slot, p)
		if err != nil {
			return err
		}
		account.Slot = a.nextSlot(slot, p)
		free, before, err := a.free(now, r, addr, p)
		if err != nil {
			return err
		}
		if !free || reserved {
			continue
		}
		l := Lease{
			Addr: addr, Bits: p.bits, Subscriber: r.Subscriber, Slot: slot, Epoch: epoch, State: Active,
			Client: r.Client, Anchor: r.Anchor,
			Born: now, Start: now, Updated: now,
			PreferredUntil: now.Add(p.policy.Preferred), ValidUntil: now.Add(p.policy.Valid),
		}
		if before != nil {
			a.update.Archive = append(a.update.Archive, *before)
		}
		a.update.Put = append(a.update.Put, l)
		a.update.Accounts = append(a.update.Accounts, AccountChange{r.Subscriber, p.account(), account})
		a.grants = append(a.grants, Grant{addr, p.bits, p.policy.Preferred, p.policy.Valid})
		return nil
	}
	if p.bits != 0 && !p.fixed() && now.After(a.exhausted[p.within]) {
		a.exhausted[p.within] = now.Add(exhaustedFor)
	}
	return ErrNoSlot
}

// tries returns how many slots are looked at before a place counts as full.
func (a *Allocator) tries(now time.Time, p *place) int {
	size := idcodec.Pool{Prefix: p.within, Bits: p.bits}.Size
	switch {
	case p.bits == 0:
		return slotTries
	case now.Before(a.exhausted[p.within]):
		return int(min(slotTries, size()))
	}
	return int(min(poolTries, size()))
}

// stride takes one slot's index in a pool to the next one's. It is odd, so that all of a
// pool comes up, and far enough that a subscriber's later slots do not follow the first
// slots of the subscribers after it.
const stride = 0x9e3779b97f4a7c15

// candidate returns the address, or the first address of the prefix, of a subscriber's
// slot. In a pool it is another subscriber's too: there are fewer prefixes than
// subscribers have slots. An address may be reserved.
func (a *Allocator) candidate(key *idcodec.EpochKey, subscriber uint64, slot uint16, p *place) (addr netip.Addr, reserved bool, err error) {
	if p.fixed() {
		return p.within.Addr(), false, nil
	}
	if p.bits != 0 {
		pool := idcodec.Pool{Prefix: p.within, Bits: p.bits}
		prefix, err := key.Delegate(pool, (subscriber+uint64(slot)*stride)&(pool.Size()-1))
		return prefix.Addr(), false, err
	}
	g, err := key.Encode(p.account(), subscriber, slot)
	return p.account().Addr(g), idcodec.Reserved(g), err
}

// free reports whether an address or a prefix may be leased to the client, and returns its ended lease
// if it had one.
func (a *Allocator) free(now time.Time, r *Request, addr netip.Addr, p *place) (bool, *Lease, error) {
	over := now.Add(-a.apart) // what has ended by then is so by all clocks
	read := a.store.Lease
	if s, ok := a.store.(guesser); ok && p.bits == 0 {
		read = s.Guess
	}
	l, err := read(addr)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return false, nil, err
	case err == nil && (l.Holds(now) || l.Holds(over) && !l.Client.Is(r.Client)):
		return false, nil, nil
	}
	var before *Lease
	if err == nil {
		found := l // so that nothing is allocated where there is none, as mostly
		before = &found
	}
	if p.bits == 0 {
		return true, before, nil
	}
	// A pool may have been divided otherwise before.
	for _, bits := range a.store.Lengths() {
		if bits >= p.bits {
			continue
		}
		outer, err := a.store.Lease(netip.PrefixFrom(addr, int(bits)).Masked().Addr())
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, nil, err
		}
		if err == nil && outer.Bits == bits && outer.Holds(over) {
			return false, nil, nil
		}
	}
	if lengths := a.store.Lengths(); len(lengths) > 0 && lengths[0] > p.bits {
		inner, err := a.store.Within(nil, netip.PrefixFrom(addr, int(p.bits)), over, now, 1)
		if err != nil || len(inner) > 0 {
			return false, nil, err
		}
	}
	return true, before, nil
}

// guesser is a store that is far away. Guess is Lease for an address that probably nobody ever
// had: it may say ErrNotFound wrongly, upon which a change is refused that rests on it.
type guesser interface {
	Guess(addr netip.Addr) (Lease, error)
}

// held returns the live addresses of a subscriber, or the first addresses of its live
// prefixes.
func (a *Allocator) held(now time.Time, subscriber uint64, prefixes bool) ([]netip.Addr, error) {
	return a.live(now, subscriber, func(l *Lease) bool { return (l.Bits != 0) == prefixes })
}

func anyLease(*Lease) bool { return true }

// live returns where the live leases of a subscriber are that are wanted.
func (a *Allocator) live(now time.Time, subscriber uint64, wanted func(*Lease) bool) ([]netip.Addr, error) {
	all, err := a.store.BySubscriber(nil, subscriber)
	if err != nil {
		return nil, err
	}
	var failed error
	live := slices.DeleteFunc(all, func(addr netip.Addr) bool {
		l, err := a.store.Lease(addr)
		if err != nil && !errors.Is(err, ErrNotFound) {
			failed = err
		}
		return err != nil || !l.Live(now) || !wanted(&l)
	})
	return live, failed
}

// file puts the new addresses on the lists of the client and the subscriber and
// drops from them what is over.
func (a *Allocator) file(now time.Time, r *Request, known []Lease) {
	var mine []netip.Addr
	for i := len(a.grants) - 1; i >= 0; i-- {
		if g := &a.grants[i]; !slices.Contains(mine, g.Addr) {
			mine = append(mine, g.Addr)
		}
	}
	slices.SortStableFunc(known, func(x, y Lease) int { return y.Born.Compare(x.Born) })
	for i := range known {
		if len(mine) < maxPerClient && !slices.Contains(mine, known[i].Addr) {
			mine = append(mine, known[i].Addr)
		}
	}
	a.update.Clients = append(a.update.Clients, ClientList{r.Client, mine})

	// An error here would have shown in lease already, which read the same.
	held, _ := a.live(now, r.Subscriber, anyLease)
	for i := range a.update.Put {
		if addr := a.update.Put[i].Addr; !slices.Contains(held, addr) {
			held = append(held, addr)
		}
	}
	a.update.Lists = append(a.update.Lists, AddressList{r.Subscriber, held})
}

// Release ends the client's leases of the given addresses now. It reports
// whether the client had any of them.
func (a *Allocator) Release(now time.Time, r *Request, addrs []netip.Addr) (bool, error) {
	now = now.Truncate(time.Second)
	return a.end(r, addrs, func(l *Lease) {
		if l.Live(now) {
			l.State = Released
			l.Updated = now
			l.ValidUntil = now
			l.PreferredUntil = earlier(l.PreferredUntil, now)
		}
	})
}

// Decline sets the given addresses of the client aside. It reports whether the
// client had any of them.
func (a *Allocator) Decline(now time.Time, r *Request, addrs []netip.Addr) (bool, error) {
	now = now.Truncate(time.Second)
	return a.end(r, addrs, func(l *Lease) {
		if l.Live(now) {
			l.State = Declined
			l.Updated = now
			l.ValidUntil = now.Add(a.policy.DeclineHold)
			l.PreferredUntil = now
		}
	})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (a *Allocator) end(r *Request, addrs []netip.Addr, change func(*Lease)) (bool, error) {
	known, err := a.leases(r.Client)
	if err != nil {
		return false, err
	}
	a.update.Reset()
	had := false
	for i := range known {
		if known[i].State != Registered && known[i].Subscriber == r.Subscriber && slices.Contains(addrs, known[i].Addr) {
			had = true
			change(&known[i])
			a.update.Put = append(a.update.Put, known[i])
		}
	}
	if !had {
		return false, nil
	}
	a.update.Known = true
	return true, a.apply()
}

// Rotate has the subscriber's leases count as too old: at its next renewal each client gets
// another address or prefix beside the one that it has, which runs out. It returns the
// leases. policyOf tells the policy of one; nil for the allocator's for all.
func (a *Allocator) Rotate(now time.Time, subscriber uint64, policyOf func(*Lease) Policy) ([]Lease, error) {
	now = now.Truncate(time.Second)
	held, err := a.live(now, subscriber, anyLease)
	if err != nil {
		return nil, err
	}
	a.update.Reset()
	for _, addr := range held {
		l, err := a.store.Lease(addr)
		if err != nil {
			return nil, err
		}
		if l.State != Active {
			continue // the client's own making
		}
		policy := a.policy
		if policyOf != nil {
			policy = policyOf(&l)
		}
		l.Born = earlier(l.Born, now.Add(policy.Preferred-policy.MaxAge-time.Second))
		a.update.Put = append(a.update.Put, l)
	}
	a.update.Known = true
	return slices.Clone(a.update.Put), a.apply()
}

// Register files an address that a client made itself, with lifetimes that it tells; a
// valid lifetime of zero ends it. The interval is of the epoch in which it began, so that
// it is forgotten like others; one that goes on in another epoch begins anew.
func (a *Allocator) Register(now time.Time, r *Request, addr netip.Addr, preferred, valid time.Duration) error {
	now = now.Truncate(time.Second)
	old, err := a.store.Lease(addr)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	mine := known && old.State == Registered && old.Subscriber == r.Subscriber
	if known && !mine && old.Holds(now.Add(-a.apart)) {
		return ErrTaken
	}
	live := mine && old.Live(now)
	if valid <= 0 && !live {
		return nil
	}
	policy := a.policyOf(r)
	valid = min(valid, policy.MaxAge).Truncate(time.Second)
	epoch, err := a.keys.EpochAt(now)
	if err != nil {
		return err
	}
	a.update.Reset()
	if live && (old.Epoch == epoch || valid <= 0 || old.Start.Equal(now)) {
		old.Updated, old.Anchor = now, r.Anchor
		old.PreferredUntil, old.ValidUntil = now.Add(min(preferred, valid)), now.Add(valid)
		a.update.Put = append(a.update.Put, old)
		a.update.Known = true
		return a.apply()
	}
	held, err := a.held(now, r.Subscriber, false)
	if err != nil {
		return err
	}
	all, err := a.live(now, r.Subscriber, anyLease)
	if err != nil {
		return err
	}
	if !slices.Contains(held, addr) {
		if len(held) >= policy.PerSubscriber {
			return ErrTooMany
		}
		all = append(all, addr)
	}
	p := idcodec.PrefixOf(addr)
	account, err := a.begin(now, r.Subscriber, p)
	if err != nil {
		return err
	}
	l := Lease{
		Addr: addr, Subscriber: r.Subscriber, Epoch: epoch, State: Registered, Client: r.Client, Anchor: r.Anchor,
		Born: now, Start: now, Updated: now, PreferredUntil: now.Add(min(preferred, valid)), ValidUntil: now.Add(valid),
	}
	if mine {
		l.Born = old.Born
	}
	if known {
		if live {
			old.ValidUntil, old.PreferredUntil = now, earlier(old.PreferredUntil, now)
		}
		a.update.Archive = append(a.update.Archive, old)
	}
	a.update.Put = append(a.update.Put, l)
	a.update.Accounts = append(a.update.Accounts, AccountChange{r.Subscriber, p, account})
	a.update.Lists = append(a.update.Lists, AddressList{r.Subscriber, all})
	return a.apply()
}

// Forget removes leases whose epochs' keys are erased, as [Store.Old] lists them.
// Nothing changes such a lease any more, so that the caller may list them beside
// other work and keep other calls away only for this one.
func (a *Allocator) Forget(old []Lease) error {
	var u Update
	for _, l := range old {
		u.Delete = append(u.Delete, l)
		newest, err := a.store.Lease(l.Addr)
		if err != nil || !newest.Start.Equal(l.Start) {
			continue // it was history; the lists are about the newest
		}
		if err := a.unfile(&u, &l); err != nil {
			return fmt.Errorf("forgetting leases: %w", err)
		}
	}
	return a.store.Apply(&u)
}

// unfile takes an address off the lists of its client and subscriber. An update
// may hold a list already, from another lease that is forgotten with this one.
func (a *Allocator) unfile(u *Update, l *Lease) error {
	is := func(addr netip.Addr) bool { return addr == l.Addr }
	i := slices.IndexFunc(u.Clients, func(c ClientList) bool {
		return c.Client.Is(l.Client)
	})
	if i < 0 {
		addrs, err := a.store.ByClient(nil, l.Client)
		if err != nil {
			return err
		}
		u.Clients = append(u.Clients, ClientList{l.Client, addrs})
		i = len(u.Clients) - 1
	}
	u.Clients[i].Addrs = slices.DeleteFunc(u.Clients[i].Addrs, is)

	i = slices.IndexFunc(u.Lists, func(s AddressList) bool { return s.Subscriber == l.Subscriber })
	if i < 0 {
		addrs, err := a.store.BySubscriber(nil, l.Subscriber)
		if err != nil {
			return err
		}
		u.Lists = append(u.Lists, AddressList{l.Subscriber, addrs})
		i = len(u.Lists) - 1
	}
	u.Lists[i].Addrs = slices.DeleteFunc(u.Lists[i].Addrs, is)
	return nil
}
