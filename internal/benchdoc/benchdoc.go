// Package benchdoc writes what benchmarks have measured where people read it: tables into a Markdown
// file, and plots beside it.
package benchdoc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	_ "gonum.org/v1/plot/vg/vgsvg" // Save writes SVG
)

// Env names the variable that says which Markdown file benchmarks write into. Without it they only print.
const Env = "GID_BENCH_TABLE"

// Write puts a text between the two marks of a benchmark in the file that Env names, which must have
// them: <!-- name: make name writes this --> and <!-- /name -->, each on a line of its own. It does
// nothing where Env is not set.
func Write(name, text string) error {
	path := os.Getenv(Env)
	if path == "" {
		return nil
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- %s: make %[1]s writes this -->\n", name), fmt.Sprintf("<!-- /%s -->\n", name)
	head, rest, begins := strings.Cut(string(file), begin)
	_, tail, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return fmt.Errorf("%s: no lines %q and, after it, %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(head+begin+text+end+tail), 0o644)
}

// Table is a table in Markdown.
type Table struct {
	text    strings.Builder
	columns int
}

// NewTable returns a table with a head and no rows yet.
func NewTable(head ...string) *Table {
	t := &Table{columns: len(head)}
	t.Row(head...)
	t.text.WriteString(strings.Repeat("|---", len(head)) + "|\n")
	return t
}

// Row adds a row. It panics where that has another number of cells than the head.
func (t *Table) Row(cells ...string) {
	if len(cells) != t.columns {
		panic(fmt.Sprintf("benchdoc: a row of %d cells in a table of %d columns", len(cells), t.columns))
	}
	fmt.Fprintf(&t.text, "| %s |\n", strings.Join(cells, " | "))
}

func (t *Table) String() string { return t.text.String() }

// Line is a line of a plot: a value for each x.
type Line struct {
	Name   string
	Values []float64
}

// Lines draws how values depend on x, which has a logarithmic scale, as name.svg beside the file that
// Env names, and returns Markdown that shows it; it draws nothing where Env is not set.
func Lines(name, title, label string, x []int, lines ...Line) (string, error) {
	p := newPlot(title)
	p.X.Label.Text, p.X.Scale = label, plot.LogScale{}
	ticks := make(plot.ConstantTicks, len(x))
	for i, v := range x {
		ticks[i] = plot.Tick{Value: float64(v), Label: strconv.Itoa(v)}
	}
	p.X.Tick.Marker = ticks
	p.Legend.YOffs, p.Legend.Padding = 4*vg.Millimeter, vg.Millimeter
	p.Add(plotter.NewGrid())
	for i, l := range lines {
		xy := make(plotter.XYs, len(l.Values))
		for j, v := range l.Values {
			xy[j] = plotter.XY{X: float64(x[j]), Y: v}
		}
		line, points, err := plotter.NewLinePoints(xy)
		if err != nil {
			return "", err
		}
		line.Color, points.Color, points.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(line, points)
		p.Legend.Add(l.Name, line, points)
	}
	return save(p, name, title, 9*vg.Centimeter)
}

// Bars draws values as bars, the first on top, as Lines does lines.
func Bars(name, title string, names []string, values []float64) (string, error) {
	p := newPlot(title)
	n := len(values)
	upwards := make(plotter.Values, n)
	labels := plotter.XYLabels{XYs: make(plotter.XYs, n), Labels: make([]string, n)}
	nominal := make([]string, n)
	for i, v := range values {
		at := n - 1 - i
		upwards[at], nominal[at] = v, names[i]
		labels.XYs[at], labels.Labels[at] = plotter.XY{X: v, Y: float64(at)}, " "+strconv.FormatFloat(v, 'f', 0, 64)
	}
	bars, err := plotter.NewBarChart(upwards, 5*vg.Millimeter)
	if err != nil {
		return "", err
	}
	bars.Horizontal, bars.Color, bars.LineStyle.Width = true, plotutil.Color(2), 0
	figures, err := plotter.NewLabels(labels)
	if err != nil {
		return "", err
	}
	for i := range figures.TextStyle {
		figures.TextStyle[i].YAlign = -0.4 // of their height: beside the middle of each bar
	}
	p.Add(bars, figures)
	p.NominalY(nominal...)
	p.HideX()
	p.X.Min, p.X.Max = 0, p.X.Max*1.12 // room for the figures
	return save(p, name, title, vg.Length(n)*6*vg.Millimeter+12*vg.Millimeter)
}

func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.Padding, p.Y.Min = title, 3*vg.Millimeter, 0
	return p
}

func save(p *plot.Plot, name, title string, height vg.Length) (string, error) {
	if path := os.Getenv(Env); path != "" {
		if err := p.Save(17*vg.Centimeter, height, filepath.Join(filepath.Dir(path), name+".svg")); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("![%s](%s.svg)\n", title, name), nil
}
