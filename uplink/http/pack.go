package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// A place is a part of a record, from 1; 0 where the record has no parts.
type place struct {
	id   string
	pos  record.Pos
	part int
}

func (p place) String() string {
	if p.part > 0 {
		return p.id + "/" + strconv.Itoa(p.part)
	}
	return p.id
}

// A request is what one goes out with.
type request struct {
	url         string
	contentType string
	key         string            // the value of the id header
	extra       map[string]string // headers of a single raw record
	text        []byte            // the body before compression; the packer's
	first, last place
	parts       int // of records, in it
	done        int // records of the lane that are complete with it
	skip        int // parts of the record after them that it holds, and before it held
}

// A packer writes bodies. It keeps its memory and is not safe for concurrent
// use.
type packer struct {
	cfg  Config // with defaults
	env  *envelope.Writer
	id   record.Identity
	via  string // stands before the keys of batches
	text []byte
}

var errNotText = errors.New("the payload is neither JSON nor text, and a raw batch of JSON cannot hold it; use format \"envelope\" or body \"single\"")

// pack writes a request with as many of recs, from the front, as fit: skip
// parts of the first record have travelled already, at most so many parts and
// bytes may be in it, but always one, and it ends with the place `until` if
// that is not the zero place. All are of one gateway and epoch. The error says
// why the first record can never travel.
func (p *packer) pack(stream string, recs []record.Record, skip, parts, limit int, until place) (request, error) {
	q := request{skip: skip}
	if p.cfg.Body == "single" {
		parts = 1
	}
	p.text = p.text[:0]
	if p.cfg.Body == "json" {
		p.text = append(p.text, '[')
	}
	for i := range recs {
		r := &recs[i]
		if i > 0 && !sameOrigin(r, &recs[0]) {
			break
		}
		in := nested(r.Data)
		whole, err := p.record(&q, stream, r, in, parts, limit, until)
		if err != nil && q.parts == 0 {
			return q, err
		}
		if err != nil || !whole {
			break
		}
		q.done, q.skip = q.done+1, 0
		if q.parts == parts || q.last == until {
			break
		}
	}
	if p.cfg.Body == "json" {
		p.text = append(p.text, ']')
	}
	q.text = p.text
	q.key = q.first.String()
	if q.last != q.first {
		tail := q.last.String()
		q.key += "-" + tail[strings.LastIndexByte(q.last.id, '/')+1:]
	}
	q.key = fmt.Sprintf("%s-%08x", ascii(p.via+q.key), crc32.ChecksumIEEE(q.text))
	p.head(&q, &recs[0])
	return q, nil
}

// record adds what is left of a record; whole says that all of it is in.
func (p *packer) record(q *request, stream string, r *record.Record, in []part, parts, limit int, until place) (whole bool, err error) {
	id, lone := p.id.Of(r), in == nil
	if lone {
		in = []part{{r.Key, r.Data}}
	} else {
		in = in[min(q.skip, len(in)-1):]
	}
	for i, x := range in {
		at := place{id: id, pos: r.Pos}
		if !lone {
			at.part = q.skip + 1
		}
		one := *r
		one.Key, one.Data = x.key, x.data
		before := len(p.text)
		if err := p.item(stream, &one, at.part, q.parts); err != nil {
			p.text = p.text[:before]
			return false, err
		}
		if q.parts > 0 && len(p.text) > limit && until == (place{}) {
			p.text = p.text[:before]
			return false, nil
		}
		if q.parts == 0 {
			q.first = at
		}
		q.last, q.parts = at, q.parts+1
		if at.part > 0 {
			q.skip++
		}
		if i < len(in)-1 && (q.parts == parts || at == until) {
			return false, nil
		}
	}
	return true, nil
}

// item appends one part as it stands in the body; n lie before it.
func (p *packer) item(stream string, r *record.Record, part, n int) error {
	if n > 0 && p.cfg.Body == "json" {
		p.text = append(p.text, ',')
	}
	switch {
	case p.cfg.Format != "raw":
		p.text = p.env.AppendPart(p.text, stream, r, part)
	case p.cfg.Body == "single":
		p.text = append(p.text, r.Data...)
	default:
		if err := p.raw(r.Data); err != nil {
			return err
		}
	}
	if p.cfg.Body == "ndjson" {
		p.text = append(p.text, '\n')
	}
	return nil
}

// raw appends a payload as a JSON value on one line: JSON as it is but for
// line ends between its tokens, text as a JSON string.
func (p *packer) raw(data []byte) error {
	switch {
	case len(data) > 0 && utf8.Valid(data) && json.Valid(data):
		if !bytes.ContainsAny(data, "\r\n") {
			p.text = append(p.text, data...)
			return nil
		}
		var b bytes.Buffer
		if err := json.Compact(&b, data); err != nil {
			return fmt.Errorf("compact the payload: %w", err)
		}
		p.text = append(p.text, b.Bytes()...)
	case utf8.Valid(data):
		p.text = append(envelope.AppendEscaped(append(p.text, '"'), string(data)), '"')
	default:
		return errNotText
	}
	return nil
}

// head sets what stands in the headers.
func (p *packer) head(q *request, r *record.Record) {
	q.contentType = p.cfg.ContentType
	single := p.cfg.Body == "single"
	if single && p.cfg.Format == "raw" {
		q.extra = map[string]string{"Forebay-Id": ascii(q.first.String()), "Forebay-Key": ascii(r.Key)}
		if !r.At.IsZero() {
			q.extra["Forebay-At"] = r.At.UTC().Format("2006-01-02T15:04:05.999999999Z")
		}
		if q.contentType == "" && printable(r.Type) {
			q.contentType = r.Type
		}
	}
	if q.contentType == "" {
		switch {
		case single && p.cfg.Format == "raw":
			q.contentType = "application/octet-stream"
		case p.cfg.Body == "ndjson":
			q.contentType = "application/x-ndjson"
		default:
			q.contentType = "application/json"
		}
	}
}

func sameOrigin(a, b *record.Record) bool {
	if a.Origin == b.Origin {
		return true
	}
	return a.Origin != nil && b.Origin != nil && *a.Origin == *b.Origin
}

// A part is a user record of an aggregate.
type part struct {
	key  string
	data []byte
}

// nested is what a payload holds that is a KPL aggregate, nil if it is none:
// nobody beyond Kinesis opens one.
func nested(data []byte) []part {
	a := kpl.Open(data)
	if a == nil {
		return nil
	}
	parts := make([]part, 0, a.Len())
	for _, x := range a.All() {
		parts = append(parts, part{x.Key, x.Data})
	}
	return parts
}

// ascii is s as it may stand in any header: what is not visible ASCII, and %,
// is percent-encoded.
func ascii(s string) string {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] > ' ' && s[i] < 0x7f && s[i] != '%'
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
