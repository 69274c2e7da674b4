package conf

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxFilter bounds a filter, in bytes: MQTT counts its strings in 16 bits
// (MQTT 5, 1.5.4).
const maxFilter = 1<<16 - 1

// A Filter matches topics and partition keys as MQTT topic filters do
// (MQTT 3.1.1, 4.7): levels are split by "/", "+" stands for one level, "#"
// as the last level for all that follow, the parent included. Topics that
// start with "$" are no exception here; the broker makes it ([MQTT-4.7.2-1]).
// The zero Filter matches everything.
type Filter struct {
	text   string
	levels []string
}

// ParseFilter reads a filter ([MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1],
// [MQTT-4.7.3-2]).
func ParseFilter(s string) (Filter, error) {
	switch {
	case s == "":
		return Filter{}, errors.New("a topic filter is empty; write \"#\" for everything")
	case len(s) > maxFilter:
		return Filter{}, fmt.Errorf("a topic filter of %d bytes is longer than %d", len(s), maxFilter)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return Filter{}, fmt.Errorf("%q is not valid UTF-8 or holds U+0000", s)
	}
	levels := strings.Split(s, "/")
	for i, l := range levels {
		switch {
		case l == "#" && i != len(levels)-1:
			return Filter{}, fmt.Errorf("%q has levels behind #; # stands for all the rest and comes last", s)
		case l != "#" && l != "+" && strings.ContainsAny(l, "+#"):
			return Filter{}, fmt.Errorf("%q has + or # beside other characters in %q; each stands alone between slashes, as in \"plant/+/temp\"", s, l)
		}
	}
	return Filter{s, levels}, nil
}

// ParseFilters reads a list of filters.
func ParseFilters(list []string) ([]Filter, error) {
	out := make([]Filter, 0, len(list))
	for _, s := range list {
		f, err := ParseFilter(s)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// UnmarshalText reads a filter from a config file.
func (f *Filter) UnmarshalText(b []byte) error {
	v, err := ParseFilter(string(b))
	if err != nil {
		return err
	}
	*f = v
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (f Filter) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

func (f Filter) String() string {
	if f.text == "" {
		return "#"
	}
	return f.text
}

// All reports whether the filter matches everything.
func (f Filter) All() bool { return f.text == "" || f.text == "#" }

// Plus is how many "+" the filter has: how many strings Capture appends.
func (f Filter) Plus() int {
	n := 0
	for _, l := range f.levels {
		if l == "+" {
			n++
		}
	}
	return n
}

// Match reports whether the topic matches. It does not allocate.
func (f Filter) Match(topic string) bool { return f.match(topic, nil) }

// Capture returns what each "+" stands for in a topic that matches, from left
// to right, as parts of topic; false if it does not match.
func (f Filter) Capture(topic string) ([]string, bool) {
	var caps []string
	ok := f.match(topic, &caps)
	return caps, ok
}

func (f Filter) match(topic string, caps *[]string) bool {
	if f.All() {
		return true
	}
	rest, more := topic, true
	for _, l := range f.levels {
		if l == "#" {
			return true
		}
		if !more {
			return false
		}
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case l != "+" && l != level:
			return false
		case l == "+" && caps != nil:
			*caps = append(*caps, level)
		}
	}
	return !more
}

// Covers reports whether every topic that matches the valid filter want also
// matches f. A topic without wildcards is the filter of itself. It does not
// allocate.
func (f Filter) Covers(want string) bool {
	if f.All() {
		return true
	}
	more := true
	for _, l := range f.levels {
		if l == "#" { // "a/#" also matches "a" (4.7.1.2)
			return true
		}
		if !more {
			return false
		}
		var level string
		level, want, more = strings.Cut(want, "/")
		if level == "#" || (l != "+" && l != level) {
			return false
		}
	}
	return !more
}
