package lease

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"brightgid/idcodec"
)

// slotTries bounds the search for a free slot, and with it what one message can
// cost.
const slotTries = 64

// maxPerClient is how many addresses stay filed under one identity association:
// a current and an ageing one in each prefix of a link.
const maxPerClient = 2 * MaxPrefixes

// MaxPrefixes is how many prefixes a link may have.
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
}

// Keys gives the codec of an epoch; *idcodec.Keyring does.
type Keys interface {
	EpochAt(t time.Time) (uint32, error)
	Key(epoch uint32) (*idcodec.EpochKey, error)
}

// Grant is an address for a client, with the lifetimes that it is told.
type Grant struct {
	Addr      netip.Addr
	Preferred time.Duration
	Valid     time.Duration
}

// Allocator decides which address a client gets and files it. It is not safe for
// concurrent use; its results hold until the next call.
type Allocator struct {
	store  Store
	keys   Keys
	policy Policy

	observe func(Lease)
	update  Update
	addrs   []netip.Addr
	known   []Lease
	grants  []Grant
}

// NewAllocator returns an allocator over a store.
func NewAllocator(store Store, keys Keys, policy Policy) *Allocator {
	return &Allocator{store: store, keys: keys, policy: policy}
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
	Prefixes   []idcodec.Prefix // of the client's link
}

// Offer returns what Assign would, and writes nothing.
func (a *Allocator) Offer(now time.Time, r *Request) ([]Grant, error) {
	return a.assign(now, r, false, false)
}

// Assign leases one address in each prefix: the one that the client has, while
// it lives, and a new one otherwise.
func (a *Allocator) Assign(now time.Time, r *Request) ([]Grant, error) {
	return a.assign(now, r, true, false)
}

// Renew extends the client's leases. Where an address is too old for a full
// preferred lifetime a new one is leased beside it and the old one runs out, as
// RFC 8981 §3.4 does with temporary addresses. It returns ErrNotFound when the
// client has no lease on the link that lives.
func (a *Allocator) Renew(now time.Time, r *Request) ([]Grant, error) {
	now = now.Truncate(time.Second)
	known, err := a.leases(r.Client)
	if err != nil {
		return nil, err
	}
	for i := range known {
		if known[i].State == Active && known[i].Live(now) && known[i].Subscriber == r.Subscriber && onLink(known[i].Addr, r.Prefixes) {
			return a.assign(now, r, true, true)
		}
	}
	return nil, ErrNotFound
}

func onLink(addr netip.Addr, prefixes []idcodec.Prefix) bool {
	return slices.Contains(prefixes, idcodec.PrefixOf(addr))
}

// leases returns the newest lease of each address that is filed under a client.
func (a *Allocator) leases(c Client) ([]Lease, error) {
	var err error
	if a.addrs, err = a.store.ByClient(a.addrs[:0], c); err != nil {
		return nil, err
	}
	known := a.known[:0]
	for _, addr := range a.addrs {
		l, err := a.store.Lease(addr)
		if errors.Is(err, ErrNotFound) {
			continue // forgotten since
		}
		if err != nil {
			return nil, err
		}
		if l.Client.IAID == c.IAID && bytes.Equal(l.Client.DUID, c.DUID) {
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
	a.grants = a.grants[:0]
	a.update.Reset()
	fresh := 0
	for _, p := range r.Prefixes {
		current := -1
		for i := range known {
			l := &known[i]
			if idcodec.PrefixOf(l.Addr) == p && l.Subscriber == r.Subscriber && l.State != Declined && l.State != Registered &&
				l.Born.Add(a.policy.MaxAge).Sub(now) >= a.policy.Preferred &&
				(current < 0 || l.Born.After(known[current].Born)) {
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
		for i := range known {
			a.age(now, r, &known[i])
		}
	}
	if !commit {
		return a.grants, nil
	}
	if fresh > 0 || len(a.update.Archive) > 0 {
		a.file(now, r, known)
	}
	if err := a.apply(); err != nil {
		return nil, err
	}
	return a.grants, nil
}

// extend grants a lease that the client has, or had, anew.
func (a *Allocator) extend(now time.Time, r *Request, p idcodec.Prefix, l *Lease) error {
	if !l.Live(now) {
		account, err := a.begin(now, r.Subscriber, p)
		if err != nil {
			return err
		}
		a.update.Accounts = append(a.update.Accounts, AccountChange{r.Subscriber, p, account})
		a.update.Archive = append(a.update.Archive, *l)
		l.Start = now
	}
	l.State = Active
	l.Updated = now
	l.Anchor = r.Anchor
	valid := min(a.policy.Valid, l.Born.Add(a.policy.MaxAge).Sub(now))
	l.PreferredUntil = now.Add(a.policy.Preferred)
	l.ValidUntil = now.Add(valid)
	a.update.Put = append(a.update.Put, *l)
	a.grants = append(a.grants, Grant{l.Addr, a.policy.Preferred, valid})
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
	if l.State != Active || !l.Live(now) || l.Subscriber != r.Subscriber || !onLink(l.Addr, r.Prefixes) ||
		slices.ContainsFunc(a.grants, func(g Grant) bool { return g.Addr == l.Addr }) {
		return
	}
	if l.PreferredUntil.After(now) {
		l.PreferredUntil = now
	}
	l.Updated = now
	a.update.Put = append(a.update.Put, *l)
	a.grants = append(a.grants, Grant{l.Addr, 0, l.ValidUntil.Sub(now)})
}

// lease grants an address that the client never had. fresh is how many the same
// call has granted already.
func (a *Allocator) lease(now time.Time, r *Request, p idcodec.Prefix, fresh int) error {
	held, err := a.held(now, r.Subscriber)
	if err != nil {
		return err
	}
	if len(held)+fresh >= a.policy.PerSubscriber {
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
	account, err := a.begin(now, r.Subscriber, p)
	if err != nil {
		return err
	}
	if account.Epoch != epoch {
		account.Epoch, account.Slot = epoch, 0
	}
	for range slotTries {
		slot := account.Slot
		account.Slot = (slot + 1) & idcodec.MaxSlot
		g, err := key.Encode(p, r.Subscriber, slot)
		if err != nil {
			return err
		}
		addr := p.Addr(g)
		free, before, err := a.free(now, addr)
		if err != nil {
			return err
		}
		if !free || idcodec.Reserved(g) {
			continue
		}
		l := Lease{
			Addr: addr, Subscriber: r.Subscriber, Slot: slot, Epoch: epoch, State: Active,
			Client: r.Client, Anchor: r.Anchor,
			Born: now, Start: now, Updated: now,
			PreferredUntil: now.Add(a.policy.Preferred), ValidUntil: now.Add(a.policy.Valid),
		}
		if before != nil {
			a.update.Archive = append(a.update.Archive, *before)
		}
		a.update.Put = append(a.update.Put, l)
		a.update.Accounts = append(a.update.Accounts, AccountChange{r.Subscriber, p, account})
		a.grants = append(a.grants, Grant{addr, a.policy.Preferred, a.policy.Valid})
		return nil
	}
	return ErrNoSlot
}

// free reports whether an address may be leased, and returns its ended lease if
// it had one.
func (a *Allocator) free(now time.Time, addr netip.Addr) (bool, *Lease, error) {
	l, err := a.store.Lease(addr)
	switch {
	case errors.Is(err, ErrNotFound):
		return true, nil, nil
	case err != nil:
		return false, nil, err
	case now.Before(l.ValidUntil) && l.State != Released:
		return false, nil, nil
	}
	return true, &l, nil
}

// held returns the live addresses of a subscriber.
func (a *Allocator) held(now time.Time, subscriber uint64) ([]netip.Addr, error) {
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
		return err != nil || !l.Live(now)
	})
	return live, failed
}

// file puts the new addresses on the lists of the client and the subscriber and
// drops from them what is over.
func (a *Allocator) file(now time.Time, r *Request, known []Lease) {
	var mine []netip.Addr
	for i := len(a.update.Put) - 1; i >= 0; i-- {
		if l := &a.update.Put[i]; !slices.Contains(mine, l.Addr) {
			mine = append(mine, l.Addr)
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
	held, _ := a.held(now, r.Subscriber)
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
	return true, a.apply()
}

// Rotate has the subscriber's leases count as too old: at its next renewal each client gets
// another address beside the one that it has, which runs out. It returns the leases.
func (a *Allocator) Rotate(now time.Time, subscriber uint64) ([]Lease, error) {
	now = now.Truncate(time.Second)
	held, err := a.held(now, subscriber)
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
		l.Born = earlier(l.Born, now.Add(a.policy.Preferred-a.policy.MaxAge-time.Second))
		a.update.Put = append(a.update.Put, l)
	}
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
	if known && !mine && now.Before(old.ValidUntil) && old.State != Released {
		return ErrTaken
	}
	live := mine && old.Live(now)
	if valid <= 0 && !live {
		return nil
	}
	valid = min(valid, a.policy.MaxAge).Truncate(time.Second)
	epoch, err := a.keys.EpochAt(now)
	if err != nil {
		return err
	}
	a.update.Reset()
	if live && (old.Epoch == epoch || valid <= 0 || old.Start.Equal(now)) {
		old.Updated, old.Anchor = now, r.Anchor
		old.PreferredUntil, old.ValidUntil = now.Add(min(preferred, valid)), now.Add(valid)
		a.update.Put = append(a.update.Put, old)
		return a.apply()
	}
	held, err := a.held(now, r.Subscriber)
	if err != nil {
		return err
	}
	if !slices.Contains(held, addr) {
		if len(held) >= a.policy.PerSubscriber {
			return ErrTooMany
		}
		held = append(held, addr)
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
	a.update.Lists = append(a.update.Lists, AddressList{r.Subscriber, held})
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
		return c.Client.IAID == l.Client.IAID && slices.Equal(c.Client.DUID, l.Client.DUID)
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
