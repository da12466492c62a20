package dhcpv6

import (
	"net/netip"
	"slices"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/idcodec"
	"brightgid/lease"
)

// request answers a Request (RFC 9915 §18.3.2) with leases.
func (h *Handler) request(x *exchange) Drop {
	ok, drop := h.authenticate(x)
	if drop != 0 {
		return drop
	}
	h.begin(x, dhcp6.MessageTypeReply)
	give := func(now time.Time, r *lease.Request) ([]lease.Grant, error) { return h.leases.Assign(now, r) }
	if drop := h.give(x, ok, give); drop != 0 {
		return drop
	}
	noPrefixes(x, iana.StatusNoPrefixAvail, textNoPrefix)
	h.settings(x)
	return 0
}

// give answers the IA_NAs of a Solicit or a Request with what a function grants,
// or with the reason why there is nothing.
func (h *Handler) give(x *exchange, authenticated bool, grant func(time.Time, *lease.Request) ([]lease.Grant, error)) Drop {
	for i := range x.msg.nas {
		a := &x.msg.nas[i]
		switch {
		case !authenticated:
			x.reply.iaStatus(dhcp6.OptionIANA, a.iaid, x.status, x.text)
			continue
		case x.msg.typ == dhcp6.MessageTypeRequest && slices.ContainsFunc(a.addrs, x.offLink):
			x.reply.iaStatus(dhcp6.OptionIANA, a.iaid, iana.StatusNotOnLink, textNotOnLink)
			continue
		}
		grants, err := grant(x.now, x.forIA(a))
		if err != nil {
			text, ok := refusal(err)
			if !ok {
				h.log.Error("leasing failed", "link", x.link.Name, "error", err)
				return DropInternal
			}
			h.stats.Refused.Add(1)
			h.log.Warn("an authenticated client gets no address", "subscriber", x.req.Subscriber, "link", x.link.Name, "reason", err)
			x.reply.iaStatus(dhcp6.OptionIANA, a.iaid, iana.StatusNoAddrsAvail, text)
			continue
		}
		h.grants(x, a, grants, nil)
	}
	return 0
}

// offLink reports whether an address does not belong on the client's link.
func (x *exchange) offLink(a netip.Addr) bool {
	return !slices.Contains(x.link.Prefixes, idcodec.PrefixOf(a))
}
