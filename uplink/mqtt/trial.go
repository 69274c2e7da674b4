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
//     Poison. A link that breaks by chance with probability p does all this
//     with p^7 (1-p)^6, less than 1 in 7000 at its worst; a timeout counts for
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

// Trials remember who was on the way when the far side ended a connection, and
// judge by the rules above. M is what a sink sends again as a witness. They
// are safe for concurrent use; the zero value is ready.
type Trials[M any] struct {
	mu      sync.Mutex
	lanes   map[laneID]*trouble
	blamed  map[string]bool // topics of records that were proven Poison
	witness map[string]M    // by stream
}

// Suspect reports whether the lane, whose front record is at front, is to be
// tried alone; topic tells where that record goes.
func (t *Trials[M]) Suspect(l lane.Lane, front record.Pos, topic func() string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.lanes[idOf(l)]
	if x == nil || x.pos != front {
		return false
	}
	return x.deaths >= suspectAfter || len(t.blamed) > 0 && t.blamed[topic()]
}

// Died notes that the far side ended the connection while count records of the
// lane, of which the first is at front, were on their way.
func (t *Trials[M]) Died(l lane.Lane, front record.Pos, count int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lanes == nil {
		t.lanes = make(map[laneID]*trouble)
	}
	x := t.lanes[idOf(l)]
	if x == nil || x.pos != front {
		x = &trouble{pos: front}
		t.lanes[idOf(l)] = x
	}
	x.deaths++
	x.count = count
}

// Took notes that the lane's front record was acknowledged; m can be a witness
// from now on, if keep says so.
func (t *Trials[M]) Took(l lane.Lane, topic string, m M, keep bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lanes, idOf(l))
	delete(t.blamed, topic)
	if !keep {
		return
	}
	if t.witness == nil {
		t.witness = make(map[string]M)
	}
	t.witness[l.Stream] = m
}

// Witness is what the far side took last of the lane's stream; count is how
// many records of the lane may hold the culprit.
func (t *Trials[M]) Witness(l lane.Lane) (m M, have bool, count int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.lanes[idOf(l)]; x != nil {
		count = x.count
	}
	m, have = t.witness[l.Stream]
	return m, have, max(count, 1)
}

// WitnessRefused notes that the far side ended the connection on the witness;
// the error, if it has a reason to be one, says that nothing is taken any more.
func (t *Trials[M]) WitnessRefused(l lane.Lane, why error) *lane.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.lanes[idOf(l)]
	if x == nil {
		return nil
	}
	if x.refused++; x.refused < toldAfter {
		return nil
	}
	return &lane.Error{Class: lane.Misconfigured, Err: why, Text: fmt.Sprintf(
		"the broker has ended the connection on %d messages in a row of the stream %s, also on one that it took before; does it still allow its topics, is the client id used twice?", x.refused, l.Stream)}
}

// Refused notes that the far side ended the connection on the lane's front
// record alone; witnessed says that it took the witness just before. Where the
// answer is Poison, the witness has to be taken once more for it to hold, and
// Blame to be told; nil says that it is too early to tell.
func (t *Trials[M]) Refused(l lane.Lane, topic string, size int, witnessed bool, why error) *lane.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.lanes[idOf(l)]
	if x == nil {
		return nil
	}
	enough := provenAfter
	if t.blamed[topic] {
		enough = againAfter
	}
	x.alone++
	if witnessed {
		x.proven++
	}
	what := fmt.Sprintf("topic %q, %d bytes", shortened(topic), size)
	switch {
	case witnessed && x.proven >= enough:
		return &lane.Error{Class: lane.Poison, Text: fmt.Sprintf(
			"the broker ended the connection on this message alone (%s) %d times, and takes others: it may not allow the topic, or the size", what, x.proven)}
	case !witnessed && x.alone >= toldAfter:
		return &lane.Error{Class: lane.Misconfigured, Err: why, Text: fmt.Sprintf(
			"the broker ends the connection on the first message of the stream %s (%s), and has taken none of it since the start; does it allow the topic, and the size?", l.Stream, what)}
	}
	return nil
}

// Blame notes that the lane's front record is Poison.
func (t *Trials[M]) Blame(l lane.Lane, topic string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lanes, idOf(l))
	if t.blamed == nil || len(t.blamed) >= maxBlamed {
		t.blamed = make(map[string]bool)
	}
	t.blamed[topic] = true
}

// try sends a suspect's records alone. The gate is held.
func (s *Sink) try(ctx context.Context, w *work) {
	witness, have, count := s.trials.Witness(w.Lane)
	c, err := s.connect(ctx)
	if err != nil {
		w.fail(failure(err, lane.Offline))
		return
	}
	if have {
		if err := s.alone(ctx, c, w, witness); err != nil {
			why, far := c.Why()
			e := lost(lane.Transient, "not sent", err, why)
			if far {
				if told := s.trials.WitnessRefused(w.Lane, why); told != nil {
					e = told
				}
			}
			w.fail(e)
			return
		}
	}
	writer := newWriter(s.cfg, s.t, s.home.ID)
	for range count {
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
				w.fail(s.judge(ctx, w, c, m, err, have))
				return
			}
		}
		w.out.Done++
		s.took(w, parts[len(parts)-1])
		have = true
	}
	w.next = w.out.Done
	s.flow(ctx, []*work{w})
}

// took notes that the broker has a lane's front record, m its last message.
func (s *Sink) took(w *work, m message) {
	s.trials.Took(w.Lane, m.topic, m, m.size() <= maxWitness)
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
		c.HangUp()
		s.drop(c)
	}
	return err
}

// judge says what it means that the broker did not take a message that was
// alone on its way.
func (s *Sink) judge(ctx context.Context, w *work, c *line, m message, err error, have bool) *lane.Error {
	why, far := c.Why()
	early := lost(lane.Ambiguous, "the acknowledgement is missing", err, why)
	if !far {
		return early
	}
	e := s.trials.Refused(w.Lane, m.topic, len(m.payload), have, why)
	if e == nil {
		return early
	}
	if e.Class == lane.Poison {
		witness, _, _ := s.trials.Witness(w.Lane)
		again, err := s.connect(ctx)
		if err == nil {
			err = s.alone(ctx, again, w, witness)
		}
		if err != nil {
			return early
		}
		s.trials.Blame(w.Lane, m.topic)
	}
	return e
}
