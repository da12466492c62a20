package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"brightgid/dhcpv6"
	"brightgid/internal/dnsupdate"
	"brightgid/internal/secretfile"
	"brightgid/lease"
)

// maxNoted is of how many clients it is noted how they are called; others are noted again
// when they renew.
const maxNoted = 1 << 17

// names puts clients' names into DNS when their leases are on disk.
type names struct {
	*dnsupdate.Updater

	mu    sync.Mutex
	noted map[string]string // by DUID
}

// Note implements [dhcpv6.Names].
func (n *names) Note(duid []byte, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.noted[string(duid)]; !known && len(n.noted) >= maxNoted {
		clear(n.noted)
	}
	n.noted[string(duid)] = name
}

// changed tells the updater of a lease. Of names only the server knows that the client told.
func (n *names) changed(l dhcpv6.Change) {
	switch {
	case l.Bits != 0 || l.State == lease.Registered:
	case l.State == lease.Active:
		name := ""
		if !l.Theirs {
			n.mu.Lock()
			name = n.noted[string(l.Client.DUID)]
			n.mu.Unlock()
		}
		n.Set(l.Addr, name, l.Client.DUID, l.ValidUntil)
	default:
		n.End(l.Addr)
	}
}

// loadDNSUpdate reads the key by which updates are signed.
func (s *setup) loadDNSUpdate() error {
	text, err := secretfile.Read(s.DNSUpdate.Key)
	if err != nil {
		return err
	}
	defer clear(text)
	if s.tsig, err = dnsupdate.ParseKey(text); err != nil {
		return fmt.Errorf("%s: %w", s.DNSUpdate.Key, err)
	}
	return nil
}

func (s *setup) openNames(store lease.Store, log *slog.Logger, stats *dnsupdate.Stats) (*names, error) {
	u, err := dnsupdate.Open(dnsupdate.Config{
		Server: s.DNSUpdate.Server, Zone: s.DNSUpdate.Zone, Key: s.tsig, TTL: dur(s.DNSUpdate.TTL),
		Journal: filepath.Join(s.State, "names"), Now: time.Now, Log: log, Stats: stats,
		Lease: func(addr netip.Addr) ([]byte, time.Time, error) {
			l, err := store.Lease(addr)
			switch {
			case errors.Is(err, lease.ErrNotFound), err == nil && l.State != lease.Active:
				return nil, time.Time{}, nil
			}
			return l.Client.DUID, l.ValidUntil, err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("dns-update: %w", err)
	}
	return &names{Updater: u, noted: make(map[string]string)}, nil
}

// follow tells the updater of leases that change, until the context ends.
func (n *names) follow(ctx context.Context, feed *dhcpv6.Feed) error {
	for {
		err := feed.Follow(ctx, func() error { return nil }, func(l dhcpv6.Change) error {
			n.changed(l)
			return nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, dhcpv6.ErrBehind): // names that were missed come with the next renewals
			return err
		}
	}
}
