package uplink

import "time"

// horizon is the longest ETA that is told. The schedule of the caps is looked
// at in steps of a minute on the first day, and of five after it. lookBack is
// how far the flows are looked at for a short ETA: arrivals come in gusts.
const (
	lookBack = time.Minute
	horizon  = 14 * 24 * time.Hour
	coarse   = 5 * time.Minute
)

// flows are the records a second that pass and that arrive, over the last
// time; false while that is not known.
func (m *meter) flows(over time.Duration) (pass, arrive float64, ok bool) {
	n := len(m.marks)
	if n <= minMarks {
		return 0, 0, false
	}
	last := m.marks[n-1]
	i := 0
	for i < n-1-minMarks && last.at.Sub(m.marks[i].at) > over {
		i++
	}
	first := m.marks[i]
	dt := last.at.Sub(first.at).Seconds()
	pass = float64(last.passed-first.passed) / dt
	// What came in is what went out and what now waits more.
	arrive = max(pass+(float64(last.waiting)-float64(first.waiting))/dt, 0)
	return pass, arrive, true
}

// eta is how long it takes until nothing waits, at what passes less what
// arrives. The longer it takes, the further it looks back; where the caps have
// a schedule, it goes through that. false while it does not come nearer.
// p.mu is held.
func (p *Pump) eta(waiting uint64, now time.Time) (time.Duration, bool) {
	if waiting == 0 {
		return 0, true
	}
	switch p.shown.state {
	case StateUp, StateThrottled:
	default:
		return 0, false
	}
	m := &p.meter
	pass, arrive, ok := m.flows(lookBack)
	if !ok || pass <= 0 {
		return 0, false
	}
	// A backlog of less than two seconds is how a pump looks that keeps up:
	// what it drains is what arrives.
	if s := float64(waiting) / pass; s < 2 {
		return seconds(s), true
	}
	for range 2 {
		back := time.Duration(maxMarks) * time.Second
		if net := pass - arrive; net > 0 {
			back = min(back, max(seconds(min(float64(waiting)/net/2, maxMarks)), lookBack))
		}
		pass, arrive, _ = m.flows(back)
	}
	return p.forecast(float64(waiting), pass, arrive, now)
}

// forecast goes through the time to come. p.mu is held.
func (p *Pump) forecast(waiting, pass, arrive float64, now time.Time) (time.Duration, bool) {
	scheduled := false
	for _, c := range p.caps {
		scheduled = scheduled || len(c.plan.hours) > 0
	}
	if !scheduled {
		if pass <= arrive {
			return 0, false
		}
		s := waiting / (pass - arrive)
		return seconds(min(s, horizon.Seconds())), s < horizon.Seconds()
	}
	// free is what passes without a cap; where that was never seen, as much as
	// the caps let through. weight is what a record weighs on the wire.
	free, weight := pass, 0.0
	if r := p.meter.use.Records; r > 0 {
		weight = float64(p.meter.use.WireBytes) / float64(r)
	}
	if limit := p.limit(); limit > 0 && p.isCapped(now) {
		weight = float64(limit) * 125 / pass
		if free = max(pass, p.meter.peak); p.meter.peak == 0 {
			free = float64(p.widest()) * 125 / weight
		}
	}
	var at time.Duration
	for at < horizon {
		step := time.Minute
		if at >= 24*time.Hour {
			step = coarse
		}
		rate := free
		for _, c := range p.caps {
			wall := c.wall().Add(at)
			if kbit := c.plan.at(wall); kbit > 0 && weight > 0 {
				rate = min(rate, float64(kbit)*125/weight)
			}
			step = min(step, wall.Truncate(step).Add(step).Sub(wall)) // entries change on the minute
		}
		net := rate - arrive
		if net*step.Seconds() >= waiting {
			return at + seconds(waiting/net), true
		}
		waiting -= net * step.Seconds()
		at += step
	}
	return 0, false
}

// widest is the largest limit that any cap's plan has, in kilobits a second.
func (p *Pump) widest() int {
	most := 0
	for _, c := range p.caps {
		most = max(most, c.plan.kbit)
		for _, h := range c.plan.hours {
			most = max(most, h.kbit)
		}
	}
	return most
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
