package sava

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Device is the half of an access device that looks at single frames: those that
// its fast path does not decide. It is not safe for concurrent use.
type Device struct {
	Table   *Table
	Snooper *Snooper

	filter  *Filter
	trusted map[uint32]bool
	decoder *decoder
	frame   frame
}

// NewDevice returns a device over a table. It takes bindings from the DHCPv6
// messages at its ports; query is as in [NewSnooper], and forger as in
// [NewFilter].
func NewDevice(table *Table, trusted []uint32, query bool, forger Forger) *Device {
	d := &Device{
		Table: table, Snooper: NewSnooper(table, query), filter: NewFilter(table, nil, forger),
		trusted: make(map[uint32]bool), decoder: newDecoder(),
	}
	for _, p := range trusted {
		d.trusted[p] = true
	}
	return d
}

// Frame judges a frame that came in at a port, and takes from it what it says of
// bindings. A frame from a trusted port is not judged. Of a frame that its sender
// left to the hardware to complete, as virtual machines and containers do, the
// checksum is completed in place: it will not meet hardware any more.
func (d *Device) Frame(port uint32, data []byte, now time.Time) Verdict {
	if d.trusted[port] {
		d.fromTrusted(port, data, now)
		return Verdict{Reason: Trusted, Anchor: Anchor{Port: port}}
	}
	v := d.filter.Check(port, data, now)
	x := &d.filter.frame
	switch {
	case v.Reason == Malformed || !x.ipv6:
	case v.Reason == WrongAnchor:
		if addr := x.used(); addr.isLinkLocal() {
			d.Snooper.Moved(addr.addr(), x.anchor, now)
		}
	case x.proto == protoICMPv6 && x.first && len(x.payload) >= 24 && x.payload[0] == neighborAdvertisement:
		d.Snooper.Advertised(sourceOf(x.payload[8:24]).addr(), x.anchor)
		if v.Reason == Unbound {
			d.Snooper.Data(x.src.addr(), x.anchor, now)
		}
	case v.Reason == Unbound && !x.src.isLinkLocal() && !x.src.isUnspecified():
		d.Snooper.Data(x.src.addr(), x.anchor, now)
	case v.Reason == Valid:
		if b, ok := x.dhcp(dhcpServer); ok {
			v.Reason = d.Snooper.FromHost(x.anchor, x.src.addr(), b, now)
		}
	}
	if v.Reason == Valid {
		x.completeChecksum()
	}
	return v
}

// completeChecksum computes the checksum of a UDP or ICMPv6 packet that holds only
// the sum of its pseudo-header (RFC 8200 §8.1), which is what Linux leaves to a
// network adapter to complete. Any other checksum stays as it is, right or wrong.
func (f *frame) completeChecksum() {
	at := 2 // of ICMPv6
	if f.proto == protoUDP {
		at = 6
	}
	if f.proto != protoUDP && f.proto != protoICMPv6 || !f.first || f.fragment || len(f.payload) < at+2 {
		return
	}
	sum := uint64(len(f.payload)) + uint64(f.proto)
	for _, w := range []uint64{f.src.hi, f.src.lo, f.dst.hi, f.dst.lo} {
		sum += w>>32 + w&0xffffffff
	}
	if field := f.payload[at:]; binary.BigEndian.Uint16(field) != fold(sum) {
		return
	}
	b := f.payload // the sum in the field is the pseudo-header's share
	sum = 0
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	check := ^fold(sum)
	if check == 0 && f.proto == protoUDP {
		check = 0xffff // RFC 8200 §8.1
	}
	binary.BigEndian.PutUint16(f.payload[at:], check)
}

// fold adds up the 16-bit words of a sum in one's complement.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// Sent takes note of a frame that the device itself sends to a host at a port.
func (d *Device) Sent(port uint32, data []byte, now time.Time) { d.fromTrusted(port, data, now) }

// fromTrusted reads what servers and routers say.
func (d *Device) fromTrusted(port uint32, data []byte, now time.Time) {
	x := &d.frame
	if !d.decoder.decode(x, data, port) || !x.ipv6 || !x.first {
		return
	}
	x.completeChecksum()
	if b, ok := x.dhcp(dhcpClient); ok {
		_ = d.Snooper.FromServer(x.dst.addr(), b, now) // what cannot be read binds nobody
	}
	if x.proto == protoICMPv6 && len(x.payload) >= 24 && x.payload[0] == neighborAdvertisement {
		d.Snooper.Advertised(sourceOf(x.payload[8:24]).addr(), x.anchor)
	}
}

// used returns the address that the host says to have or to want: the source, or
// the one that it asks for by duplicate address detection.
func (f *frame) used() source {
	if f.src.isUnspecified() && f.proto == protoICMPv6 && f.first && len(f.payload) >= 24 && f.payload[0] == neighborSolicitation {
		return sourceOf(f.payload[8:24])
	}
	return f.src
}

// dhcp returns the DHCPv6 message in a frame to a port of DHCPv6.
func (f *frame) dhcp(port uint16) ([]byte, bool) {
	if f.proto != protoUDP || !f.first || f.fragment || len(f.payload) < 8 || binary.BigEndian.Uint16(f.payload[2:]) != port {
		return nil, false
	}
	return f.payload[8:], true
}

// Solicitation returns the frame by which a Probe asks for an address: a
// Neighbour Solicitation of duplicate address detection (RFC 4862 §5.4.2), with
// the VLAN tags of the anchor and from a link-layer address of the device's.
func Solicitation(addr netip.Addr, vlan uint32, from MAC) []byte {
	a := addr.As16()
	b := []byte{0x33, 0x33, 0xff, a[13], a[14], a[15]}
	b = append(b, from[:]...)
	for i, tag := range []uint16{uint16(vlan >> 16), uint16(vlan)} {
		if tag != 0 {
			tpid := uint16(0x8100)
			if i == 0 && vlan&0xffff != 0 {
				tpid = 0x88a8 // the outer of two (IEEE 802.1ad)
			}
			b = binary.BigEndian.AppendUint16(b, tpid)
			b = binary.BigEndian.AppendUint16(b, tag)
		}
	}
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, protoICMPv6, 255)
	b = append(b, make([]byte, 16)...)                                              // from "::"
	b = append(b, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]) // to the solicited-node group (RFC 4291 §2.7.1)
	icmp := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	sum := uint64(24 + protoICMPv6) // the pseudo-header's length and protocol (RFC 8200 §8.1)
	for _, part := range [][]byte{b[len(b)-16:], icmp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint64(binary.BigEndian.Uint16(part[i:]))
		}
	}
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum))
	return append(b, icmp...)
}
