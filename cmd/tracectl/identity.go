package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/hsm"
	"brightgid/internal/identityfile"
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/trace"
)

func identityCommand() *cobra.Command {
	c := &cobra.Command{Use: "identity", Short: "Make keys and certificates, and revoke them"}
	c.AddCommand(identityNewCommand(), identityRevokeCommand())
	return c
}

func identityNewCommand() *cobra.Command {
	var d desk
	var name, out, token string
	var roles []string
	var holder bool
	var years int
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a signing key with a self-signed certificate",
		Long: `Make OUT.key, which is secret, and OUT.pem, a self-signed certificate that others
add to those that they trust. With --holder also OUT.holder.json, which goes into
warrants: it says whom they are for and to which key approvals are sealed.

Who has certificates of an authority puts its own into OUT.pem, followed by those that
issued it, and lets others trust the authority's root.

With --token the signing key (ECDSA P-256) is made in a hardware token by PKCS #11 and
never leaves it; OUT.key then holds the token's URI (RFC 7512). The PIN comes from the
file that the URI's pin-source names, or from --passphrase-file, or is asked for.

Roles say what the ledger lets the identity write: judge (warrants), isp
(resolutions), trustee (approvals), holder (disclosures), relay (mail hops), log
(heads of logs).`,
		Example: `  tracectl identity new --name "District Court" --role judge --out court
  tracectl identity new --name "Police, Unit 7" --holder --out police
  tracectl identity new --name "District Court" --role judge --out court \
      --token "pkcs11:token=court;object=judge?module-path=/usr/lib/softhsm/libsofthsm2.so"`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			now := time.Now()
			if years < 1 || years > 30 {
				return cli.Usagef("--years %d: want 1 to 30", years)
			}
			for _, r := range roles {
				if !ledgeranchor.IsRole(r) {
					return cli.Usagef("--role %q: want one of %s", r, strings.Join(ledgeranchor.Roles(), ", "))
				}
			}
			if holder && !slices.Contains(roles, ledgeranchor.RoleHolder) {
				roles = append(roles, ledgeranchor.RoleHolder)
			}
			paths := []string{out + ".key", out + ".pem"}
			if holder {
				paths = append(paths, out+".holder.json")
			}
			if err := unused(paths...); err != nil {
				return err
			}
			who := trace.Subject{Name: name, Roles: roles}
			id, err := d.newIdentity(token, who, now.Add(-time.Hour), now.AddDate(years, 0, 0))
			if err != nil {
				return err
			}
			if holder {
				if err := id.CanUnseal(rand.Reader); err != nil {
					return err
				}
			}
			if token != "" {
				err = identityfile.CreateOf(out, token, id)
			} else {
				err = identityfile.Create(out, id)
			}
			if err != nil {
				return err
			}
			if holder {
				h, err := id.Holder()
				if err != nil {
					return err
				}
				text, err := indented(h)
				if err != nil {
					return err
				}
				if err := secretfile.CreatePublic(paths[2], text); err != nil {
					return err
				}
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"name": name, "roles": roles, "certificate": trace.Fingerprint(id.Certificate), "files": paths})
			}
			for _, p := range paths {
				fmt.Fprintln(c.OutOrStdout(), p)
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "whose identity it is")
	c.Flags().StringVarP(&out, "out", "o", "", "`path` of the files, without an ending")
	c.Flags().StringSliceVar(&roles, "role", nil, "`role` on the ledger; may be given several times")
	c.Flags().BoolVar(&holder, "holder", false, "make it fit for a holder of warrants")
	c.Flags().IntVar(&years, "years", 2, "how many years the certificate is valid")
	c.Flags().StringVar(&token, "token", "", "make the key in a hardware token, a PKCS #11 `URI`")
	d.addPassphrase(c)
	d.addJSON(c)
	cli.Require(c, "name", "out")
	return c
}

// newIdentity makes a key, in a file or in a token.
func (d *desk) newIdentity(token string, who trace.Subject, from, until time.Time) (*trace.Identity, error) {
	if token == "" {
		return trace.NewIdentity(rand.Reader, who, from, until)
	}
	key, err := hsm.Generate(token, d.passphrase(false))
	if err != nil {
		return nil, err
	}
	return trace.Certify(rand.Reader, key, who, from, until)
}

func identityRevokeCommand() *cobra.Command {
	var d desk
	var certificate, reason string
	var dryRun bool
	c := &cobra.Command{
		Use:   "revoke",
		Short: "Say on the ledger that a certificate counts no more",
		Long: `Revoke a certificate, as a judge, by a record on the ledger: of a court whose key was
stolen, of an ISP, a trustee or a holder. No step more is taken on a document that it
has signed. What was done before stays, and the record cannot be taken back.`,
		Example: `  tracectl identity revoke --trust court.toml --identity court --certificate police.pem --reason "key lost"`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			certs, err := readCertificates([]string{certificate})
			if err != nil {
				return err
			}
			h := ledgeranchor.AuthorID(certs[0])
			what := fmt.Sprintf("revocation of the certificate of %q", certs[0].Subject.CommonName)
			return d.revoke(c.Context(), c.OutOrStdout(), ledgeranchor.RevokedCertificate, what, h, reason, dryRun)
		},
	}
	c.Flags().StringVar(&certificate, "certificate", "", "the certificate, a `file`")
	addReason(c, &reason, &dryRun)
	d.addTrust(c)
	d.addLedger(c)
	d.addSelf(c, "the judge's identity")
	d.addJSON(c)
	cli.Require(c, "certificate")
	return c
}

func addReason(c *cobra.Command, reason *string, dryRun *bool) {
	c.Flags().StringVar(reason, "reason", "", "why; everybody can read it on the ledger")
	c.Flags().BoolVar(dryRun, "dry-run", false, "say what would be revoked and revoke nothing")
	cli.Require(c, "reason")
}

func (d *desk) revoke(ctx context.Context, w io.Writer, kind, what string, h ledgeranchor.Hash, reason string, dryRun bool) error {
	if dryRun {
		if d.asJSON {
			return printJSON(w, map[string]any{"revokes": kind, "hash": h, "reason": reason, "dry_run": true})
		}
		fmt.Fprintf(w, "%s (%s) for the reason %q\nThis was a dry run: nothing was revoked.\n", what, h, reason)
		return nil
	}
	return d.party(ctx, "revoking", nil, func(p *trace.Party) error {
		s, err := p.Revoke(ctx, kind, h, reason)
		if err != nil {
			return err
		}
		return printStanding(w, d.asJSON, what, s)
	})
}

func readHolder(path string) (h trace.Holder, err error) {
	text, err := readFile(path, 1<<20)
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}
