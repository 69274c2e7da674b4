package rules

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"forebay/spool/record"
)

// Predicate compiles one expression for tests and benchmarks.
type Predicate struct {
	schema *schema
	f      boolFn
	needs  []need
	row    row
}

func NewPredicate(src string) (*Predicate, error) {
	s := newSchema()
	f, needs, err := newCompiler(s).boolean(src)
	return &Predicate{schema: s, f: f, needs: needs}, err
}

// Load decodes a payload; it reports whether the expression can be evaluated.
func (p *Predicate) Load(r *record.Record) bool {
	return p.schema.load(&p.row, "mqtt", r) && p.row.has(p.needs)
}

func (p *Predicate) Eval() bool { return p.f(&p.row) }

// Extract is what the scanner finds at dotted paths: nil where there is no
// scalar.
func Extract(data []byte, paths ...[]string) (found []any, ok bool) {
	s := newSchema()
	slots := make([]int, 0, len(paths))
	for _, p := range paths {
		slots = append(slots, s.field(p))
	}
	w := row{slots: make([]slot, len(s.names))}
	if !s.scan(&w, data) {
		return nil, false
	}
	for _, i := range slots {
		switch v := w.slots[i]; v.kind {
		case number:
			found = append(found, v.num)
		case text:
			found = append(found, string(v.str))
		case boolean:
			found = append(found, v.num != 0)
		default:
			found = append(found, nil)
		}
	}
	return found, true
}

// Restart gives the whole state of an engine to another, through JSON.
func Restart(from, to *Engine, at time.Time) ([]Alarm, error) {
	var states []state
	for _, in := range from.insts {
		b, err := json.Marshal(&in.state)
		if err != nil {
			return nil, err
		}
		var s state
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b state) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Key, b.Key))
	})
	return to.restore(states, from.first, at, nil), nil
}

// Put sets an instance of a rule into a state and phase, as if it had come
// there, and says whether a delay runs afterwards.
func (e *Engine) Put(rule, key, st, ph string, since time.Time) {
	var r *compiled
	for _, c := range e.rules {
		if c.id == rule {
			r = c
		}
	}
	in := e.create(r, rule, key)
	in.State, in.Occ, in.Transition = st, 1, 1
	if st == StateNormal {
		in.Occ, in.Transition = 0, 0
	}
	switch ph {
	case "rising":
		in.Phase = rising
	case "falling":
		in.Phase = falling
	}
	if in.Phase != steady {
		in.Since = since
		e.timed[in] = struct{}{}
	}
}

// PhaseOf is the state and phase of an instance, "" if there is none.
func (e *Engine) PhaseOf(rule, key string) string {
	in := e.insts[stateKey{rule, key}]
	if in == nil {
		return ""
	}
	return strings.TrimSpace(in.State + " " + [...]string{"", "rising", "falling"}[in.Phase])
}

// OutboxAttr is the attribute by which a transition's record is known again.
const OutboxAttr = outboxAttr
