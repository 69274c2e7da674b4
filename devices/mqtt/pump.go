package mqtt

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"forebay/spool/record"
)

// A queue holds what was received and is not yet with the log.
type queue struct {
	mu     sync.Mutex
	change sync.Cond
	msgs   []paho.Message
	bytes  int // of msgs and of the batch that was taken
	count  int // the same in messages
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.change.L = &q.mu
	return q
}

// add waits for room. A message that comes after close is not taken; it was
// not acknowledged, so the broker sends it again.
func (q *queue) add(m paho.Message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count > 0 && (q.count >= queueRecords || q.bytes+len(m.Payload()) > queueBytes) && !q.closed {
		q.change.Wait()
	}
	if q.closed {
		return
	}
	q.msgs = append(q.msgs, m)
	q.count++
	q.bytes += len(m.Payload())
	q.change.Broadcast()
}

// take waits for messages and gives all there are; none when it was closed.
func (q *queue) take() []paho.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.msgs) == 0 && !q.closed {
		q.change.Wait()
	}
	if q.closed {
		return nil
	}
	msgs := q.msgs
	q.msgs = nil
	return msgs
}

// release makes room for as many as were taken.
func (q *queue) release(msgs []paho.Message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count -= len(msgs)
	for _, m := range msgs {
		q.bytes -= len(m.Payload())
	}
	q.change.Broadcast()
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.change.Broadcast()
	q.mu.Unlock()
}

// rest are the messages that nobody took, after close.
func (q *queue) rest() []paho.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.msgs
}

// A pump hands messages to the log, batch by batch, and acknowledges them. One
// batch is with the log at a time, so that order holds even when the log
// refuses for a while: meanwhile the next batch gathers.
type pump struct {
	s  *Source
	in Inlet
	q  *queue
}

// run ends when the queue is closed, which it is when ctx ends.
func (p *pump) run(ctx context.Context) {
	for {
		msgs := p.q.take()
		if msgs == nil {
			p.lose(p.q.rest())
			return
		}
		if !p.store(ctx, msgs) {
			return
		}
		for _, m := range msgs {
			m.Ack()
		}
		p.q.release(msgs)
	}
}

// lose counts the messages of QoS 0 among those that will not be stored.
func (p *pump) lose(msgs []paho.Message) {
	var n uint64
	for _, m := range msgs {
		if m.Qos() == 0 {
			n++
		}
	}
	if n == 0 {
		return
	}
	p.s.shed.Add(n)
	if p.s.onShed != nil {
		p.s.onShed(n)
	}
}

// store returns true when every message is on disk, or can never be. What
// fails is tried again until the connection ends.
func (p *pump) store(ctx context.Context, msgs []paho.Message) bool {
	left := append([]paho.Message(nil), msgs...)
	for pause := firstPause; ; pause = min(2*pause, lastRetry) {
		recs := make([]record.Record, len(left))
		for i, m := range left {
			recs[i] = recordOf(m)
		}
		errs := p.put(ctx, recs)
		var why error
		again := left[:0]
		for i, m := range left {
			var bad *record.InvalidError
			switch {
			case errs[i] == nil:
			case errors.As(errs[i], &bad):
				p.s.refused.Add(1)
				p.s.errs.Add(1)
				p.s.log.Error("message can never be stored", "topic", m.Topic(), "bytes", len(m.Payload()), "error", errs[i])
			default:
				why = errs[i]
				again = append(again, m)
			}
		}
		if left = again; len(left) == 0 {
			p.s.hold(nil)
			return true
		}
		if ctx.Err() != nil {
			p.lose(left)
			p.lose(p.q.rest())
			return false
		}
		p.s.hold(why)
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// put hands a batch over and waits for its commit. When ctx ends meanwhile it
// waits for stopTimeout more.
func (p *pump) put(ctx context.Context, recs []record.Record) []error {
	errs := make([]error, len(recs))
	all := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	results := make(chan []error, 1)
	err := p.in.Put(ctx, recs, func(res []record.Result) {
		got := make([]error, len(res))
		for i, r := range res {
			got[i] = r.Err
		}
		results <- got
	})
	var bad *record.InvalidError
	if errors.As(err, &bad) && len(recs) > 1 {
		// One of them; which one, each on its own tells.
		for i := range recs {
			errs[i] = p.put(ctx, recs[i:i+1])[0]
			if errs[i] != nil && !errors.As(errs[i], &bad) {
				for k := i + 1; k < len(errs); k++ {
					errs[k] = errs[i] // those behind it wait for it
				}
				break
			}
		}
		return errs
	}
	if err != nil {
		return all(err)
	}
	select {
	case got := <-results:
		return got
	case <-ctx.Done():
	}
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case got := <-results:
		return got
	case <-t.C:
		return all(ctx.Err())
	}
}
