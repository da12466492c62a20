package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"brightgid/internal/control"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/trace"
)

func resolveCommand() *cobra.Command {
	var file *string
	var warrant, out string
	c := &cobra.Command{
		Use:   "resolve",
		Short: "Answer a signed warrant from a file",
		Long: `Answer a signed warrant from a file with a signed resolution in another, where
warrants come by other ways than the resolve API. The server must be running. The
resolution holds sealed NIDs; it names nobody.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			f, err := os.Open(warrant)
			if err != nil {
				return err
			}
			defer f.Close()
			resp, err := control.Client(s.controlPath()).Post("http://gidserver/resolve", "application/jose", f)
			if err != nil {
				return fmt.Errorf("no server is running: %w", errors.Unwrap(err))
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, trace.MaxDocument))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("refused: %s", strings.TrimSpace(string(body)))
			}
			return secretfile.Create(out, append(body, '\n'))
		},
	}
	file = configFlag(c)
	c.Flags().StringVar(&warrant, "warrant", "", "signed warrant, a `file`")
	c.Flags().StringVarP(&out, "out", "o", "", "resolution, a new `file`")
	cli.Require(c, "warrant")
	cli.Require(c, "out")
	return c
}
