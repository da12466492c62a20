package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/ledgerfile"
	"brightgid/ledgeranchor"
	"brightgid/mail"
)

func mailCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "mail",
		Short: "Check a message's hop chain, and find hops on the ledger",
		Long: `A relay writes into a message's header where it came from (Bright-Source) and that it
passed it on (Bright-Hop), and records that on the ledger:

  verify   check a message's chain; what does not hold is named
  find     find hops by their source, or by a message`,
	}
	c.AddCommand(mailVerifyCommand(), mailFindCommand())
	return c
}

// hops is a ledger in which hops are looked up: by its index where there is one, else by
// reading all of it.
type hops struct {
	members *ledgeranchor.Members
	ledger  ledgeranchor.Ledger // nil for a log that is read
	records map[ledgeranchor.Hash]*ledgeranchor.Entry
	close   func() error
}

// openHops opens the ledger that hops are looked up in; nil if there is only whom to
// trust.
func (s *source) openHops(ctx context.Context) (*hops, error) {
	if s.ledger != "" || s.fabric != "" {
		if s.log != "" || s.ledger != "" && s.fabric != "" {
			return nil, cli.Usagef("want one of --ledger, --log and --fabric")
		}
		l, m, err := ledgerfile.Open(ctx, s.ledger, s.fabric)
		if err != nil {
			return nil, err
		}
		return &hops{members: m, ledger: l, close: l.Close}, nil
	}
	if s.log == "" {
		_, m, err := s.trust()
		return &hops{members: m, close: func() error { return nil }}, err
	}
	r, err := s.reader()
	if err != nil {
		return nil, err
	}
	h := &hops{records: make(map[ledgeranchor.Hash]*ledgeranchor.Entry), close: func() error { return nil }}
	for e, err := range r.Entries(ctx, 0) {
		if err != nil {
			return nil, err
		}
		if e.Record.Kind == ledgeranchor.KindHop {
			h.records[e.Signed.Name()] = e
		}
	}
	h.members = r.Members()
	roots, err := readCertificates([]string{s.roots})
	for _, c := range roots {
		_ = h.members.Add(c, time.Now()) // an issuer's certificate need not be fit to sign records
	}
	return h, err
}

// certificate finds a relay's certificate.
func (h *hops) certificate(ctx context.Context) func(ledgeranchor.Hash) (*x509.Certificate, bool) {
	return func(author ledgeranchor.Hash) (*x509.Certificate, bool) {
		if c, ok := h.members.Certificate(author); ok || h.ledger == nil {
			return c, ok
		}
		for e, err := range h.ledger.Find(ctx, ledgeranchor.Query{Kind: ledgeranchor.KindCertificate}) {
			if err != nil {
				return nil, false
			}
			if e.Record.Author == author {
				c, err := x509.ParseCertificate(e.Record.Body)
				return c, err == nil && h.members.Add(c, e.Record.At()) == nil
			}
		}
		return nil, false
	}
}

// record returns what looks records up; nil offline.
func (h *hops) record(ctx context.Context) func(ledgeranchor.Hash) (*ledgeranchor.Record, error) {
	switch {
	case h.ledger != nil:
		return func(name ledgeranchor.Hash) (*ledgeranchor.Record, error) {
			e, err := h.ledger.Get(ctx, name)
			if err != nil {
				return nil, err
			}
			return e.Record, nil
		}
	case h.records != nil:
		return func(name ledgeranchor.Hash) (*ledgeranchor.Record, error) {
			if e := h.records[name]; e != nil {
				return e.Record, nil
			}
			return nil, ledgeranchor.ErrNotFound
		}
	}
	return nil
}

// find returns the hops that a query asks for, in the order of their times.
func (h *hops) find(ctx context.Context, q ledgeranchor.Query) ([]*ledgeranchor.Entry, error) {
	var out []*ledgeranchor.Entry
	if h.ledger != nil {
		for e, err := range h.ledger.Find(ctx, q) {
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	}
	for _, e := range h.records {
		if q.Wants(e.Record) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *ledgeranchor.Entry) int {
		if a.Record.Time != b.Record.Time {
			return int(int64(a.Record.Time) - int64(b.Record.Time))
		}
		return int(int64(a.Position) - int64(b.Position))
	})
	return out, nil
}

func readMail(path string) (*mail.Message, *mail.Chain, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	m, err := mail.ReadMessage(f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	c, err := m.Chain()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, c, nil
}

type hopView struct {
	Place    int               `json:"place"`
	Relay    string            `json:"relay"`
	Stage    string            `json:"stage"`
	Clock    uint64            `json:"clock"`
	Time     time.Time         `json:"time"`
	Record   ledgeranchor.Hash `json:"record"`
	Problems []string          `json:"problems"`
}

type mailView struct {
	Source   string    `json:"source,omitempty"`
	Realm    string    `json:"realm,omitempty"`
	Live     mail.Live `json:"live"`
	At       time.Time `json:"at"`
	Holds    bool      `json:"holds"`
	OnLedger bool      `json:"checked_on_ledger"`
	Hops     []hopView `json:"hops"`
}

func mailVerifyCommand() *cobra.Command {
	var s source
	c := &cobra.Command{
		Use:   "verify MESSAGE",
		Short: "Check the hop chain in a message's header",
		Long: `Check the hop chain of a message, a file as it was received: each relay's signature
over all that stands before it, the order of their clocks, and that the message is what
each passed on. With a ledger each hop's record is checked as well; without one,
offline, the relays' certificates must be among --roots.

The first hop that does not hold is named. Ends with status 22 if one does not.`,
		Example: `  tracectl mail verify --ledger /var/lib/gid-ledger message.eml
  tracectl mail verify --vkey log.vkey --roots relays.pem message.eml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, chain, err := readMail(args[0])
			if err != nil {
				return err
			}
			h, err := s.openHops(c.Context())
			if err != nil {
				return err
			}
			v := &mail.Verifier{Certificate: h.certificate(c.Context()), Record: h.record(c.Context())}
			verdicts, failed := v.Verify(chain, m.Content)
			if err := h.close(); err != nil {
				return err
			}
			if err := printChain(c.OutOrStdout(), chain, verdicts, failed == nil, v.Record != nil, s.asJSON); err != nil {
				return err
			}
			if failed != nil {
				return fmt.Errorf("%s: %w", args[0], failed)
			}
			return nil
		},
	}
	s.add(c)
	return c
}

func printChain(w io.Writer, chain *mail.Chain, verdicts []mail.Verdict, holds, onLedger, asJSON bool) error {
	view := mailView{Realm: chain.Source.Realm, Live: chain.Source.Live, At: chain.Source.At, Holds: holds, OnLedger: onLedger}
	if chain.Source.Address.IsValid() {
		view.Source = chain.Source.Address.String()
	}
	for _, x := range verdicts {
		view.Hops = append(view.Hops, hopView{x.Hop.Place, x.Hop.Relay, x.Hop.Stage.String(), x.Hop.Clock, x.Hop.At, x.Hop.Record, append([]string{}, x.Problems...)})
	}
	if asJSON {
		return printJSON(w, view)
	}
	from := view.Source
	if from == "" {
		from = "a source without an IPv6 address"
	}
	fmt.Fprintf(w, "from %s, realm %s, live check %s, at %s\n", from, orNone(view.Realm), view.Live, view.At.Format(time.RFC3339))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, x := range view.Hops {
		verdict := "holds"
		if len(x.Problems) > 0 {
			verdict = "FAILS: " + x.Problems[0]
		}
		fmt.Fprintf(t, "%d\t%s\t%s\tclock %d\t%s\t%s\n", x.Place, x.Relay, x.Stage, x.Clock, x.Time.Format(time.RFC3339), verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !onLedger {
		fmt.Fprintln(w, "The records on the ledger were not looked at.")
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func mailFindCommand() *cobra.Command {
	var s source
	var gid, message, sender, recipient, since, until string
	c := &cobra.Command{
		Use:   "find",
		Short: "Find hops on the ledger",
		Long: `Find the hops that relays have recorded, by the source address that messages came
from, or of a message that is at hand. With --from or --to only those whose envelope was
from or to a mailbox: the ledger has tags of mailboxes only, which the message's salt
makes comparable. --since and --until are times.`,
		Example: `  tracectl mail find --ledger /var/lib/gid-ledger --gid 2001:db8:1:0:c7e2:7e0b:911e:c94b
  tracectl mail find --ledger /var/lib/gid-ledger --message message.eml --to bob@example.net`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			q := ledgeranchor.Query{Kind: ledgeranchor.KindHop}
			var salt mail.Salt
			switch {
			case (gid == "") == (message == ""):
				return cli.Usagef("want either --gid or --message")
			case gid != "":
				if q.Address, err = netip.ParseAddr(gid); err != nil {
					return cli.Usagef("--gid: %v", err)
				}
				if sender != "" || recipient != "" {
					return cli.Usagef("--from and --to need the salt of a --message")
				}
			default:
				_, chain, err := readMail(message)
				if err != nil {
					return err
				}
				q.Message, salt = chain.Message(), chain.Source.Salt
			}
			for _, x := range []struct {
				flag, text string
				to         *time.Time
			}{{"since", since, &q.From}, {"until", until, &q.Until}} {
				if x.text != "" {
					if *x.to, err = cli.ParseTime(x.text); err != nil {
						return cli.Usagef("--%s: %v", x.flag, err)
					}
				}
			}
			if err := q.Check(); err != nil {
				return cli.UsageError{Err: err}
			}
			if s.ledger == "" && s.log == "" && s.fabric == "" {
				return cli.Usagef("want one of --ledger, --log and --fabric")
			}
			h, err := s.openHops(c.Context())
			if err != nil {
				return err
			}
			found, err := h.find(c.Context(), q)
			if err := errors.Join(err, h.close()); err != nil {
				return err
			}
			found = slices.DeleteFunc(found, func(e *ledgeranchor.Entry) bool { return !concerns(e.Record, salt, sender, recipient) })
			return printHops(c.Context(), c.OutOrStdout(), h, found, s.asJSON)
		},
	}
	s.add(c)
	f := c.Flags()
	f.StringVar(&gid, "gid", "", "hops of messages from an `address`")
	f.StringVar(&message, "message", "", "hops of a message, a `file`")
	f.StringVar(&sender, "from", "", "only if the envelope was from a `mailbox`")
	f.StringVar(&recipient, "to", "", "only if the envelope was to a `mailbox`")
	f.StringVar(&since, "since", "", "hops of this `time` or later")
	f.StringVar(&until, "until", "", "hops of this `time` or earlier")
	return c
}

// concerns reports whether a hop's envelope was from and to mailboxes.
func concerns(r *ledgeranchor.Record, salt mail.Salt, sender, recipient string) bool {
	if sender == "" && recipient == "" {
		return true
	}
	e, err := mail.EnvelopeOf(r)
	return err == nil && (sender == "" || e.From == salt.TagOf(mail.RoleFrom, sender)) &&
		(recipient == "" || slices.Contains(e.To, salt.TagOf(mail.RoleTo, recipient)))
}

func printHops(ctx context.Context, w io.Writer, h *hops, found []*ledgeranchor.Entry, asJSON bool) error {
	if asJSON {
		lines := json.NewEncoder(w)
		for _, e := range found {
			if err := lines.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	certificate := h.certificate(ctx)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tSTAGE\tCLOCK\tRELAY\tSOURCE\tMESSAGE\tRECORD")
	for _, e := range found {
		r, relay, from := e.Record, e.Record.Author.String()[:16], "-"
		if c, ok := certificate(r.Author); ok {
			relay = c.Subject.CommonName
		}
		if len(r.Addresses) > 0 {
			from = r.Addresses[0].Addr().String()
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", r.At().Format(time.RFC3339), r.Hop.Stage, r.Hop.Clock, relay, from, r.Message.String()[:16], e.Signed.Name().String()[:16])
	}
	return t.Flush()
}
