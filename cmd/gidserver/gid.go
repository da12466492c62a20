package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
)

// keyFlags are how `gid encode` and `gid decode` are told the epoch key.
type keyFlags struct {
	keyring, keyHex, at string
	epoch               int64
}

func (f *keyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.keyring, "keyring", "", "keyring `file`")
	c.Flags().StringVar(&f.at, "time", "now", "the `time` whose epoch it is: RFC 3339, unix seconds or now")
	c.Flags().StringVar(&f.keyHex, "key-hex", "", "instead of a keyring, an epoch key of 32 bytes in `hex`; for test vectors only,\nsince others can read a command line")
	c.Flags().Int64Var(&f.epoch, "epoch", -1, "with --key-hex, the `epoch` of the key")
	c.MarkFlagsMutuallyExclusive("keyring", "key-hex")
	c.MarkFlagsOneRequired("keyring", "key-hex")
	c.MarkFlagsRequiredTogether("key-hex", "epoch")
}

func (f *keyFlags) key() (*idcodec.EpochKey, error) {
	if f.keyHex != "" {
		k, err := hex.DecodeString(f.keyHex)
		if err != nil || len(k) != idcodec.KeyLen {
			return nil, cli.Usagef("--key-hex: want %d bytes in hex", idcodec.KeyLen)
		}
		if f.epoch < 0 || f.epoch > idcodec.MaxEpoch {
			return nil, cli.Usagef("--epoch: want 0 to %d", idcodec.MaxEpoch)
		}
		return idcodec.NewEpochKey([idcodec.KeyLen]byte(k), uint32(f.epoch))
	}
	text, err := secretfile.Read(f.keyring)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	ring, err := idcodec.ParseKeyring(text)
	clear(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.keyring, err)
	}
	t, err := parseTime(f.at)
	if err != nil {
		return nil, cli.Usagef("--time: %w", err)
	}
	epoch, err := ring.EpochAt(t)
	if err != nil {
		return nil, err
	}
	return ring.Key(epoch)
}

func parseTime(s string) (time.Time, error) {
	if s == "now" {
		return time.Now(), nil
	}
	return cli.ParseTime(s)
}

func gidCommand() *cobra.Command {
	c := &cobra.Command{Use: "gid", Short: "Encode and decode GIDs by hand"}
	c.AddCommand(encodeCommand(), decodeCommand())
	return c
}

func encodeCommand() *cobra.Command {
	var keys keyFlags
	var prefix string
	var subscriber uint64
	var slot uint16
	c := &cobra.Command{
		Use:   "encode",
		Short: "Print the address of a subscriber's slot",
		Args:  cobra.NoArgs,
		Example: `  gidserver gid encode --keyring /etc/gidserver/keyring --prefix 2001:db8:1::/64 \
      --time 2026-05-01T12:00:00Z --subscriber 42 --slot 0`,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := netip.ParsePrefix(prefix)
			if err != nil {
				return cli.Usagef("--prefix: %q is no IPv6 /64", prefix)
			}
			raw, err := idcodec.PrefixFrom(p)
			if err != nil {
				return cli.Usagef("--prefix: %w", err)
			}
			k, err := keys.key()
			if err != nil {
				return err
			}
			g, err := k.Encode(raw, subscriber, slot)
			if err != nil {
				return cli.UsageError{Err: err}
			}
			if idcodec.Reserved(g) {
				fmt.Fprintln(c.ErrOrStderr(), "gidserver: this interface identifier is reserved by IANA and never leased")
			}
			fmt.Fprintln(c.OutOrStdout(), raw.Addr(g))
			return nil
		},
	}
	keys.add(c)
	c.Flags().StringVar(&prefix, "prefix", "", "the `/64` of the address")
	c.Flags().Uint64Var(&subscriber, "subscriber", 0, "subscriber `number`, 36 bits")
	c.Flags().Uint16Var(&slot, "slot", 0, "`slot`, 12 bits")
	cli.Require(c, "prefix", "subscriber", "slot")
	return c
}

func decodeCommand() *cobra.Command {
	var keys keyFlags
	var address string
	var asJSON bool
	c := &cobra.Command{
		Use:   "decode",
		Short: "Print the subscriber, slot and epoch of an address",
		Long: `Print the subscriber number, the slot and the epoch that an address encodes.

An address that was not made with the key of this epoch prints "forged", and the
exit status is 1. An address may be in use after its epoch has ended; to trace
one, use a warrant and "tracectl".`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := netip.ParseAddr(address)
			if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
				return cli.Usagef("--address: %q is no IPv6 address", address)
			}
			k, err := keys.key()
			if err != nil {
				return err
			}
			subscriber, slot, err := k.Decode(idcodec.PrefixOf(a), idcodec.GIDOf(a))
			if errors.Is(err, idcodec.ErrForged) {
				fmt.Fprintln(c.OutOrStdout(), "forged")
				return cli.ErrQuiet
			}
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(map[string]uint64{
					"subscriber": subscriber, "slot": uint64(slot), "epoch": uint64(k.Epoch())})
			}
			fmt.Fprintf(c.OutOrStdout(), "subscriber %d\nslot %d\nepoch %d\n", subscriber, slot, k.Epoch())
			return nil
		},
	}
	keys.add(c)
	c.Flags().StringVar(&address, "address", "", "the `address`")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "address")
	return c
}
