package sparkplug

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

// Bounds of what is opened into metrics; a payload beyond them is one text.
const (
	maxDepth  = 16
	maxFields = 1000
	// maxExact is up to where every integer is a double.
	maxExact = 1 << 53
)

// A sample is one value on its way: of which device and metric, and when.
type sample struct {
	device, metric string
	time           uint64
	historical     bool
	value          Value // Type Unknown: null
}

// A reader makes samples of records. It is not safe for concurrent use.
type reader struct {
	device, metric mqtt.Template
	raw            bool
	gateway        string
	buf            []byte
}

// samples appends those of a record to dst.
func (rd *reader) samples(dst []sample, l *lane.Lane, r *record.Record) []sample {
	if !rd.raw && kpl.IsAggregate(r.Data) {
		if in, err := kpl.Decode(r.Data); err == nil && in.Len() > 0 {
			one := *r
			for _, x := range in.All() {
				one.Key, one.Data = x.Key, x.Data
				dst = rd.one(dst, l, &one)
			}
			return dst
		}
	}
	return rd.one(dst, l, r)
}

// one makes samples of what one sender said.
func (rd *reader) one(dst []sample, l *lane.Lane, r *record.Record) []sample {
	at := mqtt.Place{Gateway: rd.gateway, Stream: l.Stream, Shard: uint32(l.Shard), Source: r.Source, Key: r.Key}
	when, data := timeOf(r.At, r.Arrived), r.Data
	if !rd.raw && envelope.Forwarded(r) {
		// Another gateway's record: what it was there counts.
		if in, err := envelope.Open(r.Data); err == nil {
			at.Stream, at.Source, at.Key = in.Stream, in.Source, in.Key
			when, data = timeOf(in.At, in.Arrived), in.Data
		}
	}
	rd.buf = rd.device.Fill(rd.buf[:0], &at, cleanID)
	s := sample{device: string(rd.buf), time: when}
	if s.device == "" {
		s.device = "_" // a device has a name
	}
	add := func(field string, v Value) {
		at.Field = field
		s.metric, s.value = rd.name(&at), v
		dst = append(dst, s)
	}
	if rd.raw {
		add("", Value{Type: Bytes, Bytes: slices.Clone(data)})
		return dst
	}
	before := len(dst)
	if !flatten(data, add) {
		dst = dst[:before]
		add("", plain(data))
	}
	return dst
}

// timeOf is the record's time as Sparkplug has it, in milliseconds.
func timeOf(at, arrived time.Time) uint64 {
	if at.IsZero() {
		at = arrived
	}
	if at.IsZero() || at.UnixMilli() < 1 {
		return 1 // there is no zero: it would not be written
	}
	return uint64(at.UnixMilli())
}

// name is the metric's, without empty folders at its ends.
func (rd *reader) name(at *mqtt.Place) string {
	rd.buf = rd.metric.Fill(rd.buf[:0], at, func(dst []byte, s string) []byte {
		return append(dst, strings.ToValidUTF8(s, "\uFFFD")...)
	})
	if n := strings.Trim(string(rd.buf), "/"); n != "" {
		return n
	}
	return "value"
}

// cleanID appends what may stand in an id: no level, no wildcard and no control
// character (specification, 4.1).
func cleanID(dst []byte, s string) []byte {
	for _, r := range s {
		if r == '/' || r == '+' || r == '#' || r < 0x20 || r == 0x7f {
			r = '_'
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// plain is the value of a payload that is no JSON.
func plain(data []byte) Value {
	if utf8.Valid(data) {
		return Value{Type: String, Text: string(data)}
	}
	return Value{Type: Bytes, Bytes: slices.Clone(data)}
}

// flatten calls add for each value of a payload in JSON, in its order, with
// its path in folders; false if the payload is no JSON, or too much of it. A
// list is one value, its text.
func flatten(data []byte, add func(path string, v Value)) bool {
	if len(bytes.TrimSpace(data)) == 0 || !utf8.Valid(data) || !json.Valid(data) {
		return false
	}
	n := 0
	return walk(data, "", 0, func(path string, v Value) bool {
		n++
		add(path, v)
		return n <= maxFields
	}) && n > 0
}

func walk(data []byte, path string, depth int, add func(string, Value) bool) bool {
	data = bytes.TrimSpace(data)
	switch data[0] {
	case '{':
		return depth < maxDepth && walkObject(data, path, depth, add)
	case '[':
		return add(path, Value{Type: String, Text: string(data)})
	case '"':
		var s string
		if json.Unmarshal(data, &s) != nil {
			return false
		}
		return add(path, Value{Type: String, Text: s})
	case 't', 'f':
		return add(path, Value{Type: Boolean, Bool: data[0] == 't'})
	case 'n':
		return add(path, Value{})
	}
	return add(path, number(string(data)))
}

func walkObject(data []byte, path string, depth int, add func(string, Value) bool) bool {
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return false
	}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return false
		}
		var v json.RawMessage
		if d.Decode(&v) != nil {
			return false
		}
		if path != "" {
			name = path + "/" + name
		}
		if !walk(v, name, depth+1, add) {
			return false
		}
	}
	_, err := d.Token()
	if err != nil {
		return false
	}
	_, err = d.Token()
	return err == io.EOF
}

// number is a number of JSON: a double, and an Int64 where that alone has it
// exactly.
func number(text string) Value {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && (n > maxExact || n < -maxExact) {
		return Value{Type: Int64, Int: uint64(n), Text: text}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return Value{Type: String, Text: text}
	}
	return Value{Type: Double, Float: f, Text: text}
}

// join is the type that holds values of both: a metric's type only ever
// widens, so that it does not change with every value.
func join(a, b Datatype) Datatype {
	switch {
	case a == b || b == Unknown:
		return a
	case a == Unknown:
		return b
	case a == Bytes || b == Bytes:
		return Bytes
	case a != String && b != String && a != Boolean && b != Boolean:
		return Double
	}
	return String
}

// as is the value in a type that join gave.
func (v Value) as(t Datatype) Value {
	if v.Type == t || v.Type == Unknown {
		return v
	}
	text := v.Text
	if v.Type == Boolean {
		text = strconv.FormatBool(v.Bool)
	}
	switch t {
	case Double:
		return Value{Type: Double, Float: float64(int64(v.Int)), Text: v.Text}
	case String:
		return Value{Type: String, Text: text}
	}
	return Value{Type: Bytes, Bytes: []byte(text)}
}
