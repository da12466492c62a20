// Package sava is source address validation (RFC 7039) at an access device: a
// [Table] of bindings and a [Filter] that judges frames by them.
//
// The filter looks at the outer IPv6 header and whatever extension headers
// follow it. It judges what comes in from an access port; ports towards other
// validating devices or the network are trusted and not judged (RFC 7039 §4).
// It reads no clock and does no input or output.
package sava
