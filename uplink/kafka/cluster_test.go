package kafka_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}

// newCluster is a cluster in process.
func newCluster(tb testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	tb.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// newSink makes a sink of a config that says at least the topic.
func newSink(tb testing.TB, c *kfake.Cluster, cfg kafka.Config) *kafka.Sink {
	tb.Helper()
	if cfg.Brokers == nil {
		cfg.Brokers = c.ListenAddrs()
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = conf.Duration(5 * time.Second)
	}
	s, err := kafka.New(cfg, lane.Home{Uplink: "site", ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func laneOf(n int) lane.Lane { return lane.Lane{Stream: "mqtt", Shard: record.ShardID(n)} }

// batchOf makes records from to from+n-1 of a lane. A lane has three keys of
// its own.
func batchOf(l lane.Lane, from, n int) lane.Batch {
	b := lane.Batch{Lane: l}
	for i := from; i < from+n; i++ {
		b.Recs = append(b.Recs, record.Record{
			Key: fmt.Sprintf("lane %d key %d", l.Shard, i%3), Source: "plc-1", Arrived: time.Unix(1_700_000_000, 0).Add(time.Duration(i) * time.Millisecond),
			Data: fmt.Appendf(nil, `{"lane":%d,"n":%d}`, l.Shard, i),
			Pos:  record.Pos{Shard: l.Shard, Seq: uint64(i)},
		})
	}
	return b
}

// read reads all partitions of a topic with sarama, as one who wants committed
// records only. A record without a key marks the end of each.
func read(tb testing.TB, brokers []string, topic string, opts ...func(*sarama.Config)) map[int32][]*sarama.ConsumerMessage {
	tb.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Producer.Return.Successes = true
	cfg.Producer.Partitioner = sarama.NewManualPartitioner
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	cfg.Consumer.MaxWaitTime = 50 * time.Millisecond
	for _, o := range opts {
		o(cfg)
	}
	cl, err := sarama.NewClient(brokers, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	defer cl.Close()
	p, err := sarama.NewSyncProducerFromClient(cl)
	if err != nil {
		tb.Fatal(err)
	}
	defer p.Close()
	c, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	parts, err := cl.Partitions(topic)
	if err != nil {
		tb.Fatal(err)
	}
	out := make(map[int32][]*sarama.ConsumerMessage)
	for _, n := range parts {
		_, end, err := p.SendMessage(&sarama.ProducerMessage{Topic: topic, Partition: n, Value: sarama.StringEncoder("end")})
		if err != nil {
			tb.Fatal(err)
		}
		pc, err := c.ConsumePartition(topic, n, sarama.OffsetOldest)
		if err != nil {
			tb.Fatal(err)
		}
		for m := range pc.Messages() {
			if m.Offset >= end {
				break
			}
			if m.Key != nil {
				out[n] = append(out[n], m)
			}
		}
		if err := pc.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	return out
}
