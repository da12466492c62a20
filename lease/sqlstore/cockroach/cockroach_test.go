// Package cockroach has CockroachDB's own parser read what package sqlstore says to databases. Newer
// versions of the database are not under an open licence, but its parser is. It brings much with it,
// so that this is a module of its own.
package cockroach

import (
	"os"
	"testing"

	"github.com/cockroachdb/cockroachdb-parser/pkg/sql/parser"
	"github.com/cockroachdb/cockroachdb-parser/pkg/sql/sem/tree"
)

func TestCockroachDBReadsEveryStatement(t *testing.T) {
	for file, least := range map[string]int{"../schema.sql": 13, "../testdata/statements.sql": 40} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all, err := parser.Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(all) < least {
			t.Errorf("%s: %d statements, want %d and more", file, len(all), least)
		}
		for _, s := range all {
			if table, ok := s.AST.(*tree.CreateTable); ok {
				for _, d := range table.Defs {
					if c, ok := d.(*tree.ColumnTableDef); ok && c.IsSerial {
						t.Errorf("%s: the column %s counts by itself", table.Table.String(), c.Name)
					}
				}
			}
		}
	}
}

// What PostgreSQL alone understands is refused, so that the test above says something.
func TestCockroachDBRefuses(t *testing.T) {
	for _, sql := range []string{
		"LOCK TABLE gid_leases",
		"CREATE TABLE t (id bigint) INHERITS (gid_leases)",
		"CREATE RULE r AS ON INSERT TO gid_leases DO NOTHING",
	} {
		if _, err := parser.Parse(sql); err == nil {
			t.Errorf("%s is taken", sql)
		}
	}
}
