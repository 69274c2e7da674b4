package envelope

import "unicode/utf8"

// maxInline is how deep JSON may nest to stand in the envelope: common parsers
// stop at a thousand, and the envelope adds a level.
const maxInline = 512

// inlineJSON reports whether a reader of the envelope gets data back byte for
// byte if it stands there as it is: JSON (RFC 8259) in UTF-8 on one line,
// without white space around it, that nests no deeper than maxInline.
func inlineJSON(data []byte) bool {
	if isSpace(data[0]) || isSpace(data[len(data)-1]) {
		return false
	}
	s := scan{b: data}
	return s.value(0) && s.at == len(data) && (!s.wide || utf8.Valid(data))
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// A scan is a place in JSON that is being looked through.
type scan struct {
	b    []byte
	at   int
	wide bool // something is not ASCII
}

// peek is the next byte behind white space on the line, 0 at the end.
func (s *scan) peek() byte {
	for s.at < len(s.b) && (s.b[s.at] == ' ' || s.b[s.at] == '\t') {
		s.at++
	}
	if s.at == len(s.b) {
		return 0
	}
	return s.b[s.at]
}

func (s *scan) value(depth int) bool {
	if s.at == len(s.b) {
		return false
	}
	switch c := s.b[s.at]; {
	case c == '"':
		return s.str()
	case c == '{':
		return depth < maxInline && s.object(depth+1)
	case c == '[':
		return depth < maxInline && s.array(depth+1)
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return false
}

func (s *scan) object(depth int) bool {
	s.at++
	if s.peek() == '}' {
		s.at++
		return true
	}
	for {
		if s.peek() != '"' || !s.str() || s.peek() != ':' {
			return false
		}
		s.at++
		if s.peek(); !s.value(depth) {
			return false
		}
		switch s.peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			return true
		default:
			return false
		}
	}
}

func (s *scan) array(depth int) bool {
	s.at++
	if s.peek() == ']' {
		s.at++
		return true
	}
	for {
		if s.peek(); !s.value(depth) {
			return false
		}
		switch s.peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			return true
		default:
			return false
		}
	}
}

func (s *scan) str() bool {
	b := s.b
	for i := s.at + 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			s.at = i + 1
			return true
		case c < ' ':
			return false
		case c >= utf8.RuneSelf:
			s.wide = true
		case c == '\\':
			i++
			if i == len(b) {
				return false
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for k := 1; k <= 4; k++ {
					if i+k >= len(b) || !isHex(b[i+k]) {
						return false
					}
				}
				i += 4
			default:
				return false
			}
		}
	}
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func (s *scan) number() bool {
	if s.b[s.at] == '-' {
		s.at++
	}
	switch {
	case s.at < len(s.b) && s.b[s.at] == '0':
		s.at++
	case !s.digits():
		return false
	}
	if s.at < len(s.b) && s.b[s.at] == '.' {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if s.at < len(s.b) && s.b[s.at]|0x20 == 'e' {
		s.at++
		if s.at < len(s.b) && (s.b[s.at] == '+' || s.b[s.at] == '-') {
			s.at++
		}
		return s.digits()
	}
	return true
}

// digits passes one or more.
func (s *scan) digits() bool {
	from := s.at
	for s.at < len(s.b) && '0' <= s.b[s.at] && s.b[s.at] <= '9' {
		s.at++
	}
	return s.at > from
}

func (s *scan) word(w string) bool {
	if len(s.b)-s.at < len(w) || string(s.b[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}
