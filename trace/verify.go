package trace

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"brightgid/idcodec"
	"brightgid/ledgeranchor"
)

// Verifier re-checks reports, offline, by public keys only.
type Verifier struct {
	Trust Trust

	// Escrow is the trustees' key; nil to take the report's, which the ISP's
	// signature names.
	Escrow *idcodec.EscrowKey

	// Prove checks a ledger's proof of a record. authors are certificates that the
	// report brings; they count if the ledger's roots issued them.
	Prove func(proof []byte, authors []*x509.Certificate) (*ledgeranchor.Record, error)

	Progress func(done, of int)
}

// Check is one of the things that a verification looks at.
type Check struct {
	What  string `json:"what"`
	Error string `json:"error,omitempty"` // empty when it holds
}

// Verify re-checks a report: its form, the warrant, the resolution, every share's
// proof, the records on the ledger, what was found, and the holder's signature. It
// returns what it looked at; an error that wraps ErrReport names the first that does
// not hold. The report is nil if it could not be read.
func (v *Verifier) Verify(ctx context.Context, text []byte) (*Report, []Check, error) {
	c := &checker{v: v}
	report := c.all(ctx, text)
	for _, x := range c.checks {
		if x.Error != "" {
			return report, c.checks, fmt.Errorf("%w: %s: %s", ErrReport, x.What, x.Error)
		}
	}
	return report, c.checks, ctx.Err()
}

type checker struct {
	v      *Verifier
	checks []Check
}

// holds notes a check and reports whether it held.
func (c *checker) holds(what string, err error) bool {
	x := Check{What: what}
	if err != nil {
		x.Error = err.Error()
	}
	c.checks = append(c.checks, x)
	return err == nil
}

func (c *checker) all(ctx context.Context, text []byte) *Report {
	f, r, err := parseReport(text)
	c.holds("the file's form", err)
	if r == nil {
		return nil
	}
	at := r.Recovered
	w, _, err := openWarrant(r.Evidence.Warrant, c.v.Trust.Authorities, at)
	if err == nil && !same(w, &r.Warrant) {
		err = fmt.Errorf("the report's warrant is not the one that was signed: %s", difference("warrant", w, &r.Warrant))
	}
	warrantHolds := c.holds("warrant: signature and content", err)
	var res *Resolution
	if warrantHolds {
		res, _, err = openResolution(r.Evidence.Resolution, c.v.Trust.ISPs, at, r.Evidence.Warrant, w)
		if err == nil && (res.Realm != r.Realm || !res.Resolved.Equal(r.Resolved)) {
			err = fmt.Errorf("realm and resolved: the report says other than was signed")
		}
		if !c.holds("resolution: signature, and that it answers the warrant", err) {
			res = nil
		}
	}
	key, err := idcodec.ParseEscrowKey(r.Evidence.EscrowKey)
	if err == nil && c.v.Escrow != nil {
		a, _ := key.MarshalText()
		b, _ := c.v.Escrow.MarshalText()
		if !bytes.Equal(a, b) {
			err = fmt.Errorf("it is not the trustees' key %s", c.v.Escrow.ID())
		}
	}
	if err == nil && res != nil && res.EscrowKey != key.ID().String() {
		err = fmt.Errorf("the resolution's NIDs are sealed to %s, and this is %s", res.EscrowKey, key.ID())
	}
	keyHolds := c.holds("escrow key", err)
	if res != nil && keyHolds {
		c.opening(ctx, r, w, res, key)
	}
	c.records(r)
	c.holds("signature of the holder", c.signature(f, r, at))
	return r
}

// opening checks the shares and opens the NIDs again.
func (c *checker) opening(ctx context.Context, r *Report, w *Warrant, res *Resolution, key *idcodec.EscrowKey) {
	p := &Party{Progress: c.v.Progress}
	d := Documents{r.Evidence.Warrant, r.Evidence.Resolution}
	o := &opened{warrant: w, resolution: res, nids: res.nids()}
	nids, err := p.openings(ctx, o, key)
	if !c.holds("NIDs: their proofs", err) {
		return
	}
	good := 0
	var trustees []string
	for i := range r.Evidence.Approvals {
		a := &r.Evidence.Approvals[i]
		trustees = append(trustees, a.Head.Trustee)
		err := a.Head.check(d, key)
		if err == nil && a.Head.Format != approvalFormat {
			err = fmt.Errorf("format %q: want %q", a.Head.Format, approvalFormat)
		}
		var shares map[string]idcodec.DecryptionShare
		if err == nil {
			shares, err = a.Head.shares(a.Shares)
		}
		if err == nil {
			err = p.add(ctx, nids, &a.Head, shares)
		}
		if c.holds(fmt.Sprintf("approval of %q: proofs of its shares", a.Head.Trustee), err) {
			good++
		}
	}
	if !slices.Equal(trustees, r.Trustees) {
		err = fmt.Errorf("the report names %q, the approvals are of %q", r.Trustees, trustees)
	}
	c.holds("trustees", err)
	if good < len(r.Evidence.Approvals) {
		return
	}
	if good < key.Threshold() {
		c.holds("threshold", fmt.Errorf("%w: %d of the %d needed", ErrTooFewApprovals, good, key.Threshold()))
		return
	}
	found, err := p.findings(ctx, o, nids)
	if err == nil && !same(found, r.Findings) {
		err = fmt.Errorf("opened again, the NIDs say otherwise: %s", difference("findings", found, r.Findings))
	}
	c.holds("findings: what the shares open", err)
}

// same reports whether two values are the same as JSON.
func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// difference names the first place, by its path in the JSON, at which two values
// differ. It tells no value: it may be an EID.
func difference(path string, a, b any) string {
	var x, y any
	for _, v := range []struct {
		from any
		to   *any
	}{{a, &x}, {b, &y}} {
		t, err := json.Marshal(v.from)
		if err != nil || json.Unmarshal(t, v.to) != nil {
			return path
		}
	}
	return differenceIn(path, x, y)
}

func differenceIn(path string, a, b any) string {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return path
		}
		var keys []string
		for k := range x {
			keys = append(keys, k)
		}
		for k := range y {
			if _, ok := x[k]; !ok {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			if !reflect.DeepEqual(x[k], y[k]) {
				return differenceIn(path+"."+k, x[k], y[k])
			}
		}
	case []any:
		y, ok := b.([]any)
		if !ok {
			return path
		}
		for i := range min(len(x), len(y)) {
			if !reflect.DeepEqual(x[i], y[i]) {
				return differenceIn(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])
			}
		}
		return fmt.Sprintf("%s: %d of them, not %d", path, len(y), len(x))
	}
	return path
}

// records checks the proofs of the records, and that each rests on those before it.
func (c *checker) records(r *Report) {
	authors, err := c.authors(r)
	if !c.holds("certificates of the records' authors", err) {
		return
	}
	if want := len(r.Evidence.Approvals) + 3; len(r.Evidence.Ledger) != want {
		c.holds("records on the ledger", fmt.Errorf("%d proofs, want %d", len(r.Evidence.Ledger), want))
		return
	}
	warrant := documentHash(r.Evidence.Warrant)
	var names, approvers []ledgeranchor.Hash
	check := func(i int, what string, kind ledgeranchor.Kind, body []byte, rests []ledgeranchor.Hash) {
		rec, err := c.v.Prove([]byte(r.Evidence.Ledger[i]), authors)
		if err == nil {
			err = rightRecord(rec, kind, warrant, body, rests)
		}
		if err == nil && kind == ledgeranchor.KindWarrant {
			if why := differ(rec, r.Warrant.terms(), len(r.Warrant.Targets)); why != "" {
				err = fmt.Errorf("the record has other terms than the warrant: %s", why)
			}
		}
		if err == nil && rec.At().After(r.Recovered.Add(ledgeranchor.MaxSkew)) {
			err = fmt.Errorf("the record is of %s, after the report", rec.At().Format(time.RFC3339))
		}
		if err == nil && kind == ledgeranchor.KindApproval {
			if slices.Contains(approvers, rec.Author) {
				err = fmt.Errorf("its author has recorded another trustee's approval as well")
			}
			approvers = append(approvers, rec.Author)
		}
		c.holds("ledger: "+what, err)
		var name ledgeranchor.Hash
		if rec != nil {
			if b, err := rec.Encode(); err == nil {
				name = (&ledgeranchor.Signed{Record: b}).Name()
			}
		}
		names = append(names, name)
	}
	resolution := documentHash(r.Evidence.Resolution)
	check(0, "the warrant", ledgeranchor.KindWarrant, nil, nil)
	check(1, "the resolution", ledgeranchor.KindResolution, resolution[:], names[:1])
	for i := range r.Evidence.Approvals {
		h := r.Evidence.Approvals[i].Head.Hash()
		check(2+i, fmt.Sprintf("the approval of %q", r.Evidence.Approvals[i].Head.Trustee), ledgeranchor.KindApproval, h[:], names[:2])
	}
	check(2+len(r.Evidence.Approvals), "the disclosure", ledgeranchor.KindDisclosure, nil, names)
}

// authors reads the certificates that the report brings.
func (c *checker) authors(r *Report) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for i, der := range r.Evidence.Authors {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("evidence.authors[%d]: %w", i, err)
		}
		out = append(out, x)
	}
	return out, nil
}

// rightRecord holds a record that a proof has shown against what it should be.
func rightRecord(rec *ledgeranchor.Record, kind ledgeranchor.Kind, warrant ledgeranchor.Hash, body []byte, rests []ledgeranchor.Hash) error {
	switch {
	case rec.Kind != kind:
		return fmt.Errorf("the proof is of a %s", rec.Kind)
	case rec.Warrant != warrant:
		return fmt.Errorf("the record is about another warrant, %.16s…", rec.Warrant)
	case body != nil && !bytes.Equal(rec.Body, body):
		return fmt.Errorf("the record is about another %s", kind)
	}
	for _, h := range rests {
		if !slices.Contains(rec.Refs, h) {
			return fmt.Errorf("the record does not rest on the record %.16s…", h)
		}
	}
	return nil
}

// signature checks who signed the report: the holder that the warrant names.
func (c *checker) signature(f *reportFile, r *Report, at time.Time) error {
	jws, err := f.jws()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	// The warrant names the holder's certificate by its hash; there is no root.
	var certs []*x509.Certificate
	for _, der := range r.Evidence.Authors {
		if x, err := x509.ParseCertificate(der); err == nil && Fingerprint(x) == r.Warrant.Holder.Certificate {
			certs = append(certs, x)
		}
	}
	if len(certs) == 0 {
		return fmt.Errorf("%w: the holder's certificate is not among the report's", ErrSignature)
	}
	signer, err := signerOf(jws, r.format()+"+jws", certs, at)
	if err != nil {
		return err
	}
	if Fingerprint(signer) != r.Warrant.Holder.Certificate {
		return fmt.Errorf("%w: %q is not the warrant's holder", ErrSignature, signer.Subject.CommonName)
	}
	if _, err := jws.Verify(signer.PublicKey); err != nil {
		return fmt.Errorf("%w: it does not verify with the key of %q", ErrSignature, signer.Subject.CommonName)
	}
	return nil
}
