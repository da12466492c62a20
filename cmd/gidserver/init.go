package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/config"
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/trace"
)

// initial is what the configuration template is filled with.
type initial struct {
	Realm, State, DUID, Interface, Prefix, Listen, Ledger string

	Hosts []string // more names of the server, for its certificate
}

func initCommand() *cobra.Command {
	var dir, escrow string
	var epochLength time.Duration
	var dry bool
	in := initial{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Make keys, certificates and a commented configuration",
		Long: `Make a directory with everything that a new server needs: the keyring, the
registry key, the identity that signs resolutions and serves the resolve API, and
a commented configuration. Nothing that exists is replaced.

The escrow key comes from the trustees (tracectl ceremony); give it with --escrow
or put it there later as escrow.json.`,
		Example: `  gidserver init --dir /etc/gidserver --realm isp.example --interface eth1 \
      --prefix 2001:db8:1::/64 --escrow escrow.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			files, err := in.files(epochLength, escrow)
			if err != nil {
				return err
			}
			return writeInitial(c, dir, files, dry)
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "/etc/gidserver", "`directory` to make the files in")
	f.StringVar(&in.Realm, "realm", "", "the ISP's `realm`, to which NIDs are bound, e.g. isp.example")
	f.StringVar(&in.State, "state", "/var/lib/gidserver", "`directory` of the lease database")
	f.StringVar(&in.Interface, "interface", "", "`interface` on the clients' link; may be left out behind relays")
	f.StringVar(&in.Prefix, "prefix", "", "`/64` to lease addresses from")
	f.StringVar(&in.Listen, "listen", "[::1]:8547", "`address` and port of the resolve API")
	f.StringVar(&in.Ledger, "ledger", "/var/lib/gid-ledger", "`directory` of the ledger on which warrants stand; tracectl ledger init makes it")
	f.StringSliceVar(&in.Hosts, "host", nil, "another `name` or address by which the server is reached; may be given several times")
	f.StringVar(&escrow, "escrow", "", "the trustees' escrow key, a `file`")
	f.DurationVar(&epochLength, "epoch-length", idcodec.DefaultEpochLength, "`length` of an epoch, after which addresses change; it cannot be changed later")
	f.BoolVarP(&dry, "dry-run", "n", false, "say what would be made and make nothing")
	cli.Require(c, "realm")
	cli.Require(c, "prefix")
	return c
}

// newFile is a file that init makes.
type newFile struct {
	name    string
	content []byte
	secret  bool
}

func (in *initial) files(epochLength time.Duration, escrow string) ([]newFile, error) {
	now := time.Now()
	p, err := netip.ParsePrefix(in.Prefix)
	if err != nil {
		return nil, cli.Usagef("--prefix: %q is no IPv6 /64", in.Prefix)
	}
	if _, err := idcodec.PrefixFrom(p); err != nil {
		return nil, cli.Usagef("--prefix: %w", err)
	}
	epoch, err := idcodec.EpochAt(now, max(epochLength, time.Second))
	if err != nil {
		return nil, err
	}
	ring, err := idcodec.NewKeyring(rand.Reader, epochLength, epoch)
	if err != nil {
		return nil, cli.UsageError{Err: err}
	}
	ringText, err := ring.MarshalText()
	if err != nil {
		return nil, err
	}
	random := make([]byte, idcodec.RegistryKeyLen+16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	registryKey := []byte(hex.EncodeToString(random[:idcodec.RegistryKeyLen]) + "\n")
	uuid := random[idcodec.RegistryKeyLen:]
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // version 4, RFC 9562
	in.DUID = net.HardwareAddr(append([]byte{0, 4}, uuid...)).String()

	host, _, err := net.SplitHostPort(in.Listen)
	if err != nil {
		return nil, cli.Usagef("--listen: %q: want an address and a port", in.Listen)
	}
	hosts := []string{"localhost"}
	if host != "" {
		hosts = append(hosts, host)
	}
	hosts = append(hosts, in.Hosts...)
	id, err := trace.NewIdentity(rand.Reader, trace.Subject{Name: in.Realm, Roles: []string{ledgeranchor.RoleISP}, Hosts: hosts}, now.Add(-time.Hour), now.AddDate(5, 0, 0))
	if err != nil {
		return nil, err
	}
	idKey, err := id.MarshalKey()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	if err := initialConfig.Execute(&b, in); err != nil {
		return nil, err
	}
	if _, err := config.Parse("gidserver.toml", []byte(b.String())); err != nil {
		return nil, cli.Usagef("the configuration would not be in order: %w", err)
	}
	files := []newFile{
		{"gidserver.toml", []byte(b.String()), false},
		{"keyring", ringText, true},
		{"registry.key", registryKey, true},
		{"resolver.key", idKey, true},
		{"resolver.pem", id.MarshalCertificate(), false},
		{"authorities.pem", nil, false},
		{"holders.pem", nil, false},
		{"filters.pem", nil, false},
		{"table.toml", []byte(initialTable), true},
	}
	if escrow != "" {
		text, err := os.ReadFile(escrow)
		if err != nil {
			return nil, err
		}
		if _, err := idcodec.ParseEscrowKey(text); err != nil {
			return nil, fmt.Errorf("%s: %w", escrow, err)
		}
		files = append(files, newFile{"escrow.json", text, false})
	}
	return files, nil
}

func writeInitial(c *cobra.Command, dir string, files []newFile, dry bool) error {
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already; nothing was changed", filepath.Join(dir, f.name))
		}
	}
	if !dry {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		create, mode := secretfile.CreatePublic, "0644"
		if f.secret {
			create, mode = secretfile.Create, "0600"
		}
		if !dry {
			if err := create(path, f.content); err != nil {
				return err
			}
		}
		fmt.Fprintf(c.OutOrStdout(), "%s %s\n", mode, path)
	}
	if dry {
		fmt.Fprintln(c.OutOrStdout(), "This was a dry run: nothing was made.")
	}
	return nil
}

const initialTable = `# Clients by DUID or link-layer address, for laboratories and for links where
# those cannot be forged. "gidserver seal-table" replaces each eid by what the
# registry needs of it, so that this file names nobody.
#
# [[entry]]
# duid = "00:03:00:01:02:00:00:00:00:01"
# eid = "static:somebody"
#
# [[entry]]
# link-layer = "02:00:00:00:00:01"
# eid = "static:somebody-else"
`

var initialConfig = template.Must(template.New("").Parse(`# gidserver's configuration. "gidserver check-config" checks it.
# Paths are relative to this file. Durations are written 90s, 30m, 12h or 7d.
# Values behind "#" are the defaults.

# The realm to which NIDs are bound. It cannot be changed later.
realm = {{printf "%q" .Realm}}

# Where the lease database is. Only the server's user may read it.
state = {{printf "%q" .State}}

[database]
# A PostgreSQL that several servers share, instead of the database in state; all have the
# same keys. See gidserver.toml(5).
# url = "postgres://gid@db1.isp.example,db2.isp.example/gid?sslmode=verify-full&target_session_attrs=read-write"
# password = "database.password"
# server = "pop1-a"            # this one's name among them; the host's
# offline-renewals = false     # renew known leases while the database is away
# max-clock-difference = "5s"  # from the database's clock; beyond it clients get no answers
# cache = 131072               # clients that are kept in memory

[keys]
# keyring = "keyring"          # epoch keys; the file shrinks from its old end
# registry = "registry.key"    # finds known subscribers; losing it doubles them
# escrow = "escrow.json"       # the trustees' public key, from their ceremony

[dhcpv6]
duid = {{printf "%q" .DUID}}
# preference = 0               # 255 makes clients take this server at once
# rapid-commit = false         # two messages instead of four
# register-addresses = true  # let clients tell of addresses that they made themselves (RFC 9686)
# dns = ["2001:db8::53"]
# search = ["isp.example"]
# always-send = ["dns-servers"]  # options for clients that do not ask for them, too
# information-refresh = "1d"

[options]
# What clients get that ask for it, by name or as option-N = "hex:…"; a [[link]] may have
# its own, as options = { … }.
# ntp-servers = ["2001:db8::123", "ntp.isp.example"]
# captive-portal = "https://portal.isp.example/"
# encrypted-dns = { name = "dns.isp.example", addresses = ["2001:db8::53"], alpn = ["dot"] }

[lease]
# preferred = "1h"             # lifetimes of a lease
# valid = "2h"
# max-age = "72h"              # an address is renewed up to this age, then replaced
# retention = "180d"           # how long addresses can be traced; then keys are erased
# decline-hold = "24h"         # an address found in use is set aside for so long
# per-subscriber = 16          # addresses that one subscriber may hold at once
# cache-threshold = 0.25       # in this part of its lifetime a lease is not written again

# A link that clients are on: directly, by its interface, or behind relays whose
# link-address is within the prefixes or named here.
[[link]]
name = "access"
{{if .Interface}}interface = {{printf "%q" .Interface}}
{{else}}# interface = "eth1"
{{end}}prefixes = [{{printf "%q" .Prefix}}]
# relay-links = ["2001:db8:ff::1"]

# A pool that prefixes are delegated from to routers on the link above.
# [[link.delegate]]
# prefix = "2001:db8:4000::/36"
# length = 56
# max-age = "72h"              # preferred, valid, max-age as in [lease] if left out
# excluded = "0:0:0:ff::/64"   # of each prefix, for the router's uplink (RFC 6603)
# per-subscriber = 4

[auth]
# Relays that may speak for subscribers, by the address they send from, and the
# options by which they name them, in order of preference: subscriber-id (38),
# remote-id (37), interface-id (18), client-link-layer (79).
# trusted-relays = ["2001:db8:ff::1"]
# relay-options = ["subscriber-id", "remote-id", "interface-id"]

# A static table of clients.
table = "table.toml"

[enrolment]
# Tokens by which an identity provider enrols clients (tracectl enroll), and the
# enterprise number under which clients send them.
# issuers = "issuers.pem"
# enterprise = 32473

[radius]
# Servers that are asked who a client is; then relay-options above must be [].
# servers = ["[2001:db8:ff::5]:1812", "tls:radius.isp.example:2083"]
# secret = "radius.secret"

[resolve]
# The API by which holders of warrants ask. It answers with sealed NIDs.
listen = {{printf "%q" .Listen}}
identity = "resolver"            # resolver.key and resolver.pem
authorities = "authorities.pem"  # certificates of those whose warrants are followed
holders = "holders.pem"          # certificates of those who may ask

[ledger]
# A warrant is answered only if it stands on the ledger, and the answer is recorded
# there before it leaves.
directory = {{printf "%q" .Ledger}}
# fabric = "ledger.toml"         # instead: a ledger on Fabric, see tracectl(1)

[leasequery]
# By which access devices (gidfilter) learn who may send from where, over TLS.
# listen = "[2001:db8:ff::1]:547"
identity = "resolver"            # the server's key and certificate
filters = "filters.pem"          # certificates of those who may ask
# queriers = ["2001:db8:ff::7"] # devices that may ask about one address at a time, by UDP (RFC 5007)

[zone]
# The reverse zone: the PTR of an address is there while it is leased, so that relays
# can ask whether a source is live. Zones are signed with "gidserver zone key".
# listen = "[::]:53"
# prefixes = ["2001:db8::/32"] # multiples of 4 bits; the links' if left out
# ns = ["ns1.isp.example"]
# mailbox = "hostmaster.isp.example"
# names = "gid.isp.example"    # PTR records point to <identifier in hex>.gid.isp.example
# key = "zone.key"             # zones are not signed if left out
# ledger = "isp.example/gid-ledger"             # told to relays
# resolve = "https://resolve.isp.example:8547"  # told to relays
# rate-limit = 100             # the same answers to a network, a second; 0 for no limit

[dns-update]
# Where clients are named that say so (RFC 4704), on links with names = true: by signed
# updates (RFC 2136), AAAA and DHCID. A name tells who somebody is: think twice.
# server = "[2001:db8:ff::53]:53"
# zone = "clients.isp.example"
# key = "tsig.key"             # as tsig-keygen writes it
# ttl = "5m"

[metrics]
# listen = "[::1]:9547"        # Prometheus

[log]
# level = "info"               # debug, info, warn, error
# format = "text"              # text, json
`))
