package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// QueryRequest is POST /v1/query: one SELECT over the streams; docs/query.md
// says what it may hold. The answer is JSON lines: {"columns":[…]}, then an
// array a row, then a QueryEnd, or {"error":…} where the query failed on the
// way.
//
// In a row null is NULL, a number without point and exponent an integer, with
// one a real, a string text, {"base64":"…"} a blob, {"real":"Infinity"} what
// JSON has no number for.
type QueryRequest struct {
	SQL string `json:"sql"`
	// TimeoutMS ends the query; 0 is 30 seconds, at most ten minutes.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
	// MaxRows ends the result; 0 is 100,000, at most 10 million.
	MaxRows int `json:"max_rows,omitempty"`
	// Progress asks for lines {"progress":QueryProgress} between the rows.
	Progress bool `json:"progress,omitempty"`
}

// QueryProgress says how far a query is.
type QueryProgress struct {
	Scanned   uint64  `json:"scanned"` // records read
	Blocks    uint64  `json:"blocks"`  // blocks read, or counted by their heads
	Skipped   uint64  `json:"skipped"` // blocks passed over by their heads
	Share     float64 `json:"share"`   // of the stream's files, 0 to 1
	Rows      int64   `json:"rows"`
	ElapsedMS int64   `json:"elapsed_ms"`
}

// QueryEnd is the last line of an answer that is whole.
type QueryEnd struct {
	Done bool `json:"done"`
	QueryProgress
	Truncated bool     `json:"truncated,omitempty"` // there were more rows than asked for
	Warnings  []string `json:"warnings,omitempty"`  // what a person should know about the answer
}

// A QueryResult takes what a query yields. A value of a row is nil, int64,
// float64, string or []byte. An error ends the query.
type QueryResult interface {
	Columns(names []string) error
	Row(row []any) error
	Progress(p QueryProgress)
}

// Query asks the gateway and hands over what it answers as it comes. Where the
// answer breaks off the error says so.
func (c *Client) Query(ctx context.Context, r QueryRequest, to QueryResult) (QueryEnd, error) {
	var end QueryEnd
	b, err := json.Marshal(r)
	if err != nil {
		return end, fmt.Errorf("write the request: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/query", bytes.NewReader(b), http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return end, err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return end, fmt.Errorf("the answer breaks off: %w", err)
		}
		if raw[0] == '[' {
			row, err := parseRow(raw)
			if err == nil {
				err = to.Row(row)
			}
			if err != nil {
				return end, err
			}
			continue
		}
		var line struct {
			QueryEnd
			Columns  []string       `json:"columns"`
			Progress *QueryProgress `json:"progress"`
			Err      *Error         `json:"error"`
		}
		if err := json.Unmarshal(raw, &line); err != nil {
			return end, fmt.Errorf("read the gateway's answer: %w", err)
		}
		switch {
		case line.Err != nil:
			return end, line.Err
		case line.Done:
			return line.QueryEnd, nil
		case line.Progress != nil:
			to.Progress(*line.Progress)
		default:
			if err := to.Columns(line.Columns); err != nil {
				return end, err
			}
		}
	}
}

func parseRow(raw []byte) ([]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var row []any
	if err := dec.Decode(&row); err != nil {
		return nil, fmt.Errorf("read a row: %w", err)
	}
	for i, v := range row {
		switch v := v.(type) {
		case nil, string:
		case json.Number:
			n, err := strconv.ParseInt(v.String(), 10, 64)
			if err == nil {
				row[i] = n
				continue
			}
			f, err := v.Float64()
			if err != nil {
				return nil, fmt.Errorf("read a row: %w", err)
			}
			row[i] = f
		case map[string]any:
			var err error
			switch s, _ := v["base64"].(string); {
			case v["base64"] != nil:
				row[i], err = base64.StdEncoding.DecodeString(s)
			case v["real"] == "Infinity":
				row[i] = math.Inf(1)
			case v["real"] == "-Infinity":
				row[i] = math.Inf(-1)
			default:
				err = fmt.Errorf("%v is no value", v)
			}
			if err != nil {
				return nil, fmt.Errorf("read a row: %w", err)
			}
		default:
			return nil, fmt.Errorf("read a row: %T is no value", v)
		}
	}
	return row, nil
}

// AppendRow appends a row as a QueryRequest's answer has it, without a line
// feed.
func AppendRow(b []byte, row []any) []byte {
	b = append(b, '[')
	for i, v := range row {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendValue(b, v)
	}
	return append(b, ']')
}

// AppendValue appends one value of a row. No control character stands in it as
// it is, those beyond ASCII included: text must not steer a terminal.
func AppendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		switch {
		case math.IsInf(v, 1):
			return append(b, `{"real":"Infinity"}`...)
		case math.IsInf(v, -1):
			return append(b, `{"real":"-Infinity"}`...)
		}
		return append(b, FormatReal(v)...)
	case string:
		if !utf8.ValidString(v) {
			return AppendValue(b, []byte(v))
		}
		return appendText(b, v)
	case []byte:
		b = append(b, `{"base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, v)
		return append(b, `"}`...)
	}
	return append(b, "null"...)
}

// FormatReal writes a real so that it is told from an integer and read back as
// it was.
func FormatReal(v float64) string {
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	s := strconv.FormatFloat(v, format, -1, 64)
	if !strings.ContainsAny(s, ".eIN") {
		s += ".0"
	}
	return s
}

func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\t':
			b = append(b, `\t`...)
		case unicode.IsControl(r) || r == 0x2028 || r == 0x2029:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
