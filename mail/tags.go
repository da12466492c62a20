package mail

import (
	"errors"
	"fmt"
	"strings"
)

// Header fields of the chain.
const (
	SourceField = "Bright-Source"
	HopField    = "Bright-Hop"
)

// maxValue bounds a field of the chain.
const maxValue = 4096

// tag is one of a field's tag=value pairs, as DKIM writes them (RFC 6376 §3.2).
type tag struct{ name, value string }

// formatTags writes a field's value, folded so that no line is longer than 78
// characters where that can be.
func formatTags(tags []tag) string {
	var b strings.Builder
	line := len(SourceField) + 2
	for i, t := range tags {
		part := t.name + "=" + t.value
		if i < len(tags)-1 {
			part += ";"
		}
		if i > 0 {
			if line+1+len(part) > 78 {
				b.WriteString("\r\n\t")
				line = 8
			} else {
				b.WriteByte(' ')
				line++
			}
		}
		b.WriteString(part)
		line += len(part)
	}
	return b.String()
}

var errTags = errors.New("it is no list of tag=value")

// parseTags reads a field's value. The tags must be those that are named, in their
// order: of a field there is one form but for white space.
func parseTags(value string, names ...string) (map[string]string, error) {
	if len(value) > maxValue {
		return nil, fmt.Errorf("%w: %d characters are too many", errTags, len(value))
	}
	parts := strings.Split(relaxedValue(value), ";")
	if len(parts) != len(names) {
		return nil, fmt.Errorf("%w: %d tags, want %s", errTags, len(parts), strings.Join(names, ", "))
	}
	out := make(map[string]string)
	for i, p := range parts {
		name, v, ok := strings.Cut(strings.TrimPrefix(p, " "), "=")
		if !ok || name != names[i] {
			return nil, fmt.Errorf("%w: %.40q in the place of %s=", errTags, p, names[i])
		}
		if strings.ContainsAny(v, " \x00") {
			return nil, fmt.Errorf("%w: a space in %s=", errTags, name)
		}
		out[name] = v
	}
	return out, nil
}
