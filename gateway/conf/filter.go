package conf

import (
	"errors"
	"fmt"
	"strings"
)

// A Filter matches topics and partition keys as MQTT topic filters do
// (MQTT 3.1.1, 4.7): levels are split by "/", "+" stands for one level, "#"
// as the last level for all that follow, the parent included. The zero Filter
// matches everything.
type Filter struct {
	text   string
	levels []string
}

// ParseFilter reads a filter.
func ParseFilter(s string) (Filter, error) {
	if s == "" {
		return Filter{}, errors.New("a topic filter is empty; write \"#\" for everything")
	}
	levels := strings.Split(s, "/")
	for i, l := range levels {
		if l == "#" && i != len(levels)-1 {
			return Filter{}, fmt.Errorf("topic filter %q has \"#\" before its end", s)
		}
		if l != "#" && l != "+" && strings.ContainsAny(l, "#+\x00") {
			return Filter{}, fmt.Errorf("topic filter %q mixes a wildcard with other characters in the level %q", s, l)
		}
	}
	return Filter{s, levels}, nil
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

// Match reports whether the topic matches. It does not allocate.
func (f Filter) Match(topic string) bool {
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
		if l != "+" && l != level {
			return false
		}
	}
	return !more
}

// Captures returns what the "+" levels, and then the "#", of the filter stand
// for in a topic that matches; nil if it does not match.
func (f Filter) Captures(topic string) []string {
	if !f.Match(topic) {
		return nil
	}
	if f.text == "" {
		return []string{topic}
	}
	out := []string{}
	rest := topic
	for _, l := range f.levels {
		if l == "#" {
			return append(out, rest)
		}
		var level string
		level, rest, _ = strings.Cut(rest, "/")
		if l == "+" {
			out = append(out, level)
		}
	}
	return out
}
