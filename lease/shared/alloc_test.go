package shared_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/shared"
	"brightgid/lease/shared/memdb"
)

// A server renews what it leased while the database is away, by the allocator that it has.
func TestAnAllocatorRenewsWhileTheDatabaseIsAway(t *testing.T) {
	a, _, ca, _ := pair(t)
	keys, err := idcodec.NewKeyring(rand.NewChaCha8([32]byte{1}), idcodec.DefaultEpochLength, 20000)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	alloc := lease.NewAllocator(a, keys, lease.Policy{Preferred: time.Hour, Valid: 2 * time.Hour, MaxAge: 72 * time.Hour, DeclineHold: time.Hour, PerSubscriber: 8})
	request := func(n uint64) *lease.Request {
		return &lease.Request{Subscriber: n, Client: lease.Client{DUID: []byte{0, 3, byte(n)}, IAID: 1}, Prefixes: []idcodec.Prefix{idcodec.PrefixOf(netip.MustParseAddr("2001:db8::"))}}
	}
	for n := range uint64(3) {
		if _, err := alloc.Assign(now, request(n)); err != nil {
			t.Fatal(err)
		}
		m := a.Mark()
		if err := errors.Join(a.Flush(t.Context()), m.Wait()); err != nil {
			t.Fatal(err)
		}
	}
	ca.Fault = func() memdb.Fault { return memdb.NotAsked }
	for n := range uint64(3) {
		for range 2 {
			now = now.Add(time.Minute)
			g, err := alloc.Renew(now, request(n))
			if err != nil || len(g) != 1 || g[0].Valid != 2*time.Hour {
				t.Fatalf("client %d: %v, %v", n, g, err)
			}
			m := a.Mark()
			_ = a.Flush(t.Context())
			if err := m.Wait(); err != nil {
				t.Errorf("client %d: %v", n, err)
			}
		}
	}
	if _, err := alloc.Assign(now, request(9)); !errors.Is(err, shared.ErrAway) {
		t.Errorf("a new client: %v", err)
	}
}
