package lease

import (
	"errors"
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

// Number returns the subscriber number of an EID, whose lookup key the caller has from
// [Registrar.Key], and registers a new one.
func (r *Registrar) Number(now time.Time, key idcodec.LookupKey, eid idcodec.EID) (uint64, error) {
	n, err := r.store.Lookup(key)
	if !errors.Is(err, ErrNotFound) {
		return n, err
	}
	nid, err := r.sealer.Seal(eid)
	if err != nil {
		return 0, fmt.Errorf("sealing an NID: %w", err)
	}
	return r.store.Register(key, nid, now)
}

// SealedNumber is Number for an identity that was sealed before; see [Registrar.Seal].
func (r *Registrar) SealedNumber(now time.Time, key idcodec.LookupKey, nid idcodec.NID) (uint64, error) {
	n, err := r.store.Lookup(key)
	if !errors.Is(err, ErrNotFound) {
		return n, err
	}
	return r.store.Register(key, nid, now)
}
