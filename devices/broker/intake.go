package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"forebay/spool/record"
)

const (
	// batchRecords and batchBytes end a batch that is being filled.
	batchRecords = 256
	batchBytes   = 256 << 10
	// shedAfter is how long records of QoS 0 hold their connection back before
	// they are let go; shedAgain the same while that goes on.
	shedAfter = 5 * time.Second
	shedAgain = 50 * time.Millisecond
)

// A turn is the time between two failures of a connection's batches. When one
// has failed, what was on its way behind it must not overtake it: its turn ends.
type turn struct {
	// put hands a batch to the inlet. Its wait for admission ends with the turn,
	// with the connection, and after limit; 0 is no limit.
	put func(limit time.Duration, recs []record.Record, done func([]record.Result)) error
	end func()
}

// An entry is one packet that is to be answered, or to be fanned out, or both.
type entry struct {
	rec    int32 // index in batch.recs; -1 once it is settled
	id     uint16
	kind   byte // typePuback, typePubrec, or 0 for no answer
	code   byte
	fatal  bool // the connection ends instead of an answer
	fan    bool
	retain bool
	topic  *topic
	props  *props
	data   []byte
	size   int // of the record, in the client's and the broker's bounds
}

type batchState uint8

const (
	stateQueued   batchState = iota // behind one that failed
	stateInFlight                   // with the inlet
	stateFailed                     // some records are to be tried again
	stateSettled
)

// A batch is what one read from the socket held, in the order it was received.
type batch struct {
	recs    []record.Record
	ents    []entry
	bytes   int
	answers int // entries with an answer, of QoS 1 and 2
	next    int // first entry that is not answered
	state   batchState
	done    func([]record.Result)
}

// The intake is the part of a connection that waits for commits. Batches are
// answered strictly in the order they were received ([MQTT-4.6.0-2]), whatever
// the order of the commits. The read loop appends to fifo; the log's goroutine
// settles batches; while one has failed, a goroutine of its own tries again
// and the read loop only queues behind it.
type intake struct {
	mu      sync.Mutex
	change  sync.Cond // something settled, or closed
	fifo    []*batch
	free    []*batch
	records int // in fifo
	bytes   int
	flying  int  // batches with the inlet
	reading bool // the read loop has not ended
	held    bool
	closed  bool
	parked  bool // nothing will be read any more
	shed    bool // QoS 0 is being let go
	ackBuf  []byte
	wg      sync.WaitGroup // the goroutine that tries again
	turn    *turn
	drained chan struct{} // closed when shut, nothing is read any more and nothing is with the inlet
}

func (in *intake) init() {
	in.change.L = &in.mu
	in.drained, in.reading = make(chan struct{}), true
}

// add puts a record into the batch that is being filled.
func (c *conn) add(p *publish, t *topic, rec record.Record) error {
	b := c.filling()
	e := entry{rec: int32(len(b.recs)), id: p.id, retain: p.retain, topic: t, props: p.props, size: rec.Size()}
	switch p.qos {
	case 1:
		e.kind = typePuback
		b.answers++
	case 2:
		e.kind = typePubrec
		b.answers++
	}
	if e.fan = p.retain || c.b.fan.wanted(t); e.fan {
		e.data = p.payload
	}
	b.recs = append(b.recs, rec)
	b.ents = append(b.ents, e)
	b.bytes += e.size
	if len(b.recs) >= min(batchRecords, c.b.cfg.maxPending()) || b.bytes >= min(batchBytes, c.b.cfg.maxPendingBytes()) {
		return c.submit()
	}
	return nil
}

// refuse answers a PUBLISH that cannot be stored: MQTT 5 has a reason code,
// MQTT 3.1.1 only the end of the connection (3.3.5). It is never acknowledged.
func (c *conn) refuse(p *publish, t *topic, code byte) error {
	c.refusedPublish("message is refused", t.name, code)
	if p.qos == 0 {
		return nil
	}
	kind := byte(typePuback)
	if p.qos == 2 {
		kind = typePubrec
		c.forget(p.id)
	}
	c.answer(entry{rec: -1, id: p.id, kind: kind, code: code, fatal: !c.v5})
	return nil
}

// answer puts a packet without a record into the order of answers.
func (c *conn) answer(e entry) {
	b := c.filling()
	b.answers++
	b.ents = append(b.ents, e)
}

func (c *conn) filling() *batch {
	if c.cur != nil {
		return c.cur
	}
	c.mu.Lock()
	if n := len(c.free); n > 0 {
		c.cur, c.free = c.free[n-1], c.free[:n-1]
	}
	c.mu.Unlock()
	if c.cur == nil {
		b := new(batch)
		b.done = func(res []record.Result) { c.committed(b, res) }
		c.cur = b
	}
	return c.cur
}

// submit hands over what was read so far. It blocks while too much of this
// client waits for its commit, and while the log's queue is full; that is the
// back-pressure of TCP.
func (c *conn) submit() error {
	b := c.cur
	if b == nil {
		return nil
	}
	c.cur = nil
	c.mu.Lock()
	first := c.records == 0
	c.mu.Unlock()
	// One batch of each client always passes: clients that are held back
	// must not use up what the others need.
	if !c.b.memory.take(b.bytes, first, c.gone) {
		c.mu.Lock()
		c.abandon(b)
		c.mu.Unlock()
		return errClosed
	}
	c.mu.Lock()
	if !c.admit(b) {
		c.abandon(b)
		closed := c.closed
		c.mu.Unlock()
		c.b.memory.give(b.bytes)
		if closed {
			return errClosed
		}
		return nil
	}
	c.records += len(b.recs)
	c.bytes += b.bytes
	c.fifo = append(c.fifo, b)
	switch {
	case len(b.recs) == 0:
		b.state = stateSettled
		c.settle()
	case c.held:
		b.state = stateQueued
		c.change.Broadcast()
	default:
		b.state = stateInFlight
		c.flying++
		turn := c.turn
		c.mu.Unlock()
		c.put(turn, b)
		return nil
	}
	c.mu.Unlock()
	return nil
}

// admit waits for room within the client's bounds; false if the connection
// was closed, or if nothing but QoS 0 has waited too long and is let go. Locked.
func (c *conn) admit(b *batch) bool {
	full := func() bool {
		return c.records > 0 && (c.records+len(b.recs) > c.b.cfg.maxPending() || c.bytes+b.bytes > c.b.cfg.maxPendingBytes())
	}
	if !full() {
		return !c.closed
	}
	var late time.Time
	if b.answers == 0 {
		limit := c.patience()
		late = time.Now().Add(limit)
		defer time.AfterFunc(limit, c.nudge).Stop()
	}
	for full() && !c.closed {
		if !late.IsZero() && !time.Now().Before(late) {
			c.shed = true
			return false
		}
		c.change.Wait()
	}
	return !c.closed
}

func (c *conn) nudge() {
	c.mu.Lock()
	c.change.Broadcast()
	c.mu.Unlock()
}

// patience is how long QoS 0 may hold its connection back. Locked.
func (c *conn) patience() time.Duration {
	if c.shed {
		return shedAgain
	}
	return shedAfter
}

// put hands a batch to the inlet. Not locked.
func (c *conn) put(turn *turn, b *batch) {
	var limit time.Duration
	if b.answers == 0 {
		c.mu.Lock()
		limit = c.patience()
		c.mu.Unlock()
	}
	err := turn.put(limit, b.recs, b.done)
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying--
	var bad *record.InvalidError
	switch {
	case limit > 0 && errors.Is(err, context.DeadlineExceeded) && !c.closed:
		c.shed = true
		for i := range b.ents {
			b.ents[i].rec = -1
			b.ents[i].fan = false
		}
		c.b.shedRecords(len(b.recs))
		b.state = stateSettled
	case errors.As(err, &bad) && len(b.recs) > 1:
		c.split(b)
		c.hold(nil)
	case errors.As(err, &bad):
		for i := range b.ents {
			if b.ents[i].rec >= 0 {
				c.invalid(&b.ents[i], bad)
			}
		}
		b.state = stateSettled
	default:
		b.state = stateFailed
		if turn == c.turn {
			c.nextTurn()
		}
		c.hold(err)
	}
	c.settle()
}

// committed is called by the log, once for each batch it took.
func (c *conn) committed(b *batch, res []record.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying--
	var again error
	for i := range b.ents {
		e := &b.ents[i]
		if e.rec < 0 {
			continue
		}
		err := res[e.rec].Err
		if err == nil {
			if e.kind == typePubrec {
				c.sess.qos2[e.id] = qos2Stored
			}
			e.rec = -1
			continue
		}
		if bad, ok := errors.AsType[*record.InvalidError](err); ok {
			c.invalid(e, bad)
			continue
		}
		again = err
	}
	if again != nil {
		b.state = stateFailed
		c.nextTurn()
		c.hold(again)
	} else {
		c.shed = false
		b.state = stateSettled
	}
	c.settle()
}

// invalid turns an entry into a refusal. Locked.
func (c *conn) invalid(e *entry, bad *record.InvalidError) {
	c.refusedPublish("message cannot be stored", e.topic.name, reasonFor(bad))
	e.rec, e.code, e.fan = -1, reasonFor(bad), false
	e.fatal = !c.v5 && e.kind != 0
	if e.kind == typePubrec {
		delete(c.sess.qos2, e.id)
	}
}

// reasonFor is the reason code of a record outside the limits (MQTT 5, 3.4.2.1).
func reasonFor(err error) byte {
	bad, ok := errors.AsType[*record.InvalidError](err)
	switch {
	case !ok:
		return codeImplementation
	case bad.TooLarge:
		return codeQuotaExceeded
	case bad.Field == "partition key":
		return codeTopicInvalid
	case bad.Field == "data":
		return codePayloadInvalid
	}
	return codeImplementation
}

// settle answers what can be answered, in order. Locked.
func (c *conn) settle() {
	acks := c.ackBuf[:0]
	over := false
	for len(c.fifo) > 0 && !over {
		b := c.fifo[0]
		for b.next < len(b.ents) && b.ents[b.next].rec < 0 && !over {
			e := &b.ents[b.next]
			b.next++
			if e.fan && e.code == codeSuccess {
				c.b.fan.queue(c.sess.id, c.v5, e)
			}
			if e.kind == typePubrec && e.code == codeSuccess {
				c.acked(e.id)
			}
			if over = e.fatal; e.kind != 0 && !over {
				acks = appendAck(acks, e.kind, e.id, e.code, c.v5)
			}
		}
		if b.next < len(b.ents) {
			break
		}
		c.pop()
	}
	if len(acks) > 0 && !c.closed {
		c.out.queue(acks)
	}
	c.ackBuf = acks[:0]
	if over && !c.closed {
		c.b.log.Warn("client is cut off: its message cannot be stored", "client", c.sess.id)
		c.shutLocked()
	}
	c.clean()
	c.change.Broadcast()
}

// pop removes the settled head of fifo and keeps it for use again. Locked.
func (c *conn) pop() {
	b := c.fifo[0]
	copy(c.fifo, c.fifo[1:])
	c.fifo[len(c.fifo)-1] = nil
	c.fifo = c.fifo[:len(c.fifo)-1]
	c.records -= len(b.recs)
	c.bytes -= b.bytes
	if b.bytes > 0 {
		c.b.memory.give(b.bytes)
	}
	if len(c.free) < 4 {
		clear(b.recs)
		clear(b.ents)
		*b = batch{recs: b.recs[:0], ents: b.ents[:0], done: b.done}
		c.free = append(c.free, b)
	}
}

// clean gives up what is left when the connection was closed: nothing is
// tried again, and nothing is acknowledged any more. Locked.
func (c *conn) clean() {
	if !c.closed {
		return
	}
	kept := c.fifo[:0]
	for _, b := range c.fifo {
		if b.state == stateInFlight {
			kept = append(kept, b)
			continue
		}
		c.records -= len(b.recs)
		c.bytes -= b.bytes
		c.b.memory.give(b.bytes)
		c.abandon(b)
	}
	clear(c.fifo[len(kept):])
	c.fifo = kept
	if c.flying == 0 && !c.reading {
		select {
		case <-c.drained:
		default:
			close(c.drained)
		}
	}
}

// abandon counts the records of QoS 0 that nobody will send again; those of
// QoS 1 and 2 were not acknowledged, so their sender still has them. Locked.
func (c *conn) abandon(b *batch) {
	lost := 0
	for i := range b.ents {
		e := &b.ents[i]
		switch {
		case e.rec < 0 && e.kind == typePubrec && e.code == codeSuccess:
			c.acked(e.id) // it is stored; the client will ask again
		case e.rec < 0:
		case e.kind == 0:
			lost++
		case e.kind == typePubrec:
			delete(c.sess.qos2, e.id)
		}
	}
	c.b.shedRecords(lost)
}

// shut closes the connection unless it is.
func (c *conn) shut() {
	c.mu.Lock()
	if !c.closed {
		c.shutLocked()
	}
	c.mu.Unlock()
}

// shutLocked ends reading at once. What is queued to be sent is still sent. Locked.
func (c *conn) shutLocked() {
	c.closed = true
	close(c.gone)
	c.cancel()
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // fails on a dead socket only
	c.out.close()
	c.b.memory.wake()
	c.b.reading.wake()
	c.clean()
	c.change.Broadcast()
}

// readNoMore says that the read loop has ended: from here on the connection
// leaves the session's identifiers alone but for what is with the inlet.
func (c *conn) readNoMore() {
	c.mu.Lock()
	c.reading = false
	c.clean()
	c.mu.Unlock()
}

func (c *conn) park() {
	c.mu.Lock()
	c.parked = true
	c.change.Broadcast()
	c.mu.Unlock()
}

// drain waits until everything that was read is answered, or end has come.
func (c *conn) drain(end time.Time) {
	defer time.AfterFunc(time.Until(end), c.nudge).Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for (!c.parked || len(c.fifo) > 0) && !c.closed && time.Now().Before(end) {
		c.change.Wait()
	}
}
