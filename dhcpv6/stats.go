package dhcpv6

import "sync/atomic"

// Drop is a reason not to answer a packet.
type Drop uint8

// The reasons. Zero is none.
const (
	_                    Drop = iota
	DropMalformed             // truncated, or with an option that is none
	DropOversized             // longer than any message that makes sense
	DropTooMuch               // more options than a client has reason to send
	DropHops                  // relayed over more than eight hops
	DropNotAllowed            // a leasequery of somebody who may not ask
	DropType                  // a message for a client or a relay, or unknown
	DropUnicast               // from a client, but not to the multicast address
	DropNoClientID            // no Client Identifier where there must be one
	DropServerID              // a Server Identifier that is missing, another's, or too much
	DropUnexpectedIA          // an identity association in an Information-request
	DropNothingToConfirm      // a Confirm without an address
	DropNoLink                // from a link that is not configured
	DropPending               // authentication is under way
	DropRegistration          // an address that its sender may not register
	DropInternal              // the server's own fault, which is in its log
	DropNotDurable            // the store did not take the lease
	DropAway                  // the store cannot be asked for the time being
	DropConflict              // another server has changed what the answer was decided on
	NumDrops
)

var dropNames = [NumDrops]string{
	DropMalformed: "malformed", DropOversized: "oversized", DropTooMuch: "too_much", DropHops: "hops",
	DropNotAllowed: "not_allowed", DropType: "type", DropUnicast: "unicast", DropNoClientID: "no_client_id", DropServerID: "server_id",
	DropUnexpectedIA: "unexpected_ia", DropNothingToConfirm: "nothing_to_confirm", DropNoLink: "no_link",
	DropPending: "pending", DropRegistration: "registration", DropInternal: "internal", DropNotDurable: "not_durable",
	DropAway: "store_away", DropConflict: "conflict",
}

// String returns the reason's name in metrics.
func (d Drop) String() string {
	if d < NumDrops {
		return dropNames[d]
	}
	return "unknown"
}

// Stats counts what a handler and a server did. All of it may be read at any
// time.
type Stats struct {
	Received        [16]atomic.Uint64 // by message type
	Sent            [16]atomic.Uint64 // by message type
	Dropped         [NumDrops]atomic.Uint64
	Unauthenticated atomic.Uint64 // messages answered with nothing, for want of an identity
	Refused         atomic.Uint64 // IAs of authenticated clients that got nothing
	Declined        atomic.Uint64 // Decline messages
	Registered      atomic.Uint64 // addresses that were registered, or refreshed
	WriteErrors     atomic.Uint64 // replies that the kernel did not take
}

// Messages returns how many messages of clients came.
func (s *Stats) Messages() (n uint64) {
	for i := range s.Received {
		n += s.Received[i].Load()
	}
	return n
}
