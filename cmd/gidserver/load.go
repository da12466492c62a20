package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"brightgid/dhcpv6"
	"brightgid/eidauth"
	"brightgid/eidauth/ecert"
	"brightgid/eidauth/radius"
	"brightgid/eidauth/token"
	"brightgid/gidzone"
	"brightgid/idcodec"
	"brightgid/internal/config"
	"brightgid/internal/dnsupdate"
	"brightgid/internal/identityfile"
	"brightgid/internal/secretfile"
	"brightgid/trace"
)

// setup is a configuration with everything that its files hold, but for the
// lease database.
type setup struct {
	*config.Config
	file        string
	keyring     *idcodec.Keyring
	registryKey [idcodec.RegistryKeyLen]byte
	escrow      *idcodec.EscrowKey
	sources     []eidauth.Source
	reserved    map[idcodec.LookupKey]string // classes of subscribers
	radius      *radius.Config               // nil without RADIUS
	accounting  *radius.Config               // nil without accounting
	tableSize   int
	plainEIDs   int // table rows whose EID is not sealed

	resolver    *trace.Identity // nil without the resolve API
	authorities []*x509.Certificate
	holders     []*x509.Certificate

	zones    *gidzone.Zones // nil without the reverse zone
	bindings *gidzone.Bindings

	tsig dnsupdate.Key // by which names are told to DNS

	leasequery *trace.Identity // nil without leasequery
	filters    []*x509.Certificate
}

// load reads a configuration and the files that it names. Its error joins all
// that is wrong.
func load(file string) (*setup, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	cfg, err := config.Parse(file, text)
	if err != nil {
		return nil, err
	}
	s := &setup{Config: cfg, file: file}
	var errs []error
	check := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	check("keys.keyring", s.loadKeyring())
	check("keys.registry", s.loadRegistryKey())
	check("keys.escrow", s.loadEscrow())
	if cfg.Enrolment.Issuers != "" && s.escrow != nil {
		check("enrolment", s.loadEnrolment())
	}
	if cfg.Enrolment.Authorities != "" {
		check("enrolment", s.loadAuthorities())
	}
	check("auth", s.loadAuth())
	if cfg.Database.URL != "" {
		// Whether a lease is as it is in memory, another server may know better; a write would tell.
		s.Lease.CacheThreshold = 0
		check("database", s.checkDatabase())
	}
	if len(cfg.RADIUS.Servers)+len(cfg.RADIUS.Accounting) > 0 {
		check("radius", s.loadRADIUS())
	}
	if cfg.Resolve.Listen != "" {
		check("resolve", s.loadResolve())
	}
	if cfg.LeaseQuery.Listen != "" {
		check("leasequery", s.loadLeaseQuery())
	}
	if cfg.Zone.Listen != "" {
		check("zone", s.loadZone())
	}
	if cfg.DNSUpdate.Server != "" {
		check("dns-update", s.loadDNSUpdate())
	}
	return s, errors.Join(errs...)
}

func (s *setup) loadKeyring() error {
	text, err := secretfile.Read(s.Keys.Keyring)
	if err != nil {
		return err
	}
	defer clear(text)
	if s.keyring, err = idcodec.ParseKeyring(text); err != nil {
		return fmt.Errorf("%s: %w", s.Keys.Keyring, err)
	}
	return nil
}

func (s *setup) loadRegistryKey() error {
	text, err := secretfile.Read(s.Keys.Registry)
	if err != nil {
		return err
	}
	defer clear(text)
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != idcodec.RegistryKeyLen {
		return fmt.Errorf("%s: want %d bytes in hex", s.Keys.Registry, idcodec.RegistryKeyLen)
	}
	s.registryKey = [idcodec.RegistryKeyLen]byte(key)
	return nil
}

// secret returns a secret for a purpose, which follows from the registry key. It is no lookup
// key of an EID, which has no NUL in it.
func (s *setup) secret(purpose string) []byte {
	m := hmac.New(sha256.New, s.registryKey[:])
	m.Write([]byte("\x00gid-" + purpose))
	return m.Sum(nil)
}

func (s *setup) loadEscrow() error {
	text, err := os.ReadFile(s.Keys.Escrow)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w; the trustees make it in their ceremony (tracectl ceremony)", err)
	}
	if err != nil {
		return err
	}
	if s.escrow, err = idcodec.ParseEscrowKey(text); err != nil {
		return fmt.Errorf("%s: %w", s.Keys.Escrow, err)
	}
	return nil
}

func (s *setup) loadAuth() error {
	if len(s.Auth.TrustedRelays) > 0 && len(s.Auth.RelayOptions) > 0 {
		var options []eidauth.RelayOption
		for _, o := range s.Auth.RelayOptions {
			options = append(options, eidauth.RelayOption(o))
		}
		src, err := eidauth.NewRelaySource(options...)
		if err != nil {
			return err
		}
		s.sources = append(s.sources, src)
	}
	if s.Auth.Table == "" {
		return nil
	}
	text, err := secretfile.Read(s.Auth.Table)
	if err != nil {
		return err
	}
	defer clear(text)
	rows, err := config.ParseTable(s.Auth.Table, text)
	if err != nil {
		return err
	}
	var ids []eidauth.Identity
	for _, e := range rows.Entries {
		ids = append(ids, e.Identity)
	}
	for _, r := range rows.Reservations {
		ids = append(ids, r.Identity)
	}
	for _, id := range ids {
		if id.Sealed == nil {
			s.plainEIDs++
		} else if s.escrow != nil {
			if err := s.escrow.CheckNID(s.Realm, id.Sealed.NID); err != nil {
				return fmt.Errorf("%s: a sealed identity: %w", s.Auth.Table, err)
			}
		}
	}
	s.tableSize = len(ids)
	if err := s.reserve(rows.Reservations); err != nil {
		return err
	}
	table, err := eidauth.NewTable(rows.Entries)
	if err != nil {
		return err
	}
	s.sources = append(s.sources, table)
	return nil
}

// reserve files the classes of subscribers by their lookup keys.
func (s *setup) reserve(all []config.Reservation) error {
	hasher := idcodec.NewLookupHasher(s.registryKey)
	s.reserved = make(map[idcodec.LookupKey]string)
	for i, r := range all {
		var key idcodec.LookupKey
		if r.Identity.Sealed != nil {
			key = r.Identity.Sealed.Key
		} else {
			key = hasher.Key(r.Identity.EID)
		}
		if _, twice := s.reserved[key]; twice {
			return fmt.Errorf("%s: reservation[%d]: its subscriber has one already", s.Auth.Table, i)
		}
		if !slices.ContainsFunc(s.Classes, func(c config.Class) bool { return c.Name == r.Class }) {
			return fmt.Errorf("%s: reservation[%d]: there is no class %q", s.Auth.Table, i, r.Class)
		}
		s.reserved[key] = r.Class
	}
	return nil
}

// loadEnrolment makes the source that takes tokens. It is the first: a token says more
// than the line that a client is on.
func (s *setup) loadEnrolment() error {
	issuers, err := identityfile.Certificates(s.Enrolment.Issuers)
	if err != nil {
		return err
	}
	src, err := token.New(token.Config{Issuers: issuers, Enterprise: s.Enrolment.Enterprise, Realm: s.Realm, Escrow: s.escrow, Registry: s.registryKey, Now: time.Now})
	if err != nil {
		return fmt.Errorf("%s: %w", s.Enrolment.Issuers, err)
	}
	s.sources = append(s.sources, src)
	return nil
}

// loadAuthorities makes the source that takes proofs by certificates.
func (s *setup) loadAuthorities() error {
	c := ecert.Config{Enterprise: s.Enrolment.Enterprise, Realm: s.Realm, Lifetime: dur(s.Enrolment.ProofLifetime), Now: time.Now}
	var err error
	if c.Roots, err = identityfile.Certificates(s.Enrolment.Authorities); err != nil {
		return err
	}
	if s.Enrolment.Revoked != "" {
		text, err := os.ReadFile(s.Enrolment.Revoked)
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			l, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Enrolment.Revoked, err)
			}
			c.Revoked = append(c.Revoked, l)
		}
		if len(c.Revoked) == 0 {
			return fmt.Errorf("%s: no revocation list in PEM", s.Enrolment.Revoked)
		}
	}
	src, err := ecert.New(c)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Enrolment.Authorities, err)
	}
	s.sources = append(s.sources, src)
	return nil
}

// loadRADIUS reads what the source that asks RADIUS servers needs.
func (s *setup) loadRADIUS() error {
	r := &s.RADIUS
	c := &radius.Config{
		Timeout: dur(r.Timeout), Tries: r.Tries, Names: r.Names, NASIdentifier: r.NASIdentifier, NASAddress: r.NASAddress.Addr, Identity: r.EID,
		Remember: dur(r.Remember), RememberReject: dur(r.RememberReject), Now: time.Now, Log: slog.New(slog.DiscardHandler), Stats: new(radius.Stats),
	}
	line := func(path string) ([]byte, error) {
		if path == "" {
			return nil, nil
		}
		text, err := secretfile.Read(path)
		if err == nil && len(bytes.TrimSpace(text)) == 0 {
			err = fmt.Errorf("%s: it is empty", path)
		}
		return bytes.TrimSpace(text), err
	}
	secret, err := line(r.Secret)
	if err != nil {
		return err
	}
	if c.Password, err = line(r.Password); err != nil {
		return err
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
	if r.CA != "" {
		issuers, err := identityfile.Certificates(r.CA)
		if err != nil {
			return err
		}
		for _, x := range issuers {
			secure.RootCAs.AddCert(x)
		}
	}
	if r.Identity != "" {
		key, err := secretfile.Read(r.Identity + ".key")
		if err != nil {
			return err
		}
		defer clear(key)
		chain, err := os.ReadFile(r.Identity + ".pem")
		if err != nil {
			return err
		}
		cert, err := tls.X509KeyPair(chain, key)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Identity, err)
		}
		secure.Certificates = []tls.Certificate{cert}
	}
	servers := func(all []config.RADIUSServer) (out []radius.Server) {
		for _, x := range all {
			server := radius.Server{Address: x.Address, Secret: secret}
			if x.TLS {
				server.Secret, server.TLS = []byte("radsec"), secure // RFC 6614 §2.3
			}
			out = append(out, server)
		}
		return out
	}
	if len(r.Accounting) > 0 {
		a := *c
		a.Servers = servers(r.Accounting)
		s.accounting = &a
	}
	if len(r.Servers) == 0 {
		return nil
	}
	c.Servers = servers(r.Servers)
	s.radius = c
	_, err = radius.New(*c)
	return err
}

func (s *setup) loadResolve() (err error) {
	if s.resolver, err = identityfile.Read(s.Resolve.Identity); err != nil {
		return err
	}
	if s.authorities, err = identityfile.Certificates(s.Resolve.Authorities); err != nil {
		return err
	}
	s.holders, err = identityfile.Certificates(s.Resolve.Holders)
	return err
}

func (s *setup) loadLeaseQuery() (err error) {
	if s.leasequery, err = identityfile.Read(s.LeaseQuery.Identity); err != nil {
		return err
	}
	s.filters, err = identityfile.Certificates(s.LeaseQuery.Filters)
	return err
}

// options returns options as the handler takes them; the configuration has checked them.
func options(o config.Options) (out []dhcpv6.Option) {
	all, err := o.Encode()
	if err != nil {
		panic(err)
	}
	for _, x := range all {
		out = append(out, dhcpv6.Option{Code: x.Code, Data: x.Data})
	}
	return out
}

// handlerConfig is the part of the configuration that the DHCPv6 handler needs.
func (s *setup) handlerConfig() dhcpv6.Config {
	c := dhcpv6.Config{
		ServerID: s.DHCPv6.DUID, Preference: s.DHCPv6.Preference, RapidCommit: s.DHCPv6.RapidCommit, Register: s.DHCPv6.Register,
		Search: s.DHCPv6.Search, T1: dur(s.DHCPv6.T1), T2: dur(s.DHCPv6.T2), InfoRefresh: dur(s.DHCPv6.InformationRefresh),
	}
	c.Options = options(s.Options)
	c.Always, _ = s.DHCPv6.Always() // the configuration has checked it
	c.Reserved = s.reserved
	if s.LeaseQuery.Listen != "" || len(s.LeaseQuery.Queriers) > 0 {
		c.QuerySecret = s.secret("remote-id")
	}
	for i := range s.Classes {
		x := &s.Classes[i]
		class := dhcpv6.Class{Name: x.Name, Options: options(x.Options)}
		class.Option, class.Value, _ = x.Match() // the configuration has checked it
		switch {
		case x.Equals != "":
			class.How = dhcpv6.Equals
		case x.Begins != "":
			class.How = dhcpv6.Begins
		case x.Holds != "":
			class.How = dhcpv6.Contains
		}
		c.Classes = append(c.Classes, class)
	}
	for _, a := range s.DHCPv6.DNS {
		c.DNS = append(c.DNS, a.Addr)
	}
	for _, l := range s.Links {
		link := dhcpv6.Link{Names: l.Names, Name: l.Name, Interface: l.Interface, Options: options(l.Options), Prefixes: l.All(), Named: make(map[string][]idcodec.Prefix)}
		for name, all := range l.Named {
			for _, p := range all {
				link.Named[name] = append(link.Named[name], p.Prefix)
			}
		}
		if l.Times != (config.Times{}) {
			policy := l.Policy(s.Lease)
			link.Policy = &policy
		}
		for _, p := range l.Draining {
			link.Draining = append(link.Draining, p.Prefix)
		}
		for i := range l.Pools {
			link.Pools = append(link.Pools, l.Pools[i].Lease(s.Lease))
		}
		for _, a := range l.RelayLinks {
			link.RelayLinks = append(link.RelayLinks, a.Addr)
		}
		c.Links = append(c.Links, link)
	}
	return c
}
