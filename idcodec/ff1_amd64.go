//go:build !purego

package idcodec

import (
	"math/bits"

	"golang.org/x/sys/cpu"
)

// hasRounds says that this processor can run the assembly.
var hasRounds = cpu.X86.HasAES && cpu.X86.HasSSE41

// roundKeys is the expanded AES-256 key of the assembly.
type roundKeys [240]byte

// expandKey is FIPS 197's key expansion.
//
//go:noescape
func expandKey(xk *[240]byte, key *[32]byte)

// encryptRounds runs FF1's rounds 0 to 9 on x = A ‖ B. q0 and q1 are Q ⊕ AES(P)
// for round 0 and B = 0, as they lie in memory.
//
//go:noescape
func encryptRounds(xk *[240]byte, q0, q1, x uint64) uint64

// decryptRounds undoes encryptRounds.
//
//go:noescape
func decryptRounds(xk *[240]byte, q0, q1, x uint64) uint64

func (xk *roundKeys) expand(key *[KeyLen]byte) {
	if hasRounds {
		expandKey((*[240]byte)(xk), key)
	}
}

func (k *EpochKey) permute(p Prefix, x uint64) uint64 {
	if !hasRounds {
		return k.permuteGo(p, x)
	}
	hi, lo := k.q(p)
	return encryptRounds((*[240]byte)(&k.xk), bits.ReverseBytes64(hi), bits.ReverseBytes64(lo), x)
}

func (k *EpochKey) unpermute(p Prefix, x uint64) uint64 {
	if !hasRounds {
		return k.unpermuteGo(p, x)
	}
	hi, lo := k.q(p)
	return decryptRounds((*[240]byte)(&k.xk), bits.ReverseBytes64(hi), bits.ReverseBytes64(lo), x)
}
