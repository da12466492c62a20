package dhcpv6

import (
	"errors"
	"slices"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/lease"
)

// renew answers a Renew (RFC 9915 §18.3.4) and a Rebind (§18.3.5), which differ
// only in what validate asked of them.
//
// An IA that the server has no lease for gets NoBinding, upon which the client
// sends a Request. Addresses that the client has no right to come back with
// lifetimes of zero.
func (h *Handler) renew(x *exchange) Drop {
	ok, drop := h.authenticate(x)
	if drop != 0 {
		return drop
	}
	h.begin(x, dhcp6.MessageTypeReply)
	for i := range x.msg.nas {
		a := &x.msg.nas[i]
		if !ok {
			x.reply.iaStatus(dhcp6.OptionIANA, a.iaid, iana.StatusNoBinding, x.text)
			continue
		}
		grants, err := h.leases.Renew(x.now, x.forIA(a))
		if err == nil {
			h.grants(x, a, grants, a.addrs)
			continue
		}
		if errors.Is(err, lease.ErrNotFound) {
			if slices.ContainsFunc(a.addrs, x.offLink) {
				h.grants(x, a, nil, a.addrs)
			} else {
				x.reply.iaStatus(dhcp6.OptionIANA, a.iaid, iana.StatusNoBinding, textNoBinding)
			}
			continue
		}
		text, ok := refusal(err)
		if !ok {
			h.log.Error("renewing failed", "link", x.link.Name, "error", err)
			return DropInternal
		}
		h.stats.Refused.Add(1)
		h.log.Warn("a lease is not renewed", "subscriber", x.req.Subscriber, "link", x.link.Name, "reason", err)
		x.reply.iaStatus(dhcp6.OptionIANA, a.iaid, iana.StatusNoAddrsAvail, text)
	}
	noPrefixes(x, iana.StatusNoBinding, textNoPrefix)
	h.settings(x)
	return 0
}
