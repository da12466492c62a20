package trace

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"html/template"
	"io"
	"time"
)

//go:embed report.html
var reportHTML string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"time": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	},
	"hash": Hash,
	"approval": func(h ApprovalHead) string {
		x := h.Hash()
		return x.String()
	},
	"inc": func(i int) int { return i + 1 },
}).Parse(reportHTML))

// Render writes a verified report as a page for people, with the table of evidence:
// HTML without scripts, which a browser prints. file is the report's file, whose hash
// the page names, and checks what [Verifier.Verify] looked at.
func (r *Report) Render(w io.Writer, file []byte, checks []Check) error {
	sum := sha256.Sum256(file)
	holds := true
	for _, c := range checks {
		holds = holds && c.Error == ""
	}
	return reportTemplate.Execute(w, map[string]any{"Report": r, "SHA256": hex.EncodeToString(sum[:]), "Checks": checks, "Holds": holds})
}
