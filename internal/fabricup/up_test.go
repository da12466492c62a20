//go:build fabric

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/internal/identityfile"
	"brightgid/internal/ledgerfile"
	"brightgid/lease"
	"brightgid/trace"
)

// isp is an ISP with one subscriber, who had one address.
type isp struct {
	addr     netip.Addr
	leased   time.Time
	nid      idcodec.NID
	resolver *trace.Resolver
}

func newISP(t *testing.T, members, escrow string) *isp {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(escrow)
	must(err)
	key, err := idcodec.ParseEscrowKey(text)
	must(err)
	eid, err := idcodec.ParseEID("radius:alice")
	must(err)
	x := &isp{leased: time.Now().Add(-time.Minute).UTC().Truncate(time.Second)}
	x.nid, err = idcodec.SealNID(rand.Reader, key, "isp.example", eid)
	must(err)
	epoch, err := idcodec.EpochAt(x.leased, idcodec.DefaultEpochLength)
	must(err)
	ring, err := idcodec.NewKeyring(rand.Reader, idcodec.DefaultEpochLength, epoch-10)
	must(err)
	k, err := ring.Key(epoch)
	must(err)
	prefix := idcodec.PrefixOf(netip.MustParseAddr("2001:db8:1::"))
	gid, err := k.Encode(prefix, 0, 0)
	must(err)
	x.addr = prefix.Addr(gid)
	self, err := identityfile.Read(filepath.Join(members, "isp"))
	must(err)
	authorities, err := identityfile.Certificates(filepath.Join(members, "judge.pem"))
	must(err)
	l, _, err := ledgerfile.Open(t.Context(), "", filepath.Join(members, "isp.toml"))
	must(err)
	t.Cleanup(func() { l.Close() })
	x.resolver = &trace.Resolver{
		Party:    trace.Party{Ledger: l, Self: self, Trust: trace.Trust{Authorities: authorities}, Rand: rand.Reader, Now: time.Now},
		Registry: x, Keys: ring, MaxAge: 72 * time.Hour, Realm: "isp.example", EscrowKey: key.ID(),
	}
	return x
}

func (x *isp) Subscriber(n uint64) (lease.Subscriber, error) {
	if n != 0 {
		return lease.Subscriber{}, lease.ErrNotFound
	}
	return lease.Subscriber{NID: x.nid}, nil
}

func (x *isp) History(dst []lease.Lease, _ netip.Addr) ([]lease.Lease, error) { return dst, nil }

func (x *isp) Within(dst []netip.Addr, _ netip.Prefix, _, _ time.Time, _ int) ([]netip.Addr, error) {
	return dst, nil
}

// resolve answers a warrant's file with another.
func (x *isp) resolve(warrant, resolution string) error {
	b, err := os.ReadFile(warrant)
	if err != nil {
		return err
	}
	_, signed, err := x.resolver.Resolve(context.Background(), strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	return os.WriteFile(resolution, []byte(signed), 0o600)
}

// A network is brought up as people do it, used with tracectl, and taken down.
func TestTracectlOnANetworkThatIsBroughtUp(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "bin/fabric/peer")); err != nil {
		t.Fatalf("THE TEST OF FABRICUP CANNOT RUN: %v: make fabric-tools", err)
	}
	work := t.TempDir()
	bin := filepath.Join(work, "bin")
	if out, err := exec.Command("go", "build", "-o", bin+"/", "../../cmd/gidchain", "../../cmd/tracectl", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Symlink(filepath.Join(root, "bin/fabric"), filepath.Join(bin, "fabric")); err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) (string, error) {
		c := exec.Command(filepath.Join(bin, program), args...)
		c.Dir = work
		var out, stderr bytes.Buffer
		c.Stdout, c.Stderr = &out, &stderr
		err := c.Run()
		return out.String() + stderr.String(), err
	}
	must := func(want, program string, args ...string) string {
		t.Helper()
		out, err := run(program, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("%s %s: %v: %s\nwant %q", program, strings.Join(args, " "), err, out, want)
		}
		return out
	}
	refused := func(want, program string, args ...string) {
		t.Helper()
		if out, err := run(program, args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s %s: %v: %s\nwant an error with %q", program, strings.Join(args, " "), err, out, want)
		}
	}
	t.Cleanup(func() {
		if out, err := run("fabricup", "down", "--dir", "net"); err != nil && !strings.Contains(out, "no network") {
			t.Errorf("down: %v: %s", err, out)
		}
	})
	must("", "fabricup", "up", "--dir", "net", "--bin", "bin", "--channel", "one,two")
	refused("is not empty", "fabricup", "run", "--dir", "net", "--bin", "bin")

	// Who may bring what: a judge's record comes by the authority's organization.
	must("", "tracectl", "ceremony", "deal", "--threshold", "2", "--trustees", "a,b,c", "--out", "trustees")
	isp := newISP(t, filepath.Join(work, "net/members"), filepath.Join(work, "trustees/escrow.json"))
	at := isp.leased.Format(time.RFC3339)
	must("to be signed", "tracectl", "warrant", "new", "--case", "1/26", "--authority", "Court", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example", "--holder", "net/members/holder.holder.json",
		"--address", isp.addr.String(), "--from", at, "--seal-until", "2033-01-01T00:00:00Z", "--out", "w.json")
	must("signed by", "tracectl", "warrant", "sign", "--warrant", "w.json", "--identity", "net/members/judge", "--out", "w.jws")
	judge := []string{"--authorities", "net/members/judge.pem", "--identity", "net/members/judge", "--warrant", "w.jws"}
	if err := isp.resolve(filepath.Join(work, "w.jws"), filepath.Join(work, "r.jws")); !errors.Is(err, trace.ErrNotOnLedger) {
		t.Errorf("a warrant that does not stand: %v", err)
	}
	refused("ISPMSP", "tracectl", append([]string{"warrant", "submit", "--fabric", "net/members/isp.toml"}, judge...)...)
	must("recorded, at", "tracectl", append([]string{"warrant", "submit", "--fabric", "net/members/authority.toml"}, judge...)...)
	must("was recorded before", "tracectl", append([]string{"warrant", "submit", "--fabric", "net/members/authority.toml"}, judge...)...)
	if err := isp.resolve(filepath.Join(work, "w.jws"), filepath.Join(work, "r.jws")); err != nil {
		t.Fatal(err)
	}

	// Approvals and the recovery, all on the channel, and the report by its proofs.
	trust := []string{"--authorities", "net/members/judge.pem", "--isps", "net/members/isp.pem", "--escrow", "trustees/escrow.json", "--fabric", "net/members/authority.toml"}
	docs := []string{"--warrant", "w.jws", "--resolution", "r.jws"}
	for i, n := range []string{"a", "b"} {
		must("approved by "+n, "tracectl", slices.Concat([]string{"approve", "--identity", fmt.Sprintf("net/members/trustee%d", i+1), "--share", "trustees/" + n + ".share", "--out", n + ".approval"}, trust, docs)...)
	}
	must("EID radius:alice", "tracectl", slices.Concat([]string{"recover", "--identity", "net/members/holder", "--approval", "a.approval", "--approval", "b.approval", "--out", "report.json"}, trust, docs)...)
	must("holds  ledger: the disclosure", "tracectl", slices.Concat([]string{"verify"}, trust, []string{"report.json"})...)

	// A warrant without a seal is published at once; one is taken back.
	must("to be signed", "tracectl", "warrant", "new", "--case", "2/26", "--authority", "Court", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example", "--holder", "net/members/holder.holder.json",
		"--prefix", "2001:db8:7::/64", "--from", at, "--out", "w2.json")
	must("signed by", "tracectl", "warrant", "sign", "--warrant", "w2.json", "--identity", "net/members/judge", "--out", "w2.jws")
	judge[len(judge)-1] = "w2.jws"
	must("recorded, at", "tracectl", append([]string{"warrant", "submit", "--fabric", "net/members/authority.toml"}, judge...)...)
	must("sought 2001:db8:7::/64", "tracectl", "ledger", "disclosed", "--fabric", "net/members/relays.toml", "--address", "2001:db8:7::5")
	must("recorded, at", "tracectl", append([]string{"warrant", "revoke", "--reason", "lifted", "--fabric", "net/members/authority.toml"}, judge...)...)
	if err := isp.resolve(filepath.Join(work, "w2.jws"), filepath.Join(work, "r2.jws")); !errors.Is(err, trace.ErrRevoked) {
		t.Errorf("a warrant that was revoked: %v", err)
	}

	// Anybody looks.
	look := []string{"--fabric", "net/members/relays.toml"}
	list := must("warrant", "tracectl", append([]string{"ledger", "list"}, look...)...)
	if !strings.Contains(list, "judge.authority.gid") || !strings.Contains(list, "resolution") || strings.Count(list, " approval ") != 2 {
		t.Errorf("list says:\n%s", list)
	}
	must("problems                     0", "tracectl", append([]string{"ledger", "audit", "--threshold", "2"}, look...)...)
	must("a chain of", "tracectl", append([]string{"ledger", "verify", "--remember", "heads"}, look...)...)
	must("is what it was at block", "tracectl", append([]string{"ledger", "verify", "--remember", "heads"}, look...)...)
	name := ""
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == "warrant" && name == "" {
			name = f[4]
		}
	}
	must("address-times", "tracectl", append([]string{"ledger", "show", name, "--proof", "proof"}, look...)...)
	must("has this record: warrant", "tracectl", append([]string{"ledger", "verify", "--proof", "proof"}, look...)...)
	b, err := os.ReadFile(filepath.Join(work, "heads"))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(b, []byte(`"root":"`), []byte(`"root":"00`), 1)
	changed = append(changed[:bytes.Index(changed, []byte(`"root":"00`))+8+64], changed[bytes.Index(changed, []byte(`"root":"00`))+8+66:]...)
	if err := os.WriteFile(filepath.Join(work, "heads"), changed, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("not what they were", "tracectl", append([]string{"ledger", "verify", "--remember", "heads"}, look...)...)

	must("", "fabricup", "down", "--dir", "net")
	if _, err := os.Stat(filepath.Join(work, "net")); !os.IsNotExist(err) {
		t.Errorf("the network's directory is there yet: %v", err)
	}
}
