package index_test

import (
	"encoding/binary"
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

// Whatever is written, in whatever order, while leases end and are swept, the index says
// what the store behind it says, and so does one that is made anew.
func TestTheIndexSaysWhatTheStoreSays(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { compare(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func compare(t *testing.T, rng *rand.Rand) {
	store, err := pebblestore.Open(filepath.Join(t.TempDir(), "leases"), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	now := t0
	x := index.New(store, 4)
	const addrs, clients = 60, 25
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
		// What is fetched may be there or not, and changes nothing.
		f := lease.Foreseen{Keys: []idcodec.LookupKey{{byte(rng.IntN(9))}}}
		for range rng.IntN(20) {
			f.Clients, f.Whose = append(f.Clients, client(rng.IntN(clients))), append(f.Whose, rng.IntN(2)-1)
		}
		x.Prefetch(&f)
		before := x.Len()
		if err := x.Apply(&u); err != nil {
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

// Subscribers are found by the index, those that it has read and those that come.
func TestSubscribersAreFound(t *testing.T) {
	store, err := pebblestore.Open(filepath.Join(t.TempDir(), "leases"), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	key := func(n int) (k idcodec.LookupKey) {
		binary.BigEndian.PutUint64(k[:], uint64(n)*0x9e3779b97f4a7c15)
		return k
	}
	var x *index.Index
	for n := range 3000 {
		if n%1000 == 0 {
			x = index.New(store, 1)
			load(t, x, t0)
		}
		if got, err := x.Register(key(n), idcodec.NID{1}, t0); err != nil || got != uint64(n) {
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
		f := lease.Foreseen{Keys: []idcodec.LookupKey{key(n), key(n + 1)}}
		for i := range f.Keys {
			f.Clients, f.Whose = append(f.Clients, leasetest.Lease((n+i+n%3/2)%3000, t0).Client), append(f.Whose, i)
		}
		x.Prefetch(&f)
		if got, err := x.Lookup(key(n)); err != nil || got != uint64(n) {
			t.Fatalf("%d: %d, %v", n, got, err)
		}
	}
	if _, err := x.Lookup(key(3000)); err != lease.ErrNotFound {
		t.Errorf("a stranger: %v", err)
	}
}
