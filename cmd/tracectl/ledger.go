package main

import (
	"context"
	"crypto/sha256"
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
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/embedded"
	"brightgid/ledgeranchor/fabric"
	"brightgid/trace"
)

func ledgerCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ledger",
		Short: "Keep and examine the ledger on which warrants and disclosures stand",
		Long: `The ledger is a log to which records can be added and from which none can be taken.
Whoever has its public key can examine it, from its files or from a web server that
serves them:

  anybody    list, show, verify, audit
  its keeper init
  members    record                      what they did, signed`,
	}
	c.AddCommand(ledgerInitCommand(), ledgerRecordCommand(), ledgerListCommand(), ledgerShowCommand(), ledgerVerifyCommand(), ledgerAuditCommand())
	return c
}

func ledgerInitCommand() *cobra.Command {
	var dir, origin string
	var roots []string
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
			fmt.Fprintf(c.OutOrStdout(), "%s: the log %s, with %d roots\n", dir, origin, len(certs))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "ledger", "", "the ledger, a new `directory`")
	f.StringVar(&origin, "origin", "", "`name` of the log, as no other has")
	f.StringSliceVar(&roots, "root", nil, "certificates of members, or of those who issue theirs, `file`s")
	cli.Require(c, "ledger", "origin", "root")
	return c
}

func ledgerRecordCommand() *cobra.Command {
	var dir, onFabric, identity, kind, warrant, resolution string
	var approvals []string
	var asJSON, dryRun bool
	c := &cobra.Command{
		Use:   "record",
		Short: "Put on the ledger what was done",
		Long: `Sign a record of a document and append it. Each kind rests on the records of the
documents before it, which must stand on the ledger:

  warrant      by a judge    --warrant
  resolution   by an isp     --warrant --resolution
  approval     by a trustee  --warrant --resolution --approval
  disclosure   by a holder   --warrant --resolution --approval, of each

A record holds hashes and how many address-times a warrant names; no address, and
nothing of a person. The same record appended again is one record.`,
		Example: `  tracectl ledger record --ledger /var/lib/gid-ledger --identity court --kind warrant \
      --warrant case7.warrant`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			id, err := readIdentity(identity)
			if err != nil {
				return err
			}
			author, err := ledgeranchor.NewAuthor(id.Key, id.Certificate)
			if err != nil {
				return fmt.Errorf("%s: %w", identity, err)
			}
			l, members, err := openToWrite(c.Context(), dir, onFabric)
			if err != nil {
				return err
			}
			defer l.Close()
			d := traceDocuments{warrant: warrant, resolution: resolution, approvals: approvals}
			r, err := d.record(c.Context(), l, ledgeranchor.Kind(kind))
			if err != nil {
				return err
			}
			intro, err := author.Introduce()
			if err != nil {
				return err
			}
			if already, err := d.find(c.Context(), l, r.Kind, r.Body, author.ID()); err != nil {
				return err
			} else if already != nil {
				return printReceipt(c.OutOrStdout(), already.Signed, ledgeranchor.Receipt{Position: already.Position, Known: true}, asJSON)
			}
			r.Time = uint64(time.Now().UnixMilli())
			signed, err := author.Sign(r)
			if err != nil {
				return err
			}
			if dryRun {
				if _, err := members.CheckAll([]*ledgeranchor.Signed{intro, signed[0]}, time.Now()); err != nil {
					return err
				}
				return printJSON(c.OutOrStdout(), signed[0])
			}
			if _, err := l.Append(c.Context(), intro); err != nil {
				return err
			}
			receipts, err := l.Append(c.Context(), signed...)
			if err != nil {
				return err
			}
			if err := printReceipt(c.OutOrStdout(), signed[0], receipts[0], asJSON); err != nil {
				return err
			}
			return l.Close()
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "ledger", "", "the ledger's `directory` on this machine")
	f.StringVar(&onFabric, "fabric", "", "or: a ledger on Fabric, a `file` that tells how to reach it")
	f.StringVarP(&identity, "identity", "i", "", "who did it, the `path` without .key and .pem")
	f.StringVar(&kind, "kind", "", "`kind`: warrant, resolution, approval or disclosure")
	f.StringVarP(&warrant, "warrant", "w", "", "signed warrant, a `file`")
	f.StringVarP(&resolution, "resolution", "r", "", "the ISP's signed resolution, a `file`")
	f.StringSliceVarP(&approvals, "approval", "a", nil, "approvals, `file`s")
	f.BoolVar(&dryRun, "dry-run", false, "print the record and append nothing")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "identity", "kind", "warrant")
	return c
}

// openToWrite opens a ledger to append to it.
func openToWrite(ctx context.Context, dir, onFabric string) (ledgeranchor.Ledger, *ledgeranchor.Members, error) {
	if (dir == "") == (onFabric == "") {
		return nil, nil, cli.Usagef("want either --ledger or --fabric")
	}
	if dir != "" {
		l, err := embedded.Open(ctx, dir, embedded.Options{})
		if err != nil {
			return nil, nil, err
		}
		return l, l.Members(), nil
	}
	x, err := openFabric(onFabric)
	if err != nil {
		return nil, nil, err
	}
	l, err := x.ledger()
	return l, x.trust.Members, err
}

func printReceipt(w io.Writer, s *ledgeranchor.Signed, r ledgeranchor.Receipt, asJSON bool) error {
	if asJSON {
		return printJSON(w, struct {
			Name ledgeranchor.Hash `json:"name"`
			ledgeranchor.Receipt
		}{s.Name(), r})
	}
	was := "recorded"
	if r.Known {
		was = "was recorded before"
	}
	_, err := fmt.Fprintf(w, "%s %s, at %d\n", s.Name(), was, r.Position)
	return err
}

// traceDocuments are the documents of a recovery, of which records tell.
type traceDocuments struct {
	warrant, resolution string
	approvals           []string
}

// documentHash names a document's file as its record does.
func documentHash(path string) (h ledgeranchor.Hash, err error) {
	text, err := readDocument(path)
	if err != nil {
		return h, err
	}
	return sha256.Sum256([]byte(text)), nil
}

// record makes the record of the last of the documents that a kind is about.
func (d *traceDocuments) record(ctx context.Context, l ledgeranchor.Ledger, kind ledgeranchor.Kind) (*ledgeranchor.Record, error) {
	text, err := readDocument(d.warrant)
	if err != nil {
		return nil, err
	}
	targets, err := trace.CountTargets(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.warrant, err)
	}
	r := &ledgeranchor.Record{Kind: kind, Warrant: sha256.Sum256([]byte(text))}
	rest := func(kind ledgeranchor.Kind, path string) error {
		h, err := documentHash(path)
		if err != nil {
			return err
		}
		e, err := d.find(ctx, l, kind, h[:], ledgeranchor.Hash{})
		if err != nil {
			return err
		}
		if e == nil {
			return fmt.Errorf("%s: this %s does not stand on the ledger; its author is to record it first", path, kind)
		}
		r.Refs = append(r.Refs, e.Signed.Name())
		return nil
	}
	body := func(path string) error {
		h, err := documentHash(path)
		r.Body = h[:]
		return err
	}
	if kind != ledgeranchor.KindWarrant {
		if err := rest(ledgeranchor.KindWarrant, d.warrant); err != nil {
			return nil, err
		}
		if d.resolution == "" {
			return nil, cli.Usagef("--resolution is needed for a record of kind %s", kind)
		}
	}
	switch kind {
	case ledgeranchor.KindWarrant:
		r.Count = uint64(targets)
		return r, body(d.warrant)
	case ledgeranchor.KindResolution:
		return r, body(d.resolution)
	case ledgeranchor.KindApproval, ledgeranchor.KindDisclosure:
		if err := rest(ledgeranchor.KindResolution, d.resolution); err != nil {
			return nil, err
		}
		if len(d.approvals) == 0 || kind == ledgeranchor.KindApproval && len(d.approvals) > 1 {
			return nil, cli.Usagef("%d approvals for a record of kind %s: want one, or for a disclosure all", len(d.approvals), kind)
		}
		if kind == ledgeranchor.KindApproval {
			return r, body(d.approvals[0])
		}
		for _, a := range d.approvals {
			if err := rest(ledgeranchor.KindApproval, a); err != nil {
				return nil, err
			}
		}
		return r, nil
	}
	return nil, cli.Usagef("--kind %q: want warrant, resolution, approval or disclosure", kind)
}

// find finds the record of a document, and of an author if one is given; nil for
// none.
func (d *traceDocuments) find(ctx context.Context, l ledgeranchor.Ledger, kind ledgeranchor.Kind, body []byte, author ledgeranchor.Hash) (*ledgeranchor.Entry, error) {
	w, err := documentHash(d.warrant)
	if err != nil {
		return nil, err
	}
	for e, err := range l.Find(ctx, ledgeranchor.Query{Kind: kind, Warrant: w}) {
		if err != nil {
			return nil, err
		}
		if string(e.Record.Body) == string(body) && (author.IsZero() || author == e.Record.Author) {
			return e, nil
		}
	}
	return nil, nil
}

// examined is a ledger that is examined from outside.
type examined interface {
	Entries(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error]
	Members() *ledgeranchor.Members
	prove(ctx context.Context, e *ledgeranchor.Entry) (ledgeranchor.Proof, error)
}

// logReader is a log that is examined.
type logReader struct{ *embedded.Reader }

func (r logReader) prove(ctx context.Context, e *ledgeranchor.Entry) (ledgeranchor.Proof, error) {
	return r.Prove(ctx, e.Position)
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
		x, err := openFabric(s.fabric)
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
		p, err := r.prove(c.Context(), found)
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
			if remember != "" {
				b, err := readFile(remember, 1<<16)
				if err == nil {
					old = new(ledgeranchor.Head)
					err = json.Unmarshal(b, old)
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s: %w", remember, err)
				}
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
			if remember != "" {
				b, err := json.Marshal(h)
				if err != nil {
					return err
				}
				if err := secretfile.Replace(remember, append(b, '\n')); err != nil {
					return err
				}
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

// verifyFabric checks a ledger on Fabric.
func verifyFabric(c *cobra.Command, s *source, remember string) error {
	x, err := openFabric(s.fabric)
	if err != nil {
		return err
	}
	defer x.Close()
	var old []*ledgeranchor.Head
	if remember != "" {
		b, err := readFile(remember, 1<<16)
		if err == nil {
			err = json.Unmarshal(b, &old)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", remember, err)
		}
	}
	heads, n, err := x.verify(c.Context(), old)
	if err != nil {
		return err
	}
	if remember != "" {
		b, err := json.Marshal(heads)
		if err != nil {
			return err
		}
		if err := secretfile.Replace(remember, append(b, '\n')); err != nil {
			return err
		}
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
	fmt.Fprintf(c.OutOrStdout(), "%d records, each signed by a member, each endorsed by %d organizations at least\n", n, x.trust.Endorsers)
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
	x, err := openFabric(s.fabric)
	if err != nil {
		return err
	}
	defer x.Close()
	r, err := p.Verify(x.trust.Organizations, x.trust.Endorsers, x.trust.Members)
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
that fewer trustees approved than are needed. Ends with status 1 if there is any.`,
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
	a := ledgeranchor.NewAuditor(threshold)
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
	for _, k := range []ledgeranchor.Kind{ledgeranchor.KindWarrant, ledgeranchor.KindResolution, ledgeranchor.KindApproval, ledgeranchor.KindDisclosure, ledgeranchor.KindHop, ledgeranchor.KindCheckpoint, ledgeranchor.KindCertificate} {
		fmt.Fprintf(w, "%ss\t%d\n", k, a.Counts[k])
	}
	fmt.Fprintf(w, "address-times ordered\t%d\nwarrants not disclosed upon\t%d\nproblems\t%d\n", a.Targets, a.Open, len(a.Problems))
	for _, p := range a.Problems {
		fmt.Fprintf(w, "  %s at %d (%s)\t%s\n", p.Kind, p.Position, p.Name.String()[:16], p.What)
	}
	return w.Flush()
}
