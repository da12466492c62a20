package trace

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestResolveAPI(t *testing.T) {
	c := newCourt(t)
	var log bytes.Buffer
	real := func(name string, hosts ...string) *Identity { // TLS looks at the real clock
		id, err := NewIdentity(c.rng, Subject{Name: name, Hosts: hosts}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	server := real("resolver", "127.0.0.1", "::1")
	holderTLS, otherTLS, strangerTLS := real("Police"), real("Other"), real("Stranger")
	w := c.warrant(at(c.lease(2, noon, time.Hour, true), noon))
	w.Holder.Certificate = Fingerprint(holderTLS.Certificate)
	warrant := c.submit(w)
	unrecorded := c.warrant(at(c.lease(2, noon, time.Hour, true), noon))
	unrecorded.Holder.Certificate = Fingerprint(holderTLS.Certificate)

	srv := httptest.NewUnstartedServer(Handler(c.resolver, slog.New(slog.NewTextHandler(&log, nil))))
	srv.TLS = ServerTLS(server, []*x509.Certificate{holderTLS.Certificate, otherTLS.Certificate})
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	call := func(as *Identity, server *Identity, warrant string) (string, error) {
		client, err := NewClient(srv.URL, as, []*x509.Certificate{server.Certificate})
		if err != nil {
			t.Fatal(err)
		}
		return client.Resolve(context.Background(), warrant)
	}
	res, err := call(holderTLS, server, warrant)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := OpenResolution(res, c.trust.ISPs, now, warrant, w); err != nil || len(r.Answers[0].Candidates) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	for name, f := range map[string]func() (string, error){
		"a caller who is not the holder":      func() (string, error) { return call(otherTLS, server, warrant) },
		"a caller without a known cert":       func() (string, error) { return call(strangerTLS, server, warrant) },
		"a server without the expected cert":  func() (string, error) { return call(holderTLS, otherTLS, warrant) },
		"a document that is no warrant":       func() (string, error) { return call(holderTLS, server, "x") },
		"a document that is longer than that": func() (string, error) { return call(holderTLS, server, strings.Repeat("x", maxWarrant+1)) },
	} {
		if res, err := f(); err == nil {
			t.Errorf("%s: answered %.40s", name, res)
		}
	}
	// What a refusal is for reaches the caller.
	if _, err := call(otherTLS, server, warrant); !errors.Is(err, ErrHolder) {
		t.Errorf("another caller: %v, want ErrHolder", err)
	}
	if _, err := call(holderTLS, server, c.sign(unrecorded)); !errors.Is(err, ErrNotOnLedger) {
		t.Errorf("a warrant without a record: %v, want ErrNotOnLedger", err)
	}
	if _, err := NewClient("http://[::1]", holderTLS, nil); err == nil {
		t.Error("an API without TLS was accepted")
	}
	if s := log.String(); !strings.Contains(s, "a warrant was resolved") || strings.Contains(s, "carol") {
		t.Errorf("log: %s", s)
	}
}

func TestIdentitySurvivesItsFiles(t *testing.T) {
	c := newCourt(t)
	key, err := c.holder.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseIdentity(key, c.holder.MarshalCertificate())
	if err != nil || !back.Key.(ed25519.PrivateKey).Equal(c.holder.Key) || !back.Unseal.Equal(c.holder.Unseal) {
		t.Errorf("%v: the identity changed", err)
	}
	if _, err := ParseIdentity(key, c.isp.MarshalCertificate()); err == nil {
		t.Error("a certificate of another key was accepted")
	}
	for name, in := range map[string][2][]byte{
		"no key":           {nil, c.holder.MarshalCertificate()},
		"no certificate":   {key, nil},
		"a cert as key":    {c.holder.MarshalCertificate(), c.holder.MarshalCertificate()},
		"a key as a cert":  {key, key},
		"a damaged block":  {bytes.Replace(key, []byte("MC4C"), []byte("MC4D"), 1), c.holder.MarshalCertificate()},
		"rubbish in files": {[]byte("x"), []byte("y")},
	} {
		if _, err := ParseIdentity(in[0], in[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A judge's key may be ECDSA P-256, as tokens have it; the warrant is ES256 then.
func TestWarrantsAreSignedWithECDSAToo(t *testing.T) {
	c := newCourt(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	judge, err := Certify(rand.Reader, key, Subject{Name: "Court with a token", Roles: []string{"judge"}}, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := c.warrant(at(c.lease(0, noon, time.Hour, true), noon)).Sign(judge)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWarrant(signed, []*x509.Certificate{judge.Certificate}, now); err != nil {
		t.Error(err)
	}
	changed := signed[:len(signed)-8] + "AAAAAAAA"
	if _, err := OpenWarrant(changed, []*x509.Certificate{judge.Certificate}, now); !errors.Is(err, ErrSignature) {
		t.Errorf("another signature: %v, want ErrSignature", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Certify(rand.Reader, p384, Subject{Name: "x"}, now, now.Add(time.Hour)); err == nil {
		t.Error("a key on P-384 was taken")
	}
}

// A court's judges have certificates of the court's own authority, which is the root.
func TestTheChainOfTrustBeginsAtConfiguredRoots(t *testing.T) {
	c := newCourt(t)
	issue := func(parent *Identity, ca bool, name string) *Identity {
		t.Helper()
		id, err := NewIdentity(c.rng, Subject{Name: name, Roles: []string{"judge"}}, now.Add(-time.Hour), now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		template := *id.Certificate
		template.IsCA, template.BasicConstraintsValid = ca, true
		if ca {
			template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
		}
		if parent == nil {
			parent = id
		}
		der, err := x509.CreateCertificate(c.rng, &template, parent.Certificate, id.Key.Public(), parent.Key)
		if err != nil {
			t.Fatal(err)
		}
		if id.Certificate, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		if parent != id && parent.Chain != nil {
			id.Chain = append(id.Chain, parent.Certificate)
		}
		return id
	}
	root := issue(nil, true, "Ministry")
	court := issue(root, true, "Court")
	court.Chain = []*x509.Certificate{}
	judge := issue(court, false, "Judge")
	signed, err := c.warrant(at(c.lease(0, noon, time.Hour, true), noon)).Sign(judge)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWarrant(signed, []*x509.Certificate{root.Certificate}, now); err != nil {
		t.Error(err)
	}
	if _, err := OpenWarrant(signed, []*x509.Certificate{issue(nil, true, "Ministry").Certificate}, now); !errors.Is(err, ErrSignature) {
		t.Errorf("another root of the same name: %v, want ErrSignature", err)
	}
}
