package netlab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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
		return &dhclient{b}, nil
	case "dhcpcd":
		return &dhcpcd{b}, nil
	case "dibbler-client":
		return &dibbler{b}, nil
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
type dhclient struct{ base }

func (c *dhclient) args(more ...string) []string {
	return append([]string{"-6", "-v", "-d", "-D", "LL", "-cf", filepath.Join(c.dir, "conf"),
		"-lf", filepath.Join(c.dir, "leases"), "-pf", filepath.Join(c.dir, "pid")}, more...)
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
