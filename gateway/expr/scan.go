package expr

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A scanner walks a JSON text (RFC 8259) once. It checks all of it, keeps only
// what is wanted, and takes the last of members with the same name, as
// encoding/json does.
type scanner struct {
	b     []byte
	i     int
	depth int
	w     *Row
}

func (s *Schema) scan(w *Row, data []byte) bool {
	p := scanner{b: data, w: w}
	p.space()
	if p.i >= len(data) {
		return false
	}
	root := &s.root
	if data[p.i] != '{' && data[p.i] != '[' {
		root = &s.bare
	}
	if !p.value(root) {
		return false
	}
	p.space()
	return p.i == len(data)
}

func (p *scanner) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *scanner) value(n *wanted) bool {
	if p.i >= len(p.b) {
		return false
	}
	want := n != nil && n.slot >= 0
	switch c := p.b[p.i]; c {
	case '{':
		return p.object(n)
	case '[':
		return p.array()
	case '"':
		raw, plain, ok := p.str()
		if ok && want {
			p.w.slots[n.slot] = Value{Kind: Text, Str: p.text(raw, plain)}
		}
		return ok
	case 't':
		return p.word("true", n, Value{Kind: Boolean, Num: 1})
	case 'f':
		return p.word("false", n, Value{Kind: Boolean})
	case 'n':
		return p.word("null", n, Value{})
	default:
		v, ok := p.number(want)
		if ok && want {
			p.w.slots[n.slot] = Value{Kind: Number, Num: v}
		}
		return ok
	}
}

func (p *scanner) word(w string, n *wanted, v Value) bool {
	if len(p.b)-p.i < len(w) || string(p.b[p.i:p.i+len(w)]) != w {
		return false
	}
	p.i += len(w)
	if n != nil && n.slot >= 0 {
		p.w.slots[n.slot] = v
	}
	return true
}

// after takes what follows a member: a comma, or the closing bracket, which
// ends the object or array.
func (p *scanner) after(closing byte) (end, ok bool) {
	p.space()
	if p.i >= len(p.b) {
		return false, false
	}
	c := p.b[p.i]
	p.i++
	if c == closing {
		p.depth--
		return true, true
	}
	return false, c == ','
}

func (p *scanner) object(n *wanted) bool {
	if p.depth++; p.depth > maxDepth {
		return false
	}
	p.i++ // {
	p.space()
	if p.i < len(p.b) && p.b[p.i] == '}' {
		p.i++
		p.depth--
		return true
	}
	for {
		p.space()
		if p.i >= len(p.b) || p.b[p.i] != '"' {
			return false
		}
		raw, plain, ok := p.str()
		if !ok {
			return false
		}
		kid := p.kid(n, raw, plain)
		p.space()
		if p.i >= len(p.b) || p.b[p.i] != ':' {
			return false
		}
		p.i++
		p.space()
		if !p.value(kid) {
			return false
		}
		if end, ok := p.after('}'); end || !ok {
			return ok
		}
	}
}

// kid is the wanted child of that name, with what an earlier member of the
// same name left behind taken away.
func (p *scanner) kid(n *wanted, raw []byte, plain bool) *wanted {
	if n == nil || len(n.kids) == 0 {
		return nil
	}
	if !plain {
		raw = p.text(raw, false)
	}
	for _, k := range n.kids {
		if k.name == string(raw) {
			for _, i := range k.below {
				p.w.slots[i] = Value{}
			}
			return k
		}
	}
	return nil
}

func (p *scanner) array() bool {
	if p.depth++; p.depth > maxDepth {
		return false
	}
	p.i++ // [
	p.space()
	if p.i < len(p.b) && p.b[p.i] == ']' {
		p.i++
		p.depth--
		return true
	}
	for {
		p.space()
		if !p.value(nil) {
			return false
		}
		if end, ok := p.after(']'); end || !ok {
			return ok
		}
	}
}

// str passes a string; raw is what stands between the quotes, plain says that
// it is its own value: no escapes, valid UTF-8.
func (p *scanner) str() (raw []byte, plain, ok bool) {
	p.i++ // "
	from := p.i
	for i, c := range p.b[from:] { // as most are: short, in ASCII
		if c == '"' {
			p.i = from + i + 1
			return p.b[from : from+i], true, true
		}
		if c == '\\' || c-' ' >= utf8.RuneSelf-' ' {
			p.i = from + i
			break
		}
	}
	plain = true
	high := false
	for p.i < len(p.b) {
		switch c := p.b[p.i]; {
		case c == '"':
			raw = p.b[from:p.i]
			p.i++
			if high && plain {
				plain = utf8.Valid(raw)
			}
			return raw, plain, true
		case c == '\\':
			plain = false
			if !p.escape() {
				return nil, false, false
			}
		case c < ' ':
			return nil, false, false
		default:
			high = high || c >= utf8.RuneSelf
			p.i++
		}
	}
	return nil, false, false
}

func (p *scanner) escape() bool {
	p.i++ // backslash
	if p.i >= len(p.b) {
		return false
	}
	c := p.b[p.i]
	p.i++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		if len(p.b)-p.i < 4 {
			return false
		}
		_, ok := hex4(p.b[p.i:])
		p.i += 4
		return ok
	}
	return false
}

func hex4(b []byte) (rune, bool) {
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// text is the value of a string whose escapes are known to be well formed.
func (p *scanner) text(raw []byte, plain bool) []byte {
	if plain {
		return raw
	}
	at := len(p.w.scratch)
	out := p.w.scratch
	for i := 0; i < len(raw); {
		c := raw[i]
		switch {
		case c == '\\' && raw[i+1] == 'u':
			r, _ := hex4(raw[i+2:])
			i += 6
			if utf16.IsSurrogate(r) {
				pair := utf8.RuneError
				if i+6 <= len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
					low, _ := hex4(raw[i+2:])
					pair = utf16.DecodeRune(r, low)
				}
				if pair != utf8.RuneError {
					i += 6
				}
				r = pair
			}
			out = utf8.AppendRune(out, r)
		case c == '\\':
			out = append(out, unescaped(raw[i+1]))
			i += 2
		case c < utf8.RuneSelf:
			out = append(out, c)
			i++
		default:
			r, n := utf8.DecodeRune(raw[i:])
			out = utf8.AppendRune(out, r)
			i += n
		}
	}
	p.w.scratch = out
	return out[at:len(out):len(out)]
}

func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

// number passes a number and, if it is wanted, reads it.
func (p *scanner) number(want bool) (float64, bool) {
	from := p.i
	if p.i < len(p.b) && p.b[p.i] == '-' {
		p.i++
	}
	switch {
	case p.i < len(p.b) && p.b[p.i] == '0':
		p.i++
	case !p.digits():
		return 0, false
	}
	if p.i < len(p.b) && p.b[p.i] == '.' {
		p.i++
		if !p.digits() {
			return 0, false
		}
	}
	if p.i < len(p.b) && (p.b[p.i] == 'e' || p.b[p.i] == 'E') {
		p.i++
		if p.i < len(p.b) && (p.b[p.i] == '+' || p.b[p.i] == '-') {
			p.i++
		}
		if !p.digits() {
			return 0, false
		}
	}
	if !want {
		return 0, true
	}
	v, err := strconv.ParseFloat(string(p.b[from:p.i]), 64)
	return v, err == nil
}

func (p *scanner) digits() bool {
	from := p.i
	for p.i < len(p.b) && '0' <= p.b[p.i] && p.b[p.i] <= '9' {
		p.i++
	}
	return p.i > from
}
