package netlab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Addresses returns the addresses of global scope on an interface.
func (n *Namespace) Addresses(iface string) ([]netip.Addr, error) {
	out, err := n.Output("ip", "-json", "-6", "address", "show", "dev", iface, "scope", "global")
	if err != nil {
		return nil, err
	}
	var links []struct {
		Info []struct {
			Local netip.Addr `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return nil, fmt.Errorf("ip address: %w", err)
	}
	var addrs []netip.Addr
	for _, l := range links {
		for _, a := range l.Info {
			if a.Local.IsValid() {
				addrs = append(addrs, a.Local)
			}
		}
	}
	return addrs, nil
}

// LinkLayer returns the link-layer address of an interface.
func (n *Namespace) LinkLayer(iface string) (string, error) {
	out, err := n.Output("cat", "/sys/class/net/"+iface+"/address")
	return strings.TrimSpace(out), err
}

// Client is a DHCPv6 client of the distribution on an interface of a host.
type Client interface {
	// Start makes the client ask for an address.
	Start() error
	// Release makes it give the address back and end.
	Release() error
	// Log returns what the client wrote.
	Log() string
}

// Clients are the clients that NewClient knows, with the Debian package of each.
var Clients = map[string]string{
	"dhclient":       "isc-dhcp-client",
	"dhcpcd":         "dhcpcd-base",
	"dibbler-client": "dibbler-client",
}

// Routers are the clients that NewRouter knows, with the Debian package of each.
var Routers = map[string]string{
	"dhclient":         "isc-dhcp-client",
	"dhcpcd":           "dhcpcd-base",
	"dibbler-client":   "dibbler-client",
	"dhcp6c":           "wide-dhcpv6-client",
	"systemd-networkd": "systemd",
}

// NewRouter returns a client that asks for an address and for a prefix on an interface;
// its other interface is lan.
func (n *Namespace) NewRouter(program, iface, lan string) (Client, error) {
	c, err := n.NewClient(program, iface)
	if err != nil {
		return nil, err
	}
	switch c := c.(type) {
	case *dhclient:
		c.flags = []string{"-N", "-P"}
	case *dhcpcd:
		c.config = fmt.Sprintf("ia_pd 1 %s\n", lan)
	case *dibbler:
		c.config = "  pd\n"
	case *dhcp6c:
		c.lan = lan
	case *networkd:
		c.lan = lan
	}
	return c, nil
}

// NewClient returns a client by the name of its program, with lines for its
// configuration, which are dibbler's for the interface. Each has its files in a directory
// of its own.
func (n *Namespace) NewClient(program, iface string, config ...string) (Client, error) {
	dir, err := os.MkdirTemp(n.lab.Dir, program)
	if err != nil {
		return nil, err
	}
	b := base{ns: n, iface: iface, dir: dir, config: strings.Join(append(config, ""), "\n")}
	switch program {
	case "dhclient":
		return &dhclient{base: b}, nil
	case "dhcpcd":
		return &dhcpcd{b}, nil
	case "dibbler-client":
		return &dibbler{b}, nil
	case "dhcp6c":
		return &dhcp6c{base: b}, nil
	case "systemd-networkd":
		return &networkd{base: b}, nil
	}
	return nil, fmt.Errorf("no client %q is known", program)
}

type base struct {
	ns         *Namespace
	iface, dir string
	config     string
	proc       *Process
	end        *Process
}

func (b *base) Log() string {
	log := ""
	for _, p := range []*Process{b.proc, b.end} {
		if p != nil {
			log += p.Log()
		}
	}
	return log
}

// start runs a program with directories of the client's own mounted over the
// system's, as "own:system" pairs.
func (b *base) start(mounts []string, program string, args ...string) (*Process, error) {
	script := "set -e; "
	for i := 0; i+1 < len(mounts); i += 2 {
		own := filepath.Join(b.dir, mounts[i])
		if err := os.MkdirAll(own, 0o755); err != nil {
			return nil, err
		}
		script += fmt.Sprintf("mkdir -p %s; mount --bind %s %s; ", mounts[i+1], own, mounts[i+1])
	}
	// Some clients' scripts write resolv.conf; the host's is none of theirs.
	script += `cp /etc/resolv.conf "$0/resolv.conf" 2>/dev/null || : >"$0/resolv.conf"; mount --bind "$0/resolv.conf" /etc/resolv.conf; `
	return b.ns.Start("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script + `exec "$@"`, b.dir, program}, args...)...)
}

// dhclient is ISC's client, with its own dhclient-script.
type dhclient struct {
	base
	flags []string
}

func (c *dhclient) args(more ...string) []string {
	return slices.Concat([]string{"-6", "-v", "-d", "-D", "LL", "-cf", filepath.Join(c.dir, "conf"),
		"-lf", filepath.Join(c.dir, "leases"), "-pf", filepath.Join(c.dir, "pid")}, c.flags, more)
}

func (c *dhclient) Start() (err error) {
	if err := os.WriteFile(filepath.Join(c.dir, "conf"), []byte(c.config), 0o600); err != nil {
		return err
	}
	c.proc, err = c.start(nil, "dhclient", c.args("-1", c.iface)...)
	return err
}

func (c *dhclient) Release() (err error) {
	// dhclient -r would kill the running client itself, but not wait for it.
	c.proc.Kill()
	if c.end, err = c.start(nil, "dhclient", c.args("-r", c.iface)...); err != nil {
		return err
	}
	return c.end.Wait(20 * time.Second)
}

// Leases returns what the client has noted of its leases, with options.
func (c *dhclient) Leases() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "leases"))
	return string(b), err
}

// dhcpcd is Roy Marples' client.
type dhcpcd struct{ base }

var dhcpcdMounts = []string{"lib", "/var/lib/dhcpcd", "run", "/run"}

const dhcpcdConf = `duid ll
noipv6rs
nohook resolv.conf, timesyncd, ntp.conf, chrony.conf
ipv6only
ia_na 1
`

func (c *dhcpcd) Start() error {
	conf := filepath.Join(c.dir, "dhcpcd.conf")
	if err := os.WriteFile(conf, []byte(dhcpcdConf+c.config), 0o644); err != nil {
		return err
	}
	var err error
	c.proc, err = c.start(dhcpcdMounts, "dhcpcd", "-6", "-B", "-d", "-f", conf, c.iface)
	return err
}

func (c *dhcpcd) Release() (err error) {
	c.end, err = c.start(dhcpcdMounts, "dhcpcd", "-6", "-k", "-d", "-f", filepath.Join(c.dir, "dhcpcd.conf"), c.iface)
	if err != nil {
		return err
	}
	if err := c.end.Wait(20 * time.Second); err != nil {
		return err
	}
	_ = c.proc.Wait(20 * time.Second) // its status says that it was told to end
	return nil
}

// dibbler is Tomasz Mrugalski's client.
type dibbler struct{ base }

func (c *dibbler) Start() error {
	conf := fmt.Sprintf("log-level 7\nlog-mode short\nduid-type duid-ll\niface %q {\n  ia\n%s}\n", c.iface, c.config)
	if err := os.MkdirAll(filepath.Join(c.dir, "etc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "etc", "client.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	var err error
	c.proc, err = c.start([]string{"etc", "/etc/dibbler", "lib", "/var/lib/dibbler", "log", "/var/log/dibbler"}, "dibbler-client", "run")
	return err
}

func (c *dibbler) Release() error {
	if err := c.proc.Signal(syscall.SIGINT); err != nil {
		return err
	}
	_ = c.proc.Wait(20 * time.Second) // its status says that it was interrupted
	return nil
}

// dhcp6c is the WIDE project's client. It gives its other interface an address of the
// prefix that it gets.
type dhcp6c struct {
	base
	lan string
}

func (c *dhcp6c) Start() error {
	pd, assoc := "", ""
	if c.lan != "" {
		pd, assoc = "send ia-pd 1;", fmt.Sprintf("id-assoc pd 1 { prefix-interface %s { sla-id 1; sla-len 8; }; };\n", c.lan)
	}
	conf := fmt.Sprintf("interface %s { send ia-na 1; %s };\nid-assoc na 1 { };\n%s", c.iface, pd, assoc)
	if err := os.WriteFile(filepath.Join(c.dir, "dhcp6c.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	var err error
	c.proc, err = c.start([]string{"lib", "/var/lib/dhcpv6"}, "dhcp6c", "-f", "-D", "-c", filepath.Join(c.dir, "dhcp6c.conf"), "-p", filepath.Join(c.dir, "pid"), c.iface)
	return err
}

func (c *dhcp6c) Release() error {
	if err := c.proc.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = c.proc.Wait(20 * time.Second) // its status says that it was told to end
	return nil
}

// networkd is systemd's network manager, for which no other part of systemd need run.
type networkd struct {
	base
	lan string
}

func (c *networkd) Start() error {
	up := "[Match]\nName=" + c.iface + "\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\nDHCP=ipv6\n[DHCPv6]\nDUIDType=link-layer\nWithoutRA=solicit\n"
	files := map[string]string{"10-up.network": up}
	if c.lan != "" {
		files["20-lan.network"] = "[Match]\nName=" + c.lan + "\n[Network]\nDHCPPrefixDelegation=yes\nIPv6AcceptRA=no\nIPv6SendRA=no\n[DHCPPrefixDelegation]\nUplinkInterface=" + c.iface + "\nSubnetId=1\n"
	} else {
		files["10-up.network"] += "UseDelegatedPrefix=no\n"
	}
	files["10-up.network"] += c.config
	etc := filepath.Join(c.dir, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	var err error
	// Where /sys can be written it waits for udev, which does not run.
	c.proc, err = c.start([]string{"etc", "/etc/systemd/network", "run", "/run"}, "sh", "-c", `set -e
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network: /run/systemd/netif
mount -o remount,ro,bind /sys
SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console exec /lib/systemd/systemd-networkd`)
	return err
}

func (c *networkd) Release() error {
	if err := c.proc.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = c.proc.Wait(20 * time.Second)
	return nil
}
