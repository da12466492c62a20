package trace

import (
	"errors"
	"fmt"

	"brightgid/idcodec"
	"brightgid/ledgeranchor"
)

// What a step is refused for. Every refusal wraps one of these.
var (
	// ErrWarrant says that a warrant's content is not sound.
	ErrWarrant = errors.New("the warrant does not stand")

	// ErrExpired says that a warrant is not in force: any more, or yet.
	ErrExpired = errors.New("the warrant is not in force")

	// ErrScope says that a warrant is addressed to somebody else, or wants more
	// than a warrant can.
	ErrScope = errors.New("the warrant does not reach so far")

	// ErrRevoked says that a warrant, or a certificate that signed a document,
	// has been revoked on the ledger.
	ErrRevoked = errors.New("revoked")

	// ErrSignature says that a document is not signed, or not by one who is
	// trusted for it.
	ErrSignature = errors.New("signature refused")

	// ErrNotOnLedger says that what a step rests on does not stand on the ledger.
	ErrNotOnLedger = errors.New("it does not stand on the ledger")

	// ErrResolution says that a resolution does not answer the warrant, or not as
	// it should.
	ErrResolution = errors.New("the resolution does not answer the warrant")

	// ErrHolder says that the warrant is another holder's.
	ErrHolder = errors.New("the warrant is not this holder's")

	// ErrApproval says that an approval was changed, or is not sealed to the holder.
	ErrApproval = errors.New("the approval cannot be used")

	// ErrReplayed says that an approval was made for another warrant or resolution,
	// or is given twice.
	ErrReplayed = errors.New("the approval was made for something else")

	// ErrCeremony says that a share, or an approval made with one, comes from
	// another ceremony than the escrow key.
	ErrCeremony = errors.New("it comes from another ceremony")

	// ErrNothing says that a resolution found nobody, so that there is nothing to
	// approve or to recover.
	ErrNothing = errors.New("the resolution names no subscriber")

	// ErrSealed says that a warrant may not be published yet.
	ErrSealed = errors.New("the warrant is sealed")

	// ErrReport says that a report does not hold.
	ErrReport = errors.New("the report does not hold")
)

// NotOnLedgerError tells which document has no record.
type NotOnLedgerError struct {
	Kind ledgeranchor.Kind
	Hash ledgeranchor.Hash // of the document
	Why  string            // what its record says otherwise; empty for no record
}

func (e *NotOnLedgerError) Error() string {
	if e.Why != "" {
		return fmt.Sprintf("the %s %.16s… stands on the ledger with other terms: %s", e.Kind, e.Hash, e.Why)
	}
	return fmt.Sprintf("the %s %.16s… does not stand on the ledger; it is to be recorded first", e.Kind, e.Hash)
}

func (e *NotOnLedgerError) Unwrap() error { return ErrNotOnLedger }

// ApprovalError names a trustee whose approval cannot be used.
type ApprovalError struct {
	Trustee string
	Err     error
}

func (e *ApprovalError) Error() string {
	return fmt.Sprintf("approval of trustee %q: %v", e.Trustee, e.Err)
}

func (e *ApprovalError) Unwrap() error { return e.Err }

// ErrTooFewApprovals says that fewer trustees than the threshold have approved.
var ErrTooFewApprovals = idcodec.ErrTooFewShares
