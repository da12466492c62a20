package idcodec

// Reserved reports whether g is in IANA's registry of reserved IPv6 interface
// identifiers (RFC 5453, with the Ethernet block of RFC 6543), and so must never
// be leased. The u and g bits carry no meaning (RFC 7136).
func Reserved(g GID) bool {
	switch {
	case g == 0: // Subnet-Router anycast, RFC 4291
		return true
	case g >= 0x0200_5eff_fe00_0000 && g <= 0x0200_5eff_feff_ffff:
		// IANA's Ethernet block, with Proxy Mobile IPv6's 0200:5eff:fe00:5213.
		return true
	case g >= 0xfdff_ffff_ffff_ff80: // subnet anycast, RFC 2526: up to …ffff
		return g <= 0xfdff_ffff_ffff_ffff
	}
	return false
}
