package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"brightgid/eidauth/ecert"
	"brightgid/internal/cli"
	"brightgid/internal/identityfile"
)

func proveCommand() *cobra.Command {
	var identity, realm, duid, client string
	var lasts time.Duration
	var enterprise uint32
	var asJSON bool
	c := &cobra.Command{
		Use:   "prove",
		Short: "Prove by a certificate (E-Cert) whose a DHCPv6 client is",
		Long: `Sign, by the key of a subscriber's certificate, that the client of a DUID is the
subscriber's: a proof that gidserver takes which trusts the certificate's authority, a
Fabric CA or any other. It holds for one client, one realm and a while; the server says for
how long at most. Who has it and the DUID can lease in the subscriber's name meanwhile.

The key is Ed25519 or ECDSA P-256, in a file or in a hardware token (PKCS #11).

--for says for which client it is printed: text (base64url), or lines for the configuration
of dhclient, dibbler-client or systemd-networkd.`,
		Example: `  tracectl prove --identity alice --realm isp.example \
      --duid 00:03:00:01:02:00:00:00:00:07 --lasts 24h --for dhclient`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			form, ok := enrolForms[client]
			if !ok {
				return cli.Usagef("--for %q: want text, dhclient, dibbler or networkd", client)
			}
			if lasts < time.Minute || lasts > 366*24*time.Hour {
				return cli.Usagef("--lasts %s: want 1m to 8784h", lasts)
			}
			who, err := parseDUID(duid)
			if err != nil {
				return err
			}
			id, err := identityfile.Read(identity)
			if err != nil {
				return err
			}
			now := time.Now()
			b, err := ecert.Prove(rand.Reader, id.Key, id.Certificate, realm, who, now, now.Add(lasts))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"proof": ecert.Encode(b), "duid": hex.EncodeToString(who), "realm": realm, "until": now.Add(lasts).UTC().Truncate(time.Second)})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), form(enterprise, ecert.OptionCode, b))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&identity, "identity", "", "the subscriber's key and certificate, a `path` without .key and .pem")
	f.StringVar(&realm, "realm", "", "the ISP's `realm`")
	f.StringVar(&duid, "duid", "", "the client's `DUID`, in hex")
	f.DurationVar(&lasts, "lasts", 24*time.Hour, "for how `long` it holds")
	f.Uint32Var(&enterprise, "enterprise", 32473, "the `number` under which clients send proofs to this ISP")
	f.StringVar(&client, "for", "text", "the `client` that sends it: text, dhclient, dibbler or networkd")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	for _, name := range []string{"identity", "realm", "duid"} {
		cli.Require(c, name)
	}
	return c
}
