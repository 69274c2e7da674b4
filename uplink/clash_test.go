package uplink_test

import (
	"strings"
	"testing"

	"forebay/uplink"
	"forebay/uplink/nats"
	"forebay/uplink/s3"
)

// Two uplinks that would take each other's records for their own are refused.
func TestClash(t *testing.T) {
	jet := func(server, subject string) *nats.Config {
		return &nats.Config{Servers: []string{server}, Stream: "PLANT", Subject: subject}
	}
	lake := func(prefix string) *s3.Config { return &s3.Config{Bucket: "lake", Prefix: prefix} }
	for _, c := range []struct {
		name  string
		a, b  uplink.Config
		clash bool
	}{
		{"all streams", uplink.Config{NATS: jet("nats://a", "")}, uplink.Config{NATS: jet("nats://a", "")}, true},
		{"the default written out", uplink.Config{S3: lake("")}, uplink.Config{S3: lake("forebay"), Streams: []string{"alarms"}}, true},
		{"patterns", uplink.Config{S3: lake(""), Streams: []string{"line-*"}}, uplink.Config{S3: lake(""), Streams: []string{"line-1*"}}, true},
		{"other streams", uplink.Config{S3: lake(""), Streams: []string{"line-*"}}, uplink.Config{S3: lake(""), Streams: []string{"alarms", "press-*"}}, false},
		{"another prefix", uplink.Config{S3: lake("")}, uplink.Config{S3: lake("again")}, false},
		{"another server", uplink.Config{NATS: jet("nats://a", "")}, uplink.Config{NATS: jet("nats://b", "")}, false},
		{"another subject", uplink.Config{NATS: jet("nats://a", "")}, uplink.Config{NATS: jet("nats://a", "x.{gateway}.{shard}")}, false},
		{"another kind", uplink.Config{NATS: jet("nats://a", "")}, uplink.Config{S3: lake("")}, false},
	} {
		c.a.ID, c.b.ID = "one", "two"
		i, err := uplink.Clash([]uplink.Config{c.a, c.b})
		if (err != nil) != c.clash || err != nil && (i != 1 || !strings.HasPrefix(err.Error(), "streams: ")) {
			t.Errorf("%s: %d, %v", c.name, i, err)
		}
	}
}
