package dhcpv6

import (
	"crypto/hmac"
	"crypto/md5" // RFC 9915 §20.4 knows no other algorithm
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// The Reconfigure Key Authentication Protocol (RFC 9915 §20.4): protocol, algorithm, RDM,
// and the types of what is in its authentication information.
const (
	rkapProtocol  = 3
	rkapAlgorithm = 1 // HMAC-MD5
	rkapRDM       = 0 // a counter
	rkapKey       = 1
	rkapDigest    = 2
	rkapLen       = 3 + 8 + 1 + 16
)

// maxPaths is of how many clients it is known how to reach them; others are reached by
// their addresses, if they have any.
const maxPaths = 1 << 17

// Reconfigurer has clients renew before their time (RFC 9915 §18.3.11): those that said that
// they would (Reconfigure Accept). It gives them the keys by which they know the server.
// It is safe for concurrent use.
//
// A client's key follows from a secret and its DUID, so that nothing need be stored; how to
// reach a client is known from its last message, in memory only.
type Reconfigurer struct {
	secret   []byte
	serverID []byte

	mu    sync.Mutex
	count uint64 // the last replay detection value
	paths map[[16]byte]*path
}

// path is how a client is reached.
type path struct {
	to    netip.AddrPort
	iface string
	hops  []savedHop // from the outermost inwards
}

// savedHop is what a Relay-reply to a relay needs. What else the relay says is not kept: it
// may be a name.
type savedHop struct {
	header      [34]byte // message type, hop count, link, peer
	interfaceID []byte
	port        []byte // data of the Relay Source Port option, nil without
}

// NewReconfigurer returns a reconfigurer for a server. The secret is nobody else's to know.
func NewReconfigurer(secret []byte, serverID []byte) *Reconfigurer {
	return &Reconfigurer{secret: secret, serverID: serverID, paths: make(map[[16]byte]*path)}
}

func (r *Reconfigurer) mac(label string, duid []byte) (sum [16]byte) {
	m := hmac.New(sha256.New, r.secret)
	m.Write([]byte(label))
	m.Write(duid)
	copy(sum[:], m.Sum(nil))
	return sum
}

// key is the client's Reconfigure key.
func (r *Reconfigurer) key(duid []byte) [16]byte { return r.mac("key", duid) }

// note remembers how to reach a client.
func (r *Reconfigurer) note(duid []byte, p *path) {
	id := r.mac("client", duid)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paths[id] == nil && len(r.paths) >= maxPaths {
		for other := range r.paths { // any
			delete(r.paths, other)
			break
		}
	}
	r.paths[id] = p
}

// authentication appends an Authentication option (RFC 9915 §21.11) with 16 bytes of
// information, and returns where these are.
func (r *Reconfigurer) authentication(w *builder, now time.Time, kind byte, value [16]byte) int {
	r.mu.Lock()
	r.count = max(r.count+1, uint64(now.UnixNano()))
	count := r.count
	r.mu.Unlock()
	start := w.open(dhcp6.OptionAuth)
	w.b = append(w.b, rkapProtocol, rkapAlgorithm, rkapRDM)
	w.b = binary.BigEndian.AppendUint64(w.b, count)
	w.b = append(w.b, kind)
	at := len(w.b)
	w.b = append(w.b, value[:]...)
	w.close(start)
	return at
}

// Reconfigure is a message to a client, and where it goes.
type Reconfigure struct {
	Data []byte
	To   *net.UDPAddr
}

// Renew makes the message that has a client renew. It returns false if the client has not
// said, since the server began, that it would.
func (r *Reconfigurer) Renew(duid []byte, now time.Time) (Reconfigure, bool) {
	r.mu.Lock()
	p := r.paths[r.mac("client", duid)]
	r.mu.Unlock()
	if p == nil {
		return Reconfigure{}, false
	}
	var w builder
	var nesting [maxHops]int
	for i := range p.hops {
		h := &p.hops[i]
		w.b = append(w.b, byte(dhcp6.MessageTypeRelayReply))
		w.b = append(w.b, h.header[1:]...)
		if h.interfaceID != nil {
			w.option(dhcp6.OptionInterfaceID, h.interfaceID)
		}
		if h.port != nil {
			w.option(optionRelayPort, h.port)
		}
		nesting[i] = w.open(dhcp6.OptionRelayMsg)
	}
	begin := len(w.b)
	w.b = append(w.b, byte(dhcp6.MessageTypeReconfigure), 0, 0, 0)
	w.option(dhcp6.OptionServerID, r.serverID)
	w.option(dhcp6.OptionClientID, duid)
	w.option(dhcp6.OptionReconfMessage, []byte{byte(dhcp6.MessageTypeRenew)})
	at := r.authentication(&w, now, rkapDigest, [16]byte{})
	key := r.key(duid)
	m := hmac.New(md5.New, key[:])
	m.Write(w.b[begin:])
	copy(w.b[at:], m.Sum(nil))
	for i := len(p.hops) - 1; i >= 0; i-- {
		w.close(nesting[i])
	}
	to := net.UDPAddrFromAddrPort(p.to)
	if p.to.Addr().IsLinkLocalUnicast() {
		to.Zone = p.iface
	}
	return Reconfigure{w.b, to}, true
}

// OfferReconfigure has the handler give Reconfigure keys to clients that accept them.
func (h *Handler) OfferReconfigure(r *Reconfigurer) { h.reconfigure = r }

// reconfigurable writes what a client that accepts Reconfigure messages is told: that it
// shall, and, in the first Reply, by which key it knows them.
func (h *Handler) reconfigurable(x *exchange, reply dhcp6.MessageType) {
	m := x.msg
	if h.reconfigure == nil || !m.reconfigure {
		return
	}
	x.reply.option(dhcp6.OptionReconfAccept, nil)
	if reply != dhcp6.MessageTypeReply {
		return
	}
	if m.typ == dhcp6.MessageTypeRequest || m.typ == dhcp6.MessageTypeSolicit {
		h.reconfigure.authentication(&x.reply, x.now, rkapKey, h.reconfigure.key(m.clientID))
	}
	p := &path{to: x.to, iface: x.iface}
	for i := range x.hops {
		hop := &x.hops[i]
		s := savedHop{interfaceID: cloned(hop.relay.InterfaceID), port: cloned(hop.port)}
		copy(s.header[:], hop.header)
		p.hops = append(p.hops, s)
	}
	h.reconfigure.note(m.clientID, p)
}

func cloned(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}
