package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Resolver is where [ISP.Unbound] answers.
const Resolver = "[" + ServerAddr + "]:5335"

// Zone has the server answer for the reverse zone, signed. It is called before the
// server starts.
func (i *ISP) Zone() error {
	if _, err := i.Run("gidserver", "zone", "key", "--out", i.Path("etc", "zone.key")); err != nil {
		return err
	}
	if err := i.Configure("zone", "listen = \"["+ServerAddr+"]:53\"\nprefixes = [\"2001:db8:1::/48\"]\nns = [\"ns1.isp.example\"]\n"+
		"mailbox = \"hostmaster.isp.example\"\nnames = \"gid.isp.example\"\nkey = \"zone.key\"\n"); err != nil {
		return err
	}
	if i.Host.Do("ip", "link", "show", "eth2") == nil {
		return nil // it has the address there, towards a relay
	}
	return i.Host.Do("ip", "address", "add", ServerAddr+"/128", "dev", "lo", "nodad")
}

// Unbound starts a validating resolver at [Resolver] and [::1]:5335, which knows some
// records beside. Its trust anchor, the zone's key, is in anchor.key.
func (i *ISP) Unbound(records ...string) (*Process, error) {
	const apex = "1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
	key, err := i.Host.Output("dig", "@"+ServerAddr, "+short", apex, "DNSKEY")
	if err != nil {
		return nil, err
	}
	var data strings.Builder
	for _, r := range records {
		fmt.Fprintf(&data, "  local-data: '%s'\n", r)
	}
	conf := fmt.Sprintf(`server:
  interface: ::1@5335
  interface: %s@5335
  do-daemonize: no
  do-ip4: no
  use-syslog: no
  logfile: ""
  username: ""
  chroot: ""
  directory: %q
  pidfile: ""
  do-not-query-localhost: no
  module-config: "validator iterator"
  trust-anchor-file: %q
  local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." nodefault
  access-control: ::0/0 allow
%sstub-zone:
  name: %q
  stub-addr: %s
remote-control:
  control-enable: no
`, ServerAddr, i.Dir, i.Path("anchor.key"), data.String(), apex, ServerAddr)
	if err := errors.Join(
		os.WriteFile(i.Path("anchor.key"), []byte(apex+" 3600 IN DNSKEY "+strings.TrimSpace(key)+"\n"), 0o644),
		os.WriteFile(i.Path("unbound.conf"), []byte(conf), 0o644),
	); err != nil {
		return nil, err
	}
	p, err := i.Host.Start("unbound", "-d", "-c", i.Path("unbound.conf"))
	if err != nil {
		return nil, err
	}
	return p, Until(10*time.Second, func() error {
		_, err := i.Host.Output("dig", "@::1", "-p", "5335", "+time=1", "+tries=1", "version.bind", "CH", "TXT")
		return err
	})
}

// MailRelay is a host next to the ISP's with Postfix and gidmilter.
type MailRelay struct {
	Host *Namespace
	Name string
	Dir  string
	Addr netip.Addr

	Milter  *Process
	Postfix *Process

	// Wrap, if not empty, is a command that runs them, such as taskset.
	Wrap []string

	isp *ISP
}

// MailRelayOptions are what [ISP.MailRelay] may be told.
type MailRelayOptions struct {
	Next    *MailRelay // whom it passes mail on to; nil for the last, which keeps it
	Without bool       // no gidmilter
	Policy  string     // lines of gidmilter's [policy]
	Journal string     // lines of its [journal]
	Ledger  string     // the ledger's directory, if it is not the ISP's
	DNS     string     // the resolver, if it is not the ISP's
	Discard bool       // the last relay throws mail away
	Postfix string     // lines of main.cf
	Master  string     // lines of master.cf
}

// mailDomain is whose mail the last relay keeps.
const mailDomain = "example.net"

// MailRelay makes a relay. Its host is called name and has the address
// 2001:db8:ff::10 plus place.
func (i *ISP) MailRelay(name string, place int, o MailRelayOptions) (*MailRelay, error) {
	host, err := i.lab.Namespace(name)
	if err != nil {
		return nil, err
	}
	m := &MailRelay{Host: host, Name: name + ".example", Dir: i.Path(name), Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8:ff::%d", 10+place)), isp: i}
	if err := i.lab.Connect(host, "eth0", "", i.Host, name, ""); err != nil {
		return nil, err
	}
	if err := errors.Join(
		host.Do("ip", "address", "add", m.Addr.String()+"/128", "dev", "eth0", "nodad"),
		host.Do("ip", "route", "add", "default", "via", "fe80::1", "dev", "eth0"),
		i.Host.Do("ip", "address", "add", "fe80::1/64", "dev", name, "nodad"),
		i.Host.Do("ip", "route", "add", m.Addr.String()+"/128", "dev", name),
		i.Host.Do("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"),
	); err != nil {
		return nil, err
	}
	for _, d := range []string{"etc", "queue", "data", "mail"} {
		if err := os.MkdirAll(m.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := m.configureMilter(o); err != nil {
		return nil, err
	}
	return m, m.configurePostfix(o)
}

func (m *MailRelay) path(elem ...string) string {
	return filepath.Join(append([]string{m.Dir}, elem...)...)
}

// Socket is where gidmilter listens.
func (m *MailRelay) Socket() string { return m.path("milter.sock") }

// MetricsURL is where gidmilter tells its metrics, on the relay's host.
const MetricsURL = "http://[::1]:9548/metrics"

// configureMilter makes the relay's identity, has the ledger and the other relays know
// it, and writes gidmilter's configuration.
func (m *MailRelay) configureMilter(o MailRelayOptions) error {
	if _, err := m.isp.Run("tracectl", "identity", "new", "--name", m.Name, "--role", "relay", "--out", m.path("relay")); err != nil {
		return err
	}
	pem, err := os.ReadFile(m.path("relay.pem"))
	if err != nil {
		return err
	}
	for _, f := range []string{m.isp.Path("ledger", "roots.pem"), m.isp.Path("relays.pem")} {
		old, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(f, append(old, pem...), 0o644); err != nil {
			return err
		}
	}
	ledger := o.Ledger
	if ledger == "" {
		ledger = "../ledger"
	}
	resolver := o.DNS
	if resolver == "" {
		resolver = Resolver
	}
	config := fmt.Sprintf("listen = \"unix:%s\"\nrelay = %q\nlast = %v\nidentity = \"relay\"\nrelays = [\"../relays.pem\"]\n[journal]\ndirectory = \"journal\"\n%s[ledger]\ndirectory = %q\n"+
		"[dns]\nresolvers = [%q]\n[policy]\n%s[metrics]\nlisten = \"[::1]:9548\"\n", m.Socket(), m.Name, o.Next == nil, o.Journal, ledger, resolver, o.Policy)
	return os.WriteFile(m.path("gidmilter.toml"), []byte(config), 0o644)
}

func (m *MailRelay) configurePostfix(o MailRelayOptions) error {
	milters := ""
	if !o.Without {
		milters = "unix:" + m.Socket()
	}
	var transport string
	switch {
	case o.Next != nil:
		transport = fmt.Sprintf("relayhost = [%s]\nrelay_domains = %s\n", o.Next.Addr, mailDomain)
	case o.Discard:
		transport = "default_transport = discard\nrelay_transport = discard\nrelay_domains = " + mailDomain + "\n"
	default:
		transport = fmt.Sprintf("default_transport = discard\nlocal_recipient_maps =\nvirtual_mailbox_domains = %s\nvirtual_mailbox_base = %s\n", mailDomain, m.path("mail")) +
			"virtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n"
	}
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = %[2]s
mydestination =
mynetworks = [::]/0
inet_interfaces = all
inet_protocols = ipv6
smtp_bind_address6 = %[3]s
smtp_dns_support_level = disabled
maillog_file = /dev/stdout
smtpd_milters = %[5]s
milter_protocol = 6
milter_default_action = tempfail
smtpd_tls_security_level = none
smtp_tls_security_level = none
queue_run_delay = 2s
minimal_backoff_time = 2s
maximal_backoff_time = 2s
%[4]s%[6]s`, m.Dir, m.Name, m.Addr, transport, milters, o.Postfix)
	dist, err := os.ReadFile("/usr/share/postfix/master.cf.dist")
	if err != nil {
		return err
	}
	var master strings.Builder
	for line := range strings.Lines(string(dist)) {
		if f := strings.Fields(line); len(f) >= 8 && f[4] == "y" { // no chroot: it would want files of the host's
			line = strings.Join(slices.Concat(f[:4], []string{"n"}, f[5:]), " ") + "\n"
		}
		master.WriteString(line)
	}
	master.WriteString(o.Master)
	uid, err := exec.Command("id", "-u", "postfix").Output()
	if err != nil {
		return fmt.Errorf("postfix's user: %w", err)
	}
	if err := errors.Join(
		os.WriteFile(m.path("etc", "main.cf"), []byte(main), 0o644),
		os.WriteFile(m.path("etc", "master.cf"), []byte(master.String()), 0o644),
		m.Host.Do("chown", strings.TrimSpace(string(uid)), m.path("data")),
		m.Host.Do("chown", "nobody", m.path("mail")),
	); err != nil {
		return err
	}
	// Postfix's own user goes through the lab's directories to the milter's socket.
	for d := m.Dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// AddMilters has Postfix ask other milters after gidmilter.
func (m *MailRelay) AddMilters(addresses ...string) error {
	b, err := os.ReadFile(m.path("etc", "main.cf"))
	if err != nil {
		return err
	}
	line := "smtpd_milters = unix:" + m.Socket()
	return os.WriteFile(m.path("etc", "main.cf"), []byte(strings.Replace(string(b), line, line+" "+strings.Join(addresses, " "), 1)), 0o644)
}

// Start starts gidmilter and Postfix, and waits until they serve.
func (m *MailRelay) Start() error {
	return errors.Join(m.StartMilter(), m.StartPostfix())
}

// StartMilter starts gidmilter and waits until it serves.
func (m *MailRelay) StartMilter() (err error) {
	args := append(slices.Clone(m.Wrap), filepath.Join(m.isp.bin, "gidmilter"), "run", "--config", m.path("gidmilter.toml"))
	if m.Milter, err = m.Host.Start(args[0], args[1:]...); err != nil {
		return err
	}
	return m.Milter.WaitLog("msg=serving", 20*time.Second)
}

// StartPostfix starts Postfix and waits until it answers.
func (m *MailRelay) StartPostfix() (err error) {
	args := append(slices.Clone(m.Wrap), "postfix", "-c", m.path("etc"), "start-fg")
	if m.Postfix, err = m.Host.Start(args[0], args[1:]...); err != nil {
		return err
	}
	return Until(20*time.Second, func() error {
		return m.Host.Do("bash", "-c", "exec 3<>/dev/tcp/::1/25 && read -t 3 -u 3 line")
	})
}

// Log returns what gidmilter and Postfix wrote.
func (m *MailRelay) Log() string {
	var out strings.Builder
	for _, p := range []*Process{m.Milter, m.Postfix} {
		if p != nil {
			out.WriteString(p.Log())
		}
	}
	return out.String()
}

// Received returns the messages that the last relay has kept, in no order.
func (m *MailRelay) Received() ([]string, error) {
	files, err := filepath.Glob(m.path("mail", "box", "new", "*"))
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		out = append(out, string(b))
	}
	return out, err
}

// Routes gives a home with a leased address on the server's link its way to the relays.
func (i *ISP) Routes(home *Namespace) error {
	return errors.Join(home.Do("ip", "route", "replace", DirectPrefix, "dev", "eth0"),
		home.Do("ip", "route", "replace", "default", "via", "2001:db8:1::1", "dev", "eth0"))
}
