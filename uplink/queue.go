package uplink

import (
	"context"
	"errors"
	"time"

	"forebay/uplink/lane"
)

// take takes lanes off the queue for one Send; none, and how long to wait,
// where there is nothing to do now. p.mu is held.
func (p *Pump) take(now time.Time) ([]*laneRun, time.Duration) {
	if len(p.queue) == 0 || p.inFlight >= sends {
		return nil, time.Hour // until something is queued or done
	}
	total := 0
	for _, l := range p.queue {
		total += l.weight
	}
	if wait := p.queued.Add(min(gather, p.linger)).Sub(now); wait > 0 && total < shareAbove && len(p.queue) < len(p.lanes) {
		return nil, wait
	}
	most := min(len(p.queue), maxLanes)
	if total > shareAbove && p.inFlight+1 < sends {
		most = min(most, (len(p.queue)+1)/2)
	}
	n, size := 0, 0
	for n < most && (n == 0 || size+p.queue[n].weight <= maxSend) {
		size += p.queue[n].weight
		p.queue[n].taken = true
		n++
	}
	batch := append([]*laneRun(nil), p.queue[:n]...)
	p.queue = append(p.queue[:0], p.queue[n:]...)
	p.inFlight++
	return batch, 0
}

// enqueue offers the lane's batch to the next Send.
func (p *Pump) enqueue(l *laneRun, b lane.Batch, weight int) {
	p.mu.Lock()
	l.batch, l.weight, l.taken = b, weight, false
	if len(p.queue) == 0 {
		p.queued = time.Now()
	}
	p.queue = append(p.queue, l)
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
	for i, q := range p.queue {
		if q == l {
			p.queue = append(p.queue[:i], p.queue[i+1:]...)
			break
		}
	}
	return true
}

var errOutcomes = errors.New("the sink did not answer for every lane")

// send is one Send and the news of it to its lanes.
func (p *Pump) send(ctx context.Context, lanes []*laneRun) {
	batches := make([]lane.Batch, len(lanes))
	for i, l := range lanes {
		batches[i] = l.batch
	}
	out := p.sink.Send(ctx, batches)
	if len(out) != len(lanes) {
		out = make([]lane.Outcome, len(lanes))
		for i := range out {
			out[i] = lane.Outcome{Class: lane.Ambiguous, Err: errOutcomes}
		}
	}
	for i := range out {
		n := len(batches[i].Recs)
		out[i].Done = min(max(out[i].Done, 0), n)
		if out[i].Class == lane.OK && out[i].Done < n {
			out[i].Class = lane.Transient
		}
	}
	p.mu.Lock()
	p.inFlight--
	p.judge(out, time.Now())
	p.mu.Unlock()
	for i, l := range lanes {
		l.answer <- out[i]
	}
	p.poke()
}
