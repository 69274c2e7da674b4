package points

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// A measurement is what a payload says of one field.
type measurement struct {
	value    float64
	hasValue bool
	unit     string
	quality  string // good, uncertain, bad
}

// decode reads a payload: a JSON object with the field at path, and perhaps
// "unit" and "quality"; or a bare number, which is the field "value". It
// reports whether the payload could be read at all.
func decode(data []byte, path []string) (measurement, bool) {
	m := measurement{quality: "good"}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return m, false
	}
	if data[0] != '{' {
		if len(path) != 1 || path[0] != "value" {
			return m, false
		}
		m.value, m.hasValue = plain(data)
		return m, m.hasValue
	}
	var top map[string]json.RawMessage
	if json.Unmarshal(data, &top) != nil {
		return m, false
	}
	if q, ok := top["quality"]; ok {
		m.quality = quality(q)
	}
	var unit string
	if json.Unmarshal(top["unit"], &unit) == nil && len(unit) <= 64 {
		m.unit = unit
	}
	at := top
	for _, name := range path[:len(path)-1] {
		var below map[string]json.RawMessage
		if json.Unmarshal(at[name], &below) != nil {
			return m, true
		}
		at = below
	}
	m.value, m.hasValue = plain(at[path[len(path)-1]])
	return m, true
}

// plain reads a number, also in a form that instruments send ("+023.50").
func plain(b []byte) (float64, bool) {
	if len(b) == 0 || len(b) > 400 {
		return 0, false
	}
	for _, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(string(b), 64)
	return v, err == nil && !math.IsInf(v, 0)
}

// quality reads words, and OPC UA status codes (Part 4, 7.39: the top two bits
// are the severity).
func quality(raw json.RawMessage) string {
	var word string
	if json.Unmarshal(raw, &word) == nil {
		switch word = strings.ToLower(word); {
		case word == "" || strings.HasPrefix(word, "good"):
			return "good"
		case strings.HasPrefix(word, "bad"):
			return "bad"
		}
		return "uncertain"
	}
	var code uint32
	if json.Unmarshal(raw, &code) != nil {
		return "uncertain"
	}
	switch code >> 30 {
	case 0:
		return "good"
	case 1:
		return "uncertain"
	}
	return "bad"
}
