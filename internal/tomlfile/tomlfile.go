// Package tomlfile reads TOML strictly: an unknown key or a wrong value is an error
// that names file, line and key.
package tomlfile

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Error is what is wrong with a file.
type Error struct {
	File string
	Line int // 0 when something is missing
	Key  string
	Err  error
}

func (e *Error) Error() string {
	where := e.File
	if e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	if e.Key == "" {
		return fmt.Sprintf("%s: %v", where, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", where, e.Key, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Decode decodes strictly and gives the library's errors their file and line.
func Decode(file string, text []byte, v any) error {
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var errs []error
		for i := range strict.Errors {
			e := &strict.Errors[i]
			line, _ := e.Position()
			errs = append(errs, &Error{file, line, strings.Join(e.Key(), "."), errors.New("unknown key")})
		}
		return errors.Join(errs...)
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, _ := de.Position()
		key := strings.Join(de.Key(), ".")
		if key == "" {
			key = keyAt(text, line)
		}
		return &Error{file, line, key, errors.New(strings.TrimPrefix(de.Error(), "toml: "))}
	}
	if err != nil {
		return &Error{File: file, Err: err}
	}
	return nil
}

// Lines returns the line of every key, by its dotted name; a key in the n-th
// table of an array is array[n].key, also where arrays are in arrays.
func Lines(text []byte) map[string]int {
	out := make(map[string]int)
	var p unstable.Parser
	p.Reset(text)
	prefix := ""
	count := make(map[string]int)
	for p.NextExpression() {
		e := p.Expression()
		name, line := "", 0
		for it := e.Key(); it.Next(); {
			if name != "" {
				if n := count[name]; n > 0 && e.Kind != unstable.KeyValue {
					name = fmt.Sprintf("%s[%d]", name, n-1) // the array's last table
				}
				name += "."
			}
			name += string(it.Node().Data)
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		switch e.Kind {
		case unstable.Table:
			prefix = name
			out[prefix] = line
			prefix += "."
		case unstable.ArrayTable:
			prefix = fmt.Sprintf("%s[%d]", name, count[name])
			count[name]++
			out[prefix] = line
			prefix += "."
		case unstable.KeyValue:
			out[prefix+name] = line
		}
	}
	return out
}

// keyAt returns the key whose line is the last at or before a line.
func keyAt(text []byte, line int) string {
	best, key := 0, ""
	for k, l := range Lines(text) {
		if l <= line && l > best {
			best, key = l, k
		}
	}
	return key
}
