package dhcpv6

// decline answers a Decline (RFC 9915 §18.3.8): the addresses are set aside, and
// the client's next Request gets the next slot.
func (h *Handler) decline(x *exchange) Drop {
	h.stats.Declined.Add(1)
	h.log.Warn("a client found its address in use", "duid", hexBytes(x.msg.clientID), "link", x.link.Name, "addresses", x.msg.addrs)
	return h.end(x, h.leases.Decline, textDeclined)
}
