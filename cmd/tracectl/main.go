// Tracectl is the command line of judges, trustees, warrant holders and
// auditors: it makes the escrow key, signs warrants, approves them and recovers
// the EIDs that they order.
package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/trace"
)

// version is set by the linker.
var version = "development"

func main() { cli.Main(command()) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "tracectl",
		Short: "Recover the EID behind an address: with a warrant and enough trustees",
		Long: `tracectl takes the steps from an address and a time to the EID behind it. Each
is taken by another role, and none of them can take them all:

  trustees     ceremony deal             make the escrow key and their shares
  anybody      identity new              make a key and a certificate
  authority    warrant new, warrant sign order the recovery
  holder       resolve                   ask the ISP, which answers with sealed NIDs
  trustees     approve                   add a share, sealed to the holder
  holder       recover                   open the NIDs with enough approvals
  everybody    ledger                    keep and examine the public record of it`,
		Version: version,
	}
	root.AddCommand(ceremonyCommand(), identityCommand(), warrantCommand(), resolveCommand(), approveCommand(), recoverCommand(), ledgerCommand())
	return root
}

// documents are the flags that most commands share.
type documents struct {
	warrant, resolution, escrow string
	authorities, isps           []string
}

func (d *documents) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&d.warrant, "warrant", "w", "", "signed warrant, a `file`")
	f.StringVarP(&d.resolution, "resolution", "r", "", "the ISP's signed resolution, a `file`")
	f.StringVar(&d.escrow, "escrow", "", "the trustees' escrow key, a `file`")
	d.addTrust(c)
	cli.Require(c, "warrant", "resolution", "escrow", "authorities", "isps")
}

func (d *documents) addTrust(c *cobra.Command) {
	c.Flags().StringSliceVar(&d.authorities, "authorities", nil, "certificates of authorities whose warrants count, `file`s")
	c.Flags().StringSliceVar(&d.isps, "isps", nil, "certificates of ISPs whose resolutions count, `file`s")
}

func (d *documents) load() (docs trace.Documents, trust trace.Trust, key *idcodec.EscrowKey, err error) {
	if docs.Warrant, err = readDocument(d.warrant); err != nil {
		return
	}
	if docs.Resolution, err = readDocument(d.resolution); err != nil {
		return
	}
	if trust.Authorities, err = readCertificates(d.authorities); err != nil {
		return
	}
	if trust.ISPs, err = readCertificates(d.isps); err != nil {
		return
	}
	text, err := readFile(d.escrow, trace.MaxDocument)
	if err != nil {
		return
	}
	if key, err = idcodec.ParseEscrowKey(text); err != nil {
		err = fmt.Errorf("%s: %w", d.escrow, err)
	}
	return
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, err
}

func readDocument(path string) (string, error) {
	b, err := readFile(path, trace.MaxDocument)
	return strings.TrimSpace(string(b)), err
}

func readCertificates(paths []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, p := range paths {
		text, err := readFile(p, 1<<20)
		if err != nil {
			return nil, err
		}
		certs, err := trace.ParseCertificates(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		out = append(out, certs...)
	}
	return out, nil
}

// readIdentity reads NAME.key and NAME.pem.
func readIdentity(name string) (*trace.Identity, error) {
	key, err := secretfile.Read(name + ".key")
	if err != nil {
		return nil, err
	}
	defer clear(key)
	cert, err := readFile(name+".pem", 1<<20)
	if err != nil {
		return nil, err
	}
	id, err := trace.ParseIdentity(key, cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return id, nil
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
