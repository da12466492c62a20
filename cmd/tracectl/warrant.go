package main

import (
	"bytes"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/trace"
)

func warrantCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "warrant",
		Short: "Write, sign and submit warrants; revoke and publish them",
		Long: `A warrant orders the recovery of the EIDs behind addresses in time windows:

  new      write it, for an authority to read
  sign     sign it
  submit   put it on the ledger; only then anybody answers it
  revoke   take it back
  publish  when its seal has ended, let subscribers ask whether they were in it`,
	}
	c.AddCommand(warrantNewCommand(), warrantSignCommand(), warrantShowCommand(), warrantSubmitCommand(), warrantRevokeCommand(), warrantPublishCommand())
	return c
}

// indented encodes for a file that people read.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	err := printJSON(&b, v)
	return b.Bytes(), err
}

// parseTarget reads an address or a prefix, and its window.
func parseTarget(what, from, until string) (t trace.Target, err error) {
	if strings.Contains(what, "/") {
		if t.Prefix, err = netip.ParsePrefix(what); err != nil {
			return t, fmt.Errorf("%q is no IPv6 prefix", what)
		}
	} else if t.Address, err = netip.ParseAddr(what); err != nil {
		return t, fmt.Errorf("%q is no IPv6 address", what)
	}
	if t.From, err = cli.ParseTime(from); err != nil {
		return t, err
	}
	if until == "" {
		until = from
	}
	t.Until, err = cli.ParseTime(until)
	return t, err
}

// readTargets reads lines of address,from,until.
func readTargets(path string) ([]trace.Target, error) {
	text, err := readFile(path, 4<<20)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bytes.NewReader(text))
	r.FieldsPerRecord = 3
	r.Comment = '#'
	r.TrimLeadingSpace = true
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []trace.Target
	for i, row := range rows {
		t, err := parseTarget(row[0], row[1], row[2])
		if err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", path, i+1, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func warrantNewCommand() *cobra.Command {
	var w trace.Warrant
	var d desk
	var addresses, prefixes []string
	var from, until, targets, holder, out, seal string
	var valid time.Duration
	c := &cobra.Command{
		Use:   "new",
		Short: "Write a warrant to be signed",
		Long: `Write a warrant, as JSON, for an authority to read and sign. It names addresses or
prefixes and for each a time window, in which the EID that held it is sought; and the
realm of the ISP that is to answer.

Of a sealed warrant the ledger tells its hash, how many targets it names, and until
when the seal holds; after that the authority publishes it ("warrant publish"), and
who had an address can ask whether it was disclosed. Without --seal-until that is so
at once.`,
		Example: `  tracectl warrant new --case "7 O 12/26" --authority "District Court" \
      --legal-basis "§ 100j StPO" --purpose "fraud" --realm isp.example --holder police.holder.json \
      --address 2001:db8:1:0:c7e2:7e0b:911e:c94b --from 2026-05-01T12:00:00Z \
      --seal-until 2026-11-01T00:00:00Z -o warrant.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			now := time.Now().UTC().Truncate(time.Second)
			var err error
			if w.ID, err = trace.NewID(rand.Reader); err != nil {
				return err
			}
			w.Issued, w.ValidFrom, w.ValidUntil = now, now, now.Add(valid)
			if seal != "" {
				if w.SealUntil, err = cli.ParseTime(seal); err != nil {
					return cli.Usagef("--seal-until: %v", err)
				}
			}
			for _, a := range append(addresses, prefixes...) {
				t, err := parseTarget(a, from, until)
				if err != nil {
					return cli.UsageError{Err: err}
				}
				w.Targets = append(w.Targets, t)
			}
			if targets != "" {
				more, err := readTargets(targets)
				if err != nil {
					return err
				}
				w.Targets = append(w.Targets, more...)
			}
			if w.Holder, err = readHolder(holder); err != nil {
				return err
			}
			if err := w.Check(); err != nil {
				return err
			}
			b, err := indented(&w)
			if err != nil {
				return err
			}
			if err := secretfile.Create(out, b); err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"file": out, "id": w.ID, "targets": len(w.Targets), "valid_until": w.ValidUntil})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: warrant %s with %d target(s), for %s, until %s; to be signed\n",
				out, w.ID, len(w.Targets), w.Holder.Name, w.ValidUntil.Format(time.RFC3339))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&w.Case, "case", "", "the authority's file `number`")
	f.StringVar(&w.Authority, "authority", "", "who orders it")
	f.StringVar(&w.LegalBasis, "legal-basis", "", "by what law")
	f.StringVar(&w.Purpose, "purpose", "", "what for")
	f.StringVar(&w.Realm, "realm", "", "the `realm` of the ISP that is to answer, e.g. isp.example")
	f.StringVar(&holder, "holder", "", "who may carry it out, a `file` NAME.holder.json of \"identity new --holder\"")
	f.StringSliceVarP(&addresses, "address", "a", nil, "an `address`; may be given several times")
	f.StringSliceVar(&prefixes, "prefix", nil, "a `prefix` of /48 or longer, for all addresses in it; may be given several times")
	f.StringVar(&from, "from", "", "the `time` it was in use, or when the window begins: RFC 3339 or unix seconds")
	f.StringVar(&until, "until", "", "when the window ends, a `time`; the same as --from if left out")
	f.StringVar(&targets, "targets", "", "more targets, a CSV `file` of address or prefix,from,until")
	f.DurationVar(&valid, "valid-for", 30*24*time.Hour, "how long the warrant is in force")
	f.StringVar(&seal, "seal-until", "", "until when its content stays hidden, a `time`")
	f.StringVarP(&out, "out", "o", "", "the warrant, a new `file`")
	d.addJSON(c)
	cli.Require(c, "case", "authority", "legal-basis", "purpose", "realm", "holder", "out")
	return c
}

func warrantSignCommand() *cobra.Command {
	var d desk
	var in, out string
	c := &cobra.Command{
		Use:   "sign",
		Short: "Sign a warrant as an authority",
		Long: `Check a warrant that "warrant new" wrote and sign it: a JWS with EdDSA, or ES256 for a
key in a token, and with the signer's certificate in it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := readFile(in, trace.MaxDocument)
			if err != nil {
				return err
			}
			var w trace.Warrant
			dec := json.NewDecoder(bytes.NewReader(text))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&w); err != nil {
				return fmt.Errorf("%s: %w", in, err)
			}
			id, err := d.self()
			if err != nil {
				return err
			}
			signed, err := w.Sign(id)
			if err != nil {
				return fmt.Errorf("%s: %w", in, err)
			}
			if err := secretfile.Create(out, []byte(signed+"\n")); err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"file": out, "warrant": trace.Hash(signed), "signed_by": id.Certificate.Subject.CommonName})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: warrant %.16s… signed by %s; it counts when it stands on the ledger (warrant submit)\n", out, trace.Hash(signed), id.Certificate.Subject.CommonName)
			return nil
		},
	}
	c.Flags().StringVarP(&in, "warrant", "w", "", "the warrant, a `file` of \"warrant new\"")
	c.Flags().StringVarP(&out, "out", "o", "", "the signed warrant, a new `file`")
	d.addSelf(c, "the authority's identity")
	d.addJSON(c)
	cli.Require(c, "warrant", "out")
	return c
}

func warrantShowCommand() *cobra.Command {
	var d desk
	var in string
	c := &cobra.Command{
		Use:   "show",
		Short: "Check a signed warrant and print it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			trust, err := d.whom("authorities")
			if err != nil {
				return err
			}
			text, err := readDocument(in)
			if err != nil {
				return err
			}
			w, err := trace.OpenWarrant(text, trust.Authorities, time.Now())
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), w)
		},
	}
	c.Flags().StringVarP(&in, "warrant", "w", "", "signed warrant, a `file`")
	d.addTrust(c)
	d.addJSON(c)
	cli.Require(c, "warrant")
	return c
}

// aboutWarrant is a command that a judge takes with a signed warrant.
func aboutWarrant(c *cobra.Command, d *desk, in *string) *cobra.Command {
	c.Args = cobra.NoArgs
	c.Flags().StringVarP(in, "warrant", "w", "", "signed warrant, a `file`")
	d.addTrust(c)
	d.addLedger(c)
	d.addSelf(c, "the judge's identity")
	d.addJSON(c)
	cli.Require(c, "warrant")
	return c
}

func warrantSubmitCommand() *cobra.Command {
	var d desk
	var in string
	var dryRun bool
	c := aboutWarrant(&cobra.Command{
		Use:   "submit",
		Short: "Put a signed warrant on the ledger",
		Long: `Record a signed warrant on the ledger: its hash, how many targets it names, until when
it is sealed, and a commitment to the targets. Only then the ISP and the trustees
answer it. A warrant without a seal is published at the same time. The record cannot
be taken back; a warrant can be revoked.`,
		Example: `  tracectl warrant submit --trust court.toml --identity court --warrant w.jws`,
	}, &d, &in)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check the warrant and say what would be recorded; record nothing")
	c.RunE = func(c *cobra.Command, _ []string) error {
		warrant, err := readDocument(in)
		if err != nil {
			return err
		}
		if dryRun {
			trust, err := d.whom("authorities")
			if err != nil {
				return err
			}
			w, err := trace.OpenWarrant(warrant, trust.Authorities, time.Now())
			if err != nil {
				return err
			}
			seal := "published at once"
			if w.SealUntil.After(time.Now()) {
				seal = "sealed until " + w.SealUntil.UTC().Format(time.RFC3339)
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"warrant": trace.Hash(warrant), "targets": len(w.Targets), "seal_until": w.SealUntil, "dry_run": true})
			}
			fmt.Fprintf(c.OutOrStdout(), "warrant %s, %d target(s), %s\nThis was a dry run: nothing was recorded.\n", trace.Hash(warrant), len(w.Targets), seal)
			return nil
		}
		return d.party(c.Context(), "submitting", []string{"authorities"}, func(p *trace.Party) error {
			s, err := p.Submit(c.Context(), warrant)
			if err != nil {
				return err
			}
			return printStanding(c.OutOrStdout(), d.asJSON, fmt.Sprintf("warrant %.16s…", trace.Hash(warrant)), s)
		})
	}
	return c
}

func warrantRevokeCommand() *cobra.Command {
	var d desk
	var in, reason string
	var dryRun bool
	c := aboutWarrant(&cobra.Command{
		Use:   "revoke",
		Short: "Take a warrant back, on the ledger",
		Long: `Say on the ledger, as a judge, that a warrant counts no more. No step more is taken on
it; what was done before stays. The record cannot be taken back.`,
		Example: `  tracectl warrant revoke --trust court.toml --identity court --warrant w.jws --reason "lifted on appeal"`,
	}, &d, &in)
	addReason(c, &reason, &dryRun)
	c.RunE = func(c *cobra.Command, _ []string) error {
		warrant, err := readDocument(in)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("revocation of the warrant %.16s…", trace.Hash(warrant))
		return d.revoke(c.Context(), c.OutOrStdout(), ledgeranchor.RevokedWarrant, what, hashOf(warrant), reason, dryRun)
	}
	return c
}

func warrantPublishCommand() *cobra.Command {
	var d desk
	var in string
	c := aboutWarrant(&cobra.Command{
		Use:   "publish",
		Short: "Publish a warrant's targets when its seal has ended",
		Long: `Open the commitment to a warrant's targets on the ledger, when its seal has ended.
Then whoever had an address can ask whether it was sought ("ledger disclosed"). No
address is published: who does not know one learns none. An audit misses a
publication a week after the seal's end.`,
		Example: `  tracectl warrant publish --trust court.toml --identity court --warrant w.jws`,
	}, &d, &in)
	c.RunE = func(c *cobra.Command, _ []string) error {
		warrant, err := readDocument(in)
		if err != nil {
			return err
		}
		return d.party(c.Context(), "publishing", []string{"authorities"}, func(p *trace.Party) error {
			all, err := p.Publish(c.Context(), warrant)
			if err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			for _, s := range all {
				if err := printStanding(c.OutOrStdout(), false, fmt.Sprintf("publication of the warrant %.16s…", trace.Hash(warrant)), s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}
