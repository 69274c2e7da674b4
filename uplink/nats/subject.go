package nats

import (
	"slices"
	"strconv"
	"strings"

	"forebay/spool/record"
)

// A subjects makes the subjects of a template.
type subjects struct {
	base  string // with {stream} and {shard} left to fill in
	keyed bool   // the key stands behind it
}

func newSubjects(c Config, gateway string) subjects {
	base, keyed := strings.CutSuffix(c.subject(), keyMark)
	return subjects{strings.ReplaceAll(base, "{gateway}", token(gateway)), keyed}
}

// lane is where a lane's records go; with keyed, what their keys stand behind.
func (s subjects) lane(stream string, shard record.ShardID) string {
	return strings.NewReplacer("{stream}", token(stream), "{shard}", strconv.FormatUint(uint64(shard), 10)).Replace(s.base)
}

// stream is the token of the stream's name in a subject, empty where the
// template has none.
func (s subjects) stream(subject string) string {
	at := slices.Index(strings.Split(s.base, "."), "{stream}")
	if tokens := strings.Split(subject, "."); at >= 0 && at < len(tokens) {
		return tokens[at]
	}
	return ""
}

// family matches all subjects of a lane, and no other's.
func (s subjects) family(lane string) string {
	if s.keyed {
		return lane + ".>"
	}
	return lane
}

// gateway matches all subjects of this gateway.
func (s subjects) gateway() string {
	return s.family(strings.NewReplacer("{stream}", "*", "{shard}", "*").Replace(s.base))
}

// everybody matches the subjects of all gateways that have the template.
func (c Config) everybody() string {
	base, keyed := strings.CutSuffix(c.subject(), keyMark)
	return subjects{keyed: keyed}.family(strings.NewReplacer("{gateway}", "*", "{stream}", "*", "{shard}", "*").Replace(base))
}

// covers reports whether a pattern of a stream takes a subject.
func covers(pattern, subject string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		t, restT, moreT := strings.Cut(subject, ".")
		switch {
		case p == ">":
			return true
		case p != "*" && p != t, moreP != moreT:
			return false
		case !moreP:
			return true
		}
		pattern, subject = restP, restT
	}
}

// token is a name as one token of a subject, and no other name's: a byte that
// NATS keeps for itself (. * > white space, controls) and % are written as %
// and two hexadecimal digits, an empty name as % alone.
func token(name string) string {
	if name == "" {
		return "%"
	}
	if strings.IndexFunc(name, reserved) < 0 {
		return name
	}
	return string(appendToken(nil, name))
}

func reserved(r rune) bool {
	return r <= ' ' || r == '.' || r == '*' || r == '>' || r == '%' || r == 0x7f
}

func appendToken(dst []byte, name string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(name) {
		if c := name[i]; reserved(rune(c)) && c < 0x80 {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// appendKey appends a key as tokens: its slashes become dots.
func appendKey(dst []byte, key string) []byte {
	for level := range strings.SplitSeq(key, "/") {
		dst = append(dst, '.')
		if level == "" {
			dst = append(dst, '%')
			continue
		}
		dst = appendToken(dst, level)
	}
	return dst
}

// A mark is the id of the last message of a lane: what the stream holds of it.
type mark struct {
	origin record.Origin
	shard  record.ShardID
	seq    uint64
	part   int // of what was stored as one record, from 1; 0 where it is whole
}

// parseMark reads GATEWAY/EPOCH/SHARD/SEQ, and perhaps /PART.
func parseMark(id string) (m mark, ok bool) {
	var numbers []uint64 // from the right
	for {
		i := strings.LastIndexByte(id, '/')
		if i < 0 {
			return mark{}, false
		}
		last := id[i+1:]
		if len(numbers) >= 2 && len(last) == 16 {
			epoch, err := strconv.ParseUint(last, 16, 64)
			if err != nil {
				return mark{}, false
			}
			m.origin = record.Origin{Gateway: id[:i], Epoch: record.Epoch(epoch)}
			break
		}
		n, err := strconv.ParseUint(last, 10, 64)
		if err != nil || len(numbers) == 3 {
			return mark{}, false
		}
		numbers, id = append(numbers, n), id[:i]
	}
	if len(numbers) == 3 {
		if numbers[0] == 0 || numbers[0] > 1<<31-1 {
			return mark{}, false
		}
		m.part, numbers = int(numbers[0]), numbers[1:]
	}
	if numbers[1] > 1<<32-1 || numbers[0] == 0 {
		return mark{}, false
	}
	m.seq, m.shard = numbers[0], record.ShardID(numbers[1])
	return m, true
}

// holds reports whether a stream whose last message of the lane is m has the
// given part of a record that was stored under the origin o. A record of an
// earlier epoch of the gateway that writes now lies in front of all that it has
// written in this one; any other epoch says nothing.
func (m mark) holds(o, here record.Origin, p record.Pos, part int) bool {
	switch {
	case m.seq == 0 || m.shard != p.Shard:
		return false
	case m.origin == o:
		return p.Seq < m.seq || p.Seq == m.seq && part <= m.part
	case m.origin == here:
		return p.Seq < m.seq
	}
	return false
}
