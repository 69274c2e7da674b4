package kinesisapi

import (
	"bytes"
	"encoding/base64"
	"unicode/utf16"
	"unicode/utf8"
)

// A jsonReader goes over a request whose shape is known. Once something is not
// as it should be, bad is set and stays.
type jsonReader struct {
	b   []byte
	at  int
	bad bool
}

// next passes white space and gives the byte behind it; 0 at the end.
func (r *jsonReader) next() byte {
	for ; r.at < len(r.b); r.at++ {
		switch c := r.b[r.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// is passes c if it comes next.
func (r *jsonReader) is(c byte) bool {
	if r.next() != c {
		return false
	}
	r.at++
	return true
}

// must passes c, which has to come next.
func (r *jsonReader) must(c byte) {
	if !r.is(c) {
		r.bad = true
	}
}

// raw reads a string and gives what stands between its quotes, into which
// nobody has looked yet.
func (r *jsonReader) raw() []byte {
	r.must('"')
	if r.bad {
		return nil
	}
	from := r.at
	// Most strings have no escapes, and their end is the next quote.
	n := bytes.IndexByte(r.b[from:], '"')
	if n > 0 && r.b[from+n-1] == '\\' {
		n = jsonStringEnd(r.b, from) - from
	}
	if n < 0 || from+n >= len(r.b) {
		r.bad = true
		return nil
	}
	r.at = from + n + 1
	return r.b[from : from+n : from+n]
}

// name reads the name of a member and its colon.
func (r *jsonReader) name() []byte {
	s := r.raw()
	r.must(':')
	return s
}

// another goes on to the next member or element, or behind the end of the
// object or list; first says that none has come yet.
func (r *jsonReader) another(end byte, first bool) bool {
	if r.bad || r.is(end) {
		return false
	}
	if !first {
		r.must(',')
	}
	return !r.bad
}

// text reads a string.
func (r *jsonReader) text() *string {
	b, ok := appendUnescaped(nil, r.raw())
	if !ok {
		r.bad = true
	}
	s := string(b)
	return &s
}

// appendUnescaped appends what a string says; false if it does not say it in
// JSON and in UTF-8. Halves of surrogate pairs say U+FFFD, as encoding/json
// has it.
func appendUnescaped(b, raw []byte) ([]byte, bool) {
	from := len(b)
	plain := true
	for _, c := range raw {
		if c < ' ' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		return append(b, raw...), true
	}
	for i := 0; i < len(raw); {
		c := raw[i]
		switch {
		case c < ' ':
			return b, false
		case c != '\\':
			b = append(b, c)
			i++
			continue
		case i+1 == len(raw):
			return b, false
		}
		if raw[i+1] != 'u' {
			c, ok := unescaped(raw[i+1])
			if !ok {
				return b, false
			}
			b = append(b, c)
			i += 2
			continue
		}
		u, ok := hex4(raw[i:])
		if !ok {
			return b, false
		}
		i += 6
		if utf16.IsSurrogate(u) {
			low, ok := hex4(raw[i:])
			if u = utf16.DecodeRune(u, low); ok && u != utf8.RuneError {
				i += 6
			} else {
				u = utf8.RuneError
			}
		}
		b = utf8.AppendRune(b, u)
	}
	return b, utf8.Valid(b[from:])
}

// unescaped is what a backslash and c stand for.
func unescaped(c byte) (byte, bool) {
	switch c {
	case '"', '\\', '/':
		return c, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// hex4 reads \uXXXX.
func hex4(s []byte) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	var v rune
	for _, c := range s[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | rune(c)
	}
	return v, true
}

// putArena has room for what base64 of n bytes says, as far as a request may
// say it.
func (jsonCodec) putArena(n int) int { return min(base64.StdEncoding.DecodedLen(n), maxPutBytes+3) }

// scanPuts reads a PutRecords request. The records' data is decoded into the
// batch's arena.
func (jsonCodec) scanPuts(body []byte, b *batch) bool {
	b.begin()
	r := jsonReader{b: body}
	r.must('{')
	records := false
	for first := true; r.another('}', first); first = false {
		switch string(r.name()) {
		case "StreamName":
			if b.ref.StreamName != nil {
				return false
			}
			b.ref.StreamName = r.text()
		case "StreamARN":
			if b.ref.StreamARN != nil {
				return false
			}
			b.ref.StreamARN = r.text()
		case "Records":
			if records {
				return false
			}
			records = true
			r.must('[')
			for first := true; r.another(']', first); first = false {
				if !b.scanJSON(&r) {
					return false
				}
			}
		default:
			return false
		}
	}
	return !r.bad && r.next() == 0 && r.at == len(body) && b.finish()
}

// scanJSON reads one record.
func (b *batch) scanJSON(r *jsonReader) bool {
	rec := scanned{hash: -1}
	r.must('{')
	for first := true; r.another('}', first); first = false {
		switch string(r.name()) {
		case "Data":
			if rec.haveData || !b.blob(&rec, r.raw()) {
				return false
			}
		case "PartitionKey":
			from := len(b.keys)
			var ok bool
			if b.keys, ok = appendUnescaped(b.keys, r.raw()); !ok || !b.key(&rec, from) {
				return false
			}
		case "ExplicitHashKey":
			if !b.hashKey(&rec, r.raw()) {
				return false
			}
		default:
			return false
		}
	}
	return !r.bad && b.add(&rec)
}

// blob decodes base64 into the arena, which does not grow.
func (b *batch) blob(rec *scanned, raw []byte) bool {
	if bytes.IndexByte(raw, '\\') >= 0 { // some encoders write / as \/
		var ok bool
		if raw, ok = appendUnescaped(nil, raw); !ok {
			return false
		}
	}
	n, from := len(raw)/4*3, len(b.arena)
	if len(raw)%4 != 0 || cap(b.arena)-from < n {
		return false
	}
	if len(raw) > 0 && raw[len(raw)-1] == '=' {
		n--
		if raw[len(raw)-2] == '=' {
			n--
		}
	}
	got, err := base64.StdEncoding.Decode(b.arena[from:cap(b.arena)], raw)
	if err != nil || got != n { // line breaks, which base64 passes over, make it shorter
		return false
	}
	b.arena = b.arena[:from+n]
	rec.data, rec.haveData = b.arena[from:from+n:from+n], true
	return true
}
