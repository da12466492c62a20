package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/lease/shared"
	"brightgid/lease/shared/memdb"
)

// newUpkeep returns the upkeep of a keyring that begins a while ago, of which thirty days are kept.
func newUpkeep(t *testing.T, ago time.Duration) *upkeep {
	t.Helper()
	epoch := uint32(time.Now().Add(-ago).Unix() / int64(idcodec.DefaultEpochLength.Seconds()))
	ring, err := idcodec.NewKeyring(rand.NewChaCha8([32]byte{1}), idcodec.DefaultEpochLength, epoch)
	if err != nil {
		t.Fatal(err)
	}
	text, err := ring.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keyring")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return &upkeep{ring: ring, path: path, retention: 30 * day, log: slog.New(slog.DiscardHandler)}
}

const day = 24 * time.Hour

// A clock that jumps while the server runs erases no keys, as one that is wrong at the start does not. Who says that it is
// right says so of once.
func TestAJumpOfTheClockErasesNoKeys(t *testing.T) {
	u := newUpkeep(t, 20*day)
	now := time.Now()
	was := u.ring.Oldest()
	file, err := os.ReadFile(u.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{now, now.Add(200 * day), now.Add(-40 * day)} {
		oldest, err := u.run(at)
		if (err == nil) != at.Equal(now) || err == nil && oldest != was {
			t.Errorf("%s from now: %d is the oldest, %v; it was %d", at.Sub(now), oldest, err, was)
		}
		if is, err := os.ReadFile(u.path); err != nil || !bytes.Equal(is, file) || u.ring.Oldest() != was {
			t.Errorf("%s from now: the keyring has changed, %v", at.Sub(now), err)
		}
	}
	if oldest, err := u.run(now.Add(12 * day)); err != nil || oldest != was+2 {
		t.Errorf("two days more than are kept: %d is the oldest, %v; it was %d", oldest, err, was)
	}
	u.accept = true
	later := now.Add(200 * day)
	if oldest, err := u.run(later); err != nil || oldest != u.ring.Oldest() || oldest < was+100 {
		t.Errorf("with leave: %d is the oldest, %v; it was %d", oldest, err, was)
	}
	if _, err := u.run(later.Add(200 * day)); err == nil {
		t.Error("leave that was given once holds again")
	}
}

// Where servers share a database, keys are erased by its clock only, and not while it cannot be asked.
func TestKeysAreErasedByTheDatabasesClock(t *testing.T) {
	var ahead time.Duration
	fault := memdb.Answered
	db := memdb.New()
	db.Clock = func() time.Time { return time.Now().Add(-ahead) }
	conn := &memdb.Conn{Database: db, Fault: func() memdb.Fault { return fault }}
	s, err := shared.New(t.Context(), conn, shared.Options{Name: "one", Cache: 100, Keys: shared.Keyed{Tag: func(uint32) (int64, error) { return 1, nil }}})
	if err != nil {
		t.Fatal(err)
	}
	u := newUpkeep(t, 40*day)
	was := u.ring.Oldest()
	store := &database{shared: s}
	for _, c := range []struct {
		ahead time.Duration
		fault memdb.Fault
		want  error
	}{{day, memdb.Answered, shared.ErrClock}, {-day, memdb.Answered, shared.ErrClock}, {0, memdb.NotAsked, memdb.ErrDown}} {
		ahead, fault = c.ahead, c.fault
		if _, err := eraseDue(context.Background(), u, store); !errors.Is(err, c.want) || u.ring.Oldest() != was {
			t.Errorf("%s ahead: %v, want %v; the oldest is %d, was %d", c.ahead, err, c.want, u.ring.Oldest(), was)
		}
	}
	ahead, fault = 0, memdb.Answered
	if oldest, err := eraseDue(context.Background(), u, store); err != nil || oldest < was+9 || oldest > was+11 {
		t.Errorf("the oldest is %d, %v; was %d", oldest, err, was)
	}
}
