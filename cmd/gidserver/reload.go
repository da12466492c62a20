package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/spf13/cobra"

	"brightgid/dhcpv6"
	"brightgid/eidauth"
	"brightgid/eidauth/radius"
	"brightgid/idcodec"
	"brightgid/internal/cli"
	"brightgid/internal/control"
	"brightgid/internal/dnsupdate"
	"brightgid/lease"
)

// running is a server that runs, as far as others ask it or have it reload.
type running struct {
	log       *slog.Logger
	level     *slog.LevelVar
	store     *database
	alloc     *lease.Allocator
	registrar *lease.Registrar
	stats     *dhcpv6.Stats
	radius    *radius.Stats

	accounting *radius.AccountingStats
	server     *dhcpv6.Server

	reconfigurer *dhcpv6.Reconfigurer
	names        *names // nil without DNS updates
	updates      *dnsupdate.Stats
	ctx          context.Context // of the server; ends what goes on behind an answer
	behind       sync.WaitGroup  // what does

	feed    *dhcpv6.Feed             // of what becomes of leases
	queries *dhcpv6.LeaseQueryServer // nil without leasequery
	began   time.Time

	mu       sync.Mutex // one reload at a time
	setup    *setup
	reloaded time.Time // zero if never
	failed   string    // why the last reload was refused
}

// handler makes the handler of a configuration.
func (r *running) handler(s *setup) (*dhcpv6.Handler, error) {
	sources := slices.Clone(s.sources)
	if s.radius != nil {
		c := *s.radius
		c.Log, c.Stats = r.log, r.radius
		src, err := radius.New(c)
		if err != nil {
			return nil, err
		}
		sources = append(sources, src)
	}
	var trusted, queriers []netip.Addr
	for _, a := range s.Auth.TrustedRelays {
		trusted = append(trusted, a.Addr)
	}
	for _, a := range s.LeaseQuery.Queriers {
		queriers = append(queriers, a.Addr)
	}
	h, err := dhcpv6.NewHandler(s.handlerConfig(), eidauth.NewChain(trusted, sources...), r.registrar, r.alloc, r.stats, r.log)
	if err != nil {
		return nil, err
	}
	h.AnswerLeaseQueries(r.store, queriers)
	if r.names != nil {
		h.NameClients(r.names)
	}
	if s.DHCPv6.Reconfigure {
		h.OfferReconfigure(r.reconfigurer)
	}
	return h, nil
}

// fixed names what differs between two configurations and cannot be changed in a server
// that runs.
func fixed(old, new *setup) (keys []string) {
	for _, x := range []struct {
		key      string
		old, new any
	}{
		{"realm", old.Realm, new.Realm}, {"state", old.State, new.State}, {"database", old.Database, new.Database}, {"keys", old.Keys, new.Keys}, {"dhcpv6.duid", old.DHCPv6.DUID, new.DHCPv6.DUID},
		{"lease.retention", old.Lease.Retention, new.Lease.Retention}, {"lease.max-age", old.Lease.MaxAge, new.Lease.MaxAge}, {"max-age (the longest of all)", old.LongestAge(), new.LongestAge()},
		{"resolve", old.Resolve, new.Resolve}, {"ledger", old.Ledger, new.Ledger},
		{"leasequery.listen", old.LeaseQuery.Listen, new.LeaseQuery.Listen}, {"leasequery.identity", old.LeaseQuery.Identity, new.LeaseQuery.Identity},
		{"leasequery.filters", old.LeaseQuery.Filters, new.LeaseQuery.Filters}, {"zone", old.Zone, new.Zone}, {"dns-update", old.DNSUpdate, new.DNSUpdate}, {"metrics", old.Metrics, new.Metrics}, {"radius.accounting", old.RADIUS.Accounting, new.RADIUS.Accounting}, {"log.format", old.Log.Format, new.Log.Format},
	} {
		if !reflect.DeepEqual(x.old, x.new) {
			keys = append(keys, x.key)
		}
	}
	return keys
}

// account tells RADIUS servers of leases that begin, go on and end, until the context ends. Of
// servers that share a database the one that changed a lease last tells.
func (r *running) account(ctx context.Context, a *radius.Accountant) error {
	session := func(l *lease.Lease, theirs bool) radius.Session {
		s := radius.Session{Lease: l.Prefix(), Start: l.Start, Until: l.ValidUntil, Renewed: l.Updated.After(l.Start), Theirs: theirs}
		if l.State == lease.Declined {
			s.Until = l.Updated // it is set aside for longer
		}
		return s
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts.Go(func() { // leases may run out, of which nobody tells
		tick := time.NewTicker(sweepAccounts)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				err := a.Sweep(func(s radius.Session) (bool, error) {
					return r.store.abandoned(s.Lease.Addr(), s.Start, s.Until)
				})
				if err != nil && !errors.Is(err, lease.ErrAway) { // of which the store tells itself
					r.log.Error("accounting cannot tell whether another server has told that leases ended", "error", err)
				}
			}
		}
	})
	before := lateAccounts // at the first time
	for {
		err := r.feed.Follow(ctx, func() error {
			err := r.store.eachWritten(func(l lease.Lease, ours bool) error {
				switch now := time.Now(); {
				case l.Live(now), ours && l.State == lease.Active && l.ValidUntil.After(now.Add(-before)):
					a.Known(session(&l, !ours))
				}
				return ctx.Err()
			})
			if err == nil {
				before = 0
			}
			return err
		}, func(c dhcpv6.Change) error {
			a.Changed(session(&c.Lease, c.Theirs))
			return nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, lease.ErrAway):
			rest(ctx, time.Second)
		case !errors.Is(err, dhcpv6.ErrBehind):
			return err
		}
	}
}

// lateAccounts is for how long a server may have been down so that it tells of leases that ran out
// meanwhile.
const lateAccounts = time.Hour

// sweepAccounts is how often sessions are looked for that have run out.
const sweepAccounts = 5 * time.Second

// reload reads the configuration again and has it hold from the next packet on. With an
// error in it the old one stays.
func (r *running) reload() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		r.failed = ""
		if err != nil {
			r.failed = err.Error()
			r.log.Error("the configuration was not reloaded; the old one holds", "error", err)
		}
	}()
	s, err := load(r.setup.file)
	if err != nil {
		return err
	}
	if keys := fixed(r.setup, s); len(keys) > 0 {
		return fmt.Errorf("%s: %s cannot be changed while the server runs; restart it", s.file, strings.Join(keys, ", "))
	}
	level, err := s.Log.SlogLevel()
	if err != nil {
		return err
	}
	h, err := r.handler(s)
	if err != nil {
		return err
	}
	r.level.Set(level)
	r.server.Do(func() { r.alloc.SetPolicy(s.Lease.Policy()) })
	if r.queries != nil {
		r.queries.Relink(s.handlerConfig().Links)
	}
	r.setup, r.reloaded = s, time.Now()
	r.log.Info("the configuration was reloaded", "links", len(s.Links))
	if err := r.server.Replace(h); err != nil {
		// The server tries again, as it does for an interface that goes away.
		r.log.Warn("an interface of the new configuration cannot be served yet", "error", err)
	}
	return nil
}

// reloadOnHangup reloads whenever the process gets SIGHUP.
func (r *running) reloadOnHangup(ctx context.Context) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	defer signal.Stop(c)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c:
			_ = r.reload() // the log and the status tell
		}
	}
}

// rotation is what a rotation changes.
type rotation struct {
	Addresses []netip.Addr   `json:"addresses"` // that are replaced
	Prefixes  []netip.Prefix `json:"prefixes"`  // delegated ones that are
	Told      int            `json:"told"`      // clients that are told to renew at once (Reconfigure)
	By        time.Time      `json:"by"`        // when the others have renewed, if they live
}

// rotate has the subscriber who holds an address get others, at the next renewals.
func (r *running) rotate(addr netip.Addr, dry bool) (v rotation, err error) {
	v.Addresses, v.Prefixes = []netip.Addr{}, []netip.Prefix{}
	now := time.Now()
	var leases []lease.Lease
	var barrier lease.Barrier
	r.mu.Lock()
	policy, links := r.setup.Lease.Policy(), r.setup.handlerConfig().Links
	r.mu.Unlock()
	policyOf := func(l *lease.Lease) lease.Policy {
		for i := range links {
			x := &links[i]
			for j := range x.Pools {
				if x.Pools[j].Has(l.Prefix()) {
					return x.Pools[j].Policy
				}
			}
			if x.Policy != nil && l.Bits == 0 && slices.Contains(x.Prefixes, idcodec.PrefixOf(l.Addr)) {
				return *x.Policy
			}
		}
		return policy
	}
	r.server.Do(func() {
		var l lease.Lease
		if l, err = lease.Covering(r.store, addr, now); err != nil {
			return
		}
		if !l.Live(now) {
			err = lease.ErrNotFound
			return
		}
		if dry {
			leases, err = r.held(l.Subscriber, now)
			return
		}
		leases, err = r.alloc.Rotate(now, l.Subscriber, policyOf)
		barrier = r.store.mark()
	})
	if err != nil {
		return v, err
	}
	for _, l := range leases {
		if l.Bits != 0 {
			v.Prefixes = append(v.Prefixes, l.Prefix())
		} else {
			v.Addresses = append(v.Addresses, l.Addr)
		}
		if l.PreferredUntil.After(v.By) {
			v.By = l.PreferredUntil
		}
	}
	if dry {
		return v, nil
	}
	if err := barrier.Wait(); err != nil {
		return v, err
	}
	v.Told = r.tellToRenew(leases)
	return v, nil
}

// Retransmission of Reconfigure messages (RFC 9915 §7.6).
const (
	reconfigureTimeout = 2 * time.Second // REC_TIMEOUT, doubled each time
	reconfigureTries   = 8               // REC_MAX_RC
)

// tellToRenew sends Reconfigure messages to the clients of leases, until they renew. It
// returns how many clients there are who take such messages.
func (r *running) tellToRenew(leases []lease.Lease) (told int) {
	seen := make(map[string]bool)
	for _, l := range leases {
		duid := string(l.Client.DUID)
		if seen[duid] {
			continue
		}
		seen[duid] = true
		m, ok := r.reconfigurer.Renew(l.Client.DUID, time.Now())
		if !ok {
			continue
		}
		told++
		r.behind.Go(func() {
			wait := reconfigureTimeout
			for range reconfigureTries {
				if err := r.server.Send(m); err != nil {
					r.log.Warn("a Reconfigure message was not sent", "to", m.To, "error", err)
				}
				select {
				case <-r.ctx.Done():
					return
				case <-time.After(wait):
				}
				wait *= 2
				if now, err := r.store.Lease(l.Addr); err != nil || !now.Updated.Equal(l.Updated) {
					return // it has renewed, or the lease is over
				}
			}
			r.log.Warn("a client was told to renew, and did not", "address", l.Addr)
		})
	}
	return told
}

func rotateCommand() *cobra.Command {
	var file *string
	var address string
	var dry, asJSON bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Have a subscriber get other addresses",
		Long: `Have the subscriber who holds an address get others: at its next renewal each of its
clients is leased a new address, or prefix, beside the one that it has, which goes on for
its valid lifetime, so that no connection breaks. Clients that take Reconfigure messages
are told to renew at once. An address in a delegated prefix names
its holder. Who the subscriber is stays unknown.`,
		Example: `  gidserver rotate --subscriber-of 2001:db8:1:0:c7e2:7e0b:911e:c94b`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			addr, err := netip.ParseAddr(address)
			if err != nil {
				return cli.Usagef("--subscriber-of: %q is no address", address)
			}
			s, err := load(*file)
			if err != nil {
				return err
			}
			url := "http://gidserver/rotate?address=" + addr.String()
			if dry {
				url += "&dry"
			}
			resp, err := control.Client(s.controlPath()).Post(url, "", http.NoBody)
			if err != nil {
				return fmt.Errorf("no server is running with this configuration: %w", err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
				return errors.Join(errors.New(strings.TrimSpace(string(text))), err)
			}
			var v rotation
			if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(v)
			}
			for _, a := range v.Addresses {
				fmt.Fprintln(c.OutOrStdout(), a)
			}
			for _, p := range v.Prefixes {
				fmt.Fprintln(c.OutOrStdout(), p)
			}
			n := len(v.Addresses) + len(v.Prefixes)
			if n == 0 {
				fmt.Fprintln(c.OutOrStdout(), "the subscriber has no address that is leased, and so none to replace")
				return nil
			}
			what := "are replaced"
			if dry {
				what = "would be replaced (this was a dry run)"
			}
			if v.Told > 0 {
				fmt.Fprintf(c.OutOrStdout(), "%d client(s) are told to renew at once\n", v.Told)
			}
			leased := fmt.Sprintf("%d address(es)", len(v.Addresses))
			if len(v.Prefixes) > 0 {
				leased += fmt.Sprintf(" and %d prefix(es)", len(v.Prefixes))
			}
			fmt.Fprintf(c.OutOrStdout(), "%s %s when their clients renew, by %s\n", leased, what, v.By.Format(time.RFC3339))
			return nil
		},
	}
	file = configFlag(c)
	f := c.Flags()
	f.StringVar(&address, "subscriber-of", "", "an `address` of the subscriber's")
	f.BoolVarP(&dry, "dry-run", "n", false, "say what would be replaced and replace nothing")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cli.Require(c, "subscriber-of")
	return c
}

// held returns the leases of a subscriber that hold.
func (r *running) held(subscriber uint64, now time.Time) (held []lease.Lease, err error) {
	addrs, err := r.store.BySubscriber(nil, subscriber)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		l, err := r.store.Lease(a)
		if err != nil && !errors.Is(err, lease.ErrNotFound) {
			return nil, err
		}
		if err == nil && l.Subscriber == subscriber && l.State == lease.Active && l.Live(now) {
			held = append(held, l)
		}
	}
	return held, nil
}

// statusView is what the server tells of itself.
type statusView struct {
	Version     string            `json:"version"`
	Realm       string            `json:"realm"`
	Began       time.Time         `json:"began"`
	Reloaded    *time.Time        `json:"reloaded,omitempty"`
	ReloadError string            `json:"reload_error,omitempty"`
	Links       []string          `json:"links"`
	Subscribers uint64            `json:"subscribers"`
	DiskFull    bool              `json:"disk_full"`
	Database    *databaseView     `json:"database,omitempty"`
	Received    map[string]uint64 `json:"received"`
	Sent        map[string]uint64 `json:"sent"`
	Dropped     map[string]uint64 `json:"dropped"`
}

func (r *running) status() statusView {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := statusView{Version: version, Realm: r.setup.Realm, Began: r.began.UTC().Truncate(time.Second), ReloadError: r.failed, Links: []string{},
		Subscribers: r.store.Subscribers(), DiskFull: r.store.full(), Database: r.store.view(), Received: make(map[string]uint64), Sent: make(map[string]uint64), Dropped: make(map[string]uint64)}
	if !r.reloaded.IsZero() {
		at := r.reloaded.UTC().Truncate(time.Second)
		v.Reloaded = &at
	}
	for _, l := range r.setup.Links {
		v.Links = append(v.Links, l.Name)
	}
	count := func(in map[string]uint64, name string, n uint64) {
		if n > 0 {
			in[name] = n
		}
	}
	for typ := dhcp6.MessageTypeSolicit; typ <= dhcp6.MessageTypeInformationRequest; typ++ {
		count(v.Received, strings.ToLower(typ.String()), r.stats.Received[typ].Load())
		count(v.Sent, strings.ToLower(typ.String()), r.stats.Sent[typ].Load())
	}
	for d := dhcpv6.Drop(1); d < dhcpv6.NumDrops; d++ {
		count(v.Dropped, d.String(), r.stats.Dropped[d].Load())
	}
	return v
}

func statusCommand() *cobra.Command {
	var file *string
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how the server that runs is",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			resp, err := control.Client(s.controlPath()).Get("http://gidserver/status")
			if err != nil {
				return fmt.Errorf("no server is running with this configuration: %w", err)
			}
			defer resp.Body.Close()
			var v statusView
			if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(v)
			}
			return v.print(c.OutOrStdout())
		},
	}
	file = configFlag(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (v *statusView) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	reloaded := "never"
	if v.Reloaded != nil {
		reloaded = v.Reloaded.Format(time.RFC3339)
	}
	disk := "has room"
	if v.DiskFull {
		disk = "IS FULL: leases wait"
	}
	fmt.Fprintf(t, "version\t%s\nrealm\t%s\nserving since\t%s\nreloaded\t%s\nlinks\t%s\nsubscribers\t%d\ndisk\t%s\n", v.Version, v.Realm, v.Began.Format(time.RFC3339), reloaded, strings.Join(v.Links, ", "), v.Subscribers, disk)
	if d := v.Database; d != nil {
		state := "answers"
		switch {
		case d.ClockWrong:
			where := "ahead"
			if d.ClockAhead < 0 {
				where = "behind"
			}
			state = fmt.Sprintf("HAS ANOTHER TIME (this server's clock is %.1f s %s): clients get no answers", math.Abs(d.ClockAhead), where)
		case d.Away:
			state = "IS AWAY: new leases wait"
		}
		fmt.Fprintf(t, "shared database\t%s; this is server %d\nto be stored\t%d messages' changes, %d renewals\n", state, d.Server, d.Waiting, d.RenewalsToStore)
	}
	for _, x := range []struct {
		what   string
		counts map[string]uint64
	}{{"received", v.Received}, {"sent", v.Sent}, {"dropped", v.Dropped}} {
		for _, name := range slices.Sorted(maps.Keys(x.counts)) {
			fmt.Fprintf(t, "%s\t%s %d\n", x.what, name, x.counts[name])
		}
	}
	if v.ReloadError != "" {
		fmt.Fprintf(t, "THE LAST RELOAD FAILED\t%s\n", v.ReloadError)
	}
	return t.Flush()
}

func reloadCommand() *cobra.Command {
	var file *string
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the server that runs read its configuration again",
		Long: `Have the server that runs read its configuration again. No packet is lost. If something
is wrong with it the old configuration stays, and this command says what. Links, options,
who is authenticated and how, times of leases and the log's level can be changed so;
realm, keys, database, the server's DUID, retention and addresses to listen at cannot.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			resp, err := control.Client(s.controlPath()).Post("http://gidserver/reload", "", http.NoBody)
			if err != nil {
				return fmt.Errorf("no server is running with this configuration: %w", err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusNoContent {
				text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
				return errors.Join(errors.New(strings.TrimSpace(string(text))), err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "reloaded")
			return err
		},
	}
	file = configFlag(c)
	return c
}
