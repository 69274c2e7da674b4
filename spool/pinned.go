package spool

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"forebay/spool/record"
)

const (
	// nearlyFull is the part of the quota, in percent, that undelivered
	// records may take before an operator is told.
	nearlyFull = 80
	// growthOver is how far back a rate of growth looks, growthStep how often
	// it notes a figure, and growthKnown how much it must have seen.
	growthOver  = 5 * time.Minute
	growthStep  = 5 * time.Second
	growthKnown = 30 * time.Second
)

// A growth is a figure's last minutes, from which its rate is told.
type growth struct {
	seen []sample // oldest first
}

type sample struct {
	at    time.Time
	bytes int64
}

// add notes the figure of a moment.
func (g *growth) add(now time.Time, bytes int64) {
	if n := len(g.seen); n > 0 && now.Sub(g.seen[n-1].at) < growthStep {
		return
	}
	for len(g.seen) > 0 && now.Sub(g.seen[0].at) > growthOver {
		g.seen = g.seen[1:]
	}
	g.seen = append(g.seen, sample{now, bytes})
}

// reaches tells in how long a figure that is bytes now will be limit; false
// where it does not grow or was not watched for long enough.
func (g *growth) reaches(now time.Time, bytes, limit int64) (time.Duration, bool) {
	if len(g.seen) == 0 {
		return 0, false
	}
	span, grown := now.Sub(g.seen[0].at), bytes-g.seen[0].bytes
	if span < growthKnown || grown <= 0 {
		return 0, false
	}
	left := float64(max(limit-bytes, 0)) / float64(grown) * span.Seconds()
	const most = 1000 * 24 * time.Hour // more is not a forecast
	if left > most.Seconds() {
		return 0, false
	}
	return time.Duration(left * float64(time.Second)), true
}

// about says a duration as a person would.
func about(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return "about a minute"
	case d < 90*time.Minute:
		return fmt.Sprintf("about %d min", int(d.Round(time.Minute).Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("about %d h", int(d.Round(time.Hour).Hours()))
	}
	return fmt.Sprintf("about %d days", int(d.Round(24*time.Hour).Hours()/24))
}

// tellPinned raises nearly-full when undelivered records take most of the
// quota: those can only go by being delivered or lost. roomMu is held.
func (s *Spool) tellPinned(ctx context.Context, mins map[record.ShardID]uint64) {
	var pinned int64
	for _, l := range s.allLogs() {
		segs := l.segments()
		from := sort.Search(len(segs), func(i int) bool { return l.waits(ctx, segs, i, mins) })
		for _, seg := range segs[from:] {
			pinned += seg.size.Load()
		}
	}
	now := time.Now()
	s.pinned.add(now, pinned)
	if pinned < s.quota/100*nearlyFull {
		s.clear("nearly-full")
		return
	}
	text := fmt.Sprintf("undelivered records take %d of %d bytes of the quota (%d %%)", pinned, s.quota, pinned*100/s.quota)
	if d, ok := s.pinned.reaches(now, pinned, s.quota-s.reserveBytes); ok {
		text += "; full in " + about(d) + " at the present rate"
	}
	s.raise("nearly-full", 2, text)
}

// waits reports whether a cursor has not passed the end of segs[i]. Once it is
// true it is for all later ones.
func (l *commitLog) waits(ctx context.Context, segs []*segment, i int, mins map[record.ShardID]uint64) bool {
	l.mu.RLock()
	slots := l.slots
	ends := make([]uint64, len(slots))
	for k, sh := range slots {
		ends[k] = sh.next
	}
	l.mu.RUnlock()
	for k, sh := range slots {
		place, ok := mins[sh.id]
		if !ok {
			continue
		}
		if end, err := sh.headAt(ctx, segs, i+1, ends[k]); err == nil && place < end {
			return true
		}
	}
	return false
}

// note adds to the counts of what was removed undelivered, and tells; roomMu is
// held.
func (s *Spool) noteDropped(class record.Class, n uint64) {
	if n == 0 {
		return
	}
	s.dropped[class] += n
	var text strings.Builder
	text.WriteString("removed to make room before they were delivered, since the spool was opened:")
	for _, c := range record.Classes() {
		if s.dropped[c] > 0 {
			fmt.Fprintf(&text, " %d records of class %s", s.dropped[c], c)
		}
	}
	s.raise("dropped", 2, text.String())
}
