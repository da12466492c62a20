package trace

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"brightgid/idcodec"
)

const approvalFormat = "gid-approval-1"

// Approval is a trustee's decryption shares for the NIDs of a resolution, sealed
// to the warrant's holder with HPKE (RFC 9180: DHKEM(X25519, HKDF-SHA256),
// HKDF-SHA256, ChaCha20-Poly1305).
type Approval struct {
	Format     string `json:"format"`
	Warrant    string `json:"warrant"`    // its hash
	Resolution string `json:"resolution"` // its hash
	EscrowKey  string `json:"escrow_key"`
	Trustee    string `json:"trustee"`
	Sealed     []byte `json:"sealed"` // HPKE: encapsulated key ‖ ciphertext of sealedShares
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
func (a *Approval) info() []byte {
	return []byte(approvalFormat + "\x00" + a.Warrant + "\x00" + a.Resolution + "\x00" + a.EscrowKey + "\x00" + a.Trustee)
}

// Trust is whose signatures count.
type Trust struct {
	Authorities []*x509.Certificate // sign warrants
	ISPs        []*x509.Certificate // sign resolutions
}

// Documents are a warrant and the ISP's answer to it, as they were signed.
type Documents struct {
	Warrant    string
	Resolution string
}

// Open checks both documents at a time.
func (d *Documents) Open(t Trust, at time.Time) (*Warrant, *Resolution, error) {
	w, err := OpenWarrant(d.Warrant, t.Authorities, at)
	if err != nil {
		return nil, nil, err
	}
	r, err := OpenResolution(d.Resolution, t.ISPs, at, d.Warrant, w)
	if err != nil {
		return nil, nil, err
	}
	return w, r, nil
}

// ErrNothing says that a resolution found nobody, so that there is nothing to
// approve or to recover.
var ErrNothing = errors.New("the resolution names no subscriber")

// Approve checks the documents and computes the trustee's shares for every NID
// in the resolution. progress, if not nil, is called after each.
func Approve(rand io.Reader, at time.Time, d Documents, t Trust, key *idcodec.EscrowKey, share *idcodec.Share, progress func(done, of int)) (*Approval, error) {
	w, r, err := d.Open(t, at)
	if err != nil {
		return nil, err
	}
	if r.EscrowKey != key.ID().String() {
		return nil, fmt.Errorf("resolution: its NIDs are sealed to escrow key %s, not to %s", r.EscrowKey, key.ID())
	}
	nids := r.nids()
	if len(nids) == 0 {
		return nil, ErrNothing
	}
	a := &Approval{
		Format: approvalFormat, Warrant: Hash(d.Warrant), Resolution: Hash(d.Resolution),
		EscrowKey: r.EscrowKey, Trustee: share.Name(),
	}
	var s sealedShares
	for i, n := range nids {
		ds, err := share.DecryptShare(rand, key, r.Realm, n)
		if err != nil {
			return nil, fmt.Errorf("NID %d: %w", i+1, err)
		}
		s.Shares = append(s.Shares, nidShare{nidName(n), ds})
		if progress != nil {
			progress(i+1, len(nids))
		}
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	pub, err := ecdh.X25519().NewPublicKey(w.Holder.SealTo)
	if err != nil {
		return nil, err
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, err
	}
	a.Sealed, err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), a.info(), plain)
	clear(plain)
	if err != nil {
		return nil, err
	}
	return a, nil
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

// shares opens an approval with the holder's key.
func (a *Approval) shares(holder *ecdh.PrivateKey) (map[string]idcodec.DecryptionShare, error) {
	k, err := hpke.NewDHKEMPrivateKey(holder)
	if err != nil {
		return nil, err
	}
	plain, err := hpke.Open(k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), a.info(), a.Sealed)
	if err != nil {
		return nil, fmt.Errorf("approval of %q: it is not sealed to this holder, or was changed", a.Trustee)
	}
	defer clear(plain)
	var s sealedShares
	if err := decodeStrict(plain, &s); err != nil {
		return nil, fmt.Errorf("approval of %q: %w", a.Trustee, err)
	}
	out := make(map[string]idcodec.DecryptionShare)
	for _, x := range s.Shares {
		out[x.NID] = x.Share
	}
	return out, nil
}
