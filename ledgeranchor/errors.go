package ledgeranchor

import "errors"

// Errors about a message's journey, on ledgers that follow it.
var (
	ErrOrder   = errors.New("the hop comes before the message's request")
	ErrContent = errors.New("the message's content is another than at its request")
)

// ErrForeign says that a record was brought by another organization than its
// author's.
var ErrForeign = errors.New("the record's author is of another organization")

// codes name the errors where they cross a network.
var codes = []struct {
	code string
	err  error
}{
	{"malformed", ErrMalformed}, {"oversized", ErrOversized}, {"future", ErrFuture}, {"signature", ErrSignature}, {"foreign", ErrForeign},
	{"author", ErrAuthor}, {"role", ErrRole}, {"order", ErrOrder}, {"content", ErrContent}, {"not-found", ErrNotFound},
}

// ErrorCode returns the code of an error about a record; "" for others.
func ErrorCode(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return ""
}

// ErrorOf returns the error of a code; nil for an unknown one.
func ErrorOf(code string) error {
	for _, c := range codes {
		if c.code == code {
			return c.err
		}
	}
	return nil
}
