package trace

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/ledgeranchor"
)

const realm = "isp.example"

var (
	now    = time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC)
	noon   = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	prefix = idcodec.PrefixOf(netip.MustParseAddr("2001:db8:1::"))
	maxAge = 36 * time.Hour
)

// registry is a Registry of a few subscribers, whose numbers are their places.
type registry struct {
	nids    []idcodec.NID
	history map[netip.Addr][]lease.Lease
}

func (r *registry) Subscriber(n uint64) (lease.Subscriber, error) {
	if n >= uint64(len(r.nids)) {
		return lease.Subscriber{}, lease.ErrNotFound
	}
	return lease.Subscriber{Number: n, NID: r.nids[n]}, nil
}

func (r *registry) History(dst []lease.Lease, a netip.Addr) ([]lease.Lease, error) {
	return append(dst, r.history[a]...), nil
}

func (r *registry) Lengths() (out []uint8) {
	for _, h := range r.history {
		for _, l := range h {
			if l.Bits != 0 && !slices.Contains(out, l.Bits) {
				out = append(out, l.Bits)
			}
		}
	}
	return out
}

func (r *registry) Within(dst []netip.Addr, p netip.Prefix, from, until time.Time, limit int) ([]netip.Addr, error) {
	for a, h := range r.history {
		if len(dst) < limit && p.Contains(a) && slices.ContainsFunc(h, func(l lease.Lease) bool { return l.Overlaps(from, until) }) {
			dst = append(dst, a)
		}
	}
	return dst, nil
}

// locked makes a source of randomness safe for concurrent use.
type locked struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *locked) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

// shelf is a Ledger in memory. It checks records as every ledger does; its proofs are
// the records.
type shelf struct {
	mu      sync.Mutex
	members *ledgeranchor.Members
	entries []*ledgeranchor.Entry
	now     func() time.Time
}

type shelfProof []byte

func (p shelfProof) MarshalText() ([]byte, error) {
	return []byte(base64.StdEncoding.EncodeToString(p)), nil
}

func (s *shelf) Append(_ context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	decoded, err := s.members.CheckAll(records, s.now())
	if err != nil {
		return nil, err
	}
	var out []ledgeranchor.Receipt
	for i, r := range records {
		e := s.get(r.Name())
		if e == nil {
			e = &ledgeranchor.Entry{Receipt: ledgeranchor.Receipt{Position: uint64(len(s.entries))}, Signed: r, Record: decoded[i]}
			s.entries = append(s.entries, e)
		}
		out = append(out, e.Receipt)
	}
	return out, nil
}

func (s *shelf) get(name ledgeranchor.Hash) *ledgeranchor.Entry {
	for _, e := range s.entries {
		if e.Signed.Name() == name {
			return e
		}
	}
	return nil
}

func (s *shelf) Find(_ context.Context, q ledgeranchor.Query) iter.Seq2[*ledgeranchor.Entry, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.entries[:len(s.entries):len(s.entries)]
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		for _, e := range all {
			if q.Wants(e.Record) && !yield(e, nil) {
				return
			}
		}
	}
}

func (s *shelf) Prove(_ context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(name)
	if e == nil {
		return nil, ledgeranchor.ErrNotFound
	}
	b, err := e.Signed.Encode()
	return shelfProof(b), err
}

// prove checks a shelf's proof.
func (c *court) prove(text []byte, authors []*x509.Certificate) (*ledgeranchor.Record, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return nil, err
	}
	s, err := ledgeranchor.DecodeSigned(b)
	if err != nil {
		return nil, err
	}
	members := ledgeranchor.NewMembers(c.roots)
	for _, a := range authors {
		_ = members.Add(a, now) // who is not of the roots is no member
	}
	r, err := members.Check(s)
	if err == nil && c.ledger.get(s.Name()) == nil {
		err = errors.New("the shelf does not have it")
	}
	return r, err
}

// court is everybody who takes part in a recovery.
type court struct {
	t                      testing.TB
	authority, isp, holder *Identity
	trustees               []*Identity
	roots                  []*x509.Certificate
	ledger                 *shelf
	onLedger               Ledger // instead of the shelf, if not nil
	clock                  time.Time
	escrow                 *idcodec.EscrowKey
	shares                 []*idcodec.Share
	keys                   *idcodec.Keyring
	registry               *registry
	resolver               *Resolver
	trust                  Trust
	rng                    *locked
}

var trusteeNames = []string{"judge", "regulator", "isp"}

func newCourt(t testing.TB) *court {
	t.Helper()
	c := &court{t: t, clock: now, rng: &locked{r: rand.NewChaCha8([32]byte{3})}, ledger: &shelf{}}
	c.ledger.now = func() time.Time { return c.clock }
	c.authority = c.identity("District Court", ledgeranchor.RoleJudge)
	c.isp = c.identity("ISP", ledgeranchor.RoleISP)
	c.holder = c.identity("Police", ledgeranchor.RoleHolder)
	for _, n := range trusteeNames {
		c.trustees = append(c.trustees, c.identity("trustee "+n, ledgeranchor.RoleTrustee))
	}
	for _, id := range append([]*Identity{c.authority, c.isp, c.holder}, c.trustees...) {
		c.roots = append(c.roots, id.Certificate)
	}
	c.ledger.members = ledgeranchor.NewMembers(c.roots)
	var err error
	if c.escrow, c.shares, err = idcodec.Deal(c.rng, 2, trusteeNames); err != nil {
		t.Fatal(err)
	}
	if c.keys, err = idcodec.NewKeyring(c.rng, idcodec.DefaultEpochLength, 20500); err != nil {
		t.Fatal(err)
	}
	c.registry = &registry{history: make(map[netip.Addr][]lease.Lease)}
	for _, name := range []string{"alice", "bob", "carol"} {
		c.subscribe("radius:" + name)
	}
	c.trust = Trust{Authorities: []*x509.Certificate{c.authority.Certificate}, ISPs: []*x509.Certificate{c.isp.Certificate}}
	c.resolver = &Resolver{Party: *c.party(c.isp), Registry: c.registry, Keys: c.keys, MaxAge: maxAge, Realm: realm, EscrowKey: c.escrow.ID()}
	return c
}

func (c *court) subscribe(name string) {
	c.t.Helper()
	eid, err := idcodec.ParseEID(name)
	if err != nil {
		c.t.Fatal(err)
	}
	nid, err := idcodec.SealNID(c.rng, c.escrow, realm, eid)
	if err != nil {
		c.t.Fatal(err)
	}
	c.registry.nids = append(c.registry.nids, nid)
}

// identity makes one that approvals can be sealed to.
func (c *court) identity(name string, roles ...string) *Identity {
	c.t.Helper()
	id, err := NewHolder(c.rng, Subject{Name: name, Roles: roles}, now.AddDate(0, -1, 0), now.AddDate(20, 0, 0))
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// party is one who takes steps.
func (c *court) party(id *Identity) *Party {
	var l Ledger = c.ledger
	if c.onLedger != nil {
		l = c.onLedger
	}
	return &Party{Ledger: l, Self: id, Trust: c.trust, Rand: c.rng, Now: func() time.Time { return c.clock }}
}

// lease leases an address to a subscriber for a time and files it if asked.
func (c *court) lease(n uint64, from time.Time, d time.Duration, file bool) netip.Addr {
	c.t.Helper()
	return c.leaseSlot(n, 0, from, d, file)
}

func (c *court) leaseSlot(n uint64, slot uint16, from time.Time, d time.Duration, file bool) netip.Addr {
	c.t.Helper()
	e, err := c.keys.EpochAt(from)
	if err != nil {
		c.t.Fatal(err)
	}
	k, err := c.keys.Key(e)
	if err != nil {
		c.t.Fatal(err)
	}
	g, err := k.Encode(prefix, n, slot)
	if err != nil {
		c.t.Fatal(err)
	}
	a := prefix.Addr(g)
	if file {
		c.registry.history[a] = append(c.registry.history[a], lease.Lease{
			Addr: a, Subscriber: n, Epoch: e, State: lease.Active, Born: from, Start: from, ValidUntil: from.Add(d)})
	}
	return a
}

func (c *court) warrant(targets ...Target) *Warrant {
	c.t.Helper()
	id, err := NewID(c.rng)
	if err != nil {
		c.t.Fatal(err)
	}
	h, err := c.holder.Holder()
	if err != nil {
		c.t.Fatal(err)
	}
	return &Warrant{
		ID: id, Case: "7 O 12/26", Authority: "District Court", LegalBasis: "§ 1", Purpose: "test", Realm: realm, Issued: now,
		ValidFrom: now, ValidUntil: now.Add(time.Hour), SealUntil: now.AddDate(1, 0, 0), Targets: targets, Holder: h,
	}
}

func (c *court) sign(w *Warrant) string {
	c.t.Helper()
	s, err := w.Sign(c.authority)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// submit signs a warrant and puts it on the ledger.
func (c *court) submit(w *Warrant) string {
	c.t.Helper()
	s := c.sign(w)
	if _, err := c.party(c.authority).Submit(context.Background(), s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *court) resolve(warrant string) (Documents, *Resolution) {
	c.t.Helper()
	w, s, err := c.resolver.Resolve(context.Background(), warrant)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := OpenResolution(s, c.trust.ISPs, c.clock, warrant, w)
	if err != nil {
		c.t.Fatal(err)
	}
	return Documents{warrant, s}, r
}

// ordered takes the steps up to the resolution.
func (c *court) ordered(targets ...Target) (Documents, *Resolution) {
	c.t.Helper()
	return c.resolve(c.submit(c.warrant(targets...)))
}

func (c *court) approveAs(d Documents, trustee int) (*Approval, error) {
	return c.party(c.trustees[trustee]).Approve(context.Background(), d, c.escrow, c.shares[trustee])
}

func (c *court) approve(d Documents, trustees ...int) []*Approval {
	c.t.Helper()
	var out []*Approval
	for _, i := range trustees {
		a, err := c.approveAs(d, i)
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func (c *court) recover(d Documents, approvals ...*Approval) (*Report, error) {
	return c.party(c.holder).Recover(context.Background(), d, c.escrow, approvals)
}

// report takes the steps from a resolution to a signed report.
func (c *court) report(d Documents, trustees ...int) (*Report, []byte) {
	c.t.Helper()
	r, err := c.recover(d, c.approve(d, trustees...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := r.Sign(c.holder)
	if err != nil {
		c.t.Fatal(err)
	}
	return r, text
}

func (c *court) verifier() *Verifier {
	return &Verifier{Trust: c.trust, Escrow: c.escrow, Prove: c.prove}
}

// kinds counts the ledger's records.
func (c *court) kinds() map[ledgeranchor.Kind]int {
	out := make(map[ledgeranchor.Kind]int)
	for _, e := range c.ledger.entries {
		out[e.Record.Kind]++
	}
	return out
}

func at(a netip.Addr, t time.Time) Target { return Target{Address: a, From: t, Until: t} }
