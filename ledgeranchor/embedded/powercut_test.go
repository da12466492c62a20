//go:build e2e

package embedded

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"brightgid/internal/powercut"
	"brightgid/ledgeranchor/ledgertest"
)

// The power goes in the midst of appending: what was acknowledged is there, everything is there once, and the
// log is whole.
func TestPowerCutsLoseNothing(t *testing.T) {
	author := filepath.Join(t.TempDir(), "author.pem")
	powercut.Run(t, 12, powercut.Writer{
		Prepare: func(t *testing.T, dir string) {
			c := ledgertest.NewCast(t)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := Create(dir, origin, []*x509.Certificate{c.Root}); err != nil {
				t.Fatal(err)
			}
			introduce(t, dir, c)
			ledgertest.WriteAuthor(t, author, c.Relay)
		},
		Start: func(dir string) *exec.Cmd {
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), writerDir+"="+dir, writerPEM+"="+author, writerFrom+"=0")
			return c
		},
		Check: func(t *testing.T, dir string, lines []string) {
			acked, err := strconv.Atoi(lines[len(lines)-1])
			if err != nil {
				t.Fatal(err)
			}
			holds(t, dir, acked)
		},
	})
}
