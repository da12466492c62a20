package trace

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/ledgeranchor"
)

// Types of a resolution: the later one tells of delegated prefixes, and is used only
// where there are any.
const (
	resolutionType          = "gid-resolution-2+jws"
	resolutionDelegatedType = "gid-resolution-3+jws"
)

// How a candidate was found.
const (
	// FoundLease says that the lease history confirms the candidate.
	FoundLease = "lease"

	// FoundDecoded says that the address decodes to the candidate and the
	// lease history holds nothing of the address.
	FoundDecoded = "decoded"
)

// Why a target has no candidate.
const (
	ReasonForged    = "forged"     // it is no address of this ISP in the epochs of the window
	ReasonNotLeased = "not-leased" // it is, and was not leased in the window

	// ReasonRetention says that the keys of epochs in which the address may have
	// been leased are erased, and the leases with them. The ISP signs the oldest
	// epoch that it has keys of, so that it can say so of these epochs only, and
	// never again answers for them.
	ReasonRetention = "beyond-retention"
)

// Resolution is an ISP's answer to a warrant.
type Resolution struct {
	Warrant     string    `json:"warrant"` // its hash
	Realm       string    `json:"realm"`
	EscrowKey   string    `json:"escrow_key"`
	Resolved    time.Time `json:"resolved"`
	EpochLength int64     `json:"epoch_length"` // seconds
	OldestEpoch uint32    `json:"oldest_epoch"` // of which the ISP has the key
	MaxAge      int64     `json:"max_age"`      // seconds; of an address
	Answers     []Answer  `json:"answers"`      // one for each target, in order
}

// Answer is what is known of one target.
type Answer struct {
	Target
	Candidates []Candidate `json:"candidates"`       // of an address more than one when the ISP cannot tell
	Reason     string      `json:"reason,omitempty"` // when there is no candidate
}

// Candidate is a subscriber who may have held the address.
type Candidate struct {
	Address netip.Addr  `json:"address"`
	NID     idcodec.NID `json:"nid"`
	Found   string      `json:"found"`
	Epoch   uint32      `json:"epoch"`
	Leases  []Interval  `json:"leases"` // when the address was leased within the window

	// Delegated is the prefix with the address in it that was delegated to the
	// subscriber, where it was not the address alone that was leased.
	Delegated netip.Prefix `json:"delegated,omitzero"`
}

// Interval is a time in which an address was leased.
type Interval struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Registry is what a resolver reads; a lease.Store does.
type Registry interface {
	Subscriber(number uint64) (lease.Subscriber, error)
	History(dst []lease.Lease, addr netip.Addr) ([]lease.Lease, error)
	Lengths() []uint8
	Within(dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error)
}

// Keys gives the codec of an epoch; *idcodec.Keyring does.
type Keys interface {
	EpochLength() time.Duration
	EpochAt(t time.Time) (uint32, error)
	Oldest() uint32
	Key(epoch uint32) (*idcodec.EpochKey, error)
}

// Resolver is the ISP's part: it finds NIDs, which it cannot open. It may be
// used from several goroutines.
type Resolver struct {
	Party     Party // with the ISP's identity, and the authorities whose warrants are followed
	Registry  Registry
	Keys      Keys
	MaxAge    time.Duration // of an address
	Realm     string
	EscrowKey idcodec.EscrowKeyID
}

// Resolve answers a signed warrant with a signed resolution. The warrant must stand on
// the ledger, and so does the resolution when it returns.
func (r *Resolver) Resolve(ctx context.Context, warrant string) (*Warrant, string, error) {
	now := r.Party.Now()
	w, signer, err := openWarrant(warrant, r.Party.Trust.Authorities, now)
	if err != nil {
		return nil, "", err
	}
	if w.Realm != r.Realm {
		return nil, "", fmt.Errorf("%w: it is addressed to the realm %q; this is %q", ErrScope, w.Realm, r.Realm)
	}
	stands, err := r.Party.standingWarrant(ctx, warrant, w)
	if err != nil {
		return nil, "", err
	}
	if err := r.Party.notRevoked(ctx, warrant, w, signer); err != nil {
		return nil, "", err
	}
	res := Resolution{
		Warrant: Hash(warrant), Realm: r.Realm, EscrowKey: r.EscrowKey.String(), Resolved: now.UTC().Truncate(time.Second),
		EpochLength: int64(r.Keys.EpochLength() / time.Second), MaxAge: int64(r.MaxAge / time.Second),
		// Read first: keys that are erased meanwhile make it too old, not too young.
		OldestEpoch: r.Keys.Oldest(),
	}
	found := 0
	for _, t := range w.Targets {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		a, err := r.answer(t, MaxTargets-found, res.OldestEpoch)
		if err != nil {
			return nil, "", fmt.Errorf("resolving %s: %w", t.String(), err)
		}
		found += len(a.Candidates)
		res.Answers = append(res.Answers, a)
	}
	signed, err := Sign(r.Party.Self, res.typ(), res)
	if err != nil {
		return nil, "", err
	}
	hash := documentHash(signed)
	_, err = r.Party.record(ctx, &ledgeranchor.Record{
		Kind: ledgeranchor.KindResolution, Warrant: documentHash(warrant), Refs: []ledgeranchor.Hash{stands.Signed.Name()}, Body: hash[:]})
	return w, signed, err
}

// answer answers for an address, or for all that were leased within a prefix.
func (r *Resolver) answer(t Target, limit int, oldest uint32) (Answer, error) {
	if t.Address.IsValid() {
		return r.answerAddress(t, oldest)
	}
	a := Answer{Target: t, Candidates: []Candidate{}, Reason: ReasonNotLeased}
	addrs, err := r.Registry.Within(nil, t.Prefix, t.From, t.Until, limit+1)
	if err != nil {
		return a, err
	}
	for _, addr := range addrs {
		one, err := r.answerAddress(Target{Address: addr, From: t.From, Until: t.Until}, oldest)
		if err != nil {
			return a, err
		}
		for _, c := range one.Candidates {
			if !slices.ContainsFunc(a.Candidates, c.sameDelegation) { // of a pool that was divided otherwise before
				a.Candidates = append(a.Candidates, c)
			}
		}
		if len(a.Candidates) > limit {
			return a, fmt.Errorf("%w: more than %d addresses are behind it; it is to be narrowed", ErrScope, MaxTargets)
		}
	}
	if !slices.Contains(addrs, t.Prefix.Addr()) { // what begins there was looked at
		wider, _, err := r.delegated(t, t.Prefix.Addr(), t.Prefix.Bits()-1, oldest)
		if err != nil {
			return a, err
		}
		a.Candidates = append(a.Candidates, wider...)
	}
	first, _, err := r.epochs(t)
	switch {
	case err != nil:
		return a, err
	case len(a.Candidates) > 0:
		a.Reason = ""
	case first < oldest:
		a.Reason = ReasonRetention
	}
	return a, nil
}

// epochs returns the epochs in which an address may have been leased that was in use
// in a window.
func (r *Resolver) epochs(t Target) (first, last uint32, err error) {
	if first, err = r.Keys.EpochAt(t.From.Add(-r.MaxAge)); err != nil {
		return 0, 0, err
	}
	last, err = r.Keys.EpochAt(t.Until)
	return first, last, err
}

// answerAddress tries the epochs of the window and confirms with the history.
func (r *Resolver) answerAddress(t Target, oldest uint32) (Answer, error) {
	a := Answer{Target: t, Candidates: []Candidate{}, Reason: ReasonForged}
	first, last, err := r.epochs(t)
	if err != nil {
		return a, err
	}
	history, err := r.Registry.History(nil, t.Address)
	if err != nil {
		return a, err
	}
	for epoch := max(first, oldest); epoch <= last; epoch++ {
		key, err := r.Keys.Key(epoch)
		if errors.Is(err, idcodec.ErrForgotten) {
			continue // within this call; the resolution names an older epoch
		}
		if err != nil {
			return a, err
		}
		n, _, err := key.Decode(idcodec.PrefixOf(t.Address), idcodec.GIDOf(t.Address))
		if err != nil {
			continue // not of this epoch
		}
		sub, err := r.Registry.Subscriber(n)
		if errors.Is(err, lease.ErrNotFound) {
			continue // a forgery that passed the check
		}
		if err != nil {
			return a, err
		}
		c := Candidate{Address: t.Address, NID: sub.NID, Found: FoundDecoded, Epoch: epoch, Leases: []Interval{}}
		for i := range history {
			if l := &history[i]; l.Subscriber == n && l.Epoch == epoch && l.Overlaps(t.From, t.Until) {
				c.Found = FoundLease
				c.Leases = append(c.Leases, Interval{l.Start, l.ValidUntil})
			}
		}
		if c.Found == FoundDecoded && len(history) > 0 {
			a.Reason = ReasonNotLeased
			continue
		}
		a.Candidates = append(a.Candidates, c)
	}
	registered, err := r.registered(t, history, oldest)
	if err != nil {
		return a, err
	}
	a.Candidates = append(a.Candidates, registered...)
	delegated, ever, err := r.delegated(t, t.Address, idcodec.MaxDelegated, oldest)
	if err != nil {
		return a, err
	}
	if ever { // hosts chose the addresses in it; what one decodes to means nothing
		a.Candidates = slices.DeleteFunc(a.Candidates, func(c Candidate) bool { return c.Found == FoundDecoded })
	}
	a.Candidates = append(a.Candidates, delegated...)
	if a.Reason == ReasonForged && (ever || slices.ContainsFunc(history, func(l lease.Lease) bool { return l.State == lease.Registered })) {
		a.Reason = ReasonNotLeased // it was somebody's, at another time
	}
	switch {
	case len(a.Candidates) > 0:
		a.Reason = ""
	case first < oldest:
		a.Reason = ReasonRetention
	}
	return a, nil
}

// registered returns the subscribers who registered the address as one of their own making
// (RFC 9686), which is no GID: only the history tells of it.
func (r *Resolver) registered(t Target, history []lease.Lease, oldest uint32) (out []Candidate, err error) {
	of := make(map[[2]uint64]int)
	for i := range history {
		l := &history[i]
		if l.State != lease.Registered || l.Epoch < oldest || !l.Overlaps(t.From, t.Until) {
			continue
		}
		key := [2]uint64{l.Subscriber, uint64(l.Epoch)}
		at, known := of[key]
		if !known {
			sub, err := r.Registry.Subscriber(l.Subscriber)
			if err != nil {
				return nil, err
			}
			at = len(out)
			of[key] = at
			out = append(out, Candidate{Address: t.Address, NID: sub.NID, Found: FoundLease, Epoch: l.Epoch})
		}
		out[at].Leases = append(out[at].Leases, Interval{l.Start, l.ValidUntil})
	}
	return out, nil
}

// delegated returns the subscribers to whom prefixes of up to some bits were delegated, in
// the target's window, that an address is in: only the history tells of them. It reports
// whether there ever was one.
func (r *Resolver) delegated(t Target, addr netip.Addr, most int, oldest uint32) (out []Candidate, ever bool, err error) {
	for _, bits := range r.Registry.Lengths() {
		if int(bits) > most {
			continue
		}
		p := netip.PrefixFrom(addr, int(bits)).Masked()
		history, err := r.Registry.History(nil, p.Addr())
		if err != nil {
			return nil, ever, err
		}
		of := make(map[[2]uint64]int)
		for i := range history {
			l := &history[i]
			if l.Bits != bits {
				continue
			}
			ever = true
			if l.Epoch < oldest || !l.Overlaps(t.From, t.Until) {
				continue
			}
			key := [2]uint64{l.Subscriber, uint64(l.Epoch)}
			at, known := of[key]
			if !known {
				sub, err := r.Registry.Subscriber(l.Subscriber)
				if err != nil {
					return nil, ever, err
				}
				at = len(out)
				of[key] = at
				out = append(out, Candidate{Address: addr, Delegated: p, NID: sub.NID, Found: FoundLease, Epoch: l.Epoch})
			}
			out[at].Leases = append(out[at].Leases, Interval{l.Start, l.ValidUntil})
		}
	}
	return out, ever, nil
}

// sameDelegation reports whether two candidates are of one delegation.
func (c *Candidate) sameDelegation(o Candidate) bool {
	return c.Delegated.IsValid() && c.Delegated == o.Delegated && c.Epoch == o.Epoch && bytes.Equal(c.NID, o.NID)
}

// typ is the type as which a resolution is signed.
func (r *Resolution) typ() string {
	for i := range r.Answers {
		if slices.ContainsFunc(r.Answers[i].Candidates, func(c Candidate) bool { return c.Delegated.IsValid() }) {
			return resolutionDelegatedType
		}
	}
	return resolutionType
}

// OpenResolution checks a signed resolution: that an ISP of roots signed it and
// that it answers the warrant, target for target and nothing else.
func OpenResolution(signed string, isps []*x509.Certificate, at time.Time, warrant string, w *Warrant) (*Resolution, error) {
	r, _, err := openResolution(signed, isps, at, warrant, w)
	return r, err
}

func openResolution(signed string, isps []*x509.Certificate, at time.Time, warrant string, w *Warrant) (*Resolution, *x509.Certificate, error) {
	var r Resolution
	typ := resolutionType
	if typeOf(signed) == resolutionDelegatedType {
		typ = resolutionDelegatedType
	}
	signer, err := Open(signed, typ, isps, at, &r)
	if err != nil {
		return nil, nil, err
	}
	if typ != r.typ() {
		return nil, nil, fmt.Errorf("%w: its type is %s, and what is in it is of %s", ErrResolution, typ, r.typ())
	}
	if err := r.check(warrant, w); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrResolution, err)
	}
	return &r, signer, nil
}

// check holds a resolution against the warrant.
func (r *Resolution) check(warrant string, w *Warrant) error {
	switch {
	case r.Warrant != Hash(warrant):
		return fmt.Errorf("it answers the warrant %.16s…, and this is %.16s…", r.Warrant, Hash(warrant))
	case r.Realm != w.Realm:
		return fmt.Errorf("it is of the realm %q, the warrant is addressed to %q", r.Realm, w.Realm)
	case len(r.Answers) != len(w.Targets):
		return fmt.Errorf("%d answers to %d targets", len(r.Answers), len(w.Targets))
	case r.EpochLength < 1 || r.MaxAge < 0 || r.MaxAge > 1<<32:
		return fmt.Errorf("epochs of %d s and an age of %d s", r.EpochLength, r.MaxAge)
	}
	for i := range r.Answers {
		a := &r.Answers[i]
		if !a.Same(&w.Targets[i]) {
			return fmt.Errorf("answer %d is about %s, the warrant's target about %s", i, a.Target.String(), w.Targets[i].String())
		}
		if err := r.checkAnswer(a); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
	}
	return nil
}

func (r *Resolution) checkAnswer(a *Answer) error {
	length, age := time.Duration(r.EpochLength)*time.Second, time.Duration(r.MaxAge)*time.Second
	first, err1 := idcodec.EpochAt(a.From.Add(-age), length)
	last, err2 := idcodec.EpochAt(a.Until, length)
	if err1 != nil || err2 != nil {
		return errors.New("a window that is in no epoch")
	}
	for i := range a.Candidates {
		c := &a.Candidates[i]
		if !c.Address.Is6() || c.Address.Zone() != "" || !a.Covers().Contains(c.Address) {
			return fmt.Errorf("candidate %d has the address %s, outside the target %s", i, c.Address, a.Target.String())
		}
		if d := c.Delegated; d.IsValid() && (d != d.Masked() || d.Bits() > idcodec.MaxDelegated || !d.Contains(c.Address) || c.Found != FoundLease) {
			return fmt.Errorf("candidate %d has the delegated prefix %s", i, d)
		}
		if c.Epoch < max(first, r.OldestEpoch) || c.Epoch > last {
			return fmt.Errorf("candidate %d is of epoch %d, outside the window or beyond the retention", i, c.Epoch)
		}
		for _, l := range c.Leases {
			if l.From.After(a.Until) || !l.Until.After(a.From) {
				return fmt.Errorf("candidate %d has a lease outside the warrant's window", i)
			}
		}
	}
	switch beyond := first < r.OldestEpoch; {
	case len(a.Candidates) > 0 && a.Reason != "":
		return fmt.Errorf("it has candidates and the reason %.40q", a.Reason)
	case len(a.Candidates) > 0:
	case beyond != (a.Reason == ReasonRetention):
		return fmt.Errorf("it gives the reason %.40q, and the oldest epoch is %d, the window's first %d", a.Reason, r.OldestEpoch, first)
	case a.Reason != ReasonRetention && a.Reason != ReasonForged && a.Reason != ReasonNotLeased:
		return fmt.Errorf("it gives the reason %.40q", a.Reason)
	}
	return nil
}

// Subscribers returns how many subscribers a resolution points at.
func (r *Resolution) Subscribers() int { return len(r.nids()) }

// nids returns the distinct NIDs of a resolution, in order.
func (r *Resolution) nids() []idcodec.NID {
	var out []idcodec.NID
	seen := make(map[string]bool)
	for _, a := range r.Answers {
		for _, c := range a.Candidates {
			if !seen[string(c.NID)] {
				seen[string(c.NID)] = true
				out = append(out, c.NID)
			}
		}
	}
	return out
}
