package sava

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"brightgid/idcodec"
)

// Reason is why a frame passes or does not.
type Reason uint8

const (
	// Valid frames come from where their source is bound, or are the control
	// messages by which a host gets a binding.
	Valid Reason = iota
	NotIPv6
	Trusted // from a port that is not checked

	// What follows does not pass.

	Unbound     // nobody may use the source here
	WrongAnchor // the source is bound to another port, VLAN or link-layer address
	Expired     // the binding is over
	Forged      // the source is no address that the ISP leases
	Martian     // a host on an access port has no business to send it
	Malformed
	Limited // the port sends more control messages than it may
	NumReasons
)

var reasonNames = [NumReasons]string{
	Valid: "valid", NotIPv6: "not-ipv6", Trusted: "trusted", Unbound: "unbound", WrongAnchor: "wrong-anchor",
	Expired: "expired", Forged: "forged", Martian: "martian", Malformed: "malformed", Limited: "limited",
}

// String returns the reason's name.
func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return "unknown"
}

// Pass reports whether a frame with this reason passes.
func (r Reason) Pass() bool { return r < Unbound }

// Verdict is what a filter says of a frame.
type Verdict struct {
	Reason Reason
	Anchor Anchor

	src source
}

// Src returns the frame's source address; "::" of a frame that could not be read
// or is not IPv6.
func (v *Verdict) Src() netip.Addr { return v.src.addr() }

// Peek fills in where a frame came from, of which perhaps only the beginning is
// there, as far as it can be read.
func (v *Verdict) Peek(port uint32, data []byte) {
	v.Anchor, v.src = Anchor{Port: port}, source{}
	if len(data) < 14 {
		return
	}
	v.Anchor.MAC = MAC(data[6:12])
	typ, b := binary.BigEndian.Uint16(data[12:]), data[14:]
	for n := 0; n < 2 && len(b) >= 4 && (typ == 0x8100 || typ == 0x88a8); n++ {
		v.Anchor.VLAN |= uint32(binary.BigEndian.Uint16(b)&0xfff) << (16 * (1 - n))
		typ, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	if typ == 0x86dd && len(b) >= 40 {
		v.src = sourceOf(b[8:24])
	}
}

// Forger tells whether an address is one that the ISP could have leased.
type Forger interface {
	Forged(addr netip.Addr, now time.Time) bool
}

// Filter judges frames. It is not safe for concurrent use; several may share a
// table.
type Filter struct {
	table   *Table
	trusted []uint32
	forger  Forger
	decoder *decoder
	frame   frame
}

// NewFilter returns a filter over a table. The trusted ports are not checked.
// forger, if not nil, tells forged sources from unbound ones.
func NewFilter(table *Table, trusted []uint32, forger Forger) *Filter {
	return &Filter{table: table, trusted: slices.Clone(trusted), forger: forger, decoder: newDecoder()}
}

// Check judges an Ethernet frame that came in at a port.
func (f *Filter) Check(port uint32, data []byte, now time.Time) Verdict {
	if slices.Contains(f.trusted, port) {
		return Verdict{Reason: Trusted}
	}
	x := &f.frame
	switch {
	case !f.decoder.decode(x, data, port):
		return Verdict{Reason: Malformed, Anchor: x.anchor}
	case !x.ipv6:
		return Verdict{Reason: NotIPv6, Anchor: x.anchor}
	}
	return Verdict{Reason: f.judge(now), Anchor: x.anchor, src: x.src}
}

func (f *Filter) judge(now time.Time) Reason {
	x := &f.frame
	if x.anchor.MAC[0]&1 != 0 || x.src.isNobodys() {
		return Martian
	}
	if x.src.isUnspecified() {
		return f.unspecified(now)
	}
	if r := f.source(x.src, now); r != Valid {
		return r
	}
	switch {
	case x.proto == protoICMPv6:
		return f.discovery(now)
	case x.proto == protoUDP && x.first && len(x.payload) >= 4:
		// A server's messages come from trusted ports (RFC 7513 §8.2).
		if src, dst := binary.BigEndian.Uint16(x.payload), binary.BigEndian.Uint16(x.payload[2:]); src == dhcpServer && (dst == dhcpClient || dst == dhcpServer) {
			return Martian
		}
	}
	return Valid
}

// UDP ports of DHCPv6 (RFC 9915 §7.2).
const (
	dhcpClient = 546
	dhcpServer = 547
)

// source judges an address that a host uses as its own.
func (f *Filter) source(s source, now time.Time) Reason {
	x := &f.frame
	if s.isLinkLocal() {
		return f.table.claimLocal(s.addr(), x.anchor, now)
	}
	var e entry
	switch _, _, ok := f.table.match(s.hi, s.lo, &e); {
	case !ok && f.forger != nil && f.forger.Forged(s.addr(), now):
		return Forged
	case !ok:
		return Unbound
	case now.UnixNano() >= int64(e.until):
		return Expired
	case e.isUnanchored():
		return Unbound
	case !e.holds(&x.anchor):
		return WrongAnchor
	}
	return Valid
}

// ICMPv6 types (RFC 4443, 4861, 2710, 3810).
const (
	mldQuery              = 130
	mldReport             = 131
	mldDone               = 132
	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	redirect              = 137
	mldv2Report           = 143
)

// unspecified judges a frame from "::", which a host may send before it has an
// address: duplicate address detection, router solicitation, and multicast
// listener reports (RFC 7513 §8.1).
func (f *Filter) unspecified(now time.Time) Reason {
	x := &f.frame
	if x.proto != protoICMPv6 || x.fragment || len(x.payload) < 4 {
		return Martian
	}
	switch x.payload[0] {
	case routerSolicitation, neighborSolicitation:
		return f.discovery(now)
	case mldReport, mldDone, mldv2Report:
		return Valid
	}
	return Martian
}

// discovery judges Neighbour Discovery: what it says of addresses must be true
// of who says it (RFC 7039 §3, RFC 7513 §8.2). Other ICMPv6 passes.
func (f *Filter) discovery(now time.Time) Reason {
	x := &f.frame
	if !x.first {
		return Valid // hosts put no Neighbour Discovery together from fragments (RFC 6980)
	}
	if len(x.payload) < 4 {
		return Malformed
	}
	typ := x.payload[0]
	switch typ {
	case routerAdvertisement, redirect:
		return Martian // a router is on a trusted port
	case routerSolicitation, neighborSolicitation, neighborAdvertisement:
	default:
		return Valid
	}
	if x.fragment || x.hopLimit != 255 || x.payload[1] != 0 {
		return Malformed // RFC 6980 §5, RFC 4861 §7.1
	}
	options := 8
	if typ != routerSolicitation {
		options = 24
	}
	if len(x.payload) < options {
		return Malformed
	}
	var target source
	if typ != routerSolicitation {
		if target = sourceOf(x.payload[8:24]); target.hi>>56 == 0xff {
			return Malformed
		}
	}
	if r := f.linkLayerOptions(x.payload[options:]); r != Valid {
		return r
	}
	// Who asks whether an address is free, or says that it has one, must be
	// the one that may have it.
	if typ == neighborAdvertisement || typ == neighborSolicitation && x.src.isUnspecified() {
		return f.source(target, now)
	}
	return Valid
}

// linkLayerOptions checks the source and target link-layer address options
// (RFC 4861 §4.6.1), which must name the frame's own source.
func (f *Filter) linkLayerOptions(b []byte) Reason {
	const sourceLinkLayer, targetLinkLayer = 1, 2
	x := &f.frame
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || len(b) < 8*int(b[1]) {
			return Malformed
		}
		if t := b[0]; t == sourceLinkLayer || t == targetLinkLayer {
			if x.src.isUnspecified() {
				return Malformed // RFC 4861 §4.1, §4.3
			}
			if b[1] != 1 || MAC(b[2:8]) != x.anchor.MAC {
				return WrongAnchor
			}
		}
		b = b[8*int(b[1]):]
	}
	return Valid
}

// EpochForger is the stateless check with the epoch keys, for a filter that the
// operator gives them to.
type EpochForger struct {
	Keys interface {
		EpochAt(t time.Time) (uint32, error)
		Key(epoch uint32) (*idcodec.EpochKey, error)
	}
	Prefixes []idcodec.Prefix // that GIDs are leased in; others are left alone
	MaxAge   time.Duration    // of an address
}

// Forged implements [Forger].
func (e *EpochForger) Forged(addr netip.Addr, now time.Time) bool {
	p, known := idcodec.PrefixOf(addr), false
	for _, q := range e.Prefixes {
		known = known || p == q
	}
	if !known {
		return false
	}
	last, err1 := e.Keys.EpochAt(now)
	first, err2 := e.Keys.EpochAt(now.Add(-e.MaxAge))
	if err1 != nil || err2 != nil {
		return false
	}
	for epoch := first; epoch <= last; epoch++ {
		key, err := e.Keys.Key(epoch)
		if err != nil {
			continue // erased; nobody can tell
		}
		if _, _, err := key.Decode(p, idcodec.GIDOf(addr)); err == nil {
			return false
		}
	}
	return true
}
