package main

import (
	"crypto/rand"
	"fmt"

	"github.com/spf13/cobra"

	"brightgid/eidauth"
	"brightgid/idcodec"
	"brightgid/internal/config"
	"brightgid/internal/secretfile"
)

func sealTableCommand() *cobra.Command {
	var file *string
	var dry bool
	c := &cobra.Command{
		Use:   "seal-table",
		Short: "Seal the EIDs in the static table, for good",
		Long: `Replace every EID in the static table by its lookup key and NID, so that the
server knows its clients without holding an identity. The EIDs cannot be brought
back but by the trustees: keep what you need of them elsewhere.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			if s.Auth.Table == "" {
				return fmt.Errorf("%s names no auth.table", *file)
			}
			if dry || s.plainEIDs == 0 {
				fmt.Fprintf(c.OutOrStdout(), "%d of %d row(s) hold an EID to be sealed; nothing was changed\n", s.plainEIDs, s.tableSize)
				return nil
			}
			text, err := secretfile.Read(s.Auth.Table)
			if err != nil {
				return err
			}
			table, err := config.ParseTable(s.Auth.Table, text)
			clear(text)
			if err != nil {
				return err
			}
			hasher := idcodec.NewLookupHasher(s.registryKey)
			seal := func(id *eidauth.Identity) error {
				if id.Sealed != nil {
					return nil
				}
				nid, err := idcodec.SealNID(rand.Reader, s.escrow, s.Realm, id.EID)
				*id = eidauth.Identity{Sealed: &eidauth.Sealed{Key: hasher.Key(id.EID), NID: nid}}
				return err
			}
			for i := range table.Entries {
				if err := seal(&table.Entries[i].Identity); err != nil {
					return err
				}
			}
			for i := range table.Reservations {
				if err := seal(&table.Reservations[i].Identity); err != nil {
					return err
				}
			}
			if err := secretfile.Replace(s.Auth.Table, []byte(config.FormatTable(table))); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "sealed %d row(s) of %s\n", s.plainEIDs, s.Auth.Table)
			return nil
		},
	}
	file = configFlag(c)
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "say what would be sealed and change nothing")
	return c
}
