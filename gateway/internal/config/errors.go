package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// An Error says what is wrong with a config file, where, and what would be
// right. Line and Column count from 1; Line 0 means that the place is not
// known.
type Error struct {
	File         string
	Line, Column int
	Width        int    // characters to underline
	Source       string // the offending line
	Message      string
}

// Error is "file:line:column: message", then the line with the offending text
// underlined.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	gutter := fmt.Sprintf("%5d | ", e.Line)
	pad := []byte(e.Source[:min(e.Column-1, len(e.Source))])
	for i, c := range pad {
		if c != '\t' {
			pad[i] = ' '
		}
	}
	return fmt.Sprintf("%s:%d:%d: %s\n%s%s\n%s%s%s", e.File, e.Line, e.Column, e.Message, gutter, e.Source,
		strings.Repeat(" ", len(gutter)-2)+"| ", pad, strings.Repeat("~", max(e.Width, 1)))
}

// decodeErrors turns the decoder's errors into ours.
func decodeErrors(path string, text []byte, err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		errs := make([]error, 0, len(strict.Errors))
		for _, e := range strict.Errors {
			key := strings.Join(e.Key(), ".")
			errs = append(errs, at(path, text, &e, fmt.Sprintf("unknown key %q; `forebay config print` lists the keys there are", key)))
		}
		return errors.Join(errs...)
	}
	if dec, ok := errors.AsType[*toml.DecodeError](err); ok {
		return at(path, text, dec, plain(strings.TrimPrefix(dec.Error(), "toml: ")))
	}
	return &Error{File: path, Message: strings.TrimPrefix(err.Error(), "toml: ")}
}

var mismatchRE = regexp.MustCompile(`^cannot decode TOML (\w+) into .* of type (\S+)$`)

// plain says in words of the file what the decoder says in words of Go.
func plain(msg string) string {
	m := mismatchRE.FindStringSubmatch(msg)
	if m == nil {
		return msg
	}
	want := m[2]
	switch {
	case strings.HasPrefix(want, "int"), strings.HasPrefix(want, "uint"), strings.Contains(want, "."):
		want = "a number"
	case strings.HasPrefix(want, "float"):
		want = "a number"
	case want == "bool":
		want = "true or false"
	case strings.HasPrefix(want, "[]"):
		want = "a list"
	case want == "string":
		want = "a text in quotes"
	}
	return fmt.Sprintf("a %s stands here; %s is needed", m[1], want)
}

func at(path string, text []byte, e *toml.DecodeError, msg string) *Error {
	row, col := e.Position()
	out := &Error{File: path, Line: row, Column: col, Message: msg, Source: lineOf(text, row)}
	if i := strings.LastIndexByte(e.String(), '\n'); i >= 0 || strings.Contains(e.String(), "~") {
		for l := range strings.SplitSeq(e.String(), "\n") {
			if n := strings.Count(l, "~"); n > 0 && strings.HasPrefix(strings.TrimLeft(l, " |"), "~") {
				out.Width = n
			}
		}
	}
	return out
}

func lineOf(text []byte, row int) string {
	for i, l := range bytes.Split(text, []byte("\n")) {
		if i+1 == row {
			return strings.TrimRight(string(l), "\r")
		}
	}
	return ""
}

var (
	headerRE = regexp.MustCompile(`^\s*(\[\[?)\s*([A-Za-z0-9_."-]+)\s*\]\]?`)
	nthRE    = regexp.MustCompile(`^(.*)\[(\d+)\]$`)
	keyRE    = regexp.MustCompile(`^\s*"?([A-Za-z0-9_-]+)"?\s*=\s*(.*?)\s*(#[^"']*)?$`)
)

// locate finds the line of a complaint about the index-th table of a name: the
// key that the complaint begins with, else the header of the table it is missing
// in. A table that the file only has tables below is the first of its name.
func locate(path string, text []byte, table string, index int, err error) error {
	field, _, _ := strings.Cut(err.Error(), ":")
	where, nth := "", 0 // a key with a dot is one of a table below, "shape[2].when" of the second
	if i := strings.LastIndexByte(field, '.'); i >= 0 {
		where, field = "."+field[:i], field[i+1:]
		if m := nthRE.FindStringSubmatch(where); m != nil {
			where = m[1]
			nth, _ = strconv.Atoi(m[2]) // digits, or it is none
		}
	}
	header, current, n, below := &Error{File: path, Message: "[" + table + "] " + err.Error()}, "", -1, false
	for i, l := range bytes.Split(text, []byte("\n")) {
		line := strings.TrimRight(string(l), "\r")
		if m := headerRE.FindStringSubmatchIndex(line); m != nil {
			current = strings.ReplaceAll(line[m[4]:m[5]], `"`, "")
			if current == table || n < 0 && strings.HasPrefix(current, table+".") {
				n++
			}
			exact := n == index && current == table+where
			if exact {
				nth--
			}
			if current == table && n == index || exact && nth <= 0 && !below {
				below = exact && where != ""
				header.Line, header.Column, header.Width, header.Source = i+1, m[2]+1, m[1]-m[2], line
			}
			continue
		}
		inside := n == index && nth <= 0 && (current == table+where || where == "" && strings.HasPrefix(current, table+"."))
		if m := keyRE.FindStringSubmatchIndex(line); inside && m != nil && line[m[2]:m[3]] == field {
			return &Error{File: path, Line: i + 1, Column: m[4] + 1, Width: m[5] - m[4], Source: line, Message: header.Message}
		}
	}
	return header
}
