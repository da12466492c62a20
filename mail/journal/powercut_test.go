//go:build e2e

package journal

import (
	"os"
	"os/exec"
	"testing"

	"brightgid/internal/powercut"
)

// The power goes in the midst of writing: every entry that was acknowledged is there, under its number.
func TestPowerCutsLoseNothing(t *testing.T) {
	powercut.Run(t, 20, powercut.Writer{
		Start: func(dir string) *exec.Cmd {
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), writerDir+"="+dir)
			return c
		},
		Check: func(t *testing.T, dir string, lines []string) {
			acked := make(map[uint64]string)
			for _, line := range lines {
				n, text, ok := told(line)
				if !ok {
					t.Fatalf("the writer says %q", line)
				}
				acked[n] = text
			}
			holds(t, dir, acked)
		},
	})
}
