package trace

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

// The resolve API is one call, over mutual TLS:
//
//	POST /v1/resolve   a signed warrant → a signed resolution
//
// Both bodies are JWS in compact form. An error is {"error": "…", "code": "…"} with a
// status of 400 for a document that is none, 403 for one that does not stand or whose
// holder is not the caller, 500 for the server's own fault. The code tells what was
// refused.

const (
	resolvePath = "/v1/resolve"
	joseType    = "application/jose"

	// maxWarrant bounds a request: MaxTargets targets of about 120 bytes.
	maxWarrant = 4 << 20
)

type apiError struct {
	Error string `json:"error"`
	Code  string `json:"code,omitempty"`
}

// refusals are the errors that have a code.
var refusals = map[string]error{
	"warrant": ErrWarrant, "expired": ErrExpired, "scope": ErrScope, "revoked": ErrRevoked, "signature": ErrSignature,
	"not-on-ledger": ErrNotOnLedger, "holder": ErrHolder,
}

// refusalCode returns the code of a refusal. Of an error that wraps several, the code
// is of the most telling one: what a warrant is refused for beyond being one.
func refusalCode(err error) string {
	code := ""
	for c, e := range refusals {
		if errors.Is(err, e) && (code == "" || code == "warrant") {
			code = c
		}
	}
	return code
}

// refusedError is a refusal that a server has told of.
type refusedError struct {
	of   error
	text string
}

func (e *refusedError) Error() string { return e.text }
func (e *refusedError) Unwrap() error { return e.of }

// Handler returns the HTTP side of a resolver.
func Handler(r *Resolver, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+resolvePath, func(w http.ResponseWriter, req *http.Request) {
		fail := func(code int, err error) {
			log.Warn("a warrant was not resolved", "from", req.RemoteAddr, "reason", err)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			json.NewEncoder(w).Encode(apiError{err.Error(), refusalCode(err)})
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxWarrant))
		if err != nil {
			fail(http.StatusBadRequest, fmt.Errorf("reading the warrant: %w", err))
			return
		}
		if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
			fail(http.StatusForbidden, errors.New("a client certificate is needed"))
			return
		}
		warrant := strings.TrimSpace(string(body))
		// Who asks is checked before anything is looked up.
		parsed, err := OpenWarrant(warrant, r.Party.Trust.Authorities, r.Party.Now())
		if err != nil {
			fail(http.StatusForbidden, err)
			return
		}
		if got := Fingerprint(req.TLS.PeerCertificates[0]); got != parsed.Holder.Certificate {
			fail(http.StatusForbidden, fmt.Errorf("%w: its holder is %q, and the caller's certificate %s is not the holder's", ErrHolder, parsed.Holder.Name, got))
			return
		}
		_, resolution, err := r.Resolve(req.Context(), warrant)
		switch {
		case err == nil:
		case refusalCode(err) != "":
			fail(http.StatusForbidden, err)
			return
		default:
			fail(http.StatusInternalServerError, err)
			return
		}
		log.Info("a warrant was resolved", "warrant", Hash(warrant), "case", parsed.Case, "targets", len(parsed.Targets), "from", req.RemoteAddr)
		w.Header().Set("Content-Type", joseType)
		io.WriteString(w, resolution)
	})
	return mux
}

// ServerTLS is the TLS configuration of the API: TLS 1.3, and only clients with
// one of the given certificates or issued by them.
func ServerTLS(id *Identity, clients []*x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	for _, c := range clients {
		pool.AddCert(c)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.tls()},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}
}

func (id *Identity) tls() tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{id.Certificate.Raw}, PrivateKey: id.Key, Leaf: id.Certificate}
	for _, x := range id.Chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// Client calls the resolve API.
type Client struct {
	url  string
	http *http.Client
}

// NewClient returns a client of the API at a base URL, which must be https.
func NewClient(url string, holder *Identity, servers []*x509.Certificate) (*Client, error) {
	if !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("resolve API %q: want an https:// URL", url)
	}
	return &Client{strings.TrimSuffix(url, "/"), &http.Client{Transport: &http.Transport{TLSClientConfig: ClientTLS(holder, servers)}}}, nil
}

// ClientTLS returns what a client with an identity needs to speak to servers
// whose certificates it was given.
func ClientTLS(id *Identity, servers []*x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	for _, c := range servers {
		pool.AddCert(c)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{id.tls()}}
}

// Resolve sends a signed warrant and returns the signed resolution, which the
// caller opens with [OpenResolution].
func (c *Client) Resolve(ctx context.Context, warrant string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+resolvePath, bytes.NewReader([]byte(warrant)))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", joseType)
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxDocument+1))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		var e apiError
		if json.Unmarshal(body, &e) != nil || e.Error == "" {
			e.Error = resp.Status
		}
		text := fmt.Sprintf("%s refused: %s", c.url, e.Error)
		if of := refusals[e.Code]; of != nil {
			return "", &refusedError{of, text}
		}
		return "", errors.New(text)
	}
	return string(body), nil
}
