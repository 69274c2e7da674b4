package ingest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

const (
	maxTags   = 256
	maxFields = 1024
	// maxSpan is the longest field text that goes over the end of a line. The
	// protocol has none longer than 64 KB.
	maxSpan = 64 << 10
)

// A pair is a tag, or a field. The raw forms are as they were sent, with their
// escapes, which makes them the same for the same name.
type pair struct {
	key, value       []byte
	rawKey, rawValue []byte
}

// A point is a line of InfluxDB line protocol:
//
//	measurement[,tag=value...] field=value[,field=value...] [timestamp]
//
// A backslash before a comma, a space or (not in the measurement) an equals
// sign makes it part of a name; before a quote or a backslash, of a field's
// text. Any other backslash stands for itself.
type point struct {
	name, rawName []byte
	tags          []pair
	fields        []pair // rawValue is not used
	at            time.Time

	body    []byte
	i       int
	scratch []byte // names without their escapes
	out     []byte // the record
	series  []byte
	held    int // bytes of the three that were lent
}

// A lineError says why a line is no point. from is where to look for the end
// of what is refused.
type lineError struct {
	from int
	text string
}

func (p *point) fail(format string, args ...any) *lineError {
	return &lineError{p.i, fmt.Sprintf(format, args...)}
}

// lines takes a point a line. Lines that are empty or begin with # are passed
// over.
func (in *intake) lines(body []byte) *refusal {
	if no := in.expect(bytes.Count(body, []byte{'\n'}) + 1); no != nil {
		return no
	}
	p := &point{body: body}
	count := lineCounter{body: body, line: 1}
	for p.i < len(body) {
		from := p.i
		for p.i < len(body) && body[p.i] == ' ' {
			p.i++
		}
		if p.i == len(body) {
			return nil
		}
		if c := body[p.i]; c == '#' || c == '\n' || c == '\r' && p.atEnd() {
			p.nextLine(p.i)
			continue
		}
		var no *refusal
		if err := p.parse(in.unit); err != nil {
			p.nextLine(err.from)
			text := "it is not line protocol: " + err.text
			first, last := count.at(from), count.at(err.from)
			if last > first {
				text += fmt.Sprintf("; lines %d to %d count as this record", first, last)
			}
			no = in.bad(first, codeMalformed, text)
		} else {
			no = in.point(p, count.at(from), body[from:p.i])
		}
		if no != nil {
			return no
		}
	}
	return nil
}

func (p *point) nextLine(from int) {
	if end := bytes.IndexByte(p.body[from:], '\n'); end >= 0 {
		p.i = from + end + 1
	} else {
		p.i = len(p.body)
	}
}

// atEnd tells whether the line ends here.
func (p *point) atEnd() bool {
	rest := p.body[p.i:]
	return len(rest) == 0 || rest[0] == '\n' || rest[0] == '\r' && (len(rest) == 1 || rest[1] == '\n')
}

// parse reads one point and the end of its line.
func (p *point) parse(unit time.Duration) *lineError {
	p.tags, p.fields, p.scratch, p.at = p.tags[:0], p.fields[:0], p.scratch[:0], time.Time{}
	var err *lineError
	if p.name, p.rawName, err = p.word("the measurement", false); err != nil {
		return err
	}
	for p.peek() == ',' {
		p.i++
		if len(p.tags) == maxTags {
			return p.fail("it has more than %d tags", maxTags)
		}
		var t pair
		if t.key, t.rawKey, err = p.named("a tag"); err != nil {
			return err
		}
		if t.value, t.rawValue, err = p.word("the value of a tag", true); err != nil {
			return err
		}
		p.tags = append(p.tags, t)
	}
	if p.peek() == '=' {
		return p.fail("the value of a tag has an equals sign without a backslash")
	}
	if !p.spaces() || p.atEnd() {
		return p.fail("it has no field")
	}
	if err := p.fieldSet(); err != nil {
		return err
	}
	if p.spaces() && !p.atEnd() {
		if err := p.timestamp(unit); err != nil {
			return err
		}
		p.spaces()
	}
	if !p.atEnd() {
		return p.fail("something stands behind the timestamp")
	}
	p.nextLine(p.i)
	return nil
}

func (p *point) peek() byte {
	if p.i < len(p.body) {
		return p.body[p.i]
	}
	return 0
}

func (p *point) spaces() (some bool) {
	for p.peek() == ' ' {
		p.i++
		some = true
	}
	return some
}

// named reads a word and the equals sign behind it.
func (p *point) named(what string) (name, raw []byte, err *lineError) {
	if name, raw, err = p.word(what, true); err != nil {
		return nil, nil, err
	}
	if p.peek() != '=' {
		return nil, nil, p.fail("%s %s has no value", what, brief(string(name)))
	}
	p.i++
	return name, raw, nil
}

// word reads up to a comma, a space or, where it stops a word, an equals sign.
// A backslash makes these part of the word.
func (p *point) word(what string, equals bool) (text, raw []byte, err *lineError) {
	from, escaped := p.i, false
	for ; p.i < len(p.body); p.i++ {
		c := p.body[p.i]
		if c > '=' && c != '\\' && c != 0x7f {
			continue
		}
		if c == ',' || c == ' ' || c == '=' && equals {
			break
		}
		if c == '\\' && p.i+1 < len(p.body) {
			if n := p.body[p.i+1]; n == ',' || n == ' ' || n == '=' && equals {
				escaped = true
				p.i++
			}
			continue
		}
		if c < ' ' || c == 0x7f {
			if p.atEnd() {
				break
			}
			return nil, nil, p.fail("%s has a control character", what)
		}
	}
	raw = p.body[from:p.i]
	if len(raw) == 0 {
		return nil, nil, p.fail("%s is empty", what)
	}
	if !utf8.Valid(raw) {
		return nil, nil, p.fail("%s is not valid UTF-8", what)
	}
	if !escaped {
		return raw, raw, nil
	}
	at := len(p.scratch)
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' && i+1 < len(raw) && (raw[i+1] == ',' || raw[i+1] == ' ' || raw[i+1] == '=' && equals) {
			i++
		}
		p.scratch = append(p.scratch, raw[i])
	}
	return p.scratch[at:len(p.scratch):len(p.scratch)], raw, nil
}

// fieldSet reads the fields. Their values are JSON when it returns, but for
// texts, which are in their quotes as they were sent.
func (p *point) fieldSet() *lineError {
	for {
		if len(p.fields) == maxFields {
			return p.fail("it has more than %d fields", maxFields)
		}
		var f pair
		var err *lineError
		if f.key, f.rawKey, err = p.named("the field"); err != nil {
			return err
		}
		if f.value, err = p.value(f.key); err != nil {
			return err
		}
		p.fields = append(p.fields, f)
		if p.peek() != ',' {
			break
		}
		p.i++
	}
	if p.peek() != ' ' && !p.atEnd() {
		return p.fail("something stands behind the value of the field %s", brief(string(p.fields[len(p.fields)-1].key)))
	}
	return nil
}

// value reads a field's value.
func (p *point) value(key []byte) ([]byte, *lineError) {
	if p.peek() == '"' {
		return p.text(key)
	}
	from := p.i
	for p.i < len(p.body) && p.body[p.i] != ',' && p.body[p.i] > ' ' {
		p.i++
	}
	raw := p.body[from:p.i]
	at := len(p.scratch)
	var ok bool
	if p.scratch, ok = appendValue(p.scratch, raw); !ok {
		p.i = from
		return nil, p.fail("the value %s of the field %s is no number, no true or false, and not in quotes", brief(string(raw)), brief(string(key)))
	}
	return p.scratch[at:len(p.scratch):len(p.scratch)], nil
}

// text reads a text in its quotes. One that is not closed is refused to the
// end of the line it begins in.
func (p *point) text(key []byte) ([]byte, *lineError) {
	from := p.i
	spans := -1
	for p.i++; p.i < len(p.body); p.i++ {
		switch p.body[p.i] {
		case '\\':
			p.i++
			continue
		case '\n':
			if spans < 0 {
				spans = p.i
			}
		case '"':
			p.i++
			text := p.body[from:p.i]
			if !utf8.Valid(text) {
				return nil, p.fail("the text of the field %s is not valid UTF-8", brief(string(key)))
			}
			return text, nil
		}
		if spans >= 0 && p.i-from > maxSpan {
			break
		}
	}
	p.i = from
	return nil, p.fail("the text of the field %s is not closed", brief(string(key)))
}

// appendValue appends a number or true or false as JSON.
func appendValue(b, raw []byte) (out []byte, ok bool) {
	switch string(raw) {
	case "":
		return b, false
	case "t", "T", "true", "True", "TRUE":
		return append(b, "true"...), true
	case "f", "F", "false", "False", "FALSE":
		return append(b, "false"...), true
	}
	switch digits := raw[:len(raw)-1]; raw[len(raw)-1] {
	case 'i':
		n, err := strconv.ParseInt(string(digits), 10, 64)
		return strconv.AppendInt(b, n, 10), err == nil && digits[0] != '+'
	case 'u':
		n, err := strconv.ParseUint(string(digits), 10, 64)
		return strconv.AppendUint(b, n, 10), err == nil
	}
	return appendFloat(b, raw)
}

// appendFloat appends a float in the form of JSON: a digit before the point
// and none for nothing, one behind it.
func appendFloat(b, raw []byte) (out []byte, ok bool) {
	if !finite(raw) {
		return b, false
	}
	i := 0
	digits := func() []byte {
		from := i
		for i < len(raw) && digit(raw[i]) {
			i++
		}
		return raw[from:i]
	}
	if raw[0] == '-' {
		b = append(b, '-')
		i++
	}
	whole, frac := digits(), []byte(nil)
	if i < len(raw) && raw[i] == '.' {
		i++
		frac = digits()
	}
	if len(whole)+len(frac) == 0 {
		return b, false
	}
	if whole = bytes.TrimLeft(whole, "0"); len(whole) == 0 {
		whole = []byte{'0'}
	}
	b = append(b, whole...)
	if len(frac) > 0 {
		b = append(append(b, '.'), frac...)
	}
	if i < len(raw) && raw[i]|0x20 == 'e' {
		from := i
		if i++; i < len(raw) && (raw[i] == '+' || raw[i] == '-') {
			i++
		}
		if len(digits()) == 0 {
			return b, false
		}
		b = append(b, raw[from:i]...)
	}
	return b, i == len(raw)
}

func (p *point) timestamp(unit time.Duration) *lineError {
	from := p.i
	if p.peek() == '-' {
		p.i++
	}
	for digit(p.peek()) {
		p.i++
	}
	raw := p.body[from:p.i]
	if p.peek() != ' ' && !p.atEnd() {
		return p.fail("the timestamp is not a whole number")
	}
	var err error
	if p.at, err = epoch(string(raw), unit); err != nil {
		return p.fail("the timestamp %s: %v", brief(string(raw)), err)
	}
	return nil
}

func byKey(a, b pair) int { return bytes.Compare(a.key, b.key) }

// twice names a key that stands twice, nil if none does.
func twice(pairs []pair) []byte {
	if len(pairs) > 16 && !slices.IsSortedFunc(pairs, byKey) {
		pairs = slices.SortedFunc(slices.Values(pairs), byKey)
	}
	few := len(pairs) <= 16
	for i := 1; i < len(pairs); i++ {
		from := i - 1 // where they are sorted, the same keys are neighbours
		if few {
			from = 0
		}
		for j := from; j < i; j++ {
			if bytes.Equal(pairs[i].key, pairs[j].key) {
				return pairs[i].key
			}
		}
	}
	return nil
}

// point takes a parsed point as a record.
func (in *intake) point(p *point, line int, text []byte) *refusal {
	if len(text) > in.maxRecord {
		return in.bad(line, codeTooLarge, fmt.Sprintf("the line has %d bytes; at most %d are allowed", len(text), in.maxRecord))
	}
	if !slices.IsSortedFunc(p.tags, byKey) {
		slices.SortStableFunc(p.tags, byKey)
	}
	what, again := "tag", twice(p.tags)
	if again == nil {
		what, again = "field", twice(p.fields)
	}
	if again != nil {
		return in.bad(line, codeMalformed, fmt.Sprintf("it is not line protocol: the %s %s stands twice", what, brief(string(again))))
	}
	p.json(in.maxRecord)
	if held := cap(p.out) + cap(p.scratch) + cap(p.series); held > p.held {
		if !in.heap.take(int64(held - p.held)) {
			return busy()
		}
		p.held = held
	}
	if len(p.out) > in.maxRecord {
		return in.add(line, p.out, "", p.at) // which says that it is too large
	}
	key, code, message, no := in.keyOfPoint(p)
	switch {
	case no != nil:
		return no
	case code != "":
		return in.bad(line, code, message)
	}
	return in.build(line, p.out, key, p.at)
}

// json writes the point's record:
//
//	{"name":"cpu","tags":{"host":"a"},"fields":{"idle":98.5},"time":"2026-11-05T14:00:00Z"}
//
// tags and time are left out where the line has none. It stops early beyond
// most bytes.
func (p *point) json(most int) {
	b := appendText(append(p.out[:0], `{"name":`...), p.name, most)
	if len(p.tags) > 0 {
		b = append(b, `,"tags":{`...)
		for i := range p.tags {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, p.tags[i].key, most), ':')
			b = appendText(b, p.tags[i].value, most)
		}
		b = append(b, '}')
	}
	b = append(b, `,"fields":{`...)
	for i := range p.fields {
		if i > 0 {
			b = append(b, ',')
		}
		f := &p.fields[i]
		b = append(appendText(b, f.key, most), ':')
		if f.value[0] == '"' {
			b = appendText(b, p.unquote(f.value[1:len(f.value)-1]), most)
		} else {
			b = append(b, f.value...)
		}
	}
	b = append(b, '}')
	if !p.at.IsZero() {
		b = append(p.at.AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano), '"')
	}
	p.out = append(b, '}')
}

// unquote is a field's text: in it a backslash escapes a quote and itself.
func (p *point) unquote(text []byte) []byte {
	i := bytes.IndexByte(text, '\\')
	if i < 0 {
		return text
	}
	at := len(p.scratch)
	p.scratch = append(p.scratch, text[:i]...)
	for ; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) && (text[i+1] == '"' || text[i+1] == '\\') {
			i++
		}
		p.scratch = append(p.scratch, text[i])
	}
	return p.scratch[at:]
}

// keyOfPoint is what the request asks for, else the series: the measurement
// and its tags sorted by name, as they were sent.
func (in *intake) keyOfPoint(p *point) (key, code, message string, no *refusal) {
	if in.key != "" {
		return in.key, "", "", nil
	}
	if in.keyField != "" {
		at, ok := slices.BinarySearchFunc(p.tags, in.keyField, func(t pair, name string) int { return cmp.Compare(string(t.key), name) })
		if ok {
			return in.checked(p.tags[at].value)
		}
		return in.keyOf(p.out)
	}
	p.series = append(p.series[:0], p.rawName...)
	for i := range p.tags {
		p.series = append(append(append(append(p.series, ','), p.tags[i].rawKey...), '='), p.tags[i].rawValue...)
	}
	if len(p.series) > record.MaxKey && utf8.RuneCount(p.series) > record.MaxKey {
		key, _ = record.KeyOf(string(p.series))
		return key, "", "", nil
	}
	return in.checked(p.series)
}
