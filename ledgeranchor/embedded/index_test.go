package embedded

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/ledgertest"
)

// Two processes index the same log, at their own pace; each finds what a plain list
// says, while segments are merged beneath, and after the index is opened anew.
func TestIndexFindsWhatAListFinds(t *testing.T) {
	const records, addresses = 18*blockSize + 123, 500
	rng := rand.New(rand.NewPCG(1, 2))
	want := make(map[uint64][]place)
	var names []ledgeranchor.Hash
	var all []*ledgeranchor.Record
	for n := range records {
		r := &ledgeranchor.Record{Kind: ledgeranchor.KindHop, Time: 1e12 + uint64(rng.IntN(100_000)),
			Addresses: []ledgeranchor.Address{ledgeranchor.AddressOf(ledgertest.Source(rng.IntN(addresses)))}, Message: ledgertest.HashOf("message", n)}
		if n%1000 == 0 {
			r.Kind, r.Warrant = ledgeranchor.KindWarrant, ledgertest.HashOf("warrant", n%7)
		}
		names, all = append(names, ledgertest.HashOf("name", n)), append(all, r)
		for _, s := range slotsOf(nil, uint64(n), names[n], r) {
			want[s.key] = append(want[s.key], s.place)
		}
	}
	for _, p := range want {
		slices.SortFunc(p, place.compare)
	}
	check := func(x *index, key, from, until uint64) {
		t.Helper()
		var expect []uint64
		for _, p := range want[key] {
			if p.time >= from && p.time <= until && p.position < x.size() {
				expect = append(expect, p.position)
			}
		}
		if got := slices.Collect(x.positions(key, from, until)); !slices.Equal(got, expect) {
			t.Fatalf("at size %d, key %x from %d until %d: %d positions, want %d", x.size(), key, from, until, len(got), len(expect))
		}
	}
	some := func(x *index) {
		t.Helper()
		for range 20 {
			n := rng.IntN(records)
			check(x, nameKey(names[n]), 0, math.MaxUint64)
			check(x, messageKey(all[n].Message), 0, math.MaxUint64)
			check(x, addressKey(all[n].Addresses[0]), 1e12+uint64(rng.IntN(50_000)), 1e12+50_000+uint64(rng.IntN(50_000)))
		}
		check(x, addressKey(all[0].Addresses[0]), 0, math.MaxUint64)
		check(x, warrantKey(ledgertest.HashOf("warrant", 3)), 0, math.MaxUint64)
		check(x, kindKey(ledgeranchor.KindWarrant), 0, math.MaxUint64)
		check(x, rng.Uint64(), 0, math.MaxUint64)
	}
	dir := t.TempDir()
	open := func() *index {
		x, err := openIndex(dir)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	a, b := open(), open()
	advance := func(x *index, n int) {
		from := int(x.size())
		to := min(records, from+n)
		if err := x.add(uint64(from), names[from:to], all[from:to]); err != nil {
			t.Fatal(err)
		}
	}
	for a.size() < records || b.size() < records {
		advance(a, rng.IntN(3*blockSize))
		some(a)
		if rng.IntN(3) > 0 {
			advance(b, rng.IntN(4*blockSize))
			some(b)
		}
	}
	for _, x := range []*index{a, b} {
		some(x)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c := open()
	if c.size() != records/blockSize*blockSize {
		t.Errorf("after it is opened anew, %d records are indexed, want all whole blocks", c.size())
	}
	advance(c, records)
	some(c)
	c.merging.Wait()
	if n := len(c.segments); n > 2*fanOut {
		t.Errorf("%d segments are left", n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnIndexThatIsNoneSaysWhatToDo(t *testing.T) {
	for name, text := range map[string]string{"cut": "gid", "other": strings.Repeat("x", 100), "a length": segmentMagic + "\x00\x00\x00\x00\x00\x00\x00\x09" + strings.Repeat("x", slotSize)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(0, blockSize)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openIndex(dir); err == nil || !strings.Contains(err.Error(), "delete the directory") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
