package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"brightgid/eidauth"
	"brightgid/idcodec"
)

const good = `realm = "isp.example"
state = "state"

[dhcpv6]
duid = "00:04:00:11"
dns = ["2001:db8::53"]

[lease]
preferred = "30m"
valid = "1h"
max-age = "2d"
retention = "30d"

[[link]]
name = "a"
interface = "eth1"
prefixes = ["2001:db8:1::/64"]

[[link]]
name = "b"
prefixes = ["2001:db8:2::/64", "2001:db8:3::/64"]
relay-links = ["2001:db8:ff::1"]

[[link.delegate]]
prefix = "2001:db8:4000::/36"
length = 56
max-age = "20d"
per-subscriber = 2

[auth]
trusted-relays = ["2001:db8:ff::1"]
`

func TestParse(t *testing.T) {
	c, err := Parse("/etc/gidserver/gidserver.toml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.State != "/etc/gidserver/state" || c.Keys.Keyring != "/etc/gidserver/keyring" {
		t.Errorf("paths %q and %q", c.State, c.Keys.Keyring)
	}
	if p := c.Lease.Policy(); p.MaxAge != 48*time.Hour || p.Preferred != 30*time.Minute || p.PerSubscriber != 16 {
		t.Errorf("policy %+v", p)
	}
	if p := c.Links[1].Pools[0].Lease(c.Lease); p.Bits != 56 || p.Policy.MaxAge != 480*time.Hour || p.Policy.Preferred != 30*time.Minute || p.Policy.PerSubscriber != 2 || c.LongestAge() != p.Policy.MaxAge {
		t.Errorf("pool %+v", p)
	}
	if len(c.Links) != 2 || len(c.Links[1].Prefixes) != 2 {
		t.Errorf("links %+v", c.Links)
	}
}

// Whatever is wrong, the error names file, line and key.
func TestErrorsNameFileLineAndKey(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"an unknown key":          {`valid = "1h"`, `vaild = "1h"`, `f.toml:10: lease.vaild: unknown key`},
		"an unknown table":        {`[auth]`, `[author]`, `f.toml:30: author`},
		"a wrong type":            {`state = "state"`, `state = 5`, `f.toml:2: state`},
		"no duration":             {`max-age = "2d"`, `max-age = "2 days"`, `f.toml:11: lease.max-age`},
		"a negative one":          {`max-age = "2d"`, `max-age = "-2h"`, `f.toml:11: lease.max-age`},
		"no address":              {`"2001:db8::53"`, `"192.0.2.53"`, `f.toml:6: dhcpv6.dns`},
		"no /64":                  {`"2001:db8:1::/64"`, `"2001:db8:1::/48"`, `f.toml:17`},
		"a short retention":       {`retention = "30d"`, `retention = "1d"`, `f.toml:12: lease.retention: 24h0m0s is shorter than lease.max-age`},
		"valid below preferred":   {`valid = "1h"`, `valid = "10m"`, `f.toml:10: lease.valid`},
		"a prefix twice":          {`"2001:db8:3::/64"`, `"2001:db8:1::/64"`, `f.toml:21: link[1].prefixes: 2001:db8:1::/64 is on link "a" already`},
		"a name twice":            {`name = "b"`, `name = "a"`, `f.toml:20: link[1].name`},
		"no prefix":               {`prefixes = ["2001:db8:1::/64"]`, `prefixes = []`, `f.toml:17: link[0].prefixes`},
		"a missing key":           {`realm = "isp.example"`, ``, `f.toml: realm`},
		"a missing key in a list": {`name = "b"`, ``, `f.toml:19: link[1].name`},
		"nobody to authenticate":  {`trusted-relays = ["2001:db8:ff::1"]`, ``, `f.toml:30: auth`},
		"a strange relay option":  {`[auth]`, "[auth]\nrelay-options = [\"circuit-id\"]", `f.toml:31: auth.relay-options`},
		"no TOML":                 {`[lease]`, `[lease`, `f.toml:8`},
		"a duid of rubbish":       {`"00:04:00:11"`, `"xyz"`, `f.toml:5: dhcpv6.duid`},
		"a pool of a link's":      {`"2001:db8:4000::/36"`, `"2001:db8::/36"`, `f.toml:25: link[1].delegate[0].prefix: 2001:db8::/36 shares addresses with 2001:db8:1::/64 of link "a"`},
		"a pool of long prefixes": {`length = 56`, `length = 80`, `f.toml:25: link[1].delegate[0].prefix: pool 2001:db8:4000::/36: delegated prefixes of /80`},
		"a pool's short ages":     {`max-age = "20d"`, `max-age = "20m"`, `f.toml:27: link[1].delegate[0].max-age: 20m0s is shorter`},
		"a pool's long ages":      {`max-age = "20d"`, `max-age = "40d"`, `f.toml:12: lease.retention: 720h0m0s is shorter than link[1].delegate[0].max-age`},
		"a pool's whole prefix":   {`max-age = "20d"`, `excluded = "0:0:0:100::/64"`, `f.toml:27: link[1].delegate[0].excluded: pool 2001:db8:4000::/36: excluded 0:0:0:100::/64: want a prefix in ::/56`},
		"a pool without a prefix": {`prefix = "2001:db8:4000::/36"`, ``, `f.toml:24: link[1].delegate[0].prefix`},
		"always sent by no name":  {`dns = ["2001:db8::53"]`, `always-send = ["sol-max-rt", "zzz"]`, `f.toml:6: dhcpv6.always-send: zzz: unknown option`},
		"a late threshold":        {`valid = "1h"`, "valid = \"1h\"\ncache-threshold = 0.5", `f.toml:11: lease.cache-threshold: 0.5: want 0 to less than 0.5`},
		"a clock of any time":     {`[auth]`, "[database]\nmax-clock-difference = \"61s\"\n[auth]", `f.toml:31: database.max-clock-difference: 1m1s: want 1s to 60s`},
		"a clock of no time":      {`[auth]`, "[database]\nmax-clock-difference = \"0s\"\n[auth]", `f.toml:31: database.max-clock-difference: 0s: want 1s to 60s`},
		"a listener without port": {`[auth]`, "[metrics]\nlisten = \"::1\"\n[auth]", `f.toml:31: metrics.listen`},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		_, err := Parse("f.toml", []byte(text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	var key idcodec.LookupKey
	key[0] = 7
	table, err := ParseTable("t.toml", []byte("[[reservation]]\neid = \"static:bob\"\nclass = \"gold\"\n[[entry]]\nduid = \"00:04:01\"\neid = \"static:alice\"\n[[entry]]\nlink-layer = \"02:00:00:00:00:01\"\neid = \"static:bob\"\n"))
	if err != nil || len(table.Entries) != 2 || len(table.Reservations) != 1 || table.Reservations[0].Class != "gold" {
		t.Fatalf("%v, %v", table, err)
	}
	table.Entries[0].Identity = eidauth.Identity{Sealed: &eidauth.Sealed{Key: key, NID: idcodec.NID{1, 2, 3}}}
	back, err := ParseTable("t.toml", []byte(FormatTable(table)))
	if err != nil {
		t.Fatal(err)
	}
	if back.Reservations[0].Identity.EID.Reveal() != "static:bob" || back.Reservations[0].Class != "gold" {
		t.Errorf("read back %+v", back.Reservations)
	}
	if s := back.Entries[0].Identity.Sealed; s == nil || s.Key != key || string(s.NID) != "\x01\x02\x03" {
		t.Errorf("read back %+v", back.Entries[0])
	}
	if back.Entries[1].Identity.EID.Reveal() != "static:bob" {
		t.Errorf("read back %+v", back.Entries[1])
	}
}

func TestTableErrorsHoldNoEID(t *testing.T) {
	for name, text := range map[string]string{
		"a bad EID":      "[[entry]]\nduid = \"0001\"\neid = \"canary\"\n",
		"an EID of 5":    "[[entry]]\nduid = \"0001\"\neid = [\"canary\"]\n",
		"a stray key":    "[[entry]]\nduid = \"0001\"\ncanary = \"canary\"\n",
		"broken TOML":    "[[entry]]\nduid = \"0001\"\neid = \"canary\n",
		"no key":         "[[entry]]\neid = \"x:canary\"\n",
		"both keys":      "[[entry]]\nduid = \"01\"\nlink-layer = \"01\"\neid = \"x:canary\"\n",
		"eid and sealed": "[[entry]]\nduid = \"01\"\neid = \"x:canary\"\nsealed = \"canary\"\n",
		"sealed rubbish": "[[entry]]\nduid = \"01\"\nsealed = \"canary\"\n",
		"a key twice":    "[[entry]]\nduid = \"01\"\neid = \"x:canary\"\n[[entry]]\nduid = \"01\"\neid = \"x:canary\"\n",
	} {
		_, err := ParseTable("t.toml", []byte(text))
		if err == nil || name != "a stray key" && strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "t.toml") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("[[link]]\n[[link]]\nname=1\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f.toml", []byte(text))
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%v is no Error", err)
		}
		if err == nil && (c.Realm == "" || len(c.Links) == 0 || c.Lease.Retention < c.Lease.MaxAge) {
			t.Fatalf("%+v was accepted", c)
		}
	})
}
