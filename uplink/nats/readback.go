package nats

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ReadBack calls held with the token for {stream} and the id of every record of
// this gateway that the stream holds, in the stream's order, up to what is there
// when it begins: those that the stream took within [from, to), where a zero
// time is no bound. A record that was opened into parts has an id for each, ID/1
// and so on; one that a replay sent has the id that it always had. A message on
// the gateway's subjects that has no id is an error, and so is one of held's. It
// needs the permission to make consumers of the stream.
func (s *Sink) ReadBack(ctx context.Context, from, to time.Time, held func(under, id string) error) error {
	l, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer l.release()
	filter := s.subjects.gateway()
	last, f := s.last(ctx, l, filter)
	if f != nil {
		return f.Error
	}
	if last.seq == 0 || !from.IsZero() && last.at.Before(from) {
		return nil
	}
	js, err := s.jetstream(l)
	if err != nil {
		return fmt.Errorf("read the stream back: %w", err)
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}, HeadersOnly: true, DeliverPolicy: jetstream.DeliverAllPolicy}
	if !from.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	c, err := js.OrderedConsumer(ctx, s.cfg.Stream, cfg)
	if err != nil {
		return fmt.Errorf("read the stream back: %w", err)
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return fmt.Errorf("read the stream back: %w", err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read the stream back: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read the stream back: %w", err)
		}
		if meta.Sequence.Stream > last.seq || !to.IsZero() && !meta.Timestamp.Before(to) {
			return nil
		}
		id := m.Headers().Get(headerID)
		if id == "" {
			return fmt.Errorf("message %d on %s has no id: no gateway of ours wrote it", meta.Sequence.Stream, m.Subject())
		}
		if err := held(s.subjects.stream(m.Subject()), plainID(id)); err != nil {
			return err
		}
		if meta.Sequence.Stream == last.seq || meta.NumPending == 0 {
			return nil
		}
	}
}

// plainID is a message's id without what stands in front of it where the message
// was sent beside an uplink's own: UPLINK~replay-1: . The name of a gateway has
// no ~ in it.
func plainID(id string) string {
	if by, own, ok := strings.Cut(id, ":"); ok && strings.Contains(by, "~") {
		return own
	}
	return id
}

// Under is the token of a stream's name in its subjects, empty where they have
// none.
func (s *Sink) Under(stream string) string {
	if s.subjects.stream(s.subjects.base) == "" {
		return ""
	}
	return token(stream)
}

func (s *Sink) jetstream(l *link) (jetstream.JetStream, error) {
	if s.cfg.Domain != "" {
		return jetstream.NewWithDomain(l.nc, s.cfg.Domain)
	}
	return jetstream.New(l.nc)
}
