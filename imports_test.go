package brightgid_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// layer is the height of each top-level package. Imports go down only, and never
// to another package of the same height; docs/architecture.md draws it.
var layer = map[string]int{
	"idcodec": 0,
	"eidauth": 1, "lease": 1, "ledgeranchor": 1,
	"dhcpv6": 2, "gidzone": 2, "mail": 2, "sava": 2, "trace": 2,
	"cmd": 3,
}

// helpers are what the packages of internal/ may import of the project.
var helpers = map[string][]string{
	"internal/benchdoc":     nil,
	"internal/cgroup":       nil,
	"internal/cli":          {"internal/harden"},
	"internal/config":       {"eidauth", "idcodec", "internal/tomlfile", "lease", "lease/shared"},
	"internal/demo":         {"internal/netlab"},
	"internal/dnsupdate":    {"internal/secretfile"},
	"internal/fabnet":       {"internal/labport"},
	"internal/fabricup":     {"idcodec", "internal/cli", "internal/fabnet", "internal/identityfile", "internal/ledgerfile", "lease", "ledgeranchor", "trace"},
	"internal/control":      nil,
	"internal/harden":       nil,
	"internal/hsm":          {"internal/secretfile"},
	"internal/identityfile": {"internal/hsm", "internal/secretfile", "trace"},
	"internal/keaimport":    {"idcodec", "internal/config"},
	"internal/ledgerfile":   {"internal/identityfile", "internal/secretfile", "internal/tomlfile", "ledgeranchor", "ledgeranchor/anchored", "ledgeranchor/embedded", "ledgeranchor/fabric"},
	"internal/labport":      nil,
	"internal/lockedfile":   {"internal/secretfile"},
	"internal/logging":      nil,
	"internal/netlab":       {"dhcpv6/udpbatch"},
	"internal/pglab":        {"internal/labport"},
	"internal/powercut":     nil,
	"internal/secretfile":   nil,
	"internal/tomlfile":     nil,

	"internal/tools/dhcpload": {"internal/cli", "internal/netlab"},
}

func TestImportsRunOneWay(t *testing.T) {
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != "." || d.Name() == "testdata" || file == "tools" || file == "bin"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, ".go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		from := path.Dir(filepath.ToSlash(file))
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ours := strings.CutPrefix(imported, "brightgid/"); ours {
				if why := forbidden(from, to, strings.HasSuffix(file, "_test.go")); why != "" {
					t.Errorf("%s imports %s: %s", file, to, why)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// forbidden says why a package may not import another, or nothing.
func forbidden(from, to string, test bool) string {
	top := func(p string) string { first, _, _ := strings.Cut(p, "/"); return first }
	switch top(from) {
	case "test":
		if top(to) == "internal" {
			return ""
		}
		return "end-to-end tests use the programs, not the packages"
	case "internal":
		allowed, known := helpers[from]
		if !known {
			return from + " has no line in this test; give it one"
		}
		for _, a := range allowed {
			if a == to {
				return ""
			}
		}
		return "an internal package may import only what this test lists"
	}
	fromLayer, known := layer[top(from)]
	if !known {
		return top(from) + " has no layer in this test; give it one"
	}
	if top(to) == "internal" {
		lab := to == "internal/benchdoc" || to == "internal/netlab" || to == "internal/fabnet" || to == "internal/pglab" || to == "internal/powercut"
		if top(from) == "cmd" && !lab || test && lab {
			return ""
		}
		return "only cmd uses internal packages, and tests the labs and benchdoc"
	}
	toLayer, known := layer[top(to)]
	switch {
	case !known:
		return top(to) + " has no layer in this test; give it one"
	case top(from) == top(to) && top(from) != "cmd", toLayer < fromLayer:
		return ""
	case test && (to == "lease/pebblestore" || to == "lease/index"):
		return "" // the real store under a test
	case toLayer == fromLayer:
		return "sideways"
	}
	return "upwards"
}

// A rule that forbids nothing would pass above as well.
func TestTheRuleForbids(t *testing.T) {
	for _, c := range []struct{ from, to string }{
		{"idcodec", "lease"}, {"eidauth", "lease"}, {"dhcpv6", "trace"}, {"lease", "dhcpv6"}, {"trace", "internal/config"},
		{"cmd/gidserver", "cmd/tracectl"}, {"cmd/gidserver", "internal/netlab"}, {"newroom", "idcodec"}, {"internal/netlab", "lease"},
		{"test/e2e", "lease"},
	} {
		if forbidden(c.from, c.to, false) == "" {
			t.Errorf("%s may import %s", c.from, c.to)
		}
	}
	if _, err := os.Stat("go.mod"); err != nil {
		t.Errorf("the test does not run at the module's root: %v", err)
	}
}
