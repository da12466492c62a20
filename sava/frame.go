package sava

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// maxHeaders bounds the extension headers that are followed. RFC 8504 §5.3 lets
// a node drop what exceeds a limit of its choice.
const maxHeaders = 16

// IPv6 next headers (IANA, Protocol Numbers).
const (
	protoHopByHop    = 0
	protoUDP         = 17
	protoRouting     = 43
	protoFragment    = 44
	protoAuth        = 51
	protoICMPv6      = 58
	protoNone        = 59
	protoDestination = 60
	protoMobility    = 135
	protoHIP         = 139
	protoShim6       = 140
)

// frame is a decoded frame. Slices point into it.
type frame struct {
	anchor   Anchor
	ipv6     bool
	src, dst source
	hopLimit uint8

	proto    uint8  // the first header that is no extension header
	fragment bool   // there is a fragment header
	first    bool   // it is of the first fragment, or there is none
	payload  []byte // from proto on; nil behind another fragment
}

// source is an address in two words, a source or not.
type source struct{ hi, lo uint64 }

func sourceOf(b []byte) source {
	return source{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:16])}
}

func (s source) addr() netip.Addr { return (&entry{hi: s.hi, lo: s.lo}).addr() }

func (s source) isUnspecified() bool { return s == source{} }
func (s source) isLinkLocal() bool   { return s.hi>>54 == 0xfe80>>6 }

// isNobodys reports whether no host may send from s: groups, loopback, and IPv4
// addresses in IPv6's form.
func (s source) isNobodys() bool {
	return s.hi>>56 == 0xff || s.hi == 0 && (s.lo == 1 || s.lo>>32 == 0xffff)
}

// vlans is a decoding layer that keeps all tags of a frame, of which the parser
// hands it one after the other.
type vlans struct {
	layers.Dot1Q
	tags, n uint32
}

// DecodeFromBytes implements gopacket.DecodingLayer.
func (v *vlans) DecodeFromBytes(data []byte, df gopacket.DecodeFeedback) error {
	if err := v.Dot1Q.DecodeFromBytes(data, df); err != nil {
		return err
	}
	v.tags = v.tags<<16 | uint32(v.VLANIdentifier)
	v.n++
	return nil
}

// outer is the IPv6 header at which decoding ends: a packet in a tunnel is judged
// by its outer header.
type outer struct {
	layers.IPv6
	header [40]byte
}

// DecodeFromBytes implements gopacket.DecodingLayer. gopacket takes Hop-by-Hop
// options out of the payload without taking their length off it, and finds such
// packets cut short; here they are followed as the other extension headers are.
func (o *outer) DecodeFromBytes(data []byte, df gopacket.DecodeFeedback) error {
	if len(data) < len(o.header) || data[6] != protoHopByHop {
		return o.IPv6.DecodeFromBytes(data, df)
	}
	copy(o.header[:], data)
	o.header[6] = protoNone
	if err := o.IPv6.DecodeFromBytes(o.header[:], gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	end := len(o.header) + int(o.Length)
	if end > len(data) {
		df.SetTruncated()
		end = len(data)
	}
	o.NextHeader = protoHopByHop
	o.BaseLayer = layers.BaseLayer{Contents: data[:len(o.header)], Payload: data[len(o.header):end]}
	return nil
}

// NextLayerType implements gopacket.DecodingLayer.
func (*outer) NextLayerType() gopacket.LayerType { return gopacket.LayerTypeZero }

// decoder decodes frames with gopacket and without allocation. It is not safe for
// concurrent use.
type decoder struct {
	parser *gopacket.DecodingLayerParser
	eth    layers.Ethernet
	vlans  vlans
	ip6    outer
	found  []gopacket.LayerType
}

func newDecoder() *decoder {
	d := &decoder{found: make([]gopacket.LayerType, 0, 8)}
	d.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet)
	d.parser.SetDecodingLayerContainer(gopacket.DecodingLayerArray(nil)) // three layers are found sooner without a map
	d.parser.AddDecodingLayer(&d.eth)
	d.parser.AddDecodingLayer(&d.vlans)
	d.parser.AddDecodingLayer(&d.ip6)
	d.parser.IgnoreUnsupported = true
	return d
}

// decode reads a frame that came in at a port. It returns false for a frame that
// is malformed, or shorter than it says.
func (d *decoder) decode(f *frame, data []byte, port uint32) bool {
	*f = frame{anchor: Anchor{Port: port}}
	d.vlans.tags, d.vlans.n = 0, 0
	err := d.parser.DecodeLayers(data, &d.found)
	if err != nil || d.vlans.n > 2 || len(d.found) == 0 {
		return false
	}
	copy(f.anchor.MAC[:], d.eth.SrcMAC)
	f.anchor.VLAN = d.vlans.tags
	if d.vlans.n == 1 {
		f.anchor.VLAN <<= 16 // a single tag is the outer one
	}
	if d.found[len(d.found)-1] != layers.LayerTypeIPv6 {
		// The parser stops at what it does not know, and where nothing is
		// left of what it does.
		typ := d.eth.EthernetType
		if d.vlans.n > 0 {
			typ = d.vlans.Type
		}
		return typ != layers.EthernetTypeIPv6 && typ != layers.EthernetTypeDot1Q && typ != layers.EthernetTypeQinQ
	}
	if d.parser.Truncated || d.ip6.Version != 6 {
		return false
	}
	f.ipv6 = true
	f.src, f.dst = sourceOf(d.ip6.SrcIP), sourceOf(d.ip6.DstIP)
	f.hopLimit = d.ip6.HopLimit
	return f.headers(uint8(d.ip6.NextHeader), d.ip6.Payload)
}

// headers follows the chain of extension headers (RFC 8200 §4).
func (f *frame) headers(next uint8, b []byte) bool {
	f.first = true
	for i := range maxHeaders {
		n := 0
		switch next {
		case protoHopByHop, protoRouting, protoDestination, protoMobility, protoHIP, protoShim6:
			if next == protoHopByHop && i > 0 || len(b) < 8 {
				return false // Hop-by-Hop options come first, or not at all
			}
			n = (int(b[1]) + 1) * 8
		case protoAuth:
			if len(b) < 8 {
				return false
			}
			n = (int(b[1]) + 2) * 4
		case protoFragment:
			if len(b) < 8 || f.fragment {
				return false
			}
			f.fragment = true
			if offset := binary.BigEndian.Uint16(b[2:]) &^ 7; offset != 0 {
				f.first, f.proto = false, b[0]
				return true
			}
			n = 8
		default:
			f.proto, f.payload = next, b
			return true
		}
		if len(b) < n {
			return false
		}
		next, b = b[0], b[n:]
	}
	return false
}
