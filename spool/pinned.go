package spool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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

// amount says a number of bytes as a person would.
func amount(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}

// counted is a number of records with its noun.
func counted(n uint64) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}

// about says a duration as a person would.
func about(d time.Duration) string {
	switch {
	case d < 45*time.Second:
		return "less than a minute"
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
	pinned := s.pinnedBytes(ctx, mins)
	now := time.Now()
	s.pinned.add(now, pinned)
	if pinned < s.quota/100*nearlyFull {
		s.clear("nearly-full")
		return
	}
	text := fmt.Sprintf("undelivered records take %s of the quota of %s (%d %%)", amount(pinned), amount(s.quota), pinned*100/s.quota)
	if d, ok := s.pinned.reaches(now, pinned, s.quota-s.reserveBytes); ok {
		text += "; full in " + about(d) + " at the present rate"
	}
	if who := s.behindMost(ctx); who != "" {
		text += "; furthest behind is " + who
	}
	s.raise("nearly-full", 2, text)
}

// pinnedBytes is how many bytes lie from the first record that is not
// delivered on, by the segments' sizes.
func (s *Spool) pinnedBytes(ctx context.Context, mins map[record.ShardID]uint64) (n int64) {
	for _, l := range s.allLogs() {
		segs := l.segments()
		from := sort.Search(len(segs), func(i int) bool { return l.waits(ctx, segs, i, mins) })
		for _, seg := range segs[from:] {
			n += seg.size.Load()
		}
	}
	return n
}

const (
	// stalledAlone is for how long a cursor that nobody has open may stand
	// still with records to deliver, stalledOpen one that somebody has open: an
	// uplink without a link is told of by itself.
	stalledAlone = time.Hour
	stalledOpen  = 24 * time.Hour
	// stalledShown is how many cursors the condition names.
	stalledShown = 3
)

// A claim is what one cursor has not passed in one stream.
type claim struct {
	cursor, stream string
	places         map[record.ShardID]uint64 // of the shards with records to deliver
	records        uint64
	moved          int64 // retention clock
	open           bool
	bytes          int64
}

// claims lists what cursors have not passed, by cursor and stream.
func (s *Spool) claims() []*claim {
	type span struct {
		stream      string
		first, next uint64
	}
	spans := map[record.ShardID]span{}
	for _, t := range s.Streams() {
		for _, sh := range t.all() {
			next, first := sh.end()
			spans[sh.id] = span{t.name, first, next}
		}
	}
	by := map[[2]string]*claim{}
	s.state.mu.Lock()
	for k, p := range s.state.cursors {
		sp := spans[k.shard]
		at := max(p.next, sp.first)
		if at >= sp.next {
			continue
		}
		c := by[[2]string{k.name, sp.stream}]
		if c == nil {
			c = &claim{cursor: k.name, stream: sp.stream, places: map[record.ShardID]uint64{}}
			by[[2]string{k.name, sp.stream}] = c
		}
		c.places[k.shard] = p.next
		c.records += sp.next - at
		c.moved = max(c.moved, p.moved)
		c.open = c.open || p.inUse
	}
	s.state.mu.Unlock()
	out := make([]*claim, 0, len(by))
	for _, c := range by {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *claim) int {
		return cmp.Or(cmp.Compare(a.moved, b.moved), cmp.Compare(a.cursor, b.cursor), cmp.Compare(a.stream, b.stream))
	})
	return out
}

// words tells a claim to an operator.
func (c *claim) words(now int64) string {
	text := fmt.Sprintf("cursor %q of stream %q, which has not moved for %s and pins %s in %s", c.cursor, c.stream, about(time.Duration(now-c.moved)), counted(c.records), amount(c.bytes))
	if !c.open {
		text += fmt.Sprintf(" and which nobody has open (give it up: forebay cursor drop %s %s)", c.stream, c.cursor)
	}
	return text
}

// behindMost names the cursor that stands still for longest; "" if none waits.
func (s *Spool) behindMost(ctx context.Context) string {
	all := s.claims()
	if len(all) == 0 {
		return ""
	}
	all[0].bytes = s.pinnedBytes(ctx, all[0].places)
	return all[0].words(s.clock.now())
}

// tellStalled raises stalled while a cursor with records to deliver does not
// move any more: what it pins goes only by being lost. roomMu is held.
func (s *Spool) tellStalled(ctx context.Context) {
	now := s.clock.now()
	var still []*claim
	for _, c := range s.claims() {
		limit := stalledAlone
		if c.open {
			limit = stalledOpen
		}
		if time.Duration(now-c.moved) >= limit {
			still = append(still, c)
		}
	}
	if len(still) == 0 {
		s.clear("stalled")
		return
	}
	var text []string
	for _, c := range still[:min(len(still), stalledShown)] {
		c.bytes = s.pinnedBytes(ctx, c.places)
		text = append(text, c.words(now))
	}
	if more := len(still) - stalledShown; more > 0 {
		text = append(text, fmt.Sprintf("and %d more", more))
	}
	s.raise("stalled", 3, "records wait for "+strings.Join(text, "; "))
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
		end, err := sh.headAt(ctx, segs, i+1, ends[k])
		if err != nil || place < end { // what cannot be told may wait
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
			fmt.Fprintf(&text, " %s of class %s", counted(s.dropped[c]), c)
		}
	}
	s.raise("dropped", 2, text.String())
}
