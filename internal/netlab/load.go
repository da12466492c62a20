package netlab

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"brightgid/dhcpv6/udpbatch"
)

// Enter calls f in the network namespace, on a thread that no other goroutine
// uses meanwhile. Sockets that f opens stay in the namespace whoever uses them;
// goroutines that f starts run outside it.
func (n *Namespace) Enter(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		there, err := os.Open("/var/run/netns/" + n.Name)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			err = f()
		}
		// The thread goes home: the one that the process began with does not
		// end with its goroutine, and where it is, is where the process is said
		// to be by "ip netns pids". One that cannot go home stays locked.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} else {
			err = errors.Join(err, back)
		}
		if err != nil {
			err = fmt.Errorf("in namespace %s: %w", n.Name, err)
		}
		done <- err
	}()
	return <-done
}

// ListenUDP opens a UDP socket in the namespace.
func (n *Namespace) ListenUDP(addr netip.AddrPort) (conn *net.UDPConn, err error) {
	err = n.Enter(func() error {
		if conn, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(addr)); err != nil {
			return err
		}
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		const buffer = 8 << 20 // for what many clients are sent at once
		failed := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
		})
		return errors.Join(failed, err)
	})
	return conn, err
}

// Kind is what the clients of a load do.
type Kind string

// The kinds. Renew is of clients that have gone through a load before, whose answers its
// Result kept.
const (
	FourMessages Kind = "four-messages" // Solicit, Advertise, Request, Reply
	RapidCommit  Kind = "rapid-commit"  // Solicit, Reply
	Renew        Kind = "renew"         // Renew, Reply
	Delegation   Kind = "delegation"    // as FourMessages, with an IA_PD beside the IA_NA
)

// Kinds are all of them.
var Kinds = []Kind{FourMessages, RapidCommit, Renew, Delegation}

// Load makes DHCPv6 clients behind one relay go through exchanges. It speaks to the server
// as the relay does, and names each client by an Interface-ID of its own.
type Load struct {
	Kind Kind // FourMessages if empty
	Rate int  // exchanges begun a second (an open loop); 0: as many as are open (a closed one)

	// Known are what a load before has kept, by which Renew asks.
	Known map[uint32]Held
	// Keep has the result keep what clients hold, and the load end with an error when two
	// hold the same, or one that renews gets no more what it had.
	Keep bool

	Conn   *net.UDPConn   // where the relay speaks from
	Server netip.AddrPort // whom it speaks to

	// Others are servers that clients speak to as well: each message goes to the one after
	// the one that the message before went to.
	Others []netip.AddrPort

	Link  netip.Addr // link-address
	Open  int        // exchanges that are open at once
	First uint32     // number of the first client
	Total int        // exchanges to do
	// Clients is how many there are, of whom each is open once at a time: they come one after the other, again and again.
	// 0: as many as exchanges.
	Clients int
	Retry   time.Duration // after which an unanswered message is sent again; 0: a second

	// Singly has the relay's system send and take each datagram by itself, instead of as one packet those
	// that leave or come together.
	Singly bool

	// Rests has an open loop rest where nothing is to be read, instead of looking without pause. A virtual machine
	// may have no more processor time in a tenth of a second than its processors have, and what its disk takes
	// counts: beside a server that has the disk sync, a load without pause has all of it stand still for the rest
	// of that. What comes while it rests is read up to a quarter of a millisecond late, which is in Result.Latency
	// and not in Result.Delay.
	Rests bool

	// Acked, if set, is called with the address of each Reply.
	Acked func(client uint32, addr netip.Addr)

	// Stop, when it is closed, ends the load; it may be nil.
	Stop <-chan struct{}
}

// Result is what a load measured.
type Result struct {
	Exchanges int
	Elapsed   time.Duration
	Resent    int
	Refused   int // exchanges that ended without an address
	Latency   []time.Duration
	Late      []time.Duration // how late the exchanges of an open loop began, which is the load's own fault
	// Delay is, of each exchange of an open loop, for how long its messages were with the server or on their way: from
	// when each was handed to the kernel, the first time if it was sent again, until the kernel had the answer. What the
	// load itself takes to begin an exchange, to read an answer and to ask on is in Latency only.
	Delay []time.Duration
	Held  map[uint32]Held // by client, if the load keeps it
	// RequestSize and ReplySize are the lengths in bytes of the UDP payloads.
	RequestSize, ReplySize int
}

// Held is what a client holds.
type Held struct {
	Server []byte // DUID
	IA     []byte // data of the IA_NA
	PD     []byte // data of the IA_PD; nil without
}

// Percentile returns a latency of all exchanges; p is 0 to 1.
func (r *Result) Percentile(p float64) time.Duration { return percentile(r.Latency, p) }

// LatePercentile is Percentile of how late exchanges began.
func (r *Result) LatePercentile(p float64) time.Duration { return percentile(r.Late, p) }

// DelayPercentile is Percentile of delays.
func (r *Result) DelayPercentile(p float64) time.Duration { return percentile(r.Delay, p) }

func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(p*float64(len(all))), len(all)-1)]
}

// client is one exchange under way.
type client struct {
	number  uint32
	xid     uint32
	request []byte // what was sent last
	started time.Time
	sent    time.Time
	left    int64         // when request was handed to the kernel first, in nanoseconds since 1970; 0: not yet
	delay   time.Duration // of the messages before
}

// ErrStopped ends a load that was asked to stop.
var ErrStopped = errors.New("the load was stopped")

// rest is how long an open loop rests, to which the kernel adds up to 50 µs (prctl(2)'s timer slack); see
// [Load.Rests].
const rest = 200 * time.Microsecond

// resting is r.Poll that rests and looks again where nothing is to be read.
func resting(r *udpbatch.Reader) func() ([]udpbatch.Message, error) {
	wait := unix.NsecToTimespec(rest.Nanoseconds())
	return func() ([]udpbatch.Message, error) {
		in, err := r.Poll()
		if len(in) == 0 && err == nil {
			// Go's own sleep would take a millisecond, and its scheduler, if it were told, look every 20 µs
			// whether this has ended. That a signal may end it sooner does no harm.
			_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&wait)), 0, 0)
			in, err = r.Poll()
		}
		return in, err
	}
}

// Run does the exchanges. It ends early, with an error, when the server has not
// answered anything for a while.
func (l *Load) Run(quiet time.Duration) (*Result, error) {
	if l.Retry == 0 {
		l.Retry = time.Second
	}
	conn, err := udpbatch.New(l.Conn)
	if err == nil && l.Singly {
		err = conn.Singly()
	}
	if err == nil {
		err = conn.Stamp(l.Rate > 0)
	}
	if err != nil {
		return nil, err
	}
	clients := cmp.Or(l.Clients, l.Total)
	dst := append([]netip.AddrPort{l.Server}, l.Others...)
	turn := 0
	const batch = 64
	r, w := conn.NewReader(batch, 2048), conn.NewWriter()
	out, leaving := make([]udpbatch.Message, 0, batch), make([]*client, 0, batch)
	flush := func() error {
		now := time.Now().UnixNano()
		for _, c := range leaving {
			if c.left == 0 {
				c.left = now
			}
		}
		var refused error
		err := w.Write(out, func(_ *udpbatch.Message, err error) { refused = err })
		out, leaving = out[:0], leaving[:0]
		return errors.Join(err, refused)
	}
	res := &Result{Latency: make([]time.Duration, 0, l.Total)}
	open := make(map[uint32]*client, l.Open)
	next, coming := 0, 0
	var start time.Time
	send := func(c *client, msg []byte, now time.Time) error {
		c.request, c.sent = msg, now
		out, leaving = append(out, udpbatch.Message{Data: msg, Peer: dst[turn%len(dst)]}), append(leaving, c)
		turn++
		if len(out) == batch {
			return flush()
		}
		return nil
	}
	under := func(xid, number uint32) bool { return open[xid] != nil && open[xid].number == number }
	begin := func(now time.Time) error {
		if next == l.Total {
			return nil
		}
		next++
		c := &client{started: now}
		for { // who is open yet, since a message was lost, has to wait
			c.number = l.First + uint32(coming%clients)
			round := uint32(coming/clients) & 1 << 22 // so that no late answer is taken for one to who comes again
			coming++
			c.xid = (c.number ^ round) & 0x7fffff
			if !under(c.xid, c.number) && !under(c.xid^1<<22, c.number) {
				break
			}
		}
		open[c.xid] = c
		msg := l.first(c)
		res.RequestSize = len(msg)
		return send(c, msg, now)
	}
	var holders map[netip.Addr]uint32
	if l.Keep {
		res.Held, holders = make(map[uint32]Held, clients), make(map[netip.Addr]uint32, clients)
	}
	// due begins what an open loop has to begin by now; its latencies count from when it had
	// to, so that a server that stands still does not look well.
	due := func(now time.Time) error {
		for next < l.Total && len(open) < min(maxOpen, clients) {
			at := start.Add(time.Duration(next) * time.Second / time.Duration(l.Rate))
			if at.After(now) {
				break
			}
			res.Late = append(res.Late, now.Sub(at))
			if err := begin(at); err != nil {
				return err
			}
		}
		return nil
	}
	start = time.Now()
	for range min(l.Open, clients) {
		if l.Rate > 0 {
			break
		}
		if err := begin(start); err != nil {
			return res, err
		}
	}
	// An open loop does not wait to be woken: that would take the server's processor as long as an answer
	// does, and who has to be woken begins late.
	read := r.Read
	if l.Rate > 0 {
		if read = r.Poll; l.Rests {
			read = resting(r)
		}
		if err := l.Conn.SetReadDeadline(time.Time{}); err != nil {
			return res, err
		}
	}
	heard, looked := start, start
	for len(open) > 0 || l.Rate > 0 && next < l.Total {
		if l.Rate > 0 {
			if err := due(time.Now()); err != nil {
				return res, err
			}
		} else if err := l.Conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return res, err
		}
		select {
		case <-l.Stop:
			return res, ErrStopped
		default:
		}
		if err := flush(); err != nil {
			return res, err
		}
		in, err := read()
		now := time.Now()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return res, err
		}
		for _, m := range in {
			heard = now
			a, err := parseAnswer(m.Data)
			if err != nil {
				return res, err
			}
			c := open[a.xid&0x7fffff]
			if c == nil || a.typ == dhcp6.MessageTypeAdvertise && a.xid != c.xid {
				continue // an answer to what was sent twice
			}
			c.delay, c.left = c.delay+time.Duration(m.Received-c.left), 0
			switch {
			case !a.addr.IsValid() || l.Kind == Delegation && !a.delegated:
				res.Refused++
			case a.typ == dhcp6.MessageTypeAdvertise:
				c.xid |= 0x800000
				if err := send(c, l.requestFor(c, a), now); err != nil {
					return res, err
				}
				continue
			case a.typ == dhcp6.MessageTypeReply:
				res.Exchanges++
				res.ReplySize = len(m.Data)
				res.Latency = append(res.Latency, now.Sub(c.started))
				if l.Rate > 0 {
					res.Delay = append(res.Delay, c.delay)
				}
				if l.Keep {
					res.Held[c.number] = Held{slices.Clone(a.server), slices.Clone(a.ia), slices.Clone(a.pd)}
					if other, held := holders[a.addr]; held && other != c.number {
						return res, fmt.Errorf("%s is leased to the clients %d and %d", a.addr, other, c.number)
					}
					holders[a.addr] = c.number
					if had := addrOf(l.Known[c.number].IA); l.Kind == Renew && had != a.addr {
						return res, fmt.Errorf("client %d renewed %s and got %s", c.number, had, a.addr)
					}
				}
				if l.Acked != nil {
					l.Acked(c.number, a.addr)
				}
			default:
				return res, fmt.Errorf("answered by a %s", a.typ)
			}
			delete(open, a.xid&0x7fffff)
			if l.Rate > 0 {
				continue
			}
			if err := begin(now); err != nil {
				return res, err
			}
		}
		if len(in) == 0 && now.Sub(looked) > 10*time.Millisecond {
			looked = now
			if now.Sub(heard) > quiet {
				res.Elapsed = now.Sub(start)
				return res, fmt.Errorf("no answer for %s", quiet)
			}
			for _, c := range open {
				if now.Sub(c.sent) > l.Retry {
					res.Resent++
					if err := send(c, c.request, now); err != nil {
						return res, err
					}
				}
			}
		}
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

func option(b []byte, code dhcp6.OptionCode, data ...byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// relayed wraps a message of a client in a Relay-forward.
func (l *Load) relayed(c *client, typ dhcp6.MessageType, options []byte) []byte {
	link := l.Link.As16()
	b := append(make([]byte, 0, 256), byte(dhcp6.MessageTypeRelayForward), 0)
	b = append(b, link[:]...)
	b = append(b, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // fe80::number, the peer-address
	b = binary.BigEndian.AppendUint32(b, c.number)
	b = option(b, dhcp6.OptionInterfaceID, []byte(fmt.Sprintf("port-%08x", c.number))...)
	b = binary.BigEndian.AppendUint16(b, uint16(dhcp6.OptionRelayMsg))
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(options)))
	b = append(b, byte(typ), byte(c.xid>>16), byte(c.xid>>8), byte(c.xid))
	return append(b, options...)
}

// clientOptions are what both messages of a client begin with: its DUID-LL and an
// elapsed time.
func clientOptions(c *client) []byte {
	b := option(nil, dhcp6.OptionClientID, binary.BigEndian.AppendUint32([]byte{0, 3, 0, 1, 2, 0}, c.number)...)
	return option(b, dhcp6.OptionElapsedTime, 0, 0)
}

// maxOpen bounds the exchanges that an open loop has open.
const maxOpen = 1 << 16

// first makes a client's first message.
func (l *Load) first(c *client) []byte {
	if l.Kind == Renew {
		k := l.Known[c.number]
		b := option(clientOptions(c), dhcp6.OptionServerID, k.Server...)
		return l.relayed(c, dhcp6.MessageTypeRenew, option(b, dhcp6.OptionIANA, k.IA...))
	}
	ia := make([]byte, 12)
	binary.BigEndian.PutUint32(ia, 1)
	b := option(clientOptions(c), dhcp6.OptionIANA, ia...)
	switch l.Kind {
	case RapidCommit:
		b = option(b, dhcp6.OptionRapidCommit)
	case Delegation:
		b = option(b, dhcp6.OptionIAPD, ia...)
	}
	return l.relayed(c, dhcp6.MessageTypeSolicit, b)
}

func (l *Load) requestFor(c *client, a answer) []byte {
	b := option(clientOptions(c), dhcp6.OptionServerID, a.server...)
	b = option(b, dhcp6.OptionIANA, a.ia...)
	if l.Kind == Delegation {
		b = option(b, dhcp6.OptionIAPD, a.pd...)
	}
	return l.relayed(c, dhcp6.MessageTypeRequest, b)
}

// answer is what a load needs of a server's message, whose memory it points into.
type answer struct {
	typ    dhcp6.MessageType
	xid    uint32
	server []byte
	ia     []byte
	addr   netip.Addr

	pd        []byte
	delegated bool
}

var errAnswer = errors.New("the server's answer cannot be read")

// parseAnswer reads a Relay-reply with an Advertise or a Reply in it.
func parseAnswer(b []byte) (a answer, err error) {
	if len(b) < 34 || dhcp6.MessageType(b[0]) != dhcp6.MessageTypeRelayReply {
		return a, errAnswer
	}
	inner := find(b[34:], dhcp6.OptionRelayMsg)
	if len(inner) < 4 {
		return a, errAnswer
	}
	a.typ = dhcp6.MessageType(inner[0])
	a.xid = binary.BigEndian.Uint32(inner) & 0xffffff
	a.server = find(inner[4:], dhcp6.OptionServerID)
	a.ia = find(inner[4:], dhcp6.OptionIANA)
	if len(a.ia) < 12 {
		return a, errAnswer
	}
	a.pd = find(inner[4:], dhcp6.OptionIAPD)
	a.delegated = len(a.pd) >= 12 && len(find(a.pd[12:], dhcp6.OptionIAPrefix)) >= 25
	a.addr = addrOf(a.ia)
	return a, nil
}

// addrOf returns the first address in an IA_NA's data.
func addrOf(ia []byte) (addr netip.Addr) {
	if len(ia) >= 12 {
		if b := find(ia[12:], dhcp6.OptionIAAddr); len(b) >= 24 {
			addr = netip.AddrFrom16([16]byte(b))
		}
	}
	return addr
}

func find(b []byte, code dhcp6.OptionCode) []byte {
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return nil
		}
		if dhcp6.OptionCode(binary.BigEndian.Uint16(b)) == code {
			return b[4 : 4+n]
		}
		b = b[4+n:]
	}
	return nil
}

// Echo answers every datagram to a port with itself, in batches: the least that a UDP server can
// do. It calls ready when it listens, and does not return but with an error.
func Echo(port int, ready func()) error {
	conns, err := udpbatch.Listen(port, 1) // for its buffers
	if err != nil {
		return err
	}
	ready()
	pc := ipv6.NewPacketConn(conns[0])
	msgs := make([]ipv6.Message, 64)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	out := make([]ipv6.Message, 64)
	for {
		n, err := pc.ReadBatch(msgs, 0)
		if err != nil {
			return err
		}
		for i, m := range msgs[:n] {
			out[i] = ipv6.Message{Buffers: [][]byte{m.Buffers[0][:m.N]}, Addr: m.Addr}
		}
		for w := out[:n]; len(w) > 0; {
			k, err := pc.WriteBatch(w, 0)
			if err != nil {
				return err
			}
			w = w[k:]
		}
	}
}

// EchoJoined is Echo that reads and writes as this project's server does, by [udpbatch], which has the kernel
// handle datagrams of one peer as one.
func EchoJoined(port int, ready func()) error {
	conns, err := udpbatch.Listen(port, 1)
	if err != nil {
		return err
	}
	c, err := udpbatch.New(conns[0])
	if err != nil {
		return err
	}
	ready()
	r, w := c.NewReader(64, 2048), c.NewWriter()
	for {
		in, err := r.Read()
		if err != nil {
			return err
		}
		var refused error
		err = w.Write(in, func(_ *udpbatch.Message, err error) { refused = err })
		if err := errors.Join(err, refused); err != nil {
			return err
		}
	}
}

// EchoLoad keeps a number of datagrams of a size in flight until so many came
// back, and returns how long that took.
func EchoLoad(conn *net.UDPConn, server netip.AddrPort, size, open, total int) (time.Duration, error) {
	r, err := echoLoad(conn, server, size, open, 0, total)
	if err != nil {
		return 0, err
	}
	return r.Elapsed, nil
}

// EchoRate sends so many datagrams a second, and returns how long they took.
func EchoRate(conn *net.UDPConn, server netip.AddrPort, size, rate, total int) (*Result, error) {
	return echoLoad(conn, server, size, 0, rate, total)
}

func echoLoad(conn *net.UDPConn, server netip.AddrPort, size, open, rate, total int) (*Result, error) {
	const batch = 64
	c, err := udpbatch.New(conn)
	if err != nil {
		return nil, err
	}
	r, w := c.NewReader(batch, 2048), c.NewWriter()
	res := &Result{Latency: make([]time.Duration, 0, total)}
	out := make([]udpbatch.Message, 0, batch)
	data := make([][]byte, batch)
	for i := range data {
		data[i] = make([]byte, size)
	}
	sent := 0
	read := r.Read
	if rate > 0 { // see Load.Run
		read = r.Poll
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	// at is when a datagram was to be sent.
	at := func(n int) time.Duration { return time.Duration(n) * time.Second / time.Duration(rate) }
	for res.Exchanges < total {
		for now := time.Since(start); sent < total && len(out) < batch; sent++ {
			if rate == 0 && sent-res.Exchanges >= open || rate > 0 && at(sent) > now {
				break
			}
			d := data[len(out)]
			binary.BigEndian.PutUint32(d, uint32(sent))
			out = append(out, udpbatch.Message{Data: d, Peer: server})
		}
		var refused error
		err := w.Write(out, func(_ *udpbatch.Message, err error) { refused = err })
		if err := errors.Join(err, refused); err != nil {
			return res, err
		}
		full := len(out) == batch
		out = out[:0]
		if full && rate == 0 {
			continue
		}
		if rate == 0 {
			if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				return res, err
			}
		}
		in, err := read()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return res, err
		}
		now := time.Since(start)
		for _, m := range in {
			if res.Exchanges++; rate > 0 {
				res.Latency = append(res.Latency, now-at(int(binary.BigEndian.Uint32(m.Data))))
			}
		}
		if len(in) == 0 && (rate == 0 || now > at(sent)+time.Second) {
			return res, fmt.Errorf("%d of %d datagrams did not come back", sent-res.Exchanges, sent)
		}
	}
	res.Elapsed = time.Since(start)
	return res, nil
}
