package main

import (
	"fmt"
	"log/slog"
	"time"

	"brightgid/idcodec"
	"brightgid/internal/secretfile"
)

// upkeep erases the keys of epochs whose retention has ended, first from the
// file, then from memory.
type upkeep struct {
	ring      *idcodec.Keyring
	path      string
	retention time.Duration
	log       *slog.Logger
	accept    bool // the clock may have every key erased, the first time
}

// oldest returns the oldest epoch that must be kept at a time.
func (u *upkeep) oldest(now time.Time) (uint32, error) {
	return u.ring.EpochAt(now.Add(-u.retention))
}

// checkClock refuses a clock that would have every key erased at once: the first
// thing to suspect then is the clock, and erasure cannot be undone.
func (u *upkeep) checkClock(now time.Time) error {
	current, err := u.ring.EpochAt(now)
	if err != nil {
		return err
	}
	oldest, err := u.oldest(now)
	if err != nil {
		return err
	}
	start := idcodec.EpochStart(u.ring.Oldest(), u.ring.EpochLength())
	if current < u.ring.Oldest() {
		return fmt.Errorf("the clock says %s, which is before the keyring begins, %s: set the clock", now.UTC().Format(time.RFC3339), start.Format(time.RFC3339))
	}
	if span := current - oldest; !u.accept && oldest > u.ring.Oldest() && oldest-u.ring.Oldest() > span {
		return fmt.Errorf("the clock says %s, by which every key of the keyring, from %s on, would be erased for good: set the clock, or, if it is right, serve with --accept-clock",
			now.UTC().Format(time.RFC3339), start.Format(time.RFC3339))
	}
	return nil
}

// run erases what is due, if the clock can be that. It returns the oldest epoch that is kept.
func (u *upkeep) run(now time.Time) (uint32, error) {
	if err := u.checkClock(now); err != nil {
		return 0, err
	}
	u.accept = false
	oldest, err := u.oldest(now)
	if err != nil {
		return 0, err
	}
	if oldest <= u.ring.Oldest() {
		return u.ring.Oldest(), nil
	}
	next, err := u.ring.From(oldest)
	if err != nil {
		return 0, err
	}
	text, err := next.MarshalText()
	if err != nil {
		return 0, err
	}
	defer clear(text)
	if err := secretfile.Replace(u.path, text); err != nil {
		return 0, fmt.Errorf("keyring: %w", err)
	}
	before := u.ring.Oldest()
	if err := u.ring.Forget(oldest); err != nil {
		return 0, err
	}
	u.log.Info("erased the keys of epochs whose retention has ended", "from", before, "up_to", oldest-1)
	return oldest, nil
}
