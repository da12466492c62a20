// Gidchain is the ledger's chaincode for Hyperledger Fabric, run as a service: an
// organization runs it beside its peer.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hyperledger/fabric-chaincode-go/v2/shim"
	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/identityfile"
	"brightgid/internal/tomlfile"
	"brightgid/ledgeranchor/chaincode"
)

// version is set by the linker.
var version = "development"

func main() { cli.Main(command()) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gidchain",
		Short: "The ledger's chaincode, run as a service",
		Long: `gidchain checks and keeps ledger records on a channel of Hyperledger Fabric. Each
organization runs its own, beside its peer, with its own idea of who may write what.
Where the organizations' ideas differ, their peers endorse different things, and
nothing is committed.`,
		Version: version,
	}
	root.AddCommand(serveCommand(), checkCommand())
	return root
}

// config is gidchain.toml.
type config struct {
	Organizations []organization `toml:"organization"`
}

type organization struct {
	MSP   string   `toml:"msp"`
	Roles []string `toml:"roles"`
	Roots string   `toml:"roots"` // a PEM file
}

// load reads the configuration and makes the chaincode.
func load(path string) (*chaincode.Contract, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c config
	if err := tomlfile.Decode(path, text, &c); err != nil {
		return nil, err
	}
	if len(c.Organizations) == 0 {
		return nil, fmt.Errorf("%s: want an [[organization]] at least", path)
	}
	var orgs []chaincode.Organization
	for _, o := range c.Organizations {
		roots := o.Roots
		if !filepath.IsAbs(roots) {
			roots = filepath.Join(filepath.Dir(path), roots)
		}
		certs, err := identityfile.Certificates(roots)
		if err != nil {
			return nil, fmt.Errorf("%s: organization %q: roots: %w", path, o.MSP, err)
		}
		orgs = append(orgs, chaincode.Organization{MSP: o.MSP, Roles: o.Roles, Roots: certs})
	}
	contract, err := chaincode.New(orgs, time.Now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return contract, nil
}

func checkCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := load(path); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is in order\n", path)
			return nil
		},
	}
	c.Flags().StringVarP(&path, "config", "c", "/etc/gidchain/gidchain.toml", "configuration, a `file`")
	return c
}

func serveCommand() *cobra.Command {
	var path, listen, id, cert, key, clients string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the chaincode to a peer",
		Long: `Serve the chaincode until SIGTERM or SIGINT. The peer's chaincode package says where
(connection.json), and has the id that --id repeats. With --tls-cert the peer must
show a certificate of --tls-clients.`,
		Example: `  gidchain serve --listen 127.0.0.1:9999 --id gid-ledger_1:6a75… --tls-cert tls.pem \
      --tls-key tls.key --tls-clients peer-ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			contract, err := load(path)
			if err != nil {
				return err
			}
			server := &shim.ChaincodeServer{CCID: id, Address: listen, CC: contract, TLSProps: shim.TLSProperties{Disabled: true}}
			if cert != "" {
				if key == "" || clients == "" {
					return cli.Usagef("--tls-cert needs --tls-key and --tls-clients")
				}
				server.TLSProps.Disabled = false
				for _, f := range []struct {
					path string
					to   *[]byte
				}{{cert, &server.TLSProps.Cert}, {key, &server.TLSProps.Key}, {clients, &server.TLSProps.ClientCACerts}} {
					if *f.to, err = os.ReadFile(f.path); err != nil {
						return err
					}
				}
			}
			fmt.Fprintf(c.ErrOrStderr(), "serving the chaincode %s at %s\n", id, listen)
			return serve(c.Context(), server)
		},
	}
	f := c.Flags()
	f.StringVarP(&path, "config", "c", "/etc/gidchain/gidchain.toml", "configuration, a `file`")
	f.StringVar(&listen, "listen", "", "`address` and port")
	f.StringVar(&id, "id", os.Getenv("CHAINCODE_ID"), "the package's `id`; CHAINCODE_ID if left out")
	f.StringVar(&cert, "tls-cert", "", "certificate for TLS, a `file`")
	f.StringVar(&key, "tls-key", "", "its key, a `file`")
	f.StringVar(&clients, "tls-clients", "", "certificates of those who issue the peers', a `file`")
	cli.Require(c, "listen")
	return c
}

// serve runs the server until the context ends. It cannot be asked to stop, and a
// peer that loses it tries again.
func serve(ctx context.Context, server *shim.ChaincodeServer) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Start() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}
