package trace

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"brightgid/ledgeranchor"
)

// Ledger is what the steps need of the ledger that they stand on; a
// [ledgeranchor.Ledger] is one.
type Ledger interface {
	Append(ctx context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error)
	Find(ctx context.Context, q ledgeranchor.Query) iter.Seq2[*ledgeranchor.Entry, error]
	Prove(ctx context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error)
}

// Party is one who takes steps: a judge, a trustee, a holder. Each step looks on the
// ledger for those that it rests on, is refused if they do not stand there, and is on
// the ledger itself before its result leaves.
type Party struct {
	Ledger   Ledger
	Self     *Identity // who takes the step and signs its record
	Trust    Trust
	Rand     io.Reader // safe for concurrent use
	Now      func() time.Time
	Progress func(done, of int) // of long steps; may be nil
}

// Trust is whose signatures count.
type Trust struct {
	Authorities []*x509.Certificate // sign warrants
	ISPs        []*x509.Certificate // sign resolutions
}

// Standing is a record that stands on the ledger.
type Standing struct {
	Name ledgeranchor.Hash `json:"name"`
	ledgeranchor.Receipt
}

// record signs a record and appends it. The same record of the same author that
// stands there already is taken instead.
func (p *Party) record(ctx context.Context, rs ...*ledgeranchor.Record) ([]Standing, error) {
	author, err := ledgeranchor.NewAuthor(p.Self.Key, p.Self.Certificate)
	if err != nil {
		return nil, fmt.Errorf("identity of %q: %w", p.Self.Certificate.Subject.CommonName, err)
	}
	out := make([]Standing, len(rs))
	var fresh []*ledgeranchor.Record
	var places []int
	for i, r := range rs {
		e, err := p.find(ctx, r.Kind, r.Warrant, func(x *ledgeranchor.Record) bool {
			return x.Author == author.ID() && bytes.Equal(x.Body, r.Body) && sameRefs(x.Refs, r.Refs)
		})
		if err != nil {
			return nil, err
		}
		if e != nil {
			out[i] = Standing{e.Signed.Name(), e.Receipt}
			out[i].Known = true
			continue
		}
		r.Time = uint64(p.Now().UnixMilli())
		fresh, places = append(fresh, r), append(places, i)
	}
	if len(fresh) == 0 {
		return out, nil
	}
	signed, err := author.Sign(fresh...)
	if err != nil {
		return nil, err
	}
	if err := p.introduce(ctx, author); err != nil {
		return nil, err
	}
	receipts, err := p.Ledger.Append(ctx, signed...)
	if err != nil {
		return nil, fmt.Errorf("recording the %s on the ledger: %w", fresh[0].Kind, err)
	}
	for k, i := range places {
		out[i] = Standing{signed[k].Name(), receipts[k]}
	}
	return out, nil
}

// membered is a ledger that tells whose records count.
type membered interface{ Members() *ledgeranchor.Members }

// introduce makes the author a member, if it is none yet. On Fabric that takes a
// transaction before the one with its records.
func (p *Party) introduce(ctx context.Context, author *ledgeranchor.Author) error {
	if m, ok := p.Ledger.(membered); ok {
		if _, known := m.Members().Certificate(author.ID()); known {
			return nil
		}
	}
	intro, err := author.Introduce()
	if err != nil {
		return err
	}
	if _, err := p.Ledger.Append(ctx, intro); err != nil {
		return fmt.Errorf("introducing %q to the ledger: %w", author.Certificate.Subject.CommonName, err)
	}
	return nil
}

func sameRefs(a, b []ledgeranchor.Hash) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// find returns the first record of a kind about a warrant that f takes; nil for none.
func (p *Party) find(ctx context.Context, kind ledgeranchor.Kind, warrant ledgeranchor.Hash, f func(*ledgeranchor.Record) bool) (*ledgeranchor.Entry, error) {
	for e, err := range p.Ledger.Find(ctx, ledgeranchor.Query{Kind: kind, Warrant: warrant}) {
		if err != nil {
			return nil, fmt.Errorf("looking on the ledger for the %s: %w", kind, err)
		}
		if f(e.Record) {
			return e, nil
		}
	}
	return nil, nil
}

// standing returns the record of a document that is about a warrant.
func (p *Party) standing(ctx context.Context, kind ledgeranchor.Kind, warrant, document ledgeranchor.Hash) (*ledgeranchor.Entry, error) {
	e, err := p.find(ctx, kind, warrant, func(r *ledgeranchor.Record) bool { return bytes.Equal(r.Body, document[:]) })
	if err == nil && e == nil {
		err = &NotOnLedgerError{Kind: kind, Hash: document}
	}
	return e, err
}

// standingWarrant returns the record of a warrant, which must tell of it what it says.
func (p *Party) standingWarrant(ctx context.Context, signed string, w *Warrant) (*ledgeranchor.Entry, error) {
	hash, terms := documentHash(signed), w.terms()
	why := ""
	e, err := p.find(ctx, ledgeranchor.KindWarrant, hash, func(r *ledgeranchor.Record) bool {
		why = differ(r, terms, len(w.Targets))
		return why == ""
	})
	if err == nil && e == nil {
		err = &NotOnLedgerError{Kind: ledgeranchor.KindWarrant, Hash: hash, Why: why}
	}
	return e, err
}

// differ says in what a record is not that of a warrant with such terms.
func differ(r *ledgeranchor.Record, terms *ledgeranchor.Terms, targets int) string {
	got := r.Terms()
	switch {
	case got == nil:
		return "it tells of no seal"
	case got.SealUntil != terms.SealUntil:
		return fmt.Sprintf("it is sealed until %s, not %s", got.Until().Format(time.RFC3339), terms.Until().Format(time.RFC3339))
	case got.Targets != terms.Targets || r.Count != uint64(targets):
		return fmt.Sprintf("it is committed to %d other targets", r.Count)
	}
	return ""
}

// notRevoked reports a warrant, its holder's certificate, or another, that is revoked.
func (p *Party) notRevoked(ctx context.Context, warrant string, w *Warrant, certificates ...*x509.Certificate) error {
	revoked := func(what, name string, hash ledgeranchor.Hash) error {
		e, err := p.find(ctx, ledgeranchor.KindRevocation, hash, func(r *ledgeranchor.Record) bool {
			v, err := r.Revocation()
			return err == nil && v.What == what
		})
		if err != nil || e == nil {
			return err
		}
		v, _ := e.Record.Revocation()
		return fmt.Errorf("the %s %s is %w since %s: %s", what, name, ErrRevoked, e.Record.At().Format(time.RFC3339), v.Reason)
	}
	hash := documentHash(warrant)
	if err := revoked(ledgeranchor.RevokedWarrant, hash.String()[:16]+"…", hash); err != nil {
		return err
	}
	holder, err := ledgeranchor.ParseHash(w.Holder.Certificate)
	if err != nil {
		return fmt.Errorf("%w: holder.certificate: %w", ErrWarrant, err)
	}
	if err := revoked(ledgeranchor.RevokedCertificate, fmt.Sprintf("of the holder, %q,", w.Holder.Name), holder); err != nil {
		return err
	}
	for _, c := range certificates {
		if err := revoked(ledgeranchor.RevokedCertificate, fmt.Sprintf("of %q", c.Subject.CommonName), ledgeranchor.AuthorID(c)); err != nil {
			return err
		}
	}
	return nil
}

// Submit puts a signed warrant on the ledger: its hash, how many targets it names, how
// long it is sealed, and a commitment to the targets. Where there is no seal it
// publishes them as well.
func (p *Party) Submit(ctx context.Context, warrant string) (Standing, error) {
	w, signer, err := openWarrant(warrant, p.Trust.Authorities, p.Now())
	if err != nil {
		return Standing{}, err
	}
	if err := p.notRevoked(ctx, warrant, w, signer); err != nil {
		return Standing{}, err
	}
	body, err := w.terms().Encode()
	if err != nil {
		return Standing{}, err
	}
	s, err := p.record(ctx, &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Warrant: documentHash(warrant), Count: uint64(len(w.Targets)), Body: body})
	if err != nil {
		return Standing{}, err
	}
	if !p.Now().Before(w.SealUntil) {
		_, err = p.Publish(ctx, warrant)
	}
	return s[0], err
}

// Publish opens a warrant's commitment on the ledger, when its seal has ended. It
// returns the records of its parts. Nothing is published twice.
func (p *Party) Publish(ctx context.Context, warrant string) ([]Standing, error) {
	w, _, err := readWarrant(warrant, p.Trust.Authorities, p.Now())
	if err != nil {
		return nil, err
	}
	if p.Now().Before(w.SealUntil) {
		return nil, fmt.Errorf("%w until %s", ErrSealed, w.SealUntil.Format(time.RFC3339))
	}
	stands, err := p.standingWarrant(ctx, warrant, w)
	if err != nil {
		return nil, err
	}
	bodies, err := ledgeranchor.Publish(w.sealed())
	if err != nil {
		return nil, err
	}
	var rs []*ledgeranchor.Record
	for _, b := range bodies {
		rs = append(rs, &ledgeranchor.Record{Kind: ledgeranchor.KindPublication, Warrant: documentHash(warrant), Refs: []ledgeranchor.Hash{stands.Signed.Name()}, Body: b})
	}
	return p.record(ctx, rs...)
}

// Revoke says on the ledger that a warrant, or a certificate, counts no more. What was
// done before stays; no step more is taken on it.
func (p *Party) Revoke(ctx context.Context, what string, hash ledgeranchor.Hash, reason string) (Standing, error) {
	if reason == "" || len(reason) > 1000 {
		return Standing{}, errors.New("reason: want 1 to 1000 bytes")
	}
	body, err := (&ledgeranchor.Revocation{What: what, Reason: reason}).Encode()
	if err != nil {
		return Standing{}, err
	}
	s, err := p.record(ctx, &ledgeranchor.Record{Kind: ledgeranchor.KindRevocation, Warrant: hash, Body: body})
	if err != nil {
		return Standing{}, err
	}
	return s[0], nil
}

// certificate returns the certificate of a record's author, as the ledger has it.
func (p *Party) certificate(ctx context.Context, author ledgeranchor.Hash) (*x509.Certificate, error) {
	if m, ok := p.Ledger.(membered); ok {
		if c, ok := m.Members().Certificate(author); ok {
			return c, nil
		}
	}
	for e, err := range p.Ledger.Find(ctx, ledgeranchor.Query{Kind: ledgeranchor.KindCertificate}) {
		if err != nil {
			return nil, err
		}
		if e.Record.Author == author {
			return x509.ParseCertificate(e.Record.Body)
		}
	}
	return nil, fmt.Errorf("the certificate of %s: %w", author, ledgeranchor.ErrNotFound)
}
