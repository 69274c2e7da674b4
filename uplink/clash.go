package uplink

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Clash finds two uplinks that would write records of one stream to one place
// at a target that tells by what it holds what was delivered: each would take
// the other's records for its own, and what only one of them sends would be
// counted as delivered and never go out. Kafka's places are each uplink's own.
// It gives the index of the second one and an error that begins with the name
// of a field, or nil.
func Clash(all []Config) (int, error) {
	for i := range all {
		for k := range i {
			a, b := &all[k], &all[i]
			where := samePlace(a, b)
			if where == "" || !share(a, b) {
				continue
			}
			return i, fmt.Errorf("streams: some are handed on by the uplink %q too, and both write to %s, so that each would take the other's records for its own; give this one a place of its own", a.ID, where)
		}
	}
	return 0, nil
}

// samePlace names the place that both write to, "" if there is none.
func samePlace(a, b *Config) string {
	switch {
	case a.S3 != nil && b.S3 != nil:
		x, y := a.S3.WithDefaults(), b.S3.WithDefaults()
		if x.Endpoint == y.Endpoint && x.Bucket == y.Bucket && x.Prefix == y.Prefix {
			return "the bucket " + x.Bucket + " under the prefix " + x.Prefix
		}
	case a.NATS != nil && b.NATS != nil:
		x, y := a.NATS.WithDefaults(), b.NATS.WithDefaults()
		if x.Stream == y.Stream && x.Domain == y.Domain && x.Subject == y.Subject &&
			slices.ContainsFunc(x.Servers, func(s string) bool { return slices.Contains(y.Servers, s) }) {
			return "the stream " + x.Stream + " under the subject " + x.Subject
		}
	}
	return ""
}

// share reports whether there can be a stream that both hand on. Two patterns
// are taken to meet where what they begin with does.
func share(a, b *Config) bool {
	for _, p := range a.WithDefaults().Streams {
		for _, q := range b.WithDefaults().Streams {
			if meet(p, q) {
				return true
			}
		}
	}
	return false
}

func meet(p, q string) bool {
	const wild = `*?[\`
	i, k := strings.IndexAny(p, wild), strings.IndexAny(q, wild)
	switch {
	case i < 0 && k < 0:
		return p == q
	case i < 0:
		ok, err := path.Match(q, p)
		return err == nil && ok
	case k < 0:
		ok, err := path.Match(p, q)
		return err == nil && ok
	}
	return strings.HasPrefix(p[:i], q[:k]) || strings.HasPrefix(q[:k], p[:i])
}
