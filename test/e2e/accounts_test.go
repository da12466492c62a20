//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"brightgid/internal/netlab"
	"brightgid/internal/pglab"
)

// record is what FreeRADIUS wrote down of an accounting message.
type record map[string]string

// accounts returns what a FreeRADIUS was told.
func (r *radiusHost) accounts() (all []record) {
	r.w.t.Helper()
	b, err := os.ReadFile(r.path("detail"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.w.t.Fatal(err)
	}
	for text := range strings.SplitSeq(string(b), "\n\n") {
		rec := make(record)
		for line := range strings.Lines(text) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
				rec[key] = strings.Trim(value, `"`)
			}
		}
		if len(rec) > 0 {
			all = append(all, rec)
		}
	}
	return all
}

// Two gidservers share a database, account to one FreeRADIUS and keep names in one BIND. A client whose
// server is killed goes on at the other, which tells of its lease from then on and keeps its name.
// Then that one is killed, and the client is gone, too: the first, which is back, tells when the
// lease ended and takes the name away, and the other, when it is back, tells nothing else.
func TestServersThatShareAccountAndNameForEachOther(t *testing.T) {
	t.Parallel()
	pg := newPostgres(t)
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info", Lease: shortLease})
	r := w.newRADIUS(radiusUsers)
	r.freeradius()
	zone := w.newZone(r.host, radiusAddr, "relayed")
	w.must(w.Configure("radius", "accounting = [\"["+radiusAddr+"]:1813\"]\nnas-identifier = \"one\"\n"+radiusSettings))
	w.must(w.Configure("database", fmt.Sprintf("url = %q\nserver = \"one\"\n", pglab.Sockets(pg))))
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	second, err := w.Second(relay)
	w.must(err)
	t.Cleanup(func() {
		if t.Failed() && second.Server != nil {
			t.Logf("the second gidserver wrote:\n%s", second.Server.Log())
		}
	})
	w.must(errors.Join(
		second.Reconfigure("server = \"one\"", "server = \"two\""),
		second.Reconfigure("trusted-relays = [", "trusted-relays = [\"2001:db8:fe::2\", "), // as dhcrelay speaks to it
		second.Reconfigure("nas-identifier = \"one\"", "nas-identifier = \"two\"")))
	const secondToRADIUS = "2001:db8:ff::52"
	w.must(w.lab.Connect(r.host, "eth1", "", second.Host, "radius", ""))
	w.must(errors.Join(
		r.host.Do("ip", "address", "add", "fe80::2/64", "dev", "eth1", "nodad"),
		r.host.Do("ip", "route", "add", secondToRADIUS+"/128", "via", "fe80::1", "dev", "eth1"),
		second.Host.Do("ip", "address", "add", "fe80::1/64", "dev", "radius", "nodad"),
		second.Host.Do("ip", "address", "add", secondToRADIUS+"/128", "dev", "radius", "nodad"),
		second.Host.Do("ip", "route", "add", radiusAddr+"/128", "via", "fe80::2", "dev", "radius", "src", secondToRADIUS)))
	_, err = w.Run("gidserver", "database", "create", "--config", w.Config())
	w.must(err)
	_, err = w.Run("gidserver", "check-config", "--config", w.Config())
	w.must(err)
	relaying, err := relay.Start("dhcrelay", "-6", "-d", "--no-pid", "-I", "-s", relayLine, "-l", "down0", "-u", netlab.ServerAddr+"%up0", "-u", netlab.SecondAddr+"%up1")
	w.must(err)
	w.must(relaying.WaitLog("Sending on   Socket/", 10*time.Second))
	named := func(addr netip.Addr) bool { return zone.dig("laptop", "AAAA") == addr.String() }
	told := func(by, status string) (all []record) {
		for _, a := range r.accounts() {
			if a["NAS-Identifier"] == by && a["Acct-Status-Type"] == status {
				all = append(all, a)
			}
		}
		return all
	}
	until := func(what string, within time.Duration, ok func() bool) {
		t.Helper()
		w.must(netlab.Until(within, func() error {
			if ok() {
				return nil
			}
			return fmt.Errorf("%s: the accounts are %v, the name is %q", what, r.accounts(), zone.dig("laptop", "AAAA"))
		}))
	}

	w.must(w.Serve())
	c, err := w.client.NewClient("dhcpcd", "eth0", "hostname laptop", "hostname_short", "fqdn both", "option dhcp6_fqdn")
	w.must(err)
	logIfFailed(t, "the client", c.Log)
	w.must(c.Start())
	addr := w.leased(netip.MustParsePrefix(netlab.RelayPrefix))
	until("leased at the first", 20*time.Second, func() bool { return named(addr) && len(told("one", "Start")) == 1 })

	// The client goes on at the other server.
	w.must(second.Serve())
	w.must(w.KillServer())
	killed := time.Now()
	until("renewed at the second", 30*time.Second, func() bool { return len(told("two", "Interim-Update")) > 0 })
	until("its first lifetime is over", 60*time.Second, func() bool {
		return time.Since(killed) > 30*time.Second && len(told("two", "Interim-Update")) > 3
	})
	if !named(addr) {
		t.Errorf("it has lost its name: %q", zone.dig("laptop", "AAAA"))
	}
	if n := len(told("one", "Stop")) + len(told("two", "Stop")) + len(told("two", "Start")); n != 0 {
		t.Errorf("the lease goes on, and what is told is %v", r.accounts())
	}

	// Nobody is left but the first server.
	relaying.Kill()
	w.must(second.KillServer())
	w.must(w.Serve())
	until("it ran out", 120*time.Second, func() bool {
		return len(told("one", "Stop")) == 1 && zone.dig("laptop", "AAAA") == "" && zone.dig("laptop", "DHCID") == ""
	})
	w.must(second.Serve())
	until("the second is back", 20*time.Second, func() bool { return len(told("two", "Stop")) == 1 })
	start, first, again := told("one", "Start")[0], told("one", "Stop")[0], told("two", "Stop")[0]
	for _, key := range []string{"Acct-Session-Id", "Framed-IPv6-Address", "Acct-Session-Time", "Event-Timestamp"} {
		if first[key] == "" || first[key] != again[key] {
			t.Errorf("%s is %q as one server tells, %q as the other does", key, first[key], again[key])
		}
	}
	if start["Acct-Session-Id"] != first["Acct-Session-Id"] || first["Framed-IPv6-Address"] != addr.String() {
		t.Errorf("%v ends %v", first, start)
	}
	for _, s := range []*netlab.ISP{w.ISP, second} {
		if strings.Contains(s.Server.Log(), "DATA RACE") || strings.Contains(s.Server.Log(), "laptop") {
			t.Errorf("a gidserver wrote\n%s", s.Server.Log())
		}
		w.must(s.Server.Signal(syscall.SIGTERM))
	}
}
