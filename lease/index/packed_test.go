package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"brightgid/lease"
	"brightgid/lease/leasetest"
)

// records are of every kind, and what is none.
func records() map[string][]byte {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	out := make(map[string][]byte)
	add := func(name string, change func(*lease.Lease)) {
		l := leasetest.Lease(3, at)
		change(&l)
		out[name] = lease.AppendRecord(nil, &l)
	}
	add("an address", func(l *lease.Lease) {})
	add("no relay", func(l *lease.Lease) { l.Anchor.Relay = netip.Addr{} })
	add("a prefix", func(l *lease.Lease) { l.Bits, l.Client.PD = 56, true })
	add("all of the relay", func(l *lease.Lease) { l.Anchor.RelayID, l.Anchor.RemoteID = []byte{1, 2, 3}, make([]byte, 16) })
	add("all of the relay, a prefix", func(l *lease.Lease) {
		l.Bits, l.Client.PD, l.Anchor.RemoteID = 64, true, make([]byte, 16)
	})
	add("the longest", func(l *lease.Lease) {
		l.Client.DUID, l.Anchor.LinkLayer = make([]byte, lease.MaxDUIDLen), make([]byte, lease.MaxLinkLayerLen)
		l.Anchor.RelayID, l.Anchor.RemoteID = make([]byte, lease.MaxDUIDLen), make([]byte, lease.RemoteIDLen)
	})
	add("no strings", func(l *lease.Lease) { l.Client.DUID, l.Anchor = nil, lease.Anchor{} })
	add("until 2106", func(l *lease.Lease) { l.ValidUntil = time.Unix(1<<32-1, 0) })
	add("after 2106", func(l *lease.Lease) { l.ValidUntil = time.Unix(1<<32, 0) })
	add("before 1970", func(l *lease.Lease) { l.Born = time.Unix(-1, 0) })
	add("the last that fits", func(l *lease.Lease) { l.Subscriber = 1<<32 - 1 })
	add("a number that does not", func(l *lease.Lease) { l.Subscriber = 1 << 32 })
	whole := out["all of the relay"]
	for _, n := range []int{0, 1, recDUID, recDUID + 1, recDUID + 5, len(whole) - 40} {
		out[fmt.Sprintf("the first %d bytes of one", n)] = whole[:n]
	}
	out["a version that is none"] = append([]byte{9}, whole[1:]...)
	return out
}

// What is packed is the record, and tells what the record does.
func TestPackedIsTheRecord(t *testing.T) {
	var x Index
	shorter := 0
	for name, record := range records() {
		p := x.pack(nil, record)
		if got := x.unpack(nil, p); !bytes.Equal(got, record) {
			t.Errorf("%s: %x, want %x", name, got, record)
		}
		if len(p) < len(record) {
			shorter++
		} else if len(p) != len(record)+1 {
			t.Errorf("%s: %d bytes for %d", name, len(p), len(record))
		}
		l, err := lease.ParseRecord(netip.IPv6Unspecified(), record)
		if err != nil {
			_ = p.client() // which it has not, perhaps
			continue
		}
		if p.subscriber() != l.Subscriber || p.bits() != l.Bits || p.ends() != uint64(l.ValidUntil.Unix()) || !p.client().Is(l.Client) {
			t.Errorf("%s: subscriber %d, %d bits, until %d, %+v; want %+v", name, p.subscriber(), p.bits(), p.ends(), p.client(), l)
		}
	}
	if shorter != 9 {
		t.Errorf("%d are shorter, want 9", shorter)
	}
}

func FuzzPack(f *testing.F) {
	for _, record := range records() {
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		var x Index
		p := x.pack(nil, record)
		if got := x.unpack(nil, p); !bytes.Equal(got, record) {
			t.Errorf("%x, want %x", got, record)
		}
		l, err := lease.ParseRecord(netip.IPv6Unspecified(), record)
		if c := p.client(); err == nil && (!c.Is(l.Client) || p.subscriber() != l.Subscriber || p.bits() != l.Bits || p.ends() != uint64(l.ValidUntil.Unix())) {
			t.Errorf("subscriber %d, %d bits, until %d, %+v; want %+v", p.subscriber(), p.bits(), p.ends(), c, l)
		}
	})
}

// There are as many relays as two bytes tell apart; the leases of more are kept as they are.
func TestRelaysAreBounded(t *testing.T) {
	var x Index
	l := leasetest.Lease(3, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))
	of := func(n int) []byte {
		var raw [16]byte
		binary.BigEndian.PutUint32(raw[12:], uint32(n))
		l.Anchor.Relay = netip.AddrFrom16(raw)
		return lease.AppendRecord(nil, &l)
	}
	packs := make([]packed, 0, maxRelays+2)
	for n := range maxRelays + 2 {
		packs = append(packs, x.pack(nil, of(n)))
	}
	for _, n := range append(rand.New(rand.NewPCG(1, 2)).Perm(maxRelays)[:100], 0, maxRelays-1, maxRelays, maxRelays+1) {
		if got := x.unpack(nil, packs[n]); !bytes.Equal(got, of(n)) {
			t.Errorf("relay %d: %x", n, got)
		}
		if _, raw := packs[n].raw(); raw != (n >= maxRelays) {
			t.Errorf("relay %d: packed %v", n, !raw)
		}
	}
	if len(x.relays.addrs) != maxRelays || len(x.relays.numbers) != maxRelays {
		t.Errorf("%d relays", len(x.relays.addrs))
	}
}
