package rules

import (
	"fmt"
	"strings"
)

// A filter is an MQTT topic filter (MQTT 5.0, 4.7) that is matched against
// partition keys: + stands for one level, # for the rest.
type filter struct {
	levels []string
	plus   int // how many + it has
}

func parseFilter(s string) (filter, error) {
	if s == "" {
		s = "#"
	}
	f := filter{levels: strings.Split(s, "/")}
	for i, l := range f.levels {
		switch {
		case l == "+":
			f.plus++
		case l == "#" && i != len(f.levels)-1:
			return filter{}, fmt.Errorf("%q has levels behind #; # stands for all the rest and comes last", s)
		case l != "#" && strings.ContainsAny(l, "+#"):
			return filter{}, fmt.Errorf("%q has + or # beside other characters in %q; each stands alone between slashes, as in \"plant/+/temp\"", s, l)
		}
	}
	return f, nil
}

// match reports whether key passes, and appends what the + stood for to caps.
func (f filter) match(key string, caps []string) ([]string, bool) {
	rest, more := key, true
	for _, l := range f.levels {
		if l == "#" {
			return caps, true
		}
		if !more {
			return caps, false
		}
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if l == "+" {
			caps = append(caps, level)
		} else if l != level {
			return caps, false
		}
	}
	return caps, !more
}
