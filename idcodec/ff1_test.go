package idcodec

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// ff1 is FF1 of NIST SP 800-38G, Algorithm 7, for any radix from 2 to 36, as
// the specification's steps give it: the reference for the radix-2 fast path.
// Numeral strings are written with 0-9a-z.
func ff1(t testing.TB, block cipher.Block, radix int, tweak []byte, x string) string {
	n := len(x)
	u, v := n/2, n-n/2
	a, b := x[:u], x[u:]
	num := func(s string) *big.Int {
		z, ok := new(big.Int).SetString(s, radix)
		if !ok {
			t.Fatalf("%q is no numeral string of radix %d", s, radix)
		}
		return z
	}
	str := func(z *big.Int, m int) string {
		s := z.Text(radix)
		return strings.Repeat("0", m-len(s)) + s
	}
	top := new(big.Int).Exp(big.NewInt(int64(radix)), big.NewInt(int64(v)), nil)
	bLen := (new(big.Int).Sub(top, big.NewInt(1)).BitLen() + 7) / 8
	d := 4*((bLen+3)/4) + 4

	p := []byte{1, 2, 1, 0, byte(radix >> 8), byte(radix), 10, byte(u)}
	p = binary.BigEndian.AppendUint32(p, uint32(n))
	p = binary.BigEndian.AppendUint32(p, uint32(len(tweak)))
	for i := range 10 {
		q := slices.Clone(tweak)
		q = append(q, make([]byte, ((-len(tweak)-bLen-1)%16+16)%16)...)
		q = append(q, byte(i))
		q = append(q, num(b).FillBytes(make([]byte, bLen))...)
		// PRF: CBC-MAC with a zero IV.
		var r [16]byte
		for _, chunk := range [][]byte{p, q} {
			for len(chunk) > 0 {
				for j := range r {
					r[j] ^= chunk[j]
				}
				block.Encrypt(r[:], r[:])
				chunk = chunk[16:]
			}
		}
		s := slices.Clone(r[:])
		for j := 1; len(s) < d; j++ {
			c := slices.Clone(r[:])
			ctr := binary.BigEndian.Uint64(c[8:]) ^ uint64(j)
			binary.BigEndian.PutUint64(c[8:], ctr)
			block.Encrypt(c, c)
			s = append(s, c...)
		}
		y := new(big.Int).SetBytes(s[:d])
		m := u
		if i%2 == 1 {
			m = v
		}
		c := y.Add(y, num(a))
		c.Mod(c, new(big.Int).Exp(big.NewInt(int64(radix)), big.NewInt(int64(m)), nil))
		a, b = b, str(c, m)
	}
	return a + b
}

func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The nine samples that NIST publishes with SP 800-38G (FF1samples.pdf).
func TestReferenceFF1MatchesNISTSamples(t *testing.T) {
	const (
		key128 = "2b7e151628aed2a6abf7158809cf4f3c"
		key192 = key128 + "ef4359d8d580aa4f"
		key256 = key192 + "7f036d6f04fc6a94"
		digits = "0123456789"
		letter = "0123456789abcdefghi"
		tweakA = "39383736353433323130"
		tweakB = "3737373770717273373737"
	)
	for _, c := range []struct {
		name, key, tweak, plain, cipher string
		radix                           int
	}{
		{"1", key128, "", digits, "2433477484", 10},
		{"2", key128, tweakA, digits, "6124200773", 10},
		{"3", key128, tweakB, letter, "a9tv40mll9kdu509eum", 36},
		{"4", key192, "", digits, "2830668132", 10},
		{"5", key192, tweakA, digits, "2496655549", 10},
		{"6", key192, tweakB, letter, "xbj3kv35jrawxv32ysr", 36},
		{"7", key256, "", digits, "6657667009", 10},
		{"8", key256, tweakA, digits, "1001623463", 10},
		{"9", key256, tweakB, letter, "xs8a0azh2avyalyzuwd", 36},
	} {
		t.Run("sample "+c.name, func(t *testing.T) {
			block, err := aes.NewCipher(mustHex(t, c.key))
			if err != nil {
				t.Fatal(err)
			}
			if got := ff1(t, block, c.radix, mustHex(t, c.tweak), c.plain); got != c.cipher {
				t.Errorf("FF1(%s) = %s, want %s", c.plain, got, c.cipher)
			}
		})
	}
}

// ff1Binary is the same algorithm with radix 2, n = 64 in machine words, so that
// a million comparisons are quick; TestWordReferenceMatchesGeneric ties it to
// ff1 above. Unlike the fast path it builds P and Q byte by byte and chains
// them through the standard library's CBC.
func ff1Binary(block cipher.Block, tweak []byte, x uint64) uint64 {
	a, b := uint32(x>>32), uint32(x)
	for i := range 10 {
		msg := []byte{1, 2, 1, 0, 0, 2, 10, 32, 0, 0, 0, 64, 0, 0, 0, byte(len(tweak))}
		msg = append(msg, tweak...)
		msg = append(msg, byte(i))
		msg = binary.BigEndian.AppendUint32(msg, b)
		cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(msg, msg)
		y := binary.BigEndian.Uint64(msg[16:24])
		a, b = b, uint32(uint64(a)+y)
	}
	return uint64(a)<<32 | uint64(b)
}

func TestWordReferenceMatchesGeneric(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		block, tweak, x := randomCase(t, rng)
		bits := big.NewInt(0).SetUint64(x).Text(2)
		bits = strings.Repeat("0", 64-len(bits)) + bits
		want, _ := new(big.Int).SetString(ff1(t, block, 2, tweak, bits), 2)
		if got := ff1Binary(block, tweak, x); got != want.Uint64() {
			t.Fatalf("tweak %x, input %016x: words give %016x, the generic core %016x", tweak, x, got, want.Uint64())
		}
	}
}

func randomCase(t testing.TB, rng *rand.Rand) (cipher.Block, []byte, uint64) {
	var key [32]byte
	for i := range key {
		key[i] = byte(rng.Uint32())
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	tweak := make([]byte, 11)
	for i := range tweak {
		tweak[i] = byte(rng.Uint32())
	}
	return block, tweak, rng.Uint64()
}

func TestFastPathMatchesReferenceOnAMillionInputs(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		var key [KeyLen]byte
		for i := range key {
			key[i] = byte(rng.Uint32())
		}
		block, _ := aes.NewCipher(key[:])
		epoch := rng.Uint32() & MaxEpoch
		ek, err := NewEpochKey(key, epoch)
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			var p Prefix
			binary.BigEndian.PutUint64(p[:], rng.Uint64())
			x := rng.Uint64()
			tweak := append(p[:], byte(epoch>>16), byte(epoch>>8), byte(epoch))
			want := ff1Binary(block, tweak, x)
			if got := ek.permute(p, x); got != want {
				t.Fatalf("key %x, prefix %x, epoch %d: permute(%016x) = %016x, want %016x", key, p, epoch, x, got, want)
			}
			if back := ek.unpermute(p, want); back != x {
				t.Fatalf("key %x, prefix %x, epoch %d: unpermute(%016x) = %016x, want %016x", key, p, epoch, want, back, x)
			}
			if got, back := ek.permuteGo(p, x), ek.unpermuteGo(p, want); got != want || back != x {
				t.Fatalf("key %x, prefix %x, epoch %d: without assembly %016x and %016x, want %016x and %016x", key, p, epoch, got, back, want, x)
			}
		}
	}
}
