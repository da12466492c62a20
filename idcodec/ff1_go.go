//go:build !amd64 || purego

package idcodec

// roundKeys is nothing where there is no assembly.
type roundKeys struct{}

func (*roundKeys) expand(*[KeyLen]byte) {}

func (k *EpochKey) permute(p Prefix, x uint64) uint64   { return k.permuteGo(p, x) }
func (k *EpochKey) unpermute(p Prefix, x uint64) uint64 { return k.unpermuteGo(p, x) }
