package main

import (
	"bytes"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/trace"
)

func warrantCommand() *cobra.Command {
	c := &cobra.Command{Use: "warrant", Short: "Write, sign and show warrants"}
	c.AddCommand(warrantNewCommand(), warrantSignCommand(), warrantShowCommand())
	return c
}

// indented encodes for a file that people read.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	err := printJSON(&b, v)
	return b.Bytes(), err
}

func parseTarget(address, from, until string) (trace.Target, error) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return trace.Target{}, fmt.Errorf("%q is no IPv6 address", address)
	}
	t := trace.Target{Address: a}
	if t.From, err = cli.ParseTime(from); err != nil {
		return trace.Target{}, err
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
	var addresses []string
	var from, until, targets, holder, out string
	var valid time.Duration
	c := &cobra.Command{
		Use:   "new",
		Short: "Write a warrant to be signed",
		Long: `Write a warrant, as JSON, for an authority to read and sign. It names addresses
and for each a time window, in which the EID that held it is sought.`,
		Example: `  tracectl warrant new --case "7 O 12/26" --authority "District Court" \
      --legal-basis "§ 100j StPO" --purpose "fraud" --holder police.holder.json \
      --address 2001:db8:1:0:c7e2:7e0b:911e:c94b --from 2026-05-01T12:00:00Z -o warrant.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			now := time.Now().UTC().Truncate(time.Second)
			var err error
			if w.ID, err = trace.NewID(rand.Reader); err != nil {
				return err
			}
			w.Issued, w.ValidFrom, w.ValidUntil = now, now, now.Add(valid)
			for _, a := range addresses {
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
			text, err := readFile(holder, 1<<20)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(text, &w.Holder); err != nil {
				return fmt.Errorf("%s: %w", holder, err)
			}
			if err := w.Check(); err != nil {
				return cli.UsageError{Err: err}
			}
			b, err := indented(&w)
			if err != nil {
				return err
			}
			if err := secretfile.Create(out, b); err != nil {
				return err
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
	f.StringVar(&holder, "holder", "", "who may carry it out, a `file` NAME.holder.json of \"identity new --holder\"")
	f.StringSliceVarP(&addresses, "address", "a", nil, "an `address`; may be given several times")
	f.StringVar(&from, "from", "", "the `time` it was in use, or when the window begins: RFC 3339 or unix seconds")
	f.StringVar(&until, "until", "", "when the window ends, a `time`; the same as --from if left out")
	f.StringVar(&targets, "targets", "", "more targets, a CSV `file` of address,from,until")
	f.DurationVar(&valid, "valid-for", 30*24*time.Hour, "how long the warrant is in force")
	f.StringVarP(&out, "out", "o", "", "the warrant, a new `file`")
	cli.Require(c, "case", "authority", "legal-basis", "purpose", "holder", "out")
	c.MarkFlagsRequiredTogether("address", "from")
	c.MarkFlagsOneRequired("address", "targets")
	return c
}

func warrantSignCommand() *cobra.Command {
	var in, identity, out string
	c := &cobra.Command{
		Use:   "sign",
		Short: "Sign a warrant",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := readFile(in, trace.MaxDocument)
			if err != nil {
				return err
			}
			var w trace.Warrant
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&w); err != nil {
				return fmt.Errorf("%s: %w", in, err)
			}
			id, err := readIdentity(identity)
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
			fmt.Fprintf(c.OutOrStdout(), "%s: signed by %s, hash %s\n", out, id.Certificate.Subject.CommonName, trace.Hash(signed))
			return nil
		},
	}
	c.Flags().StringVarP(&in, "warrant", "w", "", "the warrant, a `file` of \"warrant new\"")
	c.Flags().StringVarP(&identity, "identity", "i", "", "the authority's identity, the `path` without .key and .pem")
	c.Flags().StringVarP(&out, "out", "o", "", "the signed warrant, a new `file`")
	cli.Require(c, "warrant", "identity", "out")
	return c
}

func warrantShowCommand() *cobra.Command {
	var in string
	var authorities []string
	c := &cobra.Command{
		Use:   "show",
		Short: "Check a signed warrant and print it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			signed, err := readDocument(in)
			if err != nil {
				return err
			}
			roots, err := readCertificates(authorities)
			if err != nil {
				return err
			}
			w, err := trace.OpenWarrant(signed, roots, time.Now())
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), map[string]any{"hash": trace.Hash(signed), "warrant": w})
		},
	}
	c.Flags().StringVarP(&in, "warrant", "w", "", "signed warrant, a `file`")
	c.Flags().StringSliceVar(&authorities, "authorities", nil, "certificates of authorities whose warrants count, `file`s")
	cli.Require(c, "warrant", "authorities")
	return c
}
