package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/control"
	"brightgid/sava"
	"brightgid/sava/leasequery"
)

// drop is a frame that did not pass.
type drop struct {
	Time      time.Time `json:"time"`
	Interface string    `json:"interface"`
	Reason    string    `json:"reason"`
	Source    string    `json:"source"`
	LinkLayer string    `json:"link_layer"`
	VLAN      string    `json:"vlan,omitempty"`
}

// samples keeps the last drops that were sampled.
type samples struct {
	mu   sync.Mutex
	last [256]drop
	n    int
}

func (s *samples) add(d drop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[s.n%len(s.last)] = d
	s.n++
}

// all returns the samples, the oldest first.
func (s *samples) all() []drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []drop
	for i := max(0, s.n-len(s.last)); i < s.n; i++ {
		out = append(out, s.last[i%len(s.last)])
	}
	return out
}

// portStats is how many frames of each reason a port has seen.
type portStats struct {
	Interface string            `json:"interface"`
	Trusted   bool              `json:"trusted"`
	XDP       string            `json:"xdp"`
	Frames    map[string]uint64 `json:"frames"`
}

type stats struct {
	Enforce      bool               `json:"enforce"`
	Bindings     int                `json:"bindings"`
	Ports        []portStats        `json:"ports"`
	LeaseQuery   *leasequery.Status `json:"leasequery,omitempty"`
	Injected     uint64             `json:"injected"`      // frames that user space let pass
	InjectErrors uint64             `json:"inject_errors"` // of those, that were lost
}

func (f *filter) stats() (stats, error) {
	s := stats{Enforce: f.enforce, Bindings: f.table.Len(), Injected: f.program.Injected.Load(), InjectErrors: f.program.InjectErrors.Load()}
	for i, p := range f.ports {
		counts, err := f.program.Counters(i)
		if err != nil {
			return s, err
		}
		frames := make(map[string]uint64)
		for r := range sava.NumReasons {
			frames[r.String()] = counts[r] + f.judged[i][r].Load()
		}
		s.Ports = append(s.Ports, portStats{p.Name, p.Trusted, f.program.Mode(i), frames})
	}
	if f.client != nil {
		st := f.client.Status()
		s.LeaseQuery = &st
	}
	return s, nil
}

// bindingView is how a binding is printed.
type bindingView struct {
	Address   netip.Addr `json:"address"`          // the first of a prefix
	Prefix    string     `json:"prefix,omitempty"` // that was delegated
	Interface string     `json:"interface,omitempty"`
	LinkLayer string     `json:"link_layer,omitempty"`
	VLAN      string     `json:"vlan,omitempty"`
	Until     time.Time  `json:"until"`
}

// source returns what may be used as a source: an address, or those of a prefix.
func (v *bindingView) source() netip.Prefix {
	if p, err := netip.ParsePrefix(v.Prefix); err == nil {
		return p
	}
	return netip.PrefixFrom(v.Address, 128)
}

func vlanString(tags uint32) string {
	switch outer, inner := tags>>16, tags&0xffff; {
	case tags == 0:
		return ""
	case inner == 0:
		return fmt.Sprint(outer)
	default:
		return fmt.Sprintf("%d.%d", outer, inner)
	}
}

func (f *filter) controlHandler() http.Handler {
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(v) // errs as the connection does
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		s, err := f.stats()
		answer(w, s, err)
	})
	mux.HandleFunc("GET /drops", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.samples.all(), nil) })
	mux.HandleFunc("GET /bindings", func(w http.ResponseWriter, _ *http.Request) {
		out := bufio.NewWriter(w)
		enc := json.NewEncoder(out)
		var err error
		f.table.Each(func(a netip.Addr, b sava.Binding) bool {
			prefix := ""
			if p, ok := sava.PrefixOf(a); ok {
				a, prefix = p.Addr(), p.String()
			}
			v := bindingView{Address: a, Prefix: prefix, Interface: f.names[b.Port], VLAN: vlanString(b.VLAN), Until: b.Until}
			if !b.MAC.IsZero() {
				v.LinkLayer = net.HardwareAddr(b.MAC[:]).String()
			}
			err = enc.Encode(v)
			return err == nil
		})
		if errors.Join(err, out.Flush()) != nil {
			panic(http.ErrAbortHandler) // so that the reader sees that the list is cut
		}
	})
	return mux
}

// ask asks the filter that runs, and calls f with its answer.
func ask(socket, path string, f func(io.Reader) error) error {
	resp, err := control.Client(socket).Get("http://gidfilter" + path)
	if err != nil {
		return fmt.Errorf("no filter answers at %s (is gidfilter running? see --control): %w", socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // a part of it is better than none
		return fmt.Errorf("the filter says: %s", text)
	}
	return f(resp.Body)
}

func controlFlag(c *cobra.Command, socket *string, asJSON *bool) {
	c.Flags().StringVar(socket, "control", defaultControl, "`path` of the filter's socket")
	c.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

func statsCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use:   "stats",
		Short: "Tell what the filter that runs has passed and dropped",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return ask(socket, "/stats", func(r io.Reader) error {
				var s stats
				if err := json.NewDecoder(r).Decode(&s); err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(c.OutOrStdout()).Encode(s)
				}
				return s.print(c.OutOrStdout())
			})
		},
	}
	controlFlag(c, &socket, &asJSON)
	return c
}

func (s *stats) print(w io.Writer) error {
	mode := "monitors"
	if s.Enforce {
		mode = "enforces"
	}
	fmt.Fprintf(w, "The filter %s %d bindings.\n", mode, s.Bindings)
	if q := s.LeaseQuery; q != nil {
		switch {
		case q.Connected && !q.Synced.IsZero():
			fmt.Fprintf(w, "It follows the server's leases, whole at %s, with %d changes.\n", q.Synced.Format(time.RFC3339), q.Changes)
		case !q.Synced.IsZero():
			fmt.Fprintf(w, "It has lost its server; the leases were whole at %s.\n", q.Synced.Format(time.RFC3339))
		default:
			fmt.Fprintln(w, "It has not reached its server yet.")
		}
	}
	if s.InjectErrors > 0 {
		fmt.Fprintf(w, "%d frames that pass were lost; see its log.\n", s.InjectErrors)
	}
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "INTERFACE\tXDP\tREASON\tFRAMES\t")
	for _, p := range s.Ports {
		for r := range sava.NumReasons {
			if n := p.Frames[r.String()]; n > 0 {
				verdict := "dropped"
				if r.Pass() {
					verdict = "passed"
				} else if !s.Enforce {
					verdict = "would be dropped"
				}
				fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%s\n", p.Interface, p.XDP, r, n, verdict)
			}
		}
	}
	return out.Flush()
}

func dropsCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use:   "drops",
		Short: "List frames that the filter dropped lately",
		Long: `List frames that the filter dropped lately, or would have dropped in mode monitor:
a sample, of a hundred a second and port at most, of which the last 256 are kept.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return ask(socket, "/drops", func(r io.Reader) error {
				var all []drop
				if err := json.NewDecoder(r).Decode(&all); err != nil {
					return err
				}
				enc := json.NewEncoder(c.OutOrStdout())
				out := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
				if !asJSON {
					fmt.Fprintln(out, "TIME\tINTERFACE\tREASON\tSOURCE\tLINK-LAYER\tVLAN")
				}
				for _, d := range all {
					if asJSON {
						if err := enc.Encode(d); err != nil {
							return err
						}
						continue
					}
					fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Time.Format("15:04:05.000"), d.Interface, d.Reason, d.Source, d.LinkLayer, d.VLAN)
				}
				return out.Flush()
			})
		},
	}
	controlFlag(c, &socket, &asJSON)
	return c
}

func bindingsCommand() *cobra.Command {
	var socket, address string
	var asJSON bool
	c := &cobra.Command{
		Use:   "bindings",
		Short: "List who may send from which address",
		Long: `List the bindings of the filter that runs: the address or delegated prefix, and the
interface, VLAN and link-layer address that it may be used from. One without any of them is leased,
but the filter has not found out to whom.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var want netip.Addr
			if address != "" {
				var err error
				if want, err = netip.ParseAddr(address); err != nil {
					return cli.Usagef("--address: %q is no address", address)
				}
			}
			return ask(socket, "/bindings", func(r io.Reader) error {
				dec := json.NewDecoder(r)
				enc := json.NewEncoder(c.OutOrStdout())
				out := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
				if !asJSON {
					fmt.Fprintln(out, "ADDRESS\tINTERFACE\tLINK-LAYER\tVLAN\tUNTIL")
				}
				for {
					var v bindingView
					if err := dec.Decode(&v); errors.Is(err, io.EOF) {
						return out.Flush()
					} else if err != nil {
						return errors.Join(out.Flush(), err)
					}
					switch {
					case want.IsValid() && !v.source().Contains(want):
					case asJSON:
						if err := enc.Encode(v); err != nil {
							return err
						}
					default:
						what := v.Prefix
						if what == "" {
							what = v.Address.String()
						}
						fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", what, v.Interface, v.LinkLayer, v.VLAN, v.Until.Format(time.RFC3339))
					}
				}
			})
		},
	}
	controlFlag(c, &socket, &asJSON)
	c.Flags().StringVar(&address, "address", "", "only the binding of an `address`, or of the prefix that it is in")
	return c
}
