package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/identityfile"
	"brightgid/sava/xdp"
	"brightgid/trace"
)

func identityCommand() *cobra.Command {
	var name, out string
	var years int
	c := &cobra.Command{
		Use:   "identity",
		Short: "Make the key by which the filter speaks to its server",
		Long: `Make OUT.key, which is secret, and OUT.pem, a certificate. The operator of the
server adds OUT.pem to the file that gidserver.toml names as leasequery.filters.`,
		Example: `  gidfilter identity --name "access switch 7" --out /etc/gidfilter/filter`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if years < 1 || years > 30 {
				return cli.Usagef("--years %d: want 1 to 30", years)
			}
			now := time.Now()
			id, err := trace.NewIdentity(rand.Reader, trace.Subject{Name: name}, now.Add(-time.Hour), now.AddDate(years, 0, 0))
			if err != nil {
				return err
			}
			if err := identityfile.Create(out, id); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%[1]s.key\n%[1]s.pem\n", out)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "the filter's `name`")
	c.Flags().StringVarP(&out, "out", "o", "", "`path` of the files, without an ending")
	c.Flags().IntVar(&years, "years", 5, "how many years the certificate is valid")
	cli.Require(c, "name", "out")
	return c
}

func detachCommand() *cobra.Command {
	var pin string
	c := &cobra.Command{
		Use:   "detach",
		Short: "Stop enforcing what a filter has left in the kernel",
		Long: `Remove what a filter has left in the kernel, its programs and its bindings: from
now on everything passes. A filter that runs is to be stopped before.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ports, err := xdp.Detach(pin)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("nothing is there to detach: %w", err)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Nothing is filtered any more at: %s\n", strings.Join(ports, " "))
			return nil
		},
	}
	c.Flags().StringVar(&pin, "pin", defaultPin, "`directory` that the filter ran with")
	return c
}
