//go:build !purego && (amd64 || arm64)

package arena

import "unsafe"

// fetch has the processor fetch the lines of n pointers, the first of which is given. Loads would
// do so as well, but a processor can have only few of them open behind which other work is done.
//
//go:noescape
func fetch(first *unsafe.Pointer, n int)
