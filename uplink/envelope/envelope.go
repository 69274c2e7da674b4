// Package envelope is the JSON in which a record travels to a far side that
// knows nothing of records: its id, times, key, source and payload, so that a
// consumer can drop what came twice and a chain of gateways loses nothing.
package envelope

import (
	"encoding/base64"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

// The names that are left out of an envelope where they are the usual ones: a
// record lies in the stream "mqtt" unless it says otherwise, and came from the
// source that is called like its stream.
const usualStream = "mqtt"

// A Writer writes records as JSON objects that lose nothing of a record but
// its monotonic time, its explicit hash key, what is less than a millisecond of
// its arrival and, where a string is not UTF-8, the bytes that are not. It is
// not safe for concurrent use.
//
// The fields, in this order; "id" stands always, and "t" or "at":
//
//	id        GATEWAY/EPOCH/SHARD/SEQ, the record's name in the whole world
//	stream    where it lay; left out: "mqtt"
//	key       the partition key; left out where it travels beside the envelope
//	at        the sender's time, in milliseconds since 1970 with as many
//	          decimals as it has; left out where the sender gave none
//	t         when the gateway took it, in whole milliseconds since 1970
//	source    what took it; left out: the same as stream
//	type      the payload's media type; left out where it is not known
//	attrs     an object of strings; left out where there are none
//	chunk     bytes that lie beside the record at its gateway; left out: none
//	data      the payload, byte for byte, where it is JSON
//	data_b64  the payload in base64, where it is not; neither: it is empty
type Writer struct {
	head   []byte // {"id":"GATEWAY/EPOCH/
	of     record.Origin
	here   record.Origin
	names  []string
	beside bool // the key travels beside
}

// New writes the records of one gateway. id counts for records that do not say
// themselves where they were stored.
func New(id record.Identity) *Writer {
	e := &Writer{here: record.Origin{Gateway: id.Gateway, Epoch: id.Epoch}}
	e.begin(e.here)
	return e
}

// NewBeside is New for a far side that is told a record's key beside its
// envelope, which then goes without.
func NewBeside(id record.Identity) *Writer {
	e := New(id)
	e.beside = true
	return e
}

// begin makes ids begin with an origin.
func (e *Writer) begin(o record.Origin) {
	e.of = o
	e.head = AppendEscaped(append(e.head[:0], `{"id":"`...), o.Gateway)
	e.head = append(e.head, '/')
	e.head = append(e.head, o.Epoch.String()...)
	e.head = append(e.head, '/')
}

// Append appends the envelope of r, which lies in the given stream, to dst:
// one JSON object in UTF-8, without a newline. A payload that is JSON stands
// in it byte for byte as `data`; any other as base64 in `data_b64`; an empty
// one not at all. JSON that holds a newline, begins or ends with white space,
// is not UTF-8 or nests deeper than 512 counts as not JSON here, so that no
// reader changes a byte of it. The bytes of r's chunk are not written, only
// their number.
//
// A record that is another gateway's envelope, and nothing beside it, keeps
// that one, id and all, however far it goes; r's key is added to it where it
// has none and none travels beside.
func (e *Writer) Append(dst []byte, stream string, r *record.Record) []byte {
	return e.AppendPart(dst, stream, r, 0)
}

// AppendPart is Append for part number part, from 1, of what is stored as one
// record: the number stands in the id. 0 is the whole record.
func (e *Writer) AppendPart(dst []byte, stream string, r *record.Record, part int) []byte {
	if Forwarded(r) {
		return e.forward(dst, r)
	}
	o := &e.here
	if r.Origin != nil {
		o = r.Origin
	}
	if *o != e.of {
		e.begin(*o)
	}
	dst = append(dst, e.head...)
	dst = strconv.AppendUint(dst, uint64(r.Pos.Shard), 10)
	dst = append(dst, '/')
	dst = strconv.AppendUint(dst, r.Pos.Seq, 10)
	if part > 0 {
		dst = strconv.AppendInt(append(dst, '/'), int64(part), 10)
	}
	dst = append(dst, '"')
	if stream != usualStream {
		dst = AppendEscaped(append(dst, `,"stream":"`...), stream)
		dst = append(dst, '"')
	}
	if !e.beside {
		dst = AppendEscaped(append(dst, `,"key":"`...), r.Key)
		dst = append(dst, '"')
	}
	if !r.At.IsZero() {
		dst = appendMillis(append(dst, `,"at":`...), r.At)
	}
	dst = strconv.AppendInt(append(dst, `,"t":`...), r.Arrived.UnixMilli(), 10)
	if r.Source != stream {
		dst = AppendEscaped(append(dst, `,"source":"`...), r.Source)
		dst = append(dst, '"')
	}
	if r.Type != "" {
		dst = AppendEscaped(append(dst, `,"type":"`...), r.Type)
		dst = append(dst, '"')
	}
	if len(r.Attrs) > 0 {
		dst = e.appendAttrs(append(dst, `,"attrs":{`...), r.Attrs)
	}
	if n := max(r.Chunk.Len, int64(len(r.Blob))); n > 0 {
		dst = strconv.AppendInt(append(dst, `,"chunk":`...), n, 10)
	}
	switch {
	case len(r.Data) == 0:
	case inlineJSON(r.Data):
		dst = append(append(dst, `,"data":`...), r.Data...)
	default:
		dst = base64.StdEncoding.AppendEncode(append(dst, `,"data_b64":"`...), r.Data)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

func (e *Writer) appendAttrs(dst []byte, attrs map[string]string) []byte {
	e.names = e.names[:0]
	for k := range attrs {
		e.names = append(e.names, k)
	}
	slices.Sort(e.names)
	for i, k := range e.names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendEscaped(append(dst, '"'), k)
		dst = AppendEscaped(append(dst, `":"`...), attrs[k])
		dst = append(dst, '"')
	}
	clear(e.names)
	return append(dst, '}')
}

// forward appends another gateway's envelope.
func (e *Writer) forward(dst []byte, r *record.Record) []byte {
	at := 0
	if !e.beside {
		at = keyless(r.Data)
	}
	dst = append(dst, r.Data[:at]...)
	if at > 0 {
		dst = AppendEscaped(append(dst, `,"key":"`...), r.Key)
		dst = append(dst, '"')
	}
	return append(dst, r.Data[at:]...)
}

// appendMillis writes t as milliseconds since 1970, down to the nanosecond.
func appendMillis(dst []byte, t time.Time) []byte {
	ms, ns := t.UnixMilli(), t.Nanosecond()%1e6
	if ms < 0 && ns > 0 { // ms is rounded down, and the fraction counts up from it
		ms, ns = ms+1, 1e6-ns
		if ms == 0 {
			dst = append(dst, '-')
		}
	}
	dst = strconv.AppendInt(dst, ms, 10)
	if ns == 0 {
		return dst
	}
	dst = append(dst, '.')
	for d := 100_000; ns > 0; d /= 10 {
		dst = append(dst, byte('0'+ns/d))
		ns %= d
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// AppendEscaped appends s as the inside of a JSON string (RFC 8259, section
// 7): quotation mark, reverse solidus and all control characters are escaped,
// DEL and the line separators that JavaScript minds too, and what is not
// UTF-8 becomes U+FFFD.
func AppendEscaped(dst []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if (r != utf8.RuneError || n > 1) && r != '\u2028' && r != '\u2029' {
				i += n
				continue
			}
			dst = append(dst, s[start:i]...)
			switch r {
			case '\u2028':
				dst = append(dst, `\u2028`...)
			case '\u2029':
				dst = append(dst, `\u2029`...)
			default:
				dst = append(dst, "\ufffd"...)
			}
			i += n
			start = i
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(dst, s[start:]...)
}
