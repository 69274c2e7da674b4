package uplink

import (
	"math"
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
	Refused   uint64
	Retries   uint64 // batches that had to be sent again, or a part of them
	WireBytes uint64 // sent, headers not counted

	ClockOffset time.Duration // how far the target's clock is ahead; 0 where unknown
}

// Status may be called at any time, also before Run and after it.
func (p *Pump) Status() Status {
	s := Status{ID: string(p.cfg.ID), Kind: p.cfg.Kind(), Target: p.cfg.Target()}
	if c, ok := p.sink.(interface{ ClockOffset() time.Duration }); ok {
		s.ClockOffset = c.ClockOffset()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.State, s.Since, s.RetryAt = p.shown.state, p.shown.since, p.shown.retryAt
	if p.shown.err != nil {
		s.Error, s.Class = p.shown.err.Error(), p.shown.class.String()
		s.Advice = advice(p.shown.class, s.ID, p.retryMax)
	}
	s.LimitKbit = p.limit()
	s.Capped = s.LimitKbit > 0 && !p.capped.IsZero() && time.Since(p.capped) < cappedFor
	s.Waiting = p.backlog()
	for _, l := range p.lanes {
		if !l.ended {
			s.Lanes++
		}
	}
	m := &p.meter
	s.OutRecords, s.OutBytes, s.Drain = m.out.records, m.out.bytes, m.drain.bytes
	s.Delivered, s.Bytes, s.Refused, s.Retries, s.WireBytes = m.delivered, m.bytes, m.refused, m.retries, m.wire
	s.ETA, s.ETAKnown = m.eta(s.Waiting.Records, s.State)
	return s
}

// cappedFor is for how long after a batch had to wait a pump counts as capped.
const cappedFor = 3 * time.Second

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

// meter counts, and once a second turns counts into rates.
type meter struct {
	delivered, refused, retries, wire, bytes uint64

	at       time.Time // of the last sample
	last     [3]uint64 // delivered, passed (with refused), bytes
	waited   uint64
	out      rate // now
	drain    rate // the last time it moved
	arrivals float64
	ratio    float64 // bytes on the wire for a byte of key and data; 0: not known
}

// firstRatio is taken for granted until the first Send.
const firstRatio = 1.5

func (m *meter) perPayload() float64 {
	if m.ratio == 0 {
		return firstRatio
	}
	return m.ratio
}

// weigh learns from a Send what size bytes of keys and data weigh on the wire.
func (m *meter) weigh(size, wire int) {
	r := float64(wire) / float64(max(size, 1))
	if m.ratio == 0 {
		m.ratio = r
	}
	// Small ones say little.
	m.ratio += min(0.2, float64(size)/float64(firstSend)) * (r - m.ratio)
}

type rate struct{ records, bytes float64 }

func (p *Pump) count(f func(*meter)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.meter)
}

// smooth is the time constant of the rates.
const smooth = 5 * time.Second

// sample is called about once a second.
func (p *Pump) sample(now time.Time) {
	held := p.heldBack()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	m := &p.meter
	waiting := p.backlog().Records
	passed := m.delivered + m.refused
	if dt := now.Sub(m.at).Seconds(); !m.at.IsZero() && dt > 0 {
		w := 1 - math.Exp(-dt/smooth.Seconds())
		records := float64(m.delivered-m.last[0]) / dt
		bytes := float64(m.bytes-m.last[2]) / dt
		m.out.records += w * (records - m.out.records)
		m.out.bytes += w * (bytes - m.out.bytes)
		if records > 0 {
			if m.drain.records == 0 {
				m.drain = rate{records, bytes}
			}
			m.drain.records += w * (records - m.drain.records)
			m.drain.bytes += w * (bytes - m.drain.bytes)
		}
		// What came in is what went out and what now waits more. Backlogs are
		// looked at lane by lane, so a single second may seem negative.
		in := (float64(passed-m.last[1]) + float64(waiting) - float64(m.waited)) / dt
		m.arrivals = max(0, m.arrivals+w*(in-m.arrivals))
	}
	p.refresh(now)
	m.at, m.waited = now, waiting
	m.last = [3]uint64{m.delivered, passed, m.bytes}
}

// eta is how long it takes until nothing waits.
func (m *meter) eta(waiting uint64, state string) (time.Duration, bool) {
	if waiting == 0 {
		return 0, true
	}
	if state == StateDown || state == StateConnecting || state == StatePaused || m.drain.records == 0 {
		return 0, false
	}
	net := m.drain.records - m.arrivals
	// A backlog of less than two seconds is how a pump looks that keeps up:
	// what it drains is what arrives.
	if s := float64(waiting) / m.drain.records; s < 2 {
		net = m.drain.records
	}
	if s := float64(waiting) / net; net > 0 && s < 100*365*24*3600 {
		return time.Duration(s * float64(time.Second)), true
	}
	return 0, false
}
