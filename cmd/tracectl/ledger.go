package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"

	"brightgid/internal/cli"
	"brightgid/internal/ledgerfile"
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/embedded"
	"brightgid/ledgeranchor/fabric"
)

func ledgerCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ledger",
		Short: "Keep and examine the ledger on which warrants and disclosures stand",
		Long: `The ledger is a log to which records can be added and from which none can be taken.
Whoever has its public key can examine it, from its files or from a web server that
serves them:

  anybody    list, show, verify, audit, disclosed
  its keeper init`,
	}
	c.AddCommand(ledgerInitCommand(), ledgerListCommand(), ledgerShowCommand(), ledgerVerifyCommand(), ledgerAuditCommand(), ledgerDisclosedCommand())
	return c
}

func ledgerInitCommand() *cobra.Command {
	var dir, origin string
	var roots []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "init",
		Short: "Make an empty ledger on this machine",
		Long: `Make a directory with an empty log, its key, and the certificates of those who may
write, or of authorities that issue theirs. Give log.vkey and roots.pem to whoever
shall examine the ledger, and publish log/ if you like.`,
		Example: `  tracectl ledger init --ledger /var/lib/gid-ledger --origin isp.example/gid-ledger \
      --root court.pem --root isp.pem --root judge.pem --root police.pem`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			certs, err := readCertificates(roots)
			if err != nil {
				return err
			}
			if err := embedded.Create(dir, origin, certs); err != nil {
				return err
			}
			l, err := embedded.Open(c.Context(), dir, embedded.Options{})
			if err != nil {
				return err
			}
			if err := l.Close(); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"directory": dir, "origin": origin, "roots": len(certs)})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: the log %s, with %d roots\n", dir, origin, len(certs))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "ledger", "", "the ledger, a new `directory`")
	f.StringVar(&origin, "origin", "", "`name` of the log, as no other has")
	f.StringSliceVar(&roots, "root", nil, "certificates of members, or of those who issue theirs, `file`s")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "ledger", "origin", "root")
	return c
}

// examined is a ledger that is examined from outside.
type examined interface {
	Entries(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error]
	Members() *ledgeranchor.Members
	Prove(ctx context.Context, e *ledgeranchor.Entry) (ledgeranchor.Proof, error)
}

// logReader is a log that is examined.
type logReader struct{ *embedded.Reader }

func (r logReader) Prove(ctx context.Context, e *ledgeranchor.Entry) (ledgeranchor.Proof, error) {
	return r.Reader.Prove(ctx, e.Position)
}

// source is where a ledger is examined, from outside.
type source struct {
	ledger, log, vkey, roots, fabric string
	asJSON                           bool
}

// open opens what is examined, for as long as f takes.
func (s *source) open(f func(examined) error) error {
	if s.fabric != "" {
		if s.ledger != "" || s.log != "" {
			return cli.Usagef("want one of --ledger, --log and --fabric")
		}
		x, err := ledgerfile.OpenFabric(s.fabric)
		if err != nil {
			return err
		}
		return errors.Join(f(x), x.Close())
	}
	r, err := s.reader()
	if err != nil {
		return err
	}
	return f(logReader{r})
}

func (s *source) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.ledger, "ledger", "", "a ledger's `directory` on this machine; or:")
	f.StringVar(&s.log, "log", "", "the log's files, a `directory` or URL")
	f.StringVar(&s.vkey, "vkey", "", "the log's public key, a `file`")
	f.StringVar(&s.roots, "roots", "", "certificates of members, or of those who issue theirs, a `file`")
	f.StringVar(&s.fabric, "fabric", "", "or: a ledger on Fabric, and whom to trust there, a `file`")
	f.BoolVar(&s.asJSON, "json", false, "print JSON")
}

// trust reads whom the examiner trusts.
func (s *source) trust() (note.Verifier, *ledgeranchor.Members, error) {
	if s.ledger != "" {
		s.vkey, s.roots = filepath.Join(s.ledger, "log.vkey"), filepath.Join(s.ledger, "roots.pem")
	}
	if s.vkey == "" || s.roots == "" {
		return nil, nil, cli.Usagef("want --ledger, or --vkey and --roots")
	}
	v, roots, err := embedded.ReadTrust(s.vkey, s.roots)
	if err != nil {
		return nil, nil, err
	}
	members := ledgeranchor.NewMembers(roots)
	for _, r := range roots {
		_ = members.Add(r, time.Now()) // an issuer's certificate need not be fit to sign records
	}
	return v, members, nil
}

// reader returns the log that is examined.
func (s *source) reader() (*embedded.Reader, error) {
	if (s.ledger == "") == (s.log == "") {
		return nil, cli.Usagef("want one of --ledger, --log and --fabric")
	}
	if s.ledger != "" {
		s.log = filepath.Join(s.ledger, "log")
	}
	v, _, err := s.trust()
	if err != nil {
		return nil, err
	}
	_, roots, err := embedded.ReadTrust(s.vkey, s.roots)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(s.log, "https://") || strings.HasPrefix(s.log, "http://") {
		u, err := url.Parse(strings.TrimSuffix(s.log, "/") + "/")
		if err != nil {
			return nil, cli.Usagef("--log: %v", err)
		}
		f, err := client.NewHTTPFetcher(u, nil)
		if err != nil {
			return nil, err
		}
		return embedded.NewReader(f, v, roots), nil
	}
	if _, err := os.Stat(s.log); err != nil {
		return nil, err
	}
	return embedded.NewReader(client.FileFetcher{Root: s.log}, v, roots), nil
}

// who names a record's author.
func who(r examined, author ledgeranchor.Hash) string {
	if c, ok := r.Members().Certificate(author); ok {
		return c.Subject.CommonName
	}
	return author.String()[:16]
}

func ledgerListCommand() *cobra.Command {
	var s source
	var kind, address, warrant, message, from, until string
	c := &cobra.Command{
		Use:   "list",
		Short: "List records",
		Long: `List the ledger's records, in its order, and check the signature of each. It reads
the whole log.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			q := ledgeranchor.Query{Kind: ledgeranchor.Kind(kind)}
			if _, ok := ledgeranchor.RoleFor(q.Kind); kind != "" && !ok {
				return cli.Usagef("--kind: %q is no kind of record", kind)
			}
			if address != "" {
				if q.Address, err = netip.ParseAddr(address); err != nil {
					return cli.Usagef("--address: %v", err)
				}
			}
			for _, x := range []struct {
				flag, text string
				hash       *ledgeranchor.Hash
			}{{"warrant", warrant, &q.Warrant}, {"message", message, &q.Message}} {
				if x.text != "" {
					if *x.hash, err = ledgeranchor.ParseHash(x.text); err != nil {
						return cli.Usagef("--%s: %v", x.flag, err)
					}
				}
			}
			for _, x := range []struct {
				flag, text string
				time       *time.Time
			}{{"from", from, &q.From}, {"until", until, &q.Until}} {
				if x.text != "" {
					if *x.time, err = cli.ParseTime(x.text); err != nil {
						return cli.Usagef("--%s: %v", x.flag, err)
					}
				}
			}
			if err := q.Check(); err != nil {
				return cli.UsageError{Err: err}
			}
			return s.open(func(r examined) error { return list(c, r, &q, s.asJSON) })
		},
	}
	s.add(c)
	f := c.Flags()
	f.StringVar(&kind, "kind", "", "records of a `kind`")
	f.StringVar(&address, "address", "", "records about an `address`")
	f.StringVar(&warrant, "warrant", "", "records about the warrant with a `hash`")
	f.StringVar(&message, "message", "", "records about the message with a commitment, a `hash`")
	f.StringVar(&from, "from", "", "records of this `time` or later")
	f.StringVar(&until, "until", "", "records of this `time` or earlier")
	return c
}

// list prints the records that a query asks for.
func list(c *cobra.Command, r examined, q *ledgeranchor.Query, asJSON bool) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(w, "POSITION\tTIME\tKIND\tBY\tNAME\tABOUT")
	}
	lines := json.NewEncoder(c.OutOrStdout())
	for e, err := range r.Entries(c.Context(), 0) {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		if !q.Wants(e.Record) {
			continue
		}
		if asJSON {
			if err := lines.Encode(e); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", e.Position, e.Record.At().Format(time.RFC3339), e.Record.Kind, who(r, e.Record.Author), e.Signed.Name().String()[:16], about(e.Record))
	}
	return w.Flush()
}

// about says what a record is about, shortly.
func about(r *ledgeranchor.Record) string {
	switch {
	case r.Kind == ledgeranchor.KindWarrant:
		return fmt.Sprintf("warrant %s, %d address-times", r.Warrant.String()[:16], r.Count)
	case !r.Warrant.IsZero():
		return fmt.Sprintf("warrant %s", r.Warrant.String()[:16])
	case r.Hop != nil:
		source := "an unknown source"
		if len(r.Addresses) > 0 {
			source = r.Addresses[0].Addr().String()
		}
		return fmt.Sprintf("%s from %s", r.Hop.Stage, source)
	}
	return ""
}

func ledgerShowCommand() *cobra.Command {
	var s source
	var proof string
	c := &cobra.Command{
		Use:   "show NAME-OR-POSITION",
		Short: "Show a record, and prove it",
		Long: `Show a record by its name, the beginning of one, or its position. With --proof also
write what proves to others that the ledger has it (C2SP tlog-proof).`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return s.open(func(r examined) error { return show(c, r, args[0], proof, s.asJSON) })
		},
	}
	s.add(c)
	c.Flags().StringVar(&proof, "proof", "", "write the proof to a new `file`")
	return c
}

// show prints a record, and writes its proof.
func show(c *cobra.Command, r examined, which, proof string, asJSON bool) error {
	position, err := strconv.ParseUint(which, 10, 64)
	byPosition := err == nil && len(which) < 16
	var found *ledgeranchor.Entry
	for e, err := range r.Entries(c.Context(), 0) {
		if err != nil {
			return err
		}
		if byPosition && e.Position == position || !byPosition && strings.HasPrefix(e.Signed.Name().String(), which) {
			if found != nil {
				return fmt.Errorf("%q is the beginning of several names", which)
			}
			found = e
		}
	}
	if found == nil {
		return fmt.Errorf("%s: %w", which, ledgeranchor.ErrNotFound)
	}
	if proof != "" {
		p, err := r.Prove(c.Context(), found)
		if err != nil {
			return err
		}
		text, err := p.MarshalText()
		if err != nil {
			return err
		}
		if err := secretfile.CreatePublic(proof, text); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), found)
	}
	return printRecord(c.OutOrStdout(), r, found)
}

func printRecord(out io.Writer, reader examined, e *ledgeranchor.Entry) error {
	r := e.Record
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\nposition\t%d\nkind\t%s\ntime\t%s\nby\t%s (%s)\n", e.Signed.Name(), e.Position, r.Kind, r.At().Format(time.RFC3339Nano), who(reader, r.Author), r.Author)
	for _, a := range r.Addresses {
		fmt.Fprintf(w, "address\t%s\n", a.Addr())
	}
	if !r.Warrant.IsZero() {
		fmt.Fprintf(w, "warrant\t%s\n", r.Warrant)
	}
	if r.Count > 0 {
		fmt.Fprintf(w, "address-times\t%d\n", r.Count)
	}
	if !r.Message.IsZero() {
		fmt.Fprintf(w, "message\t%s\n", r.Message)
	}
	if h := r.Hop; h != nil {
		fmt.Fprintf(w, "stage\t%s\nclock\t%d\ncontent\t%s\n", h.Stage, h.Clock, h.Content)
		if !h.Next.IsZero() {
			fmt.Fprintf(w, "next\t%s\n", h.Next)
		}
	}
	for _, ref := range r.Refs {
		fmt.Fprintf(w, "rests on\t%s\n", ref)
	}
	if len(r.Body) == sha256.Size {
		fmt.Fprintf(w, "document\t%x\n", r.Body)
	}
	return w.Flush()
}

func ledgerVerifyCommand() *cobra.Command {
	var s source
	var remember, proof string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that the ledger is whole, or a proof",
		Long: `Read the whole log and check that its entries are those that its signed checkpoint
commits to, and that members signed them. With --remember the head is kept in a
file, and the log must have all that it had at the head that is there: so a log that
shows you another history than before is found out.

With --proof check a proof that "show --proof" wrote, offline. Its author's
certificate must be among the roots, or the ledger be at hand.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if proof != "" {
				return verifyProof(c, &s, proof)
			}
			if s.fabric != "" {
				return verifyFabric(c, &s, remember)
			}
			r, err := s.reader()
			if err != nil {
				return err
			}
			var old *ledgeranchor.Head
			if err := recall(remember, &old); err != nil {
				return err
			}
			if err := r.CheckFiles(c.Context()); err != nil {
				return err
			}
			h, _, err := r.Head(c.Context())
			if err != nil {
				return err
			}
			if old != nil {
				if h, err = r.Consistent(c.Context(), old); err != nil {
					return err
				}
			}
			n := uint64(0)
			for _, err := range r.Entries(c.Context(), 0) {
				if err != nil {
					return err
				}
				n++
			}
			if err := keep(remember, h); err != nil {
				return err
			}
			if s.asJSON {
				return printJSON(c.OutOrStdout(), struct {
					*ledgeranchor.Head
					Records    uint64             `json:"records"`
					Remembered *ledgeranchor.Head `json:"remembered,omitempty"`
				}{h, n, old})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d records, each signed by a member, as the log's signed head says (root %s)\n", h.Origin, n, h.Root)
			if old != nil {
				fmt.Fprintf(c.OutOrStdout(), "It has all that it had at size %d.\n", old.Size)
			}
			return nil
		},
	}
	s.add(c)
	c.Flags().StringVar(&remember, "remember", "", "`file` that keeps the head from one time to the next")
	c.Flags().StringVar(&proof, "proof", "", "check a proof, a `file`")
	return c
}

// recall reads the heads that an earlier examination kept; none if there was none.
func recall(path string, heads any) error {
	if path == "" {
		return nil
	}
	b, err := readFile(path, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, heads)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// keep writes heads for the next examination.
func keep(path string, heads any) error {
	if path == "" {
		return nil
	}
	b, err := json.Marshal(heads)
	if err != nil {
		return err
	}
	return secretfile.Replace(path, append(b, '\n'))
}

// verifyFabric checks a ledger on Fabric.
func verifyFabric(c *cobra.Command, s *source, remember string) error {
	x, err := ledgerfile.OpenFabric(s.fabric)
	if err != nil {
		return err
	}
	defer x.Close()
	var old []*ledgeranchor.Head
	if err := recall(remember, &old); err != nil {
		return err
	}
	heads, n, err := x.Verify(c.Context(), old)
	if err != nil {
		return err
	}
	if err := keep(remember, heads); err != nil {
		return err
	}
	if s.asJSON {
		return printJSON(c.OutOrStdout(), struct {
			Heads      []*ledgeranchor.Head `json:"heads"`
			Records    uint64               `json:"records"`
			Remembered []*ledgeranchor.Head `json:"remembered,omitempty"`
		}{heads, n, old})
	}
	for _, h := range heads {
		fmt.Fprintf(c.OutOrStdout(), "%s: a chain of %d blocks (the last is %s)\n", h.Origin, h.Size, h.Root)
	}
	fmt.Fprintf(c.OutOrStdout(), "%d records, each signed by a member, each endorsed by %d organizations at least\n", n, x.Trust.Endorsers)
	for _, h := range old {
		fmt.Fprintf(c.OutOrStdout(), "%s is what it was at block %d.\n", h.Origin, h.Size)
	}
	return nil
}

// verifyFabricProof checks a proof of Fabric's, offline.
func verifyFabricProof(c *cobra.Command, s *source, path string, text []byte) error {
	p, err := fabric.ParseProof(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	x, err := ledgerfile.OpenFabric(s.fabric)
	if err != nil {
		return err
	}
	defer x.Close()
	r, err := p.Verify(x.Trust.Organizations, x.Trust.Endorsers, x.Trust.Members)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.asJSON {
		return printJSON(c.OutOrStdout(), struct {
			Channel string               `json:"channel"`
			Record  *ledgeranchor.Record `json:"record"`
		}{p.Channel, r})
	}
	fmt.Fprintf(c.OutOrStdout(), "%s: channel %s has this record: %s of %s, %s\n", path, p.Channel, r.Kind, r.At().Format(time.RFC3339), about(r))
	return nil
}

func verifyProof(c *cobra.Command, s *source, path string) error {
	text, err := readFile(path, 64<<20)
	if err != nil {
		return err
	}
	if s.fabric != "" {
		return verifyFabricProof(c, s, path, text)
	}
	p, err := ledgeranchor.ParseLogProof(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	v, members, err := s.trust()
	if err != nil {
		return err
	}
	if s.ledger != "" || s.log != "" {
		r, err := s.reader()
		if err != nil {
			return err
		}
		for _, err := range r.Entries(c.Context(), 0) {
			if err != nil {
				return err
			}
		}
		members = r.Members()
	}
	r, err := p.Verify(v, members)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.asJSON {
		return printJSON(c.OutOrStdout(), struct {
			Log      string               `json:"log"`
			Position uint64               `json:"position"`
			Record   *ledgeranchor.Record `json:"record"`
		}{v.Name(), p.Index, r})
	}
	fmt.Fprintf(c.OutOrStdout(), "%s: the log %s has this record at %d: %s of %s, %s\n", path, v.Name(), p.Index, r.Kind, r.At().Format(time.RFC3339), about(r))
	return nil
}

func ledgerAuditCommand() *cobra.Command {
	var s source
	var threshold int
	c := &cobra.Command{
		Use:   "audit",
		Short: "Count what was done, and find what should not have been",
		Long: `Count the ledger's records and look for what is out of order: a resolution, an
approval or a disclosure without a warrant that stood before it, and a disclosure
that fewer trustees approved than are needed, or after its warrant was revoked; and a
warrant that was not published within a week after its seal had ended. Ends with
status 1 if there is any.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if threshold < 1 {
				return cli.Usagef("--threshold %d: want how many trustees open an NID", threshold)
			}
			return s.open(func(r examined) error { return audit(c, r, threshold, s.asJSON) })
		},
	}
	s.add(c)
	c.Flags().IntVar(&threshold, "threshold", 0, "how many trustees must approve, a `number`")
	cli.Require(c, "threshold")
	return c
}

// audit prints what an audit finds.
func audit(c *cobra.Command, r examined, threshold int, asJSON bool) (err error) {
	a := ledgeranchor.NewAuditor(threshold, time.Now())
	for e, err := range r.Entries(c.Context(), 0) {
		if err != nil {
			return err
		}
		a.Take(e)
	}
	report := a.Report()
	if asJSON {
		err = printJSON(c.OutOrStdout(), report)
	} else {
		err = printAudit(c.OutOrStdout(), report)
	}
	if err == nil && len(report.Problems) > 0 {
		return cli.ErrQuiet
	}
	return err
}

func printAudit(out io.Writer, a *ledgeranchor.AuditReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range []ledgeranchor.Kind{ledgeranchor.KindWarrant, ledgeranchor.KindResolution, ledgeranchor.KindApproval, ledgeranchor.KindDisclosure, ledgeranchor.KindRevocation, ledgeranchor.KindPublication, ledgeranchor.KindHop, ledgeranchor.KindCheckpoint, ledgeranchor.KindCertificate} {
		fmt.Fprintf(w, "%ss\t%d\n", k, a.Counts[k])
	}
	fmt.Fprintf(w, "address-times ordered\t%d\nwarrants not disclosed upon\t%d\nwarrants under seal\t%d\nproblems\t%d\n", a.Targets, a.Open, a.Sealed, len(a.Problems))
	if err := w.Flush(); err != nil { // the lists have columns of their own
		return err
	}
	for _, x := range a.Warrants {
		fmt.Fprintf(w, "  warrant %s of %s\t%s\n", x.Warrant.String()[:16], x.Recorded.Format(time.RFC3339), stateOf(&x))
	}
	for _, p := range a.Problems {
		fmt.Fprintf(w, "  %s at %d (%s)\t%s\n", p.Kind, p.Position, p.Name.String()[:16], p.What)
	}
	return w.Flush()
}

// stateOf says what became of a warrant.
func stateOf(x *ledgeranchor.AuditWarrant) string {
	var all []string
	all = append(all, fmt.Sprintf("%d address-times", x.Targets))
	switch len(x.Disclosed) {
	case 0:
		all = append(all, "not disclosed upon")
	default:
		all = append(all, fmt.Sprintf("disclosed %s after it was recorded", x.Disclosed[0].Sub(x.Recorded).Round(time.Second)))
	}
	if x.Revoked {
		all = append(all, "revoked")
	}
	switch {
	case x.Published:
		all = append(all, "published")
	case !x.SealUntil.IsZero():
		all = append(all, "sealed until "+x.SealUntil.Format(time.RFC3339))
	}
	return strings.Join(all, ", ")
}

func ledgerDisclosedCommand() *cobra.Command {
	var s source
	var address string
	c := &cobra.Command{
		Use:   "disclosed",
		Short: "Ask whether an address of yours was sought, or disclosed",
		Long: `Look through the published warrants for an address, or a prefix that it is in. Of
warrants under seal nobody can tell; how many there are is said, and when the last seal
ends. The ledger learns nothing of the question: it is answered from the log.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := netip.ParseAddr(address)
			if err != nil || !a.Is6() || a.Zone() != "" {
				return cli.Usagef("--address: %q is no IPv6 address", address)
			}
			return s.open(func(r examined) error { return disclosed(c, r, a, s.asJSON) })
		},
	}
	s.add(c)
	c.Flags().StringVar(&address, "address", "", "the `address`")
	cli.Require(c, "address")
	return c
}

// disclosed tells a subscriber what the ledger knows of an address.
func disclosed(c *cobra.Command, r examined, addr netip.Addr, asJSON bool) error {
	a := ledgeranchor.NewAuditor(1, time.Now())
	for e, err := range r.Entries(c.Context(), 0) {
		if err != nil {
			return err
		}
		a.Take(e)
	}
	found, report := a.WasDisclosed(addr), a.Report()
	var last time.Time
	for _, w := range report.Warrants {
		if !w.Published && w.SealUntil.After(last) {
			last = w.SealUntil
		}
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), map[string]any{"address": addr, "found": append([]ledgeranchor.Disclosed{}, found...), "sealed": report.Sealed, "last_seal_ends": last})
	}
	out := c.OutOrStdout()
	for _, x := range found {
		fmt.Fprintf(out, "warrant %s, recorded %s, sought %s from %s to %s", x.Warrant.String()[:16], x.Recorded.Format(time.RFC3339), x.Target, x.From.Format(time.RFC3339), x.Until.Format(time.RFC3339))
		if len(x.Disclosed) == 0 {
			fmt.Fprintln(out, ": never carried out")
			continue
		}
		for _, t := range x.Disclosed {
			fmt.Fprintf(out, ": disclosed %s", t.Format(time.RFC3339))
		}
		fmt.Fprintln(out)
	}
	if len(found) == 0 {
		fmt.Fprintf(out, "No published warrant sought %s.\n", addr)
	}
	if report.Sealed > 0 {
		fmt.Fprintf(out, "%d warrants are under seal, of which nothing can be told before %s.\n", report.Sealed, last.Format(time.RFC3339))
	}
	return nil
}

// trusted reports what of a ledger's public keys is missing.
func (s *source) trusted() error {
	if s.fabric != "" || s.ledger != "" || s.vkey != "" && s.roots != "" {
		return nil
	}
	return cli.Usagef("want the ledger's public key: --vkey and --roots, --ledger, or --fabric")
}

// prover returns what checks a proof of this ledger.
func (s *source) prover() func(proof []byte, authors []*x509.Certificate) (*ledgeranchor.Record, error) {
	var check func([]byte) (*ledgeranchor.Record, error)
	var members *ledgeranchor.Members
	open := func() error {
		if s.fabric != "" {
			x, err := ledgerfile.OpenFabric(s.fabric)
			if err != nil {
				return err
			}
			members = x.Trust.Members
			check = func(text []byte) (*ledgeranchor.Record, error) {
				p, err := fabric.ParseProof(text)
				if err != nil {
					return nil, fmt.Errorf("%w: %w", ledgeranchor.ErrProof, err)
				}
				return p.Verify(x.Trust.Organizations, x.Trust.Endorsers, members)
			}
			return x.Close() // only whom to trust is of interest
		}
		v, m, err := s.trust()
		if err != nil {
			return err
		}
		members = m
		check = func(text []byte) (*ledgeranchor.Record, error) {
			p, err := ledgeranchor.ParseLogProof(text)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ledgeranchor.ErrProof, err)
			}
			return p.Verify(v, members)
		}
		return nil
	}
	return func(proof []byte, authors []*x509.Certificate) (*ledgeranchor.Record, error) {
		if check == nil {
			if err := open(); err != nil {
				return nil, err
			}
		}
		for _, a := range authors {
			_ = members.Add(a, a.NotBefore.Add(time.Second)) // who is not of the roots is no member
		}
		return check(proof)
	}
}

// prover checks proofs of the ledger that a step stands on.
func (d *desk) prover() func(proof []byte, authors []*x509.Certificate) (*ledgeranchor.Record, error) {
	return (&source{ledger: d.ledger, fabric: d.fabric}).prover()
}
