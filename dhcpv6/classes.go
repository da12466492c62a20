package dhcpv6

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/lease"
)

// Class is a class of clients with options of its own: those whose messages have an
// option as it wants, and those whom authentication or a reservation puts into it.
type Class struct {
	Name    string
	Option  uint16 // that is looked at; 0 for none
	How     Match
	Value   []byte
	Options []Option // before those of links
}

// Match is how an option is compared with a value.
type Match uint8

const (
	Present  Match = iota // it is there
	Equals                // its data are the value
	Begins                // its data begin with it
	Contains              // it is somewhere in the data
)

func (m Match) holds(data, value []byte) bool {
	switch m {
	case Present:
		return true
	case Equals:
		return bytes.Equal(data, value)
	case Begins:
		return bytes.HasPrefix(data, value)
	case Contains:
		return bytes.Contains(data, value)
	}
	return false
}

// maxClasses bounds what every message is held against.
const maxClasses = 64

func checkClasses(classes []Class) error {
	if len(classes) > maxClasses {
		return fmt.Errorf("%d classes, want %d or fewer", len(classes), maxClasses)
	}
	seen := make(map[string]bool)
	for _, c := range classes {
		if c.Name == "" || seen[c.Name] {
			return fmt.Errorf("class %q: want a name that no other class has", c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}

// served is what a client is leased from.
type served struct {
	prefixes []idcodec.Prefix
	pools    []lease.Pool
}

// unnamed returns what is for clients who are given no pool by name.
func (l *Link) unnamed() (s served) {
	for _, p := range l.Prefixes {
		named := false
		for _, all := range l.Named {
			named = named || slices.Contains(all, p)
		}
		if !named && !slices.Contains(l.Draining, p) {
			s.prefixes = append(s.prefixes, p)
		}
	}
	for _, p := range l.Pools {
		if p.Name == "" {
			s.pools = append(s.pools, p)
		}
	}
	return s
}

// named returns the prefixes of a pool of addresses that do not drain.
func (l *Link) named(pool string) []idcodec.Prefix {
	all := l.Named[pool]
	if len(l.Draining) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(p idcodec.Prefix) bool { return slices.Contains(l.Draining, p) })
}

// given is what authentication says of how to serve a client.
type given struct {
	profile  *eidauth.Profile
	reserved string // class of its reservation
}

// serveAs files how a client is to be served. A pool that the link does not have leaves
// the client without what it was to have from it.
func (h *Handler) serveAs(x *exchange, p *eidauth.Profile) {
	s := h.open[x.link]
	x.req.Prefixes, x.req.Pools, x.req.Draining, x.req.Policy = s.prefixes, s.pools, x.link.Draining, x.link.Policy
	if len(h.cfg.Reserved) > 0 {
		x.given.reserved = h.cfg.Reserved[x.in.key]
	}
	x.given.profile = p
	if p == nil {
		return
	}
	if p.AddressPool != "" {
		if x.req.Prefixes = x.link.named(p.AddressPool); x.req.Prefixes == nil {
			h.log.Warn("a client is given a pool of addresses that its link does not have", "pool", p.AddressPool, "link", x.link.Name)
		}
	}
	if p.PrefixPool != "" {
		x.req.Pools = nil
		for _, pool := range x.link.Pools {
			if pool.Name == p.PrefixPool {
				x.req.Pools = append(x.req.Pools, pool)
			}
		}
		if x.req.Pools == nil {
			h.log.Warn("a client is given a pool of prefixes that its link does not have", "pool", p.PrefixPool, "link", x.link.Name)
		}
	}
	if p.Prefix.IsValid() {
		if h.mayDelegate(p.Prefix) {
			x.req.Fixed = p.Prefix
		} else {
			h.log.Warn("a client is given a prefix that cannot be delegated: it is longer than a /64, or has addresses of a link or a pool", "prefix", p.Prefix, "link", x.link.Name)
		}
	}
}

// mayDelegate reports whether a prefix that authentication gives may be delegated.
func (h *Handler) mayDelegate(p netip.Prefix) bool {
	if p.Bits() < 1 || p.Bits() > idcodec.MaxDelegated || p.Addr().Is4() || !p.Addr().IsGlobalUnicast() {
		return false
	}
	for i := range h.cfg.Links {
		l := &h.cfg.Links[i]
		if slices.ContainsFunc(l.Prefixes, func(q idcodec.Prefix) bool { return q.Netip().Overlaps(p) }) ||
			slices.ContainsFunc(l.Pools, func(q lease.Pool) bool { return q.Prefix.Overlaps(p) }) {
			return false
		}
	}
	return true
}

// member reports whether a client is of a class.
func (x *exchange) member(c *Class) bool {
	if c.Name == x.given.reserved || x.given.profile != nil && x.given.profile.Class == c.Name {
		return true
	}
	if c.Option == 0 {
		return false
	}
	for b := x.msg.options; len(b) > 0; {
		code, data, rest, err := nextOption(b)
		if err != nil {
			return false
		}
		if uint16(code) == c.Option && c.How.holds(data, c.Value) {
			return true
		}
		b = rest
	}
	return false
}

// settings writes what the client asked for in its Option Request option: of what
// authentication gives it, of its classes, and of its link, the first that has it.
func (h *Handler) settings(x *exchange) {
	written := h.written[:0]
	write := func(o *Option) {
		if !slices.Contains(written, o.Code) && (x.msg.requests(dhcp6.OptionCode(o.Code)) || slices.Contains(h.cfg.Always, o.Code)) {
			x.reply.option(dhcp6.OptionCode(o.Code), o.Data)
			written = append(written, o.Code)
		}
	}
	if p := x.given.profile; p != nil && len(p.DNS) > 0 {
		o := Option{Code: uint16(dhcp6.OptionDNSRecursiveNameServer)}
		for _, a := range p.DNS {
			o.Data = append(o.Data, a.AsSlice()...)
		}
		write(&o)
	}
	for i := range h.cfg.Classes {
		if c := &h.cfg.Classes[i]; x.member(c) {
			for j := range c.Options {
				write(&c.Options[j])
			}
		}
	}
	for i := range h.options[x.link] {
		write(&h.options[x.link][i])
	}
	h.written = written
}
