// Package control is how a daemon serves HTTP: to its own other commands over a
// socket that only its user may open, and to others over TCP.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// closeWithin bounds how long requests may take when the daemon ends.
const closeWithin = 10 * time.Second

// Listen makes a Unix socket with mode 0600, in the place of one that a killed
// daemon left.
func Listen(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("control socket %s: another process is serving", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path) // its directory has mode 0700
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	return l, nil
}

// Client returns an HTTP client of a socket.
func Client(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
}

// Serve serves until the context ends and lets requests finish.
func Serve(ctx context.Context, h *http.Server, l net.Listener, log *slog.Logger) error {
	h.ReadHeaderTimeout = 10 * time.Second
	h.ReadTimeout = time.Minute
	h.IdleTimeout = time.Minute
	h.MaxHeaderBytes = 16 << 10
	h.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	stop := context.AfterFunc(ctx, func() {
		within, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		_ = h.Shutdown(within) // requests that did not end in time are cut off
		_ = h.Close()
	})
	defer stop()
	var err error
	if h.TLSConfig != nil {
		err = h.ServeTLS(l, "", "")
	} else {
		err = h.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
