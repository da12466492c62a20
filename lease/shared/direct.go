package shared

import (
	"context"
	"net/netip"

	"brightgid/idcodec"
	"brightgid/lease"
)

// direct reads what the database has now.
type direct struct{ *Store }

// Direct returns the store for those who must not be told what is old: its reads ask the
// database.
func (s *Store) Direct() lease.Store { return direct{s} }

func (d direct) get(k Key) (r Row, err error) {
	err = d.query(func(ctx context.Context) error {
		rows, err := d.db.Get(ctx, []Key{k})
		if err == nil {
			r = rows[0]
		}
		return err
	})
	return r, err
}

func (d direct) Lookup(key idcodec.LookupKey) (uint64, error) {
	r, err := d.get(Key{Keys, string(key[:])})
	if err != nil {
		return 0, err
	}
	if r.Rev == 0 {
		return 0, lease.ErrNotFound
	}
	return parseNumber(r.Value)
}

func (d direct) Subscribers() uint64 {
	n := d.Store.Subscribers()
	_ = d.query(func(ctx context.Context) error { // while it is away, what was known
		all, err := d.db.Registered(ctx)
		n = max(n, all)
		return err
	})
	return n
}

func (d direct) Lease(addr netip.Addr) (lease.Lease, error) {
	r, err := d.get(LeaseKey(addr))
	if err != nil {
		return lease.Lease{}, err
	}
	if r.Rev == 0 {
		return lease.Lease{}, lease.ErrNotFound
	}
	return lease.ParseRecord(addr, r.Value)
}

func (d direct) addrs(dst []netip.Addr, k Key) ([]netip.Addr, error) {
	r, err := d.get(k)
	if err != nil {
		return dst, err
	}
	return parseAddrs(dst, r.Value)
}

func (d direct) ByClient(dst []netip.Addr, c lease.Client) ([]netip.Addr, error) {
	return d.addrs(dst, ClientKey(c))
}

func (d direct) BySubscriber(dst []netip.Addr, n uint64) ([]netip.Addr, error) {
	return d.addrs(dst, Key{Lists, number(n)})
}

func (d direct) Account(n uint64, p idcodec.Prefix) (lease.Account, error) {
	r, err := d.get(accountKey(d.me.Server, n, p))
	if err != nil || r.Rev == 0 {
		return lease.Account{}, err
	}
	return parseAccount(r.Value)
}
