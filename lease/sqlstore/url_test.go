package sqlstore

import (
	"strings"
	"testing"
)

func TestWhatAURLMaySay(t *testing.T) {
	for _, c := range []struct{ url, wrong string }{
		{"postgres://gid@[::1]/gid", ""},
		{"postgres://gid@/gid?host=/run/postgresql", ""},
		{"host=::1,::1 port=1,2 user=gid target_session_attrs=read-write", ""},
		{"postgres://gid@db.isp.example,db2.isp.example/gid?sslmode=verify-full&target_session_attrs=read-write", ""},
		{"postgres://gid@db.isp.example/gid?sslmode=disable", "would not be encrypted"},
		{"postgres://gid@db.isp.example/gid", "say sslmode=verify-full"}, // libpq's default takes what it gets
		{"postgres://gid@db.isp.example/gid?sslmode=require", "anybody could answer"},
		{"postgres://gid@db.isp.example/gid?sslmode=verify-ca", ""},
		{"postgres://gid:canary@[::1]/gid", "holds a password"},
		{"postgres://gid@[::1]/gid?password=canary", "holds a password"},
		{"user=gid password=canary", "holds a password"},
		{"mysql://canary", "want postgres://"},
		{"postgres://gid:canary@[::1]:x/gid", "want postgres://"},
	} {
		err := Check(c.url)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.url, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v, want %q", c.url, err, c.wrong)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error repeats it: %v", c.url, err)
		}
	}
}
