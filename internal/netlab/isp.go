package netlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ISP is a gidserver in a namespace, with the trustees, the court and the police
// that belong to a trace, each with files of their own.
type ISP struct {
	// Host runs the server. Its interface eth1 leads to clients, eth2 to
	// relays; their links are made by [ISP.Direct] and [ISP.Relayed].
	Host *Namespace

	// Dir holds etc (the server's configuration), state, and a directory for
	// each role.
	Dir string

	Server *Process

	lab   *Lab
	bin   string // directory of the built programs
	realm string
}

// Trustees are those of the lab, any two of whom open an NID.
var Trustees = []string{"judge", "regulator", "isp"}

// Prefixes and addresses in the lab.
const (
	DirectPrefix = "2001:db8:1::/64"
	RelayPrefix  = "2001:db8:2::/64"
	DirectPool   = "2001:db8:4000::/40"
	RelayPool    = "2001:db8:8000::/40"
	ServerAddr   = "2001:db8:ff::1"
	RelayAddr    = "2001:db8:ff::2"
	RelayDown    = "2001:db8:2::1"
	ResolveAddr  = "[::1]:8547"
)

// ISPOptions are what NewISP may be told.
type ISPOptions struct {
	Bin      string // directory of gidserver and tracectl
	Realm    string
	Lease    string            // lines of the [lease] section
	DHCPv6   string            // lines of the [dhcpv6] section
	Table    map[string]string // link-layer address → EID; it is sealed
	LogLevel string

	// Delegate, if not empty, has each link delegate prefixes of /56; it is lines of
	// their pools' sections.
	Delegate string

	// LeaseQuery has the server answer filters.
	LeaseQuery bool

	// Dealerless has the trustees make the escrow key between them, which takes a
	// while; else it is dealt.
	Dealerless bool
}

// NewISP makes the keys of everybody and a configuration. [ISP.Serve] starts the
// server.
func (l *Lab) NewISP(o ISPOptions) (*ISP, error) {
	host, err := l.Namespace("isp")
	if err != nil {
		return nil, err
	}
	i := &ISP{Host: host, Dir: filepath.Join(l.Dir, "isp"), lab: l, bin: o.Bin}
	if o.Realm == "" {
		o.Realm = "isp.example"
	}
	i.realm = o.Realm
	if o.LogLevel == "" {
		o.LogLevel = "debug"
	}
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return nil, err
	}
	steps := [][]string{
		{"tracectl", "identity", "new", "--name", "District Court", "--role", "judge", "--out", i.Path("court")},
		{"tracectl", "identity", "new", "--name", "Police", "--holder", "--out", i.Path("police")},
	}
	if err := os.MkdirAll(i.Path("trustees", "carried"), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(i.Path("trustees", "passphrase"), []byte(passphrase+"\n"), 0o600); err != nil {
		return nil, err
	}
	ledger := []string{"tracectl", "ledger", "init", "--ledger", i.Path("ledger"), "--origin", o.Realm + "/gid-ledger",
		"--root", i.Path("court.pem"), "--root", i.Path("police.pem"), "--root", i.Path("etc", "resolver.pem")}
	for _, trustee := range Trustees {
		steps = append(steps, []string{"tracectl", "identity", "new", "--name", "trustee " + trustee, "--role", "trustee", "--out", i.Path("trustees", trustee)})
		ledger = append(ledger, "--root", i.Path("trustees", trustee+".pem"))
	}
	if o.Dealerless {
		steps = append(steps, i.ceremony()...)
	} else {
		steps = append(steps, []string{"tracectl", "ceremony", "deal", "--threshold", "2", "--trustees", strings.Join(Trustees, ","), "--out", i.Path("trustees")})
	}
	steps = append(steps, []string{"gidserver", "init", "--dir", i.Path("etc"), "--state", i.Path("state"), "--realm", o.Realm, "--interface", "eth1",
		"--prefix", DirectPrefix, "--listen", ResolveAddr, "--host", ServerAddr, "--ledger", i.Path("ledger"), "--escrow", i.Path("trustees", "escrow.json")}, ledger)
	for _, s := range steps {
		if _, err := i.Run(s[0], s[1:]...); err != nil {
			return nil, err
		}
	}
	trust := "authorities = [\"court.pem\"]\nisps = [\"etc/resolver.pem\"]\nescrow = \"trustees/escrow.json\"\nledger = \"ledger\"\n"
	if err := os.WriteFile(i.Path("trust.toml"), []byte(trust), 0o644); err != nil {
		return nil, err
	}
	if err := i.configure(o); err != nil {
		return nil, err
	}
	return i, l.roots(i)
}

// passphrase locks the trustees' shares where they make them without a dealer.
const passphrase = "correct horse battery staple"

// ceremony returns the steps by which the trustees make the escrow key between them.
func (i *ISP) ceremony() [][]string {
	dir := func(elem ...string) string { return i.Path(append([]string{"trustees"}, elem...)...) }
	locked := []string{"--passphrase-file", dir("passphrase"), "--work-factor", "10"}
	steps := [][]string{{"tracectl", "ceremony", "begin", "--threshold", "2", "--out", dir("roster.json")}}
	var joins [][]string
	next := func(t string) []string {
		return append([]string{"tracectl", "ceremony", "next", "--roster", dir("roster.json"), "--files", dir("carried"),
			"--identity", dir(t), "--secret", dir(t + ".secret"), "--out", dir(t)}, locked...)
	}
	for _, t := range Trustees {
		joins = append(joins, append([]string{"tracectl", "ceremony", "join", "--name", t, "--identity", dir(t), "--out", dir(t)}, locked...))
		steps[0] = append(steps[0], "--member", dir(t+".join"))
	}
	a, b, c := Trustees[0], Trustees[1], Trustees[2]
	// Each takes the next step when the others' files have come: deals, verdicts,
	// openings, acceptances.
	for _, t := range []string{a, b, c, a, b, a, c, a, b} {
		steps = append(steps, next(t))
	}
	steps = append(steps, next(a), next(c),
		[]string{"tracectl", "ceremony", "status", "--roster", dir("roster.json"), "--files", dir("carried"), "--out", dir("escrow.json")})
	return append(joins, steps...)
}

// roots tells the server whose warrants count.
func (l *Lab) roots(i *ISP) error {
	for from, to := range map[string]string{"court.pem": "authorities.pem", "police.pem": "holders.pem"} {
		b, err := os.ReadFile(i.Path(from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(i.Path("etc", to), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the lab's settings into the configuration that init made.
func (i *ISP) configure(o ISPOptions) error {
	b, err := os.ReadFile(i.Config())
	if err != nil {
		return err
	}
	text := string(b)
	leasequery := ""
	if o.LeaseQuery {
		leasequery = fmt.Sprintf("listen = \"[::]:547\"\nqueriers = [%q]\n", DeviceAddr)
	}
	pool := func(prefix string) string {
		if o.Delegate == "" {
			return ""
		}
		return fmt.Sprintf("[[link.delegate]]\nprefix = %q\nlength = 56\n%s\n", prefix, o.Delegate)
	}
	for old, new := range map[string]string{
		"[auth]\n":       fmt.Sprintf(pool(DirectPool)+"[[link]]\nname = \"relayed\"\nprefixes = [%q]\n"+pool(RelayPool)+"\n[auth]\ntrusted-relays = [%q, %q]\n", RelayPrefix, RelayAddr, RelayDown),
		"[lease]\n":      "[lease]\n" + o.Lease + "\n",
		"[dhcpv6]\n":     "[dhcpv6]\n" + o.DHCPv6 + "\n",
		"[leasequery]\n": "[leasequery]\n" + leasequery,
		"[log]\n":        fmt.Sprintf("[log]\nlevel = %q\n", o.LogLevel),
	} {
		if !strings.Contains(text, old) {
			return fmt.Errorf("gidserver's configuration has no section %q", strings.TrimSpace(old))
		}
		text = strings.Replace(text, old, new, 1)
	}
	if err := os.WriteFile(i.Config(), []byte(text), 0o644); err != nil {
		return err
	}
	if len(o.Table) == 0 {
		return nil
	}
	var table strings.Builder
	for mac, eid := range o.Table {
		fmt.Fprintf(&table, "[[entry]]\nlink-layer = %q\neid = %q\n\n", mac, eid)
	}
	if err := os.WriteFile(i.Path("etc", "table.toml"), []byte(table.String()), 0o600); err != nil {
		return err
	}
	_, err = i.Run("gidserver", "seal-table", "--config", i.Config())
	return err
}

// Configure puts lines into a section of the server's configuration.
func (i *ISP) Configure(section, lines string) error {
	b, err := os.ReadFile(i.Config())
	if err != nil {
		return err
	}
	head := "[" + section + "]\n"
	if !strings.Contains(string(b), head) {
		return fmt.Errorf("gidserver's configuration has no section %q", section)
	}
	return os.WriteFile(i.Config(), []byte(strings.Replace(string(b), head, head+lines, 1)), 0o644)
}

// Reconfigure replaces text of the server's configuration.
func (i *ISP) Reconfigure(old, new string) error {
	b, err := os.ReadFile(i.Config())
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), old) {
		return fmt.Errorf("gidserver's configuration has no %q", old)
	}
	return os.WriteFile(i.Config(), []byte(strings.Replace(string(b), old, new, 1)), 0o644)
}

// Path returns a path below the ISP's directory.
func (i *ISP) Path(elem ...string) string { return filepath.Join(append([]string{i.Dir}, elem...)...) }

// Config returns the path of the server's configuration.
func (i *ISP) Config() string { return i.Path("etc", "gidserver.toml") }

// Run runs one of the project's programs on the ISP's host and returns what it
// printed.
func (i *ISP) Run(program string, args ...string) (string, error) {
	return i.Host.Output(filepath.Join(i.bin, program), args...)
}

// Direct connects a client's host, by an interface eth0 with a MAC address, to
// the server's eth1.
func (i *ISP) Direct(client *Namespace, mac string) error {
	if err := i.lab.Connect(client, "eth0", mac, i.Host, "eth1", ""); err != nil {
		return err
	}
	return i.Host.Do("ip", "address", "add", "2001:db8:1::1/64", "dev", "eth1", "nodad")
}

// Relayed makes a relay's host between the server's eth2 and a client's eth0:
// its interface down0 leads to the client and up0 to the server.
func (i *ISP) Relayed(client *Namespace, mac string) (*Namespace, error) {
	return i.router(client, "eth0", mac)
}

// router makes a relay's host before the server, whose interface down0 leads to an
// interface of a client or of a device with clients.
func (i *ISP) router(below *Namespace, iface, mac string) (*Namespace, error) {
	relay, err := i.lab.Namespace("relay")
	if err != nil {
		return nil, err
	}
	if err := i.lab.Connect(relay, "up0", "", i.Host, "eth2", ""); err != nil {
		return nil, err
	}
	if err := i.lab.Connect(below, iface, mac, relay, "down0", ""); err != nil {
		return nil, err
	}
	if i.Host.Do("ip", "link", "show", "eth1") != nil { // a link without clients
		if err := i.lab.Connect(i.Host, "eth1", "", i.Host, "eth1peer", ""); err != nil {
			return nil, err
		}
	}
	return relay, errors.Join(
		i.Host.Do("ip", "address", "add", ServerAddr+"/64", "dev", "eth2", "nodad"),
		relay.Do("ip", "address", "add", RelayAddr+"/64", "dev", "up0", "nodad"),
		relay.Do("ip", "address", "add", RelayDown+"/64", "dev", "down0", "nodad"),
		i.Host.Do("ip", "route", "add", RelayPrefix, "via", RelayAddr),
	)
}

// SecondAddr is where a server of [ISP.Second] is.
const SecondAddr = "2001:db8:fe::1"

// Second makes another server of the ISP, on a host of its own behind the relay's interface
// up1, with the same keys and, but for a state of its own, the same configuration.
func (i *ISP) Second(relay *Namespace) (*ISP, error) {
	host, err := i.lab.Namespace("isp2")
	if err != nil {
		return nil, err
	}
	second := &ISP{Host: host, Dir: filepath.Join(i.lab.Dir, "isp2"), lab: i.lab, bin: i.bin, realm: i.realm}
	if err := os.CopyFS(second.Path("etc"), os.DirFS(i.Path("etc"))); err != nil {
		return nil, err
	}
	if err := filepath.WalkDir(second.Path("etc"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		from, err := os.Stat(filepath.Join(i.Path("etc"), strings.TrimPrefix(path, second.Path("etc"))))
		if err != nil {
			return err
		}
		return os.Chmod(path, from.Mode().Perm()) // CopyFS keeps less of it
	}); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(second.Config())
	if err != nil {
		return nil, err
	}
	text := strings.ReplaceAll(string(b), strconv.Quote(i.Path("state")), strconv.Quote(second.Path("state")))
	if err := os.WriteFile(second.Config(), []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := i.lab.Connect(relay, "up1", "", host, "eth2", ""); err != nil {
		return nil, err
	}
	if err := i.lab.Connect(host, "eth1", "", host, "eth1peer", ""); err != nil {
		return nil, err
	}
	up := strings.TrimSuffix(SecondAddr, "1") + "2"
	return second, errors.Join(
		host.Do("ip", "address", "add", SecondAddr+"/64", "dev", "eth2", "nodad"),
		relay.Do("ip", "address", "add", up+"/64", "dev", "up1", "nodad"),
		host.Do("ip", "route", "add", RelayPrefix, "via", up),
		host.Do("ip", "route", "add", RelayAddr+"/128", "via", up),
	)
}

// DHCRelay starts ISC's relay, which names the line by a Subscriber-ID.
func (i *ISP) DHCRelay(relay *Namespace, subscriber string) (*Process, error) {
	p, err := relay.Start("dhcrelay", "-6", "-d", "--no-pid", "-I", "-s", subscriber, "-l", "down0", "-u", ServerAddr+"%up0")
	if err != nil {
		return nil, err
	}
	return p, p.WaitLog("Sending on   Socket/", 10*time.Second)
}

// Dnsmasq starts dnsmasq as a relay, which tells the client's link-layer address
// (RFC 6939).
func (i *ISP) Dnsmasq(relay *Namespace) (*Process, error) {
	p, err := relay.Start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file",
		"--interface=down0", "--interface=up0", "--log-dhcp", "--dhcp-relay="+RelayDown+","+ServerAddr)
	if err != nil {
		return nil, err
	}
	return p, p.WaitLog("DHCP relay from", 10*time.Second)
}

// Serve starts the server and waits until it is ready. wrap, if not empty, is a
// command that runs it, such as taskset.
func (i *ISP) Serve(wrap ...string) error {
	args := append(wrap, filepath.Join(i.bin, "gidserver"), "serve", "--config", i.Config())
	p, err := i.Host.Start(args[0], args[1:]...)
	if err != nil {
		return err
	}
	i.Server = p
	return p.WaitLog("msg=serving", 20*time.Second)
}

// Lease is what `gidserver leases --json` prints.
type Lease struct {
	Address    netip.Addr `json:"address"`
	Prefix     string     `json:"prefix"`
	Subscriber uint64     `json:"subscriber"`
	Slot       uint16     `json:"slot"`
	Epoch      uint32     `json:"epoch"`
	State      string     `json:"state"`
	Born       time.Time  `json:"born"`
	Start      time.Time  `json:"start"`
	Updated    time.Time  `json:"updated"`
	ValidUntil time.Time  `json:"valid_until"`
}

// Leases lists the leases, ended ones as well.
func (i *ISP) Leases() ([]Lease, error) {
	out, err := i.Run("gidserver", "leases", "--config", i.Config(), "--all", "--json")
	if err != nil {
		return nil, err
	}
	var leases []Lease
	for line := range strings.Lines(out) {
		var l Lease
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return nil, err
		}
		leases = append(leases, l)
	}
	return leases, nil
}

// Decode runs `gidserver gid decode` on a lease's address.
func (i *ISP) Decode(addr netip.Addr, at time.Time) (string, error) {
	return i.Run("gidserver", "gid", "decode", "--keyring", i.Path("etc", "keyring"), "--address", addr.String(), "--time", fmt.Sprint(at.Unix()))
}

// Step is one command of a trace.
type Step struct {
	Who, Program string
	Args         []string
}

// TraceSteps returns the commands that recover the EID behind an address at a
// time, each of which stands on the ledger; name makes their files. The last but one
// prints the report, the last checks it from outside.
func (i *ISP) TraceSteps(name string, addr netip.Addr, at time.Time) []Step {
	file := func(suffix string) string { return i.Path(name + suffix) }
	trust := []string{"--trust", i.Path("trust.toml")}
	warrant := []string{"--warrant", file(".warrant")}
	both := append(slices.Clone(warrant), "--resolution", file(".resolution"))
	tracectl := func(who, identity string, args ...[]string) Step {
		all := slices.Concat(args...)
		if identity != "" {
			all = append(all, "--identity", identity)
		}
		return Step{who, "tracectl", all}
	}
	approve := func(trustee string) Step {
		return tracectl("trustee "+trustee, i.Path("trustees", trustee), []string{"approve"}, trust, both,
			[]string{"--share", i.Path("trustees", trustee+".share"), "--passphrase-file", i.Path("trustees", "passphrase"), "--out", file("." + trustee)})
	}
	return []Step{
		tracectl("court", "", []string{"warrant", "new", "--case", "7 O 12/26", "--authority", "District Court", "--legal-basis", "laboratory order", "--purpose", "demonstration",
			"--realm", i.realm, "--holder", i.Path("police.holder.json"), "--address", addr.String(), "--from", at.UTC().Format(time.RFC3339),
			"--seal-until", at.AddDate(0, 6, 0).UTC().Format(time.RFC3339), "--out", file(".json")}),
		tracectl("court", i.Path("court"), []string{"warrant", "sign", "--warrant", file(".json"), "--out", file(".warrant")}),
		tracectl("court", i.Path("court"), []string{"warrant", "submit"}, trust, warrant),
		tracectl("police", i.Path("police"), []string{"resolve"}, trust, warrant, []string{"--server", "https://" + ResolveAddr, "--out", file(".resolution")}),
		approve("judge"),
		approve("regulator"),
		tracectl("police", i.Path("police"), []string{"recover"}, trust, both,
			[]string{"--approval", file(".judge"), "--approval", file(".regulator"), "--out", file(".report"), "--html", file(".html"), "--json"}),
		tracectl("anybody", "", []string{"verify", "--authorities", i.Path("court.pem"), "--isps", i.Path("etc", "resolver.pem"), "--escrow", i.Path("trustees", "escrow.json"),
			"--vkey", i.Path("ledger", "log.vkey"), "--roots", i.Path("ledger", "roots.pem"), file(".report")}),
	}
}

// Persons returns the EIDs in the report that "recover --json" prints.
func Persons(report string) ([]string, error) {
	var r struct {
		Report struct {
			Findings []struct {
				Persons []struct {
					EID string `json:"eid"`
				} `json:"persons"`
			} `json:"findings"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(report), &r); err != nil {
		return nil, err
	}
	var eids []string
	for _, f := range r.Report.Findings {
		for _, p := range f.Persons {
			eids = append(eids, p.EID)
		}
	}
	return eids, nil
}

// Trace takes all of TraceSteps and returns the EIDs.
func (i *ISP) Trace(name string, addr netip.Addr, at time.Time) ([]string, error) {
	report := ""
	for _, s := range i.TraceSteps(name, addr, at) {
		out, err := i.Run(s.Program, s.Args...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Who, err)
		}
		if s.Args[0] == "recover" {
			report = out
		}
	}
	return Persons(report)
}

// Search looks for a text in every file of the server: its configuration, state
// and what it logged. It returns the places.
func (i *ISP) Search(text string) ([]string, error) {
	found, err := i.Grep(text, "etc", "state")
	if strings.Contains(i.Server.Log(), text) {
		found = append(found, "the server's log")
	}
	return found, err
}

// Grep looks for a text in the files below directories of the ISP and returns
// those that hold it.
func (i *ISP) Grep(text string, dirs ...string) ([]string, error) {
	args := []string{"-rlaF", "--", text}
	for _, d := range dirs {
		args = append(args, i.Path(d))
	}
	out, err := exec.Command("grep", args...).Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}

// KillServer ends the server as a crash would.
func (i *ISP) KillServer() error {
	if err := i.Server.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = i.Server.Wait(10 * time.Second) // killed
	return nil
}
