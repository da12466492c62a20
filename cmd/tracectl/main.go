// Tracectl is the command line of judges, trustees, warrant holders and
// auditors: it makes the escrow key, signs warrants, approves them, recovers
// the EIDs that they order, and checks what others did.
package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/identityfile"
	"brightgid/internal/ledgerfile"
	"brightgid/internal/lockedfile"
	"brightgid/internal/tomlfile"
	"brightgid/ledgeranchor"
	"brightgid/mail"
	"brightgid/trace"
	"brightgid/trace/ceremony"
)

// version is set by the linker.
var version = "development"

func main() { cli.MainWith(command(), exitCode) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "tracectl",
		Short: "Recover the EID behind an address: with a warrant and enough trustees",
		Long: `tracectl takes the steps from an address and a time to the EID behind it. Each
is taken by another role, none of them can take them all, and each is refused if
the step before it does not stand on the ledger:

  trustees     ceremony                  make the escrow key and their shares
  anybody      identity new              make a key and a certificate
  authority    warrant new, sign, submit order the recovery
  holder       resolve                   ask the ISP, which answers with sealed NIDs
  trustees     approve                   add a share, sealed to the holder
  holder       recover                   open the NIDs with enough approvals
  everybody    verify                    check a report, offline
  everybody    ledger                    examine the public record of it all
  everybody    mail                      check the relays that a message came by

An identity provider that wants no ISP to learn its subscribers' EIDs makes enrolment
tokens, with enroll.

The exit status tells what a step was refused for; see tracectl(1).`,
		Version: version,
	}
	root.AddCommand(ceremonyCommand(), shareCommand(), identityCommand(), warrantCommand(), resolveCommand(), approveCommand(), recoverCommand(), verifyCommand(), ledgerCommand(), mailCommand(), enrollCommand(), proveCommand())
	return root
}

// codes are the exit statuses, in the order in which an error is held against them.
var codes = []struct {
	code int
	err  error
}{
	{3, trace.ErrNotOnLedger}, {4, trace.ErrExpired}, {5, trace.ErrRevoked}, {6, trace.ErrSignature}, {7, trace.ErrScope}, {8, trace.ErrWarrant},
	{14, trace.ErrTooFewApprovals}, {11, trace.ErrCeremony}, {12, trace.ErrReplayed}, {13, trace.ErrApproval}, {9, trace.ErrResolution}, {10, trace.ErrHolder},
	{15, trace.ErrNothing}, {16, trace.ErrSealed}, {18, ceremony.ErrCheat}, {19, ceremony.ErrRoster},
	{20, ledgeranchor.ErrRole}, {20, ledgeranchor.ErrAuthor}, {21, ledgeranchor.ErrProof},
	{22, mail.ErrChain},
}

// exitCode is the exit status of an error.
func exitCode(err error) int {
	if errors.Is(err, trace.ErrReport) { // whatever else is wrong with it
		return 17
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	var share *idcodec.WrongShareError
	if errors.As(err, &share) {
		return 13
	}
	return 1
}

// desk is what most steps need: whom to trust, the ledger, and who takes the step.
type desk struct {
	trust                 string
	authorities, isps     []string
	escrow                string
	ledger, fabric        string
	identity, passphrases string
	asJSON                bool
}

// trustFile is the file of --trust. Paths in it are relative to it.
type trustFile struct {
	Authorities []string `toml:"authorities"`
	ISPs        []string `toml:"isps"`
	Escrow      string   `toml:"escrow"`
	Ledger      string   `toml:"ledger"`
	Fabric      string   `toml:"fabric"`
}

func (d *desk) addTrust(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&d.trust, "trust", "", "whom to trust and where the ledger is, a TOML `file`; the flags below go before it")
	f.StringSliceVar(&d.authorities, "authorities", nil, "certificates of authorities whose warrants count, `file`s")
	f.StringSliceVar(&d.isps, "isps", nil, "certificates of ISPs whose resolutions count, `file`s")
	f.StringVar(&d.escrow, "escrow", "", "the trustees' escrow key, a `file`")
}

func (d *desk) addLedger(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&d.ledger, "ledger", "", "the ledger's `directory` on this machine")
	f.StringVar(&d.fabric, "fabric", "", "or: a ledger on Fabric, a `file` that tells how to reach it")
}

func (d *desk) addSelf(c *cobra.Command, who string) {
	f := c.Flags()
	f.StringVarP(&d.identity, "identity", "i", "", who+", the `path` without .key and .pem")
	d.addPassphrase(c)
	cli.Require(c, "identity")
}

func (d *desk) addPassphrase(c *cobra.Command) {
	c.Flags().StringVar(&d.passphrases, "passphrase-file", "", "`file` with the passphrase of locked files, or the PIN of a token, in its first line; asked for if left out")
}

func (d *desk) addJSON(c *cobra.Command) {
	c.Flags().BoolVar(&d.asJSON, "json", false, "print JSON")
}

// passphrase gets the passphrase of a file that is there, or for a fresh one.
func (d *desk) passphrase(fresh bool) lockedfile.Passphrase {
	if d.passphrases != "" {
		return lockedfile.FromFile(d.passphrases)
	}
	return lockedfile.FromTerminal(fresh)
}

func (d *desk) self() (*trace.Identity, error) {
	return identityfile.Open(d.identity, d.passphrase(false))
}

// complete fills in what the file of --trust says and no flag.
func (d *desk) complete() error {
	if d.trust == "" {
		return nil
	}
	text, err := readFile(d.trust, 1<<20)
	if err != nil {
		return err
	}
	var t trustFile
	if err := tomlfile.Decode(d.trust, text, &t); err != nil {
		return err
	}
	near := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(filepath.Dir(d.trust), p)
	}
	if len(d.authorities) == 0 {
		for _, p := range t.Authorities {
			d.authorities = append(d.authorities, near(p))
		}
	}
	if len(d.isps) == 0 {
		for _, p := range t.ISPs {
			d.isps = append(d.isps, near(p))
		}
	}
	if d.escrow == "" {
		d.escrow = near(t.Escrow)
	}
	if d.ledger == "" && d.fabric == "" {
		d.ledger, d.fabric = near(t.Ledger), near(t.Fabric)
	}
	return nil
}

// whom reads the certificates of those who are trusted; needed names the flags that
// may not be empty.
func (d *desk) whom(needed ...string) (t trace.Trust, err error) {
	if err := d.complete(); err != nil {
		return t, err
	}
	for _, n := range needed {
		if n == "authorities" && len(d.authorities) == 0 || n == "isps" && len(d.isps) == 0 || n == "escrow" && d.escrow == "" {
			return t, cli.Usagef("want --%s, or --trust with a file that says it", n)
		}
	}
	if t.Authorities, err = ledgerfile.Certificates(d.authorities); err != nil {
		return t, err
	}
	t.ISPs, err = ledgerfile.Certificates(d.isps)
	return t, err
}

func (d *desk) escrowKey() (*idcodec.EscrowKey, error) {
	text, err := readFile(d.escrow, trace.MaxDocument)
	if err != nil {
		return nil, err
	}
	key, err := idcodec.ParseEscrowKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.escrow, err)
	}
	return key, nil
}

// party opens the ledger and returns who takes a step, for as long as f takes.
func (d *desk) party(ctx context.Context, what string, needed []string, f func(p *trace.Party) error) error {
	trust, err := d.whom(needed...)
	if err != nil {
		return err
	}
	if (d.ledger == "") == (d.fabric == "") {
		return cli.Usagef("want either --ledger or --fabric, or --trust with a file that says it")
	}
	self, err := d.self()
	if err != nil {
		return err
	}
	l, _, err := ledgerfile.Open(ctx, d.ledger, d.fabric)
	if err != nil {
		return err
	}
	err = f(&trace.Party{Ledger: l, Self: self, Trust: trust, Rand: rand.Reader, Now: time.Now, Progress: cli.Progress(os.Stderr, what)})
	return errors.Join(err, l.Close())
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
	return ledgerfile.Certificates(paths)
}

// unused reports a file that exists already, before work is done that could not be
// kept.
func unused(paths ...string) error {
	for _, p := range paths {
		if p == "" {
			continue
		}
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already; nothing was changed", p)
		}
	}
	return nil
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
