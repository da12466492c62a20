package dhcpv6

import (
	"encoding/binary"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// informationRequest answers an Information-request (RFC 9915 §18.3.6). It needs
// no authentication, for it leases nothing.
func (h *Handler) informationRequest(x *exchange) Drop {
	h.begin(x, dhcp6.MessageTypeReply)
	h.settings(x)
	if h.cfg.InfoRefresh > 0 && x.msg.requests(dhcp6.OptionInformationRefreshTime) {
		x.reply.option(dhcp6.OptionInformationRefreshTime, binary.BigEndian.AppendUint32(nil, wireSeconds(h.cfg.InfoRefresh)))
	}
	return 0
}
