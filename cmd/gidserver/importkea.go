package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/config"
	"brightgid/internal/keaimport"
	"brightgid/internal/secretfile"
)

func importKeaCommand() *cobra.Command {
	var in keaimport.Settings
	var out string
	var asJSON bool
	c := &cobra.Command{
		Use:   "import-kea FILE",
		Short: "Write the configuration that is equivalent to one of Kea's",
		Long: `Read a configuration of Kea's DHCPv6 server (kea-dhcp6.conf) and write gidserver's that
is equivalent, to standard output or --out, which is never replaced. What could not be
carried over is listed on standard error, each with its place in Kea's configuration and
the reason. Kea's file and leases are not touched.

Who clients are has to be added: Kea leases to anybody.`,
		Example: `  gidserver import-kea --realm isp.example --out gidserver.toml /etc/kea/kea-dhcp6.conf`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			made, left, err := keaimport.Convert(text, in)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"configuration": made, "left": left})
			}
			if out == "" {
				fmt.Fprint(c.OutOrStdout(), made)
			} else if err := secretfile.CreatePublic(out, []byte(made)); err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.ErrOrStderr(), 0, 8, 2, ' ', 0)
			if len(left) > 0 {
				fmt.Fprintln(w, "NOT CARRIED OVER\tWHY")
			}
			for _, l := range left {
				fmt.Fprintf(w, "%s\t%s\n", l.Path, l.Why)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if _, err := config.Parse(args[0]+", imported", []byte(made)); err != nil {
				fmt.Fprintf(c.ErrOrStderr(), "What is left to do before it can be served:\n%v\n", err)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&in.Realm, "realm", "", "the ISP's `realm`, to which NIDs are bound")
	f.StringVar(&in.State, "state", "/var/lib/gidserver", "`directory` of the lease database")
	f.StringVar(&in.DUID, "duid", "", "the server's `DUID` in hex, as in Kea's kea-dhcp6-serverid, where the configuration does not fix one")
	f.StringVar(&out, "out", "", "the `file` to write; it must not exist")
	f.BoolVar(&asJSON, "json", false, "print configuration and list as JSON")
	cli.Require(c, "realm")
	return c
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
