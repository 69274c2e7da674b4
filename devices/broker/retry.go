package broker

import (
	"math/rand/v2"
	"time"

	"forebay/spool/record"
)

const (
	// retryFirst and retryLast bound the pause before records that could not
	// be stored are tried again.
	retryFirst = 250 * time.Millisecond
	retryLast  = 2 * time.Second
)

// hold makes the read loop queue until what failed is stored. Locked.
func (c *conn) hold(err error) {
	if c.held || c.closed {
		return
	}
	c.held = true
	c.b.holding(1, err)
	c.wg.Add(1)
	go c.tryAgain()
}

// nextTurn ends the wait of what is on its way to the log, and refuses what has
// not come there yet. Locked.
func (c *conn) nextTurn() {
	if c.turn != nil {
		c.turn.end()
	}
	c.turn = c.begin()
}

// tryAgain stores what failed, then what was queued behind it, in order. It
// ends when nothing is left to try, or the connection closes. It pauses before
// the first try and after one that failed; once one has worked the log takes
// records again, and whatever else failed with it follows at once.
func (c *conn) tryAgain() {
	defer c.wg.Done()
	pause := retryFirst
	var since time.Time
	var tried *batch // the one that was tried last, of those that had failed
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		c.held = false
		c.b.holding(-1, nil)
		c.change.Broadcast()
	}()
	for !c.closed {
		b, failing := c.nextTry()
		switch {
		case b == nil && !failing:
			return
		case b == nil || b.state == stateInFlight:
			c.change.Wait()
			continue
		case b.state == stateFailed:
			if tried != nil && tried != b {
				pause, since = 0, time.Time{}
			}
			tried = b
			if since.IsZero() {
				since = time.Now()
			}
			if pause > 0 {
				c.pause(pause/2 + rand.N(pause))
			}
			pause = min(max(2*pause, retryFirst), retryLast)
			if c.closed {
				return
			}
			if !c.compact(b, time.Since(since) >= shedAfter) {
				b.state = stateSettled
				c.settle()
				continue
			}
		default:
			pause, since, tried = retryFirst, time.Time{}, nil
		}
		b.state = stateInFlight
		c.flying++
		turn := c.turn
		c.mu.Unlock()
		c.put(turn, b)
		c.mu.Lock()
	}
}

// nextTry is the batch to hand over next: the head while anything has failed,
// else the first that is queued. failing says whether something has. Locked.
func (c *conn) nextTry() (b *batch, failing bool) {
	var queued *batch
	for _, f := range c.fifo {
		if f.state == stateFailed {
			return c.fifo[0], true
		}
		if f.state == stateQueued && queued == nil {
			queued = f
		}
	}
	return queued, false
}

// pause waits, less if the connection closes. Locked.
func (c *conn) pause(d time.Duration) {
	end := time.Now().Add(d)
	defer time.AfterFunc(d, c.nudge).Stop()
	for !c.closed && time.Now().Before(end) {
		c.change.Wait()
	}
}

// compact leaves the records that are still to be stored; with drop, those of
// QoS 0 are let go. False if none is left. Locked.
func (c *conn) compact(b *batch, drop bool) bool {
	kept, size, lost := b.recs[:0], 0, 0
	for i := range b.ents {
		e := &b.ents[i]
		if e.rec < 0 {
			continue
		}
		if drop && e.kind == 0 {
			e.rec, e.fan = -1, false
			lost++
			continue
		}
		rec := b.recs[e.rec]
		rec.SourceSeq = 0
		e.rec = int32(len(kept))
		kept = append(kept, rec)
		size += e.size
	}
	c.b.shedRecords(lost)
	c.records -= len(b.recs) - len(kept)
	c.bytes -= b.bytes - size
	c.b.memory.give(b.bytes - size)
	clear(b.recs[len(kept):])
	b.recs, b.bytes = kept, size
	return len(kept) > 0
}

// split makes a batch of each record, so that the one the inlet does not take
// can be told. Locked.
func (c *conn) split(b *batch) {
	var parts []*batch
	var part *batch
	for _, e := range b.ents[b.next:] {
		if part == nil || len(part.recs) > 0 {
			part = &batch{state: stateQueued}
			p := part
			part.done = func(res []record.Result) { c.committed(p, res) }
			parts = append(parts, part)
		}
		if e.rec >= 0 {
			part.recs = append(part.recs, b.recs[e.rec])
			part.bytes += e.size
			e.rec = 0
		}
		if e.kind != 0 {
			part.answers++
		}
		part.ents = append(part.ents, e)
	}
	for _, p := range parts {
		if len(p.recs) == 0 {
			p.state = stateSettled
		}
	}
	for i := range c.fifo {
		if c.fifo[i] == b {
			c.fifo = append(c.fifo[:i], append(parts, c.fifo[i+1:]...)...)
			break
		}
	}
}
