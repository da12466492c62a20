package netlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Access is an access device: a bridge with hosts at its ports, a router behind
// it that relays DHCPv6, and the ISP behind that.
type Access struct {
	Device *Namespace // the bridge br0, with the ports port0… and up0
	Router *Namespace // its down0 leads to the device, its up0 to the ISP
	Filter *Process

	isp   *ISP
	ports []string
	dir   string
}

// DeviceAddr is the device's own address.
const DeviceAddr = "2001:db8:2::d"

// Access makes an access device before the ISP. Hosts are connected by
// [Access.Host].
func (i *ISP) Access() (*Access, error) {
	a := &Access{isp: i, dir: filepath.Join(i.lab.Dir, "device")}
	var err error
	if a.Device, err = i.lab.Namespace("device"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, err
	}
	if a.Router, err = i.router(a.Device, "up0", ""); err != nil {
		return nil, err
	}
	// The router's advertisements make hosts ask for addresses and find their
	// way; no prefix in them is for them to make addresses of.
	return a, errors.Join(
		a.Device.Do("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"),
		a.Device.Do("ip", "link", "set", "br0", "up"),
		a.Device.Do("ip", "link", "set", "up0", "master", "br0"),
		a.Device.Do("ip", "address", "add", DeviceAddr+"/64", "dev", "br0", "nodad"),
		a.Device.Do("ip", "route", "add", "default", "via", RelayDown),
		a.Router.Do("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"),
		a.isp.lab.MountBPF(filepath.Join(a.dir, "bpf")),
	)
}

// MountBPF mounts a BPF file system until the lab closes: a namespace has none of
// its own.
func (l *Lab) MountBPF(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mounting a BPF file system: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mounts = append(l.mounts, dir)
	return nil
}

// Host connects a new host, by its interface eth0 with a MAC address, to the next
// port of the device.
func (a *Access) Host(name, mac string) (*Namespace, error) {
	host, err := a.isp.lab.Namespace(name)
	if err != nil {
		return nil, err
	}
	return host, a.Connect(host, "eth0", mac)
}

// Connect connects an interface of a host to the next port of the device.
func (a *Access) Connect(host *Namespace, iface, mac string) error {
	port := fmt.Sprintf("port%d", len(a.ports))
	if err := a.isp.lab.Connect(host, iface, mac, a.Device, port, ""); err != nil {
		return err
	}
	a.ports = append(a.ports, port)
	return a.Device.Do("ip", "link", "set", port, "master", "br0")
}

// TrustFilter makes the filter's identity and tells the server of it.
func (a *Access) TrustFilter() error {
	if _, err := a.Run("identity", "--name", "access device", "--out", a.path("filter")); err != nil {
		return err
	}
	pem, err := os.ReadFile(a.path("filter.pem"))
	if err != nil {
		return err
	}
	return os.WriteFile(a.isp.Path("etc", "filters.pem"), pem, 0o644)
}

func (a *Access) path(name string) string { return filepath.Join(a.dir, name) }

// StartFilter starts gidfilter at all ports that hosts are connected to, with what
// args say beside, and waits until it filters.
func (a *Access) StartFilter(args ...string) error {
	all := []string{"run", "--trusted", "up0", "--control", a.path("control.sock"), "--pin", a.path("bpf/gidfilter"), "--log-level", "debug"}
	for _, p := range a.ports {
		all = append(all, "--interface", p)
	}
	p, err := a.Device.Start(filepath.Join(a.isp.bin, "gidfilter"), append(all, args...)...)
	if err != nil {
		return err
	}
	a.Filter = p
	return p.WaitLog("msg=filtering", 20*time.Second)
}

// FollowServer are StartFilter's arguments for leasequery.
func (a *Access) FollowServer() []string {
	return []string{"--server", "[" + ServerAddr + "]:547", "--server-cert", a.isp.Path("etc", "resolver.pem"), "--identity", a.path("filter")}
}

// Run runs gidfilter on the device and returns what it printed.
func (a *Access) Run(args ...string) (string, error) {
	switch args[0] {
	case "stats", "drops", "bindings":
		args = append(args, "--control", a.path("control.sock"))
	case "detach":
		args = append(args, "--pin", a.path("bpf/gidfilter"))
	}
	return a.Device.Output(filepath.Join(a.isp.bin, "gidfilter"), args...)
}

// Binding is what `gidfilter bindings --json` prints.
type Binding struct {
	Address   string    `json:"address"`
	Interface string    `json:"interface"`
	LinkLayer string    `json:"link_layer"`
	Until     time.Time `json:"until"`
}

// Bindings lists the filter's bindings.
func (a *Access) Bindings() ([]Binding, error) {
	out, err := a.Run("bindings", "--json")
	if err != nil {
		return nil, err
	}
	var all []Binding
	for line := range strings.Lines(out) {
		var b Binding
		if err := json.Unmarshal([]byte(line), &b); err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// FilterStats is what `gidfilter stats --json` prints.
type FilterStats struct {
	Bindings int `json:"bindings"`
	Ports    []struct {
		Interface string            `json:"interface"`
		XDP       string            `json:"xdp"`
		Frames    map[string]uint64 `json:"frames"`
	} `json:"ports"`
	LeaseQuery struct {
		Connected bool      `json:"connected"`
		Synced    time.Time `json:"synced"`
		Changes   uint64    `json:"changes"`
	} `json:"leasequery"`
	InjectErrors uint64 `json:"inject_errors"`
}

// Stats returns the filter's counters.
func (a *Access) Stats() (FilterStats, error) {
	var s FilterStats
	out, err := a.Run("stats", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// Frames returns how many frames of a reason a port has seen.
func (s *FilterStats) Frames(port, reason string) uint64 {
	for _, p := range s.Ports {
		if p.Interface == port {
			return p.Frames[reason]
		}
	}
	return 0
}
