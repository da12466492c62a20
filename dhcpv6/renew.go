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
// sends a Request. What the client has no right to comes back with
// lifetimes of zero. Of a prefix nothing is said while the store is away, if something is of an address: the
// client goes on with it and asks again (§18.2.10.1).
func (h *Handler) renew(x *exchange) Drop {
	ok, drop := h.authenticate(x)
	if drop != 0 {
		return drop
	}
	h.begin(x, dhcp6.MessageTypeReply)
	if ok {
		h.reconfigurable(x, dhcp6.MessageTypeReply)
		h.fqdn(x, true)
	}
	silent := 0
	for i := range x.msg.ias {
		a := &x.msg.ias[i]
		if !ok {
			x.reply.iaStatus(a, iana.StatusNoBinding, x.text)
			continue
		}
		grants, err := h.leases.Renew(x.now, x.forIA(a))
		switch {
		case err == nil:
			h.grants(x, a, grants, true)
		case errors.Is(err, lease.ErrNotFound) && (slices.ContainsFunc(a.addrs, x.offLink) || slices.ContainsFunc(a.prefixes, x.offPools)):
			h.grants(x, a, nil, true)
		case errors.Is(err, lease.ErrNotFound):
			x.reply.iaStatus(a, iana.StatusNoBinding, textNoBinding)
		case a.pd && errors.Is(err, lease.ErrAway):
			if silent++; silent == len(x.msg.ias) {
				return DropAway
			}
		default:
			if drop := h.refuse(x, a, err); drop != 0 {
				return drop
			}
		}
	}
	h.settings(x)
	return 0
}
