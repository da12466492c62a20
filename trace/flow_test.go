package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease"
	"brightgid/ledgeranchor"
)

func TestWarrantResolveTwoApprovalsRecover(t *testing.T) {
	c := newCourt(t)
	addr := c.lease(1, noon, 2*time.Hour, true)
	d, r := c.ordered(at(addr, noon.Add(time.Hour)))
	if len(r.Answers) != 1 || len(r.Answers[0].Candidates) != 1 || r.Answers[0].Candidates[0].Found != FoundLease {
		t.Fatalf("resolved to %+v", r.Answers)
	}
	for _, set := range [][]int{{0, 1}, {2, 1}, {0, 2}, {0, 1, 2}} {
		report, err := c.recover(d, c.approve(d, set...)...)
		if err != nil {
			t.Fatalf("trustees %v: %v", set, err)
		}
		p := report.Findings[0].Persons
		if len(p) != 1 || p[0].EID != "radius:bob" || p[0].Address != addr || len(p[0].Leases) != 1 || !p[0].Leases[0].From.Equal(noon) {
			t.Errorf("trustees %v: %+v", set, report.Findings)
		}
		if len(report.Trustees) != len(set) {
			t.Errorf("trustees %v: the report names %v", set, report.Trustees)
		}
	}
}

// Every step is on the ledger, in its order, and rests on those before it.
func TestEveryStepStandsOnTheLedger(t *testing.T) {
	c := newCourt(t)
	d, _ := c.ordered(at(c.lease(0, noon, time.Hour, true), noon))
	approvals := c.approve(d, 0, 1)
	if _, err := c.recover(d, approvals...); err != nil {
		t.Fatal(err)
	}
	auditor := ledgeranchor.NewAuditor(2, now)
	for _, e := range c.ledger.entries {
		auditor.Take(e)
	}
	a := auditor.Report()
	if len(a.Problems) > 0 || a.Counts[ledgeranchor.KindDisclosure] != 1 || a.Counts[ledgeranchor.KindApproval] != 2 || a.Sealed != 1 || a.Targets != 1 {
		t.Errorf("the audit says %+v", a)
	}
	// Steps that are taken again are no new records, but for approvals, whose
	// shares are new.
	before := c.kinds()
	if _, err := c.party(c.authority).Submit(context.Background(), d.Warrant); err != nil {
		t.Fatal(err)
	}
	if _, err := c.recover(d, approvals...); err != nil {
		t.Fatal(err)
	}
	if after := c.kinds(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the ledger has %v, and had %v", after, before)
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
	own := netip.MustParseAddr("2001:db8:1::abcd") // of a client's own making
	epoch, err := c.keys.EpochAt(noon)
	if err != nil {
		t.Fatal(err)
	}
	c.registry.history[own] = []lease.Lease{{Addr: own, Subscriber: 1, Epoch: epoch, State: lease.Registered, Born: noon, Start: noon, ValidUntil: noon.Add(2 * time.Hour)}}
	for _, tc := range []struct {
		name   string
		target Target
		found  string
		reason string
	}{
		{"in the middle", at(held, noon.Add(time.Hour)), FoundLease, ""},
		{"at its first second", at(held, noon), FoundLease, ""},
		{"a window that only touches it", Target{Address: held, From: noon.Add(-10 * time.Hour), Until: noon}, FoundLease, ""},
		{"before", at(held, noon.Add(-time.Second)), "", ReasonNotLeased},
		{"at its end", at(held, noon.Add(2*time.Hour)), "", ReasonNotLeased},
		{"beyond any age", at(held, noon.Add(72*time.Hour)), "", ReasonForged},
		{"without history", at(unfiled, noon), FoundDecoded, ""},
		{"without history, a day late", at(unfiled, noon.Add(24*time.Hour)), FoundDecoded, ""},
		{"a subscriber number beyond the end", at(beyond, noon), "", ReasonForged},
		{"an address that is no GID", at(stranger, noon), "", ReasonForged},
		{"an address that was registered", at(own, noon.Add(time.Hour)), FoundLease, ""},
		{"before it was registered", at(own, noon.Add(-time.Second)), "", ReasonNotLeased},
		{"an epoch whose key is gone", at(held, noon.Add(-90*time.Hour)), "", ReasonRetention},
		{"a prefix whose keys are gone", Target{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), From: noon.Add(-90 * time.Hour), Until: noon.Add(-80 * time.Hour)}, "", ReasonRetention},
		{"a prefix in which nobody was", Target{Prefix: netip.MustParsePrefix("2001:db8:2::/64"), From: noon, Until: noon}, "", ReasonNotLeased},
	} {
		_, r := c.ordered(tc.target) // OpenResolution holds it against the signed retention
		a := r.Answers[0]
		found := ""
		if len(a.Candidates) > 0 {
			found = a.Candidates[0].Found
		}
		if found != tc.found || a.Reason != tc.reason {
			t.Errorf("%s: found %q, reason %q; want %q, %q", tc.name, found, a.Reason, tc.found, tc.reason)
		}
	}
}

// A warrant for a prefix brings everybody who had an address in it in the window, and
// nobody else.
func TestAPrefixNamesThoseWhoWereInIt(t *testing.T) {
	c := newCourt(t)
	a := c.lease(0, noon, time.Hour, true)
	c.lease(1, noon.Add(5*time.Hour), time.Hour, true) // later
	b := c.lease(2, noon.Add(-time.Hour), 2*time.Hour, true)
	d, _ := c.ordered(Target{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), From: noon, Until: noon.Add(time.Minute)})
	r, _ := c.report(d, 0, 1)
	got := make(map[netip.Addr]string)
	for _, p := range r.Findings[0].Persons {
		got[p.Address] = p.EID
	}
	if len(got) != 2 || got[a] != "radius:alice" || got[b] != "radius:carol" {
		t.Errorf("found %v", got)
	}
}

func TestAPrefixWithTooManyBehindItIsRefused(t *testing.T) {
	c := newCourt(t)
	for i := range MaxTargets + 1 {
		c.leaseSlot(uint64(i%3), uint16(i/3), noon, time.Hour, true)
	}
	w := c.submit(c.warrant(Target{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), From: noon, Until: noon}))
	if _, _, err := c.resolver.Resolve(context.Background(), w); !errors.Is(err, ErrScope) {
		t.Errorf("%v, want ErrScope", err)
	}
}

// twoEpochs is Keys in which all epochs share a key, so that an address decodes
// in several: what happens by chance once in 2^16 and more.
type twoEpochs struct{ *idcodec.Keyring }

func (k twoEpochs) Key(e uint32) (*idcodec.EpochKey, error) { return k.Keyring.Key(20574) }

func TestTwoCandidatesAreReportedAsTwo(t *testing.T) {
	c := newCourt(t)
	c.resolver.Keys = twoEpochs{c.keys}
	k, _ := c.keys.Key(20574)
	g, _ := k.Encode(prefix, 1, 0)
	d, r := c.ordered(at(prefix.Addr(g), noon))
	if n := len(r.Answers[0].Candidates); n < 2 {
		t.Fatalf("%d candidates, want several", n)
	}
	report, err := c.recover(d, c.approve(d, 0, 1)...)
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
	d, _ := c.ordered(targets...)
	steps := 0
	trustee := c.party(c.trustees[0])
	trustee.Progress = func(done, of int) { steps = max(steps, done) }
	a, err := trustee.Approve(context.Background(), d, c.escrow, c.shares[0])
	if err != nil || steps != 3 {
		t.Fatalf("%d NIDs, %v; want one for each of three subscribers", steps, err)
	}
	report, err := c.recover(d, append(c.approve(d, 1), a)...)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range report.Findings {
		if len(f.Persons) != 1 || f.Persons[0].EID != want[i%3] {
			t.Fatalf("target %d: %+v, want %s", i, f, want[i%3])
		}
	}
	if n := c.kinds()[ledgeranchor.KindApproval]; n != 2 {
		t.Errorf("%d approvals are recorded, want one a trustee", n)
	}
}

// When the seal has ended, the court publishes; then a subscriber can ask whether an
// address was disclosed, and nobody learns an address that he did not know.
func TestAfterTheSealASubscriberCanAsk(t *testing.T) {
	c := newCourt(t)
	addr := c.lease(0, noon, time.Hour, true)
	other := c.lease(1, noon, time.Hour, true)
	w := c.warrant(at(addr, noon), Target{Prefix: netip.MustParsePrefix("2001:db8:9::/56"), From: noon, Until: noon.Add(time.Hour)})
	signed := c.submit(w)
	d, _ := c.resolve(signed)
	c.report(d, 0, 1)
	ask := func(a netip.Addr) []ledgeranchor.Disclosed {
		auditor := ledgeranchor.NewAuditor(2, c.clock)
		for _, e := range c.ledger.entries {
			auditor.Take(e)
		}
		return auditor.WasDisclosed(a)
	}
	court := c.party(c.authority)
	if _, err := court.Publish(context.Background(), signed); !errors.Is(err, ErrSealed) {
		t.Errorf("before the seal's end: %v, want ErrSealed", err)
	}
	if got := ask(addr); len(got) != 0 {
		t.Errorf("before the seal's end: %+v", got)
	}
	overdue := func() int {
		auditor := ledgeranchor.NewAuditor(2, c.clock)
		for _, e := range c.ledger.entries {
			auditor.Take(e)
		}
		return len(auditor.Report().Problems)
	}
	c.clock = w.SealUntil.Add(ledgeranchor.PublicationGrace + time.Second)
	if overdue() != 1 {
		t.Error("the audit does not miss the publication")
	}
	if _, err := court.Publish(context.Background(), signed); err != nil {
		t.Fatal(err)
	}
	if overdue() != 0 {
		t.Error("the audit does not see the publication")
	}
	got := ask(addr)
	if len(got) != 1 || got[0].Target != netip.PrefixFrom(addr, 128) || !got[0].From.Equal(noon) || len(got[0].Disclosed) != 1 || got[0].Warrant != documentHash(signed) {
		t.Errorf("the subscriber is told %+v", got)
	}
	if got := ask(other); len(got) != 0 {
		t.Errorf("another is told %+v", got)
	}
	if got := ask(netip.MustParseAddr("2001:db8:9:1::5")); len(got) != 1 || got[0].Target.Bits() != 56 {
		t.Errorf("one within the prefix is told %+v", got)
	}
	before := len(c.ledger.entries)
	if _, err := court.Publish(context.Background(), signed); err != nil || len(c.ledger.entries) != before {
		t.Errorf("publishing again: %v, %d records more", err, len(c.ledger.entries)-before)
	}
}

func TestAWarrantWithoutASealIsPublishedAtOnce(t *testing.T) {
	c := newCourt(t)
	w := c.warrant()
	w.SealUntil = time.Time{}
	for i := range 450 { // three parts
		w.Targets = append(w.Targets, at(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 14: byte(i >> 8), 15: byte(i)}), noon))
	}
	c.submit(w)
	if n := c.kinds()[ledgeranchor.KindPublication]; n != 3 {
		t.Fatalf("%d records of its publication, want 3", n)
	}
	auditor := ledgeranchor.NewAuditor(2, now)
	for _, e := range c.ledger.entries {
		auditor.Take(e)
	}
	if r := auditor.Report(); len(r.Problems) > 0 || !r.Warrants[0].Published {
		t.Errorf("%+v", r)
	}
	if got := auditor.WasDisclosed(w.Targets[449].Address); len(got) != 1 || len(got[0].Disclosed) != 0 {
		t.Errorf("of the last target: %+v", got)
	}
}

// A publication that is not what the record is committed to is found.
func TestAFalsePublicationIsFound(t *testing.T) {
	c := newCourt(t)
	w := c.warrant(at(c.lease(0, noon, time.Hour, true), noon))
	signed := c.submit(w)
	stands := c.ledger.entries[len(c.ledger.entries)-1].Signed.Name()
	other := *w
	other.Targets = []Target{at(c.lease(1, noon, time.Hour, true), noon)}
	bodies, err := ledgeranchor.Publish(other.sealed())
	if err != nil {
		t.Fatal(err)
	}
	c.clock = w.SealUntil
	if _, err := c.party(c.authority).record(context.Background(), &ledgeranchor.Record{Kind: ledgeranchor.KindPublication, Warrant: documentHash(signed), Refs: []ledgeranchor.Hash{stands}, Body: bodies[0]}); err != nil {
		t.Fatal(err)
	}
	auditor := ledgeranchor.NewAuditor(2, c.clock)
	for _, e := range c.ledger.entries {
		auditor.Take(e)
	}
	if r := auditor.Report(); len(r.Problems) != 1 || r.Warrants[0].Published {
		t.Errorf("%+v", r)
	}
	if got := auditor.WasDisclosed(other.Targets[0].Address); len(got) != 0 {
		t.Errorf("it is believed: %+v", got)
	}
}
