//go:build e2e

package e2e

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A kind is one way to send from an address. Its frames hold a mark by which they
// are found again.
type kind struct {
	name   string
	honest bool // passes when the address is the host's own
	make   func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte
}

// ether puts an Ethernet header, or one with VLAN tags, before an IPv6 packet.
func ether(from, to net.HardwareAddr, packet []byte, tags ...uint16) []byte {
	b := append(append([]byte{}, to...), from...)
	for i, tag := range tags {
		tpid := uint16(0x8100)
		if i == 0 && len(tags) > 1 {
			tpid = 0x88a8
		}
		b = binary.BigEndian.AppendUint16(b, tpid)
		b = binary.BigEndian.AppendUint16(b, tag)
	}
	return append(binary.BigEndian.AppendUint16(b, 0x86dd), packet...)
}

// ipv6 makes a packet of a first next header and all that follows.
func ipv6(src, dst netip.Addr, next byte, hops byte, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, hops)
	b = append(b, src.AsSlice()...)
	return append(append(b, dst.AsSlice()...), payload...)
}

// upper makes a TCP, UDP or ICMPv6 packet's payload, with its checksum.
func upper(t *testing.T, src, dst netip.Addr, mark string, l gopacket.SerializableLayer, more ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv6{SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	var err error
	switch l := l.(type) {
	case *layers.TCP:
		ip.NextHeader, err = layers.IPProtocolTCP, l.SetNetworkLayerForChecksum(ip)
	case *layers.UDP:
		ip.NextHeader, err = layers.IPProtocolUDP, l.SetNetworkLayerForChecksum(ip)
	case *layers.ICMPv6:
		ip.NextHeader, err = layers.IPProtocolICMPv6, l.SetNetworkLayerForChecksum(ip)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	ls := append([]gopacket.SerializableLayer{l}, more...)
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(ls, gopacket.Payload(mark))...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func udpTo(t *testing.T, src, dst netip.Addr, mark string) []byte {
	return upper(t, src, dst, mark, &layers.UDP{SrcPort: 1000, DstPort: 2000})
}

// extension is an extension header of 8·(n+1) bytes of padding, before a next
// header.
func extension(next byte, n int) []byte {
	b := []byte{next, byte(n), 1, byte(8*n + 4)} // one PadN option
	return append(b, make([]byte, 8*n+4)...)
}

// option is a Neighbour Discovery option that holds the mark: a nonce (RFC 3971
// §5.3.2).
func option(mark string) []byte {
	b := append([]byte{14, 0}, mark...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b) / 8)
	return b
}

// kinds are the ways of the issue: TCP, UDP, ICMPv6, fragments, and tricks with
// extension headers, tunnels and tags.
var kinds = []kind{
	{"tcp", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 6, 64, upper(t, src, dst, mark, &layers.TCP{SrcPort: 1000, DstPort: 80, SYN: true})))}
	}},
	{"udp", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 17, 64, udpTo(t, src, dst, mark)))}
	}},
	{"icmpv6", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		echo := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
		return [][]byte{ether(from, to, ipv6(src, dst, 58, 64, upper(t, src, dst, mark, echo, &layers.ICMPv6Echo{Identifier: 1})))}
	}},
	{"fragments", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		whole := udpTo(t, src, dst, mark+strings.Repeat("-", 40)+mark)
		cut := len(whole) / 2 &^ 7
		first := append([]byte{17, 0, 0, 1, 0, 0, 0, 7}, whole[:cut]...)
		rest := append([]byte{17, 0, byte(cut >> 8), byte(cut), 0, 0, 0, 7}, append(whole[cut:], mark...)...)
		return [][]byte{ether(from, to, ipv6(src, dst, 44, 64, first)), ether(from, to, ipv6(src, dst, 44, 64, rest))}
	}},
	{"atomic fragment", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 44, 64, append([]byte{17, 0, 0, 0, 0, 0, 0, 9}, udpTo(t, src, dst, mark)...)))}
	}},
	{"hop-by-hop options", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 0, 64, append(extension(17, 0), udpTo(t, src, dst, mark)...)))}
	}},
	{"a chain of headers", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		chain := append(extension(60, 0), extension(60, 3)...)
		for range 8 {
			chain = append(chain, extension(60, 0)...)
		}
		return [][]byte{ether(from, to, ipv6(src, dst, 0, 64, append(append(chain, extension(17, 1)...), udpTo(t, src, dst, mark)...)))}
	}},
	{"a routing header", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		routing := []byte{17, 0, 253, 0, 0, 0, 0, 0} // of a type for experiments, with no segments left
		return [][]byte{ether(from, to, ipv6(src, dst, 43, 64, append(routing, udpTo(t, src, dst, mark)...)))}
	}},
	{"a tunnel", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		inner := ipv6(netip.MustParseAddr("2001:db8:77::1"), dst, 17, 64, udpTo(t, src, dst, mark))
		return [][]byte{ether(from, to, ipv6(src, dst, 41, 64, inner))}
	}},
	{"ESP", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 50, 64, append([]byte{0, 0, 1, 0, 0, 0, 0, 1}, mark...)))}
	}},
	{"no next header", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 59, 64, []byte(mark)))}
	}},
	{"a solicitation", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		ns := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
		body := append(append([]byte{0, 0, 0, 0}, dst.AsSlice()...), option(mark)...)
		return [][]byte{ether(from, to, ipv6(src, dst, 58, 255, upper(t, src, dst, string(body), ns)))}
	}},
	{"an advertisement", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		na := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
		body := append(append([]byte{0x20, 0, 0, 0}, src.AsSlice()...), option(mark)...)
		return [][]byte{ether(from, to, ipv6(src, dst, 58, 255, upper(t, src, dst, string(body), na)))}
	}},
	{"a claim to the address", true, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		none := netip.IPv6Unspecified()
		ns := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
		body := append(append([]byte{0, 0, 0, 0}, src.AsSlice()...), option(mark)...)
		return [][]byte{ether(from, to, ipv6(none, dst, 58, 255, upper(t, none, dst, string(body), ns)))}
	}},
	{"a router's advertisement", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		ra := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterAdvertisement, 0)}
		body := append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, option(mark)...)
		return [][]byte{ether(from, to, ipv6(src, dst, 58, 255, upper(t, src, dst, string(body), ra)))}
	}},
	{"a DHCPv6 server's message", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 17, 64, upper(t, src, dst, "\x07xid"+mark, &layers.UDP{SrcPort: 547, DstPort: 546})))}
	}},
	{"a VLAN", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 17, 64, udpTo(t, src, dst, mark)), 7)}
	}},
	{"two VLANs", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 17, 64, udpTo(t, src, dst, mark)), 7, 8)}
	}},
	{"three VLANs", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 17, 64, udpTo(t, src, dst, mark)), 7, 8, 9)}
	}},
	{"an endless chain", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		var chain []byte
		for range 20 {
			chain = append(chain, extension(60, 0)...)
		}
		return [][]byte{ether(from, to, ipv6(src, dst, 60, 64, append(append(chain, extension(17, 0)...), udpTo(t, src, dst, mark)...)))}
	}},
	{"a late hop-by-hop header", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		return [][]byte{ether(from, to, ipv6(src, dst, 60, 64, append(append(extension(0, 0), extension(17, 0)...), udpTo(t, src, dst, mark)...)))}
	}},
	{"a length of zero", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		b := ipv6(src, dst, 17, 64, udpTo(t, src, dst, mark))
		b[4], b[5] = 0, 0
		return [][]byte{ether(from, to, b)}
	}},
	{"a length of too much", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		b := ipv6(src, dst, 17, 64, udpTo(t, src, dst, mark))
		b[4] = 0xff
		return [][]byte{ether(from, to, b)}
	}},
	{"a fragmented advertisement", false, func(t *testing.T, from, to net.HardwareAddr, src, dst netip.Addr, mark string) [][]byte {
		na := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
		body := append(append([]byte{0x20, 0, 0, 0}, src.AsSlice()...), option(mark)...)
		return [][]byte{ether(from, to, ipv6(src, dst, 44, 255, append([]byte{58, 0, 0, 0, 0, 0, 0, 5}, upper(t, src, dst, string(body), na)...)))}
	}},
}

// dhcpPorts are the ports of a DHCPv6 client's message.
func dhcpPorts() *layers.UDP { return &layers.UDP{SrcPort: 546, DstPort: 547} }
