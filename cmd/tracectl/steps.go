package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/trace"
)

func resolveCommand() *cobra.Command {
	var docs documents
	var server, identity, out string
	var serverCerts []string
	c := &cobra.Command{
		Use:   "resolve",
		Short: "Send a warrant to the ISP and get its resolution",
		Long: `Send a signed warrant to the ISP's resolve API over mutual TLS, check the answer
and write it. The resolution says when the addresses were leased and holds sealed
NIDs; it names nobody.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			warrant, err := readDocument(docs.warrant)
			if err != nil {
				return err
			}
			id, err := readIdentity(identity)
			if err != nil {
				return err
			}
			authorities, err := readCertificates(docs.authorities)
			if err != nil {
				return err
			}
			isps, err := readCertificates(docs.isps)
			if err != nil {
				return err
			}
			servers := isps
			if len(serverCerts) > 0 {
				if servers, err = readCertificates(serverCerts); err != nil {
					return err
				}
			}
			w, err := trace.OpenWarrant(warrant, authorities, time.Now())
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
			r, err := trace.OpenResolution(signed, isps, time.Now(), warrant, w)
			if err != nil {
				return err
			}
			if err := secretfile.Create(out, []byte(signed+"\n")); err != nil {
				return err
			}
			for _, a := range r.Answers {
				what := a.Reason
				if n := len(a.Candidates); n > 0 {
					what = fmt.Sprintf("%d candidate(s), found by %s", n, a.Candidates[0].Found)
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %s  %s\n", a.Address, a.From.Format(time.RFC3339), what)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&docs.warrant, "warrant", "w", "", "signed warrant, a `file`")
	f.StringVar(&server, "server", "", "the ISP's resolve API, an https `URL`")
	f.StringSliceVar(&serverCerts, "server-certificate", nil, "certificates of the API's server, if not those of --isps, `file`s")
	f.StringVarP(&identity, "identity", "i", "", "the holder's identity, the `path` without .key and .pem")
	f.StringVarP(&out, "out", "o", "", "the resolution, a new `file`")
	docs.addTrust(c)
	cli.Require(c, "warrant", "server", "identity", "out", "authorities", "isps")
	return c
}

// progress shows how far a long step has come, where somebody watches.
func progress(w io.Writer, what string) func(done, of int) {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	var last time.Time
	return func(done, of int) {
		if now := time.Now(); done == of || now.Sub(last) > 100*time.Millisecond {
			last = now
			fmt.Fprintf(w, "\r%s: %d of %d", what, done, of)
			if done == of {
				fmt.Fprintln(w)
			}
		}
	}
}

func approveCommand() *cobra.Command {
	var docs documents
	var sharePath, out string
	c := &cobra.Command{
		Use:   "approve",
		Short: "Approve a warrant as a trustee",
		Long: `Check a warrant and the ISP's resolution of it, and add the trustee's share for
the NIDs in it. The approval is sealed to the warrant's holder and opens nothing
alone.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, trust, key, err := docs.load()
			if err != nil {
				return err
			}
			text, err := secretfile.Read(sharePath)
			if err != nil {
				return err
			}
			share, err := idcodec.ParseShare(text)
			clear(text)
			if err != nil {
				return fmt.Errorf("%s: %w", sharePath, err)
			}
			a, err := trace.Approve(rand.Reader, time.Now(), d, trust, key, share, progress(os.Stderr, "approving"))
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
			fmt.Fprintf(c.OutOrStdout(), "%s: approved by %s\n", out, a.Trustee)
			return nil
		},
	}
	docs.add(c)
	c.Flags().StringVar(&sharePath, "share", "", "the trustee's share, a `file`")
	c.Flags().StringVarP(&out, "out", "o", "", "the approval, a new `file`")
	cli.Require(c, "share", "out")
	return c
}

func recoverCommand() *cobra.Command {
	var docs documents
	var identity, out string
	var approvals []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "recover",
		Short: "Recover the EIDs that a warrant orders",
		Long: `Check a warrant, the ISP's resolution and the trustees' approvals, and open the
NIDs. A trustee whose approval is wrong is named. Where the ISP could not tell
between two subscribers, both are reported.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, trust, key, err := docs.load()
			if err != nil {
				return err
			}
			id, err := readIdentity(identity)
			if err != nil {
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
			report, err := trace.Recover(time.Now(), d, trust, key, id, parsed)
			if errors.Is(err, idcodec.ErrTooFewShares) {
				return fmt.Errorf("%w; %d of the trustees %s must approve", err, key.Threshold(), trusteeNames(key))
			}
			if err != nil {
				return err
			}
			if out != "" {
				b, err := indented(report)
				if err != nil {
					return err
				}
				if err := secretfile.Create(out, b); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), report)
			}
			printReport(c.OutOrStdout(), report)
			return nil
		},
	}
	docs.add(c)
	f := c.Flags()
	f.StringSliceVar(&approvals, "approval", nil, "a trustee's approval, a `file`; given once for each")
	f.StringVarP(&identity, "identity", "i", "", "the holder's identity, the `path` without .key and .pem")
	f.StringVarP(&out, "out", "o", "", "the report as JSON, a new `file`")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "approval", "identity")
	return c
}

func trusteeNames(key *idcodec.EscrowKey) string {
	var names []string
	for _, t := range key.Trustees() {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", ")
}

func printReport(w io.Writer, r *trace.Report) {
	fmt.Fprintf(w, "case %s, warrant %.16s…, approved by %s\n", r.Case, r.Warrant, strings.Join(r.Trustees, ", "))
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s at %s", f.Address, f.From.Format(time.RFC3339))
		if !f.Until.Equal(f.From) {
			fmt.Fprintf(w, " to %s", f.Until.Format(time.RFC3339))
		}
		fmt.Fprintln(w)
		if len(f.Persons) == 0 {
			fmt.Fprintf(w, "  nobody: %s\n", f.Reason)
		}
		if len(f.Persons) > 1 {
			fmt.Fprintln(w, "  one of these; the ISP cannot tell which:")
		}
		for _, p := range f.Persons {
			fmt.Fprintf(w, "  EID %s", p.EID)
			switch {
			case p.Found == trace.FoundDecoded:
				fmt.Fprint(w, "  (decoded from the address; no lease history confirms it)")
			default:
				for _, l := range p.Leases {
					fmt.Fprintf(w, "  (leased %s to %s)", l.From.Format(time.RFC3339), l.Until.Format(time.RFC3339))
				}
			}
			fmt.Fprintln(w)
		}
	}
}
