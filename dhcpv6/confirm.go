package dhcpv6

import (
	"slices"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// confirm answers a Confirm (RFC 9915 §18.3.3): are the client's addresses right
// for the link that it is on now? It says nothing of leases, and a Confirm
// without an address gets no answer.
func (h *Handler) confirm(x *exchange) Drop {
	if len(x.msg.addrs) == 0 {
		return DropNothingToConfirm
	}
	h.begin(x, dhcp6.MessageTypeReply)
	if slices.ContainsFunc(x.msg.addrs, x.offLink) {
		x.reply.status(iana.StatusNotOnLink, textNotOnLink)
	} else {
		x.reply.status(iana.StatusSuccess, textOnLink)
	}
	return 0
}
