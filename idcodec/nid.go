package idcodec

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"golang.org/x/crypto/chacha20poly1305"
)

// nidVersion is the first byte of every NID and decryption share.
const nidVersion = 1

// MaxNIDLen is the length in bytes of the longest NID.
const MaxNIDLen = nidHeaderLen + kemLen + 256 + chacha20poly1305.Overhead

const nidHeaderLen = 1 + len(EscrowKeyID{})

// MaxLabelLen is the length in bytes of the longest label (an ISP's realm).
const MaxLabelLen = 255

var (
	// ErrNID says that bytes are no NID, or one that was tampered with, or
	// that belongs to another label or escrow key.
	ErrNID = errors.New("not a valid NID")

	// ErrTooFewShares says that fewer shares than the threshold were given.
	ErrTooFewShares = errors.New("too few shares")
)

// WrongShareError names a trustee whose decryption share does not verify.
type WrongShareError struct {
	Name  string // empty when no trustee has the index
	Index uint16
}

func (e *WrongShareError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("wrong decryption share: no trustee has the index %d", e.Index)
	}
	return fmt.Sprintf("wrong decryption share of trustee %q: its proof does not verify", e.Name)
}

// NID is an EID encrypted to an escrow key:
//
//	version(1) ‖ escrow key id(8) ‖ u(32) ‖ ū(32) ‖ e(32) ‖ f(32) ‖ AEAD
//
// The AEAD is ChaCha20-Poly1305 with a zero nonce, under a key of one use, over
// the padded EID. An NID does not tell which EID is in it, nor whether two NIDs
// hold the same, nor an EID's length but for its class.
type NID []byte

// SealNID encrypts an EID to the escrow key. The label, an ISP's realm, is bound
// to the ciphertext and must be given again to open it.
func SealNID(rand io.Reader, k *EscrowKey, label string, eid EID) (NID, error) {
	if err := checkSeal(label, eid); err != nil {
		return nil, err
	}
	e, err := newEphemeral(rand, k, bases{byTable(curve.RISTRETTO_BASEPOINT_TABLE), multiplesOf(k.h), multiplesOf(gBar)})
	if err != nil {
		return nil, err
	}
	return e.seal(k, label, eid)
}

func checkSeal(label string, eid EID) error {
	if eid.IsZero() {
		return fmt.Errorf("%w: it is empty", ErrEID)
	}
	if len(label) > MaxLabelLen {
		return fmt.Errorf("label: %d bytes, at most %d fit", len(label), MaxLabelLen)
	}
	return nil
}

func (k *EscrowKey) nidHeader() []byte {
	return append([]byte{nidVersion}, k.id[:]...)
}

// headerLabel is TDH2's label L: the NID's header and the caller's label.
func headerLabel(header []byte, label string) []byte {
	return append(bytes.Clone(header), label...)
}

// padEID puts the length in a byte before the EID and zeros behind it, up to 32,
// 64, 128 or 256 bytes.
func padEID(e EID) []byte {
	size := 32
	for size < 1+len(e.s) {
		size *= 2
	}
	b := make([]byte, size)
	b[0] = byte(len(e.s))
	copy(b[1:], e.s)
	return b
}

func unpadEID(b []byte) (EID, error) {
	if len(b) < 1 || b[0] == 0 || 1+int(b[0]) > len(b) {
		return EID{}, fmt.Errorf("%w: its padding is malformed", ErrNID)
	}
	return EID{s: string(b[1 : 1+int(b[0])])}, nil
}

// boxKey takes u and h^r in their encodings.
func boxKey(header, u, hr []byte) ([]byte, error) {
	info := append([]byte("GID-NID-v1 box key"), header...)
	return hkdf.Key(sha256.New, hr, nil, string(append(info, u...)), chacha20poly1305.KeySize)
}

// sealBox seals a padded EID under a key of boxKey's, which is used once.
func sealBox(header []byte, label string, key, padded []byte) ([]byte, error) {
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, make([]byte, chacha20poly1305.NonceSize), padded, headerLabel(header, label)), nil
}

// parsedNID is an NID whose proof was checked.
type parsedNID struct {
	header []byte
	kem    kem
	box    []byte
}

// parseNID reads an NID and checks everything that can be checked without a
// share: escrow key, label, and TDH2's proof over the whole ciphertext.
func (k *EscrowKey) parseNID(label string, n NID) (*parsedNID, error) {
	if len(n) < nidHeaderLen+kemLen {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrNID, len(n))
	}
	if n[0] != nidVersion {
		return nil, fmt.Errorf("%w: version %d: want %d", ErrNID, n[0], nidVersion)
	}
	p := &parsedNID{header: n[:nidHeaderLen:nidHeaderLen], box: n[nidHeaderLen+kemLen:]}
	if id := EscrowKeyID(n[1:nidHeaderLen]); id != k.id {
		return nil, fmt.Errorf("%w: sealed to escrow key %s, not to %s", ErrNID, id, k.id)
	}
	switch len(p.box) - chacha20poly1305.Overhead {
	case 32, 64, 128, 256:
	default:
		return nil, fmt.Errorf("%w: a sealed part of %d bytes", ErrNID, len(p.box))
	}
	var err error
	if p.kem, err = parseKEM(n[nidHeaderLen : nidHeaderLen+kemLen]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNID, err)
	}
	if !p.kem.valid(p.box, headerLabel(p.header, label)) {
		return nil, fmt.Errorf("%w: its proof does not verify: it was changed, or belongs to another realm than %q", ErrNID, label)
	}
	return p, nil
}

// CheckNID reports whether n is an intact NID of this escrow key and label,
// without opening it.
func (k *EscrowKey) CheckNID(label string, n NID) error {
	_, err := k.parseNID(label, n)
	return err
}

// DecryptionShare is what a trustee contributes to the opening of one NID:
//
//	version(1) ‖ escrow key id(8) ‖ index(2) ‖ u_i(32) ‖ e_i(32) ‖ f_i(32)
//
// with the index big-endian. t of them open the NID; fewer say nothing.
type DecryptionShare []byte

// DecryptionShareLen is the length in bytes of a decryption share.
const DecryptionShareLen = nidHeaderLen + 2 + elementLen + 2*scalarLen

// DecryptShare computes the trustee's part of the opening of n. A changed n is
// refused with [ErrNID] before the secret is used.
func (s *Share) DecryptShare(rand io.Reader, k *EscrowKey, label string, n NID) (DecryptionShare, error) {
	p, err := k.parseNID(label, n)
	if err != nil {
		return nil, err
	}
	if err := k.Holds(s); err != nil {
		return nil, err
	}
	t, _ := k.trustee(s.index)
	d, err := newDecryptionShare(rand, &p.kem, s.xi, t.verify, s.index)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint16(bytes.Clone(p.header), s.index)
	return encode(encode(encode(b, d.ui), d.ei), d.fi), nil
}

// Index returns the index of the trustee that the share claims to be from, or 0
// if it is too short to claim one.
func (d DecryptionShare) Index() uint16 {
	if len(d) < nidHeaderLen+2 {
		return 0
	}
	return binary.BigEndian.Uint16(d[nidHeaderLen:])
}

// VerifyShare checks a decryption share of n and returns its trustee. A share
// that does not verify is a [*WrongShareError], which names the trustee.
func (k *EscrowKey) VerifyShare(label string, n NID, d DecryptionShare) (Trustee, error) {
	o, err := k.Opening(label, n)
	if err != nil {
		return Trustee{}, err
	}
	return o.Add(d)
}

func (k *EscrowKey) verifyShare(p *parsedNID, d DecryptionShare) (Trustee, *element, error) {
	t, ok := k.trustee(d.Index())
	wrong := &WrongShareError{Name: t.Name, Index: d.Index()}
	if !ok || len(d) != DecryptionShareLen || !bytes.Equal(d[:nidHeaderLen], p.header) {
		return Trustee{}, nil, wrong
	}
	body := d[nidHeaderLen+2:]
	ui, err1 := parseElement(body[:32])
	ei, err2 := parseScalar(body[32:64])
	fi, err3 := parseScalar(body[64:96])
	if err1 != nil || err2 != nil || err3 != nil {
		return Trustee{}, nil, wrong
	}
	ds := decryptionShare{ui, ei, fi}
	if !ds.valid(&p.kem, t.verify, t.Index) {
		return Trustee{}, nil, wrong
	}
	return t, ui, nil
}

// OpenNID combines decryption shares and returns the EID. Every share is
// checked, those beyond the threshold as well; the first wrong one is returned
// as a [*WrongShareError]. A share given twice counts once.
func (k *EscrowKey) OpenNID(label string, n NID, shares []DecryptionShare) (EID, error) {
	o, err := k.Opening(label, n)
	if err != nil {
		return EID{}, err
	}
	for _, d := range shares {
		if _, err := o.Add(d); err != nil {
			return EID{}, err
		}
	}
	return o.EID()
}

// Opening is an NID on its way to its EID, for who gets decryption shares one after
// the other: the NID is checked once, and so is each share. It is not for several
// goroutines at once.
type Opening struct {
	key    *EscrowKey
	label  string
	nid    *parsedNID
	shares map[uint16]*element // u_i by the trustee's index, up to the threshold
}

// Opening checks n, as [EscrowKey.CheckNID] does, and returns what opens it.
func (k *EscrowKey) Opening(label string, n NID) (*Opening, error) {
	p, err := k.parseNID(label, n)
	if err != nil {
		return nil, err
	}
	return &Opening{k, label, p, make(map[uint16]*element, k.threshold)}, nil
}

// Add checks a decryption share and returns its trustee. One that does not verify is a
// [*WrongShareError], which names the trustee, and does not count; one given twice
// counts once.
func (o *Opening) Add(d DecryptionShare) (Trustee, error) {
	t, ui, err := o.key.verifyShare(o.nid, d)
	if err != nil {
		return Trustee{}, err
	}
	if len(o.shares) < o.key.threshold {
		o.shares[t.Index] = ui
	}
	return t, nil
}

// EID combines the shares that were added. With fewer than the threshold it is
// [ErrTooFewShares].
func (o *Opening) EID() (EID, error) {
	if len(o.shares) < o.key.threshold {
		return EID{}, fmt.Errorf("%w: %d of the %d needed", ErrTooFewShares, len(o.shares), o.key.threshold)
	}
	indices := slices.Sorted(maps.Keys(o.shares))
	hr := identity()
	for _, i := range indices {
		hr.Add(hr, mul(o.shares[i], lagrange(i, indices)))
	}
	p := o.nid
	key, err := boxKey(p.header, p.kem.uRaw, encode(nil, hr))
	if err != nil {
		return EID{}, err
	}
	aead, err := chacha20poly1305.New(key)
	clear(key)
	if err != nil {
		return EID{}, err
	}
	padded, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), p.box, headerLabel(p.header, o.label))
	if err != nil {
		return EID{}, fmt.Errorf("%w: its sealed part does not open", ErrNID)
	}
	defer clear(padded)
	return unpadEID(padded)
}
