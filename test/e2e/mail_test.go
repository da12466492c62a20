//go:build e2e

package e2e

import (
	"encoding/json"
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

// relays is a world with mail relays, each of which passes on to the next, and with a
// client that has a leased address.
type relays struct {
	*world
	all  []*netlab.MailRelay
	addr netip.Addr
	eid  string
	at   time.Time
}

// newRelays makes relays, one for each options, and starts everything but them.
func newRelays(t *testing.T, records []string, options ...netlab.MailRelayOptions) *relays {
	t.Helper()
	w := newWorld(t, netlab.ISPOptions{})
	w.must(w.Zone())
	r := &relays{world: w, all: make([]*netlab.MailRelay, len(options))}
	for i := len(options) - 1; i >= 0; i-- {
		if i+1 < len(options) {
			options[i].Next = r.all[i+1]
		}
		m, err := w.MailRelay(fmt.Sprintf("relay%d", i+1), i+1, options[i])
		w.must(err)
		r.all[i] = m
		t.Cleanup(func() {
			if m.Milter != nil && strings.Contains(m.Milter.Log(), "DATA RACE") {
				t.Errorf("%s: gidmilter has a data race", m.Name)
			}
			if t.Failed() {
				t.Logf("%s wrote:\n%s", m.Name, m.Log())
			}
		})
	}
	prefix, eid := w.attach("direct")
	w.must(w.Serve())
	w.must(w.newClient("dhclient").Start())
	r.addr, r.eid = w.leased(prefix), eid
	r.at = w.lease(r.addr, active).Start
	_, err := w.Unbound(records...)
	w.must(err)
	w.must(w.Routes(w.client))
	return r
}

func (r *relays) start() {
	r.t.Helper()
	for _, m := range slices.Backward(r.all) {
		r.must(m.Start())
	}
}

// port is a relay's.
func port(m *netlab.MailRelay, n uint16) netip.AddrPort { return netip.AddrPortFrom(m.Addr, n) }

// arrived waits for the message with a subject at the last relay and returns its file.
func (r *relays) arrived(subject string) string {
	r.t.Helper()
	path := r.Path("message-" + subject + ".eml")
	r.must(netlab.Until(30*time.Second, func() error {
		all, err := r.all[len(r.all)-1].Received()
		if err != nil {
			return err
		}
		for _, m := range all {
			if strings.Contains(m, "\nSubject: "+subject+"\n") {
				return os.WriteFile(path, []byte(m), 0o644)
			}
		}
		return fmt.Errorf("%d messages have come, not %s", len(all), subject)
	}))
	return path
}

type chainView struct {
	Source, Realm, Live string
	Holds               bool
	OnLedger            bool `json:"checked_on_ledger"`
	Hops                []struct{ Relay, Stage, Record string }
}

// verify checks a message's chain with the ledger, on which the records come behind the
// dialogue.
func (r *relays) verify(path string) (v chainView) {
	r.t.Helper()
	r.must(netlab.Until(20*time.Second, func() error {
		out, err := r.Run("tracectl", "mail", "verify", "--ledger", r.Path("ledger"), "--json", path)
		if err == nil {
			err = json.Unmarshal([]byte(out), &v)
		}
		return err
	}))
	return v
}

// opendkim starts OpenDKIM beside a relay's gidmilter.
func (r *relays) opendkim(m *netlab.MailRelay, mode, settings string) {
	r.t.Helper()
	conf := fmt.Sprintf("Mode %s\nSocket local:%s\nUMask 000\nBackground no\nSyslog no\nCanonicalization relaxed/relaxed\nRequireSafeKeys no\nPidFile %s\nResolverConfiguration %s\nAuthservID %s\nInternalHosts %s\n%s",
		mode, dkimSocket(m), filepath.Join(m.Dir, "opendkim.pid"), r.Path("dkim-resolver.conf"), m.Name, r.Path("everybody"), settings)
	file := filepath.Join(m.Dir, "opendkim.conf")
	r.must(errors.Join(
		os.WriteFile(file, []byte(conf), 0o644),
		os.WriteFile(r.Path("everybody"), []byte("::/0\n"), 0o644),
		os.WriteFile(r.Path("dkim-resolver.conf"), []byte("server:\n  do-ip4: no\n  module-config: \"iterator\"\nforward-zone:\n  name: \".\"\n  forward-addr: "+netlab.ServerAddr+"@5335\n"), 0o644)))
	p, err := m.Host.Start("opendkim", "-f", "-x", file)
	r.must(err)
	r.must(netlab.Until(10*time.Second, func() error {
		_, err := os.Stat(dkimSocket(m))
		return err
	}))
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("opendkim of %s wrote:\n%s", m.Name, p.Log())
		}
	})
}

func dkimSocket(m *netlab.MailRelay) string { return filepath.Join(m.Dir, "dkim.sock") }

// A message goes from a leased address over three real Postfix relays; its chain holds,
// and leads to the address, and with a warrant to the EID. What is forged is removed. The
// first relay signs for DKIM as well, and the last finds that signature to hold.
func TestMailOverThreeRelaysLeadsToItsSource(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	if out, err := exec.Command("opendkim-genkey", "-D", keys, "-d", "example.org", "-s", "mail", "-b", "2048").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(filepath.Join(keys, "mail.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(public), "(")
	text, _, _ = strings.Cut(text, ")")
	r := newRelays(t, []string{"mail._domainkey.example.org. TXT " + strings.Join(strings.Fields(text), " ")},
		netlab.MailRelayOptions{}, netlab.MailRelayOptions{}, netlab.MailRelayOptions{})
	one, last := r.all[0], r.all[2]
	for _, m := range []*netlab.MailRelay{one, last} {
		r.must(m.AddMilters("unix:" + dkimSocket(m)))
	}
	r.opendkim(one, "s", "Domain example.org\nSelector mail\nKeyFile "+filepath.Join(keys, "mail.private")+"\n")
	r.opendkim(last, "v", "")
	r.start()

	send := func(from netip.Addr, subject string, more ...string) string {
		t.Helper()
		r.must(r.client.Do("swaks", append([]string{"--server", one.Addr.String(), "--local-interface", from.String(), "--helo", "client.example", "--from", "alice@example.org", "--to", "bob@example.net,carol@example.net",
			"--header", "Subject: " + subject, "--body", "Hello  Bob, \n\nthis is it.\n\n"}, more...)...))
		return r.arrived(subject)
	}
	first := send(r.addr, "first")
	v := r.verify(first)
	if v.Source != r.addr.String() || v.Realm != "isp.example" || v.Live != "pass" || !v.Holds || !v.OnLedger || len(v.Hops) != 3 ||
		v.Hops[0].Stage != "request" || v.Hops[1].Stage != "delivery" || v.Hops[2].Stage != "confirmation" || v.Hops[2].Relay != last.Name {
		t.Errorf("%+v", v)
	}
	b, err := os.ReadFile(first)
	r.must(err)
	for _, want := range []string{"Authentication-Results: " + one.Name + "; x-bright-source=pass policy.realm=isp.example", "Authentication-Results: " + last.Name + "; x-bright-source=pass",
		"dkim=pass (2048-bit key", "DKIM-Signature: "} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}

	// What a client claims itself is removed.
	forged := send(r.addr, "forged", "--header", "Bright-Source: v=1; a=2001:db8::bad; r=isp.example; live=pass; t=1; s=AAAAAAAAAAAAAAAAAAAAAA==; h=-", "--header", "Bright-Hop: v=1; i=1",
		"--header", "Authentication-Results: "+one.Name+"; x-bright-source=pass policy.gid=\"2001:db8::bad\"")
	b, err = os.ReadFile(forged)
	r.must(err)
	if strings.Contains(string(b), "2001:db8::bad") || strings.Count(string(b), "Bright-Source:") != 1 {
		t.Errorf("what was forged has come through:\n%s", b)
	}
	r.verify(forged)

	// An address that nobody leased is told so.
	stranger := r.addr.Next()
	r.must(r.client.Do("ip", "address", "add", stranger.String()+"/128", "dev", "eth0", "nodad"))
	if v := r.verify(send(stranger, "stranger")); v.Source != stranger.String() || v.Live != "fail" {
		t.Errorf("%+v", v)
	}

	// It is found by its source, and by its mailboxes for who has the message; no mailbox
	// stands on the ledger.
	find := func(args ...string) int {
		t.Helper()
		out, err := r.Run("tracectl", append([]string{"mail", "find", "--ledger", r.Path("ledger"), "--json"}, args...)...)
		r.must(err)
		return strings.Count(out, "\n")
	}
	for _, c := range []struct {
		want int
		args []string
	}{
		{6, []string{"--gid", r.addr.String()}},
		{3, []string{"--message", first}},
		{3, []string{"--message", first, "--from", "alice@example.org", "--to", "carol@example.net"}},
		{0, []string{"--message", first, "--to", "mallory@example.net"}},
	} {
		if n := find(c.args...); n != c.want {
			t.Errorf("find %v: %d hops, want %d", c.args, n, c.want)
		}
	}
	for _, s := range []string{"alice@example.org", "bob@example.net"} {
		if found, err := r.Grep(s, "ledger", "relay1/journal", "relay2/journal", "relay3/journal"); err != nil || len(found) > 0 {
			t.Errorf("%s stands in %v, %v", s, found, err)
		}
	}

	// With a warrant, from the message to the EID.
	got, err := r.Trace("trace", r.addr, r.at)
	r.must(err)
	if !slices.Equal(got, []string{r.eid}) {
		t.Errorf("the trace gives %q, want %q", got, r.eid)
	}
}

// What SMTP allows comes over two relays with a chain that holds: extensions, many
// recipients, large and strange bodies, many messages of one connection.
func TestMailOfEveryKindKeepsItsChain(t *testing.T) {
	t.Parallel()
	r := newRelays(t, nil, netlab.MailRelayOptions{Postfix: "message_size_limit = 40960000\nsmtpd_recipient_limit = 2000\n"},
		netlab.MailRelayOptions{Postfix: "message_size_limit = 50960000\nvirtual_mailbox_limit = 0\nsmtpd_recipient_limit = 2000\n"})
	r.start()
	s, err := r.client.SMTP(r.addr, port(r.all[0], 25))
	r.must(err)
	defer s.Close()
	for _, want := range []string{"8BITMIME", "SMTPUTF8", "CHUNKING", "PIPELINING"} {
		if !slices.Contains(s.Extensions, want) {
			t.Fatalf("Postfix does not offer %s: %q", want, s.Extensions)
		}
	}
	head := func(subject string) string {
		return "From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: " + subject + "\r\n"
	}
	say := func(status int, line string) {
		t.Helper()
		if _, err := s.Do(status, "%s", line); err != nil {
			t.Fatalf("%.60q: %v", line, err)
		}
	}
	data := func(text string) {
		t.Helper()
		say(354, "DATA")
		_, err := s.W.WriteString(text)
		r.must(err)
		say(250, ".")
	}
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("box%d@example.net", i))
	}
	for _, c := range []struct {
		name string
		send func(subject string)
	}{
		{"8bit", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org> BODY=8BITMIME")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject) + "Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n")
		}},
		{"utf8", func(subject string) {
			say(250, "MAIL FROM:<ålice@example.org> SMTPUTF8")
			say(250, "RCPT TO:<bøb@example.net>")
			data(strings.Replace(head(subject), "Alice", "Ålice", 1) + "X-Wörd: ja\r\n\r\nGrüße\r\n")
		}},
		{"chunks", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			say(250, "RCPT TO:<bob@example.net>")
			for i, part := range []string{head(subject)[:20], head(subject)[20:] + "\r\nline\r", "\n.\r\nend\r\n"} {
				last := ""
				if i == 2 {
					last = " LAST"
				}
				r.must(s.PrintfLine("BDAT %d%s", len(part), last))
				_, err := s.W.WriteString(part)
				r.must(errors.Join(err, s.W.Flush()))
				_, _, err = s.ReadResponse(250)
				r.must(err)
			}
		}},
		{"pipelined", func(subject string) {
			_, err := s.W.WriteString("MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.net>\r\nRCPT TO:<carol@example.net>\r\nDATA\r\n")
			r.must(errors.Join(err, s.W.Flush()))
			for _, status := range []int{250, 250, 250, 354} {
				_, _, err := s.ReadResponse(status)
				r.must(err)
			}
			_, err = s.W.WriteString(head(subject) + "\r\none\r\n.\r\nMAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.net>\r\nRSET\r\n")
			r.must(errors.Join(err, s.W.Flush()))
			for range 4 {
				_, _, err := s.ReadResponse(250)
				r.must(err)
			}
		}},
		{"recipients", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			for _, to := range many {
				say(250, "RCPT TO:<"+to+">")
			}
			data(head(subject) + "\r\nto all of you\r\n")
		}},
		{"bounce", func(subject string) {
			say(250, "MAIL FROM:<>")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject) + "\r\nno sender\r\n")
		}},
		{"large", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject) + "\r\n" + strings.Repeat("All that is needed is a line that is about as long as lines are.\r\n", 12<<20/66))
		}},
		{"empty", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject))
		}},
		{"nul", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject) + "\r\na\x00b\r\n\x00\r\n")
		}},
		{"bare", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject) + "X-Bare: one\n two\r\n\r\none\ntwo\r three\n\n\r\n..\r\nend \t \r\n\r\n\r\n")
		}},
		{"fields", func(subject string) {
			say(250, "MAIL FROM:<alice@example.org>")
			say(250, "RCPT TO:<bob@example.net>")
			data(head(subject) + "Subject : again\r\nX-Folded:\r\n\tone\r\n  two\r\nX-Empty:\r\nNo field at all\r\n\r\nbody\r\n")
		}},
	} {
		subject := "kind-" + c.name
		c.send(subject)
		v := r.verify(r.arrived(subject))
		if v.Source != r.addr.String() || v.Live != "pass" || len(v.Hops) != 2 {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	// A header that nobody could check is refused, by name, and the connection goes on.
	say(250, "MAIL FROM:<alice@example.org>")
	say(250, "RCPT TO:<bob@example.net>")
	say(354, "DATA")
	_, err = s.W.WriteString(head("kind-million") + strings.Repeat("A: b\r\n", 1_000_000) + "\r\nbody\r\n")
	r.must(err)
	say(552, ".")
	say(250, "NOOP")
}
