package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/control"
	"brightgid/internal/identityfile"
	"brightgid/internal/logging"
	"brightgid/sava"
	"brightgid/sava/leasequery"
	"brightgid/sava/tap"
	"brightgid/sava/xdp"
	"brightgid/trace"
)

const (
	defaultControl = "/run/gidfilter/control.sock"
	defaultPin     = "/sys/fs/bpf/gidfilter"
)

type runOptions struct {
	access, trusted       []string
	mode                  string
	generic               bool
	server, serverName    string
	serverCert, identity  string
	query                 string
	metrics, control, pin string
	limit                 int
	logLevel, logFormat   string
	forge                 forgerOptions
	enforce               bool
	queryAddr             netip.AddrPort
	servers               []*x509.Certificate
	me                    *trace.Identity
}

func runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run",
		Short: "Judge what comes in at interfaces, and drop what does not pass",
		Long: `Judge every frame that comes in at the access interfaces, in the foreground until
SIGTERM or SIGINT. It logs to standard error and says "filtering" when it is ready.

Hosts are on access interfaces. Routers, servers and other devices that validate
are on trusted ones (RFC 7039), where nothing is judged. Interfaces may be ports of
a bridge.

Bindings come from the ISP's server by leasequery (--server), and from the DHCPv6
messages that pass; with both, the server says which addresses are leased, and the
messages at which port their hosts are.

What is in the kernel outlives the process: after a stop, a crash or an update the
last bindings go on being enforced until the next start takes them over, or
"gidfilter detach" ends it. While no process runs, hosts go on with the addresses and
the neighbours that they have, and can get no others.`,
		Example: `  gidfilter identity --name "access switch 7" --out /etc/gidfilter/filter
  gidfilter run --interface eth1 --interface eth2 --trusted eth0 \
      --server gidserver.isp.example:547 --server-cert resolver.pem \
      --identity /etc/gidfilter/filter
  gidfilter run --interface eth1 --mode monitor`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
				return cli.Usagef("--log-level: %q: want debug, info, warn or error", o.logLevel)
			}
			log, err := logging.New(c.ErrOrStderr(), o.logFormat, level)
			if err != nil {
				return cli.Usagef("--log-format: %w", err)
			}
			return o.run(c.Context(), log)
		},
	}
	f := c.Flags()
	f.StringSliceVarP(&o.access, "interface", "i", nil, "access `interface`, where hosts are; may be given several times")
	f.StringSliceVar(&o.trusted, "trusted", nil, "`interface` that is not checked; may be given several times")
	f.StringVar(&o.mode, "mode", "enforce", "`mode`: enforce, or monitor, which counts what it would drop")
	f.BoolVar(&o.generic, "generic", false, "do not use the drivers' own XDP")
	f.StringVar(&o.server, "server", "", "`address` and port of the DHCPv6 server's leasequery")
	f.StringVar(&o.serverCert, "server-cert", "", "the server's certificate, or its authority's, a `file`")
	f.StringVar(&o.serverName, "server-name", "", "the `name` in the server's certificate, if it is not that in --server")
	f.StringVar(&o.identity, "identity", "", "this filter's key and certificate, a `path` without .key and .pem")
	f.StringVar(&o.query, "query", "", "without --server: `address` and port of a DHCPv6 server to ask, by UDP, about sources that nobody is bound to")
	o.forge.flags(c)
	f.StringVar(&o.metrics, "metrics", "", "`address` and port for Prometheus")
	f.StringVar(&o.control, "control", defaultControl, "`path` of the socket by which gidfilter's other commands ask")
	f.StringVar(&o.pin, "pin", defaultPin, "`directory` in a BPF file system that keeps the filter between runs; \"\" for none")
	f.IntVar(&o.limit, "limit", sava.DefaultLimit, "how many `bindings` there may be")
	f.StringVar(&o.logLevel, "log-level", "info", "`level`: debug, info, warn, error")
	f.StringVar(&o.logFormat, "log-format", "text", "`format`: text, json")
	cli.Require(c, "interface")
	return c
}

func (o *runOptions) check() error {
	switch o.mode {
	case "enforce":
		o.enforce = true
	case "monitor":
	default:
		return cli.Usagef("--mode: %q: want enforce or monitor", o.mode)
	}
	seen := make(map[string]bool)
	for _, name := range slices.Concat(o.access, o.trusted) {
		if seen[name] {
			return cli.Usagef("interface %q is given twice", name)
		}
		seen[name] = true
	}
	if len(seen) > 256 {
		return cli.Usagef("%d interfaces: want 256 at most", len(seen))
	}
	if o.limit < 1 || o.limit > 1<<24 {
		return cli.Usagef("--limit %d: want 1 to %d", o.limit, 1<<24)
	}
	if o.query != "" {
		if o.server != "" {
			return cli.Usagef("--query is of no use with --server, which tells of all leases")
		}
		var err error
		if o.queryAddr, err = netip.ParseAddrPort(o.query); err != nil || !o.queryAddr.Addr().Is6() {
			return cli.Usagef("--query: %q: want an IPv6 address and a port, as in \"[2001:db8::1]:547\"", o.query)
		}
	}
	if o.server == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(o.server)
	if err != nil {
		return cli.Usagef("--server: %q: want an address and a port", o.server)
	}
	if o.serverName == "" {
		o.serverName = host
	}
	if o.serverCert == "" || o.identity == "" {
		return cli.Usagef("--server needs --server-cert and --identity")
	}
	if o.servers, err = identityfile.Certificates(o.serverCert); err != nil {
		return err
	}
	o.me, err = identityfile.Read(o.identity)
	return err
}

// ports finds the interfaces.
func (o *runOptions) ports() ([]xdp.Port, error) {
	var ports []xdp.Port
	for n, name := range slices.Concat(o.access, o.trusted) {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		if len(i.HardwareAddr) != 6 {
			return nil, fmt.Errorf("interface %s: it is not Ethernet", name)
		}
		ports = append(ports, xdp.Port{Index: uint32(i.Index), Name: name, Trusted: n >= len(o.access)})
	}
	return ports, nil
}

// filter is a filter that runs.
type filter struct {
	log     *slog.Logger
	enforce bool
	ports   []xdp.Port
	names   map[uint32]string // of the ports
	program *xdp.Program
	table   *sava.Table
	client  *leasequery.Client // nil without a server
	forger  sava.Forger
	taps    map[uint32]*tap.Tap
	asker   *asker // nil without --query

	mu      sync.Mutex // of the device
	device  *sava.Device
	judged  [][sava.NumReasons]atomic.Uint64 // in user space, for each port
	samples samples
}

func (o *runOptions) run(ctx context.Context, log *slog.Logger) (err error) {
	forger, err := o.forge.forger()
	if err != nil {
		return err
	}
	ports, err := o.ports()
	if err != nil {
		return err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("%w (root is needed)", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.control), 0o700); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	socket, err := control.Listen(o.control)
	if err != nil {
		return err
	}
	f := &filter{log: log, enforce: o.enforce, ports: ports, forger: forger, names: make(map[uint32]string), taps: make(map[uint32]*tap.Tap),
		judged: make([][sava.NumReasons]atomic.Uint64, len(ports))}
	f.program, err = xdp.Load(xdp.Options{Ports: ports, Generic: o.generic, Enforce: o.enforce, Recover: o.query != "", Limit: o.limit, Pin: o.pin})
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	defer func() { err = errors.Join(err, f.program.Close()) }()
	f.table = sava.NewTable(o.limit, f.program)
	var trusted []uint32
	for i, p := range ports {
		f.names[p.Index] = p.Name
		log.Info("a port", "interface", p.Name, "trusted", p.Trusted, "xdp", f.program.Mode(i))
		t, err := tap.Open(int(p.Index))
		if err != nil {
			return fmt.Errorf("interface %s: %w", p.Name, err)
		}
		defer t.Close()
		f.taps[p.Index] = t
		if p.Trusted {
			trusted = append(trusted, p.Index)
		}
	}
	kept, err := f.program.Adopt(time.Now(), f.table.Adopt)
	if err != nil {
		return fmt.Errorf("bindings of an earlier run: %w", err)
	}
	if kept > 0 {
		log.Info("bindings of an earlier run go on", "bindings", kept)
	}
	f.device = sava.NewDevice(f.table, trusted, o.query != "", forger)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	start := func(what string, part func(context.Context) error) {
		parts.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	if o.query != "" {
		if f.asker, err = newAsker(o.queryAddr); err != nil {
			return fmt.Errorf("--query: %w", err)
		}
		defer f.asker.Close()
		start("leasequery", func(ctx context.Context) error { return f.asker.run(ctx, f.answered) })
	}
	if o.server != "" {
		f.client = o.client(f.table, log)
		start("leasequery", f.client.Run)
	}
	if o.metrics != "" {
		l, err := net.Listen("tcp", o.metrics)
		if err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
		start("metrics", func(ctx context.Context) error {
			return control.Serve(ctx, &http.Server{Handler: metricsHandler(f)}, l, log)
		})
	}
	start("control socket", func(ctx context.Context) error {
		return control.Serve(ctx, &http.Server{Handler: f.controlHandler()}, socket, log)
	})
	for index, t := range f.taps {
		start("port "+f.names[index], func(ctx context.Context) error {
			return t.Run(ctx, func(frame []byte) { f.sent(index, frame) })
		})
	}
	start("frames", func(ctx context.Context) error { return f.program.HandedUp(ctx, f.handedUp) })
	start("samples", func(ctx context.Context) error { return f.program.Drops(ctx, f.dropped) })
	start("timers", f.tick)

	log.Info("filtering", "version", version, "mode", o.mode, "access", len(o.access), "trusted", len(o.trusted), "bindings", f.table.Len())
	<-ctx.Done()
	parts.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	if o.pin != "" && o.enforce {
		log.Info("stopped; the kernel goes on enforcing", "end", "gidfilter detach")
	} else {
		log.Info("stopped")
	}
	return nil
}

func (o *runOptions) client(table *sava.Table, log *slog.Logger) *leasequery.Client {
	config := trace.ClientTLS(o.me, o.servers)
	config.ServerName = o.serverName
	var d net.Dialer
	return &leasequery.Client{
		Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", o.server) },
		TLS:  config, DUID: clientDUID(o.me), Table: table, Now: time.Now, Log: log,
	}
}

// handedUp judges a frame that the kernel holds back, and sends it on its way.
func (f *filter) handedUp(e xdp.Event) {
	now := time.Now()
	f.mu.Lock()
	v := f.device.Frame(e.Port, e.Data, now)
	f.mu.Unlock()
	i := slices.IndexFunc(f.ports, func(p xdp.Port) bool { return p.Index == e.Port })
	if i < 0 || e.Copy {
		return
	}
	if !f.ports[i].Trusted { // those are counted in the kernel
		f.judged[i][v.Reason].Add(1)
	}
	if !v.Reason.Pass() {
		f.sample(now, f.ports[i].Name, &v)
		return
	}
	if !f.enforce {
		return // it has passed already
	}
	if err := f.program.Inject(e.Port, e.Data); err != nil {
		f.log.Error("a frame that passes could not be sent on its way", "interface", f.ports[i].Name, "error", err)
	}
}

// sent takes note of a DHCPv6 message that the device itself sends to a host.
func (f *filter) sent(port uint32, frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.device.Sent(port, frame, time.Now())
}

// dropped keeps a sample of what the kernel dropped.
func (f *filter) dropped(e xdp.Event) {
	now := time.Now()
	v := sava.Verdict{Reason: e.Reason}
	v.Peek(e.Port, e.Data)
	if v.Reason == sava.Unbound && f.forger != nil && f.forger.Forged(v.Src(), now) {
		v.Reason = sava.Forged
	}
	f.sample(now, f.names[e.Port], &v)
}

func (f *filter) sample(now time.Time, port string, v *sava.Verdict) {
	d := drop{
		Time: now.UTC(), Interface: port, Reason: v.Reason.String(), Source: v.Src().String(),
		LinkLayer: net.HardwareAddr(v.Anchor.MAC[:]).String(), VLAN: vlanString(v.Anchor.VLAN),
	}
	f.samples.add(d)
	f.log.Debug("dropped", "interface", d.Interface, "reason", d.Reason, "source", d.Source, "link_layer", d.LinkLayer, "enforced", f.enforce)
}

// answered takes the server's answer about an address.
func (f *filter) answered(d sava.ClientData) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.device.Snooper.Answer(d, time.Now())
}

// tick does what is due: timers of the snooper, and what it wants done; bindings
// that are over; interfaces that are gone.
func (f *filter) tick(ctx context.Context) error {
	const every, expireEvery, checkEvery = 50 * time.Millisecond, 10 * time.Second, time.Second
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	expire, check := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		now := time.Now()
		f.mu.Lock()
		f.device.Snooper.Tick(now)
		actions := slices.Clone(f.device.Snooper.Actions())
		f.mu.Unlock()
		for _, a := range actions {
			f.do(a)
		}
		if now.Sub(expire) >= expireEvery {
			expire = now
			f.table.Expire(now.Add(-expiredKept))
		}
		if now.Sub(check) >= checkEvery {
			check = now
			for _, p := range f.ports {
				if i, err := net.InterfaceByName(p.Name); err != nil || uint32(i.Index) != p.Index {
					return fmt.Errorf("interface %s is gone, or another one now; start again", p.Name)
				}
			}
		}
	}
}

// expiredKept is how long a binding that is over is kept, so that drops are told
// from those of addresses that were never leased.
const expiredKept = time.Minute

// do does what the snooper wants done.
func (f *filter) do(a sava.Action) {
	switch a.Kind {
	case sava.Probe:
		for port, t := range f.taps {
			if port == a.Anchor.Port {
				continue
			}
			if err := t.Send(sava.Solicitation(a.Addr, a.Anchor.VLAN, sava.MAC(t.HardwareAddr()))); err != nil {
				f.log.Debug("a probe was not sent", "interface", f.names[port], "error", err)
			}
		}
	case sava.Query:
		if f.asker != nil {
			if err := f.asker.ask(a.Addr); err != nil {
				f.log.Debug("a leasequery was not sent", "error", err)
			}
		}
	}
}
