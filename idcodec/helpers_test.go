package idcodec

import (
	"encoding/hex"
	"math/rand/v2"
	"time"
)

func hexString(b []byte) string { return hex.EncodeToString(b) }

// seeded is a deterministic source of randomness for tests.
func seeded(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func nanosPer(n int, f func()) float64 {
	start := time.Now()
	f()
	return float64(time.Since(start).Nanoseconds()) / float64(n)
}
