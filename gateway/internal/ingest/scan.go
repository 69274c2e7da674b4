package ingest

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// maxDepth bounds the nesting of JSON.
const maxDepth = 512

const tooDeep = "it is nested more than 512 deep"

// A syntaxError says what is wrong where in a JSON text.
type syntaxError struct {
	off  int // bytes
	what string
}

// scan passes the JSON value (RFC 8259) that begins at i and gives the first
// place behind it. It does not look whether texts are UTF-8.
func scan(b []byte, i, depth int) (int, *syntaxError) {
	if i >= len(b) {
		return i, &syntaxError{i, "it ends where a value is due"}
	}
	switch c := b[i]; c {
	case '"':
		return scanText(b, i+1)
	case '{':
		return scanObject(b, i, depth+1)
	case '[':
		return scanArray(b, i, depth+1)
	case 't':
		return scanWord(b, i, "true")
	case 'f':
		return scanWord(b, i, "false")
	case 'n':
		return scanWord(b, i, "null")
	default:
		if c == '-' || digit(c) {
			return scanNumber(b, i)
		}
		return i, &syntaxError{i, "here is no value"}
	}
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// plain tells the bytes of a text that mean nothing special.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return t
}()

// scanText passes a text whose opening quote lies before i.
func scanText(b []byte, i int) (int, *syntaxError) {
	for {
		for i < len(b) && plain[b[i]] {
			i++
		}
		if i >= len(b) {
			return i, &syntaxError{i, "a text is not closed"}
		}
		switch b[i] {
		case '"':
			return i + 1, nil
		case '\\':
			n := escape(b[i+1:])
			if n == 0 {
				return i, &syntaxError{i, "a backslash begins no escape"}
			}
			i += 1 + n
		default:
			return i, &syntaxError{i, "a text has a control character"}
		}
	}
}

// escape is the length of what follows a backslash, 0 if it is no escape.
func escape(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(b) < 5 {
			return 0
		}
		for _, c := range b[1:5] {
			if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return 0
			}
		}
		return 5
	}
	return 0
}

func scanWord(b []byte, i int, word string) (int, *syntaxError) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return i, &syntaxError{i, "here is no value"}
	}
	return i + len(word), nil
}

func scanNumber(b []byte, i int) (int, *syntaxError) {
	digits := func() bool {
		from := i
		for i < len(b) && digit(b[i]) {
			i++
		}
		return i > from
	}
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return i, &syntaxError{i, "a number has no digit"}
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return i, &syntaxError{i, "a number has no digit behind its point"}
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return i, &syntaxError{i, "a number has no digit in its exponent"}
		}
	}
	return i, nil
}

func scanObject(b []byte, i, depth int) (int, *syntaxError) {
	if depth > maxDepth {
		return i, &syntaxError{i, tooDeep}
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return i, &syntaxError{i, "the name of a field is due"}
		}
		var err *syntaxError
		if i, err = scanText(b, i+1); err != nil {
			return i, err
		}
		if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
			return i, &syntaxError{i, "a colon is due"}
		}
		if i, err = scan(b, skipSpace(b, i+1), depth); err != nil {
			return i, err
		}
		i = skipSpace(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == '}':
			return i + 1, nil
		default:
			return i, &syntaxError{i, "an object is not closed"}
		}
	}
}

func scanArray(b []byte, i, depth int) (int, *syntaxError) {
	if depth > maxDepth {
		return i, &syntaxError{i, tooDeep}
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		var err *syntaxError
		if i, err = scan(b, i, depth); err != nil {
			return i, err
		}
		i = skipSpace(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == ']':
			return i + 1, nil
		default:
			return i, &syntaxError{i, "an array is not closed"}
		}
	}
}

// splitPath cuts a dotted path; nil if there is none.
func splitPath(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, ".")
}

// find is the value at a path of a JSON text that scan has passed, nil if
// there is none. Of a name that comes twice the last counts.
func find(b []byte, path []string) []byte {
	for _, name := range path {
		if b = member(b, name); b == nil {
			return nil
		}
	}
	return b
}

func member(b []byte, name string) (value []byte) {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return nil
	}
	for i = skipSpace(b, i+1); i < len(b) && b[i] == '"'; {
		from := i
		end, err := scanText(b, i+1)
		if err != nil {
			return nil
		}
		key := b[from:end]
		from = skipSpace(b, skipSpace(b, end)+1)
		if end, err = scan(b, from, 0); err != nil {
			return nil
		}
		if named(key, name) {
			value = b[from:end]
		}
		if i = skipSpace(b, end); i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return value
}

// named tells whether a JSON text, in its quotes, spells a name.
func named(text []byte, name string) bool {
	switch inner := text[1 : len(text)-1]; {
	case len(inner) < len(name):
		return false // an escape is longer than what it stands for
	case len(inner) == len(name):
		return string(inner) == name && strings.IndexByte(name, '\\') < 0
	}
	s, ok := scalar(text)
	return ok && string(s) == name
}

// scalar is a JSON text without its quotes and escapes, a number as it is
// written, true or false; not ok for null, an object, an array and nothing.
func scalar(raw []byte) (text []byte, ok bool) {
	if len(raw) == 0 || raw[0] == '{' || raw[0] == '[' || raw[0] == 'n' {
		return nil, false
	}
	if raw[0] != '"' {
		return raw, true
	}
	inner := raw[1 : len(raw)-1]
	for i := range inner {
		if inner[i] == '\\' {
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return nil, false
			}
			return []byte(s), true
		}
	}
	return inner, true
}

// isNumber tells a JSON number that a float can hold.
func isNumber(b []byte) bool {
	if len(b) == 0 || b[0] != '-' && !digit(b[0]) {
		return false
	}
	end, err := scanNumber(b, 0)
	return err == nil && end == len(b) && finite(b)
}

// finite tells whether a float can hold a decimal number.
func finite(b []byte) bool {
	if len(b) < 300 && !bytes.ContainsAny(b, "eE") {
		return true
	}
	_, err := strconv.ParseFloat(string(b), 64)
	return err == nil
}

const hexDigits = "0123456789abcdef"

// appendText appends a JSON text. It stops early where b grows beyond most
// bytes.
func appendText[T string | []byte](b []byte, s T, most int) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if plain[c] {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		if len(b) > most {
			return b
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
