package uplink

import (
	"math"
	"time"

	"forebay/uplink/lane"
)

// meter counts, and once a second turns counts into rates.
type meter struct {
	use     Usage
	passed  uint64 // records: acknowledged, filtered and refused
	refused uint64
	retries uint64

	at    time.Time // of the last sample
	last  Usage
	out   rate    // now
	drain rate    // the last time it moved
	peak  float64 // records a second, the most while no cap held a backlog back; 0: never seen
	ratio float64 // bytes on the wire for a byte of key and data; 0: not known

	marks []mark // a second apart, since the link came up or a cap changed
	limit int    // in kilobits a second, at the last of them

	settles time.Time // what was sent under another limit is paid for by then

	hour, day past
}

type rate struct{ records, bytes float64 }

// A mark is what had passed and what waited at a moment.
type mark struct {
	at              time.Time
	passed, waiting uint64
}

func newMeter() meter {
	return meter{hour: past{step: time.Minute, most: 60}, day: past{step: time.Hour, most: 24}}
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

// sent counts what an outcome tells.
func (m *meter) sent(o *lane.Outcome) {
	m.use.WireBytes += uint64(max(o.Bytes, 0))
	if o.Plain > 0 {
		m.use.PlainWire += uint64(o.Plain)
	} else {
		m.use.PlainWire += uint64(max(o.Bytes, 0))
	}
	m.use.Requests += uint64(max(o.Requests, 0))
	m.use.Units += uint64(max(o.Units, 0))
	m.use.BilledBytes += uint64(max(o.Billed, 0))
}

func (p *Pump) count(f func(*meter)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.meter)
}

const (
	// smooth is the time constant of the rates that are shown.
	smooth = 5 * time.Second
	// maxMarks is how far back, in seconds, the ETA may look, and minMarks how
	// far it has to.
	maxMarks, minMarks = 300, 10
	settling           = 10 * time.Second
)

// sample is called about once a second.
func (p *Pump) sample(now time.Time) {
	held, filtered := p.heldBack(), p.filtered()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	m := &p.meter
	if dt := now.Sub(m.at).Seconds(); !m.at.IsZero() && dt > 0 {
		w := 1 - math.Exp(-dt/smooth.Seconds())
		records := float64(m.use.Records-m.last.Records) / dt
		bytes := float64(m.use.PayloadBytes-m.last.PayloadBytes) / dt
		m.out.records += w * (records - m.out.records)
		m.out.bytes += w * (bytes - m.out.bytes)
		if records > 0 {
			if m.drain.records == 0 {
				m.drain = rate{records, bytes}
			}
			m.drain.records += w * (records - m.drain.records)
			m.drain.bytes += w * (bytes - m.drain.bytes)
		}
	}
	p.refresh(now)
	m.at, m.last = now, m.use
	r := p.reading(filtered)
	m.hour.note(now, r)
	m.day.note(now, r)
	p.mark(now, filtered)
}

// reading is what stands now. filtered is what the Log has left out itself.
// p.mu is held.
func (p *Pump) reading(filtered uint64) reading {
	return reading{use: p.meter.use, passed: p.meter.passed + filtered, waiting: p.backlog().Records}
}

// mark notes how far the drain is. What went before the link came up, or
// before a cap changed, says nothing about what comes. filtered is what the Log
// has left out itself. p.mu is held.
func (p *Pump) mark(now time.Time, filtered uint64) {
	m, limit := &p.meter, p.limit()
	switch p.shown.state {
	case StateUp, StateThrottled:
	default:
		m.marks = m.marks[:0]
		return
	}
	if limit != m.limit {
		m.marks, m.limit, m.settles = m.marks[:0], limit, now.Add(settling)
	}
	if now.Before(m.settles) {
		return
	}
	if len(m.marks) > maxMarks {
		m.marks = append(m.marks[:0], m.marks[1:]...)
	}
	m.marks = append(m.marks, mark{now, m.passed + filtered, p.backlog().Records})
	if n := len(m.marks); n > minMarks && !p.isCapped(now) {
		a, b := m.marks[n-1-minMarks], m.marks[n-1]
		if r := float64(b.passed-a.passed) / b.at.Sub(a.at).Seconds(); float64(b.waiting) > 2*r {
			m.peak = max(m.peak, r) // where less waits it is the arrivals that bound it
		}
	}
}
