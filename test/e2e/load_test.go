//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"brightgid/internal/netlab"
)

// dhcpload takes clients through exchanges of every kind, in closed and open loops, each of
// which ends well, with no address at two clients.
func TestLoadsOfEveryKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info", Delegate: "per-subscriber = 2", DHCPv6: "rapid-commit = true\n"})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	w.must(w.Serve())
	load := func(args ...string) (v struct {
		Exchanges, Refused int
		PerSecond          float64 `json:"per_second"`
		P50                float64 `json:"p50_ms"`
		P99                float64 `json:"p99_ms"`
		DelayP50           float64 `json:"delay_p50_ms"`
		DelayP99           float64 `json:"delay_p99_ms"`
	}) {
		t.Helper()
		out, err := relay.Output(filepath.Join(bin, "dhcpload"), append([]string{"--listen", "[" + netlab.RelayAddr + "]:547", "--server", "[" + netlab.ServerAddr + "]:547", "--link", netlab.RelayDown, "--json"}, args...)...)
		w.must(err)
		w.must(json.Unmarshal([]byte(out), &v))
		return v
	}
	for _, k := range netlab.Kinds {
		if v := load("--kind", string(k), "--clients", "300"); v.Exchanges != 300 || v.Refused != 0 || v.P99 <= 0 || v.DelayP99 != 0 {
			t.Errorf("%s: %+v", k, v)
		}
	}
	for _, args := range [][]string{{}, {"--rest"}} {
		v := load(append([]string{"--clients", "200", "--rate", "100", "--first", "1000"}, args...)...)
		if v.Exchanges != 200 || v.PerSecond > 115 || v.DelayP50 <= 0 || v.DelayP50 > v.P50 || v.DelayP99 > v.P99 {
			t.Errorf("an open loop, %v: %+v", args, v)
		}
	}
	leases, err := w.Leases()
	w.must(err)
	prefixes := 0
	for _, l := range leases {
		if l.Prefix != "" {
			prefixes++
		}
	}
	if len(leases) != 800 || prefixes != 300 {
		t.Errorf("%d leases, %d of prefixes", len(leases), prefixes)
	}
	if _, err := relay.Output(filepath.Join(bin, "dhcpload"), "--server", "x", "--link", "y"); err == nil || !strings.Contains(err.Error(), "want an address and a port") {
		t.Errorf("a wrong server: %v", err)
	}
	if _, err := relay.Output(filepath.Join(bin, "dhcpload"), "--server", "[::1]:547", "--link", "::1", "--rest"); err == nil || !strings.Contains(err.Error(), "say --rate") {
		t.Errorf("a closed loop that rests: %v", err)
	}
}
