package main

import (
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// The control socket's description has the paths that are served and the fields that are
// told.
func TestTheControlSocketIsAsDescribed(t *testing.T) {
	b, err := os.ReadFile("../../docs/control-api.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, v := range []any{statusView{}, leaseView{}} {
		typ := reflect.TypeOf(v)
		schema := strings.TrimSuffix(typ.Name(), "View")
		_, body, ok := strings.Cut(text, "\n    "+strings.ToUpper(schema[:1])+schema[1:]+":\n")
		if !ok {
			t.Fatalf("no schema of %s", schema)
		}
		body = regexp.MustCompile(`(?m)^    \S`).Split(body, 2)[0]
		described := make(map[string]bool)
		for _, m := range regexp.MustCompile(`(?m)^        ([a-z_]+): \{`).FindAllStringSubmatch(body, -1) {
			described[m[1]] = true
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !described[name] {
				t.Errorf("%s.%s is not described", schema, name)
			}
			delete(described, name)
		}
		if len(described) > 0 {
			t.Errorf("%s has no %v", schema, described)
		}
	}
	mux := controlHandler(&running{}, nil)
	for _, m := range regexp.MustCompile(`(?m)^  (/\S+):\n    (get|post):`).FindAllStringSubmatch(text, -1) {
		other := "PUT" // a path that is served says that it is not served so
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(other, m[1], nil))
		if w.Code != 405 || !strings.Contains(w.Header().Get("Allow"), strings.ToUpper(m[2])) {
			t.Errorf("%s %s is described: %d, %q", m[2], m[1], w.Code, w.Header().Get("Allow"))
		}
	}
}
