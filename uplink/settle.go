package uplink

import (
	"context"
	"errors"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// settle does what an outcome asks for: commits what is safe, moves a record
// that can never be taken out of the way, pauses. false if ctx has ended.
func (l *laneRun) settle(ctx context.Context, sent int, out lane.Outcome) bool {
	if out.Done > 0 {
		l.backoff.reset()
		if out.Left > 0 {
			l.pass(out.Left, record.Tally{Filtered: uint64(out.Left)})
		}
		if n := out.Done - out.Left; n > 0 {
			l.pass(n, record.Tally{Delivered: uint64(n)})
		}
	}
	l.adapt(out)
	l.repeat(sent, out)
	if out.Done == sent {
		l.note(func() {
			if l.class != lane.OK && l.class != lane.Throttled {
				l.p.wakeLanes(l.class) // what held this lane up is over for others too
			}
			l.class, l.err, l.retryAt = lane.OK, nil, time.Time{}
		})
		return ctx.Err() == nil
	}
	if out.Class == lane.Poison {
		held := l.p.storm(l, out.Err)
		if held == nil {
			return l.refuse(ctx, out.Err) && ctx.Err() == nil
		}
		out.Class, out.Err = lane.Misconfigured, held
	}
	l.p.count(func(m *meter) { m.retries++ })
	pause := l.pause(out)
	l.note(func() { l.fail(out.Class, out.Err, pause) })
	return l.sleep(ctx, pause)
}

// unclearMax is how often a batch may end ambiguous and be offered whole again.
const unclearMax = 10

// repeat sees to it that a batch of which nobody knows whether the target has
// it is offered again as it was, no shorter: a target that knows repeated
// batches by a key of the whole can tell then. A link that never gets it
// through, and a target that asks for less, get smaller ones.
func (l *laneRun) repeat(sent int, out lane.Outcome) {
	if out.Done > 0 || out.Class == lane.Throttled || out.Class == lane.Poison {
		l.unclear, l.unclears = 0, 0
	}
	// What lies behind records that were taken may be there as well.
	left := sent - out.Done
	if out.Again = min(out.Again, left); out.Again > 0 {
		left = out.Again
	}
	switch {
	case left == 0, out.Class == lane.Throttled, out.Class == lane.Poison:
	case out.Class == lane.Ambiguous:
		if l.unclears++; l.unclears < unclearMax {
			l.unclear = left
		} else {
			l.unclear, l.unclears = 0, 0
		}
	case out.Again > 0:
		l.unclear = left
	}
	l.whole = l.unclear > 0 && out.Again > 0
}

// fail notes that the lane does not get on. p.mu is held.
func (l *laneRun) fail(c lane.Class, err error, pause time.Duration) {
	now := time.Now()
	if l.class == lane.OK {
		l.failed = now
	}
	l.skewed = c == lane.ClockSkew && l.class == c
	l.class, l.err, l.retryAt = c, err, now.Add(pause)
}

// adapt sizes the lane's next batches by what the target made of this one: a
// step more where it took something, half where it asked for less (additive
// increase, multiplicative decrease).
func (l *laneRun) adapt(out lane.Outcome) {
	switch {
	case out.Class == lane.Throttled:
		l.window = max(min(l.window, l.batch0())/2, minWindow)
	case out.Done > 0:
		l.window, l.last = min(l.window+min(windowStep, l.window), l.p.hold), lane.OK
	}
}

// pause is how long the lane waits after a failure. A lane that is offline
// pauses as the link does; its pause ends when the target is heard of again.
func (l *laneRun) pause(out lane.Outcome) time.Duration {
	base, most := retryBase, l.p.retryMax
	if l.last == lane.Offline && out.Class != lane.Offline {
		l.backoff.reset() // the target is there again; how long it was not says nothing
	}
	switch out.Class {
	case lane.Auth, lane.Misconfigured:
		base = slowBase
	case lane.ClockSkew:
		// The sink has learnt the target's time and signs with it from now on;
		// where the second try fails too, only a person can help.
		if l.last == lane.ClockSkew {
			base = slowBase
		}
	case lane.Throttled:
		most = min(most, throttleMax)
	}
	l.last = out.Class
	return max(l.backoff.next(base, most), min(out.RetryAfter, l.p.retryMax))
}

// storm says why a record that the target will not take must not be set aside;
// nil: it may.
func (p *Pump) storm(l *laneRun, why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.guard.holds(l, string(p.cfg.ID), why)
	if err == nil {
		p.guard.refuses(l)
	}
	return err
}

// batch0 is the weight of the batch that was sent last.
func (l *laneRun) batch0() int {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.weight
}

// pass moves the cursor, or the live part, over the first n records at hand.
func (l *laneRun) pass(n int, t record.Tally) {
	recs := l.hand.left()[:n]
	var use Usage
	if t.Delivered > 0 {
		for i := range recs {
			use.add(weight(&recs[i]))
		}
	}
	l.hand.done += n
	if l.live != nil && l.hand == &l.live.hold {
		l.advance(recs, t)
	} else {
		l.commit(recs[n-1].Pos.Seq, t)
	}
	l.p.count(func(m *meter) {
		if t.Delivered > 0 {
			l.p.guard.took(l, int(t.Delivered))
			l.acked = time.Now()
		}
		l.moved = time.Now()
		m.use.Records += use.Records
		m.use.PayloadBytes += use.PayloadBytes
		m.use.PlainUnits += use.PlainUnits
		m.use.PlainBilled += use.PlainBilled
		m.passed += t.Sum()
		m.refused += t.Refused
	})
}

// commit moves the cursor behind a sequence number.
func (l *laneRun) commit(upTo uint64, t record.Tally) {
	l.tally.Delivered += t.Delivered
	l.tally.Filtered += t.Filtered
	l.tally.Refused += t.Refused
	l.upTo = upTo
	if err := l.move(); err != nil {
		// The records are delivered all the same; it is tried again while
		// nothing comes, with the next ones, and before the lane ends. After a
		// restart they go out again with the same ids.
		l.p.log.Error("cannot move the cursor", "stream", l.lane.Stream, "shard", uint32(l.lane.Shard), "up_to", upTo, "error", err)
	}
}

// move commits what was passed.
func (l *laneRun) move() error {
	if l.tally.Sum() == 0 {
		return nil
	}
	if err := l.cur.Commit(l.upTo, l.tally); err != nil {
		return err
	}
	l.tally = record.Tally{}
	l.p.mu.Lock()
	l.place = l.upTo + 1
	l.p.mu.Unlock()
	return nil
}

// A finisher is a Cursor that passes records by itself.
type finisher interface {
	// Finish commits what it has passed.
	Finish() error
}

// finish commits, however often it takes, what the lane has passed, and what
// its cursor has: shards that came of this one wait for it. Once ctx has ended
// it tries once.
func (l *laneRun) finish(ctx context.Context) {
	for said := false; ; said = true {
		err := l.move()
		if f, ok := l.cur.(finisher); ok && err == nil {
			err = f.Finish()
		}
		log := l.p.log.With("stream", l.lane.Stream, "shard", uint32(l.lane.Shard))
		switch {
		case err == nil:
			if said {
				log.Info("the cursor moves again")
			}
			return
		case errors.Is(err, record.ErrClosed), errors.Is(err, record.ErrNoStream), ctx.Err() != nil:
			return // nobody waits for it
		}
		if !said {
			log.Error("cannot move the cursor at the end of the shard; it is tried again", "error", err)
		}
		l.sleep(ctx, l.backoff.next(retryBase, l.p.retryMax))
	}
}

// refuse copies the first record at hand to the stream "refused", however
// often it takes, and passes it. One that comes from there stays there. A copy
// that is outside the log's limits, which no time mends, is made without
// attributes; if that does not help either there is none.
func (l *laneRun) refuse(ctx context.Context, why error) bool {
	r := l.hand.left()[0]
	reason := "the target cannot take it"
	if why != nil {
		reason = why.Error()
	}
	log := l.p.log.With("stream", l.lane.Stream, "shard", uint32(l.lane.Shard), "seq", r.Pos.Seq)
	for said := false; l.lane.Stream != RefusedStream; {
		err := l.p.src.Refuse(ctx, l.lane.Stream, r, reason)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		if bad := (*record.InvalidError)(nil); errors.As(err, &bad) {
			if r.Attrs != nil {
				log.Error("refused record is kept without its attributes", "error", err)
				r.Attrs = nil
				continue
			}
			log.Error("refused record cannot be kept at all", "error", err)
			break
		}
		if !said {
			log.Error("cannot keep a refused record", "error", err)
			said = true
		}
		pause := l.backoff.next(retryBase, l.p.retryMax)
		l.note(func() { l.fail(lane.Poison, err, pause) })
		if !l.sleep(ctx, pause) {
			return false
		}
	}
	log.Warn("record refused by the target", "reason", reason)
	l.pass(1, record.Tally{Refused: 1})
	l.backoff.reset()
	l.note(func() { l.class, l.err, l.retryAt = lane.OK, nil, time.Time{} })
	return true
}
