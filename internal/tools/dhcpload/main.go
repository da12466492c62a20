// Command dhcpload makes many DHCPv6 clients behind one relay and measures their server, any
// server: closed and open loops, four messages, Rapid Commit, renewals, prefix delegation. It
// checks that no two clients hold the same address.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/netlab"
)

func main() { cli.Main(command()) }

// report is what is printed.
type report struct {
	Kind      netlab.Kind `json:"kind"`
	Exchanges int         `json:"exchanges"`
	Refused   int         `json:"refused"` // without a lease
	Resent    int         `json:"resent"`  // messages
	Seconds   float64     `json:"seconds"`
	PerSecond float64     `json:"per_second"`
	P50       float64     `json:"p50_ms"`
	P99       float64     `json:"p99_ms"`
	P999      float64     `json:"p999_ms"`
	LateP99   float64     `json:"late_p99_ms"`  // how late exchanges of an open loop began
	DelayP50  float64     `json:"delay_p50_ms"` // without what the load itself took, of an open loop
	DelayP99  float64     `json:"delay_p99_ms"`
}

func command() *cobra.Command {
	var servers []string
	var listen, link, kind string
	var clients, open, rate int
	var first uint32
	var asJSON, singly, rests bool
	c := &cobra.Command{
		Use:   "dhcpload",
		Short: "Load a DHCPv6 server by many clients behind one relay",
		Long: `Load a DHCPv6 server by many clients behind one relay, which this program is: the server
must know the link-address, and, where it trusts relays only, the address that is listened
at. Clients name their lines by an Interface-ID, port-00000000 and so on.

Renewals are of clients that have just had their leases by four messages, which is not
measured. With --rate exchanges begin at a steady pace, and latencies count from when they
had to begin; the load does not sleep then, and needs a processor to itself. On a virtual
machine whose host counts the processor time of its disk, too, such a load may have the
server stand still: with --rest it looks only every quarter of a millisecond, which is in
the latencies. It is not in the delays, which count from when each message was handed to the
kernel until the kernel had its answer.

Do not point it at a server that others need.`,
		Example: `  dhcpload --listen [2001:db8:ff::2]:547 --server [2001:db8:ff::1]:547 --link 2001:db8:2::1 --clients 100000`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var to []netip.AddrPort
			var err1 error
			for _, s := range servers {
				a, err := netip.ParseAddrPort(s)
				to, err1 = append(to, a), errors.Join(err1, err)
			}
			from, err2 := netip.ParseAddrPort(listen)
			on, err3 := netip.ParseAddr(link)
			switch {
			case err1 != nil || err2 != nil:
				return cli.Usagef("--server and --listen: want an address and a port, as [2001:db8::1]:547")
			case err3 != nil:
				return cli.Usagef("--link: %q is no address", link)
			case !slices.Contains(netlab.Kinds, netlab.Kind(kind)):
				return cli.Usagef("--kind %q: want one of %v", kind, netlab.Kinds)
			case clients < 1 || clients > 1<<23 || open < 1 || rate < 0:
				return cli.Usagef("want 1 to %d clients, an exchange open or more, and no rate below 0", 1<<23)
			case rests && rate == 0:
				return cli.Usagef("--rest is for an open loop; say --rate as well")
			}
			conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(from))
			if err != nil {
				return err
			}
			defer conn.Close()
			l := netlab.Load{Conn: conn, Server: to[0], Others: to[1:], Link: on, Open: open, First: first, Total: clients, Stop: c.Context().Done(), Keep: true, Kind: netlab.Kind(kind), Singly: singly, Rests: rests}
			const quiet = 10 * time.Second
			if l.Kind == netlab.Renew {
				before := l
				before.Kind = netlab.FourMessages
				r, err := before.Run(quiet)
				if err != nil {
					return fmt.Errorf("leases to renew: %w", err)
				}
				l.Known = r.Held
			}
			l.Rate = rate
			r, err := l.Run(quiet)
			if err != nil {
				return err
			}
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			out := report{
				l.Kind, r.Exchanges, r.Refused, r.Resent, r.Elapsed.Seconds(), float64(r.Exchanges) / r.Elapsed.Seconds(),
				ms(r.Percentile(0.5)), ms(r.Percentile(0.99)), ms(r.Percentile(0.999)), ms(r.LatePercentile(0.99)), ms(r.DelayPercentile(0.5)), ms(r.DelayPercentile(0.99)),
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(out)
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintf(t, "exchanges\t%d (%s), %d without a lease, %d messages sent again\n", out.Exchanges, out.Kind, out.Refused, out.Resent)
			fmt.Fprintf(t, "rate\t%.0f a second\n", out.PerSecond)
			fmt.Fprintf(t, "latency\t%.2f ms (median), %.2f ms (99 of 100), %.2f ms (999 of 1000)\n", out.P50, out.P99, out.P999)
			if rate > 0 {
				fmt.Fprintf(t, "delay\t%.2f ms (median), %.2f ms (99 of 100): the latency without what the load itself took\n", out.DelayP50, out.DelayP99)
				fmt.Fprintf(t, "began late\t%.2f ms (99 of 100), which is in the latency and the load's own fault\n", out.LateP99)
			}
			return t.Flush()
		},
	}
	var kinds []string
	for _, k := range netlab.Kinds {
		kinds = append(kinds, string(k))
	}
	f := c.Flags()
	f.StringSliceVar(&servers, "server", nil, "the server's `address:port`; of several, each message goes to the next")
	f.StringVar(&listen, "listen", "[::]:547", "the relay's `address:port`")
	f.StringVar(&link, "link", "", "the relay's link-`address`")
	f.StringVar(&kind, "kind", string(netlab.FourMessages), "what clients do: "+strings.Join(kinds, ", "))
	f.IntVar(&clients, "clients", 10_000, "how `many` clients")
	f.Uint32Var(&first, "first", 0, "`number` of the first client; others are others")
	f.IntVar(&open, "open", 64, "exchanges that are open at once, in a closed loop")
	f.IntVar(&rate, "rate", 0, "exchanges begun a `second`, in an open loop; 0 for a closed one")
	f.BoolVar(&rests, "rest", false, "have an open loop rest where there is nothing to read")
	f.BoolVar(&singly, "singly", false, "have the kernel send and take each datagram by itself, and not as one those that go together")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "server")
	cli.Require(c, "link")
	return c
}
