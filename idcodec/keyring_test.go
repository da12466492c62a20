package idcodec

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func ring(t testing.TB, oldest uint32) *Keyring {
	t.Helper()
	k, err := NewKeyring(seeded(1), DefaultEpochLength, oldest)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestEpochAt(t *testing.T) {
	for _, c := range []struct {
		at     string
		length time.Duration
		want   uint32
	}{
		{"1970-01-01T00:00:00Z", DefaultEpochLength, 0},
		{"1970-01-01T23:59:59Z", DefaultEpochLength, 0},
		{"1970-01-02T00:00:00Z", DefaultEpochLength, 1},
		{"2025-06-27T12:00:00Z", DefaultEpochLength, 20266},
		{"2025-06-27T12:00:00+14:00", DefaultEpochLength, 20265},
		{"2025-06-27T00:30:00Z", time.Hour, 20266 * 24},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := EpochAt(at, c.length); err != nil || got != c.want {
			t.Errorf("EpochAt(%s, %s) = %d, %v; want %d", c.at, c.length, got, err, c.want)
		}
		if start := EpochStart(c.want, c.length); start.After(at) || !start.Add(c.length).After(at) {
			t.Errorf("epoch %d starts at %s, which does not cover %s", c.want, start, c.at)
		}
	}
	for _, at := range []time.Time{time.Unix(-1, 0), time.Unix(1<<40, 0)} {
		if _, err := EpochAt(at, time.Hour); !errors.Is(err, ErrRange) {
			t.Errorf("EpochAt(%s): %v, want ErrRange", at, err)
		}
	}
}

// The vector of docs/formats.md, computed with Python's hmac module.
func TestRatchetVector(t *testing.T) {
	k, err := newKeyring(sequentialKey(), DefaultEpochLength, 20266)
	if err != nil {
		t.Fatal(err)
	}
	next, err := k.From(20268)
	if err != nil {
		t.Fatal(err)
	}
	const want = "dc2f2525054c1d3341a6c50f7f24d6404079ac655eaf3e30e183ad46777ebcef"
	if got := hexString(next.state.Load().raw[0][:]); got != want {
		t.Errorf("K(20268) = %s, want %s", got, want)
	}
}

func TestKeyringSurvivesItsFile(t *testing.T) {
	k := ring(t, 20266)
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []uint32{20266, 20267, 20300} {
		if encode2(t, mustKey(t, k, e), testPrefix, 1, 2) != encode2(t, mustKey(t, back, e), testPrefix, 1, 2) {
			t.Errorf("epoch %d differs after reading the file", e)
		}
	}
}

func mustKey(t testing.TB, k *Keyring, e uint32) *EpochKey {
	t.Helper()
	ek, err := k.Key(e)
	if err != nil {
		t.Fatal(err)
	}
	return ek
}

func TestForgottenEpochsCannotBeDecoded(t *testing.T) {
	k := ring(t, 100)
	old := encode2(t, mustKey(t, k, 100), testPrefix, 42, 0)
	kept := encode2(t, mustKey(t, k, 103), testPrefix, 42, 0)

	file, err := k.From(102)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Forget(102); err != nil {
		t.Fatal(err)
	}
	for name, kr := range map[string]*Keyring{"in memory": k, "from the new file": file} {
		for _, e := range []uint32{0, 100, 101} {
			if _, err := kr.Key(e); !errors.Is(err, ErrForgotten) {
				t.Errorf("%s: Key(%d): %v, want ErrForgotten", name, e, err)
			}
		}
		if sub, _, err := mustKey(t, kr, 103).Decode(testPrefix, kept); err != nil || sub != 42 {
			t.Errorf("%s: a kept epoch decodes to %d, %v", name, sub, err)
		}
		// No later key decodes it either.
		for e := uint32(102); e < 200; e++ {
			if _, _, err := mustKey(t, kr, e).Decode(testPrefix, old); !errors.Is(err, ErrForged) {
				t.Errorf("%s: the key of epoch %d decodes an address of epoch 100: %v", name, e, err)
			}
		}
		if _, err := kr.From(101); !errors.Is(err, ErrForgotten) {
			t.Errorf("%s: From(101): %v, want ErrForgotten", name, err)
		}
	}
	if err := k.Forget(50); err != nil || k.Oldest() != 102 {
		t.Errorf("forgetting what is forgotten: %v, oldest %d", err, k.Oldest())
	}
}

func TestKeyErasesWhatItReplaces(t *testing.T) {
	k := ring(t, 100)
	before := k.state.Load().raw
	mustKey(t, k, 110)
	middle := k.state.Load().raw
	if err := k.Forget(105); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][][KeyLen]byte{"deriving": before, "forgetting": middle} {
		for _, key := range raw {
			if key != [KeyLen]byte{} {
				t.Errorf("%s leaves a key in memory that was replaced", name)
			}
		}
	}
}

func TestFarFutureIsRefused(t *testing.T) {
	k := ring(t, 100)
	for _, e := range []uint32{100 + maxSpan + 1, MaxEpoch, MaxEpoch + 1, 1<<32 - 1} {
		if _, err := k.Key(e); !errors.Is(err, ErrFarFuture) {
			t.Errorf("Key(%d): %v, want ErrFarFuture", e, err)
		}
	}
}

func TestParseKeyringRefuses(t *testing.T) {
	good, err := ring(t, 20266).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	resum := func(s string) string {
		i := strings.Index(s, "sum ")
		return s[:i] + "sum " + keyringSum([]byte(s[:i])) + "\n"
	}
	key := strings.Fields(string(good))[6]
	for name, text := range map[string]string{
		"nothing":        "",
		"another header": strings.Replace(string(good), "-1\n", "-2\n", 1),
		"a cut file":     string(good[:len(good)-1]),
		"a further line": string(good) + "x 1\n",
		"a changed key":  strings.Replace(string(good), key, "A"+key[1:], 1),
		"a short epoch":  resum(strings.Replace(string(good), "epoch-length 86400", "epoch-length 3599", 1)),
		"a large epoch":  resum(strings.Replace(string(good), "oldest-epoch 20266", "oldest-epoch 16777216", 1)),
		"a short key":    resum(strings.Replace(string(good), key, "AAAA", 1)),
		"a lost name":    resum(strings.Replace(string(good), "oldest-epoch", "oldest", 1)),
		"too much":       string(good) + strings.Repeat("\n", 5000),
	} {
		if _, err := ParseKeyring([]byte(text)); !errors.Is(err, ErrKeyring) {
			t.Errorf("%s: %v, want ErrKeyring", name, err)
		} else if strings.Contains(err.Error(), key) {
			t.Errorf("%s: the error holds the key", name)
		}
	}
}

func FuzzParseKeyring(f *testing.F) {
	good, _ := ring(f, 20266).MarshalText()
	f.Add(good)
	f.Add([]byte(keyringHeader + "\nepoch-length 1\noldest-epoch 0\nkey \nsum \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKeyring(text)
		if err != nil {
			if !errors.Is(err, ErrKeyring) {
				t.Fatalf("%v is no ErrKeyring", err)
			}
			return
		}
		again, err := k.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		k2, err := ParseKeyring(again)
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if third, _ := k2.MarshalText(); !bytes.Equal(again, third) {
			t.Fatal("the text changes from one writing to the next")
		}
	})
}
