package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/sava"
)

// capturePort is the port that all frames of a capture are said to come from.
const capturePort = 1

// maxFrame bounds a frame of a capture; what says it is longer is no capture.
const maxFrame = 256 << 10

func checkCommand() *cobra.Command {
	var o checkOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Judge the frames of a capture",
		Long: `Judge every frame of a capture as if it had come in at an access port, and print
how many there are of each verdict. Nothing is dropped or changed.

Bindings are what "gidserver leases --json" prints. A lease that names no
link-layer address may be used from any. Lifetimes are held against the times in
the capture. With the epoch keys, sources that the ISP never leased are called
forged, and others unbound.`,
		Example: `  gidserver leases --json >bindings
  tcpdump -i eth1 -w capture.pcap
  gidfilter check --read capture.pcap --bindings bindings --verdicts`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVarP(&o.capture, "read", "r", "", "capture in pcap format, a `file`")
	f.StringVarP(&o.bindings, "bindings", "b", "", "leases of the ISP's server, a `file`")
	o.forge.flags(c)
	f.BoolVar(&o.verdicts, "verdicts", false, "print the verdict of each frame")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	cli.Require(c, "read", "bindings")
	return c
}

type checkOptions struct {
	capture, bindings string
	forge             forgerOptions
	verdicts, asJSON  bool
}

func (o *checkOptions) run(c *cobra.Command) error {
	table, err := readBindings(o.bindings)
	if err != nil {
		return err
	}
	forger, err := o.forge.forger()
	if err != nil {
		return err
	}
	f, err := os.Open(o.capture)
	if err != nil {
		return err
	}
	defer f.Close()
	frames, err := pcapgo.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: not a capture in pcap format (of pcapng, make one with editcap -F pcap): %w", o.capture, err)
	}
	if frames.LinkType() != layers.LinkTypeEthernet {
		return fmt.Errorf("%s: a capture of %s, not of Ethernet", o.capture, frames.LinkType())
	}
	frames.SetSnaplen(maxFrame)

	out := bufio.NewWriter(c.OutOrStdout())
	filter := sava.NewFilter(table, nil, forger)
	var counts [sava.NumReasons]uint64
	n := 0
	for ; ; n++ {
		data, info, err := frames.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(out.Flush(), fmt.Errorf("%s: frame %d: %w", o.capture, n+1, err))
		}
		if err := c.Context().Err(); err != nil {
			return errors.Join(out.Flush(), fmt.Errorf("interrupted after %d frames", n))
		}
		v := filter.Check(capturePort, data, info.Timestamp)
		counts[v.Reason]++
		if o.verdicts {
			o.print(out, n+1, info.Timestamp, &v)
		}
	}
	if o.asJSON {
		err = printSummaryJSON(out, counts)
	} else {
		printSummary(out, n, counts)
	}
	return errors.Join(err, out.Flush())
}

// readBindings reads a JSON object a line, as "gidserver leases --json" prints.
func readBindings(path string) (*sava.Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	table := sava.NewTable(0, nil)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var l struct {
			Address    netip.Addr `json:"address"`
			Prefix     string     `json:"prefix"`
			State      string     `json:"state"`
			LinkLayer  string     `json:"link_layer"`
			ValidUntil time.Time  `json:"valid_until"`
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if !l.Address.Is6() || l.Address.Is4In6() || l.ValidUntil.IsZero() {
			return nil, fmt.Errorf("%s:%d: want an IPv6 address and valid_until", path, n)
		}
		if l.Prefix != "" {
			p, err := netip.ParsePrefix(l.Prefix)
			if err == nil {
				l.Address, err = sava.KeyOf(p.Masked())
			}
			if err != nil {
				return nil, fmt.Errorf("%s:%d: prefix: %w", path, n, err)
			}
		}
		b := sava.Binding{Anchor: sava.Anchor{Port: capturePort}, AnyVLAN: true, Until: l.ValidUntil}
		if l.LinkLayer != "" {
			mac, err := net.ParseMAC(l.LinkLayer)
			if err != nil || len(mac) != len(b.MAC) {
				return nil, fmt.Errorf("%s:%d: link_layer: %q is no Ethernet address", path, n, l.LinkLayer)
			}
			copy(b.MAC[:], mac)
		}
		if l.State == "declined" {
			continue // it was never the client's to use
		}
		if err := table.Bind(l.Address, b); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return table, nil
}

func (o *checkOptions) print(w io.Writer, n int, at time.Time, v *sava.Verdict) {
	src, mac := "", net.HardwareAddr(v.Anchor.MAC[:]).String()
	if v.Reason != sava.NotIPv6 && v.Reason != sava.Malformed {
		src = v.Src().String()
	}
	if o.asJSON {
		_ = json.NewEncoder(w).Encode(map[string]any{ // errs only as the writer does, which Flush tells
			"frame": n, "time": at, "verdict": v.Reason.String(), "source": src, "link_layer": mac,
		})
		return
	}
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%d %s %-12s %s %s", n, at.Format(time.RFC3339Nano), v.Reason, mac, src), " "))
}

func printSummary(w io.Writer, n int, counts [sava.NumReasons]uint64) {
	passed := uint64(0)
	for r, k := range counts {
		if sava.Reason(r).Pass() {
			passed += k
		}
	}
	fmt.Fprintf(w, "%d frames: %d would pass, %d would not\n", n, passed, uint64(n)-passed)
	for r, k := range counts {
		if k > 0 {
			verb := "dropped"
			if sava.Reason(r).Pass() {
				verb = "passed"
			}
			fmt.Fprintf(w, "  %-12s %10d %s\n", sava.Reason(r), k, verb)
		}
	}
}

func printSummaryJSON(w io.Writer, counts [sava.NumReasons]uint64) error {
	m := make(map[string]uint64)
	for r, k := range counts {
		m[sava.Reason(r).String()] = k
	}
	return json.NewEncoder(w).Encode(map[string]any{"verdicts": m})
}
