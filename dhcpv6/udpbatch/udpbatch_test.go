package udpbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var loopback = netip.IPv6Loopback()

// open returns a socket and the address that others reach it at.
func open(t testing.TB) (*Conn, netip.AddrPort) {
	t.Helper()
	conns, err := Listen(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conns[0].Close() })
	c, err := New(conns[0])
	if err != nil {
		t.Fatal(err)
	}
	return c, netip.AddrPortFrom(loopback, uint16(conns[0].LocalAddr().(*net.UDPAddr).Port))
}

// read reads until there are so many datagrams, and keeps them.
func read(t testing.TB, c *Conn, count int) (out []Message) {
	t.Helper()
	r := c.NewReader(16, 2048)
	if err := c.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for len(out) < count {
		msgs, err := r.Read()
		if err != nil {
			t.Fatalf("%v after %d of %d datagrams", err, len(out), count)
		}
		for _, m := range msgs {
			m.Data = bytes.Clone(m.Data)
			out = append(out, m)
		}
	}
	return out
}

// Poll returns at once where nothing is to be read, and otherwise what Read would; then a Read waits as before,
// and one that ended by its deadline is no hindrance to the next.
func TestPollDoesNotWait(t *testing.T) {
	from, _ := open(t)
	to, peer := open(t)
	r := to.NewReader(4, 2048)
	poll := func() []Message {
		t.Helper()
		began := time.Now()
		msgs, err := r.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("Poll took %s", took)
		}
		return msgs
	}
	if err := to.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil { // of a Poll that waits
		t.Fatal(err)
	}
	if msgs := poll(); len(msgs) != 0 {
		t.Fatalf("%d datagrams of none", len(msgs))
	}
	if err := from.NewWriter().Write([]Message{{Data: []byte("here"), Peer: peer}}, fatal(t)); err != nil {
		t.Fatal(err)
	}
	if msgs := poll(); len(msgs) != 1 || string(msgs[0].Data) != "here" {
		t.Fatalf("%v, want what was sent", msgs)
	}
	if msgs := poll(); len(msgs) != 0 {
		t.Fatalf("%d datagrams a second time", len(msgs))
	}
	if err := to.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read of nothing: %v", err)
	}
	if err := from.NewWriter().Write([]Message{{Data: []byte("later"), Peer: peer}}, fatal(t)); err != nil {
		t.Fatal(err)
	}
	if err := to.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if msgs, err := r.Read(); err != nil || len(msgs) != 1 || string(msgs[0].Data) != "later" {
		t.Fatalf("%v, %v, want what came after it", msgs, err)
	}
}

func fatal(t testing.TB) func(*Message, error) {
	return func(m *Message, err error) { t.Helper(); t.Errorf("to %s: %v", m.Peer, err) }
}

// Datagrams of many lengths to several peers arrive as they were, those to one peer of one length in
// their order, however many of them the kernel is given as one.
func TestWhatIsWrittenIsRead(t *testing.T) {
	from, fromAddr := open(t)
	for _, whole := range []bool{false, true} {
		from.whole.Store(whole)
		var to [3]*Conn
		var peers [3]netip.AddrPort
		for i := range to {
			to[i], peers[i] = open(t)
		}
		lengths := []int{1, 90, 90, 90, 1232, 1233, 1400, 17}
		var msgs []Message
		want := make(map[string]int)
		for i := range 400 {
			data := bytes.Repeat([]byte{byte(i)}, lengths[(i/3)%len(lengths)])
			msgs = append(msgs, Message{Data: data, Peer: peers[i%3]})
			want[fmt.Sprintf("%d %x", i%3, data)]++
		}
		if err := from.NewWriter().Write(msgs, fatal(t)); err != nil {
			t.Fatal(err)
		}
		last := make(map[string]byte)
		for i, c := range to {
			for _, m := range read(t, c, (len(msgs)+2-i)/3) {
				if m.Peer != fromAddr || m.Local != loopback || m.Interface == 0 || m.Truncated {
					t.Fatalf("came as %+v", m)
				}
				want[fmt.Sprintf("%d %x", i, m.Data)]--
				way := fmt.Sprint(i, len(m.Data))
				if before, ok := last[way]; ok && m.Data[0] < before && before-m.Data[0] < 128 {
					t.Errorf("to %d, %d bytes: %d came after %d", i, len(m.Data), m.Data[0], before)
				}
				last[way] = m.Data[0]
			}
		}
		for data, n := range want {
			if n != 0 {
				t.Errorf("%.20s…: %d too few", data, n)
			}
		}
		if from.whole.Load() != whole {
			t.Error("the kernel refused to cut datagrams up")
		}
	}
}

// Those that the kernel refuses are told of, and the others go.
func TestWhatIsRefusedIsTold(t *testing.T) {
	from, _ := open(t)
	to, peer := open(t)
	bad := netip.MustParseAddr("2001:db8::1") // not an address of this machine to send from
	var msgs []Message
	for i := range 30 {
		m := Message{Data: []byte{byte(i), 1, 2}, Peer: peer}
		if i%3 == 0 {
			m.Local = bad
		}
		msgs = append(msgs, m)
	}
	var refused []byte
	err := from.NewWriter().Write(msgs, func(m *Message, err error) {
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("%d: %v", m.Data[0], err)
		}
		refused = append(refused, m.Data[0])
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(refused) != 10 {
		t.Errorf("refused: %v", refused)
	}
	for _, m := range read(t, to, 20) {
		if m.Data[0]%3 == 0 {
			t.Errorf("%d arrived", m.Data[0])
		}
	}
}

func TestALongDatagramIsTruncated(t *testing.T) {
	from, _ := open(t)
	to, peer := open(t)
	if err := from.NewWriter().Write([]Message{{Data: make([]byte, 3000), Peer: peer, Local: loopback}}, fatal(t)); err != nil {
		t.Fatal(err)
	}
	if m := read(t, to, 1)[0]; !m.Truncated || len(m.Data) != 2048 {
		t.Errorf("%d bytes, truncated: %v", len(m.Data), m.Truncated)
	}
}

// Sockets of one call share a port, and each peer's datagrams come to one of them; another call
// does not get in, and neither does a program that shares the port with nobody.
func TestListen(t *testing.T) {
	const sockets, peers = 4, 64
	conns, err := Listen(0, sockets)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	addr := conns[0].LocalAddr().(*net.UDPAddr)
	if more, err := Listen(addr.Port, 1); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("listening again: %v, %v", more, err)
	}
	to := netip.AddrPortFrom(loopback, uint16(addr.Port))
	for range peers {
		c, _ := open(t)
		w := c.NewWriter()
		for range 3 {
			if err := w.Write([]Message{{Data: []byte("x"), Peer: to}}, fatal(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	heard := make(map[netip.AddrPort]int)
	all, used := 0, 0
	for _, udp := range conns {
		c, err := New(udp)
		if err != nil {
			t.Fatal(err)
		}
		r := c.NewReader(4*peers, 64)
		if err := udp.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		here := make(map[netip.AddrPort]bool)
		for {
			msgs, err := r.Read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range msgs {
				all++
				if !here[m.Peer] {
					here[m.Peer] = true
					heard[m.Peer]++
				}
			}
		}
		if len(here) > 0 {
			used++
		}
	}
	if all != 3*peers || len(heard) != peers || used < 2 {
		t.Errorf("%d datagrams of %d peers came to %d sockets", all, len(heard), used)
	}
	for p, n := range heard {
		if n != 1 {
			t.Errorf("datagrams of %s came to %d sockets", p, n)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	from, _ := open(t)
	to, peer := open(t)
	w, r := from.NewWriter(), to.NewReader(64, 2048)
	msgs := make([]Message, 32)
	for i := range msgs {
		msgs[i] = Message{Data: make([]byte, 100+i%2), Peer: peer}
	}
	refused := fatal(t)
	if allocs := testing.AllocsPerRun(100, func() {
		if err := w.Write(msgs, refused); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(msgs); {
			got, err := r.Read()
			if err != nil {
				t.Fatal(err)
			}
			n += len(got)
		}
	}); allocs > 0 {
		t.Errorf("%.0f allocations for %d datagrams", allocs, len(msgs))
	}
}

// Datagrams that the kernel hands over as one are read as they were, and none twice, however few are
// asked for at a time; only one that is too long is truncated.
func TestWhatComesAsOneIsCut(t *testing.T) {
	from, _ := open(t)
	to, peer := open(t)
	var want [][]byte
	for i := range 61 { // the last is shorter
		want = append(want, bytes.Repeat([]byte{byte(i)}, 200-i/60))
	}
	r := to.NewReader(7, 199)
	for round := range 3 {
		if _, _, err := from.conn.WriteMsgUDPAddrPort(bytes.Join(want, nil), appendSegment(nil, 200), peer); err != nil {
			t.Fatal(err)
		}
		if err := to.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		reads := 0
		for n := 0; n < len(want); reads++ {
			got, err := r.Read()
			if err != nil || len(got) == 0 || len(got) > 7 {
				t.Fatalf("%d datagrams: %v", len(got), err)
			}
			for _, m := range got {
				if w := want[n][:199]; !bytes.Equal(m.Data, w) || m.Truncated != (len(want[n]) > 199) || m.Local != loopback || cap(m.Data) > 200 {
					t.Fatalf("round %d, datagram %d: %d bytes of %d, truncated: %v", round, n, len(m.Data), m.Data[0], m.Truncated)
				}
				n++
			}
			if reads == 0 && r.n != 1 {
				t.Fatalf("the kernel handed over %d: there is nothing to cut", r.n)
			}
		}
		if msgs, err := r.Poll(); err != nil || len(msgs) > 0 {
			t.Fatalf("%d more: %v", len(msgs), err)
		}
	}
}

// A socket that has each datagram by itself sends and reads as many messages as datagrams.
func TestSingly(t *testing.T) {
	from, _ := open(t)
	to, peer := open(t)
	msgs := []Message{{Data: []byte("one"), Peer: peer}, {Data: []byte("two"), Peer: peer}}
	r := to.NewReader(4, 2048)
	for _, c := range []struct {
		singly *Conn // from this round on
		want   int   // of the kernel's messages for two datagrams
	}{{nil, 1}, {from, 2}, {to, 2}} {
		if c.singly != nil {
			if err := c.singly.Singly(); err != nil {
				t.Fatal(err)
			}
		}
		if c.singly == to { // and a sender that joins them does not change that
			from.whole.Store(false)
		}
		if err := from.NewWriter().Write(msgs, fatal(t)); err != nil {
			t.Fatal(err)
		}
		if err := to.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got, err := r.Read()
		if err != nil || len(got) != 2 || string(got[0].Data) != "one" || string(got[1].Data) != "two" || r.n != c.want {
			t.Errorf("%v in %d, %v; want two in %d", got, r.n, err, c.want)
		}
	}
}

// A datagram is stamped with the time at which it came, not at which it is read, whether it came as one with
// others or not, and not once that is no longer asked for.
func TestStamp(t *testing.T) {
	from, _ := open(t)
	to, addr := open(t)
	msgs := []Message{{Data: []byte("one"), Peer: addr}, {Data: []byte("two"), Peer: addr}}
	const unread = 20 * time.Millisecond
	for _, c := range []struct{ on, singly bool }{{true, false}, {true, true}, {false, true}} {
		if err := to.Stamp(c.on); err != nil {
			t.Fatal(err)
		}
		if c.singly {
			if err := from.Singly(); err != nil {
				t.Fatal(err)
			}
		}
		var wrong error
		for range 20 { // since the kernel begins a moment later
			before := time.Now().UnixNano()
			if err := from.NewWriter().Write(msgs, fatal(t)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(unread)
			reading := time.Now().UnixNano()
			wrong = nil
			for _, m := range read(t, to, len(msgs)) {
				if !c.on && m.Received != 0 || c.on && (m.Received < before || m.Received >= reading) {
					wrong = fmt.Errorf("received at %d, sent after %d, read after %d", m.Received, before, reading)
				}
			}
			if wrong == nil {
				break
			}
		}
		if wrong != nil {
			t.Errorf("stamped %t, singly %t: %v", c.on, c.singly, wrong)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(appendPktInfo(nil, loopback, 7))
	f.Add(appendGRO(appendPktInfo(nil, netip.Addr{}, 1), 90))
	f.Add(append(appendGRO(nil, 90), appendPktInfo(nil, loopback, 7)...))
	f.Add(appendStamp(appendPktInfo(nil, loopback, 7), 1_700_000_000_123_456_789))
	f.Fuzz(func(t *testing.T, oob []byte) {
		dst, index, length, _ := parseControl(oob)
		if !dst.IsValid() && index != 0 || length < 0 || length > 65535 {
			t.Errorf("%v, %d, %d", dst, index, length)
		}
	})
}

// appendGRO says, as the kernel does, how long each datagram is of those that came as one.
func appendGRO(b []byte, length int) []byte {
	b = binary.NativeEndian.AppendUint64(b, cmsgHeader+4)
	b = binary.NativeEndian.AppendUint32(b, unix.IPPROTO_UDP)
	b = binary.NativeEndian.AppendUint32(b, unix.UDP_GRO)
	b = binary.NativeEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, 0)
}

// appendStamp says, as the kernel does, when a datagram came.
func appendStamp(b []byte, at int64) []byte {
	b = binary.NativeEndian.AppendUint64(b, cmsgHeader+stampLen)
	b = binary.NativeEndian.AppendUint32(b, unix.SOL_SOCKET)
	b = binary.NativeEndian.AppendUint32(b, unix.SO_TIMESTAMPNS)
	b = binary.NativeEndian.AppendUint64(b, uint64(at/1e9))
	return binary.NativeEndian.AppendUint64(b, uint64(at%1e9))
}

func TestParseControl(t *testing.T) {
	for name, c := range map[string]struct {
		oob  []byte
		want int
		at   int64
	}{
		"alone":          {appendPktInfo(nil, loopback, 7), 0, 0},
		"several":        {append(appendGRO(nil, 90), appendPktInfo(nil, loopback, 7)...), 90, 0},
		"behind another": {append(appendSegment(nil, 90), appendPktInfo(nil, loopback, 7)...), 0, 0},
		"stamped":        {append(appendStamp(nil, 1_700_000_000_123_456_789), appendPktInfo(nil, loopback, 7)...), 0, 1_700_000_000_123_456_789},
	} {
		if dst, index, length, at := parseControl(c.oob); dst != loopback || index != 7 || length != c.want || at != c.at {
			t.Errorf("%s: %v, %d, %d, %d", name, dst, index, length, at)
		}
		if dst, _, _, _ := parseControl(c.oob[:len(c.oob)-10]); dst.IsValid() {
			t.Errorf("%s, cut: %v", name, dst)
		}
	}
}
