package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

// ErrNotEnvelope is returned for bytes that no Writer wrote.
var ErrNotEnvelope = errors.New("not an envelope")

// Is reports whether data is an envelope, of whatever gateway: one
// line of JSON in UTF-8 that begins with an id (GATEWAY/EPOCH/SHARD/SEQ, the
// epoch in 16 hexadecimal digits, and perhaps /INDEX), a stream, a key and a
// time. What is none costs the look at a few bytes, as a rule.
func Is(data []byte) bool {
	rest, ok := bytes.CutPrefix(data, []byte(`{"id":"`))
	if !ok || data[len(data)-1] != '}' {
		return false
	}
	id, rest, ok := cutString(rest)
	if !ok || !isID(id) {
		return false
	}
	for _, name := range []string{`,"stream":"`, `,"key":"`} {
		if rest, ok = bytes.CutPrefix(rest, []byte(name)); !ok {
			return false
		}
		if _, rest, ok = cutString(rest); !ok {
			return false
		}
	}
	if !bytes.HasPrefix(rest, []byte(`,"at":"`)) && !bytes.HasPrefix(rest, []byte(`,"arrived":"`)) {
		return false
	}
	return !bytes.ContainsAny(data, "\r\n") && utf8.Valid(data) && json.Valid(data)
}

// Forwarded reports whether a record is another gateway's envelope and nothing
// beside it: it needs none of ours, and keeps its id however far it goes.
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
	Key        string
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
		Stream  string            `json:"stream"`
		Key     string            `json:"key"`
		At      time.Time         `json:"at"`
		Arrived time.Time         `json:"arrived"`
		Source  string            `json:"source"`
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
		ID: in.ID, Stream: in.Stream, Key: in.Key, At: in.At, Arrived: in.Arrived,
		Source: in.Source, Type: in.Type, Attrs: in.Attrs, Chunk: in.Chunk, Data: in.Data,
	}
	if len(in.Base64) > 0 {
		out.Data = in.Base64
	}
	return out, nil
}
