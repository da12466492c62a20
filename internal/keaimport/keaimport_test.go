package keaimport

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/internal/config"
)

const full = `
// of all kinds, with a comma too many
{ "Dhcp6": {
  "interfaces-config": { "interfaces": [ "eth1", "eth2/2001:db8::1", "eth9", ], }, # hash
  "server-id": { "type": "EN", "enterprise-id": 32473, "identifier": "0102AB" },
  "preferred-lifetime": 3000, "valid-lifetime": 400000, "cache-threshold": 0.2, "renew-timer": 1000, "rebind-timer": 2000,
  "lease-database": { "type": "memfile" }, "control-socket": { "socket-type": "unix" },
  "hooks-libraries": [ { "library": "/usr/lib/libdhcp_radius.so" } ], "client-classes": [],
  "dhcp-ddns": { "enable-updates": false }, "frobnicate": 1,
  /* options */
  "option-data": [
    { "name": "dns-servers", "data": "2001:db8:2::45, 2001:db8:2::100" },
    { "code": 12, "data": "x" },
    { "name": "new-posix-timezone", "data": "EST5EDT4\\,M3.2.0/02:00\\,M11.1.0/02:00" },
    { "name": "sol-max-rt", "data": "3600", "always-send": true },
    { "name": "information-refresh-time", "data": "7200", "always-send": true }, { "name": "preference", "data": "20" },
    { "code": 4242, "csv-format": false, "data": "DE:AD 0xBEEF", "always-send": true },
    { "name": "x", "space": "vendor-2495", "data": "y" }
  ],
  "loggers": [ { "name": "kea-dhcp6", "severity": "WARN" } ],
  "subnet6": [
    { "id": 7, "subnet": "2001:db8:1::/64", "interface": "eth1", "rapid-commit": true, "pools": [ { "pool": "2001:db8:1::/80" } ],
      "pd-pools": [ { "prefix": "2001:db8:8::", "prefix-len": 56, "delegated-len": 64, "excluded-prefix": "2001:db8:8:0:8000::", "excluded-prefix-len": 72 }, { "prefix": "2001:db8:c::", "prefix-len": 56, "delegated-len": 64, "excluded-prefix": "2001:db8:8::", "excluded-prefix-len": 64 }, { "prefix": "2001:db8:9::", "prefix-len": 48, "delegated-len": 96 } ],
      "reservations": [ { "duid": "01:02:03", "ip-addresses": [ "2001:db8:1::5" ] } ],
      "option-data": [ { "name": "sntp-servers", "data": "2001:db8:1::123" }, { "name": "v6-captive-portal", "data": "https://p/" } ] },
    { "subnet": "2001:db8:2::/64", "relay": { "ip-addresses": [ "2001:db8:ff::2" ] }, "interface-id": "vlan7", "preferred-lifetime": 5 },
    { "subnet": "2001:db8:3::/48" }
  ],
  "shared-networks": [ { "name": "campus", "interface": "eth2", "subnet6": [ { "subnet": "2001:db8:a::/64" }, { "subnet": "2001:db8:b::/64" } ] } ]
}, "Dhcp4": {} }`

func TestAConfigurationIsCarriedOver(t *testing.T) {
	made, left, err := Convert([]byte(full), Settings{Realm: "isp.example", State: "state"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("gidserver.toml", []byte(made))
	if err != nil {
		t.Fatalf("%v\n%s", err, made)
	}
	golden := filepath.Join("testdata", "full.toml")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != made {
		t.Errorf("%v; it is now (UPDATE=1 writes it anew)\n%s", err, made)
	}
	if len(c.Links) != 3 || c.Links[0].Name != "campus" || len(c.Links[0].Prefixes) != 2 || c.Links[1].Interface != "eth1" || len(c.Links[2].RelayLinks) != 1 {
		t.Errorf("links %+v", c.Links)
	}
	if p := c.Links[1].Pools; len(p) != 2 || p[0].Prefix.String() != "2001:db8:8::/56" || p[0].Length != 64 || p[0].Excluded.String() != "::8000:0:0:0/72" || p[1].Excluded.IsValid() {
		t.Errorf("pools %+v", p)
	}
	if always, err := c.DHCPv6.Always(); err != nil || !slices.Equal(always, []uint16{82, 4242}) {
		t.Errorf("always sent are %d, %v", always, err)
	}
	if p := c.Links[2].Policy(c.Lease); p.Preferred != 5*time.Second || p.Valid != 400000*time.Second {
		t.Errorf("the policy of %s: %+v", c.Links[2].Name, p)
	}
	all, err := c.Options.Encode()
	if err != nil || len(all) != 4 {
		t.Errorf("options %v, %v", all, err)
	}
	got := make(map[string]string)
	for _, l := range left {
		got[l.Path] = l.Why
	}
	for path, why := range map[string]string{
		"Dhcp4":                                        "another server's",
		"Dhcp6.frobnicate":                             "not known",
		"Dhcp6.hooks-libraries":                        "RADIUS",
		"Dhcp6.lease-database":                         "run out",
		"Dhcp6.option-data[1]":                         "option-N",
		"Dhcp6.option-data[4].always-send":             "those who ask",
		"Dhcp6.option-data[7]":                         "vendor-2495",
		"Dhcp6.subnet6[0].pools[0]":                    "whole /64",
		"Dhcp6.subnet6[0].pd-pools[1].excluded-prefix": "65 to 128",
		"Dhcp6.subnet6[0].pd-pools[2]":                 "/96",
		"Dhcp6.subnet6[0].reservations":                "cannot be reserved",
		"Dhcp6.subnet6[1].interface-id":                "link-address",
		"Dhcp6.subnet6[2].subnet":                      "no /64",
		"Dhcp6.subnet6[2]":                             "no /64 to lease from",
		"Dhcp6.interfaces-config.interfaces":           "eth9",
	} {
		if !strings.Contains(got[path], why) {
			t.Errorf("%s: %q, want %q", path, got[path], why)
		}
		delete(got, path)
	}
	if len(got) > 0 {
		t.Errorf("also left: %v", got)
	}
}

// Nothing of Kea's configuration is dropped without a word: whatever key stands there, it
// is carried over, listed, or among those that mean nothing.
func TestEveryKeyIsAccountedFor(t *testing.T) {
	for _, where := range []string{`{"Dhcp6": {"zzz": 1}}`, `{"Dhcp6": {"subnet6": [{"subnet": "2001:db8::/64", "zzz": 1}]}}`, `{"Dhcp6": {"shared-networks": [{"zzz": 1}]}}`} {
		_, left, err := Convert([]byte(where), Settings{})
		if err != nil || !slices.ContainsFunc(left, func(l Left) bool { return strings.HasSuffix(l.Path, ".zzz") }) {
			t.Errorf("%s: %v, %v", where, left, err)
		}
	}
}

func TestTheCacheThresholdIsCarriedOver(t *testing.T) {
	for in, want := range map[string]struct {
		line string
		left int
	}{
		`{"Dhcp6": {"cache-threshold": 0.0}}`: {"cache-threshold = 0\n", 0},
		`{"Dhcp6": {"cache-threshold": 0.3}}`: {"cache-threshold = 0.3\n", 0},
		`{"Dhcp6": {"cache-threshold": 0.8}}`: {"cache-threshold = 0.49\n", 1},
		`{"Dhcp6": {"subnet6": [{"subnet": "2001:db8::/64", "relay": {"ip-address": "2001:db8::1"}, "cache-threshold": 0.3}]}}`: {"", 1},
	} {
		made, left, err := Convert([]byte(in), Settings{})
		left = slices.DeleteFunc(left, func(l Left) bool { return !strings.HasSuffix(l.Path, "cache-threshold") })
		if err != nil || !strings.Contains(made, want.line) || want.line == "" && strings.Contains(made, "cache-threshold") || len(left) != want.left {
			t.Errorf("%s: %v, left %v\n%s", in, err, left, made)
		}
	}
}

// What is excluded from a prefix is carried over or listed, and is nothing where Kea says so.
func TestExcludedPrefixes(t *testing.T) {
	for in, want := range map[string]struct{ line, left string }{
		`"excluded-prefix": "2001:db8:8:0:8000::", "excluded-prefix-len": 72`: {`excluded = "::8000:0:0:0/72"`, ""},
		`"excluded-prefix": "::", "excluded-prefix-len": 0`:                   {},
		`"excluded-prefix-len": 0`:                                            {},
		`"excluded-prefix-len": 72`:                                           {"", "without its length"},
		`"excluded-prefix": "x", "excluded-prefix-len": 72`:                   {"", "without its length"},
		`"excluded-prefix": "2001:db8:8::"`:                                   {"", "65 to 128"},
		`"excluded-prefix": "2001:db8:8::", "excluded-prefix-len": 64`:        {"", "65 to 128"},
		`"excluded-prefix": "2001:db8:8::", "excluded-prefix-len": 129`:       {"", "65 to 128"},
		`"delegated-len": 64`:                                                 {},
	} {
		made, left, err := Convert([]byte(`{"Dhcp6": {"subnet6": [{"subnet": "2001:db8::/64", "relay": {"ip-address": "2001:db8::1"},
			"pd-pools": [{"prefix": "2001:db8:8::", "prefix-len": 56, "delegated-len": 64, `+in+`}]}]}}`), Settings{})
		if err != nil || !strings.Contains(made, want.line) || want.line == "" && strings.Contains(made, "excluded") {
			t.Errorf("%s: %v\n%s", in, err, made)
		}
		left = slices.DeleteFunc(left, func(l Left) bool { return !strings.Contains(l.Path, "excluded") })
		if (len(left) > 0) != (want.left != "") || len(left) > 0 && !strings.Contains(left[0].Why, want.left) {
			t.Errorf("%s: left %v, want %q", in, left, want.left)
		}
	}
}

// Lengths that no prefix has are an error, also those that a byte would make small ones of.
func TestLengthsOfPools(t *testing.T) {
	for in, good := range map[string]bool{
		`"prefix-len": 56, "delegated-len": 64`:  true,
		`"prefix-len": 56, "delegated-len": 129`: false,
		`"prefix-len": 56, "delegated-len": 320`: false,
		`"prefix-len": 129, "delegated-len": 64`: false,
		`"prefix-len": 312, "delegated-len": 64`: false,
		`"prefix-len": -1, "delegated-len": 64`:  false,
		`"prefix-len": 56, "delegated-len": -1`:  false,
	} {
		made, _, err := Convert([]byte(`{"Dhcp6": {"subnet6": [{"subnet": "2001:db8::/64", "relay": {"ip-address": "2001:db8::1"},
			"pd-pools": [{"prefix": "2001:db8:8::", `+in+`}]}]}}`), Settings{})
		if good && (err != nil || !strings.Contains(made, "2001:db8:8::/56")) {
			t.Errorf("%s: %v\n%s", in, err, made)
		}
		if !good && (err == nil || !strings.Contains(err.Error(), "pd-pools: [0]")) {
			t.Errorf("%s: %v, want an error that names the pool", in, err)
		}
	}
}

func TestDUIDs(t *testing.T) {
	for in, want := range map[string]string{
		`{"type": "LL", "identifier": "02:00:00:00:00:07"}`:                     "00030001020000000007",
		`{"type": "LL", "htype": 8, "identifier": "0200"}`:                      "000300080200",
		`{"type": "LLT", "htype": 1, "time": 7, "identifier": "020000000007"}`:  "0001000100000007020000000007",
		`{"type": "EN", "enterprise-id": 2495, "identifier": "87ABEF7A5BB545"}`: "0002000009bf87abef7a5bb545",
		`{"type": "LLT"}`: "",
	} {
		made, _, err := Convert([]byte(`{"Dhcp6": {"server-id": `+in+`}}`), Settings{})
		if err != nil || want != "" && !strings.Contains(made, `duid = "`+want+`"`) || want == "" && !strings.Contains(made, "# duid") {
			t.Errorf("%s: %v\n%s", in, err, made)
		}
	}
}

func TestConfigurationsThatAreNone(t *testing.T) {
	for in, want := range map[string]string{
		``:                                  "unexpected end",
		`{"Dhcp4": {}}`:                     "no Dhcp6",
		"{\n\n\"Dhcp6\": {]}":               "line 3",
		`{"Dhcp6": 5}`:                      "want an object",
		`{"Dhcp6": {"subnet6": 5}}`:         "want a list",
		`{"Dhcp6": {"valid-lifetime": -1}}`: "valid-lifetime: want a number",
		`{"Dhcp6": {"subnet6": [{"subnet": "x"}]}}`:                          "subnet6[0].subnet",
		`{"Dhcp6": {"subnet6": [{"pd-pools": [{"prefix": "2001:db8::"}]}]}}`: "pd-pools: [0]: want prefix",
		`{"Dhcp6": {"subnet6": [{"relay": {"ip-address": "x"}}]}}`:           "no IPv6 address",
		`{"Dhcp6": {"server-id": {"type": "LL", "identifier": "xy"}}}`:       "want hex",
		`/* {"Dhcp6": {}}`:     "no end",
		"{\n<?include \"x\"?>": "line 2: <?include",
	} {
		if _, _, err := Convert([]byte(in), Settings{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func FuzzConvert(f *testing.F) {
	f.Add([]byte(full))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = Convert(b, Settings{Realm: "isp.example", State: "s"})
	})
}
