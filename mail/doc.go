// Package mail makes each relay accountable for the messages that it passes on: the hop
// chain that travels in a message's header, and what of it stands on the ledger.
//
// The first relay writes Bright-Source, which tells the GID that the message came from
// ([Source]). It and each relay after it write Bright-Hop ([Hop]): a temporal proof
// (l, e, o, n) of a logical clock, the hash of the content, the relay and the next one,
// with a signature over all that stands before it. The clock is Lamport's: who claims an
// order that contradicts another hop's signed clock is provably wrong.
//
// Each hop has a record on the ledger, which rests on the record of the hop before. The
// ledger holds no address of a mailbox and no Message-ID, but tags that whoever has the
// message can make from its salt.
//
// The package does no input or output.
package mail
