package index

import (
	"encoding/binary"

	"brightgid/lease"
)

// packed is the record of a lease (lease.AppendRecord) as it is kept, some 40 bytes shorter. Numbers are
// big-endian, times in seconds since 1970; relay is one of those that the index knows, or 0 for none:
//
//	version(1) state(1) bits(1) slot(2) epoch(4) subscriber(4) born(4) start(4) updated(4)
//	preferred until(4) valid until(4) IAID(4) relay(2) DUID link-layer
//
// and, where the record's version has them, relay's DUID and Remote-ID's hash; strings are as in the record.
// What does not fit is the record as it is, after a zero.
type packed []byte

const (
	offState      = 1
	offBits       = 2
	offSlot       = 3
	offEpoch      = 5
	offSubscriber = 9
	offBorn       = 13
	offEnds       = 29
	offIAID       = 33
	offRelay      = 37
	offDUID       = 39
)

// Where a record has what is packed.
const (
	recSlot       = 2
	recEpoch      = 4
	recSubscriber = 8
	recBorn       = 16
	recIAID       = 56
	recDUID       = 60

	withBits    = 2 // and later versions
	withStrings = 3
)

// times is how many of them there are in a record, one after the other.
const times = 5

// relays are those that leases are of.
type relays struct {
	numbers map[[16]byte]uint16
	addrs   [][16]byte
	last    uint16 // that was asked for
}

// maxRelays bounds them; the leases of more are not packed.
const maxRelays = 1<<16 - 1

// number returns a relay's, which is not 0.
func (r *relays) number(addr [16]byte) (uint16, bool) {
	if r.last != 0 && r.addrs[r.last-1] == addr {
		return r.last, true
	}
	n, ok := r.numbers[addr]
	if !ok {
		if len(r.addrs) == maxRelays {
			return 0, false
		}
		if r.numbers == nil {
			r.numbers = make(map[[16]byte]uint16)
		}
		r.addrs = append(r.addrs, addr)
		n = uint16(len(r.addrs))
		r.numbers[addr] = n
	}
	r.last = n
	return n, true
}

// field takes a string from the beginning of b, with its length.
func field(b []byte) (f, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	return b[:1+int(b[0])], b[1+int(b[0]):], true
}

// pack appends a record to b.
func (x *Index) pack(b packed, record []byte) packed {
	if p, ok := x.shorter(b, record); ok {
		return p
	}
	return append(append(b, 0), record...)
}

func (x *Index) shorter(b packed, record []byte) (packed, bool) {
	if len(record) <= recDUID || record[0] == 0 || record[0] > withStrings {
		return nil, false
	}
	duid, rest, ok1 := field(record[recDUID:])
	linkLayer, rest, ok2 := field(rest)
	relay, rest, ok3 := field(rest)
	if !ok1 || !ok2 || !ok3 {
		return nil, false
	}
	bits, number := byte(0), uint16(0)
	if record[0] >= withBits {
		if len(rest) == 0 {
			return nil, false
		}
		bits, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 && record[0] < withStrings {
		return nil, false
	}
	switch len(relay) {
	case 1:
	case 17:
		var ok bool
		if number, ok = x.relays.number([16]byte(relay[1:])); !ok {
			return nil, false
		}
	default:
		return nil, false
	}
	subscriber := binary.BigEndian.Uint64(record[recSubscriber:])
	if subscriber > 1<<32-1 {
		return nil, false
	}
	b = append(b, record[0], record[1], bits)
	b = append(b, record[recSlot:recSubscriber]...)
	b = binary.BigEndian.AppendUint32(b, uint32(subscriber))
	for at := recBorn; at < recIAID; at += 8 {
		t := binary.BigEndian.Uint64(record[at:])
		if t > 1<<32-1 {
			return nil, false
		}
		b = binary.BigEndian.AppendUint32(b, uint32(t))
	}
	b = append(b, record[recIAID:recDUID]...)
	b = binary.BigEndian.AppendUint16(b, number)
	return append(append(append(b, duid...), linkLayer...), rest...), true
}

// raw returns the record if it is as it is.
func (p packed) raw() (record []byte, ok bool) { return p[1:], p[0] == 0 }

// unpack appends the record to b.
func (x *Index) unpack(b []byte, p packed) []byte {
	if record, ok := p.raw(); ok {
		return append(b, record...)
	}
	b = append(b, p[0], p[offState])
	b = append(b, p[offSlot:offSubscriber]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.subscriber()))
	for i := range times {
		b = binary.BigEndian.AppendUint64(b, uint64(binary.BigEndian.Uint32(p[offBorn+4*i:])))
	}
	b = append(b, p[offIAID:offRelay]...)
	duid, rest, _ := field(p[offDUID:])
	linkLayer, rest, _ := field(rest)
	b = append(append(b, duid...), linkLayer...)
	if n := binary.BigEndian.Uint16(p[offRelay:]); n != 0 {
		b = append(append(b, 16), x.relays.addrs[n-1][:]...)
	} else {
		b = append(b, 0)
	}
	if p[0] >= withBits {
		b = append(b, p[offBits])
	}
	return append(b, rest...)
}

// subscriber returns the subscriber's number.
func (p packed) subscriber() uint64 {
	if record, ok := p.raw(); ok {
		n, _ := lease.RecordSubscriber(record)
		return n
	}
	return uint64(binary.BigEndian.Uint32(p[offSubscriber:]))
}

// ends returns when the lease ends, in seconds since 1970.
func (p packed) ends() uint64 {
	if record, ok := p.raw(); ok {
		return uint64(lease.RecordTimes(record).ValidUntil)
	}
	return uint64(binary.BigEndian.Uint32(p[offEnds:]))
}

// bits returns the length of a delegated prefix, 0 for an address.
func (p packed) bits() uint8 {
	if record, ok := p.raw(); ok {
		return lease.RecordBits(record)
	}
	return p[offBits]
}

// client returns whose lease it is; its DUID is the packed one's.
func (p packed) client() lease.Client {
	iaid, duid := offIAID, offDUID
	if record, ok := p.raw(); ok {
		if len(record) <= recDUID || len(record) < recDUID+1+int(record[recDUID]) {
			return lease.Client{} // it is damaged
		}
		iaid, duid = 1+recIAID, 1+recDUID
	}
	return lease.Client{DUID: p[duid+1 : duid+1+int(p[duid])], IAID: binary.BigEndian.Uint32(p[iaid:]), PD: p.bits() != 0}
}
