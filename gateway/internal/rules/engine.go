package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/gateway/expr"
	"forebay/spool/record"
)

const (
	// DefaultInstances bounds how many alarms (rule and key) are kept.
	DefaultInstances = 10_000
	// keyCache bounds the partition keys whose matching rules are remembered.
	keyCache = 4096

	// maxKey bounds an alarm's key that is made of a payload's fields, and
	// maxText its text, in bytes.
	maxKey  = 256
	maxText = 2048

	// A record's own time is believed if it lies within these bounds of its
	// arrival: a device that sends what it had stored is believed, one that
	// lives in the future is not.
	maxLate   = time.Hour
	maxFuture = time.Minute
)

// An Engine is the rules and the state of their alarms. It has no clock, does
// no I/O and is not safe for concurrent use.
//
// What comes out depends on the records of each key in their order and on
// nothing else: a delay that passes between two records ends at the same
// instant whether Tick or the next record finds it.
type Engine struct {
	rules []*compiled
	plans map[string]*plan
	row   expr.Row
	out   []Alarm

	insts map[stateKey]*instance
	timed map[*instance]struct{} // those whose delay runs, and deadmen
	idle  []idleEntry            // normal ones in the order of becoming so
	first map[string]uint64      // by rule, and for all: new instances count from here
	moved map[string]struct{}    // rules whose first is not yet stored
	limit int

	changed map[*instance]struct{} // not yet stored
	gone    map[stateKey]struct{}  // not yet removed from the store
	counts  Counts
}

// Counts is what an engine did since it was made.
type Counts struct {
	Records  uint64 // looked at
	Matched  uint64 // that a rule's stream and filter took
	Unread   uint64 // matched, but the payload was neither JSON nor a number
	Lacking  uint64 // evaluations left out because a field was missing or of another kind
	Overflow uint64 // evaluations left out because the number of alarms was reached
	Changes  uint64 // transitions
}

type plan struct {
	schema *expr.Schema
	rules  []*compiled
	cache  map[string][]hit
}

type hit struct {
	rule *compiled
	key  string // the alarm key, if it follows from the partition key
	caps []string
}

type instance struct {
	state
	rule  *compiled // nil for system conditions
	dead  bool      // the rule's deadman
	idle  uint64    // how often it became idle
	freed bool
}

type idleEntry struct {
	in *instance
	n  uint64
}

// allRules is the entry of Engine.first that holds for every rule.
const allRules = ""

// A moment is the time of a record.
type moment struct {
	arrived time.Time
	at      time.Time // the sender's, zero if it has none that can be believed
}

func (m moment) shown() time.Time {
	if !m.at.IsZero() {
		return m.at
	}
	return m.arrived
}

// A RuleError says which rule cannot be loaded.
type RuleError struct {
	Rule string
	Err  error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %q: %v", e.Rule, e.Err) }
func (e *RuleError) Unwrap() error { return e.Err }

// Compile makes an engine of the rules that are not disabled. The error is a
// *RuleError.
func Compile(rules []Rule) (*Engine, error) {
	e := &Engine{
		plans: map[string]*plan{}, insts: map[stateKey]*instance{}, timed: map[*instance]struct{}{}, first: map[string]uint64{}, moved: map[string]struct{}{},
		changed: map[*instance]struct{}{}, gone: map[stateKey]struct{}{}, limit: DefaultInstances,
	}
	seen := map[string]bool{}
	for _, r := range rules {
		if seen[string(r.ID)] {
			return nil, &RuleError{string(r.ID), fmt.Errorf("id: %q is used by two rules", r.ID)}
		}
		seen[string(r.ID)] = true
		p := e.plans[r.stream()]
		if p == nil {
			p = &plan{schema: expr.NewSchema(), cache: map[string][]hit{}}
		}
		if r.Disabled {
			if err := r.Check(); err != nil {
				return nil, &RuleError{string(r.ID), err}
			}
			continue
		}
		c, err := compileRule(r, p.schema)
		if err != nil {
			return nil, &RuleError{string(r.ID), err}
		}
		c.index = len(e.rules)
		e.rules = append(e.rules, c)
		p.rules = append(p.rules, c)
		e.plans[r.stream()] = p
	}
	return e, nil
}

// Limit sets how many alarms are kept; 0 is DefaultInstances.
func (e *Engine) Limit(n int) { e.limit = cmp.Or(n, DefaultInstances) }

// Rules is how many rules are loaded.
func (e *Engine) Rules() int { return len(e.rules) }

// Instances is how many rules and keys have a state.
func (e *Engine) Instances() int { return len(e.insts) }

// Counts is what the engine did since it was made.
func (e *Engine) Counts() Counts { return e.counts }

// Streams names the streams that the rules read, sorted.
func (e *Engine) Streams() []string {
	var names []string
	for s := range e.plans {
		names = append(names, s)
	}
	slices.Sort(names)
	return names
}

// Step evaluates the rules on one record; at is the present. It returns the
// transitions, in the order of the rules. The record is not kept.
func (e *Engine) Step(at time.Time, stream string, r *record.Record) []Alarm {
	e.counts.Records++
	p := e.plans[stream]
	if p == nil {
		return nil
	}
	hits := p.lookup(r.Key)
	if len(hits) == 0 {
		return nil
	}
	e.out = nil
	e.counts.Matched++
	if !p.schema.Load(&e.row, stream, r) {
		e.counts.Unread++
	}
	m := momentOf(at, r)
	for i := range hits {
		e.evaluate(&hits[i], r.Key, m)
	}
	return e.take()
}

// take hands the transitions over.
func (e *Engine) take() []Alarm {
	out := e.out
	e.out = nil
	return out
}

func momentOf(now time.Time, r *record.Record) moment {
	m := moment{arrived: r.Arrived}
	if m.arrived.IsZero() || m.arrived.After(now.Add(maxFuture)) {
		// A record cannot come from the future: it was taken under a clock
		// that was wrong. (A zero now is a replay that trusts the log.)
		if !now.IsZero() {
			m.arrived = now
		}
	}
	m.arrived = m.arrived.UTC()
	if d := r.At.Sub(m.arrived); !r.At.IsZero() && d <= maxFuture && d >= -maxLate {
		m.at = r.At.UTC()
	}
	return m
}

func (p *plan) lookup(key string) []hit {
	hits, ok := p.cache[key]
	if ok {
		return hits
	}
	if len(p.cache) >= keyCache {
		clear(p.cache)
	}
	key = strings.Clone(key) // the record is a view
	for _, r := range p.rules {
		caps, ok := r.filter.Capture(key)
		if !ok {
			continue
		}
		h := hit{rule: r, caps: caps, key: key}
		if !r.keyIsKey && r.keyStatic {
			h.key = r.key.render(&filled{caps: caps, key: key})
		}
		hits = append(hits, h)
	}
	p.cache[key] = hits
	return hits
}

func (e *Engine) evaluate(h *hit, pkey string, m moment) {
	r, key := h.rule, h.key
	if !r.keyIsKey && !r.keyStatic {
		for _, i := range r.key.needs {
			if e.row.At(i).Kind == expr.None {
				e.counts.Lacking++
				return
			}
		}
		if key = r.key.render(&filled{w: &e.row, caps: h.caps, key: pkey}); key == "" || len(key) > maxKey {
			e.counts.Lacking++
			return
		}
	}
	if !e.row.Has(r.whenNeeds) {
		e.counts.Lacking++
		return
	}
	if r.noData > 0 {
		e.heard(r, key, m)
	}
	if r.when == nil {
		return
	}
	on := r.when(&e.row)
	if !on && r.live == 0 {
		return
	}
	in := e.insts[stateKey{r.id, key}]
	if in == nil {
		if !on {
			return
		}
		if in = e.create(r, r.id, key); in == nil {
			e.counts.Overflow++
			return
		}
	}
	e.expire(in, m.arrived)
	c := hold
	switch {
	case on:
		c = holds
	case !in.Active():
		c = clears
	case r.clear == nil:
		c = clears
	case !e.row.Has(r.clearNeeds):
		e.counts.Lacking++
		return
	case r.clear(&e.row):
		c = clears
	}
	e.drive(in, c, m, func() { e.describe(in, h, key) })
}

// describe says what the alarm will say, from the record at hand.
func (e *Engine) describe(in *instance, h *hit, key string) {
	r := h.rule
	in.NextValue, in.NextUnit = nil, r.unit
	if e.row.Has(r.valueNeeds) {
		v := r.value(&e.row)
		if v-v == 0 { // JSON has no NaN and no infinity
			in.NextValue = &v
		}
	}
	if r.unitSlot >= 0 && e.row.At(r.unitSlot).Kind == expr.Text {
		if u := e.row.At(r.unitSlot).Str; len(u) <= 64 {
			in.NextUnit = strings.ToValidUTF8(string(u), "�")
		}
	}
	in.NextText = r.text.render(&filled{w: &e.row, caps: h.caps, rule: r.id, key: key, value: in.NextValue, unit: in.NextUnit, limit: r.limit})
}

// heard notes that a key of a rule with a deadman has sent something.
func (e *Engine) heard(r *compiled, key string, m moment) {
	in := e.insts[stateKey{r.noDataID, key}]
	if in == nil {
		if in = e.create(r, r.noDataID, key); in == nil {
			e.counts.Overflow++
			return
		}
		in.dead = true
		e.timed[in] = struct{}{}
		e.touch(in) // so that the key is watched after a restart, too
	}
	e.expire(in, m.arrived)
	if in.Active() {
		e.clear(in, m.shown())
	}
	in.Since = m.arrived
}

// Tick lets the delays and deadmen end that have passed at the given time. The
// owner calls it with a time that every record before it has been stepped for.
func (e *Engine) Tick(at time.Time) []Alarm {
	e.out = nil
	var due []*instance
	for in := range e.timed {
		if in.Since.IsZero() {
			in.Since = at // a deadman restored: silence counts from now
			continue
		}
		if d, ok := in.delay(); ok && at.Sub(in.Since) >= d {
			due = append(due, in)
		}
	}
	slices.SortFunc(due, func(a, b *instance) int {
		return cmp.Or(cmp.Compare(a.rule.index, b.rule.index), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Key, b.Key))
	})
	for _, in := range due {
		e.expire(in, at)
	}
	return e.take()
}

// Timers is how many delays and deadmen run.
func (e *Engine) Timers() int { return len(e.timed) }

// Rebase moves the delays and deadmen that run by d: after a jump of the wall
// clock, or a time in which nobody looked, which does not count for them.
func (e *Engine) Rebase(d time.Duration) {
	for in := range e.timed {
		if !in.Since.IsZero() {
			in.Since = in.Since.Add(d)
			if !in.dead {
				e.touch(in)
			}
		}
	}
}

// Report moves a condition of the gateway itself.
func (e *Engine) Report(at time.Time, c Condition) []Alarm {
	e.out = nil
	in := e.insts[stateKey{SystemRule, c.key()}]
	if in == nil {
		if !c.Active {
			return nil
		}
		if in = e.create(nil, SystemRule, strings.Clone(c.key())); in == nil {
			e.counts.Overflow++
			return nil
		}
	}
	if c.Severity < 1 || c.Severity > 4 {
		c.Severity = 3
	}
	m := moment{arrived: at}
	if !c.Active {
		e.drive(in, clears, m, nil)
		return e.take()
	}
	in.NextText, in.NextValue, in.NextUnit = c.Text, c.Value, c.Unit
	was := in.Severity
	if !in.Active() {
		in.Severity = c.Severity
		e.drive(in, holds, m, func() {})
		return e.take()
	}
	in.say()
	if was == c.Severity {
		return nil
	}
	in.Severity = c.Severity
	event := EventChanged
	if c.Severity < was {
		event, in.State, in.Raised, in.AckedBy, in.Note = EventRaised, StateUnacked, at, "", ""
	}
	e.emit(in, event, at)
	return e.take()
}

// Ack acknowledges the alarms with the given ids. Unknown are those that do
// not wait for it.
func (e *Engine) Ack(ids []string, by, note string, at time.Time) (changes []Alarm, acked, unknown []string) {
	e.out = nil
	waiting := map[string]*instance{}
	for _, in := range e.insts {
		if in.Waiting() {
			waiting[in.alarm().ID] = in
		}
	}
	for _, id := range ids {
		in := waiting[id]
		if in == nil {
			unknown = append(unknown, id)
			continue
		}
		delete(waiting, id)
		in.AckedBy, in.Note = by, note
		if in.State == StateUnacked {
			in.State = StateAcked
		} else {
			in.State = StateNormal
		}
		e.emit(in, EventAcked, at)
		acked = append(acked, id)
	}
	return e.take(), acked, unknown
}

// Alarms lists what is not normal: waiting for an acknowledgement first, then
// by severity, then the newest.
func (e *Engine) Alarms() []Alarm {
	var as []Alarm
	for _, in := range e.insts {
		if in.State != StateNormal {
			as = append(as, in.alarm())
		}
	}
	sortAlarms(as)
	return as
}
