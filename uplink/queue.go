package uplink

import (
	"context"
	"errors"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// A turn says how soon a lane's batches go: batches of a higher turn are taken
// first, share no Send with those of a lower one, and have a Send of their own
// kept free, so that none waits for a large one to end.
type turn int

const (
	bulk turn = iota
	evidence
	alarms // they do not wait for the bandwidth cap either
	turns  = 3
)

func turnOf(c record.Class) turn {
	switch c {
	case record.ClassAlarm:
		return alarms
	case record.ClassEvidence:
		return evidence
	}
	return bulk
}

// A line is the lanes of one turn that have a batch to send.
type line struct {
	lanes  []*laneRun
	since  time.Time // when the first of them came
	flying int       // Sends under way
	known  int       // lanes of the turn there are
	busy   int       // of them, lanes that have records
	front  time.Time // when the records arrived that they are at, on average
}

// A flight is one Send.
type flight struct {
	turn    turn
	lanes   []*laneRun
	size    int // bytes of keys and data
	charged int // bytes that the caps were charged with
	alone   bool
}

// step does what can be done now: probes the link, starts Sends. It gives the
// time until it has to be asked again if nothing happens.
func (p *Pump) step(ctx, sendCtx context.Context, wg *sync.WaitGroup) time.Duration {
	for {
		p.mu.Lock()
		now := time.Now()
		if p.paused {
			p.mu.Unlock()
			return time.Hour // until Resume
		}
		if wait := p.link.retryAt.Sub(now); wait > 0 {
			p.mu.Unlock()
			return wait
		}
		if p.link.state == StateUp && p.idle() && now.Sub(p.link.heard) >= idleProbe {
			_, p.link.probe = p.sink.(Prober)
		}
		if p.link.probe {
			p.mu.Unlock()
			p.probe(ctx)
			if ctx.Err() != nil {
				return time.Hour
			}
			continue
		}
		f, wait := p.take(now)
		p.mu.Unlock()
		if f == nil {
			return wait
		}
		wg.Go(func() { p.send(sendCtx, f) })
	}
}

// idle reports whether nothing is queued and nothing under way. p.mu is held.
func (p *Pump) idle() bool {
	for t := range p.lines {
		if len(p.lines[t].lanes) > 0 || p.lines[t].flying > 0 {
			return false
		}
	}
	return true
}

// take takes lanes out of a line for one Send; nil, and how long to wait, where
// there is nothing to do now. p.mu is held.
func (p *Pump) take(now time.Time) (*flight, time.Duration) {
	wait := time.Hour // until something is queued or done
	for t := alarms; t >= bulk; t-- {
		q := &p.lines[t]
		if len(q.lanes) == 0 || p.flying(t) >= p.slots()+int(t) || t == bulk && p.alone {
			continue
		}
		small := t == bulk && p.pace.due(now) && q.lanes[0].isSmall()
		if small && p.flying(bulk) > 0 {
			continue // until that has landed
		}
		if d := p.ready(t, q, now); d > 0 {
			wait = min(wait, d)
			continue
		}
		return p.board(t, q, small, now), 0
	}
	return nil, wait
}

// flying counts the Sends under way of a turn and of those below it. p.mu is
// held.
func (p *Pump) flying(t turn) (n int) {
	for u := bulk; u <= t; u++ {
		n += p.lines[u].flying
	}
	return n
}

// slots is how many Sends of bulk may be under way. p.mu is held.
func (p *Pump) slots() int {
	if float64(p.pace.limit)*min(p.meter.perPayload(), 1) < shareAbove {
		return slowSends
	}
	return sends
}

// ready is how long a line has to wait: for other lanes, whose linger ends at
// the same moment, and for the bandwidth caps. p.mu is held.
func (p *Pump) ready(t turn, q *line, now time.Time) time.Duration {
	if wait := q.since.Add(min(gather, p.linger)).Sub(now); wait > 0 && q.weight() < shareAbove && len(q.lanes) < q.known {
		return wait
	}
	if t == alarms {
		return 0
	}
	for _, c := range p.caps {
		if wait := c.ask(p, p.last, now); wait > 0 {
			p.capped = now
			return wait
		}
	}
	return 0
}

func (q *line) weight() (n int) {
	for _, l := range q.lanes {
		n += l.weight
	}
	return n
}

// isSmall reports whether the lane's batch is as small as it can be: how long
// its Send takes is the way there and back. p.mu is held.
func (l *laneRun) isSmall() bool {
	return l.weight <= 4*leastSend || len(l.batch.Recs) == 1
}

// board makes a Send of the lanes at the front of a line, or of the first
// alone. p.mu is held.
func (p *Pump) board(t turn, q *line, alone bool, now time.Time) *flight {
	most, limit := min(len(q.lanes), maxLanes), p.sendLimit()
	if alone {
		most, p.alone = 1, true
	}
	if q.weight() > shareAbove && q.flying+1 < p.slots() {
		most = min(most, (len(q.lanes)+1)/2)
	}
	f := &flight{turn: t, alone: alone}
	n := 0
	for n < most && (n == 0 || f.size+q.lanes[n].weight <= limit) {
		f.size += q.lanes[n].weight
		q.lanes[n].taken = true
		n++
	}
	f.lanes = append(f.lanes, q.lanes[:n]...)
	q.lanes = append(q.lanes[:0], q.lanes[n:]...)
	q.since = now
	q.flying++
	f.charged = int(float64(f.size) * p.meter.perPayload())
	for _, c := range p.caps {
		c.charge(f.charged, now)
	}
	return f
}

// sendLimit is how many bytes of keys and data one Send may have: what the
// link, or the bandwidth cap, passes in about half a second, so that what is
// more urgent never waits long behind it. p.mu is held.
func (p *Pump) sendLimit() int {
	limit := p.pace.limit
	for _, c := range p.caps {
		if rate := c.Rate(); rate > 0 {
			limit = int(min(float64(limit), float64(rate)*occupy.Seconds()/p.meter.perPayload()))
		}
	}
	return max(limit, leastSend)
}

// share is how many bytes a lane may put into its next batch: on a link that
// bounds what a Send has, the lanes of a turn share it.
func (p *Pump) share(t turn) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pace.fixed && len(p.caps) == 0 {
		return p.hold
	}
	limit := p.sendLimit()
	if limit >= maxSend && (!p.spreads || t != bulk) {
		return limit
	}
	if t == bulk && p.pace.due(time.Now()) {
		return leastSend
	}
	slots := p.slots()
	each := max((p.lines[t].busy+slots-1)/slots, 1) // lanes in a Send
	return min(limit, max(limit/each, minWindow))
}

// enqueue offers the lane's batch to the next Send.
func (p *Pump) enqueue(l *laneRun, b lane.Batch, weight int) {
	p.mu.Lock()
	l.batch, l.weight, l.taken = b, weight, false
	q := &p.lines[l.turn]
	if len(q.lanes) == 0 {
		q.since = time.Now()
	}
	q.lanes = append(q.lanes, l)
	p.mu.Unlock()
	p.poke()
}

// withdraw takes the lane's batch back; false if a Send has it.
func (p *Pump) withdraw(l *laneRun) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.taken {
		return false
	}
	q := &p.lines[l.turn]
	for i, o := range q.lanes {
		if o == l {
			q.lanes = append(q.lanes[:i], q.lanes[i+1:]...)
			break
		}
	}
	return true
}

var errOutcomes = errors.New("the sink did not answer for every lane")

// send is one Send and the news of it to its lanes.
func (p *Pump) send(ctx context.Context, f *flight) {
	batches := make([]lane.Batch, len(f.lanes))
	for i, l := range f.lanes {
		batches[i] = l.batch
	}
	begin := time.Now()
	out := p.sink.Send(ctx, batches)
	if len(out) != len(f.lanes) {
		out = make([]lane.Outcome, len(f.lanes))
		for i := range out {
			out[i] = lane.Outcome{Class: lane.Ambiguous, Err: errOutcomes}
		}
	}
	for i := range out {
		n := len(batches[i].Recs)
		out[i].Done = min(max(out[i].Done, 0), n)
		out[i].Left = min(max(out[i].Left, 0), out[i].Done)
		if out[i].Class == lane.OK && out[i].Done < n {
			out[i].Class = lane.Transient
		}
	}
	p.mu.Lock()
	p.lines[f.turn].flying--
	now := time.Now()
	p.judge(out, now)
	p.landed(f, out, now.Sub(begin), now)
	p.mu.Unlock()
	for i, l := range f.lanes {
		l.answer <- out[i]
	}
	p.poke()
}

// landed learns from a Send how fast the link is, and squares what it was
// charged with what it took. p.mu is held.
func (p *Pump) landed(f *flight, out []lane.Outcome, took time.Duration, now time.Time) {
	wire, whole := 0, true
	for i := range out {
		wire += max(out[i].Bytes, 0)
		whole = whole && out[i].Class == lane.OK
	}
	if f.alone {
		p.alone = false
		p.pace.alone(took, whole, now)
	} else {
		p.pace.took(f.size, took, whole)
	}
	if whole && wire > 0 {
		p.meter.weigh(f.size, wire)
	}
	if wire == 0 && whole {
		wire = f.charged // a sink that does not tell
	}
	for _, c := range p.caps {
		c.charge(wire-f.charged, now)
	}
}
