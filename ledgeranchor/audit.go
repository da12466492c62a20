package ledgeranchor

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// PublicationGrace is how long after its seal has ended a warrant may be unpublished
// before that counts as a problem.
const PublicationGrace = 7 * 24 * time.Hour

// Auditor holds a ledger against the order of a recovery: warrant, resolution,
// approvals of enough trustees, disclosure, each resting on those before it; and the
// publication, when the seal has ended. It reads public records only. Entries must
// come in the ledger's order, all of them.
type Auditor struct {
	threshold int
	now       time.Time
	counts    map[Kind]uint64
	targets   uint64
	seen      map[Hash]*Record // warrants, resolutions, approvals, disclosures, by name
	warrants  map[Hash]*audited
	order     []Hash
	problems  []Problem
}

// audited is what is known of one warrant.
type audited struct {
	record    *Record
	name      Hash
	position  uint64
	terms     *Terms
	revoked   bool
	disclosed []time.Time
	published published
	opened    bool // by a publication that matches the commitment
}

// Problem is a record that should not be there as it is, or one that is missing.
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
	Sealed   uint64          `json:"sealed"`  // warrants whose seal has not ended
	Warrants []AuditWarrant  `json:"warrants"`
	Problems []Problem       `json:"problems"`
}

// AuditWarrant is what the ledger tells of one warrant.
type AuditWarrant struct {
	Warrant   Hash        `json:"warrant"`
	Recorded  time.Time   `json:"recorded"`
	Targets   uint64      `json:"targets"`
	SealUntil time.Time   `json:"seal_until,omitzero"`
	Revoked   bool        `json:"revoked,omitempty"`
	Disclosed []time.Time `json:"disclosed"`
	Published bool        `json:"published"`
}

// NewAuditor returns an auditor of a ledger whose escrow keys need so many trustees,
// at a time.
func NewAuditor(threshold int, now time.Time) *Auditor {
	return &Auditor{threshold: threshold, now: now, counts: make(map[Kind]uint64), seen: make(map[Hash]*Record), warrants: make(map[Hash]*audited)}
}

// Take looks at the next entry.
func (a *Auditor) Take(e *Entry) {
	r := e.Record
	a.counts[r.Kind]++
	bad := func(format string, args ...any) {
		a.problems = append(a.problems, Problem{e.Position, e.Signed.Name(), r.Kind, r.Warrant, fmt.Sprintf(format, args...)})
	}
	w := a.warrants[r.Warrant]
	switch r.Kind {
	case KindWarrant:
		if w == nil { // who records it again adds nothing
			a.targets += r.Count
			a.warrants[r.Warrant] = &audited{record: r, name: e.Signed.Name(), position: e.Position, terms: r.Terms()}
			a.order = append(a.order, r.Warrant)
		}
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
		if len(a.before(r, KindWarrant)) == 0 {
			bad("it rests on no warrant that stood before it")
		}
		if w != nil {
			w.disclosed = append(w.disclosed, r.At())
			if w.revoked {
				bad("its warrant had been revoked")
			}
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
	case KindRevocation:
		if v, err := r.Revocation(); err == nil && v.What == RevokedWarrant && w != nil {
			w.revoked = true
		}
		return
	case KindPublication:
		a.publication(w, r, bad)
		return
	default:
		return
	}
	a.seen[e.Signed.Name()] = r
}

// publication takes a part of a publication.
func (a *Auditor) publication(w *audited, r *Record, bad func(string, ...any)) {
	p, err := r.Publication()
	switch {
	case err != nil:
		bad("%v", err)
	case w == nil || w.terms == nil || !slices.Contains(r.Refs, w.name):
		bad("it rests on no sealed warrant that stood before it")
	case r.At().Before(w.terms.Until()):
		bad("the seal held until %s", w.terms.Until().Format(time.RFC3339))
	default:
		if err := w.published.take(p); err != nil {
			bad("%v", err)
			return
		}
		if w.published.whole() {
			targets := w.published.targets()
			w.opened = Commit(w.published.id, targets) == w.terms.Targets && uint64(len(targets)) == w.record.Count
			if !w.opened {
				bad("it is not what the warrant's record is committed to")
			}
		}
	}
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
	r := &AuditReport{Counts: a.counts, Targets: a.targets, Warrants: []AuditWarrant{}, Problems: append([]Problem{}, a.problems...)}
	for _, h := range a.order {
		w := a.warrants[h]
		x := AuditWarrant{Warrant: h, Recorded: w.record.At(), Targets: w.record.Count, Revoked: w.revoked, Disclosed: append([]time.Time{}, w.disclosed...), Published: w.opened}
		if len(w.disclosed) == 0 {
			r.Open++
		}
		if w.terms != nil {
			x.SealUntil = w.terms.Until()
			switch {
			case a.now.Before(x.SealUntil):
				r.Sealed++
			case !w.opened && a.now.After(x.SealUntil.Add(PublicationGrace)):
				r.Problems = append(r.Problems, Problem{w.position, w.name, KindWarrant, h,
					fmt.Sprintf("its seal ended at %s and it was not published", x.SealUntil.Format(time.RFC3339))})
			}
		}
		r.Warrants = append(r.Warrants, x)
	}
	return r
}

// Disclosed is a target of a published warrant that an address belongs to.
type Disclosed struct {
	Warrant   Hash         `json:"warrant"`
	Recorded  time.Time    `json:"recorded"`
	Target    netip.Prefix `json:"target"`
	From      time.Time    `json:"from"` // the window in which it was sought
	Until     time.Time    `json:"until"`
	Disclosed []time.Time  `json:"disclosed"` // when the warrant was carried out; none if it was not
}

// WasDisclosed returns the targets of published warrants that an address belongs to,
// in the order of the ledger. Of warrants that are sealed it can tell nothing; see
// the report's Sealed.
func (a *Auditor) WasDisclosed(addr netip.Addr) []Disclosed {
	var out []Disclosed
	for _, h := range a.order {
		w := a.warrants[h]
		if !w.opened {
			continue
		}
		tags := make(map[Tag]netip.Prefix)
		for bits := range 129 {
			p := netip.PrefixFrom(addr, bits).Masked()
			tags[TagOf(w.published.id, p)] = p
		}
		for _, t := range w.published.targets() {
			if p, ok := tags[t.Tag]; ok {
				out = append(out, Disclosed{h, w.record.At(), p, time.Unix(int64(t.From), 0).UTC(), time.Unix(int64(t.Until), 0).UTC(), append([]time.Time{}, w.disclosed...)})
			}
		}
	}
	return out
}
