//go:build e2e

package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"brightgid/internal/netlab"
)

// While clients go through exchanges at full speed, a link is added, another changed, and
// a configuration with an error refused; no exchange is lost, and a client of the new link
// is served at once.
func TestReloadLosesNoPacket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, netlab.ISPOptions{LogLevel: "info"})
	relay, err := w.Relayed(w.client, clientMAC)
	w.must(err)
	other, err := w.lab.Namespace("other")
	w.must(err)
	w.must(w.lab.Connect(other, "eth0", clientMAC, w.Host, "eth9", ""))
	w.must(w.Serve())
	change := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(w.Config())
		w.must(err)
		if !strings.Contains(string(b), from) {
			t.Fatalf("the configuration has no %q", from)
		}
		w.must(os.WriteFile(w.Config(), []byte(strings.Replace(string(b), from, to, 1)), 0o644))
	}
	status := func() (v struct {
		Links       []string
		Reloaded    *time.Time
		ReloadError string `json:"reload_error"`
	}) {
		t.Helper()
		out, err := w.Run("gidserver", "status", "--config", w.Config(), "--json")
		w.must(err)
		w.must(json.Unmarshal([]byte(out), &v))
		return v
	}

	load := w.load(relay, 0, 2500)
	load.Retry = 25 * time.Second // a packet that was lost would be seen
	type done struct {
		r   *netlab.Result
		err error
	}
	ended := make(chan done, 1)
	go func() {
		r, err := load.Run(30 * time.Second)
		ended <- done{r, err}
	}()
	const link = "[[link]]\nname = \"third\"\ninterface = \"eth9\"\nprefixes = [\"2001:db8:9::/64\"]\noptions = { sntp-servers = \"2001:db8:9::123\" }\n\n[auth]\n"
	change("[auth]\n", link)
	reloads := 0
	var last done
	for running := true; running; reloads++ {
		_, err := w.Run("gidserver", "reload", "--config", w.Config())
		w.must(err)
		select {
		case last = <-ended:
			running = false
		default:
		}
	}
	w.must(last.err)
	if last.r.Exchanges != 2500 {
		t.Errorf("%d exchanges of 2500", last.r.Exchanges)
	}
	t.Logf("%d reloads in %s, %d messages sent again", reloads, last.r.Elapsed, last.r.Resent)
	if last.r.Resent > 0 {
		t.Errorf("%d messages had to be sent again", last.r.Resent)
	}
	if s := status(); len(s.Links) != 3 || s.Reloaded == nil || s.ReloadError != "" {
		t.Errorf("%+v", s)
	}

	// The new link is served.
	w.must(w.Host.Do("ip", "address", "add", "2001:db8:9::1/64", "dev", "eth9", "nodad"))
	c, err := other.NewClient("dhclient", "eth0", "also request dhcp6.sntp-servers;")
	w.must(err)
	w.must(c.Start())
	third := netip.MustParsePrefix("2001:db8:9::/64")
	w.must(netlab.Until(20*time.Second, func() error {
		addrs, err := other.Addresses("eth0")
		if err == nil && (len(addrs) == 0 || !third.Contains(addrs[0])) {
			err = os.ErrNotExist
		}
		return err
	}))

	// An error in it: the old one stays, and who looks is told where it is.
	change("name = \"third\"", "name = \"third\"\ncolour = \"red\"")
	w.must(w.Server.Signal(syscall.SIGHUP))
	w.must(w.Server.WaitLog("the configuration was not reloaded; the old one holds", 10*time.Second))
	if log := w.Server.Log(); !strings.Contains(log, "colour: unknown key") {
		t.Errorf("the log does not name the key:\n%s", log)
	}
	change("\ncolour = \"red\"", "")
	if s := status(); len(s.Links) != 3 || !strings.Contains(s.ReloadError, "colour") {
		t.Errorf("%+v", s)
	}
	change("[metrics]\n", "[metrics]\nlisten = \"[::1]:9547\"\n")
	if _, err := w.Run("gidserver", "reload", "--config", w.Config()); err == nil || !strings.Contains(err.Error(), "metrics cannot be changed while the server runs") {
		t.Errorf("other metrics: %v", err)
	}
	change("[metrics]\nlisten = \"[::1]:9547\"\n", "[metrics]\n")

	// A link that is removed is not served any more.
	change(link, "[auth]\n")
	_, err = w.Run("gidserver", "reload", "--config", w.Config())
	w.must(err)
	if s := status(); len(s.Links) != 2 || s.ReloadError != "" {
		t.Errorf("%+v", s)
	}
	groups, err := w.Host.Output("ip", "-6", "maddress", "show", "dev", "eth9")
	w.must(err)
	if strings.Contains(groups, "ff05::1:3") {
		t.Errorf("the server is in the link's groups yet:\n%s", groups)
	}
}
