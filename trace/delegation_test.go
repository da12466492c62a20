package trace

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/lease"
)

// delegate files a delegation.
func (c *court) delegate(p string, n uint64, from time.Time, d time.Duration) netip.Prefix {
	c.t.Helper()
	e, err := c.keys.EpochAt(from)
	if err != nil {
		c.t.Fatal(err)
	}
	q := netip.MustParsePrefix(p)
	c.registry.history[q.Addr()] = append([]lease.Lease{{
		Addr: q.Addr(), Bits: uint8(q.Bits()), Subscriber: n, Epoch: e, State: lease.Active, Born: from, Start: from, ValidUntil: from.Add(d)}}, c.registry.history[q.Addr()]...)
	return q
}

func within(p string, from, until time.Time) Target {
	return Target{Prefix: netip.MustParsePrefix(p), From: from, Until: until}
}

// A host behind a router chose its address itself: the prefix tells whose it is, at every
// length at which it may be asked for.
func TestAnAddressInADelegatedPrefixIsTraced(t *testing.T) {
	c := newCourt(t)
	p := c.delegate("2001:db8:4000:100::/56", 1, noon, 2*time.Hour)
	c.delegate("2001:db8:4000:100::/56", 2, noon.Add(3*time.Hour), time.Hour)
	c.delegate("2001:db8:4000:200::/56", 0, noon, 24*time.Hour)
	host := netip.MustParseAddr("2001:db8:4000:1ab:1:2:3:4")
	d, res := c.ordered(
		at(host, noon.Add(time.Hour)), at(p.Addr(), noon.Add(time.Hour)), at(host, noon.Add(3*time.Hour+time.Minute)), at(host, noon.Add(150*time.Minute)),
		at(netip.MustParseAddr("2001:db8:4000:300::1"), noon),
		within("2001:db8:4000:100::/56", noon, noon.Add(time.Hour)), within("2001:db8:4000:1ab::/64", noon, noon.Add(time.Hour)),
		within("2001:db8:4000:100::/64", noon, noon.Add(time.Hour)), within("2001:db8:4000::/48", noon, noon.Add(time.Hour)),
		Target{Address: host, From: noon, Until: noon.Add(4 * time.Hour)},
	)
	if typeOf(d.Resolution) != resolutionDelegatedType {
		t.Errorf("the resolution is a %s", typeOf(d.Resolution))
	}
	r, text := c.report(d, 0, 2)
	for i, want := range [][]string{{"radius:bob"}, {"radius:bob"}, {"radius:carol"}, nil, nil, {"radius:bob"}, {"radius:bob"}, {"radius:bob"}, {"radius:alice", "radius:bob"}, {"radius:bob", "radius:carol"}} {
		var got []string
		for _, p := range r.Findings[i].Persons {
			got = append(got, p.EID)
			if !p.Delegated.IsValid() || !p.Delegated.Contains(p.Address) || len(p.Leases) != 1 {
				t.Errorf("target %d: %+v", i, p)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("target %d: %v, want %v", i, got, want)
		}
	}
	if a, b := res.Answers[3].Reason, res.Answers[4].Reason; a != ReasonNotLeased || b != ReasonForged {
		t.Errorf("between two delegations %q, outside all %q", a, b)
	}
	if !strings.Contains(string(text), `"gid-report-3"`) {
		t.Error("the report is not of the format that tells of prefixes")
	}
	got, checks, err := c.verifier().Verify(context.Background(), text)
	if err != nil || got.Findings[0].Persons[0].Delegated != p {
		t.Fatalf("the report does not hold: %v", err)
	}
	var page strings.Builder
	if err := got.Render(&page, text, checks); err != nil || !strings.Contains(page.String(), "2001:db8:4000:100::/56 delegated") {
		t.Errorf("as a page: %v", err)
	}
}

// Where no prefix is told of, documents are as they were before there were any.
func TestWithoutADelegationDocumentsAreAsBefore(t *testing.T) {
	c := newCourt(t)
	a := c.lease(1, noon, time.Hour, true)
	c.delegate("2001:db8:4000:100::/56", 2, noon, time.Hour)
	d, _ := c.ordered(at(a, noon))
	_, text := c.report(d, 0, 1)
	if typeOf(d.Resolution) != resolutionType || !strings.Contains(string(text), `"gid-report-2"`) || strings.Contains(string(text), "delegated") {
		t.Errorf("a %s, and %.60s", typeOf(d.Resolution), text)
	}
}

// An ISP that tells of a prefix what cannot be is not believed.
func TestFalseDelegationsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Resolution){
		"a prefix without the address": func(r *Resolution) {
			r.Answers[0].Candidates[0].Delegated = netip.MustParsePrefix("2001:db8:4000:200::/56")
		},
		"bits beyond the length": func(r *Resolution) {
			r.Answers[0].Candidates[0].Delegated = netip.MustParsePrefix("2001:db8:4000:1ab::/56")
		},
		"too long a prefix": func(r *Resolution) {
			r.Answers[0].Candidates[0].Delegated = netip.MustParsePrefix("2001:db8:4000:1ab::/96")
		},
		"one that an address decodes to": func(r *Resolution) { r.Answers[0].Candidates[0].Found = FoundDecoded },
	} {
		c := newCourt(t)
		c.delegate("2001:db8:4000:100::/56", 1, noon, time.Hour)
		w := c.warrant(at(netip.MustParseAddr("2001:db8:4000:1ab::9"), noon))
		warrant := c.submit(w)
		_, res := c.resolve(warrant)
		change(res)
		signed, err := Sign(c.isp, res.typ(), res)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenResolution(signed, c.trust.ISPs, c.clock, warrant, w); !errors.Is(err, ErrResolution) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := newCourt(t)
	a := c.lease(1, noon, time.Hour, true)
	w := c.warrant(at(a, noon))
	warrant := c.submit(w)
	_, signed, err := c.resolver.Resolve(context.Background(), warrant)
	if err != nil {
		t.Fatal(err)
	}
	res, err := OpenResolution(signed, c.trust.ISPs, c.clock, warrant, w)
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = Sign(c.isp, resolutionDelegatedType, res); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenResolution(signed, c.trust.ISPs, c.clock, warrant, w); !errors.Is(err, ErrResolution) {
		t.Errorf("the later type without a prefix: %v", err)
	}
}
