// Package gidzone answers for an ISP's reverse zone (RFC 3596 §2.5) from its bindings:
// the PTR of an address is there while the address is leased and is not otherwise, so
// that anybody can ask whether a source address is live, and learns nothing else. At
// _gid.<zone> a TXT record tells who the ISP is (see [Config]).
//
// Zones are signed as answers are made (DNSSEC, RFC 4034), and what is not there is
// denied compactly (RFC 9824), so that no zone has to be kept anywhere. Names between
// the zone and an address exist all of them, as empty ones, whether or not an address
// below is leased: nobody can walk down the tree to the leased ones (RFC 7707 §4.4).
//
// [Zones.Answer] is a function of a question and a time; [Serve] is the way to the
// network.
package gidzone
