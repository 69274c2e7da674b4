package kafka

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// recheck is how long a topic is taken to be as it was.
const recheck = 5 * time.Minute

// A target is a topic as we found it.
type target struct {
	id    kadm.TopicID
	limit int // bytes of a batch
	at    time.Time
}

// describe asks for one topic. Errors: the broker's word for it.
func (s *Sink) describe(ctx context.Context, topic string) (kadm.TopicDetail, error) {
	found, err := kadm.NewClient(s.admin).ListTopicsWithInternal(ctx, topic)
	if err != nil {
		return kadm.TopicDetail{}, err
	}
	d, ok := found[topic]
	if !ok {
		return kadm.TopicDetail{}, kerr.UnknownTopicOrPartition
	}
	return d, d.Err
}

// prepare finds a target topic, or creates it, before the first record and
// every five minutes.
func (s *Sink) prepare(ctx context.Context, topic string) (target, error) {
	s.mu.Lock()
	t, known := s.targets[topic]
	s.mu.Unlock()
	if known && time.Since(t.at) < recheck {
		return t, nil
	}
	d, err := s.describe(ctx, topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) && s.cfg.CreatePartitions > 0 {
		if err := s.create(ctx, topic, s.cfg.CreatePartitions, nil); err != nil {
			return target{}, err
		}
		d, err = s.appeared(ctx, topic)
	}
	if err != nil {
		return target{}, s.about(topic, classify(err, s.adminWire, lane.Offline))
	}
	t = target{id: d.ID, limit: int(s.cfg.MaxMessage), at: time.Now()}
	if t.limit == 0 {
		t.limit = s.asked(ctx, topic)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets[topic] = t
	return t, nil
}

// forget makes the next Send look at a topic again.
func (s *Sink) forget(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.targets, topic)
}

// about names the topic in an error.
func (s *Sink) about(topic string, e *lane.Error) *lane.Error {
	if e.Class == lane.Offline || strings.Contains(e.Text, topic) {
		return e
	}
	c := *e
	c.Text = "topic " + topic + ": " + e.Text
	return &c
}

// asked is the largest batch that a topic says it takes. Where the access
// rules do not let us ask, it is Kafka's default.
func (s *Sink) asked(ctx context.Context, topic string) int {
	if v, ok := s.setting(ctx, topic, "max.message.bytes"); ok {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			return max(min(n, maxMessage), 1<<10)
		}
	}
	return defaultMessage
}

// setting is a topic's value for a name, if we may ask.
func (s *Sink) setting(ctx context.Context, topic, name string) (string, bool) {
	found, err := kadm.NewClient(s.admin).DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return "", false
	}
	for _, rc := range found {
		if rc.Name != topic || rc.Err != nil {
			continue
		}
		for _, c := range rc.Configs {
			if c.Key == name && c.Value != nil {
				return *c.Value, true
			}
		}
	}
	return "", false
}

// create creates a topic; that it is there already is no error.
func (s *Sink) create(ctx context.Context, topic string, partitions int, configs map[string]*string) error {
	_, err := kadm.NewClient(s.admin).CreateTopic(ctx, int32(partitions), s.cfg.replication(), configs, topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		e := *classify(err, s.adminWire, lane.Offline)
		if e.Class != lane.Offline {
			e.Text = "topic " + topic + " cannot be created: " + e.Text
		}
		return &e
	}
	if err == nil {
		s.log.Info("topic created", "topic", topic, "partitions", partitions)
	}
	return nil
}

// appeared waits for a topic that was just created.
func (s *Sink) appeared(ctx context.Context, topic string) (kadm.TopicDetail, error) {
	for try := 0; ; try++ {
		d, err := s.describe(ctx, topic)
		if err == nil || !errors.Is(err, kerr.UnknownTopicOrPartition) && !kerr.IsRetriable(err) {
			return d, err
		}
		if try == fetchTries {
			return d, &lane.Error{Class: lane.Transient, Text: "topic " + topic + " is being created", Err: err}
		}
		if err := pause(ctx, 50*time.Millisecond<<min(try, 4)); err != nil {
			return d, err
		}
	}
}

// cursorSettings are those of the topic of places: it must keep the newest record of each key
// for ever, and is read from its beginning when a gateway starts, so that it
// should not lie around uncompacted.
func cursorSettings() [][2]string {
	return [][2]string{
		{"cleanup.policy", "compact"},
		{"segment.bytes", "16777216"},
		{"segment.ms", "86400000"},
		{"min.cleanable.dirty.ratio", "0.1"},
	}
}

// prepareCursors finds the topic of places, or creates it.
func (s *Sink) prepareCursors(ctx context.Context) (kadm.TopicDetail, error) {
	topic := s.cfg.cursorTopic()
	d, err := s.describe(ctx, topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		configs := make(map[string]*string)
		for _, c := range cursorSettings() {
			configs[c[0]] = &c[1]
		}
		if err := s.create(ctx, topic, 1, configs); err != nil {
			return d, err
		}
		d, err = s.appeared(ctx, topic)
	}
	if err != nil {
		return d, s.about(topic, classify(err, s.adminWire, lane.Offline))
	}
	if v, ok := s.setting(ctx, topic, "cleanup.policy"); ok && v != "compact" {
		return d, &lane.Error{
			Class: lane.Misconfigured,
			Text:  "topic " + topic + " has cleanup.policy " + v + " and would forget what was delivered; set it to \"compact\"",
		}
	}
	return d, nil
}
