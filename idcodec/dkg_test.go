package idcodec

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// names makes trustee names.
func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("t%d", i+1))
	}
	return out
}

// generate makes a key without a dealer; every dealer is honest.
func generate(t testing.TB, rng *rand.ChaCha8, threshold, n int) (*EscrowKey, []*Share) {
	t.Helper()
	var dealers []*Dealer
	var revealed []Commitments
	for range n {
		d, err := NewDealer(rng, threshold)
		if err != nil {
			t.Fatal(err)
		}
		dealers, revealed = append(dealers, d), append(revealed, d.Reveal())
	}
	key, err := JoinKey(names(n), revealed)
	if err != nil {
		t.Fatal(err)
	}
	var shares []*Share
	for j := range n {
		var subs []SubShare
		for i, d := range dealers {
			s := d.SubShare(uint16(j + 1))
			if !d.Commitments().Holds(uint16(j+1), s) || !revealed[i].HoldsRevealed(uint16(j+1), s) {
				t.Fatalf("the sub-share of dealer %d for trustee %d does not hold", i, j)
			}
			if threshold > 1 && d.Commitments().Holds(uint16(j+2), s) {
				t.Fatal("a sub-share holds for another trustee")
			}
			subs = append(subs, s)
		}
		s, err := key.JoinShare(uint16(j+1), subs)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	return key, shares
}

// open seals an EID and opens it with some shares.
func openWith(t testing.TB, rng *rand.ChaCha8, key *EscrowKey, nid NID, shares ...*Share) error {
	t.Helper()
	var ds []DecryptionShare
	for _, s := range shares {
		d, err := s.DecryptShare(rng, key, "isp.example", nid)
		if err != nil {
			return err
		}
		ds = append(ds, d)
	}
	eid, err := key.OpenNID("isp.example", nid, ds)
	if err == nil && eid.Reveal() != "radius:alice" {
		err = fmt.Errorf("opened to something else")
	}
	return err
}

func sealTo(t testing.TB, rng *rand.ChaCha8, key *EscrowKey) NID {
	t.Helper()
	eid, err := ParseEID("radius:alice")
	if err != nil {
		t.Fatal(err)
	}
	nid, err := SealNID(rng, key, "isp.example", eid)
	if err != nil {
		t.Fatal(err)
	}
	return nid
}

func TestAKeyWithoutADealerOpensWithAnyThreshold(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{1})
	for _, c := range [][2]int{{1, 1}, {1, 3}, {2, 3}, {3, 3}, {3, 5}, {4, 7}} {
		key, shares := generate(t, rng, c[0], c[1])
		nid := sealTo(t, rng, key)
		if err := openWith(t, rng, key, nid, shares[c[1]-c[0]:]...); err != nil {
			t.Errorf("%d of %d: %v", c[0], c[1], err)
		}
		if err := openWith(t, rng, key, nid, shares[:c[0]-1]...); !errors.Is(err, ErrTooFewShares) {
			t.Errorf("%d of %d with one less: %v", c[0], c[1], err)
		}
	}
}

// A resharing keeps the key, so that old NIDs open; new and old shares do not mix.
func TestAResharedKeyOpensOldNIDs(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{2})
	old, oldShares := generate(t, rng, 2, 3)
	nid := sealTo(t, rng, old)
	indices := []uint16{1, 3}
	var dealers []*Dealer
	var revealed []Commitments
	for _, i := range indices {
		d, err := NewRedealer(rng, 3, oldShares[i-1])
		if err != nil {
			t.Fatal(err)
		}
		if !d.Reveal().DealsShareOf(old.Trustees()[i-1]) || d.Reveal().DealsShareOf(old.Trustees()[1]) {
			t.Fatal("whose share is dealt out is not told")
		}
		dealers, revealed = append(dealers, d), append(revealed, d.Commitments())
	}
	key, err := RejoinKey(old, names(5), indices, revealed)
	if err != nil {
		t.Fatal(err)
	}
	if key.ID() != old.ID() || key.Threshold() != 3 {
		t.Fatalf("the key is %s with threshold %d now, and was %s", key.ID(), key.Threshold(), old.ID())
	}
	var shares []*Share
	for j := range uint16(5) {
		s, err := key.RejoinShare(j+1, indices, []SubShare{dealers[0].SubShare(j + 1), dealers[1].SubShare(j + 1)})
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	if err := openWith(t, rng, key, nid, shares[0], shares[2], shares[4]); err != nil {
		t.Error(err)
	}
	if err := openWith(t, rng, key, nid, shares[0], shares[2]); !errors.Is(err, ErrTooFewShares) {
		t.Errorf("two of three: %v", err)
	}
	if err := openWith(t, rng, key, nid, shares[0], shares[2], oldShares[0]); err == nil {
		t.Error("an old share counts for the new key")
	}
	if _, err := RejoinKey(old, names(5), indices[:1], revealed[:1]); !errors.Is(err, ErrTooFewShares) {
		t.Errorf("one old trustee alone: %v", err)
	}
	stranger, err := NewDealer(rng, 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RejoinKey(old, names(5), indices, []Commitments{revealed[0], stranger.Reveal()}); !errors.Is(err, ErrEscrowKey) {
		t.Errorf("a dealer of something else: %v", err)
	}
}

func TestADealerWhoDoesNotRevealIsRebuilt(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{3})
	for threshold := 1; threshold <= 4; threshold++ {
		d, err := NewDealer(rng, threshold)
		if err != nil {
			t.Fatal(err)
		}
		var indices []uint16
		var subs []SubShare
		for j := threshold + 3; j > 2; j-- {
			indices, subs = append(indices, uint16(j)), append(subs, d.SubShare(uint16(j)))
		}
		got, err := Rebuild(threshold, indices, subs)
		if err != nil {
			t.Fatal(err)
		}
		for k, want := range d.Reveal() {
			if !equal(got[k], want) {
				t.Errorf("threshold %d: coefficient %d differs", threshold, k)
			}
		}
		if _, err := Rebuild(threshold, indices[:threshold-1], subs[:threshold-1]); !errors.Is(err, ErrTooFewShares) {
			t.Errorf("threshold %d with one less: %v", threshold, err)
		}
	}
	if _, err := Rebuild(2, []uint16{1, 1}, make([]SubShare, 2)); err == nil {
		t.Error("one trustee counts twice")
	}
}

func TestSubSharesAndCommitmentsSurviveTheirEncoding(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{4})
	d, err := NewDealer(rng, 3)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(d.Commitments())
	if err != nil {
		t.Fatal(err)
	}
	var c Commitments
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	b, _ := d.SubShare(7).MarshalBinary()
	s, err := ParseSubShare(b)
	if err != nil || !c.Holds(7, s) {
		t.Errorf("%v; a sub-share does not hold after its encoding", err)
	}
	if got := fmt.Sprint(d, s) + fmt.Sprintf("%#v %#v", d, s); got != "[dealer's secret withheld] [sub-share withheld][dealer's secret withheld] [sub-share withheld]" {
		t.Errorf("printed as %s", got)
	}
	for name, bad := range map[string]string{
		"none": `[]`, "no element": `["AAAA"]`, "not base64": `["?"]`, "an object": `{}`,
	} {
		if json.Unmarshal([]byte(bad), new(Commitments)) == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func FuzzParseSubShare(f *testing.F) {
	d, err := NewDealer(rand.NewChaCha8([32]byte{5}), 2)
	if err != nil {
		f.Fatal(err)
	}
	b, _ := d.SubShare(1).MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ParseSubShare(in)
		if err != nil {
			return
		}
		if out, _ := s.MarshalBinary(); string(out) != string(in) {
			t.Fatal("a sub-share has two encodings")
		}
	})
}

func FuzzCommitments(f *testing.F) {
	d, err := NewDealer(rand.NewChaCha8([32]byte{6}), 2)
	if err != nil {
		f.Fatal(err)
	}
	text, _ := json.Marshal(d.Commitments())
	f.Add(text)
	f.Fuzz(func(t *testing.T, in []byte) {
		var c Commitments
		if json.Unmarshal(in, &c) == nil {
			c.Holds(1, d.SubShare(1))
		}
	})
}
