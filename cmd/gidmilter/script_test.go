package main

import (
	"os"
	"testing"
	"time"

	"crypto/rand"

	"github.com/rogpeppe/go-internal/testscript"

	"brightgid/internal/identityfile"
	"brightgid/trace"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gidmilter": main})
}

// The scripts use the command as a user does.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command waits a second for races at its end
			id, err := trace.NewIdentity(rand.Reader, trace.Subject{Name: "mx.example", Roles: []string{"relay"}}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			if err != nil {
				return err
			}
			if err := identityfile.Create(e.WorkDir+"/relay", id); err != nil {
				return err
			}
			return os.WriteFile(e.WorkDir+"/relays.pem", id.MarshalCertificate(), 0o644)
		},
	})
}
