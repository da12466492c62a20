package dhcpv6

import (
	"net/netip"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/lease"
)

// release answers a Release (RFC 9915 §18.3.7).
func (h *Handler) release(x *exchange) Drop {
	return h.end(x, h.leases.Release, textReleased)
}

// end ends leases and answers with a status, and with NoBinding in each IA that
// the server has no lease for. Only who would get the lease can end it: a client
// that is not authenticated, or as another subscriber, has no binding.
func (h *Handler) end(x *exchange, end func(time.Time, *lease.Request, []netip.Addr) (bool, error), text string) Drop {
	ok, drop := h.authenticate(x)
	if drop != 0 {
		return drop
	}
	h.begin(x, dhcp6.MessageTypeReply)
	x.reply.status(iana.StatusSuccess, text)
	for i := range x.msg.ias {
		a := &x.msg.ias[i]
		if a.pd && x.msg.typ == dhcp6.MessageTypeDecline {
			continue // only addresses can be declined
		}
		had := false
		if ok {
			where := a.addrs
			for _, p := range a.prefixes {
				where = append(where, p.Addr())
			}
			var err error
			if had, err = end(x.now, x.forIA(a), where); err != nil {
				return h.failed("ending a lease failed", err, "link", x.link.Name)
			}
		}
		if !had {
			x.reply.iaStatus(a, iana.StatusNoBinding, textNoBinding)
		}
	}
	return 0
}
