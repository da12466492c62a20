package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"brightgid/idcodec"
	"brightgid/trace"
)

// The manual tells every exit status, and every refusal of trace has one of its own.
func TestExitStatuses(t *testing.T) {
	manual, err := os.ReadFile("../../docs/man/tracectl.1")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(manual), ".SH EXIT STATUS")
	if !ok {
		t.Fatal("the manual has no exit statuses")
	}
	for _, c := range codes {
		if !strings.Contains(section, fmt.Sprintf("\n.TP\n%d\n", c.code)) {
			t.Errorf("status %d (%v) is not in the manual", c.code, c.err)
		}
		if got := exitCode(fmt.Errorf("doing this: %w", c.err)); got != c.code {
			t.Errorf("%v ends with %d, want %d", c.err, got, c.code)
		}
	}
	for err, want := range map[error]int{
		trace.ErrReport: 17, &idcodec.WrongShareError{}: 13, os.ErrNotExist: 1,
		// What is more telling goes first.
		fmt.Errorf("%w: %w", trace.ErrWarrant, trace.ErrScope):                             7,
		fmt.Errorf("%w: %w", trace.ErrReport, trace.ErrSignature):                          17,
		&trace.ApprovalError{Trustee: "x", Err: fmt.Errorf("x: %w", trace.ErrNotOnLedger)}: 3,
		&trace.ApprovalError{Trustee: "x", Err: &idcodec.WrongShareError{Name: "x"}}:       13,
		&trace.NotOnLedgerError{Kind: "warrant"}:                                           3,
		fmt.Errorf("%w: %w", trace.ErrCeremony, idcodec.ErrShare):                          11,
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v ends with %d, want %d", err, got, want)
		}
	}
}
