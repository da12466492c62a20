// Gidfilter is the access device's side of the service: only leased addresses
// may send.
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
		Use:   "gidfilter",
		Short: "Let only leased addresses send",
		Long: `gidfilter validates source addresses (SAVA, RFC 7039): a frame from an access
port must come from the port, VLAN and link-layer address that its source is
bound to.`,
		Version: version,
	}
	root.AddCommand(runCommand(), checkCommand(), bindingsCommand(), statsCommand(), dropsCommand(), identityCommand(), detachCommand())
	return root
}
