package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

// ErrNotEnvelope is returned for bytes that no Writer wrote.
var ErrNotEnvelope = errors.New("not an envelope")

// Is reports whether data is an envelope, of whatever gateway: one line of
// JSON in UTF-8 that begins with an id (GATEWAY/EPOCH/SHARD/SEQ, the epoch in
// 16 hexadecimal digits, and perhaps /INDEX), then perhaps a stream and a key,
// and a time. What is none costs the look at a few bytes, as a rule.
//
// The first form of envelopes, whose times are text ("arrived") and which
// leave out neither stream nor key, is one too.
func Is(data []byte) bool {
	h, ok := headOf(data)
	return ok && h.timed(data) && !bytes.ContainsAny(data, "\r\n") && utf8.Valid(data) && json.Valid(data)
}

// A head is what is known of an envelope by its beginning.
type head struct {
	id             int // bytes up to the end of the id, its quotation mark included
	end            int // bytes up to the end of what is named here
	stream, hasKey bool
}

// headOf reads the id, and stream and key where they follow.
func headOf(data []byte) (h head, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"id":"`))
	if !ok || data[len(data)-1] != '}' {
		return h, false
	}
	id, rest, ok := cutString(rest)
	if !ok || !isID(id) {
		return h, false
	}
	h.id = len(data) - len(rest)
	if rest, h.stream, ok = cutField(rest, `,"stream":"`); !ok {
		return h, false
	}
	if rest, h.hasKey, ok = cutField(rest, `,"key":"`); !ok {
		return h, false
	}
	h.end = len(data) - len(rest)
	return h, true
}

// cutField takes a field off the front of b, if it is the one that begins so;
// ok is false where its text does not end.
func cutField(b []byte, name string) (rest []byte, has, ok bool) {
	rest, has = bytes.CutPrefix(b, []byte(name))
	if !has {
		return b, false, true
	}
	_, rest, ok = cutString(rest)
	return rest, true, ok
}

// timed reports whether a time follows.
func (h head) timed(data []byte) bool {
	rest := data[h.end:]
	for _, name := range []string{`,"t":`, `,"at":`, `,"arrived":`} {
		v, ok := bytes.CutPrefix(rest, []byte(name))
		if !ok || len(v) == 0 {
			continue
		}
		if v[0] == '"' {
			return name != `,"t":` && h.stream && h.hasKey
		}
		return name != `,"arrived":` && (v[0] == '-' || '0' <= v[0] && v[0] <= '9')
	}
	return false
}

// keyless is where the key belongs in an envelope that has none; 0 if it has
// one.
func keyless(data []byte) int {
	h, ok := headOf(data)
	if !ok || h.hasKey {
		return 0
	}
	return h.end
}

// Forwarded reports whether a record is another gateway's envelope and nothing
// beside it. Append then writes no envelope of ours around it.
func Forwarded(r *record.Record) bool {
	return len(r.Attrs) == 0 && r.Chunk.Len == 0 && len(r.Blob) == 0 && Is(r.Data)
}

// cutString takes the inside of a JSON string off the front of b, whose
// opening quotation mark is gone already, and its closing one.
func cutString(b []byte) (inside, rest []byte, ok bool) {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[:i], b[i+1:], true
		}
	}
	return nil, nil, false
}

// isID reports whether b is the id of a record, or of a part of one.
func isID(b []byte) bool {
	numbers := 0
	for {
		i := bytes.LastIndexByte(b, '/')
		if i <= 0 {
			return false
		}
		last := b[i+1:]
		if numbers >= 2 && len(last) == 16 && only(last, hexDigits) {
			return true
		}
		if numbers == 3 || len(last) == 0 || len(last) > 20 || !only(last, hexDigits[:10]) {
			return false
		}
		numbers, b = numbers+1, b[:i]
	}
}

func only(b []byte, chars string) bool {
	for _, c := range b {
		if bytes.IndexByte([]byte(chars), c) < 0 {
			return false
		}
	}
	return true
}

// Opened is what an envelope holds.
type Opened struct {
	// ID names the record in the whole world, Stream is where it lay.
	ID, Stream string
	// Key is the partition key; "" where it travels beside the envelope.
	Key string
	// At is the sender's time, zero if it gave none; Arrived is when the
	// gateway that wrote the envelope took the record.
	At, Arrived  time.Time
	Source, Type string
	Attrs        map[string]string
	// Chunk is how many bytes lie beside the record at its gateway.
	Chunk int64
	// Data is the payload, byte for byte; a copy.
	Data []byte
}

// Open takes an envelope apart. Errors: ErrNotEnvelope, or what is wrong with
// the value of a field.
func Open(data []byte) (Opened, error) {
	if !Is(data) {
		return Opened{}, ErrNotEnvelope
	}
	var in struct {
		ID      string            `json:"id"`
		Stream  *string           `json:"stream"`
		Key     string            `json:"key"`
		At      moment            `json:"at"`
		T       moment            `json:"t"`
		Arrived moment            `json:"arrived"`
		Source  *string           `json:"source"`
		Type    string            `json:"type"`
		Attrs   map[string]string `json:"attrs"`
		Chunk   int64             `json:"chunk"`
		Data    json.RawMessage   `json:"data"`
		Base64  []byte            `json:"data_b64"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return Opened{}, fmt.Errorf("open an envelope: %w", err)
	}
	out := Opened{
		ID: in.ID, Stream: usualStream, Key: in.Key, At: time.Time(in.At), Arrived: time.Time(in.T),
		Type: in.Type, Attrs: in.Attrs, Chunk: in.Chunk, Data: in.Data,
	}
	if out.Arrived.IsZero() {
		out.Arrived = time.Time(in.Arrived)
	}
	if in.Stream != nil {
		out.Stream = *in.Stream
	}
	if out.Source = out.Stream; in.Source != nil {
		out.Source = *in.Source
	}
	if len(in.Base64) > 0 {
		out.Data = in.Base64
	}
	return out, nil
}

// A moment is a time in either form.
type moment time.Time

// UnmarshalJSON reads milliseconds since 1970, or text as in RFC 3339.
func (m *moment) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return (*time.Time)(m).UnmarshalJSON(b)
	}
	whole, fraction, _ := strings.Cut(string(b), ".")
	ms, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(fraction) > 6 || fraction != "" && !only([]byte(fraction), hexDigits[:10]) {
		return fmt.Errorf("%s is not a time in milliseconds", b)
	}
	ns, err := strconv.ParseInt((fraction + "000000")[:6], 10, 64)
	if err != nil {
		return err
	}
	if whole[0] == '-' {
		ns = -ns
	}
	*m = moment(time.UnixMilli(ms).Add(time.Duration(ns)).UTC())
	return nil
}

// A Place is where a record stands in its lane: its sequence number, and the
// number of its part, from 1, where it is a part of what was stored as one
// record; else 0.
type Place struct{ Seq, Part uint64 }

// After reports whether p comes behind q.
func (p Place) After(q Place) bool { return p.Seq > q.Seq || p.Seq == q.Seq && p.Part > q.Part }

// LaneOf reads the id at the front of an envelope: the lane that it came by,
// GATEWAY/EPOCH/SHARD, as a view of data, and its place there. It looks no
// further than the id; ok is false where none is there.
func LaneOf(data []byte) (lane []byte, at Place, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"id":"`))
	if !ok {
		return nil, at, false
	}
	id, _, ok := cutString(rest)
	if !ok || !isID(id) {
		return nil, at, false
	}
	return SplitID(id)
}

// SplitID takes a record's id apart, as LaneOf does. ok is false where it is
// none.
func SplitID[T ~string | ~[]byte](id T) (lane T, at Place, ok bool) {
	var fields [4]T // from the end
	left, n := id, 0
	for ; n < len(fields); n++ {
		i := len(left) - 1
		for i >= 0 && left[i] != '/' {
			i--
		}
		if i <= 0 {
			return lane, at, false
		}
		fields[n], left = left[i+1:], left[:i]
		if n >= 2 && len(fields[n]) == 16 {
			n++
			break
		}
	}
	seq := fields[n-3]
	var err error
	if at.Seq, err = strconv.ParseUint(string(seq), 10, 64); err != nil || len(fields[n-1]) != 16 {
		return lane, Place{}, false
	}
	end := len(id) - len(seq) - 1
	if n == 4 {
		if at.Part, err = strconv.ParseUint(string(fields[0]), 10, 64); err != nil {
			return lane, Place{}, false
		}
		end -= len(fields[0]) + 1
	}
	return id[:end], at, true
}
