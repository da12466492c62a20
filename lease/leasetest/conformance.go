// Package leasetest is the suite that every lease.Store passes.
package leasetest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"brightgid/idcodec"
	"brightgid/lease"
)

// Reopener closes a store and opens it again.
type Reopener func(t *testing.T, s lease.Store) lease.Store

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// Lease returns a lease with every field set, for the n-th address.
func Lease(n int, start time.Time) lease.Lease {
	return lease.Lease{
		Addr:       netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 14: byte(n >> 8), 15: byte(n)}),
		Subscriber: uint64(n), Slot: 5, Epoch: 20266, State: lease.Active,
		Client:         lease.Client{DUID: []byte{0, 3, 0, 1, 2, 0, 0, 0, byte(n >> 8), byte(n)}, IAID: uint32(n)},
		Anchor:         lease.Anchor{LinkLayer: []byte{2, 0, 0, 0, 0, byte(n)}, Relay: netip.MustParseAddr("fe80::1")},
		Born:           start,
		Start:          start,
		Updated:        start,
		PreferredUntil: start.Add(time.Hour),
		ValidUntil:     start.Add(2 * time.Hour),
	}
}

// Marker is a store in which several calls may be one message; see shared.Store.
type Marker interface {
	lease.Store
	Mark() lease.Barrier
}

// Marking is a store of which each call is a message of its own.
type Marking struct{ Marker }

// Apply implements lease.Store.
func (m Marking) Apply(u *lease.Update) error {
	err := m.Marker.Apply(u)
	m.Mark()
	return err
}

// Register implements lease.Store.
func (m Marking) Register(key idcodec.LookupKey, nid idcodec.NID, at time.Time) (uint64, error) {
	n, err := m.Marker.Register(key, nid, at)
	m.Mark()
	return n, err
}

// Run tests the stores that open makes. reopen must keep what was durable.
func Run(t *testing.T, open func(t *testing.T) lease.Store, reopen Reopener) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

	t.Run("subscribers are numbered in order and survive", func(t *testing.T) {
		s := open(t)
		for i := range uint64(100) {
			n, err := s.Register(idcodec.LookupKey{byte(i), 1}, idcodec.NID{byte(i), 9}, t0)
			if err != nil || n != i {
				t.Fatalf("Register number %d: %d, %v", i, n, err)
			}
		}
		if _, err := s.Lookup(idcodec.LookupKey{200}); !errors.Is(err, lease.ErrNotFound) {
			t.Errorf("Lookup of a stranger: %v, want ErrNotFound", err)
		}
		check := func(s lease.Store) {
			t.Helper()
			if s.Subscribers() < 100 {
				t.Errorf("Subscribers = %d, want 100 at the least", s.Subscribers())
			}
			for i := range uint64(100) {
				n, err := s.Lookup(idcodec.LookupKey{byte(i), 1})
				if err != nil || n != i {
					t.Errorf("Lookup(%d) = %d, %v", i, n, err)
				}
				sub, err := s.Subscriber(i)
				want := lease.Subscriber{Number: i, NID: idcodec.NID{byte(i), 9}, Registered: t0}
				if diff := cmp.Diff(want, sub); err != nil || diff != "" {
					t.Errorf("Subscriber(%d): %v\n%s", i, err, diff)
				}
			}
			if _, err := s.Subscriber(100); !errors.Is(err, lease.ErrNotFound) {
				t.Errorf("Subscriber beyond the end: %v, want ErrNotFound", err)
			}
		}
		check(s)
		if err := s.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
		check(reopen(t, s))
	})

	t.Run("leases, lists and accounts read back and survive", func(t *testing.T) {
		s := open(t)
		a, b := Lease(1, t0), Lease(2, t0)
		b.Anchor = lease.Anchor{}
		prefix := idcodec.PrefixOf(a.Addr)
		u := lease.Update{
			Put:      []lease.Lease{a, b},
			Clients:  []lease.ClientList{{Client: a.Client, Addrs: []netip.Addr{a.Addr, b.Addr}}},
			Lists:    []lease.AddressList{{Subscriber: 1, Addrs: []netip.Addr{b.Addr}}},
			Accounts: []lease.AccountChange{{Subscriber: 1, Prefix: prefix, Account: lease.Account{Epoch: 20266, Slot: 6, Even: t0}}},
		}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		check := func(s lease.Store) {
			t.Helper()
			for _, want := range []lease.Lease{a, b} {
				got, err := s.Lease(want.Addr)
				if diff := cmp.Diff(normal(want), normal(got), compareAddr); err != nil || diff != "" {
					t.Errorf("Lease(%s): %v\n%s", want.Addr, err, diff)
				}
			}
			if got, err := s.ByClient(nil, a.Client); err != nil || !cmp.Equal(got, []netip.Addr{a.Addr, b.Addr}, compareAddr) {
				t.Errorf("ByClient = %v, %v", got, err)
			}
			if got, err := s.ByClient(nil, b.Client); err != nil || len(got) != 0 {
				t.Errorf("ByClient of a stranger = %v, %v", got, err)
			}
			if got, err := s.BySubscriber(nil, 1); err != nil || !cmp.Equal(got, []netip.Addr{b.Addr}, compareAddr) {
				t.Errorf("BySubscriber = %v, %v", got, err)
			}
			if got, err := s.Account(1, prefix); err != nil || got != (lease.Account{Epoch: 20266, Slot: 6, Even: t0}) {
				t.Errorf("Account = %+v, %v", got, err)
			}
			if got, err := s.Account(2, prefix); err != nil || got != (lease.Account{}) {
				t.Errorf("Account of a stranger = %+v, %v", got, err)
			}
			if _, err := s.Lease(Lease(3, t0).Addr); !errors.Is(err, lease.ErrNotFound) {
				t.Errorf("Lease of a stranger: %v, want ErrNotFound", err)
			}
		}
		check(s)
		if err := s.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, s)
		check(s)
		u.Reset()
		u.Clients = []lease.ClientList{{Client: a.Client}}
		u.Lists = []lease.AddressList{{Subscriber: 1}}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		x, err1 := s.ByClient(nil, a.Client)
		y, err2 := s.BySubscriber(nil, 1)
		if err1 != nil || err2 != nil || len(x)+len(y) != 0 {
			t.Errorf("emptied lists: %v, %v, %v, %v", x, err1, y, err2)
		}
	})

	t.Run("prefixes read back, are filed apart from addresses, and survive", func(t *testing.T) {
		s := open(t)
		if got := s.Lengths(); len(got) != 0 {
			t.Errorf("lengths of an empty store: %v", got)
		}
		a, p, q := Lease(1, t0), Lease(2, t0), Lease(3, t0)
		p.Bits, q.Bits = 56, 64
		p.Addr, q.Addr = netip.MustParseAddr("2001:db8:4000::"), netip.MustParseAddr("2001:db8:8000::")
		p.Client = lease.Client{DUID: a.Client.DUID, IAID: a.Client.IAID, PD: true}
		q.Client.PD, q.Anchor = true, lease.Anchor{}
		before := q
		before.Start, before.ValidUntil = t0.Add(-2*time.Hour), t0.Add(-time.Hour)
		if err := s.Apply(&lease.Update{Put: []lease.Lease{a, p, q}, Archive: []lease.Lease{before}, Clients: []lease.ClientList{
			{Client: a.Client, Addrs: []netip.Addr{a.Addr}}, {Client: p.Client, Addrs: []netip.Addr{p.Addr}}}}); err != nil {
			t.Fatal(err)
		}
		check := func(s lease.Store) {
			t.Helper()
			for _, want := range []lease.Lease{a, p, q} {
				got, err := s.Lease(want.Addr)
				if diff := cmp.Diff(normal(want), normal(got), compareAddr); err != nil || diff != "" {
					t.Errorf("Lease(%s): %v\n%s", want.Addr, err, diff)
				}
			}
			if got, err := s.ByClient(nil, a.Client); err != nil || !cmp.Equal(got, []netip.Addr{a.Addr}, compareAddr) {
				t.Errorf("ByClient of addresses = %v, %v", got, err)
			}
			if got, err := s.ByClient(nil, p.Client); err != nil || !cmp.Equal(got, []netip.Addr{p.Addr}, compareAddr) {
				t.Errorf("ByClient of prefixes = %v, %v", got, err)
			}
			if got := s.Lengths(); !slices.Equal(got, []uint8{64, 56}) {
				t.Errorf("Lengths = %v, want 64 and 56", got)
			}
			if h, err := s.History(nil, q.Addr); err != nil || len(h) != 2 || h[1].Bits != 64 || !h[1].Client.PD {
				t.Errorf("History = %v, %v", h, err)
			}
			n := 0
			if err := s.Each(func(l lease.Lease) error {
				if l.Bits != 0 {
					n++
				}
				return nil
			}); err != nil || n != 2 {
				t.Errorf("Each visits %d prefixes, %v", n, err)
			}
		}
		check(s)
		if err := s.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
		check(reopen(t, s))
	})

	t.Run("what is kept of relays reads back and survives", func(t *testing.T) {
		s := open(t)
		a, p, q := Lease(1, t0), Lease(2, t0), Lease(3, t0)
		a.Anchor.RelayID, a.Anchor.RemoteID = []byte{0, 3, 0, 1, 9}, make([]byte, lease.RemoteIDLen)
		p.Bits, p.Client.PD, p.Anchor.RelayID = 56, true, []byte{0, 3, 0, 1, 8}
		q.Anchor = lease.Anchor{RemoteID: []byte("0123456789abcdef")}
		if err := s.Apply(&lease.Update{Put: []lease.Lease{a, p, q}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, s)
		for _, want := range []lease.Lease{a, p, q} {
			got, err := s.Lease(want.Addr)
			if diff := cmp.Diff(normal(want), normal(got), compareAddr); err != nil || diff != "" {
				t.Errorf("Lease(%s): %v\n%s", want.Addr, err, diff)
			}
		}
	})

	t.Run("addresses of a prefix that were leased in a time", func(t *testing.T) {
		s := open(t)
		var u lease.Update
		var want []netip.Addr
		for i := range 20 { // half of them have a lease that ended, too
			l := Lease(i, t0)
			u.Put = append(u.Put, l)
			want = append(want, l.Addr)
			if i%2 == 0 {
				before := Lease(i, t0.Add(-48*time.Hour))
				before.Addr = l.Addr
				u.Archive = append(u.Archive, before)
			}
		}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(want, netip.Addr.Compare)
		within := func(p netip.Prefix, from, until time.Time, limit int) []netip.Addr {
			t.Helper()
			got, err := s.Within(nil, p, from, until, limit)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		all := netip.PrefixFrom(want[0], 64).Masked()
		if got := within(all, t0.Add(-72*time.Hour), t0, 100); !slices.Equal(got, want) {
			t.Errorf("in all: %v, want %v", got, want)
		}
		if got := within(all, t0, t0, 3); !slices.Equal(got, want[:3]) {
			t.Errorf("the first three: %v, want %v", got, want[:3])
		}
		if got := within(all, t0.Add(-48*time.Hour), t0.Add(-48*time.Hour), 100); len(got) != 10 {
			t.Errorf("two days before: %v, want 10", got)
		}
		if got := within(all, t0.Add(-480*time.Hour), t0.Add(-479*time.Hour), 100); len(got) != 0 {
			t.Errorf("long before: %v", got)
		}
		for _, a := range want {
			if got := within(netip.PrefixFrom(a, 128), t0, t0, 2); len(got) != 1 || got[0] != a {
				t.Errorf("%s alone: %v", a, got)
			}
		}
		if got := within(netip.MustParsePrefix("2001:db8:ffff::/48"), t0, t0, 2); len(got) != 0 {
			t.Errorf("in another prefix: %v", got)
		}
	})

	t.Run("history is newest first and forgets old epochs", func(t *testing.T) {
		s := open(t)
		var intervals []lease.Lease
		for i := range 4 {
			intervals = append(intervals, Lease(7, t0.Add(time.Duration(i)*24*time.Hour)))
			intervals[i].Epoch += uint32(i)
		}
		other := Lease(8, t0)
		u := lease.Update{Put: []lease.Lease{intervals[3], other}, Archive: intervals[:3]}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		starts := func() string {
			t.Helper()
			h, err := s.History(nil, intervals[0].Addr)
			if err != nil {
				t.Fatal(err)
			}
			var out string
			for _, l := range h {
				out += fmt.Sprint(l.Start.Day(), " ")
			}
			return out
		}
		if got := starts(); got != "5 4 3 2 " {
			t.Errorf("history starts on days %s", got)
		}
		cutoff := other.Epoch + 2 // two intervals and the other lease are older
		var after []byte
		found := 0
		for {
			old, next, err := s.Old(cutoff, after, 1)
			if err != nil {
				t.Fatal(err)
			}
			found += len(old)
			if err := s.Apply(&lease.Update{Delete: old}); err != nil {
				t.Fatal(err)
			}
			if after = next; after == nil {
				break
			}
		}
		if got := starts(); found != 3 || got != "5 4 " {
			t.Errorf("%d are old, history then starts on days %s; want 3 and 5 4", found, got)
		}
		if _, err := s.Lease(other.Addr); !errors.Is(err, lease.ErrNotFound) {
			t.Errorf("a forgotten lease: %v, want ErrNotFound", err)
		}
	})

	t.Run("Each visits the newest lease of each address in order", func(t *testing.T) {
		s := open(t)
		u := lease.Update{}
		for i := 20; i > 0; i-- {
			u.Put = append(u.Put, Lease(i, t0))
		}
		u.Archive = []lease.Lease{Lease(3, t0.Add(-48*time.Hour))}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		var last netip.Addr
		n := 0
		if err := s.Each(func(l lease.Lease) error {
			if last.IsValid() && !last.Less(l.Addr) {
				t.Errorf("%s comes after %s", l.Addr, last)
			}
			last = l.Addr
			n++
			return nil
		}); err != nil || n != 20 {
			t.Errorf("%d leases, %v; want 20", n, err)
		}
		stop := errors.New("stop")
		if err := s.Each(func(lease.Lease) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("Each returned %v, not its function's error", err)
		}
	})
}

// normal makes empty and absent strings one.
func normal(l lease.Lease) lease.Lease {
	for _, s := range []*[]byte{&l.Anchor.LinkLayer, &l.Anchor.RelayID, &l.Anchor.RemoteID} {
		if len(*s) == 0 {
			*s = nil
		}
	}
	return l
}
