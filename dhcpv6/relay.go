package dhcpv6

import (
	"encoding/binary"
	"net/netip"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/eidauth"
)

// relayHeaderLen is msg-type(1) hop-count(1) link-address(16) peer-address(16)
// (RFC 9915 §9).
const relayHeaderLen = 34

// hop is one Relay-forward around a client's message.
type hop struct {
	header  []byte // the first relayHeaderLen bytes
	options []byte // all of its options
	relay   eidauth.Relay
	echo    []byte // Echo Request option (RFC 4994), nil if absent
	id      []byte // Relay-ID option (RFC 5460 §5.4.1), nil if absent
	port    []byte // Relay Source Port option (RFC 8357), nil if absent
}

func (h *hop) link() netip.Addr { return netip.AddrFrom16([16]byte(h.header[2:18])) }
func (h *hop) peer() netip.Addr { return netip.AddrFrom16([16]byte(h.header[18:34])) }

// unwrap takes the Relay-forwards off a packet. It appends them to hops, from
// the outermost inwards, and returns the client's message.
func unwrap(hops []hop, packet []byte, src netip.Addr) ([]hop, []byte, error) {
	from := src
	for {
		if len(packet) < 1 {
			return nil, nil, errMalformed
		}
		if dhcp6.MessageType(packet[0]) != dhcp6.MessageTypeRelayForward {
			return hops, packet, nil
		}
		if len(packet) < relayHeaderLen {
			return nil, nil, errMalformed
		}
		if len(hops) == maxHops {
			return nil, nil, errHops
		}
		h := hop{header: packet[:relayHeaderLen:relayHeaderLen], options: packet[relayHeaderLen:]}
		h.relay.Addr = from
		inner, err := h.parse()
		if err != nil {
			return nil, nil, err
		}
		from = h.peer()
		hops = append(hops, h)
		packet = inner
	}
}

// parse reads the options of a hop and returns the message that it relays.
func (h *hop) parse() (inner []byte, err error) {
	once := func(dst *[]byte, data []byte) {
		if *dst != nil {
			err = errMalformed
		}
		*dst = data
	}
	for b := h.options; len(b) > 0; {
		code, data, rest, err2 := nextOption(b)
		if err2 != nil {
			return nil, err2
		}
		b = rest
		switch code {
		case dhcp6.OptionRelayMsg:
			once(&inner, data)
		case dhcp6.OptionInterfaceID:
			once(&h.relay.InterfaceID, data)
		case dhcp6.OptionRemoteID:
			once(&h.relay.RemoteID, data)
		case dhcp6.OptionRelayAgentSubscriberID:
			once(&h.relay.SubscriberID, data)
		case dhcp6.OptionClientLinkLayerAddr:
			once(&h.relay.ClientLinkLayer, data)
		case optionRADIUS:
			once(&h.relay.RADIUS, data)
		case dhcp6.OptionEchoRequest:
			if len(data)%2 != 0 {
				return nil, errMalformed
			}
			once(&h.echo, data)
		case optionRelayPort:
			h.port = data
		case dhcp6.OptionRelayID:
			once(&h.id, data)
		}
	}
	if inner == nil {
		return nil, errMalformed
	}
	return inner, err
}

// openReply begins the Relay-reply that goes back to a hop's relay (RFC 9915
// §19.3), up to the message within, which the caller appends; then it closes
// the returned option.
func (h *hop) openReply(w *builder) (relayMsg int) {
	w.b = append(w.b, byte(dhcp6.MessageTypeRelayReply))
	w.b = append(w.b, h.header[1:]...)
	if h.relay.InterfaceID != nil {
		w.option(dhcp6.OptionInterfaceID, h.relay.InterfaceID)
	}
	h.echoRequested(w)
	return w.open(dhcp6.OptionRelayMsg)
}

// echoRequested copies the options that the relay wants back (RFC 4994 §3), but
// for those that are copied anyway, and the relay's port (RFC 8357 §5.2). RFC
// 4649 and RFC 4580 ask for no echo of their options otherwise.
func (h *hop) echoRequested(w *builder) {
	for b := h.options; len(b) > 0; {
		code, data, rest, _ := nextOption(b) // parse went over them before
		b = rest
		switch code {
		case dhcp6.OptionRelayMsg, dhcp6.OptionInterfaceID, dhcp6.OptionEchoRequest:
		case optionRelayPort:
			w.option(code, data)
		default:
			for e := h.echo; len(e) > 0; e = e[2:] {
				if dhcp6.OptionCode(binary.BigEndian.Uint16(e)) == code {
					w.option(code, data)
					break
				}
			}
		}
	}
}
