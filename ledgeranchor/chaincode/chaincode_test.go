package chaincode

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hyperledger/fabric-chaincode-go/v2/shim"
	"github.com/hyperledger/fabric-protos-go-apiv2/ledger/queryresult"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"google.golang.org/protobuf/proto"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/ledgertest"
)

// stub is a transaction over a state: it reads what was committed before, and keeps
// what it writes apart, as a peer does.
type stub struct {
	shim.ChaincodeStubInterface
	state   map[string][]byte
	args    [][]byte
	tx      string
	creator []byte

	reads  map[string]bool
	writes map[string][]byte
	event  []byte
}

func (s *stub) GetArgs() [][]byte           { return s.args }
func (s *stub) GetTxID() string             { return s.tx }
func (s *stub) GetCreator() ([]byte, error) { return s.creator, nil }
func (s *stub) GetState(k string) ([]byte, error) {
	s.reads[k] = true
	return s.state[k], nil
}
func (s *stub) GetMultipleStates(keys ...string) (out [][]byte, err error) {
	for _, k := range keys {
		v, _ := s.GetState(k)
		out = append(out, v)
	}
	return out, nil
}
func (s *stub) StartWriteBatch()                        {}
func (s *stub) FinishWriteBatch() error                 { return nil }
func (s *stub) PutState(k string, v []byte) error       { s.writes[k] = bytes.Clone(v); return nil }
func (s *stub) SetEvent(_ string, payload []byte) error { s.event = payload; return nil }

func (s *stub) GetStateByRangeWithPagination(start, end string, size int32, bookmark string) (shim.StateQueryIteratorInterface, *peer.QueryResponseMetadata, error) {
	rows := &rows{}
	next := ""
	for _, k := range slices.Sorted(maps.Keys(s.state)) {
		if k < max(start, bookmark) || k >= end {
			continue
		}
		if len(rows.kv) == int(size) {
			next = k
			break
		}
		rows.kv = append(rows.kv, &queryresult.KV{Key: k, Value: s.state[k]})
	}
	return rows, &peer.QueryResponseMetadata{FetchedRecordsCount: int32(len(rows.kv)), Bookmark: next}, nil
}

type rows struct{ kv []*queryresult.KV }

func (r *rows) HasNext() bool { return len(r.kv) > 0 }
func (r *rows) Close() error  { return nil }
func (r *rows) Next() (*queryresult.KV, error) {
	x := r.kv[0]
	r.kv = r.kv[1:]
	return x, nil
}

// channel is a channel of three organizations.
type channel struct {
	t     testing.TB
	cc    *Contract
	state map[string][]byte
	cast  map[string]*ledgertest.Cast // by MSP
	txs   int
	now   time.Time
}

var roles = map[string][]string{"RelaysMSP": {"relay", "log"}, "ISPMSP": {"isp"}, "AuthorityMSP": {"judge", "trustee", "holder"}}

func newChannel(t testing.TB) *channel {
	t.Helper()
	c := &channel{t: t, state: make(map[string][]byte), cast: make(map[string]*ledgertest.Cast), now: time.Now()}
	var orgs []Organization
	for name, r := range roles {
		c.cast[name] = ledgertest.NewCast(t)
		orgs = append(orgs, Organization{MSP: name, Roles: r, Roots: []*x509.Certificate{c.cast[name].Root}})
	}
	var err error
	if c.cc, err = New(orgs, func() time.Time { return c.now }); err != nil {
		t.Fatal(err)
	}
	return c
}

// transaction runs a transaction of an organization's client, without committing it.
func (c *channel) transaction(org string, args ...[]byte) (*stub, *peer.Response) {
	c.t.Helper()
	creator := c.cast["RelaysMSP"].Relay.Certificate // of whoever; the chaincode looks at the MSP
	id, err := proto.Marshal(&msp.SerializedIdentity{Mspid: org, IdBytes: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: creator.Raw})})
	if err != nil {
		c.t.Fatal(err)
	}
	c.txs++
	s := &stub{state: c.state, args: args, tx: string(rune('a' + c.txs)), creator: id, reads: make(map[string]bool), writes: make(map[string][]byte)}
	return s, c.cc.Invoke(s)
}

// append appends records and commits them.
func (c *channel) append(org string, records ...*ledgeranchor.Signed) (had []byte, err error) {
	c.t.Helper()
	args := [][]byte{[]byte(Append)}
	for _, s := range records {
		b, err := s.Encode()
		if err != nil {
			c.t.Fatal(err)
		}
		args = append(args, b)
	}
	s, r := c.transaction(org, args...)
	if r.Status != shim.OK {
		var x Refusal
		if json.Unmarshal([]byte(r.Message), &x) == nil {
			return nil, &ledgeranchor.RecordError{Index: x.Index, Name: x.Name, Err: ledgeranchor.ErrorOf(x.Code)}
		}
		return nil, errors.New(r.Message)
	}
	maps.Copy(c.state, s.writes)
	return r.Payload, nil
}

func (c *channel) introduce(org string, authors ...*ledgeranchor.Author) {
	c.t.Helper()
	for _, a := range authors {
		s, err := a.Introduce()
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err := c.append(org, s); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *channel) hop(n int, stage ledgeranchor.Stage, content ledgeranchor.Hash) *ledgeranchor.Signed {
	c.t.Helper()
	r := ledgertest.Hop(n, ledgertest.Source(n), c.now.Add(-time.Minute+time.Duration(stage)*time.Second))
	r.Hop.Stage, r.Hop.Content = stage, content
	return ledgertest.Sign(c.t, c.cast["RelaysMSP"].Relay, r)[0]
}

func TestAnOrganizationWritesWhatIsItsOwn(t *testing.T) {
	c := newChannel(t)
	relays, authority := c.cast["RelaysMSP"], c.cast["AuthorityMSP"]
	c.introduce("RelaysMSP", relays.Relay, relays.Judge)
	c.introduce("AuthorityMSP", authority.Judge)
	warrant := func(by *ledgeranchor.Author) *ledgeranchor.Signed {
		return ledgertest.Sign(t, by, &ledgeranchor.Record{Kind: ledgeranchor.KindWarrant, Time: uint64(c.now.UnixMilli()), Warrant: ledgertest.HashOf("warrant", 1)})[0]
	}
	hop := c.hop(1, ledgeranchor.StageRequest, ledgertest.HashOf("content", 1))
	for _, x := range []struct {
		name, org string
		record    *ledgeranchor.Signed
		want      error
	}{
		{"a relay's hop by another organization", "AuthorityMSP", hop, ledgeranchor.ErrForeign},
		{"a warrant by a judge whom the relays call one", "RelaysMSP", warrant(relays.Judge), ledgeranchor.ErrRole},
		{"a certificate of another organization", "ISPMSP", func() *ledgeranchor.Signed { s, _ := c.cast["AuthorityMSP"].Trustee.Introduce(); return s }(), ledgeranchor.ErrForeign},
		{"a certificate of nobody's", "ISPMSP", func() *ledgeranchor.Signed { s, _ := ledgertest.NewCast(t).ISP.Introduce(); return s }(), ledgeranchor.ErrAuthor},
		{"a stranger's", "RelaysMSP", ledgertest.Sign(t, relays.Log, &ledgeranchor.Record{Kind: ledgeranchor.KindCheckpoint, Time: uint64(c.now.UnixMilli()), Body: []byte("x")})[0], ledgeranchor.ErrAuthor},
	} {
		if _, err := c.append(x.org, x.record); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
	if _, err := c.append("NobodyMSP", hop); err == nil || !strings.Contains(err.Error(), "NobodyMSP") {
		t.Errorf("an unknown organization: %v", err)
	}
	if _, err := c.append("AuthorityMSP", warrant(authority.Judge)); err != nil {
		t.Error(err)
	}
	if had, err := c.append("RelaysMSP", hop, hop); err != nil || !bytes.Equal(had, []byte{0, 1}) {
		t.Errorf("%v, %v", had, err)
	}
	if had, err := c.append("RelaysMSP", hop); err != nil || !bytes.Equal(had, []byte{1}) {
		t.Errorf("again: %v, %v", had, err)
	}
}

func TestAMessageIsFollowedFromItsRequest(t *testing.T) {
	c := newChannel(t)
	c.introduce("RelaysMSP", c.cast["RelaysMSP"].Relay)
	one, two := ledgertest.HashOf("content", 1), ledgertest.HashOf("content", 2)
	const request, delivery, confirmation = ledgeranchor.StageRequest, ledgeranchor.StageDelivery, ledgeranchor.StageConfirmation
	for _, x := range []struct {
		name    string
		n       int
		stage   ledgeranchor.Stage
		content ledgeranchor.Hash
		want    error
	}{
		{"a delivery of nothing", 1, delivery, one, ledgeranchor.ErrOrder},
		{"a confirmation of nothing", 1, confirmation, one, ledgeranchor.ErrOrder},
		{"a request", 1, request, one, nil},
		{"a delivery of another content", 1, delivery, two, ledgeranchor.ErrContent},
		{"a delivery", 1, delivery, one, nil},
		{"a confirmation of another content", 1, confirmation, two, ledgeranchor.ErrContent},
		{"a confirmation", 1, confirmation, one, nil},
		{"another request of another content", 1, request, two, ledgeranchor.ErrContent},
		{"another message", 2, request, two, nil},
	} {
		if _, err := c.append("RelaysMSP", c.hop(x.n, x.stage, x.content)); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
	if _, err := c.append("RelaysMSP", c.hop(3, request, one), c.hop(3, delivery, one), c.hop(3, confirmation, one)); err != nil {
		t.Errorf("all in one transaction: %v", err)
	}
	if _, err := c.append("RelaysMSP", c.hop(4, request, one), c.hop(4, delivery, two)); !errors.Is(err, ledgeranchor.ErrContent) {
		t.Errorf("another content in one transaction: %v", err)
	}
}

// Two transactions that bring different records may be in one block: neither reads
// what the other writes, nor do they write the same.
func TestWritersDoNotCollide(t *testing.T) {
	c := newChannel(t)
	c.introduce("RelaysMSP", c.cast["RelaysMSP"].Relay)
	run := func(n int) *stub {
		b, err := c.hop(n, ledgeranchor.StageRequest, ledgertest.HashOf("content", n)).Encode()
		if err != nil {
			t.Fatal(err)
		}
		s, r := c.transaction("RelaysMSP", []byte(Append), b)
		if r.Status != shim.OK {
			t.Fatal(r.Message)
		}
		return s
	}
	a, b := run(1), run(2)
	for k := range a.writes {
		if b.reads[k] || b.writes[k] != nil {
			t.Errorf("both touch %s", k)
		}
	}
}

func TestEveryPeerSaysTheSame(t *testing.T) {
	c := newChannel(t)
	c.introduce("RelaysMSP", c.cast["RelaysMSP"].Relay)
	args := [][]byte{[]byte(Append)}
	for n := range 50 {
		b, err := c.hop(n, ledgeranchor.StageRequest, ledgertest.HashOf("content", n)).Encode()
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, b)
	}
	first, r1 := c.transaction("RelaysMSP", args...)
	c.txs--
	second, r2 := c.transaction("RelaysMSP", args...)
	if !proto.Equal(r1, r2) || !maps.EqualFunc(first.writes, second.writes, bytes.Equal) || !maps.Equal(first.reads, second.reads) || !bytes.Equal(first.event, second.event) {
		t.Error("the same transaction has two outcomes")
	}
}

func TestFindGivesPagesInTheOrderOfTime(t *testing.T) {
	c := newChannel(t)
	c.introduce("RelaysMSP", c.cast["RelaysMSP"].Relay)
	const n = maxPage + 120
	start := c.now.Add(-time.Hour + time.Minute)
	var rs []*ledgeranchor.Record
	for i := range n {
		k := i * 7919 % n // in no order
		r := ledgertest.Hop(k, ledgertest.Source(1), start.Add(time.Duration(k)*time.Millisecond))
		rs = append(rs, r)
	}
	if _, err := c.append("RelaysMSP", ledgertest.Sign(t, c.cast["RelaysMSP"].Relay, rs...)...); err != nil {
		t.Fatal(err)
	}
	a := ledgertest.Source(1).As16()
	collect := func(q FindRequest) (clocks []uint64) {
		for {
			b, err := cbor.Marshal(q)
			if err != nil {
				t.Fatal(err)
			}
			_, r := c.transaction("ISPMSP", []byte(Find), b)
			if r.Status != shim.OK {
				t.Fatal(r.Message)
			}
			var page FindResponse
			if err := cbor.Unmarshal(r.Payload, &page); err != nil {
				t.Fatal(err)
			}
			for _, s := range page.Records {
				x, err := ledgeranchor.DecodeSigned(s.Signed)
				if err != nil {
					t.Fatal(err)
				}
				rec, err := ledgeranchor.Decode(x.Record)
				if err != nil {
					t.Fatal(err)
				}
				clocks = append(clocks, rec.Hop.Clock)
			}
			if q.Bookmark = page.Bookmark; q.Bookmark == "" {
				return clocks
			}
		}
	}
	all := collect(FindRequest{Address: a[:]})
	if len(all) != n || !slices.IsSorted(all) {
		t.Errorf("%d records, sorted: %v", len(all), slices.IsSorted(all))
	}
	some := collect(FindRequest{Address: a[:], From: uint64(start.UnixMilli()) + 10, Until: uint64(start.UnixMilli()) + 19})
	if len(some) != 10 || some[0] != 10 || some[9] != 19 {
		t.Errorf("between two times: %v", some)
	}
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	c := newChannel(t)
	for _, args := range [][][]byte{{}, {[]byte("drop")}, {[]byte(Append)}, {[]byte(Append), nil}, {[]byte(Append), []byte("x")}, {[]byte(Get)}, {[]byte(Get), []byte("x")},
		{[]byte(Get), make([]byte, 32)}, {[]byte(Find)}, {[]byte(Find), []byte{0xff}}, append([][]byte{[]byte(Append)}, make([][]byte, ledgeranchor.MaxBatch+1)...)} {
		s, r := c.transaction("RelaysMSP", args...)
		if r.Status == shim.OK || len(s.writes) > 0 || r.Message == "" {
			t.Errorf("%.40q: status %d, %q, %d writes", args, r.Status, r.Message, len(s.writes))
		}
	}
	for name, orgs := range map[string][]Organization{
		"no MSP":   {{Roles: []string{"isp"}, Roots: []*x509.Certificate{c.cast["ISPMSP"].Root}}},
		"a king":   {{MSP: "X", Roles: []string{"king"}, Roots: []*x509.Certificate{c.cast["ISPMSP"].Root}}},
		"no roots": {{MSP: "X", Roles: []string{"isp"}}},
	} {
		if _, err := New(orgs, time.Now); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzInvoke gives the chaincode what strangers might: it answers, always the same,
// and stores nothing that no member signed.
func FuzzInvoke(f *testing.F) {
	c := newChannel(f)
	c.introduce("RelaysMSP", c.cast["RelaysMSP"].Relay)
	good, err := c.hop(1, ledgeranchor.StageRequest, ledgertest.HashOf("content", 1)).Encode()
	if err != nil {
		f.Fatal(err)
	}
	query, err := cbor.Marshal(FindRequest{Kind: "hop", Until: 7})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Append, good)
	f.Add(Get, make([]byte, 32))
	f.Add(Find, query)
	f.Fuzz(func(t *testing.T, name string, arg []byte) {
		c.t = t
		a, r1 := c.transaction("RelaysMSP", []byte(name), arg)
		c.txs--
		b, r2 := c.transaction("RelaysMSP", []byte(name), arg)
		if !proto.Equal(r1, r2) || !maps.EqualFunc(a.writes, b.writes, bytes.Equal) {
			t.Fatal("two outcomes")
		}
		if len(a.writes) > 0 && !bytes.Equal(arg, good) {
			s, err := ledgeranchor.DecodeSigned(arg)
			if err != nil {
				t.Fatal("what is no signed record was stored")
			}
			if _, err := c.cast["RelaysMSP"].Members(t).Check(s); err != nil {
				t.Fatalf("stored: %v", err)
			}
		}
	})
}
