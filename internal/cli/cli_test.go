package cli

import (
	"errors"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		err  error
		want int
	}{
		{"success", []string{"do", "--must", "x"}, nil, 0},
		{"a failure", []string{"do", "--must", "x"}, errors.New("failed"), 1},
		{"one that was told of", []string{"do", "--must", "x"}, ErrQuiet, 1},
		{"a value that makes no sense", []string{"do", "--must", "x"}, Usagef("no"), 2},
		{"a missing flag", []string{"do"}, nil, 2},
		{"an unknown flag", []string{"do", "--x"}, nil, 2},
		{"an unknown command", []string{"dont"}, nil, 2},
	} {
		root := &cobra.Command{Use: "test"}
		do := &cobra.Command{Use: "do", RunE: func(*cobra.Command, []string) error { return c.err }}
		do.Flags().String("must", "", "")
		Require(do, "must")
		root.AddCommand(do)
		root.SetArgs(c.args)
		if got := run(root, func(error) int { return 1 }); got != c.want {
			t.Errorf("%s: exit status %d, want %d", c.name, got, c.want)
		}
	}
}
