// Demo shows the project's main job in a lab of network namespaces on this
// machine: real DHCPv6 clients get traceable-anonymous addresses, only they can
// send from them, a message that one sends names its source, and a warrant with two of
// three trustees recovers the EIDs behind them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"brightgid/internal/netlab"
)

const (
	homeMAC  = "02:00:00:00:00:01"
	homeEID  = "user:alice@isp.example"
	flatMAC  = "02:00:00:00:00:02"
	flatLine = "line-4711"
	flatEID  = "subscriber:line-4711"

	neighbourMAC = "02:00:00:00:00:03"
)

func main() {
	bin := flag.String("bin", "bin", "`directory` of gidserver and tracectl")
	flag.Parse()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	lab, err := netlab.New()
	if err != nil {
		fail(err)
	}
	done := make(chan error, 1)
	go func() { done <- demo(lab, *bin) }()
	status := 0
	select {
	case err = <-done:
	case <-interrupted:
		err, status = errors.New("interrupted; cleaning up"), 130
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		status = max(status, 1)
	}
	if err := lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "demo: cleaning up:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "demo:", err)
	os.Exit(1)
}

func title(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }
func say(format string, args ...any)   { fmt.Printf("   "+format+"\n", args...) }

func demo(lab *netlab.Lab, bin string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	began := time.Now()
	title("An ISP, a court, the police and three trustees make their keys")
	isp, err := lab.NewISP(netlab.ISPOptions{
		Bin: bin, LogLevel: "debug", Lease: "preferred = \"30m\"\nvalid = \"1h\"",
		Table: map[string]string{homeMAC: homeEID}, LeaseQuery: true, Dealerless: true,
	})
	if err != nil {
		return err
	}
	say("trustees: judge, regulator and isp make the escrow key between them, without a dealer;")
	say("any two of them open an NID together, and each one's share is locked by a passphrase")
	say("a static table for a direct client, sealed by gidserver seal-table")

	title("Two homes: one on the server's link, one at an access device behind ISC dhcrelay")
	home, err := lab.Namespace("home")
	if err != nil {
		return err
	}
	if err := isp.Direct(home, homeMAC); err != nil {
		return err
	}
	device, err := isp.Access()
	if err != nil {
		return err
	}
	flat, err := device.Host("flat", flatMAC)
	if err != nil {
		return err
	}
	neighbour, err := device.Host("neighbour", neighbourMAC)
	if err != nil {
		return err
	}
	if err := device.TrustFilter(); err != nil {
		return err
	}
	if _, err := isp.DHCRelay(device.Router, flatLine); err != nil {
		return err
	}
	if err := isp.Zone(); err != nil {
		return err
	}
	if err := isp.Serve(); err != nil {
		return err
	}
	say("gidserver is serving; dhcrelay names the second home's line by a Subscriber-ID")
	if err := device.StartFilter(device.FollowServer()...); err != nil {
		return err
	}
	say("gidfilter guards the device's ports and follows the server's leases")

	title("ISC dhclient, unmodified, asks for an address in each")
	homeAddr, err := lease(home, netlab.DirectPrefix)
	if err != nil {
		return err
	}
	say("directly:       %s", homeAddr)
	flatAddr, err := lease(flat, netlab.RelayPrefix)
	if err != nil {
		return err
	}
	say("through relay:  %s", flatAddr)
	at := time.Now()
	out, err := isp.Run("gidserver", "leases", "--config", isp.Config())
	if err != nil {
		return err
	}
	say("")
	for line := range strings.Lines(out) {
		say("%s", strings.TrimRight(line, "\n"))
	}

	title("The last 64 bits are a GID: with the epoch key they say a subscriber number, no name")
	for _, a := range []netip.Addr{homeAddr, flatAddr} {
		out, err := isp.Decode(a, at)
		if err != nil {
			return err
		}
		say("%s  →  %s", a, strings.ReplaceAll(strings.TrimSpace(out), "\n", ", "))
	}
	forged := homeAddr.Next()
	if out, err := isp.Decode(forged, at); err == nil || strings.TrimSpace(out) != "forged" {
		return fmt.Errorf("an invented address was not called forged: %q, %v", out, err)
	}
	say("%s  →  forged (nobody leased it)", forged)

	if err := filter(isp, device, flat, neighbour, flatAddr); err != nil {
		return err
	}

	message, err := sendMail(isp, home, homeAddr)
	if err != nil {
		return err
	}
	title("gidserver's files and log hold no EID")
	for _, secret := range []string{"alice", flatLine} {
		found, err := isp.Search(secret)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("%q stands in %v", secret, found)
		}
		say("grep -r %-10q configuration, keys, database, log: nothing", secret)
	}

	for _, target := range []struct {
		name, eid string
		addr      netip.Addr
	}{{"flat", flatEID, flatAddr}, {"home", homeEID, homeAddr}} {
		title("Who had %s at %s?", target.addr, at.UTC().Format(time.RFC3339))
		if target.addr == homeAddr {
			say("it is the source of %s", message)
		}
		if err := trace(isp, target.name, target.addr, at, target.eid); err != nil {
			return err
		}
	}
	title("Anybody can examine the ledger, with its public key only")
	log := []string{"--log", isp.Path("ledger", "log"), "--vkey", isp.Path("ledger", "log.vkey"), "--roots", isp.Path("ledger", "roots.pem")}
	for _, c := range [][]string{{"list"}, {"verify"}, {"audit", "--threshold", "2"}} {
		out, err := isp.Run("tracectl", slices.Concat([]string{"ledger"}, c, log)...)
		if err != nil {
			return err
		}
		say("tracectl ledger %s", c[0])
		for line := range strings.Lines(out) {
			if !strings.Contains(line, " certificate ") {
				say("    %s", strings.TrimRight(line, "\n"))
			}
		}
	}
	out, err = isp.Run("tracectl", slices.Concat([]string{"ledger", "disclosed", "--address", flatAddr.String()}, log)...)
	if err != nil || !strings.Contains(out, "2 warrants are under seal") {
		return fmt.Errorf("the ledger tells of sealed warrants: %q, %v", out, err)
	}
	say("a subscriber asks (tracectl ledger disclosed): 2 warrants are under seal; nothing is told before the seals end")
	for _, secret := range []string{homeEID, flatEID, "somebody@example.org", "bob@example.net"} {
		if found, err := isp.Grep(secret, "ledger"); err != nil || len(found) > 0 {
			return fmt.Errorf("%q stands on the ledger: %v, %v", secret, found, err)
		}
	}
	say("grep -r for EIDs and mailboxes on the ledger: nothing. Of addresses it has those that mail came from")
	title("Done in %s; the lab is being removed", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// lease runs dhclient in a home and returns the address that it gets.
func lease(home *netlab.Namespace, prefix string) (addr netip.Addr, err error) {
	c, err := home.NewClient("dhclient", "eth0")
	if err != nil {
		return addr, err
	}
	if err := c.Start(); err != nil {
		return addr, err
	}
	p := netip.MustParsePrefix(prefix)
	err = netlab.Until(30*time.Second, func() error {
		addrs, err := home.Addresses("eth0")
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if p.Contains(a) {
				addr = a
				return nil
			}
		}
		return fmt.Errorf("dhclient got no address; it wrote:\n%s", c.Log())
	})
	return addr, err
}

// filter shows that the flat can send from its address, and its neighbour at the
// same device can not.
func filter(isp *netlab.ISP, device *netlab.Access, flat, neighbour *netlab.Namespace, addr netip.Addr) error {
	title("Only the flat can send from its address")
	if err := netlab.Until(10*time.Second, func() error {
		all, err := device.Bindings()
		if err == nil && !slices.ContainsFunc(all, func(b netlab.Binding) bool { return b.Address == addr.String() && b.Interface == "port0" }) {
			err = fmt.Errorf("%s is not bound to the flat's port; bindings: %+v", addr, all)
		}
		return err
	}); err != nil {
		return err
	}
	out, err := device.Run("bindings")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		say("%s", strings.TrimRight(line, "\n"))
	}
	say("")
	// The neighbour takes the address and knows the router's link-layer address,
	// so that nothing but the filter is in its way.
	mac, err := device.Router.LinkLayer("down0")
	if err != nil {
		return err
	}
	if err := errors.Join(
		neighbour.Do("ip", "address", "add", addr.String()+"/128", "dev", "eth0", "nodad"),
		neighbour.Do("ip", "neighbour", "replace", netlab.RelayDown, "lladdr", mac, "dev", "eth0"),
	); err != nil {
		return err
	}
	for _, host := range []struct {
		who    string
		ns     *netlab.Namespace
		passes bool
	}{{"the flat", flat, true}, {"its neighbour", neighbour, false}} {
		if err := errors.Join(host.ns.Do("ip", "route", "replace", netlab.RelayDown, "dev", "eth0"),
			host.ns.Do("ip", "route", "replace", "default", "via", netlab.RelayDown, "dev", "eth0")); err != nil {
			return err
		}
		f, err := netlab.StartFlow(host.ns, addr, isp.Host, netip.MustParseAddr(netlab.ServerAddr), 100, 10*time.Millisecond)
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		sent, lost, _, err := f.Stop()
		if err != nil {
			return err
		}
		if host.passes && lost > 0 || !host.passes && lost < sent || sent == 0 {
			return fmt.Errorf("%s sent %d datagrams and %d were lost", host.who, sent, lost)
		}
		say("%-14s sends %d datagrams from it: %d come back", host.who, sent, sent-lost)
	}
	if out, err = device.Run("drops"); err != nil {
		return err
	}
	if !strings.Contains(out, "wrong-anchor") || !strings.Contains(out, addr.String()) {
		return fmt.Errorf("gidfilter does not tell of the drops: %q", out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	say("")
	say("gidfilter drops:")
	say("%s", lines[0])
	say("%s", lines[len(lines)-1])
	return nil
}

// sendMail sends a message from a home through two relays, and shows where it says that it
// came from. It returns the file in which it was received.
func sendMail(isp *netlab.ISP, home *netlab.Namespace, addr netip.Addr) (string, error) {
	title("A message from the first home, through two relays: Postfix with gidmilter")
	last, err := isp.MailRelay("relay2", 2, netlab.MailRelayOptions{})
	if err != nil {
		return "", err
	}
	first, err := isp.MailRelay("relay1", 1, netlab.MailRelayOptions{Next: last})
	if err != nil {
		return "", err
	}
	if _, err := isp.Unbound(); err != nil {
		return "", err
	}
	if err := errors.Join(last.Start(), first.Start(), isp.Routes(home)); err != nil {
		return "", err
	}
	if err := home.Do("swaks", "--server", first.Addr.String(), "--local-interface", addr.String(), "--helo", "home.example",
		"--from", "somebody@example.org", "--to", "bob@example.net", "--header", "Subject: hello", "--body", "Guess who."); err != nil {
		return "", err
	}
	var text string
	if err := netlab.Until(30*time.Second, func() error {
		all, err := last.Received()
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d messages have come; the relays wrote:\n%s%s", len(all), first.Log(), last.Log())
		}
		if err == nil {
			text = all[0]
		}
		return err
	}); err != nil {
		return "", err
	}
	path := isp.Path("message.eml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", err
	}
	show := false
	for line := range strings.Lines(text) { // the fields that the relays added, and what was sent
		if line[0] != ' ' && line[0] != '\t' {
			show = strings.HasPrefix(line, "Bright-") || strings.HasPrefix(line, "Authentication-Results") || strings.HasPrefix(line, "From:") || strings.HasPrefix(line, "Subject:")
		}
		if show {
			say("  %s", strings.TrimRight(line, "\n"))
		}
	}
	say("")
	say("the received file, checked hop by hop with the ledger (tracectl mail verify):")
	var out string
	if err := netlab.Until(20*time.Second, func() (err error) { // records come behind the dialogue
		out, err = isp.Run("tracectl", "mail", "verify", "--ledger", isp.Path("ledger"), path)
		return err
	}); err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		say("  %s", strings.TrimRight(line, "\n"))
	}
	if !strings.Contains(out, addr.String()) || strings.Count(out, "holds") != 2 {
		return "", fmt.Errorf("the chain does not lead to %s:\n%s", addr, out)
	}
	forged := isp.Path("forged.eml")
	if err := os.WriteFile(forged, []byte(strings.Replace(text, "Guess who.", "Guess what.", 1)), 0o600); err != nil {
		return "", err
	}
	if err := refused(isp, netlab.Step{Program: "tracectl", Args: []string{"mail"}}, []string{"mail", "verify", "--ledger", isp.Path("ledger"), forged}, "does not hold", 22); err != nil {
		return "", err
	}
	say("the same with another word in its body: refused")
	return filepath.Base(path), nil
}

// trace takes the steps of a trace and shows each command.
func trace(isp *netlab.ISP, name string, addr netip.Addr, at time.Time, want string) error {
	var report string
	steps := isp.TraceSteps(name, addr, at)
	show := func(step netlab.Step, text string) {
		verb := step.Args[0]
		if verb == "warrant" {
			verb += " " + step.Args[1]
		}
		say("%-18s %s %-14s %s", step.Who+":", step.Program, verb, strings.ReplaceAll(text, isp.Dir+"/", ""))
	}
	for i, step := range steps {
		switch {
		case step.Args[0] == "warrant" && step.Args[1] == "submit":
			// Before the warrant stands on the ledger nobody answers it.
			next := steps[i+1]
			if err := refused(isp, next, next.Args, "does not stand on the ledger", 3); err != nil {
				return err
			}
			show(next, "refused: the warrant does not stand on the ledger")
		case step.Args[0] == "recover":
			last := slices.Index(step.Args, "--approval")
			if err := refused(isp, step, slices.Delete(slices.Clone(step.Args), last, last+2), "too few shares: 1 of the 2 needed", 14); err != nil {
				return err
			}
			show(step, "refused with one approval: too few shares: 1 of the 2 needed")
		}
		out, err := isp.Run(step.Program, step.Args...)
		if err != nil {
			return fmt.Errorf("%s: %w", step.Who, err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
		switch step.Args[0] {
		case "recover":
			report, first = out, "with both; the disclosure stands on the ledger"
		case "verify":
			first = fmt.Sprintf("%d checks of the report, offline, by public keys: all hold", strings.Count(out, "holds  "))
		}
		show(step, first)
	}
	eids, err := netlab.Persons(report)
	if err != nil {
		return err
	}
	if len(eids) != 1 || eids[0] != want {
		return fmt.Errorf("recovered %q, want %q", eids, want)
	}
	say("")
	say("EID: %s", eids[0])
	return forgery(isp, name, steps[len(steps)-1], want)
}

// refused takes a step that must fail, with a text and an exit status.
func refused(isp *netlab.ISP, step netlab.Step, args []string, text string, status int) error {
	_, err := isp.Run(step.Program, args...)
	var exit *exec.ExitError
	if err == nil || !strings.Contains(err.Error(), text) || !errors.As(err, &exit) || exit.ExitCode() != status {
		return fmt.Errorf("%s was not refused with %q and status %d: %v", step.Args[0], text, status, err)
	}
	return nil
}

// forgery changes the name in a report, which everybody finds.
func forgery(isp *netlab.ISP, name string, verify netlab.Step, eid string) error {
	b, err := os.ReadFile(isp.Path(name + ".report"))
	if err != nil {
		return err
	}
	path := isp.Path(name + ".forged")
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), eid, "user:mallory@isp.example", 1)), 0o600); err != nil {
		return err
	}
	args := slices.Clone(verify.Args)
	args[len(args)-1] = path
	if err := refused(isp, verify, args, "findings[0].persons[0].eid", 17); err != nil {
		return err
	}
	say("the report with another name in it: refused, findings[0].persons[0].eid is not what the shares open")
	return nil
}
