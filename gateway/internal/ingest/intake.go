package ingest

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

const (
	// maxFaults is how many errors an answer names; the rest is counted.
	maxFaults = 100
	// recordCost is about what a record takes beside its bytes.
	recordCost = 320
	// maxGrowth bounds what the records of a request weigh together, in bodies:
	// a CSV row repeats its header's names.
	maxGrowth = 4
	jsonType  = "application/json"
)

// The codes of errors that belong to one record.
const (
	codeMalformed = "malformed" // not of the format
	codeTooLarge  = "too_large"
	codeKey       = "key"
	codeTime      = "time"
	codeInvalid   = "invalid" // the log refuses it for ever
)

// A fault is what is wrong with a record.
type fault struct {
	Index   int    `json:"index"`          // in the request, from 0
	Line    int    `json:"line,omitempty"` // where it begins, from 1
	Code    string `json:"code"`
	Message string `json:"message"`
}

// A place is where a record stood in its request.
type place struct{ index, line int }

// An intake turns a body into records. Nothing is stored before all of it was
// looked at.
type intake struct {
	*ask
	most   int // records
	weight int64
	heap   arena
	keys   map[string]string
	// The paths of keyField and timeField, nil if there is none.
	keyPath, timePath []string

	recs   []record.Record
	places []place // of recs
	seen   int     // records, with what is refused
	faults []fault // the first maxFaults
	failed int     // what was refused; faults may be fewer
	large  int     // those of failed that were too large
}

func newIntake(a *ask, o *Options, take func(int64) bool) *intake {
	return &intake{
		ask: a, most: o.MaxRecords, weight: o.MaxBody * maxGrowth, heap: arena{take: take},
		keys: map[string]string{}, keyPath: splitPath(a.keyField), timePath: splitPath(a.timeField),
	}
}

// parse reads the body in its format. A refusal means that nothing of it can
// be taken.
func (in *intake) parse(body []byte) *refusal {
	if in.format == formatRaw {
		return in.raw(body)
	}
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) // a byte order mark (RFC 8259, 8.1; RFC 3629, 6)
	switch in.format {
	case formatNDJSON:
		return in.ndjson(body)
	case formatJSON:
		return in.json(body)
	case formatCSV:
		return in.csv(body)
	}
	return in.lines(body)
}

func (in *intake) raw(body []byte) *refusal {
	return in.add(1, body, in.key, time.Time{})
}

// expect makes room for about n records.
func (in *intake) expect(n int) *refusal {
	n = min(n, in.most)
	if !in.heap.take(int64(n) * recordCost) {
		return busy()
	}
	in.recs = make([]record.Record, 0, n)
	in.places = make([]place, 0, n)
	return nil
}

// next counts a record; a refusal if there are too many.
func (in *intake) next() *refusal {
	if in.seen == in.most {
		return &refusal{
			status: http.StatusRequestEntityTooLarge, code: "too_many", message: fmt.Sprintf("the request has more than %d records", in.most),
			hint: "nothing was stored; send them in parts",
		}
	}
	in.seen++
	return nil
}

// bad refuses one record.
func (in *intake) bad(line int, code, message string) *refusal {
	if no := in.next(); no != nil {
		return no
	}
	in.mark(place{index: in.seen - 1, line: line}, code, message)
	return nil
}

// mark notes what is wrong with a record that was counted.
func (in *intake) mark(p place, code, message string) {
	in.failed++
	if code == codeTooLarge {
		in.large++
	}
	if len(in.faults) < maxFaults {
		in.faults = append(in.faults, fault{Index: p.index, Line: p.line, Code: code, Message: message})
	}
}

// add takes one record, or refuses it for its size or key. data must stay.
func (in *intake) add(line int, data []byte, key string, at time.Time) *refusal {
	if len(data)+len(key) > in.maxRecord {
		return in.bad(line, codeTooLarge, fmt.Sprintf("the record has %d bytes, data and key; at most %d are allowed", len(data)+len(key), in.maxRecord))
	}
	if no := in.next(); no != nil {
		return no
	}
	if in.weight -= int64(len(data) + len(key)); in.weight < 0 {
		return &refusal{
			status: http.StatusRequestEntityTooLarge, code: "too_large", message: "the records of the request are too large together",
			hint: "nothing was stored; send them in parts",
		}
	}
	if len(in.recs) == cap(in.recs) {
		more := max(16, len(in.recs))
		if !in.heap.take(int64(more) * recordCost) {
			return busy()
		}
		in.recs = append(make([]record.Record, 0, len(in.recs)+more), in.recs...)
	}
	rec := record.Record{Key: key, At: at, Data: data, Type: jsonType}
	if in.format == formatRaw {
		rec.Type = in.media
	}
	in.recs = append(in.recs, rec)
	in.places = append(in.places, place{index: in.seen - 1, line: line})
	return nil
}

// build takes one record that was put together in scratch memory.
func (in *intake) build(line int, scratch []byte, key string, at time.Time) *refusal {
	if len(scratch)+len(key) > in.maxRecord {
		return in.add(line, scratch, key, at) // which says so
	}
	data, ok := in.heap.keep(scratch)
	if !ok {
		return busy()
	}
	return in.add(line, data, key, at)
}

// intern is a key as a string, made once for all records that have it.
func (in *intake) intern(key []byte) (string, *refusal) {
	if s, ok := in.keys[string(key)]; ok {
		return s, nil
	}
	if !in.heap.take(int64(len(key)) + 64) {
		return "", busy()
	}
	s := string(key)
	in.keys[s] = s
	return s, nil
}

// addJSON takes one JSON value as it was sent.
func (in *intake) addJSON(line int, data []byte) *refusal {
	if len(data) > in.maxRecord {
		return in.add(line, data, "", time.Time{})
	}
	if !utf8.Valid(data) {
		return in.bad(line, codeMalformed, "it is not valid UTF-8")
	}
	key, code, text, no := in.keyOf(data)
	if no != nil {
		return no
	}
	if code != "" {
		return in.bad(line, code, text)
	}
	var at time.Time
	if in.timePath != nil {
		var err error
		if at, err = in.timeOf(data); err != nil {
			return in.bad(line, codeTime, fmt.Sprintf("the time %s: %v", brief(in.timeField), err))
		}
	}
	return in.add(line, data, key, at)
}

// keyOf is the key of a record that is JSON.
func (in *intake) keyOf(data []byte) (key, code, text string, no *refusal) {
	if in.keyPath == nil {
		return in.key, "", "", nil
	}
	value, ok := scalar(find(data, in.keyPath))
	if !ok {
		return "", codeKey, "it has no text, number, true or false at " + brief(in.keyField), nil
	}
	return in.checked(value)
}

// checked makes a key of a record's own value.
func (in *intake) checked(value []byte) (key, code, text string, no *refusal) {
	if len(value) > record.MaxKey*utf8.UTFMax {
		return "", codeKey, fmt.Sprintf("the key is longer than %d characters", record.MaxKey), nil
	}
	if key, no = in.intern(value); no != nil {
		return "", "", "", no
	}
	if fault := checkKey(key); fault != "" {
		return "", codeKey, "the key " + fault, nil
	}
	return key, "", "", nil
}

// timeOf is the event time of a record that is JSON; zero if it has none.
func (in *intake) timeOf(data []byte) (time.Time, error) {
	raw := find(data, in.timePath)
	if raw == nil || raw[0] == 'n' {
		return time.Time{}, nil
	}
	if raw[0] != '"' && raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return time.Time{}, errNoTime
	}
	text, _ := scalar(raw)
	return readTime(string(text), in.unit)
}
