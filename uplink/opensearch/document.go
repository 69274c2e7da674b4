package opensearch

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// A writer makes documents of records.
type writer struct {
	id    record.Identity
	index name
	op    string
}

// describe is what a record, or part of one, says of itself. A record that
// came in another gateway's envelope says what stands there.
func (w *writer) describe(stream string, r *record.Record, part int) envelope.Opened {
	if envelope.Forwarded(r) {
		// One that bears our own name did not come from another gateway. Under
		// its id it could take the place of a record that is still to come.
		if o, err := envelope.Open(r.Data); err == nil && !strings.HasPrefix(o.ID, w.id.Gateway+"/") {
			if o.Key == "" {
				o.Key = r.Key
			}
			return o
		}
	}
	o := envelope.Opened{
		ID: w.id.Of(r), Stream: stream, Key: r.Key, At: r.At, Arrived: r.Arrived, Source: r.Source,
		Type: r.Type, Attrs: r.Attrs, Chunk: max(r.Chunk.Len, int64(len(r.Blob))), Data: r.Data,
	}
	if part > 0 {
		o.ID += "/" + strconv.Itoa(part)
	}
	return o
}

// A record that came in another gateway's envelope may say that it arrived there
// so long before it arrived here, or, as clocks differ, so long after.
const (
	before = 400 * 24 * time.Hour
	behind = 24 * time.Hour
)

// dayOf is the time that chooses an index: what an envelope says, so that a
// record is one document whichever way it came, but within bounds of our own
// arrival, as any device may write an envelope, and an index for each day that
// there is. Both times are in the log, so a record that is sent again goes to
// the same index.
func dayOf(said, ours time.Time) time.Time {
	if said.Before(ours.Add(-before)) || said.After(ours.Add(behind)) {
		return ours
	}
	return said
}

// append appends the two lines of a record to a bulk request, and gives the
// index that it goes to.
func (w *writer) append(dst []byte, stream string, r *record.Record, part int) ([]byte, string) {
	o := w.describe(stream, r, part)
	index := w.index.of(stream, dayOf(o.Arrived, r.Arrived))
	id := o.ID
	if len(id) > maxID {
		sum := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(sum[:])
	}
	dst = append(append(append(dst, `{"`...), w.op...), `":{"_index":"`...)
	dst = append(append(dst, index...), `","_id":"`...)
	dst = append(envelope.AppendEscaped(dst, id), `"}}`+"\n"...)
	at := o.At
	if at.IsZero() {
		at = o.Arrived
	}
	dst = appendTime(append(dst, `{"@timestamp":"`...), at)
	dst = appendText(dst, "id", o.ID)
	dst = appendText(dst, "via", w.id.Gateway)
	dst = appendID(dst, o.ID)
	dst = appendText(dst, "stream", o.Stream)
	dst = appendText(dst, "key", o.Key)
	dst = appendText(dst, "source", o.Source)
	if !o.At.IsZero() {
		dst = appendTime(append(dst, `,"at":"`...), o.At)
	}
	dst = appendTime(append(dst, `,"arrived":"`...), o.Arrived)
	if o.Type != "" {
		dst = appendText(dst, "type", o.Type)
	}
	if len(o.Attrs) > 0 {
		dst = appendAttrs(dst, o.Attrs)
	}
	if o.Chunk > 0 {
		dst = strconv.AppendInt(append(dst, `,"chunk":`...), o.Chunk, 10)
	}
	dst = appendData(dst, o.Stream, o.Data)
	return append(dst, "}\n"...), index
}

func appendText(dst []byte, name, value string) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":"`...)
	return append(envelope.AppendEscaped(dst, value), '"')
}

// appendTime closes a text that was begun, with a time in UTC. RFC 3339 has
// four digits for the year.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	switch y := t.Year(); {
	case y < 1:
		t = time.Time{}
	case y > 9999:
		t = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
	}
	return append(t.AppendFormat(dst, time.RFC3339Nano), '"')
}

// appendID takes a record's id apart: GATEWAY/EPOCH/SHARD/SEQ, and perhaps
// /INDEX.
func appendID(dst []byte, id string) []byte {
	p := strings.Split(id, "/")
	epoch := len(p) - 3
	if epoch > 1 && len(p[epoch]) != 16 {
		epoch--
	}
	if epoch < 1 {
		return dst
	}
	dst = appendText(dst, "gateway", strings.Join(p[:epoch], "/"))
	dst = appendText(dst, "epoch", p[epoch])
	for i, name := range []string{"shard", "seq", "part"} {
		if epoch+1+i >= len(p) {
			break
		}
		n, err := strconv.ParseUint(p[epoch+1+i], 10, 64)
		if err != nil || n > math.MaxInt64 {
			continue
		}
		dst = strconv.AppendUint(append(append(append(dst, `,"`...), name...), `":`...), n, 10)
	}
	return dst
}

// appendAttrs writes attributes as "name=value": names are the sender's, and
// as fields they would fill the mapping.
func appendAttrs(dst []byte, attrs map[string]string) []byte {
	dst = append(dst, `,"attrs":[`...)
	for i, k := range slices.Sorted(maps.Keys(attrs)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = envelope.AppendEscaped(append(dst, '"'), k)
		dst = envelope.AppendEscaped(append(dst, '='), attrs[k])
		dst = append(dst, '"')
	}
	return append(dst, ']')
}

// appendData writes the payload so that it can be searched and comes back from
// _source byte for byte: a JSON object under data and the stream's name, a
// number as value, any other text as text, the rest in base64.
func appendData(dst []byte, stream string, data []byte) []byte {
	switch {
	case len(data) == 0:
		return dst
	case sound(data):
		dst = append(append(dst, `,"data":{"`...), field(stream)...)
		return append(append(append(dst, `":`...), data...), '}')
	case isNumber(data):
		return append(append(dst, `,"value":`...), data...)
	case utf8.Valid(data):
		dst = envelope.AppendEscaped(append(dst, `,"text":"`...), string(data))
		return append(dst, '"')
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, `,"data_b64":"`...), data)
	return append(dst, '"')
}

// field is a stream's name as that of a field: a dot would make two of it.
func field(stream string) string { return strings.ReplaceAll(legal(stream), ".", "_") }

// isNumber reports whether data is a JSON number that a double holds, if not
// to the last digit.
func isNumber(data []byte) bool {
	if c := data[0]; c != '-' && (c < '0' || c > '9') || !json.Valid(data) || data[len(data)-1] > '9' || data[len(data)-1] < '0' {
		return false
	}
	_, err := strconv.ParseFloat(string(data), 64)
	return err == nil
}

const (
	// maxDepth keeps objects, with the two levels above them, within the
	// service's limit of 20.
	maxDepth = 16
	// maxFields is how many names one object may have.
	maxFields = 256
)

// sound reports whether data is a JSON object that the service can take as it
// is: on one line, not too deep, and with names that are fields', each once.
func sound(data []byte) bool {
	if data[0] != '{' || data[len(data)-1] != '}' || bytes.ContainsAny(data, "\r\n") || !utf8.Valid(data) || !json.Valid(data) {
		return false
	}
	type level struct {
		object bool
		names  [][]byte
	}
	var stack []level
	expectName := false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '{', '[':
			if len(stack) == maxDepth {
				return false
			}
			stack = append(stack, level{object: c == '{'})
			expectName = c == '{'
		case '}', ']':
			stack = stack[:len(stack)-1]
			expectName = false
		case ',':
			expectName = stack[len(stack)-1].object
		case '"':
			end := i + 1
			for data[end] != '"' {
				if data[end] == '\\' {
					end++
				}
				end++
			}
			if expectName {
				top := &stack[len(stack)-1]
				name := data[i+1 : end]
				if !fieldName(name) || len(top.names) == maxFields || slices.ContainsFunc(top.names, func(b []byte) bool { return bytes.Equal(b, name) }) {
					return false
				}
				top.names = append(top.names, name)
				expectName = false
			}
			i = end
		}
	}
	return true
}

// fieldName reports whether a name may be a field's: none of the parts between
// its dots is empty or blank. One that is written with escapes is left out,
// since two such may be the same.
func fieldName(name []byte) bool {
	if bytes.IndexByte(name, '\\') >= 0 {
		return false
	}
	for part := range bytes.SplitSeq(name, []byte(".")) {
		if len(bytes.TrimSpace(part)) == 0 {
			return false
		}
	}
	return true
}

// nested is what a payload holds that is a KPL aggregate, nil if it is none.
func nested(r *record.Record) []record.Record {
	a := kpl.Open(r.Data)
	if a == nil {
		return nil
	}
	parts := make([]record.Record, 0, a.Len())
	for _, x := range a.All() {
		one := *r
		one.Key, one.Data = x.Key, x.Data
		parts = append(parts, one)
	}
	return parts
}
