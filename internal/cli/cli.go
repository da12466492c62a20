// Package cli is what the project's command lines have in common: they leave no
// core files, end on signals, print an error once, and tell by their exit status
// whether something failed (1, or what the program says) or was asked for wrongly (2).
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"brightgid/internal/harden"
)

// ErrQuiet ends a program with status 1 when everything was said already.
var ErrQuiet = errors.New("")

// UsageError is a command line that makes no sense.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef returns a [UsageError].
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// Main runs a command and ends the program. The command's context ends with
// SIGINT or SIGTERM.
func Main(root *cobra.Command) { MainWith(root, func(error) int { return 1 }) }

// MainWith is Main for a program whose exit status tells failures apart: code returns
// that of an error.
func MainWith(root *cobra.Command, code func(error) int) {
	os.Exit(run(root, code))
}

func run(root *cobra.Command, code func(error) int) int {
	fail := func(err error) { fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), err) }
	if err := harden.Process(); err != nil {
		fail(err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root.SilenceUsage = true
	root.SilenceErrors = true
	started := false
	watch(root, &started)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrQuiet):
		return 1
	}
	fail(err)
	if !started || errors.As(err, new(UsageError)) {
		fmt.Fprintf(os.Stderr, "Try \"%s --help\".\n", root.Name())
		return 2
	}
	return code(err)
}

// watch notes when a command's own work begins: an error before that is cobra's,
// about the command line.
func watch(c *cobra.Command, started *bool) {
	if f := c.RunE; f != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			*started = true
			return f(c, args)
		}
	}
	for _, sub := range c.Commands() {
		watch(sub, started)
	}
}

// Require marks flags that must be given.
func Require(c *cobra.Command, names ...string) {
	for _, n := range names {
		if err := c.MarkFlagRequired(n); err != nil {
			panic(err) // no such flag: a mistake in the program
		}
	}
}

// ParseTime reads RFC 3339 or unix seconds.
func ParseTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: want RFC 3339 (2026-05-01T12:00:00Z) or unix seconds", s)
	}
	return t.UTC(), nil
}
