package uplink_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaFar is franz-go's fake cluster, with one partition, so that the order
// of a lane can be seen whatever its keys are; sarama reads what is committed.
func kafkaFar(t *testing.T, cfg kafka.Config) (uplink.Sink, *far) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "target"))
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	gone := func() { once.Do(c.Close) }
	t.Cleanup(gone)
	cfg.Brokers, cfg.Topic = c.ListenAddrs(), "target"
	cfg.RequestTimeout = conf.Duration(5e9)
	s, err := uplink.New(uplink.Config{ID: "x", Kafka: &cfg}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f := &kafkaFaults{c: c, rng: rand.New(rand.NewPCG(5, 6))}
	c.Control(f.control)
	return s, &far{
		payloads: func(l lane.Lane) (out []string) {
			for _, v := range committed(t, c.ListenAddrs(), "target") {
				o, err := envelope.Open(v)
				if err != nil {
					t.Fatalf("%q: %v", v, err)
				}
				if o.Stream == l.Stream && strings.Contains(o.ID, fmt.Sprintf("/%d/", l.Shard)) {
					out = append(out, string(o.Data))
				}
			}
			return out
		},
		flaky:    f.flaky,
		gone:     gone,
		largest:  700 << 10,
		tooLarge: 1 << 20,
	}
}

// kafkaFaults answers requests in the ways a cluster in trouble does.
type kafkaFaults struct {
	c   *kfake.Cluster
	mu  sync.Mutex
	on  bool
	rng *rand.Rand
}

func (f *kafkaFaults) flaky(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

// control cuts connections before a request is looked at, and has others
// answered with errors.
func (f *kafkaFaults) control(req kmsg.Request) (kmsg.Response, error, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.c.KeepControl()
	if !f.on || f.rng.IntN(20) > 0 {
		return nil, nil, false
	}
	switch req.(type) {
	case *kmsg.ProduceRequest, *kmsg.EndTxnRequest, *kmsg.InitProducerIDRequest, *kmsg.AddPartitionsToTxnRequest, *kmsg.MetadataRequest:
		switch f.rng.IntN(4) {
		case 0: // cut before
			return nil, fmt.Errorf("cut"), true
		case 1: // cut after: it is done, and nobody hears of it
			f.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut})
		case 2:
			f.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition})
		case 3:
			f.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.UnknownServerError, TopLevel: true})
		}
	}
	return nil, nil, false
}

// committed reads a topic's only partition with sarama, as one who wants
// committed records only. A record of ours marks the end.
func committed(t *testing.T, brokers []string, topic string) (values [][]byte) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Producer.Return.Successes = true
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	cl, err := sarama.NewClient(brokers, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	p, err := sarama.NewSyncProducerFromClient(cl)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_, end, err := p.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("end")})
	if err != nil {
		t.Fatal(err)
	}
	c, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pc, err := c.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for m := range pc.Messages() {
		if m.Offset >= end {
			return values
		}
		if string(m.Value) != "end" {
			values = append(values, m.Value)
		}
	}
	t.Fatal("the consumer ended")
	return nil
}
