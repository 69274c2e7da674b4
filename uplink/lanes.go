package uplink

import (
	"context"
	"errors"
	"slices"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// unit is what makes a batch worth a request of its own: below it a lane
// lingers, above it the sink may choose large units.
const unit = 24 << 10

// windowStep is what a lane's window grows by with each batch that the target
// takes; minWindow is the least it shrinks to.
const windowStep, minWindow = 6 << 10, 1 << 10

// maxRead is how many records one step of a cursor is asked for at most.
const maxRead = 8192

// A laneRun is one lane on its way: one batch being sent, and the next one
// being read meanwhile. Its goroutine alone uses the cursor.
type laneRun struct {
	p    *Pump
	lane lane.Lane
	turn turn
	cur  Cursor
	log  lane.Place // may be nil
	stop context.CancelFunc

	answer chan lane.Outcome // of the batch that was queued; room for one
	wake   chan struct{}     // the pause is over

	// Its goroutine's own.
	now, next *hold
	hand      *hold // what is being sent: now, or the live part's
	names     interner
	liveable  bool  // its newest records may overtake the others
	live      *live // nil where they do not, now
	ahead     []Span
	resumed   bool // ahead is not of before the start any more
	window    int  // bytes that a batch may have: less after throttling
	unclear   int  // records from the front that are offered together: the target may have them
	unclears  int  // how often that was so
	whole     bool // it knows them again only if nothing of the lane goes before them
	size      int  // bytes of a record, running mean
	backoff   backoff
	tally     record.Tally // passed, but not yet in a Commit that worked
	upTo      uint64       // the last record of those
	closed    bool         // the cursor has ended
	lastErr   string       // of reading, so that it is logged once
	last      lane.Class   // of the last failure that it paused for

	// Under p.mu.
	batch   lane.Batch
	weight  int
	taken   bool
	busy    bool // has records
	ended   bool
	class   lane.Class
	err     error
	retryAt time.Time
	failed  time.Time // since when it has a class other than OK
	skewed  bool      // learning the target's time has not helped
	acked   time.Time // last acknowledgement
	moved   time.Time // that, or since when there is something to send
	waiting record.Backlog

	place    uint64 // behind what was committed; 0: nothing yet
	refusals int    // in a row: the target refused a record for good, and took none
}

func newLane(p *Pump, f LaneCursor) *laneRun {
	l := &laneRun{
		p:      p,
		lane:   f.Lane,
		turn:   turnOf(f.Class),
		cur:    f.Cursor,
		log:    f.Place,
		answer: make(chan lane.Outcome, 1),
		wake:   make(chan struct{}, 1),
		now:    new(hold),
		next:   new(hold),
		window: p.hold,
		size:   256,

		liveable: f.Class != record.ClassAlarm && f.Class != record.ClassEvidence && f.Class != record.ClassAudit,
		ahead:    slices.Clone(p.ahead[laneKey{f.Stream, f.Shard}]),
		waiting:  f.Backlog(),
	}
	if c, ok := f.Cursor.(interface{ Committed() uint64 }); ok {
		l.place = c.Committed()
	}
	return l
}

// run is the lane's life, until ctx or the cursor ends.
func (l *laneRun) run(ctx context.Context) {
	defer l.end(ctx)
	for {
		if !l.sendLive(ctx) {
			return
		}
		if l.now.empty() {
			if l.next.empty() {
				l.joined()
				if l.closed || !l.await(ctx) {
					return
				}
			}
			l.top(ctx)
			l.now, l.next = l.next, l.now
			l.next.reset()
		}
		if l.skip() {
			continue
		}
		if !l.trip(ctx, l.now) {
			return
		}
	}
}

// trip sends a batch of the records at hand, and does what its outcome asks
// for; false if ctx has ended.
func (l *laneRun) trip(ctx context.Context, hand *hold) bool {
	l.hand = hand
	sent := l.offer()
	out, ok := l.listen(ctx)
	return ok && l.settle(ctx, sent, out)
}

// end tells that the lane is over. Others may have waited for its shard's end.
func (l *laneRun) end(ctx context.Context) {
	l.leaveLive()
	l.finish(ctx)
	l.note(func() { l.ended, l.busy = true, false })
	l.stop()
	l.p.lookAgain()
}

// note changes what others see of the lane.
func (l *laneRun) note(f func()) {
	b := l.cur.Backlog()
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	was, busy := l.class, l.busy
	l.waiting = l.less(b)
	f()
	switch q := &l.p.lines[l.turn]; {
	case l.busy && !busy:
		q.busy++
	case busy && !l.busy:
		q.busy--
	}
	if l.class != was {
		l.p.refresh(time.Now())
	}
}

// watch keeps the backlog of a lane that waits up to date.
func (l *laneRun) watch() {
	b := l.cur.Backlog()
	l.p.mu.Lock()
	l.waiting = l.less(b)
	l.p.mu.Unlock()
}

// await waits for the first records of a batch; false if there are none to come.
func (l *laneRun) await(ctx context.Context) bool {
	l.note(func() { l.busy, l.batch = false, lane.Batch{} })
	l.now.rest()
	l.next.rest()
	l.names.rest()
	for l.next.empty() {
		b, err := l.nextOrLook(ctx)
		if errors.Is(err, errLook) {
			_ = l.move() // where it did not work before, that was said then
			l.watch()
			continue
		}
		if !l.took(ctx, b, err) {
			return false
		}
		if err != nil && !isLoss(err) && !l.sleep(ctx, slowBase) {
			return false
		}
	}
	l.note(func() { l.busy, l.moved = true, time.Now() })
	return true
}

// errLook ends a wait for records after a while.
var errLook = errors.New("time to look")

// nextOrLook is Next of the cursor. While records are counted as waiting though
// there is nothing to send, as where a shape has left them out and passes them
// in its own time, it ends with errLook after a second.
func (l *laneRun) nextOrLook(ctx context.Context) (record.Batch, error) {
	if l.cur.Backlog().Records == 0 {
		return l.cur.Next(ctx, l.room())
	}
	look, stop := context.WithTimeoutCause(ctx, time.Second, errLook)
	defer stop()
	b, err := l.cur.Next(look, l.room())
	if err != nil && len(b.Recs) == 0 && ctx.Err() == nil && errors.Is(context.Cause(look), errLook) && (errors.Is(err, errLook) || errors.Is(err, context.DeadlineExceeded)) {
		return b, errLook
	}
	return b, err
}

// top reads on until the batch is full, or nothing more is there and the
// linger of its first record is over. Lanes linger up to the same moments, so
// that they share requests.
func (l *laneRun) top(ctx context.Context) {
	p := l.p
	for {
		if l.poll(ctx) || l.next.bytes >= p.worth(l.turn) || l.closed {
			return
		}
		passed, linger := l.next.since.Sub(p.started), p.lingerOf(l.turn)
		if !l.gather(ctx, p.started.Add((passed/linger+1)*linger)) {
			return
		}
	}
}

// gather waits until then, and keeps the backlog up to date meanwhile; false if
// that is over already, or ctx has ended.
func (l *laneRun) gather(ctx context.Context, until time.Time) bool {
	wait := time.Until(until)
	if wait <= 0 {
		return false
	}
	for ; wait > 0; wait = time.Until(until) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(min(wait, time.Second)):
		}
		l.watch()
	}
	return true
}

// poll reads what is there now into the next batch; true if that fills it.
func (l *laneRun) poll(ctx context.Context) bool {
	limit := l.p.holdLimit()
	for !l.next.holds(limit) {
		if l.closed {
			return false
		}
		b, err := l.cur.Poll(ctx, l.room())
		if !l.took(ctx, b, err) {
			return false
		}
		if len(b.Recs) == 0 && !isLoss(err) {
			return false
		}
	}
	l.next.full = true
	return true
}

// room is how many records to ask for.
func (l *laneRun) room() int {
	return l.next.room(l.p.holdLimit(), l.size)
}

// took copies a batch and deals with the errors of reading; false if reading
// is over.
func (l *laneRun) took(ctx context.Context, b record.Batch, err error) bool {
	if len(b.Recs) > 0 {
		if l.next.empty() {
			l.next.since = time.Now()
		}
		before := l.next.bytes
		for i := range b.Recs {
			l.next.add(&b.Recs[i], &l.names)
		}
		l.size = (3*l.size + (l.next.bytes-before)/len(b.Recs)) / 4
	}
	if err == nil {
		l.lastErr = ""
		return true
	}
	var (
		trimmed *record.TrimmedError
		corrupt *record.CorruptError
		end     *record.ShardEndError
	)
	log := l.p.log.With("stream", l.lane.Stream, "shard", uint32(l.lane.Shard))
	switch {
	case errors.As(err, &trimmed):
		log.Error("records were removed before they were delivered",
			"first", trimmed.From, "last", trimmed.To-1, "lost", trimmed.To-trimmed.From)
		return true
	case errors.As(err, &corrupt):
		// The error itself says which, where that can be told.
		log.Error("records are damaged and cannot be delivered", "lost", corrupt.To-corrupt.From, "error", err)
		return true
	case errors.Is(err, record.ErrNoStream):
		l.closed = true
		l.p.lookAgain() // the Log lists it no more, and says so
		return false
	case errors.Is(err, record.ErrClosed), errors.As(err, &end):
		l.closed = true
		return false
	case ctx.Err() != nil:
		return false
	}
	if l.lastErr != err.Error() {
		l.lastErr = err.Error()
		log.Error("cannot read the log", "error", err)
	}
	return true
}

// isLoss reports whether the cursor goes on behind the error.
func isLoss(err error) bool {
	var (
		trimmed *record.TrimmedError
		corrupt *record.CorruptError
	)
	return errors.As(err, &trimmed) || errors.As(err, &corrupt)
}

// offer queues the front of the batch at hand and says how many records it is.
func (l *laneRun) offer() int {
	recs := l.hand.left()
	n, size, most := 0, 0, evenly(recs, min(l.window, l.p.share(l.turn)))
	if l.p.spreads && l.turn == bulk && l.hand.full {
		most = min(l.window, l.abreast(recs, most))
	}
	until := ^uint64(0)
	if l.hand == l.now {
		until = l.until(recs[0].Pos.Seq)
	}
	for n < len(recs) && recs[n].Pos.Seq < until && (n == 0 || size+weight(&recs[n]) <= most || n < l.unclear) {
		size += weight(&recs[n])
		n++
	}
	l.p.enqueue(l, lane.Batch{
		Lane:    l.p.cfg.Far(l.lane),
		Recs:    recs[:n],
		Place:   l.log,
		Backlog: l.hand.full || size >= unit || n < len(recs) || !l.next.empty(),
		Urgent:  l.turn == alarms,
	}, size)
	return n
}

// abreast is how many bytes of its full hold the lane sends now so that it keeps
// up with the others, where each sends about most: twice as many where its
// records are older than theirs, fewer where they are newer. Some lanes have more
// records than others, and those that drain side by side read the log once.
func (l *laneRun) abreast(recs []record.Record, most int) int {
	most = evenly(recs, min(most, 2*l.hand.bytes/3+1))
	n, size := 0, 0
	for n < len(recs)-1 && size < most {
		size += weight(&recs[n])
		n++
	}
	span := recs[n].Arrived.Sub(recs[0].Arrived)
	l.p.mu.Lock()
	q := &l.p.lines[l.turn]
	if q.front.IsZero() {
		q.front = recs[0].Arrived
	}
	late := q.front.Sub(recs[0].Arrived)
	q.front = q.front.Add(-late / time.Duration(max(q.busy, 1)))
	l.p.mu.Unlock()
	switch {
	case late > span/2:
		return 2 * most
	case late < -span/2:
		return evenly(recs, 2*most/3+1)
	}
	return most
}

// evenly is how many bytes each batch of recs should have, of most at most, so
// that the last one is not much smaller than the others: a small one takes the
// way there and back as they do.
func evenly(recs []record.Record, most int) int {
	left := 0
	for i := range recs {
		left += weight(&recs[i])
	}
	if left <= most {
		return most
	}
	batches := (left + most - 1) / most
	return min(most, left/batches+left/len(recs)+1)
}

// listen waits for the outcome of what was offered, and reads the next batch
// meanwhile. false: ctx has ended and nothing was sent.
func (l *laneRun) listen(ctx context.Context) (lane.Outcome, bool) {
	// The next batch is read while this one is under way.
	if !l.closed && l.next.bytes == 0 {
		l.poll(ctx)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	done := ctx.Done()
	for {
		select {
		case out := <-l.answer:
			return out, true
		case <-done:
			if l.p.withdraw(l) {
				return lane.Outcome{}, false
			}
			done = nil // the Send is under way; Run bounds it
		case <-tick.C:
			l.watch()
		}
	}
}

// sleep waits for d, or until the pause is ended; false if ctx has ended.
func (l *laneRun) sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-l.wake: // from before this pause
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-l.wake:
			return true
		case <-timer.C:
			return true
		case <-tick.C:
			l.watch()
		}
	}
}
