package trace

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/ledgeranchor"
)

// reseal seals other shares in an approval, as its trustee could, and records it.
func reseal(t *testing.T, c *court, d Documents, a *Approval, plain []byte) {
	t.Helper()
	sum := sha256.Sum256(plain)
	a.Shares = hex.EncodeToString(sum[:])
	pub, err := ecdh.X25519().NewPublicKey(c.holder.Unseal.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	if a.Sealed, err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), a.info(), plain); err != nil {
		t.Fatal(err)
	}
	o, err := c.party(c.trustees[1]).open(context.Background(), d, c.escrow)
	if err != nil {
		t.Fatal(err)
	}
	h := a.Hash()
	if _, err := c.party(c.trustees[1]).record(context.Background(), &ledgeranchor.Record{Kind: ledgeranchor.KindApproval, Warrant: documentHash(d.Warrant), Refs: o.records[:], Body: h[:]}); err != nil {
		t.Fatal(err)
	}
}

func TestAReportHoldsForWhoHasPublicKeysOnly(t *testing.T) {
	c := newCourt(t)
	d, _ := c.ordered(at(c.lease(1, noon, time.Hour, true), noon), at(netip.MustParseAddr("2001:db8:1::1"), noon))
	want, text := c.report(d, 0, 2)
	// Long after, when the warrant is no longer in force.
	c.clock = now.AddDate(5, 0, 0)
	got, checks, err := c.verifier().Verify(context.Background(), text)
	if err != nil || !same(got, want) || len(checks) < 12 {
		t.Fatalf("%v, %+v", err, checks)
	}
	if f := got.Findings; f[0].Persons[0].EID != "radius:bob" || f[1].Reason != ReasonForged {
		t.Errorf("%+v", f)
	}
	v := c.verifier()
	v.Escrow = nil
	if _, _, err := v.Verify(context.Background(), text); err != nil {
		t.Errorf("by the report's own escrow key: %v", err)
	}
	other, _, err := idcodec.Deal(c.rng, 2, trusteeNames)
	if err != nil {
		t.Fatal(err)
	}
	v.Escrow = other
	if _, _, err := v.Verify(context.Background(), text); !errors.Is(err, ErrReport) || !strings.Contains(err.Error(), "escrow key") {
		t.Errorf("by another escrow key: %v", err)
	}
}

// Any changed byte is found, wherever it is.
func TestAChangedByteAnywhereIsFound(t *testing.T) {
	c := newCourt(t)
	d, _ := c.ordered(at(c.lease(1, noon, time.Hour, true), noon))
	_, text := c.report(d, 0, 1)
	v := c.verifier()
	const step = 41 // each verification takes milliseconds
	for i := 0; i < len(text); i += step {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		if _, _, err := v.Verify(context.Background(), changed); !errors.Is(err, ErrReport) {
			t.Fatalf("byte %d changed from %q to %q: %v, want ErrReport\n%s", i, text[i], changed[i], err, text[max(0, i-60):min(len(text), i+60)])
		}
	}
	for name, changed := range map[string][]byte{"cut short": text[:len(text)-1], "a space more": append(bytes.Clone(text), ' '), "nothing": nil} {
		if _, _, err := v.Verify(context.Background(), changed); !errors.Is(err, ErrReport) {
			t.Errorf("%s: %v, want ErrReport", name, err)
		}
	}
}

// What was changed is named, even by the holder, who can sign anew.
func TestWhatIsWrongWithAReportIsNamed(t *testing.T) {
	c := newCourt(t)
	d, resolution := c.ordered(at(c.lease(1, noon, time.Hour, true), noon))
	d2, _ := c.ordered(at(c.lease(1, noon, time.Hour, true), noon))
	other, _ := c.report(d2, 0, 1)
	changeNID(resolution)
	broken, err := Sign(c.isp, resolutionType, resolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, want string
		change     func(*Report)
		signer     *Identity
	}{
		{"another EID", "findings[0].persons[0].eid", func(r *Report) { r.Findings[0].Persons[0].EID = "radius:alice" }, nil},
		{"another lease", "findings[0].persons[0].leases", func(r *Report) { r.Findings[0].Persons[0].Leases[0].From = noon.Add(-time.Hour) }, nil},
		{"nobody", "findings[0].persons", func(r *Report) { r.Findings[0].Persons = []Person{} }, nil},
		{"another case", "warrant.case", func(r *Report) { r.Warrant.Case = "8 O 1/26" }, nil},
		{"another window", "warrant.targets[0].until", func(r *Report) { r.Warrant.Targets[0].Until = now }, nil},
		{"another warrant's evidence", "the report's warrant is not the one that was signed", func(r *Report) { r.Evidence.Warrant = other.Evidence.Warrant }, nil},
		{"another resolution", "resolution", func(r *Report) { r.Evidence.Resolution = other.Evidence.Resolution }, nil},
		{"a changed NID", "NIDs: their proofs", func(r *Report) { r.Evidence.Resolution = broken }, nil},
		{"another's approval", "approval", func(r *Report) { r.Evidence.Approvals[0] = other.Evidence.Approvals[0] }, nil},
		{"other trustees", "trustees", func(r *Report) { r.Trustees = []string{"judge", "isp"} }, nil},
		{"an approval too few", "needed", func(r *Report) {
			r.Evidence.Approvals, r.Trustees = r.Evidence.Approvals[:1], r.Trustees[:1]
			r.Evidence.Ledger = append(append([]string{}, r.Evidence.Ledger[:3]...), r.Evidence.Ledger[4])
		}, nil},
		{"no record of the disclosure", "records on the ledger", func(r *Report) { r.Evidence.Ledger = r.Evidence.Ledger[:4] }, nil},
		{"another's record of the disclosure", "ledger: the disclosure", func(r *Report) { r.Evidence.Ledger[4] = other.Evidence.Ledger[4] }, nil},
		{"the record of another step", "ledger: the resolution", func(r *Report) { r.Evidence.Ledger[1] = r.Evidence.Ledger[2] }, nil},
		{"no certificates", "ledger", func(r *Report) { r.Evidence.Authors = nil }, nil},
		{"a time before its records", "after the report", func(r *Report) { r.Recovered = now.Add(-10 * time.Minute) }, nil},
		{"another signer", "signature of the holder", func(*Report) {}, c.authority},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := c.report(d, 0, 1)
			r.Findings[0].Persons[0].Leases = append([]Interval{}, r.Findings[0].Persons[0].Leases...)
			r.Warrant.Targets = append([]Target{}, r.Warrant.Targets...)
			tc.change(r)
			signer := c.holder
			if tc.signer != nil {
				signer = tc.signer
			}
			text, err := r.Sign(signer)
			if err != nil {
				t.Fatal(err)
			}
			_, checks, err := c.verifier().Verify(context.Background(), text)
			if !errors.Is(err, ErrReport) {
				t.Fatalf("%v, want ErrReport", err)
			}
			var said []string
			for _, x := range checks {
				if x.Error != "" {
					said = append(said, x.What+": "+x.Error)
				}
			}
			all := strings.Join(said, "\n")
			if !strings.Contains(all, tc.want) {
				t.Errorf("it says:\n%s\nwant %q", all, tc.want)
			}
			if strings.Contains(all, "radius:") {
				t.Errorf("it tells an EID: %s", all)
			}
		})
	}
}

func FuzzOpenWarrant(f *testing.F) {
	c := newCourt(f)
	w := c.warrant(at(netip.MustParseAddr("2001:db8::1"), noon))
	good, err := w.Sign(c.authority)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := OpenWarrant(s, c.trust.Authorities, now); err == nil && !same(got, w) {
			t.Fatalf("a forged warrant stands: %+v", got)
		}
	})
}

func FuzzOpenResolution(f *testing.F) {
	c := newCourt(f)
	d, r := c.ordered(at(c.lease(0, noon, time.Hour, true), noon))
	w, err := OpenWarrant(d.Warrant, c.trust.Authorities, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.Resolution)
	f.Add(d.Warrant)
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := OpenResolution(s, c.trust.ISPs, now, d.Warrant, w); err == nil && !same(got, r) {
			t.Fatalf("a forged resolution stands: %+v", got)
		}
	})
}

// FuzzResolutionContent checks what an ISP could sign, whatever it is.
func FuzzResolutionContent(f *testing.F) {
	c := newCourt(f)
	d, r := c.ordered(at(c.lease(0, noon, time.Hour, true), noon))
	w, err := OpenWarrant(d.Warrant, c.trust.Authorities, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.EpochLength, r.OldestEpoch, r.MaxAge, r.Answers[0].Candidates[0].Epoch, int64(0), int64(3600))
	f.Fuzz(func(t *testing.T, length int64, oldest uint32, age int64, epoch uint32, from, until int64) {
		x := *r
		x.EpochLength, x.OldestEpoch, x.MaxAge = length, oldest, age
		x.Answers = []Answer{x.Answers[0]}
		one := x.Answers[0].Candidates[0]
		one.Epoch, one.Leases = epoch, []Interval{{noon.Add(time.Duration(from)), noon.Add(time.Duration(until))}}
		x.Answers[0].Candidates = []Candidate{one}
		if x.check(d.Warrant, w) == nil && epoch < oldest {
			t.Fatal("an answer beyond the retention stands")
		}
	})
}

func FuzzParseApproval(f *testing.F) {
	c := newCourt(f)
	d, _ := c.ordered(at(c.lease(0, noon, time.Hour, true), noon))
	a := c.approve(d, 0)[0]
	plain, err := a.unseal(c.holder.Unseal)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"format":"gid-approval-2","warrant":"","resolution":"","escrow_key":"","trustee":"","shares":"","sealed":""}`), plain)
	f.Fuzz(func(t *testing.T, text, sealed []byte) {
		if x, err := ParseApproval(text); err == nil {
			if _, err := x.unseal(c.holder.Unseal); err == nil {
				t.Fatal("an approval that nobody made opens")
			}
		}
		if _, err := a.shares(sealed); err == nil && !bytes.Equal(sealed, plain) {
			t.Fatal("other shares than the head's are taken")
		}
	})
}

func FuzzVerifyReport(f *testing.F) {
	c := newCourt(f)
	d, _ := c.ordered(at(c.lease(0, noon, time.Hour, true), noon))
	_, text := c.report(d, 0, 1)
	f.Add(text)
	f.Add([]byte(`{"format":"gid-report-2","report":{},"signature":".."}`))
	v := c.verifier()
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := v.Verify(context.Background(), b); err == nil && !bytes.Equal(b, text) {
			t.Fatal("a report that nobody signed holds")
		}
	})
}
