package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/identityfile"
	"brightgid/internal/secretfile"
	"brightgid/ledgeranchor"
	"brightgid/trace"
)

func identityCommand() *cobra.Command {
	c := &cobra.Command{Use: "identity", Short: "Make keys and certificates"}
	c.AddCommand(identityNewCommand())
	return c
}

func identityNewCommand() *cobra.Command {
	var name, out string
	var roles []string
	var holder bool
	var years int
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a signing key with a self-signed certificate",
		Long: `Make OUT.key, which is secret, and OUT.pem, a self-signed certificate that others
add to those that they trust. With --holder also OUT.holder.json, which goes into
warrants: it says whom they are for and to which key approvals are sealed.

Roles say what the ledger lets the identity write: judge (warrants), isp
(resolutions), trustee (approvals), holder (disclosures), relay (mail hops), log
(heads of logs).`,
		Example: `  tracectl identity new --name "District Court" --role judge --out court
  tracectl identity new --name "Police, Unit 7" --holder --out police`,
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
			who := trace.Subject{Name: name, Roles: roles}
			var id *trace.Identity
			var err error
			if from, until := now.Add(-time.Hour), now.AddDate(years, 0, 0); holder {
				id, err = trace.NewHolder(rand.Reader, who, from, until)
			} else {
				id, err = trace.NewIdentity(rand.Reader, who, from, until)
			}
			if err != nil {
				return err
			}
			paths := []string{out + ".key", out + ".pem"}
			if holder {
				paths = append(paths, out+".holder.json")
				if _, err := os.Lstat(paths[2]); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s exists already; nothing was changed", paths[2])
				}
			}
			if err := identityfile.Create(out, id); err != nil {
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
	cli.Require(c, "name", "out")
	return c
}
