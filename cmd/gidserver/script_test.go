package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gidserver": main})
}

// The scripts use the command as a user does.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("KEY", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command waits a second for races at its end
			return nil
		},
	})
}
