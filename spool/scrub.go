package spool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"forebay/spool/record"
)

const (
	defaultScrubEvery = 7 * 24 * time.Hour
	minScrubEvery     = time.Hour
	// neverScrub is a span that stands for no scrubbing at all.
	neverScrub = 36500 * 24 * time.Hour
	// scrubGrace is how long after opening nothing is scrubbed.
	scrubGrace = time.Minute
	// scrubLeast and scrubMost bound the rate of a pass, bytes a second.
	scrubLeast = 256 << 10
	scrubMost  = 8 << 20
	// scrubPiece is about how much is read at once, bytes.
	scrubPiece = 256 << 10
	// scrubYield is how long the scrubber steps back from a log that is busy,
	// and scrubPatience how often in a row.
	scrubYield    = time.Second
	scrubPatience = 30
)

// ScrubStats is what the scrubber has done: it reads closed segments in the
// background, so that damage is found before a reader meets it.
type ScrubStats struct {
	Running  bool      // a pass is under way
	Segments uint64    // read since the spool was opened
	Bytes    uint64    // read since the spool was opened
	Damaged  uint64    // blocks, chunks and files found damaged since then, known ones included
	LastPass time.Time // end of the last whole pass; zero if there was none
}

// A scrubPlace is how far the scrubber is. It is kept in state.db.
type scrubPlace struct {
	begun   int64  // of the pass under way or the last one, retention clock; 0: never
	ended   int64  // of the last whole pass, wall clock; 0: never
	under   int    // 1 while a pass is under way
	log     uint32 // that is being read
	segment uint64 // last one read in it
}

// A scrubber is the goroutine that verifies closed segments. Only it writes
// place.
type scrubber struct {
	sp    *Spool
	every time.Duration
	rate  int64 // bytes a second; 0 is no limit
	owed  int64 // bytes read and not yet rested for
	saved time.Time
	next  time.Time // not before this does a new pass begin
	place scrubPlace
	buf   []byte

	mu    sync.Mutex
	stats ScrubStats
}

func newScrubber(s *Spool) *scrubber {
	return &scrubber{sp: s, every: s.cfg.ScrubEvery.Or(defaultScrubEvery)}
}

// scrub is the scrubber's loop; it ends with the spool.
func (c *scrubber) scrub() {
	ctx := context.Background()
	if c.every >= neverScrub || !c.pause(scrubGrace) {
		return
	}
	defer func() { c.save(ctx) }()
	for {
		if c.place.under == 0 && !c.pause(time.Until(c.next)) {
			return
		}
		c.rate = min(max(c.sp.used.Load()/max(int64(c.every/time.Second), 1), scrubLeast), scrubMost)
		if !c.pass(ctx) {
			return
		}
		c.save(ctx)
	}
}

// pass reads all closed segments, from where an earlier one was left. false:
// the spool is being closed.
func (c *scrubber) pass(ctx context.Context) bool {
	begun := time.Now()
	if c.place.under == 0 {
		c.place = scrubPlace{begun: c.sp.clock.now(), ended: c.place.ended, under: 1}
	}
	c.count(func(s *ScrubStats) { s.Running = true })
	for _, l := range c.sp.allLogs() {
		if l.num < c.place.log {
			continue
		}
		if l.num > c.place.log {
			c.place.log, c.place.segment = l.num, 0
		}
		if !c.scrubLog(ctx, l) {
			return false
		}
	}
	at := c.sp.now()
	c.place = scrubPlace{begun: c.place.begun, ended: at.UnixNano()}
	c.next = begun.Add(c.every)
	c.count(func(s *ScrubStats) { s.Running, s.LastPass = false, at.UTC() })
	return true
}

func (c *scrubber) count(f func(*ScrubStats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.stats)
}

func (c *scrubber) snapshot() ScrubStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// load takes the place from state.db, before the goroutine starts.
func (c *scrubber) load(ctx context.Context) {
	var text string
	if err := c.sp.state.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key='scrub'").Scan(&text); err != nil {
		return // none yet, and no harm if it is lost: the pass begins again
	}
	p := &c.place
	if _, err := fmt.Sscan(text, &p.begun, &p.ended, &p.under, &p.log, &p.segment); err != nil {
		c.place = scrubPlace{}
		return
	}
	if p.begun != 0 {
		c.next = time.Now().Add(c.every - time.Duration(c.sp.clock.now()-p.begun))
	}
	if p.ended != 0 {
		c.stats.LastPass = time.Unix(0, p.ended).UTC()
	}
}

// save writes the place to state.db.
func (c *scrubber) save(ctx context.Context) {
	p := c.place
	c.saved = time.Now()
	c.sp.state.disk.Lock()
	defer c.sp.state.disk.Unlock()
	if err := c.sp.state.setMeta(ctx, "scrub", fmt.Sprint(p.begun, p.ended, p.under, p.log, p.segment)); err != nil {
		c.sp.log.Debug("place of the scrubber was not written", "error", err)
	}
}

// pause waits; false: the spool is being closed.
func (c *scrubber) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.sp.closing:
		return false
	case <-t.C:
		return true
	}
}

// rest accounts for n bytes that were read and keeps the rate; while a log is
// busy it waits on, but not for ever.
func (c *scrubber) rest(n int64) bool {
	c.count(func(s *ScrubStats) { s.Bytes += uint64(n) })
	select {
	case <-c.sp.closing:
		return false
	default:
	}
	if c.owed += n; c.rate == 0 || c.owed < scrubPiece {
		return true
	}
	d := time.Duration(float64(c.owed) / float64(c.rate) * float64(time.Second))
	c.owed = 0
	for tries := 0; ; tries++ {
		if !c.pause(d) {
			return false
		}
		if tries >= scrubPatience || !c.sp.busy() {
			return true
		}
		d = scrubYield
	}
}

// busy reports whether something waits to be committed.
func (s *Spool) busy() bool {
	for _, l := range s.allLogs() {
		l.qmu.Lock()
		busy := !l.q.empty() || len(l.waiting) > 0
		l.qmu.Unlock()
		if busy {
			return true
		}
	}
	return false
}

// A scrubWalk follows a log from segment to segment: where every shard should
// go on. A nil next is not known.
type scrubWalk struct {
	log  *commitLog
	next map[record.ShardID]uint64
}

// scrubLog reads the segments of a log that are closed now.
func (c *scrubber) scrubLog(ctx context.Context, l *commitLog) bool {
	active := l.active()
	if active == nil {
		return true
	}
	w := scrubWalk{log: l}
	for {
		segs, i := l.following(c.place.segment)
		if i+1 >= len(segs) || segs[i].num >= active.num {
			return true
		}
		if w.next == nil {
			w.next = l.begin(ctx, segs, i)
		}
		if !c.scrubSegment(ctx, &w, segs, i) {
			return false
		}
		c.place.segment = segs[i].num
		c.count(func(s *ScrubStats) { s.Segments++ })
		if time.Since(c.saved) >= time.Minute {
			c.save(ctx)
		}
	}
}

// following finds the first segment with a number above num; behind the last
// one if there is none.
func (l *commitLog) following(num uint64) ([]*segment, int) {
	segs := l.segments()
	for i, s := range segs {
		if s.num > num {
			return segs, i
		}
	}
	return segs, len(segs)
}

// begin is where the shards stand when segs[i] begins; nil if that cannot be
// told.
func (l *commitLog) begin(ctx context.Context, segs []*segment, i int) map[record.ShardID]uint64 {
	if i > 0 {
		return headsOf(ctx, l, segs[i])
	}
	next := map[record.ShardID]uint64{}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, sh := range l.slots {
		next[sh.id] = sh.first.next
	}
	return next
}

// headsOf is where the shards stand when a segment begins; nil if it cannot
// tell.
func headsOf(ctx context.Context, l *commitLog, seg *segment) map[record.ShardID]uint64 {
	m, err := seg.loadMeta(ctx)
	l.sp.handles.used(seg)
	if err != nil {
		return nil
	}
	next := map[record.ShardID]uint64{}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, sh := range l.slots {
		next[sh.id] = m.head(sh.id).next
	}
	return next
}

// scrubSegment reads one closed segment. What retention removes meanwhile, or
// cannot be read for another reason than damage, is left for the next pass.
func (c *scrubber) scrubSegment(ctx context.Context, w *scrubWalk, segs []*segment, i int) bool {
	seg := segs[i]
	if !seg.sealed.Load() {
		w.next = nil
		return true
	}
	dropCached(seg.path)
	dropCached(chunkFileOf(seg.path))
	defer dropCached(seg.path)
	defer dropCached(chunkFileOf(seg.path))
	r := scrubRun{scrubber: c, walk: w, seg: seg}
	defer r.close()
	err := r.open(ctx)
	if err == nil {
		err = r.blocks(ctx, segs, i)
	}
	switch {
	case errors.Is(err, record.ErrClosed):
		return false
	case err == nil:
	case isDamage(err) || isForeign(seg.path):
		seg.forget() // so that readers see the same
		r.found(&record.CorruptError{File: seg.file(), Err: err, Hint: damageHint})
	default:
		if !seg.removed() {
			c.sp.log.Warn("segment could not be scrubbed", "file", seg.file(), "error", err)
		}
		w.next = nil
		return true
	}
	if end := headsOf(ctx, w.log, segs[i+1]); end != nil {
		for id, to := range end {
			r.gap(id, to, err)
		}
		w.next = end
	}
	return true
}
