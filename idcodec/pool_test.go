package idcodec

import (
	"crypto/aes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"
)

func poolKey(t testing.TB, epoch uint32) *EpochKey {
	t.Helper()
	var key [KeyLen]byte
	for i := range key {
		key[i] = byte(i)
	}
	k, err := NewEpochKey(key, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDelegateIsFF1(t *testing.T) {
	var key [KeyLen]byte
	for i := range key {
		key[i] = byte(i)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 3000 {
		epoch := rng.Uint32() & MaxEpoch
		n := MinPoolBits + rng.IntN(MaxPoolBits-MinPoolBits+1)
		bits := n + 12 + rng.IntN(64-n-12+1)
		var raw [16]byte
		raw[0] = 0x20
		for i := 1; i < 8; i++ {
			raw[i] = byte(rng.Uint32())
		}
		pool := Pool{netip.PrefixFrom(netip.AddrFrom16(raw), bits-n).Masked(), uint8(bits)}
		index := rng.Uint64() & (pool.Size() - 1)
		at := pool.Prefix.Addr().As16()
		tweak := append(at[:8:8], byte(bits-n), byte(epoch>>16), byte(epoch>>8), byte(epoch))
		want, err := strconv.ParseUint(ff1(t, block, 2, tweak, fmt.Sprintf("%0*b", n, index)), 2, 64)
		if err != nil {
			t.Fatal(err)
		}
		got, err := poolKey(t, epoch).Delegate(pool, index)
		if err != nil || got != pool.at(want) || !pool.Has(got) {
			t.Fatalf("%v, epoch %d, index %d: %s, %v; the reference gives %s", pool, epoch, index, got, err, pool.at(want))
		}
	}
}

// Every index has a prefix of its own, and another in another epoch or pool.
func TestDelegateIsAPermutation(t *testing.T) {
	for n := MinPoolBits; n <= 13; n++ {
		pool := Pool{netip.PrefixFrom(netip.MustParseAddr("2001:db8::"), 56-n).Masked(), 56}
		seen := make(map[netip.Prefix]bool)
		k := poolKey(t, 20266)
		for i := range pool.Size() {
			p, err := k.Delegate(pool, i)
			if err != nil || seen[p] || !pool.Has(p) || p.Masked() != p {
				t.Fatalf("%v: index %d is %s, %v", pool, i, p, err)
			}
			seen[p] = true
		}
	}
	pool, other := Pool{netip.MustParsePrefix("2001:db8::/32"), 56}, Pool{netip.MustParsePrefix("2001:db9::/32"), 56}
	same := 0
	for i := range uint64(1000) {
		a, _ := poolKey(t, 1).Delegate(pool, i)
		b, _ := poolKey(t, 2).Delegate(pool, i)
		c, _ := poolKey(t, 1).Delegate(other, i)
		if a == b || a.Addr().As16()[4] == c.Addr().As16()[4] && a.Addr().As16()[5] == c.Addr().As16()[5] && a.Addr().As16()[6] == c.Addr().As16()[6] {
			same++
		}
	}
	if same > 5 {
		t.Errorf("%d of 1000 indices stand at the same place in another epoch or pool", same)
	}
}

func TestPoolsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		prefix string
		bits   uint8
	}{{"2001:db8::1/40", 56}, {"192.0.2.0/24", 32}, {"::ffff:0:0/96", 120}, {"2001:db8::/64", 80}, {"2001:db8::/56", 56}, {"2001:db8::/56", 48}, {"2001:db8::/56", 57}, {"2001::/8", 64}} {
		p := Pool{netip.MustParsePrefix(c.prefix), c.bits}
		if _, err := poolKey(t, 1).Delegate(p, 0); err == nil {
			t.Errorf("%v: it was taken", p)
		}
	}
	if _, err := poolKey(t, 1).Delegate(Pool{netip.MustParsePrefix("2001:db8::/48"), 56}, 256); !errors.Is(err, ErrRange) {
		t.Errorf("an index beyond the pool: %v", err)
	}
}

func TestDelegateVector(t *testing.T) {
	for _, c := range []struct {
		pool  Pool
		index uint64
		want  string
	}{
		{Pool{netip.MustParsePrefix("2001:db8:4000::/36"), 56}, 0, "2001:db8:4c98:b00::/56"},
		{Pool{netip.MustParsePrefix("2001:db8:4000::/36"), 56}, 1, "2001:db8:4388:9b00::/56"},
		{Pool{netip.MustParsePrefix("2001:db8:8000::/40"), 64}, 7, "2001:db8:8019:dedd::/64"},
	} {
		got, err := poolKey(t, 20266).Delegate(c.pool, c.index)
		if err != nil || got.String() != c.want {
			t.Errorf("%v, index %d: %s, %v; want %s", c.pool, c.index, got, err, c.want)
		}
	}
}

func BenchmarkDelegate(b *testing.B) {
	k, pool := poolKey(b, 1), Pool{netip.MustParsePrefix("2001:db8::/32"), 56}
	for i := range b.N {
		if _, err := k.Delegate(pool, uint64(i)&(pool.Size()-1)); err != nil {
			b.Fatal(err)
		}
	}
}
