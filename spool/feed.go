package spool

import (
	"sync"

	"forebay/spool/record"
)

const (
	// feedBytes is about what all feeds of a log may hold together; one may hold
	// leastFeed in any case and mostFeed at most.
	feedBytes           = 32 << 20
	leastFeed, mostFeed = 64 << 10, 1 << 20
	// leadReach is how many blocks before its own place a cursor begins to read
	// for others; leadMost is how many runs of blocks it reads from there on.
	leadReach, leadMost = 64, 64
	// partOverhead is about what a part takes beside its bytes.
	partOverhead = 128
)

// A feed brings a cursor behind the tail its share of what others of the same
// log read: a block holds records of many shards, so after an outage hundreds
// of cursors pass the same blocks. Whoever reads some hands each follower that
// stands there its part of them, so that they are read about once and not once
// by every cursor, and each cursor holds on to its own records only.
type feed struct {
	shard *shard

	mu sync.Mutex
	// here is where its cursor reads; ahead is in the next segment, for one
	// that has all of here and has not passed it yet.
	here, ahead spot

	came chan struct{} // room for one: there is something to take
}

// A spot is before block after of a segment: parts hold all of the shard that
// lies before it and that the cursor has not taken.
type spot struct {
	seg   *segment // nil: it is nowhere
	after int64
	parts []stored
	bytes int
	next  *segment // where seg goes on; nil until all of seg was seen
}

// A stretch is what one cursor reads for all: of a segment that has last blocks,
// and goes on in next, nil if it is not full yet.
type stretch struct {
	seg  *segment
	last int64
	next *segment
}

func newFeed(s *shard) *feed {
	return &feed{shard: s, came: make(chan struct{}, 1)}
}

// feeds are those of a log.
type feeds struct {
	mu  sync.Mutex
	all map[*feed]struct{}

	// lead has room for one: who reads for all.
	lead chan struct{}
}

// join adds a feed; leave ends it.
func (s *feeds) join(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*feed]struct{}{}
	}
	s.all[f] = struct{}{}
}

func (s *feeds) leave(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, f)
}

// forget empties all feeds; their cursors find their places again.
func (s *feeds) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.all {
		f.stand(nil, 0)
	}
}

// limit is what each may hold; s.mu is held.
func (s *feeds) limit() int {
	return min(max(feedBytes/max(len(s.all), 1), leastFeed), mostFeed)
}

// share hands every follower its parts of blocks that were read, from block
// from on. It reports whether as many took some that the next blocks are worth
// reading for them.
func (s *feeds) share(x stretch, from int64, run []stored) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(run) == 0 {
		return false
	}
	limit, took := s.limit(), 0
	thin := make([]*block, len(run))
	for f := range s.all {
		if f.offer(x, from, run, thin, limit) {
			took++
		}
	}
	return took > 1 && took >= len(s.all)/4
}

// hindmost is where to begin so that those who stand shortly before a block, and
// have nothing much to take, are served too.
func (s *feeds) hindmost(seg *segment, after int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, first := s.limit(), after
	for f := range s.all {
		f.mu.Lock()
		if p := f.in(seg); p != nil && p.after >= after-leadReach && f.here.bytes+f.ahead.bytes < limit/2 {
			first = min(first, p.after)
		}
		f.mu.Unlock()
	}
	return first
}

// reached reports whether the feed has taken all of a segment before a block.
func (f *feed) reached(seg *segment, after int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.in(seg)
	return p != nil && p.after >= after
}

// in is the feed's place in a segment; f.mu is held.
func (f *feed) in(seg *segment) *spot {
	switch {
	case seg == nil:
		return nil
	case f.here.seg == seg:
		return &f.here
	case f.ahead.seg == seg:
		return &f.ahead
	case f.here.next == seg:
		f.ahead = spot{seg: seg, after: 1}
		return &f.ahead
	}
	return nil
}

// stand puts the feed before a block, with nothing to take.
func (f *feed) stand(seg *segment, after int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.here, f.ahead = spot{seg: seg, after: after}, spot{}
}

// enter is stand for a cursor that enters a segment: it has what came ahead.
func (f *feed) enter(seg *segment, after int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ahead.seg != seg || after != 1 {
		f.ahead = spot{seg: seg, after: after}
	}
	f.here, f.ahead = f.ahead, spot{}
}

// take gives what came for the cursor and where the feed stands now; false if
// it does not stand in seg any more.
func (f *feed) take(seg *segment) (parts []stored, after int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	parts = f.here.parts
	f.here.parts, f.here.bytes = nil, 0
	return parts, f.here.after, f.here.seg == seg
}

// offer takes what follows where the feed stands, as far as there is room; false
// if that is nothing.
// thin are the blocks without what is not the follower's, made when one is
// needed first.
func (f *feed) offer(x stretch, from int64, run []stored, thin []*block, limit int) (took bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.in(x.seg)
	if p == nil || p.after < from {
		return false
	}
	for i, st := range run {
		if st.id < p.after {
			continue
		}
		if st.blk != nil && st.err == nil {
			g, n, ok := st.blk.groupAt(f.shard.id)
			if !ok {
				p.after = st.id + 1
				continue
			}
			size := int(st.blk.raw(n)) + partOverhead
			if f.here.bytes+f.ahead.bytes+size > limit {
				return took
			}
			p.bytes += size
			if thin[i] == nil {
				thin[i] = st.blk.thin()
				p.bytes += 64*len(thin[i].sources) + 16*len(thin[i].types)
			}
			st = stored{id: st.id, blk: thin[i], part: st.blk.part(g, n)}
		}
		p.after = st.id + 1
		p.parts, took = append(p.parts, st), true
		select {
		case f.came <- struct{}{}:
		default:
		}
	}
	if p.after > x.last {
		p.next = x.next
	}
	return took
}

// A part is one shard's records of a block, apart from it.
type part struct {
	group
	body []byte // begins with the group
}

// part copies the n-th group out of the block.
func (b *block) part(g group, n int) *part {
	body := append([]byte(nil), b.body[g.off:int64(g.off)+b.raw(n)]...)
	g.off = 0
	return &part{group: g, body: body}
}

// of is what was read without what is not the shard's, so that it does not hold
// on to that.
func (st stored) of(s record.ShardID) stored {
	if st.blk == nil || st.err != nil || len(st.blk.groups) == 1 {
		return st
	}
	if g, n, ok := st.blk.groupAt(s); ok {
		st.blk, st.part = st.blk.thin(), st.blk.part(g, n)
	}
	return st
}

// thin is the block without its groups and their bytes.
func (b *block) thin() *block {
	t := *b
	t.groups, t.head, t.body, t.stored = nil, nil, nil, nil
	return &t
}

// reader decodes the part's records; b is the block that it is of.
func (p *part) reader(b *block, log uint32) groupReader {
	return groupReader{b: b, g: p.group, log: log, d: decoder{b: p.body}}
}
