package idcodec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const realm = "isp.example"

func deal(t testing.TB, threshold, n int) (*EscrowKey, []*Share) {
	t.Helper()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("trustee-%d", i+1))
	}
	k, shares, err := Deal(seeded(9), threshold, names)
	if err != nil {
		t.Fatal(err)
	}
	return k, shares
}

func seal(t testing.TB, k *EscrowKey, e EID) NID {
	t.Helper()
	n, err := SealNID(seeded(10), k, realm, e)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func decryptShares(t testing.TB, k *EscrowKey, n NID, shares ...*Share) []DecryptionShare {
	t.Helper()
	var out []DecryptionShare
	for i, s := range shares {
		d, err := s.DecryptShare(seeded(byte(20+i)), k, realm, n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

func TestAnyThresholdOfTrusteesOpens(t *testing.T) {
	e := eid(t, "radius:alice@isp.example")
	for _, c := range []struct{ t, n int }{{1, 1}, {1, 3}, {2, 3}, {3, 3}, {3, 5}} {
		k, shares := deal(t, c.t, c.n)
		n := seal(t, k, e)
		for set := 1; set < 1<<c.n; set++ {
			var chosen []*Share
			for i, s := range shares {
				if set>>i&1 == 1 {
					chosen = append(chosen, s)
				}
			}
			got, err := k.OpenNID(realm, n, decryptShares(t, k, n, chosen...))
			if len(chosen) >= c.t {
				if err != nil || got != e {
					t.Errorf("%d of %d, set %b: %v, %v", c.t, c.n, set, got == e, err)
				}
			} else if !errors.Is(err, ErrTooFewShares) {
				t.Errorf("%d of %d, set %b: %v, want ErrTooFewShares", c.t, c.n, set, err)
			}
		}
	}
}

func TestOneTrusteeTwiceIsOneTrustee(t *testing.T) {
	k, shares := deal(t, 2, 3)
	n := seal(t, k, eid(t, "radius:alice"))
	d := decryptShares(t, k, n, shares[0])[0]
	if _, err := k.OpenNID(realm, n, []DecryptionShare{d, d}); !errors.Is(err, ErrTooFewShares) {
		t.Errorf("one share given twice: %v, want ErrTooFewShares", err)
	}
}

func TestEveryEIDLengthRoundTripsAndLengthIsHidden(t *testing.T) {
	k, shares := deal(t, 1, 1)
	sizes := make(map[int]bool)
	for _, size := range []int{3, 4, 30, 31, 32, 62, 63, 64, 126, 127, 128, 254, 255} {
		e := eid(t, "x:"+strings.Repeat("a", size-2))
		n := seal(t, k, e)
		sizes[len(n)] = true
		if got, err := k.OpenNID(realm, n, decryptShares(t, k, n, shares[0])); err != nil || got != e {
			t.Errorf("EID of %d bytes: %v, %v", size, got == e, err)
		}
		if bytes.Contains(n, []byte("aa")) {
			t.Errorf("EID of %d bytes stands in its NID", size)
		}
	}
	if len(sizes) != 4 {
		t.Errorf("NIDs have %d lengths, want 4 classes", len(sizes))
	}
}

func TestTwoNIDsOfOneEIDDiffer(t *testing.T) {
	k, _ := deal(t, 1, 1)
	e := eid(t, "radius:alice")
	a, err1 := SealNID(seeded(1), k, realm, e)
	b, err2 := SealNID(seeded(2), k, realm, e)
	if err1 != nil || err2 != nil || bytes.Equal(a[9:41], b[9:41]) || bytes.Equal(a[137:], b[137:]) {
		t.Errorf("%v, %v: NIDs of one EID can be linked", err1, err2)
	}
}

// Any changed bit is refused before a share is computed on it, by everybody who
// handles an NID.
func TestTamperedNIDIsRefusedBeforeAnyShare(t *testing.T) {
	k, shares := deal(t, 2, 3)
	n := seal(t, k, eid(t, "radius:alice"))
	good := decryptShares(t, k, n, shares[:2]...)
	for i := range n {
		bad := bytes.Clone(n)
		bad[i] ^= 1 << (i % 8)
		if err := k.CheckNID(realm, bad); !errors.Is(err, ErrNID) {
			t.Fatalf("byte %d changed: CheckNID: %v, want ErrNID", i, err)
		}
		if _, err := shares[0].DecryptShare(noReader{t}, k, realm, bad); !errors.Is(err, ErrNID) {
			t.Fatalf("byte %d changed: DecryptShare: %v, want ErrNID", i, err)
		}
		if _, err := k.OpenNID(realm, bad, good); !errors.Is(err, ErrNID) {
			t.Fatalf("byte %d changed: OpenNID: %v, want ErrNID", i, err)
		}
	}
	for _, bad := range []NID{nil, n[:1], n[:len(n)-1], append(bytes.Clone(n), 0)} {
		if err := k.CheckNID(realm, bad); !errors.Is(err, ErrNID) {
			t.Errorf("%d bytes: %v, want ErrNID", len(bad), err)
		}
	}
}

// noReader fails the test when randomness is drawn, which would mean that a
// share was being computed.
type noReader struct{ t *testing.T }

func (r noReader) Read([]byte) (int, error) {
	r.t.Error("a share was computed on a refused NID")
	return 0, errors.New("no")
}

func TestNIDIsBoundToItsRealmAndKey(t *testing.T) {
	k, shares := deal(t, 1, 2)
	n := seal(t, k, eid(t, "radius:alice"))
	if err := k.CheckNID("other.example", n); !errors.Is(err, ErrNID) {
		t.Errorf("another realm: %v, want ErrNID", err)
	}
	if _, err := shares[0].DecryptShare(seeded(1), k, "other.example", n); !errors.Is(err, ErrNID) {
		t.Errorf("a share for another realm: %v, want ErrNID", err)
	}
	other, otherShares, err := Deal(seeded(77), 1, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.CheckNID(realm, n); !errors.Is(err, ErrNID) {
		t.Errorf("another escrow key: %v, want ErrNID", err)
	}
	if _, err := otherShares[0].DecryptShare(seeded(1), k, realm, n); !errors.Is(err, ErrShare) {
		t.Errorf("a share of another escrow key: %v, want ErrShare", err)
	}
}

func TestWrongShareIsNamed(t *testing.T) {
	k, shares := deal(t, 2, 3)
	n := seal(t, k, eid(t, "radius:alice"))
	other, err := SealNID(seeded(50), k, realm, eid(t, "radius:bob"))
	if err != nil {
		t.Fatal(err)
	}
	d := decryptShares(t, k, n, shares...)
	forOther := decryptShares(t, k, other, shares...)

	change := func(i int) DecryptionShare {
		b := bytes.Clone(d[1])
		b[i] ^= 1
		return b
	}
	swapped := bytes.Clone(d[2])
	copy(swapped[9:11], d[1][9:11]) // trustee 3's share under trustee 2's index
	for name, bad := range map[string]DecryptionShare{
		"a changed u_i":         change(11),
		"a changed e_i":         change(43),
		"a changed f_i":         change(75),
		"another NID's share":   forOther[1],
		"another trustee's":     swapped,
		"a share that is short": d[1][:DecryptionShareLen-1],
	} {
		var wrong *WrongShareError
		for _, order := range [][]DecryptionShare{{d[0], bad}, {bad, d[0]}, {d[0], d[2], bad}} {
			if _, err := k.OpenNID(realm, n, order); !errors.As(err, &wrong) || wrong.Name != "trustee-2" {
				t.Errorf("%s: %v, want trustee-2 named", name, err)
			}
		}
		if _, err := k.VerifyShare(realm, n, bad); !errors.As(err, &wrong) || wrong.Name != "trustee-2" {
			t.Errorf("%s: VerifyShare: %v, want trustee-2 named", name, err)
		}
	}
	nobody := bytes.Clone(d[1])
	nobody[10] = 9
	var wrong *WrongShareError
	if _, err := k.OpenNID(realm, n, []DecryptionShare{nobody}); !errors.As(err, &wrong) || wrong.Index != 9 || wrong.Name != "" {
		t.Errorf("a share of nobody: %v, want index 9 named", err)
	}
}

func TestAWrongShareDoesNotCount(t *testing.T) {
	k, shares := deal(t, 2, 3)
	e := eid(t, "radius:alice")
	n := seal(t, k, e)
	d := decryptShares(t, k, n, shares...)
	o, err := k.Opening(realm, n)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(d[1])
	bad[43] ^= 1
	var wrong *WrongShareError
	for i, give := range []struct {
		share DecryptionShare
		name  string // empty when it is wrong
		opens bool   // then
	}{{bad, "", false}, {d[0], "trustee-1", false}, {d[0], "trustee-1", false}, {bad, "", false}, {d[1], "trustee-2", true}, {bad, "", true}, {d[2], "trustee-3", true}} {
		who, err := o.Add(give.share)
		if give.name == "" && !errors.As(err, &wrong) || give.name != "" && err != nil || who.Name != give.name {
			t.Fatalf("share %d: %q, %v; want %q", i, who.Name, err, give.name)
		}
		got, err := o.EID()
		if give.opens && (err != nil || got != e) || !give.opens && !errors.Is(err, ErrTooFewShares) {
			t.Fatalf("after share %d: %v; want it to open: %v", i, err, give.opens)
		}
	}
}

func TestDealRefuses(t *testing.T) {
	for name, f := range map[string]func() error{
		"no trustee":     func() error { _, _, err := Deal(seeded(1), 1, nil); return err },
		"threshold zero": func() error { _, _, err := Deal(seeded(1), 0, []string{"a"}); return err },
		"threshold high": func() error { _, _, err := Deal(seeded(1), 2, []string{"a"}); return err },
		"a name twice":   func() error { _, _, err := Deal(seeded(1), 1, []string{"a", "a"}); return err },
		"a path as name": func() error { _, _, err := Deal(seeded(1), 1, []string{"../a"}); return err },
		"no randomness":  func() error { _, _, err := Deal(bytes.NewReader(nil), 1, []string{"a"}); return err },
	} {
		if f() == nil {
			t.Errorf("%s: Deal succeeded", name)
		}
	}
}

func TestEscrowKeyAndSharesSurviveTheirFiles(t *testing.T) {
	k, shares := deal(t, 2, 3)
	e := eid(t, "radius:alice")
	n := seal(t, k, e)
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	k2, err := ParseEscrowKey(text)
	if err != nil {
		t.Fatal(err)
	}
	var back []*Share
	for _, s := range shares {
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		s2, err := ParseShare(text)
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, s2)
	}
	if got, err := k2.OpenNID(realm, n, decryptShares(t, k2, n, back[2], back[0])); err != nil || got != e {
		t.Errorf("after reading all files: %v, %v", got == e, err)
	}
}

func TestEscrowKeyWithAStrangeVerificationKeyIsRefused(t *testing.T) {
	k, _ := deal(t, 2, 4)
	text, _ := k.MarshalText()
	var j escrowKeyJSON
	if err := json.Unmarshal(text, &j); err != nil {
		t.Fatal(err)
	}
	j.Trustees[3].Verify = encode(nil, gBar)
	text, _ = json.Marshal(j)
	if _, err := ParseEscrowKey(text); !errors.Is(err, ErrEscrowKey) {
		t.Errorf("a verification key off the polynomial: %v, want ErrEscrowKey", err)
	}
}

func TestShareErrorsNeverHoldTheSecret(t *testing.T) {
	_, shares := deal(t, 2, 3)
	text, _ := shares[0].MarshalText()
	var j shareJSON
	if err := json.Unmarshal(text, &j); err != nil {
		t.Fatal(err)
	}
	secret, _ := json.Marshal(j.Secret)
	secret = bytes.Trim(secret, `"`)
	for _, bad := range []string{
		strings.Replace(string(text), `"index": 1`, `"index": 700`, 1),
		strings.Replace(string(text), string(secret), string(secret[1:]), 1),
		strings.Replace(string(text), `"secret"`, `"geheim"`, 1),
		string(text) + "x",
	} {
		if _, err := ParseShare([]byte(bad)); !errors.Is(err, ErrShare) || strings.Contains(err.Error(), string(secret[1:])) {
			t.Errorf("%v: no ErrShare, or it holds the secret", err)
		}
	}
	if out := fmt.Sprintf("%v %s %#v", shares[0], shares[0], shares[0]); strings.Contains(out, string(secret)) {
		t.Error("printing a share prints its secret")
	}
}

type nidVector struct {
	EscrowKey json.RawMessage   `json:"escrow_key"`
	Shares    []json.RawMessage `json:"shares"`
	Realm     string            `json:"realm"`
	NIDs      []struct {
		EID string `json:"eid"`
		NID []byte `json:"nid"`
	} `json:"nids"`
}

// testdata/nid-vectors.json holds NIDs that any implementation must open, and so
// holds this one to its format.
func TestNIDVectorFile(t *testing.T) {
	const file = "testdata/nid-vectors.json"
	if *update {
		k, shares := deal(t, 2, 3)
		v := nidVector{Realm: realm}
		v.EscrowKey, _ = k.MarshalText()
		for _, s := range shares {
			text, _ := s.MarshalText()
			v.Shares = append(v.Shares, text)
		}
		for i, s := range []string{"radius:alice@isp.example", "ecert:CN=" + strings.Repeat("x", 200), "a:b"} {
			n, err := SealNID(seeded(byte(30+i)), k, realm, eid(t, s))
			if err != nil {
				t.Fatal(err)
			}
			v.NIDs = append(v.NIDs, struct {
				EID string `json:"eid"`
				NID []byte `json:"nid"`
			}{s, n})
		}
		text, err := marshalJSONText(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v nidVector
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	k, err := ParseEscrowKey(v.EscrowKey)
	if err != nil {
		t.Fatal(err)
	}
	var shares []*Share
	for _, s := range v.Shares {
		share, err := ParseShare(s)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, share)
	}
	if len(v.NIDs) != 3 {
		t.Fatalf("%d NIDs, want 3", len(v.NIDs))
	}
	for _, n := range v.NIDs {
		var d []DecryptionShare
		for _, s := range shares[1:] {
			x, err := s.DecryptShare(seeded(1), k, v.Realm, n.NID)
			if err != nil {
				t.Fatal(err)
			}
			d = append(d, x)
		}
		slices.Reverse(d)
		if got, err := k.OpenNID(v.Realm, n.NID, d); err != nil || got.Reveal() != n.EID {
			t.Errorf("%s: opened %q, %v", n.EID, got.Reveal(), err)
		}
	}
}

func FuzzNID(f *testing.F) {
	k, shares := deal(f, 2, 3)
	n := seal(f, k, eid(f, "radius:alice"))
	f.Add([]byte(n))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := k.CheckNID(realm, b)
		if err == nil && !bytes.Equal(b, n) {
			t.Fatal("a forged NID verifies")
		}
		if _, err2 := shares[0].DecryptShare(seeded(1), k, realm, b); (err == nil) != (err2 == nil) {
			t.Fatalf("CheckNID says %v, DecryptShare %v", err, err2)
		}
	})
}

func FuzzDecryptionShare(f *testing.F) {
	k, shares := deal(f, 1, 3)
	n := seal(f, k, eid(f, "radius:alice"))
	d := decryptShares(f, k, n, shares...)
	f.Add([]byte(d[0]))
	f.Add([]byte(d[2]))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := k.VerifyShare(realm, n, b)
		var wrong *WrongShareError
		if err != nil && !errors.As(err, &wrong) {
			t.Fatalf("%v is no WrongShareError", err)
		}
		if err == nil && !slices.ContainsFunc(d, func(x DecryptionShare) bool { return bytes.Equal(x, b) }) {
			t.Fatal("a forged share verifies")
		}
	})
}

func FuzzParseShare(f *testing.F) {
	_, shares := deal(f, 1, 1)
	text, _ := shares[0].MarshalText()
	f.Add(text)
	f.Add([]byte(`{"format":"gid-trustee-share-1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseShare(text)
		if err != nil {
			if !errors.Is(err, ErrShare) {
				t.Fatalf("%v is no ErrShare", err)
			}
			return
		}
		again, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseShare(again); err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
	})
}

func FuzzParseEscrowKey(f *testing.F) {
	k, _ := deal(f, 2, 3)
	text, _ := k.MarshalText()
	f.Add(text)
	f.Add([]byte(`{"format":"gid-escrow-key-1","threshold":1,"trustees":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := ParseEscrowKey(text); err != nil && !errors.Is(err, ErrEscrowKey) {
			t.Fatalf("%v is no ErrEscrowKey", err)
		}
	})
}

func BenchmarkNID(b *testing.B) {
	k, shares := deal(b, 2, 3)
	e := eid(b, "radius:alice@isp.example")
	n := seal(b, k, e)
	d := decryptShares(b, k, n, shares[:2]...)
	rng := seeded(3)
	b.Run("seal", func(b *testing.B) {
		for b.Loop() {
			SealNID(rng, k, realm, e)
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			k.CheckNID(realm, n)
		}
	})
	b.Run("share", func(b *testing.B) {
		for b.Loop() {
			shares[0].DecryptShare(rng, k, realm, n)
		}
	})
	b.Run("open-2-of-3", func(b *testing.B) {
		for b.Loop() {
			k.OpenNID(realm, n, d)
		}
	})
}
