package config

import (
	"encoding/hex"
	"strings"
	"testing"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/internal/tomlfile"
)

// encode reads one option from TOML.
func encode(t testing.TB, line string) ([]Option, error) {
	t.Helper()
	var v struct {
		Options Options `toml:"options"`
	}
	if err := tomlfile.Decode("test.toml", []byte("[options]\n"+line+"\n"), &v); err != nil {
		t.Fatal(err)
	}
	return v.Options.Encode()
}

func TestOptionsAreEncodedByTheirTypes(t *testing.T) {
	const addr = "20010db8000000000000000000000053"
	for line, want := range map[string]struct {
		code uint16
		data string
	}{
		`sntp-servers = "2001:db8::53"`:                            {31, addr},
		`sip-servers = ["2001:db8::53", "2001:db8::53"]`:           {22, addr + addr},
		`sip-server-names = ["sip.example", "b."]`:                 {21, "03736970076578616d706c6500" + "016200"},
		`aftr-name = "a.b"`:                                        {64, "0161016200"},
		`captive-portal = "https://x/"`:                            {103, hex.EncodeToString([]byte("https://x/"))},
		`sztp-redirect = ["https://a", "https://b"]`:               {136, "0009" + hex.EncodeToString([]byte("https://a")) + "0009" + hex.EncodeToString([]byte("https://b"))},
		`ntp-servers = ["2001:db8::53", "ff05::101", "n.example"]`: {56, "00010010" + addr + "00020010ff050000000000000000000000000101" + "0003000b" + "016e076578616d706c6500"},
		`sol-max-rt = 3600`:                                        {82, "00000e10"},
		`option-31 = "2001:db8::53"`:                               {31, addr},
		`option-31 = "hex:00"`:                                     {31, "00"},
		`option-4242 = "hex:de:ad be ef"`:                          {4242, "deadbeef"},
		`encrypted-dns = { name = "d.example" }`:                   {144, "0001000b" + "0164076578616d706c6500"},
		`encrypted-dns = { priority = 2, name = "d.example", addresses = ["2001:db8::53"], port = 8853, path = "/q{?dns}", alpn = ["dot", "h2"] }`: {144,
			"0002000b0164076578616d706c6500" + "0010" + addr + "0001000703646f74026832" + "000300022295" + "000700082f717b3f646e737d"},
	} {
		got, err := encode(t, line)
		if err != nil || len(got) != 1 || got[0].Code != want.code || hex.EncodeToString(got[0].Data) != want.data {
			t.Errorf("%s: %v, %v; want %d %s", line, got, err, want.code, want.data)
		}
	}
	// The library reads what it knows as we mean it.
	got, err := encode(t, `ntp-servers = ["2001:db8::53", "ntp.example"]`)
	if err != nil {
		t.Fatal(err)
	}
	o, err := dhcp6.ParseOption(dhcp6.OptionCode(got[0].Code), got[0].Data)
	if err != nil || !strings.Contains(o.String(), "2001:db8::53") {
		t.Errorf("%v, %v", o, err)
	}
}

func TestOptionsThatAreWrongAreRefused(t *testing.T) {
	for line, want := range map[string]string{
		`shoe-size = 42`:             "unknown option; want option-N or one of",
		`sntp-servers = "192.0.2.1"`: `"192.0.2.1" is no IPv6 address`,
		`sntp-servers = 5`:           "want a text or a list of texts",
		`sntp-servers = []`:          "want a text or a list of texts",
		`sntp-servers = [5]`:         "5: want a text",
		`aftr-name = ["a", "b"]`:     "want a domain name",
		`aftr-name = "a..b"`:         "a label has 0 bytes",
		`captive-portal = ""`:        "want a text",
		`sol-max-rt = 5`:             "want 60 to 86400 seconds",
		`option-0 = "hex:"`:          "want option-1 to option-65535",
		`option-3 = "hex:00"`:        "the server writes this option itself",
		`option-4242 = "x"`:          `write its data as "hex:…"`,
		`option-4242 = "hex:0"`:      "not hex",
		"option-31 = \"hex:00\"\nsntp-servers = \"2001:db8::1\"": "option 31 stands twice",
		`captive-portal = "` + strings.Repeat("x", 2000) + `"`:   "want 1000 at most",
		`encrypted-dns = "x"`: "want { priority",
		`encrypted-dns = { name = "d.example", addresses = ["2001:db8::53"] }`:                           "alpn: want what the resolver speaks",
		`encrypted-dns = { name = "d.example", alpn = ["dot"] }`:                                         "need addresses",
		`encrypted-dns = { addresses = ["2001:db8::53"], alpn = ["dot"] }`:                               "name: domain name",
		`encrypted-dns = { name = "d.example", colour = "red" }`:                                         "colour: unknown key",
		`encrypted-dns = { name = "d.example", addresses = ["2001:db8::53"], alpn = ["dot"], port = 0 }`: "port: want 1 to 65535",
	} {
		if _, err := encode(t, line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v; want %q", line, err, want)
		}
	}
}

// No two names are one option, and none is the server's own.
func TestOptionNamesAreOptionsOfTheirOwn(t *testing.T) {
	seen := make(map[uint16]string)
	for name, o := range optionTypes {
		if other, ok := seen[o.code]; ok || ownOption(o.code) {
			t.Errorf("%s and %s are option %d", name, other, o.code)
		}
		seen[o.code] = name
	}
}
