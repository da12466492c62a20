// Package ledgerfile opens the ledgers that programs are told of: a directory with an
// embedded one, or a file that says how to reach one on Fabric.
package ledgerfile

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brightgid/internal/secretfile"
	"brightgid/internal/tomlfile"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/fabric"
)

// fabricConfig is the file that tells of a ledger on Fabric. Paths in it are relative
// to it.
type fabricConfig struct {
	Peers         []string             `toml:"peers"`
	PeerRoots     []string             `toml:"peer-roots"`
	MSP           string               `toml:"msp"`
	Certificate   string               `toml:"certificate"`
	Key           string               `toml:"key"`
	Channels      []string             `toml:"channels"`
	Chaincode     string               `toml:"chaincode"`
	Roots         []string             `toml:"roots"`
	Endorsers     int                  `toml:"endorsers"`
	Organizations []fabricOrganization `toml:"organization"`
}

type fabricOrganization struct {
	MSP string `toml:"msp"`
	CA  string `toml:"ca"`
}

// Channels are the channels of a ledger on Fabric.
type Channels struct {
	Trust fabric.Trust

	ledgers []*fabric.Ledger
	names   []string
}

func readFabricConfig(path string) (*fabricConfig, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := fabricConfig{Chaincode: "gid-ledger", Channels: []string{"ledger"}}
	if err := tomlfile.Decode(path, text, &c); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		key string
		ok  bool
	}{{"peers", len(c.Peers) > 0}, {"peer-roots", len(c.PeerRoots) > 0}, {"msp", c.MSP != ""}, {"certificate", c.Certificate != ""}, {"key", c.Key != ""},
		{"channels", len(c.Channels) > 0}, {"roots", len(c.Roots) > 0}, {"endorsers", c.Endorsers > 0}, {"organization", len(c.Organizations) >= c.Endorsers}} {
		if !x.ok {
			return nil, fmt.Errorf("%s: %s: it is missing, or too little", path, x.key)
		}
	}
	near := func(p *string) {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	near(&c.Certificate)
	near(&c.Key)
	for i := range c.PeerRoots {
		near(&c.PeerRoots[i])
	}
	for i := range c.Roots {
		near(&c.Roots[i])
	}
	for i := range c.Organizations {
		near(&c.Organizations[i].CA)
	}
	return &c, nil
}

// OpenFabric connects to the channels that a file names.
func OpenFabric(path string) (_ *Channels, err error) {
	c, err := readFabricConfig(path)
	if err != nil {
		return nil, err
	}
	pool := func(files ...string) (*x509.CertPool, error) {
		certs, err := Certificates(files)
		p := x509.NewCertPool()
		for _, c := range certs {
			p.AddCert(c)
		}
		return p, err
	}
	peerRoots, err := pool(c.PeerRoots...)
	if err != nil {
		return nil, err
	}
	certs, err := Certificates([]string{c.Certificate})
	if err != nil {
		return nil, err
	}
	text, err := secretfile.Read(c.Key)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: not a key in PEM", c.Key)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: not a PKCS #8 private key", c.Key)
	}
	roots, err := Certificates(c.Roots)
	if err != nil {
		return nil, err
	}
	x := &Channels{names: c.Channels, Trust: fabric.Trust{Organizations: make(map[string]*x509.CertPool), Endorsers: c.Endorsers, Members: ledgeranchor.NewMembers(roots)}}
	for _, r := range roots {
		_ = x.Trust.Members.Add(r, time.Now()) // an issuer's certificate need not be fit to sign records
	}
	for _, o := range c.Organizations {
		if x.Trust.Organizations[o.MSP], err = pool(o.CA); err != nil {
			return nil, err
		}
	}
	for _, name := range c.Channels {
		l, err := fabric.Open(fabric.Config{Peers: c.Peers, PeerRoots: peerRoots, MSP: c.MSP, Certificate: certs[0], Key: key, Channel: name, Chaincode: c.Chaincode})
		if err != nil {
			return nil, errors.Join(err, x.Close())
		}
		x.ledgers = append(x.ledgers, l)
	}
	return x, nil
}

// Close ends the connections.
func (x *Channels) Close() error {
	var errs []error
	for _, l := range x.ledgers {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Ledger returns the channels as one ledger.
func (x *Channels) Ledger() (ledgeranchor.Ledger, error) {
	if len(x.ledgers) == 1 {
		return x.ledgers[0], nil
	}
	var all []ledgeranchor.Ledger
	for _, l := range x.ledgers {
		all = append(all, l)
	}
	return fabric.NewSharded(all...)
}

// Members are those whose records count.
func (x *Channels) Members() *ledgeranchor.Members { return x.Trust.Members }

// Entries returns all records, one channel after the other, and checks each.
func (x *Channels) Entries(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		for _, l := range x.ledgers {
			for e, err := range l.Entries(ctx, from) {
				if err == nil {
					_, err = x.Trust.Members.Check(e.Signed)
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// Prove returns the proof of a record.
func (x *Channels) Prove(ctx context.Context, e *ledgeranchor.Entry) (ledgeranchor.Proof, error) {
	for i, l := range x.ledgers {
		if x.names[i] == e.Channel {
			return l.Prove(ctx, e.Signed.Name())
		}
	}
	return nil, ledgeranchor.ErrNotFound
}

// Verify checks all channels, and returns what it found of each.
func (x *Channels) Verify(ctx context.Context, old []*ledgeranchor.Head) (heads []*ledgeranchor.Head, records uint64, err error) {
	for i, l := range x.ledgers {
		var before *ledgeranchor.Head
		for _, h := range old {
			if strings.TrimPrefix(h.Origin, "fabric:") == x.names[i] {
				before = h
			}
		}
		h, n, err := l.Verify(ctx, x.Trust, before)
		if err != nil {
			return nil, records, fmt.Errorf("channel %s: %w", x.names[i], err)
		}
		heads, records = append(heads, h), records+n
	}
	return heads, records, nil
}
