package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/sava"
)

// forgerOptions are the operator's choice to give the epoch keys to a filter.
type forgerOptions struct {
	keyring  string
	prefixes []string
	maxAge   time.Duration
}

func (o *forgerOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.keyring, "keyring", "", "the ISP's keyring, a `file`, to tell forged sources")
	f.StringSliceVar(&o.prefixes, "prefix", nil, "with --keyring, a `/64` that GIDs are leased in; may be given several times")
	f.DurationVar(&o.maxAge, "max-age", 72*time.Hour, "with --keyring, the maximum `age` of an address")
	c.MarkFlagsRequiredTogether("keyring", "prefix")
}

// forger returns the stateless check, or nil without keys.
func (o *forgerOptions) forger() (sava.Forger, error) {
	if o.keyring == "" {
		return nil, nil
	}
	text, err := secretfile.Read(o.keyring)
	if err != nil {
		return nil, err
	}
	ring, err := idcodec.ParseKeyring(text)
	clear(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.keyring, err)
	}
	e := &sava.EpochForger{Keys: ring, MaxAge: o.maxAge}
	for _, s := range o.prefixes {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, cli.Usagef("--prefix: %q is no IPv6 /64", s)
		}
		prefix, err := idcodec.PrefixFrom(p)
		if err != nil {
			return nil, cli.Usagef("--prefix: %w", err)
		}
		e.Prefixes = append(e.Prefixes, prefix)
	}
	return e, nil
}
