package uplink_test

import (
	"slices"
	"strings"
	"testing"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/kinesis"
	"forebay/uplink/kvs"

	"github.com/pelletier/go-toml/v2"
)

func TestConfigFile(t *testing.T) {
	var file struct {
		Uplink []uplink.Config `toml:"uplink"`
	}
	dec := toml.NewDecoder(strings.NewReader(`
[[uplink]]
id = "cloud"
streams = ["mqtt", "alarms", "line-*"]
from = "newest"
linger = "50ms"
retry_max = "2m"
[uplink.kinesis]
endpoint = "https://10.0.0.5:4567"
region = "eu-central-1"
stream = "site-{stream}"
create_shards = 2
format = "envelope"
aggregate = "on"
access_key = "AKID"
secret_key = "env:SECRET"
max_record = "1MiB"
request_timeout = "20s"

[[uplink]]
id = "site"
[uplink.kinesis]
endpoint = "http://10.0.0.6:4567"
stream = "press-shop"
`))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	for _, c := range file.Uplink {
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", c.ID, err)
		}
		if c.Kind() != "kinesis" || !strings.Contains(c.Target(), "10.0.0.") {
			t.Errorf("%s: kind %q, target %q", c.ID, c.Kind(), c.Target())
		}
	}
	if !slices.Equal(uplink.Kinds(), []string{"kinesis", "firehose", "s3", "kafka", "nats", "mqtt", "sparkplug", "http", "opensearch", "kvs"}) {
		t.Errorf("kinds %v", uplink.Kinds())
	}
}

func TestConfigCheck(t *testing.T) {
	for prefix, change := range map[string]func(c *uplink.Config){
		"id: is missing":                      func(c *uplink.Config) { c.ID = "" },
		"id: uplink \"cloud\" has no ":        func(c *uplink.Config) { c.Kinesis = nil },
		"streams: ":                           func(c *uplink.Config) { c.Streams = []string{"mqtt", "[a"} },
		"from: ":                              func(c *uplink.Config) { c.From = "yesterday" },
		"linger: ":                            func(c *uplink.Config) { c.Linger = conf.Duration(1e12) },
		"retry_max: ":                         func(c *uplink.Config) { c.RetryMax = 1 },
		"kinesis.stream: ":                    func(c *uplink.Config) { c.Kinesis = &kinesis.Config{} },
		"streams: say which streams of video": func(c *uplink.Config) { c.Kinesis, c.KVS, c.Streams = nil, &kvs.Config{}, nil },
	} {
		c := config()
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), prefix) {
			t.Errorf("%s: %v", prefix, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		patterns string
		stream   string
		want     bool
	}{
		{"", "mqtt", true},
		{"", "refused", false},
		{"*", "alarms", true},
		{"*", "refused", false},
		{"* refused", "refused", true},
		{"mqtt line-*", "line-7", true},
		{"mqtt line-*", "mqtt2", false},
	} {
		cfg := uplink.Config{Streams: strings.Fields(c.patterns)}
		if got := cfg.Match(c.stream); got != c.want {
			t.Errorf("%q matches %q: %v", c.patterns, c.stream, got)
		}
	}
}
