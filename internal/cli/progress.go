package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Progress shows a bar on a terminal, and nothing elsewhere. What is shown is what is
// done, how many of how many, and how long it will take.
func Progress(w io.Writer, what string) func(done, of int) {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return bar(w, what, time.Now)
}

const barWidth = 30

func bar(w io.Writer, what string, now func() time.Time) func(done, of int) {
	began := now()
	var last time.Time
	return func(done, of int) {
		t := now()
		if done < of && t.Sub(last) < 100*time.Millisecond || of < 1 {
			return
		}
		last = t
		full := barWidth * done / of
		left := ""
		if done < of && done > 0 {
			left = fmt.Sprintf(", %s to go", (t.Sub(began) * time.Duration(of-done) / time.Duration(done)).Round(time.Second))
		}
		fmt.Fprintf(w, "\r%s [%s%s] %d of %d%s\x1b[K", what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, of, left)
		if done == of {
			fmt.Fprintln(w)
		}
	}
}
