package ledgerfile

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"

	"brightgid/internal/identityfile"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/anchored"
	"brightgid/ledgeranchor/embedded"
)

// Open opens a ledger to append to it: the embedded one in a directory, or the one on
// Fabric of which a file tells. One of the two is empty. It also returns whose records
// count there.
func Open(ctx context.Context, dir, fabricFile string) (ledgeranchor.Ledger, *ledgeranchor.Members, error) {
	switch {
	case (dir == "") == (fabricFile == ""):
		return nil, nil, errors.New("want either the directory of an embedded ledger or the file of one on Fabric")
	case dir != "":
		l, err := embedded.Open(ctx, dir, embedded.Options{})
		if err != nil {
			return nil, nil, err
		}
		return l, l.Members(), nil
	}
	x, err := OpenFabric(fabricFile)
	if err != nil {
		return nil, nil, err
	}
	l, err := x.Ledger()
	if err != nil {
		return nil, nil, errors.Join(err, x.Close())
	}
	return l, x.Trust.Members, nil
}

// anchoredLog is a log on this machine whose heads stand on a shared ledger.
type anchoredLog struct {
	*anchored.Ledger
	local  *embedded.Ledger
	shared ledgeranchor.Ledger
}

// Close anchors the last head, and closes both.
func (l *anchoredLog) Close() error {
	return errors.Join(l.Ledger.Close(), l.local.Close(), l.shared.Close())
}

// OpenAnchored opens the embedded ledger in a directory, whose heads are anchored on the
// ledger on Fabric of which a file tells, by an author with the role log.
func OpenAnchored(ctx context.Context, dir, fabricFile string, author *ledgeranchor.Author, log *slog.Logger) (ledgeranchor.Ledger, *ledgeranchor.Members, error) {
	local, err := embedded.Open(ctx, dir, embedded.Options{})
	if err != nil {
		return nil, nil, err
	}
	shared, _, err := Open(ctx, "", fabricFile)
	if err != nil {
		return nil, nil, errors.Join(err, local.Close())
	}
	return &anchoredLog{anchored.New(local, shared, anchored.Options{Author: author, Log: log}), local, shared}, local.Members(), nil
}

// Certificates reads the certificates in some files, one at least in each.
func Certificates(paths []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, p := range paths {
		certs, err := identityfile.Certificates(p)
		if err == nil && len(certs) == 0 {
			err = errors.New(p + ": no certificate in it")
		}
		if err != nil {
			return nil, err
		}
		out = append(out, certs...)
	}
	return out, nil
}
