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
	// partOverhead is about what a part takes beside its bytes.
	partOverhead = 128
)

// A feed brings a cursor behind the tail its share of what others of the same
// log read: a block holds records of many shards, so after an outage hundreds
// of cursors pass the same blocks. Whoever reads some hands each follower that
// stands there its part of them, so that they are read about once and not once
// by every cursor, and each cursor holds on to its own records only.
//
// A feed stands before block after of a segment: parts hold all of the shard
// that lies before it and that the cursor has not taken.
type feed struct {
	shard *shard

	mu    sync.Mutex
	seg   *segment // nil: it stands nowhere
	after int64
	parts []stored
	bytes int
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

// share hands every follower its parts of blocks that were read from a
// segment, from block from on.
func (s *feeds) share(seg *segment, from int64, run []stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(run) == 0 || len(s.all) == 0 {
		return
	}
	limit := min(max(feedBytes/len(s.all), leastFeed), mostFeed)
	thin := make([]*block, len(run))
	for f := range s.all {
		f.offer(seg, from, run, thin, limit)
	}
}

// stand puts the feed before a block, with nothing to take.
func (f *feed) stand(seg *segment, after int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seg, f.after, f.parts, f.bytes = seg, after, nil, 0
}

// take gives what came for the cursor and where the feed stands now; false if
// it does not stand in seg any more.
func (f *feed) take(seg *segment) (parts []stored, after int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	parts = f.parts
	f.parts, f.bytes = nil, 0
	return parts, f.after, f.seg == seg
}

// offer takes what follows where the feed stands, as far as there is room.
// thin are the blocks without what is not the follower's, made when one is
// needed first.
func (f *feed) offer(seg *segment, from int64, run []stored, thin []*block, limit int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seg != seg || f.after < from {
		return
	}
	for i, st := range run {
		if st.id < f.after {
			continue
		}
		if st.blk != nil && st.err == nil {
			g, n, ok := st.blk.groupAt(f.shard.id)
			if !ok {
				f.after = st.id + 1
				continue
			}
			size := int(st.blk.raw(n)) + partOverhead
			if f.bytes+size > limit {
				return
			}
			f.bytes += size
			if thin[i] == nil {
				thin[i] = st.blk.thin()
				f.bytes += 64*len(thin[i].sources) + 16*len(thin[i].types)
			}
			st = stored{id: st.id, blk: thin[i], part: st.blk.part(g, n)}
		}
		f.after = st.id + 1
		f.parts = append(f.parts, st)
	}
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
