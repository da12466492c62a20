package shared_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/pebblestore"
	"brightgid/lease/shared"
	"brightgid/lease/shared/memdb"
)

// embedded makes a database with subscribers, leases, some of which follow others, and a delegated
// prefix.
func embedded(t *testing.T, subscribers int) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(filepath.Join(t.TempDir(), "leases"), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for i := range subscribers {
		n, err := s.Register(keyOf(i), idcodec.NID(fmt.Sprintf("NID %d", i)), t0)
		if err != nil || n != uint64(i) {
			t.Fatalf("subscriber %d is %d, %v", i, n, err)
		}
		l := leasetest.Lease(i, t0)
		u := lease.Update{Put: []lease.Lease{l}, Clients: []lease.ClientList{{Client: l.Client, Addrs: []netip.Addr{l.Addr}}}, Lists: []lease.AddressList{{Subscriber: n, Addrs: []netip.Addr{l.Addr}}}}
		if i%3 == 0 {
			before := l
			before.Start, before.State = t0.Add(-time.Hour), lease.Released
			u.Archive = append(u.Archive, before)
		}
		if i == 7 {
			p := leasetest.Lease(9000, t0)
			p.Subscriber, p.Bits, p.Client = n, 56, lease.Client{DUID: l.Client.DUID, IAID: 3, PD: true}
			u.Put = append(u.Put, p)
			u.Clients = append(u.Clients, lease.ClientList{Client: p.Client, Addrs: []netip.Addr{p.Addr}})
			u.Lists[0].Addrs = append(u.Lists[0].Addrs, p.Addr)
		}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // a renewal, which the store may have elsewhere
			l.Updated, l.ValidUntil = t0.Add(time.Minute), t0.Add(3*time.Hour)
			if err := s.Apply(put(l)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

func keyOf(i int) idcodec.LookupKey { return idcodec.LookupKey{1, byte(i >> 8), byte(i)} }

// What the embedded database had the shared one has, however often the import was interrupted
// before, and the next subscriber gets the next number.
func TestImport(t *testing.T) {
	const subscribers = 700
	from := embedded(t, subscribers)
	db := &memdb.Conn{Database: memdb.New()}
	keys := shared.Keyed{Tag: func(uint32) (int64, error) { return 1, nil }}
	count, err := shared.Count(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	if count.Subscribers != subscribers || count.Leases != subscribers+1 || count.History != (subscribers+2)/3 || count.Clients != subscribers+1 {
		t.Errorf("counted %+v", count)
	}
	interrupted := 0
	for again := true; again; {
		ctx, cancel := context.WithCancel(t.Context())
		calls, last := 0, 0
		err := shared.Import(ctx, db, "one", keys, from, count, func(done, of int) {
			if done <= last || done > of {
				t.Errorf("%d of %d rows after %d", done, of, last)
			}
			last = done
			if calls++; calls > interrupted+1 {
				cancel()
			}
		})
		cancel()
		switch again = errors.Is(err, context.Canceled); {
		case again:
			interrupted++
		case err != nil:
			t.Fatal(err)
		}
	}
	if interrupted < 3 {
		t.Errorf("interrupted %d times only", interrupted)
	}
	if err := shared.Import(t.Context(), db, "one", keys, from, count, nil); !errors.Is(err, shared.ErrNotEmpty) {
		t.Errorf("a second time: %v", err)
	}

	for _, name := range []string{"one", "two"} {
		s := attach(t, db, shared.Options{Name: name})
		run(t, s)
		if got, want := s.Lengths(), from.Lengths(); !slices.Equal(got, want) || len(want) != 1 {
			t.Errorf("lengths %v, want %v", got, want)
		}
		check := func(what string, got, want any, err1, err2 error) {
			t.Helper()
			if g, w := fmt.Sprintf("%+v %v", got, err1), fmt.Sprintf("%+v %v", want, err2); g != w || err2 != nil {
				t.Fatalf("%s at %s: %s, want %s", what, name, g, w)
			}
		}
		if err := from.Each(func(l lease.Lease) error {
			got, err := s.Lease(l.Addr)
			check("lease", got, l, err, nil)
			gotHistory, err1 := s.Direct().History(nil, l.Addr)
			history, err2 := from.History(nil, l.Addr)
			check("history", gotHistory, history, err1, err2)
			gotAddrs, err1 := s.ByClient(nil, l.Client)
			addrs, err2 := from.ByClient(nil, l.Client)
			check("client", gotAddrs, addrs, err1, err2)
			gotAddrs, err1 = s.BySubscriber(nil, l.Subscriber)
			addrs, err2 = from.BySubscriber(nil, l.Subscriber)
			check("subscriber's addresses", gotAddrs, addrs, err1, err2)
			gotSub, err1 := s.Direct().Subscriber(l.Subscriber)
			sub, err2 := from.Subscriber(l.Subscriber)
			check("subscriber", gotSub, sub, err1, err2)
			n, err := s.Lookup(keyOf(int(l.Subscriber)))
			check("number", n, l.Subscriber, err, nil)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		n, err := s.Register(idcodec.LookupKey{2, name[0]}, idcodec.NID("new"), t0)
		if s.Mark(); err != nil || n < subscribers {
			t.Errorf("the next subscriber at %s is %d, %v", name, n, err)
		}
	}
}

// Nobody's leases are mixed with others': not in a database that is in use, not under other keys,
// not when the source changes.
func TestWhatCannotBeImported(t *testing.T) {
	from := embedded(t, 5)
	keys := shared.Keyed{Tag: func(uint32) (int64, error) { return 1, nil }}
	count, err := shared.Count(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	imported := func(db *memdb.Database, keys shared.Keyed) error {
		return shared.Import(t.Context(), &memdb.Conn{Database: db}, "one", keys, from, count, nil)
	}
	used := memdb.New()
	s := attach(t, &memdb.Conn{Database: used}, shared.Options{})
	run(t, s)
	if _, err := s.Register(idcodec.LookupKey{9}, idcodec.NID("NID"), t0); err != nil {
		t.Fatal(err)
	}
	if err := s.Mark().Wait(); err != nil {
		t.Fatal(err)
	}
	if err := imported(used, keys); !errors.Is(err, shared.ErrNotEmpty) {
		t.Errorf("a database that is in use: %v", err)
	}
	others := memdb.New()
	attach(t, &memdb.Conn{Database: others}, shared.Options{Name: "another", Keys: shared.Keyed{Tag: func(uint32) (int64, error) { return 2, nil }}})
	if err := imported(others, keys); !errors.Is(err, shared.ErrKeys) {
		t.Errorf("other keys: %v", err)
	}
	if _, err := from.Register(keyOf(5), idcodec.NID("NID 5"), t0); err != nil {
		t.Fatal(err)
	}
	if err := imported(memdb.New(), keys); err == nil {
		t.Error("a source that has changed was imported")
	}
}
