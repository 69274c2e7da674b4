package envelope

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// slowInline says the same with the standard library's words.
func slowInline(data []byte) bool {
	if isSpace(data[0]) || isSpace(data[len(data)-1]) || bytes.ContainsAny(data, "\r\n") || !utf8.Valid(data) || !json.Valid(data) {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > maxInline {
				return false
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return true
}

// FuzzInline: what stands in an envelope as it is is what the standard library
// calls JSON, neither more nor less.
func FuzzInline(f *testing.F) {
	for _, s := range []string{
		"1", "-0", "-", "01", "1.", "1.5e+7", "1e", ".5", "+1", "1 2", `""`, `"\u00e4"`, `"\u00g4"`, `"\x"`, "\"\x1f\"", "\"\x7f\"", `"ä"`, "\"\xff\"", `"\`, `"`,
		"{}", "[]", "{ }", "[ ]", `{"a":1}`, `{"a" : [1 , {"b":null}]}`, `{"a":1,}`, `[1,]`, `{"a"}`, `{1:2}`, "[1\n]", "[1\r]", "[\t1]", "true", "false", "null", "nul", "truex", "tru e",
		strings.Repeat("[", 512) + strings.Repeat("]", 512), strings.Repeat("[", 513) + strings.Repeat("]", 513), strings.Repeat(`{"a":`, 512) + "1" + strings.Repeat("}", 512), "\ufeff1", "[1]]", "{}{}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		if got, want := inlineJSON(data), slowInline(data); got != want {
			t.Fatalf("%q: %v, the standard library says %v", data, got, want)
		}
	})
}
