//go:build e2e

package pebblestore

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"brightgid/internal/powercut"
)

// The power goes in the midst of writing, while the log is cut and given to Pebble every few milliseconds:
// everything that a Wait answered for is there, and nothing half.
func TestPowerCutsLoseNothing(t *testing.T) {
	opened := 0
	powercut.Run(t, 20, powercut.Writer{
		Start: func(dir string) *exec.Cmd {
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), crashDir+"="+dir, crashAcked+"=0")
			return c
		},
		Check: func(t *testing.T, dir string, lines []string) {
			acked, err := strconv.ParseUint(lines[len(lines)-1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			opened++
			s, err := Open(dir, Options{ReadOnly: opened%2 == 0})
			if err != nil {
				t.Fatal(err)
			}
			holds(t, s, acked)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		},
	})
}
