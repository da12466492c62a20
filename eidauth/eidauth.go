// Package eidauth answers who a DHCPv6 client is.
//
// A [Source] judges by what the server saw: options of relays that are trusted
// to speak for subscribers, or the client's own identifiers. [Chain] asks
// several sources in turn and keeps relays that are not trusted from being
// heard by any of them.
package eidauth

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"brightgid/idcodec"
)

var (
	// ErrUnknown says that the client is not authenticated.
	ErrUnknown = errors.New("the client is not authenticated")

	// ErrUntrustedRelay says that the message came from a relay that may
	// not speak for subscribers.
	ErrUntrustedRelay = errors.New("the relay is not trusted to speak for subscribers")

	// ErrPending says that a source has asked elsewhere and will know later. The
	// server sends no reply before it does; see [Pending].
	ErrPending = errors.New("authentication is under way")
)

// Pending is ErrPending with when the source will know. Without it the server waits for the
// client's next try; DHCPv6 clients retransmit after a second.
type Pending struct {
	Done <-chan struct{} // closed when the same question may be asked again
}

// Error implements error.
func (*Pending) Error() string { return ErrPending.Error() }

// Is reports that it is [ErrPending].
func (*Pending) Is(target error) bool { return target == ErrPending }

// Client is what the server saw of a client. Its slices are valid only during
// the call.
type Client struct {
	DUID []byte

	// Vendor holds the data of the client's Vendor-specific Information options (RFC
	// 9915 §21.17): enterprise number(4) ‖ options.
	Vendor [][]byte

	// Relays holds the relays that the message passed, from the one next to
	// the client outwards; none for a client on a link of the server.
	Relays []Relay

	// InnerUntrusted says that relays nearer to the client were left out of
	// Relays because they are not trusted.
	InnerUntrusted bool

	name []byte // what a relay's options are put together to
}

// Reset forgets the client, and keeps room for the next.
func (c *Client) Reset() {
	clear(c.name[:cap(c.name)]) // a copy of the client may have written behind its end
	*c = Client{name: c.name[:0]}
}

// Relay is one level of a Relay-forward message (RFC 9915 §9). An option that is
// absent is nil.
type Relay struct {
	// Addr is where the relay's message came from: the source address for
	// the outermost, the next outer relay's peer-address for the others.
	Addr netip.Addr

	InterfaceID     []byte // option 18, RFC 9915 §21.18
	RemoteID        []byte // option 37, RFC 4649: enterprise number(4) ‖ id
	SubscriberID    []byte // option 38, RFC 4580
	ClientLinkLayer []byte // option 79, RFC 6939: hardware type(2) ‖ address
	RADIUS          []byte // option 81, RFC 7037: RADIUS attributes
}

// LinkLayer returns the client's link-layer address: what the relay next to the
// client saw (RFC 6939), or, of a client without a relay, what its DUID holds.
// It returns nil if neither tells. A DUID is only the client's claim.
func (c *Client) LinkLayer() []byte {
	if len(c.Relays) > 0 {
		if v := c.Relays[0].ClientLinkLayer; !c.InnerUntrusted && len(v) > 2 {
			return v[2:]
		}
		return nil
	}
	return duidLinkLayer(c.DUID)
}

// duidLinkLayer returns the address in a DUID-LLT or DUID-LL (RFC 9915 §11.2,
// §11.4).
func duidLinkLayer(d []byte) []byte {
	switch {
	case len(d) > 8 && d[0] == 0 && d[1] == 1:
		return d[8:]
	case len(d) > 4 && d[0] == 0 && d[1] == 3:
		return d[4:]
	}
	return nil
}

// Identity is who a client is: an EID, or one that was sealed beforehand so that
// the server never sees it. Exactly one of EID, Opaque and Sealed is set.
type Identity struct {
	EID     idcodec.EID
	Opaque  idcodec.Opaque // until its client, whose bytes it points to, is authenticated again
	Sealed  *Sealed
	Profile *Profile // nil if the source says nothing of it
}

// MakeEID returns the EID, and makes that of an opaque identity. That of a sealed one is zero.
func (i *Identity) MakeEID() idcodec.EID {
	if !i.Opaque.IsZero() {
		return i.Opaque.EID()
	}
	return i.EID
}

// Scheme returns the EID's scheme; of a sealed identity it is empty.
func (i *Identity) Scheme() string {
	if !i.Opaque.IsZero() {
		return i.Opaque.Scheme()
	}
	return i.EID.Scheme()
}

// Sealed is an identity as the registry files it.
type Sealed struct {
	Key idcodec.LookupKey
	NID idcodec.NID
}

// Source is one way to authenticate a client. It returns [ErrUnknown] when it
// does not know the client, and must not block: a source that asks over a
// network returns [ErrPending] and answers the client's next try.
type Source interface {
	Authenticate(c *Client) (Identity, error)
}

// Chain asks its sources in order and takes the first answer.
type Chain struct {
	trusted map[netip.Addr]bool
	sources []Source
}

// NewChain returns a chain of sources that hear only the given relays.
func NewChain(trusted []netip.Addr, sources ...Source) *Chain {
	c := &Chain{trusted: make(map[netip.Addr]bool), sources: sources}
	for _, a := range trusted {
		c.trusted[a.WithZone("")] = true
	}
	return c
}

// Authenticate returns the first identity that a source knows; if none does, the first
// [ErrUnknown] that says why.
//
// The outermost relay must be trusted; inwards, relays are heard up to the first
// that is not. A client could have made up anything beyond.
func (c *Chain) Authenticate(client *Client) (Identity, error) {
	if n := len(client.Relays); n > 0 {
		first := n
		for first > 0 && c.trusted[client.Relays[first-1].Addr.WithZone("")] {
			first--
		}
		if first == n {
			return Identity{}, ErrUntrustedRelay
		}
		if first > 0 {
			heard := *client
			heard.Relays = client.Relays[first:]
			heard.InnerUntrusted = true
			client = &heard
		}
	}
	reason := ErrUnknown
	for _, s := range c.sources {
		id, err := s.Authenticate(client)
		if !errors.Is(err, ErrUnknown) {
			return id, err
		}
		if reason == ErrUnknown {
			reason = err // the first that says more
		}
	}
	return Identity{}, reason
}

// RelayOption is an option by which a relay names a subscriber.
type RelayOption string

// The relay options, with the scheme of the EIDs that they make. An Interface-ID
// is unique within its relay only, so the relay's address is a part of the EID.
const (
	SubscriberID    RelayOption = "subscriber-id"     // option 38: subscriber:<id>
	RemoteID        RelayOption = "remote-id"         // option 37: relay:<enterprise>.<id>
	InterfaceID     RelayOption = "interface-id"      // option 18: port:<relay>/<id>
	ClientLinkLayer RelayOption = "client-link-layer" // option 79: lladdr:<type>.<address>
	RADIUS          RelayOption = "radius"            // option 81: radius:<identity>
)

// RelayOptions are all of them, in the order that they should be preferred in.
var RelayOptions = []RelayOption{SubscriberID, RADIUS, RemoteID, InterfaceID, ClientLinkLayer}

// RelaySource authenticates by what a relay says of the line that a client is
// on. It takes the first of its options that is present, from the relay nearest
// to the client.
type RelaySource struct{ options []RelayOption }

// NewRelaySource returns a source that looks at the given options in order.
func NewRelaySource(options ...RelayOption) (*RelaySource, error) {
	for _, o := range options {
		switch o {
		case SubscriberID, RADIUS, RemoteID, InterfaceID, ClientLinkLayer:
		default:
			return nil, fmt.Errorf("relay option %q: want one of %q", o, RelayOptions)
		}
	}
	return &RelaySource{options}, nil
}

// Authenticate implements [Source].
func (s *RelaySource) Authenticate(c *Client) (Identity, error) {
	for _, option := range s.options {
		for i := range c.Relays {
			if option == ClientLinkLayer && (i > 0 || c.InnerUntrusted) {
				break // only the relay next to the client sees its address
			}
			id, err := c.named(&c.Relays[i], option)
			if err != nil {
				return Identity{}, fmt.Errorf("%w: option %s: %w", ErrUnknown, option, err)
			}
			if !id.IsZero() {
				return Identity{Opaque: id}, nil
			}
		}
	}
	return Identity{}, ErrUnknown
}

// named returns the identity in one option of a relay, or the zero one if the
// relay did not send it.
func (c *Client) named(r *Relay, option RelayOption) (idcodec.Opaque, error) {
	switch option {
	case SubscriberID:
		if r.SubscriberID != nil {
			return idcodec.NewOpaque("subscriber", r.SubscriberID)
		}
	case RADIUS:
		if r.RADIUS != nil {
			id, err := radiusIdentity(r.RADIUS)
			if err != nil || id == nil {
				return idcodec.Opaque{}, err
			}
			return idcodec.NewOpaque("radius", id)
		}
	case RemoteID:
		if r.RemoteID != nil {
			if len(r.RemoteID) < 5 {
				return idcodec.Opaque{}, errors.New("it is shorter than an enterprise number and an id")
			}
			c.name = append(strconv.AppendUint(c.name[:0], uint64(binary.BigEndian.Uint32(r.RemoteID)), 10), '.')
			c.name = append(c.name, r.RemoteID[4:]...)
			return idcodec.NewOpaque("relay", c.name)
		}
	case InterfaceID:
		if len(r.InterfaceID) > 0 {
			c.name = append(r.Addr.WithZone("").AppendTo(c.name[:0]), '/')
			c.name = append(c.name, r.InterfaceID...)
			return idcodec.NewOpaque("port", c.name)
		}
	case ClientLinkLayer:
		if r.ClientLinkLayer != nil {
			if len(r.ClientLinkLayer) < 3 {
				return idcodec.Opaque{}, errors.New("it is shorter than a hardware type and an address")
			}
			c.name = append(strconv.AppendUint(c.name[:0], uint64(binary.BigEndian.Uint16(r.ClientLinkLayer)), 10), '.')
			c.name = hex.AppendEncode(c.name, r.ClientLinkLayer[2:])
			return idcodec.NewOpaque("lladdr", c.name)
		}
	}
	return idcodec.Opaque{}, nil
}

// radiusIdentity returns whom RADIUS attributes name: their Chargeable-User-Identity (RFC
// 4372), or else their User-Name (RFC 2865 §5.1); nil for nobody.
func radiusIdentity(b []byte) (id []byte, err error) {
	const userName, chargeable = 1, 89
	for len(b) > 0 {
		if len(b) < 2 || b[1] < 3 || int(b[1]) > len(b) {
			return nil, errors.New("its RADIUS attributes are malformed")
		}
		value := b[2:b[1]]
		switch {
		case b[0] == chargeable && !(len(value) == 1 && value[0] == 0):
			id = value
		case b[0] == userName && id == nil:
			id = value
		}
		b = b[b[1]:]
	}
	return id, nil
}

// Entry is a row of a static table. Exactly one of DUID and LinkLayer is set.
type Entry struct {
	DUID      []byte
	LinkLayer []byte
	Identity  Identity
}

// Table authenticates by the client's DUID or link-layer address: for
// laboratories, and for links where those cannot be forged.
type Table struct {
	byDUID, byLinkLayer map[string]Identity
}

// NewTable returns a table. It refuses a row without a key or with two, and a
// key that stands twice.
func NewTable(entries []Entry) (*Table, error) {
	t := &Table{make(map[string]Identity), make(map[string]Identity)}
	for i, e := range entries {
		if (len(e.DUID) == 0) == (len(e.LinkLayer) == 0) {
			return nil, fmt.Errorf("entry %d: want either a DUID or a link-layer address", i+1)
		}
		if e.Identity.EID.IsZero() == (e.Identity.Sealed == nil) {
			return nil, fmt.Errorf("entry %d: want either an EID or a sealed identity", i+1)
		}
		m, key := t.byDUID, string(e.DUID)
		if len(e.LinkLayer) > 0 {
			m, key = t.byLinkLayer, string(e.LinkLayer)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("entry %d: %x stands twice", i+1, key)
		}
		m[key] = e.Identity
	}
	return t, nil
}

// Authenticate implements [Source].
func (t *Table) Authenticate(c *Client) (Identity, error) {
	if id, ok := t.byDUID[string(c.DUID)]; ok {
		return id, nil
	}
	if id, ok := t.byLinkLayer[string(c.LinkLayer())]; ok {
		return id, nil
	}
	return Identity{}, ErrUnknown
}
