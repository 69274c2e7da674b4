package mqtt

import (
	"context"
	"fmt"
	"sync"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// A broker that does not want a message (its topic is forbidden, it is too
// large) ends the connection, and with it what others have on their way. The
// same happens when a link breaks or a broker restarts. This is how the two
// are told apart:
//
//  1. A lane whose front record was on its way at suspectAfter ends of the
//     connection, one after another, is a suspect. It no longer shares the
//     connection: while it is tried nothing else is on its way.
//  2. On trial its records go out one at a time, each when the one before is
//     acknowledged. Before the first, the message that the broker took last of
//     the same stream is sent once more: the witness. It shows that the broker
//     takes such messages now, on this connection. (Its repetition is one that
//     at-least-once allows.)
//  3. Where the far side ends the connection on the one record provenAfter
//     times, each time just after the witness was acknowledged, and the
//     witness is acknowledged once more on a new connection, the record is
//     Poison. A link that breaks by chance with probability p does this with
//     p^5 (1-p)^6, less than 1 in 2000 at its worst; a timeout counts for
//     nothing.
//  4. Where the witness itself is refused, or there is none because the broker
//     has taken nothing of the stream since we started, nothing says that it is
//     the record's fault: Misconfigured.
//
// A record for the topic of one that was proven Poison, where the broker has
// taken none for it since, comes on trial at the first end, and two are enough.
const (
	suspectAfter = 2
	provenAfter  = 5
	againAfter   = 2
	toldAfter    = 3 // ends until Misconfigured is said
	// maxBlamed is how many refused topics are remembered.
	maxBlamed = 4096
	// maxWitness is the largest message that is kept as a witness.
	maxWitness = 64 << 10
)

type laneID struct {
	stream string
	shard  record.ShardID
}

func idOf(l lane.Lane) laneID { return laneID{l.Stream, l.Shard} }

// A trouble is a lane's front record that was on its way when the far side
// ended the connection.
type trouble struct {
	pos     record.Pos
	deaths  int // with others
	count   int // records of the lane that were on their way
	alone   int // the record alone
	proven  int // of these, after a witness
	refused int // the witness was refused
}

type trials struct {
	mu      sync.Mutex
	lanes   map[laneID]*trouble
	blamed  map[string]bool    // topics of records that were proven Poison
	witness map[string]message // by stream
}

// split tells lanes that are suspects from others. topic is that of a lane's
// front record.
func (t *trials) split(works []*work, topic func(*work) string) (calm, suspects []*work) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range works {
		x := t.lanes[idOf(w.Lane)]
		after := suspectAfter
		if x != nil && len(t.blamed) > 0 && len(w.Recs) > 0 && t.blamed[topic(w)] {
			after = 1
		}
		if x != nil && len(w.Recs) > 0 && w.Recs[0].Pos == x.pos && x.deaths >= after {
			suspects = append(suspects, w)
		} else {
			calm = append(calm, w)
		}
	}
	return calm, suspects
}

// died notes that the far side ended the connection while records of these
// lanes were on their way.
func (t *trials) died(works []*work) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lanes == nil {
		t.lanes = make(map[laneID]*trouble)
	}
	for _, w := range works {
		pos := w.Recs[w.out.Done].Pos
		x := t.lanes[idOf(w.Lane)]
		if x == nil || x.pos != pos {
			x = &trouble{pos: pos}
			t.lanes[idOf(w.Lane)] = x
		}
		x.deaths++
		x.count = w.wait
	}
}

// took notes that a lane's front record was acknowledged, with m.
func (t *trials) took(w *work, m message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lanes, idOf(w.Lane))
	delete(t.blamed, m.topic)
	if m.size() > maxWitness {
		return
	}
	if t.witness == nil {
		t.witness = make(map[string]message)
	}
	t.witness[w.Lane.Stream] = m
}

// blame notes that a lane's front record, a message of which is m, is Poison.
func (t *trials) blame(w *work, m message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lanes, idOf(w.Lane))
	if t.blamed == nil || len(t.blamed) >= maxBlamed {
		t.blamed = make(map[string]bool)
	}
	t.blamed[m.topic] = true
}

// at is what is known of a suspect, and the witness for it.
func (t *trials) at(w *work) (x trouble, witness message, have bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.lanes[idOf(w.Lane)]; p != nil {
		x = *p
	}
	witness, have = t.witness[w.Lane.Stream]
	return x, witness, have
}

// enough is how many refusals of a message prove it guilty.
func (t *trials) enough(m message) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.blamed[m.topic] {
		return againAfter
	}
	return provenAfter
}

// note changes what is known of a suspect.
func (t *trials) note(w *work, f func(x *trouble)) trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.lanes[idOf(w.Lane)]
	if x == nil { // another Send's news; there is one at a time for a lane
		return trouble{}
	}
	f(x)
	return *x
}

// try sends a suspect's records alone. The gate is held.
func (s *Sink) try(ctx context.Context, w *work) {
	x, witness, have := s.trial.at(w)
	c, err := s.connect(ctx)
	if err != nil {
		w.fail(failure(err, lane.Offline))
		return
	}
	if have {
		if err := s.alone(ctx, c, w, witness); err != nil {
			s.noWitness(w, c, err)
			return
		}
	}
	writer := newWriter(s.cfg, s.t, s.home.ID)
	for range max(x.count, 1) {
		if w.out.Done == len(w.Recs) {
			return
		}
		parts, err := writer.messages(nil, &w.Lane, &w.Recs[w.out.Done])
		if err != nil {
			w.fail(&lane.Error{Class: lane.Poison, Text: err.Error()})
			return
		}
		for _, m := range parts {
			if err := s.alone(ctx, c, w, m); err != nil {
				s.judge(ctx, w, c, m, err, have)
				return
			}
		}
		w.out.Done++
		s.trial.took(w, parts[len(parts)-1])
		have = true
	}
	w.next = w.out.Done
	s.flow(ctx, []*work{w})
}

// alone publishes one message and waits for its acknowledgement.
func (s *Sink) alone(ctx context.Context, c *line, w *work, m message) error {
	p, err := c.Publish(ctx, m.topic, 1, s.cfg.Retain, m.payload)
	if err == nil {
		w.out.Bytes += m.size()
		w.out.Requests++
		err = p.Wait(ctx, 0)
	}
	if err != nil {
		c.hangUp()
		s.drop(c)
	}
	return err
}

// noWitness says what it means that the broker did not take the witness.
func (s *Sink) noWitness(w *work, c *line, err error) {
	why, far := c.Why()
	if far {
		if x := s.trial.note(w, func(x *trouble) { x.refused++ }); x.refused >= toldAfter {
			w.fail(&lane.Error{Class: lane.Misconfigured, Err: why, Text: fmt.Sprintf(
				"the broker has ended the connection on %d messages in a row of the stream %s, also on one that it took before; does it still allow its topics, is the client id used twice?", x.refused, w.Lane.Stream)})
			return
		}
	}
	w.fail(lost(lane.Transient, "not sent", err, why))
}

// judge says what it means that the broker did not take a message that was
// alone on its way.
func (s *Sink) judge(ctx context.Context, w *work, c *line, m message, err error, have bool) {
	why, far := c.Why()
	if !far {
		w.fail(lost(lane.Ambiguous, "the acknowledgement is missing", err, why))
		return
	}
	x := s.trial.note(w, func(x *trouble) {
		x.alone++
		if have {
			x.proven++
		}
	})
	_, witness, _ := s.trial.at(w)
	what := fmt.Sprintf("topic %q, %d bytes", shortened(m.topic), len(m.payload))
	switch {
	case have && x.proven >= s.trial.enough(m):
		again, err := s.connect(ctx)
		if err == nil {
			err = s.alone(ctx, again, w, witness)
		}
		if err != nil {
			break
		}
		s.trial.blame(w, m)
		w.fail(&lane.Error{Class: lane.Poison, Text: fmt.Sprintf(
			"the broker ended the connection on this message alone (%s) %d times, and takes others: it may not allow the topic, or the size", what, x.proven)})
		return
	case !have && x.alone >= toldAfter:
		w.fail(&lane.Error{Class: lane.Misconfigured, Err: why, Text: fmt.Sprintf(
			"the broker ends the connection on the first message of the stream %s (%s), and has taken none of it since the start; does it allow the topic, and the size?", w.Lane.Stream, what)})
		return
	}
	w.fail(lost(lane.Ambiguous, "the acknowledgement is missing", err, why))
}
