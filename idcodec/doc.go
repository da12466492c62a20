// Package idcodec turns identities into addresses and back.
//
// Three names follow one another, after Jun Li's design for a Bright Internet:
//
//   - an [EID] is the identity that a subscriber authenticated with;
//   - an [NID] is the EID encrypted to the trustees' joint [EscrowKey], so that
//     only a threshold of them can open it;
//   - a [GID] is the 64-bit interface identifier of a leased address. It hides
//     the subscriber number that the NID is filed under, the slot and a check,
//     permuted with the [EpochKey] of the day and the /64 prefix.
//
// The package is pure: it reads no clock, opens no file and takes randomness
// from an [io.Reader]. It imports nothing of this project. The formats are
// specified in docs/formats.md, with vectors in testdata/ that other
// implementations can use.
package idcodec
