package dhcpv6

import (
	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// solicit answers a Solicit (RFC 9915 §18.3.1, §18.3.9): with an Advertise that
// promises and stores nothing, or, where both sides want Rapid Commit, with a
// Reply that leases.
func (h *Handler) solicit(x *exchange) Drop {
	ok, drop := h.authenticate(x)
	if drop != 0 {
		return drop
	}
	give := Leases.Offer
	if x.msg.rapid && h.cfg.RapidCommit {
		h.begin(x, dhcp6.MessageTypeReply)
		x.reply.option(dhcp6.OptionRapidCommit, nil)
		give = Leases.Assign
	} else {
		h.begin(x, dhcp6.MessageTypeAdvertise)
		if h.cfg.Preference > 0 {
			x.reply.option(dhcp6.OptionPreference, []byte{h.cfg.Preference})
		}
	}
	if ok {
		typ := dhcp6.MessageTypeAdvertise
		if x.msg.rapid && h.cfg.RapidCommit {
			typ = dhcp6.MessageTypeReply
		}
		h.reconfigurable(x, typ)
		h.fqdn(x, typ == dhcp6.MessageTypeReply)
	}
	if drop := h.give(x, ok, give); drop != 0 {
		return drop
	}
	h.settings(x)
	return 0
}
