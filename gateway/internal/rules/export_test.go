package rules

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

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
