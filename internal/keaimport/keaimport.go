// Package keaimport turns a configuration of Kea's DHCPv6 server into one of gidserver, and
// says what it could not carry over.
package keaimport

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"brightgid/idcodec"
)

// Left is something that is not carried over.
type Left struct {
	Path string `json:"path"` // in Kea's configuration, as Dhcp6.subnet6[0].pd-pools
	Why  string `json:"why"`
}

// Settings are what Kea's configuration does not tell.
type Settings struct {
	Realm, State string
	DUID         string // in hex, where Kea's configuration does not fix one; may be empty
}

// Convert returns gidserver's configuration and what is left of Kea's.
func Convert(text []byte, s Settings) (string, []Left, error) {
	plain, err := withoutComments(text)
	if err != nil {
		return "", nil, err
	}
	withoutLastCommas(plain)
	var file map[string]json.RawMessage
	if err := json.Unmarshal(plain, &file); err != nil {
		return "", nil, where(text, err)
	}
	body, ok := file["Dhcp6"]
	if !ok {
		return "", nil, errors.New("it has no Dhcp6: this is not a configuration of Kea's DHCPv6 server")
	}
	c := &converter{duid: s.DUID}
	for _, other := range slices.Sorted(maps.Keys(file)) {
		if other != "Dhcp6" {
			c.leave(other, "it is another server's")
		}
	}
	root, err := object(body)
	if err != nil {
		return "", nil, fmt.Errorf("Dhcp6: %w", err)
	}
	if err := c.global(root); err != nil {
		return "", nil, err
	}
	return c.write(s), c.left, nil
}

// where says in which line JSON is wrong.
func where(text []byte, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at := min(int(syntax.Offset), len(text))
		return fmt.Errorf("line %d: %w", 1+strings.Count(string(text[:at]), "\n"), err)
	}
	return err
}

// withoutComments blanks Kea's comments (#, //, /* */), so that offsets stay.
func withoutComments(text []byte) ([]byte, error) {
	out := slices.Clone(text)
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
	}
	for i := 0; i < len(out); i++ {
		rest := string(out[i:min(len(out), i+2)])
		switch {
		case out[i] == '"':
			for i++; i < len(out) && out[i] != '"'; i++ {
				if out[i] == '\\' {
					i++
				}
			}
		case out[i] == '#' || rest == "//":
			end := i + strings.IndexByte(string(out[i:]), '\n')
			if end < i {
				end = len(out)
			}
			blank(i, end)
			i = end
		case rest == "/*":
			n := strings.Index(string(out[i:]), "*/")
			if n < 0 {
				return nil, errors.New("a comment has no end")
			}
			blank(i, i+n+2)
			i += n + 1
		case rest == "<?":
			return nil, fmt.Errorf("line %d: <?include?> is not followed; put the files together first", 1+strings.Count(string(text[:i]), "\n"))
		}
	}
	return out, nil
}

// withoutLastCommas blanks commas before the end of an object or a list, which Kea takes.
func withoutLastCommas(b []byte) {
	comma := -1
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			comma = -1
		case ',':
			comma = i
		case '}', ']':
			if comma >= 0 {
				b[comma] = ' '
			}
			comma = -1
		case ' ', '\t', '\r', '\n':
		default:
			comma = -1
		}
	}
}

type fields map[string]json.RawMessage

func object(b json.RawMessage) (fields, error) {
	var f fields
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, errors.New("want an object")
	}
	return f, nil
}

func objects(b json.RawMessage) ([]fields, error) {
	var all []fields
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, errors.New("want a list of objects")
	}
	return all, nil
}

// converter gathers what is carried over.
type converter struct {
	left []Left
	duid string

	rapid            bool
	preference       int
	preferred, valid time.Duration
	cached           *float64 // cache-threshold; nil without
	t1, t2, refresh  time.Duration
	options          map[string]string // of all links, as TOML
	always           []string          // keys of options that go to who does not ask, too
	links            []link
	relays           []string
	level            string
}

type link struct {
	name, iface string
	prefixes    []string
	relays      []string
	options     map[string]string
	times       map[string]time.Duration // preferred, valid
	pools       []pool
}

// pool is what prefixes are delegated from.
type pool struct {
	prefix   string
	length   int64
	excluded string // from each prefix, or empty
}

func (c *converter) leave(path, why string) { c.left = append(c.left, Left{path, why}) }

// What is not carried over, and why.
var globalLeft = map[string]string{
	"lease-database":                   "gidserver has a database of its own; Kea's leases are not taken along: their addresses run out, and clients get GIDs when they renew",
	"hosts-database":                   "reservations come from a database; see reservations",
	"hosts-databases":                  "reservations come from databases; see reservations",
	"hooks-libraries":                  "hooks are Kea's own; for RADIUS see [radius], for lease queries [leasequery], for forensic logging the lease history",
	"client-classes":                   "expressions over options are to be written anew as [[class]]",
	"option-def":                       "write such options as option-N = \"hex:…\"",
	"dhcp-ddns":                        "see [dns-update] and a link's names; the reverse zone is [zone]",
	"multi-threading":                  "gidserver needs no such setting",
	"config-control":                   "the configuration is one file",
	"shared-networks":                  "",
	"reservations":                     "an address follows from the subscriber's key and cannot be reserved",
	"dhcp-queue-control":               "gidserver needs no such setting",
	"expired-leases-processing":        "leases stay until the retention ends, so that they can be traced",
	"mac-sources":                      "the link-layer address comes from option 79, or the DUID",
	"relay-supplied-options":           "gidserver passes no options on from relays",
	"decline-probation-period":         "see lease.decline-hold",
	"host-reservation-identifiers":     "see reservations",
	"reservation-mode":                 "see reservations",
	"early-global-reservations-lookup": "see reservations",
	"ip-reservations-unique":           "see reservations",
	"allocator":                        "addresses are GIDs",
	"pd-allocator":                     "which prefix is next follows from a key",
}

// quiet are keys that mean nothing to gidserver and that nobody misses.
var quiet = []string{"control-socket", "control-sockets", "sanity-checks", "calculate-tee-times", "t1-percent", "t2-percent", "comment", "user-context", "statistic-default-sample-count",
	"statistic-default-sample-age", "server-tag", "store-extended-info", "hostname-char-set", "hostname-char-replacement", "ddns-send-updates", "ddns-override-no-update", "ddns-override-client-update",
	"ddns-replace-client-name", "ddns-generated-prefix", "ddns-qualifying-suffix", "ddns-update-on-renew", "ddns-use-conflict-resolution", "ddns-conflict-resolution-mode", "parked-packet-limit",
	"reservations-global", "reservations-in-subnet", "reservations-out-of-pool", "cache-max-age", "cache-time", "dhcp4o6-port", "compatibility", "data-directory", "id", "reservations-lookup-first",
	"min-preferred-lifetime", "max-preferred-lifetime", "min-valid-lifetime", "max-valid-lifetime"}

// threshold carries over what leases are granted in without being written. Clients renew after
// half of a lifetime, by when gidserver wants to have written.
func (c *converter) threshold(at string, b json.RawMessage) error {
	const most = 0.49
	var part float64
	if err := json.Unmarshal(b, &part); err != nil {
		return err
	}
	if part > most {
		c.leave(at, fmt.Sprintf("more than %g, which it is now", most))
		part = most
	}
	c.cached = &part
	return nil
}

func (c *converter) global(f fields) error {
	const path = "Dhcp6"
	c.options = make(map[string]string)
	for _, key := range slices.Sorted(maps.Keys(f)) {
		at, value := path+"."+key, f[key]
		var err error
		switch key {
		case "preferred-lifetime":
			c.preferred, err = seconds(value)
		case "valid-lifetime":
			c.valid, err = seconds(value)
		case "renew-timer":
			c.t1, err = seconds(value)
		case "rebind-timer":
			c.t2, err = seconds(value)
		case "cache-threshold":
			err = c.threshold(at, value)
		case "option-data":
			err = c.optionData(at, value, c.options)
		case "server-id":
			err = c.serverID(at, value)
		case "loggers":
			err = c.loggers(value)
		case "interfaces-config", "subnet6": // below
		case "shared-networks":
			err = c.networks(at, value)
		default:
			why, known := globalLeft[key]
			switch {
			case known && !empty(value):
				c.leave(at, why)
			case !known && !slices.Contains(quiet, key):
				c.leave(at, "not known to this importer")
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if b, ok := f["subnet6"]; ok {
		subnets, err := objects(b)
		if err != nil {
			return fmt.Errorf("%s.subnet6: %w", path, err)
		}
		for i, s := range subnets {
			at := fmt.Sprintf("%s.subnet6[%d]", path, i)
			l := link{name: "subnet" + strconv.Itoa(i+1), options: make(map[string]string)}
			if id, err := number(s["id"]); err == nil {
				l.name = "subnet" + strconv.FormatInt(id, 10)
			}
			if err := c.subnet(at, s, &l); err != nil {
				return err
			}
			c.add(at, l)
		}
	}
	return c.interfaces(path+".interfaces-config", f["interfaces-config"])
}

// empty reports whether a value says nothing.
func empty(b json.RawMessage) bool {
	switch strings.Join(strings.Fields(string(b)), "") {
	case "[]", "{}", "null", "false", `""`, `{"enable-updates":false}`:
		return true
	}
	return false
}

func number(b json.RawMessage) (int64, error) {
	var n int64
	if len(b) == 0 || json.Unmarshal(b, &n) != nil || n < 0 {
		return 0, errors.New("want a number")
	}
	return n, nil
}

func seconds(b json.RawMessage) (time.Duration, error) {
	n, err := number(b)
	if n > 1<<32-1 {
		return 0, errors.New("want seconds below 2^32")
	}
	return time.Duration(n) * time.Second, err
}

func str(b json.RawMessage) (string, error) {
	var s string
	if len(b) == 0 || json.Unmarshal(b, &s) != nil {
		return "", errors.New("want a text")
	}
	return s, nil
}

// networks takes a shared network as one link with several prefixes.
func (c *converter) networks(path string, b json.RawMessage) error {
	all, err := objects(b)
	if err != nil {
		return err
	}
	for i, n := range all {
		at := fmt.Sprintf("%s[%d]", path, i)
		l := link{options: make(map[string]string)}
		if l.name, err = str(n["name"]); err != nil {
			l.name = "network" + strconv.Itoa(i+1)
		}
		subnets := n["subnet6"]
		delete(n, "subnet6")
		delete(n, "name")
		if err := c.subnet(at, n, &l); err != nil {
			return err
		}
		if len(subnets) > 0 {
			inner, err := objects(subnets)
			if err != nil {
				return fmt.Errorf("%s.subnet6: %w", at, err)
			}
			for j, s := range inner {
				if err := c.subnet(fmt.Sprintf("%s.subnet6[%d]", at, j), s, &l); err != nil {
					return err
				}
			}
		}
		c.add(at, l)
	}
	return nil
}

// add adds a link that clients can be served on.
func (c *converter) add(path string, l link) {
	if len(l.prefixes) == 0 {
		c.leave(path, "it has no /64 to lease from")
		return
	}
	if len(l.prefixes) > 8 {
		c.leave(path, fmt.Sprintf("%d prefixes; gidserver takes 8 of a link", len(l.prefixes)))
		l.prefixes = l.prefixes[:8]
	}
	for slices.ContainsFunc(c.links, func(x link) bool { return x.name == l.name }) {
		l.name += "-again"
	}
	c.links = append(c.links, l)
}

// subnet puts a subnet's, or a shared network's, settings into a link.
func (c *converter) subnet(path string, f fields, l *link) error {
	for _, key := range slices.Sorted(maps.Keys(f)) {
		at, value := path+"."+key, f[key]
		var err error
		switch key {
		case "subnet":
			var p netip.Prefix
			var s string
			if s, err = str(value); err == nil {
				p, err = netip.ParsePrefix(s)
			}
			switch {
			case err != nil:
			case p.Bits() != 64 || !p.Addr().Is6():
				c.leave(at, s+" is no /64: GIDs fill the last 64 bits")
			default:
				l.prefixes = append(l.prefixes, p.Masked().String())
			}
		case "interface":
			l.iface, err = str(value)
		case "relay":
			err = c.relay(value, l)
		case "option-data":
			err = c.optionData(at, value, l.options)
		case "rapid-commit":
			var on bool
			if err = json.Unmarshal(value, &on); err == nil && on {
				c.rapid = true
			}
		case "pools":
			err = c.pool(at, value)
		case "pd-pools":
			err = c.pdPools(at, value, l)
		case "reservations":
			if !empty(value) {
				c.leave(at, "an address follows from the subscriber's key and cannot be reserved; who the client is, a row of table.toml may say")
			}
		case "interface-id":
			c.leave(at, "links are told apart by link-address; the Interface-ID is for [auth] relay-options")
		case "preferred-lifetime", "valid-lifetime":
			if l.times == nil {
				l.times = make(map[string]time.Duration)
			}
			l.times[strings.TrimSuffix(key, "-lifetime")], err = seconds(value)
		case "renew-timer", "rebind-timer":
			c.leave(at, "T1 and T2 are the same for all links")
		case "cache-threshold":
			c.leave(at, "lease.cache-threshold is the same for all links")
		case "client-class", "require-client-classes", "evaluate-additional-classes", "client-classes":
			c.leave(at, "a class has options, no links of its own; see [[class]] and a link's pools")
		default:
			if !slices.Contains(quiet, key) && !empty(value) {
				c.leave(at, "not known to this importer")
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}

// pdPools carries over what prefixes are delegated from.
func (c *converter) pdPools(path string, b json.RawMessage, l *link) error {
	all, err := objects(b)
	if err != nil {
		return err
	}
	for i, f := range all {
		at := fmt.Sprintf("%s[%d]", path, i)
		s, err := str(f["prefix"])
		if err != nil {
			return fmt.Errorf("[%d].prefix: %w", i, err)
		}
		bits, err1 := number(f["prefix-len"])
		length, err2 := number(f["delegated-len"])
		addr, err := netip.ParseAddr(s)
		if err := errors.Join(err, err1, err2); err != nil || bits > 128 || length > 128 {
			return fmt.Errorf("[%d]: want prefix, prefix-len and delegated-len", i)
		}
		p := idcodec.Pool{Prefix: netip.PrefixFrom(addr, int(bits)).Masked(), Bits: uint8(length)}
		if err := p.Check(); err != nil {
			c.leave(at, err.Error())
			continue
		}
		out := pool{prefix: p.Prefix.String(), length: length}
		for _, key := range slices.Sorted(maps.Keys(f)) {
			switch {
			case key == "prefix" || key == "prefix-len" || key == "delegated-len" || key == "excluded-prefix" || key == "excluded-prefix-len" || slices.Contains(quiet, key) || empty(f[key]):
			default:
				c.leave(at+"."+key, "a pool has no such setting")
			}
		}
		if out.excluded, err = excludedFrom(f, p.Bits); err != nil {
			c.leave(at+".excluded-prefix", err.Error())
		}
		l.pools = append(l.pools, out)
	}
	return nil
}

// excludedFrom returns what a pool of prefixes so long excludes from each; empty for nothing, which Kea also writes as
// a length of 0. Kea has it as it is in the pool's first prefix, and takes the same part of the others.
func excludedFrom(pool map[string]json.RawMessage, length uint8) (string, error) {
	prefix, has := pool["excluded-prefix"]
	bits, err := number(pool["excluded-prefix-len"])
	if err == nil && bits == 0 || err != nil && !has {
		return "", nil
	}
	if err != nil || bits <= int64(length) || bits > 128 {
		return "", fmt.Errorf("want an excluded-prefix-len of %d to 128", length+1)
	}
	s, err1 := str(prefix)
	addr, err2 := netip.ParseAddr(s)
	if errors.Join(err1, err2) != nil || !addr.Is6() {
		return "", errors.New("want an IPv6 prefix without its length")
	}
	raw := addr.As16()
	for i := range int(length) {
		raw[i/8] &^= 0x80 >> (i % 8)
	}
	return netip.PrefixFrom(netip.AddrFrom16(raw), int(bits)).Masked().String(), nil
}

// pool notes that parts of a prefix cannot be leased from alone.
func (c *converter) pool(path string, b json.RawMessage) error {
	all, err := objects(b)
	if err != nil {
		return err
	}
	for i, p := range all {
		s, err := str(p["pool"])
		if err != nil {
			return err
		}
		if whole, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && whole.Bits() == 64 {
			continue
		}
		c.leave(fmt.Sprintf("%s[%d]", path, i), s+": gidserver leases from the whole /64; have nobody else use addresses in it")
	}
	return nil
}

func (c *converter) relay(b json.RawMessage, l *link) error {
	f, err := object(b)
	if err != nil {
		return err
	}
	var addrs []string
	if one, err := str(f["ip-address"]); err == nil {
		addrs = append(addrs, one)
	}
	if many, ok := f["ip-addresses"]; ok {
		var all []string
		if err := json.Unmarshal(many, &all); err != nil {
			return errors.New("ip-addresses: want a list of texts")
		}
		addrs = append(addrs, all...)
	}
	for _, s := range addrs {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is6() {
			return fmt.Errorf("%q is no IPv6 address", s)
		}
		l.relays = append(l.relays, a.String())
		if !slices.Contains(c.relays, a.String()) {
			c.relays = append(c.relays, a.String())
		}
	}
	return nil
}

// interfaces gives links without a relay an interface, where that is clear.
func (c *converter) interfaces(path string, b json.RawMessage) error {
	if len(b) == 0 {
		return nil
	}
	f, err := object(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var names []string
	if err := json.Unmarshal(f["interfaces"], &names); err != nil && len(f["interfaces"]) > 0 {
		return fmt.Errorf("%s.interfaces: want a list of texts", path)
	}
	for _, n := range names {
		name, unicast, found := strings.Cut(n, "/")
		used := slices.ContainsFunc(c.links, func(l link) bool { return l.iface == name })
		switch {
		case found:
			c.leave(path+".interfaces", n+": gidserver listens at all addresses; "+unicast+" needs no entry")
		case name != "*" && !used:
			c.leave(path+".interfaces", name+": no subnet names it; give its [[link]] interface = "+strconv.Quote(name))
		}
	}
	return nil
}

// serverID carries a DUID over, so that clients know the server again.
func (c *converter) serverID(path string, b json.RawMessage) error {
	var id struct {
		Type       string `json:"type"`
		Identifier string `json:"identifier"`
		Enterprise uint32 `json:"enterprise-id"`
		HType      uint16 `json:"htype"`
		Time       uint32 `json:"time"`
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return errors.New("want type, identifier and so on")
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(id.Identifier, ":", ""))
	if err != nil {
		return errors.New("identifier: want hex")
	}
	if id.HType == 0 {
		id.HType = 1
	}
	switch {
	case len(raw) == 0 || id.Type == "LLT" && id.Time == 0:
		c.leave(path, "Kea makes a part of it; put what is in its kea-dhcp6-serverid file into dhcpv6.duid, so that clients know the server again")
	case id.Type == "EN":
		c.duid = fmt.Sprintf("0002%08x%x", id.Enterprise, raw)
	case id.Type == "LL":
		c.duid = fmt.Sprintf("0003%04x%x", id.HType, raw)
	case id.Type == "LLT":
		c.duid = fmt.Sprintf("0001%04x%08x%x", id.HType, id.Time, raw)
	default:
		return fmt.Errorf("type %q: want LL, LLT or EN", id.Type)
	}
	return nil
}

func (c *converter) loggers(b json.RawMessage) error {
	all, err := objects(b)
	if err != nil {
		return err
	}
	for _, l := range all {
		if s, err := str(l["severity"]); err == nil {
			if level := map[string]string{"DEBUG": "debug", "INFO": "info", "WARN": "warn", "ERROR": "error", "FATAL": "error"}[strings.ToUpper(s)]; level != "" {
				c.level = level
			}
		}
	}
	return nil
}

// keaOptions are Kea's names of options, and what gidserver calls them.
var keaOptions = map[string]string{
	"dns-servers": "dns-servers", "domain-search": "domain-search", "sntp-servers": "sntp-servers", "sip-server-addr": "sip-servers", "sip-server-dns": "sip-server-names",
	"nis-servers": "nis-servers", "nisp-servers": "nisp-servers", "nis-domain-name": "nis-domain", "nisp-domain-name": "nisp-domain", "bootfile-url": "bootfile-url",
	"bcmcs-server-dns": "bcmcs-server-names", "bcmcs-server-addr": "bcmcs-servers", "new-posix-timezone": "posix-timezone", "new-tzdb-timezone": "tzdb-timezone",
	"aftr-name": "aftr-name", "erp-local-domain-name": "erp-local-domain", "v6-captive-portal": "captive-portal", "sol-max-rt": "sol-max-rt", "inf-max-rt": "inf-max-rt",
	"v6-access-domain": "v6-access-domain", "sip-ua-cs-list": "sip-ua-cs-domains", "dhcp4o6-server-addr": "dhcp4o6-servers", "v6-lost": "lost-server", "v6-sztp-redirect": "sztp-redirect",
	"v6-dots-ri": "dots-agent", "v6-dots-address": "dots-addresses",
}

// isList are options whose data is a list, and isNumber those whose is a number.
var (
	isList   = []string{"dns-servers", "domain-search", "sntp-servers", "sip-servers", "sip-server-names", "nis-servers", "nisp-servers", "bcmcs-server-names", "bcmcs-servers", "sip-ua-cs-domains", "dhcp4o6-servers", "dots-addresses", "sztp-redirect"}
	isNumber = []string{"sol-max-rt", "inf-max-rt"}
)

func (c *converter) optionData(path string, b json.RawMessage, into map[string]string) error {
	all, err := objects(b)
	if err != nil {
		return err
	}
	for i, o := range all {
		at := fmt.Sprintf("%s[%d]", path, i)
		name, _ := str(o["name"])
		data, _ := str(o["data"])
		csv := true
		if v, ok := o["csv-format"]; ok {
			if err := json.Unmarshal(v, &csv); err != nil {
				return fmt.Errorf("%s.csv-format: want true or false", at)
			}
		}
		if space, err := str(o["space"]); err == nil && space != "dhcp6" {
			c.leave(at, "an option of "+space+", which gidserver does not send")
			continue
		}
		if isTrue(o["never-send"]) {
			c.leave(at+".never-send", "options are sent to those who ask")
		}
		switch key, known := keaOptions[name]; {
		case !csv:
			code, err := number(o["code"])
			if err != nil && !known {
				c.leave(at, "its code is not told")
				continue
			}
			key := keaOptions[name]
			if key == "" {
				key = fmt.Sprintf("option-%d", code)
			}
			raw := strings.NewReplacer(":", "", " ", "", "0x", "", "'", "").Replace(data)
			into[key] = strconv.Quote("hex:" + raw)
			c.alwaysSend(o, key)
		case name == "information-refresh-time":
			if n, err := strconv.ParseUint(data, 10, 32); err == nil {
				c.refresh = time.Duration(n) * time.Second
			}
			if isTrue(o["always-send"]) {
				c.leave(at+".always-send", "it is sent to those who ask")
			}
		case name == "preference":
			if n, err := strconv.ParseUint(data, 10, 8); err == nil {
				c.preference = int(n)
			}
		case !known:
			c.leave(at, fmt.Sprintf("option %q; write it as option-N = \"hex:…\", or under gidserver's name", name))
		default:
			into[key] = tomlValue(key, data)
			c.alwaysSend(o, key)
		}
	}
	return nil
}

// alwaysSend notes an option that is sent to who does not ask for it. Kea has that for each place in which
// the option is set.
func (c *converter) alwaysSend(option map[string]json.RawMessage, key string) {
	if isTrue(option["always-send"]) && !slices.Contains(c.always, key) {
		c.always = append(c.always, key)
	}
}

func isTrue(b json.RawMessage) bool {
	var on bool
	return json.Unmarshal(b, &on) == nil && on
}

// tomlValue writes the data of an option, which Kea separates by commas.
func tomlValue(key, data string) string {
	if slices.Contains(isNumber, key) {
		return strings.TrimSpace(data)
	}
	if !slices.Contains(isList, key) {
		return strconv.Quote(strings.TrimSpace(strings.ReplaceAll(data, `\,`, ",")))
	}
	var out []string
	for part := range strings.SplitSeq(data, ",") {
		out = append(out, strconv.Quote(strings.TrimSpace(part)))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// write writes gidserver's configuration.
func (c *converter) write(s Settings) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# From a configuration of Kea's DHCPv6 server, by gidserver import-kea.")
	line("realm = %q", s.Realm)
	line("state = %q", s.State)
	line("\n[keys]\n# made by gidserver init and the trustees' ceremony: keyring, registry.key, escrow.json\n")
	line("[dhcpv6]")
	if c.duid == "" {
		line("# duid: the server's, from gidserver init or Kea's kea-dhcp6-serverid")
	} else {
		line("duid = %q", c.duid)
	}
	if c.preference > 0 {
		line("preference = %d", c.preference)
	}
	if c.rapid {
		line("rapid-commit = true")
	}
	if len(c.always) > 0 {
		line("always-send = %s", quoted(c.always))
	}
	for _, x := range []struct {
		key string
		d   time.Duration
	}{{"t1", c.t1}, {"t2", c.t2}, {"information-refresh", c.refresh}} {
		if x.d > 0 {
			line("%s = \"%ds\"", x.key, int(x.d.Seconds()))
		}
	}
	options(&b, "\n[options]\n", "\n", c.options)
	line("\n[lease]")
	if c.preferred > 0 {
		line("preferred = \"%ds\"", int(c.preferred.Seconds()))
	}
	if c.valid > 0 {
		line("valid = \"%ds\"", int(c.valid.Seconds()))
		if c.valid > 72*time.Hour {
			line("max-age = \"%ds\"  # not shorter than valid", int(c.valid.Seconds()))
		}
	}
	if c.cached != nil {
		line("cache-threshold = %g", *c.cached)
	}
	for _, l := range c.links {
		line("\n[[link]]\nname = %q", l.name)
		if l.iface != "" {
			line("interface = %q", l.iface)
		}
		line("prefixes = %s", quoted(l.prefixes))
		if len(l.relays) > 0 {
			line("relay-links = %s", quoted(l.relays))
		}
		if len(l.options) > 0 {
			b.WriteString("options = { ")
			options(&b, "", ", ", l.options)
			b.WriteString(" }\n")
		}
		for _, key := range slices.Sorted(maps.Keys(l.times)) {
			line("%s = \"%ds\"", key, int(l.times[key].Seconds()))
		}
		if v := l.times["valid"]; v > max(72*time.Hour, c.valid) {
			line("max-age = \"%ds\"  # not shorter than valid", int(v.Seconds()))
		}
		for _, p := range l.pools {
			line("\n[[link.delegate]]\nprefix = %q\nlength = %d", p.prefix, p.length)
			if p.excluded != "" {
				line("excluded = %q", p.excluded)
			}
		}
	}
	line("\n[auth]\n# Who a client is: Kea leases to anybody, gidserver to those whom it knows. The relays by\n# whose options it may know them, or RADIUS, enrolment tokens, a table.")
	if len(c.relays) > 0 {
		line("# trusted-relays = %s  # the addresses that they send from", quoted(c.relays))
	}
	line("table = \"table.toml\"")
	if c.level != "" {
		line("\n[log]\nlevel = %q", c.level)
	}
	return b.String()
}

func options(b *strings.Builder, head, separator string, all map[string]string) {
	if len(all) == 0 {
		return
	}
	b.WriteString(head)
	for i, key := range slices.Sorted(maps.Keys(all)) {
		if i > 0 {
			b.WriteString(separator)
		}
		fmt.Fprintf(b, "%s = %s", key, all[key])
	}
	if head != "" {
		b.WriteString("\n")
	}
}

func quoted(all []string) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}
