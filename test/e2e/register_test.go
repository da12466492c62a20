//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// A host that made an address itself tells the server of it (RFC 9686; no client of Debian
// 12 does yet): the reverse zone knows it, filters are told of it, and a warrant finds
// whose it was, also after it ended.
func TestARegisteredAddressIsTraced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{DHCPv6: "register-addresses = true\n"})
	w.must(w.Zone())
	_, eid := w.attach("direct")
	w.must(w.Serve())
	own := netip.MustParseAddr("2001:db8:1::abcd")
	w.must(w.client.Do("ip", "address", "add", own.String()+"/64", "dev", "eth0", "nodad"))
	conn, err := w.client.ListenUDP(netip.AddrPortFrom(own, 546))
	w.must(err)
	defer conn.Close()
	index := 0
	w.must(w.client.Enter(func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			index = i.Index
		}
		return err
	}))
	inform := func(xid byte, valid uint32) {
		t.Helper()
		mac, err := net.ParseMAC(clientMAC)
		w.must(err)
		m := append([]byte{36, 0, 0, xid, 0, 1, 0, 10, 0, 3, 0, 1}, mac...)
		m = append(m, 0, 5, 0, 24)
		m = append(m, own.AsSlice()...)
		m = binary.BigEndian.AppendUint32(m, valid)
		m = binary.BigEndian.AppendUint32(m, valid)
		_, err = conn.WriteToUDP(m, &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547, Zone: fmt.Sprint(index)})
		w.must(err)
		w.must(conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
		b := make([]byte, 1500)
		n, _, err := conn.ReadFromUDPAddrPort(b)
		w.must(err)
		if want := slices.Concat([]byte{37, 0, 0, xid}, m[18:]); !slices.Equal(b[:n], want) {
			t.Fatalf("the answer is %x, want %x", b[:n], want)
		}
	}
	dig := func() string {
		out, err := w.Host.Output("dig", "@"+netlab.ServerAddr, "-x", own.String(), "+time=3")
		w.must(err)
		return out
	}
	if out := dig(); !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("before it was registered:\n%s", out)
	}
	inform(1, 3600)
	first := w.lease(own, func(l netlab.Lease) bool { return l.State == "registered" })
	if out := dig(); !strings.Contains(out, "NOERROR") || !strings.Contains(out, "PTR") {
		t.Errorf("while it is registered:\n%s", out)
	}
	time.Sleep(time.Second)
	inform(2, 7200)
	w.lease(own, func(l netlab.Lease) bool { return l.ValidUntil.After(first.ValidUntil) && l.Start.Equal(first.Start) })
	time.Sleep(time.Second)
	inform(3, 0)
	w.lease(own, func(l netlab.Lease) bool { return l.State == "expired" })
	if out := dig(); !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("after its end:\n%s", out)
	}
	got, err := w.Trace("trace", own, first.Start)
	w.must(err)
	if !slices.Equal(got, []string{eid}) {
		t.Errorf("the trace gives %q, want %q", got, eid)
	}
}
