//go:build e2e

package sqlstore

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// statements has every statement that a database is sent, in alphabetical order, an empty line between
// two. Package cockroach has CockroachDB's parser read it, since the database itself does not run here.
const statements = "testdata/statements.sql"

var update = flag.Bool("update", false, "write "+statements)

// spoken is what the tests had databases execute.
var spoken said

type said struct {
	mu  sync.Mutex
	all map[string]bool
}

func (s *said) add(sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]bool)
	}
	if sql != Schema {
		s.all[strings.Join(strings.Fields(sql), " ")] = true
	}
}

func (s *said) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	s.add(q.SQL)
	return ctx
}

func (s *said) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *said) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	for _, q := range b.Batch.QueuedQueries {
		s.add(q.SQL)
	}
	return ctx
}

func (s *said) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (s *said) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// compare holds what was said against the file, which must have no more if all tests ran.
func (s *said) compare(all bool) error {
	is := slices.Sorted(maps.Keys(s.all))
	switch {
	case *update && !all:
		return fmt.Errorf("%s is of all tests: -update goes without -run and -skip", statements)
	case *update:
		return os.WriteFile(statements, []byte(strings.Join(is, ";\n\n")+";\n"), 0o644)
	}
	b, err := os.ReadFile(statements)
	if err != nil {
		return err
	}
	known := strings.Split(strings.TrimSuffix(string(b), ";\n"), ";\n\n")
	for _, sql := range is {
		if !slices.Contains(known, sql) {
			return fmt.Errorf("%s lacks a statement; go test -tags e2e -update writes it: %s", statements, sql)
		}
	}
	for _, sql := range known {
		if all && !s.all[sql] {
			return fmt.Errorf("%s has a statement that no test sent: %s", statements, sql)
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	is := func(name string) bool { return flag.Lookup("test."+name).Value.String() != "" }
	if all := !is("run") && !is("skip") && !is("list"); code == 0 {
		if err := spoken.compare(all); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
