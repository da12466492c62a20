// Package config reads gidserver's configuration: TOML, where an unknown key or
// a wrong value is an error that names file, line and key.
package config

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/internal/tomlfile"
	"brightgid/lease"
	"brightgid/lease/shared"
)

// Config is gidserver's configuration. Paths are absolute or relative to the
// file's directory; [Parse] makes them whole.
type Config struct {
	Realm      string     `toml:"realm"`
	State      string     `toml:"state"`
	Database   Database   `toml:"database"`
	Keys       Keys       `toml:"keys"`
	DHCPv6     DHCPv6     `toml:"dhcpv6"`
	Options    Options    `toml:"options"`
	Lease      Lease      `toml:"lease"`
	Links      []Link     `toml:"link"`
	Classes    []Class    `toml:"class"`
	Auth       Auth       `toml:"auth"`
	RADIUS     RADIUS     `toml:"radius"`
	Enrolment  Enrolment  `toml:"enrolment"`
	Resolve    Resolve    `toml:"resolve"`
	Ledger     Ledger     `toml:"ledger"`
	LeaseQuery LeaseQuery `toml:"leasequery"`
	Zone       Zone       `toml:"zone"`
	DNSUpdate  DNSUpdate  `toml:"dns-update"`
	Metrics    Metrics    `toml:"metrics"`
	Log        Log        `toml:"log"`
}

// Database is where leases are if they are not in State: in a database that servers share.
type Database struct {
	URL             string `toml:"url"`
	Password        string `toml:"password"` // a file
	Server          string `toml:"server"`   // this one's name among them
	OfflineRenewals bool   `toml:"offline-renewals"`
	Cache           int    `toml:"cache"` // clients whose rows are kept in memory, about

	// MaxClockDifference is how far this server's clock may be from the database's for it to answer clients.
	MaxClockDifference Duration `toml:"max-clock-difference"`
}

// Keys are the paths of key files.
type Keys struct {
	Keyring  string `toml:"keyring"`
	Registry string `toml:"registry"`
	Escrow   string `toml:"escrow"`
}

// DHCPv6 is what the protocol needs.
type DHCPv6 struct {
	DUID               DUID     `toml:"duid"`
	Preference         uint8    `toml:"preference"`
	RapidCommit        bool     `toml:"rapid-commit"`
	DNS                []Addr   `toml:"dns"`
	Search             []string `toml:"search"`
	T1                 Duration `toml:"t1"`
	T2                 Duration `toml:"t2"`
	InformationRefresh Duration `toml:"information-refresh"`
	Register           bool     `toml:"register-addresses"`
	Reconfigure        bool     `toml:"reconfigure"`
	AlwaysSend         []string `toml:"always-send"` // options, by their keys in [Options]
}

// Always returns the codes of the options that go to clients that do not ask for them, too.
func (d *DHCPv6) Always() (codes []uint16, err error) {
	for _, key := range d.AlwaysSend {
		code, _, err := optionOf(key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		codes = append(codes, code)
	}
	return codes, nil
}

// Lease is how long and how many.
type Lease struct {
	Preferred     Duration `toml:"preferred"`
	Valid         Duration `toml:"valid"`
	MaxAge        Duration `toml:"max-age"`
	Retention     Duration `toml:"retention"`
	DeclineHold   Duration `toml:"decline-hold"`
	PerSubscriber int      `toml:"per-subscriber"`

	// CacheThreshold is as in lease.Policy. It is not used with a database that servers share.
	CacheThreshold float64 `toml:"cache-threshold"`
}

// Link is a link that clients are on.
type Link struct {
	Name       string   `toml:"name"`
	Interface  string   `toml:"interface"`
	Prefixes   []Prefix `toml:"prefixes"`
	RelayLinks []Addr   `toml:"relay-links"`
	Options    Options  `toml:"options"` // before those of all links
	Pools      []Pool   `toml:"delegate"`
	Names      bool     `toml:"names"` // clients may be named in DNS
	Draining   []Prefix `toml:"drain"` // prefixes in which addresses run out
	Times

	// Named are prefixes for those only to whom they are given by the name of the pool.
	Named map[string][]Prefix `toml:"pools"`
}

// All returns the link's prefixes, those of named pools too.
func (l *Link) All() []idcodec.Prefix {
	var out []idcodec.Prefix
	for _, p := range l.Prefixes {
		out = append(out, p.Prefix)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Named)) {
		for _, p := range l.Named[name] {
			out = append(out, p.Prefix)
		}
	}
	return out
}

// Times are of a policy of its own; what is left out is as in [lease].
type Times struct {
	Preferred     Duration `toml:"preferred"`
	Valid         Duration `toml:"valid"`
	MaxAge        Duration `toml:"max-age"`
	PerSubscriber int      `toml:"per-subscriber"`
}

// apply changes a policy by what is not left out.
func (t *Times) apply(p lease.Policy) lease.Policy {
	for _, x := range []struct {
		to   *time.Duration
		from Duration
	}{{&p.Preferred, t.Preferred}, {&p.Valid, t.Valid}, {&p.MaxAge, t.MaxAge}} {
		if x.from != 0 {
			*x.to = time.Duration(x.from)
		}
	}
	if t.PerSubscriber != 0 {
		p.PerSubscriber = t.PerSubscriber
	}
	return p
}

// Policy returns the policy for the link's addresses.
func (l *Link) Policy(all Lease) lease.Policy { return l.apply(all.Policy()) }

// Pool is what prefixes are delegated from. What it leaves out of its policy is as for
// addresses, but for how many a subscriber may hold.
type Pool struct {
	Name   string       `toml:"name"` // for those only to whom it is given by name
	Prefix netip.Prefix `toml:"prefix"`
	Length uint8        `toml:"length"`
	Drain  bool         `toml:"drain"` // what is delegated runs out

	// Excluded is as in lease.Pool.
	Excluded netip.Prefix `toml:"excluded"`
	Times
}

// delegatedPerSubscriber is how many prefixes a subscriber may hold unless told otherwise:
// a router's and what is left of the one before, twice.
const delegatedPerSubscriber = 4

// Auth is how clients are authenticated.
type Auth struct {
	TrustedRelays []Addr   `toml:"trusted-relays"`
	RelayOptions  []string `toml:"relay-options"`
	Table         string   `toml:"table"`
}

// Enrolment is whose enrolment tokens and certificates are taken.
type Enrolment struct {
	Issuers    string `toml:"issuers"`    // certificates
	Enterprise uint32 `toml:"enterprise"` // number of the Vendor-specific Information option

	Authorities   string   `toml:"authorities"` // certificates of those who certify subscribers
	Revoked       string   `toml:"revoked"`     // their revocation lists
	ProofLifetime Duration `toml:"proof-lifetime"`
}

// RADIUS is who is asked about clients.
type RADIUS struct {
	Servers        []RADIUSServer `toml:"servers"`
	Accounting     []RADIUSServer `toml:"accounting"`
	Secret         string         `toml:"secret"`       // a file; of servers by UDP
	CA             string         `toml:"ca"`           // certificates; of servers by TLS
	Identity       string         `toml:"tls-identity"` // path without .key and .pem
	Names          []string       `toml:"names"`
	Password       string         `toml:"password"` // a file
	NASIdentifier  string         `toml:"nas-identifier"`
	NASAddress     Addr           `toml:"nas-address"`
	EID            []string       `toml:"eid"`
	Timeout        Duration       `toml:"timeout"`
	Tries          int            `toml:"tries"`
	Remember       Duration       `toml:"remember"`
	RememberReject Duration       `toml:"remember-reject"`
}

// RADIUSServer is a server, written [2001:db8::1]:1812, or tls:radius.example:2083.
type RADIUSServer struct {
	TLS     bool
	Address string
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *RADIUSServer) UnmarshalText(text []byte) error {
	s.Address, s.TLS = strings.CutPrefix(string(text), "tls:")
	host, port, err := net.SplitHostPort(s.Address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" {
		return fmt.Errorf("%q: want an address and a port, as in \"[2001:db8::1]:1812\" or \"tls:radius.example:2083\"", text)
	}
	return nil
}

// has reports whether there is a server by TLS, or one by UDP.
func (r *RADIUS) has(tls bool) bool {
	return slices.ContainsFunc(slices.Concat(r.Servers, r.Accounting), func(s RADIUSServer) bool { return s.TLS == tls })
}

// Resolve is the API for warrants.
type Resolve struct {
	Listen      string `toml:"listen"`
	Identity    string `toml:"identity"` // path without .key and .pem
	Authorities string `toml:"authorities"`
	Holders     string `toml:"holders"`
}

// Ledger is where warrants and resolutions stand: one of the two.
type Ledger struct {
	Directory string `toml:"directory"` // of the embedded ledger on this machine
	Fabric    string `toml:"fabric"`    // a file that tells how to reach one on Fabric
}

// LeaseQuery is how access devices learn bindings (RFC 5460, RFC 7653).
type LeaseQuery struct {
	Listen   string `toml:"listen"`
	Identity string `toml:"identity"` // path without .key and .pem
	Filters  string `toml:"filters"`
	Queriers []Addr `toml:"queriers"` // who may ask by UDP
}

// Zone is the reverse zone that tells whether addresses are leased.
type Zone struct {
	Listen    string         `toml:"listen"`
	Prefixes  []netip.Prefix `toml:"prefixes"`
	NS        []string       `toml:"ns"`
	Mailbox   string         `toml:"mailbox"`
	Names     string         `toml:"names"`
	Key       string         `toml:"key"`
	Ledger    string         `toml:"ledger"`  // told in the discovery record
	Resolve   string         `toml:"resolve"` // told in the discovery record
	RateLimit int            `toml:"rate-limit"`
}

// DNSUpdate is where clients are named that may be (RFC 4704, RFC 2136).
type DNSUpdate struct {
	Server string   `toml:"server"`
	Zone   string   `toml:"zone"`
	Key    string   `toml:"key"` // a file, as tsig-keygen writes it
	TTL    Duration `toml:"ttl"`
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	Listen string `toml:"listen"`
}

// Log is how the log is written.
type Log struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// Duration is whole seconds, written as "90m" or "30d".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no duration; write 90s, 30m, 12h or 7d", s)
		}
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 || v%time.Second != 0 {
		return fmt.Errorf("%q is no duration in whole seconds; write 90s, 30m, 12h or 7d", s)
	}
	*d = Duration(v)
	return nil
}

// Addr is an IPv6 address.
type Addr struct{ netip.Addr }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Addr) UnmarshalText(text []byte) error {
	v, err := netip.ParseAddr(string(text))
	if err != nil || !v.Is6() || v.Is4In6() || v.Zone() != "" {
		return fmt.Errorf("%q is no IPv6 address", text)
	}
	a.Addr = v
	return nil
}

// Prefix is an IPv6 /64.
type Prefix struct{ idcodec.Prefix }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefix) UnmarshalText(text []byte) error {
	v, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("%q is no IPv6 prefix", text)
	}
	p.Prefix, err = idcodec.PrefixFrom(v)
	return err
}

// DUID is a DUID or a link-layer address, in hex with or without colons.
type DUID []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DUID) UnmarshalText(text []byte) error {
	v, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(string(text)))
	if err != nil {
		return fmt.Errorf("%q is not hex", text)
	}
	*d = v
	return nil
}

// Error is what is wrong with a configuration.
type Error = tomlfile.Error

// defaults are the values of keys that a file leaves out.
func defaults() Config {
	return Config{
		Keys: Keys{Keyring: "keyring", Registry: "registry.key", Escrow: "escrow.json"},
		Lease: Lease{
			Preferred: Duration(time.Hour), Valid: Duration(2 * time.Hour), MaxAge: Duration(72 * time.Hour),
			Retention: Duration(180 * 24 * time.Hour), DeclineHold: Duration(24 * time.Hour), PerSubscriber: 16,
			CacheThreshold: 0.25,
		},
		DHCPv6: DHCPv6{Reconfigure: true}, Enrolment: Enrolment{ProofLifetime: Duration(24 * time.Hour)},
		RADIUS: RADIUS{
			Names: []string{"subscriber-id", "remote-id", "interface-id", "link-layer"}, EID: []string{"chargeable-user-identity", "user-name"},
			Timeout: Duration(2 * time.Second), Tries: 2, Remember: Duration(time.Hour), RememberReject: Duration(time.Minute),
		},
		Database: Database{Cache: 1 << 17, MaxClockDifference: Duration(shared.DefaultClock)},
		Zone:     Zone{RateLimit: 100}, DNSUpdate: DNSUpdate{TTL: Duration(5 * time.Minute)},
		Log: Log{Level: "info", Format: "text"},
	}
}

// Parse reads a configuration. The error joins an [*Error] for everything that
// is wrong.
func Parse(file string, text []byte) (*Config, error) {
	c := defaults()
	if err := tomlfile.Decode(file, text, &c); err != nil {
		return nil, err
	}
	v := &checker{file: file, lines: tomlfile.Lines(text)}
	c.check(v)
	if c.Auth.RelayOptions == nil && len(c.RADIUS.Servers) == 0 {
		c.Auth.RelayOptions = []string{"subscriber-id", "remote-id", "interface-id"}
	}
	if len(v.errs) > 0 {
		return nil, errors.Join(v.errs...)
	}
	dir := filepath.Dir(file)
	for _, p := range []*string{&c.State, &c.Keys.Keyring, &c.Keys.Registry, &c.Keys.Escrow, &c.Auth.Table,
		&c.Resolve.Identity, &c.Resolve.Authorities, &c.Resolve.Holders, &c.Ledger.Directory, &c.Ledger.Fabric, &c.LeaseQuery.Identity, &c.LeaseQuery.Filters, &c.Zone.Key, &c.DNSUpdate.Key,
		&c.Enrolment.Issuers, &c.Enrolment.Authorities, &c.Enrolment.Revoked, &c.RADIUS.Secret, &c.RADIUS.CA, &c.RADIUS.Identity, &c.RADIUS.Password, &c.Database.Password} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return &c, nil
}

// checker collects what is wrong.
type checker struct {
	file  string
	lines map[string]int
	errs  []error
}

func (v *checker) fail(key, format string, args ...any) {
	line := v.lines[key]
	for k := key; line == 0 && k != ""; line = v.lines[k] { // of its table, when the key is missing
		i := strings.LastIndexByte(k, '.')
		if i < 0 {
			break
		}
		k = k[:i]
	}
	v.errs = append(v.errs, &Error{File: v.file, Line: line, Key: key, Err: fmt.Errorf(format, args...)})
}

func (v *checker) between(key string, d, low, high Duration) {
	if d < low || d > high {
		v.fail(key, "%s: want %s to %s", time.Duration(d), time.Duration(low), time.Duration(high))
	}
}

func (v *checker) listen(key, s string) {
	if host, port, err := net.SplitHostPort(s); err != nil {
		v.fail(key, "%q: want an address and a port, as in \"[::1]:8547\"", s)
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" && n == 0 {
		v.fail(key, "%q: the port is no number", s)
	}
}

// policy checks the times and the number of a table.
func (v *checker) policy(table string, p lease.Policy, retention Duration) {
	const day = Duration(24 * time.Hour)
	key := func(k string) string { return table + "." + k }
	v.between(key("preferred"), Duration(p.Preferred), Duration(time.Second), 90*day)
	v.between(key("valid"), Duration(p.Valid), Duration(time.Second), 180*day)
	if p.Valid < p.Preferred {
		v.fail(key("valid"), "%s is shorter than %s, %s", p.Valid, key("preferred"), p.Preferred)
	}
	v.between(key("max-age"), Duration(p.MaxAge), Duration(time.Second), 365*day)
	if p.MaxAge < p.Valid {
		v.fail(key("max-age"), "%s is shorter than %s, %s", p.MaxAge, key("valid"), p.Valid)
	}
	if time.Duration(retention) < p.MaxAge {
		v.fail("lease.retention", "%s is shorter than %s, %s: keys would be erased while what they gave out is in use", time.Duration(retention), key("max-age"), p.MaxAge)
	}
	if p.PerSubscriber < 1 || p.PerSubscriber > 1024 {
		v.fail(key("per-subscriber"), "%d: want 1 to 1024", p.PerSubscriber)
	}
}

// check applies the rules that are not in the types.
func (c *Config) check(v *checker) {
	const day = Duration(24 * time.Hour)
	if c.Realm == "" || len(c.Realm) > idcodec.MaxLabelLen {
		v.fail("realm", "want the ISP's realm, 1 to %d bytes; NIDs are bound to it", idcodec.MaxLabelLen)
	}
	if c.State == "" {
		v.fail("state", "want the directory of the lease database")
	}
	if c.Database.URL == "" && c.Database.Password+c.Database.Server != "" {
		v.fail("database.url", "want the database that servers share, as in \"postgres://gid@db.isp.example/gid?sslmode=verify-full\"")
	}
	if n := c.Database.Cache; n < 1<<10 || n > 1<<26 {
		v.fail("database.cache", "%d: want %d to %d clients", n, 1<<10, 1<<26)
	}
	if d := c.Database.MaxClockDifference; d < Duration(time.Second) || d > Duration(time.Minute) {
		v.fail("database.max-clock-difference", "%s: want 1s to 60s", time.Duration(d))
	}
	for key, path := range map[string]string{"keys.keyring": c.Keys.Keyring, "keys.registry": c.Keys.Registry, "keys.escrow": c.Keys.Escrow} {
		if path == "" {
			v.fail(key, "want the path of a file")
		}
	}
	if n := len(c.DHCPv6.DUID); n < 3 || n > lease.MaxDUIDLen {
		v.fail("dhcpv6.duid", "%d bytes: want the server's DUID, 3 to %d bytes in hex; `gidserver init` makes one", n, lease.MaxDUIDLen)
	}
	l := &c.Lease
	v.policy("lease", l.Policy(), l.Retention)
	v.between("lease.retention", l.Retention, Duration(time.Hour), 3660*day)
	v.between("lease.decline-hold", l.DeclineHold, Duration(time.Minute), 365*day)
	if !(l.CacheThreshold >= 0 && l.CacheThreshold < 0.5) {
		v.fail("lease.cache-threshold", "%g: want 0 to less than 0.5, since clients renew after half of the preferred lifetime", l.CacheThreshold)
	}
	if t1, t2 := c.DHCPv6.T1, c.DHCPv6.T2; t1 > 0 && t2 > 0 && t1 > t2 {
		v.fail("dhcpv6.t1", "%s is later than dhcpv6.t2, %s (RFC 9915 §21.4)", time.Duration(t1), time.Duration(t2))
	}
	if _, err := c.DHCPv6.Always(); err != nil {
		v.fail("dhcpv6.always-send", "%w", err)
	}
	if _, err := c.Options.Encode(); err != nil {
		v.fail("options", "%w", err)
	}
	for name, set := range map[string]bool{"dns-servers": len(c.DHCPv6.DNS) > 0, "domain-search": len(c.DHCPv6.Search) > 0} {
		if _, twice := c.Options[name]; twice && set {
			v.fail("options", "%s: it stands in [dhcpv6] as well", name)
		}
	}
	c.checkLinks(v)
	for _, o := range c.Auth.RelayOptions {
		if _, err := eidauth.NewRelaySource(eidauth.RelayOption(o)); err != nil {
			v.fail("auth.relay-options", "%w", err)
		}
	}
	if len(c.Auth.TrustedRelays) == 0 && c.Auth.Table == "" && len(c.RADIUS.Servers) == 0 && c.Enrolment.Issuers == "" && c.Enrolment.Authorities == "" {
		v.fail("auth", "neither trusted-relays nor a table nor radius.servers nor enrolment.issuers nor enrolment.authorities: no client could be authenticated")
	}
	if c.Enrolment.Issuers+c.Enrolment.Authorities != "" && c.Enrolment.Enterprise == 0 {
		v.fail("enrolment.enterprise", "want the enterprise number (IANA's) under which clients send tokens or proofs")
	}
	if c.Enrolment.Authorities != "" {
		v.between("enrolment.proof-lifetime", c.Enrolment.ProofLifetime, Duration(time.Minute), 366*day)
	}
	c.checkRADIUS(v)
	if c.Resolve.Listen != "" {
		v.listen("resolve.listen", c.Resolve.Listen)
		for key, path := range map[string]string{"resolve.identity": c.Resolve.Identity, "resolve.authorities": c.Resolve.Authorities, "resolve.holders": c.Resolve.Holders} {
			if path == "" {
				v.fail(key, "want a path, for resolve.listen is set")
			}
		}
		if (c.Ledger.Directory == "") == (c.Ledger.Fabric == "") {
			v.fail("ledger", "want either directory or fabric, for resolve.listen is set and warrants are answered only if they stand on a ledger")
		}
	}
	if c.LeaseQuery.Listen != "" {
		v.listen("leasequery.listen", c.LeaseQuery.Listen)
		for key, path := range map[string]string{"leasequery.identity": c.LeaseQuery.Identity, "leasequery.filters": c.LeaseQuery.Filters} {
			if path == "" {
				v.fail(key, "want a path, for leasequery.listen is set")
			}
		}
	}
	if c.Zone.Listen != "" {
		v.listen("zone.listen", c.Zone.Listen)
		if c.Zone.RateLimit < 0 || c.Zone.RateLimit > 1_000_000 {
			v.fail("zone.rate-limit", "%d: want 0 (none) to 1000000 answers a second", c.Zone.RateLimit)
		}
	}
	if d := &c.DNSUpdate; d.Server != "" {
		v.listen("dns-update.server", d.Server)
		if d.Zone == "" || d.Key == "" {
			v.fail("dns-update", "want zone and key, for dns-update.server is set")
		}
		v.between("dns-update.ttl", d.TTL, Duration(30*time.Second), day)
	}
	if c.Metrics.Listen != "" {
		v.listen("metrics.listen", c.Metrics.Listen)
	}
	if _, err := c.Log.SlogLevel(); err != nil {
		v.fail("log.level", "%w", err)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		v.fail("log.format", "%q: want text or json", c.Log.Format)
	}
}

func (c *Config) checkRADIUS(v *checker) {
	r := &c.RADIUS
	if len(r.Servers)+len(r.Accounting) == 0 {
		return
	}
	if len(r.Servers) > 0 && len(c.Auth.RelayOptions) > 0 {
		v.fail("auth.relay-options", "with radius.servers nobody else says who a relay's clients are; want [], and radius.names for what they are called by")
	}
	if r.has(false) && r.Secret == "" {
		v.fail("radius.secret", "want the path of a file with the secret")
	}
	if r.has(true) && r.CA == "" {
		v.fail("radius.ca", "want the path of a file with the certificates of those who issue servers'")
	}
	if len(r.Names) == 0 {
		v.fail("radius.names", "want what clients are called by")
	}
	v.between("radius.timeout", r.Timeout, Duration(time.Second), Duration(30*time.Second))
	v.between("radius.remember", r.Remember, Duration(10*time.Second), Duration(7*24*time.Hour))
	v.between("radius.remember-reject", r.RememberReject, Duration(time.Second), Duration(time.Hour))
	if r.Tries < 1 || r.Tries > 10 {
		v.fail("radius.tries", "%d: want 1 to 10", r.Tries)
	}
}

func (c *Config) checkLinks(v *checker) {
	if len(c.Links) == 0 {
		v.fail("link", "no [[link]]: there is nobody to serve")
	}
	names, interfaces, prefixes := map[string]bool{}, map[string]string{}, map[idcodec.Prefix]string{}
	for i := range c.Links {
		l := &c.Links[i]
		key := func(k string) string { return fmt.Sprintf("link[%d].%s", i, k) }
		if l.Name == "" || names[l.Name] {
			v.fail(key("name"), "%q: want a name that no other link has", l.Name)
		}
		names[l.Name] = true
		if other, ok := interfaces[l.Interface]; ok && l.Interface != "" {
			v.fail(key("interface"), "%q is link %q already", l.Interface, other)
		}
		interfaces[l.Interface] = l.Name
		if n := len(l.All()); n < 1 || n > lease.MaxPrefixes {
			v.fail(key("prefixes"), "%d prefixes: want 1 to %d", n, lease.MaxPrefixes)
		}
		if _, err := l.Options.Encode(); err != nil {
			v.fail(key("options"), "%w", err)
		}
		if l.Times != (Times{}) {
			v.policy(fmt.Sprintf("link[%d]", i), l.Policy(c.Lease), c.Lease.Retention)
		}
		for _, p := range l.Draining {
			if !slices.Contains(l.All(), p.Prefix) {
				v.fail(key("drain"), "%s is none of the link's prefixes", p.Prefix)
			}
		}
		if l.Names && c.DNSUpdate.Server == "" {
			v.fail(key("names"), "there is no dns-update.server to tell names to")
		}
		for _, p := range l.All() {
			if other, ok := prefixes[p]; ok {
				v.fail(key("prefixes"), "%s is on link %q already", p, other)
			}
			prefixes[p] = l.Name
		}
	}
	c.checkPools(v)
	c.checkClasses(v)
}

// checkPools refuses pools that cannot be divided so, or that share addresses with one
// another or with links.
func (c *Config) checkPools(v *checker) {
	type taken struct {
		p    netip.Prefix
		link string
	}
	var all []taken
	for _, l := range c.Links {
		for _, p := range l.All() {
			all = append(all, taken{p.Netip(), l.Name})
		}
	}
	for i := range c.Links {
		l := &c.Links[i]
		if n := len(l.Pools); n > lease.MaxPrefixes {
			v.fail(fmt.Sprintf("link[%d].delegate", i), "%d pools: want %d or fewer", n, lease.MaxPrefixes)
		}
		for j := range l.Pools {
			table := fmt.Sprintf("link[%d].delegate[%d]", i, j)
			p := l.Pools[j].Lease(c.Lease)
			if err := p.Pool.Check(); err != nil {
				v.fail(table+".prefix", "%w", err)
				continue
			}
			if err := p.Check(); err != nil {
				v.fail(table+".excluded", "%w", err)
			}
			v.policy(table, p.Policy, c.Lease.Retention)
			for _, t := range all {
				if t.p.Overlaps(p.Prefix) {
					v.fail(table+".prefix", "%s shares addresses with %s of link %q", p.Prefix, t.p, t.link)
				}
			}
			all = append(all, taken{p.Prefix, l.Name})
		}
	}
}

// Lease returns the pool as leases are made from it.
func (p *Pool) Lease(l Lease) lease.Pool {
	out := lease.Pool{Pool: idcodec.Pool{Prefix: p.Prefix, Bits: p.Length}, Policy: l.Policy(), Name: p.Name, Drain: p.Drain, Excluded: p.Excluded}
	out.Policy.PerSubscriber = delegatedPerSubscriber
	out.Policy = p.apply(out.Policy)
	return out
}

// LongestAge returns the age up to which anything that is leased is renewed.
func (c *Config) LongestAge() time.Duration {
	age := time.Duration(c.Lease.MaxAge)
	for i := range c.Links {
		age = max(age, c.Links[i].Policy(c.Lease).MaxAge)
		for j := range c.Links[i].Pools {
			age = max(age, c.Links[i].Pools[j].Lease(c.Lease).Policy.MaxAge)
		}
	}
	return age
}

// SlogLevel returns the level of the log.
func (l Log) SlogLevel() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return 0, fmt.Errorf("%q: want debug, info, warn or error", l.Level)
	}
	return level, nil
}

// Policy returns the lease policy.
func (l Lease) Policy() lease.Policy {
	return lease.Policy{
		Preferred: time.Duration(l.Preferred), Valid: time.Duration(l.Valid), MaxAge: time.Duration(l.MaxAge),
		DeclineHold: time.Duration(l.DeclineHold), PerSubscriber: l.PerSubscriber, CacheThreshold: l.CacheThreshold,
	}
}

// Table is a static table: who clients are, and of which classes subscribers are.
type Table struct {
	Entries      []eidauth.Entry
	Reservations []Reservation
}

// Reservation puts a subscriber, however it is authenticated, into a class.
type Reservation struct {
	Identity eidauth.Identity
	Class    string
}

// table is the file of a static table.
type table struct {
	Entries      []tableEntry       `toml:"entry"`
	Reservations []tableReservation `toml:"reservation"`
}

type tableReservation struct {
	EID    string `toml:"eid,omitempty"`
	Sealed string `toml:"sealed,omitempty"`
	Class  string `toml:"class"`
}

type tableEntry struct {
	DUID      DUID   `toml:"duid,omitempty"`
	LinkLayer DUID   `toml:"link-layer,omitempty"`
	EID       string `toml:"eid,omitempty"`
	Sealed    string `toml:"sealed,omitempty"` // base64 of lookup key ‖ NID
}

// ParseTable reads a static table. An error never holds an EID.
func ParseTable(file string, text []byte) (*Table, error) {
	var t table
	if err := tomlfile.Decode(file, text, &t); err != nil {
		// The library shows the value that it could not read.
		var e *Error
		if errors.As(err, &e) {
			return nil, &Error{File: e.File, Line: e.Line, Key: e.Key, Err: errors.New("unknown key or wrong value")}
		}
		return nil, err
	}
	at := tomlfile.Lines(text)
	var key string // of the row that is read
	fail := func(name string, err error) (*Table, error) {
		line := at[key+"."+name]
		if line == 0 {
			line = at[key]
		}
		return nil, &Error{File: file, Line: line, Key: key + "." + name, Err: err}
	}
	out := &Table{}
	for i, e := range t.Entries {
		key = fmt.Sprintf("entry[%d]", i)
		entry := eidauth.Entry{DUID: e.DUID, LinkLayer: e.LinkLayer}
		if (len(e.DUID) > 0) == (len(e.LinkLayer) > 0) {
			return fail("duid", errors.New("want either duid or link-layer"))
		}
		var wrong string
		var err error
		if entry.Identity, wrong, err = parseIdentity(e.EID, e.Sealed); err != nil {
			return fail(wrong, err)
		}
		out.Entries = append(out.Entries, entry)
	}
	for i, r := range t.Reservations {
		key = fmt.Sprintf("reservation[%d]", i)
		if r.Class == "" {
			return fail("class", errors.New("want the name of a class"))
		}
		id, wrong, err := parseIdentity(r.EID, r.Sealed)
		if err != nil {
			return fail(wrong, err)
		}
		out.Reservations = append(out.Reservations, Reservation{id, r.Class})
	}
	if _, err := eidauth.NewTable(out.Entries); err != nil {
		return nil, &Error{File: file, Err: err}
	}
	return out, nil
}

// parseIdentity reads an identity of a table. With an error it returns the key that is
// wrong.
func parseIdentity(eid, sealed string) (id eidauth.Identity, wrong string, err error) {
	switch {
	case (eid != "") == (sealed != ""):
		return id, "eid", errors.New("want either eid or sealed")
	case eid != "":
		id.EID, err = idcodec.ParseEID(eid)
		return id, "eid", err
	}
	id.Sealed, err = parseSealed(sealed)
	return id, "sealed", err
}

func parseSealed(s string) (*eidauth.Sealed, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	n := len(idcodec.LookupKey{})
	if err != nil || len(b) <= n || len(b) > n+idcodec.MaxNIDLen {
		return nil, errors.New("not a sealed identity; `gidserver seal-table` makes them")
	}
	return &eidauth.Sealed{Key: idcodec.LookupKey(b[:n]), NID: idcodec.NID(b[n:])}, nil
}

// FormatTable writes a static table.
func FormatTable(t *Table) string {
	var b strings.Builder
	identity := func(id *eidauth.Identity) {
		if s := id.Sealed; s != nil {
			fmt.Fprintf(&b, "sealed = %q\n\n", base64.StdEncoding.EncodeToString(append(s.Key[:], s.NID...)))
		} else {
			fmt.Fprintf(&b, "eid = %q\n\n", id.EID.Reveal())
		}
	}
	for _, e := range t.Entries {
		b.WriteString("[[entry]]\n")
		if len(e.DUID) > 0 {
			fmt.Fprintf(&b, "duid = %q\n", colons(e.DUID))
		} else {
			fmt.Fprintf(&b, "link-layer = %q\n", colons(e.LinkLayer))
		}
		identity(&e.Identity)
	}
	for _, r := range t.Reservations {
		fmt.Fprintf(&b, "[[reservation]]\nclass = %q\n", r.Class)
		identity(&r.Identity)
	}
	return b.String()
}

func colons(b []byte) string { return net.HardwareAddr(b).String() }
