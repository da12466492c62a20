package shared

import (
	"encoding/binary"
	"net/netip"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
)

func number(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// SubscriberKey names the row of a subscriber.
func SubscriberKey(n uint64) Key { return Key{Subscribers, number(n)} }

// LeaseKey names the row of an address's newest lease.
func LeaseKey(a netip.Addr) Key {
	raw := a.As16()
	return Key{Leases, string(raw[:])}
}

// HistoryKey names the row of a lease that ended.
func HistoryKey(l *lease.Lease) Key {
	raw := l.Addr.As16()
	return Key{History, string(binary.BigEndian.AppendUint64(raw[:], uint64(l.Start.Unix())))}
}

// ClientKey names the row of an identity association.
func ClientKey(c lease.Client) Key {
	b := make([]byte, 0, 1+4+lease.MaxDUIDLen)
	if b = append(b, 0); c.PD {
		b[0] = 1
	}
	return Key{Clients, string(append(binary.BigEndian.AppendUint32(b, c.IAID), c.DUID...))}
}

func accountKey(server int, subscriber uint64, p idcodec.Prefix) Key {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(nil, uint16(server)), subscriber)
	return Key{Accounts, string(append(b, p[:]...))}
}

func addrOf(k Key) netip.Addr { return netip.AddrFrom16([16]byte([]byte(k.ID[:16]))) }

func appendAddrs(b []byte, addrs []netip.Addr) []byte {
	for _, a := range addrs {
		raw := a.As16()
		b = append(b, raw[:]...)
	}
	return b
}

func parseAddrs(dst []netip.Addr, b []byte) ([]netip.Addr, error) {
	if len(b)%16 != 0 {
		return dst, lease.ErrDamaged
	}
	for ; len(b) > 0; b = b[16:] {
		dst = append(dst, netip.AddrFrom16([16]byte(b)))
	}
	return dst, nil
}

func appendAccount(b []byte, a lease.Account) []byte {
	b = binary.BigEndian.AppendUint32(b, a.Epoch)
	b = binary.BigEndian.AppendUint16(b, a.Slot)
	return binary.BigEndian.AppendUint64(b, uint64(a.Even.Unix()))
}

func parseAccount(b []byte) (lease.Account, error) {
	if len(b) != 14 {
		return lease.Account{}, lease.ErrDamaged
	}
	return lease.Account{
		Epoch: binary.BigEndian.Uint32(b),
		Slot:  binary.BigEndian.Uint16(b[4:]),
		Even:  time.Unix(int64(binary.BigEndian.Uint64(b[6:])), 0).UTC(),
	}, nil
}

// AppendSubscriber appends the value of a subscriber's row to b.
func AppendSubscriber(b []byte, at time.Time, nid idcodec.NID) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(at.Unix())), nid...)
}

// ParseSubscriber reads the value of a subscriber's row.
func ParseSubscriber(n uint64, b []byte) (lease.Subscriber, error) {
	if len(b) < 8 {
		return lease.Subscriber{}, lease.ErrDamaged
	}
	return lease.Subscriber{Number: n, NID: idcodec.NID(b[8:]), Registered: time.Unix(int64(binary.BigEndian.Uint64(b)), 0).UTC()}, nil
}
