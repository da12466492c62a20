package ledgeranchor

import (
	"fmt"
	"slices"
)

// Auditor holds a ledger against the order of a recovery: warrant, resolution,
// approvals of enough trustees, disclosure, each resting on those before it. It
// reads public records only. Entries must come in the ledger's order, all of them.
type Auditor struct {
	threshold int
	counts    map[Kind]uint64
	targets   uint64
	seen      map[Hash]*Record // warrants, resolutions, approvals
	open      map[Hash]bool    // warrants that nobody has disclosed upon
	problems  []Problem
}

// Problem is a record that should not be there as it is.
type Problem struct {
	Position uint64 `json:"position"`
	Name     Hash   `json:"name"`
	Kind     Kind   `json:"kind"`
	Warrant  Hash   `json:"warrant,omitzero"`
	What     string `json:"what"`
}

// AuditReport is what an audit found.
type AuditReport struct {
	Counts   map[Kind]uint64 `json:"counts"`
	Targets  uint64          `json:"targets"` // address-times that the warrants order
	Open     uint64          `json:"open"`    // warrants without a disclosure
	Problems []Problem       `json:"problems"`
}

// NewAuditor returns an auditor of a ledger whose escrow keys need so many trustees.
func NewAuditor(threshold int) *Auditor {
	return &Auditor{threshold: threshold, counts: make(map[Kind]uint64), seen: make(map[Hash]*Record), open: make(map[Hash]bool)}
}

// Take looks at the next entry.
func (a *Auditor) Take(e *Entry) {
	r := e.Record
	a.counts[r.Kind]++
	bad := func(format string, args ...any) {
		a.problems = append(a.problems, Problem{e.Position, e.Signed.Name(), r.Kind, r.Warrant, fmt.Sprintf(format, args...)})
	}
	switch r.Kind {
	case KindWarrant:
		a.targets += r.Count
		a.open[r.Warrant] = true
	case KindResolution:
		if len(a.before(r, KindWarrant)) == 0 {
			bad("it rests on no warrant that stood before it")
		}
	case KindApproval:
		if len(a.before(r, KindWarrant)) == 0 {
			bad("it rests on no warrant that stood before it")
		}
		if len(a.before(r, KindResolution)) == 0 {
			bad("it rests on no resolution that stood before it")
		}
	case KindDisclosure:
		delete(a.open, r.Warrant)
		if len(a.before(r, KindWarrant)) == 0 {
			bad("it rests on no warrant that stood before it")
		}
		resolutions := a.before(r, KindResolution)
		if len(resolutions) == 0 {
			bad("it rests on no resolution that stood before it")
		}
		trustees := make(map[Hash]bool)
		for _, approval := range a.before(r, KindApproval) {
			if slices.ContainsFunc(approval.Refs, func(h Hash) bool { return slices.Contains(resolutions, a.seen[h]) }) {
				trustees[approval.Author] = true
			}
		}
		if len(trustees) < a.threshold {
			bad("%d trustees had approved its resolution, %d are needed", len(trustees), a.threshold)
		}
	default:
		return
	}
	a.seen[e.Signed.Name()] = r
}

// before returns the records of a kind, for the same warrant, that a record rests
// on.
func (a *Auditor) before(r *Record, k Kind) []*Record {
	var out []*Record
	for _, ref := range r.Refs {
		if s := a.seen[ref]; s != nil && s.Kind == k && s.Warrant == r.Warrant && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Report returns what was found so far.
func (a *Auditor) Report() *AuditReport {
	return &AuditReport{Counts: a.counts, Targets: a.targets, Open: uint64(len(a.open)), Problems: append([]Problem{}, a.problems...)}
}
