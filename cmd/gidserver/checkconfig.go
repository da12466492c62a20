package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"brightgid/dhcpv6"
	"brightgid/internal/config"
)

func dur(d config.Duration) time.Duration { return time.Duration(d) }

func checkConfigCommand() *cobra.Command {
	var file *string
	c := &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration and the files that it names",
		Long: `Check the configuration and the keys, tables and certificates that it names, as
"serve" would read them, and change nothing. Everything that is wrong is printed
with file, line and key.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			if _, err := dhcpv6.NewHandler(s.handlerConfig(), nil, nil, nil, new(dhcpv6.Stats), slog.New(slog.DiscardHandler)); err != nil {
				return fmt.Errorf("%s: %w", *file, err)
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%s is in order.\n", *file)
			fmt.Fprintf(out, "  realm %s, escrow key %s, %d of %d trustees\n", s.Realm, s.escrow.ID(), s.escrow.Threshold(), len(s.escrow.Trustees()))
			fmt.Fprintf(out, "  keyring from epoch %d, epochs of %s, kept for %s\n", s.keyring.Oldest(), s.keyring.EpochLength(), dur(s.Lease.Retention))
			for _, l := range s.Links {
				fmt.Fprintf(out, "  link %s: %d prefix(es)", l.Name, len(l.Prefixes))
				if l.Interface != "" {
					fmt.Fprintf(out, ", on interface %s", l.Interface)
				}
				fmt.Fprintln(out)
			}
			fmt.Fprintf(out, "  %d trusted relay(s), %d row(s) in the static table\n", len(s.Auth.TrustedRelays), s.tableSize)
			if s.plainEIDs > 0 {
				fmt.Fprintf(out, "  warning: %d row(s) of %s hold an EID in the clear; seal them with \"gidserver seal-table\"\n", s.plainEIDs, s.Auth.Table)
			}
			if s.leasequery != nil && len(s.filters) == 0 {
				fmt.Fprintln(out, "  warning: no filter is trusted yet: every leasequery is refused")
			}
			if s.resolver == nil {
				fmt.Fprintln(out, "  warning: no resolve.listen: warrants are answered by \"gidserver resolve\" only")
			} else if len(s.authorities) == 0 || len(s.holders) == 0 {
				fmt.Fprintln(out, "  warning: no authority or no warrant holder is trusted yet: every warrant is refused")
			}
			return nil
		},
	}
	file = configFlag(c)
	return c
}
