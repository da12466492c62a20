package index

import (
	"brightgid/lease"
	"brightgid/lease/arena"
	"brightgid/lease/renewals"
)

const (
	// blockLen is how much of a block is fetched, which is seldom longer.
	blockLen = 128

	// nearby is more than a batch asks for.
	nearby = 512
)

// ahead is what the steps of Prefetch leave for each other.
type ahead struct {
	lines   arena.Lines
	clients []uint32 // hashes
	keys    []uint32 // the same of those who are behind them
	filed   []filed
	listed  []uint32 // hashes of those addresses whose leases are somewhere else
	places  []renewals.Key
}

// filed is where it is what a client has.
type filed struct {
	at  arena.Ref
	key uint32
}

// none is no hash but by chance, which does no harm.
const none = 1<<32 - 1

// near is what will be asked for soon, by its hash, so that nobody needs to look for it. What is
// there is as good as found, or something else's.
type near struct {
	leases  [nearby]arena.Ref // by their addresses
	numbers [nearby]uint32    // of subscribers and one, by their lookup keys
}

// fetcher is a store behind the index that has memory, too, which it writes leases to.
type fetcher interface {
	Places(lines arena.Lines, keys []renewals.Key) arena.Lines
}

// Prefetch has the processor fetch what the messages of these clients will need, before they are
// handled. Among many leases nothing of it is in its caches. A message comes to one thing by
// another and waits for each; here a step is done for all of them before the next, and what they
// need comes at the same time.
func (x *Index) Prefetch(f *lease.Foreseen) {
	a := &x.ahead
	a.clients, a.keys, a.filed, a.listed, a.places = a.clients[:0], a.keys[:0], a.filed[:0], a.listed[:0], a.places[:0]
	for i := range f.Clients {
		hash := x.hashClient(f.Clients[i])
		a.clients = append(a.clients, hash)
		a.lines = a.lines.Slot(x.clients, hash)
	}
	a.lines = a.lines.Fetch()
	for _, i := range f.Whose {
		key := uint32(none)
		if i >= 0 {
			key = x.hashAddr([16]byte(f.Keys[i][:]))
		}
		a.keys = append(a.keys, key)
	}

	for i, hash := range a.clients {
		if r := x.clients.Probably(hash); r != 0 {
			a.filed = append(a.filed, filed{r, a.keys[i]})
			a.lines = a.lines.Block(x.blocks, r, blockLen)
		}
		if at := x.swept + 1 + i; i < x.unswept && at < x.addrs.Slots() && x.addrs.At(at) != 0 {
			a.lines = a.lines.Block(x.blocks, x.addrs.At(at), headLen+16+offIAID) // sweep will come to it
		}
	}
	a.lines = a.lines.Fetch()

	for _, c := range a.filed {
		kind, b := x.block(c.at)
		if kind == kindList {
			for b = b[6+int(b[5]):]; len(b) >= 16; b = b[16:] {
				hash := x.hashAddr([16]byte(b))
				a.listed = append(a.listed, hash)
				a.lines = a.lines.Slot(x.addrs, hash)
			}
			continue
		}
		raw := [16]byte(b)
		x.near.leases[x.hashAddr(raw)%nearby] = c.at
		a.places = append(a.places, x.place(c.at))
		if n := packed(b[16:]).subscriber(); n/halvesAtOnce < uint64(len(x.halves)) {
			x.near.numbers[c.key%nearby] = uint32(n) + 1
			a.lines = a.lines.Memory(x.half(n), 16)
		}
	}
	a.lines = x.fetchPlaces(a.lines.Fetch())
	if len(a.listed) == 0 {
		return
	}

	for _, hash := range a.listed {
		if r := x.addrs.Probably(hash); r != 0 {
			x.near.leases[hash%nearby] = r
			a.lines = a.lines.Block(x.blocks, r, blockLen)
		}
	}
	a.lines = a.lines.Fetch()

	for _, hash := range a.listed {
		if r := x.near.leases[hash%nearby]; r != 0 {
			a.places = append(a.places, x.place(r))
		}
	}
	a.lines = x.fetchPlaces(a.lines)
}

// place is where the store has the times of a lease.
func (x *Index) place(r arena.Ref) renewals.Key {
	_, b := x.block(r)
	p := packed(b[16:])
	return renewals.KeyOf(p.subscriber(), p.bits() != 0)
}

// fetchPlaces fetches what the store behind has of leases.
func (x *Index) fetchPlaces(lines arena.Lines) arena.Lines {
	if x.behind != nil {
		lines = x.behind.Places(lines, x.ahead.places)
	}
	x.ahead.places = x.ahead.places[:0]
	return lines.Fetch()
}
