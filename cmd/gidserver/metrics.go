package main

import (
	"net/http"
	"strings"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"brightgid/dhcpv6"
	"brightgid/eidauth/radius"
	"brightgid/gidzone"
	"brightgid/internal/dnsupdate"
)

// collector shows the server's counters to Prometheus. No label ever holds what
// a client or a subscriber is.
type collector struct {
	stats *dhcpv6.Stats
	store *database
	zone  *gidzone.Stats

	radius     *radius.Stats
	accounting *radius.AccountingStats
	updates    *dnsupdate.Stats

	cached func() uint64 // leases that were granted as they were
	sealed func() int    // NIDs that are ready but for their EIDs
}

var (
	descReceived    = prometheus.NewDesc("gidserver_messages_received_total", "DHCPv6 messages of clients, by type.", []string{"type"}, nil)
	descSent        = prometheus.NewDesc("gidserver_messages_sent_total", "DHCPv6 messages to clients, by type.", []string{"type"}, nil)
	descDropped     = prometheus.NewDesc("gidserver_dropped_total", "Packets that were not answered, by reason.", []string{"reason"}, nil)
	descUnauth      = prometheus.NewDesc("gidserver_unauthenticated_total", "Messages of clients that no source could authenticate.", nil, nil)
	descRefused     = prometheus.NewDesc("gidserver_refused_total", "Identity associations of authenticated clients that got no address.", nil, nil)
	descDeclined    = prometheus.NewDesc("gidserver_declined_total", "Decline messages.", nil, nil)
	descRegistered  = prometheus.NewDesc("gidserver_registered_total", "Addresses of clients' own making that were registered or refreshed (RFC 9686).", nil, nil)
	descCached      = prometheus.NewDesc("gidserver_cached_total", "Leases that were granted as they were and not written; see cache-threshold.", nil, nil)
	descWriteErrors = prometheus.NewDesc("gidserver_write_errors_total", "Replies that the kernel did not take.", nil, nil)
	descSealed      = prometheus.NewDesc("gidserver_sealed_ahead", "NIDs that are made but for their EIDs. A new subscriber costs the processor about a fifth where there is one.", nil, nil)
	descSubscribers = prometheus.NewDesc("gidserver_subscribers", "Subscribers in the registry.", nil, nil)
	descAnswers     = prometheus.NewDesc("gidserver_zone_answers_total", "Answers of the reverse zone, by what they say; limited are those of these that were cut or not sent.", []string{"result"}, nil)
	descRADIUS      = prometheus.NewDesc("gidserver_radius_total", "Clients about whom RADIUS servers were asked, by what came of it; unsigned are those of failed whose answer had no right Message-Authenticator.", []string{"result"}, nil)
	descAccounting  = prometheus.NewDesc("gidserver_radius_accounting_total", "Accounting messages: sent; failed attempts at all servers; lost, since too many waited.", []string{"result"}, nil)
	descUpdates     = prometheus.NewDesc("gidserver_dns_updates_total", "Updates of clients' names in DNS: added, removed; conflicts, the name being another's; refused by the server; failed.", []string{"result"}, nil)
	descAway        = prometheus.NewDesc("gidserver_database_away", "1 while the database that servers share does not answer.", nil, nil)
	descClock       = prometheus.NewDesc("gidserver_database_clock_ahead_seconds", "How far this server's clock is ahead of the shared database's at the least; negative if it is behind.", nil, nil)
	descClockWrong  = prometheus.NewDesc("gidserver_database_clock_wrong", "1 while that is more than it may be, and clients get no answers.", nil, nil)
	descWaiting     = prometheus.NewDesc("gidserver_database_waiting", "What waits to be stored in the database that servers share: messages' changes, and renewals that were promised while it was away.", []string{"what"}, nil)
	descCommits     = prometheus.NewDesc("gidserver_database_commits_total", "Commits in the database that servers share.", nil, nil)
	descShared      = prometheus.NewDesc("gidserver_database_changes_total", "Messages' changes by what became of them: stored; conflict, another server having been there before; and renewals while the database was away: promised, kept, lost.", []string{"result"}, nil)

	descDatabaseErrors = prometheus.NewDesc("gidserver_database_errors_total", "Times that the database that servers share did not answer.", nil, nil)

	descCompact = prometheus.NewDesc("gidserver_database_compact_bytes", "About how many bytes the embedded database has to rewrite until it is in order. That it only grows says that leases are written faster than it comes to them.", nil, nil)

	descFull = prometheus.NewDesc("gidserver_disk_full", "1 while leases wait for disk space.", nil, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for typ := dhcp6.MessageTypeSolicit; typ <= dhcp6.MessageTypeInformationRequest; typ++ {
		name := strings.ToLower(typ.String())
		counter(descReceived, c.stats.Received[typ].Load(), name)
		counter(descSent, c.stats.Sent[typ].Load(), name)
	}
	for d := dhcpv6.Drop(1); d < dhcpv6.NumDrops; d++ {
		counter(descDropped, c.stats.Dropped[d].Load(), d.String())
	}
	counter(descUnauth, c.stats.Unauthenticated.Load())
	counter(descRefused, c.stats.Refused.Load())
	counter(descDeclined, c.stats.Declined.Load())
	counter(descRegistered, c.stats.Registered.Load())
	counter(descCached, c.cached())
	counter(descWriteErrors, c.stats.WriteErrors.Load())
	counter(descAnswers, c.zone.Answered.Load(), "answered")
	counter(descAnswers, c.zone.Denied.Load(), "denied")
	counter(descAnswers, c.zone.Refused.Load(), "refused")
	counter(descAnswers, c.zone.Limited.Load(), "limited")
	counter(descRADIUS, c.radius.Accepted.Load(), "accepted")
	counter(descRADIUS, c.radius.Rejected.Load(), "rejected")
	counter(descRADIUS, c.radius.Failed.Load(), "failed")
	counter(descRADIUS, c.radius.Unsigned.Load(), "unsigned")
	counter(descRADIUS, c.radius.Overloaded.Load(), "overloaded")
	counter(descAccounting, c.accounting.Sent.Load(), "sent")
	counter(descAccounting, c.accounting.Failed.Load(), "failed")
	counter(descAccounting, c.accounting.Lost.Load(), "lost")
	counter(descUpdates, c.updates.Added.Load(), "added")
	counter(descUpdates, c.updates.Removed.Load(), "removed")
	counter(descUpdates, c.updates.Conflicts.Load(), "conflict")
	counter(descUpdates, c.updates.Refused.Load(), "refused")
	counter(descUpdates, c.updates.Failed.Load(), "failed")
	ch <- prometheus.MustNewConstMetric(descSubscribers, prometheus.GaugeValue, float64(c.store.Subscribers()))
	ch <- prometheus.MustNewConstMetric(descSealed, prometheus.GaugeValue, float64(c.sealed()))
	full := 0.0
	if c.store.full() {
		full = 1
	}
	ch <- prometheus.MustNewConstMetric(descFull, prometheus.GaugeValue, full)
	if c.store.behind != nil {
		ch <- prometheus.MustNewConstMetric(descCompact, prometheus.GaugeValue, float64(c.store.behind()))
	}
	v := c.store.view()
	if v == nil {
		return
	}
	away := 0.0
	if v.Away {
		away = 1
	}
	ch <- prometheus.MustNewConstMetric(descAway, prometheus.GaugeValue, away)
	wrong := 0.0
	if v.ClockWrong {
		wrong = 1
	}
	ch <- prometheus.MustNewConstMetric(descClock, prometheus.GaugeValue, v.ClockAhead)
	ch <- prometheus.MustNewConstMetric(descClockWrong, prometheus.GaugeValue, wrong)
	ch <- prometheus.MustNewConstMetric(descWaiting, prometheus.GaugeValue, float64(v.Waiting), "messages")
	ch <- prometheus.MustNewConstMetric(descWaiting, prometheus.GaugeValue, float64(v.RenewalsToStore), "renewals")
	stats := c.store.shared.Stats()
	counter(descCommits, stats.Commits.Load())
	counter(descShared, stats.Units.Load(), "stored")
	counter(descShared, stats.Conflicts.Load(), "conflict")
	counter(descShared, stats.Offline.Load(), "promised")
	counter(descShared, stats.Reconciled.Load(), "kept")
	counter(descShared, stats.Lost.Load(), "lost")
	counter(descDatabaseErrors, stats.Failures.Load())
}

func metricsHandler(c collector) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	return mux
}
