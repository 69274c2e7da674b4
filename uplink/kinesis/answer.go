package kinesis

import (
	"encoding/binary"
	"strings"
)

// scanAnswer reads an answer to PutRecords of n records in the form that
// services write it in: an object whose Records are objects of plain strings.
// ok is false where it is anything else, which a full reader then judges. The
// entries are appended to dst; their strings are views of text.
func scanAnswer(dst []entry, text string, n int) (entries []entry, ok bool) {
	if !plain(text) {
		return nil, false
	}
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
			if entries, ok = s.records(dst, n); !ok {
				return nil, false
			}
		case "FailedRecordCount":
			if !s.byte('0') { // how many are said to have failed, a full reader counts
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

// plain reports whether text is printable ASCII on one line, without a reverse
// solidus. Eight bytes are looked at at a time.
func plain(text string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	var bad uint64
	i := 0
	for ; i+8 <= len(text); i += 8 {
		w := binary.LittleEndian.Uint64([]byte(text[i : i+8]))
		bad |= w | (w - ' '*ones) | (w + ones) // above ASCII, below the space, DEL
	}
	bad &= high
	for ; i < len(text); i++ {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return bad == 0 && strings.IndexByte(text, '\\') < 0
}

type answerScan struct{ left string }

// space passes spaces and gives what is left.
func (s *answerScan) space() string {
	for s.left != "" && s.left[0] == ' ' {
		s.left = s.left[1:]
	}
	return s.left
}

func (s *answerScan) byte(c byte) bool {
	if l := s.space(); l == "" || l[0] != c {
		return false
	}
	s.left = s.left[1:]
	return true
}

// str takes a string. The text holds printable ASCII alone, and no escapes.
func (s *answerScan) str() (string, bool) {
	if !s.byte('"') {
		return "", false
	}
	i := strings.IndexByte(s.left, '"')
	if i < 0 {
		return "", false
	}
	v := s.left[:i]
	s.left = s.left[i+1:]
	return v, true
}

func (s *answerScan) records(entries []entry, n int) ([]entry, bool) {
	if n == 0 || !s.byte('[') {
		return nil, false
	}
	for ; ; n-- {
		e, ok := s.entry()
		if !ok || n == 0 {
			return nil, false
		}
		if entries = append(entries, e); s.byte(',') {
			continue
		}
		return entries, s.byte(']') && n == 1
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
		twice := value == "" // which would not be seen
		switch name {
		case "SequenceNumber":
			twice = twice || e.numbered
			e.numbered = true
		case "ShardId":
			twice = false
		case "ErrorCode":
			twice = twice || e.code != ""
			e.code = value
		case "ErrorMessage":
			twice = twice || e.message != ""
			e.message = value
		default:
			return e, false
		}
		if twice { // a full reader minds that
			return e, false
		}
		if !s.byte(',') {
			return e, s.byte('}')
		}
	}
}
