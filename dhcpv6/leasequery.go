package dhcpv6

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"brightgid/idcodec"
	"brightgid/lease"
)

// Messages of RFC 7653 that insomniacslk/dhcp does not name.
const (
	messageActiveLeaseQuery dhcp6.MessageType = 22
	messageStartTLS         dhcp6.MessageType = 23
)

// Status codes of leasequery (RFC 5007 §4.1.3, RFC 5460 §5.5, RFC 7653 §8.2).
const (
	statusUnknownQueryType iana.StatusCode = 7
	statusMalformedQuery   iana.StatusCode = 8
	statusNotConfigured    iana.StatusCode = 9
	statusNotAllowed       iana.StatusCode = 10
	statusQueryTerminated  iana.StatusCode = 11
	statusDataMissing      iana.StatusCode = 12
	statusNotSupported     iana.StatusCode = 14
)

// Query types (RFC 5007 §4.1.2.1, RFC 5460 §5.4).
const (
	queryByAddress     = 1
	queryByClientID    = 2
	queryByRelayID     = 3
	queryByLinkAddress = 4
	queryByRemoteID    = 5
)

// LeaseSource is what leasequery reads; a lease.Store does.
type LeaseSource interface {
	lease.Prefixes
	Each(f func(lease.Lease) error) error
}

// query is a LEASEQUERY or ACTIVELEASEQUERY message.
type query struct {
	typ      dhcp6.MessageType
	xid      [3]byte
	clientID []byte
	serverID []byte
	kind     uint8      // the query type; 0 without OPTION_LQ_QUERY
	link     netip.Addr // "::" for all links
	addr     netip.Addr // of a query by address
	duid     []byte     // of a query by client identifier
	relayID  []byte     // of a query by relay identifier
	remoteID []byte     // of a query by remote id: enterprise number(4) ‖ id
	since    bool       // OPTION_LQ_START_TIME is there
}

// parseQuery reads a message of a leasequery connection, without its length.
func parseQuery(b []byte) (q query, err error) {
	if len(b) < 4 {
		return q, errMalformed
	}
	q.typ = dhcp6.MessageType(b[0])
	copy(q.xid[:], b[1:4])
	for b = b[4:]; len(b) > 0; {
		code, data, rest, err := nextOption(b)
		if err != nil {
			return q, err
		}
		b = rest
		switch code {
		case dhcp6.OptionClientID:
			err = duid(&q.clientID, data)
		case dhcp6.OptionServerID:
			err = duid(&q.serverID, data)
		case dhcp6.OptionLQStartTime:
			q.since = true
		case dhcp6.OptionLQQuery:
			err = q.parseLQQuery(data)
		}
		if err != nil {
			return q, err
		}
	}
	return q, nil
}

// parseLQQuery reads query-type(1) link-address(16) options (RFC 5007 §4.1.2.1).
func (q *query) parseLQQuery(data []byte) error {
	if len(data) < 17 || q.kind != 0 || data[0] == 0 {
		return errMalformed
	}
	q.kind = data[0]
	q.link = netip.AddrFrom16([16]byte(data[1:17]))
	for b := data[17:]; len(b) > 0; {
		code, data, rest, err := nextOption(b)
		if err != nil {
			return err
		}
		b = rest
		switch code {
		case dhcp6.OptionIAAddr:
			if len(data) < 24 || q.addr.IsValid() {
				return errMalformed
			}
			q.addr = netip.AddrFrom16([16]byte(data))
		case dhcp6.OptionClientID:
			if err := duid(&q.duid, data); err != nil {
				return err
			}
		case dhcp6.OptionRelayID:
			if err := duid(&q.relayID, data); err != nil {
				return err
			}
		case dhcp6.OptionRemoteID:
			if len(data) < 5 || q.remoteID != nil {
				return errMalformed
			}
			q.remoteID = data
		}
	}
	return nil
}

// leaseQuery answers queries. It is pure, but for what it reads of leases.
type leaseQuery struct {
	serverID []byte
	links    []Link
	leases   LeaseSource
	secret   []byte // under which Remote-IDs are hashed; empty if nothing of relays is kept
}

// remoteIDHash returns what is kept of a Remote-ID.
func remoteIDHash(secret, id []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write(id)
	return m.Sum(nil)[:lease.RemoteIDLen]
}

// message begins a message of the answer to q, behind two bytes for its length.
func (l *leaseQuery) message(b []byte, typ dhcp6.MessageType, xid [3]byte) builder {
	return builder{append(b, 0, 0, byte(typ), xid[0], xid[1], xid[2])}
}

// finish sets the length of a message that began at start.
func finish(w *builder, start int) []byte {
	binary.BigEndian.PutUint16(w.b[start:], uint16(len(w.b)-start-2))
	return w.b
}

// reply appends a LEASEQUERY-REPLY without data (RFC 5460 §6.3), with a status
// if it is not success.
func (l *leaseQuery) reply(b []byte, q *query, now time.Time, status iana.StatusCode, text string) []byte {
	start := len(b)
	w := l.message(b, dhcp6.MessageTypeLeaseQueryReply, q.xid)
	l.about(&w, q, status, text)
	if q.typ == messageActiveLeaseQuery {
		baseTime(&w, now)
	}
	return finish(&w, start)
}

// about appends what every reply holds.
func (l *leaseQuery) about(w *builder, q *query, status iana.StatusCode, text string) {
	w.option(dhcp6.OptionServerID, l.serverID)
	if q.clientID != nil {
		w.option(dhcp6.OptionClientID, q.clientID)
	}
	if status != iana.StatusSuccess {
		w.status(status, text)
	}
}

// datagram appends the answer to a LEASEQUERY by UDP (RFC 5007 §4.3), which is
// whole in one message: only queries by address are answered.
func (l *leaseQuery) datagram(b []byte, q *query, now time.Time) ([]byte, error) {
	w := builder{append(b, byte(dhcp6.MessageTypeLeaseQueryReply), q.xid[0], q.xid[1], q.xid[2])}
	status, text := l.check(q)
	if status == iana.StatusSuccess && q.kind != queryByAddress {
		status, text = statusUnknownQueryType, "by UDP only addresses are answered"
	}
	l.about(&w, q, status, text)
	if status != iana.StatusSuccess {
		return w.b, nil
	}
	err := l.each(q, now, func(x *lease.Lease) error { clientData(&w, x, now); return nil })
	return w.b, err
}

// data appends a LEASEQUERY-DATA with one binding, or, for none, the empty one
// that keeps an idle connection alive (RFC 7653 §8.3).
func (l *leaseQuery) data(b []byte, xid [3]byte, x *lease.Lease, active bool, now time.Time) []byte {
	start := len(b)
	w := l.message(b, dhcp6.MessageTypeLeaseQueryData, xid)
	if x != nil {
		clientData(&w, x, now)
		if active {
			baseTime(&w, now)
		}
	}
	return finish(&w, start)
}

// done appends a LEASEQUERY-DONE (RFC 5460 §6.3).
func (l *leaseQuery) done(b []byte, xid [3]byte, status iana.StatusCode, text string) []byte {
	start := len(b)
	w := l.message(b, dhcp6.MessageTypeLeaseQueryDone, xid)
	if status != iana.StatusSuccess {
		w.status(status, text)
	}
	return finish(&w, start)
}

// baseTime appends an OPTION_LQ_BASE_TIME, the server's clock in seconds since
// 2000 (RFC 7653 §8.2.1).
func baseTime(w *builder, now time.Time) {
	const y2000 = 946684800
	start := w.open(dhcp6.OptionLQBaseTime)
	w.b = binary.BigEndian.AppendUint32(w.b, uint32(now.Unix()-y2000))
	w.close(start)
}

// clientData appends an OPTION_CLIENT_DATA (RFC 5007 §4.1.2.2) of a lease: whose
// it is, the address or the prefix with what is left of its lifetimes, zero when it is over,
// how long ago the client last spoke, and the link-layer address (RFC 6939).
func clientData(w *builder, x *lease.Lease, now time.Time) {
	start := w.open(dhcp6.OptionClientData)
	w.option(dhcp6.OptionClientID, x.Client.DUID)
	var preferred, valid time.Duration
	if x.Live(now) {
		// Rounded up: a filter that took the address away within the client's
		// last second would drop what the client may send.
		preferred, valid = x.PreferredUntil.Sub(now)+time.Second-1, x.ValidUntil.Sub(now)+time.Second-1
	}
	if x.Bits != 0 {
		w.iaPrefix(x.Prefix(), netip.Prefix{}, preferred, valid)
	} else {
		w.iaAddr(x.Addr, preferred, valid)
	}
	clt := w.open(dhcp6.OptionCLTTime)
	w.seconds(now.Sub(x.Updated))
	w.close(clt)
	// Without a relay the address is from the client's DUID, which may be made of
	// another interface's: nobody can hold it against the client's frames.
	if ll := x.Anchor.LinkLayer; len(ll) > 0 && x.Anchor.Relay.IsValid() {
		const hwEthernet = 1
		s := w.open(dhcp6.OptionClientLinkLayerAddr)
		w.b = binary.BigEndian.AppendUint16(w.b, hwEthernet)
		w.b = append(w.b, ll...)
		w.close(s)
	}
	w.close(start)
}

// check reports why a query cannot be answered; a status of success is none.
func (l *leaseQuery) check(q *query) (iana.StatusCode, string) {
	if q.clientID == nil {
		return statusMalformedQuery, "a client identifier is needed"
	}
	if q.serverID != nil && string(q.serverID) != string(l.serverID) {
		return statusNotConfigured, "the query is for another server"
	}
	if q.typ == messageActiveLeaseQuery {
		return iana.StatusSuccess, ""
	}
	switch q.kind {
	case queryByAddress:
		if !q.addr.IsValid() {
			return statusMalformedQuery, "a query by address without an address"
		}
	case queryByClientID:
		if q.duid == nil {
			return statusMalformedQuery, "a query by client identifier without one"
		}
	case queryByLinkAddress:
	case queryByRelayID, queryByRemoteID:
		switch {
		case len(l.secret) == 0:
			return statusUnknownQueryType, "this server keeps no options of relays"
		case q.kind == queryByRelayID && q.relayID == nil:
			return statusMalformedQuery, "a query by relay identifier without one"
		case q.kind == queryByRemoteID && q.remoteID == nil:
			return statusMalformedQuery, "a query by remote id without one"
		}
	default:
		return statusUnknownQueryType, "unknown query type"
	}
	if !q.link.IsUnspecified() && l.link(q.link) == nil {
		return statusNotConfigured, "no such link"
	}
	return iana.StatusSuccess, ""
}

// link returns the link that an address is on; nil for none.
func (l *leaseQuery) link(a netip.Addr) *Link {
	for i := range l.links {
		if x := &l.links[i]; slices.Contains(x.Prefixes, idcodec.PrefixOf(a)) || slices.Contains(x.RelayLinks, a) {
			return x
		}
	}
	return nil
}

// each calls f with every live lease that a checked query asks for. A query by address
// is answered by the delegated prefix that the address is in, too.
func (l *leaseQuery) each(q *query, now time.Time, f func(*lease.Lease) error) error {
	var link *Link
	if !q.link.IsUnspecified() {
		link = l.link(q.link)
	}
	var remote []byte
	if q.kind == queryByRemoteID {
		remote = remoteIDHash(l.secret, q.remoteID)
	}
	wanted := func(x *lease.Lease) bool {
		return x.Live(now) && (link == nil || link.leases(x)) &&
			(q.kind != queryByClientID || string(x.Client.DUID) == string(q.duid)) &&
			(q.kind != queryByRelayID || string(x.Anchor.RelayID) == string(q.relayID)) &&
			(q.kind != queryByRemoteID || string(x.Anchor.RemoteID) == string(remote))
	}
	if q.kind == queryByAddress {
		x, err := lease.Covering(l.leases, q.addr, now)
		if errors.Is(err, lease.ErrNotFound) || err == nil && !wanted(&x) {
			return nil
		}
		if err != nil {
			return err
		}
		return f(&x)
	}
	return l.leases.Each(func(x lease.Lease) error {
		if wanted(&x) {
			return f(&x)
		}
		return nil
	})
}

// leases reports whether a lease is of the link.
func (l *Link) leases(x *lease.Lease) bool {
	if x.Bits == 0 {
		return slices.Contains(l.Prefixes, idcodec.PrefixOf(x.Addr))
	}
	return slices.ContainsFunc(l.Pools, func(p lease.Pool) bool { return p.Prefix.Contains(x.Addr) })
}
