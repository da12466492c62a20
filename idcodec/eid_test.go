package idcodec

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func eid(t testing.TB, s string) EID {
	t.Helper()
	e, err := ParseEID(s)
	if err != nil {
		t.Fatalf("ParseEID(%q): %v", s, err)
	}
	return e
}

func TestParseEIDPreparesUserNames(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"radius:alice@isp.example", "radius:alice@isp.example"},
		{"radius:Alice@ISP.example", "radius:alice@isp.example"},
		{"radius:ＡＬＩＣＥ", "radius:alice"},   // full-width letters
		{"user:Ångström", "user:ångström"}, // decomposed or not, one form
		{"user:A\u030angstro\u0308m", "user:ångström"},
		{"ecert:CN=Alice, O=ISP", "ecert:CN=Alice, O=ISP"}, // opaque schemes keep their case
		{"relay:Port-7", "relay:Port-7"},
	} {
		if got := eid(t, c.in).Reveal(); got != c.want {
			t.Errorf("ParseEID(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestParseEIDRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":           "",
		"no scheme":         "alice",
		"an empty scheme":   ":alice",
		"an empty value":    "radius:",
		"upper-case scheme": "RADIUS:alice",
		"scheme from digit": "7x:alice",
		"space in a name":   "radius:alice smith",
		"control character": "ecert:a\x00b",
		"newline":           "ecert:a\nb",
		"not UTF-8":         "ecert:\xff\xfe",
		"too long":          "ecert:" + strings.Repeat("a", 250),
		"longer prepared":   "user:" + strings.Repeat("\u0390", 60) + strings.Repeat("\u0130", 64),
	} {
		e, err := ParseEID(s)
		if !errors.Is(err, ErrEID) {
			t.Errorf("%s: ParseEID = %v, %v; want ErrEID", name, e, err)
		}
	}
	if _, err := ParseEID("ecert:" + strings.Repeat("a", 249)); err != nil {
		t.Errorf("255 bytes: %v", err)
	}
}

func TestErrorsAndPrintingNeverHoldTheEID(t *testing.T) {
	const canary = "canary-7f3a"
	if _, err := ParseEID("radius:" + canary + " with space"); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("error %q holds what it was given, or is none", err)
	}
	e := eid(t, "radius:"+canary)
	var b strings.Builder
	o, err := NewOpaque("relay", []byte(canary))
	if err != nil {
		t.Fatal(err)
	}
	type both struct {
		E EID
		O Opaque
	}
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "eid", e, "ptr", &e, "opaque", o, "optr", &o, "in", both{e, o})
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "eid", e, "ptr", &e, "opaque", o, "optr", &o, "in", both{e, o})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, x := range []any{e, []EID{e}, o, []Opaque{o}, both{e, o}} {
			fmt.Fprintf(&b, verb, x)
		}
	}
	j, err := json.Marshal(map[string]any{"e": e, "o": o})
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	if out := b.String(); strings.Contains(out, canary) || strings.Contains(out, hexString([]byte(canary))) {
		t.Errorf("printed: %s", out)
	}
}

func TestOpaqueEIDIsInjective(t *testing.T) {
	seen := make(map[string][]byte)
	for i := range 256 {
		for _, v := range [][]byte{{byte(i)}, {'%', byte(i)}, fmt.Appendf(nil, "%%%02X", i), {byte(i), byte(i)}} {
			e, err := OpaqueEID("relay", v)
			if err != nil {
				t.Fatal(err)
			}
			if before, ok := seen[e.Reveal()]; ok && string(before) != string(v) {
				t.Fatalf("%x and %x are both %q", before, v, e.Reveal())
			}
			seen[e.Reveal()] = v
		}
	}
}

// An opaque identity is found by the key of the EID that it would be.
func FuzzOpaque(f *testing.F) {
	f.Add("port", []byte("2001:db8::1/eth 7"))
	f.Add("relay", []byte{0, '%', 0x7f, 0xff})
	f.Add("lladdr", []byte(strings.Repeat("x", MaxEIDLen-len("lladdr:"))))
	f.Add("lladdr", []byte(strings.Repeat("%", 83)))
	f.Add("", []byte("x"))
	f.Add("a", []byte{})
	h := NewLookupHasher([RegistryKeyLen]byte{1})
	f.Fuzz(func(t *testing.T, scheme string, value []byte) {
		e, err1 := OpaqueEID(scheme, value)
		o, err2 := NewOpaque(scheme, value)
		if (err1 == nil) != (err2 == nil) || err1 != nil && !errors.Is(err1, ErrEID) {
			t.Fatalf("%v and %v", err1, err2)
		}
		if err1 != nil {
			if !e.IsZero() || !o.IsZero() || !o.EID().IsZero() {
				t.Error("what is refused is not zero")
			}
			return
		}
		if n := len(e.Reveal()); n > MaxEIDLen {
			t.Errorf("it has %d bytes", n)
		}
		if o.EID() != e || h.OpaqueKey(o) != h.Key(e) || o.Scheme() != e.Scheme() || o.IsZero() {
			t.Errorf("%q is not %q", o.EID().Reveal(), e.Reveal())
		}
	})
}

func TestLookupKeyDependsOnKeyAndEID(t *testing.T) {
	h := NewLookupHasher([RegistryKeyLen]byte{1})
	a, b := h.Key(eid(t, "radius:alice")), h.Key(eid(t, "radius:bob"))
	if a == b {
		t.Error("two EIDs have one lookup key")
	}
	if again := h.Key(eid(t, "radius:Alice")); again != a {
		t.Error("one EID has two lookup keys")
	}
	if other := NewLookupHasher([RegistryKeyLen]byte{2}).Key(eid(t, "radius:alice")); other == a {
		t.Error("two registry keys give one lookup key")
	}
}

func FuzzParseEID(f *testing.F) {
	for _, s := range []string{"radius:alice@isp.example", "user:Ångström", "ecert:CN=x", "relay:%00", "a:\u1E9E", ":", "radius:\u2126"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEID(s)
		if err != nil {
			if !errors.Is(err, ErrEID) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if n := len(e.Reveal()); n < 3 || n > MaxEIDLen {
			t.Fatalf("%q: prepared to %d bytes", s, n)
		}
		again, err := ParseEID(e.Reveal())
		if err != nil || again != e {
			t.Fatalf("%q is prepared to %q, and that to %q, %v", s, e.Reveal(), again.Reveal(), err)
		}
	})
}
