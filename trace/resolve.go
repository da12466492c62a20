package trace

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
)

const resolutionType = "gid-resolution-1+jws"

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
	ReasonForgotten = "forgotten"  // keys of the window's epochs were erased
)

// Resolution is an ISP's answer to a warrant.
type Resolution struct {
	Warrant   string    `json:"warrant"` // its hash
	Realm     string    `json:"realm"`
	EscrowKey string    `json:"escrow_key"`
	Resolved  time.Time `json:"resolved"`
	Answers   []Answer  `json:"answers"` // one for each target, in order
}

// Answer is what is known of one target.
type Answer struct {
	Target
	Candidates []Candidate `json:"candidates"`       // more than one when the ISP cannot tell
	Reason     string      `json:"reason,omitempty"` // when there is no candidate
}

// Candidate is a subscriber who may have held the address.
type Candidate struct {
	NID    idcodec.NID `json:"nid"`
	Found  string      `json:"found"`
	Epoch  uint32      `json:"epoch"`
	Leases []Interval  `json:"leases"` // when the address was leased within the window
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
}

// Keys gives the codec of an epoch; *idcodec.Keyring does.
type Keys interface {
	EpochAt(t time.Time) (uint32, error)
	Key(epoch uint32) (*idcodec.EpochKey, error)
}

// Resolver is the ISP's part: it finds NIDs, which it cannot open. It may be
// used from several goroutines.
type Resolver struct {
	Registry    Registry
	Keys        Keys
	MaxAge      time.Duration // of an address
	Realm       string
	EscrowKey   idcodec.EscrowKeyID
	Signer      *Identity
	Authorities []*x509.Certificate // whose warrants are followed
}

// Resolve answers a signed warrant with a signed resolution.
func (r *Resolver) Resolve(ctx context.Context, now time.Time, warrant string) (*Warrant, string, error) {
	w, err := OpenWarrant(warrant, r.Authorities, now)
	if err != nil {
		return nil, "", err
	}
	res := Resolution{
		Warrant: Hash(warrant), Realm: r.Realm, EscrowKey: r.EscrowKey.String(),
		Resolved: now.UTC().Truncate(time.Second),
	}
	for _, t := range w.Targets {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		a, err := r.answer(t)
		if err != nil {
			return nil, "", fmt.Errorf("resolving %s: %w", t.Address, err)
		}
		res.Answers = append(res.Answers, a)
	}
	signed, err := sign(r.Signer, resolutionType, res)
	return w, signed, err
}

// answer tries the epochs in which an address that was in use in the window may
// have been leased, and confirms with the history.
func (r *Resolver) answer(t Target) (Answer, error) {
	a := Answer{Target: t, Candidates: []Candidate{}, Reason: ReasonForged}
	first, err := r.Keys.EpochAt(t.From.Add(-r.MaxAge))
	if err != nil {
		return a, err
	}
	last, err := r.Keys.EpochAt(t.Until)
	if err != nil {
		return a, err
	}
	history, err := r.Registry.History(nil, t.Address)
	if err != nil {
		return a, err
	}
	forgotten := false
	for epoch := first; epoch <= last; epoch++ {
		key, err := r.Keys.Key(epoch)
		if errors.Is(err, idcodec.ErrForgotten) {
			forgotten = true
			continue
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
		c := Candidate{NID: sub.NID, Found: FoundDecoded, Epoch: epoch, Leases: []Interval{}}
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
	switch {
	case len(a.Candidates) > 0:
		a.Reason = ""
	case forgotten:
		a.Reason = ReasonForgotten
	}
	return a, nil
}

// OpenResolution checks a signed resolution: that an ISP of roots signed it and
// that it answers the warrant, target for target.
func OpenResolution(signed string, isps []*x509.Certificate, at time.Time, warrant string, w *Warrant) (*Resolution, error) {
	var r Resolution
	if _, err := open(signed, resolutionType, isps, at, &r); err != nil {
		return nil, err
	}
	if r.Warrant != Hash(warrant) {
		return nil, fmt.Errorf("resolution: it answers the warrant %s, not %s", r.Warrant, Hash(warrant))
	}
	if len(r.Answers) != len(w.Targets) {
		return nil, fmt.Errorf("resolution: %d answers to %d targets", len(r.Answers), len(w.Targets))
	}
	for i, a := range r.Answers {
		t := w.Targets[i]
		if a.Address != t.Address || !a.From.Equal(t.From) || !a.Until.Equal(t.Until) {
			return nil, fmt.Errorf("resolution: answer %d is about %s, the warrant's target about %s", i, a.Address, t.Address)
		}
		for _, c := range a.Candidates {
			for _, l := range c.Leases {
				if l.From.After(t.Until) || !l.Until.After(t.From) {
					return nil, fmt.Errorf("resolution: answer %d has a lease outside the warrant's window", i)
				}
			}
		}
	}
	return &r, nil
}

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
