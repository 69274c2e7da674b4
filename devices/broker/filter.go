package broker

import (
	"slices"
	"strings"

	"forebay/gateway/conf"
)

// maxLevels bounds the levels of a topic that is fanned out or subscribed to:
// the subscription tree is walked once per level.
const maxLevels = 128

// match says whether a topic matches a filter (MQTT 5, 4.7). A filter that
// starts with a wildcard does not match topics that start with $ ([MQTT-4.7.2-1]).
func match(filter conf.Filter, topic string) bool {
	if strings.HasPrefix(topic, "$") {
		if first := filter.String()[0]; first == '#' || first == '+' {
			return false
		}
	}
	return filter.Match(topic)
}

func anyMatch(filters []conf.Filter, topic string) bool {
	return slices.ContainsFunc(filters, func(f conf.Filter) bool { return match(f, topic) })
}

func anyCovers(allow []conf.Filter, want string) bool {
	return slices.ContainsFunc(allow, func(f conf.Filter) bool { return f.Covers(want) })
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

// subscribable says whether s may be subscribed to: a valid filter, shared or
// not, of not too many levels.
func subscribable(s string) bool {
	if levels(s) > maxLevels {
		return false
	}
	_, err := conf.ParseFilter(unshare(s))
	return err == nil
}

func levels(topic string) int { return strings.Count(topic, "/") + 1 }
