package ledgeranchor

import (
	"strings"
	"testing"
	"time"
)

func TestAuditFindsWhatShouldNotBe(t *testing.T) {
	w, other := Hash{1}, Hash{2}
	type rec struct {
		kind    Kind
		warrant Hash
		author  byte
		refs    []int // of records before, or after
	}
	for _, c := range []struct {
		name    string
		records []rec
		want    []string
	}{
		{"in order", []rec{{KindWarrant, w, 1, nil}, {KindResolution, w, 2, []int{0}}, {KindApproval, w, 3, []int{0, 1}}, {KindApproval, w, 4, []int{0, 1}}, {KindDisclosure, w, 5, []int{0, 1, 2, 3}}}, nil},
		{"an approval too few", []rec{{KindWarrant, w, 1, nil}, {KindResolution, w, 2, []int{0}}, {KindApproval, w, 3, []int{0, 1}}, {KindDisclosure, w, 5, []int{0, 1, 2}}}, []string{"1 trustees had approved its resolution, 2 are needed"}},
		{"one trustee twice", []rec{{KindWarrant, w, 1, nil}, {KindResolution, w, 2, []int{0}}, {KindApproval, w, 3, []int{0, 1}}, {KindApproval, w, 3, []int{1, 0}}, {KindDisclosure, w, 5, []int{0, 1, 2, 3}}}, []string{"1 trustees"}},
		{"a disclosure alone", []rec{{KindDisclosure, w, 5, []int{0}}}, []string{"no warrant", "no resolution", "0 trustees"}},
		{"a warrant that came later", []rec{{KindResolution, w, 2, []int{1}}, {KindWarrant, w, 1, nil}}, []string{"no warrant that stood before it"}},
		{"approvals of another resolution", []rec{{KindWarrant, w, 1, nil}, {KindResolution, w, 2, []int{0}}, {KindResolution, w, 2, []int{0}}, {KindApproval, w, 3, []int{0, 1}}, {KindApproval, w, 4, []int{0, 1}}, {KindDisclosure, w, 5, []int{0, 2, 3, 4}}}, []string{"0 trustees"}},
		{"approvals for another warrant", []rec{{KindWarrant, w, 1, nil}, {KindWarrant, other, 1, nil}, {KindResolution, w, 2, []int{0}}, {KindApproval, other, 3, []int{1, 2}}, {KindDisclosure, w, 5, []int{0, 2, 3}}}, []string{"no resolution", "0 trustees"}},
		{"an approval without a resolution", []rec{{KindWarrant, w, 1, nil}, {KindApproval, w, 3, []int{0}}}, []string{"no resolution"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewAuditor(2, time.Now())
			name := func(i int) Hash { return (&Signed{Record: []byte{byte(i)}}).Name() }
			for i, x := range c.records {
				r := &Record{Kind: x.kind, Warrant: x.warrant, Author: Hash{x.author}, Count: 1}
				for _, k := range x.refs {
					r.Refs = append(r.Refs, name(k))
				}
				a.Take(&Entry{Receipt: Receipt{Position: uint64(i)}, Signed: &Signed{Record: []byte{byte(i)}}, Record: r})
			}
			got := a.Report().Problems
			if len(got) != len(c.want) {
				t.Fatalf("problems: %+v", got)
			}
			for i := range got {
				if !strings.Contains(got[i].What, c.want[i]) {
					t.Errorf("%q, want %q", got[i].What, c.want[i])
				}
			}
		})
	}
}
