package trace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"brightgid/idcodec"
	"brightgid/ledgeranchor"
)

// Recover checks the documents and the approvals, all of which must stand on the
// ledger, records the disclosure, and then opens the NIDs. Every share is checked; one
// that is wrong is an [*ApprovalError] that names the trustee. The report holds all
// that anybody needs to check it; the holder signs it with [Report.Sign].
func (p *Party) Recover(ctx context.Context, d Documents, key *idcodec.EscrowKey, approvals []*Approval) (*Report, error) {
	if p.Self.Unseal == nil {
		return nil, fmt.Errorf("%w: its key file has no key that approvals are sealed to", ErrHolder)
	}
	o, err := p.open(ctx, d, key)
	if err != nil {
		return nil, err
	}
	if got := Fingerprint(p.Self.Certificate); got != o.warrant.Holder.Certificate {
		return nil, fmt.Errorf("%w: it is for %q, whose certificate is %.16s…; this is %.16s…", ErrHolder, o.warrant.Holder.Name, o.warrant.Holder.Certificate, got)
	}
	refs := slices.Clone(o.records[:])
	nids, err := p.openings(ctx, o, key)
	if err != nil {
		return nil, err
	}
	var authors []ledgeranchor.Hash
	report := &Report{Warrant: *o.warrant, Realm: o.resolution.Realm, Resolved: o.resolution.Resolved}
	report.Evidence = Evidence{Warrant: d.Warrant, Resolution: d.Resolution}
	for _, a := range approvals {
		if slices.Contains(report.Trustees, a.Trustee) {
			return nil, &ApprovalError{a.Trustee, fmt.Errorf("%w: it is given twice", ErrReplayed)}
		}
		entry, plain, err := p.take(ctx, a, d, o, key)
		if err != nil {
			return nil, &ApprovalError{a.Trustee, err}
		}
		if slices.Contains(authors, entry.Record.Author) {
			return nil, &ApprovalError{a.Trustee, fmt.Errorf("%w: who recorded it has recorded another's approval as well; each trustee records its own", ErrReplayed)}
		}
		authors = append(authors, entry.Record.Author)
		shares, err := a.shares(plain)
		if err != nil {
			return nil, &ApprovalError{a.Trustee, err}
		}
		if err := p.add(ctx, nids, &a.ApprovalHead, shares); err != nil {
			return nil, &ApprovalError{a.Trustee, err}
		}
		refs = append(refs, entry.Signed.Name())
		report.Trustees = append(report.Trustees, a.Trustee)
		report.Evidence.Approvals = append(report.Evidence.Approvals, ApprovalEvidence{Head: a.ApprovalHead, Shares: plain})
	}
	if got := len(report.Trustees); got < key.Threshold() {
		return nil, fmt.Errorf("%w: %d of the %d needed", ErrTooFewApprovals, got, key.Threshold())
	}
	text, err := key.MarshalText()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &report.Evidence.EscrowKey); err != nil {
		return nil, err
	}

	// From here on it is on the ledger that the NIDs were opened.
	disclosure, err := p.record(ctx, &ledgeranchor.Record{Kind: ledgeranchor.KindDisclosure, Warrant: documentHash(d.Warrant), Refs: refs})
	if err != nil {
		return nil, err
	}
	refs = append(refs, disclosure[0].Name)
	if report.Evidence.Ledger, report.Evidence.Authors, err = p.prove(ctx, refs, documentHash(d.Warrant)); err != nil {
		return nil, err
	}
	report.Recovered = stamp(p.Now())
	report.Findings, err = p.findings(ctx, o, nids)
	return report, err
}

// take looks an approval up on the ledger and unseals it.
func (p *Party) take(ctx context.Context, a *Approval, d Documents, o *opened, key *idcodec.EscrowKey) (e *ledgeranchor.Entry, plain []byte, err error) {
	if err := a.check(d, key); err != nil {
		return nil, nil, err
	}
	hash := a.Hash()
	e, err = p.find(ctx, ledgeranchor.KindApproval, documentHash(d.Warrant), func(r *ledgeranchor.Record) bool {
		return string(r.Body) == string(hash[:]) && slices.Contains(r.Refs, o.records[0]) && slices.Contains(r.Refs, o.records[1])
	})
	if err != nil {
		return nil, nil, err
	}
	if e == nil {
		return nil, nil, &NotOnLedgerError{Kind: ledgeranchor.KindApproval, Hash: hash}
	}
	author, err := p.certificate(ctx, e.Record.Author)
	if err != nil {
		return nil, nil, err
	}
	if err := p.notRevoked(ctx, d.Warrant, o.warrant, author); err != nil {
		return nil, nil, err
	}
	plain, err = a.unseal(p.Self.Unseal)
	return e, plain, err
}

// prove returns proofs of records about a warrant, and the certificates of their
// authors.
func (p *Party) prove(ctx context.Context, names []ledgeranchor.Hash, warrant ledgeranchor.Hash) (proofs []string, authors [][]byte, err error) {
	seen := make(map[ledgeranchor.Hash]bool)
	for _, name := range names {
		proof, err := p.Ledger.Prove(ctx, name)
		if err != nil {
			return nil, nil, fmt.Errorf("proving the record %.16s…: %w", name, err)
		}
		text, err := proof.MarshalText()
		if err != nil {
			return nil, nil, err
		}
		proofs = append(proofs, string(text))
	}
	for e, err := range p.Ledger.Find(ctx, ledgeranchor.Query{Warrant: warrant}) {
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(names, e.Signed.Name()) || seen[e.Record.Author] {
			continue
		}
		seen[e.Record.Author] = true
		c, err := p.certificate(ctx, e.Record.Author)
		if err != nil {
			return nil, nil, err
		}
		authors = append(authors, c.Raw)
	}
	return proofs, authors, nil
}

// findings combines the shares of all NIDs, and says whose the addresses are.
func (p *Party) findings(ctx context.Context, o *opened, nids []opening) ([]Finding, error) {
	eids := make([]string, len(nids))
	err := p.each(ctx, len(nids), func(i int) error {
		eid, err := nids[i].EID()
		if err != nil {
			return fmt.Errorf("NID %d: %w", i+1, err)
		}
		eids[i] = eid.Reveal()
		return nil
	})
	if err != nil {
		return nil, err
	}
	byNID := make(map[string]string)
	for i, n := range o.nids {
		byNID[string(n)] = eids[i]
	}
	var out []Finding
	for _, a := range o.resolution.Answers {
		f := Finding{Target: a.Target, Persons: []Person{}, Reason: a.Reason}
		for _, c := range a.Candidates {
			eid, ok := byNID[string(c.NID)]
			if !ok {
				return nil, errors.New("an answer's NID was not opened")
			}
			f.Persons = append(f.Persons, Person{Address: c.Address, EID: eid, Found: c.Found, Leases: c.Leases, Delegated: c.Delegated})
		}
		out = append(out, f)
	}
	return out, nil
}
