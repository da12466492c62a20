package trace

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/ledgeranchor"
)

// Every refusal, with its own error.
func TestRefusals(t *testing.T) {
	type step func(t *testing.T, c *court) error
	resolve := func(c *court, warrant string) error {
		_, _, err := c.resolver.Resolve(context.Background(), warrant)
		return err
	}
	target := func(c *court) Target { return at(c.lease(0, noon, time.Hour, true), noon) }
	// forged is a resolution that the ISP signs and records, and that is wrong.
	forged := func(c *court, by *Identity, change func(*Resolution)) Documents {
		d, r := c.ordered(target(c))
		x := *r
		x.Answers = append([]Answer(nil), r.Answers...)
		x.Answers[0].Candidates = append([]Candidate(nil), r.Answers[0].Candidates...)
		change(&x)
		s, err := Sign(by, resolutionType, x)
		if err != nil {
			c.t.Fatal(err)
		}
		h := documentHash(s)
		if _, err := c.party(c.isp).record(context.Background(), &ledgeranchor.Record{
			Kind: ledgeranchor.KindResolution, Warrant: documentHash(d.Warrant), Refs: []ledgeranchor.Hash{{1}}, Body: h[:]}); err != nil {
			c.t.Fatal(err)
		}
		return Documents{d.Warrant, s}
	}
	approve := func(c *court, d Documents) error { _, err := c.approveAs(d, 0); return err }
	recover := func(c *court, d Documents, a ...*Approval) error { _, err := c.recover(d, a...); return err }
	for _, tc := range []struct {
		name string
		want error
		step step
	}{
		// Warrants.
		{"a warrant that has expired", ErrExpired, func(t *testing.T, c *court) error {
			w := c.submit(c.warrant(target(c)))
			c.clock = c.clock.Add(2 * time.Hour)
			return resolve(c, w)
		}},
		{"a warrant that is not in force yet", ErrExpired, func(t *testing.T, c *court) error {
			w := c.warrant(target(c))
			w.ValidFrom, w.ValidUntil = now.Add(time.Hour), now.Add(2*time.Hour)
			return resolve(c, c.sign(w))
		}},
		{"submitting a warrant that has expired", ErrExpired, func(t *testing.T, c *court) error {
			w := c.sign(c.warrant(target(c)))
			c.clock = c.clock.Add(2 * time.Hour)
			_, err := c.party(c.authority).Submit(context.Background(), w)
			return err
		}},
		{"a warrant that is revoked", ErrRevoked, func(t *testing.T, c *court) error {
			w := c.submit(c.warrant(target(c)))
			if _, err := c.party(c.authority).Revoke(context.Background(), ledgeranchor.RevokedWarrant, documentHash(w), "issued by mistake"); err != nil {
				t.Fatal(err)
			}
			return resolve(c, w)
		}},
		{"a warrant that is revoked before the approval", ErrRevoked, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			if _, err := c.party(c.authority).Revoke(context.Background(), ledgeranchor.RevokedWarrant, documentHash(d.Warrant), "lifted"); err != nil {
				t.Fatal(err)
			}
			return approve(c, d)
		}},
		{"a warrant that is revoked before the recovery", ErrRevoked, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			if _, err := c.party(c.authority).Revoke(context.Background(), ledgeranchor.RevokedWarrant, documentHash(d.Warrant), "lifted"); err != nil {
				t.Fatal(err)
			}
			return recover(c, d, a...)
		}},
		{"a warrant whose judge's certificate is revoked", ErrRevoked, func(t *testing.T, c *court) error {
			w := c.submit(c.warrant(target(c)))
			if _, err := c.party(c.authority).Revoke(context.Background(), ledgeranchor.RevokedCertificate, ledgeranchor.AuthorID(c.authority.Certificate), "stolen"); err != nil {
				t.Fatal(err)
			}
			return resolve(c, w)
		}},
		{"a warrant whose holder's certificate is revoked", ErrRevoked, func(t *testing.T, c *court) error {
			w := c.submit(c.warrant(target(c)))
			if _, err := c.party(c.authority).Revoke(context.Background(), ledgeranchor.RevokedCertificate, ledgeranchor.AuthorID(c.holder.Certificate), "stolen"); err != nil {
				t.Fatal(err)
			}
			return resolve(c, w)
		}},
		{"an approval of a trustee whose certificate is revoked", ErrRevoked, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			if _, err := c.party(c.authority).Revoke(context.Background(), ledgeranchor.RevokedCertificate, ledgeranchor.AuthorID(c.trustees[1].Certificate), "stolen"); err != nil {
				t.Fatal(err)
			}
			return recover(c, d, a...)
		}},
		{"a warrant that is not signed", ErrSignature, func(t *testing.T, c *court) error {
			parts := strings.Split(c.sign(c.warrant(target(c))), ".")
			return resolve(c, "eyJhbGciOiJub25lIn0."+parts[1]+".")
		}},
		{"a warrant whose signature is cut off", ErrSignature, func(t *testing.T, c *court) error {
			parts := strings.Split(c.sign(c.warrant(target(c))), ".")
			return resolve(c, parts[0]+"."+parts[1]+".")
		}},
		{"a warrant with another's signature", ErrSignature, func(t *testing.T, c *court) error {
			a, b := strings.Split(c.sign(c.warrant(target(c))), "."), strings.Split(c.sign(c.warrant(target(c))), ".")
			return resolve(c, a[0]+"."+a[1]+"."+b[2])
		}},
		{"a warrant of a signer whom nobody trusts", ErrSignature, func(t *testing.T, c *court) error {
			s, err := c.warrant(target(c)).Sign(c.identity("Nobody", ledgeranchor.RoleJudge))
			if err != nil {
				t.Fatal(err)
			}
			return resolve(c, s)
		}},
		{"a document of another kind", ErrSignature, func(t *testing.T, c *court) error {
			s, err := Sign(c.authority, resolutionType, c.warrant(target(c)))
			if err != nil {
				t.Fatal(err)
			}
			return resolve(c, s)
		}},
		{"a warrant for another ISP", ErrScope, func(t *testing.T, c *court) error {
			w := c.warrant(target(c))
			w.Realm = "other.example"
			return resolve(c, c.submit(w))
		}},
		{"a warrant for half the net", ErrScope, func(t *testing.T, c *court) error {
			_, err := c.warrant(Target{Prefix: netip.MustParsePrefix("2001:db8::/32"), From: noon, Until: noon}).Sign(c.authority)
			return err
		}},
		{"a warrant for two years", ErrScope, func(t *testing.T, c *court) error {
			_, err := c.warrant(Target{Address: netip.MustParseAddr("2001:db8::1"), From: noon.AddDate(-2, 0, 0), Until: noon}).Sign(c.authority)
			return err
		}},
		{"a warrant for times to come", ErrScope, func(t *testing.T, c *court) error {
			_, err := c.warrant(at(netip.MustParseAddr("2001:db8::1"), now.Add(time.Second))).Sign(c.authority)
			return err
		}},
		{"a warrant that is not on the ledger", ErrNotOnLedger, func(t *testing.T, c *court) error {
			return resolve(c, c.sign(c.warrant(target(c))))
		}},
		{"a warrant that is on the ledger with another seal", ErrNotOnLedger, func(t *testing.T, c *court) error {
			w := c.warrant(target(c))
			s := c.sign(w)
			w.SealUntil = w.SealUntil.AddDate(1, 0, 0)
			body, err := w.terms().Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.party(c.authority).record(context.Background(), &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Warrant: documentHash(s), Count: 1, Body: body}); err != nil {
				t.Fatal(err)
			}
			return resolve(c, s)
		}},
		{"a warrant that names two where its record says one", ErrNotOnLedger, func(t *testing.T, c *court) error {
			s := c.sign(c.warrant(target(c), target(c)))
			body, err := c.warrant(target(c)).terms().Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.party(c.authority).record(context.Background(), &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Warrant: documentHash(s), Count: 1, Body: body}); err != nil {
				t.Fatal(err)
			}
			return resolve(c, s)
		}},
		{"a warrant that somebody without the role submits", ledgeranchor.ErrRole, func(t *testing.T, c *court) error {
			_, err := c.party(c.holder).Submit(context.Background(), c.sign(c.warrant(target(c))))
			return err
		}},

		// Resolutions.
		{"a resolution that is not on the ledger", ErrNotOnLedger, func(t *testing.T, c *court) error {
			d, r := c.ordered(target(c))
			r.Resolved = r.Resolved.Add(-time.Second)
			s, err := Sign(c.isp, resolutionType, r)
			if err != nil {
				t.Fatal(err)
			}
			return approve(c, Documents{d.Warrant, s})
		}},
		{"a resolution for another warrant", ErrResolution, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			return approve(c, Documents{c.submit(c.warrant(target(c))), d.Resolution})
		}},
		{"a resolution that somebody else signed", ErrSignature, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.holder, func(*Resolution) {}))
		}},
		{"an answer too many", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Answers = append(x.Answers, x.Answers[0]) }))
		}},
		{"an answer about another address", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Answers[0].Address = netip.IPv6Loopback() }))
		}},
		{"a candidate with another address", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Answers[0].Candidates[0].Address = netip.IPv6Loopback() }))
		}},
		{"a lease outside the window", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Answers[0].Candidates[0].Leases = []Interval{{now, now}} }))
		}},
		{"a candidate of an epoch outside the window", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Answers[0].Candidates[0].Epoch += 10 }))
		}},
		{"a candidate of an epoch whose keys the ISP says are gone", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.OldestEpoch = x.Answers[0].Candidates[0].Epoch + 1 }))
		}},
		{"an answer withheld as if its keys were gone", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Answers[0].Candidates, x.Answers[0].Reason = nil, ReasonRetention }))
		}},
		{"a resolution of another realm", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.Realm = "other.example" }))
		}},
		{"NIDs of another escrow key", ErrCeremony, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, func(x *Resolution) { x.EscrowKey = "00" }))
		}},
		{"a changed NID", ErrResolution, func(t *testing.T, c *court) error {
			return approve(c, forged(c, c.isp, changeNID))
		}},
		{"a changed NID that comes to the holder", ErrResolution, func(t *testing.T, c *court) error {
			return recover(c, forged(c, c.isp, changeNID))
		}},
		{"a resolution that names nobody", ErrNothing, func(t *testing.T, c *court) error {
			d, _ := c.ordered(at(netip.MustParseAddr("2001:db8:1::1"), noon))
			return approve(c, d)
		}},

		// Approvals.
		{"a share of another ceremony", ErrCeremony, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			_, others, err := idcodec.Deal(rand.NewChaCha8([32]byte{99}), 2, trusteeNames)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.party(c.trustees[0]).Approve(context.Background(), d, c.escrow, others[0])
			return err
		}},
		{"an approval too few", ErrTooFewApprovals, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			return recover(c, d, c.approve(d, 0)...)
		}},
		{"no approval", ErrTooFewApprovals, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			return recover(c, d)
		}},
		{"an approval given twice", ErrReplayed, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0)
			return recover(c, d, a[0], a[0])
		}},
		{"two trustees' approvals that one recorded", ErrReplayed, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0)
			b, err := c.party(c.trustees[0]).Approve(context.Background(), d, c.escrow, c.shares[1])
			if err != nil {
				t.Fatal(err)
			}
			return recover(c, d, a[0], b)
		}},
		{"an approval of another warrant", ErrReplayed, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			d2, _ := c.ordered(target(c))
			return recover(c, d, c.approve(d, 0)[0], c.approve(d2, 1)[0])
		}},
		{"an approval of another resolution of the warrant", ErrReplayed, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			c.clock = c.clock.Add(time.Second)
			d2, _ := c.resolve(d.Warrant)
			return recover(c, d, c.approve(d, 0)[0], c.approve(d2, 1)[0])
		}},
		{"an approval that is not on the ledger", ErrNotOnLedger, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			a[1].Shares = a[0].Shares
			return recover(c, d, a...)
		}},
		{"an approval in another's name", ErrNotOnLedger, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			a[1].Trustee = "isp"
			return recover(c, d, a...)
		}},
		{"an approval of one whom the escrow key does not know", ErrCeremony, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			a[1].Trustee = "nobody"
			return recover(c, d, a...)
		}},
		{"an approval that was changed on the way", ErrApproval, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			a[1].Sealed[40] ^= 1
			return recover(c, d, a...)
		}},
		{"an approval whose sealed part is another's", ErrApproval, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			a[1].Sealed = a[0].Sealed
			return recover(c, d, a...)
		}},

		// Holders.
		{"another holder", ErrHolder, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			_, err := c.party(c.identity("Thief", ledgeranchor.RoleHolder)).Recover(context.Background(), d, c.escrow, a)
			return err
		}},
		{"a holder without the key that approvals are sealed to", ErrHolder, func(t *testing.T, c *court) error {
			d, _ := c.ordered(target(c))
			a := c.approve(d, 0, 1)
			_, err := c.party(&Identity{Key: c.holder.Key, Certificate: c.holder.Certificate}).Recover(context.Background(), d, c.escrow, a)
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newCourt(t)
			err := tc.step(t, c)
			if !errors.Is(err, tc.want) {
				t.Fatalf("%v; want %v", err, tc.want)
			}
			for _, name := range []string{"alice", "bob", "carol"} {
				if strings.Contains(err.Error(), name) {
					t.Errorf("the refusal tells an EID: %v", err)
				}
			}
			if n := c.kinds()[ledgeranchor.KindDisclosure]; n != 0 {
				t.Errorf("a disclosure stands on the ledger though it was refused")
			}
		})
	}
}

// changeNID breaks the first NID's proof.
func changeNID(x *Resolution) {
	n := bytes.Clone(x.Answers[0].Candidates[0].NID)
	n[len(n)-1] ^= 1
	x.Answers[0].Candidates[0].NID = n
}

// A trustee whose share lies is named: the approval is in order but for the share.
func TestAWrongShareNamesItsTrustee(t *testing.T) {
	c := newCourt(t)
	d, _ := c.ordered(at(c.lease(0, noon, time.Hour, true), noon))
	good := c.approve(d, 0)[0]
	// The regulator's own key, of another ceremony whose public key he passes off.
	_, lying, err := idcodec.Deal(rand.NewChaCha8([32]byte{99}), 2, trusteeNames)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := c.shares[1].MarshalText()
	other, _ := lying[1].MarshalText()
	secret := func(b []byte) []byte { return b[bytes.Index(b, []byte(`"secret"`)):] }
	mixed, err := idcodec.ParseShare(append(bytes.Clone(text[:len(text)-len(secret(text))]), secret(other)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.party(c.trustees[1]).Approve(context.Background(), d, c.escrow, mixed); !errors.Is(err, ErrCeremony) {
		t.Errorf("a damaged share: %v, want ErrCeremony", err)
	}
	// And the shares of the first, recorded and sealed in the second's name.
	var e *ApprovalError
	bad := c.approve(d, 0)[0]
	plain, err := bad.unseal(c.holder.Unseal)
	if err != nil {
		t.Fatal(err)
	}
	bad.Trustee = "regulator"
	reseal(t, c, d, bad, plain)
	if _, err := c.recover(d, good, bad); !errors.As(err, &e) || e.Trustee != "regulator" {
		t.Errorf("another's shares: %v, want the regulator named", err)
	}
	changed := bytes.Replace(plain, []byte(`"share":"A`), []byte(`"share":"B`), 1)
	if bytes.Equal(changed, plain) {
		t.Fatal("nothing was changed")
	}
	bad.Trustee = "judge"
	reseal(t, c, d, bad, changed)
	if _, err := c.recover(d, c.approve(d, 1)[0], bad); !errors.As(err, &e) || e.Trustee != "judge" {
		t.Errorf("a changed share: %v, want the judge named", err)
	}
}

func TestWarrantContentIsChecked(t *testing.T) {
	c := newCourt(t)
	addr := netip.MustParseAddr("2001:db8::1")
	for name, change := range map[string]func(*Warrant){
		"no case":                 func(w *Warrant) { w.Case = "" },
		"no legal basis":          func(w *Warrant) { w.LegalBasis = "" },
		"no purpose":              func(w *Warrant) { w.Purpose = "" },
		"no realm":                func(w *Warrant) { w.Realm = "" },
		"an ID of 3 bytes":        func(w *Warrant) { w.ID = "aabbcc" },
		"no target":               func(w *Warrant) { w.Targets = nil },
		"too many targets":        func(w *Warrant) { w.Targets = make([]Target, MaxTargets+1) },
		"an IPv4 address":         func(w *Warrant) { w.Targets[0].Address = netip.MustParseAddr("192.0.2.1") },
		"a mapped address":        func(w *Warrant) { w.Targets[0].Address = netip.MustParseAddr("::ffff:192.0.2.1") },
		"a zone":                  func(w *Warrant) { w.Targets[0].Address = netip.MustParseAddr("fe80::1%eth0") },
		"an address and a prefix": func(w *Warrant) { w.Targets[0].Prefix = netip.MustParsePrefix("2001:db8::/64") },
		"neither of them":         func(w *Warrant) { w.Targets[0].Address = netip.Addr{} },
		"bits beyond the prefix": func(w *Warrant) {
			w.Targets[0] = Target{Prefix: netip.MustParsePrefix("2001:db8::1/64"), From: noon, Until: noon}
		},
		"a window from the end":     func(w *Warrant) { w.Targets[0].From = w.Targets[0].Until.Add(time.Second) },
		"a window of two years":     func(w *Warrant) { w.Targets[0].From = noon.AddDate(-2, 0, 0) },
		"a window in the future":    func(w *Warrant) { w.Targets[0].Until = now.Add(time.Second) },
		"a seal for a human's life": func(w *Warrant) { w.SealUntil = w.Issued.AddDate(80, 0, 0) },
		"a short seal key":          func(w *Warrant) { w.Holder.SealTo = []byte{1} },
		"no certificate":            func(w *Warrant) { w.Holder.Certificate = "" },
		"an end before a start":     func(w *Warrant) { w.ValidUntil = w.ValidFrom },
	} {
		w := c.warrant(at(addr, noon))
		change(w)
		if _, err := w.Sign(c.authority); !errors.Is(err, ErrWarrant) {
			t.Errorf("%s: %v, want ErrWarrant", name, err)
		}
	}
}

// Who keeps no ledger takes no step.
func TestACertificateThatIsNoMemberCannotRecord(t *testing.T) {
	c := newCourt(t)
	stranger := c.identity("Another court", ledgeranchor.RoleJudge)
	c.trust.Authorities = []*x509.Certificate{stranger.Certificate}
	s, err := c.warrant(at(c.lease(0, noon, time.Hour, true), noon)).Sign(stranger)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.party(stranger).Submit(context.Background(), s); !errors.Is(err, ledgeranchor.ErrAuthor) {
		t.Errorf("%v, want ErrAuthor", err)
	}
}
