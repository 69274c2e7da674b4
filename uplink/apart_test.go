package uplink_test

import (
	"strings"
	"testing"

	"forebay/uplink"
	"forebay/uplink/http"
	"forebay/uplink/kafka"
	"forebay/uplink/kinesis"
	"forebay/uplink/kvs"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
	"forebay/uplink/nats"
	"forebay/uplink/opensearch"
	"forebay/uplink/s3"
	"forebay/uplink/shape"
	"forebay/uplink/sparkplug"
)

// A replay goes where the uplink goes, under another name.
func TestReplayConfig(t *testing.T) {
	kin := func(stream string) uplink.Config {
		c := uplink.Config{ID: "x", Kinesis: &kinesis.Config{Stream: stream}}
		c.Kinesis.Region = "eu-central-1"
		return c
	}
	bucket := uplink.Config{ID: "x", S3: &s3.Config{Bucket: "lake"}}
	bucket.S3.Region = "eu-central-1"
	jet := func(subject string) uplink.Config {
		return uplink.Config{ID: "x", NATS: &nats.Config{Servers: []string{"nats://127.0.0.1:1"}, Stream: "T", Subject: subject}}
	}
	topic := uplink.Config{ID: "x", Kafka: &kafka.Config{Brokers: []string{"127.0.0.1:1"}, Topic: "plant"}}
	renamed := bucket
	renamed.Shape = []shape.Config{{Streams: []string{"m*"}, As: "cell-{stream}", Drop: []string{"secret"}}, {Streams: []string{"*"}, As: "rest"}}
	for _, c := range []struct {
		name   string
		cfg    uplink.Config
		as     string
		far    string // of the stream mqtt
		target string
		wrong  string
	}{
		{name: "kinesis by stream", cfg: kin("far-{stream}"), as: "replay-1-{stream}", far: "replay-1-mqtt", target: "far-{stream}"},
		{name: "kinesis by stream, the front twice", cfg: kin("far-{stream}"), as: "far-again", wrong: `as: "far-again" begins with "far-" as kinesis.stream = "far-{stream}" does, and would be put where that holds {stream}; say "again"`},
		{name: "kinesis by stream, no name", cfg: kin("far-{stream}"), as: "a/b", wrong: `it is put where kinesis.stream = "far-{stream}" holds {stream}`},
		{name: "an unknown mark", cfg: kin("far-{stream}"), as: "again-{key}", wrong: "holds a mark that is not known"},
		{name: "kinesis, one stream", cfg: kin("plant"), as: "again", far: "mqtt", target: "again"},
		{name: "kinesis, the same", cfg: kin("plant"), as: "plant", wrong: "as: "},
		{name: "kafka, one topic", cfg: topic, as: "again", far: "mqtt", target: "again"},
		{name: "s3", cfg: bucket, as: "again", far: "again"},
		{name: "s3, the same", cfg: bucket, as: "{stream}", wrong: "as: "},
		{name: "s3, not a name", cfg: bucket, as: "a/b", wrong: "as: "},
		{name: "s3, refused", cfg: bucket, as: "refused", wrong: "as: "},
		{name: "s3, renamed", cfg: renamed, as: "again-{stream}", far: "again-cell-mqtt"},
		{name: "nats", cfg: jet(""), as: "again", far: "again"},
		{name: "nats without the stream", cfg: jet("plant.{gateway}.{shard}"), as: "again", wrong: "nats.subject must hold {stream}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.cfg.Replay("x~replay-1", "mqtt", c.as)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Fatalf("%+v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if far := got.Far(lane.Lane{Stream: "mqtt"}).Stream; far != c.far || got.ID != "x~replay-1" || !got.Match("mqtt") || got.Match("serial") {
				t.Errorf("the far side calls it %q: %+v", far, got)
			}
			switch {
			case got.Kinesis != nil && got.Kinesis.Stream != c.target, got.Kafka != nil && got.Kafka.Topic != c.target:
				t.Errorf("target %s, want %s", got.Target(), c.target)
			}
			if c.cfg.Kinesis != nil && strings.Contains(c.cfg.Kinesis.Stream, "again") || len(c.cfg.Shape) > 0 && c.cfg.Shape[0].As != "cell-{stream}" {
				t.Error("the uplink's own config was changed")
			}
		})
	}
	if !topic.Renamable() {
		t.Error("a replay can go to another topic")
	}
	if (uplink.Config{ID: "x", KVS: &kvs.Config{}}).Apart() == nil {
		t.Error("a video stream has one connection")
	}
	edge := uplink.Config{ID: "x", Sparkplug: &sparkplug.Config{}}
	if _, err := edge.Replay("x~replay-1", "mqtt", "again"); err == nil || edge.Apart() == nil {
		t.Error("an edge node's session is taken")
	}
	for name, cfg := range map[string]uplink.Config{
		"mqtt":       {ID: "x", MQTT: &mqtt.Config{Topic: "plant/{key}"}},
		"http":       {ID: "x", HTTP: &http.Config{URL: "https://ingest.example.com/v1"}},
		"opensearch": {ID: "x", OpenSearch: &opensearch.Config{Index: "plant"}},
	} {
		if _, err := cfg.Replay("x~replay-1", "mqtt", "again"); err == nil || !strings.Contains(err.Error(), "must hold {stream}") || cfg.NamedByStream() || cfg.Renamable() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := bucket.Replay("x~replay-1", uplink.RefusedStream, "again"); err == nil {
		t.Error("a replay of refused records")
	}
}
