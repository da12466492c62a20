//go:build !purego && (amd64 || arm64)

package arena

import "unsafe"

// fetch has the processor fetch a line. A load would do so as well, but a processor can have only
// few loads open behind which other work is done; this it may forget at once.
//
//go:noescape
func fetch(p unsafe.Pointer)
