package index

import (
	"net/netip"

	"brightgid/lease"
	"brightgid/lease/arena"
)

// ahead is what Prefetch needs from one step to the next.
type ahead struct {
	keys, clients, more []uint32 // hashes
	blocks              []arena.Ref
	addrs               []netip.Addr
}

// blockLen is how much of a block is fetched, which is seldom longer.
const blockLen = 128

// Prefetch has the processor fetch what the messages of these clients will need, before they are
// handled. Among many leases nothing of it is in its caches. A message comes to one thing by
// another and waits for each; here a step is done for all of them before the next, and what they
// need comes at the same time.
func (x *Index) Prefetch(f *lease.Foreseen) {
	a := &x.ahead
	a.keys, a.clients, a.more, a.blocks, a.addrs = a.keys[:0], a.clients[:0], a.more[:0], a.blocks[:0], a.addrs[:0]
	for i := range f.Keys {
		hash := x.hashAddr([16]byte(f.Keys[i][:]))
		a.keys = append(a.keys, hash)
		x.keys.Fetch(hash)
	}
	for i := range f.Clients {
		hash := x.hashClient(f.Clients[i])
		a.clients = append(a.clients, hash)
		x.clients.Fetch(hash)
	}

	for _, hash := range a.keys {
		if r := x.keys.Probably(hash); r != 0 {
			arena.Fetch(x.half(uint64(r)-1), 16)
		}
	}
	for _, hash := range a.clients {
		if r := x.clients.Probably(hash); r != 0 {
			a.blocks = append(a.blocks, r)
			x.blocks.Fetch(r, blockLen)
		}
	}
	for i := range f.Clients {
		if at := x.swept + 1 + i; at < x.addrs.Slots() && x.addrs.At(at) != 0 {
			x.blocks.Fetch(x.addrs.At(at), headLen+16+offIAID) // sweep will come to it
		}
	}

	for _, r := range a.blocks {
		kind, b := x.block(r)
		if kind == kindList {
			b = b[6+int(b[5]):]
		} else {
			b = b[:16]
		}
		for ; len(b) >= 16; b = b[16:] {
			raw := [16]byte(b)
			hash := x.hashAddr(raw)
			a.addrs, a.more = append(a.addrs, netip.AddrFrom16(raw)), append(a.more, hash)
			x.addrs.Fetch(hash)
		}
	}

	for _, hash := range a.more {
		if r := x.addrs.Probably(hash); r != 0 {
			x.blocks.Fetch(r, blockLen)
		}
	}
	if x.behind != nil {
		x.behind(a.addrs)
	}
}
