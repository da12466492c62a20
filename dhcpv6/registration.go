package dhcpv6

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/idcodec"
	"brightgid/lease"
)

// validateRegistration applies RFC 9686 §4.2.1 to an ADDR-REG-INFORM, as far as it is about
// the message alone.
func (h *Handler) validateRegistration(m *message) Drop {
	switch {
	case !h.cfg.Register:
		return DropType
	case m.clientID == nil:
		return DropNoClientID
	case m.serverID != nil:
		return DropServerID
	case m.address == nil || m.several || m.oro != nil:
		return DropMalformed
	}
	return 0
}

// registration answers an ADDR-REG-INFORM: a client tells of an address that it made itself,
// from that address. It differs from RFC 9686 in one thing: where another subscriber has
// the address the binding stays, since filters let its holder send and warrants trace it.
func (h *Handler) registration(x *exchange) Drop {
	m := x.msg
	addr := netip.AddrFrom16([16]byte(m.address))
	if x.src.WithZone("") != addr {
		return h.unregistered(x, addr, "it was not sent from the address")
	}
	if !slices.Contains(x.link.Prefixes, idcodec.PrefixOf(addr)) {
		return h.unregistered(x, addr, "the address is not of the link")
	}
	ok, drop := h.authenticate(x)
	if !ok {
		if drop == 0 {
			drop = DropRegistration
		}
		return drop
	}
	x.req.Client = lease.Client{DUID: m.clientID}
	lifetime := func(b []byte) time.Duration { return time.Duration(binary.BigEndian.Uint32(b)) * time.Second }
	err := h.leases.Register(x.now, &x.req, addr, lifetime(m.address[16:]), lifetime(m.address[20:]))
	switch {
	case errors.Is(err, lease.ErrTaken), errors.Is(err, lease.ErrTooMany), errors.Is(err, lease.ErrTooFast):
		return h.unregistered(x, addr, err.Error())
	case err != nil:
		return h.failed("an address could not be registered", err)
	}
	h.stats.Registered.Add(1)
	x.reply.b = append(x.reply.b, byte(messageAddrRegReply), m.xid[0], m.xid[1], m.xid[2])
	x.reply.option(dhcp6.OptionIAAddr, m.address)
	return 0
}

func (h *Handler) unregistered(x *exchange, addr netip.Addr, reason string) Drop {
	h.log.Warn("an address was not registered", "address", addr, "link", x.link.Name, "reason", reason)
	return DropRegistration
}
