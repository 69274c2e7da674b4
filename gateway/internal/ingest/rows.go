package ingest

import "bytes"

// A rowReader cuts a CSV body (RFC 4180) into rows. Lines end with LF or CRLF;
// empty lines are no rows. What stands between quotes is kept byte for byte.
type rowReader struct {
	body  []byte
	off   int
	eol   int // the next LF, or the end of the body; where it is below off it is not known
	line  int // at off, from 1
	delim []byte

	cells   [][]byte // of the row; they lie in body or in scratch
	most    int      // cells that are kept
	scratch []byte   // quoted cells with quotes in them
}

// A row is what next found: n cells, of which those beyond most are not kept.
type row struct {
	line  int // where it begins
	last  int // where it ends
	n     int
	fault string // "" or why it is not CSV
}

// next reads a row into cells; false at the end of the body. Behind a row with
// a fault it goes on at the next line.
func (r *rowReader) next() (row, bool) {
	for r.off < len(r.body) {
		rest := r.body[r.off:]
		n := 0
		switch {
		case rest[0] == '\n':
			n = 1
		case rest[0] == '\r' && len(rest) == 1:
			n = 1
		case rest[0] == '\r' && rest[1] == '\n':
			n = 2
		}
		if n == 0 {
			break
		}
		r.off += n
		r.line++
	}
	if r.off >= len(r.body) {
		return row{}, false
	}
	r.cells, r.scratch = r.cells[:0], r.scratch[:0]
	out := row{line: r.line}
	from := r.off
	for more := true; more && out.fault == ""; {
		var cell []byte
		cell, more, out.fault = r.cell()
		if out.n++; out.n <= r.most && out.fault == "" {
			r.cells = append(r.cells, cell)
		}
	}
	if out.fault != "" {
		r.skipLine()
	}
	breaks := bytes.Count(r.body[from:r.off], []byte{'\n'})
	r.line += breaks
	out.last = out.line + max(breaks-1, 0)
	if r.off == len(r.body) && r.body[r.off-1] != '\n' {
		out.last = out.line + breaks
	}
	return out, true
}

func (r *rowReader) skipLine() {
	if end := bytes.IndexByte(r.body[r.off:], '\n'); end >= 0 {
		r.off += end + 1
	} else {
		r.off = len(r.body)
	}
}

// cell reads a cell and what ends it; more tells whether the row goes on.
func (r *rowReader) cell() (text []byte, more bool, fault string) {
	rest := r.body[r.off:]
	if len(rest) > 0 && rest[0] == '"' {
		return r.quoted()
	}
	if r.eol < r.off { // once a line, however many cells it has
		if end := bytes.IndexByte(rest, '\n'); end >= 0 {
			r.eol = r.off + end
		} else {
			r.eol = len(r.body)
		}
	}
	line := r.body[r.off:r.eol]
	if at := bytes.Index(line, r.delim); at >= 0 {
		text, more = line[:at], true
		r.off += at + len(r.delim)
	} else {
		text = line
		r.off = min(r.off+len(line)+1, len(r.body))
		if n := len(text); n > 0 && text[n-1] == '\r' {
			text = text[:n-1]
		}
	}
	if bytes.IndexByte(text, '"') >= 0 {
		if !more {
			r.off-- // so that skipLine does not pass the next line
		}
		return nil, false, "a quote stands inside of a cell that does not begin with one"
	}
	return text, more, ""
}

// quoted reads a cell that begins with a quote.
func (r *rowReader) quoted() (text []byte, more bool, fault string) {
	from := r.off + 1
	at := len(r.scratch)
	for i := from; ; {
		end := bytes.IndexByte(r.body[i:], '"')
		if end < 0 {
			r.off = len(r.body)
			return nil, false, "a quote is not closed"
		}
		i += end + 1
		if i < len(r.body) && r.body[i] == '"' { // a quote is written twice
			r.scratch = append(r.scratch, r.body[from:i]...)
			i++
			from = i
			continue
		}
		text = r.body[from : i-1]
		if len(r.scratch) > at {
			r.scratch = append(r.scratch, text...)
			text = r.scratch[at:]
		}
		r.off = i
		break
	}
	rest := r.body[r.off:]
	switch {
	case len(rest) == 0:
	case bytes.HasPrefix(rest, r.delim):
		r.off += len(r.delim)
		return text, true, ""
	case rest[0] == '\n':
		r.off++
	case rest[0] == '\r' && (len(rest) == 1 || rest[1] == '\n'):
		r.off += min(2, len(rest))
	default:
		return nil, false, "something stands behind a quote that closes a cell"
	}
	return text, false, ""
}
