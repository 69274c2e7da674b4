package broker

import (
	"strings"
	"unicode/utf8"
)

// maxLevels bounds the levels of a topic that is fanned out or subscribed to:
// the subscription tree is walked once per level.
const maxLevels = 128

// validFilter says whether s is a topic filter ([MQTT-4.7.1-1], [MQTT-4.7.1-2],
// [MQTT-4.7.3-1], [MQTT-4.7.3-2]).
func validFilter(s string) bool {
	if s == "" || len(s) > 65535 || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return false
	}
	for rest, more := s, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more:
			return false
		case level != "#" && level != "+" && strings.ContainsAny(level, "#+"):
			return false
		}
	}
	return true
}

// match says whether a topic matches a filter (MQTT 5, 4.7). A filter that
// starts with a wildcard does not match topics that start with $ ([MQTT-4.7.2-1]).
func match(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '#' || filter[0] == '+') {
		return false
	}
	return covers(filter, topic)
}

// covers says whether every topic that matches want also matches allow. Both
// may hold wildcards; a topic without any is the filter of itself.
func covers(allow, want string) bool {
	for {
		a, aRest, aMore := strings.Cut(allow, "/")
		if a == "#" {
			return true
		}
		w, wRest, wMore := strings.Cut(want, "/")
		if w == "#" || (a != "+" && a != w) {
			return false
		}
		switch {
		case !aMore && !wMore:
			return true
		case !wMore:
			return aRest == "#" // "a/#" also matches "a" (4.7.1.2)
		case !aMore:
			return false
		}
		allow, want = aRest, wRest
	}
}

// unshare strips "$share/group/" from a filter (MQTT 5, 4.8.2).
func unshare(filter string) string {
	if len(filter) > 7 && strings.EqualFold(filter[:7], "$share/") {
		if _, f, ok := strings.Cut(filter[7:], "/"); ok {
			return f
		}
	}
	return filter
}

func levels(topic string) int { return strings.Count(topic, "/") + 1 }

func anyCovers(allow []string, want string) bool {
	for _, f := range allow {
		if covers(f, want) {
			return true
		}
	}
	return false
}

func anyMatch(filters []string, topic string) bool {
	for _, f := range filters {
		if match(f, topic) {
			return true
		}
	}
	return false
}
