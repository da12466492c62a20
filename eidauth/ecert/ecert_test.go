package ecert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"brightgid/eidauth"
)

const (
	realm      = "isp.example"
	enterprise = 32473
)

var (
	noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	duid = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 7}
)

// authority is a certificate authority.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, n: 1}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(9, 0, 0), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name)}
	a.cert = a.make(template, template, key.Public())
	return a
}

func (a *authority) make(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// certify issues a certificate that holds for a year.
func (a *authority) certify(name string, public crypto.PublicKey) *x509.Certificate {
	a.n++
	return a.make(&x509.Certificate{SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name}, NotBefore: noon.AddDate(0, 0, -1), NotAfter: noon.AddDate(1, 0, 0)}, a.cert, public)
}

func (a *authority) revoke(serials ...*big.Int) *x509.RevocationList {
	a.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: noon, NextUpdate: noon.AddDate(0, 1, 0)}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: noon})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if l, err = x509.ParseRevocationList(der); err != nil {
		a.t.Fatal(err)
	}
	return l
}

func newSource(t testing.TB, at *time.Time, roots []*x509.Certificate, lists ...*x509.RevocationList) *Source {
	t.Helper()
	s, err := New(Config{Roots: roots, Revoked: lists, Enterprise: enterprise, Realm: realm, Lifetime: 24 * time.Hour, Now: func() time.Time { return *at }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func client(duid []byte, proof []byte) *eidauth.Client {
	return &eidauth.Client{DUID: duid, Vendor: [][]byte{eidauth.AppendVendorOption(nil, enterprise, OptionCode, proof)}}
}

func TestAProofNamesItsCertificatesHolder(t *testing.T) {
	a := newAuthority(t, "Fabric CA")
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	at := noon
	s := newSource(t, &at, []*x509.Certificate{a.cert})
	sum := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
	for name, key := range map[string]crypto.Signer{"Ed25519": ed, "P-256": ec} {
		p, err := Prove(rand.Reader, key, a.certify("alice "+name, key.Public()), realm, duid, noon, noon.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for form, b := range map[string][]byte{"as it is": p, "as text": []byte(Encode(p))} {
			id, err := s.Authenticate(client(duid, b))
			want := fmt.Sprintf("ecert:%x.alice%%20%s", sum[:8], name)
			if err != nil || id.EID.Reveal() != want {
				t.Errorf("%s, %s: %q, %v; want %q", name, form, id.EID.Reveal(), err, want)
			}
		}
	}
}

func TestProofsThatDoNotHold(t *testing.T) {
	a, other := newAuthority(t, "Fabric CA"), newAuthority(t, "another CA")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, gone, foreign := a.certify("alice", key.Public()), a.certify("alice", key.Public()), other.certify("alice", key.Public())
	nameless := a.certify("", key.Public())
	prove := func(c *x509.Certificate, realm string, duid []byte, from time.Time, lasts time.Duration) []byte {
		t.Helper()
		p, err := Prove(rand.Reader, key, c, realm, duid, from, from.Add(lasts))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	whole := prove(good, realm, duid, noon, time.Hour)
	changed := append([]byte{}, whole...)
	changed[2] ^= 1
	for _, c := range []struct {
		name  string
		duid  []byte
		proof []byte
		at    time.Time
		want  error
	}{
		{"one that holds", duid, whole, noon, nil},
		{"at its end", duid, whole, noon.Add(time.Hour), ErrTime},
		{"by a clock that is a little behind", duid, whole, noon.Add(-4 * time.Minute), nil},
		{"too early", duid, whole, noon.Add(-6 * time.Minute), ErrTime},
		{"for too long", duid, prove(good, realm, duid, noon, 25*time.Hour), noon, ErrTime},
		{"of another client", []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 8}, whole, noon, ErrForeign},
		{"of another realm", duid, prove(good, "other.example", duid, noon, time.Hour), noon, ErrForeign},
		{"changed", duid, changed, noon, ErrForeign},
		{"of another authority", duid, prove(foreign, realm, duid, noon, time.Hour), noon, ErrCertificate},
		{"of an authority itself", duid, mustProve(t, a.key, a.cert), noon, ErrCertificate},
		{"of a certificate that is over", duid, prove(good, realm, duid, noon.AddDate(2, 0, 0), time.Hour), noon.AddDate(2, 0, 0), ErrCertificate},
		{"of one that is revoked", duid, prove(gone, realm, duid, noon, time.Hour), noon, ErrRevoked},
		{"cut off", duid, whole[:len(whole)-1], noon, ErrMalformed},
		{"too short", duid, whole[:20], noon, ErrMalformed},
		{"of another version", duid, append([]byte{2}, whole[1:]...), noon, ErrMalformed},
		{"of nobody", duid, prove(nameless, realm, duid, noon, time.Hour), noon, eidauth.ErrUnknown},
	} {
		at := c.at
		s := newSource(t, &at, []*x509.Certificate{a.cert}, a.revoke(gone.SerialNumber))
		_, err := s.Authenticate(client(c.duid, c.proof))
		if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, eidauth.ErrUnknown) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	at := noon
	if _, err := newSource(t, &at, []*x509.Certificate{a.cert}).Authenticate(&eidauth.Client{DUID: duid}); err != eidauth.ErrUnknown {
		t.Errorf("without a proof: %v", err)
	}
}

func mustProve(t *testing.T, key crypto.Signer, c *x509.Certificate) []byte {
	t.Helper()
	p, err := Prove(rand.Reader, key, c, realm, duid, noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A proof that was remembered ends with its certificate, and at its own time.
func TestWhatIsRememberedEnds(t *testing.T) {
	a := newAuthority(t, "Fabric CA")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := a.make(&x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "alice"}, NotBefore: noon, NotAfter: noon.Add(10 * time.Minute)}, a.cert, key.Public())
	p, err := Prove(rand.Reader, key, c, realm, duid, noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	at := noon
	s := newSource(t, &at, []*x509.Certificate{a.cert})
	for _, x := range []struct {
		after time.Duration
		want  error
	}{{0, nil}, {9 * time.Minute, nil}, {10 * time.Minute, ErrTime}} {
		at = noon.Add(x.after)
		if _, err := s.Authenticate(client(duid, p)); !errors.Is(err, x.want) {
			t.Errorf("after %s: %v, want %v", x.after, err, x.want)
		}
	}
}

func TestWhatCannotBeProved(t *testing.T) {
	a := newAuthority(t, "Fabric CA")
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := a.certify("alice", ed.Public())
	for name, f := range map[string]func() ([]byte, error){
		"a key of RSA": func() ([]byte, error) {
			return Prove(rand.Reader, r, a.certify("alice", r.Public()), realm, duid, noon, noon.Add(1))
		},
		"another curve": func() ([]byte, error) {
			return Prove(rand.Reader, p384, a.certify("alice", p384.Public()), realm, duid, noon, noon.Add(1))
		},
		"a short DUID": func() ([]byte, error) {
			return Prove(rand.Reader, ed, good, realm, duid[:2], noon, noon.Add(time.Hour))
		},
		"no realm":      func() ([]byte, error) { return Prove(rand.Reader, ed, good, "", duid, noon, noon.Add(time.Hour)) },
		"an end before": func() ([]byte, error) { return Prove(rand.Reader, ed, good, realm, duid, noon, noon) },
		"a long certificate": func() ([]byte, error) {
			return Prove(rand.Reader, ed, a.certify(strings.Repeat("x", 900), ed.Public()), realm, duid, noon, noon.Add(time.Hour))
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: it was proved", name)
		}
	}
	if _, err := New(Config{Roots: []*x509.Certificate{a.cert}, Revoked: []*x509.RevocationList{newAuthority(t, "another").revoke()}}); err == nil {
		t.Error("a stranger's revocation list was taken")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no authority was taken")
	}
}

func FuzzProof(f *testing.F) {
	a := newAuthority(f, "Fabric CA")
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	p, err := Prove(rand.Reader, key, a.certify("alice", key.Public()), realm, duid, noon, noon.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	at := noon
	s := newSource(f, &at, []*x509.Certificate{a.cert})
	f.Add(p)
	f.Add([]byte(Encode(p)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		id, err := s.Authenticate(client(duid, b))
		if err == nil && !strings.HasSuffix(id.EID.Reveal(), ".alice") {
			t.Fatalf("%q", id.EID.Reveal())
		}
	})
}
