package uplink_test

import (
	"log/slog"
	"strings"
	"testing"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/firehose"
	"forebay/uplink/http"
	"forebay/uplink/kafka"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
	"forebay/uplink/nats"
	"forebay/uplink/s3"
	"forebay/uplink/sparkplug"
)

// TestOpenReading: a far side that can be read back is, and of every other the
// error says in words why not and what else to do.
func TestOpenReading(t *testing.T) {
	var k kinesis.Config
	k.Endpoint, k.Region, k.Stream, k.AccessKey, k.SecretKey = "http://127.0.0.1:1", "us-east-1", "s", "any", conf.NewSecret("any")
	raw := k
	raw.Format = "raw"
	var o s3.Config
	o.Endpoint, o.Region, o.Bucket, o.AccessKey, o.SecretKey = "http://127.0.0.1:1", "us-east-1", "lake", "any", conf.NewSecret("any")
	for name, c := range map[string]struct {
		cfg     uplink.Config
		ordered bool
		why     string
	}{
		"kinesis":    {uplink.Config{Kinesis: &k}, true, ""},
		"live-first": {uplink.Config{Kinesis: &k, Order: uplink.OrderLive}, false, ""},
		"s3":         {uplink.Config{S3: &o}, false, ""},
		"nats":       {uplink.Config{NATS: &nats.Config{Servers: []string{"nats://127.0.0.1:1"}, Stream: "S"}}, true, ""},
		"kafka":      {uplink.Config{Kafka: &kafka.Config{Brokers: []string{"127.0.0.1:1"}, Topic: "t"}}, false, ""},
		"raw":        {uplink.Config{Kinesis: &raw}, false, `format = "raw"`},
		"firehose":   {uplink.Config{Firehose: &firehose.Config{}}, false, "verify what it delivers to"},
		"mqtt":       {uplink.Config{MQTT: &mqtt.Config{}}, false, "keeps none"},
		"sparkplug":  {uplink.Config{Sparkplug: &sparkplug.Config{}}, false, "historian"},
		"http":       {uplink.Config{HTTP: &http.Config{}}, false, "store behind it"},
	} {
		c.cfg.ID = "up"
		r, err := uplink.OpenReading(c.cfg, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
		if c.why != "" {
			if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), `"up"`) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Ordered != c.ordered {
			t.Errorf("%s: ordered is %v", name, r.Ordered)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
