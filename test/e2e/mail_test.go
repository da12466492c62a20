//go:build e2e

package e2e

import (
	"encoding/json"
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

// postfix is one relay: a host with Postfix and gidmilter.
type postfix struct {
	w      *world
	host   *netlab.Namespace
	name   string
	dir    string
	milter *netlab.Process
	master *netlab.Process
}

const (
	relayOne = "2001:db8:ff::11"
	relayTwo = "2001:db8:ff::12"
)

// relay makes a relay on a host of its own, next to the ISP's. next is where its mail
// goes, or empty for the last, which keeps it.
func (w *world) mailRelay(name, addr, next string) *postfix {
	w.t.Helper()
	host, err := w.lab.Namespace(name)
	w.must(err)
	p := &postfix{w: w, host: host, name: name + ".example", dir: w.Path(name)}
	w.must(w.lab.Connect(host, "eth0", "", w.Host, name, ""))
	w.must(host.Do("ip", "address", "add", addr+"/128", "dev", "eth0", "nodad"))
	w.must(host.Do("ip", "route", "add", "default", "via", "fe80::1", "dev", "eth0"))
	w.must(w.Host.Do("ip", "address", "add", "fe80::1/64", "dev", name, "nodad"))
	w.must(w.Host.Do("ip", "route", "add", addr+"/128", "dev", name))
	w.must(w.Host.Do("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"))

	for _, d := range []string{"etc", "queue", "data", "mail"} {
		w.must(os.MkdirAll(filepath.Join(p.dir, d), 0o755))
	}
	_, err = w.Run("tracectl", "identity", "new", "--name", p.name, "--role", "relay", "--out", filepath.Join(p.dir, "relay"))
	w.must(err)
	pem, err := os.ReadFile(filepath.Join(p.dir, "relay.pem"))
	w.must(err)
	for _, f := range []string{w.Path("ledger", "roots.pem"), w.Path("relays.pem")} {
		old, err := os.ReadFile(f)
		if err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
		w.must(os.WriteFile(f, append(old, pem...), 0o644))
	}
	config := fmt.Sprintf("listen = \"unix:%s/milter.sock\"\nrelay = %q\nlast = %v\nidentity = \"relay\"\nrelays = [\"../relays.pem\"]\n[journal]\ndirectory = \"journal\"\n[ledger]\ndirectory = \"../ledger\"\n[dns]\nresolvers = [\"[%s]:5335\"]\n",
		p.dir, p.name, next == "", netlab.ServerAddr)
	w.must(os.WriteFile(filepath.Join(p.dir, "gidmilter.toml"), []byte(config), 0o644))

	transport := "default_transport = discard\nlocal_recipient_maps =\nvirtual_mailbox_domains = example.net\nvirtual_mailbox_base = " + filepath.Join(p.dir, "mail") +
		"\nvirtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n"
	if next != "" {
		transport = "relayhost = [" + next + "]\nrelay_domains = example.net\n"
	}
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = %[2]s
mydestination =
mynetworks = [::]/0
inet_interfaces = all
inet_protocols = ipv6
smtp_bind_address6 = %[3]s
smtp_dns_support_level = disabled
maillog_file = /dev/stdout
smtpd_milters = unix:%[1]s/milter.sock
milter_protocol = 6
milter_default_action = tempfail
smtpd_tls_security_level = none
smtp_tls_security_level = none
queue_run_delay = 2s
minimal_backoff_time = 2s
maximal_backoff_time = 2s
%[4]s`, p.dir, p.name, addr, transport)
	w.must(os.WriteFile(filepath.Join(p.dir, "etc", "main.cf"), []byte(main), 0o644))
	master, err := os.ReadFile("/usr/share/postfix/master.cf.dist")
	w.must(err)
	var cf strings.Builder
	for line := range strings.Lines(string(master)) {
		if f := strings.Fields(line); len(f) >= 8 && f[4] == "y" { // no chroot: it would want files of the host's
			line = strings.Join(slices.Concat(f[:4], []string{"n"}, f[5:]), " ") + "\n"
		}
		cf.WriteString(line)
	}
	w.must(os.WriteFile(filepath.Join(p.dir, "etc", "master.cf"), []byte(cf.String()), 0o644))
	uid, err := exec.Command("id", "-u", "postfix").Output()
	w.must(err)
	w.must(host.Do("chown", strings.TrimSpace(string(uid)), filepath.Join(p.dir, "data")))
	w.must(host.Do("chown", "nobody", filepath.Join(p.dir, "mail")))
	// Postfix's own user goes through the lab's directories to the milter's socket.
	for d := p.dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		w.must(os.Chmod(d, 0o755))
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			for _, x := range []*netlab.Process{p.milter, p.master} {
				if x != nil {
					w.t.Logf("%s: it wrote:\n%s", p.name, x.Log())
				}
			}
		}
	})
	return p
}

func (p *postfix) start() {
	p.w.t.Helper()
	p.startMilter()
	var err error
	p.master, err = p.host.Start("postfix", "-c", filepath.Join(p.dir, "etc"), "start-fg")
	p.w.must(err)
	p.w.must(netlab.Until(20*time.Second, func() error {
		return p.host.Do("bash", "-c", "exec 3<>/dev/tcp/::1/25 && read -t 3 -u 3 line")
	}))
}

func (p *postfix) startMilter() {
	p.w.t.Helper()
	var err error
	p.milter, err = p.host.Start(filepath.Join(bin, "gidmilter"), "run", "--config", filepath.Join(p.dir, "gidmilter.toml"))
	p.w.must(err)
	p.w.must(p.milter.WaitLog("serving", 20*time.Second))
}

// received returns the messages that the last relay has kept.
func (p *postfix) received() []string {
	p.w.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "mail", "box", "new", "*"))
	p.w.must(err)
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		p.w.must(err)
		out = append(out, string(b))
	}
	return out
}

// A message goes from a leased address over two real Postfix relays; its chain holds,
// and leads to the address, and with a warrant to the EID. What is forged is removed.
func TestMailOverTwoRelaysLeadsToItsSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{})
	w.zone()
	two := w.mailRelay("relay2", relayTwo, "")
	one := w.mailRelay("relay1", relayOne, relayTwo)
	prefix, eid := w.attach("direct")
	w.must(w.Serve())
	w.must(w.newClient("dhclient").Start())
	addr := w.leased(prefix)
	at := w.lease(addr, active).Start
	w.unbound()
	two.start()
	one.start()
	w.must(w.client.Do("ip", "route", "replace", prefix.String(), "dev", "eth0"))
	w.must(w.client.Do("ip", "route", "replace", "default", "via", "2001:db8:1::1", "dev", "eth0"))

	send := func(from netip.Addr, subject string, more ...string) string {
		t.Helper()
		before := len(two.received())
		w.must(w.client.Do("swaks", append([]string{"--server", relayOne, "--local-interface", from.String(), "--helo", "client.example", "--from", "alice@example.org", "--to", "bob@example.net,carol@example.net",
			"--header", "Subject: " + subject, "--body", "Hello  Bob, \n\nthis is it.\n\n"}, more...)...))
		w.must(netlab.Until(30*time.Second, func() error {
			if n := len(two.received()); n < before+1 {
				return fmt.Errorf("%d messages have come", n)
			}
			return nil
		}))
		for _, m := range two.received() {
			if strings.Contains(m, "Subject: "+subject) {
				path := w.Path(fmt.Sprintf("message-%s.eml", subject))
				w.must(os.WriteFile(path, []byte(m), 0o644))
				return path
			}
		}
		t.Fatal("the message has not come")
		return ""
	}
	verify := func(path string) string {
		t.Helper()
		var out string
		w.must(netlab.Until(20*time.Second, func() (err error) { // the records come behind the dialogue
			out, err = w.Run("tracectl", "mail", "verify", "--ledger", w.Path("ledger"), "--json", path)
			return err
		}))
		return out
	}
	first := send(addr, "first")
	var v struct {
		Source, Realm, Live string
		Holds               bool
		OnLedger            bool `json:"checked_on_ledger"`
		Hops                []struct{ Relay, Stage string }
	}
	w.must(json.Unmarshal([]byte(verify(first)), &v))
	if v.Source != addr.String() || v.Realm != "isp.example" || v.Live != "pass" || !v.Holds || !v.OnLedger || len(v.Hops) != 2 ||
		v.Hops[0].Stage != "request" || v.Hops[1].Stage != "confirmation" || v.Hops[1].Relay != two.name {
		t.Errorf("%+v", v)
	}
	b, err := os.ReadFile(first)
	w.must(err)
	for _, want := range []string{"Authentication-Results: " + one.name + "; x-bright-source=pass policy.realm=isp.example", "Authentication-Results: " + two.name + ";"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}

	// What a client claims itself is removed.
	forged := send(addr, "forged", "--header", "Bright-Source: v=1; a=2001:db8::bad; r=isp.example; live=pass; t=1; s=AAAAAAAAAAAAAAAAAAAAAA==; h=-", "--header", "Bright-Hop: v=1; i=1",
		"--header", "Authentication-Results: "+one.name+"; x-bright-source=pass policy.gid=\"2001:db8::bad\"")
	b, err = os.ReadFile(forged)
	w.must(err)
	if strings.Contains(string(b), "2001:db8::bad") || strings.Count(string(b), "Bright-Source:") != 1 {
		t.Errorf("what was forged has come through:\n%s", b)
	}
	verify(forged)

	// An address that nobody leased is told so.
	stranger := addr.Next()
	w.must(w.client.Do("ip", "address", "add", stranger.String()+"/128", "dev", "eth0", "nodad"))
	w.must(json.Unmarshal([]byte(verify(send(stranger, "stranger"))), &v))
	if v.Source != stranger.String() || v.Live != "fail" {
		t.Errorf("%+v", v)
	}

	// It is found by its source, and no mailbox stands on the ledger.
	out, err := w.Run("tracectl", "mail", "find", "--ledger", w.Path("ledger"), "--gid", addr.String(), "--json")
	w.must(err)
	if n := strings.Count(strings.TrimSpace(out), "\n") + 1; n != 4 {
		t.Errorf("%d hops of two messages, want 4:\n%s", n, out)
	}
	for _, s := range []string{"alice@example.org", "bob@example.net"} {
		if found, err := w.Grep(s, "ledger", "relay1/journal", "relay2/journal"); err != nil || len(found) > 0 {
			t.Errorf("%s stands in %v, %v", s, found, err)
		}
	}

	// With a warrant, from the message to the EID.
	got, err := w.Trace("trace", netip.MustParseAddr(addr.String()), at)
	w.must(err)
	if !slices.Equal(got, []string{eid}) {
		t.Errorf("the trace gives %q, want %q", got, eid)
	}
}
