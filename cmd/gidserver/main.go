// Gidserver is an ISP's DHCPv6 server that leases traceable-anonymous addresses:
// the interface identifier of each is a GID, from which the trustees of a
// warrant, and nobody alone, can get to the subscriber.
package main

import (
	"github.com/spf13/cobra"

	"brightgid/internal/cli"
)

// version is set by the linker.
var version = "development"

func main() { cli.Main(command()) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gidserver",
		Short: "Lease traceable-anonymous IPv6 addresses over DHCPv6",
		Long: `gidserver is a DHCPv6 server (RFC 9915) whose addresses end in a GID: 64 bits
that hide a subscriber number, and change with prefix and day. The EID of each
subscriber is sealed to the trustees' escrow key; gidserver cannot open it.

Begin with "gidserver init", edit the configuration that it writes, and run
"gidserver check-config" and "gidserver serve".`,
		Version: version,
	}
	root.AddCommand(serveCommand(), checkConfigCommand(), initCommand(), leasesCommand(), statusCommand(), reloadCommand(), rotateCommand(), resolveCommand(), sealTableCommand(), gidCommand(), zoneCommand(), databaseCommand(), importKeaCommand())
	return root
}

// configFlag adds the flag that names the configuration.
func configFlag(c *cobra.Command) *string {
	return c.Flags().StringP("config", "c", "/etc/gidserver/gidserver.toml", "configuration `file`")
}
