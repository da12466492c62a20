//go:build e2e

// Package e2e runs the built programs with real DHCPv6 clients and relays in
// network namespaces. It needs root and the packages that `make deps` installs.
package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// bin is where the programs are built to, once: a test that runs anew finds it by binEnv.
var bin string

const binEnv = "GID_E2E_BIN"

func TestMain(m *testing.M) {
	os.Exit(runMain(m))
}

func runMain(m *testing.M) int {
	missing := []string{}
	for _, p := range []string{"ip", "unshare", "dhclient", "dhcpcd", "dibbler-client", "dhcp6c", "/lib/systemd/systemd-networkd", "named", "dhcrelay", "dnsmasq", "softhsm2-util", "dig", "drill", "unbound", "postfix", "swaks", "opendkim", "opendkim-genkey", "miltertest", "freeradius", "radsecproxy", "openssl", "curl", "mkfs.ext4"} {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if _, err := os.Stat("../../bin/sendmail/usr/libexec/sendmail/sendmail"); err != nil {
		missing = append(missing, "bin/sendmail")
	}
	if os.Geteuid() != 0 || len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "\nTHE END-TO-END TESTS CANNOT RUN. They need root (this is uid %d) and the programs of `make deps`; missing: %v\n\n", os.Geteuid(), missing)
		return 1
	}
	if bin = os.Getenv(binEnv); bin != "" { // a test that runs anew; see powercut.Alone
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "gid-e2e-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	// The daemons look for data races; tracectl runs a thousand times, each shortly.
	for _, args := range [][]string{{"-race", "../../cmd/gidserver", "../../cmd/gidfilter", "../../cmd/gidmilter"}, {"../../cmd/tracectl", "../../internal/tools/dhcpload"}} {
		build := exec.Command("go", append([]string{"build", "-o", dir}, args...)...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
			return 1
		}
	}
	if err := os.Setenv(binEnv, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const (
	clientMAC = "02:00:00:00:00:07"
	canary    = "canary-5d1f9e"
	tableEID  = "static:" + canary + "-table"
	relayLine = canary + "-line"
)

// shortLease makes clients renew within seconds.
const shortLease = "preferred = \"10s\"\nvalid = \"20s\"\n"

type world struct {
	*netlab.ISP
	t      *testing.T
	lab    *netlab.Lab
	client *netlab.Namespace
}

func newWorld(t *testing.T, o netlab.ISPOptions) *world {
	t.Helper()
	lab, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	o.Bin = bin
	if o.Table == nil {
		o.Table = map[string]string{clientMAC: tableEID}
	}
	isp, err := lab.NewISP(o)
	if err != nil {
		t.Fatal(err)
	}
	client, err := lab.Namespace("client")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{isp, t, lab, client}
	t.Cleanup(func() {
		if isp.Server != nil && strings.Contains(isp.Server.Log(), "DATA RACE") { // it is built to find them
			t.Error("gidserver has a data race")
		}
		if t.Failed() && isp.Server != nil {
			t.Logf("gidserver wrote:\n%s", isp.Server.Log())
		}
	})
	return w
}

// logIfFailed logs what a program wrote if the test fails.
func logIfFailed(t *testing.T, program string, log func() string) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s wrote:\n%s", program, log())
		}
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// attach connects the client by a way: direct, dhcrelay or dnsmasq. It returns
// the prefix of the link and the EID that the client authenticates as.
func (w *world) attach(way string) (netip.Prefix, string) {
	w.t.Helper()
	if way == "direct" {
		w.must(w.Direct(w.client, clientMAC))
		return netip.MustParsePrefix(netlab.DirectPrefix), tableEID
	}
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	eid := tableEID
	var p *netlab.Process
	if way == "dhcrelay" {
		p, err = w.DHCRelay(relay, relayLine)
		eid = "subscriber:" + relayLine
	} else {
		p, err = w.Dnsmasq(relay)
	}
	w.must(err)
	logIfFailed(w.t, "the relay", p.Log)
	return netip.MustParsePrefix(netlab.RelayPrefix), eid
}

func (w *world) newClient(program string) netlab.Client {
	w.t.Helper()
	c, err := w.client.NewClient(program, "eth0")
	w.must(err)
	logIfFailed(w.t, program, c.Log)
	return c
}

// leased waits until the client's interface has addresses in the prefix, other
// than those given, and returns the first.
func (w *world) leased(prefix netip.Prefix, not ...netip.Addr) netip.Addr {
	w.t.Helper()
	var got netip.Addr
	w.must(netlab.Until(30*time.Second, func() error {
		addrs, err := w.client.Addresses("eth0")
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if prefix.Contains(a) && !slices.Contains(not, a) {
				got = a
				return nil
			}
		}
		return fmt.Errorf("the client's addresses are %v", addrs)
	}))
	return got
}

// lease returns the server's lease of an address when it is as a test wants.
func (w *world) lease(addr netip.Addr, want func(netlab.Lease) bool) netlab.Lease {
	w.t.Helper()
	var found netlab.Lease
	w.must(netlab.Until(30*time.Second, func() error {
		leases, err := w.Leases()
		if err != nil {
			return err
		}
		for _, l := range leases {
			if l.Address == addr && want(l) {
				found = l
				return nil
			}
		}
		return fmt.Errorf("the leases are %+v", leases)
	}))
	return found
}

func active(l netlab.Lease) bool { return l.State == "active" }

func TestRealClientsLeaseRenewAndRelease(t *testing.T) {
	for _, way := range []string{"direct", "dhcrelay", "dnsmasq"} {
		for program := range netlab.Clients {
			t.Run(program+"/"+way, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
				prefix, eid := w.attach(way)
				w.must(w.Serve())
				c := w.newClient(program)
				w.must(c.Start())

				addr := w.leased(prefix)
				first := w.lease(addr, active)
				decoded, err := w.Decode(addr, first.Born)
				w.must(err)
				if want := fmt.Sprintf("subscriber %d\nslot %d\nepoch %d\n", first.Subscriber, first.Slot, first.Epoch); decoded != want {
					t.Errorf("%s decodes to %q, the lease says %q", addr, decoded, want)
				}

				renewed := w.lease(addr, func(l netlab.Lease) bool {
					return active(l) && l.Updated.After(first.Updated) && l.ValidUntil.After(first.ValidUntil)
				})
				if !renewed.Start.Equal(first.Start) {
					t.Errorf("the renewed lease starts at %s, the first at %s", renewed.Start, first.Start)
				}
				if addrs, err := w.client.Addresses("eth0"); err != nil || !slices.Contains(addrs, addr) {
					t.Errorf("after the renewal the interface has %v, %v", addrs, err)
				}

				w.must(c.Release())
				released := w.lease(addr, func(l netlab.Lease) bool { return l.State == "released" })
				w.must(netlab.Until(10*time.Second, func() error {
					addrs, err := w.client.Addresses("eth0")
					if err == nil && slices.Contains(addrs, addr) {
						err = fmt.Errorf("after the release the interface still has %v", addrs)
					}
					return err
				}))

				// And back to the person, whichever way it came.
				got, err := w.Trace("trace", addr, released.Start)
				w.must(err)
				if !slices.Equal(got, []string{eid}) {
					t.Errorf("the trace gives %q, want %q", got, eid)
				}
				w.noEIDOnDisk()
			})
		}
	}
}

// noEIDOnDisk looks for the canary in everything that the server keeps.
func (w *world) noEIDOnDisk() {
	w.t.Helper()
	found, err := w.Search(canary)
	w.must(err)
	if len(found) > 0 {
		w.t.Errorf("an EID stands in %v", found)
	}
	// The search would find it: the realm is there.
	if found, err := w.Search("isp.example"); err != nil || len(found) == 0 {
		w.t.Errorf("the search finds nothing at all: %v, %v", found, err)
	}
}

func TestAStrangerGetsNoAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease, Table: map[string]string{"02:00:00:00:00:99": tableEID}})
	w.attach("direct")
	w.must(w.Serve())
	c := w.newClient("dhclient")
	w.must(c.Start())
	w.must(netlab.Until(20*time.Second, func() error {
		if strings.Contains(c.Log(), "Status code of no addrs") && strings.Contains(w.Server.Log(), "this client is not authenticated") {
			return nil
		}
		return fmt.Errorf("the client was not told why; it wrote:\n%s", c.Log())
	}))
	if addrs, err := w.client.Addresses("eth0"); err != nil || len(addrs) > 0 {
		t.Errorf("the stranger has %v, %v", addrs, err)
	}
	if leases, err := w.Leases(); err != nil || len(leases) > 0 {
		t.Errorf("leases %v, %v", leases, err)
	}
}

// A client's multicast comes to one of the server's sockets, of which there is one for each
// processor, and each message is handled once.
func TestAMessageIsHandledOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	w.attach("direct")
	w.must(w.Configure("metrics", "listen = \"[::1]:9547\"\n"))
	w.must(w.Serve())
	sockets, err := w.Host.Output("ss", "-Hlun", "sport = :547")
	w.must(err)
	if n, want := strings.Count(sockets, ":547 "), min(runtime.NumCPU(), 8); n != want {
		t.Errorf("%d sockets, want %d:\n%s", n, want, sockets)
	}
	c := w.newClient("dhclient")
	w.must(c.Start())
	w.must(netlab.Until(20*time.Second, func() error {
		if leases, err := w.Leases(); err != nil || len(leases) != 1 {
			return fmt.Errorf("leases %v, %w", leases, err)
		}
		return nil
	}))
	log := c.Log()
	metrics, err := w.Host.Output("curl", "-sf", "http://[::1]:9547/metrics")
	w.must(err)
	for _, typ := range []string{"Solicit", "Request"} {
		want := fmt.Sprintf("gidserver_messages_received_total{type=%q} %d\n", strings.ToLower(typ), strings.Count(log, "XMT: "+typ+" on"))
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics:\n%s", want, metrics)
		}
	}
	if want := "gidserver_database_compact_bytes 0\n"; !strings.Contains(metrics, want) { // of one lease
		t.Errorf("no %q in the metrics:\n%s", want, metrics)
	}
	if strings.Contains(metrics, "gidserver_sealed_ahead 0\n") || !strings.Contains(metrics, "\ngidserver_sealed_ahead ") {
		t.Errorf("nothing is sealed ahead, by the metrics:\n%s", metrics)
	}
}

func TestARogueRelaySpeaksForNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	// The relay sends from an address that the server does not trust.
	w.must(relay.Do("ip", "address", "add", "2001:db8:ff::bad/64", "dev", "up0", "nodad"))
	w.must(relay.Do("ip", "address", "del", netlab.RelayAddr+"/64", "dev", "up0"))
	w.must(w.Host.Do("ip", "route", "replace", netlab.RelayPrefix, "via", "2001:db8:ff::bad"))
	_, err = w.DHCRelay(relay, relayLine)
	w.must(err)
	w.must(w.Serve())
	c := w.newClient("dhclient")
	w.must(c.Start())
	w.must(netlab.Until(20*time.Second, func() error {
		if strings.Contains(c.Log(), "Status code of no addrs") && strings.Contains(w.Server.Log(), "this relay may not speak for subscribers") {
			return nil
		}
		return fmt.Errorf("the client was not told why; it wrote:\n%s", c.Log())
	}))
	if leases, err := w.Leases(); err != nil || len(leases) > 0 {
		t.Errorf("leases %v, %v", leases, err)
	}
}

func TestAnAgeingAddressIsReplacedBesideItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: "preferred = \"6s\"\nvalid = \"12s\"\nmax-age = \"14s\"\nretention = \"1d\"\n"})
	prefix, eid := w.attach("direct")
	w.must(w.Serve())
	w.must(w.newClient("dhclient").Start())
	old := w.leased(prefix)
	at := time.Now()
	next := w.leased(prefix, old)
	a, b := w.lease(old, func(netlab.Lease) bool { return true }), w.lease(next, active)
	if a.Subscriber != b.Subscriber || a.Slot == b.Slot && a.Epoch == b.Epoch {
		t.Errorf("%+v is followed by %+v", a, b)
	}
	if a.ValidUntil.After(a.Born.Add(14 * time.Second)) {
		t.Errorf("%+v lasts longer than its maximum age", a)
	}
	for name, x := range map[string]netip.Addr{"old": old, "new": next} {
		if x == next {
			at = b.Start
		}
		if got, err := w.Trace(name, x, at); err != nil || !slices.Equal(got, []string{eid}) {
			t.Errorf("the %s address is traced to %q, %v", name, got, err)
		}
	}
}

func TestAKilledServerKeepsItsLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	prefix, eid := w.attach("direct")
	w.must(w.Serve())
	w.must(w.newClient("dhclient").Start())
	addr := w.leased(prefix)
	before := w.lease(addr, active)
	w.must(w.KillServer())
	w.must(w.Serve())
	after := w.lease(addr, active)
	if !after.Start.Equal(before.Start) || after.Subscriber != before.Subscriber {
		t.Errorf("before the kill %+v, after it %+v", before, after)
	}
	w.lease(addr, func(l netlab.Lease) bool { return active(l) && l.ValidUntil.After(after.ValidUntil) })
	if got, err := w.Trace("trace", addr, before.Start); err != nil || !slices.Equal(got, []string{eid}) {
		t.Errorf("traced to %q, %v", got, err)
	}
	// The list is the same from a server that is down.
	w.must(w.Server.Stop())
	if l := w.lease(addr, func(netlab.Lease) bool { return true }); l.Subscriber != before.Subscriber {
		t.Errorf("without a server: %+v", l)
	}
}

// A full disk: no Reply, a clear log line, service again when space returns.
func TestAFullDiskMeansNoReplyUntilThereIsSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Lease: shortLease})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	state := w.Path("state")
	w.must(os.MkdirAll(state, 0o700))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=30m,mode=700", "tmpfs", state).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	// The lab is closed, and with it the server, before this runs.
	unmount := func() {
		if out, err := exec.Command("umount", "--lazy", state).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}
	defer unmount()
	w.must(w.Serve())
	ballast := filepath.Join(state, "ballast")
	if err := exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=4k", "status=none").Run(); err == nil {
		t.Fatal("the disk did not get full")
	}
	load := w.load(relay, 0, 1000)
	var acked []netip.Addr
	load.Acked = func(_ uint32, a netip.Addr) { acked = append(acked, a) }
	done := make(chan error, 1)
	go func() {
		_, err := load.Run(time.Minute)
		done <- err
	}()
	// What was reserved before the disk got full may still be used up; then no
	// Reply comes.
	w.must(w.Server.WaitLog("disk full", 30*time.Second))
	select {
	case err := <-done:
		t.Fatalf("all exchanges ended on a full disk: %v", err)
	case <-time.After(3 * time.Second):
	}
	w.must(os.Remove(ballast))
	w.must(w.Server.WaitLog("disk space is back", 30*time.Second))
	w.must(<-done)
	if len(acked) != 1000 {
		t.Errorf("%d exchanges ended well, want all 1000", len(acked))
	}
	w.stored(acked)
	w.must(w.Server.Stop())
}

// load makes clients behind the relay's host.
func (w *world) load(relay *netlab.Namespace, first uint32, total int) *netlab.Load {
	w.t.Helper()
	conn, err := relay.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(netlab.RelayAddr), 547))
	w.must(err)
	w.t.Cleanup(func() { conn.Close() })
	return &netlab.Load{
		Conn: conn, Server: netip.AddrPortFrom(netip.MustParseAddr(netlab.ServerAddr), 547),
		Link: netip.MustParseAddr(netlab.RelayDown), Open: 64, First: first, Total: total,
	}
}

// stored checks that every address is leased.
func (w *world) stored(addrs []netip.Addr) {
	w.t.Helper()
	leases, err := w.Leases()
	w.must(err)
	have := make(map[netip.Addr]bool)
	for _, l := range leases {
		have[l.Address] = true
	}
	lost := 0
	for _, a := range addrs {
		if !have[a] {
			lost++
		}
	}
	if lost > 0 {
		w.t.Errorf("%d of %d acknowledged leases are lost", lost, len(addrs))
	}
}

// kill -9 in the middle of a load: nothing that was acknowledged is missing, and
// no address went to two clients.
func TestAServerKilledUnderLoadLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info"})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	holder := make(map[netip.Addr]uint32)
	var acked []netip.Addr
	load := w.load(relay, 0, 1<<20)
	var loaded func() // called when the round has its load
	load.Acked = func(client uint32, a netip.Addr) {
		if other, ok := holder[a]; ok && other != client {
			t.Errorf("%s was leased to clients %d and %d", a, other, client)
		}
		holder[a] = client
		if acked = append(acked, a); len(acked)%200 == 0 {
			loaded()
		}
	}
	for round := range 3 {
		w.must(w.Serve())
		load.First = uint32(round) << 20
		// Killed when it is in the middle of work, however long the machine takes
		// to get there.
		var once sync.Once
		stop, killed := make(chan struct{}), make(chan error, 1)
		load.Stop = stop
		loaded = func() {
			once.Do(func() {
				time.AfterFunc(100*time.Millisecond, func() {
					killed <- w.KillServer()
					close(stop)
				})
			})
		}
		if _, err := load.Run(30 * time.Second); !errors.Is(err, netlab.ErrStopped) {
			t.Fatalf("round %d ended by itself: %v", round, err)
		}
		w.must(<-killed)
		w.stored(acked)
	}
	if len(acked) < 600 {
		t.Errorf("only %d leases were acknowledged; the test shows nothing", len(acked))
	}
	w.must(w.Serve())
	w.stored(acked)
}

func TestTheServerLeavesNoCore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{})
	w.attach("direct")
	w.must(w.Serve())
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", w.Server.Pid()))
	w.must(err)
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") {
			if f := strings.Fields(line); f[4] != "0" || f[5] != "0" {
				t.Errorf("%s", line)
			}
			return
		}
	}
	t.Errorf("no limit on core files:\n%s", limits)
}

func TestSecretsThatOthersMayReadAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{})
	for _, f := range []string{"keyring", "registry.key", "resolver.key", "table.toml"} {
		path := w.Path("etc", f)
		w.must(os.Chmod(path, 0o644))
		_, err := w.Run("gidserver", "check-config", "--config", w.Config())
		if err == nil || !strings.Contains(err.Error(), "0600") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", f, err)
		}
		w.must(os.Chmod(path, 0o600))
	}
	if out, err := w.Run("gidserver", "check-config", "--config", w.Config()); err != nil || !strings.Contains(out, "is in order") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestASecondServerSaysThatOneIsRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{})
	w.attach("direct")
	w.must(w.Serve())
	if out, err := w.Run("gidserver", "serve", "--config", w.Config()); err == nil || !strings.Contains(err.Error(), "is gidserver running already?") {
		t.Errorf("%v, %s", err, out)
	}
}
