package eidauth

import "net/netip"

// Profile is what a source says of how a client is to be served, beside who it is. A
// Profile is not changed once it is given out.
type Profile struct {
	// Class is a class of clients whose options it gets; RADIUS's Filter-Id (RFC 2865
	// §5.11).
	Class string

	// AddressPool and PrefixPool name the link's pools that it is served from: RADIUS's
	// Stateful-IPv6-Address-Pool or else Framed-IPv6-Pool, and
	// Delegated-IPv6-Prefix-Pool (RFC 6911, RFC 3162).
	AddressPool, PrefixPool string

	// Prefix is the one to be delegated: RADIUS's Delegated-IPv6-Prefix (RFC 4818).
	Prefix netip.Prefix

	// DNS are its resolvers, before those of classes and links: RADIUS's
	// DNS-Server-IPv6-Address (RFC 6911).
	DNS []netip.Addr
}
