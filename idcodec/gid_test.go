package idcodec

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/gid-vectors.json anew")

func sequentialKey() (key [KeyLen]byte) {
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

func epochKey(t testing.TB, key [KeyLen]byte, epoch uint32) *EpochKey {
	t.Helper()
	k, err := NewEpochKey(key, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var testPrefix = PrefixOf(netip.MustParseAddr("2001:db8:1::"))

// The vector of docs/formats.md, which an independent implementation confirmed.
func TestPublishedVector(t *testing.T) {
	k := epochKey(t, sequentialKey(), 20266)
	g, err := k.Encode(testPrefix, 0, 16)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := testPrefix.Addr(g), netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94b"); got != want {
		t.Errorf("Encode = %s, want %s", got, want)
	}
}

type gidVector struct {
	Key        string `json:"epoch_key"`
	Prefix     string `json:"prefix"`
	Epoch      uint32 `json:"epoch"`
	Subscriber uint64 `json:"subscriber"`
	Slot       uint16 `json:"slot"`
	Address    string `json:"address"`
}

// testdata/gid-vectors.json is for other implementations as well.
func TestVectorFile(t *testing.T) {
	const file = "testdata/gid-vectors.json"
	if *update {
		writeVectors(t, file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []gidVector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 20 {
		t.Fatalf("%d vectors, want 20 or more", len(vectors))
	}
	for _, v := range vectors {
		k := epochKey(t, [KeyLen]byte(mustHex(t, v.Key)), v.Epoch)
		p, err := PrefixFrom(netip.MustParsePrefix(v.Prefix))
		if err != nil {
			t.Fatal(err)
		}
		a := netip.MustParseAddr(v.Address)
		if g, err := k.Encode(p, v.Subscriber, v.Slot); err != nil || p.Addr(g) != a {
			t.Errorf("%+v: Encode = %s, %v", v, p.Addr(g), err)
		}
		if sub, slot, err := k.Decode(PrefixOf(a), GIDOf(a)); err != nil || sub != v.Subscriber || slot != v.Slot {
			t.Errorf("%+v: Decode = %d, %d, %v", v, sub, slot, err)
		}
	}
}

func writeVectors(t *testing.T, file string) {
	var vectors []gidVector
	rng := rand.New(rand.NewPCG(5, 6))
	add := func(key [KeyLen]byte, prefix string, epoch uint32, sub uint64, slot uint16) {
		p, err := PrefixFrom(netip.MustParsePrefix(prefix))
		if err != nil {
			t.Fatal(err)
		}
		g, err := epochKey(t, key, epoch).Encode(p, sub, slot)
		if err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, gidVector{hexString(key[:]), prefix, epoch, sub, slot, p.Addr(g).String()})
	}
	add(sequentialKey(), "2001:db8:1::/64", 20266, 0, 16)
	add(sequentialKey(), "2001:db8:1::/64", 0, 0, 0)
	add(sequentialKey(), "2001:db8:1::/64", MaxEpoch, MaxSubscriber, MaxSlot)
	for i := range 21 {
		var key [KeyLen]byte
		for j := range key {
			key[j] = byte(rng.Uint32())
		}
		prefix := []string{"2001:db8::/64", "2001:db8:ffff:1::/64", "fd00:1234:5678:9abc::/64"}[i%3]
		add(key, prefix, rng.Uint32()&MaxEpoch, rng.Uint64()&MaxSubscriber, uint16(rng.Uint32()&MaxSlot))
	}
	text, err := marshalJSONText(vectors)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	k := epochKey(t, sequentialKey(), 1)
	if _, err := k.Encode(testPrefix, MaxSubscriber+1, 0); !errors.Is(err, ErrRange) {
		t.Errorf("subscriber beyond 36 bits: %v, want ErrRange", err)
	}
	if _, err := k.Encode(testPrefix, 0, MaxSlot+1); !errors.Is(err, ErrRange) {
		t.Errorf("slot beyond 12 bits: %v, want ErrRange", err)
	}
	if _, err := NewEpochKey(sequentialKey(), MaxEpoch+1); !errors.Is(err, ErrRange) {
		t.Errorf("epoch beyond 24 bits: %v, want ErrRange", err)
	}
}

func TestPrefixFromWantsAPlain64(t *testing.T) {
	for _, s := range []string{"2001:db8::/63", "2001:db8::/65", "2001:db8::1/64", "192.0.2.0/24", "::ffff:192.0.2.0/64"} {
		if _, err := PrefixFrom(netip.MustParsePrefix(s)); err == nil {
			t.Errorf("PrefixFrom(%s) succeeded", s)
		}
	}
}

// Every (subscriber, slot) has one GID and every GID of them one (subscriber,
// slot): no two collide, and each decodes to what was encoded.
func TestEncodeIsABijection(t *testing.T) {
	k := epochKey(t, sequentialKey(), 7)
	seen := make(map[GID]bool)
	for sub := uint64(0); sub < 2000; sub++ {
		for slot := uint16(0); slot < 64; slot++ {
			s := sub * 34359738 // spread over the 36 bits
			g, err := k.Encode(testPrefix, s, slot)
			if err != nil {
				t.Fatal(err)
			}
			if seen[g] {
				t.Fatalf("GID %016x stands for two", uint64(g))
			}
			seen[g] = true
			if s2, slot2, err := k.Decode(testPrefix, g); err != nil || s2 != s || slot2 != slot {
				t.Fatalf("Decode(Encode(%d, %d)) = %d, %d, %v", s, slot, s2, slot2, err)
			}
		}
	}
}

// The GIDs of one subscriber in different prefixes, epochs, slots, or of
// neighbouring subscribers, must look like independent random words: over many
// pairs, each of the 64 bits of their XOR is 1 half of the time (chi-square with
// 64 degrees of freedom), and no two are equal.
func TestGIDsCannotBeLinked(t *testing.T) {
	const pairs = 20000
	ring, err := newKeyring(sequentialKey(), DefaultEpochLength, 100)
	if err != nil {
		t.Fatal(err)
	}
	key := func(e uint32) *EpochKey {
		k, err := ring.Key(e)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	other := PrefixOf(netip.MustParseAddr("2001:db8:1:1::")) // differs in one bit
	for name, pair := range map[string]func(i uint64) (GID, GID){
		"two prefixes": func(i uint64) (GID, GID) {
			return encode2(t, key(100), testPrefix, i, 0), encode2(t, key(100), other, i, 0)
		},
		"two epochs": func(i uint64) (GID, GID) {
			return encode2(t, key(100), testPrefix, i, 0), encode2(t, key(101), testPrefix, i, 0)
		},
		"two slots": func(i uint64) (GID, GID) {
			return encode2(t, key(100), testPrefix, i, 0), encode2(t, key(100), testPrefix, i, 1)
		},
		"neighbouring subscribers": func(i uint64) (GID, GID) {
			return encode2(t, key(100), testPrefix, 2*i, 0), encode2(t, key(100), testPrefix, 2*i+1, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ones [64]int
			for i := range uint64(pairs) {
				a, b := pair(i)
				if a == b {
					t.Fatalf("pair %d: equal outputs %016x", i, uint64(a))
				}
				for bit := range ones {
					ones[bit] += int(uint64(a^b) >> bit & 1)
				}
			}
			chi := 0.0
			for _, n := range ones {
				d := float64(n) - pairs/2
				chi += 2 * d * d / (pairs / 2)
			}
			// 99.999th percentile of chi-square with 64 degrees of freedom;
			// the inputs are fixed, so a pass is a pass for ever.
			if chi > 121.7 {
				t.Errorf("chi-square %.1f: the outputs are linked", chi)
			}
		})
	}
}

func encode2(t *testing.T, k *EpochKey, p Prefix, sub uint64, slot uint16) GID {
	g, err := k.Encode(p, sub, slot)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A forgery passes the check once in 2^16. Over 2^23 random identifiers 128 are
// expected; five standard deviations either side are 72 and 184.
func TestForgedGIDsAreRefused(t *testing.T) {
	k := epochKey(t, sequentialKey(), 7)
	rng := rand.New(rand.NewPCG(7, 8))
	accepted := 0
	for range 1 << 23 {
		if _, _, err := k.Decode(testPrefix, GID(rng.Uint64())); err == nil {
			accepted++
		} else if !errors.Is(err, ErrForged) {
			t.Fatal(err)
		}
	}
	if want := 128.0; math.Abs(float64(accepted)-want) > 5*math.Sqrt(want) {
		t.Errorf("%d of 2^23 forged GIDs pass the check, want about %.0f", accepted, want)
	}
}

// A GID moved to another prefix, epoch or key is a forgery there.
func TestGIDIsBoundToPrefixEpochAndKey(t *testing.T) {
	k := epochKey(t, sequentialKey(), 7)
	g := encode2(t, k, testPrefix, 5, 3)
	otherKey := sequentialKey()
	otherKey[31]++
	for name, decode := range map[string]func() error{
		"prefix": func() error { _, _, err := k.Decode(Prefix{1}, g); return err },
		"epoch":  func() error { _, _, err := epochKey(t, sequentialKey(), 8).Decode(testPrefix, g); return err },
		"key":    func() error { _, _, err := epochKey(t, otherKey, 7).Decode(testPrefix, g); return err },
	} {
		if err := decode(); !errors.Is(err, ErrForged) {
			t.Errorf("another %s: %v, want ErrForged", name, err)
		}
	}
}

func TestReservedIdentifiers(t *testing.T) {
	for _, c := range []struct {
		g    GID
		want bool
	}{
		{0, true}, {1, false},
		{0x02005efffdffffff, false}, {0x02005efffe000000, true}, {0x02005efffe005212, true},
		{0x02005efffe005213, true}, {0x02005efffe005214, true}, {0x02005efffeffffff, true}, {0x02005effff000000, false},
		{0xfdffffffffffff7f, false}, {0xfdffffffffffff80, true}, {0xfdffffffffffffff, true}, {0xfe00000000000000, false},
		{math.MaxUint64, false},
	} {
		if got := Reserved(c.g); got != c.want {
			t.Errorf("Reserved(%016x) = %v, want %v", uint64(c.g), got, c.want)
		}
	}
}

func TestAddressAndGIDAreInverse(t *testing.T) {
	a := netip.MustParseAddr("2001:db8:1:2:3:4:5:6")
	if got := PrefixOf(a).Addr(GIDOf(a)); got != a {
		t.Errorf("PrefixOf(a).Addr(GIDOf(a)) = %s, want %s", got, a)
	}
}

func TestEncodeAndDecodeAllocateNothing(t *testing.T) {
	k := epochKey(t, sequentialKey(), 20266)
	var g GID
	if n := testing.AllocsPerRun(1000, func() { g, _ = k.Encode(testPrefix, 12345, 6) }); n != 0 {
		t.Errorf("Encode allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() { k.Decode(testPrefix, g) }); n != 0 {
		t.Errorf("Decode allocates %v times", n)
	}
}

// BenchmarkGID prints Encode and Decode as a ratio to ten calls of
// cipher.Block.Encrypt in the same run. The ten form a chain, as FF1's rounds do:
// each encrypts what the one before it gave. Each figure is the median of interleaved rounds, since machines are noisy.
func BenchmarkGID(b *testing.B) {
	k := epochKey(b, sequentialKey(), 20266)
	const n = 20000
	ref := func() {
		buf := make([]byte, 16)
		for range n {
			for range 10 {
				k.block.Encrypt(buf, buf)
			}
		}
	}
	enc := func() {
		for i := range uint64(n) {
			k.Encode(testPrefix, i, 5)
		}
	}
	var gids [256]GID
	for i := range gids {
		gids[i], _ = k.Encode(testPrefix, uint64(i), 5)
	}
	dec := func() {
		for i := range uint64(n) {
			k.Decode(testPrefix, gids[i%256])
		}
	}
	var r, e, d []float64
	for b.Loop() {
		r = append(r, nanosPer(n, ref))
		e = append(e, nanosPer(n, enc))
		d = append(d, nanosPer(n, dec))
	}
	mr, me, md := median(r), median(e), median(d)
	b.ReportMetric(mr, "ten-AES-ns")
	b.ReportMetric(me, "encode-ns")
	b.ReportMetric(md, "decode-ns")
	b.ReportMetric(testing.AllocsPerRun(1000, func() { k.Encode(testPrefix, 1, 2) }), "encode-allocs")
	b.ReportMetric(testing.AllocsPerRun(1000, func() { k.Decode(testPrefix, gids[0]) }), "decode-allocs")
	b.ReportMetric(me/mr, "encode/AES")
	b.ReportMetric(md/mr, "decode/AES")
	if me/mr > 1.25 || md/mr > 1.25 {
		b.Errorf("encode takes %.2f and decode %.2f times ten AES blocks; at most 1.25 is wanted", me/mr, md/mr)
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

func FuzzGIDRoundTrip(f *testing.F) {
	f.Add(uint64(0), uint16(16), uint32(20266), uint64(0x20010db800010000))
	f.Fuzz(func(t *testing.T, sub uint64, slot uint16, epoch uint32, prefix uint64) {
		k, err := NewEpochKey(sequentialKey(), epoch)
		if err != nil {
			if epoch <= MaxEpoch {
				t.Fatal(err)
			}
			return
		}
		var p Prefix
		binary.BigEndian.PutUint64(p[:], prefix)
		g, err := k.Encode(p, sub, slot)
		if err != nil {
			if sub <= MaxSubscriber && slot <= MaxSlot {
				t.Fatal(err)
			}
			return
		}
		if s, l, err := k.Decode(p, g); err != nil || s != sub || l != slot {
			t.Fatalf("Decode = %d, %d, %v", s, l, err)
		}
	})
}
