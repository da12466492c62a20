// Package logging makes the daemons' loggers.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// New returns a logger for a format, "text" or "json". What strangers can cause
// is bounded: of each warning or error text, at most [PerMinute] lines a minute
// are written.
func New(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(limit(slog.NewTextHandler(w, o))), nil
	case "json":
		return slog.New(limit(slog.NewJSONHandler(w, o))), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", format)
}

// PerMinute is how many lines of one text are written in a minute.
const PerMinute = 60

// maxTexts bounds the memory of the limiter. Texts are constants of the program,
// so there are few.
const maxTexts = 1000

type limiter struct {
	slog.Handler
	shared *counts
}

type counts struct {
	mu     sync.Mutex
	minute time.Time
	seen   map[string]int
}

func limit(h slog.Handler) slog.Handler {
	return &limiter{h, &counts{seen: make(map[string]int)}}
}

func (l *limiter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return l.Handler.Handle(ctx, r)
	}
	n, suppressed := l.shared.count(r.Time, r.Message)
	for text, times := range suppressed {
		s := slog.NewRecord(r.Time, slog.LevelWarn, "lines were left out", r.PC)
		s.AddAttrs(slog.String("text", text), slog.Int("times", times))
		if err := l.Handler.Handle(ctx, s); err != nil {
			return err
		}
	}
	if n > PerMinute {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// count counts a text and returns how often it came in this minute and, when a
// minute ends, how many lines of each text were left out in it.
func (c *counts) count(at time.Time, text string) (int, map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var suppressed map[string]int
	if m := at.Truncate(time.Minute); !m.Equal(c.minute) {
		for t, n := range c.seen {
			if n > PerMinute {
				if suppressed == nil {
					suppressed = make(map[string]int)
				}
				suppressed[t] = n - PerMinute
			}
		}
		c.minute = m
		clear(c.seen)
	}
	if len(c.seen) >= maxTexts && c.seen[text] == 0 {
		return PerMinute + 1, suppressed
	}
	c.seen[text]++
	return c.seen[text], suppressed
}

func (l *limiter) WithAttrs(a []slog.Attr) slog.Handler {
	return &limiter{l.Handler.WithAttrs(a), l.shared}
}
func (l *limiter) WithGroup(name string) slog.Handler {
	return &limiter{l.Handler.WithGroup(name), l.shared}
}
