//go:build fabric

package fabric

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hyperledger/fabric-gateway/pkg/client"

	"brightgid/internal/fabnet"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/ledgertest"
)

// writerTask makes this test's binary a client that appends for ever.
const writerTask = "GID_FABRIC_WRITER"

type writerConfig struct {
	Dir, Channel, Author string
	Peers                []string
	First                int
}

const batch = 20

// writeFrom appends batches of hops, beginning with a number, until the context ends,
// and tells of each batch that is acknowledged.
func writeFrom(ctx context.Context, l *Ledger, a *ledgeranchor.Author, n int, acked func(upTo int)) error {
	for ; ctx.Err() == nil; n += batch {
		var rs []*ledgeranchor.Record
		for i := range batch {
			rs = append(rs, ledgertest.Hop(n+i, ledgertest.Source(n+i), a.Certificate.NotBefore.Add(time.Duration(n+i)*time.Millisecond)))
		}
		s, err := a.Sign(rs...)
		if err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), 90*time.Second)
		_, err = l.Append(attempt, s...)
		cancel()
		if err != nil {
			return err
		}
		acked(n + batch)
	}
	return nil
}

func writer(task string) error {
	var c writerConfig
	if err := json.Unmarshal([]byte(task), &c); err != nil {
		return err
	}
	id, err := fabnet.ReadClient(c.Dir, "relays", "RelaysMSP")
	if err != nil {
		return err
	}
	a, err := ledgertest.ReadAuthor(c.Author)
	if err != nil {
		return err
	}
	l, err := Open(Config{Peers: c.Peers, PeerRoots: id.PeerRoots, MSP: id.MSP, Certificate: id.Certificate, Key: id.Key, Channel: c.Channel, Chaincode: fabnet.Chaincode})
	if err != nil {
		return err
	}
	return writeFrom(context.Background(), l, a, c.First, func(upTo int) { fmt.Println(upTo) })
}

// With four BFT orderers, a client, its peer and the leading orderer are killed under
// load, one after the other, and come back: every record that was acknowledged is on
// the channel, and every record is there once.
func TestNothingIsLostWhenProcessesAreKilled(t *testing.T) {
	o := bft
	o.Dir, o.Orderers, o.Channels = t.TempDir(), 4, []string{"bft"}
	n, err := fabnet.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	relays := n.Organization("relays")
	id, err := relays.Client()
	if err != nil {
		t.Fatal(err)
	}
	connect := func() *Ledger {
		l, err := Open(Config{Peers: id.Peers, PeerRoots: id.PeerRoots, MSP: id.MSP, Certificate: id.Certificate, Key: id.Key, Channel: "bft", Chaincode: fabnet.Chaincode})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	l := connect()
	ledgertest.Introduce(t, l, cast.Relay)
	author := filepath.Join(t.TempDir(), "author.pem")
	ledgertest.WriteAuthor(t, author, cast.Relay)

	const mine, childs = 1_000_000, 2_000_000
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var ackedMine, ackedChild atomic.Int64
	ackedMine.Store(mine)
	ackedChild.Store(childs)
	var all sync.WaitGroup
	all.Go(func() {
		if err := writeFrom(ctx, connect(), cast.Relay, mine, func(upTo int) { ackedMine.Store(int64(upTo)) }); err != nil {
			t.Errorf("a client was not served through the faults: %v", err)
		}
	})
	spawn := func() (kill func()) {
		task, err := json.Marshal(writerConfig{Dir: o.Dir, Channel: "bft", Author: author, Peers: id.Peers, First: int(ackedChild.Load())})
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), writerTask+"="+string(task))
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for lines := bufio.NewScanner(out); lines.Scan(); {
				upTo, err := strconv.ParseInt(lines.Text(), 10, 64)
				if err != nil {
					t.Errorf("the client says %q", lines.Text())
					return
				}
				ackedChild.Store(upTo)
			}
		}()
		return func() {
			c.Process.Signal(syscall.SIGKILL)
			<-done
			c.Wait()
			if stderr.Len() > 0 {
				t.Errorf("the killed client had failed: %s", stderr.String())
			}
		}
	}
	// progress waits until both clients have gone on.
	progress := func(what string) {
		t.Helper()
		a, b := ackedMine.Load(), ackedChild.Load()
		for deadline := time.Now().Add(90 * time.Second); ackedMine.Load() < a+3*batch || ackedChild.Load() < b+3*batch; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: no record more was acknowledged within a minute and a half", what)
			}
		}
	}
	kill := spawn()
	progress("before the faults")
	for _, fault := range []struct {
		what    string
		process *fabnet.Process
	}{{"without the clients' peer", relays.Peer}, {"without an orderer, the first leader", n.Orderers[0]}} {
		kill() // in the middle of something
		kill = spawn()
		fault.process.Kill()
		progress(fault.what)
		if err := fault.process.Start(); err != nil {
			t.Fatal(err)
		}
		progress("after it has come back")
	}
	stop()
	kill()
	all.Wait()

	// Everything once, as the blocks tell.
	seen := make(map[uint64]bool)
	read, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	last := uint64(ackedMine.Load() - 1)
	for e, err := range l.Follow(read, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Record.Hop == nil {
			continue
		}
		if seen[e.Record.Hop.Clock] {
			t.Fatalf("record %d is there twice", e.Record.Hop.Clock)
		}
		seen[e.Record.Hop.Clock] = true
		if seen[last] && seen[uint64(ackedChild.Load()-1)] {
			break
		}
	}
	for _, acked := range [][2]int64{{mine, ackedMine.Load()}, {childs, ackedChild.Load()}} {
		for k := acked[0]; k < acked[1]; k++ {
			if !seen[uint64(k)] {
				t.Fatalf("record %d was acknowledged and is not there", k)
			}
		}
	}
	t.Logf("%d and %d records were acknowledged", ackedMine.Load()-mine, ackedChild.Load()-childs)
}

// Where a transaction fails is told: no majority endorses, or no orderer takes it. When
// what was lost is back, the same records are appended.
func TestWhereATransactionFailsIsTold(t *testing.T) {
	l := open(t, "relays", channel(t))
	ledgertest.Introduce(t, l, cast.Relay)
	n := 0
	attempt := func(within time.Duration) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := l.Append(ctx, ledgertest.Sign(t, cast.Relay, ledgertest.Hop(n, ledgertest.Source(n), time.Now()))...)
		return err
	}
	for _, c := range []struct {
		what string
		lost []*fabnet.Process
		want Step
	}{
		{"two chaincode services of three", []*fabnet.Process{network.Organization("isp").Service, network.Organization("authority").Service}, Endorsing},
		{"the only orderer", network.Orderers, Ordering},
	} {
		n++
		for _, p := range c.lost {
			p.Kill()
		}
		err := attempt(5 * time.Second)
		var e *Error
		if !errors.As(err, &e) || e.Step != c.want || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without %s: %v; want a failed %s", c.what, err, c.want)
		}
		for _, p := range c.lost {
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if err := attempt(90 * time.Second); err != nil {
			t.Errorf("with %s again: %v", c.what, err)
		}
	}
}

// A transaction that one organization alone endorsed is ordered and stands in a block,
// and counts for nothing: that is an error of the commit, which no attempt more mends.
func TestATransactionThatDoesNotCountIsNoRecord(t *testing.T) {
	l := open(t, "relays", channel(t))
	ledgertest.Introduce(t, l, cast.Relay)
	signed := ledgertest.Sign(t, cast.Relay, ledgertest.Hop(1, ledgertest.Source(1), time.Now()))
	b, err := signed[0].Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = l.submit(t.Context(), [][]byte{b}, client.WithEndorsingOrganizations("RelaysMSP"))
	var e *Error
	if !errors.As(err, &e) || e.Step != Committing || e.Code != "ENDORSEMENT_POLICY_FAILURE" || e.Tx == "" {
		t.Fatalf("%v; want a commit that failed for its endorsements", err)
	}
	if again(err) {
		t.Error("it would be tried again")
	}
	if _, err := l.Get(t.Context(), signed[0].Name()); !errors.Is(err, ledgeranchor.ErrNotFound) {
		t.Errorf("the record: %v, want none", err)
	}
	if _, err := l.Append(t.Context(), signed...); err != nil {
		t.Errorf("with all endorsements: %v", err)
	}
}
