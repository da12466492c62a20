package brightgid_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The comparison with Kea has a test behind each yes: the tests that it names are there.
func TestTheComparisonNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("docs/compare-kea.md")
	if err != nil {
		t.Fatal(err)
	}
	exist := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		b, err := os.ReadFile(file)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			exist[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		names := regexp.MustCompile(`\bTest\w+`).FindAllString(line, -1)
		for _, name := range names {
			if !exist[name] {
				t.Errorf("no test is called %s", name)
			}
		}
		if f := strings.Split(line, "|"); len(f) > 4 && strings.HasPrefix(strings.TrimSpace(f[3]), "yes") && len(names) == 0 {
			t.Errorf("no test stands behind: %s", line)
		}
	}
}
