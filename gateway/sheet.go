package main

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"forebay/gateway/api"
)

const (
	// alignRows is how many rows a table is aligned by; it is printed from
	// then on as it comes.
	alignRows = 1000
	// cellRunes is where a table cuts a text, and cellBytes a blob.
	cellRunes = 200
	cellBytes = 32
)

// A sheet prints the rows of a query.
type sheet struct {
	format   string
	terminal bool
	out      *bufio.Writer
	csv      *csv.Writer
	keys     [][]byte // of JSON objects, quoted
	head     []string
	rows     int
	waiting  [][]string // of a table, until it is known how wide it is
	numbers  []bool     // columns that hold nothing else
	widths   []int
	aligned  bool
	line     []byte
}

func newSheet(format string, w io.Writer, terminal bool) *sheet {
	out := bufio.NewWriterSize(w, 64<<10)
	return &sheet{format: format, terminal: terminal, out: out, csv: csv.NewWriter(out)}
}

// Columns begins the sheet.
func (s *sheet) Columns(names []string) error {
	s.head = names
	seen := map[string]int{}
	for _, n := range names {
		key := n
		if seen[n]++; seen[n] > 1 {
			key = n + "_" + strconv.Itoa(seen[n])
		}
		s.keys = append(s.keys, append(api.AppendValue(nil, strings.ToValidUTF8(key, "\ufffd")), ':'))
	}
	switch s.format {
	case "csv":
		return s.csv.Write(s.each(names))
	case "json":
		_, err := s.out.WriteString("[")
		return err
	case "table":
		s.head = s.each(names)
		s.numbers = make([]bool, len(names))
		for i := range s.numbers {
			s.numbers[i] = true
		}
	}
	return nil
}

func (s *sheet) each(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = n
		if s.terminal || s.format == "table" {
			out[i] = printable(n)
		}
	}
	return out
}

// Row prints a row, or keeps a copy of it until it is known how wide the table
// is.
func (s *sheet) Row(row []any) error {
	s.rows++
	switch s.format {
	case "csv":
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = s.plain(v)
		}
		return s.csv.Write(cells)
	case "json", "ndjson":
		return s.object(row)
	}
	cells := make([]string, len(row))
	for i, v := range row {
		cells[i] = strings.Clone(cell(v)) // texts are lent for the call
		switch v.(type) {
		case nil, int64, float64:
		default:
			s.numbers[i] = false
		}
	}
	if s.aligned {
		return s.print(cells)
	}
	if s.waiting = append(s.waiting, cells); len(s.waiting) >= alignRows {
		return s.align()
	}
	return nil
}

// plain is a value in a CSV file: NULL is nothing, a blob is x'…'.
func (s *sheet) plain(v any) string {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return api.FormatReal(v)
	case string:
		if s.terminal {
			return printable(v)
		}
		return v
	case []byte:
		return fmt.Sprintf("x'%x'", v)
	}
	return ""
}

// cell is a value in a table.
func cell(v any) string {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return api.FormatReal(v)
	case string:
		if n := cutAt(v, cellRunes); n < len(v) {
			v = v[:n] + "…"
		}
		return printable(strings.ToValidUTF8(v, "\ufffd"))
	case []byte:
		if len(v) > cellBytes {
			return fmt.Sprintf("x'%x…' (%d bytes)", v[:cellBytes], len(v))
		}
		return fmt.Sprintf("x'%x'", v)
	}
	return "NULL"
}

// cutAt is where the first n characters end.
func cutAt(s string, n int) int {
	if len(s) <= n {
		return len(s)
	}
	for i := range s {
		if n--; n < 0 {
			return i
		}
	}
	return len(s)
}

func (s *sheet) object(row []any) error {
	b := s.line[:0]
	if s.format == "json" {
		if s.rows > 1 {
			b = append(b, ',')
		}
		b = append(b, '\n')
	}
	b = append(b, '{')
	for i, v := range row {
		if i > 0 {
			b = append(b, ',')
		}
		b = api.AppendValue(append(b, s.keys[i]...), v)
	}
	b = append(b, '}')
	if s.format == "ndjson" {
		b = append(b, '\n')
	}
	s.line = b
	_, err := s.out.Write(b)
	return err
}

// align prints the head and what waited.
func (s *sheet) align() error {
	s.aligned = true
	s.widths = make([]int, len(s.head))
	for _, row := range append([][]string{s.head}, s.waiting...) {
		for i, c := range row {
			s.widths[i] = max(s.widths[i], utf8.RuneCountInString(c))
		}
	}
	if err := s.print(s.head); err != nil {
		return err
	}
	for _, row := range s.waiting {
		if err := s.print(row); err != nil {
			return err
		}
	}
	s.waiting = nil
	return nil
}

func (s *sheet) print(cells []string) error {
	b := s.line[:0]
	for i, c := range cells {
		if i > 0 {
			b = append(b, "  "...)
		}
		pad := strings.Repeat(" ", max(0, s.widths[i]-utf8.RuneCountInString(c)))
		switch {
		case s.numbers[i]:
			b = append(append(b, pad...), c...)
		case i < len(cells)-1:
			b = append(append(b, c...), pad...)
		default:
			b = append(b, c...)
		}
	}
	s.line = append(b, '\n')
	_, err := s.out.Write(s.line)
	return err
}

// flush prints what there is of a result that is not whole.
func (s *sheet) flush() error {
	if s.format == "table" && !s.aligned && s.head != nil {
		if err := s.align(); err != nil {
			return err
		}
	}
	s.csv.Flush()
	if err := s.csv.Error(); err != nil {
		return err
	}
	return s.out.Flush()
}

// close ends a whole result.
func (s *sheet) close() error {
	if s.format == "json" {
		if _, err := s.out.WriteString("\n]\n"); err != nil {
			return err
		}
	}
	return s.flush()
}
