//go:build e2e

package e2e

import (
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

	"brightgid/internal/netlab"
)

// tracer takes tracectl's steps in a world.
type tracer struct {
	*world
	addr netip.Addr
	at   time.Time
	n    int
}

func newTracer(t *testing.T, o netlab.ISPOptions) *tracer {
	t.Helper()
	w := newWorld(t, o)
	prefix, _ := w.attach("direct")
	w.must(w.Serve())
	w.must(w.newClient("dhclient").Start())
	addr := w.leased(prefix)
	return &tracer{world: w, addr: addr, at: w.lease(addr, active).Start}
}

// ran runs tracectl and returns its exit status and all that it wrote.
func (x *tracer) ran(args ...string) (int, string) {
	x.t.Helper()
	out, err := x.Run("tracectl", args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, out
	case errors.As(err, &exit):
		return exit.ExitCode(), err.Error()
	}
	x.t.Fatal(err)
	return 0, ""
}

func (x *tracer) ok(args ...string) string {
	x.t.Helper()
	status, out := x.ran(args...)
	if status != 0 {
		x.t.Fatalf("tracectl %s: status %d: %s", strings.Join(args, " "), status, out)
	}
	return out
}

// file returns a fresh name for a file.
func (x *tracer) file(kind string) string {
	x.n++
	return x.Path(fmt.Sprintf("%s%d", kind, x.n))
}

func (x *tracer) trust() []string { return []string{"--trust", x.Path("trust.toml")} }

// warrant writes and signs a warrant; more are flags that come later and count.
func (x *tracer) warrant(more ...string) string {
	x.t.Helper()
	in, out := x.file("draft"), x.file("warrant")
	x.ok(append([]string{"warrant", "new", "--case", "7 O 12/26", "--authority", "District Court", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example",
		"--holder", x.Path("police.holder.json"), "--address", x.addr.String(), "--from", x.at.Format(time.RFC3339), "--out", in}, more...)...)
	x.ok("warrant", "sign", "--warrant", in, "--identity", x.Path("court"), "--out", out)
	return out
}

func (x *tracer) as(who string) []string { return append(x.trust(), "--identity", x.Path(who)) }

func (x *tracer) submitted(more ...string) string {
	x.t.Helper()
	w := x.warrant(more...)
	x.ok(append([]string{"warrant", "submit", "--warrant", w}, x.as("court")...)...)
	return w
}

func (x *tracer) resolveArgs(warrant, out string) []string {
	return append([]string{"resolve", "--warrant", warrant, "--server", "https://" + netlab.ResolveAddr, "--out", out}, x.as("police")...)
}

func (x *tracer) resolved(warrant string) string {
	x.t.Helper()
	out := x.file("resolution")
	x.ok(x.resolveArgs(warrant, out)...)
	return out
}

func (x *tracer) approveArgs(warrant, resolution, trustee, share, out string) []string {
	return append([]string{"approve", "--warrant", warrant, "--resolution", resolution, "--share", share, "--out", out}, x.as("trustees/"+trustee)...)
}

func (x *tracer) approved(warrant, resolution, trustee string) string {
	x.t.Helper()
	out := x.file("approval")
	x.ok(x.approveArgs(warrant, resolution, trustee, x.Path("trustees", trustee+".share"), out)...)
	return out
}

func (x *tracer) recoverArgs(warrant, resolution, out string, approvals ...string) []string {
	args := append([]string{"recover", "--warrant", warrant, "--resolution", resolution, "--out", out}, x.as("police")...)
	for _, a := range approvals {
		args = append(args, "--approval", a)
	}
	return args
}

// Every refusal, by the programs, with its message and its exit status.
func TestRefusalsOfTheTools(t *testing.T) {
	t.Parallel()
	x := newTracer(t, netlab.ISPOptions{})
	w := x.submitted()
	r := x.resolved(w)
	judge := x.approved(w, r, "judge")
	regulator := x.approved(w, r, "regulator")
	report := x.file("report")
	x.ok(x.recoverArgs(w, r, report, judge, regulator)...)
	verify := func(file string) []string {
		return []string{"verify", "--authorities", x.Path("court.pem"), "--isps", x.Path("etc", "resolver.pem"), "--escrow", x.Path("trustees", "escrow.json"),
			"--vkey", x.Path("ledger", "log.vkey"), "--roots", x.Path("ledger", "roots.pem"), file}
	}
	x.ok(verify(report)...)
	w2 := x.submitted()
	r2 := x.resolved(w2)
	x.ok("ceremony", "deal", "--threshold", "2", "--trustees", "judge,regulator,isp", "--out", x.Path("elsewhere"))
	x.ok("identity", "new", "--name", "Nobody", "--role", "judge", "--out", x.Path("nobody"))

	for _, c := range []struct {
		name   string
		status int
		want   string
		args   func() []string
	}{
		{"a command line without what is needed", 2, "required flag", func() []string { return []string{"approve"} }},
		{"a warrant that is not on the ledger", 3, "does not stand on the ledger", func() []string { return x.resolveArgs(x.warrant(), x.file("r")) }},
		{"a warrant that has expired", 4, "not in force", func() []string {
			w := x.submitted("--valid-for", "8s")
			time.Sleep(9 * time.Second)
			return x.resolveArgs(w, x.file("r"))
		}},
		{"a warrant that is revoked", 5, "revoked since", func() []string {
			w := x.submitted()
			x.ok(append([]string{"warrant", "revoke", "--warrant", w, "--reason", "lifted"}, x.as("court")...)...)
			return x.resolveArgs(w, x.file("r"))
		}},
		{"a warrant that nobody whom we trust signed", 6, "certificate is not trusted", func() []string {
			in, out := x.file("draft"), x.file("warrant")
			x.ok("warrant", "new", "--case", "1", "--authority", "A", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example", "--holder", x.Path("police.holder.json"),
				"--address", x.addr.String(), "--from", x.at.Format(time.RFC3339), "--out", in)
			x.ok("warrant", "sign", "--warrant", in, "--identity", x.Path("nobody"), "--out", out)
			return x.resolveArgs(out, x.file("r"))
		}},
		{"a warrant for another ISP", 7, "does not reach so far", func() []string { return x.resolveArgs(x.submitted("--realm", "other.example"), x.file("r")) }},
		{"a warrant for half the net", 7, "shorter than /48", func() []string {
			return []string{"warrant", "new", "--case", "1", "--authority", "A", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example", "--holder", x.Path("police.holder.json"),
				"--prefix", "2001:db8::/32", "--from", x.at.Format(time.RFC3339), "--out", x.file("draft")}
		}},
		{"a warrant without a purpose", 8, "purpose", func() []string {
			return []string{"warrant", "new", "--case", "1", "--authority", "A", "--legal-basis", "law", "--purpose", "", "--realm", "isp.example", "--holder", x.Path("police.holder.json"),
				"--address", x.addr.String(), "--from", x.at.Format(time.RFC3339), "--out", x.file("draft")}
		}},
		{"a resolution for another warrant", 9, "it answers the warrant", func() []string {
			return x.approveArgs(w, r2, "judge", x.Path("trustees", "judge.share"), x.file("a"))
		}},
		{"another holder", 10, "not this holder's", func() []string {
			x.ok("identity", "new", "--name", "Thief", "--holder", "--out", x.Path("thief"))
			args := x.recoverArgs(w, r, x.file("report"), judge, regulator)
			args[slices.Index(args, x.Path("police"))] = x.Path("thief")
			return args
		}},
		{"a share of another ceremony", 11, "another ceremony", func() []string {
			return x.approveArgs(w, r, "judge", x.Path("elsewhere", "judge.share"), x.file("a"))
		}},
		{"an approval of another warrant", 12, "made for something else", func() []string {
			return x.recoverArgs(w, r, x.file("report"), judge, x.approved(w2, r2, "regulator"))
		}},
		{"an approval given twice", 12, "given twice", func() []string { return x.recoverArgs(w, r, x.file("report"), judge, judge) }},
		{"an approval that was changed", 13, "not sealed to this holder, or was changed", func() []string {
			b, err := os.ReadFile(regulator)
			x.must(err)
			i := strings.Index(string(b), `"sealed": "`) + 80
			b[i] = "AB"[btoi(b[i] == 'A')]
			path := x.file("a")
			x.must(os.WriteFile(path, b, 0o600))
			return x.recoverArgs(w, r, x.file("report"), judge, path)
		}},
		{"an approval too few", 14, "1 of the 2 needed; 2 of the trustees judge, regulator, isp must approve", func() []string {
			return x.recoverArgs(w, r, x.file("report"), judge)
		}},
		{"a resolution that names nobody", 15, "names no subscriber", func() []string {
			in, out := x.file("draft"), x.file("warrant")
			x.ok("warrant", "new", "--case", "1", "--authority", "A", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example", "--holder", x.Path("police.holder.json"),
				"--address", "2001:db8:1::1", "--from", x.at.Format(time.RFC3339), "--out", in)
			x.ok("warrant", "sign", "--warrant", in, "--identity", x.Path("court"), "--out", out)
			x.ok(append([]string{"warrant", "submit", "--warrant", out}, x.as("court")...)...)
			return x.approveArgs(out, x.resolved(out), "judge", x.Path("trustees", "judge.share"), x.file("a"))
		}},
		{"a warrant published before its seal's end", 16, "sealed until", func() []string {
			w := x.submitted("--seal-until", time.Now().AddDate(0, 1, 0).UTC().Format(time.RFC3339))
			return append([]string{"warrant", "publish", "--warrant", w}, x.as("court")...)
		}},
		{"a report with a changed byte", 17, "the report does not hold", func() []string {
			b, err := os.ReadFile(report)
			x.must(err)
			b[len(b)/2] ^= 1
			path := x.file("report")
			x.must(os.WriteFile(path, b, 0o600))
			return verify(path)
		}},
		{"a ceremony's file of nobody", 18, "judge.deal", func() []string {
			x.must(os.MkdirAll(x.Path("hall"), 0o700))
			for _, n := range netlab.Trustees {
				x.ok("ceremony", "join", "--name", n, "--identity", x.Path("trustees", n), "--out", x.Path("hall", n), "--unlocked")
			}
			x.ok("ceremony", "begin", "--threshold", "2", "--member", x.Path("hall", "judge.join"), "--member", x.Path("hall", "isp.join"), "--out", x.Path("hall", "roster"))
			x.must(os.WriteFile(x.Path("hall", "judge.deal"), []byte("x.y.z"), 0o600))
			return []string{"ceremony", "status", "--roster", x.Path("hall", "roster"), "--files", x.Path("hall")}
		}},
		{"one who does not stand on the roster", 19, "does not stand on it", func() []string {
			return []string{"ceremony", "next", "--roster", x.Path("hall", "roster"), "--files", x.Path("trustees", "carried"), "--identity", x.Path("trustees", "regulator"),
				"--secret", x.Path("hall", "regulator.secret"), "--out", x.file("x")}
		}},
		{"a record of one without the role", 20, "needs the role", func() []string { return append([]string{"warrant", "submit", "--warrant", w}, x.as("police")...) }},
		{"a proof that does not hold", 21, "does not hold", func() []string {
			p := x.file("proof")
			x.ok("ledger", "show", "1", "--ledger", x.Path("ledger"), "--proof", p)
			b, err := os.ReadFile(p)
			x.must(err)
			x.must(os.WriteFile(p, []byte(strings.Replace(string(b), "\nindex 1\n", "\nindex 2\n", 1)), 0o600))
			return []string{"ledger", "verify", "--ledger", x.Path("ledger"), "--proof", p}
		}},
	} {
		args := c.args()
		status, out := x.ran(args...)
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, %s\nwant %d and %q", c.name, status, out, c.status, c.want)
		}
		if strings.Contains(out, canary) {
			t.Errorf("%s: the refusal tells an EID", c.name)
		}
	}

	// What is beyond the retention is said to be, and not withheld.
	long := x.at.AddDate(0, -7, 0).UTC().Format(time.RFC3339)
	in, out := x.file("draft"), x.file("warrant")
	x.ok("warrant", "new", "--case", "1", "--authority", "A", "--legal-basis", "law", "--purpose", "test", "--realm", "isp.example", "--holder", x.Path("police.holder.json"),
		"--address", x.addr.String(), "--from", long, "--out", in)
	x.ok("warrant", "sign", "--warrant", in, "--identity", x.Path("court"), "--out", out)
	x.ok(append([]string{"warrant", "submit", "--warrant", out}, x.as("court")...)...)
	if got := x.ok(x.resolveArgs(out, x.file("r"))...); !strings.Contains(got, "beyond-retention") {
		t.Errorf("of seven months ago it says %q", got)
	}

	// Nothing tells the EID but the report.
	found, err := x.Grep(canary, ".")
	x.must(err)
	for _, f := range found {
		if !strings.Contains(filepath.Base(f), "report") {
			t.Errorf("%s tells the EID", f)
		}
	}
	if len(found) == 0 {
		t.Error("not even the report tells the EID; the search shows nothing")
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Trustees make the key between them; then a prefix and an address are sought in one
// warrant, and a page for people is written.
func TestARecoveryWithoutADealer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{Dealerless: true})
	prefix, eid := w.attach("direct")
	w.must(w.Serve())
	w.must(w.newClient("dhclient").Start())
	addr := w.leased(prefix)
	at := w.lease(addr, active).Start
	got, err := w.Trace("trace", addr, at)
	w.must(err)
	if !slices.Equal(got, []string{eid}) {
		t.Errorf("the trace gives %q, want %q", got, eid)
	}
	page, err := os.ReadFile(w.Path("trace.html"))
	w.must(err)
	for _, want := range []string{eid, addr.String(), "Every check of this report held", "7 O 12/26"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if info, err := os.Stat(w.Path("trace.html")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the page has mode %o, %v", info.Mode().Perm(), err)
	}
}

// The court's and a trustee's signing keys are in a token, made by tracectl and never
// outside it; all steps go by them.
func TestSigningKeysInAToken(t *testing.T) {
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		t.Fatalf("THE TEST OF TOKENS CANNOT RUN: %v: make deps", err)
	}
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "tokens"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nlog.level = ERROR\n"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "pin"), []byte("473829\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "softhsm2.conf"))
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "court house", "--pin", "473829", "--so-pin", "87654321").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := newWorld(t, netlab.ISPOptions{})
	uri := func(object string) string {
		return "pkcs11:token=court%20house;object=" + object + "?module-path=" + module + "&pin-source=file:" + filepath.Join(dir, "pin")
	}
	for path, c := range map[string]struct{ role, object string }{"court": {"judge", "court-key"}, "trustees/judge": {"trustee", "trustee-key"}} {
		_, err := w.Run("tracectl", "identity", "new", "--name", c.object, "--role", c.role, "--token", uri(c.object), "--out", w.Path("token-"+c.object))
		must(err)
		pem, err := os.ReadFile(w.Path("token-" + c.object + ".pem"))
		must(err)
		key, err := os.ReadFile(w.Path("token-" + c.object + ".key"))
		must(err)
		if strings.Contains(string(key), "PRIVATE") || !strings.HasPrefix(string(key), "pkcs11:") {
			t.Errorf("the key's file holds %q", key)
		}
		// They take the places of those in files, as members and as authorities.
		must(os.Rename(w.Path("token-"+c.object+".key"), w.Path(path+".key")))
		must(os.Rename(w.Path("token-"+c.object+".pem"), w.Path(path+".pem")))
		for _, f := range []string{w.Path("ledger", "roots.pem"), w.Path("etc", "authorities.pem")} {
			b, err := os.ReadFile(f)
			must(err)
			must(os.WriteFile(f, append(b, pem...), 0o644))
		}
	}
	if _, err := w.Run("tracectl", "identity", "new", "--name", "x", "--token", uri("court-key"), "--out", w.Path("again")); err == nil || !strings.Contains(err.Error(), "already; nothing was changed") {
		t.Errorf("a key of the same name: %v", err)
	}
	if _, err := w.Run("tracectl", "identity", "new", "--name", "x", "--token", strings.Replace(uri("new"), "court%20house", "nowhere", 1), "--out", w.Path("again")); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a token that is not there: %v", err)
	}
	prefix, eid := w.attach("direct")
	must(w.Serve())
	must(w.newClient("dhclient").Start())
	addr := w.leased(prefix)
	got, err := w.Trace("trace", addr, w.lease(addr, active).Start)
	must(err)
	if !slices.Equal(got, []string{eid}) {
		t.Errorf("the trace gives %q, want %q", got, eid)
	}
	warrant, err := os.ReadFile(w.Path("trace.warrant"))
	must(err)
	// {"alg":"ES256", in base64url
	if !strings.HasPrefix(string(warrant), "eyJhbGciOiJFUzI1NiI") {
		t.Errorf("the warrant is not signed with ES256: %.40s", warrant)
	}
}
