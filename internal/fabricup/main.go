// Fabricup keeps a small Fabric network for the ledger on this machine: "make
// fabric-up" and "make fabric-down" call it. It is for development and for trying
// things out; deploy/fabric/README.md tells what a real network needs.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/internal/fabnet"
	"brightgid/internal/identityfile"
	"brightgid/ledgeranchor"
	"brightgid/trace"
)

func main() {
	root := &cobra.Command{Use: "fabricup", Short: "Keep a small Fabric network for the ledger on this machine"}
	var o options
	root.PersistentFlags().StringVar(&o.dir, "dir", "fabric-network", "the network's `directory`")
	up := &cobra.Command{
		Use: "up", Short: "Make and start a network, and leave it running",
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return o.up(c) },
	}
	run := &cobra.Command{
		Use: "run", Short: "Make and start a network, and end it on SIGTERM or SIGINT",
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context(), c) },
	}
	for _, c := range []*cobra.Command{up, run} {
		c.Flags().StringVar(&o.bin, "bin", "bin", "`directory` of gidchain, and of fabric/ with Fabric's programs")
		c.Flags().IntVar(&o.orderers, "orderers", 1, "`number` of orderers: 1 (Raft), or 4 (BFT)")
		c.Flags().StringVar(&o.keys, "keys", "ca", "who makes the members' keys: ca (Fabric CA) or cryptogen")
		c.Flags().StringSliceVar(&o.channels, "channel", []string{"ledger"}, "`name` of a channel; may be given several times")
	}
	down := &cobra.Command{
		Use: "down", Short: "End a network and remove its directory",
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return o.down() },
	}
	root.AddCommand(up, run, down)
	cli.Main(root)
}

type options struct {
	dir, bin string
	keys     string
	orderers int
	channels []string
}

const (
	pidFile   = "fabricup.pid"
	readyFile = "ready"
	logFile   = "fabricup.log"
)

// members are members of each role, for trying things out; a number follows the role
// where there are several.
var members = map[string][]string{"isp": {"isp"}, "relays": {"relay", "log"}, "authority": {"judge", "trustee1", "trustee2", "trustee3", "holder"}}

func (o *options) run(ctx context.Context, c *cobra.Command) (err error) {
	if o.orderers != 1 && o.orderers != 4 {
		return cli.Usagef("--orderers %d: want 1 or 4", o.orderers)
	}
	if o.keys != "ca" && o.keys != "cryptogen" {
		return cli.Usagef("--keys %q: want ca or cryptogen", o.keys)
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(o.dir); err == nil {
		for _, e := range entries {
			if e.Name() != logFile {
				return fmt.Errorf("%s is not empty; fabricup down removes an earlier network", o.dir)
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(o.dir, "members"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.dir, pidFile), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	roots := make(map[string]string)
	for org, names := range members {
		var all []byte
		for _, member := range names {
			role := strings.TrimRight(member, "123")
			now := time.Now()
			id, err := trace.NewIdentity(rand.Reader, trace.Subject{Name: member + "." + org + ".gid", Roles: []string{role}}, now.Add(-time.Hour), now.AddDate(1, 0, 0))
			if err != nil {
				return err
			}
			if role == ledgeranchor.RoleHolder {
				if err := o.holder(id); err != nil {
					return err
				}
			}
			if err := identityfile.Create(filepath.Join(o.dir, "members", member), id); err != nil {
				return err
			}
			all = append(all, id.MarshalCertificate()...)
		}
		roots[org] = filepath.Join(o.dir, "members", org+"-roots.pem")
		if err := os.WriteFile(roots[org], all, 0o600); err != nil {
			return err
		}
	}
	n, err := fabnet.Start(fabnet.Options{
		Dir: o.dir, Fabric: filepath.Join(bin, "fabric"), Chaincode: filepath.Join(bin, "gidchain"), Orderers: o.orderers, Channels: o.channels, Roots: roots, CA: o.keys == "ca",
		Log: func(format string, args ...any) { fmt.Fprintf(c.ErrOrStderr(), format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	var text strings.Builder
	fmt.Fprintf(&text, "channels: %s; chaincode: %s\n", strings.Join(o.channels, ", "), fabnet.Chaincode)
	for _, org := range n.Organizations {
		fmt.Fprintf(&text, "%-10s %s, peer %s, members %s\n", org.Name, org.MSP, org.Address, strings.Join(members[org.Name], ", "))
	}
	for _, org := range n.Organizations {
		if err := o.ledgerConfig(n, org); err != nil {
			return err
		}
	}
	fmt.Fprintf(&text, "keys and certificates: %s/crypto and %s/members\n", o.dir, o.dir)
	fmt.Fprintf(&text, "for tracectl ledger --fabric: %s/members/isp.toml, relays.toml, authority.toml\n", o.dir)
	if err := os.WriteFile(filepath.Join(o.dir, readyFile), []byte(text.String()), 0o600); err != nil {
		return err
	}
	fmt.Fprint(c.OutOrStdout(), text.String())
	<-ctx.Done()
	return nil
}

// holder makes an identity one that approvals can be sealed to, and writes what goes
// into warrants for it.
func (o *options) holder(id *trace.Identity) error {
	if err := id.CanUnseal(rand.Reader); err != nil {
		return err
	}
	h, err := id.Holder()
	if err != nil {
		return err
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.dir, "members", "holder.holder.json"), text, 0o600)
}

// ledgerConfig writes the file by which tracectl finds the channel, for an
// organization.
func (o *options) ledgerConfig(n *fabnet.Network, org *fabnet.Organization) error {
	quoted := func(all []string) string { return `["` + strings.Join(all, `", "`) + `"]` }
	crypto := filepath.Join(o.dir, "crypto", "peerOrganizations")
	user := filepath.Join(crypto, org.Domain, "users", "User1@"+org.Domain, "msp")
	var roots, peers, tls []string
	var text strings.Builder
	for _, x := range append([]*fabnet.Organization{org}, n.Organizations...) {
		if x != org || len(peers) == 0 {
			peers = append(peers, x.Address)
		}
	}
	for _, x := range n.Organizations {
		roots = append(roots, filepath.Join(o.dir, "members", x.Name+"-roots.pem"))
		tls = append(tls, filepath.Join(crypto, x.Domain, "tlsca", "tlsca."+x.Domain+"-cert.pem"))
	}
	fmt.Fprintf(&text, "peers = %s\npeer-roots = %s\nmsp = %q\ncertificate = %q\nkey = %q\nchannels = %s\nroots = %s\nendorsers = 2\n",
		quoted(peers), quoted(tls), org.MSP, filepath.Join(user, "signcerts", "User1@"+org.Domain+"-cert.pem"), filepath.Join(user, "keystore", "priv_sk"), quoted(o.channels), quoted(roots))
	for _, x := range n.Organizations {
		fmt.Fprintf(&text, "\n[[organization]]\nmsp = %q\nca = %q\n", x.MSP, filepath.Join(crypto, x.Domain, "ca", "ca."+x.Domain+"-cert.pem"))
	}
	return os.WriteFile(filepath.Join(o.dir, "members", org.Name+".toml"), []byte(text.String()), 0o600)
}

// up runs this program again, in the background.
func (o *options) up(c *cobra.Command) error {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(o.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	child := exec.Command(self, "run", "--dir", o.dir, "--bin", o.bin, "--orderers", strconv.Itoa(o.orderers), "--keys", o.keys, "--channel", strings.Join(o.channels, ","))
	child.Stdout, child.Stderr = log, log
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	said := 0
	for {
		if text, err := os.ReadFile(log.Name()); err == nil { // what it does, as it does it
			fmt.Fprint(c.ErrOrStderr(), string(text[said:]))
			said = len(text)
		}
		if _, err := os.Stat(filepath.Join(o.dir, readyFile)); err == nil {
			return nil
		}
		select {
		case <-c.Context().Done():
			_ = child.Process.Signal(syscall.SIGTERM) // it may have ended
			return errors.Join(errors.New("interrupted"), <-ended)
		case err := <-ended:
			return fmt.Errorf("the network did not start: %w; see %s", err, log.Name())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (o *options) down() error {
	text, err := os.ReadFile(filepath.Join(o.dir, pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is no network that fabricup made", o.dir)
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", pidFile, err)
	}
	// The number may be another program's by now.
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "fabricup") {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for deadline := time.Now().Add(20 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d does not end", pid)
			}
		}
	}
	return os.RemoveAll(o.dir)
}
