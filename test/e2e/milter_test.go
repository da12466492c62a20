//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// An MTA's side of the protocol that is not Postfix's, miltertest, says what is allowed
// and what is not.
func TestMiltertest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{})
	m, err := w.MailRelay("mx", 1, netlab.MailRelayOptions{DNS: "[::1]:5335", Policy: "exempt-ports = [10025]\nsign-networks = [\"2001:db8::/32\"]\n"})
	w.must(err)
	w.must(m.StartMilter())
	out, err := m.Host.Output("miltertest", "-D", "socket=local:"+m.Socket(), "-s", absolute(t, "testdata/milter.lua"))
	if err != nil || !strings.Contains(out, "all of it") {
		t.Fatalf("%v\n%s\ngidmilter wrote:\n%s", err, out, m.Milter.Log())
	}
	if strings.Contains(m.Milter.Log(), "DATA RACE") || strings.Contains(m.Milter.Log(), "panic") {
		t.Errorf("gidmilter wrote:\n%s", m.Milter.Log())
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// hopsOnLedger counts how often each hop's record stands in the log; records by the first
// 16 digits of their names.
func (r *relays) hopsOnLedger() map[string]int {
	r.t.Helper()
	out, err := r.Run("tracectl", "ledger", "list", "--ledger", r.Path("ledger"), "--kind", "hop")
	r.must(err)
	n := make(map[string]int)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); f[0] != "POSITION" {
			n[f[4]]++
		}
	}
	return n
}

var (
	folds    = regexp.MustCompile(`\n[ \t]+`)
	hopField = regexp.MustCompile(`(?m)^Bright-Hop: .*\brec=([A-Za-z0-9+/=]+);`)
)

// hops returns the names of the records of each message's hops, by its subject. A message
// may have come twice, if its client did not learn that it was accepted.
func (r *relays) hops() map[string][]string {
	r.t.Helper()
	all, err := r.all[len(r.all)-1].Received()
	r.must(err)
	out := make(map[string][]string)
	for _, text := range all {
		head, _, _ := strings.Cut(text, "\n\n")
		head = folds.ReplaceAllString(head, " ")
		_, subject, _ := strings.Cut(head, "\nSubject: ")
		subject, _, _ = strings.Cut(subject, "\n")
		found := hopField.FindAllStringSubmatch(head, -1)
		if len(found) == 0 {
			r.t.Fatalf("%s has come without a hop:\n%s", subject, head)
		}
		for _, f := range found {
			name, err := base64.StdEncoding.DecodeString(f[1])
			r.must(err)
			out[subject] = append(out[subject], hex.EncodeToString(name)[:16])
		}
	}
	return out
}

// recorded checks that messages that were accepted have come, and that the record of each
// one's hop stands on the ledger, once.
func (r *relays) recorded(accepted []string) {
	r.t.Helper()
	r.must(netlab.Until(time.Minute, func() error {
		hops, ledger := r.hops(), r.hopsOnLedger()
		for _, s := range accepted {
			if len(hops[s]) == 0 {
				return fmt.Errorf("%s was accepted and has not come", s)
			}
		}
		for s, all := range hops {
			for _, h := range all {
				if n := ledger[h]; n != 1 {
					return fmt.Errorf("%s: the record of its hop stands on the ledger %d times", s, n)
				}
			}
		}
		return nil
	}))
}

// Killed 200 times at random moments under load, gidmilter loses no record of a message
// that Postfix accepted, and puts none on the ledger twice.
func TestKillsLoseNoRecord(t *testing.T) {
	t.Parallel()
	const kills = 200
	r := newRelays(t, nil, netlab.MailRelayOptions{})
	r.start()
	var mu sync.Mutex
	var accepted []string
	load := &netlab.MailLoad{Host: r.client, From: r.addr, Server: port(r.all[0], 25), Sessions: 4, Messages: -1, Size: 600, Patient: true,
		Accepted: func(subject string) {
			mu.Lock()
			defer mu.Unlock()
			accepted = append(accepted, subject)
		}}
	type done struct {
		r   *netlab.MailResult
		err error
	}
	ended := make(chan done, 1)
	go func() {
		x, err := load.Run()
		ended <- done{x, err}
	}()
	for i := range kills {
		// A busy machine starts gidmilter slowly, and the load goes on as fast as it can.
		r.must(netlab.Until(30*time.Second, func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(accepted) <= i {
				return fmt.Errorf("%d messages were accepted before kill %d", len(accepted), i+1)
			}
			return nil
		}))
		time.Sleep(rand.N(150 * time.Millisecond))
		r.must(r.all[0].Milter.Signal(syscall.SIGKILL))
		_ = r.all[0].Milter.Wait(10 * time.Second) // it ends by the signal
		r.must(r.all[0].StartMilter())
	}
	load.Stop()
	d := <-ended
	r.must(d.err)
	t.Logf("%d messages accepted, %d attempts refused", d.r.Accepted, d.r.Refused)
	if d.r.Accepted < kills || d.r.Refused < kills/4 {
		t.Errorf("%d messages were accepted and %d attempts refused: that was no load", d.r.Accepted, d.r.Refused)
	}
	r.recorded(accepted)
}

// metric reads one of gidmilter's.
func (r *relays) metric(m *netlab.MailRelay, name string) float64 {
	r.t.Helper()
	out, err := m.Host.Output("curl", "-sf", netlab.MetricsURL)
	r.must(err)
	for line := range strings.Lines(out) {
		var v float64
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			r.must(json.Unmarshal([]byte(strings.TrimSpace(rest)), &v))
			return v
		}
	}
	r.t.Fatalf("no metric %s in\n%s", name, out)
	return 0
}

// While the ledger is away messages go on until the journal has as much as it may have;
// then clients are told to come again, and a metric has told the operator. When the
// ledger is back everything that was accepted gets onto it, and clients get on.
func TestTheLedgerIsAwayForLong(t *testing.T) {
	t.Parallel()
	r := newRelays(t, nil, netlab.MailRelayOptions{Journal: "limit = 1\n", Ledger: "../ledger-link"})
	r.start()
	m := r.all[0]
	var mu sync.Mutex
	var accepted []string
	load := func(messages int) (*netlab.MailResult, error) {
		return (&netlab.MailLoad{Host: r.client, From: r.addr, Server: port(m, 25), Sessions: 4, Messages: messages, Size: 600,
			Accepted: func(subject string) {
				mu.Lock()
				defer mu.Unlock()
				accepted = append(accepted, subject)
			}}).Run()
	}
	// The ledger's directory is not there; the load ends when it is refused.
	done, err := load(20000)
	if err == nil || !strings.Contains(err.Error(), "451") {
		t.Fatalf("after %d messages: %v", done.Accepted, err)
	}
	t.Logf("%d messages were accepted without the ledger", done.Accepted)
	if n := r.metric(m, "gidmilter_journal_records"); n < float64(done.Accepted) {
		t.Errorf("%v records wait, of %d messages", n, done.Accepted)
	}
	if full := r.metric(m, "gidmilter_journal_full_ratio"); full < 0.95 || full > 1 {
		t.Errorf("the journal is full by %v", full)
	}
	var size int64
	files, err := filepath.Glob(filepath.Join(m.Dir, "journal", "*.seg"))
	r.must(err)
	for _, f := range files {
		info, err := os.Stat(f)
		r.must(err)
		size += info.Size()
	}
	if size > 1<<20 {
		t.Errorf("the journal has %d bytes, more than it may have", size)
	}
	if n := len(r.hopsOnLedger()); n != 0 {
		t.Errorf("%d hops are on a ledger that is away", n)
	}
	// It is killed too, with all that in the journal.
	r.must(m.Milter.Signal(syscall.SIGKILL))
	_ = m.Milter.Wait(10 * time.Second)
	r.must(m.StartMilter())
	r.must(os.Symlink(r.Path("ledger"), r.Path("ledger-link")))
	r.must(netlab.Until(time.Minute, func() error {
		if n := r.metric(m, "gidmilter_journal_records"); n > 0 {
			return fmt.Errorf("%v records wait", n)
		}
		return nil
	}))
	mu.Lock()
	before := accepted
	accepted = nil
	mu.Unlock()
	r.recorded(before)
	if _, err := load(20); err != nil {
		t.Errorf("after the ledger is back: %v", err)
	}
	r.recorded(accepted)
}

// Sendmail speaks to gidmilter as Postfix does: a message goes over it and then Postfix, and
// its chain leads to the client.
func TestSendmailBeginsAChain(t *testing.T) {
	t.Parallel()
	r := newRelays(t, nil, netlab.MailRelayOptions{Policy: "submission-ports = [587]\n"}, netlab.MailRelayOptions{})
	first, last := r.all[0], r.all[1]
	r.must(last.Start())
	r.must(first.StartMilter())
	r.must(first.StartSendmail("../../bin/sendmail", last))
	for _, subject := range []string{"plain", "forged"} {
		args := []string{"--server", first.Addr.String(), "--local-interface", r.addr.String(), "--helo", "client.example", "--from", "alice@example.org", "--to", "bob@example.net",
			"--header", "Subject: " + subject, "--body", "Hello  Bob, \n\nthis is it.\n\n"}
		if subject == "forged" {
			args = append(args, "--header", "Bright-Source: v=1; a=2001:db8::bad", "--header", "Authentication-Results: "+first.Name+"; x-bright-source=pass policy.gid=\"2001:db8::bad\"")
		}
		r.must(r.client.Do("swaks", args...))
		path := r.arrived(subject)
		if v := r.verify(path); v.Source != r.addr.String() || v.Live != "pass" || len(v.Hops) != 2 || v.Hops[0].Relay != first.Name {
			t.Errorf("%s: %+v", subject, v)
		}
		b, err := os.ReadFile(path)
		r.must(err)
		if strings.Contains(string(b), "2001:db8::bad") {
			t.Errorf("what was forged has come through:\n%s", b)
		}
	}
}
