package uplink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// The orders in which an uplink hands on what waits.
const (
	OrderOldest = "oldest"
	OrderLive   = "live-first"
)

// A Span is records of a lane that were delivered ahead of its cursor's place:
// from From on, To excluded. Refused are those of them that were set aside
// instead.
type Span struct {
	From    uint64   `json:"from"`
	To      uint64   `json:"to"`
	Refused []uint64 `json:"refused,omitempty"`
}

// An Ahead is what of a lane lies delivered ahead of its cursor's place, oldest
// first.
type Ahead struct {
	Stream string         `json:"stream"`
	Shard  record.ShardID `json:"shard"`
	Spans  []Span         `json:"spans"`
}

// A LiveLog is a Log that order = "live-first" needs. Its cursors tell by a
// method Committed() uint64 which sequence number is behind their place.
type LiveLog interface {
	Log
	// Follow reads a lane from a sequence number on; 0 is what comes from this
	// moment on. It has no durable place and holds nothing back.
	Follow(l lane.Lane, from uint64) (Follower, error)
	// LoadAhead gives what SaveAhead kept last; nothing, where that was of
	// another spool or another epoch of it.
	LoadAhead() ([]Ahead, error)
	// SaveAhead keeps it; it is on disk when it returns nil.
	SaveAhead(a []Ahead) error
}

// A Follower is a reader without a durable place; *spool.Reader is one.
type Follower interface {
	Poll(ctx context.Context, max int) (record.Batch, error)
	// Pos is the sequence number that is read next.
	Pos() uint64
	Close() error
}

const (
	// defaultLiveAfter is how old the oldest waiting record has to be.
	defaultLiveAfter = 30 * time.Second
	// maxSpans is how many live parts a lane may leave behind, and maxAside how
	// many refused records in them; then it goes on with the oldest.
	maxSpans, maxAside = 64, 1000
	// saveEvery is how often what lies ahead is kept. What was delivered since
	// goes out again after a crash.
	saveEvery = 2 * time.Second
)

// checkOrder refuses live-first for targets that tell what they hold of a lane
// by its newest record: they would take the backlog for repeated. S3 tells by
// the range of each object.
func (c *Config) checkOrder(kind string) error {
	switch c.Order {
	case "", OrderOldest:
		return nil
	case OrderLive:
	default:
		return fmt.Errorf("order: %q is not \"oldest\" or \"live-first\"", c.Order)
	}
	if len(c.Shape) > 0 {
		return fmt.Errorf("order: live-first is not possible with a [[uplink.shape]], which goes by the order of the records; give the streams that need it an uplink of their own")
	}
	switch kind {
	case "kinesis", "firehose", "s3", "mqtt", "sparkplug", "http", "opensearch":
		return nil
	}
	return fmt.Errorf("order: the target %s holds records to their order, by which it knows repeated ones; live-first is not possible with it", kind)
}

// A live is the newest records of a lane on their way ahead of its backlog.
// The span that grows with them is the last of laneRun.ahead.
type live struct {
	f    Follower
	hold hold
}

// setLive readies the pump for order = "live-first".
func (p *Pump) setLive() {
	if p.cfg.Order != OrderLive {
		return
	}
	src, ok := p.src.(LiveLog)
	if !ok {
		p.log.Error("the log cannot be read live-first; the oldest records go first")
		return
	}
	kept, err := src.LoadAhead()
	if err != nil {
		p.log.Error("it is not known what was delivered ahead of the backlog; that goes out again", "error", err)
	}
	p.live, p.ahead = src, map[laneKey][]Span{}
	for _, a := range kept {
		p.ahead[laneKey{a.Stream, a.Shard}] = a.Spans
	}
}

// saveAhead keeps what lies ahead, if it has changed and it is time.
func (p *Pump) saveAhead(now time.Time, last bool) {
	p.mu.Lock()
	if p.live == nil || !p.moved || !last && now.Sub(p.saved) < saveEvery {
		p.mu.Unlock()
		return
	}
	p.moved, p.saved = false, now
	all := make([]Ahead, 0, len(p.ahead))
	for k, spans := range p.ahead {
		if len(spans) > 0 {
			all = append(all, Ahead{k.stream, k.shard, spans})
		}
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b Ahead) int { return int(a.Shard) - int(b.Shard) })
	if err := p.live.SaveAhead(all); err != nil {
		p.log.Error("cannot keep what was delivered ahead of the backlog; it goes out again after a restart", "error", err)
		p.mu.Lock()
		p.moved = true
		p.mu.Unlock()
	}
}

// goesLive reports whether the lane's newest records may overtake its others.
// What tells of a state, or is evidence, keeps its order.
func (l *laneRun) goesLive() bool { return l.p.live != nil && l.liveable }

// fresh reports whether newest records wait to be sent ahead of the backlog.
func (l *laneRun) fresh(ctx context.Context) bool {
	if !l.goesLive() || l.live == nil && !l.split() {
		return false
	}
	v := l.live
	if v.hold.empty() {
		v.hold.reset()
		l.follow(ctx)
	}
	return l.live != nil && !l.live.hold.empty()
}

// split begins a live part where the lane has fallen behind.
func (l *laneRun) split() bool {
	b, after := l.cur.Backlog(), l.p.cfg.LiveAfter.Or(defaultLiveAfter)
	if b.Records == 0 || b.Oldest.IsZero() || time.Since(b.Oldest) < after || !l.roomAhead() {
		return false
	}
	// After a restart it goes on where it was.
	from := uint64(0)
	if n := len(l.ahead); n > 0 && !l.resumed {
		from = l.ahead[n-1].To
	}
	l.resumed = true
	return l.open(from)
}

// roomAhead reports whether another live part may be left behind.
func (l *laneRun) roomAhead() bool {
	aside := 0
	for _, s := range l.ahead {
		aside += len(s.Refused)
	}
	return len(l.ahead) < maxSpans && aside < maxAside
}

// open begins a live part at a sequence number, 0: at the end.
func (l *laneRun) open(from uint64) bool {
	f, err := l.p.live.Follow(l.lane, from)
	if err != nil {
		l.p.log.Error("cannot read the newest records", "stream", l.lane.Stream, "shard", uint32(l.lane.Shard), "error", err)
		return false
	}
	l.live = &live{f: f}
	if n := len(l.ahead); n == 0 || l.ahead[n-1].To != f.Pos() {
		l.ahead = append(l.ahead, Span{From: f.Pos(), To: f.Pos()})
	}
	l.tellAhead()
	return true
}

// follow reads newest records. Where those have become old themselves, there
// was another outage: what is left of them joins the backlog, and a new live
// part begins at the end. What is lost of them the cursor tells when it comes
// there.
func (l *laneRun) follow(ctx context.Context) {
	v, limit, first := l.live, l.p.holdLimit(), true
	for !v.hold.holds(limit) {
		b, err := v.f.Poll(ctx, v.hold.room(limit, l.size))
		if len(b.Recs) == 0 {
			if isLoss(err) {
				continue
			}
			return // nothing is there, or the cursor meets the same error
		}
		if first && time.Since(b.Recs[0].Arrived) > l.p.cfg.LiveAfter.Or(defaultLiveAfter) && l.roomAhead() {
			l.leaveLive()
			if !l.open(0) {
				return
			}
			v = l.live
			continue
		}
		first = false
		for i := range b.Recs {
			v.hold.add(&b.Recs[i], &l.names)
		}
	}
	v.hold.full = true
}

// sendLive sends what is newest, until no more of it waits than came
// meanwhile; then a batch of the backlog has its turn. false if ctx has ended.
func (l *laneRun) sendLive(ctx context.Context) bool {
	if l.whole && l.hand == l.now {
		return true
	}
	for l.fresh(ctx) {
		v := l.live
		full := v.hold.full
		if !l.trip(ctx, &v.hold) {
			return false
		}
		if v.hold.empty() && !full {
			break
		}
	}
	return true
}

// advance notes that live records were passed. Where one is missing before
// them, which the follower could not read, a new span begins: the cursor may be
// able to.
func (l *laneRun) advance(recs []record.Record, t record.Tally) {
	s := &l.ahead[len(l.ahead)-1]
	for i := range recs {
		seq := recs[i].Pos.Seq
		switch {
		case seq == s.To:
		case s.From == s.To:
			s.From = seq
		default:
			l.ahead = append(l.ahead, Span{From: seq})
			s = &l.ahead[len(l.ahead)-1]
		}
		s.To = seq + 1
		if t.Refused > 0 {
			s.Refused = append(s.Refused, seq)
		}
	}
	l.tellAhead()
	if len(s.Refused) >= maxAside || len(l.ahead) >= 2*maxSpans {
		l.leaveLive()
	}
}

// leaveLive ends the live part; what it has delivered stays known.
func (l *laneRun) leaveLive() {
	if l.live == nil {
		return
	}
	_ = l.live.f.Close() // only ends a waiting Next
	l.live = nil
	if n := len(l.ahead); n > 0 && l.ahead[n-1].From == l.ahead[n-1].To {
		l.ahead = l.ahead[:n-1]
		l.tellAhead()
	}
}

// skip passes the records at the front that were delivered ahead; false where
// there are none. Where the backlog has come to the end of the live part, the
// two are one again.
func (l *laneRun) skip() bool {
	recs := l.now.left()
	front, n := recs[0].Pos.Seq, len(l.ahead)
	if n == 0 {
		return false
	}
	if l.ahead[n-1].To <= front {
		l.leaveLive()
	}
	l.prune(front)
	if len(l.ahead) == 0 || front < l.ahead[0].From {
		return false
	}
	s, t := l.ahead[0], record.Tally{}
	k := 0
	for ; k < len(recs) && recs[k].Pos.Seq < s.To; k++ {
		if slices.Contains(s.Refused, recs[k].Pos.Seq) {
			t.Refused++
		} else {
			t.Delivered++
		}
	}
	l.now.done += k
	l.commit(recs[k-1].Pos.Seq, t)
	return true
}

// prune forgets the spans that end at a sequence number or before it.
func (l *laneRun) prune(at uint64) {
	n := 0
	for n < len(l.ahead) && l.ahead[n].To <= at {
		n++
	}
	if n > 0 {
		l.ahead = slices.Delete(l.ahead, 0, n)
		l.tellAhead()
	}
}

// joined ends the live part where the cursor has come to the end of the lane.
func (l *laneRun) joined() {
	l.leaveLive()
	l.prune(l.place)
}

// until is the first sequence number that a batch from seq on must not hold:
// it was delivered ahead.
func (l *laneRun) until(seq uint64) uint64 {
	for _, s := range l.ahead {
		if s.From > seq {
			return s.From
		}
	}
	return ^uint64(0)
}

// tellAhead shows the lane's spans to those who keep and count them.
func (l *laneRun) tellAhead() {
	spans := slices.Clone(l.ahead)
	for i := range spans {
		spans[i].Refused = slices.Clone(spans[i].Refused)
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	k := laneKey{l.lane.Stream, l.lane.Shard}
	if len(spans) == 0 {
		delete(l.p.ahead, k)
	} else {
		l.p.ahead[k] = spans
	}
	l.p.moved = true
}

// less takes what was delivered ahead off a backlog. p.mu is held.
func (l *laneRun) less(b record.Backlog) record.Backlog {
	sum := uint64(0)
	for _, s := range l.p.ahead[laneKey{l.lane.Stream, l.lane.Shard}] {
		if from := max(s.From, l.place); s.To > from {
			sum += s.To - from
		}
	}
	if sum == 0 || b.Records == 0 {
		return b
	}
	sum = min(sum, b.Records)
	b.Bytes -= int64(float64(b.Bytes) * float64(sum) / float64(b.Records))
	if b.Records -= sum; b.Records == 0 {
		b.Oldest = time.Time{}
	}
	return b
}
