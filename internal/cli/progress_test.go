package cli

import (
	"strings"
	"testing"
	"time"
)

func TestABarTellsHowFarAndHowLong(t *testing.T) {
	var b strings.Builder
	now := time.Unix(0, 0)
	p := bar(&b, "approving", func() time.Time { return now })
	now = now.Add(time.Second)
	p(2500, 10_000)
	p(2501, 10_000) // too soon
	now = now.Add(time.Second)
	p(10_000, 10_000)
	want := "\rapproving [#######.......................] 2500 of 10000, 3s to go\x1b[K\rapproving [##############################] 10000 of 10000\x1b[K\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	if Progress(&b, "x") != nil {
		t.Error("a bar where nobody watches")
	}
}
