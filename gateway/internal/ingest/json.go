package ingest

import (
	"bytes"
	"fmt"
	"net/http"
	"unicode/utf8"
)

// ndjson takes a JSON value a line. A line that is not JSON is refused by
// itself; empty lines are passed over.
func (in *intake) ndjson(body []byte) *refusal {
	if no := in.expect(bytes.Count(body, []byte{'\n'}) + 1); no != nil {
		return no
	}
	for line := 1; len(body) > 0; line++ {
		text := body
		if end := bytes.IndexByte(body, '\n'); end >= 0 {
			text, body = body[:end], body[end+1:]
		} else {
			body = nil
		}
		from := skipSpace(text, 0)
		if text = trimSpace(text[from:]); len(text) == 0 {
			continue
		}
		if no := in.jsonLine(line, text, from); no != nil {
			return no
		}
	}
	return nil
}

func (in *intake) jsonLine(line int, text []byte, from int) *refusal {
	if len(text) <= in.maxRecord { // else addJSON says that it is too large
		end, err := scan(text, 0, 0)
		if err == nil && end < len(text) {
			err = &syntaxError{end, "something stands behind the value"}
		}
		if err != nil {
			return in.bad(line, codeMalformed, fmt.Sprintf("it is not JSON: %s (byte %d of the line)", err.what, from+err.off+1))
		}
	}
	return in.addJSON(line, text)
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t' || b[len(b)-1] == '\r' || b[len(b)-1] == '\n') {
		b = b[:len(b)-1]
	}
	return b
}

// json takes one JSON text: each element of an array is a record, anything
// else is one record. A text that is not JSON to its end is refused whole,
// because nobody can tell where its records are.
func (in *intake) json(body []byte) *refusal {
	i := skipSpace(body, 0)
	if i == len(body) || body[i] != '[' {
		end, err := scan(body, i, 0)
		if no := notJSON(body, end, err); no != nil {
			return no
		}
		return in.addJSON(1+bytes.Count(body[:i], []byte{'\n'}), body[i:end])
	}
	lines := lineCounter{body: body, line: 1}
	if i = skipSpace(body, i+1); i < len(body) && body[i] == ']' {
		return notJSON(body, i+1, nil)
	}
	for {
		end, err := scan(body, i, 1)
		if err != nil {
			return notJSON(body, end, err)
		}
		if no := in.addJSON(lines.at(i), body[i:end]); no != nil {
			return no
		}
		i = skipSpace(body, end)
		switch {
		case i < len(body) && body[i] == ',':
			i = skipSpace(body, i+1)
		case i < len(body) && body[i] == ']':
			return notJSON(body, i+1, nil)
		default:
			return notJSON(body, i, &syntaxError{i, "the array is not closed"})
		}
	}
}

// notJSON refuses a body that is not one JSON text, which ends at end; nil if
// it is.
func notJSON(body []byte, end int, err *syntaxError) *refusal {
	if err == nil {
		if end = skipSpace(body, end); end == len(body) {
			return nil
		}
		err = &syntaxError{end, "something stands behind the value; is it ndjson?"}
	}
	line := 1 + bytes.Count(body[:err.off], []byte{'\n'})
	what := err.what
	if !utf8.Valid(body) {
		what += "; it is not UTF-8"
	}
	return &refusal{
		status: http.StatusBadRequest, code: codeMalformed, hint: "nothing was stored",
		message: fmt.Sprintf("the body is not JSON: %s (line %d, byte %d of the body)", what, line, err.off+1),
	}
}

// A lineCounter tells the lines of rising offsets.
type lineCounter struct {
	body []byte
	off  int
	line int
}

func (c *lineCounter) at(off int) int {
	c.line += bytes.Count(c.body[c.off:off], []byte{'\n'})
	c.off = off
	return c.line
}
