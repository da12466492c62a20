package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/lockedfile"
	"brightgid/internal/secretfile"
	"brightgid/trace/ceremony"
)

func ceremonyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ceremony",
		Short: "Make the escrow key and the trustees' shares, or reshare it",
		Long: `Trustees make an escrow key between them, of which nobody ever knows the secret:

  each trustee  join     an announcement, and a secret to keep
  one of them   begin    the roster, from all announcements; all compare it
  each trustee  next     the next file, again and again, until there is a share
  anybody       status   where the ceremony is, and at its end the escrow key

Files are carried by any means. Each step reads all files that have come and writes
one more, which everybody is to get; it may be taken again at any time. Who cheats is
named and left out.

A resharing deals a key that is there out to other trustees, or for another
threshold; NIDs of before stay readable. "begin" takes the old key then, and the old
trustees who take part as dealers.`,
	}
	c.AddCommand(joinCommand(), beginCommand(), nextCommand(), statusCommand(), dealCommand())
	return c
}

// workFlag is how hard a passphrase is to guess.
func workFlag(c *cobra.Command, work *int) {
	c.Flags().IntVar(work, "work-factor", lockedfile.DefaultWork, "log2 of scrypt's cost for locked files, a `number` from 10 to 22")
}

// lock locks a secret, unless it shall not be.
func (d *desk) lock(what string, secret []byte, unlocked bool, work int) ([]byte, error) {
	if unlocked {
		return secret, nil
	}
	if work < 10 || work > lockedfile.MaxWork {
		return nil, cli.Usagef("--work-factor %d: want 10 to %d", work, lockedfile.MaxWork)
	}
	pass, err := d.passphrase(true)(what)
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	return lockedfile.Lock(secret, pass, work)
}

func joinCommand() *cobra.Command {
	var d desk
	var name, out string
	var unlocked bool
	var work int
	c := &cobra.Command{
		Use:   "join",
		Short: "Announce oneself for a ceremony",
		Long: `Write OUT.join, which is signed and goes to whoever makes the roster, and OUT.secret,
which is locked by a passphrase and stays. The secret is needed until the ceremony has
ended; then it may be destroyed.`,
		Example: `  tracectl ceremony join --name regulator --identity regulator --out regulator`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := unused(out+".join", out+".secret"); err != nil {
				return err
			}
			id, err := d.self()
			if err != nil {
				return err
			}
			secret, err := ceremony.NewSecret(rand.Reader, name)
			if err != nil {
				return err
			}
			signed, err := ceremony.Join(id, secret)
			if err != nil {
				return cli.UsageError{Err: err}
			}
			text, err := secret.MarshalText()
			if err != nil {
				return err
			}
			defer clear(text)
			locked, err := d.lock(out+".secret", text, unlocked, work)
			if err != nil {
				return err
			}
			if err := secretfile.Create(out+".secret", locked); err != nil {
				return err
			}
			if err := secretfile.CreatePublic(out+".join", []byte(signed+"\n")); err != nil {
				return err
			}
			m, err := ceremony.OpenJoin(signed, time.Now())
			if err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"name": m.Name, "certificate": m.Fingerprint(), "announcement": out + ".join", "secret": out + ".secret"})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s.join    announces %s, certificate %s\n%s.secret  to be kept until the ceremony has ended\n", out, m.Name, m.Fingerprint(), out)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "the trustee's `name` in the escrow key: 1 to 63 of a-z 0-9 . _ -")
	c.Flags().StringVarP(&out, "out", "o", "", "`path` of the files, without an ending")
	c.Flags().BoolVar(&unlocked, "unlocked", false, "leave the secret without a passphrase, for laboratories")
	workFlag(c, &work)
	d.addSelf(c, "the trustee's identity")
	d.addJSON(c)
	cli.Require(c, "name", "out")
	return c
}

func readMembers(paths []string) ([]ceremony.Member, error) {
	var out []ceremony.Member
	for _, p := range paths {
		text, err := readDocument(p)
		if err != nil {
			return nil, err
		}
		m, err := ceremony.OpenJoin(text, time.Now())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		out = append(out, *m)
	}
	return out, nil
}

func beginCommand() *cobra.Command {
	var threshold int
	var members, dealers []string
	var escrow, out string
	var d desk
	c := &cobra.Command{
		Use:   "begin",
		Short: "Make a ceremony's roster",
		Long: `Make the roster of a ceremony from the announcements of all trustees: who they are,
in which order, and how many open an NID together. All trustees must get the same
roster and compare the hash and the fingerprints that "status" shows, by another way
than the files come.

With --escrow and --dealer it is a resharing: the old trustees who deal must be as
many as the old key's threshold, better more.`,
		Example: `  tracectl ceremony begin --threshold 2 --member judge.join --member regulator.join \
      --member isp.join --out roster.json
  tracectl ceremony begin --threshold 3 --escrow escrow.json --dealer judge.join --dealer isp.join \
      --member a.join --member b.join --member c.join --member d.join --out roster.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			trustees, err := readMembers(members)
			if err != nil {
				return err
			}
			old, err := readMembers(dealers)
			if err != nil {
				return err
			}
			var key *idcodec.EscrowKey
			if escrow != "" {
				d.escrow = escrow
				if key, err = d.escrowKey(); err != nil {
					return err
				}
			}
			r, err := ceremony.NewRoster(rand.Reader, time.Now(), threshold, trustees, key, old)
			if err != nil {
				return cli.UsageError{Err: err}
			}
			if err := secretfile.CreatePublic(out, r.Text()); err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), rosterView(r))
			}
			printRoster(c.OutOrStdout(), r)
			return nil
		},
	}
	f := c.Flags()
	f.IntVarP(&threshold, "threshold", "t", 0, "how many trustees open an NID together")
	f.StringSliceVar(&members, "member", nil, "a trustee's announcement, a `file`; given once for each, in the order of their indices")
	f.StringVar(&escrow, "escrow", "", "the key to be reshared, a `file`")
	f.StringSliceVar(&dealers, "dealer", nil, "the announcement of an old trustee who deals in a resharing, a `file`")
	f.StringVarP(&out, "out", "o", "", "the roster, a new `file`")
	d.addJSON(c)
	cli.Require(c, "threshold", "member", "out")
	return c
}

type memberView struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"`
	Dealer      bool   `json:"old_trustee,omitempty"`
}

func rosterView(r *ceremony.Roster) map[string]any {
	var all []memberView
	for i := range r.Dealers {
		all = append(all, memberView{r.Dealers[i].Name, r.Dealers[i].Fingerprint(), true})
	}
	for i := range r.Trustees {
		all = append(all, memberView{r.Trustees[i].Name, r.Trustees[i].Fingerprint(), false})
	}
	v := map[string]any{"ceremony": r.Hash(), "threshold": r.Threshold, "members": all}
	if old := r.Resharing(); old != nil {
		v["reshares"] = old.ID().String()
	}
	return v
}

func printRoster(w io.Writer, r *ceremony.Roster) {
	fmt.Fprintf(w, "ceremony %s: %d of %d trustees\n", r.Hash(), r.Threshold, len(r.Trustees))
	if old := r.Resharing(); old != nil {
		fmt.Fprintf(w, "it reshares the escrow key %s, dealt by\n", old.ID())
		for i := range r.Dealers {
			fmt.Fprintf(w, "     %-12s %s\n", r.Dealers[i].Name, r.Dealers[i].Fingerprint())
		}
		fmt.Fprintln(w, "to")
	}
	for i := range r.Trustees {
		fmt.Fprintf(w, "  %d  %-12s %s\n", i+1, r.Trustees[i].Name, r.Trustees[i].Fingerprint())
	}
}

// ceremonyFiles are the flags of those who read a ceremony's files.
type ceremonyFiles struct {
	roster, dir string
	without     []string
}

func (x *ceremonyFiles) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&x.roster, "roster", "", "the ceremony's roster, a `file`")
	f.StringVar(&x.dir, "files", ".", "`directory` with the members' files")
	f.StringSliceVar(&x.without, "without", nil, "`name` of a member that is not waited for; all who go on must say the same")
	cli.Require(c, "roster")
}

func (x *ceremonyFiles) read() (*ceremony.Roster, ceremony.Files, error) {
	text, err := readFile(x.roster, ceremony.MaxFile)
	if err != nil {
		return nil, nil, err
	}
	r, err := ceremony.ParseRoster(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", x.roster, err)
	}
	entries, err := os.ReadDir(x.dir)
	if err != nil {
		return nil, nil, err
	}
	files := make(ceremony.Files)
	for _, e := range entries {
		if !ceremony.IsFile(e.Name()) || e.IsDir() {
			continue
		}
		b, err := readFile(filepath.Join(x.dir, e.Name()), ceremony.MaxFile)
		if err != nil {
			return nil, nil, err
		}
		files[e.Name()] = strings.TrimSpace(string(b))
	}
	return r, files, nil
}

// ceremonyView is what "next" and "status" print as JSON.
type ceremonyView struct {
	Wrote   []string `json:"wrote"`
	Waiting []string `json:"waiting"`
	Notes   []string `json:"notes"`
	Escrow  string   `json:"escrow_key,omitempty"`
	Done    bool     `json:"done"`
}

func (v *ceremonyView) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, v)
	}
	for _, n := range v.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	for _, p := range v.Wrote {
		fmt.Fprintf(w, "wrote %s\n", p)
	}
	switch {
	case v.Done:
		fmt.Fprintf(w, "The ceremony has ended: escrow key %s. All must have the same.\n", v.Escrow)
	case len(v.Waiting) > 0:
		fmt.Fprintf(w, "waiting for %s\n", strings.Join(v.Waiting, ", "))
	default:
		fmt.Fprintln(w, "Give what was written to all others, and take this step again when theirs have come.")
	}
	return nil
}

func view(s *ceremony.Status) *ceremonyView {
	v := &ceremonyView{Wrote: []string{}, Waiting: append([]string{}, s.Waiting...), Notes: append([]string{}, s.Notes...), Done: s.Done()}
	if s.Done() {
		v.Escrow = s.Key.ID().String()
	}
	return v
}

func nextCommand() *cobra.Command {
	var d desk
	var x ceremonyFiles
	var secretPath, sharePath, out string
	var unlocked bool
	var work int
	c := &cobra.Command{
		Use:   "next",
		Short: "Take the next step of a ceremony",
		Long: `Read all files that have come and write the trustee's next one into the same
directory, or say whom the ceremony waits for. At its end write OUT.share, locked by a
passphrase, and OUT.escrow.json, the escrow key, which is the same for all.

A dealer in a resharing gives its old share by --share. After a resharing the old
shares still open NIDs together: all old trustees are to destroy theirs.

--without goes on without a member who has vanished. What it had dealt before is
rebuilt by the others, who then know it; the key is safe as long as fewer members than
the threshold cheat.`,
		Example: `  tracectl ceremony next --roster roster.json --files carried --identity regulator \
      --secret regulator.secret --out regulator`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, files, err := x.read()
			if err != nil {
				return err
			}
			if err := unused(out + ".share"); err != nil {
				return err
			}
			id, err := d.self()
			if err != nil {
				return err
			}
			text, err := lockedfile.Read(secretPath, d.passphrase(false))
			if err != nil {
				return err
			}
			defer clear(text)
			secret, err := ceremony.ParseSecret(text)
			if err != nil {
				return fmt.Errorf("%s: %w", secretPath, err)
			}
			p := &ceremony.Participant{Roster: r, Secret: secret, Self: id, Without: x.without}
			if sharePath != "" {
				if p.Share, err = d.share(sharePath); err != nil {
					return err
				}
			}
			var wrote []string
			for {
				s, err := p.Next(files)
				if err != nil && s != nil {
					err = errors.Join(err, notes(&s.Status))
				}
				if err != nil {
					return err
				}
				if s.File != "" {
					path := filepath.Join(x.dir, s.File)
					if err := secretfile.ReplacePublic(path, []byte(s.Content+"\n")); err != nil {
						return err
					}
					files[s.File] = s.Content
					wrote = append(wrote, path)
					continue // alone, or as the last, there may be more to do
				}
				v := view(&s.Status)
				if s.Done() {
					more, err := d.finish(s, out, unlocked, work)
					if err != nil {
						return err
					}
					wrote = append(wrote, more...)
				}
				v.Wrote = append(v.Wrote, wrote...)
				return v.print(c.OutOrStdout(), d.asJSON)
			}
		},
	}
	x.add(c)
	c.Flags().StringVar(&secretPath, "secret", "", "the trustee's secret of this ceremony, a `file`")
	c.Flags().StringVar(&sharePath, "share", "", "the old share of a dealer in a resharing, a `file`")
	c.Flags().StringVarP(&out, "out", "o", "", "`path` of the share and the escrow key, without an ending")
	c.Flags().BoolVar(&unlocked, "unlocked", false, "leave the share without a passphrase, for laboratories")
	workFlag(c, &work)
	d.addSelf(c, "the trustee's identity")
	d.addJSON(c)
	cli.Require(c, "secret", "out")
	return c
}

// notes are what is to be known beside an error.
func notes(s *ceremony.Status) error {
	if s == nil || len(s.Notes) == 0 {
		return nil
	}
	return errors.New(strings.Join(s.Notes, "; "))
}

// finish writes what a trustee has at the end.
func (d *desk) finish(s *ceremony.Step, out string, unlocked bool, work int) ([]string, error) {
	var wrote []string
	if s.Share != nil {
		text, err := s.Share.MarshalText()
		if err != nil {
			return nil, err
		}
		defer clear(text)
		locked, err := d.lock(out+".share", text, unlocked, work)
		if err != nil {
			return nil, err
		}
		if err := secretfile.Create(out+".share", locked); err != nil {
			return nil, err
		}
		wrote = append(wrote, out+".share")
	}
	text, err := s.Key.MarshalText()
	if err != nil {
		return nil, err
	}
	if err := secretfile.ReplacePublic(out+".escrow.json", text); err != nil {
		return nil, err
	}
	return append(wrote, out+".escrow.json"), nil
}

func statusCommand() *cobra.Command {
	var x ceremonyFiles
	var out string
	var d desk
	c := &cobra.Command{
		Use:   "status",
		Short: "Say where a ceremony is, from its public files",
		Long: `Show the roster, by which all compare that they have the same, and say whom the
ceremony waits for. At its end write the escrow key. It needs no secret, so that
anybody can check how a key came about.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, files, err := x.read()
			if err != nil {
				return err
			}
			s, err := ceremony.Conclude(r, files, x.without)
			if err != nil {
				return errors.Join(err, notes(s))
			}
			v := view(s)
			if s.Done() && out != "" {
				text, err := s.Key.MarshalText()
				if err != nil {
					return err
				}
				if err := secretfile.CreatePublic(out, text); err != nil {
					return err
				}
				v.Wrote = append(v.Wrote, out)
			}
			if d.asJSON {
				all := rosterView(r)
				all["status"] = v
				return printJSON(c.OutOrStdout(), all)
			}
			printRoster(c.OutOrStdout(), r)
			return v.print(c.OutOrStdout(), false)
		},
	}
	x.add(c)
	c.Flags().StringVarP(&out, "out", "o", "", "the escrow key, a new `file`")
	d.addJSON(c)
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
which is to be handed to the trustee, locked ("share lock") and removed here.

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
			if err := unused(paths...); err != nil {
				return err
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

func shareCommand() *cobra.Command {
	c := &cobra.Command{Use: "share", Short: "Lock a trustee's share, or change its passphrase"}
	c.AddCommand(shareLockCommand(), shareShowCommand())
	return c
}

func shareLockCommand() *cobra.Command {
	var d desk
	var fresh string
	var work int
	c := &cobra.Command{
		Use:   "lock SHARE",
		Short: "Lock a share by a passphrase",
		Long: `Lock a trustee's share by a new passphrase, in its place. A share that is locked already is opened by the passphrase of before. The file
is in age's format.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			share, err := d.share(args[0])
			if err != nil {
				return err
			}
			text, err := share.MarshalText()
			if err != nil {
				return err
			}
			defer clear(text)
			next := desk{passphrases: fresh}
			locked, err := next.lock(args[0], text, false, work)
			if err != nil {
				return err
			}
			if err := secretfile.Replace(args[0], locked); err != nil {
				return err
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"file": args[0], "trustee": share.Name()})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: the share of %s is locked\n", args[0], share.Name())
			return nil
		},
	}
	d.addPassphrase(c)
	d.addJSON(c)
	c.Flags().StringVar(&fresh, "new-passphrase-file", "", "`file` with the new passphrase in its first line; asked for if left out")
	workFlag(c, &work)
	return c
}

func shareShowCommand() *cobra.Command {
	var d desk
	c := &cobra.Command{
		Use:   "show SHARE",
		Short: "Say whose share it is and of which key, and nothing of its secret",
		Long: `Open a trustee's share and say whose it is and of which escrow key. With --escrow
also check that it is the share that the key has for the trustee.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			share, err := d.share(args[0])
			if err != nil {
				return err
			}
			fits := ""
			if d.escrow != "" {
				key, err := d.escrowKey()
				if err != nil {
					return err
				}
				if err := key.Holds(share); err != nil {
					return err
				}
				fits = ", which it fits"
			}
			if d.asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"trustee": share.Name(), "escrow_key": share.Key().String()})
			}
			fmt.Fprintf(c.OutOrStdout(), "the share of %s of the escrow key %s%s\n", share.Name(), share.Key(), fits)
			return nil
		},
	}
	d.addPassphrase(c)
	d.addJSON(c)
	c.Flags().StringVar(&d.escrow, "escrow", "", "the trustees' escrow key, a `file`")
	return c
}
