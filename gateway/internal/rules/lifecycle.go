package rules

import (
	"maps"
	"time"
)

// A verdict is what a record says about an alarm.
type verdict uint8

const (
	hold   verdict = iota // neither: within the hysteresis
	holds                 // the condition holds
	clears                // the clearing condition holds
)

// delay is how long the instance's phase lasts, if one runs.
func (in *instance) delay() (time.Duration, bool) {
	switch {
	case in.dead:
		return in.rule.noData, !in.Active()
	case in.Phase == rising:
		return in.rule.on, true
	case in.Phase == falling:
		return in.rule.off, true
	}
	return 0, false
}

// expire ends a delay that has passed by the given arrival time. What it does
// carries the instant at which the delay ended.
func (e *Engine) expire(in *instance, arrived time.Time) {
	d, ok := in.delay()
	if !ok || in.Since.IsZero() || arrived.Sub(in.Since) < d {
		return
	}
	end := in.Since.Add(d)
	switch {
	case in.dead:
		in.NextText = in.rule.id + ": no data from " + in.Key + " for " + d.String()
		e.raise(in, end)
	case in.Phase == rising:
		if !in.SinceAt.IsZero() {
			end = in.SinceAt.Add(d)
		}
		e.raise(in, end)
	default:
		if !in.SinceAt.IsZero() {
			end = in.SinceAt.Add(d)
		}
		e.clear(in, end)
	}
}

// drive moves an instance by a verdict. describe is called when the record's
// value and text are wanted.
func (e *Engine) drive(in *instance, v verdict, m moment, describe func()) {
	var on, off time.Duration
	if in.rule != nil {
		on, off = in.rule.on, in.rule.off
	}
	switch active := in.Active(); {
	case !active && v == holds:
		describe()
		if in.run(rising, on, m) {
			e.raise(in, m.shown())
			return
		}
		e.timed[in] = struct{}{}
		e.touch(in)
	case active && v == clears:
		if in.run(falling, off, m) {
			e.clear(in, m.shown())
			return
		}
		e.timed[in] = struct{}{}
		e.touch(in)
	case in.Phase != steady:
		// What was on its way is not so any more.
		e.settle(in)
		e.touch(in)
		if !active && in.Transition == e.start(in.Rule) {
			e.remove(in) // it never was an alarm
		} else if !active && in.State == StateNormal {
			e.rest(in)
		}
	}
}

// run starts a phase, or reports that its delay has passed by the sender's own
// clock. (By arrival it was looked at before.)
func (in *instance) run(p phase, delay time.Duration, m moment) bool {
	if delay <= 0 {
		return true
	}
	if in.Phase != p {
		in.Phase, in.Since, in.SinceAt = p, m.arrived, m.at
		return false
	}
	return !in.SinceAt.IsZero() && !m.at.IsZero() && m.at.Sub(in.SinceAt) >= delay
}

func (e *Engine) settle(in *instance) {
	in.Phase = steady
	if !in.dead {
		in.Since, in.SinceAt = time.Time{}, time.Time{}
		delete(e.timed, in)
	}
}

func (in *instance) say() {
	in.Text, in.Value, in.Unit = in.NextText, in.NextValue, in.NextUnit
	in.NextText, in.NextValue, in.NextUnit = "", nil, ""
}

func (e *Engine) raise(in *instance, at time.Time) {
	if in.State == StateNormal {
		in.Occ = in.Transition + 1
		in.AckedBy, in.Note = "", ""
	}
	in.State = StateUnacked
	if in.rule != nil {
		in.Severity = in.rule.severity
		if !in.rule.ack {
			in.State = StateAcked
		}
	}
	in.idle++ // no longer
	in.Raised = at
	in.say()
	e.settle(in)
	e.emit(in, EventRaised, at)
}

func (e *Engine) clear(in *instance, at time.Time) {
	if in.State == StateUnacked {
		in.State = StateRTNUnacked
	} else {
		in.State = StateNormal
	}
	e.settle(in)
	e.emit(in, EventCleared, at)
}

// emit makes a transition of what was changed.
func (e *Engine) emit(in *instance, event string, at time.Time) {
	in.Transition++
	in.Event, in.Changed = event, at
	e.counts.Changes++
	e.out = append(e.out, in.alarm())
	e.touch(in)
	if in.State == StateNormal && in.Phase == steady {
		e.rest(in)
	}
}

func (e *Engine) touch(in *instance) { e.changed[in] = struct{}{} }

// start is where the transitions of a new instance are counted from.
func (e *Engine) start(rule string) uint64 { return max(e.first[allRules], e.first[rule]) }

// countFrom makes the transitions of a rule's new instances begin behind n.
func (e *Engine) countFrom(rule string, n uint64) {
	if have, ok := e.first[rule]; !ok || n > have {
		e.first[rule] = n
		e.moved[rule] = struct{}{}
	}
}

func (e *Engine) create(r *compiled, rule, key string) *instance {
	if len(e.insts) >= e.limit && !e.evict() {
		return nil
	}
	in := &instance{rule: r}
	in.Rule, in.Key, in.State = rule, key, StateNormal
	in.Transition = e.start(rule)
	if r != nil {
		in.Print, in.Severity = r.print, r.severity
		if rule == r.id {
			r.live++
		}
	}
	e.insts[stateKey{rule, key}] = in
	delete(e.gone, stateKey{rule, key})
	return in
}

// rest notes that an instance is normal and may make room for another.
func (e *Engine) rest(in *instance) {
	if in.dead {
		return
	}
	in.idle++
	e.idle = append(e.idle, idleEntry{in, in.idle})
	if len(e.idle) > 2*e.limit+64 {
		kept := e.idle[:0]
		for _, x := range e.idle {
			if x.usable() {
				kept = append(kept, x)
			}
		}
		clear(e.idle[len(kept):])
		e.idle = kept
	}
}

func (x idleEntry) usable() bool {
	return x.in.idle == x.n && !x.in.freed && x.in.State == StateNormal && x.in.Phase == steady
}

// evict removes the instance that has been normal the longest. Its number of
// transitions goes on in the rule's, so that none is given twice.
func (e *Engine) evict() bool {
	for len(e.idle) > 0 {
		x := e.idle[0]
		e.idle = e.idle[1:]
		if x.usable() {
			e.countFrom(x.in.Rule, x.in.Transition)
			e.remove(x.in)
			return true
		}
	}
	return false
}

func (e *Engine) remove(in *instance) {
	k := stateKey{in.Rule, in.Key}
	in.freed = true
	delete(e.insts, k)
	delete(e.timed, in)
	delete(e.changed, in)
	e.gone[k] = struct{}{}
	if in.rule != nil && in.Rule == in.rule.id {
		in.rule.live--
	}
}

// restore takes the stored states back. Alarms whose rule is gone or means
// something else now are closed; the transitions are returned.
func (e *Engine) restore(states []state, first map[string]uint64, at time.Time, keepSystem func(key string) bool) []Alarm {
	e.out = nil
	maps.Copy(e.first, first)
	byName := map[string]*compiled{}
	for _, r := range e.rules {
		byName[r.id] = r
		if r.noData > 0 {
			byName[r.noDataID] = r
		}
	}
	for _, s := range states {
		in := &instance{state: s, rule: byName[s.Rule]}
		event := ""
		switch {
		case s.Rule == SystemRule:
			if keepSystem != nil && !keepSystem(s.Key) {
				event = EventRuleRemoved
			}
		case in.rule == nil:
			event = EventRuleRemoved
		case in.rule.print != s.Print:
			event = EventRuleChanged
		}
		k := stateKey{s.Rule, s.Key}
		e.insts[k] = in
		if in.rule != nil {
			in.dead = s.Rule == in.rule.noDataID
			if !in.dead {
				in.rule.live++
			}
		}
		if event != "" {
			e.close(in, event, at)
			continue
		}
		if in.rule != nil {
			in.Severity = in.rule.severity
		}
		switch {
		case in.dead:
			in.Since = time.Time{}
			e.timed[in] = struct{}{}
		case in.Phase != steady:
			e.timed[in] = struct{}{}
		case in.State == StateNormal:
			e.rest(in)
		}
	}
	return e.take()
}

// close ends an instance whose rule is not what it was.
func (e *Engine) close(in *instance, event string, at time.Time) {
	in.Phase = steady
	if in.State != StateNormal {
		in.State = StateNormal
		e.emit(in, event, at)
	}
	e.countFrom(in.Rule, in.Transition)
	e.remove(in)
}
