package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"math/big"
	"testing"
	"time"

	"brightgid/eidauth"
	"brightgid/idcodec"
)

const (
	realm      = "isp.example"
	enterprise = 32473 // for documentation (RFC 5612)
)

var (
	now   = time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC)
	duid  = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 7}
	other = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 8}
)

// lab is an identity provider, a server and the trustees' key.
type lab struct {
	t      testing.TB
	at     time.Time
	issuer *Issuer
	source *Source
	escrow *idcodec.EscrowKey
	shares []*idcodec.Share
}

func provider(t testing.TB) (ed25519.PrivateKey, *x509.Certificate) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "identity provider"}, NotBefore: now, NotAfter: now.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, c
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, at: now}
	var err error
	if l.escrow, l.shares, err = idcodec.Deal(rand.Reader, 2, []string{"a", "b", "c"}); err != nil {
		t.Fatal(err)
	}
	key, cert := provider(t)
	if l.issuer, err = NewIssuer(key, cert, realm, l.escrow); err != nil {
		t.Fatal(err)
	}
	l.source = l.server(realm, cert)
	return l
}

func (l *lab) server(realm string, issuers ...*x509.Certificate) *Source {
	l.t.Helper()
	s, err := New(Config{Issuers: issuers, Enterprise: enterprise, Realm: realm, Escrow: l.escrow, Registry: [32]byte{1}, Now: func() time.Time { return l.at }})
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) issue(eid string) []byte {
	l.t.Helper()
	e, err := idcodec.ParseEID(eid)
	if err != nil {
		l.t.Fatal(err)
	}
	b, err := l.issuer.Issue(rand.Reader, e, duid, now, now.Add(time.Hour))
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

func client(duid, token []byte) *eidauth.Client {
	return &eidauth.Client{DUID: duid, Vendor: [][]byte{{0, 0, 1, 1, 0, 1, 0, 1, 'x'}, Option(enterprise, token)}}
}

func TestATokenAuthenticatesItsClient(t *testing.T) {
	l := newLab(t)
	alice := l.issue("user:alice@isp.example")
	first, err := l.source.Authenticate(client(duid, alice))
	if err != nil {
		t.Fatal(err)
	}
	// Another token of the same subscriber, as text: another NID, the same subscriber.
	again, err := l.source.Authenticate(client(duid, []byte(Encode(l.issue("user:alice@isp.example")))))
	if err != nil || again.Sealed.Key != first.Sealed.Key || string(again.Sealed.NID) == string(first.Sealed.NID) {
		t.Errorf("%v, %v", again, err)
	}
	bob, err := l.source.Authenticate(client(duid, l.issue("user:bob@isp.example")))
	if err != nil || bob.Sealed.Key == first.Sealed.Key {
		t.Errorf("%v, %v", bob, err)
	}
	// The trustees open what the server cannot.
	var open []idcodec.DecryptionShare
	for _, s := range l.shares[:2] {
		d, err := s.DecryptShare(rand.Reader, l.escrow, realm, first.Sealed.NID)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, d)
	}
	eid, err := l.escrow.OpenNID(realm, first.Sealed.NID, open)
	if err != nil || eid.Reveal() != "user:alice@isp.example" {
		t.Errorf("%v, %v", eid.Reveal(), err)
	}
}

func TestTokensThatDoNotHold(t *testing.T) {
	l := newLab(t)
	good := l.issue("user:alice@isp.example")
	_, strange := provider(t)
	flip := func(i int) []byte {
		b := append([]byte(nil), good...)
		b[(i+len(b))%len(b)] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		source *Source
		duid   []byte
		token  []byte
		at     time.Time
		want   error
	}{
		"another client's":        {l.source, other, good, now, ErrForeign},
		"another realm's":         {l.server("other.example", l.certificate()), duid, good, now, ErrForeign},
		"of a stranger":           {l.server(realm, strange), duid, good, now, ErrIssuer},
		"changed in its issuer":   {l.source, duid, flip(5), now, ErrIssuer},
		"changed in its times":    {l.source, duid, flip(40), now, ErrForeign},
		"changed in its handle":   {l.source, duid, flip(60), now, ErrForeign},
		"changed in its NID":      {l.source, duid, flip(-80), now, ErrForeign},
		"changed at its end":      {l.source, duid, flip(-1), now, ErrForeign},
		"cut":                     {l.source, duid, good[:len(good)-1], now, ErrMalformed},
		"with more":               {l.source, duid, append(append([]byte(nil), good...), 0), now, ErrMalformed},
		"of another version":      {l.source, duid, flip(0), now, ErrMalformed},
		"text that is none":       {l.source, duid, []byte("not base64!"), now, ErrMalformed},
		"one byte":                {l.source, duid, []byte{version}, now, ErrMalformed},
		"before its time":         {l.source, duid, good, now.Add(-time.Second), ErrTime},
		"after its time":          {l.source, duid, good, now.Add(time.Hour), ErrTime},
		"in its last second":      {l.source, duid, good, now.Add(time.Hour - time.Second), nil},
		"after its time, again":   {l.source, duid, good, now.Add(time.Hour), ErrTime},
		"of another client still": {l.source, other, good, now, ErrForeign},
	} {
		l.at = c.at
		_, err := c.source.Authenticate(client(c.duid, c.token))
		if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, eidauth.ErrUnknown) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	l.at = now
	for name, vendors := range map[string][][]byte{
		"no option":            nil,
		"another enterprise":   {Option(enterprise+1, good)},
		"another code":         {append(binary.BigEndian.AppendUint32(nil, enterprise), 0, 2, 0, 1, 'x')},
		"an option that tears": {append(binary.BigEndian.AppendUint32(nil, enterprise), 0, 1, 255, 255, 'x')},
		"a short one":          {{0, 0}},
		"an empty token":       {Option(enterprise, nil)},
	} {
		if _, err := l.source.Authenticate(&eidauth.Client{DUID: duid, Vendor: vendors}); !errors.Is(err, eidauth.ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// certificate returns the issuer's, from the source that knows it.
func (l *lab) certificate() *x509.Certificate { return l.source.c.Issuers[0] }

// A token that holds is checked once.
func BenchmarkToken(b *testing.B) {
	l := newLab(b)
	c := client(duid, l.issue("user:alice@isp.example"))
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			l.source.known = eidauth.Credentials{}
			if _, err := l.source.Authenticate(c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			if _, err := l.source.Authenticate(c); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	l := newLab(f)
	good := l.issue("user:alice@isp.example")
	f.Add(Option(enterprise, good))
	f.Add(Option(enterprise, []byte(Encode(good))))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := l.source.Authenticate(&eidauth.Client{DUID: duid, Vendor: [][]byte{b}})
		if err == nil && id.Sealed == nil {
			t.Error("a token without an identity was taken")
		}
	})
}

// Option returns the data of a Vendor-specific Information option with a token.
func Option(enterprise uint32, token []byte) []byte {
	return eidauth.AppendVendorOption(nil, enterprise, OptionCode, token)
}
