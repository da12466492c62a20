package benchdoc

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// document makes a file for Write and sets Env to its path.
func document(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "benchmarks.md")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Env, path)
	return path
}

func TestWriteReplacesWhatIsBetweenItsMarksOnly(t *testing.T) {
	const others = "<!-- bench-b: make bench-b writes this -->\nof b\n<!-- /bench-b -->\n"
	mine := func(text string) string {
		return "before\n<!-- bench-a: make bench-a writes this -->\n" + text + "<!-- /bench-a -->\nbetween\n" + others
	}
	path := document(t, mine("old\nlines\n"))
	for _, text := range []string{"new\n", "newer\n"} {
		if err := Write("bench-a", text); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := mine(text); string(got) != want {
			t.Errorf("the file is %q, want %q", got, want)
		}
	}
}

func TestWriteLeavesAFileWithoutMarks(t *testing.T) {
	const begin, end = "<!-- bench-a: make bench-a writes this -->\n", "<!-- /bench-a -->\n"
	for _, text := range []string{"", begin, end, end + begin, "<!-- bench-b: make bench-b writes this -->\n<!-- /bench-b -->\n"} {
		path := document(t, text)
		if err := Write("bench-a", "new\n"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want an error that names the file", text, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}

func TestNothingIsWrittenUnasked(t *testing.T) {
	t.Setenv(Env, "")
	t.Chdir(t.TempDir())
	if err := Write("bench-a", "new\n"); err != nil {
		t.Error(err)
	}
	if _, err := Bars("bench-a", "Rates", []string{"one"}, []float64{1}); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir("."); err != nil || len(files) > 0 {
		t.Errorf("%v, %v", files, err)
	}
}

func TestTable(t *testing.T) {
	table := NewTable("leases", "a second")
	table.Row("10", "3")
	if got, want := table.String(), "| leases | a second |\n|---|---|\n| 10 | 3 |\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("a row with too few cells is taken")
		}
	}()
	table.Row("10")
}

func TestPlotsAreSVGWithWhatTheyShow(t *testing.T) {
	path := document(t, "")
	bars, err := Bars("bars", "Exchanges a second", []string{"gidserver", "Kea & others"}, []float64{9045, 23334.4})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := Lines("lines", "Renewals a second", "leases", []int{10000, 10000000}, Line{"server", []float64{131000, 129000}}, Line{"handler", []float64{328000, 312000}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		shown, name, title string
		want               []string
	}{
		{bars, "bars", "Exchanges a second", []string{"gidserver", "Kea & others", "9045", "23334"}},
		{lines, "lines", "Renewals a second", []string{"leases", "10000", "10000000", "server", "handler"}},
	} {
		if want := "![" + c.title + "](" + c.name + ".svg)\n"; c.shown != want {
			t.Errorf("%s is shown by %q, want %q", c.name, c.shown, want)
		}
		texts, err := textsOf(filepath.Join(filepath.Dir(path), c.name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range append(c.want, c.title) {
			if !slices.Contains(texts, want) {
				t.Errorf("%s.svg has %q, not %q", c.name, texts, want)
			}
		}
	}
}

// textsOf returns the texts of an SVG file.
func textsOf(path string) (texts []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts, nil
		}
		if err != nil {
			return nil, err
		}
		if text, ok := token.(xml.CharData); ok {
			texts = append(texts, strings.TrimSpace(string(text)))
		}
	}
}
