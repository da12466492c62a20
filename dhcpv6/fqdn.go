package dhcpv6

import (
	"strings"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// Flags of a Client FQDN option (RFC 4704 §4.1).
const (
	fqdnS = 1 // the server updates AAAA records
	fqdnO = 2 // it does although the client did not want it to
	fqdnN = 4 // it updates nothing
)

// Names decides how clients are called in DNS. Its methods are called under the handler's
// lock and must not block.
type Names interface {
	// Name returns the whole name, with a dot at the end, for what a client says to be
	// called; whole tells that it gave a whole name.
	Name(said string, whole bool) (name string, ok bool)

	// Note says how a client that is about to be leased an address is called.
	Note(duid []byte, name string)
}

// NameClients has the handler answer Client FQDN options on links that allow names. Others
// are told that nothing is updated.
func (h *Handler) NameClients(n Names) { h.names = n }

// parseName reads a domain name in a Client FQDN option: whole, with its root label, or
// partial, without (RFC 4704 §4.2). Its labels may hold no dot.
func parseName(b []byte) (name string, whole, ok bool) {
	var labels []string
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 {
			whole, b = true, b[1:]
			break
		}
		if n > 63 || len(b) < 1+n || strings.ContainsRune(string(b[1:1+n]), '.') {
			return "", false, false
		}
		labels = append(labels, string(b[1:1+n]))
		b = b[1+n:]
	}
	return strings.Join(labels, "."), whole, len(labels) > 0 && len(b) == 0
}

// fqdn answers a Client FQDN option, and notes the client's name if the answer leases.
func (h *Handler) fqdn(x *exchange, leases bool) {
	o := x.msg.fqdn
	if len(o) < 1 {
		return
	}
	said, whole, ok := parseName(o[1:])
	name, data := "", []byte(nil)
	if ok && h.names != nil && x.link.Names && o[0]&fqdnN == 0 {
		if name, ok = h.names.Name(said, whole); ok {
			data, _ = encodeDomains([]string{name}) // Name has checked it
		}
	}
	var flags byte = fqdnN
	if data != nil {
		if flags = fqdnS; o[0]&fqdnS == 0 {
			flags |= fqdnO
		}
		if leases {
			h.names.Note(x.msg.clientID, name)
		}
	}
	if x.msg.requests(dhcp6.OptionFQDN) {
		start := x.reply.open(dhcp6.OptionFQDN)
		x.reply.b = append(x.reply.b, flags)
		if data != nil {
			x.reply.b = append(x.reply.b, data...)
		} else {
			x.reply.b = append(x.reply.b, o[1:]...)
		}
		x.reply.close(start)
	}
}
