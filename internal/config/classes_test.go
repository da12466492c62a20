package config

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestClassesAndNamedPools(t *testing.T) {
	text := good + `
[[class]]
name = "phones"
option = "vendor-class"
contains = "phone"
options = { vendor-options = { enterprise = 32473, options = { 2 = "hex:0102", 1 = "https://provision.example/", 10 = ["2001:db8::5"] } }, ntp-servers = ["2001:db8::123"] }

[[class]]
name = "business"
`
	text = strings.Replace(text, `relay-links = ["2001:db8:ff::1"]`, "relay-links = [\"2001:db8:ff::1\"]\npools = { gold = [\"2001:db8:5::/64\"] }", 1)
	text = strings.Replace(text, "length = 56\n", "length = 56\nname = \"gold\"\n", 1)
	c, err := Parse("f.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	code, value, err := c.Classes[0].Match()
	if err != nil || code != 16 || string(value) != "phone" {
		t.Errorf("option %d, %q, %v", code, value, err)
	}
	options, err := c.Classes[0].Options.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := "00007ed9" + "0001001a" + hex.EncodeToString([]byte("https://provision.example/")) + "000200020102" + "000a0010" + "20010db8000000000000000000000005"
	if options[0].Code != 17 || hex.EncodeToString(options[0].Data) != want {
		t.Errorf("option %d: %x, want %s", options[0].Code, options[0].Data, want)
	}
	if l := c.Links[1]; len(l.All()) != 3 || l.All()[2].String() != "2001:db8:5::/64" || l.Pools[0].Lease(c.Lease).Name != "gold" {
		t.Errorf("link %+v", l)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"a class twice":             {`name = "business"`, `name = "phones"`, `class[1].name`},
		"two comparisons":           {`contains = "phone"`, "contains = \"phone\"\nbegins = \"x\"", `class[0]`},
		"a value and no option":     {`option = "vendor-class"`, ``, `class[0]: option`},
		"an unknown option":         {`option = "vendor-class"`, `option = "vendor-glass"`, `class[0]: option: "vendor-glass"`},
		"a wrong value":             {`contains = "phone"`, `contains = "hex:0g"`, `class[0]: not hex`},
		"a vendor without a number": {`enterprise = 32473`, `enterprise = 0`, `class[0].options: vendor-options: enterprise`},
		"a vendor's strange option": {`2 = "hex:0102"`, `x = "hex:0102"`, `vendor-options: options.x`},
		"a strange drain":           {`length = 56`, "length = 56\ndrain = 1", `drain`},
		"a named prefix twice":      {`gold = ["2001:db8:5::/64"]`, `gold = ["2001:db8:1::/64"]`, `link[1].prefixes: 2001:db8:1::/64 is on link "a"`},
	} {
		changed := strings.Replace(text, x.old, x.new, 1)
		if changed == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := Parse("f.toml", []byte(changed)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v\nwant %s", name, err, x.want)
		}
	}
}
