package dhcpv6

import (
	"bytes"
	"strings"
	"testing"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
)

// registrarOfNames takes every name but "bad", and puts it into a zone.
type registrarOfNames map[string]string

func (r registrarOfNames) Name(said string, whole bool) (string, bool) {
	if whole {
		said = "whole-" + strings.Split(said, ".")[0]
	}
	return said + ".clients.example.", said != "bad"
}

func (r registrarOfNames) Note(duid []byte, name string) { r[string(duid)] = name }

// fqdnOption makes a Client FQDN option; a name that ends in a dot is whole.
func fqdnOption(flags byte, name string) dhcp6.Option {
	b := []byte{flags}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	if strings.HasSuffix(name, ".") {
		b = append(b, 0)
	}
	return &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionFQDN, OptionData: b}
}

func TestClientsAreNamedWhereTheLinkAllowsIt(t *testing.T) {
	names := make(registrarOfNames)
	l := newLab(t, func(c *Config) { c.Links[0].Names = true })
	l.h.NameClients(names)
	wire := func(name string) []byte { b, _ := encodeDomains([]string{name}); return b }
	for _, c := range []struct {
		name  string
		typ   dhcp6.MessageType
		says  dhcp6.Option
		flags byte
		data  []byte
		noted string
	}{
		{"a partial name", dhcp6.MessageTypeRequest, fqdnOption(fqdnS, "laptop"), fqdnS, wire("laptop.clients.example"), "laptop.clients.example."},
		{"a whole name", dhcp6.MessageTypeRequest, fqdnOption(fqdnS, "laptop.home.example."), fqdnS, wire("whole-laptop.clients.example"), "whole-laptop.clients.example."},
		{"who would do it itself", dhcp6.MessageTypeRequest, fqdnOption(0, "laptop"), fqdnS | fqdnO, wire("laptop.clients.example"), "laptop.clients.example."},
		{"who wants none", dhcp6.MessageTypeRequest, fqdnOption(fqdnN, "laptop"), fqdnN, []byte("\x06laptop"), ""},
		{"a name that cannot be", dhcp6.MessageTypeRequest, fqdnOption(fqdnS, "bad"), fqdnN, []byte("\x03bad"), ""},
		{"a promise", dhcp6.MessageTypeSolicit, fqdnOption(fqdnS, "laptop"), fqdnS, wire("laptop.clients.example"), ""},
		{"rubbish", dhcp6.MessageTypeRequest, &dhcp6.OptionGeneric{OptionCode: dhcp6.OptionFQDN, OptionData: []byte{fqdnS, 9, 'x'}}, fqdnN, []byte{9, 'x'}, ""},
	} {
		clear(names)
		m := msg(c.typ, 1, iana1(1), c.says, oro(dhcp6.OptionFQDN))
		if c.typ == dhcp6.MessageTypeRequest {
			m.AddOption(toServer())
		}
		reply, drop := l.raw(m.ToBytes())
		if drop != 0 {
			t.Fatal(drop)
		}
		var got []byte
		for b := reply[4:]; len(b) > 0; {
			code, data, rest, err := nextOption(b)
			if err != nil {
				t.Fatal(err)
			}
			if code == dhcp6.OptionFQDN {
				got = data
			}
			b = rest
		}
		if !bytes.Equal(got, append([]byte{c.flags}, c.data...)) {
			t.Errorf("%s: the answer says %q, want flags %d and %q", c.name, got, c.flags, c.data)
		}
		if n := names[string(duidOf(1).ToBytes())]; n != c.noted {
			t.Errorf("%s: noted as %q, want %q", c.name, n, c.noted)
		}
	}
	// On another link, for who is not authenticated, and for who does not ask for it.
	clear(names)
	l.ask(msg(dhcp6.MessageTypeRequest, 9, toServer(), iana1(1), fqdnOption(fqdnS, "stranger"), oro(dhcp6.OptionFQDN)))
	if len(names) != 0 {
		t.Errorf("a stranger is noted: %v", names)
	}
	if rep := l.ask(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), fqdnOption(fqdnS, "laptop"))); rep.GetOneOption(dhcp6.OptionFQDN) != nil || len(names) != 1 {
		t.Errorf("who does not ask: %s, %v", rep.Summary(), names)
	}
	clear(names)
	quiet := newLab(t, nil)
	quiet.h.NameClients(names)
	if rep, _ := quiet.raw(msg(dhcp6.MessageTypeRequest, 1, toServer(), iana1(1), fqdnOption(fqdnS, "laptop"), oro(dhcp6.OptionFQDN)).ToBytes()); !bytes.Contains(rep, []byte("\x00\x27\x00\x08\x04\x06laptop")) || len(names) != 0 {
		t.Errorf("where no names are allowed: %x, %v", rep, names)
	}
}
