package signals

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kinds of faults.
const (
	Ramp      = "ramp"      // rises by By within the first half, stays, and decays afterwards
	Stuck     = "stuck"     // shows the same value throughout
	Spike     = "spike"     // one reading is off by By
	Dropout   = "dropout"   // reports nothing
	Duplicate = "duplicate" // reports every reading twice, with the same number
	Unplug    = "unplug"    // a serial instrument's plug is out; a Signal knows nothing of it
)

var faultKinds = []string{Ramp, Stuck, Spike, Dropout, Duplicate, Unplug}

// Fault is something that goes wrong with one point.
type Fault struct {
	Kind  string
	Point string        // device/point
	At    time.Duration // after the start of the run, in the instrument's time
	For   time.Duration // how long
	By    float64       // in the point's unit
}

// ParseFault reads KIND:DEVICE/POINT@AT+FOR[=BY], for example
// ramp:press1/temperature@20s+20s=40.
func ParseFault(s string) (Fault, error) {
	bad := func(what string) (Fault, error) {
		return Fault{}, fmt.Errorf("fault %q: %s; write KIND:DEVICE/POINT@AT+FOR[=BY], as in ramp:press1/temperature@20s+20s=40", s, what)
	}
	kind, rest, ok := strings.Cut(s, ":")
	if !ok || !slices.Contains(faultKinds, kind) {
		return bad(fmt.Sprintf("the kind is not one of %v", faultKinds))
	}
	f := Fault{Kind: kind}
	var when, span, by string
	f.Point, when, ok = strings.Cut(rest, "@")
	if !ok || !strings.Contains(f.Point, "/") {
		return bad("the point is missing")
	}
	when, by, hasBy := strings.Cut(when, "=")
	when, span, ok = strings.Cut(when, "+")
	if !ok {
		return bad("the time is missing")
	}
	var err error
	if f.At, err = time.ParseDuration(when); err != nil || f.At < 0 {
		return bad("AT is not a duration")
	}
	if f.For, err = time.ParseDuration(span); err != nil || f.For <= 0 {
		return bad("FOR is not a duration")
	}
	if hasBy {
		if f.By, err = strconv.ParseFloat(by, 64); err != nil || math.IsNaN(f.By) || math.IsInf(f.By, 0) {
			return bad("BY is not a number")
		}
	} else if kind == Ramp || kind == Spike {
		return bad("it needs =BY")
	}
	return f, nil
}

// Inject starts a fault with the next step, whatever its At says: the owner of
// the signal knows when its time has come.
func (s *Signal) Inject(f Fault) { s.faults = append(s.faults, active{Fault: f, start: s.t}) }

// Elapsed is the instrument's own time.
func (s *Signal) Elapsed() time.Duration { return time.Duration(s.t * float64(time.Second)) }

// overlay applies the faults that run, and forgets those that are over.
func (s *Signal) overlay(r *Reading) {
	stuck := false
	s.faults = slices.DeleteFunc(s.faults, func(f active) bool {
		age, span := s.t-f.start, f.For.Seconds()
		over := age > span
		switch f.Kind {
		case Ramp:
			if !over {
				r.Value += f.By * math.Min(1, age/(span/2))
				return false
			}
			left := math.Exp(-(age - span) / 3)
			r.Value += f.By * left
			return left < 0.01
		case Spike:
			r.Value += f.By
			return true
		case Stuck:
			if !over {
				stuck = true
			}
		case Dropout:
			if !over {
				r.Copies = 0
			}
		case Duplicate:
			if !over && r.Copies > 0 {
				r.Copies = 2
			}
		}
		return over
	})
	switch {
	case !stuck:
		s.stuck = nil
	case s.stuck == nil:
		v := r.Value
		s.stuck = &v
	default:
		r.Value = *s.stuck
	}
}
