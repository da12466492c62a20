package lease

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// ErrDamaged says that a stored record cannot be read.
var ErrDamaged = errors.New("a record is damaged")

// The record of a lease, which stores file under its address, is fixed fields and three
// strings that a length byte leads; numbers are big-endian, times in seconds since 1970:
//
//	version(1) state(1) slot(2) epoch(4) subscriber(8) born(8) start(8)
//	updated(8) preferred until(8) valid until(8) IAID(4) DUID link-layer relay
//
// Version 2 is a delegated prefix's, with its length in a byte at the end. Version 3 is one
// of which more of the relay is kept, with the length, 0 for an address, and two strings
// more: relay's DUID and Remote-ID's hash.
const (
	leaseVersion  = 1
	prefixVersion = 2
	relayVersion  = 3
	leaseFixedLen = 1 + 1 + 2 + 4 + 8 + 5*8 + 4
)

// AppendRecord appends the record of a lease to b.
func AppendRecord(b []byte, l *Lease) []byte {
	version := byte(leaseVersion)
	switch {
	case len(l.Anchor.RelayID)+len(l.Anchor.RemoteID) > 0:
		version = relayVersion
	case l.Bits != 0:
		version = prefixVersion
	}
	b = append(b, version, byte(l.State))
	b = binary.BigEndian.AppendUint16(b, l.Slot)
	b = binary.BigEndian.AppendUint32(b, l.Epoch)
	b = binary.BigEndian.AppendUint64(b, l.Subscriber)
	for _, t := range [...]time.Time{l.Born, l.Start, l.Updated, l.PreferredUntil, l.ValidUntil} {
		b = binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
	}
	b = binary.BigEndian.AppendUint32(b, l.Client.IAID)
	b = append(append(b, byte(len(l.Client.DUID))), l.Client.DUID...)
	b = append(append(b, byte(len(l.Anchor.LinkLayer))), l.Anchor.LinkLayer...)
	if l.Anchor.Relay.IsValid() {
		relay := l.Anchor.Relay.As16()
		b = append(append(b, 16), relay[:]...)
	} else {
		b = append(b, 0)
	}
	if version != leaseVersion {
		b = append(b, l.Bits)
	}
	if version == relayVersion {
		b = append(append(b, byte(len(l.Anchor.RelayID))), l.Anchor.RelayID...)
		b = append(append(b, byte(len(l.Anchor.RemoteID))), l.Anchor.RemoteID...)
	}
	return b
}

// Where a record has the times that a renewal changes, and where its strings begin.
const (
	offUpdated = 32
	offIAID    = 56
)

// Times are the times of a lease that a renewal changes, in seconds since 1970.
type Times struct{ Updated, PreferredUntil, ValidUntil int64 }

// RecordTimes returns the times in a record, or none of one that is too short to be one.
func RecordTimes(record []byte) Times {
	if len(record) < leaseFixedLen {
		return Times{}
	}
	i64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(record[at:])) }
	return Times{i64(offUpdated), i64(offUpdated + 8), i64(offUpdated + 16)}
}

// Put writes the times into a record, which is long enough to be one.
func (t Times) Put(record []byte) {
	for i, n := range [...]int64{t.Updated, t.PreferredUntil, t.ValidUntil} {
		binary.BigEndian.PutUint64(record[offUpdated+8*i:], uint64(n))
	}
}

// RecordRest returns what is before the times in a record, and what is after them.
func RecordRest(record []byte) (before, after []byte) {
	if len(record) < leaseFixedLen {
		return record, nil
	}
	return record[:offUpdated], record[offIAID:]
}

// RecordSubscriber returns the subscriber's number in a record, and whether it is long enough to have one.
func RecordSubscriber(record []byte) (number uint64, ok bool) {
	if len(record) < leaseFixedLen {
		return 0, false
	}
	return binary.BigEndian.Uint64(record[8:]), true
}

// RecordEpoch returns the epoch in a record, and whether it is long enough to have one.
func RecordEpoch(record []byte) (epoch uint32, ok bool) {
	if len(record) < leaseFixedLen {
		return 0, false
	}
	return binary.BigEndian.Uint32(record[4:]), true
}

// RecordBits returns the length of a delegated prefix in a record, or 0 for an address.
func RecordBits(record []byte) uint8 {
	if len(record) < leaseFixedLen || record[0] == leaseVersion {
		return 0
	}
	at := leaseFixedLen
	for range 3 {
		if at >= len(record) {
			return 0
		}
		at += 1 + int(record[at])
	}
	if at >= len(record) {
		return 0
	}
	return record[at]
}

// ParseRecord reads the record of a lease of an address. The lease is the caller's to keep.
// It returns [ErrDamaged] for what AppendRecord does not write.
func ParseRecord(addr netip.Addr, b []byte) (Lease, error) {
	l, _, err := ParseRecordIn(addr, b, nil)
	return l, err
}

// ParseRecordIn is ParseRecord of which what the lease points to is appended to buf, and is valid as
// long as the buffer is.
func ParseRecordIn(addr netip.Addr, b, buf []byte) (Lease, []byte, error) {
	if len(b) < leaseFixedLen || b[0] < leaseVersion || b[0] > relayVersion {
		return Lease{}, buf, ErrDamaged
	}
	u64 := binary.BigEndian.Uint64
	l := Lease{
		Addr:           addr,
		State:          State(b[1]),
		Slot:           binary.BigEndian.Uint16(b[2:]),
		Epoch:          binary.BigEndian.Uint32(b[4:]),
		Subscriber:     u64(b[8:]),
		Born:           seconds(u64(b[16:])),
		Start:          seconds(u64(b[24:])),
		Updated:        seconds(u64(b[32:])),
		PreferredUntil: seconds(u64(b[40:])),
		ValidUntil:     seconds(u64(b[48:])),
	}
	l.Client.IAID = binary.BigEndian.Uint32(b[56:])
	begin := len(buf)
	buf = append(buf, b[leaseFixedLen:]...)
	rest := buf[begin:len(buf):len(buf)]
	field := func() (f []byte, ok bool) {
		if len(rest) < 1 || len(rest) < 1+int(rest[0]) {
			return nil, false
		}
		f, rest = rest[1:1+rest[0]], rest[1+rest[0]:]
		return f, true
	}
	var ok1, ok2, ok3 bool
	var relay []byte
	l.Client.DUID, ok1 = field()
	l.Anchor.LinkLayer, ok2 = field()
	relay, ok3 = field()
	if b[0] != leaseVersion && len(rest) > 0 {
		l.Bits, rest = rest[0], rest[1:]
		l.Client.PD = l.Bits != 0
	}
	if b[0] == relayVersion {
		var ok bool
		l.Anchor.RelayID, ok = field()
		ok1 = ok1 && ok
		l.Anchor.RemoteID, ok = field()
		ok1 = ok1 && ok
	}
	if !ok1 || !ok2 || !ok3 || len(rest) != 0 || b[0] == prefixVersion && l.Bits == 0 || l.Bits > 128 || len(relay) != 0 && len(relay) != 16 {
		return Lease{}, buf, ErrDamaged
	}
	if len(relay) == 16 {
		l.Anchor.Relay = netip.AddrFrom16([16]byte(relay))
	}
	return l, buf, nil
}

func seconds(n uint64) time.Time { return time.Unix(int64(n), 0).UTC() }
