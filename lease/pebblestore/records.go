package pebblestore

import (
	"encoding/binary"
	"net/netip"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/lease/renewals"
)

// formatVersion is stored under keyFormat. Format 1 had all in Pebble and its log, format 2 had no
// file of renewals.
const formatVersion = 3

var keyFormat = []byte("Fformat")

// keyLengths holds the lengths of delegated prefixes that were ever filed, a byte each.
var keyLengths = []byte("Flengths")

// The first byte of a key tells what it is. All numbers are big-endian.
const (
	tagClient     = 'C' // DUID ‖ IAID(4) → addresses, 16 bytes each
	tagDelegated  = 'D' // DUID ‖ IAID(4) of an IA_PD → first addresses of prefixes, 16 bytes each
	tagLookup     = 'K' // lookup key(32) → subscriber(8)
	tagLease      = 'L' // address(16), the first of a prefix → newest lease
	tagHistory    = 'M' // address(16) ‖ start(8) → ended lease; follows tagLease
	tagSubscriber = 'N' // subscriber(8) → registered(8) ‖ NID
	tagAccount    = 'S' // subscriber(8) ‖ prefix(8) → epoch(4) ‖ slot(2) ‖ even(8)
	tagList       = 'U' // subscriber(8) → addresses, 16 bytes each
)

func lookupKey(b []byte, k idcodec.LookupKey) []byte {
	return append(append(b, tagLookup), k[:]...)
}

func subscriberKey(b []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tagSubscriber), n)
}

func listKey(b []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tagList), n)
}

func accountKey(b []byte, n uint64, p idcodec.Prefix) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, tagAccount), n), p[:]...)
}

func leaseKey(b []byte, a netip.Addr) []byte {
	raw := a.As16()
	return append(append(b, tagLease), raw[:]...)
}

// prefixBounds are the first key of a prefix's addresses, and the first after them.
func prefixBounds(tag byte, p netip.Prefix) (lower, upper []byte) {
	first := p.Masked().Addr().As16()
	last := first
	for bit := p.Bits(); bit < 128; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	lower = append([]byte{tag}, first[:]...)
	upper = append([]byte{tag}, last[:]...)
	// A key of the last address may be longer than the address.
	return lower, append(upper, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
}

func historyPrefix(b []byte, a netip.Addr) []byte {
	raw := a.As16()
	return append(append(b, tagHistory), raw[:]...)
}

func historyKey(b []byte, l *lease.Lease) []byte {
	return binary.BigEndian.AppendUint64(historyPrefix(b, l.Addr), uint64(l.Start.Unix()))
}

// tagRenewal is of keys that the log has, and Pebble has not: key of a place(8) → place; see package renewals.
const tagRenewal = 'T'

func renewalKey(b []byte, k renewals.Key) []byte { return k.Append(append(b, tagRenewal)) }

func placesOf(l *lease.Lease) renewals.Key { return renewals.KeyOf(l.Subscriber, l.Bits != 0) }

// placesIn is placesOf by the record of a lease.
func placesIn(record []byte) (renewals.Key, bool) {
	n, ok := lease.RecordSubscriber(record)
	return renewals.KeyOf(n, ok && lease.RecordBits(record) != 0), ok
}

func addrOfKey(k []byte) netip.Addr { return netip.AddrFrom16([16]byte(k[1:17])) }

func clientKey(b []byte, c lease.Client) []byte {
	tag := byte(tagClient)
	if c.PD {
		tag = tagDelegated
	}
	return binary.BigEndian.AppendUint32(append(append(b, tag), c.DUID...), c.IAID)
}

func seconds(n uint64) time.Time { return time.Unix(int64(n), 0).UTC() }
