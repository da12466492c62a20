package trace

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Formats of a report, and with "+jws" the types of its signature: the later one tells of
// delegated prefixes, and is used only where there are any.
const (
	reportFormat          = "gid-report-2"
	reportDelegatedFormat = "gid-report-3"
)

// Report is what a warrant brought to light, with all that is needed to check it
// offline. It holds EIDs.
type Report struct {
	Warrant   Warrant   `json:"warrant"`
	Realm     string    `json:"realm"`
	Resolved  time.Time `json:"resolved"`
	Trustees  []string  `json:"trustees"` // whose approvals were used
	Recovered time.Time `json:"recovered"`
	Findings  []Finding `json:"findings"` // one for each target, in order
	Evidence  Evidence  `json:"evidence"`
}

// Finding is what was recovered of one target.
type Finding struct {
	Target
	Persons []Person `json:"persons"`          // of an address more than one when the ISP cannot tell them apart
	Reason  string   `json:"reason,omitempty"` // when there is none
}

// Person is a recovered EID.
type Person struct {
	Address netip.Addr `json:"address"`
	EID     string     `json:"eid"`
	Found   string     `json:"found"`
	Leases  []Interval `json:"leases"`

	Delegated netip.Prefix `json:"delegated,omitzero"` // as in [Candidate]
}

// format is the format in which a report is written.
func (r *Report) format() string {
	for i := range r.Findings {
		if slices.ContainsFunc(r.Findings[i].Persons, func(p Person) bool { return p.Delegated.IsValid() }) {
			return reportDelegatedFormat
		}
	}
	return reportFormat
}

// Evidence is what a report is checked by.
type Evidence struct {
	Warrant    string             `json:"warrant"`    // as it was signed
	Resolution string             `json:"resolution"` // as it was signed
	EscrowKey  json.RawMessage    `json:"escrow_key"`
	Approvals  []ApprovalEvidence `json:"approvals"`
	Ledger     []string           `json:"ledger"`  // proofs of the warrant, the resolution, each approval, the disclosure
	Authors    [][]byte           `json:"authors"` // certificates of the records' authors, DER
}

// ApprovalEvidence is an approval, opened.
type ApprovalEvidence struct {
	Head   ApprovalHead    `json:"head"`
	Shares json.RawMessage `json:"shares"` // what was sealed
}

// reportFile is a report's file. The signature is a JWS in compact form whose payload,
// the report, is detached (RFC 7515 appendix F).
type reportFile struct {
	Format    string          `json:"format"`
	Report    json.RawMessage `json:"report"`
	Signature string          `json:"signature"`
}

// Sign returns the file of a report, signed by its holder. Of a report there is one
// such file: indented by two spaces, keys in their order.
func (r *Report) Sign(holder *Identity) ([]byte, error) {
	body, err := r.compact()
	if err != nil {
		return nil, err
	}
	jws, err := signBytes(holder, r.format()+"+jws", body)
	if err != nil {
		return nil, err
	}
	full, err := jws.CompactSerialize()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(full, ".")
	return (&reportFile{r.format(), body, parts[0] + ".." + parts[2]}).marshal()
}

// compact is what is signed: the report as JSON without spaces.
func (r *Report) compact() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err := json.Compact(&out, b.Bytes()) // the raw messages in it, too
	return out.Bytes(), err
}

func (f *reportFile) marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(f)
	return b.Bytes(), err
}

// parseReport reads a report's file. Its error tells where the file is not as a report
// is written, with what could be read.
func parseReport(text []byte) (*reportFile, *Report, error) {
	if len(text) > MaxDocument {
		return nil, nil, fmt.Errorf("%d bytes are too many", len(text))
	}
	var f reportFile
	if err := decodeStrict(text, &f); err != nil {
		return nil, nil, err
	}
	if f.Format != reportFormat && f.Format != reportDelegatedFormat {
		return nil, nil, fmt.Errorf("format %q: want %q or %q", f.Format, reportFormat, reportDelegatedFormat)
	}
	var r Report
	if err := decodeStrict(f.Report, &r); err != nil {
		return nil, nil, fmt.Errorf("report: %w", err)
	}
	if f.Format != r.format() {
		return nil, nil, fmt.Errorf("format %q, and what is in it is of %q", f.Format, r.format())
	}
	body, err := r.compact()
	if err != nil {
		return nil, nil, err
	}
	f.Report = body
	for i := range r.Evidence.Approvals { // what was sealed had no spaces
		var b bytes.Buffer
		if err := json.Compact(&b, r.Evidence.Approvals[i].Shares); err != nil {
			return nil, nil, err
		}
		r.Evidence.Approvals[i].Shares = b.Bytes()
	}
	again, err := f.marshal()
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(again, text) {
		return &f, &r, fmt.Errorf("line %d is not as a report is written", firstDifference(again, text))
	}
	return &f, &r, nil
}

func firstDifference(a, b []byte) int {
	line := 1
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			break
		}
		if a[i] == '\n' {
			line++
		}
	}
	return line
}

// jws returns the signature with the payload that it is over.
func (f *reportFile) jws() (*jose.JSONWebSignature, error) {
	head, sig, ok := strings.Cut(f.Signature, "..")
	if !ok {
		return nil, errors.New("it is no JWS with a detached payload")
	}
	full := head + "." + base64.RawURLEncoding.EncodeToString(f.Report) + "." + sig
	jws, err := jose.ParseSignedCompact(full, signatureAlgorithms)
	if err != nil {
		return nil, err
	}
	if again, err := jws.CompactSerialize(); err != nil || again != full {
		return nil, errors.New("its encoding is not the one that there is")
	}
	return jws, nil
}
