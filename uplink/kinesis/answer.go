package kinesis

import "strings"

// scanAnswer reads an answer to PutRecords of n records in the form that
// services write it in: an object whose Records are objects of plain strings.
// ok is false where it is anything else, which a full reader then judges.
// The entries' strings are views of text.
func scanAnswer(text string, n int) (entries []entry, ok bool) {
	s := answerScan{text}
	if !s.byte('{') {
		return nil, false
	}
	for {
		name, ok := s.str()
		if !ok || !s.byte(':') {
			return nil, false
		}
		switch name {
		case "Records":
			if entries != nil {
				return nil, false
			}
			if entries, ok = s.records(n); !ok {
				return nil, false
			}
		case "FailedRecordCount":
			if !s.number() {
				return nil, false
			}
		case "EncryptionType":
			if _, ok := s.str(); !ok {
				return nil, false
			}
		default:
			return nil, false
		}
		if s.byte(',') {
			continue
		}
		return entries, s.byte('}') && s.space() == "" && entries != nil
	}
}

type answerScan struct{ left string }

// space passes white space and gives what is left.
func (s *answerScan) space() string {
	if s.left == "" || s.left[0] > ' ' {
		return s.left
	}
	s.left = strings.TrimLeft(s.left, " \t\r\n")
	return s.left
}

func (s *answerScan) byte(c byte) bool {
	if l := s.space(); l == "" || l[0] != c {
		return false
	}
	s.left = s.left[1:]
	return true
}

// str takes a string of printable ASCII without escapes.
func (s *answerScan) str() (string, bool) {
	if !s.byte('"') {
		return "", false
	}
	for i := 0; i < len(s.left); i++ {
		switch c := s.left[i]; {
		case c == '"':
			v := s.left[:i]
			s.left = s.left[i+1:]
			return v, true
		case c < ' ' || c > '~' || c == '\\':
			return "", false
		}
	}
	return "", false
}

// number takes a small number that is not negative.
func (s *answerScan) number() bool {
	l := s.space()
	i := 0
	for i < len(l) && i < 9 && '0' <= l[i] && l[i] <= '9' {
		i++
	}
	s.left = l[i:]
	return i == 1 || i > 1 && l[0] != '0'
}

func (s *answerScan) records(n int) ([]entry, bool) {
	if n == 0 || !s.byte('[') {
		return nil, false
	}
	entries := make([]entry, 0, n)
	for {
		e, ok := s.entry()
		if !ok || len(entries) == n {
			return nil, false
		}
		if entries = append(entries, e); s.byte(',') {
			continue
		}
		return entries, s.byte(']') && len(entries) == n
	}
}

func (s *answerScan) entry() (e entry, ok bool) {
	if !s.byte('{') {
		return e, false
	}
	for {
		name, ok := s.str()
		if !ok || !s.byte(':') {
			return e, false
		}
		value, ok := s.str()
		if !ok {
			return e, false
		}
		switch name {
		case "SequenceNumber":
			e.SequenceNumber = value
		case "ShardId":
			e.ShardID = value
		case "ErrorCode":
			e.ErrorCode = value
		case "ErrorMessage":
			e.ErrorMessage = value
		default:
			return e, false
		}
		if !s.byte(',') {
			return e, s.byte('}')
		}
	}
}
