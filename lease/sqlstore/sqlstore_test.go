//go:build e2e

package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"brightgid/internal/pglab"
	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/shared"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// cluster starts a PostgreSQL that syncs nothing: these tests kill nobody.
func cluster(t *testing.T) *pglab.Cluster {
	t.Helper()
	c, err := pglab.New("fsync=off", "full_page_writes=off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

var databases int

// database makes an empty one.
func database(t *testing.T, c *pglab.Cluster) string {
	t.Helper()
	databases++
	name := fmt.Sprintf("db%d", databases)
	if err := c.SQL("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(pglab.URL(c), "/"+pglab.Database+"?", "/"+name+"?", 1)
}

// open connects to a database of a server that does not promise to store what it acknowledges.
func open(t *testing.T, url string) *DB {
	t.Helper()
	c, err := parse(url)
	if err != nil {
		t.Fatal(err)
	}
	c.ConnConfig.Tracer = &spoken
	d, err := connect(t.Context(), c, time.Now)
	if err == nil {
		err = d.tables(t.Context(), true)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// keyed are keys of which only their number is known.
func keyed(n int64) shared.Keyed {
	return shared.Keyed{Epoch: 5, Tag: func(uint32) (int64, error) { return n, nil }}
}

func attach(t *testing.T, d shared.DB, name string) *shared.Store {
	t.Helper()
	s, err := shared.New(t.Context(), d, shared.Options{Name: name, Cache: 100, Keys: keyed(1), Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func TestConformance(t *testing.T) {
	c := cluster(t)
	before := databases
	urls := make(map[lease.Store]string)
	at := func(t *testing.T, url string) lease.Store {
		s := leasetest.Marking{Marker: attach(t, open(t, url), "one")}
		urls[s] = url
		return s
	}
	leasetest.Run(t, func(t *testing.T) lease.Store { return at(t, database(t, c)) },
		func(t *testing.T, s lease.Store) lease.Store { return at(t, urls[s]) })
	for i := before + 1; i <= databases; i++ {
		readWhole(t, c, fmt.Sprintf("db%d", i))
	}
}

// readWhole fails a test that had PostgreSQL read a table from end to end that grows with the clients.
// It counts a reading for each index that it makes.
func readWhole(t *testing.T, c *pglab.Cluster, database string) {
	t.Helper()
	out, err := c.Query("SELECT string_agg(relname, ', ') FROM pg_stat_user_tables WHERE seq_scan > (SELECT count(*) FROM pg_index WHERE indrelid = relid) AND relname IN ('gid_keys', 'gid_subscribers', 'gid_leases', 'gid_history', 'gid_clients', 'gid_lists', 'gid_accounts', 'gid_changes')", database)
	if err != nil {
		t.Fatal(err)
	}
	if out != "" {
		t.Errorf("%s: tables were read from end to end: %s", database, out)
	}
}

// Every server that starts makes the tables if there are none, also at once with others;
// each is another one, and there are as many as there may be.
func TestServersStartAtOnce(t *testing.T) {
	c := cluster(t)
	url := database(t, c)
	var all sync.WaitGroup
	var mu sync.Mutex
	numbers := make(map[int]bool)
	full := 0
	for i := range shared.MaxServers + 2 {
		all.Go(func() {
			d := open(t, url)
			a, err := d.Attach(context.Background(), fmt.Sprintf("server %d", i), keyed(1))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, shared.ErrServers):
				full++
			case err != nil:
				t.Error(err)
			default:
				numbers[a.Server] = true
			}
		})
	}
	all.Wait()
	if len(numbers) != shared.MaxServers || full != 2 {
		t.Errorf("%d servers and %d too many; want %d and 2", len(numbers), full, shared.MaxServers)
	}
}

// Two servers that change the same leases all the time lose nothing: each change that was
// acknowledged was made on what was there.
func TestServersThatCollide(t *testing.T) {
	c := cluster(t)
	url := database(t, c)
	const each, leases = 300, 5
	var all sync.WaitGroup
	acknowledged := make([]int, 2)
	conflicts := make([]int, 2)
	for i := range 2 {
		s := attach(t, open(t, url), fmt.Sprintf("server %d", i))
		all.Go(func() {
			for n := 0; acknowledged[i] < each; n++ {
				addr := leasetest.Lease(n%leases, t0).Addr
				l, err := s.Lease(addr)
				if errors.Is(err, lease.ErrNotFound) {
					l, err = leasetest.Lease(n%leases, t0), nil
					l.Subscriber = 0
				}
				if err != nil {
					t.Error(err)
					return
				}
				l.Subscriber++ // counts
				if err := s.Apply(&lease.Update{Put: []lease.Lease{l}}); err != nil {
					t.Error(err)
					return
				}
				switch err := s.Mark().Wait(); {
				case err == nil:
					acknowledged[i]++
				case errors.Is(err, shared.ErrConflict):
					conflicts[i]++
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	s := attach(t, open(t, url), "a third")
	total := uint64(0)
	for n := range leases {
		l, err := s.Lease(leasetest.Lease(n, t0).Addr)
		if err != nil {
			t.Fatal(err)
		}
		total += l.Subscriber
	}
	if total != 2*each {
		t.Errorf("%d changes were acknowledged, the leases count %d", 2*each, total)
	}
	t.Logf("conflicts: %v", conflicts)
	if conflicts[0]+conflicts[1] == 0 {
		t.Error("no conflicts; the test shows nothing")
	}
}

// Whoever reads all leases learns which server wrote each, over several pages.
func TestEachTellsWhoWrote(t *testing.T) {
	url := database(t, cluster(t))
	one, two := attach(t, open(t, url), "one"), attach(t, open(t, url), "two")
	const leases = page + 100
	for i, s := range []*shared.Store{one, two} { // the second writes half of them again
		var u lease.Update
		for n := range leases >> i {
			u.Put = append(u.Put, leasetest.Lease(n, t0))
		}
		if err := s.Apply(&u); err != nil {
			t.Fatal(err)
		}
		if err := s.Barrier().Wait(); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := one.EachWritten(func(l lease.Lease, ours bool) error {
		if l.Addr != leasetest.Lease(n, t0).Addr || ours != (n >= leases/2) {
			t.Errorf("lease %d: %s, ours %t", n, l.Addr, ours)
		}
		n++
		return nil
	}); err != nil || n != leases {
		t.Errorf("%d leases, %v; want %d", n, err, leases)
	}
}

// What is forgotten is forgotten with what was filed about it alone.
func TestForgetLeavesNothingBehind(t *testing.T) {
	c := cluster(t)
	s := attach(t, open(t, database(t, c)), "one")
	var u lease.Update
	for i := range 50 {
		l := leasetest.Lease(i, t0)
		before := l
		before.Start = t0.Add(-time.Hour)
		if i < 10 {
			l.Epoch += 5
		}
		u.Put, u.Archive = append(u.Put, l), append(u.Archive, before)
		u.Clients = append(u.Clients, lease.ClientList{Client: l.Client, Addrs: []netip.Addr{l.Addr}})
		u.Lists = append(u.Lists, lease.AddressList{Subscriber: l.Subscriber, Addrs: []netip.Addr{l.Addr}})
	}
	if err := s.Apply(&u); err != nil {
		t.Fatal(err)
	}
	if err := s.Barrier().Wait(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for {
		n, err := s.Forget(t.Context(), leasetest.Lease(0, t0).Epoch+1, 7)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if total != 90 {
		t.Errorf("%d leases were removed, want 90", total)
	}
	for table, want := range map[string]string{"gid_leases": "10", "gid_history": "0", "gid_clients": "10", "gid_lists": "10"} {
		if n, err := c.Query("SELECT count(*) FROM "+table, fmt.Sprintf("db%d", databases)); err != nil || n != want {
			t.Errorf("%s has %s rows, %v; want %s", table, n, err, want)
		}
	}
}

// A database that would acknowledge what it has not stored is refused, and one without
// tables where none are to be made.
func TestWhatOpenRefuses(t *testing.T) {
	c := cluster(t)
	url := database(t, c)
	if _, err := Open(t.Context(), Options{URL: url, Create: true}); err == nil || !strings.Contains(err.Error(), "fsync is off") {
		t.Errorf("%v", err)
	}
	p, err := parse(url)
	if err != nil {
		t.Fatal(err)
	}
	p.ConnConfig.Tracer = &spoken
	d, err := connect(t.Context(), p, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.durable(t.Context()); err == nil || !strings.Contains(err.Error(), "fsync is off") {
		t.Errorf("%v", err)
	}
	if err := d.tables(t.Context(), false); err == nil || !strings.Contains(err.Error(), "gidserver database create") {
		t.Errorf("%v", err)
	}
	if err := d.tables(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := c.SQL("UPDATE gid_meta SET value = 2 WHERE name = 'format'", fmt.Sprintf("db%d", databases)); err != nil {
		t.Fatal(err)
	}
	if err := d.tables(t.Context(), true); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("%v", err)
	}
}

// In every table a row is made where there is none, and replaced by who names its revision, or says
// that any will do.
func TestRowsAreReplacedByWhoNamesTheirRevision(t *testing.T) {
	d := open(t, database(t, cluster(t)))
	a, err := d.Attach(t.Context(), "one", keyed(1))
	if err != nil {
		t.Fatal(err)
	}
	l := leasetest.Lease(1, t0)
	seq := int64(0)
	for table := shared.Keys; table <= shared.Accounts; table++ {
		row := shared.Row{Key: shared.Key{Table: table, ID: shared.HistoryKey(&l).ID}, Value: lease.AppendRecord(nil, &l)}
		for i, step := range []struct {
			rev, was int64
			conflict bool
		}{{10, 5, true}, {10, 0, false}, {11, 0, true}, {11, 9, true}, {11, 10, false}, {12, shared.Any, false}, {13, 11, true}} {
			row.Rev, row.Was = step.rev, step.was
			seq++
			err := d.Commit(t.Context(), &shared.Commit{Server: a.Server, Seq: seq, Prev: seq - 1, Rows: []shared.Row{row}})
			if step.conflict && !errors.Is(err, shared.ErrConflict) || !step.conflict && err != nil {
				t.Errorf("%s, step %d: %v; want a conflict: %t", tables[table], i, err, step.conflict)
			}
		}
		if rows, err := d.Get(t.Context(), []shared.Key{row.Key}); err != nil || rows[0].Rev != 12 {
			t.Errorf("%s: %+v, %v; want revision 12", tables[table], rows, err)
		}
	}
}

// A server whose clock is not the database's writes nothing until it is.
func TestAServerWithAnotherTimeIsRefused(t *testing.T) {
	d := open(t, database(t, cluster(t)))
	for i, by := range []time.Duration{time.Minute, -time.Minute} {
		ahead := by
		s, err := shared.New(t.Context(), d, shared.Options{Name: fmt.Sprint(i), Cache: 100, Keys: keyed(1), Timeout: 30 * time.Second, Now: func() time.Time { return time.Now().Add(ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		l := leasetest.Lease(i, t0)
		apply := func() error {
			if err := s.Apply(&lease.Update{Put: []lease.Lease{l}}); err != nil {
				t.Fatal(err)
			}
			m := s.Mark()
			_ = s.Flush(t.Context()) // the mark tells
			return m.Wait()
		}
		if err := apply(); !errors.Is(err, shared.ErrClock) {
			t.Errorf("%s ahead: %v, want ErrClock", by, err)
		}
		if is, wrong := s.Clock(); !wrong || (is-by).Abs() > time.Second {
			t.Errorf("the clock is %s ahead, wrong: %t; want %s", is, wrong, by)
		}
		if _, err := s.Direct().Lease(l.Addr); !errors.Is(err, lease.ErrNotFound) {
			t.Errorf("%s ahead: what was refused: %v", by, err)
		}
		ahead = 0
		if err := s.Follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := apply(); err != nil {
			t.Errorf("when the clock is right: %v", err)
		}
		if got, err := s.Direct().Lease(l.Addr); err != nil || got.Subscriber != l.Subscriber {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// A commit whose answer was lost is not made twice.
func TestACommitIsMadeOnce(t *testing.T) {
	c := cluster(t)
	d := open(t, database(t, c))
	a, err := d.Attach(t.Context(), "one", keyed(1))
	if err != nil {
		t.Fatal(err)
	}
	l := leasetest.Lease(1, t0)
	x := &shared.Commit{Server: a.Server, Seq: 1, Rows: []shared.Row{{Key: shared.LeaseKey(l.Addr), Value: lease.AppendRecord(nil, &l), Rev: 5}}, Changed: []netip.Addr{l.Addr}}
	y := &shared.Commit{Server: a.Server, Seq: 2, Prev: 1, Rows: []shared.Row{{Key: shared.LeaseKey(l.Addr), Value: lease.AppendRecord(nil, &l), Rev: 6, Was: 5}}}
	for _, c := range []*shared.Commit{x, y, x, y} {
		if err := d.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if rows, err := d.Get(t.Context(), []shared.Key{shared.LeaseKey(l.Addr)}); err != nil || rows[0].Rev != 6 {
		t.Errorf("%+v, %v", rows, err)
	}
	if _, err := d.Attach(t.Context(), "two", keyed(2)); !errors.Is(err, shared.ErrKeys) {
		t.Errorf("a server with other keys: %v", err)
	}
	y.Seq = 3
	if err := d.Commit(t.Context(), y); !errors.Is(err, shared.ErrConflict) {
		t.Errorf("%v, want ErrConflict", err)
	}
	if err := d.Commit(t.Context(), &shared.Commit{Server: a.Server, Seq: 3}); err != nil {
		t.Errorf("the number of a commit that was refused: %v", err)
	}
}
