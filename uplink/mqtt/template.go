package mqtt

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Template is a text with places in it that a record fills: {gateway},
// {stream}, {shard}, {source}, {key}, and of a key with slashes {key:2}, its second
// level, and {key:2-}, all from the second on.
type Template struct {
	parts []slot
}

type slot struct {
	text     string // between places
	name     string // of a place
	from, to int    // levels of {key:…}, from 1; 0: all, to 0: the rest
}

// A Place is what fills a template.
type Place struct {
	Gateway, Stream, Source, Key string
	Shard                        uint32
	// Field is the name of a value within a payload, for templates that may
	// have {field}.
	Field string
}

var errTemplate = errors.New("write for example \"acme/plant1/{stream}/{key}\"")

// ParseTemplate reads a template in which the named places may stand.
func ParseTemplate(s string, allowed ...string) (Template, error) {
	var t Template
	for s != "" {
		text, rest, found := strings.Cut(s, "{")
		if strings.Contains(text, "}") {
			return t, fmt.Errorf("a } without a {; %w", errTemplate)
		}
		if text != "" {
			t.parts = append(t.parts, slot{text: text})
		}
		if !found {
			break
		}
		place, rest, found := strings.Cut(rest, "}")
		if !found {
			return t, fmt.Errorf("a { without a }; %w", errTemplate)
		}
		p, err := parsePlace(place, allowed)
		if err != nil {
			return t, err
		}
		t.parts = append(t.parts, p)
		s = rest
	}
	return t, nil
}

func parsePlace(s string, allowed []string) (slot, error) {
	name, levels, some := strings.Cut(s, ":")
	p := slot{name: name}
	known := false
	for _, a := range allowed {
		known = known || a == name
	}
	if !known || some && name != "key" {
		return p, fmt.Errorf("{%s} is not one of {%s}; %w", s, strings.Join(allowed, "}, {"), errTemplate)
	}
	if some {
		first, open := strings.CutSuffix(levels, "-")
		n, err := strconv.Atoi(first)
		if err != nil || n < 1 || n > 99 {
			return p, fmt.Errorf("{%s}: levels of the key are written as {key:1} or {key:2-}", s)
		}
		if p.from, p.to = n, n; open {
			p.to = 0
		}
	}
	return p, nil
}

// Has reports whether a place stands in the template.
func (t Template) Has(name string) bool {
	for _, p := range t.parts {
		if p.name == name {
			return true
		}
	}
	return false
}

// Fill appends the template to dst, the places filled through clean.
func (t Template) Fill(dst []byte, at *Place, clean func(dst []byte, s string) []byte) []byte {
	for _, p := range t.parts {
		switch p.name {
		case "":
			dst = append(dst, p.text...)
		case "gateway":
			dst = clean(dst, at.Gateway)
		case "stream":
			dst = clean(dst, at.Stream)
		case "shard":
			dst = strconv.AppendUint(dst, uint64(at.Shard), 10)
		case "source":
			dst = clean(dst, at.Source)
		case "field":
			dst = clean(dst, at.Field)
		case "key":
			dst = clean(dst, levels(at.Key, p.from, p.to))
		}
	}
	return dst
}

// levels gives levels from to to of a name with slashes; "" where it has fewer.
func levels(s string, from, to int) string {
	if from == 0 {
		return s
	}
	for i := 1; i < from; i++ {
		_, rest, ok := strings.Cut(s, "/")
		if !ok {
			return ""
		}
		s = rest
	}
	if to == 0 {
		return s
	}
	first, _, _ := strings.Cut(s, "/")
	return first
}
