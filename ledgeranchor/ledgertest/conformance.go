// Package ledgertest is the suite that every ledger passes.
package ledgertest

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"brightgid/ledgeranchor"
)

// Cast is a root and one author of each role that it has issued.
type Cast struct {
	Root    *x509.Certificate
	rootKey ed25519.PrivateKey

	Relay, Judge, ISP, Trustee, Holder, Log *ledgeranchor.Author
}

// NewCast makes a root and its members.
func NewCast(t testing.TB) *Cast {
	t.Helper()
	c, err := MakeCast()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// MakeCast makes a root and its members, for more than one test.
func MakeCast() (*Cast, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &Cast{rootKey: key}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if c.Root, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	for role, a := range map[string]**ledgeranchor.Author{
		ledgeranchor.RoleRelay: &c.Relay, ledgeranchor.RoleJudge: &c.Judge, ledgeranchor.RoleISP: &c.ISP,
		ledgeranchor.RoleTrustee: &c.Trustee, ledgeranchor.RoleHolder: &c.Holder, ledgeranchor.RoleLog: &c.Log,
	} {
		if *a, err = c.author(role+".example", role); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Author makes a member of given roles.
func (c *Cast) Author(t testing.TB, name string, roles ...string) *ledgeranchor.Author {
	t.Helper()
	a, err := c.author(name, roles...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (c *Cast) author(name string, roles ...string) (*ledgeranchor.Author, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 8)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name, OrganizationalUnit: roles},
		NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.Root, pub, c.rootKey)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return ledgeranchor.NewAuthor(key, cert)
}

// WriteAuthor writes an author's key and certificate into a file, for another process
// to read with ReadAuthor.
func WriteAuthor(t testing.TB, path string, a *ledgeranchor.Author) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.Key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ReadAuthor reads what WriteAuthor wrote.
func ReadAuthor(path string) (*ledgeranchor.Author, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	kb, text := pem.Decode(text)
	cb, _ := pem.Decode(text)
	if kb == nil || cb == nil {
		return nil, fmt.Errorf("%s: not PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, err
	}
	return ledgeranchor.NewAuthor(k.(crypto.Signer), c)
}

// Authors returns all members of the cast.
func (c *Cast) Authors() []*ledgeranchor.Author {
	return []*ledgeranchor.Author{c.Relay, c.Judge, c.ISP, c.Trustee, c.Holder, c.Log}
}

// Members returns members who have all authors' certificates.
func (c *Cast) Members(t testing.TB) *ledgeranchor.Members {
	t.Helper()
	m := ledgeranchor.NewMembers([]*x509.Certificate{c.Root})
	for _, a := range c.Authors() {
		if err := m.Add(a.Certificate, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Introduce appends the certificates of authors.
func Introduce(t testing.TB, l ledgeranchor.Ledger, authors ...*ledgeranchor.Author) {
	t.Helper()
	for _, a := range authors {
		s, err := a.Introduce()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// HashOf names the n-th thing of a sort.
func HashOf(sort string, n int) ledgeranchor.Hash {
	return sha256.Sum256(fmt.Appendf(nil, "%s %d", sort, n))
}

// Source is the n-th address that messages come from.
func Source(n int) netip.Addr {
	a := netip.MustParseAddr("2001:db8:1::").As16()
	binary.BigEndian.PutUint64(a[8:], uint64(n)*0x9e3779b97f4a7c15+1)
	return netip.AddrFrom16(a)
}

// Hop makes the record of a request of message n, sent from an address at a time.
func Hop(n int, from netip.Addr, at time.Time) *ledgeranchor.Record {
	return &ledgeranchor.Record{
		Kind: ledgeranchor.KindHop, Time: uint64(at.UnixMilli()), Addresses: []ledgeranchor.Address{ledgeranchor.AddressOf(from)},
		Message: HashOf("message", n), Hop: &ledgeranchor.Hop{Stage: ledgeranchor.StageRequest, Clock: uint64(n), Content: HashOf("content", n)},
	}
}

// Sign signs records.
func Sign(t testing.TB, a *ledgeranchor.Author, records ...*ledgeranchor.Record) []*ledgeranchor.Signed {
	t.Helper()
	s, err := a.Sign(records...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Harness is what a ledger's own test gives to the suite.
type Harness struct {
	// New returns an empty ledger whose members a root issues.
	New func(t *testing.T, root *x509.Certificate) ledgeranchor.Ledger

	// Verify checks a proof, as one outside would, and returns the record.
	Verify func(t *testing.T, l ledgeranchor.Ledger, p ledgeranchor.Proof, c *Cast) (*ledgeranchor.Record, error)
}

// Run runs the suite with a cast.
func Run(t *testing.T, c *Cast, h Harness) {
	start := time.Now().Add(-10 * time.Minute).Truncate(time.Millisecond)
	open := func(t *testing.T) ledgeranchor.Ledger {
		l := h.New(t, c.Root)
		Introduce(t, l, c.Authors()...)
		return l
	}
	add := func(t *testing.T, l ledgeranchor.Ledger, records ...*ledgeranchor.Signed) []ledgeranchor.Receipt {
		t.Helper()
		receipts, err := l.Append(t.Context(), records...)
		if err != nil {
			t.Fatal(err)
		}
		return receipts
	}
	find := func(t *testing.T, l ledgeranchor.Ledger, q ledgeranchor.Query) []ledgeranchor.Hash {
		t.Helper()
		var names []ledgeranchor.Hash
		var last time.Time
		for e, err := range l.Find(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			if !q.Wants(e.Record) {
				t.Errorf("%+v is not asked for by %+v", e.Record, q)
			}
			if e.Record.At().Before(last) {
				t.Errorf("a record of %s comes after one of %s", e.Record.At(), last)
			}
			last = e.Record.At()
			names = append(names, e.Signed.Name())
		}
		return names
	}
	same := func(t *testing.T, what string, got []ledgeranchor.Hash, want ...*ledgeranchor.Signed) {
		t.Helper()
		var names []ledgeranchor.Hash
		for _, s := range want {
			names = append(names, s.Name())
		}
		if !slices.Equal(got, names) {
			t.Errorf("%s: %v, want %v", what, got, names)
		}
	}

	t.Run("a record is found again", func(t *testing.T) {
		l := open(t)
		s := Sign(t, c.Relay, Hop(1, Source(1), start), Hop(2, Source(2), start.Add(time.Second)), Hop(3, Source(1), start.Add(2*time.Second)))
		r := add(t, l, s...)
		for i := range r {
			if r[i].Known || i > 0 && r[i].Position <= r[i-1].Position {
				t.Errorf("receipts %+v", r)
			}
			e, err := l.Get(t.Context(), s[i].Name())
			if err != nil {
				t.Fatal(err)
			}
			if e.Signed.Name() != s[i].Name() || e.Position != r[i].Position || e.Record.Message != HashOf("message", i+1) {
				t.Errorf("got %+v", e)
			}
		}
		if _, err := l.Get(t.Context(), HashOf("nothing", 0)); !errors.Is(err, ledgeranchor.ErrNotFound) {
			t.Errorf("what is not there: %v", err)
		}
		same(t, "by address", find(t, l, ledgeranchor.Query{Address: Source(1)}), s[0], s[2])
		same(t, "by address and time", find(t, l, ledgeranchor.Query{Address: Source(1), From: start.Add(time.Second)}), s[2])
		same(t, "until a time", find(t, l, ledgeranchor.Query{Address: Source(1), Until: start}), s[0])
		same(t, "another address", find(t, l, ledgeranchor.Query{Address: Source(9)}))
		same(t, "by message", find(t, l, ledgeranchor.Query{Message: HashOf("message", 2)}), s[1])
		for _, err := range l.Find(t.Context(), ledgeranchor.Query{Address: netip.MustParseAddr("192.0.2.1")}) {
			if err == nil {
				t.Error("an IPv4 address is not refused")
			}
		}
	})

	t.Run("a record is one record however often it is appended", func(t *testing.T) {
		l := open(t)
		records := func() []*ledgeranchor.Record {
			return []*ledgeranchor.Record{Hop(1, Source(1), start), Hop(2, Source(1), start)}
		}
		s := Sign(t, c.Relay, records()...)
		first := add(t, l, s[0], s[1], s[0])
		if first[2].Position != first[0].Position || !first[2].Known {
			t.Errorf("twice in one call: %+v", first)
		}
		again := add(t, l, Sign(t, c.Relay, records()[1])...) // in another batch, so with another signature
		if again[0].Position != first[1].Position || !again[0].Known {
			t.Errorf("again: %+v, and first %+v", again, first)
		}
		if n := len(find(t, l, ledgeranchor.Query{Address: Source(1)})); n != 2 {
			t.Errorf("%d records", n)
		}
	})

	t.Run("many append at once", func(t *testing.T) {
		l := open(t)
		const writers, each = 8, 40
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := 0; i < each; i += 10 {
					var rs []*ledgeranchor.Record
					for k := range 10 {
						n := (w/2)*each + i + k // two writers write the same
						rs = append(rs, Hop(n, Source(n), start.Add(time.Duration(n)*time.Millisecond)))
					}
					s, err := c.Relay.Sign(rs...)
					if err == nil {
						_, err = l.Append(t.Context(), s...)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if n := len(find(t, l, ledgeranchor.Query{Kind: ledgeranchor.KindHop})); n != writers/2*each {
			t.Errorf("%d records, want %d", n, writers/2*each)
		}
	})

	t.Run("a warrant's records hang together", func(t *testing.T) {
		l := open(t)
		w, other := HashOf("warrant", 1), HashOf("warrant", 2)
		now := uint64(start.UnixMilli())
		warrant := Sign(t, c.Judge, &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Time: now, Warrant: w, Count: 3})[0]
		resolution := Sign(t, c.ISP, &ledgeranchor.Record{Kind: ledgeranchor.KindResolution, Time: now + 1, Warrant: w, Refs: []ledgeranchor.Hash{warrant.Name()}})[0]
		approval := Sign(t, c.Trustee, &ledgeranchor.Record{Kind: ledgeranchor.KindApproval, Time: now + 2, Warrant: w, Refs: []ledgeranchor.Hash{warrant.Name(), resolution.Name()}})[0]
		disclosure := Sign(t, c.Holder, &ledgeranchor.Record{Kind: ledgeranchor.KindDisclosure, Time: now + 3, Warrant: w, Refs: []ledgeranchor.Hash{warrant.Name(), resolution.Name(), approval.Name()}})[0]
		foreign := Sign(t, c.Judge, &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Time: now, Warrant: other})[0]
		for _, s := range []*ledgeranchor.Signed{warrant, resolution, foreign, approval, disclosure} {
			add(t, l, s)
		}
		same(t, "by warrant", find(t, l, ledgeranchor.Query{Warrant: w}), warrant, resolution, approval, disclosure)
		same(t, "by warrant and kind", find(t, l, ledgeranchor.Query{Warrant: w, Kind: ledgeranchor.KindApproval}), approval)
	})

	t.Run("what is wrong is refused, and nothing of its call is taken", func(t *testing.T) {
		l := open(t)
		stranger := c.Author(t, "stranger.example", ledgeranchor.RoleRelay)
		foreign := NewCast(t)
		edit := func(s *ledgeranchor.Signed, f func(*ledgeranchor.Signed)) *ledgeranchor.Signed {
			x := *s
			x.Record, x.Signature = slices.Clone(s.Record), slices.Clone(s.Signature)
			f(&x)
			return &x
		}
		good := Sign(t, c.Relay, Hop(1, Source(1), start), Hop(2, Source(2), start))
		intro, err := foreign.Relay.Introduce()
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []struct {
			name   string
			record *ledgeranchor.Signed
			want   error
		}{
			{"a changed byte", edit(good[1], func(s *ledgeranchor.Signed) { s.Record[len(s.Record)-1] ^= 1 }), ledgeranchor.ErrSignature},
			{"a wrong signature", edit(good[1], func(s *ledgeranchor.Signed) { s.Signature[3] ^= 1 }), ledgeranchor.ErrSignature},
			{"no signature", edit(good[1], func(s *ledgeranchor.Signed) { s.Signature = nil }), ledgeranchor.ErrSignature},
			{"another place in the batch", edit(good[1], func(s *ledgeranchor.Signed) { s.Index = 0 }), ledgeranchor.ErrSignature},
			{"a batch of nothing", edit(good[1], func(s *ledgeranchor.Signed) { s.Size = 0 }), ledgeranchor.ErrMalformed},
			{"no record", edit(good[1], func(s *ledgeranchor.Signed) { s.Record = nil }), ledgeranchor.ErrMalformed},
			{"bytes after the record", edit(good[1], func(s *ledgeranchor.Signed) { s.Record = append(s.Record, 0) }), ledgeranchor.ErrMalformed},
			{"an oversized record", edit(good[1], func(s *ledgeranchor.Signed) { s.Record = make([]byte, ledgeranchor.MaxRecord+1) }), ledgeranchor.ErrOversized},
			{"an author that the ledger does not know", Sign(t, stranger, Hop(3, Source(3), start))[0], ledgeranchor.ErrAuthor},
			{"a certificate of another root", intro, ledgeranchor.ErrAuthor},
			{"a hop by a judge", Sign(t, c.Judge, Hop(4, Source(4), start))[0], ledgeranchor.ErrRole},
			{"a warrant by a relay", Sign(t, c.Relay, &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Time: uint64(start.UnixMilli()), Warrant: HashOf("warrant", 9)})[0], ledgeranchor.ErrRole},
			{"a time to come", Sign(t, c.Relay, Hop(5, Source(5), time.Now().Add(ledgeranchor.MaxSkew+time.Minute)))[0], ledgeranchor.ErrFuture},
			{"a time before the certificate", Sign(t, c.Relay, Hop(6, Source(6), start.AddDate(-1, 0, 0)))[0], ledgeranchor.ErrAuthor},
		} {
			t.Run(bad.name, func(t *testing.T) {
				_, err := l.Append(t.Context(), good[0], bad.record)
				var which *ledgeranchor.RecordError
				if !errors.Is(err, bad.want) || !errors.As(err, &which) || which.Index != 1 {
					t.Errorf("%v, want %v of the second record", err, bad.want)
				}
				if _, err := l.Get(t.Context(), good[0].Name()); !errors.Is(err, ledgeranchor.ErrNotFound) {
					t.Errorf("the record before it was taken: %v", err)
				}
			})
		}
		add(t, l, good...)
	})

	t.Run("a record is proved", func(t *testing.T) {
		l := open(t)
		var rs []*ledgeranchor.Record
		for n := range 300 { // more than a tile of a log
			rs = append(rs, Hop(n, Source(n), start))
		}
		s := Sign(t, c.Relay, rs...)
		add(t, l, s...)
		for _, i := range []int{0, 255, 256, 299} {
			p, err := l.Prove(t.Context(), s[i].Name())
			if err != nil {
				t.Fatal(err)
			}
			r, err := h.Verify(t, l, p, c)
			if err != nil {
				t.Errorf("the proof of record %d: %v", i, err)
			} else if r.Message != HashOf("message", i) {
				t.Errorf("the proof of record %d is of %+v", i, r)
			}
		}
		if _, err := l.Prove(t.Context(), HashOf("nothing", 0)); !errors.Is(err, ledgeranchor.ErrNotFound) {
			t.Errorf("what is not there: %v", err)
		}
	})

	t.Run("a follower hears of everything in order", func(t *testing.T) {
		l := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		const before, after = 30, 30
		hops := func(from, n int) {
			var rs []*ledgeranchor.Record
			for i := range n {
				rs = append(rs, Hop(from+i, Source(1), start))
			}
			add(t, l, Sign(t, c.Relay, rs...)...)
		}
		hops(0, before)
		next, last := 0, make(map[string]uint64)
		var from uint64
		for e, err := range l.Follow(ctx, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if before, ok := last[e.Channel]; ok && e.Position <= before {
				t.Fatalf("position %d comes after %d", e.Position, before)
			}
			last[e.Channel], from = e.Position, e.Position
			if e.Record.Kind != ledgeranchor.KindHop {
				continue
			}
			if e.Record.Message != HashOf("message", next) {
				t.Fatalf("record %d is %+v", next, e.Record)
			}
			if next++; next == before {
				hops(before, after)
			} else if next == before+after {
				break
			}
		}
		if next != before+after {
			t.Fatalf("%d records: %v", next, ctx.Err())
		}
		found := false
		for e, err := range l.Follow(ctx, from) {
			if err != nil || e.Position < from {
				t.Errorf("from %d on: %+v, %v", from, e, err)
			}
			if found = err == nil && e.Position == from; found || err != nil {
				break
			}
		}
		if !found {
			t.Errorf("from %d on, the record there does not come", from)
		}
	})
}
