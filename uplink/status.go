package uplink

import (
	"time"

	"forebay/spool/record"
)

// Status is an uplink as operators see it.
type Status struct {
	ID, Kind, Target string
	State            string    // up, connecting, down, throttled, paused
	Since            time.Time // of the state
	Error            string    // in words; "" when nothing is wrong
	Class            string    // of the error; "" without one
	Advice           string    // what is done about it, and what a person can do; "" without one
	RetryAt          time.Time // next try; zero where none is due
	Lanes            int
	LimitKbit        int  // what the uplink may send now, in kilobits a second; 0: no limit
	Capped           bool // that limit holds batches back

	Waiting record.Backlog // not yet acknowledged, of all lanes

	OutRecords float64 // acknowledged a second, now
	OutBytes   float64 // of key and data, now
	Drain      float64 // bytes a second, the last time it moved
	// ETA is the time until nothing waits, at the drain less the arrivals;
	// ETAKnown is false while it does not come nearer.
	ETA      time.Duration
	ETAKnown bool

	// Since the start of the program.
	Delivered uint64 // records acknowledged
	Bytes     uint64 // of key and data, acknowledged
	Filtered  uint64 // records left out by the uplink's shape, where the Log counts them
	Refused   uint64
	Retries   uint64 // batches that had to be sent again, or a part of them
	WireBytes uint64 // sent, headers not counted
	Used      Usage  // what price lists count

	Cost Cost // of a month

	ClockOffset time.Duration // how far the target's clock is ahead; 0 where unknown

	// CommandsRefused counts what the far side has told the plant to do, which
	// is never done; Commands is false where the target gives no commands.
	CommandsRefused uint64
	Commands        bool
}

// Status may be called at any time, also before Run and after it.
func (p *Pump) Status() Status {
	s := Status{ID: string(p.cfg.ID), Kind: p.cfg.Kind(), Target: p.cfg.Target()}
	if c, ok := p.sink.(interface{ ClockOffset() time.Duration }); ok {
		s.ClockOffset = c.ClockOffset()
	}
	if c, ok := p.sink.(interface{ CommandsRefused() uint64 }); ok {
		s.CommandsRefused, s.Commands = c.CommandsRefused(), true
	}
	s.Filtered = p.filtered()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.State, s.Since, s.RetryAt = p.shown.state, p.shown.since, p.shown.retryAt
	if p.shown.err != nil {
		s.Error, s.Class = p.shown.err.Error(), p.shown.class.String()
		s.Advice = advice(p.shown.class, s.ID, p.retryMax)
	}
	s.LimitKbit = p.limit()
	s.Capped = s.LimitKbit > 0 && p.isCapped(time.Now())
	s.Waiting = p.backlog()
	for _, l := range p.lanes {
		if !l.ended {
			s.Lanes++
		}
	}
	m := &p.meter
	now := time.Now()
	s.OutRecords, s.OutBytes, s.Drain = m.out.records, m.out.bytes, m.drain.bytes
	s.Delivered, s.Bytes, s.Refused, s.Retries, s.WireBytes = m.use.Records, m.use.PayloadBytes, m.refused, m.retries, m.use.WireBytes
	s.Used, s.Cost = m.use, p.cost(now, s.Filtered)
	s.ETA, s.ETAKnown = p.eta(s.Waiting.Records, now)
	return s
}

// cappedFor is for how long after a batch had to wait a pump counts as capped.
const cappedFor = 3 * time.Second

// filtered is what the Log has left out since the start, where it counts that.
func (p *Pump) filtered() uint64 {
	if f, ok := p.src.(interface{ Filtered() uint64 }); ok {
		return f.Filtered()
	}
	return 0
}

// isCapped reports whether a cap holds batches back. p.mu is held.
func (p *Pump) isCapped(now time.Time) bool {
	return !p.capped.IsZero() && now.Sub(p.capped) < cappedFor
}

// limit is the least of the caps, in kilobits a second; 0: none.
func (p *Pump) limit() int {
	least := 0
	for _, c := range p.caps {
		if rate := c.Rate(); rate > 0 && (least == 0 || rate < least) {
			least = rate
		}
	}
	return least / 125
}

// backlog sums the lanes', also of those that wait for others. p.mu is held.
func (p *Pump) backlog() record.Backlog {
	sum := p.held
	for _, l := range p.lanes {
		sum.Records += l.waiting.Records
		sum.Bytes += l.waiting.Bytes
		if o := l.waiting.Oldest; !o.IsZero() && (sum.Oldest.IsZero() || o.Before(sum.Oldest)) {
			sum.Oldest = o
		}
	}
	return sum
}
