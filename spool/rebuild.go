package spool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"forebay/spool/record"
)

// What a segment knows about everything before it can be damaged while its
// blocks are sound. Their heads have checksums of their own and say which
// numbers they hold, and the segments around tell the rest: so it is made
// again, in memory, and nothing but what is really damaged is lost. The file
// stays as it is.

// maxScanStuck is how many places in a row that cannot be read end a scan.
const maxScanStuck = 32

var errStuck = errors.New("nothing can be read behind")

// A blockScan is what the heads of a segment's blocks tell.
type blockScan struct {
	readable bool
	blocks   int64 // passed that count
	firstBad int64 // number of the first block that cannot be read, 0 for none
	bad      int64 // how many cannot
	maxArr   int64
	shards   map[record.ShardID]*shardScan
	sources  map[string]sourceTotal
}

type shardScan struct {
	first, past uint64
	block       int64 // that holds first
	bad         int64 // of the segment's blocks up to the shard's last one
	bytes       int64
	newest      int64
}

// hidden is how many numbers of a shard damage may hide behind the last that a
// scan found.
func (b *blockScan) hidden(id record.ShardID) uint64 {
	if !b.readable {
		return segmentJump
	}
	bad := b.bad
	if sh := b.shards[id]; sh != nil {
		bad -= sh.bad
	}
	return uint64(bad) * blockJump
}

// scanBlocks reads the heads of the blocks up to limit, of all where it is
// negative. It ends before a block with a number that below says is a later
// segment's: the block was never acknowledged.
func (s *segment) scanBlocks(ctx context.Context, limit int64, below map[record.ShardID]uint64) (*blockScan, error) {
	out := &blockScan{maxArr: minTime, shards: map[record.ShardID]*shardScan{}, sources: map[string]sourceTotal{}}
	last, err := s.lastBlock(ctx)
	if err != nil {
		if isDamage(err) || isForeign(s.path) || errors.Is(err, errGone) {
			return out, nil
		}
		return nil, err
	}
	if limit >= 0 {
		last = limit
	}
	stuck := 0
	errVoid := errors.New("never acknowledged")
	out.readable = true
	err = s.scanHeads(ctx, 1, last, func(st stored) error {
		if missing := st.id - out.blocks - 1; missing > 0 {
			out.miss(out.blocks+1, missing)
		}
		if st.err != nil {
			out.miss(st.id, 1)
			out.blocks = st.id
			if stuck++; stuck >= maxScanStuck {
				return errStuck
			}
			return nil
		}
		stuck = 0
		for _, g := range st.blk.groups {
			if at, ok := below[g.shard]; ok && g.first+uint64(g.count) > at {
				return errVoid
			}
		}
		out.add(st.blk)
		return nil
	})
	switch {
	case errors.Is(err, errStuck), errors.Is(err, errGone):
		out.readable = false
	case errors.Is(err, errVoid):
	case err != nil:
		return nil, err
	case out.blocks < last:
		out.miss(out.blocks+1, last-out.blocks)
		out.blocks = last
	}
	return out, nil
}

func (b *blockScan) miss(id, n int64) {
	if b.firstBad == 0 {
		b.firstBad = id
	}
	b.bad += n
}

func (b *blockScan) add(blk *block) {
	b.blocks = blk.id
	b.maxArr = max(b.maxArr, blk.maxArr)
	for i, g := range blk.groups {
		sh := b.shards[g.shard]
		if sh == nil {
			sh = &shardScan{first: g.first, block: blk.id}
			b.shards[g.shard] = sh
		}
		sh.past, sh.bad, sh.newest = g.first+uint64(g.count), b.bad, blk.maxArr
		sh.bytes += blk.raw(i) + g.outside
	}
	addSources(b.sources, blk.sources)
}

func addSources(to map[string]sourceTotal, rows []sourceRow) {
	for _, s := range rows {
		t := to[s.name]
		t.taken += s.count
		t.quarantined += s.quarantined
		t.last = max(t.last, s.last)
		to[s.name] = t
	}
}

// ownMeta is what a segment itself says about everything before it; nil where
// that is damaged.
func (s *segment) ownMeta(ctx context.Context) (*segMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta != nil && !s.meta.rebuilt {
		return s.meta, nil
	}
	err := s.open(ctx)
	if err == nil {
		var m *segMeta
		if m, err = readMeta(ctx, s.db, s.log, s.num); err == nil {
			return m, nil
		}
	}
	if isDamage(err) || isForeign(s.path) || errors.Is(err, errGone) {
		return nil, nil
	}
	return nil, err
}

// A rebuilding makes a segment's damaged head again.
type rebuilding struct {
	log   *commitLog
	segs  []*segment
	i     int // of the damaged one in segs
	own   *blockScan
	next  *segMeta                   // of the segments behind, the first that is sound; may be nil
	at    map[record.ShardID]uint64  // the shard's first number in this segment or later, at the latest
	base  map[record.ShardID]headRow // where the shard stood before, as far as that is known
	sure  map[record.ShardID]bool    // base is known
	doubt map[record.ShardID]uint64  // numbers that damage may hide before this segment
	meta  *segMeta
}

// rebuildMeta tells from the blocks what the damaged head of seg said. It fails
// only where something could not be read for now.
func (l *commitLog) rebuildMeta(ctx context.Context, seg *segment) (*segMeta, error) {
	segs := l.segments()
	r := &rebuilding{
		log: l, segs: segs, i: slices.Index(segs, seg), at: map[record.ShardID]uint64{}, base: map[record.ShardID]headRow{},
		sure: map[record.ShardID]bool{}, doubt: map[record.ShardID]uint64{},
		meta: &segMeta{rebuilt: true, prevBlocks: -1, maxArr: minTime, heads: map[record.ShardID]headRow{}, sources: map[string]sourceTotal{}},
	}
	if r.i < 0 {
		return nil, errGone
	}
	if err := r.forward(ctx); err != nil {
		return nil, err
	}
	if err := r.backward(ctx); err != nil {
		return nil, err
	}
	r.settle()
	what := "its blocks are sound and are served"
	if !r.own.readable || r.own.bad > 0 {
		what = "what can be read of its blocks is served"
	}
	l.sp.raise("corrupt", 2, fmt.Sprintf("the head of %s is damaged and was made again from the blocks around it; %s", seg.file(), what))
	return r.meta, nil
}

// forward finds out where shards begin in this segment and behind it.
func (r *rebuilding) forward(ctx context.Context) error {
	limit := int64(-1)
	for k := r.i; k < len(r.segs); k++ {
		var behind *segMeta
		var err error
		if k > r.i {
			if behind, err = r.segs[k].ownMeta(ctx); err != nil {
				return err
			}
		}
		if k == r.i+1 && behind != nil {
			limit = behind.prevBlocks
		}
		if k == r.i+1 {
			if r.own, err = r.segs[r.i].scanBlocks(ctx, limit, nil); err != nil {
				return err
			}
			r.begins(r.own)
		}
		if behind != nil {
			r.next = behind
			for _, sh := range r.slots() {
				if _, ok := r.at[sh.id]; !ok {
					r.at[sh.id] = behind.head(sh.id).next
				}
			}
			return nil
		}
		if k > r.i {
			scan, err := r.segs[k].scanBlocks(ctx, -1, nil)
			if err != nil {
				return err
			}
			r.begins(scan)
		}
	}
	if r.own == nil { // the newest
		var err error
		if r.own, err = r.segs[r.i].scanBlocks(ctx, -1, nil); err != nil {
			return err
		}
		r.begins(r.own)
	}
	return nil
}

func (r *rebuilding) slots() []*shard {
	r.log.mu.RLock()
	defer r.log.mu.RUnlock()
	return r.log.slots
}

func (r *rebuilding) begins(b *blockScan) {
	for id, sh := range b.shards {
		if _, ok := r.at[id]; !ok {
			r.at[id] = sh.first
		}
	}
}

// backward finds out where shards stood, and what sources had put in, when
// this segment began.
func (r *rebuilding) backward(ctx context.Context) error {
	var scans []*blockScan // the nearest first
	var sound *segMeta
	whole := true
	for k := r.i - 1; k >= 0 && sound == nil; k-- {
		scan, err := r.segs[k].scanBlocks(ctx, -1, r.at)
		if err != nil {
			return err
		}
		if k == r.i-1 && scan.readable {
			r.meta.prevBlocks = scan.blocks
		}
		scans = append(scans, scan)
		whole = whole && scan.readable && scan.bad == 0
		if sound, err = r.segs[k].ownMeta(ctx); err != nil {
			return err
		}
		r.log.sp.handles.used(r.segs[k])
	}
	for _, sh := range r.slots() {
		row, known := r.start(sh, sound)
		for _, scan := range slices.Backward(scans) {
			if got := scan.shards[sh.id]; got != nil {
				row.next, row.arrived, known = got.past, got.newest, true
				row.bytes += got.bytes
				r.doubt[sh.id] = 0
			}
			r.doubt[sh.id] += scan.hidden(sh.id)
		}
		r.base[sh.id], r.sure[sh.id] = row, known
	}
	if sound != nil {
		r.meta.maxArr = sound.maxArr
		maps.Copy(r.meta.sources, sound.sources)
	}
	for _, scan := range slices.Backward(scans) {
		r.meta.maxArr = max(r.meta.maxArr, scan.maxArr)
		for name, t := range scan.sources {
			was := r.meta.sources[name]
			r.meta.sources[name] = sourceTotal{was.taken + t.taken, was.quarantined + t.quarantined, max(was.last, t.last)}
		}
	}
	if !whole && r.next != nil {
		r.meta.maxArr = r.next.maxArr // who looks for a time rather begins too early
	}
	r.origin(sound)
	return nil
}

// start is where a shard stood in front of the segments that were scanned:
// what the sound one says, else what the ledger says is gone.
func (r *rebuilding) start(sh *shard, sound *segMeta) (headRow, bool) {
	if sound != nil {
		return sound.head(sh.id), true
	}
	if r.segs[0].num == 1 {
		return headRow{next: 1, arrived: minTime}, true
	}
	st := r.log.sp.state
	st.mu.Lock()
	defer st.mu.Unlock()
	return headRow{next: st.removedLocked(sh.stream.name, sh.id) + 1, arrived: minTime}, st.told.id > 0 && st.broken == nil
}

// origin chooses what the records' ids begin with: what the segments around
// begin with. A segment between two origins belongs to one of them.
func (r *rebuilding) origin(before *segMeta) {
	switch {
	case r.next != nil:
		r.meta.origin = r.next.origin
	case before != nil:
		r.meta.origin = before.origin
	default:
		r.meta.origin = r.log.sp.origin
	}
}

// settle makes the head.
func (r *rebuilding) settle() {
	for _, sh := range r.slots() {
		row := r.base[sh.id]
		at, behind := r.at[sh.id]
		got := r.own.shards[sh.id]
		switch {
		case r.own.readable && got != nil && (r.own.firstBad == 0 || got.block < r.own.firstBad),
			r.own.readable && got == nil && r.own.bad == 0 && behind,
			behind && (!r.sure[sh.id] || row.next > at):
			row.next = at // nothing that is damaged lies before it
		case !r.sure[sh.id]:
			row.next = 1
		}
		if r.next != nil && r.i == 0 {
			if row.bytes = r.next.head(sh.id).bytes; got != nil {
				row.bytes = max(0, row.bytes-got.bytes)
			}
		}
		r.meta.heads[sh.id] = row
		if got == nil && !behind {
			if r.meta.doubt == nil {
				r.meta.doubt = map[record.ShardID]uint64{}
			}
			r.meta.doubt[sh.id] = r.doubt[sh.id]
		}
	}
	// Times that are not known are no earlier than they were, so that nothing
	// is taken for older than it is.
	m, now := r.meta, r.log.sp.clock.now()
	m.created, m.prevWritten = now, now
	switch {
	case r.next != nil:
		m.created, m.prevWritten = r.next.prevWritten, r.next.prevWritten
	case r.log.written != 0:
		m.created, m.prevWritten = r.log.written, r.log.written
	}
}
