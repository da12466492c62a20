package lease

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"time"

	"brightgid/idcodec"
	"brightgid/lease/recent"
)

// Cache is a store with the entries of lately seen clients in memory, those that are not
// there among them: a client comes back within a second, with its Request, and then every
// half lifetime. It is for one goroutine at a time, through which all writes go; others read
// the store behind it.
type Cache struct {
	Store
	keys     *recent.Map[idcodec.LookupKey, known[uint64]]
	leases   *recent.Map[netip.Addr, known[Lease]]
	clients  *recent.Map[clientID, []netip.Addr]
	lists    *recent.Map[uint64, []netip.Addr]
	accounts *recent.Map[accountID, Account]
}

// NewCache returns a cache of about size clients.
func NewCache(s Store, size int) *Cache {
	return &Cache{
		Store:    s,
		keys:     recent.New[idcodec.LookupKey, known[uint64]](size),
		leases:   recent.New[netip.Addr, known[Lease]](2 * size),
		clients:  recent.New[clientID, []netip.Addr](size),
		lists:    recent.New[uint64, []netip.Addr](size),
		accounts: recent.New[accountID, Account](2 * size),
	}
}

// known is a record, or that there is none.
type known[V any] struct {
	v    V
	none bool
}

// clientID names an identity association in a map.
type clientID struct {
	duid string
	iaid uint32
	pd   bool
}

type accountID struct {
	subscriber uint64
	prefix     idcodec.Prefix
}

// through returns a record from memory, or reads and remembers it.
func through[K comparable, V any](g *recent.Map[K, known[V]], k K, read func(K) (V, error)) (V, error) {
	if x, ok := g.Get(k); ok {
		if x.none {
			return x.v, ErrNotFound
		}
		return x.v, nil
	}
	v, err := read(k)
	if err == nil || errors.Is(err, ErrNotFound) {
		g.Put(k, known[V]{v, err != nil})
	}
	return v, err
}

// Lookup implements [Store].
func (c *Cache) Lookup(key idcodec.LookupKey) (uint64, error) {
	return through(c.keys, key, c.Store.Lookup)
}

// Register implements [Store].
func (c *Cache) Register(key idcodec.LookupKey, nid idcodec.NID, at time.Time) (uint64, error) {
	n, err := c.Store.Register(key, nid, at)
	if err == nil {
		c.keys.Put(key, known[uint64]{v: n})
	}
	return n, err
}

// Lease implements [Store]. What the lease points to is not the caller's to change.
func (c *Cache) Lease(addr netip.Addr) (Lease, error) {
	return through(c.leases, addr, c.Store.Lease)
}

// ByClient implements [Store].
func (c *Cache) ByClient(dst []netip.Addr, x Client) ([]netip.Addr, error) {
	id := clientID{string(x.DUID), x.IAID, x.PD}
	all, ok := c.clients.Get(id)
	if !ok {
		var err error
		if all, err = c.Store.ByClient(nil, x); err != nil {
			return dst, err
		}
		c.clients.Put(id, all)
	}
	return append(dst, all...), nil
}

// BySubscriber implements [Store].
func (c *Cache) BySubscriber(dst []netip.Addr, number uint64) ([]netip.Addr, error) {
	all, ok := c.lists.Get(number)
	if !ok {
		var err error
		if all, err = c.Store.BySubscriber(nil, number); err != nil {
			return dst, err
		}
		c.lists.Put(number, all)
	}
	return append(dst, all...), nil
}

// Account implements [Store].
func (c *Cache) Account(subscriber uint64, p idcodec.Prefix) (Account, error) {
	id := accountID{subscriber, p}
	a, ok := c.accounts.Get(id)
	if !ok {
		var err error
		if a, err = c.Store.Account(subscriber, p); err != nil {
			return a, err
		}
		c.accounts.Put(id, a)
	}
	return a, nil
}

// Apply implements [Store].
func (c *Cache) Apply(u *Update) error { return c.apply(u, true) }

// ApplyBehind is Apply for who keeps leases and the lists of clients before the cache, which
// then need not be in it, too.
func (c *Cache) ApplyBehind(u *Update) error { return c.apply(u, false) }

func (c *Cache) apply(u *Update, keep bool) error {
	if err := c.Store.Apply(u); err != nil {
		// What of it is stored, nobody knows.
		for i := range u.Put {
			c.leases.Forget(u.Put[i].Addr)
		}
		c.forgetAll(u)
		return err
	}
	for i := range u.Put {
		if keep {
			c.leases.Put(u.Put[i].Addr, known[Lease]{v: own(u.Put[i])})
		} else {
			c.leases.Forget(u.Put[i].Addr)
		}
	}
	for i := range u.Delete {
		c.leases.Forget(u.Delete[i].Addr)
	}
	for i := range u.Clients {
		x := &u.Clients[i]
		id := clientID{string(x.Client.DUID), x.Client.IAID, x.Client.PD}
		if keep {
			c.clients.Put(id, slices.Clone(x.Addrs))
		} else {
			c.clients.Forget(id)
		}
	}
	for i := range u.Lists {
		c.lists.Put(u.Lists[i].Subscriber, slices.Clone(u.Lists[i].Addrs))
	}
	for i := range u.Accounts {
		x := &u.Accounts[i]
		c.accounts.Put(accountID{x.Subscriber, x.Prefix}, x.Account)
	}
	return nil
}

func (c *Cache) forgetAll(u *Update) {
	for i := range u.Delete {
		c.leases.Forget(u.Delete[i].Addr)
	}
	for i := range u.Clients {
		x := &u.Clients[i].Client
		c.clients.Forget(clientID{string(x.DUID), x.IAID, x.PD})
	}
	for i := range u.Lists {
		c.lists.Forget(u.Lists[i].Subscriber)
	}
	for i := range u.Accounts {
		c.accounts.Forget(accountID{u.Accounts[i].Subscriber, u.Accounts[i].Prefix})
	}
}

// own copies what a lease points to, which may be a packet.
func own(l Lease) Lease {
	all := bytes.Join([][]byte{l.Client.DUID, l.Anchor.LinkLayer, l.Anchor.RelayID, l.Anchor.RemoteID}, nil)
	for _, s := range []*[]byte{&l.Client.DUID, &l.Anchor.LinkLayer, &l.Anchor.RelayID, &l.Anchor.RemoteID} {
		n := len(*s)
		*s, all = all[:n:n], all[n:]
	}
	return l
}
