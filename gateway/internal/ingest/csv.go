package ingest

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"
)

const (
	maxColumns = 1024
	maxHeader  = 64 << 10 // bytes of names
)

// A table is a CSV body with a header.
type table struct {
	rows    rowReader
	names   [][]byte // as JSON texts with their colon
	key     int      // column, -1: none
	time    int
	scratch []byte
	charged int // bytes of scratch memory that were lent
}

// csv takes each row behind the header as a JSON object: a cell that is a
// JSON number stays the number it is written as, an empty one is left out, all
// else is text.
func (in *intake) csv(body []byte) *refusal {
	t := &table{key: -1, time: -1, rows: rowReader{body: body, line: 1, eol: -1, delim: []byte(string(in.delimiter)), most: maxColumns}}
	head, ok := t.rows.next()
	switch {
	case !ok:
		return noHeader("the body has no header row")
	case head.fault != "":
		return noHeader("the header row is not CSV: " + head.fault)
	case head.n > maxColumns:
		return noHeader(fmt.Sprintf("the header has %d columns; at most %d are allowed", head.n, maxColumns))
	}
	if no := in.header(t); no != nil {
		return no
	}
	if no := in.expect(bytes.Count(body, []byte{'\n'})); no != nil {
		return no
	}
	t.rows.most = len(t.names)
	for {
		r, ok := t.rows.next()
		if !ok {
			return nil
		}
		if no := in.row(t, r); no != nil {
			return no
		}
	}
}

func noHeader(message string) *refusal {
	return &refusal{
		status: http.StatusBadRequest, code: codeMalformed, message: message,
		hint: "the first row names the columns; nothing was stored",
	}
}

func (in *intake) header(t *table) *refusal {
	column := make(map[string]int, len(t.rows.cells))
	left := maxHeader
	for i, cell := range t.rows.cells {
		name := string(cell)
		left -= len(name)
		switch {
		case name == "":
			return noHeader(fmt.Sprintf("column %d has no name", i+1))
		case left < 0:
			return noHeader(fmt.Sprintf("the names of the columns have more than %d bytes", maxHeader))
		case !utf8.ValidString(name):
			return noHeader(fmt.Sprintf("the name of column %d is not valid UTF-8", i+1))
		}
		if _, twice := column[name]; twice {
			return noHeader("two columns have the name " + brief(name))
		}
		column[name] = i
		t.names = append(t.names, append(appendText(nil, name, 8*maxHeader), ':'))
	}
	for _, f := range []struct {
		parameter, name string
		column          *int
	}{{"key_field", in.keyField, &t.key}, {"time_field", in.timeField, &t.time}} {
		if f.name == "" {
			continue
		}
		var ok bool
		if *f.column, ok = column[f.name]; !ok {
			return noHeader(fmt.Sprintf("%s: no column has the name %s", f.parameter, brief(f.name)))
		}
	}
	return nil
}

func (in *intake) row(t *table, r row) *refusal {
	if r.fault != "" {
		text := "it is not CSV: " + r.fault
		if r.last > r.line {
			text += fmt.Sprintf("; lines %d to %d count as this record", r.line, r.last)
		}
		return in.bad(r.line, codeMalformed, text)
	}
	if r.n != len(t.names) {
		return in.bad(r.line, codeMalformed, fmt.Sprintf("it has %d cells; the header has %d", r.n, len(t.names)))
	}
	key := in.key
	if t.key >= 0 {
		cell := t.rows.cells[t.key]
		if len(cell) == 0 {
			return in.bad(r.line, codeKey, "it has nothing in the column "+brief(in.keyField))
		}
		var code, text string
		var no *refusal
		if key, code, text, no = in.checked(cell); no != nil {
			return no
		}
		if code != "" {
			return in.bad(r.line, code, text)
		}
	}
	var at time.Time
	if t.time >= 0 && len(t.rows.cells[t.time]) > 0 {
		var err error
		if at, err = readTime(string(t.rows.cells[t.time]), in.unit); err != nil {
			return in.bad(r.line, codeTime, fmt.Sprintf("the time %s: %v", brief(in.timeField), err))
		}
	}
	return in.object(t, r.line, key, at)
}

// object writes a row as JSON.
func (in *intake) object(t *table, line int, key string, at time.Time) *refusal {
	b := append(t.scratch[:0], '{')
	for i, cell := range t.rows.cells {
		if len(cell) == 0 {
			continue
		}
		if !utf8.Valid(cell) {
			return in.bad(line, codeMalformed, fmt.Sprintf("the cell of column %d is not valid UTF-8", i+1))
		}
		if len(b)+len(cell) > in.maxRecord {
			return in.bad(line, codeTooLarge, fmt.Sprintf("the record has more than the %d bytes that are allowed", in.maxRecord))
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, t.names[i]...)
		if isNumber(cell) {
			b = append(b, cell...)
		} else {
			b = appendText(b, cell, in.maxRecord)
		}
	}
	b = append(b, '}')
	t.scratch = b
	if held := cap(b) + cap(t.rows.scratch); held > t.charged {
		if !in.heap.take(int64(held - t.charged)) {
			return busy()
		}
		t.charged = held
	}
	return in.build(line, b, key, at)
}
