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

	gomilter "github.com/d--j/go-milter"

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

func (x *isp) Lengths() []uint8 { return nil }

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
	if out, err := exec.Command("go", "build", "-o", bin+"/", "../../cmd/gidchain", "../../cmd/gidmilter", "../../cmd/tracectl", ".").CombinedOutput(); err != nil {
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

	// Relays record on the channels, or in a log of their own whose heads are anchored there.
	must("", "tracectl", "ledger", "init", "--ledger", "relays-log", "--origin", "relays.gid/log", "--root", "net/members/relay.pem")
	relays := []relay{
		{"direct", "fabric = \"net/members/relays.toml\"\n", []string{"--fabric", "net/members/relays.toml"}},
		{"anchored", "directory = \"relays-log\"\nanchor = \"net/members/relays.toml\"\nanchor-identity = \"net/members/log\"\n", []string{"--ledger", "relays-log"}},
	}
	for _, r := range relays {
		message := r.pass(t, work)
		until := time.Now().Add(30 * time.Second)
		for {
			out, err := run("tracectl", slices.Concat([]string{"mail", "verify"}, r.ledger, []string{message})...)
			if err == nil && strings.Contains(out, "holds") && !strings.Contains(out, "not looked at") {
				break
			}
			if time.Now().After(until) {
				t.Fatalf("%s: %v: %s", r.name, err, out)
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
	until := time.Now().Add(30 * time.Second)
	for !strings.Contains(must("", "tracectl", append([]string{"ledger", "list"}, look...)...), " checkpoint ") {
		if time.Now().After(until) {
			t.Fatal("no head of the relays' log is anchored")
		}
		time.Sleep(300 * time.Millisecond)
	}

	must("", "fabricup", "down", "--dir", "net")
	if _, err := os.Stat(filepath.Join(work, "net")); !os.IsNotExist(err) {
		t.Errorf("the network's directory is there yet: %v", err)
	}
}

// relay is a gidmilter with a ledger.
type relay struct {
	name   string
	config string   // of its ledger
	ledger []string // how tracectl reaches it
}

// pass has gidmilter take a message, and returns the message with what it adds.
func (r *relay) pass(t *testing.T, work string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(work, r.name+".sock")
	config := filepath.Join(work, r.name+"-milter.toml")
	must(os.WriteFile(config, []byte("listen = \"unix:"+socket+"\"\nrelay = \"mx.relays.gid\"\nlast = true\nidentity = \"net/members/relay\"\nrelays = [\"net/members/relay.pem\"]\n[journal]\ndirectory = \""+
		r.name+"-journal\"\n[ledger]\n"+r.config+"[dns]\nresolvers = [\"[::1]:9\"]\n"), 0o600))
	c := exec.Command(filepath.Join(work, "bin/gidmilter"), "run", "--config", config)
	var log bytes.Buffer
	c.Stderr = &log
	must(c.Start())
	t.Cleanup(func() {
		if err := errors.Join(c.Process.Signal(os.Interrupt), c.Wait()); err != nil || t.Failed() {
			t.Errorf("gidmilter, %s: %v\n%s", r.name, err, log.String())
		}
	})
	until := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal("gidmilter does not listen")
		}
		time.Sleep(50 * time.Millisecond)
	}
	s, err := gomilter.NewClient("unix", socket).Session(nil)
	must(err)
	defer s.Close()
	for _, f := range []func() (*gomilter.Action, error){
		func() (*gomilter.Action, error) {
			return s.Conn("client.example", gomilter.FamilyInet6, 25, "2001:db8::7")
		},
		func() (*gomilter.Action, error) { return s.Helo("client.example") },
		func() (*gomilter.Action, error) { return s.Mail("alice@example.org", "") },
		func() (*gomilter.Action, error) { return s.Rcpt("bob@example.net", "") },
		func() (*gomilter.Action, error) { return s.DataStart() },
		func() (*gomilter.Action, error) { return s.HeaderField("From", "alice@example.org", nil) },
		func() (*gomilter.Action, error) { return s.HeaderEnd() },
		func() (*gomilter.Action, error) { return s.BodyChunk([]byte("hello\r\n")) },
	} {
		_, err := f()
		must(err)
	}
	changes, act, err := s.End()
	must(err)
	if act.Type != gomilter.ActionAccept {
		t.Fatalf("%s: %v", r.name, act)
	}
	text := "From: alice@example.org\r\n\r\nhello\r\n"
	for _, x := range changes {
		if x.Type == gomilter.ActionInsertHeader {
			text = x.HeaderName + ": " + strings.TrimPrefix(x.HeaderValue, " ") + "\r\n" + text
		}
	}
	file := filepath.Join(work, r.name+".eml")
	must(os.WriteFile(file, []byte(text), 0o600))
	return file
}
