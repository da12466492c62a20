package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"brightgid/sava"
)

// collector shows the filter's counters to Prometheus. No label ever holds an
// address.
type collector struct{ filter *filter }

var (
	descFrames       = prometheus.NewDesc("gidfilter_frames_total", "Frames that came in, by interface and verdict.", []string{"interface", "reason"}, nil)
	descBindings     = prometheus.NewDesc("gidfilter_bindings", "Bindings in the table.", nil, nil)
	descEnforcing    = prometheus.NewDesc("gidfilter_enforcing", "1 if frames are dropped, 0 in mode monitor.", nil, nil)
	descConnected    = prometheus.NewDesc("gidfilter_leasequery_connected", "1 while the filter follows its server.", nil, nil)
	descSynced       = prometheus.NewDesc("gidfilter_leasequery_synced_timestamp_seconds", "When the filter last heard of all leases.", nil, nil)
	descChanges      = prometheus.NewDesc("gidfilter_leasequery_changes_total", "Changes that the server told of.", nil, nil)
	descInjected     = prometheus.NewDesc("gidfilter_injected_total", "Frames that user space let pass.", nil, nil)
	descInjectErrors = prometheus.NewDesc("gidfilter_inject_errors_total", "Frames that should have passed and were lost.", nil, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s, err := c.filter.stats()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descFrames, err)
		return
	}
	value := func(d *prometheus.Desc, typ prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, typ, v, labels...)
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, p := range s.Ports {
		for r := range sava.NumReasons {
			value(descFrames, prometheus.CounterValue, float64(p.Frames[r.String()]), p.Interface, r.String())
		}
	}
	value(descBindings, prometheus.GaugeValue, float64(s.Bindings))
	value(descEnforcing, prometheus.GaugeValue, flag(s.Enforce))
	value(descInjected, prometheus.CounterValue, float64(s.Injected))
	value(descInjectErrors, prometheus.CounterValue, float64(s.InjectErrors))
	if q := s.LeaseQuery; q != nil {
		value(descConnected, prometheus.GaugeValue, flag(q.Connected))
		value(descChanges, prometheus.CounterValue, float64(q.Changes))
		if !q.Synced.IsZero() {
			value(descSynced, prometheus.GaugeValue, float64(q.Synced.Unix()))
		}
	}
}

func metricsHandler(f *filter) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{f}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	return mux
}
