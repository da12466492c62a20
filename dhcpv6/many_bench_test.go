package dhcpv6

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"brightgid/dhcpv6/udpbatch"
	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/internal/benchdoc"
	"brightgid/lease"
	"brightgid/lease/index"
	"brightgid/lease/pebblestore"
)

// BenchmarkManyLeases renews random leases among ten thousand, among ten times as many, and so on up to
// many, by turns and durably, through the handler alone and through the server over loopback, and prints
// how the rates compare. It also prints how much memory a lease of many takes, how soon after it is
// started the first is renewed and how soon all are in memory, how long it takes to read an address's
// history, how the rate is while leases of a forgotten epoch are removed, what a renewal takes of
// processors, and what part of the time 5,600 renewals a second take, which is what 10 million clients
// ask for that renew every half hour. GID_BENCH_LEASES says how many are many; a million if it is not
// set. All rates are means, for some of what many cost comes once in millions of renewals.
func BenchmarkManyLeases(b *testing.B) {
	many := 1_000_000
	if s := os.Getenv("GID_BENCH_LEASES"); s != "" {
		var err error
		if many, err = strconv.Atoi(s); err != nil || many <= fewLeases {
			b.Fatalf("GID_BENCH_LEASES is %q, want a number above %d", s, fewLeases)
		}
	}
	b.Run(fmt.Sprint(many), func(b *testing.B) {
		var labs []*manyLab
		for n := fewLeases; n < many; n *= 10 {
			labs = append(labs, newManyLab(b, n))
		}
		labs = append(labs, newManyLab(b, many))
		few, m := labs[0], labs[len(labs)-1]
		for _, l := range labs {
			l.load()
		}
		for _, l := range labs {
			l.msgs = l.renewals(max(someRenewals, l.n))
			l.handle(l.msgs.part(0, 50_000))
			l.settle()
		}
		b.ResetTimer()
		for b.Loop() {
			for _, l := range labs {
				// As many as many have, and some times as many as Pebble is given at once, so that what it
				// does beside is part of it.
				l.measure(max(someRenewals, many))
			}
		}
		b.StopTimer()
		pruned, beside := m.prune(m.msgs.part(0, someRenewals))
		for _, l := range labs {
			l.history = l.lookups(l.msgs.part(0, 20_000))
		}
		b.ReportMetric(m.rate(), "renewals/s")
		b.ReportMetric(few.rate(), "renewals/s-at-10000")
		b.ReportMetric(m.rate()/few.rate(), "rate÷at-10000")
		b.ReportMetric(m.servedRate(), "served/s")
		b.ReportMetric(few.servedRate(), "served/s-at-10000")
		b.ReportMetric(m.servedRate()/few.servedRate(), "served÷at-10000")
		b.ReportMetric(m.used(), "CPU-µs/renewal")
		b.ReportMetric(few.used(), "CPU-µs/renewal-at-10000")
		b.ReportMetric(5600/m.rate()*100, "%-of-the-time")
		b.ReportMetric(beside/m.rate(), "rate-beside-pruning÷alone")
		b.ReportMetric(pruned, "pruned/s")
		b.ReportMetric(microseconds(m.history), "µs/history")
		b.ReportMetric(microseconds(few.history), "µs/history-at-10000")
		b.ReportMetric(m.ready.Seconds(), "s-to-ready")
		b.ReportMetric(m.loaded.Seconds(), "s-to-all-in-memory")
		b.ReportMetric(m.held/float64(many), "bytes/lease")
		if err := writeMany(labs, beside/m.rate()); err != nil {
			b.Error(err)
		}
		for _, l := range labs {
			l.close()
		}
	})
}

const (
	fewLeases    = 10_000
	someRenewals = 2_000_000
)

// writeMany writes what came of labs, the first of which has few leases, into docs/benchmarks.md, and a
// plot of their rates, if asked to.
func writeMany(labs []*manyLab, beside float64) error {
	few := labs[0]
	head := []string{""}
	for _, l := range labs {
		head = append(head, fmt.Sprintf("%d leases", l.n))
	}
	table := benchdoc.NewTable(head...)
	row := func(what, format string, of func(l *manyLab) float64) {
		cells := []string{what}
		for _, l := range labs {
			cells = append(cells, fmt.Sprintf(format, of(l)))
		}
		table.Row(cells...)
	}
	rounds := func(what string, of func(l *manyLab) []float64) {
		cells := []string{what}
		for _, l := range labs {
			var each []string
			for i, rate := range of(l) {
				each = append(each, fmt.Sprintf("%.2f", rate/of(few)[i]))
			}
			cells = append(cells, strings.Join(each, ", "))
		}
		table.Row(cells...)
	}
	row("renewals a second, server", "%.0f", (*manyLab).servedRate)
	row(fmt.Sprintf("the same, ÷ that at %d", few.n), "%.2f", func(l *manyLab) float64 { return l.servedRate() / few.servedRate() })
	rounds("in each round", func(l *manyLab) []float64 { return l.servedRates })
	row("renewals a second, handler", "%.0f", (*manyLab).rate)
	row(fmt.Sprintf("the same, ÷ that at %d", few.n), "%.2f", func(l *manyLab) float64 { return l.rate() / few.rate() })
	rounds("in each round", func(l *manyLab) []float64 { return l.rates })
	row("processor time of each in the handler, all that is done beside it included, µs", "%.1f", (*manyLab).used)
	row("memory, what Pebble has there included, MB", "%.0f", func(l *manyLab) float64 { return l.held / 1e6 })
	row("from the start until the first is renewed, s", "%.3f", func(l *manyLab) float64 { return l.ready.Seconds() })
	row("until all are in memory, with nothing else to do, s", "%.1f", func(l *manyLab) float64 { return l.loaded.Seconds() })
	row("reading an address's history, µs", "%.0f", func(l *manyLab) float64 { return microseconds(l.history) })
	var sizes []int
	served, handled := benchdoc.Line{Name: "server"}, benchdoc.Line{Name: "handler"}
	for _, l := range labs {
		sizes = append(sizes, l.n)
		served.Values, handled.Values = append(served.Values, l.servedRate()), append(handled.Values, l.rate())
	}
	m := labs[len(labs)-1]
	said := fmt.Sprintf("Each of %d leases takes %.0f bytes of memory. While old ones were removed, renewals among them were %.2f times as many a second as without. "+
		"5,600 a second, as many as 10 million clients ask for that renew every half hour, take %.1f %% of the handler's time, and %.1f %% of a processor with all that is done beside them.\n",
		m.n, m.held/float64(m.n), beside, 5600/m.rate()*100, 5600*m.used()/1e4)
	plot, err := benchdoc.Lines("bench-leases", "Renewals a second", "leases", sizes, handled, served)
	if err != nil {
		return err
	}
	return benchdoc.Write("bench-leases", table.String()+"\n"+said+"\n"+plot)
}

// measure renews so many leases, through the handler and through the server, and after each has Pebble do
// what is left to it, so that its processor time counts and the next turn is its own.
func (m *manyLab) measure(n int) {
	msgs := again{m.msgs, n}
	used, began := m.processor(), time.Now()
	m.handle(msgs)
	handled := time.Since(began)
	m.settle()
	used = m.processor() - used
	served := m.serve(msgs, inFlight*batchSize)
	m.settle()
	m.b.Logf("%d leases: %.0f renewals a second, %.0f through the server; %.1f µs of processors each", m.n, perSecond(n, handled), perSecond(n, served), perEach(n, used))
	m.rates, m.servedRates = append(m.rates, perSecond(n, handled)), append(m.servedRates, perSecond(n, served))
	m.done, m.handled, m.served, m.took = m.done+n, m.handled+handled, m.served+served, m.took+used
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }
func perEach(n int, d time.Duration) float64   { return microseconds(d) / float64(n) }
func microseconds(d time.Duration) float64     { return float64(d.Nanoseconds()) / 1000 }

// settle returns when Pebble has been given all leases and has nothing to do any more.
func (m *manyLab) settle() {
	if err := m.store.Settle(); err != nil {
		m.b.Fatal(err)
	}
	for quiet := 0; quiet < 5; quiet++ {
		if m.store.Backlog().Busy {
			quiet = 0
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (m *manyLab) rate() float64       { return perSecond(m.done, m.handled) } // renewals
func (m *manyLab) servedRate() float64 { return perSecond(m.done, m.served) }
func (m *manyLab) used() float64       { return perEach(m.done, m.took) }

// load starts the server's parts on the database, renews one lease, and reads all into memory.
func (m *manyLab) load() {
	m.open()
	one := m.renewals(1)
	first, err := m.store.Lease(addrIn(one.at(0)))
	if err != nil {
		m.b.Fatal(err)
	}
	m.close()
	m.store, m.near, m.h = nil, nil, nil
	before := m.memory()
	began := time.Now()
	m.open()
	m.handle(one)
	m.ready = time.Since(began)
	m.loadAll()
	m.loaded = time.Since(began)
	m.held = m.memory() - before
	// The leases have to be as the server would have them, whose renewals change nothing but times.
	renewed, err := m.store.Lease(first.Addr)
	if err != nil || !renewed.Updated.After(first.Updated) {
		m.b.Fatalf("renewed at %s after %s, %v", renewed.Updated, first.Updated, err)
	}
	renewed.Updated, renewed.PreferredUntil, renewed.ValidUntil = first.Updated, first.PreferredUntil, first.ValidUntil
	if got, want := lease.AppendRecord(nil, &renewed), lease.AppendRecord(nil, &first); !bytes.Equal(got, want) {
		m.b.Fatalf("a renewal makes %+v of %+v", renewed, first)
	}
}

// addrIn returns the address that a renewal names, which is at its end but for its lifetimes.
func addrIn(msg []byte) netip.Addr { return netip.AddrFrom16([16]byte(msg[len(msg)-24:])) }

// loadAll reads all leases into memory.
func (m *manyLab) loadAll() {
	for more := true; more; {
		var err error
		if more, err = m.near.Load(500, m.now); err != nil {
			m.b.Fatal(err)
		}
	}
}

// manyLab is a database with many leases, and the handler over it.
type manyLab struct {
	b     testing.TB
	n     int
	dir   string
	keys  *idcodec.Keyring
	store *pebblestore.Store
	near  *index.Index
	alloc *lease.Allocator
	h     *Handler
	read  [batchSize]received
	mu    sync.Mutex // as the server's, between messages and what removes leases
	now   time.Time

	msgs                  manyMessages
	ready, loaded         time.Duration
	held                  float64   // bytes
	rates, servedRates    []float64 // a second, in each round
	history               time.Duration
	done                  int           // renewals, as many through the server
	handled, served, took time.Duration // the last of processors
}

// manyEpoch is when the leases are made; they hold all the time that the benchmark takes.
var manyEpoch = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// manyRelay is where all messages come from, those over loopback and those to the handler alone: a
// lease of which another relay tells is not only renewed.
var manyRelay = netip.IPv6Loopback()

func newManyLab(b testing.TB, n int) *manyLab {
	b.Helper()
	m := &manyLab{b: b, n: n, dir: filepath.Join(b.TempDir(), "leases"), now: manyEpoch}
	var err error
	if m.keys, err = idcodec.NewKeyring(rand.NewChaCha8([32]byte{1}), idcodec.DefaultEpochLength, 20000); err != nil {
		b.Fatal(err)
	}
	if m.store, err = pebblestore.Open(m.dir, pebblestore.Options{}); err != nil {
		b.Fatal(err)
	}
	hasher := idcodec.NewLookupHasher([32]byte{7})
	nid := make(idcodec.NID, 200)
	epoch, err := m.keys.EpochAt(m.now)
	if err != nil {
		b.Fatal(err)
	}
	key, err := m.keys.Key(epoch)
	if err != nil {
		b.Fatal(err)
	}
	prefix, policy := prefixOf(prefixC), testPolicy()
	var u lease.Update
	for i := range n {
		eid, err := idcodec.ParseEID("subscriber:" + manyLine(i))
		if err != nil {
			b.Fatal(err)
		}
		binary.BigEndian.PutUint64(nid, uint64(i))
		number, err := m.store.Register(hasher.Key(eid), nid, m.now)
		if err != nil {
			b.Fatal(err)
		}
		gid, err := key.Encode(prefix, number, 0)
		if err != nil {
			b.Fatal(err)
		}
		// As the allocator would.
		l := lease.Lease{Addr: prefix.Addr(gid), Subscriber: number, Epoch: epoch, State: lease.Active, Client: lease.Client{DUID: manyDUID(i), IAID: 1},
			Anchor: lease.Anchor{LinkLayer: manyDUID(i)[4:], Relay: manyRelay}, Born: m.now, Start: m.now, Updated: m.now,
			PreferredUntil: m.now.Add(policy.Preferred), ValidUntil: m.now.Add(policy.Valid)}
		if i%5 == 0 { // a fifth of the addresses was somebody's before
			before := l
			before.Epoch, before.Start, before.ValidUntil, before.State = epoch-100, m.now.Add(-100*24*time.Hour), m.now.Add(-99*24*time.Hour), lease.Released
			u.Archive = append(u.Archive, before)
		}
		u.Put = append(u.Put, l)
		u.Clients = append(u.Clients, lease.ClientList{Client: l.Client, Addrs: []netip.Addr{l.Addr}})
		u.Lists = append(u.Lists, lease.AddressList{Subscriber: number, Addrs: []netip.Addr{l.Addr}})
		u.Accounts = append(u.Accounts, lease.AccountChange{Subscriber: number, Prefix: prefix, Account: lease.Account{Epoch: epoch, Slot: 1, Even: m.now}})
		if len(u.Put) == 1000 || i == n-1 {
			if err := m.store.Apply(&u); err != nil {
				b.Fatal(err)
			}
			u.Reset()
		}
	}
	m.close()
	return m
}

func manyLine(i int) string { return fmt.Sprintf("line-%09d", i) }

func manyDUID(i int) []byte {
	return binary.BigEndian.AppendUint32([]byte{0, 3, 0, 1, 2, 0}, uint32(i))
}

func (m *manyLab) close() {
	if err := m.store.Close(); err != nil {
		m.b.Fatal(err)
	}
}

// open starts the server's parts on the database.
func (m *manyLab) open() {
	var err error
	if m.store, err = pebblestore.Open(m.dir, pebblestore.Options{}); err != nil {
		m.b.Fatal(err)
	}
	m.near = index.New(m.store, 1<<15)
	near := m.near
	m.alloc = lease.NewAllocator(near, m.keys, testPolicy())
	relays, err := eidauth.NewRelaySource(eidauth.RelayOptions...)
	if err != nil {
		m.b.Fatal(err)
	}
	m.h, err = NewHandler(Config{ServerID: serverID, Links: []Link{{Name: "far", Prefixes: []idcodec.Prefix{prefixOf(prefixC)}}}},
		eidauth.NewChain([]netip.Addr{manyRelay}, relays), lease.NewRegistrar(near, [32]byte{7}, nil), m.alloc, new(Stats), slog.New(slog.DiscardHandler))
	if err != nil {
		m.b.Fatal(err)
	}
}

// messages are what a lab handles.
type messages interface {
	len() int
	at(i int) []byte
}

type someMessages [][]byte

func (x someMessages) len() int        { return len(x) }
func (x someMessages) at(i int) []byte { return x[i] }

// manyMessages are messages of one length, in which the collector has nothing to look for. They are one
// after the other, so that to come to the next costs the same among few leases and among many.
type manyMessages struct {
	all  []byte
	each int
}

func (x manyMessages) len() int                   { return len(x.all) / x.each }
func (x manyMessages) part(i, j int) manyMessages { x.all = x.all[i*x.each : j*x.each]; return x }
func (x manyMessages) at(i int) []byte            { return x.all[i*x.each:][:x.each:x.each] }

// again are so many messages, the same ones again and again.
type again struct {
	manyMessages
	n int
}

func (x again) len() int        { return x.n }
func (x again) at(i int) []byte { return x.manyMessages.at(i % x.manyMessages.len()) }

// renewals are n messages of random clients.
func (m *manyLab) renewals(n int) (msgs manyMessages) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range n {
		msg := m.renewal(rng.IntN(m.n))
		if msgs.all == nil {
			msgs = manyMessages{make([]byte, 0, n*len(msg)), len(msg)}
		}
		msgs.all = append(msgs.all, msg...)
	}
	return msgs
}

// renewal is a message of client i.
func (m *manyLab) renewal(i int) []byte {
	addrs, err := m.near.ByClient(nil, lease.Client{DUID: manyDUID(i), IAID: 1})
	if err != nil || len(addrs) != 1 {
		m.b.Fatalf("client %d: %v, %v", i, addrs, err)
	}
	w := builder{[]byte{byte(dhcp6.MessageTypeRenew), 1, 2, 3}}
	w.option(dhcp6.OptionClientID, manyDUID(i))
	w.option(dhcp6.OptionServerID, serverID)
	start := w.openIA(&ia{iaid: 1}, 0, 0)
	w.iaAddr(addrs[0], 0, 0)
	w.close(start)
	return manyRelayed(i, w.b)
}

// manyRelayed is a message of client i as its relay forwards it.
func manyRelayed(i int, msg []byte) []byte {
	link, peer := prefixC.Addr().Next().As16(), linkLocal.As16()
	r := builder{append(append([]byte{byte(dhcp6.MessageTypeRelayForward), 0}, link[:]...), peer[:]...)}
	r.option(dhcp6.OptionRelayAgentSubscriberID, []byte(manyLine(i)))
	r.option(dhcp6.OptionClientLinkLayerAddr, append([]byte{0, 1}, manyDUID(i)[4:]...))
	r.option(optionRelayPort, []byte{0, 0})
	r.option(dhcp6.OptionRelayMsg, msg)
	return r.b
}

// handle handles messages in batches as the server does: the next while some wait for the disk.
func (m *manyLab) handle(msgs messages) {
	m.now = m.now.Add(time.Second)
	handled, open, settled := make(chan lease.Barrier, inFlight), make(chan struct{}, inFlight), make(chan struct{})
	go func() {
		defer close(settled)
		for w := range handled {
			if err := w.Wait(); err != nil {
				m.b.Error(err)
			}
			<-open
		}
	}()
	out, batch := make([]byte, 0, 1024), make(someMessages, 0, batchSize)
	var f lease.Foreseen
	for i := 0; i < msgs.len(); {
		open <- struct{}{}
		for batch = batch[:0]; len(batch) < batchSize && i < msgs.len(); i++ {
			batch = append(batch, msgs.at(i))
		}
		m.mu.Lock()
		m.batch(batch, out, &f)
		handled <- m.store.Barrier()
		m.mu.Unlock()
	}
	close(handled)
	<-settled
}

// batch handles the messages of a batch as the server does.
func (m *manyLab) batch(msgs someMessages, out []byte, f *lease.Foreseen) {
	f.Reset()
	for i, msg := range msgs {
		m.h.receive(&Packet{Data: msg, Src: netip.AddrPortFrom(manyRelay, ServerPort)}, &m.read[i])
		m.h.foresee(&m.read[i], f)
	}
	m.near.Prefetch(f)
	for i := range msgs {
		if _, _, drop := m.h.answer(m.now, &m.read[i], out[:0]); drop != 0 {
			m.b.Fatalf("dropped as %s", drop)
		}
	}
}

// serve has the server answer messages that come over loopback, of which so many are open, and
// returns how long that takes.
func (m *manyLab) serve(msgs messages, open int) time.Duration {
	m.now = m.now.Add(time.Second)
	conns, err := udpbatch.Listen(0, 1) // for its buffers
	if err != nil {
		m.b.Fatal(err)
	}
	conn := conns[0]
	defer conn.Close()
	s, to := onLoopback(m.b, m.h, func() lease.Barrier { return m.store.Barrier() }, func() time.Time { return m.now })
	s.Prefetch(m.near.Prefetch)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			m.b.Error(err)
		}
	}()
	pc := ipv6.NewPacketConn(conn)
	in, out := make([]ipv6.Message, open), make([]ipv6.Message, open)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 2048)}
		out[i] = ipv6.Message{Buffers: make([][]byte, 1), Addr: to}
	}
	sent := 0
	send := func(n int) {
		n = min(n, msgs.len()-sent)
		for i := range n {
			out[i].Buffers[0] = msgs.at(sent)
			sent++
		}
		for at := 0; at < n; {
			k, err := pc.WriteBatch(out[at:n], 0)
			if err != nil {
				m.b.Fatal(err)
			}
			at += k
		}
	}
	began := time.Now()
	send(open)
	for answered := 0; answered < msgs.len(); {
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			m.b.Fatal(err)
		}
		n, err := pc.ReadBatch(in, 0)
		if err != nil {
			m.b.Fatalf("%d of %d are answered: %v", answered, msgs.len(), err)
		}
		answered += n
		send(n)
	}
	return time.Since(began)
}

// prune removes the leases of an old epoch as gidserver does, and has clients renew meanwhile, until
// those that hold were passed over and some have been removed. It returns how many leases a second
// went, and how many renewals a second came.
func (m *manyLab) prune(msgs manyMessages) (pruned, renewed float64) {
	epoch, err := m.keys.EpochAt(m.now)
	if err != nil {
		m.b.Fatal(err)
	}
	type result struct {
		n    int
		took time.Duration
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan result)
	var steps atomic.Int32
	p := &lease.Pruner{
		Store: m.store, Allocator: m.alloc,
		Do: func(f func()) {
			m.mu.Lock()
			defer m.mu.Unlock()
			f()
			steps.Add(1)
		},
		Pace: &lease.Pace{
			Traffic: m.h.stats.Messages, Now: time.Now,
			Rest: func(ctx context.Context, d time.Duration) {
				select {
				case <-ctx.Done():
				case <-time.After(d):
				}
			},
		},
	}
	go func() {
		began := time.Now()
		n, err := p.Prune(ctx, epoch-50)
		if err != nil {
			m.b.Error(err)
		}
		done <- result{n, time.Since(began)}
	}()
	began, n, part := time.Now(), 0, msgs.len()/10
	for n < 20*msgs.len() && (n < msgs.len() || steps.Load() < 10) {
		at := n % (10 * part)
		m.handle(msgs.part(at, at+part))
		n += part
	}
	renewed = float64(n) / time.Since(began).Seconds()
	cancel()
	r := <-done
	if r.n == 0 {
		m.b.Error("nothing was removed")
	}
	return float64(r.n) / r.took.Seconds(), renewed
}

// lookups reads the history of the addresses that messages name.
func (m *manyLab) lookups(msgs messages) time.Duration {
	began := time.Now()
	for i := range msgs.len() {
		addr := addrIn(msgs.at(i))
		if h, err := m.store.History(nil, addr); err != nil || len(h) == 0 {
			m.b.Fatalf("%s: %v, %v", addr, h, err)
		}
	}
	return time.Since(began) / time.Duration(msgs.len())
}

// processor is how much time of processors the process has taken, what Pebble does beside included.
func (m *manyLab) processor() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		m.b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is what the process holds of its own, without what the kernel can take back.
func (m *manyLab) memory() float64 {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		m.b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		m.b.Fatal(err)
	}
	return 1024 * kb
}
