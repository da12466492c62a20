package sava

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// errDHCPv6 says that a DHCPv6 message cannot be read. What insomniacslk/dhcp
// refuses beyond that, such as a DUID whose length does not fit its type, is the
// server's to judge: a host that it serves must not lose its binding by it.
var errDHCPv6 = errors.New("malformed DHCPv6 message")

// nextOption splits the first option off: code(2) length(2) data (RFC 9915 §21.1).
func nextOption(b []byte) (code dhcp6.OptionCode, data, rest []byte, err error) {
	if len(b) < 4 || len(b) < 4+int(binary.BigEndian.Uint16(b[2:])) {
		return 0, nil, nil, errDHCPv6
	}
	n := 4 + int(binary.BigEndian.Uint16(b[2:]))
	return dhcp6.OptionCode(binary.BigEndian.Uint16(b)), b[4:n], b[n:], nil
}

// EachOption calls f with every DHCPv6 option of a list, until it returns an error.
func EachOption(b []byte, f func(code dhcp6.OptionCode, data []byte) error) error {
	for len(b) > 0 {
		code, data, rest, err := nextOption(b)
		if err != nil {
			return err
		}
		if err := f(code, data); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// maxAddrs bounds the addresses of one message.
const maxAddrs = 64

// Leased is an address, or one that stands for a delegated prefix (see [KeyOf]), and how
// long it is still leased for; 0 when it is not.
type Leased struct {
	Addr  netip.Addr
	Valid time.Duration
}

// leasedAddr reads an OPTION_IAADDR: address(16) preferred(4) valid(4) options.
// An address whose own status is an error is leased for no time. It returns false for a
// group, which is nobody's, and which a table could take for the key of a prefix.
func leasedAddr(data []byte) (l Leased, ok bool, err error) {
	if len(data) < 24 {
		return Leased{}, false, errDHCPv6
	}
	l = Leased{Addr: netip.AddrFrom16([16]byte(data)), Valid: time.Duration(binary.BigEndian.Uint32(data[20:])) * time.Second}
	status, err := statusOf(data[24:])
	if status != 0 {
		l.Valid = 0
	}
	return l, !l.Addr.IsMulticast(), err
}

// leasedPrefix reads an OPTION_IAPREFIX: preferred(4) valid(4) length(1) prefix(16)
// options. It returns false for a prefix that cannot be bound, being longer than a /64
// or of no length.
func leasedPrefix(data []byte) (l Leased, ok bool, err error) {
	if len(data) < 25 || data[8] > 128 {
		return Leased{}, false, errDHCPv6
	}
	status, err := statusOf(data[25:])
	if err != nil {
		return Leased{}, false, err
	}
	key, err := KeyOf(netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:])), int(data[8])))
	if err != nil {
		return Leased{}, false, nil
	}
	l = Leased{Addr: key, Valid: time.Duration(binary.BigEndian.Uint32(data[4:])) * time.Second}
	if status != 0 {
		l.Valid = 0
	}
	return l, true, nil
}

// statusOf returns the status code in a list of options; success without one.
func statusOf(options []byte) (status uint16, err error) {
	err = EachOption(options, func(code dhcp6.OptionCode, data []byte) error {
		if code != dhcp6.OptionStatusCode {
			return nil
		}
		if len(data) < 2 {
			return errDHCPv6
		}
		status = binary.BigEndian.Uint16(data)
		return nil
	})
	return status, err
}

// ClientData is what a server tells of a client (OPTION_CLIENT_DATA, RFC 5007
// §4.1.2.2).
type ClientData struct {
	Addrs []Leased
	MAC   MAC // from OPTION_CLIENT_LINKLAYER_ADDR (RFC 6939); zero if it is not told
}

// ParseClientData reads an OPTION_CLIENT_DATA without its code and length.
func ParseClientData(b []byte) (ClientData, error) {
	var d ClientData
	err := EachOption(b, func(code dhcp6.OptionCode, data []byte) error {
		switch code {
		case dhcp6.OptionIAAddr:
			l, ok, err := leasedAddr(data)
			if err != nil || len(d.Addrs) == maxAddrs {
				return errDHCPv6
			}
			if ok {
				d.Addrs = append(d.Addrs, l)
			}
		case dhcp6.OptionIAPrefix:
			l, ok, err := leasedPrefix(data)
			if err != nil || len(d.Addrs) == maxAddrs {
				return errDHCPv6
			}
			if ok {
				d.Addrs = append(d.Addrs, l)
			}
		case dhcp6.OptionClientLinkLayerAddr:
			const ethernet = 1
			if len(data) == 8 && binary.BigEndian.Uint16(data) == ethernet {
				copy(d.MAC[:], data[2:])
			}
		}
		return nil
	})
	return d, err
}

// Lease makes a table's binding of an address what its server says. What the
// device itself has seen of the host, its port, stays; an address whose host
// nobody has seen is bound to its link-layer address, or to nobody if that is not
// known either.
func (t *Table) Lease(l Leased, mac MAC, now time.Time) error {
	return t.Change(l.Addr, func(old Binding, bound bool) (Binding, bool) {
		if l.Valid == 0 {
			return old, false
		}
		b := Binding{Anchor: Anchor{MAC: mac}, AnyVLAN: true}
		if bound && old.Port != 0 && now.Before(old.Until) && (mac.IsZero() || old.MAC.IsZero() || mac == old.MAC) {
			b = old
		}
		b.Until = now.Add(l.Valid)
		return b, true
	})
}

// message is what the snooper reads of a DHCPv6 message between client and
// server.
type message struct {
	typ         dhcp6.MessageType
	xid         [3]byte
	clientID    []byte
	rapidCommit bool
	status      uint16
	addrs       []Leased // of its IA_NAs, IA_TAs and IA_PDs; an error leases for no time
}

// parse reads a message. Addresses are kept in m's memory.
func (m *message) parse(b []byte) error {
	*m = message{addrs: m.addrs[:0]}
	if len(b) < 4 {
		return errDHCPv6
	}
	m.typ, m.xid = dhcp6.MessageType(b[0]), [3]byte(b[1:])
	return EachOption(b[4:], func(code dhcp6.OptionCode, data []byte) error {
		switch code {
		case dhcp6.OptionClientID:
			m.clientID = data
		case dhcp6.OptionRapidCommit:
			m.rapidCommit = true
		case dhcp6.OptionStatusCode:
			if len(data) < 2 {
				return errDHCPv6
			}
			m.status = binary.BigEndian.Uint16(data)
		case dhcp6.OptionIANA, dhcp6.OptionIAPD:
			return m.parseIA(data, 12) // IAID(4) T1(4) T2(4) options
		case dhcp6.OptionIATA:
			return m.parseIA(data, 4) // IAID(4) options
		}
		return nil
	})
}

func (m *message) parseIA(data []byte, options int) error {
	if len(data) < options {
		return errDHCPv6
	}
	status, err := statusOf(data[options:])
	if err != nil {
		return err
	}
	return EachOption(data[options:], func(code dhcp6.OptionCode, data []byte) error {
		var l Leased
		var err error
		ok := false
		switch code {
		case dhcp6.OptionIAAddr:
			l, ok, err = leasedAddr(data)
		case dhcp6.OptionIAPrefix:
			l, ok, err = leasedPrefix(data)
		default:
			return nil
		}
		if err != nil || len(m.addrs) == maxAddrs {
			return errDHCPv6
		}
		if !ok {
			return nil
		}
		if status != 0 {
			l.Valid = 0
		}
		m.addrs = append(m.addrs, l)
		return nil
	})
}
