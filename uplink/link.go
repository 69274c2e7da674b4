package uplink

import (
	"context"
	"errors"
	"time"

	"forebay/uplink/lane"
)

// The states of an uplink, as the API shows them.
const (
	StateUp         = "up"
	StateConnecting = "connecting"
	StateDown       = "down"
	StateThrottled  = "throttled"
	StatePaused     = "paused"
)

// link is what is known of the way to the target as a whole. While retryAt
// lies ahead or probe is set, nothing is sent.
type link struct {
	state   string // up, connecting, down
	fails   int    // connects in a row that failed
	class   lane.Class
	err     error
	retryAt time.Time
	probe   bool // ask the target first
	proven  bool // records got through since it was lost last
	heard   time.Time
	backoff backoff
}

// judge draws from the outcomes of a Send what they say about the link. p.mu
// is held.
func (p *Pump) judge(out []lane.Outcome, now time.Time) {
	var silent, offline *lane.Outcome
	answered := false
	for i := range out {
		o := &out[i]
		p.meter.sent(o)
		switch {
		case o.Done > 0, o.Class == lane.OK:
			p.link.backoff.reset()
			answered, p.link.proven = true, true
		case o.Class == lane.Offline:
			offline = o
		case o.Class == lane.Ambiguous:
			silent = o
		default:
			answered = true
		}
	}
	switch {
	case answered:
		p.reached(now)
	case offline != nil:
		p.failed(offline.Class, offline.Err, offline.RetryAfter, now)
	case silent != nil:
		// Its lanes pause for themselves; a second one in a row says that the
		// link swallows what we send.
		if p.link.fails > 0 {
			p.failed(silent.Class, silent.Err, silent.RetryAfter, now)
		} else {
			p.link.fails++
		}
	}
	p.refresh(now)
}

// reached notes that the target has answered, and ends the pauses that were
// made because it did not. p.mu is held.
func (p *Pump) reached(now time.Time) {
	was := p.link.state
	p.link.state, p.link.fails, p.link.class, p.link.err = StateUp, 0, lane.OK, nil
	p.link.retryAt, p.link.heard = time.Time{}, now
	if was != StateUp {
		p.pace.begin()
		p.wakeLanes(lane.OK)
	}
}

// failed notes that the target was not reached. p.mu is held.
func (p *Pump) failed(class lane.Class, err error, after time.Duration, now time.Time) {
	p.link.fails++
	p.link.class, p.link.err, p.link.proven = class, err, false
	pause := max(p.link.backoff.next(retryBase, p.retryMax), min(after, p.retryMax))
	p.link.retryAt = now.Add(pause)
	if p.link.fails < 2 {
		p.link.state = StateConnecting
		return
	}
	p.link.state = StateDown
	_, p.link.probe = p.sink.(Prober)
}

// probe asks the target whether it is there.
func (p *Pump) probe(ctx context.Context) {
	pctx, cancel := context.WithTimeout(ctx, probeTime)
	err := p.sink.(Prober).Probe(pctx)
	cancel()
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch c := classOf(err); c {
	case lane.OK:
		p.link.probe = false
		p.reached(now)
	case lane.Offline, lane.Ambiguous, lane.Transient:
		if c == lane.Ambiguous {
			c = lane.Offline // it holds no record that could have been taken
		}
		p.failed(c, err, 0, now)
		// The first failure at the start is followed by a second probe: there
		// is no reason to send records into it.
		p.link.probe = true
	default:
		// It is there, and not content with us. What that means for records
		// only sending them can tell; until then it is worth showing.
		p.link.probe = false
		p.reached(now)
		p.link.class, p.link.err = c, err
	}
	p.refresh(now)
}

func classOf(err error) lane.Class {
	if err == nil {
		return lane.OK
	}
	var c interface{ LaneClass() lane.Class }
	if errors.As(err, &c) {
		return c.LaneClass()
	}
	return lane.Offline
}

// shown is the uplink's state as operators see it: the link's, or what the
// lanes make of it.
type shown struct {
	state   string
	since   time.Time
	class   lane.Class
	err     error
	retryAt time.Time
}

const (
	// stuck is for how long a failing lane must not have moved to count as
	// down, where it may help itself; calm is for how long one that has nothing
	// to send counts as well.
	stuck = 10 * time.Second
	calm  = time.Minute
)

// refresh draws the shown state anew and logs a change. p.mu is held.
func (p *Pump) refresh(now time.Time) {
	s := shown{state: p.link.state, class: p.link.class, err: p.link.err, retryAt: p.link.retryAt}
	if p.paused {
		s = shown{state: StatePaused}
	}
	if s.state == StateUp {
		p.look(&s, now)
	}
	// A target that answers a probe has not taken a record yet: behind a captive
	// portal the two differ. What was down stays it until one got through.
	if p.shown.state == StateDown && (s.state == StateConnecting || s.state == StateUp && !p.link.proven && p.waits()) {
		s.state = StateDown
		if s.err == nil {
			s.class, s.err, s.retryAt = p.shown.class, p.shown.err, p.shown.retryAt
		}
	}
	s.since = p.shown.since
	if s.state != p.shown.state {
		s.since = now
		if s.err != nil && s.state != StateUp { // of one that is up it is of before
			p.log.Warn("uplink state", "state", s.state, "class", s.class.String(), "error", s.err)
		} else {
			p.log.Info("uplink state", "state", s.state)
		}
	}
	p.shown = s
}

// look adds to the state of a link that is up what its lanes make of it. p.mu
// is held.
func (p *Pump) look(s *shown, now time.Time) {
	failing, throttled := 0, 0
	var slow *laneRun // the throttled lane that is tried next
	begin := now      // of the first failure that lasts
	if s.err != nil {
		failing, begin = 1, time.Time{} // a probe's, which may judge too harshly
	}
	for _, l := range p.lanes {
		if l.ended || !l.busy || l.class == lane.OK {
			continue
		}
		switch {
		case l.class == lane.Throttled:
			throttled++
			if slow == nil || l.retryAt.Before(slow.retryAt) {
				slow = l
			}
		case l.fails(now):
			failing++
			if l.failed.Before(begin) {
				begin = l.failed
			}
		}
		// The worst error is the one to show, of equals the one that is
		// tried next.
		if s.err == nil || rank(l.class) > rank(s.class) ||
			(l.class == s.class && l.retryAt.Before(s.retryAt)) {
			s.class, s.err, s.retryAt = l.class, l.err, l.retryAt
		}
	}
	switch {
	case failing > 0 && throttled == 0 && !p.takes(begin, now):
		s.state = StateDown
	case throttled > 0:
		s.state = StateThrottled
		if rank(s.class) <= rank(lane.Offline) { // what passes by itself is not why
			s.class, s.err, s.retryAt = slow.class, slow.err, slow.retryAt
		}
	}
}

// fails reports whether the lane's failure is one that does not pass by
// itself. p.mu is held.
func (l *laneRun) fails(now time.Time) bool {
	return l.class == lane.Auth || l.class == lane.Misconfigured || l.class == lane.ClockSkew && l.skewed || now.Sub(l.moved) > stuck
}

// takes reports whether the target has taken something of another lane since
// others began to fail; what it took before says nothing. p.mu is held.
func (p *Pump) takes(begin, now time.Time) bool {
	for _, l := range p.lanes {
		bad := l.busy && l.class != lane.OK && l.fails(now)
		if !l.ended && !bad && l.acked.After(begin) && (l.busy || now.Sub(l.acked) < calm) {
			return true
		}
	}
	return false
}

// waits reports whether any lane has records. p.mu is held.
func (p *Pump) waits() bool {
	for t := range p.lines {
		if p.lines[t].busy > 0 {
			return true
		}
	}
	return false
}

// rank orders the classes by how much an operator has to know of them.
func rank(c lane.Class) int {
	switch c {
	case lane.Misconfigured:
		return 6
	case lane.Auth:
		return 5
	case lane.ClockSkew:
		return 4
	case lane.Ambiguous, lane.Transient, lane.Offline:
		return 3
	case lane.Poison:
		return 2
	case lane.Throttled:
		return 1
	}
	return 0
}
