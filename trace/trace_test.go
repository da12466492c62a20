package trace

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
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

type court struct {
	t                      testing.TB
	authority, isp, holder *Identity
	escrow                 *idcodec.EscrowKey
	shares                 []*idcodec.Share
	keys                   *idcodec.Keyring
	registry               *registry
	resolver               *Resolver
	trust                  Trust
	rng                    *rand.ChaCha8
}

func newCourt(t testing.TB) *court {
	t.Helper()
	c := &court{t: t, rng: rand.NewChaCha8([32]byte{3})}
	id := func(name string) *Identity {
		i, err := NewHolder(c.rng, Subject{Name: name}, now.Add(-24*time.Hour), now.Add(24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	c.authority, c.isp, c.holder = id("District Court"), id("ISP"), id("Police")
	var err error
	if c.escrow, c.shares, err = idcodec.Deal(c.rng, 2, []string{"judge", "regulator", "isp"}); err != nil {
		t.Fatal(err)
	}
	if c.keys, err = idcodec.NewKeyring(c.rng, idcodec.DefaultEpochLength, 20570); err != nil {
		t.Fatal(err)
	}
	c.registry = &registry{history: make(map[netip.Addr][]lease.Lease)}
	for _, name := range []string{"alice", "bob", "carol"} {
		eid, err := idcodec.ParseEID("radius:" + name)
		if err != nil {
			t.Fatal(err)
		}
		nid, err := idcodec.SealNID(c.rng, c.escrow, realm, eid)
		if err != nil {
			t.Fatal(err)
		}
		c.registry.nids = append(c.registry.nids, nid)
	}
	c.trust = Trust{Authorities: []*x509.Certificate{c.authority.Certificate}, ISPs: []*x509.Certificate{c.isp.Certificate}}
	c.resolver = &Resolver{
		Registry: c.registry, Keys: c.keys, MaxAge: maxAge, Realm: realm, EscrowKey: c.escrow.ID(),
		Signer: c.isp, Authorities: c.trust.Authorities,
	}
	return c
}

// lease leases an address to a subscriber for a time and files it if asked.
func (c *court) lease(n uint64, from time.Time, d time.Duration, file bool) netip.Addr {
	c.t.Helper()
	e, err := c.keys.EpochAt(from)
	if err != nil {
		c.t.Fatal(err)
	}
	k, err := c.keys.Key(e)
	if err != nil {
		c.t.Fatal(err)
	}
	g, err := k.Encode(prefix, n, 0)
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
		ID: id, Case: "7 O 12/26", Authority: "District Court", LegalBasis: "§ 1", Purpose: "test", Issued: now,
		ValidFrom: now, ValidUntil: now.Add(time.Hour), Targets: targets, Holder: h,
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

func (c *court) resolve(warrant string) (Documents, *Resolution) {
	c.t.Helper()
	w, s, err := c.resolver.Resolve(context.Background(), now, warrant)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := OpenResolution(s, c.trust.ISPs, now, warrant, w)
	if err != nil {
		c.t.Fatal(err)
	}
	return Documents{warrant, s}, r
}

func (c *court) approve(d Documents, trustees ...int) []*Approval {
	c.t.Helper()
	var out []*Approval
	for _, i := range trustees {
		a, err := Approve(c.rng, now, d, c.trust, c.escrow, c.shares[i], nil)
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func at(a netip.Addr, t time.Time) Target { return Target{a, t, t} }

func TestWarrantResolveTwoApprovalsRecover(t *testing.T) {
	c := newCourt(t)
	addr := c.lease(1, noon, 2*time.Hour, true)
	d, r := c.resolve(c.sign(c.warrant(at(addr, noon.Add(time.Hour)))))
	if len(r.Answers) != 1 || len(r.Answers[0].Candidates) != 1 || r.Answers[0].Candidates[0].Found != FoundLease {
		t.Fatalf("resolved to %+v", r.Answers)
	}
	for _, pair := range [][]int{{0, 1}, {2, 1}, {0, 2}, {0, 1, 2}} {
		report, err := Recover(now, d, c.trust, c.escrow, c.holder, c.approve(d, pair...))
		if err != nil {
			t.Fatalf("trustees %v: %v", pair, err)
		}
		p := report.Findings[0].Persons
		if len(p) != 1 || p[0].EID != "radius:bob" || len(p[0].Leases) != 1 || !p[0].Leases[0].From.Equal(noon) {
			t.Errorf("trustees %v: %+v", pair, report.Findings)
		}
		if len(report.Trustees) != len(pair) {
			t.Errorf("trustees %v: the report names %v", pair, report.Trustees)
		}
	}
}

func TestOneApprovalIsNotEnough(t *testing.T) {
	c := newCourt(t)
	d, _ := c.resolve(c.sign(c.warrant(at(c.lease(0, noon, time.Hour, true), noon))))
	one := c.approve(d, 0)
	if _, err := Recover(now, d, c.trust, c.escrow, c.holder, one); !errors.Is(err, idcodec.ErrTooFewShares) {
		t.Errorf("one approval: %v, want ErrTooFewShares", err)
	}
	if _, err := Recover(now, d, c.trust, c.escrow, c.holder, append(one, one...)); !errors.Is(err, idcodec.ErrTooFewShares) {
		t.Errorf("one approval twice: %v, want ErrTooFewShares", err)
	}
}

func TestWhoWasItWhen(t *testing.T) {
	c := newCourt(t)
	c.keys, _ = c.keys.From(20572) // 2026-04-28
	c.resolver.Keys = c.keys
	held := c.lease(0, noon, 2*time.Hour, true)
	unfiled := c.lease(1, noon, time.Hour, false)
	beyond := c.lease(9, noon, time.Hour, false) // a subscriber number that nobody has
	stranger := netip.MustParseAddr("2001:db8:1::1")
	for _, tc := range []struct {
		name   string
		target Target
		found  string
		reason string
	}{
		{"in the middle", at(held, noon.Add(time.Hour)), FoundLease, ""},
		{"at its first second", at(held, noon), FoundLease, ""},
		{"a window that only touches it", Target{held, noon.Add(-10 * time.Hour), noon}, FoundLease, ""},
		{"before", at(held, noon.Add(-time.Second)), "", ReasonNotLeased},
		{"at its end", at(held, noon.Add(2*time.Hour)), "", ReasonNotLeased},
		{"beyond any age", at(held, noon.Add(72*time.Hour)), "", ReasonForged},
		{"without history", at(unfiled, noon), FoundDecoded, ""},
		{"without history, a day late", at(unfiled, noon.Add(24*time.Hour)), FoundDecoded, ""},
		{"a subscriber number beyond the end", at(beyond, noon), "", ReasonForged},
		{"an address that is no GID", at(stranger, noon), "", ReasonForged},
		{"an epoch whose key is gone", at(held, noon.Add(-90*time.Hour)), "", ReasonForgotten},
	} {
		a, err := c.resolver.answer(tc.target)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		found := ""
		if len(a.Candidates) > 0 {
			found = a.Candidates[0].Found
		}
		if found != tc.found || a.Reason != tc.reason {
			t.Errorf("%s: found %q, reason %q; want %q, %q", tc.name, found, a.Reason, tc.found, tc.reason)
		}
	}
}

// twoEpochs is Keys in which two epochs share a key, so that an address decodes
// in both: what happens by chance once in 2^16 and more.
type twoEpochs struct{ *idcodec.Keyring }

func (k twoEpochs) Key(e uint32) (*idcodec.EpochKey, error) { return k.Keyring.Key(20574) }

func TestTwoCandidatesAreReportedAsTwo(t *testing.T) {
	c := newCourt(t)
	c.resolver.Keys = twoEpochs{c.keys}
	k, _ := c.keys.Key(20574)
	g, _ := k.Encode(prefix, 1, 0)
	d, r := c.resolve(c.sign(c.warrant(at(prefix.Addr(g), noon))))
	if n := len(r.Answers[0].Candidates); n < 2 {
		t.Fatalf("%d candidates, want several", n)
	}
	report, err := Recover(now, d, c.trust, c.escrow, c.holder, c.approve(d, 0, 1))
	if err != nil || len(report.Findings[0].Persons) < 2 {
		t.Errorf("%+v, %v: the report guesses", report, err)
	}
}

func TestManyTargetsInOneGo(t *testing.T) {
	c := newCourt(t)
	var targets []Target
	want := []string{"radius:alice", "radius:bob", "radius:carol"}
	for i := range 300 {
		targets = append(targets, at(c.lease(uint64(i%3), noon.Add(time.Duration(i/3)*time.Hour), time.Hour, true), noon.Add(time.Duration(i/3)*time.Hour)))
	}
	d, _ := c.resolve(c.sign(c.warrant(targets...)))
	steps := 0
	a, err := Approve(c.rng, now, d, c.trust, c.escrow, c.shares[0], func(done, of int) { steps = done })
	if err != nil || steps != 3 {
		t.Fatalf("%d NIDs, %v; want one for each of three subscribers", steps, err)
	}
	report, err := Recover(now, d, c.trust, c.escrow, c.holder, append(c.approve(d, 1), a))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range report.Findings {
		if len(f.Persons) != 1 || f.Persons[0].EID != want[i%3] {
			t.Fatalf("target %d: %+v, want %s", i, f, want[i%3])
		}
	}
}

func TestAWarrantThatDoesNotStandIsRefused(t *testing.T) {
	c := newCourt(t)
	addr := c.lease(0, noon, time.Hour, true)
	good := c.warrant(at(addr, noon))
	stranger, err := NewIdentity(c.rng, Subject{Name: "Nobody"}, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	byStranger, err := good.Sign(stranger)
	if err != nil {
		t.Fatal(err)
	}
	expired := *good
	expired.ValidFrom, expired.ValidUntil = now.Add(-2*time.Hour), now.Add(-time.Hour)
	future := *good
	future.ValidFrom, future.ValidUntil = now.Add(time.Hour), now.Add(2*time.Hour)
	other, err := sign(c.authority, resolutionType, good)
	if err != nil {
		t.Fatal(err)
	}
	signed := c.sign(good)
	parts := strings.Split(signed, ".")
	for name, w := range map[string]string{
		"signed by nobody we know":  byStranger,
		"expired":                   c.sign(&expired),
		"not in force yet":          c.sign(&future),
		"another kind of document":  other,
		"a changed payload":         parts[0] + "." + parts[1][:len(parts[1])-2] + "AA." + parts[2],
		"another's signature":       parts[0] + "." + parts[1] + "." + strings.Split(byStranger, ".")[2],
		"no signature":              parts[0] + "." + parts[1] + ".",
		"alg none":                  "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"nothing":                   "",
		"rubbish":                   "x.y.z",
		"too long":                  strings.Repeat("a", MaxDocument+1),
		"a bare certificate header": "eyJhbGciOiJFZERTQSJ9." + parts[1] + "." + parts[2],
	} {
		if _, _, err := c.resolver.Resolve(context.Background(), now, w); err == nil {
			t.Errorf("%s: resolved", name)
		}
	}
	d, _ := c.resolve(signed)
	late := now.Add(2 * time.Hour)
	if _, err := Approve(c.rng, late, d, c.trust, c.escrow, c.shares[0], nil); !errors.Is(err, ErrWarrant) {
		t.Errorf("approving after its end: %v, want ErrWarrant", err)
	}
	if _, err := Recover(late, d, c.trust, c.escrow, c.holder, c.approve(d, 0, 1)); !errors.Is(err, ErrWarrant) {
		t.Errorf("recovering after its end: %v, want ErrWarrant", err)
	}
}

func TestWarrantContentIsChecked(t *testing.T) {
	c := newCourt(t)
	addr := netip.MustParseAddr("2001:db8::1")
	for name, change := range map[string]func(*Warrant){
		"no case":                func(w *Warrant) { w.Case = "" },
		"no legal basis":         func(w *Warrant) { w.LegalBasis = "" },
		"no purpose":             func(w *Warrant) { w.Purpose = "" },
		"an ID of 3 bytes":       func(w *Warrant) { w.ID = "aabbcc" },
		"no target":              func(w *Warrant) { w.Targets = nil },
		"too many targets":       func(w *Warrant) { w.Targets = make([]Target, MaxTargets+1) },
		"an IPv4 address":        func(w *Warrant) { w.Targets[0].Address = netip.MustParseAddr("192.0.2.1") },
		"a zone":                 func(w *Warrant) { w.Targets[0].Address = netip.MustParseAddr("fe80::1%eth0") },
		"a window from the end":  func(w *Warrant) { w.Targets[0].From = w.Targets[0].Until.Add(time.Second) },
		"a window of two years":  func(w *Warrant) { w.Targets[0].From = noon.AddDate(-2, 0, 0) },
		"a window in the future": func(w *Warrant) { w.Targets[0].Until = now.Add(time.Second) },
		"a short seal key":       func(w *Warrant) { w.Holder.SealTo = []byte{1} },
		"no certificate":         func(w *Warrant) { w.Holder.Certificate = "" },
		"an end before a start":  func(w *Warrant) { w.ValidUntil = w.ValidFrom },
	} {
		w := c.warrant(at(addr, noon))
		change(w)
		if _, err := w.Sign(c.authority); !errors.Is(err, ErrWarrant) {
			t.Errorf("%s: %v, want ErrWarrant", name, err)
		}
	}
}

func TestATrusteeRefusesWhatTheISPDidNotSignForThisWarrant(t *testing.T) {
	c := newCourt(t)
	addr := c.lease(0, noon, time.Hour, true)
	d, r := c.resolve(c.sign(c.warrant(at(addr, noon))))
	otherWarrant := c.sign(c.warrant(at(c.lease(1, noon, time.Hour, true), noon)))
	forged := func(change func(*Resolution), by *Identity) Documents {
		x := *r
		x.Answers = append([]Answer(nil), r.Answers...)
		x.Answers[0].Candidates = append([]Candidate(nil), r.Answers[0].Candidates...)
		change(&x)
		s, err := sign(by, resolutionType, x)
		if err != nil {
			t.Fatal(err)
		}
		return Documents{d.Warrant, s}
	}
	for name, docs := range map[string]Documents{
		"a resolution of another warrant": {otherWarrant, d.Resolution},
		"signed by somebody else":         forged(func(*Resolution) {}, c.holder),
		"an answer too many":              forged(func(x *Resolution) { x.Answers = append(x.Answers, x.Answers[0]) }, c.isp),
		"another address":                 forged(func(x *Resolution) { x.Answers[0].Address = netip.IPv6Loopback() }, c.isp),
		"a lease outside the window":      forged(func(x *Resolution) { x.Answers[0].Candidates[0].Leases = []Interval{{now, now}} }, c.isp),
		"another escrow key":              forged(func(x *Resolution) { x.EscrowKey = "00" }, c.isp),
		"another realm":                   forged(func(x *Resolution) { x.Realm = "other.example" }, c.isp),
		"a changed NID": forged(func(x *Resolution) {
			n := bytes.Clone(x.Answers[0].Candidates[0].NID)
			n[len(n)-1] ^= 1
			x.Answers[0].Candidates[0].NID = n
		}, c.isp),
	} {
		if _, err := Approve(c.rng, now, docs, c.trust, c.escrow, c.shares[0], nil); err == nil {
			t.Errorf("%s: approved", name)
		}
	}
}

func TestAWrongApprovalNamesItsTrustee(t *testing.T) {
	c := newCourt(t)
	d, _ := c.resolve(c.sign(c.warrant(at(c.lease(0, noon, time.Hour, true), noon))))
	d2, _ := c.resolve(c.sign(c.warrant(at(c.lease(1, noon, time.Hour, true), noon))))
	good := c.approve(d, 0)[0]

	changed := *c.approve(d, 1)[0]
	changed.Sealed = bytes.Clone(changed.Sealed)
	changed.Sealed[40] ^= 1
	renamed := *c.approve(d, 2)[0]
	renamed.Trustee = "regulator"
	swapped := *c.approve(d2, 1)[0]
	for name, bad := range map[string]*Approval{
		"changed on the way":  &changed,
		"in another's name":   &renamed,
		"for another warrant": &swapped,
	} {
		var e *ApprovalError
		if _, err := Recover(now, d, c.trust, c.escrow, c.holder, []*Approval{good, bad}); !errors.As(err, &e) || e.Trustee != "regulator" {
			t.Errorf("%s: %v, want the regulator named", name, err)
		}
	}
	// A trustee whose share lies: sealed well, wrong inside.
	_, lying, err := idcodec.Deal(rand.NewChaCha8([32]byte{99}), 2, []string{"judge", "regulator", "isp"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Approve(c.rng, now, d, c.trust, c.escrow, lying[1], nil); !errors.Is(err, idcodec.ErrShare) {
		t.Errorf("a share of another key: %v, want ErrShare", err)
	}
}

func TestOnlyTheHolderOpensApprovals(t *testing.T) {
	c := newCourt(t)
	d, _ := c.resolve(c.sign(c.warrant(at(c.lease(0, noon, time.Hour, true), noon))))
	thief, err := NewHolder(c.rng, Subject{Name: "Thief"}, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(now, d, c.trust, c.escrow, thief, c.approve(d, 0, 1)); err == nil {
		t.Error("somebody else opened the approvals")
	}
	if _, err := Recover(now, d, c.trust, c.escrow, &Identity{Key: c.holder.Key, Certificate: c.holder.Certificate}, c.approve(d, 0, 1)); err == nil {
		t.Error("opened without the holder's key")
	}
}

func TestNothingFoundIsNothingToApprove(t *testing.T) {
	c := newCourt(t)
	d, r := c.resolve(c.sign(c.warrant(at(netip.MustParseAddr("2001:db8:1::1"), noon))))
	if r.Answers[0].Reason != ReasonForged {
		t.Errorf("reason %q", r.Answers[0].Reason)
	}
	if _, err := Approve(c.rng, now, d, c.trust, c.escrow, c.shares[0], nil); !errors.Is(err, ErrNothing) {
		t.Errorf("%v, want ErrNothing", err)
	}
}

func TestResolveAPI(t *testing.T) {
	c := newCourt(t)
	var log bytes.Buffer
	real := func(name string, hosts ...string) *Identity { // TLS looks at the real clock
		id, err := NewIdentity(c.rng, Subject{Name: name, Hosts: hosts}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	server := real("resolver", "127.0.0.1", "::1")
	holderTLS, otherTLS, strangerTLS := real("Police"), real("Other"), real("Stranger")
	w := c.warrant(at(c.lease(2, noon, time.Hour, true), noon))
	w.Holder.Certificate = Fingerprint(holderTLS.Certificate)
	warrant := c.sign(w)

	srv := httptest.NewUnstartedServer(Handler(c.resolver, func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil))))
	srv.TLS = ServerTLS(server, []*x509.Certificate{holderTLS.Certificate, otherTLS.Certificate})
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	call := func(as *Identity, server *Identity, warrant string) (string, error) {
		client, err := NewClient(srv.URL, as, []*x509.Certificate{server.Certificate})
		if err != nil {
			t.Fatal(err)
		}
		return client.Resolve(context.Background(), warrant)
	}
	res, err := call(holderTLS, server, warrant)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := OpenResolution(res, c.trust.ISPs, now, warrant, w); err != nil || len(r.Answers[0].Candidates) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	for name, f := range map[string]func() (string, error){
		"a caller who is not the holder":      func() (string, error) { return call(otherTLS, server, warrant) },
		"a caller without a known cert":       func() (string, error) { return call(strangerTLS, server, warrant) },
		"a server without the expected cert":  func() (string, error) { return call(holderTLS, otherTLS, warrant) },
		"a document that is no warrant":       func() (string, error) { return call(holderTLS, server, "x") },
		"a document that is longer than that": func() (string, error) { return call(holderTLS, server, strings.Repeat("x", maxWarrant+1)) },
	} {
		if res, err := f(); err == nil {
			t.Errorf("%s: answered %.40s", name, res)
		}
	}
	if _, err := NewClient("http://[::1]", holderTLS, nil); err == nil {
		t.Error("an API without TLS was accepted")
	}
	if s := log.String(); !strings.Contains(s, "a warrant was resolved") || strings.Contains(s, "carol") {
		t.Errorf("log: %s", s)
	}
}

func TestIdentitySurvivesItsFiles(t *testing.T) {
	c := newCourt(t)
	key, err := c.holder.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseIdentity(key, c.holder.MarshalCertificate())
	if err != nil || !back.Key.Equal(c.holder.Key) || !back.Unseal.Equal(c.holder.Unseal) {
		t.Errorf("%v: the identity changed", err)
	}
	if _, err := ParseIdentity(key, c.isp.MarshalCertificate()); err == nil {
		t.Error("a certificate of another key was accepted")
	}
	for name, in := range map[string][2][]byte{
		"no key":           {nil, c.holder.MarshalCertificate()},
		"no certificate":   {key, nil},
		"a cert as key":    {c.holder.MarshalCertificate(), c.holder.MarshalCertificate()},
		"a key as a cert":  {key, key},
		"a damaged block":  {bytes.Replace(key, []byte("MC4C"), []byte("MC4D"), 1), c.holder.MarshalCertificate()},
		"rubbish in files": {[]byte("x"), []byte("y")},
	} {
		if _, err := ParseIdentity(in[0], in[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzOpenWarrant(f *testing.F) {
	c := newCourt(f)
	w := c.warrant(Target{netip.MustParseAddr("2001:db8::1"), noon, noon})
	good, err := w.Sign(c.authority)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := OpenWarrant(s, c.trust.Authorities, now); err == nil && fmt.Sprint(got) != fmt.Sprint(w) {
			t.Fatalf("a forged warrant stands: %+v", got)
		}
	})
}
