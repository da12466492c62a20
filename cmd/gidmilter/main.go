// Gidmilter has a mail relay account for what it passes on: a milter beside Postfix or
// Sendmail that checks where a message came from, signs the relay's hop into its header,
// and records it on the ledger.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/control"
	"brightgid/internal/identityfile"
	"brightgid/internal/ledgerfile"
	"brightgid/internal/logging"
	"brightgid/internal/tomlfile"
	"brightgid/ledgeranchor"
	"brightgid/mail"
	"brightgid/mail/journal"
	"brightgid/mail/milter"
)

// version is set by the linker.
var version = "development"

func main() { cli.Main(command()) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gidmilter",
		Short: "Account for the messages that a mail relay passes on",
		Long: `gidmilter is a milter for Postfix and Sendmail. Of each message it asks the source's
ISP, by DNS, whether the address is leased, or checks the chain of relays that the
message came by; it writes the relay's hop into its journal, lets the message go with
Bright-Source and Bright-Hop, and puts the record onto the ledger behind the SMTP
dialogue.`,
		Version: version,
	}
	root.AddCommand(runCommand(), checkConfigCommand())
	return root
}

// config is gidmilter's configuration. Paths are relative to its file.
type config struct {
	Listen   string   `toml:"listen"` // unix:<path> or inet:<address>:<port>
	Relay    string   `toml:"relay"`
	Last     bool     `toml:"last"`
	Identity string   `toml:"identity"`
	Relays   []string `toml:"relays"`

	Journal struct {
		Directory string `toml:"directory"`
		Limit     int64  `toml:"limit"` // MiB
	} `toml:"journal"`
	Ledger struct {
		Directory string `toml:"directory"`
		Fabric    string `toml:"fabric"`
		Anchor    string `toml:"anchor"`
		AnchorID  string `toml:"anchor-identity"`
	} `toml:"ledger"`
	DNS struct {
		Resolvers []string `toml:"resolvers"`
		Insecure  bool     `toml:"insecure"`
		Timeout   int      `toml:"timeout"` // seconds
	} `toml:"dns"`
	Policy struct {
		Trusted         []netip.Prefix `toml:"trusted"`
		ExemptPorts     []uint16       `toml:"exempt-ports"`
		SubmissionPorts []uint16       `toml:"submission-ports"`
		SignNetworks    []netip.Prefix `toml:"sign-networks"`
		SignDomains     []string       `toml:"sign-domains"`
		OnFail          string         `toml:"on-fail"`
		OnError         string         `toml:"on-error"`
		OnJournal       string         `toml:"on-journal"`
	} `toml:"policy"`
	Metrics struct {
		Listen string `toml:"listen"`
	} `toml:"metrics"`
	Log struct {
		Level string `toml:"level"`
	} `toml:"log"`
}

func readConfig(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := &config{}
	c.Journal.Limit = 1024
	c.DNS.Timeout = 5
	c.Policy.OnFail, c.Policy.OnError, c.Policy.OnJournal = milter.ActionTag, milter.ActionTag, milter.ActionTempfail
	c.Log.Level = "info"
	if err := tomlfile.Decode(path, text, c); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		key, want string
		ok        bool
	}{
		{"listen", "unix:<path> or inet:<address>:<port>", strings.HasPrefix(c.Listen, "unix:") || strings.HasPrefix(c.Listen, "inet:")},
		{"relay", "the relay's name", c.Relay != ""},
		{"identity", "the relay's key and certificate, a path without .key and .pem", c.Identity != ""},
		{"journal.directory", "a directory", c.Journal.Directory != ""},
		{"journal.limit", "1 MiB or more", c.Journal.Limit >= 1},
		{"ledger", "either directory or fabric", (c.Ledger.Directory == "") != (c.Ledger.Fabric == "")},
		{"ledger.anchor", "the directory of the log that is anchored", c.Ledger.Anchor == "" || c.Ledger.Directory != ""},
		{"ledger.anchor-identity", "it with anchor", (c.Ledger.Anchor == "") == (c.Ledger.AnchorID == "")},
		{"dns.resolvers", "a resolver that validates, as [\"[::1]:53\"]", len(c.DNS.Resolvers) > 0},
		{"policy.exempt-ports", "ports from 1 to 65535", !slices.Contains(c.Policy.ExemptPorts, 0)},
		{"policy.submission-ports", "ports from 1 to 65535", !slices.Contains(c.Policy.SubmissionPorts, 0)},
		{"dns.timeout", "1 to 60 seconds", c.DNS.Timeout >= 1 && c.DNS.Timeout <= 60},
	} {
		if !x.ok {
			return nil, fmt.Errorf("%s: %s: want %s", path, x.key, x.want)
		}
	}
	near := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	for _, p := range []*string{&c.Identity, &c.Journal.Directory, &c.Ledger.Directory, &c.Ledger.Fabric, &c.Ledger.Anchor, &c.Ledger.AnchorID} {
		near(p)
	}
	for i := range c.Relays {
		near(&c.Relays[i])
	}
	return c, nil
}

// relay is a configuration with what its files hold.
type relay struct {
	*config
	author  *ledgeranchor.Author
	anchors *ledgeranchor.Author // of the log's heads; nil if they are not anchored
	members *ledgeranchor.Members
	stats   milter.Stats
	log     *slog.Logger

	mu     sync.Mutex
	ledger *ledgeranchor.Members // whose records count there, when it was opened
}

func load(path string) (*relay, error) {
	c, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	r := &relay{config: c, members: ledgeranchor.NewMembers(nil)}
	if r.author, err = readAuthor(c.Identity, ledgeranchor.RoleRelay); err != nil {
		return nil, err
	}
	if c.Ledger.AnchorID != "" {
		if r.anchors, err = readAuthor(c.Ledger.AnchorID, ledgeranchor.RoleLog); err != nil {
			return nil, err
		}
	}
	roots, err := ledgerfile.Certificates(c.Relays)
	if err != nil {
		return nil, err
	}
	r.members = ledgeranchor.NewMembers(roots)
	for _, x := range roots {
		_ = r.members.Add(x, time.Now()) // an issuer's certificate need not be a relay's
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return nil, fmt.Errorf("%s: log.level: %w", path, err)
	}
	if r.log, err = logging.New(os.Stderr, "text", level); err != nil {
		return nil, err
	}
	_, err = milter.New(r.milterConfig(nil))
	return r, err
}

// readAuthor reads an identity that has a role.
func readAuthor(path, role string) (*ledgeranchor.Author, error) {
	id, err := identityfile.Read(path)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(id.Certificate.Subject.OrganizationalUnit, role) {
		return nil, fmt.Errorf("%s: its certificate has not the role %s (tracectl identity new --role %s)", path, role, role)
	}
	a, err := ledgeranchor.NewAuthor(id.Key, id.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

func (r *relay) milterConfig(j *journal.Journal) milter.Config {
	d := &mail.Discoverer{Resolver: &mail.Resolver{Addresses: r.DNS.Resolvers, Timeout: time.Duration(r.DNS.Timeout) * time.Second / 2}, Insecure: r.DNS.Insecure, Now: time.Now}
	return milter.Config{
		Relay: r.Relay, Author: r.author, Last: r.Last, Journal: j, Discover: d.Check, Relays: &mail.Verifier{Certificate: r.certificate},
		Trusted: r.Policy.Trusted, Exempt: r.Policy.ExemptPorts, Submission: r.Policy.SubmissionPorts,
		SignFrom: r.Policy.SignNetworks, SignDomains: r.Policy.SignDomains,
		OnFail: r.Policy.OnFail, OnError: r.Policy.OnError, OnJournal: r.Policy.OnJournal,
		DNSTimeout: time.Duration(r.DNS.Timeout) * time.Second, Now: time.Now, Log: r.log, Stats: &r.stats,
	}
}

func configFlag(c *cobra.Command) *string {
	return c.Flags().StringP("config", "c", "/etc/gidmilter/gidmilter.toml", "configuration `file`")
}

func checkConfigCommand() *cobra.Command {
	var file *string
	c := &cobra.Command{
		Use:   "check-config",
		Short: "Read the configuration and the files that it names, and say what is wrong",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := load(*file)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is in order: relay %s, author %s\n", *file, r.Relay, r.author.ID())
			return nil
		},
	}
	file = configFlag(c)
	return c
}

func runCommand() *cobra.Command {
	var file *string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the milter in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := load(*file)
			if err != nil {
				return err
			}
			return r.run(c.Context())
		},
	}
	file = configFlag(c)
	return c
}

// certificate finds a relay's certificate: among those of the configuration, or on the
// ledger.
func (r *relay) certificate(author ledgeranchor.Hash) (*x509.Certificate, bool) {
	if c, ok := r.members.Certificate(author); ok {
		return c, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ledger == nil {
		return nil, false
	}
	return r.ledger.Certificate(author)
}

func (r *relay) run(ctx context.Context) (err error) {
	j, err := journal.Open(r.Journal.Directory, r.Journal.Limit<<20)
	if err != nil {
		return err
	}
	m, err := milter.New(r.milterConfig(j))
	if err != nil {
		return errors.Join(err, j.Close())
	}
	l, err := r.listen()
	if err != nil {
		return errors.Join(err, j.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	parts.Go(func() { r.anchor(ctx, j) })
	if r.Metrics.Listen != "" {
		ml, err := net.Listen("tcp", r.Metrics.Listen)
		if err != nil {
			return errors.Join(fmt.Errorf("metrics.listen: %w", err), l.Close(), j.Close())
		}
		h := &http.Server{Handler: r.metrics(j)}
		parts.Go(func() {
			if err := control.Serve(ctx, h, ml, r.log); err != nil {
				cancel(fmt.Errorf("metrics: %w", err))
			}
		})
	}
	milter.SetLog(r.log)
	server := m.Server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(milter.Listen(l)) }()
	r.log.Info("serving", "version", version, "relay", r.Relay, "listen", r.Listen)
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	stop, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	if e := server.Shutdown(stop); e != nil && err == nil {
		_ = server.Close() // sessions that do not end
	}
	cancel(nil)
	err = errors.Join(err, j.Close())
	parts.Wait()
	return err
}

// listen opens the milter's socket. A socket that a process before has left is removed.
func (r *relay) listen() (net.Listener, error) {
	if addr, ok := strings.CutPrefix(r.Listen, "inet:"); ok {
		return net.Listen("tcp", addr)
	}
	path := strings.TrimPrefix(r.Listen, "unix:")
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("%s: another process listens there", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The MTA's user connects; who may is for the directory to say.
	return l, os.Chmod(path, 0o666)
}

// How long the ledger is left alone when it does not take records.
const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 30 * time.Second
	batch      = 500
)

// gather is how long records are gathered before the ledger takes them: what a ledger
// does for each batch is much more than what it does for a record.
const gather = time.Second

// anchor puts what is in the journal onto the ledger, until the context ends. What the
// ledger does not take stays in the journal and is tried again: a record is one record,
// however often it is appended.
func (r *relay) anchor(ctx context.Context, j *journal.Journal) {
	wait := retryFirst
	var l ledgeranchor.Ledger
	defer func() {
		if l != nil {
			if err := l.Close(); err != nil {
				r.log.Error("closing the ledger", "error", err)
			}
		}
	}()
	for ctx.Err() == nil {
		n, err := r.anchorSome(ctx, j, &l)
		if err == nil {
			wait = retryFirst
			if n < batch {
				select {
				case <-ctx.Done():
				case <-time.After(gather):
				}
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		_, _, left := j.Size()
		r.log.Warn("the ledger takes no records; they stay in the journal", "error", err, "records", left)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

func (r *relay) open(ctx context.Context) (ledgeranchor.Ledger, *ledgeranchor.Members, error) {
	if r.anchors != nil {
		return ledgerfile.OpenAnchored(ctx, r.Ledger.Directory, r.Ledger.Anchor, r.anchors, r.log)
	}
	return ledgerfile.Open(ctx, r.Ledger.Directory, r.Ledger.Fabric)
}

// anchorSome puts a batch onto the ledger, and tells how many records it had.
func (r *relay) anchorSome(ctx context.Context, j *journal.Journal, l *ledgeranchor.Ledger) (int, error) {
	if *l == nil {
		opened, members, err := r.open(context.WithoutCancel(ctx))
		if err != nil {
			return 0, err
		}
		*l = opened
		r.mu.Lock()
		r.ledger = members
		r.mu.Unlock()
		intro, err := r.author.Introduce()
		if err != nil {
			return 0, err
		}
		if _, err := opened.Append(ctx, intro); err != nil {
			*l = nil
			return 0, errors.Join(err, opened.Close())
		}
	}
	entries, err := j.Wait(batch)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	var records []*ledgeranchor.Signed
	for _, e := range entries {
		s, err := ledgeranchor.DecodeSigned(e.Payload)
		if err != nil {
			return 0, fmt.Errorf("journal entry %d: %w", e.Number, err)
		}
		records = append(records, s)
	}
	if _, err := (*l).Append(ctx, records...); err != nil {
		return 0, err
	}
	return len(records), j.Done(entries[len(entries)-1].Number + 1)
}

// metrics serves Prometheus.
func (r *relay) metrics(j *journal.Journal) http.Handler {
	reg := prometheus.NewRegistry()
	for name, v := range map[string]interface{ Load() uint64 }{
		"requests": &r.stats.Requests, "deliveries": &r.stats.Deliveries, "forged": &r.stats.Forged,
		"failed": &r.stats.Failed, "refused": &r.stats.Refused, "unrecorded": &r.stats.Unrecorded, "unsigned": &r.stats.Unsigned,
	} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "gidmilter_messages_total", Help: "Messages, by what became of them.", ConstLabels: prometheus.Labels{"what": name}},
			func() float64 { return float64(v.Load()) }))
	}
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gidmilter_journal_records", Help: "Records that are not on the ledger yet."}, func() float64 {
			_, _, n := j.Size()
			return float64(n)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gidmilter_journal_full_ratio", Help: "Bytes of the journal, of its limit. At 1 no message can be recorded."}, func() float64 {
			b, limit, _ := j.Size()
			return float64(b) / float64(limit)
		}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}
