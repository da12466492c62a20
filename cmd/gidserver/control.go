package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"brightgid/dhcpv6"
	"brightgid/lease"
	"brightgid/trace"
)

// The control socket is how gidserver's other commands ask a server that runs.
// Whoever may open it, by the file's mode the server's own user, is served.

func (s *setup) controlPath() string { return filepath.Join(s.State, "control.sock") }

func controlHandler(run *running, resolver *trace.Resolver) http.Handler {
	mux := http.NewServeMux()
	store := run.store
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(run.status()) // who asked may be gone
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, _ *http.Request) {
		if err := run.reload(); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /leases", func(w http.ResponseWriter, r *http.Request) {
		out := bufio.NewWriter(w)
		enc := json.NewEncoder(out)
		list := func() error {
			err := store.Each(func(l lease.Lease) error {
				if err := r.Context().Err(); err != nil {
					return err
				}
				return enc.Encode(showLease(&l))
			})
			return errors.Join(err, out.Flush(), http.NewResponseController(w).Flush())
		}
		err := error(nil)
		if r.URL.Query().Has("follow") {
			err = run.feed.Follow(r.Context(), list, func(c dhcpv6.Change) error {
				return errors.Join(enc.Encode(showLease(&c.Lease)), out.Flush(), http.NewResponseController(w).Flush())
			})
		} else {
			err = list()
		}
		if err != nil {
			panic(http.ErrAbortHandler) // so that the reader sees that the list is cut
		}
	})
	mux.HandleFunc("POST /rotate", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("address"))
		if err != nil {
			http.Error(w, "want the address of a subscriber", http.StatusBadRequest)
			return
		}
		v, err := run.rotate(addr, r.URL.Query().Has("dry"))
		if errors.Is(err, lease.ErrNotFound) {
			http.Error(w, addr.String()+" is not leased now", http.StatusNotFound)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // who asked may be gone
	})
	mux.HandleFunc("POST /resolve", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, trace.MaxDocument))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if resolver.Party.Self == nil {
			http.Error(w, "the server has no identity to sign with; set resolve.listen and resolve.identity", http.StatusForbidden)
			return
		}
		_, signed, err := resolver.Resolve(r.Context(), strings.TrimSpace(string(body)))
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		io.WriteString(w, signed)
	})
	return mux
}

// leaseView is how a lease is printed.
type leaseView struct {
	Address        netip.Addr `json:"address"`          // the first of a delegated prefix
	Prefix         string     `json:"prefix,omitempty"` // that is delegated
	Subscriber     uint64     `json:"subscriber"`
	Slot           uint16     `json:"slot"`
	Epoch          uint32     `json:"epoch"`
	State          string     `json:"state"`
	DUID           string     `json:"duid"`
	IAID           uint32     `json:"iaid"`
	LinkLayer      string     `json:"link_layer,omitempty"`
	Relay          string     `json:"relay,omitempty"`
	Born           time.Time  `json:"born"`
	Start          time.Time  `json:"start"`
	Updated        time.Time  `json:"updated"`
	PreferredUntil time.Time  `json:"preferred_until"`
	ValidUntil     time.Time  `json:"valid_until"`
}

// leased returns what is leased: an address, or a prefix.
func (v *leaseView) leased() netip.Prefix {
	if p, err := netip.ParsePrefix(v.Prefix); err == nil {
		return p
	}
	return netip.PrefixFrom(v.Address, 128)
}

// String returns it as it is printed.
func (v *leaseView) String() string {
	if v.Prefix != "" {
		return v.Prefix
	}
	return v.Address.String()
}

func showLease(l *lease.Lease) leaseView {
	v := leaseView{
		Address: l.Addr, Subscriber: l.Subscriber, Slot: l.Slot, Epoch: l.Epoch, State: l.State.String(),
		DUID: hex.EncodeToString(l.Client.DUID), IAID: l.Client.IAID,
		LinkLayer: net.HardwareAddr(l.Anchor.LinkLayer).String(),
		Born:      l.Born, Start: l.Start, Updated: l.Updated, PreferredUntil: l.PreferredUntil, ValidUntil: l.ValidUntil,
	}
	if l.Bits != 0 {
		v.Prefix = l.Prefix().String()
	}
	if l.Anchor.Relay.IsValid() {
		v.Relay = l.Anchor.Relay.String()
	}
	if (l.State == lease.Active || l.State == lease.Registered) && !l.Live(time.Now()) {
		v.State = "expired"
	}
	return v
}
