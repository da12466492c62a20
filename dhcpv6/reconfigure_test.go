package dhcpv6

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

func newReconfigureLab(t *testing.T) (*lab, *Reconfigurer) {
	l := newLab(t, func(c *Config) { c.RapidCommit = true })
	r := NewReconfigurer([]byte("a secret of the server's"), serverID)
	l.h.OfferReconfigure(r)
	return l, r
}

func accepts() dhcp6.Option {
	return &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionReconfAccept}
}

// keyOf returns the Reconfigure key in an answer; nil without one.
func keyOf(t *testing.T, m *dhcp6.Message) []byte {
	t.Helper()
	o := m.GetOneOption(dhcp6.OptionAuth)
	if o == nil {
		return nil
	}
	b := o.ToBytes()
	if len(b) != rkapLen || b[0] != 3 || b[1] != 1 || b[2] != 0 || b[11] != 1 {
		t.Fatalf("an Authentication option %x", b)
	}
	return b[12:]
}

// verify holds a Reconfigure message against a client's key as RFC 9915 §20.4.3 says, and
// returns its replay detection value.
func verify(t *testing.T, data, key []byte) (*dhcp6.Message, uint64) {
	t.Helper()
	m, err := dhcp6.MessageFromBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	var auth []byte
	at := 0
	for b := data[4:]; len(b) > 0; {
		code, value, rest, err := nextOption(b)
		if err != nil {
			t.Fatal(err)
		}
		if code == dhcp6.OptionAuth {
			auth, at = value, len(data)-len(rest)-16
		}
		b = rest
	}
	if len(auth) != rkapLen || auth[0] != 3 || auth[1] != 1 || auth[2] != 0 || auth[11] != 2 {
		t.Fatalf("an Authentication option %x", auth)
	}
	plain := append([]byte{}, data...)
	clear(plain[at : at+16])
	h := hmac.New(md5.New, key)
	h.Write(plain)
	if !hmac.Equal(h.Sum(nil), data[at:at+16]) {
		t.Error("the digest is not the message's")
	}
	return m, binary.BigEndian.Uint64(auth[3:])
}

func TestClientsThatAcceptAreToldToRenew(t *testing.T) {
	l, r := newReconfigureLab(t)
	adv := l.ask(msg(dhcp6.MessageTypeSolicit, 1, iana1(1), accepts()))
	if adv.GetOneOption(dhcp6.OptionReconfAccept) == nil || keyOf(t, adv) != nil {
		t.Errorf("an Advertise: %s", adv.Summary())
	}
	if _, ok := r.Renew(duidOf(1).ToBytes(), l.now); ok {
		t.Error("who has no key is told to renew")
	}
	rep := l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), accepts()))
	key := keyOf(t, rep)
	if rep.GetOneOption(dhcp6.OptionReconfAccept) == nil || key == nil {
		t.Fatalf("a Reply: %s", rep.Summary())
	}
	// The key goes out once; a renewal only tells that the client is there.
	if again := l.ask(msg(dhcp6.MessageTypeRenew, 1, toServer(), iana1(1), accepts())); keyOf(t, again) != nil {
		t.Error("the key is in the answer to a Renew")
	}
	other := keyOf(t, l.ask(msg(dhcp6.MessageTypeSolicit, 2, iana1(1), accepts(), &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionRapidCommit})))
	if other == nil || string(other) == string(key) {
		t.Error("two clients have the same key, or one has none")
	}
	var last uint64
	for range 3 { // at the same time of the clock
		m, ok := r.Renew(duidOf(1).ToBytes(), l.now)
		if !ok || m.To.String() != "[fe80::1234%eth1]:546" {
			t.Fatalf("%v, to %s", ok, m.To)
		}
		got, count := verify(t, m.Data, key)
		if got.MessageType != dhcp6.MessageTypeReconfigure || got.TransactionID != (dhcp6.TransactionID{}) || !got.Options.ClientID().Equal(duidOf(1)) || got.Options.ServerID() == nil {
			t.Errorf("it is %s", got.Summary())
		}
		if o := got.GetOneOption(dhcp6.OptionReconfMessage); o == nil || len(o.ToBytes()) != 1 || o.ToBytes()[0] != byte(dhcp6.MessageTypeRenew) {
			t.Errorf("it asks for %v", o)
		}
		if count <= last {
			t.Errorf("replay detection %d after %d", count, last)
		}
		last = count
	}
	if _, ok := r.Renew(duidOf(7).ToBytes(), l.now); ok {
		t.Error("a stranger is told to renew")
	}
}

func TestWhoDoesNotAcceptIsNotTold(t *testing.T) {
	l, r := newReconfigureLab(t)
	rep := l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1)))
	if rep.GetOneOption(dhcp6.OptionReconfAccept) != nil || keyOf(t, rep) != nil {
		t.Errorf("a Reply: %s", rep.Summary())
	}
	// Nor is who is not authenticated.
	rep = l.ask(msg(dhcp6.MessageTypeRequest, 9, toServer(), iana1(1), accepts()))
	if keyOf(t, rep) != nil {
		t.Errorf("a stranger gets a key: %s", rep.Summary())
	}
	for _, n := range []byte{1, 9} {
		if _, ok := r.Renew(duidOf(n).ToBytes(), l.now); ok {
			t.Errorf("client %d is told to renew", n)
		}
	}
	l.dropped(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionReconfAccept, OptionData: []byte{1}}), DropMalformed)
}

// Behind relays the message goes the way that a Reply would, without what relays say of the
// subscriber.
func TestReconfigureGoesBackThroughRelays(t *testing.T) {
	l, r := newReconfigureLab(t)
	m := msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), accepts())
	inner, err := dhcp6.EncapsulateRelay(m, dhcp6.MessageTypeRelayForward, netip.MustParseAddr("2001:db8:3::1").AsSlice(), linkLocal.AsSlice())
	if err != nil {
		t.Fatal(err)
	}
	inner.AddOption(dhcp6.OptInterfaceID([]byte("port 7")))
	inner.AddOption(&dhcp6.OptionGeneric{OptionCode: dhcp6.OptionRelayAgentSubscriberID, OptionData: []byte("line-7")})
	inner.AddOption(&dhcp6.OptionGeneric{OptionCode: dhcp6.OptionEchoRequest, OptionData: []byte{0, 38}})
	if _, _, drop := l.h.Handle(l.now, &Packet{Data: inner.ToBytes(), Src: netip.AddrPortFrom(relayAddr, 547)}, nil); drop != 0 {
		t.Fatal(drop)
	}
	got, ok := r.Renew(duidOf(1).ToBytes(), l.now.Add(time.Minute))
	if !ok || got.To.String() != "["+relayAddr.String()+"]:547" {
		t.Fatalf("%v, to %s", ok, got.To)
	}
	outer, err := dhcp6.RelayMessageFromBytes(got.Data)
	if err != nil {
		t.Fatal(err)
	}
	if outer.MessageType != dhcp6.MessageTypeRelayReply || string(outer.Options.InterfaceID()) != "port 7" || outer.PeerAddr.String() != linkLocal.String() || outer.GetOneOption(dhcp6.OptionRelayAgentSubscriberID) != nil {
		t.Errorf("the relay gets %s", outer.Summary())
	}
	key := r.key(duidOf(1).ToBytes())
	verify(t, outer.Options.RelayMessage().ToBytes(), key[:])
}

func TestPathsAreBounded(t *testing.T) {
	r := NewReconfigurer([]byte("x"), serverID)
	for i := range maxPaths + 1000 {
		r.note(binary.BigEndian.AppendUint32([]byte{0, 3}, uint32(i)), &path{})
	}
	if len(r.paths) != maxPaths {
		t.Errorf("%d paths are kept", len(r.paths))
	}
}
