package ledgeranchor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"math/big"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// newAuthor makes an author that is its own root. Its key is always the same; only
// the vectors need that.
func newAuthor(t testing.TB, roles ...string) *Author {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "author.example", OrganizationalUnit: roles},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthor(key, c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func hop(n uint64) *Record {
	return &Record{
		Kind: KindHop, Time: uint64(noon.UnixMilli()) + n, Addresses: []Address{AddressOf(netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94b"))},
		Message: Hash{1}, Hop: &Hop{Stage: StageRequest, Clock: n + 1, Content: Hash{2}},
	}
}

func members(t testing.TB, authors ...*Author) *Members {
	t.Helper()
	var roots []*x509.Certificate
	for _, a := range authors {
		roots = append(roots, a.Certificate)
	}
	m := NewMembers(roots)
	for _, a := range authors {
		if err := m.Add(a.Certificate, noon); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestARecordIsWhatItWas(t *testing.T) {
	for _, r := range []*Record{
		hop(0),
		{Kind: KindWarrant, Time: 1, Warrant: Hash{3}, Count: 3},
		{Kind: KindApproval, Time: 1 << 53, Warrant: Hash{3}, Refs: []Hash{{4}, {5}}},
		{Kind: KindCheckpoint, Time: 5, Body: []byte("a checkpoint")},
	} {
		r.Version, r.Author = 1, Hash{9}
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(r, back) {
			t.Errorf("%+v came back as %+v", r, back)
		}
	}
}

func TestRecordsOfNoSenseAreRefused(t *testing.T) {
	good := func() *Record { r := hop(0); r.Version, r.Author = 1, Hash{9}; return r }
	for name, change := range map[string]func(*Record){
		"version":              func(r *Record) { r.Version = 2 },
		"kind":                 func(r *Record) { r.Kind = "gossip" },
		"no time":              func(r *Record) { r.Time = 0 },
		"a time beyond years":  func(r *Record) { r.Time = 1 << 60 },
		"no author":            func(r *Record) { r.Author = Hash{} },
		"no hop":               func(r *Record) { r.Hop = nil },
		"two sources":          func(r *Record) { r.Addresses = append(r.Addresses, Address{1}) },
		"no message":           func(r *Record) { r.Message = Hash{} },
		"no content":           func(r *Record) { r.Hop.Content = Hash{} },
		"no stage":             func(r *Record) { r.Hop.Stage = 0 },
		"a stage beyond":       func(r *Record) { r.Hop.Stage = 4 },
		"a hop in a warrant":   func(r *Record) { r.Kind, r.Warrant = KindWarrant, Hash{1} },
		"a warrant of nothing": func(r *Record) { *r = Record{Version: 1, Kind: KindWarrant, Time: 1, Author: Hash{1}} },
		"an approval alone": func(r *Record) {
			*r = Record{Version: 1, Kind: KindApproval, Time: 1, Author: Hash{1}, Warrant: Hash{1}}
		},
		"another's certificate": func(r *Record) {
			*r = Record{Version: 1, Kind: KindCertificate, Time: 1, Author: Hash{1}, Body: []byte("another's")}
		},
		"a checkpoint of nothing": func(r *Record) { *r = Record{Version: 1, Kind: KindCheckpoint, Time: 1, Author: Hash{1}} },
		"too many addresses":      func(r *Record) { r.Addresses = make([]Address, MaxAddresses+1) },
		"too many refs":           func(r *Record) { r.Refs = make([]Hash, MaxRefs+1) },
		"too much of a body":      func(r *Record) { r.Body = make([]byte, MaxBody+1) },
	} {
		r := good()
		change(r)
		if _, err := r.Encode(); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrOversized) {
			t.Errorf("%s: %v", name, err)
		}
		b, err := encMode.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}

func TestOnlyOneEncodingIsTaken(t *testing.T) {
	r := hop(0)
	r.Version, r.Author = 1, Hash{9}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string][]byte{
		"a longer integer":  append([]byte{b[0], 1, 0x18, 1}, b[3:]...),
		"an unknown key":    append(append([]byte{b[0] + 1}, b[1:]...), 0x18, 99, 1),
		"a key twice":       append(append([]byte{b[0] + 1}, b[1:]...), 1, 1),
		"an indefinite map": append(append([]byte{0xbf}, b[1:]...), 0xff),
		"an end too many":   append(bytes.Clone(b), 0),
		"an end too few":    b[:len(b)-1],
		"nothing":           {},
		"a tag":             append([]byte{0xc1}, b...),
	} {
		if _, err := Decode(other); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABatchIsSignedOnceAndEachRecordStandsAlone(t *testing.T) {
	a := newAuthor(t, RoleRelay)
	for _, n := range []int{1, 2, 3, 5, 8, 100, MaxBatch, MaxBatch + 3} {
		m := members(t, a)
		var rs []*Record
		for i := range n {
			rs = append(rs, hop(uint64(i)))
		}
		signed, err := a.Sign(rs...)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range signed {
			b, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeSigned(b)
			if err != nil {
				t.Fatal(err)
			}
			r, err := m.Check(back)
			if err != nil {
				t.Fatalf("record %d of %d: %v", i, n, err)
			}
			if r.Hop.Clock != uint64(i)+1 {
				t.Fatalf("record %d of %d is %+v", i, n, r)
			}
		}
		if want := (n + MaxBatch - 1) / MaxBatch; len(m.verified) != want {
			t.Errorf("%d records took %d verifications, want %d", n, len(m.verified), want)
		}
	}
}

func TestECDSASignsAsWell(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay", OrganizationalUnit: []string{RoleRelay}},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthor(key, c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Sign(hop(1), hop(2))
	if err != nil {
		t.Fatal(err)
	}
	m := members(t, a)
	if _, err := m.Check(s[1]); err != nil {
		t.Error(err)
	}
	s[1].Signature[10] ^= 1
	if _, err := m.Check(s[1]); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed signature: %v", err)
	}
	if other := newAuthor(t); other != nil {
		if _, err := NewAuthor(other.Key, c); err == nil {
			t.Error("another's certificate is taken")
		}
	}
}

// The vectors are for other implementations: records, their encodings and names,
// and a batch with its signature.
func TestVectorFile(t *testing.T) {
	const path = "testdata/record-vectors.json"
	type vector struct {
		CBOR   string `json:"cbor"`
		Name   Hash   `json:"name"`
		Signed string `json:"signed"`
	}
	type file struct {
		Certificate []byte   `json:"certificate"`
		Records     []vector `json:"records"`
	}
	if *update {
		a := newAuthor(t, RoleRelay, RoleJudge)
		signed, err := a.Sign(hop(0), hop(1), &Record{Kind: KindWarrant, Time: uint64(noon.UnixMilli()), Warrant: Hash{3}, Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		f := file{Certificate: a.Certificate.Raw}
		for _, s := range signed {
			b, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			f.Records = append(f.Records, vector{hex.EncodeToString(s.Record), s.Name(), hex.EncodeToString(b)})
		}
		b, err := json.MarshalIndent(f, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(f.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	m := NewMembers([]*x509.Certificate{c})
	if err := m.Add(c, noon); err != nil {
		t.Fatal(err)
	}
	if len(f.Records) != 3 {
		t.Fatalf("%d vectors", len(f.Records))
	}
	for i, v := range f.Records {
		raw, err := hex.DecodeString(v.Signed)
		if err != nil {
			t.Fatal(err)
		}
		s, err := DecodeSigned(raw)
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.Check(s)
		if err != nil {
			t.Errorf("vector %d: %v", i, err)
			continue
		}
		again, err := r.Encode()
		if err != nil || hex.EncodeToString(again) != v.CBOR || s.Name() != v.Name {
			t.Errorf("vector %d: %x, %s, %v", i, again, s.Name(), err)
		}
	}
}

func FuzzDecodeSigned(f *testing.F) {
	a := newAuthor(f, RoleRelay)
	intro, err := a.Introduce()
	if err != nil {
		f.Fatal(err)
	}
	signed, err := a.Sign(hop(0), hop(1), hop(2))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range append(signed, intro) {
		b, err := s.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	m := members(f, a)
	names := make(map[Hash]bool)
	for _, s := range append(signed, intro) {
		names[s.Name()] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSigned(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is %x when it is encoded again: %v", b, again, err)
		}
		if _, err := m.Check(s); err == nil && !names[s.Name()] {
			t.Fatalf("nobody signed %x", b)
		}
	})
}

func FuzzParseLogProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra AAAA\nindex 7\n" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" + "\n\norigin\n8\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— origin AAAA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseLogProof(text)
		if err != nil {
			return
		}
		again, err := p.MarshalText()
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q is %q when it is written again: %v", text, again, err)
		}
	})
}
