//go:build e2e

package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"brightgid/internal/netlab"
	"brightgid/internal/powercut"
)

// The power goes in the midst of a load of new clients, and of known ones whose leases are written each time:
// the disk has what clients were told of. That no Reply leaves while its sync is under way this does not show,
// since the kernel ends that before the disk is looked at; dhcpv6's tests do.
func TestPowerCutsLoseNoLease(t *testing.T) {
	t.Parallel()
	if !powercut.Alone(t) {
		return
	}
	disk := powercut.NewDisk(t)
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info", Lease: "cache-threshold = 0"})
	w.must(w.Reconfigure(w.Path("state"), disk.Dir))
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	w.must(w.Serve())

	// What clients were told, and when.
	var mu sync.Mutex
	acked := make(map[netip.Addr]time.Time)
	load := w.load(relay, 0, 1<<30)
	load.Acked = func(_ uint32, a netip.Addr) {
		mu.Lock()
		defer mu.Unlock()
		acked[a] = time.Now()
	}
	const each = 200 // clients, who come in rounds
	load.Total = each
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for round := 0; err == nil; round++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			load.First = uint32(round%3/2*round) * each // two rounds of the same, one of others
			_, err = load.Run(time.Minute)
		}
		ended <- err
	}()
	for cut := range 10 {
		time.Sleep(time.Duration(200+rand.IntN(400)) * time.Millisecond)
		mu.Lock()
		told := make(map[netip.Addr]time.Time, len(acked))
		for a, at := range acked {
			told[a] = at
		}
		mu.Unlock()
		disk.Cut(t, w.Server.Pid(), func(left string) {
			config, err := os.ReadFile(w.Config())
			w.must(err)
			path := w.Path("etc", "cut.toml")
			w.must(os.WriteFile(path, []byte(strings.ReplaceAll(string(config), disk.Dir, left)), 0o600))
			out, err := w.Run("gidserver", "leases", "--config", path, "--all", "--json")
			w.must(err)
			for line := range strings.Lines(out) {
				var l netlab.Lease
				w.must(json.Unmarshal([]byte(line), &l))
				// The clock of leases has seconds.
				if at, ok := told[l.Address]; ok && !l.Updated.Before(at.Add(-maxAnswer).Truncate(time.Second)) {
					delete(told, l.Address)
				}
			}
			if len(told) > 0 {
				t.Errorf("cut %d: of what clients were told the disk does not have %d leases as they are", cut, len(told))
			}
		})
	}
	close(stop)
	w.must(<-ended)
	mu.Lock()
	defer mu.Unlock()
	if len(acked) < 2*each {
		t.Errorf("%d leases were acknowledged; the test shows nothing", len(acked))
	}
	w.must(w.Server.Stop())
}

// maxAnswer is how long gidserver holds an answer back at most; later it does not send it.
const maxAnswer = 2 * time.Second
