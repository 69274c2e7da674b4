package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/uplink/envelope"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ReadBack calls held with the topic and the id of every record of this gateway
// that the topics hold at this moment, partition by partition, in the order of
// their logs. Records of transactions that were not committed are left out. With
// from or to, only those that arrived at their gateway in [from, to) count; a
// record's time in Kafka is its sender's and may be anything, so that the
// topics are read from their beginning all the same.
func (s *Sink) ReadBack(ctx context.Context, from, to time.Time, held func(under, id string) error) error {
	topics, err := s.topics(ctx)
	if err != nil {
		return err
	}
	for _, d := range topics {
		if err := s.readTopic(ctx, d, func(r *kgo.Record) error {
			id, mine := s.owned(r)
			if !mine || !within(r, from, to) {
				return nil
			}
			return held(r.Topic, id)
		}); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
	}
	return nil
}

// Under is the topic of a stream's records.
func (s *Sink) Under(stream string) string { return s.cfg.topic(stream) }

// topics are the target's.
func (s *Sink) topics(ctx context.Context) ([]kadm.TopicDetail, error) {
	before, behind, many := strings.Cut(s.cfg.Topic, streamMark)
	if !many {
		d, err := s.describe(ctx, s.cfg.Topic)
		if err != nil {
			return nil, s.about(s.cfg.Topic, classify(err, s.adminWire, lane.Offline))
		}
		return []kadm.TopicDetail{d}, nil
	}
	all, err := kadm.NewClient(s.admin).ListTopics(ctx)
	if err != nil {
		return nil, classify(err, s.adminWire, lane.Offline)
	}
	var out []kadm.TopicDetail
	for _, d := range all.Sorted() {
		if d.Topic != s.cfg.cursorTopic() && len(d.Topic) > len(before)+len(behind) &&
			strings.HasPrefix(d.Topic, before) && strings.HasSuffix(d.Topic, strings.ReplaceAll(behind, streamMark, "")) {
			out = append(out, d)
		}
	}
	return out, nil
}

// readTopic reads what is committed of a topic, partition by partition.
func (s *Sink) readTopic(ctx context.Context, d kadm.TopicDetail, each func(*kgo.Record) error) error {
	adm := kadm.NewClient(s.admin)
	starts, err := adm.ListStartOffsets(ctx, d.Topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return s.about(d.Topic, classify(err, s.adminWire, lane.Offline))
	}
	ends, err := adm.ListCommittedOffsets(ctx, d.Topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return s.about(d.Topic, classify(err, s.adminWire, lane.Offline))
	}
	var parts []int32
	for n := range d.Partitions {
		parts = append(parts, n)
	}
	slices.Sort(parts)
	for _, n := range parts {
		start, _ := starts.Lookup(d.Topic, n)
		end, ok := ends.Lookup(d.Topic, n)
		if !ok {
			return &lane.Error{Class: lane.Transient, Text: fmt.Sprintf("topic %s: where partition %d ends is not known", d.Topic, n)}
		}
		p := part{topic: d.Topic, id: d.ID, partition: n}
		if _, err := s.readPart(ctx, p, start.Offset, end.Offset, true, each); err != nil {
			return err
		}
	}
	return nil
}

// owned is a record's id, and whether this gateway sent it.
func (s *Sink) owned(r *kgo.Record) (id string, mine bool) {
	prefix := s.id.Gateway + "/"
	for _, h := range r.Headers {
		switch h.Key {
		case headerID:
			id = string(h.Value)
			mine = mine || strings.HasPrefix(id, prefix)
		case headerVia:
			mine = mine || strings.HasPrefix(string(h.Value), prefix)
		}
	}
	return id, mine && id != ""
}

// within reports whether a record arrived in [from, to). One that does not say
// when counts.
func within(r *kgo.Record, from, to time.Time) bool {
	if from.IsZero() && to.IsZero() {
		return true
	}
	var at time.Time
	for _, h := range r.Headers {
		if h.Key == headerArrived {
			at, _ = time.Parse(time.RFC3339Nano, string(h.Value))
		}
	}
	if at.IsZero() {
		o, err := envelope.Open(r.Value)
		if err != nil {
			return true
		}
		at = o.Arrived
	}
	return (from.IsZero() || !at.Before(from)) && (to.IsZero() || at.Before(to))
}
