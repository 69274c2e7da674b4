package rules

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Stats is what a Loop does and did since it was made.
type Stats struct {
	Counts
	Rules       int
	Instances   int    // rules and keys with a state
	Shards      int    // followed
	Outbox      int    // transitions that are not yet in the alarm stream
	Sent        uint64 // appended to the alarm stream
	Repeated    uint64 // found there after a restart, not sent again
	Refused     uint64 // that the alarm stream can never take
	Trimmed     uint64 // records that retention took before the rules saw them
	Corrupt     uint64 // damaged blocks passed
	ClockJumps  uint64
	Problems    []string // what a person should know, in sentences
	LastTick    time.Time
	CatchingUp  bool
	MissingFrom []string // streams that rules name and that do not exist yet
}

// Stats tells how the loop is doing.
func (l *Loop) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{
		Counts: l.engine.Counts(), Rules: l.engine.Rules(), Instances: l.engine.Instances(), Shards: l.followed(), Outbox: len(l.outbox) + len(l.pending),
		Sent: l.counts.sent, Repeated: l.counts.repeated, Refused: l.counts.refused, Trimmed: l.counts.trimmed, Corrupt: l.counts.corrupt, ClockJumps: l.counts.jumps,
		LastTick: l.tick, CatchingUp: !l.live,
	}
	if l.looked {
		for _, name := range l.engine.Streams() {
			if !slices.ContainsFunc(feedStreams(l.feeds), func(n string) bool { return n == name }) {
				s.MissingFrom = append(s.MissingFrom, name)
			}
		}
	}
	if s.Overflow > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf("Rules have reached %d alarms; further keys are not watched (%d evaluations left out)", cmp.Or(l.opts.MaxAlarms, DefaultInstances), s.Overflow))
	}
	if l.failing != nil {
		s.Problems = append(s.Problems, "The rules' state cannot be stored: "+l.failing.Error())
	}
	if l.sendFail != nil {
		s.Problems = append(s.Problems, fmt.Sprintf("%d alarm transitions wait for the log: %v", s.Outbox, l.sendFail))
	}
	for _, name := range s.MissingFrom {
		s.Problems = append(s.Problems, fmt.Sprintf("A rule reads the stream %q, which does not exist yet", name))
	}
	return s
}

// followed is how many shards may bring something; mu is held.
func (l *Loop) followed() (n int) {
	for _, f := range l.feeds {
		if !f.ended {
			n++
		}
	}
	return n
}

func feedStreams(feeds map[spot]*feed) []string {
	var names []string
	for at := range feeds {
		names = append(names, at.stream)
	}
	return names
}
