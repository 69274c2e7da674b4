package query

import (
	"encoding/json"
	"strconv"
	"strings"
	"unsafe"
)

// maxDepth bounds the nesting of a payload that is looked into.
const maxDepth = 1000

// An extractor finds the wanted fields of a payload in one pass, which also
// checks that all of it is JSON (RFC 8259): a payload that is not has no fields.
//
// A path is names joined by dots; a name that is a number counts into an array,
// from 0. A key that has dots itself is found too. Of a key that comes twice
// the last one counts.
type extractor struct {
	paths []string
	found []field
	wants []want // a stack: each level's own lie at its end
	data  []byte
	at    int
}

type want struct {
	slot int
	rest string // of the path, below here
}

// A field is a value as it stands in the payload; text is nil if there is none.
type field struct{ text []byte }

// scan looks for the paths in data; false if data is not JSON. What it found
// points into data.
func (x *extractor) scan(data []byte) bool {
	if len(x.found) != len(x.paths) {
		x.found = make([]field, len(x.paths))
	}
	clear(x.found)
	x.data, x.at, x.wants = data, 0, x.wants[:0]
	for i, p := range x.paths {
		x.wants = append(x.wants, want{i, p})
	}
	x.space()
	start := x.at
	ok := x.value(0, len(x.wants), 0)
	end := x.at
	x.space()
	if !ok || x.at != len(data) {
		clear(x.found)
		return false
	}
	if c := data[start]; c != '{' && c != '[' {
		for i, p := range x.paths { // a bare value is the field "value"
			if p == "value" {
				x.found[i].text = data[start:end]
			}
		}
	}
	return true
}

func (x *extractor) space() {
	for x.at < len(x.data) && (x.data[x.at] == ' ' || x.data[x.at] == '\t' || x.data[x.at] == '\n' || x.data[x.at] == '\r') {
		x.at++
	}
}

func (x *extractor) next(c byte) bool {
	if x.at < len(x.data) && x.data[x.at] == c {
		x.at++
		return true
	}
	return false
}

// value passes one value; the wants from lo to hi are for what is in it.
func (x *extractor) value(lo, hi, depth int) bool {
	if x.at >= len(x.data) || depth > maxDepth {
		return false
	}
	switch c := x.data[x.at]; c {
	case '{':
		return x.object(lo, hi, depth)
	case '[':
		return x.array(lo, hi, depth)
	case '"':
		_, _, ok := x.text()
		return ok
	case 't':
		return x.is("true")
	case 'f':
		return x.is("false")
	case 'n':
		return x.is("null")
	default:
		return x.number()
	}
}

func (x *extractor) is(s string) bool {
	if len(x.data)-x.at < len(s) || string(x.data[x.at:x.at+len(s)]) != s {
		return false
	}
	x.at += len(s)
	return true
}

func (x *extractor) object(lo, hi, depth int) bool {
	x.at++
	x.space()
	if x.next('}') {
		return true
	}
	for {
		x.space()
		key, escaped, ok := x.text()
		if !ok {
			return false
		}
		x.space()
		if !x.next(':') {
			return false
		}
		x.space()
		name := ""
		if hi > lo {
			if escaped {
				name = unescape(key)
			} else {
				name = view(key[1 : len(key)-1])
			}
		}
		if !x.member(name, lo, hi, depth) {
			return false
		}
		x.space()
		if x.next('}') {
			return true
		}
		if !x.next(',') {
			return false
		}
	}
}

func (x *extractor) array(lo, hi, depth int) bool {
	x.at++
	x.space()
	if x.next(']') {
		return true
	}
	for i := 0; ; i++ {
		x.space()
		name := ""
		if hi > lo {
			name = strconv.Itoa(i)
		}
		if !x.member(name, lo, hi, depth) {
			return false
		}
		x.space()
		if x.next(']') {
			return true
		}
		if !x.next(',') {
			return false
		}
	}
}

// member passes the value under a name and keeps it for those who want it.
func (x *extractor) member(name string, lo, hi, depth int) bool {
	base := len(x.wants)
	here := false
	for i := lo; i < hi; i++ {
		w := x.wants[i]
		switch {
		case w.rest == name:
			here = true
		case len(w.rest) > len(name) && w.rest[len(name)] == '.' && w.rest[:len(name)] == name:
			x.wants = append(x.wants, want{w.slot, w.rest[len(name)+1:]})
		}
	}
	start := x.at
	ok := x.value(base, len(x.wants), depth+1)
	x.wants = x.wants[:base]
	if ok && here {
		for _, w := range x.wants[lo:hi] {
			if w.rest == name {
				x.found[w.slot].text = x.data[start:x.at]
			}
		}
	}
	return ok
}

// text passes a string and returns it with its quotes.
func (x *extractor) text() (s []byte, escaped, ok bool) {
	if !x.next('"') {
		return nil, false, false
	}
	start := x.at - 1
	for x.at < len(x.data) {
		c := x.data[x.at]
		x.at++
		switch {
		case c == '"':
			return x.data[start:x.at], escaped, true
		case c < 0x20:
			return nil, false, false
		case c == '\\':
			escaped = true
			if x.at >= len(x.data) {
				return nil, false, false
			}
			e := x.data[x.at]
			x.at++
			if e == 'u' {
				if len(x.data)-x.at < 4 || !isHex(x.data[x.at:x.at+4]) {
					return nil, false, false
				}
				x.at += 4
			} else if strings.IndexByte(`"\/bfnrt`, e) < 0 {
				return nil, false, false
			}
		}
	}
	return nil, false, false
}

func isHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

func (x *extractor) number() bool {
	x.next('-')
	if !x.next('0') && !x.digits() {
		return false
	}
	if x.next('.') && !x.digits() {
		return false
	}
	if x.next('e') || x.next('E') {
		if !x.next('+') {
			x.next('-')
		}
		return x.digits()
	}
	return true
}

func (x *extractor) digits() bool {
	start := x.at
	for x.at < len(x.data) && isDigit(x.data[x.at]) {
		x.at++
	}
	return x.at > start
}

// value is a field as SQL sees it: a number, text, 1 or 0 for true and false,
// NULL for null and for what is not there; an object or an array is its JSON
// text. Text points into the payload.
func (f field) value() any {
	if len(f.text) == 0 {
		return nil
	}
	switch f.text[0] {
	case '"':
		if s := f.text[1 : len(f.text)-1]; strings.IndexByte(view(s), '\\') < 0 {
			return view(s)
		}
		return unescape(f.text)
	case 't':
		return int64(1)
	case 'f':
		return int64(0)
	case 'n':
		return nil
	case '{', '[':
		return view(f.text)
	}
	if n, err := strconv.ParseInt(view(f.text), 10, 64); err == nil {
		return n
	}
	n, _ := strconv.ParseFloat(view(f.text), 64) // the text is a number; beyond the range it is infinite, as in SQLite
	return n
}

func unescape(b []byte) string {
	var s string
	if json.Unmarshal(b, &s) != nil {
		return "" // the pass over it found it right
	}
	return s
}

// view is b as a string that shares its memory.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
