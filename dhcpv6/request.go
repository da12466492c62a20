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
	if ok {
		h.reconfigurable(x, dhcp6.MessageTypeReply)
		h.fqdn(x, true)
	}
	if drop := h.give(x, ok, Leases.Assign); drop != 0 {
		return drop
	}
	h.settings(x)
	return 0
}

// give answers the IAs of a Solicit or a Request with what a function grants, or with
// the reason why there is nothing.
func (h *Handler) give(x *exchange, authenticated bool, grant func(Leases, time.Time, *lease.Request) ([]lease.Grant, error)) Drop {
	for i := range x.msg.ias {
		a := &x.msg.ias[i]
		switch {
		case !authenticated:
			x.reply.iaStatus(a, a.none(), x.text)
			continue
		case a.pd && !slices.ContainsFunc(x.req.Pools, func(p lease.Pool) bool { return !p.Drain }) && !x.req.Fixed.IsValid():
			x.reply.iaStatus(a, a.none(), textNoPrefix)
			continue
		case !a.pd && len(x.req.Prefixes) == 0:
			x.reply.iaStatus(a, a.none(), textNoPool)
			continue
		case x.msg.typ == dhcp6.MessageTypeRequest && slices.ContainsFunc(a.addrs, x.offLink):
			x.reply.iaStatus(a, iana.StatusNotOnLink, textNotOnLink)
			continue
		}
		grants, err := grant(h.leases, x.now, x.forIA(a))
		if err == nil {
			h.grants(x, a, grants, false)
			continue
		}
		if drop := h.refuse(x, a, err); drop != 0 {
			return drop
		}
	}
	return 0
}

// refuse tells a client why its IA gets nothing. For an error that is the server's own
// there is no answer.
func (h *Handler) refuse(x *exchange, a *ia, err error) Drop {
	text, ok := refusal(a, err)
	if !ok {
		return h.failed("leasing failed", err, "link", x.link.Name)
	}
	h.stats.Refused.Add(1)
	what := "address"
	if a.pd {
		what = "prefix"
	}
	h.log.Warn("an authenticated client gets none", "what", what, "subscriber", x.req.Subscriber, "link", x.link.Name, "reason", err)
	x.reply.iaStatus(a, a.none(), text)
	return 0
}

// offLink reports whether an address does not belong on the client's link.
func (x *exchange) offLink(a netip.Addr) bool {
	return !slices.Contains(x.link.Prefixes, idcodec.PrefixOf(a))
}

// offPools reports whether a prefix is of none of the link's pools.
func (x *exchange) offPools(p netip.Prefix) bool {
	return p != x.req.Fixed && !slices.ContainsFunc(x.req.Pools, func(pool lease.Pool) bool { return pool.Has(p) })
}
