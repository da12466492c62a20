// Gidserver is an ISP's DHCPv6 server that leases traceable-anonymous addresses:
// the interface identifier of each is a GID, from which the trustees of a
// warrant, and nobody alone, can get to the subscriber.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"brightgid/internal/harden"
)

// version is set by the linker.
var version = "development"

// errQuiet ends the program with status 1 when everything was said already.
var errQuiet = errors.New("")

func main() {
	if err := harden.Process(); err != nil {
		fmt.Fprintln(os.Stderr, "gidserver:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errQuiet) {
			fmt.Fprintln(os.Stderr, "gidserver:", err)
		}
		stop()
		if errors.As(err, new(usageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usageError is a command line that makes no sense; the exit status is 2.
type usageError struct{ error }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gidserver",
		Short: "Lease traceable-anonymous IPv6 addresses over DHCPv6",
		Long: `gidserver is a DHCPv6 server (RFC 9915) whose addresses end in a GID: 64 bits
that hide a subscriber number, and change with prefix and day. The EID of each
subscriber is sealed to the trustees' escrow key; gidserver cannot open it.

Begin with "gidserver init", edit the configuration that it writes, and run
"gidserver check-config" and "gidserver serve".`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serveCommand(), checkConfigCommand(), initCommand(), leasesCommand(), resolveCommand(), sealTableCommand(), gidCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// configFlag adds the flag that names the configuration.
func configFlag(c *cobra.Command) *string {
	return c.Flags().StringP("config", "c", "/etc/gidserver/gidserver.toml", "configuration `file`")
}
