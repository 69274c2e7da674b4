package rules

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"

	"forebay/gateway/expr"
)

// A template is a text with places in braces: {value}, {unit}, {key},
// {limit}, {rule}, {stream}, {source}, {topic}, {1} for what the first + of
// the filter stood for, or a field of the payload such as {motor.temp}.
type template struct {
	parts []part
	needs []int // slots of payload fields that it names
}

type part struct {
	lit   string
	place place
	n     int // capture or slot
}

type place uint8

const (
	literal place = iota
	valuePlace
	unitPlace
	keyPlace
	limitPlace
	rulePlace
	capturePlace
	slotPlace
)

func parseTemplate(s string, sc *expr.Schema, plus int, limit *float64, forKey bool) (template, error) {
	var t template
	rest := s
	for rest != "" {
		lit, after, found := strings.Cut(rest, "{")
		if lit != "" {
			t.parts = append(t.parts, part{lit: lit})
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		column := len([]rune(s)) - len([]rune(after))
		if !closed {
			return template{}, &expr.Error{Source: s, Column: column, Message: "{ has no }"}
		}
		rest = tail
		p, msg, hint := parsePlace(name, sc, plus, limit, forKey)
		if msg != "" {
			return template{}, &expr.Error{Source: s, Column: column, Message: msg, Hint: hint}
		}
		if p.place == slotPlace && !expr.IsBuiltin(name) {
			t.needs = append(t.needs, p.n)
		}
		t.parts = append(t.parts, p)
	}
	return t, nil
}

func parsePlace(name string, sc *expr.Schema, plus int, limit *float64, forKey bool) (p part, msg, hint string) {
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > plus {
			return p, fmt.Sprintf("{%d} stands for a + in match, which has %d", n, plus), ""
		}
		return part{place: capturePlace, n: n - 1}, "", ""
	}
	if name == "key" {
		return part{place: keyPlace}, "", ""
	}
	if !forKey {
		switch name {
		case "value":
			return part{place: valuePlace}, "", ""
		case "unit":
			return part{place: unitPlace}, "", ""
		case "rule":
			return part{place: rulePlace}, "", ""
		case "limit":
			if limit == nil {
				return p, "there is no {limit}", "it is the first number that `when` compares with, and there is none"
			}
			return part{place: limitPlace}, "", ""
		}
	}
	if expr.IsBuiltin(name) {
		return part{place: slotPlace, n: sc.Builtin(name)}, "", ""
	}
	path, err := expr.Path(name)
	if err != nil {
		return p, err.Error(), ""
	}
	for _, known := range []string{"value", "unit", "limit", "stream", "source"} {
		if !forKey && name != known && expr.Distance(name, known) == 1 {
			return p, fmt.Sprintf("{%s} is not known", name), fmt.Sprintf("did you mean {%s}?", known)
		}
	}
	return part{place: slotPlace, n: sc.Field(path)}, "", ""
}

// filled is what a template may speak of, besides the row.
type filled struct {
	w     *expr.Row
	caps  []string
	rule  string
	key   string
	value *float64
	unit  string
	limit *float64
}

func (t *template) render(f *filled) string {
	var b []byte
	for i := range t.parts {
		p := &t.parts[i]
		if len(b) > maxText {
			break
		}
		switch p.place {
		case literal:
			b = append(b, p.lit...)
		case valuePlace:
			b = appendNumber(b, f.value)
		case unitPlace:
			if f.unit == "" {
				b = bytes.TrimRight(b, " ")
			}
			b = append(b, f.unit...)
		case keyPlace:
			b = append(b, f.key...)
		case limitPlace:
			b = appendNumber(b, f.limit)
		case rulePlace:
			b = append(b, f.rule...)
		case capturePlace:
			b = append(b, f.caps[p.n]...)
		case slotPlace:
			b = appendField(b, f.w, p.n)
		}
	}
	if len(b) > maxText {
		b = append(b[:maxText], "..."...)
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "�"))
}

func appendField(b []byte, w *expr.Row, i int) []byte {
	if w == nil {
		return append(b, "–"...)
	}
	switch v := w.At(i); v.Kind {
	case expr.Text:
		return append(b, v.Str...)
	case expr.Number:
		return appendNumber(b, &v.Num)
	case expr.Boolean:
		return strconv.AppendBool(b, v.Num != 0)
	}
	return append(b, "–"...)
}

// appendNumber writes a number as people read it: six digits that count, no
// exponent where it can be avoided, a dash where there is none.
func appendNumber(b []byte, v *float64) []byte {
	if v == nil {
		return append(b, "–"...)
	}
	if a := math.Abs(*v); a >= 1e15 || (a < 1e-5 && a > 0) || math.IsInf(a, 0) || math.IsNaN(a) {
		return strconv.AppendFloat(b, *v, 'g', 6, 64)
	}
	six := *v
	if math.Abs(six) < 1e6 {
		six, _ = strconv.ParseFloat(strconv.FormatFloat(*v, 'g', 6, 64), 64) // what FormatFloat writes can be read
	}
	return strconv.AppendFloat(b, six, 'f', -1, 64)
}
