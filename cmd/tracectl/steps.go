package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/lockedfile"
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/trace"
)

func resolveCommand() *cobra.Command {
	var d desk
	var warrantFile, server, out string
	var serverCerts []string
	c := &cobra.Command{
		Use:   "resolve",
		Short: "Send a warrant to the ISP and get its resolution",
		Long: `Send a signed warrant to the ISP's resolve API over mutual TLS, check the answer
and write it. The ISP answers only a warrant that stands on the ledger. The
resolution says when the addresses were leased and holds sealed NIDs; it names
nobody. Where an address is beyond the ISP's retention it says so, signed: the keys
of that time are erased, and nobody can resolve it any more.`,
		Example: `  tracectl resolve --trust court.toml --warrant w.jws --server https://resolve.isp.example:8547 \
      --identity police --out r.jws`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			trust, err := d.whom("authorities", "isps")
			if err != nil {
				return err
			}
			if err := unused(out); err != nil {
				return err
			}
			warrant, err := readDocument(warrantFile)
			if err != nil {
				return err
			}
			id, err := d.self()
			if err != nil {
				return err
			}
			servers := trust.ISPs
			if len(serverCerts) > 0 {
				if servers, err = readCertificates(serverCerts); err != nil {
					return err
				}
			}
			w, err := trace.OpenWarrant(warrant, trust.Authorities, time.Now())
			if err != nil {
				return err
			}
			client, err := trace.NewClient(server, id, servers)
			if err != nil {
				return cli.UsageError{Err: err}
			}
			signed, err := client.Resolve(c.Context(), warrant)
			if err != nil {
				return err
			}
			r, err := trace.OpenResolution(signed, trust.ISPs, time.Now(), warrant, w)
			if err != nil {
				return err
			}
			if err := secretfile.Create(out, []byte(signed+"\n")); err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			for i := range r.Answers {
				a := &r.Answers[i]
				what := a.Reason
				if n := len(a.Candidates); n > 0 {
					what = fmt.Sprintf("%d candidate(s), found by %s", n, a.Candidates[0].Found)
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %s  %s\n", a.Target.String(), a.From.UTC().Format(time.RFC3339), what)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&warrantFile, "warrant", "w", "", "signed warrant, a `file`")
	f.StringVar(&server, "server", "", "the ISP's resolve API, an https `URL`")
	f.StringSliceVar(&serverCerts, "server-certificate", nil, "certificates of the API's server, if not those of --isps, `file`s")
	f.StringVarP(&out, "out", "o", "", "the resolution, a new `file`")
	d.addTrust(c)
	d.addSelf(c, "the holder's identity")
	d.addJSON(c)
	cli.Require(c, "warrant", "server", "out")
	return c
}

// documents are the files that approving and recovering are about.
type documents struct{ warrant, resolution string }

func (x *documents) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&x.warrant, "warrant", "w", "", "signed warrant, a `file`")
	f.StringVarP(&x.resolution, "resolution", "r", "", "the ISP's signed resolution, a `file`")
	cli.Require(c, "warrant", "resolution")
}

func (x *documents) read() (d trace.Documents, err error) {
	if d.Warrant, err = readDocument(x.warrant); err != nil {
		return d, err
	}
	d.Resolution, err = readDocument(x.resolution)
	return d, err
}

func (d *desk) share(path string) (*idcodec.Share, error) {
	text, err := lockedfile.Read(path, d.passphrase(false))
	if err != nil {
		return nil, err
	}
	defer clear(text)
	share, err := idcodec.ParseShare(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return share, nil
}

func approveCommand() *cobra.Command {
	var d desk
	var docs documents
	var sharePath, out string
	var dryRun bool
	c := &cobra.Command{
		Use:   "approve",
		Short: "Approve a warrant as a trustee",
		Long: `Check a warrant and the ISP's resolution of it, which must stand on the ledger, and
add the trustee's share for all the NIDs in it. The approval is recorded on the
ledger, and then written. It is sealed to the warrant's holder and opens nothing
alone. What is recorded cannot be taken back: --dry-run shows what is asked.`,
		Example: `  tracectl approve --trust court.toml --identity regulator --share regulator.share \
      --warrant w.jws --resolution r.jws --out regulator.approval`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			documents, err := docs.read()
			if err != nil {
				return err
			}
			needed := []string{"authorities", "isps", "escrow"}
			if dryRun {
				return d.showRequest(c.OutOrStdout(), documents, needed)
			}
			if out == "" {
				return cli.Usagef("want --out, or --dry-run")
			}
			if err := unused(out); err != nil {
				return err
			}
			return d.party(c.Context(), "approving", needed, func(p *trace.Party) error {
				key, err := d.escrowKey()
				if err != nil {
					return err
				}
				share, err := d.share(sharePath)
				if err != nil {
					return err
				}
				a, err := p.Approve(c.Context(), documents, key, share)
				if err != nil {
					return err
				}
				b, err := indented(a)
				if err != nil {
					return err
				}
				if err := secretfile.Create(out, b); err != nil {
					return err
				}
				if d.asJSON {
					return printJSON(c.OutOrStdout(), a.ApprovalHead)
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: approved by %s, as it stands on the ledger now\n", out, a.Trustee)
				return nil
			})
		},
	}
	docs.add(c)
	d.addTrust(c)
	d.addLedger(c)
	d.addSelf(c, "the trustee's identity")
	d.addJSON(c)
	c.Flags().StringVar(&sharePath, "share", "", "the trustee's share, a `file`")
	c.Flags().StringVarP(&out, "out", "o", "", "the approval, a new `file`")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check the documents and say what they ask for; approve nothing")
	cli.Require(c, "share")
	return c
}

// showRequest says what an approval would be for.
func (d *desk) showRequest(w io.Writer, documents trace.Documents, needed []string) error {
	trust, err := d.whom(needed...)
	if err != nil {
		return err
	}
	warrant, resolution, err := documents.Open(trust, time.Now())
	if err != nil {
		return err
	}
	if d.asJSON {
		return printJSON(w, map[string]any{"warrant": warrant, "subscribers": resolution.Subscribers()})
	}
	fmt.Fprintf(w, "case %s, %s, by %s\npurpose: %s\nholder: %s\nin force until %s\n%d address-times, behind which are %d subscribers of %s\n",
		warrant.Case, warrant.LegalBasis, warrant.Authority, warrant.Purpose, warrant.Holder.Name, warrant.ValidUntil.UTC().Format(time.RFC3339),
		len(warrant.Targets), resolution.Subscribers(), warrant.Realm)
	fmt.Fprintln(w, "This was a dry run: nothing was approved.")
	return nil
}

func recoverCommand() *cobra.Command {
	var d desk
	var docs documents
	var out, page string
	var approvals []string
	c := &cobra.Command{
		Use:   "recover",
		Short: "Recover the EIDs that a warrant orders",
		Long: `Check a warrant, the ISP's resolution and the trustees' approvals, all of which must
stand on the ledger; record the disclosure there; and open the NIDs. A trustee whose
approval is wrong is named. Where the ISP could not tell between two subscribers,
both are reported.

The report is signed and holds all that anybody needs to check it offline with
"tracectl verify".`,
		Example: `  tracectl recover --trust court.toml --identity police --warrant w.jws --resolution r.jws \
      --approval judge.approval --approval regulator.approval --out report.json --html report.html`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			documents, err := docs.read()
			if err != nil {
				return err
			}
			if err := unused(out, page); err != nil {
				return err
			}
			var parsed []*trace.Approval
			for _, p := range approvals {
				text, err := readFile(p, trace.MaxDocument)
				if err != nil {
					return err
				}
				a, err := trace.ParseApproval(text)
				if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				parsed = append(parsed, a)
			}
			return d.party(c.Context(), "recovering", []string{"authorities", "isps", "escrow"}, func(p *trace.Party) error {
				key, err := d.escrowKey()
				if err != nil {
					return err
				}
				report, err := p.Recover(c.Context(), documents, key, parsed)
				if errors.Is(err, trace.ErrTooFewApprovals) {
					return fmt.Errorf("%w; %d of the trustees %s must approve", err, key.Threshold(), trusteeNames(key))
				}
				if err != nil {
					return err
				}
				text, err := report.Sign(p.Self)
				if err != nil {
					return err
				}
				if err := secretfile.Create(out, text); err != nil {
					return err
				}
				if page != "" {
					v := &trace.Verifier{Trust: p.Trust, Escrow: key, Prove: d.prover()}
					_, checks, err := v.Verify(c.Context(), text)
					if err != nil {
						return err
					}
					if err := writePage(page, report, text, checks); err != nil {
						return err
					}
				}
				if d.asJSON {
					_, err := c.OutOrStdout().Write(text)
					return err
				}
				printReport(c.OutOrStdout(), report)
				return nil
			})
		},
	}
	docs.add(c)
	d.addTrust(c)
	d.addLedger(c)
	d.addSelf(c, "the holder's identity")
	d.addJSON(c)
	f := c.Flags()
	f.StringSliceVar(&approvals, "approval", nil, "a trustee's approval, a `file`; given once for each")
	f.StringVarP(&out, "out", "o", "", "the report, a new `file`")
	f.StringVar(&page, "html", "", "also the report as a page for people, a new `file`")
	cli.Require(c, "approval", "out")
	return c
}

// writePage writes a report's page, which holds EIDs.
func writePage(path string, r *trace.Report, text []byte, checks []trace.Check) error {
	var b strings.Builder
	if err := r.Render(&b, text, checks); err != nil {
		return err
	}
	return secretfile.Create(path, []byte(b.String()))
}

func trusteeNames(key *idcodec.EscrowKey) string {
	var names []string
	for _, t := range key.Trustees() {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", ")
}

func printReport(w io.Writer, r *trace.Report) {
	fmt.Fprintf(w, "case %s, warrant %.16s…, approved by %s\n", r.Warrant.Case, trace.Hash(r.Evidence.Warrant), strings.Join(r.Trustees, ", "))
	for i := range r.Findings {
		f := &r.Findings[i]
		fmt.Fprintf(w, "%s at %s", f.Target.String(), f.From.UTC().Format(time.RFC3339))
		if !f.Until.Equal(f.From) {
			fmt.Fprintf(w, " to %s", f.Until.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(w)
		if len(f.Persons) == 0 {
			fmt.Fprintf(w, "  nobody: %s\n", f.Reason)
		}
		if len(f.Persons) > 1 && f.Address.IsValid() {
			fmt.Fprintln(w, "  one of these; the ISP cannot tell which:")
		}
		for _, p := range f.Persons {
			if f.Address.IsValid() {
				fmt.Fprintf(w, "  EID %s", p.EID)
			} else {
				fmt.Fprintf(w, "  %s  EID %s", p.Address, p.EID)
			}
			switch {
			case p.Found == trace.FoundDecoded:
				fmt.Fprint(w, "  (decoded from the address; no lease history confirms it)")
			default:
				what := "leased"
				if p.Delegated.IsValid() {
					what = p.Delegated.String() + " delegated"
				}
				for _, l := range p.Leases {
					fmt.Fprintf(w, "  (%s %s to %s)", what, l.From.UTC().Format(time.RFC3339), l.Until.UTC().Format(time.RFC3339))
				}
			}
			fmt.Fprintln(w)
		}
	}
}

func verifyCommand() *cobra.Command {
	var d desk
	var s source
	var page string
	c := &cobra.Command{
		Use:   "verify REPORT",
		Short: "Check a report, offline",
		Long: `Check a report from its file alone, by public keys: the warrant's and the
resolution's signatures, that the records of every step stand on the ledger, the
proof of every trustee's share, that these shares open the NIDs to what the report
says, and the holder's signature. What does not hold is named. Ends with status 17
if anything does not.

The ledger's public key comes from --vkey and --roots, from --ledger, or for a
ledger on Fabric from --fabric.`,
		Example: `  tracectl verify --authorities court.pem --isps isp.pem --escrow escrow.json \
      --vkey log.vkey --roots roots.pem report.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := d.whom("authorities", "isps")
			if err != nil {
				return err
			}
			if err := unused(page); err != nil {
				return err
			}
			s.ledger, s.fabric = d.ledger, d.fabric
			v := &trace.Verifier{Trust: trust, Prove: s.prover(), Progress: cli.Progress(os.Stderr, "verifying")}
			if d.escrow != "" {
				if v.Escrow, err = d.escrowKey(); err != nil {
					return err
				}
			}
			if err := s.trusted(); err != nil {
				return err
			}
			text, err := readFile(args[0], trace.MaxDocument)
			if err != nil {
				return err
			}
			report, checks, failed := v.Verify(c.Context(), text)
			if page != "" && report != nil {
				if err := writePage(page, report, text, checks); err != nil {
					return err
				}
			}
			if d.asJSON {
				if err := printJSON(c.OutOrStdout(), map[string]any{"holds": failed == nil, "checks": checks}); err != nil {
					return err
				}
			} else {
				for _, x := range checks {
					if x.Error != "" {
						fmt.Fprintf(c.OutOrStdout(), "FAILS  %s: %s\n", x.What, x.Error)
					} else {
						fmt.Fprintf(c.OutOrStdout(), "holds  %s\n", x.What)
					}
				}
				if failed == nil {
					printReport(c.OutOrStdout(), report)
				}
			}
			if failed != nil {
				return fmt.Errorf("%s: %w", args[0], failed)
			}
			return nil
		},
	}
	d.addTrust(c)
	d.addLedger(c)
	d.addJSON(c)
	c.Flags().StringVar(&s.vkey, "vkey", "", "the log's public key, a `file`")
	c.Flags().StringVar(&s.roots, "roots", "", "certificates of the ledger's members, or of those who issue theirs, a `file`")
	c.Flags().StringVar(&page, "html", "", "also write the report as a page for people, a new `file`")
	return c
}

// printStanding prints what a step has put on the ledger.
func printStanding(w io.Writer, asJSON bool, what string, s trace.Standing) error {
	if asJSON {
		return printJSON(w, s)
	}
	was := "recorded"
	if s.Known {
		was = "was recorded before"
	}
	_, err := fmt.Fprintf(w, "%s %s, at %d (record %.16s…)\n", what, was, s.Position, s.Name)
	return err
}

// hashOf names a document as records do.
func hashOf(document string) ledgeranchor.Hash {
	h, err := ledgeranchor.ParseHash(trace.Hash(document))
	if err != nil {
		panic(err) // it is a hash
	}
	return h
}
