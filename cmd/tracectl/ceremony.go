package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
)

func ceremonyCommand() *cobra.Command {
	c := &cobra.Command{Use: "ceremony", Short: "Make the escrow key and the trustees' shares"}
	c.AddCommand(dealCommand())
	return c
}

func dealCommand() *cobra.Command {
	var threshold int
	var names []string
	var dir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "deal",
		Short: "Deal shares of a new escrow key, for laboratories",
		Long: `Make an escrow key and deal a share of it to each trustee. It writes
DIR/escrow.json, which everybody may have, and DIR/NAME.share for each trustee,
which is to be handed to the trustee and removed here.

The dealer's secret is never written, but it exists in this process for a moment,
so that whoever runs it must be trusted. Nothing that exists is replaced.`,
		Example: `  tracectl ceremony deal --threshold 2 --trustees judge,regulator,isp --out ceremony`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			key, shares, err := idcodec.Deal(rand.Reader, threshold, names)
			if err != nil {
				return cli.UsageError{Err: err}
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			public := filepath.Join(dir, "escrow.json")
			paths := []string{public}
			for _, s := range shares {
				paths = append(paths, filepath.Join(dir, s.Name()+".share"))
			}
			for _, p := range paths {
				if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s exists already; nothing was changed", p)
				}
			}
			for i, s := range shares {
				text, err := s.MarshalText()
				if err != nil {
					return err
				}
				err = secretfile.Create(paths[i+1], text)
				clear(text)
				if err != nil {
					return err
				}
			}
			text, err := key.MarshalText()
			if err != nil {
				return err
			}
			if err := secretfile.CreatePublic(public, text); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"escrow_key": key.ID().String(), "threshold": threshold, "files": paths})
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "escrow key %s: any %d of %d trustees open an NID together\n", key.ID(), threshold, len(names))
			fmt.Fprintf(out, "  %s  for everybody\n", public)
			for i, n := range names {
				fmt.Fprintf(out, "  %s  for %s alone; hand it over and remove it here\n", paths[i+1], n)
			}
			return nil
		},
	}
	c.Flags().IntVarP(&threshold, "threshold", "t", 0, "how many trustees open an NID together")
	c.Flags().StringSliceVar(&names, "trustees", nil, "the trustees' `names`, separated by commas")
	c.Flags().StringVarP(&dir, "out", "o", ".", "`directory` to write to")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "threshold", "trustees")
	return c
}
