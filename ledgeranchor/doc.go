// Package ledgeranchor holds the records by which relays, authorities, ISPs and
// trustees account for what they did, and the ledger that keeps them.
//
// A [Record] is deterministic CBOR (RFC 8949 §4.2.1) and is named by its SHA-256. A
// [Signed] record carries its author's signature, which one batch of records may
// share. [Members] knows whose signature counts for what. A [Ledger] takes records
// that members signed, gives each a place once and for all, and proves it.
//
// The ledgers are in packages of their own: embedded is a transparency log on this
// machine's disk.
package ledgeranchor
