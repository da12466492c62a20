//go:build fabric

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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

	// A warrant, and who may write what.
	must("", "tracectl", "identity", "new", "--name", "Police", "--holder", "--out", "police")
	at := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	must("to be signed", "tracectl", "warrant", "new", "--case", "1/26", "--authority", "Court", "--legal-basis", "law", "--purpose", "test", "--holder", "police.holder.json",
		"--address", "2001:db8::1", "--from", at, "--out", "w.json")
	must("signed by", "tracectl", "warrant", "sign", "--warrant", "w.json", "--identity", "net/members/judge", "--out", "w.jws")
	if err := os.WriteFile(filepath.Join(work, "resolution"), []byte("a resolution"), 0o600); err != nil {
		t.Fatal(err)
	}
	warrant := []string{"ledger", "record", "--fabric", "net/members/authority.toml", "--identity", "net/members/judge", "--kind", "warrant", "--warrant", "w.jws"}
	resolution := []string{"ledger", "record", "--fabric", "net/members/isp.toml", "--identity", "net/members/isp", "--kind", "resolution", "--warrant", "w.jws", "--resolution", "resolution"}
	refused("does not stand on the ledger", "tracectl", resolution...)
	refused("ISPMSP", "tracectl", "ledger", "record", "--fabric", "net/members/isp.toml", "--identity", "net/members/judge", "--kind", "warrant", "--warrant", "w.jws")
	must("recorded, at", "tracectl", warrant...)
	must("was recorded before", "tracectl", warrant...)
	must("recorded, at", "tracectl", resolution...)

	// Anybody looks.
	look := []string{"--fabric", "net/members/relays.toml"}
	list := must("warrant", "tracectl", append([]string{"ledger", "list"}, look...)...)
	if !strings.Contains(list, "judge.authority.gid") || !strings.Contains(list, "resolution") {
		t.Errorf("list says:\n%s", list)
	}
	must("problems                     0", "tracectl", append([]string{"ledger", "audit", "--threshold", "2"}, look...)...)
	must("a chain of", "tracectl", append([]string{"ledger", "verify", "--remember", "heads"}, look...)...)
	must("is what it was at block", "tracectl", append([]string{"ledger", "verify", "--remember", "heads"}, look...)...)
	name := ""
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == "warrant" {
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
