// Package harden keeps a process's memory, which holds identities and keys, from
// being written to a core file or read by a debugger of the same user.
package harden

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Process forbids core dumps (RLIMIT_CORE) and makes the process not dumpable
// (PR_SET_DUMPABLE), for itself and what it starts.
func Process() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	return nil
}
