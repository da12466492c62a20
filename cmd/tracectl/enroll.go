package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/eidauth"
	"brightgid/eidauth/token"
	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/identityfile"
)

func enrollCommand() *cobra.Command {
	var identity, escrow, realm, eidFile, duid, client string
	var days int
	var enterprise uint32
	var asJSON bool
	c := &cobra.Command{
		Use:   "enroll",
		Short: "Make an enrolment token: a subscriber whose EID the ISP never sees",
		Long: `Make a token by which one client, known by its DUID, authenticates to one ISP's
gidserver. The EID is in it only as an NID, sealed to the trustees' escrow key; gidserver
finds the subscriber again by a handle that only the issuer can compute.

The EID is read from a file or from standard input, never from the command line. Whoever
has the token and its DUID can lease in the subscriber's name until it ends: it is as
secret as a password.

--for says for which client it is printed: text (base64url), or lines for the
configuration of dhclient, dibbler-client or systemd-networkd.`,
		Example: `  tracectl enroll --identity provider --escrow escrow.json --realm isp.example \
      --duid 00:03:00:01:02:00:00:00:00:07 --days 90 --for dhclient < eid`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if days < 1 || days > 3650 {
				return cli.Usagef("--days %d: want 1 to 3650", days)
			}
			form, ok := enrolForms[client]
			if !ok {
				return cli.Usagef("--for %q: want text, dhclient, dibbler or networkd", client)
			}
			id, err := parseDUID(duid)
			if err != nil {
				return err
			}
			issuer, err := readIssuer(identity, escrow, realm)
			if err != nil {
				return err
			}
			eid, err := readEID(c.InOrStdin(), eidFile)
			if err != nil {
				return err
			}
			now := time.Now()
			until := now.AddDate(0, 0, days)
			// Clocks differ, and a token that is not valid yet helps nobody.
			b, err := issuer.Issue(rand.Reader, eid, id, now.Add(-time.Hour), until)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"token": token.Encode(b), "duid": hex.EncodeToString(id), "realm": realm, "until": until.UTC().Truncate(time.Second)})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), form(enterprise, token.OptionCode, b))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&identity, "identity", "", "the issuer's key and certificate, a `path` without .key and .pem")
	f.StringVar(&escrow, "escrow", "", "the trustees' escrow key, a `file`")
	f.StringVar(&realm, "realm", "", "the ISP's `realm`")
	f.StringVar(&eidFile, "eid-file", "-", "a `file` with the EID; - for standard input")
	f.StringVar(&duid, "duid", "", "the client's `DUID`, in hex")
	f.IntVar(&days, "days", 90, "how many `days` the token holds")
	f.Uint32Var(&enterprise, "enterprise", 32473, "the `number` under which clients send tokens to this ISP")
	f.StringVar(&client, "for", "text", "the `client` that sends it: text, dhclient, dibbler or networkd")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	for _, name := range []string{"identity", "escrow", "realm", "duid"} {
		cli.Require(c, name)
	}
	return c
}

// enrolForms are how a token, or a proof by certificate, is printed: an option of an
// enterprise.
var enrolForms = map[string]func(enterprise uint32, code uint16, b []byte) string{
	"text": func(_ uint32, _ uint16, b []byte) string { return base64.RawURLEncoding.EncodeToString(b) },
	"dhclient": func(enterprise uint32, code uint16, b []byte) string {
		return "send dhcp6.vendor-opts " + colons(eidauth.AppendVendorOption(nil, enterprise, code, b)) + ";"
	},
	"dibbler": func(enterprise uint32, code uint16, b []byte) string {
		return "option 17 hex " + colons(eidauth.AppendVendorOption(nil, enterprise, code, b))
	},
	"networkd": func(enterprise uint32, code uint16, b []byte) string {
		return fmt.Sprintf("[DHCPv6]\nSendVendorOption=%d:%d:string:%s", enterprise, code, base64.RawURLEncoding.EncodeToString(b))
	},
}

func parseDUID(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(s))
	if err != nil {
		return nil, cli.Usagef("--duid: want hex, with or without colons")
	}
	return b, nil
}

func colons(b []byte) string {
	parts := make([]string, len(b))
	for i, x := range b {
		parts[i] = fmt.Sprintf("%02x", x)
	}
	return strings.Join(parts, ":")
}

func readIssuer(identity, escrow, realm string) (*token.Issuer, error) {
	id, err := identityfile.Read(identity)
	if err != nil {
		return nil, err
	}
	key, ok := id.Key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: want an Ed25519 key in a file, since handles come from it", identity)
	}
	text, err := os.ReadFile(escrow)
	if err != nil {
		return nil, err
	}
	k, err := idcodec.ParseEscrowKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", escrow, err)
	}
	return token.NewIssuer(key, id.Certificate, realm, k)
}

// readEID reads one EID. An error never holds it.
func readEID(stdin io.Reader, path string) (idcodec.EID, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return idcodec.EID{}, err
		}
		defer f.Close()
		r = f
	}
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return idcodec.EID{}, err
	}
	eid, err := idcodec.ParseEID(strings.TrimRight(line, "\r\n"))
	if err != nil {
		return idcodec.EID{}, fmt.Errorf("the EID: %w", err)
	}
	return eid, nil
}
