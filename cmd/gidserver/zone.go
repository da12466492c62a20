package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"brightgid/gidzone"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/lease"
)

// sweepZone is how often bindings that have ended are removed; they are not told of
// before either.
const sweepZone = time.Minute

// loadZone reads the reverse zones' key and checks their configuration.
func (s *setup) loadZone() error {
	c := gidzone.Config{
		Prefixes: s.Zone.Prefixes, NS: s.Zone.NS, Mailbox: s.Zone.Mailbox, Names: s.Zone.Names,
		Realm: s.Realm, Ledger: s.Zone.Ledger, Resolve: s.Zone.Resolve,
	}
	if s.keyring == nil {
		return errors.New("there is no keyring")
	}
	c.EpochLength = s.keyring.EpochLength()
	if len(c.Prefixes) == 0 {
		for _, l := range s.Links {
			for _, p := range l.All() {
				c.Prefixes = append(c.Prefixes, p.Netip())
			}
			for _, p := range l.Pools {
				c.Prefixes = append(c.Prefixes, p.Prefix)
			}
		}
	}
	if s.Zone.Key != "" {
		text, err := secretfile.Read(s.Zone.Key)
		if err != nil {
			return err
		}
		defer clear(text)
		if c.Key, err = gidzone.ParseKey(text); err != nil {
			return fmt.Errorf("%s: %w", s.Zone.Key, err)
		}
	}
	s.bindings = new(gidzone.Bindings)
	var err error
	s.zones, err = gidzone.New(c, s.bindings, time.Now())
	return err
}

// bind tells the zones of a lease.
func (s *setup) bind(l lease.Lease) {
	until := l.ValidUntil
	if l.State != lease.Active && l.State != lease.Registered {
		until = time.Time{}
	}
	s.bindings.Set(l.Prefix(), until)
}

// fillZone tells the zones of all leases that hold.
func (s *setup) fillZone(store lease.Store, now time.Time) error {
	return store.Each(func(l lease.Lease) error {
		if l.Live(now) {
			s.bind(l)
		}
		return nil
	})
}

func (s *setup) serveZone(ctx context.Context, stats *gidzone.Stats, log *slog.Logger) error {
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(sweepZone):
				s.bindings.Sweep(time.Now())
			}
		}
	}()
	err := gidzone.Serve(ctx, s.Zone.Listen, s.zones, gidzone.NewLimit(s.Zone.RateLimit), stats, time.Now, log)
	if ctx.Err() != nil {
		<-swept
	}
	return err
}

func zoneCommand() *cobra.Command {
	c := &cobra.Command{Use: "zone", Short: "Make the reverse zone's key, and say what the zone above needs"}
	c.AddCommand(zoneKeyCommand(), zoneRecordsCommand())
	return c
}

func zoneKeyCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "key",
		Short: "Make a key that signs the reverse zones",
		Long: `Make a key (ECDSA P-256, DNSSEC algorithm 13) that signs the reverse zones as they
answer. Name it in [zone] key and give the DS records of "gidserver zone records" to
whoever keeps the zone above. Nothing that exists is replaced.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := gidzone.NewKey(rand.Reader)
			if err != nil {
				return err
			}
			text, err := k.MarshalText()
			if err != nil {
				return err
			}
			defer clear(text)
			if err := secretfile.Create(out, text); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), out)
			return nil
		},
	}
	c.Flags().StringVarP(&out, "out", "o", "", "the key, a new `file`")
	cli.Require(c, "out")
	return c
}

func zoneRecordsCommand() *cobra.Command {
	var file *string
	c := &cobra.Command{
		Use:   "records",
		Short: "Print the records that the zone above needs: NS, and DS if zones are signed",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			if s.zones == nil {
				return errors.New("zone.listen is not set: there is no zone")
			}
			for _, r := range s.zones.Records() {
				fmt.Fprintln(c.OutOrStdout(), r)
			}
			return nil
		},
	}
	file = configFlag(c)
	return c
}
