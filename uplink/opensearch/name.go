package opensearch

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A name makes the names of indices.
type name struct {
	parts []namePart
	read  *regexp.Regexp // finds the stream's name in a name; nil where none is in it
}

// A namePart is a text, the stream's name, or a layout of package time.
type namePart struct {
	text, layout string
	stream       bool
}

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	layouts = strings.NewReplacer("yyyy", "2006", "MM", "01", "dd", "02", "HH", "15")
	digits  = regexp.MustCompile(`\d`)
	// generation ends the name of an index behind a data stream or an alias.
	generation = regexp.MustCompile(`-(?:\d{4}\.\d\d\.\d\d-)?\d{6,}$`)
	dateRE     = regexp.MustCompile(`^(yyyy|MM|dd|HH)([._-]?(yyyy|MM|dd|HH))*$`)
)

// parseName reads a pattern such as "forebay-{stream}-{yyyy.MM.dd}".
func parseName(pattern string) (name, error) {
	var n name
	for rest := pattern; rest != ""; {
		text, more, mark := strings.Cut(rest, "{")
		if text != "" {
			n.parts = append(n.parts, namePart{text: text})
		}
		if !mark {
			break
		}
		in, after, ok := strings.Cut(more, "}")
		switch {
		case !ok:
			return n, fmt.Errorf("%q has a { without a }", pattern)
		case in == "stream":
			n.parts = append(n.parts, namePart{stream: true})
		case dateRE.MatchString(in):
			n.parts = append(n.parts, namePart{layout: layouts.Replace(in)})
		default:
			return n, fmt.Errorf("{%s} is not {stream} or a date such as {yyyy.MM.dd}", in)
		}
		rest = after
	}
	if len(n.parts) == 0 || n.parts[0].text == "" || !nameRE.MatchString(n.of("x", time.Unix(0, 0))) {
		return n, fmt.Errorf("%q is not the name of an index; use a-z, 0-9, -, _ and ., the first of them a letter or digit and no mark in braces", pattern)
	}
	n.read = n.reader()
	return n, nil
}

// reader finds the stream's name in a name of the pattern.
func (n name) reader() *regexp.Regexp {
	var b strings.Builder
	b.WriteByte('^')
	found := false
	for _, p := range n.parts {
		switch {
		case p.stream:
			b.WriteString(`(.+)`)
			found = true
		case p.layout != "":
			b.WriteString(digits.ReplaceAllString(p.layout, `\d`))
		default:
			b.WriteString(regexp.QuoteMeta(p.text))
		}
	}
	if !found {
		return nil
	}
	b.WriteByte('$')
	return regexp.MustCompile(b.String())
}

// stream is the stream's name in the name of an index, empty where the pattern
// has none; false for an index whose name is not of the pattern. It may be one
// behind a data stream or a rolled-over alias, so that a stream whose name ends
// as theirs do goes without that end.
func (n name) stream(index string) (string, bool) {
	if n.read == nil {
		return "", true
	}
	plain, behind := strings.CutPrefix(index, ".ds-")
	if behind {
		plain = generation.ReplaceAllString(plain, "")
	}
	for _, x := range []string{plain, generation.ReplaceAllString(plain, "")} {
		if m := n.read.FindStringSubmatch(x); m != nil {
			if n.parts[len(n.parts)-1].stream {
				return generation.ReplaceAllString(m[1], ""), true
			}
			return m[1], true
		}
	}
	return "", false
}

// of is the index for a record: it depends on nothing but the stream and the
// arrival, so that a record that is sent again goes to the same one.
func (n name) of(stream string, arrived time.Time) string {
	arrived = arrived.UTC()
	if arrived.Year() > 9999 {
		arrived = time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC)
	}
	if arrived.Year() < 1 {
		arrived = time.Time{}
	}
	var b strings.Builder
	for _, p := range n.parts {
		switch {
		case p.stream:
			b.WriteString(legal(stream))
		case p.layout != "":
			b.WriteString(arrived.Format(p.layout))
		default:
			b.WriteString(p.text)
		}
	}
	// A name has 255 bytes at most; a stream's has 128.
	s := b.String()
	return s[:min(len(s), 255)]
}

// legal is a stream's name as it may stand in an index's. Streams that differ
// in nothing but case share an index.
func legal(stream string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, stream)
}

// all is a pattern of all names there can be.
func (n name) all() string {
	var b strings.Builder
	for _, p := range n.parts {
		if p.text == "" {
			b.WriteByte('*')
		}
		b.WriteString(p.text)
	}
	return b.String()
}
