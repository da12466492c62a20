package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"brightgid/dhcpv6"
	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/secretfile"
	"brightgid/lease"
	"brightgid/lease/index"
	"brightgid/lease/pebblestore"
	"brightgid/lease/shared"
	"brightgid/lease/sqlstore"
)

// database is where leases are: the embedded one, or one that servers share.
type database struct {
	lease.Store // for those who must not be told what is old

	near  lease.Store          // for the server's lock, under which all is that changes it
	mark  func() lease.Barrier // for what was changed since the last call
	index *index.Index         // nil for a shared one

	prefetch func(*lease.Foreseen) // under the lock, before what it is told of is asked for

	shared *shared.Store // nil for the embedded one
	full   func() bool   // whether it waits for disk space
	behind func() uint64 // bytes that the embedded one has to rewrite; nil for one that servers share
	end    func() error
}

// keyed is by what servers find out that they have the same keys. What is told says nothing
// about them.
func (s *setup) keyed(now time.Time) (shared.Keyed, error) {
	epoch, err := s.keyring.EpochAt(now)
	return shared.Keyed{Epoch: epoch, Tag: func(epoch uint32) (int64, error) {
		key, err := s.keyring.Key(epoch)
		if err != nil {
			return 0, err
		}
		gid, err := key.Encode(idcodec.Prefix{}, 0, 0)
		if err != nil {
			return 0, err
		}
		id := s.escrow.ID()
		m := hmac.New(sha256.New, s.secret("database"))
		for _, b := range [][]byte{[]byte(s.Realm), id[:], binary.BigEndian.AppendUint64(nil, uint64(gid))} {
			m.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
			m.Write(b)
		}
		return int64(binary.BigEndian.Uint64(m.Sum(nil)) >> 1), nil
	}}, err
}

// openSQL connects to the database that servers share.
func (s *setup) openSQL(ctx context.Context, create bool) (*sqlstore.DB, error) {
	o := sqlstore.Options{URL: s.Database.URL, Create: create}
	if s.Database.Password != "" {
		text, err := secretfile.Read(s.Database.Password)
		if err != nil {
			return nil, err
		}
		defer clear(text)
		o.Password = string(bytes.TrimSpace(text))
	}
	return sqlstore.Open(ctx, o)
}

// checkDatabase checks what can be checked of the database without asking it.
func (s *setup) checkDatabase() error {
	var errs []error
	errs = append(errs, sqlstore.Check(s.Database.URL))
	if s.Database.Password != "" {
		text, err := secretfile.Read(s.Database.Password)
		clear(text)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// serverName is what the server is called among those that share a database.
func (s *setup) serverName() (string, error) {
	if s.Database.Server != "" {
		return s.Database.Server, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("database.server: %w", err)
	}
	return name, nil
}

// openDatabase opens the database that is configured. What other servers change is told to
// observe, and behind is called when some of that was missed.
func (s *setup) openDatabase(ctx context.Context, log *slog.Logger, observe func([]lease.Lease), behind func()) (*database, error) {
	if s.Database.URL == "" {
		store, err := pebblestore.Open(s.databaseDir(), pebblestore.Options{Log: log})
		if err != nil {
			return nil, err
		}
		near := index.New(store, cachedClients)
		return &database{Store: store, near: near, index: near, prefetch: near.Prefetch, mark: store.Barrier, full: store.Full, end: store.Close,
			behind: func() uint64 { return store.Backlog().Bytes }}, nil
	}
	db, err := s.openSQL(ctx, false)
	if err != nil {
		return nil, err
	}
	keys, err := s.keyed(time.Now())
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	name, err := s.serverName()
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	store, err := shared.New(ctx, db, shared.Options{
		Name: name, Keys: keys, Cache: s.Database.Cache, Offline: s.Database.OfflineRenewals, Clock: time.Duration(s.Database.MaxClockDifference), Log: log, Observe: observe, Behind: behind,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database: %w", err), db.Close())
	}
	log.Info("sharing a database", "server", name, "number", store.Server())
	return &database{Store: store.Direct(), near: store, prefetch: store.Prefetch, mark: store.Mark, shared: store, full: func() bool { return false }, end: store.Close}, nil
}

// longestRead is for how long clients may have to wait while leases are read into memory.
const longestRead = 2 * time.Millisecond

// readBeside calls read until there is no more, by do, while whose function runs clients wait: for half as long at a time
// as lies between, so that it takes a third of the time, whatever else the processor does and however long a sleep really is.
func readBeside(ctx context.Context, do func(func()), read func(now time.Time) (more bool, err error)) (err error) {
	ended := time.Now()
	for more := true; more && ctx.Err() == nil && err == nil; {
		var one time.Duration // that a call of read took
		do(func() {
			now := time.Now()
			for until := now.Add(min(now.Sub(ended)/2, longestRead)); more && err == nil; {
				more, err = read(now)
				one, now = time.Since(now), time.Now()
				if now.Add(one).After(until) {
					break
				}
			}
			ended = now
		})
		time.Sleep(max(breath, 2*one))
	}
	return err
}

// run does what goes on behind, until the context ends.
func (d *database) run(ctx context.Context, server *dhcpv6.Server, log *slog.Logger) error {
	if d.shared != nil {
		return d.shared.Run(ctx)
	}
	const atOnce = 100
	began, leases := time.Now(), 0
	err := readBeside(ctx, server.Do, func(now time.Time) (more bool, err error) {
		more, err = d.index.Load(atOnce, now)
		leases = d.index.Len()
		return more, err
	})
	if err != nil {
		return err
	}
	log.Debug("the leases that hold are in memory", "leases", leases, "took", time.Since(began))
	<-ctx.Done()
	return nil
}

// eachWritten calls f with each address' newest lease, and whether this server has written it.
func (d *database) eachWritten(f func(l lease.Lease, ours bool) error) error {
	if d.shared != nil {
		return d.shared.EachWritten(f)
	}
	return d.Each(func(l lease.Lease) error { return f(l, true) })
}

// abandoned is [shared.Store.Abandoned]. Nobody else has what is in the embedded database.
func (d *database) abandoned(addr netip.Addr, start, ended time.Time) (bool, error) {
	if d.shared == nil {
		return true, nil
	}
	return d.shared.Abandoned(addr, start, ended)
}

// databaseView tells of a database that servers share.
type databaseView struct {
	Server          int  `json:"server"`            // this one's number among them
	Away            bool `json:"away"`              // it does not answer
	Waiting         int  `json:"waiting"`           // messages' changes that are to be stored
	RenewalsToStore int  `json:"renewals_to_store"` // that were promised while it was away

	ClockAhead float64 `json:"clock_ahead_seconds"` // of the database's, at least; negative behind
	ClockWrong bool    `json:"clock_wrong"`         // by more than it may be, so that clients get no answers
}

// view is nil for the embedded database.
func (d *database) view() *databaseView {
	if d.shared == nil {
		return nil
	}
	v := &databaseView{Server: d.shared.Server(), Away: d.shared.Away()}
	v.Waiting, v.RenewalsToStore = d.shared.Waiting()
	ahead, wrong := d.shared.Clock()
	v.ClockAhead, v.ClockWrong = ahead.Seconds(), wrong
	return v
}

// close closes the database, but not for ever.
func (d *database) close() error {
	closed := make(chan error, 1)
	go func() { closed <- d.end() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeWithin):
		return errors.New("lease database: could not be closed; what was not acknowledged may be lost")
	}
}

// eachLeaseAtRest calls f with each lease of a database that no server of this
// configuration uses.
func (s *setup) eachLeaseAtRest(ctx context.Context, f func(lease.Lease) error) error {
	if s.Database.URL == "" {
		store, err := pebblestore.Open(s.databaseDir(), pebblestore.Options{ReadOnly: true})
		if err != nil {
			return err
		}
		defer store.Close()
		return store.Each(f)
	}
	db, err := s.openSQL(ctx, false)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Each(ctx, func(l lease.Lease, _ int) error { return f(l) })
}

func databaseCommand() *cobra.Command {
	c := &cobra.Command{Use: "database", Short: "Make the tables of a database that servers share, and copy leases to it"}
	c.AddCommand(databaseCreateCommand(), databaseImportCommand(), databaseSchemaCommand())
	return c
}

func databaseImportCommand() *cobra.Command {
	var file *string
	var dry, asJSON bool
	c := &cobra.Command{
		Use:   "import",
		Short: "Copy the embedded database into the one that [database] names",
		Long: `Copy the registry, the leases and their history from the embedded database of this
server, which must not run, into the database that [database] in the configuration
names. No server may have used that one, and none may run on it meanwhile. An import that
was interrupted can be done again.

The embedded database stays as it is. It has what was copied, and keeps that from being
forgotten: remove its directory when the server runs on the other.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			if s.Database.URL == "" {
				return fmt.Errorf("%s: no database.url, which says where leases are to be copied", s.file)
			}
			n, err := s.importDatabase(c.Context(), dry, cli.Progress(c.ErrOrStderr(), "copying"))
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(n)
			}
			what := "were copied"
			if dry {
				what = "would be copied; this was a dry run"
			}
			fmt.Fprintf(c.OutOrStdout(), "%d subscribers, %d leases, %d that ended before them, and %d clients %s.\n", n.Subscribers, n.Leases, n.History, n.Clients, what)
			if !dry {
				fmt.Fprintf(c.OutOrStdout(), "Remove %s when the server runs on the other database.\n", s.databaseDir())
			}
			return nil
		},
	}
	file = configFlag(c)
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "say what would be copied and copy nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// importDatabase copies the embedded database into the one that servers share.
func (s *setup) importDatabase(ctx context.Context, dry bool, progress func(done, of int)) (n shared.Imported, err error) {
	from, err := pebblestore.Open(s.databaseDir(), pebblestore.Options{ReadOnly: true})
	if err != nil {
		return n, err
	}
	defer from.Close()
	db, err := s.openSQL(ctx, false)
	if err != nil {
		return n, err
	}
	defer db.Close()
	switch registered, err := db.Registered(ctx); {
	case err != nil:
		return n, fmt.Errorf("database: %w", err)
	case registered > 0:
		return n, fmt.Errorf("database: %w", shared.ErrNotEmpty)
	}
	if n, err = shared.Count(ctx, from); err != nil || dry {
		return n, err
	}
	name, err := s.serverName()
	if err != nil {
		return n, err
	}
	keys, err := s.keyed(time.Now())
	if err != nil {
		return n, err
	}
	if err := shared.Import(ctx, db, name, keys, from, n, progress); err != nil {
		return n, fmt.Errorf("copying to the database: %w", err)
	}
	return n, nil
}

func databaseCreateCommand() *cobra.Command {
	var file *string
	c := &cobra.Command{
		Use:   "create",
		Short: "Make the tables in the database that [database] names",
		Long: `Make the tables in the database that [database] in the configuration names, as its user.
Tables that exist stay as they are. A server makes none itself, so that its user
needs no right to.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			if s.Database.URL == "" {
				return fmt.Errorf("%s: no database.url: leases are in %s, which the server makes itself", s.file, s.databaseDir())
			}
			db, err := s.openSQL(c.Context(), true)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "The tables are there.")
			return db.Close()
		},
	}
	file = configFlag(c)
	return c
}

func databaseSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the statements that make the tables",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(c.OutOrStdout(), sqlstore.Schema)
			return err
		},
	}
}
