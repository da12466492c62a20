//go:build fabric

package fabric

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"brightgid/internal/fabnet"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/anchored"
	"brightgid/ledgeranchor/embedded"
	"brightgid/ledgeranchor/ledgertest"
)

// The tests need Fabric's programs (make fabric-tools), and start the network
// themselves. They share one; each test has a channel of its own.
var channels = 34

var (
	network *fabnet.Network
	bft     fabnet.Options // of the network that the test of faults starts
)

var (
	rootsFile string
	cast      *ledgertest.Cast
	nextMu    sync.Mutex
	next      int
)

func TestMain(m *testing.M) {
	if task := os.Getenv(writerTask); task != "" {
		if err := writer(task); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "\nTHE TESTS OF FABRIC CANNOT RUN:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "gid-fabric")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "gidchain"), "../../cmd/gidchain").CombinedOutput(); err != nil {
		return fail(fmt.Errorf("%w: %s", err, out))
	}
	fabric, err := filepath.Abs("../../bin/fabric")
	if err != nil {
		return fail(err)
	}
	if _, err := os.Stat(filepath.Join(fabric, "peer")); err != nil {
		return fail(fmt.Errorf("%w: make fabric-tools", err))
	}
	if cast, err = ledgertest.MakeCast(); err != nil {
		return fail(err)
	}
	rootsFile = filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(rootsFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cast.Root.Raw}), 0o600); err != nil {
		return fail(err)
	}
	o := fabnet.Options{
		Dir: dir, Fabric: fabric, Chaincode: filepath.Join(dir, "gidchain"), Orderers: 1,
		Roots: map[string]string{"isp": rootsFile, "relays": rootsFile, "authority": rootsFile},
		Log:   func(format string, args ...any) { fmt.Printf("fabric: "+format+"\n", args...) },
	}
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		channels = 2 // every one takes its share of the processors
	}
	for i := range channels {
		o.Channels = append(o.Channels, fmt.Sprintf("ledger%d", i))
	}
	bft = o // with keys of cryptogen's
	o.CA = true
	if network, err = fabnet.Start(o); err != nil {
		return fail(err)
	}
	defer func() { network.Close() }()
	return m.Run()
}

// channel returns a channel that no other test uses.
func channel(t testing.TB) string {
	nextMu.Lock()
	defer nextMu.Unlock()
	if next >= channels {
		t.Fatal("there are too few channels")
	}
	next++
	return fmt.Sprintf("ledger%d", next-1)
}

func open(t testing.TB, org, channel string) *Ledger {
	t.Helper()
	id, err := network.Organization(org).Client()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(Config{Peers: id.Peers, PeerRoots: id.PeerRoots, MSP: id.MSP, Certificate: id.Certificate, Key: id.Key, Channel: channel, Chaincode: fabnet.Chaincode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// router brings each record by the organization whose members may write its kind.
type router struct {
	*Ledger
	orgs map[string]*Ledger
}

var orgOf = map[ledgeranchor.Kind]string{
	ledgeranchor.KindWarrant: "authority", ledgeranchor.KindApproval: "authority", ledgeranchor.KindDisclosure: "authority", ledgeranchor.KindResolution: "isp",
}

func (r *router) Append(ctx context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error) {
	if rec, err := ledgeranchor.Decode(records[0].Record); err == nil && orgOf[rec.Kind] != "" {
		return r.orgs[orgOf[rec.Kind]].Append(ctx, records...)
	}
	return r.Ledger.Append(ctx, records...)
}

func newRouter(t *testing.T) *router {
	t.Helper()
	c := channel(t)
	r := &router{Ledger: open(t, "relays", c), orgs: map[string]*Ledger{"isp": open(t, "isp", c), "authority": open(t, "authority", c)}}
	return r
}

// CAs are the organizations' certificates, which one outside knows.
func cas(t testing.TB) map[string]*x509.CertPool {
	t.Helper()
	out := make(map[string]*x509.CertPool)
	for _, o := range network.Organizations {
		id, err := o.Client()
		if err != nil {
			t.Fatal(err)
		}
		out[o.MSP] = id.CAs
	}
	return out
}

func TestConformance(t *testing.T) {
	ledgertest.Run(t, cast, ledgertest.Harness{
		New: func(t *testing.T, _ *x509.Certificate) ledgeranchor.Ledger { return newRouter(t) },
		Verify: func(t *testing.T, l ledgeranchor.Ledger, p ledgeranchor.Proof, c *ledgertest.Cast) (*ledgeranchor.Record, error) {
			return verifyFabric(t, p, c)
		},
	})
}

// verifyFabric checks a channel's proof from outside.
func verifyFabric(t testing.TB, p ledgeranchor.Proof, c *ledgertest.Cast) (*ledgeranchor.Record, error) {
	text, err := p.MarshalText()
	if err != nil {
		return nil, err
	}
	parsed, err := ParseProof(text)
	if err != nil {
		return nil, err
	}
	return parsed.Verify(cas(t), 2, c.Members(t))
}

func TestConformanceOfTwoChannels(t *testing.T) {
	ledgertest.Run(t, cast, ledgertest.Harness{
		New: func(t *testing.T, _ *x509.Certificate) ledgeranchor.Ledger {
			s, err := NewSharded(newRouter(t), newRouter(t))
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Verify: func(t *testing.T, _ ledgeranchor.Ledger, p ledgeranchor.Proof, c *ledgertest.Cast) (*ledgeranchor.Record, error) {
			return verifyFabric(t, p, c)
		},
	})
}

func TestConformanceOfAnAnchoredLog(t *testing.T) {
	ledgertest.Run(t, cast, ledgertest.Harness{
		New: func(t *testing.T, root *x509.Certificate) ledgeranchor.Ledger {
			dir := t.TempDir()
			if err := embedded.Create(dir, "relay.example/gid-ledger", []*x509.Certificate{root}); err != nil {
				t.Fatal(err)
			}
			local, err := embedded.Open(t.Context(), dir, embedded.Options{})
			if err != nil {
				t.Fatal(err)
			}
			l := anchored.New(local, open(t, "relays", channel(t)), anchored.Options{Author: cast.Log, Interval: 300 * time.Millisecond})
			t.Cleanup(func() {
				if err := errors.Join(l.Close(), local.Close()); err != nil {
					t.Error(err)
				}
			})
			return l
		},
		Verify: func(t *testing.T, l ledgeranchor.Ledger, p ledgeranchor.Proof, c *ledgertest.Cast) (*ledgeranchor.Record, error) {
			text, err := p.MarshalText()
			if err != nil {
				return nil, err
			}
			parsed, err := anchored.ParseProof(text, func(b []byte) (ledgeranchor.Proof, error) { return ParseProof(b) })
			if err != nil {
				return nil, err
			}
			return parsed.Verify(l.(*anchored.Ledger).Verifier(), c.Members(t), func(p ledgeranchor.Proof) (*ledgeranchor.Record, error) { return verifyFabric(t, p, c) })
		},
	})
}
