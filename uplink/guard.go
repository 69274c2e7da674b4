package uplink

import (
	"fmt"

	"forebay/uplink/lane"
)

const (
	// defaultRefuseMax is how many records in a row a target may refuse.
	defaultRefuseMax = 20
	// shareLeast and shareSpan bound the guard over all lanes: of the last
	// records, about shareSpan of them, no more than half may be refused, where
	// shareLeast or more were.
	shareLeast, shareSpan = 100, 1000
)

// A guard tells a record that the target can never take from a target that
// takes nothing. The first goes to the stream "refused"; the second would move
// the whole backlog there. It is used under the pump's mutex.
type guard struct {
	most              int // refusals in a row that a lane may have
	accepted, refused int // of the last records, of all lanes
}

// took notes records of a lane that the target has taken.
func (g *guard) took(l *laneRun, n int) {
	l.refusals = 0
	g.accepted += n
	g.age()
}

// refuses notes one that it has refused for good.
func (g *guard) refuses(l *laneRun) {
	l.refusals++
	g.refused++
	g.age()
}

// age forgets old records, by halves.
func (g *guard) age() {
	if g.accepted+g.refused <= shareSpan {
		return
	}
	// Of many that were taken at once the last shareSpan are enough to know.
	g.accepted, g.refused = min(g.accepted, shareSpan)/2, g.refused/2
}

// holds says whether another refusal must wait for a person, and why.
func (g *guard) holds(l *laneRun, id string, why error) error {
	reason := "the target cannot take them"
	if why != nil {
		reason = why.Error()
	}
	what := ""
	switch {
	case l.refusals >= g.most:
		what = fmt.Sprintf("the target has refused %d records of stream %s in a row", l.refusals, l.lane.Stream)
		if l.refusals == 1 {
			what = "the target has refused a record of stream " + l.lane.Stream
		}
	case g.refused >= shareLeast && g.refused > g.accepted:
		what = fmt.Sprintf("the target has refused %d of the last %d records", g.refused, g.refused+g.accepted)
	default:
		return nil
	}
	return &lane.Error{
		Class: lane.Misconfigured,
		Text:  fmt.Sprintf("%s (%s); the records are kept, and no more are set aside: correct the target or the config, then \"forebay uplink retry %s\" tries again", what, reason, id),
	}
}

// forgive begins anew: a person has asked for it.
func (p *Pump) forgive() {
	p.guard.accepted, p.guard.refused = 0, 0
	for _, l := range p.lanes {
		l.refusals = 0
	}
}
