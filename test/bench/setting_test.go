//go:build e2e

package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

const settingEnv = "GID_BENCH_SETTING"

// A setting of the kernel is what it was before, also after a benchmark that was told to end.
func TestSettingsAreRestored(t *testing.T) {
	if path := os.Getenv(settingEnv); path != "" { // started by the test below
		t.Fatal(withSetting(path, "2", func() {
			fmt.Println("changed")
			select {}
		}))
	}
	path := filepath.Join(t.TempDir(), "setting")
	is := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("the setting is %q, %v, want %q", got, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := withSetting(path, "2", func() { is("2") }); err != nil {
		t.Error(err)
	}
	is("1\n")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		c := exec.Command(os.Args[0], "-test.run=^TestSettingsAreRestored$")
		c.Env = append(os.Environ(), settingEnv+"="+path, pinnedEnv+"="+t.TempDir())
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "changed\n" {
			t.Errorf("it says %q, %v", line, err)
		}
		is("2")
		if err := c.Process.Signal(s); err != nil {
			t.Error(err)
		}
		_ = c.Wait()
		if state, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || state.Signal() != s {
			t.Errorf("it ended by %s, want %s", c.ProcessState, s)
		}
		is("1\n")
	}
}
