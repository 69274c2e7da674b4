package kafka_test

import (
	"bytes"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/kafka"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A limit that was raised at the topic counts at once: a record that it takes
// now is not set aside.
func TestARaisedLimitCounts(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, cfg kafka.Config) {
		c := newCluster(t, kfake.SeedTopics(1, "target"))
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		limit := func(n string) {
			rs, err := kadm.NewClient(cl).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &n}}, "target")
			if err != nil || rs[0].Err != nil {
				t.Fatal(err, rs)
			}
		}
		limit("5000")
		cfg.Topic, cfg.Compression = "target", "none"
		s := newSink(t, c, cfg)
		defer closes(t, s)
		want(t, send(t, s, batchOf(laneOf(1), 1, 3)), 3, lane.OK, "")
		limit("100000")
		b := batchOf(laneOf(1), 4, 3)
		b.Recs[1].Data = bytes.Repeat([]byte("x"), 20_000)
		want(t, send(t, s, b), 3, lane.OK, "")
		b = batchOf(laneOf(1), 7, 3)
		b.Recs[1].Data = bytes.Repeat([]byte("x"), 200_000)
		want(t, send(t, s, b), 1, lane.Poison, "takes 100000")
	})
}

// Shards have numbers of 32 bits, also on machines whose int has no more.
func TestALargeShardNumber(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(1, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	b := batchOf(laneOf(1), 1, 3)
	b.Lane.Shard = 1<<32 - 1
	for i := range b.Recs {
		b.Recs[i].Pos.Shard = b.Lane.Shard
	}
	want(t, send(t, s, b), 3, lane.OK, "")
}

// An aggregate of more records than any sender makes in earnest, which a client
// could not even hold, travels as the one record that it was stored as.
func TestAnAggregateOfTooMany(t *testing.T) {
	t.Parallel()
	var e kpl.Encoder
	for range kpl.MaxParts + 1 {
		e.Add("k", "", nil)
	}
	data := e.AppendTo(nil)
	msgs := sent(t, kafka.Config{Format: "raw"}, 1, record.Record{Key: "k", Data: data})
	if len(msgs) != 1 || !bytes.Equal(msgs[0].Value, data) {
		t.Errorf("%d records", len(msgs))
	}
}
