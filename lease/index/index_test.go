package index_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/index"
	"brightgid/lease/leasetest"
	"brightgid/lease/pebblestore"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// watched counts what a store is asked for, and may say that a change failed which it has made.
type watched struct {
	*pebblestore.Store
	asked int
	fail  bool
}

func (w *watched) Lookup(key idcodec.LookupKey) (uint64, error) {
	w.asked++
	return w.Store.Lookup(key)
}

func (w *watched) Lease(addr netip.Addr) (lease.Lease, error) {
	w.asked++
	return w.Store.Lease(addr)
}

func (w *watched) ByClient(dst []netip.Addr, c lease.Client) ([]netip.Addr, error) {
	w.asked++
	return w.Store.ByClient(dst, c)
}

func (w *watched) BySubscriber(dst []netip.Addr, number uint64) ([]netip.Addr, error) {
	w.asked++
	return w.Store.BySubscriber(dst, number)
}

func (w *watched) Account(subscriber uint64, p idcodec.Prefix) (lease.Account, error) {
	w.asked++
	return w.Store.Account(subscriber, p)
}

var errDisk = errors.New("the disk failed")

func (w *watched) Apply(u *lease.Update) error {
	if err := w.Store.Apply(u); err != nil || !w.fail {
		return err
	}
	return errDisk
}

// Whatever is written, in whatever order, while leases end and are swept, and changes fail, the index says
// what the store behind it says, and so does one that is made anew.
func TestTheIndexSaysWhatTheStoreSays(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { compare(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func compare(t *testing.T, rng *rand.Rand) {
	store := &watched{Store: open(t)}
	now := t0
	x := index.New(store, 4)
	const addrs, clients, strangers = 60, 25, 5
	subscribers := 0
	account := func(n int) idcodec.Prefix { return idcodec.Prefix{0x20, 1, byte(n)} }
	client := func(n int) lease.Client {
		c := leasetest.Lease(n/3, t0).Client
		c.DUID = append(slices.Clone(c.DUID), make([]byte, n%3*7)...)
		c.IAID, c.PD = uint32(n%3), n%5 == 0
		return c
	}
	address := func(n int) netip.Addr {
		raw := leasetest.Lease(n, t0).Addr.As16()
		binary.BigEndian.PutUint16(raw[6:], uint16(n))
		return netip.AddrFrom16(raw)
	}
	check := func(x *index.Index, what string) {
		t.Helper()
		for n := range addrs {
			got, err1 := x.Lease(address(n))
			want, err2 := store.Lease(address(n))
			if fmt.Sprintf("%+v %v", got, err1) != fmt.Sprintf("%+v %v", want, err2) {
				t.Fatalf("%s: lease %d: %+v, %v; want %+v, %v", what, n, got, err1, want, err2)
			}
			got, buf, err1 := x.LeaseIn(address(n), []byte("before"))
			if fmt.Sprintf("%+v %v", got, err1) != fmt.Sprintf("%+v %v", want, err2) || string(buf[:6]) != "before" {
				t.Fatalf("%s: lease %d into a buffer, now of %q: %+v, %v; want %+v, %v", what, n, buf, got, err1, want, err2)
			}
		}
		for n := range subscribers + strangers {
			got, err1 := x.Lookup(keyOf(n))
			want, err2 := store.Lookup(keyOf(n))
			if got != want || !errors.Is(err1, err2) {
				t.Fatalf("%s: subscriber %d has number %d, %v; want %d, %v", what, n, got, err1, want, err2)
			}
			list, err1 := x.BySubscriber(nil, uint64(n))
			wanted, err2 := store.BySubscriber(nil, uint64(n))
			if err1 != nil || err2 != nil || !slices.Equal(list, wanted) {
				t.Fatalf("%s: subscriber %d has %v, %v; want %v, %v", what, n, list, err1, wanted, err2)
			}
			for p := range 2 {
				got, err1 := x.Account(uint64(n), account(p))
				want, err2 := store.Account(uint64(n), account(p))
				if got != want || err1 != nil || err2 != nil {
					t.Fatalf("%s: subscriber %d has used %+v, %v of prefix %d; want %+v, %v", what, n, got, err1, p, want, err2)
				}
			}
		}
		for n := range clients {
			got, err1 := x.ByClient(nil, client(n))
			want, err2 := store.ByClient(nil, client(n))
			if err1 != nil || err2 != nil || !slices.Equal(got, want) {
				t.Fatalf("%s: client %d has %v, %v; want %v, %v", what, n, got, err1, want, err2)
			}
		}
	}
	swept := false
	for i := range 1500 {
		var u lease.Update
		for range 1 + rng.IntN(3) {
			n, c := rng.IntN(addrs), client(rng.IntN(clients))
			l := leasetest.Lease(n, now)
			l.Addr, l.Client, l.Updated = address(n), c, now
			l.Bits = 0
			if c.PD {
				l.Bits = 56
			}
			switch rng.IntN(4) {
			case 0:
				l.Anchor = lease.Anchor{}
			case 1:
				l.Anchor.RelayID, l.Anchor.RemoteID = []byte{1, 2, 3}, make([]byte, lease.RemoteIDLen)
			}
			l.ValidUntil = now.Add(time.Duration(rng.IntN(100)) * time.Minute)
			old, err := store.Lease(l.Addr)
			if rng.IntN(3) > 0 && err == nil { // a renewal
				old.Updated, old.ValidUntil = now, l.ValidUntil
				l = old
			}
			if slices.ContainsFunc(u.Put, func(o lease.Lease) bool { return o.Addr == l.Addr }) {
				continue
			}
			u.Put = append(u.Put, l)
			if rng.IntN(2) == 0 {
				filed := []netip.Addr{l.Addr}
				for range rng.IntN(3) {
					filed = append(filed, address(rng.IntN(addrs)))
				}
				if rng.IntN(8) == 0 {
					filed = nil
				}
				u.Clients = append(u.Clients, lease.ClientList{Client: l.Client, Addrs: filed})
			}
		}
		if rng.IntN(20) == 0 {
			if l, err := store.Lease(address(rng.IntN(addrs))); err == nil && !slices.ContainsFunc(u.Put, func(o lease.Lease) bool { return o.Addr == l.Addr }) {
				u.Delete = append(u.Delete, l)
			}
		}
		if rng.IntN(10) == 0 {
			if n, err := x.Register(keyOf(subscribers), idcodec.NID{1}, now); err != nil || n != uint64(subscribers) {
				t.Fatalf("subscriber %d gets number %d, %v", subscribers, n, err)
			}
			subscribers++
		}
		if subscribers > 0 && rng.IntN(5) == 0 {
			u.Lists = append(u.Lists, lease.AddressList{Subscriber: uint64(rng.IntN(subscribers)), Addrs: []netip.Addr{address(rng.IntN(addrs))}})
		}
		if subscribers > 0 && rng.IntN(5) == 0 {
			u.Accounts = append(u.Accounts, lease.AccountChange{Subscriber: uint64(rng.IntN(subscribers)), Prefix: account(rng.IntN(2)), Account: lease.Account{Epoch: uint32(i), Even: now}})
		}
		// What is fetched may be there or not, and changes nothing.
		f := lease.Foreseen{Keys: []idcodec.LookupKey{{byte(rng.IntN(9))}}}
		for range rng.IntN(20) {
			f.Clients, f.Whose = append(f.Clients, client(rng.IntN(clients))), append(f.Whose, rng.IntN(2)-1)
		}
		x.Prefetch(&f)
		before := x.Len()
		u.Known = !slices.ContainsFunc(u.Put, func(l lease.Lease) bool {
			_, err := store.Store.Lease(l.Addr)
			return err != nil
		})
		store.fail = rng.IntN(25) == 0
		switch err := x.Apply(&u); {
		case store.fail && !errors.Is(err, errDisk):
			t.Fatalf("a change that failed: %v", err)
		case !store.fail && err != nil:
			t.Fatal(err)
		}
		swept = swept || x.Len() < before
		now = now.Add(time.Duration(rng.IntN(4)) * time.Minute)
		if i%100 == 50 { // it may be read all over again, beside all that happens
			x = index.New(store, 4)
		}
		if _, err := x.Load(1+rng.IntN(5), now); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			check(x, fmt.Sprintf("after %d updates", i+1))
		}
	}
	if !swept {
		t.Error("nothing was ever swept; the test shows little")
	}
	again := index.New(store, 4)
	load(t, again, now)
	check(again, "made anew")
}

func load(t *testing.T, x *index.Index, now time.Time) {
	t.Helper()
	for {
		more, err := x.Load(7, now)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
}

func open(t *testing.T) *pebblestore.Store {
	t.Helper()
	store, err := pebblestore.Open(filepath.Join(t.TempDir(), "leases"), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func keyOf(n int) (k idcodec.LookupKey) {
	binary.BigEndian.PutUint64(k[:], uint64(n+1)*0x9e3779b97f4a7c15)
	return k
}

// When all is in memory, the store is asked for nothing of who was never there; of who was, and is not in
// memory any more, it is.
func TestTheStoreIsNotAskedForWhatItDoesNotHave(t *testing.T) {
	store := &watched{Store: open(t)}
	ended, live := leasetest.Lease(0, t0), leasetest.Lease(1, t0)
	ended.ValidUntil, live.ValidUntil = t0.Add(time.Minute), t0.Add(24*time.Hour)
	u := lease.Update{Put: []lease.Lease{ended, live}}
	for _, l := range u.Put {
		u.Clients = append(u.Clients, lease.ClientList{Client: l.Client, Addrs: []netip.Addr{l.Addr}})
	}
	if err := store.Apply(&u); err != nil {
		t.Fatal(err)
	}
	x := index.New(store, 1)
	load(t, x, t0.Add(2*time.Hour))
	const many = 2000
	asks := func(n int, want error) {
		t.Helper()
		if _, err := x.Lookup(keyOf(n)); !errors.Is(err, want) {
			t.Fatalf("subscriber %d: %v", n, err)
		}
		if _, err := x.Lease(leasetest.Lease(n, t0).Addr); !errors.Is(err, want) {
			t.Fatalf("lease %d: %v", n, err)
		}
		if addrs, err := x.ByClient(nil, leasetest.Lease(n, t0).Client); err != nil || len(addrs) > 0 != (want == nil) {
			t.Fatalf("client %d: %v, %v", n, addrs, err)
		}
	}
	for n := 2; n < many; n++ {
		asks(n, lease.ErrNotFound)
		number, err := x.Register(keyOf(n), idcodec.NID{1}, t0)
		if err != nil {
			t.Fatal(err)
		}
		list, err1 := x.BySubscriber(nil, number)
		used, err2 := x.Account(number, idcodec.Prefix{1})
		if len(list) > 0 || used != (lease.Account{}) || err1 != nil || err2 != nil {
			t.Fatalf("subscriber %d has %v and has used %v; %v, %v", n, list, used, err1, err2)
		}
		l := leasetest.Lease(n, t0)
		l.ValidUntil = live.ValidUntil
		u := lease.Update{
			Put: []lease.Lease{l}, Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}},
			Lists: []lease.AddressList{{Subscriber: number, Addrs: []netip.Addr{l.Addr}}},
		}
		if err := x.Apply(&u); err != nil {
			t.Fatal(err)
		}
		asks(n, nil)
	}
	if store.asked > 0 {
		t.Errorf("the store was asked %d times for what it does not have", store.asked)
	}
	if l, err := x.Lease(live.Addr); err != nil || l.Addr != live.Addr || store.asked > 0 {
		t.Errorf("a lease that holds: %+v, %v, asked %d times", l, err, store.asked)
	}
	if l, err := x.Lease(ended.Addr); err != nil || l.Addr != ended.Addr || store.asked != 1 {
		t.Errorf("one that has ended: %+v, %v, asked %d times", l, err, store.asked)
	}
	if addrs, err := x.ByClient(nil, ended.Client); err != nil || len(addrs) != 1 || store.asked != 2 {
		t.Errorf("its client: %v, %v, asked %d times", addrs, err, store.asked)
	}
}

// Subscribers are found by the index, those that it has read and those that come.
func TestSubscribersAreFound(t *testing.T) {
	store := open(t)
	var x *index.Index
	for n := range 3000 {
		if n%1000 == 0 {
			x = index.New(store, 1)
			load(t, x, t0)
		}
		if got, err := x.Register(keyOf(n), idcodec.NID{1}, t0); err != nil || got != uint64(n) {
			t.Fatalf("%d: %d, %v", n, got, err)
		}
		l := leasetest.Lease(n, t0)
		l.Subscriber = uint64(n)
		u := lease.Update{Put: []lease.Lease{l}, Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}}}
		if err := x.Apply(&u); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3000 {
		// Of each third client somebody else asks.
		f := lease.Foreseen{Keys: []idcodec.LookupKey{keyOf(n), keyOf(n + 1)}}
		for i := range f.Keys {
			f.Clients, f.Whose = append(f.Clients, leasetest.Lease((n+i+n%3/2)%3000, t0).Client), append(f.Whose, i)
		}
		x.Prefetch(&f)
		if got, err := x.Lookup(keyOf(n)); err != nil || got != uint64(n) {
			t.Fatalf("%d: %d, %v", n, got, err)
		}
	}
	if _, err := x.Lookup(keyOf(3000)); err != lease.ErrNotFound {
		t.Errorf("a stranger: %v", err)
	}
}
