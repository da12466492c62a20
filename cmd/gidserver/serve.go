package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"brightgid/internal/control"

	"github.com/spf13/cobra"

	"brightgid/dhcpv6"
	"brightgid/eidauth/radius"
	"brightgid/gidzone"
	"brightgid/idcodec"
	"brightgid/internal/dnsupdate"
	"brightgid/internal/logging"
	"brightgid/lease"
	"brightgid/lease/shared"
	"brightgid/trace"
)

// closeWithin bounds how long the end may take; a full disk could hold it up for
// ever, and what is not acknowledged may be lost.
const closeWithin = 10 * time.Second

func serveCommand() *cobra.Command {
	var file *string
	var acceptClock bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the DHCPv6 server",
		Long: `Run the DHCPv6 server in the foreground until SIGTERM or SIGINT. It logs to
standard error and says "serving" when it is ready.

SIGHUP, or gidserver reload, has it read the configuration again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			level, err := s.Log.SlogLevel()
			if err != nil {
				return err
			}
			var leveler slog.LevelVar
			leveler.Set(level)
			log, err := logging.New(c.ErrOrStderr(), s.Log.Format, &leveler)
			if err != nil {
				return err
			}
			return serve(c.Context(), s, log, &leveler, acceptClock)
		},
	}
	file = configFlag(c)
	c.Flags().BoolVar(&acceptClock, "accept-clock", false, "erase keys as the clock says, even if that is every key")
	return c
}

// cachedClients is of about how many clients that have no lease yet, or no more, entries are kept
// in memory; they may come back with a Request.
const cachedClients = 1 << 15

// sealedAhead is how many new subscribers may come at once before each has to wait for all of
// the work that its NID is, for instance when a link changes to this server; 232 bytes each.
const sealedAhead = 1 << 15

// fewAhead is little of that: with less, all processors that have nothing else to do work on it. More of it
// would cost each start a second or two of them, and new subscribers would come in no faster.
const fewAhead = sealedAhead / 8

// breath is how long what works in the background in small steps rests after each at least, so that on one
// processor packets do not wait until the scheduler takes it away from the work. Where nothing else looks at the clock it
// is a millisecond.
const breath = 100 * time.Microsecond

// databaseDir is where the lease database is.
func (s *setup) databaseDir() string { return filepath.Join(s.State, "leases") }

func serve(ctx context.Context, s *setup, log *slog.Logger, level *slog.LevelVar, acceptClock bool) (err error) {
	keys := &upkeep{s.keyring, s.Keys.Keyring, dur(s.Lease.Retention), log, acceptClock}
	if err := keys.checkClock(time.Now()); err != nil {
		return err
	}
	if err := os.MkdirAll(s.State, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	feed := dhcpv6.NewFeed()
	var store *database
	observe := func(leases []lease.Lease) {
		feed.Publish(leases, true)
		if s.zones != nil {
			for _, l := range leases {
				s.bind(l)
			}
		}
	}
	behind := func() {
		feed.Lose()
		if s.zones != nil {
			if err := s.fillZone(store, time.Now()); err != nil {
				log.Error("the reverse zone may lack leases of other servers", "error", err)
			}
		}
	}
	store, err = s.openDatabase(ctx, log, observe, behind)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	if _, err := eraseDue(ctx, keys, store); err != nil && store.shared == nil {
		return err
	} // else maintain tells, and tries again
	if s.plainEIDs > 0 {
		log.Warn("the static table holds EIDs in the clear; seal them with gidserver seal-table", "file", s.Auth.Table, "rows", s.plainEIDs)
	}

	run := &running{setup: s, log: log, level: level, store: store, began: time.Now(), stats: new(dhcpv6.Stats), radius: new(radius.Stats), accounting: new(radius.AccountingStats)}
	// Both are used under the server's lock only.
	run.alloc = lease.NewAllocator(store.near, s.keyring, s.Lease.Policy())
	if store.shared != nil {
		run.alloc.Split(store.shared.Server(), shared.MaxServers)
		run.alloc.Apart(2 * time.Duration(s.Database.MaxClockDifference)) // one ahead of the database, one behind
	}
	sealer := idcodec.NewSealer(rand.Reader, s.escrow, s.Realm, sealedAhead)
	run.registrar = lease.NewRegistrar(store.near, s.registryKey, sealer)
	run.updates = new(dnsupdate.Stats)
	if s.DNSUpdate.Server != "" {
		if run.names, err = s.openNames(store, log, run.updates); err != nil {
			return err
		}
	}
	run.reconfigurer = dhcpv6.NewReconfigurer(s.secret("reconfigure"), s.DHCPv6.DUID)
	alloc := run.alloc
	handler, err := run.handler(s)
	if err != nil {
		return err
	}
	server, err := dhcpv6.Listen(handler, store.mark, feed, time.Now)
	if err != nil {
		return err
	}
	if store.shared != nil {
		server.Share()
	}
	server.Prefetch(store.prefetch)
	run.server, run.feed = server, feed
	alloc.Observe(server.Changed)
	if s.zones != nil {
		if err := s.fillZone(store, time.Now()); err != nil {
			return err
		}
		alloc.Observe(func(l lease.Lease) {
			server.Changed(l)
			s.bind(l)
		})
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run.ctx = ctx
	var parts sync.WaitGroup
	start := func(what string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	ledger := &lateLedger{directory: s.Ledger.Directory, fabric: s.Ledger.Fabric}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	resolver := s.newResolver(store, ledger)
	if s.Resolve.Listen != "" {
		l, err := net.Listen("tcp", s.Resolve.Listen)
		if err != nil {
			return fmt.Errorf("resolve.listen: %w", err)
		}
		h := &http.Server{Handler: trace.Handler(resolver, log), TLSConfig: trace.ServerTLS(s.resolver, s.holders)}
		start("resolve API", func(ctx context.Context) error { return control.Serve(ctx, h, l, log) })
		log.Info("answering warrants", "address", l.Addr())
	}
	if s.LeaseQuery.Listen != "" {
		l, err := net.Listen("tcp", s.LeaseQuery.Listen)
		if err != nil {
			return fmt.Errorf("leasequery.listen: %w", err)
		}
		q := dhcpv6.NewLeaseQueryServer(s.handlerConfig(), store, feed, trace.ServerTLS(s.leasequery, s.filters), time.Now, log)
		run.queries = q
		start("leasequery", func(ctx context.Context) error { return q.Serve(ctx, l) })
		log.Info("answering filters", "address", l.Addr())
	}
	answers := new(gidzone.Stats)
	if s.zones != nil {
		start("reverse zone", func(ctx context.Context) error { return s.serveZone(ctx, answers, log) })
		log.Info("answering for the reverse zone", "address", s.Zone.Listen)
	}
	if s.Metrics.Listen != "" {
		l, err := net.Listen("tcp", s.Metrics.Listen)
		if err != nil {
			return fmt.Errorf("metrics.listen: %w", err)
		}
		h := &http.Server{Handler: metricsHandler(collector{run.stats, store, answers, run.radius, run.accounting, run.updates, run.alloc.Cached, sealer.Ready})}
		start("metrics", func(ctx context.Context) error { return control.Serve(ctx, h, l, log) })
	}
	socket, err := control.Listen(s.controlPath())
	if err != nil {
		return err
	}
	// Who follows the leases is let go when the server ends.
	ctl := &http.Server{Handler: controlHandler(run, resolver), BaseContext: func(net.Listener) context.Context { return ctx }}
	start("control socket", func(ctx context.Context) error { return control.Serve(ctx, ctl, socket, log) })
	start("upkeep", func(ctx context.Context) error { return maintain(ctx, keys, store, alloc, server, run.stats, log) })
	// The server answers what it has taken before it ends, for which it needs the database.
	until, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	start("DHCPv6", func(ctx context.Context) error {
		defer release()
		return server.Serve(ctx)
	})
	start("database", func(context.Context) error { return store.run(until, server, log) })
	ahead := newAhead(func() bool { return sealer.Ready() < fewAhead })
	for range ahead.workers() {
		start("sealing", func(ctx context.Context) error {
			return sealer.Run(ctx, ahead.worker())
		})
	}
	start("reload", run.reloadOnHangup)
	if run.names != nil {
		start("DNS updates", run.names.Run)
		start("DNS updates", func(ctx context.Context) error { return run.names.follow(ctx, feed) })
	}
	if s.accounting != nil {
		s.accounting.Log = log
		accountant, err := radius.NewAccountant(*s.accounting, run.accounting)
		if err != nil {
			return err
		}
		start("accounting", func(ctx context.Context) error { return run.account(ctx, accountant) })
		start("accounting", accountant.Run)
	}

	log.Info("serving", "version", version, "realm", s.Realm, "links", len(s.Links), "subscribers", store.Subscribers())
	<-ctx.Done()
	parts.Wait()
	run.behind.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	log.Info("stopped")
	return nil
}

// newResolver returns the answerer of warrants. Without the resolve API it
// trusts nobody and is not reachable.
func (s *setup) newResolver(store lease.Store, ledger *lateLedger) *trace.Resolver {
	return &trace.Resolver{
		Party:    trace.Party{Ledger: ledger, Self: s.resolver, Trust: trace.Trust{Authorities: s.authorities}, Rand: rand.Reader, Now: time.Now},
		Registry: store, Keys: s.keyring, MaxAge: s.LongestAge(), Realm: s.Realm, EscrowKey: s.escrow.ID(),
	}
}

// maintain erases keys whose retention has ended, and then the leases of their
// epochs.
func maintain(ctx context.Context, keys *upkeep, store *database, alloc *lease.Allocator, server *dhcpv6.Server, stats *dhcpv6.Stats, log *slog.Logger) error {
	const every = 10 * time.Minute
	swept := int64(-1) // the oldest epoch when leases were removed last
	for {
		oldest, err := eraseDue(ctx, keys, store)
		if err != nil {
			log.Error("keys that are due could not be erased", "error", err)
		} else if int64(oldest) != swept {
			removed, err := removeLeases(ctx, oldest, store, alloc, server, stats.Messages)
			if err != nil {
				log.Error("leases that are due could not be removed", "error", err)
			} else if ctx.Err() == nil {
				swept = int64(oldest)
			}
			if removed > 0 {
				log.Info("removed leases of erased epochs", "leases", removed)
			}
		}
		if rest(ctx, every); ctx.Err() != nil {
			return nil
		}
	}
}

// eraseDue erases keys whose retention has ended, and returns the oldest epoch that is kept. Where servers share a database,
// it does nothing by a clock that is not the database's: erasure cannot be undone, and the leases of epochs whose keys one
// server has erased are removed for all.
func eraseDue(ctx context.Context, keys *upkeep, store *database) (uint32, error) {
	if store.shared != nil {
		if err := store.shared.CompareClock(ctx); err != nil {
			return 0, err
		}
	}
	return keys.run(time.Now())
}

// removeLeases removes the leases of epochs before the oldest, beside the handling of packets.
func removeLeases(ctx context.Context, oldest uint32, store *database, alloc *lease.Allocator, server *dhcpv6.Server, traffic func() uint64) (removed int, err error) {
	if store.shared == nil {
		p := &lease.Pruner{Store: store, Allocator: alloc, Do: server.Do, Pace: &lease.Pace{Traffic: traffic, Now: time.Now, Rest: rest}}
		return p.Prune(ctx, oldest)
	}
	const atOnce = 1000
	pace := lease.Pace{Now: time.Now, Rest: rest} // other servers' clients wait for the database as well
	for n := 1; n > 0 && ctx.Err() == nil; removed += n {
		if err := pace.Step(ctx, func() error {
			n, err = store.shared.Forget(ctx, oldest, atOnce)
			return err
		}); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// rest returns after a while, or when the context ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
