package idcodec

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MaxEpoch is the largest epoch; an epoch has 24 bits.
const MaxEpoch = 1<<24 - 1

// MinEpochLength and MaxEpochLength bound the length of an epoch,
// DefaultEpochLength is for those who have no reason to choose another.
const (
	MinEpochLength     = time.Hour
	DefaultEpochLength = 24 * time.Hour
	MaxEpochLength     = 366 * 24 * time.Hour
)

// maxSpan is how many epochs beyond its oldest a keyring derives: eleven years
// of hours. It bounds the work that a wrong clock or a far time can cause.
const maxSpan = 100_000

var (
	// ErrForgotten says that an epoch's key was erased: nobody can trace the
	// addresses of that epoch any more.
	ErrForgotten = errors.New("the key of this epoch was erased when its retention ended")

	// ErrFarFuture says that an epoch is further from the keyring's oldest
	// than any retention; the time or the clock is wrong.
	ErrFarFuture = errors.New("epoch too far in the future of this keyring")

	// ErrKeyring is wrapped by every error about a keyring's text.
	ErrKeyring = errors.New("not a valid keyring")
)

// Keyring holds the key of the oldest epoch that is kept and derives those
// after it:
//
//	K(e+1) = HKDF-SHA256(K(e), info = "gid epoch key" ‖ e+1)
//
// with an empty salt, the key itself as input keying material, and e+1 in four
// bytes, big-endian. Nothing leads back, so that forgetting the oldest key
// forgets its epoch for everybody.
//
// A Keyring is safe for concurrent use.
type Keyring struct {
	length time.Duration
	mu     sync.Mutex // held to derive and to forget
	state  atomic.Pointer[ringState]
}

// ringState is replaced, never changed, but for the erasure of forgotten keys.
type ringState struct {
	oldest uint32
	raw    [][KeyLen]byte // raw[i] is the key of epoch oldest+i
	keys   []*EpochKey    // keys[i] likewise
}

// NewKeyring makes a keyring whose oldest epoch is the given one, with a key
// from rand. The epoch length is whole seconds between [MinEpochLength] and
// [MaxEpochLength].
func NewKeyring(rand io.Reader, length time.Duration, oldest uint32) (*Keyring, error) {
	var key [KeyLen]byte
	if _, err := io.ReadFull(rand, key[:]); err != nil {
		return nil, fmt.Errorf("keyring: reading randomness: %w", err)
	}
	return newKeyring(key, length, oldest)
}

func newKeyring(key [KeyLen]byte, length time.Duration, oldest uint32) (*Keyring, error) {
	if length < MinEpochLength || length > MaxEpochLength || length%time.Second != 0 {
		return nil, fmt.Errorf("%w: epoch length %s: want whole seconds from %s to %s", ErrKeyring, length, MinEpochLength, MaxEpochLength)
	}
	ek, err := NewEpochKey(key, oldest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	k := &Keyring{length: length}
	k.state.Store(&ringState{oldest: oldest, raw: [][KeyLen]byte{key}, keys: []*EpochKey{ek}})
	return k, nil
}

// EpochLength returns the length of an epoch.
func (k *Keyring) EpochLength() time.Duration { return k.length }

// EpochAt returns the epoch that t falls in: floor(unix seconds / length).
func EpochAt(t time.Time, length time.Duration) (uint32, error) {
	s := t.Unix()
	if s < 0 {
		return 0, fmt.Errorf("time %s: %w: before 1970", t.UTC().Format(time.RFC3339), ErrRange)
	}
	e := s / int64(length/time.Second)
	if e > MaxEpoch {
		return 0, fmt.Errorf("time %s: %w: its epoch does not fit 24 bits", t.UTC().Format(time.RFC3339), ErrRange)
	}
	return uint32(e), nil
}

// EpochStart returns the first instant of an epoch.
func EpochStart(epoch uint32, length time.Duration) time.Time {
	return time.Unix(int64(epoch)*int64(length/time.Second), 0).UTC()
}

// EpochAt returns the epoch that t falls in.
func (k *Keyring) EpochAt(t time.Time) (uint32, error) { return EpochAt(t, k.length) }

// Oldest returns the oldest epoch whose key is kept.
func (k *Keyring) Oldest() uint32 { return k.state.Load().oldest }

// Key returns the codec of an epoch: [ErrForgotten] before the oldest,
// [ErrFarFuture] far beyond it.
func (k *Keyring) Key(epoch uint32) (*EpochKey, error) {
	s := k.state.Load()
	if epoch >= s.oldest && int(epoch-s.oldest) < len(s.keys) {
		return s.keys[epoch-s.oldest], nil
	}
	return k.derive(epoch)
}

func (k *Keyring) derive(epoch uint32) (*EpochKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state.Load()
	if epoch < s.oldest {
		return nil, fmt.Errorf("epoch %d (the oldest kept is %d): %w", epoch, s.oldest, ErrForgotten)
	}
	if epoch > MaxEpoch || epoch-s.oldest > maxSpan {
		return nil, fmt.Errorf("epoch %d (the oldest kept is %d): %w", epoch, s.oldest, ErrFarFuture)
	}
	next := &ringState{
		oldest: s.oldest,
		raw:    append([][KeyLen]byte(nil), s.raw...),
		keys:   append([]*EpochKey(nil), s.keys...),
	}
	for e := s.oldest + uint32(len(next.keys)); e <= epoch; e++ {
		raw, err := ratchet(next.raw[len(next.raw)-1], e)
		if err != nil {
			return nil, err
		}
		ek, err := NewEpochKey(raw, e)
		if err != nil {
			return nil, err
		}
		next.raw = append(next.raw, raw)
		next.keys = append(next.keys, ek)
	}
	k.state.Store(next)
	clear(s.raw)
	return next.keys[epoch-next.oldest], nil
}

// ratchet derives the key of an epoch from the key of the one before it.
func ratchet(before [KeyLen]byte, epoch uint32) ([KeyLen]byte, error) {
	info := binary.BigEndian.AppendUint32([]byte("gid epoch key"), epoch)
	b, err := hkdf.Key(sha256.New, before[:], nil, string(info), KeyLen)
	if err != nil {
		return [KeyLen]byte{}, err
	}
	return [KeyLen]byte(b), nil
}

// From returns a keyring whose oldest epoch is the given one, which must not be
// forgotten. The caller makes the result durable and then calls [Keyring.Forget]
// on the old one; in this order, no crash loses a key that is still wanted and
// no key outlives its file.
func (k *Keyring) From(oldest uint32) (*Keyring, error) {
	if _, err := k.Key(oldest); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state.Load()
	if oldest < s.oldest {
		return nil, fmt.Errorf("epoch %d (the oldest kept is %d): %w", oldest, s.oldest, ErrForgotten)
	}
	return newKeyring(s.raw[oldest-s.oldest], k.length, oldest)
}

// Forget erases the keys before an epoch from memory. An epoch that is already
// forgotten changes nothing.
func (k *Keyring) Forget(before uint32) error {
	if before <= k.Oldest() {
		return nil
	}
	if _, err := k.Key(before); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state.Load()
	if before <= s.oldest {
		return nil
	}
	n := before - s.oldest
	k.state.Store(&ringState{
		oldest: before,
		raw:    append([][KeyLen]byte(nil), s.raw[n:]...),
		keys:   append([]*EpochKey(nil), s.keys[n:]...),
	})
	clear(s.raw)
	return nil
}

const keyringHeader = "gid-keyring-1"

// MarshalText returns the keyring's file: four lines of a name and a value
// under a header, and a sum of them that finds a damaged file.
//
//	gid-keyring-1
//	epoch-length 86400
//	oldest-epoch 20266
//	key AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
//	sum c80d4f1411ac4cc9
//
// The length is in seconds, the key in base64 (RFC 4648 §4), the sum is the
// first eight bytes of the SHA-256 of all lines before it, in hex.
func (k *Keyring) MarshalText() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state.Load()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nepoch-length %d\noldest-epoch %d\nkey %s\n", keyringHeader,
		int64(k.length/time.Second), s.oldest, base64.StdEncoding.EncodeToString(s.raw[0][:]))
	fmt.Fprintf(&b, "sum %s\n", keyringSum(b.Bytes()))
	return b.Bytes(), nil
}

func keyringSum(lines []byte) string {
	sum := sha256.Sum256(lines)
	return hex.EncodeToString(sum[:8])
}

// ParseKeyring reads what [Keyring.MarshalText] wrote. Its errors name the line
// and never hold key material.
func ParseKeyring(text []byte) (*Keyring, error) {
	if len(text) > 4096 {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrKeyring, len(text))
	}
	lines := strings.SplitAfter(string(text), "\n")
	if len(lines) != 6 || lines[5] != "" || lines[0] != keyringHeader+"\n" {
		return nil, fmt.Errorf("%w: want a first line %q and four more", ErrKeyring, keyringHeader)
	}
	field := func(n int, name string) (string, error) {
		v, ok := strings.CutPrefix(lines[n], name+" ")
		if !ok {
			return "", fmt.Errorf("%w: line %d: want %q and a value", ErrKeyring, n+1, name)
		}
		return strings.TrimSuffix(v, "\n"), nil
	}
	sum, err := field(4, "sum")
	if err != nil {
		return nil, err
	}
	if sum != keyringSum([]byte(strings.Join(lines[:4], ""))) {
		return nil, fmt.Errorf("%w: line 5: the sum does not match; the file is damaged", ErrKeyring)
	}
	lengthText, err := field(1, "epoch-length")
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseUint(lengthText, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: line 2: %q is not a number of seconds", ErrKeyring, lengthText)
	}
	oldestText, err := field(2, "oldest-epoch")
	if err != nil {
		return nil, err
	}
	oldest, err := strconv.ParseUint(oldestText, 10, 24)
	if err != nil {
		return nil, fmt.Errorf("%w: line 3: %q is not an epoch", ErrKeyring, oldestText)
	}
	keyText, err := field(3, "key")
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.Strict().DecodeString(keyText)
	if err != nil || len(key) != KeyLen {
		return nil, fmt.Errorf("%w: line 4: want %d bytes in base64", ErrKeyring, KeyLen)
	}
	return newKeyring([KeyLen]byte(key), time.Duration(seconds)*time.Second, uint32(oldest))
}
