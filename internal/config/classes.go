package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Class is a class of clients with options of its own. Its members are those whose messages
// have an option as it wants, and those whom RADIUS (Filter-Id) or a reservation puts into
// it.
type Class struct {
	Name    string  `toml:"name"`
	Option  string  `toml:"option"` // by name or as option-N; empty if no message makes a member
	Equals  string  `toml:"equals"` // text, or "hex:…"; at most one of the three
	Begins  string  `toml:"begins"`
	Holds   string  `toml:"contains"`
	Options Options `toml:"options"`
}

// clientOptions are options of clients that have names here.
var clientOptions = map[string]uint16{
	"client-id": 1, "user-class": 15, "vendor-class": 16, "vendor-options": 17, "client-fqdn": 39, "client-arch-type": 61, "client-nic": 62,
}

// Match returns the code of the option that a class looks at, 0 for none, and the value that
// it is compared with.
func (c *Class) Match() (code uint16, value []byte, err error) {
	texts := 0
	for _, s := range []string{c.Equals, c.Begins, c.Holds} {
		if s != "" {
			texts++
			if value = []byte(s); strings.HasPrefix(s, "hex:") {
				if value, err = hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(s[len("hex:"):])); err != nil {
					return 0, nil, errors.New("not hex")
				}
			}
		}
	}
	if texts > 1 {
		return 0, nil, errors.New("want one of equals, begins and contains at most")
	}
	if c.Option == "" {
		if texts > 0 {
			return 0, nil, errors.New("option: want the option that is compared")
		}
		return 0, nil, nil
	}
	if code, ok := clientOptions[c.Option]; ok {
		return code, value, nil
	}
	number, ok := strings.CutPrefix(c.Option, "option-")
	n, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil || n == 0 {
		return 0, nil, fmt.Errorf("option: %q: want option-1 to option-65535 or one of %s", c.Option, strings.Join(slices.Sorted(maps.Keys(clientOptions)), ", "))
	}
	return uint16(n), value, nil
}

func (c *Config) checkClasses(v *checker) {
	seen := make(map[string]bool)
	for i := range c.Classes {
		x := &c.Classes[i]
		table := fmt.Sprintf("class[%d]", i)
		if x.Name == "" || seen[x.Name] {
			v.fail(table+".name", "%q: want a name that no other class has", x.Name)
		}
		seen[x.Name] = true
		if _, _, err := x.Match(); err != nil {
			v.fail(table, "%w", err)
		}
		if _, err := x.Options.Encode(); err != nil {
			v.fail(table+".options", "%w", err)
		}
	}
}
