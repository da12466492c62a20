package logging

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestAFloodOfOneTextIsBoundedAndCounted(t *testing.T) {
	var b strings.Builder
	l, err := New(&b, "text", slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	say := func(level slog.Level, text string) {
		if err := l.Handler().Handle(context.Background(), slog.NewRecord(at, level, text, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for range 500 {
		say(slog.LevelWarn, "flood")
	}
	say(slog.LevelError, "rare")
	for range 100 {
		say(slog.LevelInfo, "info")
	}
	at = at.Add(time.Minute)
	say(slog.LevelWarn, "flood")
	for text, want := range map[string]int{"msg=flood": PerMinute + 1, "msg=rare": 1, "msg=info": 100, "times=440": 1} {
		if got := strings.Count(b.String(), text); got != want {
			t.Errorf("%q stands %d times, want %d", text, got, want)
		}
	}
}

func TestUnknownFormat(t *testing.T) {
	if _, err := New(nil, "xml", slog.LevelInfo); err == nil {
		t.Error("xml was accepted")
	}
}
