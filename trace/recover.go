package trace

import (
	"errors"
	"fmt"
	"time"

	"brightgid/idcodec"
)

// Report is what a warrant brought to light. It holds EIDs.
type Report struct {
	Warrant    string    `json:"warrant"` // its hash
	Case       string    `json:"case"`
	Resolution string    `json:"resolution"` // its hash
	Realm      string    `json:"realm"`
	EscrowKey  string    `json:"escrow_key"`
	Trustees   []string  `json:"trustees"` // whose approvals were used
	Recovered  time.Time `json:"recovered"`
	Findings   []Finding `json:"findings"` // one for each target, in order
}

// Finding is what was recovered of one target.
type Finding struct {
	Target
	Persons []Person `json:"persons"`          // more than one when the ISP cannot tell them apart
	Reason  string   `json:"reason,omitempty"` // when there is none
}

// Person is a recovered EID.
type Person struct {
	EID    string     `json:"eid"`
	Found  string     `json:"found"`
	Leases []Interval `json:"leases"`
}

// ApprovalError names a trustee whose approval cannot be used.
type ApprovalError struct {
	Trustee string
	Err     error
}

func (e *ApprovalError) Error() string {
	return fmt.Sprintf("approval of trustee %q: %v", e.Trustee, e.Err)
}

func (e *ApprovalError) Unwrap() error { return e.Err }

// Recover checks the documents and the approvals and opens the NIDs. Every share
// is checked; one that is wrong is an [*ApprovalError] that names the trustee.
func Recover(at time.Time, d Documents, t Trust, key *idcodec.EscrowKey, holder *Identity, approvals []*Approval) (*Report, error) {
	w, r, err := d.Open(t, at)
	if err != nil {
		return nil, err
	}
	if holder.Unseal == nil {
		return nil, errors.New("the holder's key file has no key that approvals are sealed to")
	}
	if r.EscrowKey != key.ID().String() {
		return nil, fmt.Errorf("resolution: its NIDs are sealed to escrow key %s, not to %s", r.EscrowKey, key.ID())
	}
	nids := r.nids()
	if len(nids) == 0 {
		return nil, ErrNothing
	}
	report := &Report{
		Warrant: Hash(d.Warrant), Case: w.Case, Resolution: Hash(d.Resolution), Realm: r.Realm,
		EscrowKey: r.EscrowKey, Recovered: at.UTC().Truncate(time.Second),
	}
	byNID := make(map[string][]idcodec.DecryptionShare)
	for _, a := range approvals {
		if err := r.take(a, report, key, holder, nids, byNID); err != nil {
			return nil, &ApprovalError{a.Trustee, err}
		}
	}
	eids := make(map[string]string)
	for _, n := range nids {
		eid, err := key.OpenNID(r.Realm, n, byNID[nidName(n)])
		if err != nil {
			return nil, err
		}
		eids[string(n)] = eid.Reveal()
	}
	for _, a := range r.Answers {
		f := Finding{Target: a.Target, Persons: []Person{}, Reason: a.Reason}
		for _, c := range a.Candidates {
			f.Persons = append(f.Persons, Person{EID: eids[string(c.NID)], Found: c.Found, Leases: c.Leases})
		}
		report.Findings = append(report.Findings, f)
	}
	return report, nil
}

// take checks one approval and adds its shares to byNID.
func (r *Resolution) take(a *Approval, report *Report, key *idcodec.EscrowKey, holder *Identity, nids []idcodec.NID, byNID map[string][]idcodec.DecryptionShare) error {
	if a.Warrant != report.Warrant || a.Resolution != report.Resolution {
		return errors.New("it belongs to another warrant or resolution")
	}
	shares, err := a.shares(holder.Unseal)
	if err != nil {
		return err
	}
	for _, n := range nids {
		name := nidName(n)
		share, ok := shares[name]
		if !ok {
			return fmt.Errorf("it holds no share for NID %s", name)
		}
		trustee, err := key.VerifyShare(r.Realm, n, share)
		if err != nil {
			return err
		}
		if trustee.Name != a.Trustee {
			return fmt.Errorf("its shares are those of %q", trustee.Name)
		}
		byNID[name] = append(byNID[name], share)
	}
	report.Trustees = append(report.Trustees, a.Trustee)
	return nil
}
