package uplink_test

import (
	"strings"
	"testing"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/nats"
	"forebay/uplink/s3"
)

// Two uplinks must not share a place where what lies there says what was sent.
func TestPlacesOfTwoUplinks(t *testing.T) {
	bucket := func(id, prefix string, streams ...string) uplink.Config {
		return uplink.Config{ID: conf.Name(id), Streams: streams, S3: &s3.Config{Bucket: "b", Prefix: prefix}}
	}
	stream := func(id, subject string, streams ...string) uplink.Config {
		return uplink.Config{ID: conf.Name(id), Streams: streams, NATS: &nats.Config{Stream: "S", Subject: subject}}
	}
	for name, c := range map[string]struct {
		all  []uplink.Config
		want string
	}{
		"one bucket":            {[]uplink.Config{bucket("a", ""), bucket("b", "")}, `s3.prefix: uplink "a"`},
		"the default prefix":    {[]uplink.Config{bucket("a", ""), bucket("b", s3.Config{}.WithDefaults().Prefix)}, `s3.prefix: uplink "a"`},
		"a pattern and a name":  {[]uplink.Config{bucket("a", "x", "line-*"), bucket("b", "x", "mqtt", "line-2")}, "other streams"},
		"two patterns":          {[]uplink.Config{bucket("a", "x", "line-*"), bucket("b", "x", "*-2")}, "other streams"},
		"other prefixes":        {[]uplink.Config{bucket("a", "x"), bucket("b", "y")}, ""},
		"other streams":         {[]uplink.Config{bucket("a", "x", "alarms"), bucket("b", "x", "mqtt")}, ""},
		"one JetStream stream":  {[]uplink.Config{stream("a", "", "mqtt"), stream("b", "")}, `nats.subject: uplink "a"`},
		"other subjects":        {[]uplink.Config{stream("a", "", "mqtt"), stream("b", "hot.{gateway}.{stream}.{shard}")}, ""},
		"a bucket and a stream": {[]uplink.Config{bucket("a", ""), stream("b", "")}, ""},
	} {
		i, err := uplink.CheckPlaces(c.all)
		if (err == nil) != (c.want == "") || err != nil && (i != 1 || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d, %v", name, i, err)
		}
	}
}
