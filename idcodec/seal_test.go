package idcodec

import (
	"bytes"
	"context"
	"crypto/rand"
	mrand "math/rand/v2"
	"sync"
	"testing"
	"time"
)

// A sealer makes the NIDs that SealNID makes of the same randomness.
func TestASealerSealsAsSealNIDDoes(t *testing.T) {
	k, shares, err := Deal(mrand.NewChaCha8([32]byte{1}), 2, []string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	s := NewSealer(mrand.NewChaCha8([32]byte{2}), k, "isp.example", 4)
	plain := mrand.NewChaCha8([32]byte{2})
	for _, name := range []string{"radius:a", "radius:alice@isp.example", "static:" + string(bytes.Repeat([]byte("x"), 200))} {
		eid, err := ParseEID(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Seal(eid)
		if err != nil {
			t.Fatal(err)
		}
		want, err := SealNID(plain, k, "isp.example", eid)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x, %v; want %x", got, err, want)
		}
		var given []DecryptionShare
		for _, x := range shares[:2] {
			d, err := x.DecryptShare(plain, k, "isp.example", got)
			if err != nil {
				t.Fatal(err)
			}
			given = append(given, d)
			if _, err := s.rand.Read(make([]byte, 64)); err != nil { // the share's proof took as much
				t.Fatal(err)
			}
		}
		if back, err := k.OpenNID("isp.example", got, given); err != nil || back.Reveal() != eid.Reveal() {
			t.Errorf("opened as %q, %v", back.Reveal(), err)
		}
	}
	if _, err := s.Seal(EID{}); err == nil {
		t.Error("an empty EID was sealed")
	}
}

// What is made beforehand is used once, by whoever comes, and erased at the end.
func TestASealersSparePartsAreUsedOnce(t *testing.T) {
	k, _, err := Deal(rand.Reader, 1, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	s := NewSealer(rand.Reader, k, "isp.example", 50)
	ctx, cancel := context.WithCancel(context.Background())
	const workers = 3
	done := make(chan error, workers)
	for range workers {
		go func() { done <- s.Run(ctx, func(time.Duration) {}) }()
	}
	for s.Ready() < 50 {
		time.Sleep(time.Millisecond)
	}
	eid, err := ParseEID("radius:alice")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := make(map[string]bool)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				n, err := s.Seal(eid)
				if err == nil {
					err = k.CheckNID("isp.example", n)
				}
				mu.Lock()
				if err != nil || seen[string(n[nidHeaderLen:nidHeaderLen+elementLen])] {
					t.Errorf("%v, or its randomness was used twice", err)
				}
				seen[string(n[nidHeaderLen:nidHeaderLen+elementLen])] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	cancel()
	for range workers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if s.Ready() != 0 {
		t.Errorf("%d parts are left", s.Ready())
	}
}

func BenchmarkSeal(b *testing.B) {
	k, _, err := Deal(rand.Reader, 1, []string{"a"})
	if err != nil {
		b.Fatal(err)
	}
	eid, err := ParseEID("radius:alice")
	if err != nil {
		b.Fatal(err)
	}
	s := NewSealer(rand.Reader, k, "isp.example", 1)
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			if _, err := SealNID(rand.Reader, k, "isp.example", eid); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tables", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Seal(eid); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("prepared", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			e, err := newEphemeral(rand.Reader, k, s.bases)
			if err != nil {
				b.Fatal(err)
			}
			s.spare <- e
			b.StartTimer()
			if _, err := s.Seal(eid); err != nil {
				b.Fatal(err)
			}
		}
	})
}
