package dhcpv6

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/lease"
)

// said is what a message says, as far as the server acts on it; two decoders read it.
type said struct {
	Hops               []string
	Type               dhcp6.MessageType
	XID                [3]byte
	Client, Server     string
	Requested          []byte
	Rapid, Reconfigure bool
	IAs                []string
}

func (s *said) ia(pd bool, iaid uint32, addrs []netip.Addr, prefixes []netip.Prefix) {
	s.IAs = append(s.IAs, fmt.Sprint(pd, iaid, addrs, prefixes))
}

// ours is what wire.go and relay.go read. clean is the same message with nothing but what
// they have read in it.
func ours(b []byte) (s *said, clean []byte, err error) {
	hops, inner, err := unwrap(nil, b, linkLocal)
	if err != nil {
		return nil, nil, err
	}
	var m message
	if err := m.parse(inner); err != nil {
		return nil, nil, err
	}
	s = &said{Type: m.typ, XID: m.xid, Client: string(m.clientID), Server: string(m.serverID), Requested: bytes.Clone(m.oro), Rapid: m.rapid, Reconfigure: m.reconfigure}
	w := builder{append([]byte{byte(m.typ)}, m.xid[:]...)}
	// A DUID of a type that nobody has is read by all alike.
	if m.clientID != nil {
		w.option(dhcp6.OptionClientID, append([]byte{0xff, 0xff}, m.clientID...))
	}
	if m.serverID != nil {
		w.option(dhcp6.OptionServerID, append([]byte{0xff, 0xff}, m.serverID...))
	}
	if m.oro != nil {
		w.option(dhcp6.OptionORO, m.oro)
	}
	if m.rapid {
		w.option(dhcp6.OptionRapidCommit, nil)
	}
	if m.reconfigure {
		w.option(dhcp6.OptionReconfAccept, nil)
	}
	for i := range m.ias {
		a := &m.ias[i]
		s.ia(a.pd, a.iaid, a.addrs, a.prefixes)
		start := w.openIA(a, 0, 0)
		for _, addr := range a.addrs {
			w.iaAddr(addr, 0, 0)
		}
		for _, p := range a.prefixes {
			w.iaPrefix(p, netip.Prefix{}, 0, 0)
		}
		w.close(start)
	}
	clean = w.b
	for i := len(hops) - 1; i >= 0; i-- {
		h := &hops[i]
		s.Hops = append(s.Hops, fmt.Sprint(h.link(), h.peer(), h.relay.InterfaceID))
		w := builder{bytes.Clone(h.header)}
		if h.relay.InterfaceID != nil {
			w.option(dhcp6.OptionInterfaceID, h.relay.InterfaceID)
		}
		w.option(dhcp6.OptionRelayMsg, clean)
		clean = w.b
	}
	return s, clean, nil
}

// theirs is what insomniacslk/dhcp reads.
func theirs(b []byte) (s *said, stricter string, err error) {
	d, err := dhcp6.FromBytes(b)
	if err != nil {
		return nil, "", err
	}
	s = new(said)
	n := 0
	for ; d.IsRelay(); n++ {
		r := d.(*dhcp6.RelayMessage)
		if r.MessageType != dhcp6.MessageTypeRelayForward {
			return nil, "", errors.New("for a relay")
		}
		link, _ := netip.AddrFromSlice(r.LinkAddr)
		peer, _ := netip.AddrFromSlice(r.PeerAddr)
		s.Hops = append([]string{fmt.Sprint(link, peer, r.Options.InterfaceID())}, s.Hops...)
		for _, code := range []dhcp6.OptionCode{dhcp6.OptionRelayMsg, dhcp6.OptionInterfaceID, dhcp6.OptionRemoteID, dhcp6.OptionRelayAgentSubscriberID,
			dhcp6.OptionClientLinkLayerAddr, optionRADIUS, dhcp6.OptionEchoRequest, dhcp6.OptionRelayID} {
			if len(r.Options.Get(code)) > 1 {
				stricter = "a relay's option twice"
			}
		}
		if o := r.Options.GetOne(dhcp6.OptionEchoRequest); o != nil && len(o.ToBytes())%2 != 0 {
			stricter = "half a code"
		}
		if d = r.Options.RelayMessage(); d == nil {
			return nil, "", errors.New("nothing relayed")
		}
	}
	if n > maxHops {
		stricter = "hops"
	}
	m := d.(*dhcp6.Message)
	s.Type, s.XID = m.MessageType, m.TransactionID
	for code, dst := range map[dhcp6.OptionCode]*string{dhcp6.OptionClientID: &s.Client, dhcp6.OptionServerID: &s.Server} {
		all := m.Options.Get(code)
		if len(all) == 0 {
			continue
		}
		*dst = string(all[0].ToBytes())
		if n := len(*dst); len(all) > 1 || n < 3 || n > lease.MaxDUIDLen {
			stricter = "a DUID twice, or of no DUID's size"
		}
	}
	if all := m.Options.Get(dhcp6.OptionORO); len(all) > 0 {
		s.Requested = all[0].ToBytes()
		if len(all) > 1 {
			stricter = "an Option Request twice"
		}
	}
	empty := func(code dhcp6.OptionCode) bool {
		all := m.Options.Get(code)
		for _, o := range all {
			if len(o.ToBytes()) > 0 {
				stricter = "data in an option that has none"
			}
		}
		return len(all) > 0
	}
	s.Rapid, s.Reconfigure = empty(dhcp6.OptionRapidCommit), empty(dhcp6.OptionReconfAccept)
	if len(m.Options.Get(dhcp6.OptionVendorOpts)) > maxVendors {
		stricter = "vendors"
	}
	seen := make(map[string]bool)
	count := make(map[bool]int)
	for _, o := range m.Options.Options {
		var addrs []netip.Addr
		var prefixes []netip.Prefix
		pd, iaid, parts := false, uint32(0), 0
		switch ia := o.(type) {
		case *dhcp6.OptIANA:
			iaid = binary.BigEndian.Uint32(ia.IaId[:])
			for _, a := range ia.Options.Addresses() {
				addr, _ := netip.AddrFromSlice(a.IPv6Addr)
				addrs, parts = append(addrs, addr), parts+1
			}
		case *dhcp6.OptIAPD:
			pd, iaid = true, binary.BigEndian.Uint32(ia.IaId[:])
			for _, p := range ia.Options.Prefixes() {
				parts++
				if p.Prefix == nil {
					continue
				}
				addr, _ := netip.AddrFromSlice(p.Prefix.IP)
				bits, size := p.Prefix.Mask.Size()
				if size != 128 {
					stricter = "a prefix longer than an address"
					continue
				}
				if prefix := netip.PrefixFrom(addr, bits).Masked(); !prefix.Addr().IsUnspecified() {
					prefixes = append(prefixes, prefix)
				}
			}
		default:
			continue
		}
		s.ia(pd, iaid, addrs, prefixes)
		id := fmt.Sprint(pd, iaid)
		if count[pd]++; seen[id] || count[pd] > maxIAs || parts > maxAddrs {
			stricter = "an IA twice, or too many of something"
		}
		seen[id] = true
	}
	return s, stricter, nil
}

// once are the codes of an Option Request, each once: the library leaves out those that come
// again.
func once(codes []byte) (out []byte) {
	seen := make(map[[2]byte]bool)
	for ; len(codes) >= 2; codes = codes[2:] {
		if code := [2]byte(codes); !seen[code] {
			seen[code] = true
			out = append(out, code[:]...)
		}
	}
	return out
}

// agree checks that both decoders read the same of a message, or know why one refuses it.
func agree(t *testing.T, b []byte) (both bool) {
	t.Helper()
	is, clean, err1 := ours(b)
	want, stricter, err2 := theirs(b)
	switch {
	case err1 != nil && err2 != nil, err1 == nil && is.Type == dhcp6.MessageTypeRelayReply: // which the server drops for its type
		return false
	case err1 != nil:
		if stricter == "" {
			t.Errorf("%x: refused (%v), and reads as %+v", b, err1, want)
		}
		return false
	case err2 != nil:
		// What the server does not use may be malformed. The rest must read the same.
		if want, _, err2 = theirs(clean); err2 != nil {
			t.Errorf("%x reads as %+v; without what is of no use, %x, it is refused: %v", b, is, clean, err2)
			return false
		}
		want.Client, want.Server = strings.TrimPrefix(want.Client, "\xff\xff"), strings.TrimPrefix(want.Server, "\xff\xff")
	}
	is.Requested, want.Requested = once(is.Requested), once(want.Requested)
	if got, want := fmt.Sprintf("%+v", is), fmt.Sprintf("%+v", want); got != want {
		t.Errorf("%x\nreads as %s\n    want %s", b, got, want)
	}
	return err2 == nil
}

// corpus are all byte strings that the library's own tests have, and messages made of each.
func corpus(t testing.TB) (all [][]byte) {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/insomniacslk/dhcp").Output()
	if err != nil {
		t.Fatalf("where the library is: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "dhcpv6", "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the library's tests: %v, %v", files, err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			var b []byte
			for _, e := range lit.Elts {
				x, ok := e.(*ast.BasicLit)
				if !ok {
					return true
				}
				switch x.Kind {
				case token.INT:
					v, err := strconv.ParseUint(x.Value, 0, 8)
					if err != nil {
						return true
					}
					b = append(b, byte(v))
				case token.CHAR:
					v, err := strconv.Unquote(x.Value)
					if err != nil || len(v) != 1 {
						return true
					}
					b = append(b, v[0])
				default:
					return true
				}
			}
			if len(b) < 3 {
				return true
			}
			all = append(all, b)
			return true
		})
	}
	if len(all) < 150 {
		t.Fatalf("%d byte strings in the library's tests; are they written otherwise now?", len(all))
	}
	for _, b := range slices.Clone(all) {
		header := []byte{byte(dhcp6.MessageTypeSolicit), 1, 2, 3}
		all = append(all, append(slices.Clone(header), b...)) // options
		if len(b) > 1<<12 {
			continue
		}
		for _, code := range []dhcp6.OptionCode{dhcp6.OptionClientID, dhcp6.OptionServerID, dhcp6.OptionORO, dhcp6.OptionIANA, dhcp6.OptionIAPD, dhcp6.OptionRapidCommit, dhcp6.OptionReconfAccept, dhcp6.OptionVendorOpts, dhcp6.OptionIAAddr} {
			w := builder{slices.Clone(header)}
			w.option(code, b)
			all = append(all, w.b)
		}
		for i, code := range []dhcp6.OptionCode{dhcp6.OptionIANA, dhcp6.OptionIAPD} { // within an IA, and within what is in it
			w := builder{slices.Clone(header)}
			start := w.openIA(&ia{iaid: 7, pd: i == 1}, 1, 2)
			w.b = append(w.b, b...)
			w.close(start)
			all = append(all, w.b)
			w = builder{slices.Clone(header)}
			start = w.open(code)
			w.b = append(w.b, make([]byte, 12)...)
			w.option([]dhcp6.OptionCode{dhcp6.OptionIAAddr, dhcp6.OptionIAPrefix}[i], b)
			w.close(start)
			all = append(all, w.b)
		}
		w := builder{append([]byte{byte(dhcp6.MessageTypeRelayForward), 0}, make([]byte, 32)...)}
		w.option(dhcp6.OptionInterfaceID, []byte("port"))
		w.option(dhcp6.OptionRelayMsg, b)
		all = append(all, w.b)
	}
	return all
}

// The decoder on the hot path reads what the library reads, of everything in the library's
// own tests, whole and as part of messages.
func TestBothDecodersAgreeOnTheLibrarysCorpus(t *testing.T) {
	all := corpus(t)
	both := 0
	for _, b := range all {
		if agree(t, b) {
			both++
		}
	}
	if both < len(all)/10 {
		t.Errorf("both read %d of %d; the test shows little", both, len(all))
	}
	t.Logf("both read %d of %d", both, len(all))
}

// So they do of messages that are made at random, and of those with bytes changed, cut out
// and doubled.
func TestBothDecodersAgreeOnMutations(t *testing.T) {
	all := corpus(t)
	rng := rand.New(rand.NewPCG(1, 2))
	both := 0
	const n = 50000
	for range n {
		b := slices.Clone(all[rng.IntN(len(all))])
		for range 1 + rng.IntN(3) {
			at := rng.IntN(len(b))
			switch rng.IntN(4) {
			case 0:
				b[at] = byte(rng.Uint32())
			case 1:
				b[at] ^= 1 << rng.IntN(8)
			case 2:
				b = append(b[:at:at], b[min(len(b), at+1+rng.IntN(4)):]...)
			case 3:
				other := all[rng.IntN(len(all))]
				b = append(b[:at:at], other[rng.IntN(len(other)):]...)
			}
			if len(b) == 0 {
				b = []byte{0}
			}
		}
		if agree(t, b) {
			both++
		}
		if t.Failed() {
			return
		}
	}
	if both < n/50 {
		t.Errorf("both read %d of %d; the test shows little", both, n)
	}
	t.Logf("both read %d of %d", both, n)
}

func FuzzDecodersAgree(f *testing.F) {
	for _, b := range corpus(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}
