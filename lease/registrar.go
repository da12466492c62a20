package lease

import (
	"fmt"
	"time"

	"brightgid/idcodec"
)

// Registrar turns identities into subscriber numbers. It is where an EID ends:
// what it files is a lookup key and an NID. It is not safe for concurrent use.
type Registrar struct {
	store  Store
	hasher *idcodec.LookupHasher
	sealer Sealer
}

// Sealer seals EIDs to the escrow key with the realm as label; *idcodec.Sealer does.
type Sealer interface {
	Seal(eid idcodec.EID) (idcodec.NID, error)
}

// NewRegistrar returns a registrar that finds subscribers under a registry key
// and has new ones sealed.
func NewRegistrar(store Store, key [idcodec.RegistryKeyLen]byte, sealer Sealer) *Registrar {
	return &Registrar{store, idcodec.NewLookupHasher(key), sealer}
}

// Key returns the lookup key of an EID.
func (r *Registrar) Key(eid idcodec.EID) idcodec.LookupKey { return r.hasher.Key(eid) }

// OpaqueKey returns the lookup key of the EID that o makes, without making it.
func (r *Registrar) OpaqueKey(o idcodec.Opaque) idcodec.LookupKey { return r.hasher.OpaqueKey(o) }

// Lookup returns the subscriber number of a lookup key, or [ErrNotFound].
func (r *Registrar) Lookup(key idcodec.LookupKey) (uint64, error) { return r.store.Lookup(key) }

// Register seals an EID, whose lookup key the caller has from [Registrar.Key] and has not found,
// and returns the number of the new subscriber; or that of an old one, if it has become known since.
func (r *Registrar) Register(now time.Time, key idcodec.LookupKey, eid idcodec.EID) (uint64, error) {
	nid, err := r.sealer.Seal(eid)
	if err != nil {
		return 0, fmt.Errorf("sealing an NID: %w", err)
	}
	return r.store.Register(key, nid, now)
}

// RegisterSealed is Register for an identity that was sealed before.
func (r *Registrar) RegisterSealed(now time.Time, key idcodec.LookupKey, nid idcodec.NID) (uint64, error) {
	return r.store.Register(key, nid, now)
}
