package dhcpv6

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/lease"
)

// Limits on what a message may hold. Anything beyond is not a message that a
// client has reason to send.
const (
	maxIAs     = 16 // IA_NA options; as many IA_PD
	maxVendors = 8  // Vendor-specific Information options
	maxAddrs   = 16 // addresses in one IA_NA, prefixes in one IA_PD
	maxHops    = 8  // nested Relay-forwards (HOP_COUNT_LIMIT, RFC 9915 §7.6)
)

// optionRelayPort is RFC 8357's option, which insomniacslk/dhcp names the same.
const optionRelayPort = dhcp6.OptionRelayPort

// Address registration (RFC 9686).
const (
	messageAddrRegInform dhcp6.MessageType = 36
	messageAddrRegReply  dhcp6.MessageType = 37
	optionAddrRegEnable  uint16            = 148
)

// optionRADIUS is RFC 7037's option.
const optionRADIUS dhcp6.OptionCode = 81

var (
	errMalformed = errors.New("malformed message")
	errTooMuch   = errors.New("more options than a client has reason to send")
	errHops      = errors.New("relayed over more hops than allowed")
)

// nextOption splits the first option off a list of them.
func nextOption(b []byte) (code dhcp6.OptionCode, data, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, nil, errMalformed
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if len(b) < 4+n {
		return 0, nil, nil, errMalformed
	}
	return dhcp6.OptionCode(binary.BigEndian.Uint16(b)), b[4 : 4+n : 4+n], b[4+n:], nil
}

// ia is an identity association in a client's message: an IA_NA, or an IA_PD.
type ia struct {
	iaid     uint32
	pd       bool
	addrs    []netip.Addr   // of the IA Address options
	prefixes []netip.Prefix // of the IA Prefix options
	length   uint8          // of the prefix that the client would like; 0 for any
}

// option is the code of the IA's option.
func (a *ia) option() dhcp6.OptionCode {
	if a.pd {
		return dhcp6.OptionIAPD
	}
	return dhcp6.OptionIANA
}

// none is the status of an IA that gets nothing (RFC 9915 §21.13).
func (a *ia) none() iana.StatusCode {
	if a.pd {
		return iana.StatusNoPrefixAvail
	}
	return iana.StatusNoAddrsAvail
}

// message is a client's message. Slices point into the packet.
type message struct {
	typ         dhcp6.MessageType
	xid         [3]byte
	clientID    []byte // nil if absent
	serverID    []byte // nil if absent
	oro         []byte // the codes of the Option Request option
	options     []byte // all options
	fqdn        []byte // data of the Client FQDN option, nil if absent
	rapid       bool   // Rapid Commit
	reconfigure bool   // Reconfigure Accept
	ias         []ia
	vendors     [][]byte // data of Vendor-specific Information options
	address     []byte   // data of an IA Address option that is in no IA
	several     bool     // whether there is more than one of them

	// miscounted allows up to three zeros after the options. dhcpcd 9.4 sends them when something is excluded
	// from its prefix (RFC 6603): it writes that option without data, and not where it belongs, and counts
	// the data to the message's length.
	miscounted bool

	addrs    []netip.Addr // backs the addresses of ias
	prefixes []netip.Prefix
}

// parse reads a client's message into m, whose memory it reuses. It refuses
// truncated options, identifiers outside RFC 9915 §11.1's sizes, and a repeated
// option that may stand only once.
func (m *message) parse(b []byte) error {
	*m = message{ias: m.ias[:0], addrs: m.addrs[:0], prefixes: m.prefixes[:0], vendors: m.vendors[:0]}
	if len(b) < 4 {
		return errMalformed
	}
	m.typ = dhcp6.MessageType(b[0])
	copy(m.xid[:], b[1:4])
	m.options = b[4:]
	for b = b[4:]; len(b) > 0; {
		if m.miscounted && len(b) < 4 && string(b) == "\x00\x00\x00"[:len(b)] {
			m.options = m.options[:len(m.options)-len(b)]
			break
		}
		code, data, rest, err := nextOption(b)
		if err != nil {
			return err
		}
		b = rest
		switch code {
		case dhcp6.OptionClientID:
			err = duid(&m.clientID, data)
		case dhcp6.OptionServerID:
			err = duid(&m.serverID, data)
		case dhcp6.OptionORO:
			if len(data)%2 != 0 || m.oro != nil {
				err = errMalformed
			}
			m.oro = data
		case dhcp6.OptionRapidCommit:
			if len(data) != 0 {
				err = errMalformed
			}
			m.rapid = true
		case dhcp6.OptionFQDN:
			m.fqdn = data
		case dhcp6.OptionReconfAccept:
			if len(data) != 0 {
				err = errMalformed
			}
			m.reconfigure = true
		case dhcp6.OptionIANA:
			err = m.parseIANA(data)
		case dhcp6.OptionIAPD:
			err = m.parseIAPD(data)
		case dhcp6.OptionIAAddr:
			if len(data) < 24 {
				err = errMalformed
			}
			m.several = m.address != nil
			m.address = data
		case dhcp6.OptionVendorOpts:
			if len(m.vendors) == maxVendors {
				err = errTooMuch
				break
			}
			m.vendors = append(m.vendors, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func duid(dst *[]byte, data []byte) error {
	if *dst != nil || len(data) < 3 || len(data) > lease.MaxDUIDLen {
		return errMalformed
	}
	*dst = data
	return nil
}

// addIA adds an identity association that is not in the message yet.
func (m *message) addIA(a ia) error {
	same := 0
	for i := range m.ias {
		if m.ias[i].pd != a.pd {
			continue
		}
		if same++; m.ias[i].iaid == a.iaid {
			return errMalformed
		}
	}
	if same == maxIAs {
		return errTooMuch
	}
	m.ias = append(m.ias, a)
	return nil
}

// parseIANA reads IAID(4) T1(4) T2(4) options (RFC 9915 §21.4).
func (m *message) parseIANA(data []byte) error {
	if len(data) < 12 {
		return errMalformed
	}
	first := len(m.addrs)
	for b := data[12:]; len(b) > 0; {
		code, data, rest, err := nextOption(b)
		if err != nil {
			return err
		}
		b = rest
		if code != dhcp6.OptionIAAddr {
			continue
		}
		// Address(16) preferred(4) valid(4) options (RFC 9915 §21.6).
		if len(data) < 24 {
			return errMalformed
		}
		if err := wellFormed(data[24:]); err != nil {
			return err
		}
		if len(m.addrs)-first == maxAddrs {
			return errTooMuch
		}
		m.addrs = append(m.addrs, netip.AddrFrom16([16]byte(data)))
	}
	return m.addIA(ia{iaid: binary.BigEndian.Uint32(data), addrs: m.addrs[first:len(m.addrs):len(m.addrs)]})
}

// parseIAPD reads IAID(4) T1(4) T2(4) options (RFC 9915 §21.21). A prefix "::" is only
// a wish for a length.
func (m *message) parseIAPD(data []byte) error {
	if len(data) < 12 {
		return errMalformed
	}
	a := ia{iaid: binary.BigEndian.Uint32(data), pd: true}
	first, seen := len(m.prefixes), 0
	for b := data[12:]; len(b) > 0; {
		code, data, rest, err := nextOption(b)
		if err != nil {
			return err
		}
		b = rest
		if code == dhcp6.OptionPDExclude && len(data) == 0 {
			m.miscounted = true
		}
		if code != dhcp6.OptionIAPrefix {
			continue
		}
		// Preferred(4) valid(4) length(1) prefix(16) options (RFC 9915 §21.22).
		if len(data) < 25 || data[8] > 128 {
			return errMalformed
		}
		if err := wellFormed(data[25:]); err != nil {
			return err
		}
		if seen++; seen > maxAddrs {
			return errTooMuch
		}
		if a.length == 0 {
			a.length = data[8]
		}
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:])), int(data[8])).Masked()
		if !p.Addr().IsUnspecified() {
			m.prefixes = append(m.prefixes, p)
		}
	}
	a.prefixes = m.prefixes[first:len(m.prefixes):len(m.prefixes)]
	return m.addIA(a)
}

// wellFormed reports whether a list of options can be read.
func wellFormed(b []byte) (err error) {
	for len(b) > 0 {
		if _, _, b, err = nextOption(b); err != nil {
			return err
		}
	}
	return nil
}

// requests reports whether the client asks for an option.
func (m *message) requests(code dhcp6.OptionCode) bool {
	for b := m.oro; len(b) > 0; b = b[2:] {
		if dhcp6.OptionCode(binary.BigEndian.Uint16(b)) == code {
			return true
		}
	}
	return false
}

// builder appends options to a message.
type builder struct{ b []byte }

// open begins an option whose length is not known yet; close ends it.
func (w *builder) open(code dhcp6.OptionCode) (start int) {
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(code))
	w.b = append(w.b, 0, 0)
	return len(w.b)
}

func (w *builder) close(start int) {
	binary.BigEndian.PutUint16(w.b[start-2:], uint16(len(w.b)-start))
}

func (w *builder) option(code dhcp6.OptionCode, data []byte) {
	start := w.open(code)
	w.b = append(w.b, data...)
	w.close(start)
}

func (w *builder) status(code iana.StatusCode, text string) {
	start := w.open(dhcp6.OptionStatusCode)
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(code))
	w.b = append(w.b, text...)
	w.close(start)
}

func (w *builder) seconds(d time.Duration) {
	w.b = binary.BigEndian.AppendUint32(w.b, wireSeconds(d))
}

// wireSeconds rounds down, and never to 0xffffffff, which means for ever (RFC
// 9915 §7.7): every lease here ends.
func wireSeconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Second, 0), 0xffffffff-1))
}

// openIA begins an IA_NA or IA_PD.
func (w *builder) openIA(a *ia, t1, t2 time.Duration) int {
	start := w.open(a.option())
	w.b = binary.BigEndian.AppendUint32(w.b, a.iaid)
	w.seconds(t1)
	w.seconds(t2)
	return start
}

func (w *builder) iaAddr(addr netip.Addr, preferred, valid time.Duration) {
	start := w.open(dhcp6.OptionIAAddr)
	raw := addr.As16()
	w.b = append(w.b, raw[:]...)
	w.seconds(preferred)
	w.seconds(valid)
	w.close(start)
}

// iaPrefix writes an IA Prefix option, and in it, if it is not the zero Prefix, what is excluded from
// it: a prefix in "::" of the same length.
func (w *builder) iaPrefix(p, excluded netip.Prefix, preferred, valid time.Duration) {
	start := w.open(dhcp6.OptionIAPrefix)
	raw := p.Addr().As16()
	w.seconds(preferred)
	w.seconds(valid)
	w.b = append(append(w.b, byte(p.Bits())), raw[:]...)
	if excluded.IsValid() {
		w.pdExclude(p.Bits(), excluded)
	}
	w.close(start)
}

// pdExclude writes a Prefix Exclude option (RFC 6603 §4.2): the length of what is excluded, and its bits
// after those of the delegated prefix, from the first of a byte on.
func (w *builder) pdExclude(delegated int, excluded netip.Prefix) {
	start := w.open(dhcp6.OptionPDExclude)
	w.b = append(w.b, byte(excluded.Bits()))
	raw := excluded.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])
	shifted := binary.BigEndian.AppendUint64(nil, hi<<delegated|lo>>(64-delegated))
	shifted = binary.BigEndian.AppendUint64(shifted, lo<<delegated)
	w.b = append(w.b, shifted[:(excluded.Bits()-delegated+7)/8]...)
	w.close(start)
}

// iaStatus writes an IA that holds nothing but a status.
func (w *builder) iaStatus(a *ia, status iana.StatusCode, text string) {
	start := w.openIA(a, 0, 0)
	w.status(status, text)
	w.close(start)
}
