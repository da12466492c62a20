package trace

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"brightgid/idcodec"
	"brightgid/ledgeranchor"
)

const approvalFormat = "gid-approval-2"

// Approval is a trustee's decryption shares for the NIDs of a resolution, sealed
// to the warrant's holder with HPKE (RFC 9180: DHKEM(X25519, HKDF-SHA256),
// HKDF-SHA256, ChaCha20-Poly1305).
type Approval struct {
	ApprovalHead
	Sealed []byte `json:"sealed"` // HPKE: encapsulated key ‖ ciphertext of sealedShares
}

// ApprovalHead is what of an approval everybody may see, and what the ledger's record
// names by its hash.
type ApprovalHead struct {
	Format     string `json:"format"`
	Warrant    string `json:"warrant"`    // its hash
	Resolution string `json:"resolution"` // its hash
	EscrowKey  string `json:"escrow_key"`
	Trustee    string `json:"trustee"`
	Shares     string `json:"shares"` // SHA-256 of what is sealed, hex
}

// Hash names an approval: the SHA-256 of its head as JSON without spaces, keys in
// their order.
func (h *ApprovalHead) Hash() ledgeranchor.Hash {
	b, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings can be encoded
	}
	return sha256.Sum256(b)
}

// sealedShares is what an approval seals.
type sealedShares struct {
	Shares []nidShare `json:"shares"`
}

type nidShare struct {
	NID   string                  `json:"nid"` // SHA-256 of the NID, hex
	Share idcodec.DecryptionShare `json:"share"`
}

func nidName(n idcodec.NID) string {
	sum := sha256.Sum256(n)
	return hex.EncodeToString(sum[:])
}

// info binds what is sealed to its place.
func (h *ApprovalHead) info() []byte {
	return []byte(approvalFormat + "\x00" + h.Warrant + "\x00" + h.Resolution + "\x00" + h.EscrowKey + "\x00" + h.Trustee)
}

// Documents are a warrant and the ISP's answer to it, as they were signed.
type Documents struct {
	Warrant    string
	Resolution string
}

// Open checks both documents at a time, but not that they stand on the ledger.
func (d *Documents) Open(t Trust, at time.Time) (*Warrant, *Resolution, error) {
	w, err := OpenWarrant(d.Warrant, t.Authorities, at)
	if err != nil {
		return nil, nil, err
	}
	r, err := OpenResolution(d.Resolution, t.ISPs, at, d.Warrant, w)
	return w, r, err
}

// opened is what a step rests on: documents that are in order.
type opened struct {
	warrant    *Warrant
	resolution *Resolution
	signers    []*x509.Certificate
	records    [2]ledgeranchor.Hash // of the warrant and the resolution
	nids       []idcodec.NID
}

// open checks the documents, the escrow key that they are about, and that both stand
// on the ledger and are not revoked.
func (p *Party) open(ctx context.Context, d Documents, key *idcodec.EscrowKey) (*opened, error) {
	at := p.Now()
	w, authority, err := openWarrant(d.Warrant, p.Trust.Authorities, at)
	if err != nil {
		return nil, err
	}
	r, isp, err := openResolution(d.Resolution, p.Trust.ISPs, at, d.Warrant, w)
	if err != nil {
		return nil, err
	}
	o := &opened{warrant: w, resolution: r, signers: []*x509.Certificate{authority, isp}, nids: r.nids()}
	ws, err := p.standingWarrant(ctx, d.Warrant, w)
	if err != nil {
		return nil, err
	}
	rs, err := p.standing(ctx, ledgeranchor.KindResolution, documentHash(d.Warrant), documentHash(d.Resolution))
	if err != nil {
		return nil, err
	}
	o.records = [2]ledgeranchor.Hash{ws.Signed.Name(), rs.Signed.Name()}
	if err := p.notRevoked(ctx, d.Warrant, w, authority, isp, p.Self.Certificate); err != nil {
		return nil, err
	}
	if r.EscrowKey != key.ID().String() {
		return nil, fmt.Errorf("%w: the resolution's NIDs are sealed to escrow key %s, and this is %s", ErrCeremony, r.EscrowKey, key.ID())
	}
	if len(o.nids) == 0 {
		return nil, ErrNothing
	}
	return o, nil
}

// each calls f with 0 to n−1, several at once, and tells of the progress. It returns
// the first error by order.
func (p *Party) each(ctx context.Context, n int, f func(i int) error) error {
	errs := make([]error, n)
	next := make(chan int)
	var all sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range min(n, runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for i := range next {
				errs[i] = f(i)
				if p.Progress != nil {
					mu.Lock()
					done++
					p.Progress(done, n)
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Approve checks the documents, which must stand on the ledger, computes the trustee's
// shares for every NID in the resolution, and records the approval.
func (p *Party) Approve(ctx context.Context, d Documents, key *idcodec.EscrowKey, share *idcodec.Share) (*Approval, error) {
	o, err := p.open(ctx, d, key)
	if err != nil {
		return nil, err
	}
	s := sealedShares{Shares: make([]nidShare, len(o.nids))}
	if err := p.each(ctx, len(o.nids), func(i int) error {
		ds, err := share.DecryptShare(p.Rand, key, o.resolution.Realm, o.nids[i])
		if errors.Is(err, idcodec.ErrShare) {
			return fmt.Errorf("%w: %w", ErrCeremony, err)
		}
		if err != nil {
			return fmt.Errorf("%w: NID %d: %w", ErrResolution, i+1, err)
		}
		s.Shares[i] = nidShare{nidName(o.nids[i]), ds}
		return nil
	}); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	sum := sha256.Sum256(plain)
	a := &Approval{ApprovalHead: ApprovalHead{
		Format: approvalFormat, Warrant: Hash(d.Warrant), Resolution: Hash(d.Resolution),
		EscrowKey: o.resolution.EscrowKey, Trustee: share.Name(), Shares: hex.EncodeToString(sum[:]),
	}}
	pub, err := ecdh.X25519().NewPublicKey(o.warrant.Holder.SealTo)
	if err != nil {
		return nil, err
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if a.Sealed, err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), a.info(), plain); err != nil {
		return nil, err
	}
	hash := a.Hash()
	_, err = p.record(ctx, &ledgeranchor.Record{
		Kind: ledgeranchor.KindApproval, Warrant: documentHash(d.Warrant), Refs: o.records[:], Body: hash[:]})
	return a, err
}

// ParseApproval reads an approval's JSON.
func ParseApproval(text []byte) (*Approval, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("approval: %d bytes are too many", len(text))
	}
	var a Approval
	if err := decodeStrict(text, &a); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	if a.Format != approvalFormat {
		return nil, fmt.Errorf("approval: format %q: want %q", a.Format, approvalFormat)
	}
	return &a, nil
}

// unseal opens an approval with the holder's key.
func (a *Approval) unseal(holder *ecdh.PrivateKey) ([]byte, error) {
	k, err := hpke.NewDHKEMPrivateKey(holder)
	if err != nil {
		return nil, err
	}
	plain, err := hpke.Open(k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), a.info(), a.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not sealed to this holder, or was changed", ErrApproval)
	}
	return plain, nil
}

// shares reads what was sealed, and holds it against the head.
func (h *ApprovalHead) shares(plain []byte) (map[string]idcodec.DecryptionShare, error) {
	if sum := sha256.Sum256(plain); hex.EncodeToString(sum[:]) != h.Shares {
		return nil, fmt.Errorf("%w: its shares are not those that it is committed to", ErrApproval)
	}
	var s sealedShares
	if err := decodeStrict(plain, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrApproval, err)
	}
	out := make(map[string]idcodec.DecryptionShare)
	for _, x := range s.Shares {
		out[x.NID] = x.Share
	}
	return out, nil
}

// check holds an approval's head against what it should be for.
func (h *ApprovalHead) check(d Documents, key *idcodec.EscrowKey) error {
	switch {
	case h.Warrant != Hash(d.Warrant):
		return fmt.Errorf("%w: the warrant %.16s…, and this is %.16s…", ErrReplayed, h.Warrant, Hash(d.Warrant))
	case h.Resolution != Hash(d.Resolution):
		return fmt.Errorf("%w: the resolution %.16s…, and this is %.16s…", ErrReplayed, h.Resolution, Hash(d.Resolution))
	case h.EscrowKey != key.ID().String():
		return fmt.Errorf("%w: escrow key %s, and this is %s", ErrCeremony, h.EscrowKey, key.ID())
	}
	for _, t := range key.Trustees() {
		if t.Name == h.Trustee {
			return nil
		}
	}
	return fmt.Errorf("%w: the escrow key knows no trustee %q", ErrCeremony, h.Trustee)
}

// opening is an NID of the resolution, to which trustees' shares are added.
type opening struct {
	name string
	*idcodec.Opening
}

// openings checks all NIDs.
func (p *Party) openings(ctx context.Context, o *opened, key *idcodec.EscrowKey) ([]opening, error) {
	out := make([]opening, len(o.nids))
	return out, p.each(ctx, len(o.nids), func(i int) error {
		n, err := key.Opening(o.resolution.Realm, o.nids[i])
		if err != nil {
			return fmt.Errorf("%w: NID %d: %w", ErrResolution, i+1, err)
		}
		out[i] = opening{nidName(o.nids[i]), n}
		return nil
	})
}

// add checks a trustee's shares, of which there must be one for each NID, and adds them.
func (p *Party) add(ctx context.Context, nids []opening, h *ApprovalHead, shares map[string]idcodec.DecryptionShare) error {
	return p.each(ctx, len(nids), func(i int) error {
		share, ok := shares[nids[i].name]
		if !ok {
			return fmt.Errorf("%w: it holds no share for the NID %.16s…", ErrApproval, nids[i].name)
		}
		trustee, err := nids[i].Add(share)
		if err != nil {
			return err
		}
		if trustee.Name != h.Trustee {
			return fmt.Errorf("%w: its shares are those of %q", ErrApproval, trustee.Name)
		}
		return nil
	})
}

// stamp is a time as it stands in documents.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
