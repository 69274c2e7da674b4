package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

const (
	queueBytes = 16 << 20 // that may wait for one log
	txnBytes   = 4 << 20  // that one commit takes from the queue
	cacheBytes = 4 << 20  // of committed blocks that a log keeps for readers at its end
)

func parent(path string) string { return filepath.Dir(path) }

// A commitLog is the streams of one class and retention: one writer, one
// commit, a sequence of segments.
//
// Lock order: wmu before mu; qmu alone; a segment's mu after mu is released.
type commitLog struct {
	sp  *Spool
	num uint32
	dir string
	log *slog.Logger

	// wmu is held while something is encoded or the active segment changes. It
	// guards the fields up to mu. Who changes the segment takes it by lockEmpty.
	wmu     sync.Mutex
	w       *segWriter // nil after a failed write, until a new segment is open
	enc     encoder
	next    []uint64 // by slot, ahead of the published ones by what is on its way
	own     []*shard // by slot, the writer's copy
	ids     []record.ShardID
	rolled  time.Time // when the active segment was opened
	retryAt time.Time // not before this is a new segment tried
	suspect error     // why w is nil
	written int64     // when the log was last written before an orderly close, retention clock; else 0

	mu        sync.RWMutex
	slots     []*shard
	segs      []*segment // oldest first; the last one is active
	sources   map[string]sourceTotal
	uncounted int64                     // records that have numbers but whose source is not known any more; -1: not reckoned yet
	torn      bool                      // damage was met at opening
	doubt     map[record.ShardID]uint64 // how many numbers damage may hide behind the last that was found, at opening
	maxArr    int64
	cached    []*block // newest blocks, oldest first
	cachedLen int64

	qmu     sync.Mutex
	cond    *sync.Cond
	q       *fairQueue
	room    chan struct{} // closed and replaced whenever room comes free
	closing bool
	waiting map[*item]struct{} // appends that wait for room
	failing map[string]error   // sources whose commit failed, until all of it has been told
	told    told

	key   atomic.Pointer[dataKey] // that blocks are sealed with; nil: they are not. Changed while wmu is held
	keeps atomic.Pointer[retention]
	full  atomic.Bool // producers are held back
	// refused is the last commit that found no room, until as much was stored
	// or there is clearly room.
	refused atomic.Pointer[refusal]
	bad     atomic.Uint64
	quiet   chan struct{} // closed when the writer has ended

	pipe  pipeline
	pace  pace
	ahead aheadMaker
	feeds feeds
}

// A shard is a numbered sequence of records within a stream.
type shard struct {
	id     record.ShardID
	stream *Stream
	index  int
	from   record.HashKey
	to     record.HashKey
	log    *commitLog
	slot   int32
	// opened is when it was, by the wall clock, nanoseconds; parents is what it
	// was split or merged from.
	opened  int64
	parents []record.ShardID

	// guarded by log.mu
	closed   int64 // when it was split or merged, wall clock, nanoseconds; 0: it takes records
	children []record.ShardID
	first    headRow // where the oldest segment begins
	next     uint64
	bytes    int64 // ever, in blocks and chunk files
	newest   int64
	tail     []tailEntry // the cached blocks that hold the shard, oldest first
	waiters  chan struct{}
	oldest   oldestArrival
}

type tailEntry struct {
	g group
	b *block
}

// oldestArrival remembers when the oldest kept record arrived.
type oldestArrival struct {
	seq uint64
	arr int64
}

func newCommitLog(sp *Spool, num uint32) *commitLog {
	l := &commitLog{
		sp: sp, num: num, dir: filepath.Join(sp.dir, logDir(num)), log: sp.log.With("log", num),
		enc: encoder{boot: sp.identity.Boot}, sources: map[string]sourceTotal{}, maxArr: minTime,
		q: newFairQueue(queueBytes), waiting: map[*item]struct{}{}, room: make(chan struct{}), quiet: make(chan struct{}),
		pipe: newPipeline(), feeds: feeds{lead: make(chan struct{}, 1)},
	}
	l.enc.pack.off = sp.cfg.NoPacking
	l.cond = sync.NewCond(&l.qmu)
	l.keeps.Store(&retention{})
	return l
}

// addShard makes room for a shard; ids rise.
func (l *commitLog) addShard(sh *shard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sh.log, sh.slot = l, int32(len(l.slots))
	sh.first, sh.next, sh.newest = headRow{next: 1, arrived: minTime}, 1, minTime
	l.slots = append(l.slots, sh)
}

func (l *commitLog) shardByID(id record.ShardID) *shard {
	i, ok := slices.BinarySearchFunc(l.slots, id, func(s *shard, id record.ShardID) int { return cmp.Compare(s.id, id) })
	if !ok {
		return nil
	}
	return l.slots[i]
}

// append queues an item; see Stream.Append.
func (l *commitLog) append(ctx context.Context, it *item) error {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	defer delete(l.waiting, it)
	for {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case l.closing:
			return record.ErrClosed
		case it.behind != nil:
			return it.behind
		case l.failing[it.source] != nil && (!it.told || !l.lastTold(it.source)):
			return l.failing[it.source]
		case it.shape.stream.shape.Load() != it.shape:
			return errReshaped
		case it.shape.gone:
			return it.shape.stream.deleted()
		case l.full.Load():
			return fmt.Errorf("append to log %d: %w", l.num, record.ErrFull)
		}
		if l.failing[it.source] == nil && !it.shape.held && l.q.admits(it.source, it.bytes) {
			l.q.push(it)
			l.cond.Signal()
			return nil
		}
		l.waiting[it] = struct{}{}
		room := l.room
		l.qmu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		}
		l.qmu.Lock()
	}
}

// wake lets those who wait for room look again; qmu is held.
func (l *commitLog) wake() {
	close(l.room)
	l.room = make(chan struct{})
}

// active is the segment that is written now.
func (l *commitLog) active() *segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.segs) == 0 {
		return nil
	}
	return l.segs[len(l.segs)-1]
}

// openNext creates the next segment with the heads of this moment and makes it
// the active one; wmu is held.
func (l *commitLog) openNext(ctx context.Context) error {
	l.mu.RLock()
	n := newSegment{
		log: l.num, num: 1, wall: l.sp.now().UnixNano(),
		meta: segMeta{origin: l.sp.origin, created: l.sp.clock.now(), maxArr: l.maxArr, prevBlocks: -1, heads: map[record.ShardID]headRow{}, sources: maps.Clone(l.sources)},
	}
	if k := len(l.segs); k > 0 {
		old := l.segs[k-1]
		n.num, n.prev, n.meta.prevBlocks = old.num+1, old.num, old.blocks.Load()
		n.meta.prevWritten = old.closed.Load()
	}
	names := make(map[record.ShardID]*shard, len(l.slots))
	for _, sh := range l.slots {
		names[sh.id] = sh
		n.meta.heads[sh.id] = headRow{sh.next, sh.bytes, sh.newest}
	}
	l.mu.RUnlock()
	n.names = func(id record.ShardID) (string, int) { return names[id].stream.name, names[id].index }
	seg := &segment{log: l.num, num: n.num, path: filepath.Join(l.dir, segmentFile(n.num)), keys: l.sp.keys, remake: l.rebuildMeta, meta: &n.meta, index: newSegIndex()}
	defer l.ahead.hold()()
	err := createSegment(ctx, l.sp.seam, seg.path, n)
	var w *segWriter
	if err == nil {
		w, err = l.openSegWriter(ctx, seg, true)
	}
	if err != nil {
		return l.withdraw(seg, err)
	}
	l.mu.Lock()
	if len(l.segs) == 0 {
		for _, sh := range l.slots {
			sh.first = n.meta.head(sh.id)
		}
	}
	seg.closed.Store(n.meta.created)
	l.segs = append(l.segs, seg)
	l.mu.Unlock()
	l.w, l.rolled = w, time.Now()
	l.sp.clear("segment")
	seg.measure()
	return nil
}

// withdraw takes a new segment back that could not be opened. Its heads say that
// nothing counts that the one before takes from now on; so where it is not gone
// for sure, that one is not written any more. wmu is held.
func (l *commitLog) withdraw(seg *segment, cause error) error {
	there, err := exists(seg.path)
	if err == nil && there {
		err = seg.remove(l.sp.seam.disk)
	}
	if err == nil {
		return cause
	}
	cause = errors.Join(cause, fmt.Errorf("take %s back: %w", seg.file(), err))
	if l.w != nil {
		l.suspect, l.retryAt = l.sp.storeError(cause), time.Time{}
		l.sp.retire(l, l.w)
		l.w = nil
	}
	return cause
}

// count takes a block into the heads; mu is held.
func (l *commitLog) count(b *block) {
	l.maxArr = max(l.maxArr, b.maxArr)
	for i, g := range b.groups {
		sh := l.shardByID(g.shard)
		if sh == nil {
			continue
		}
		sh.next = g.first + uint64(g.count)
		sh.bytes += b.raw(i) + g.outside
		sh.newest = b.maxArr
	}
	addSources(l.sources, b.sources)
}

// evict keeps the cache of blocks within its bound; mu is held.
func (l *commitLog) evict() {
	drop := 0
	for l.cachedLen > cacheBytes && drop < len(l.cached)-1 {
		b := l.cached[drop]
		l.cachedLen -= b.size() + 512
		for _, g := range b.groups {
			sh := l.shardByID(g.shard)
			sh.tail[0] = tailEntry{}
			sh.tail = sh.tail[1:]
		}
		l.cached[drop] = nil
		drop++
	}
	l.cached = l.cached[drop:]
}

// damaged notes a block that cannot be read: all that its head tells is lost.
// Where the head is damaged too, the range is noted by the reader that meets
// the gap.
func (l *commitLog) damaged(seg *segment, st stored) {
	if _, erased := errors.AsType[*erasedKey](st.err); erased || st.blk == nil {
		return
	}
	for _, g := range st.blk.groups {
		l.sp.state.addCorrupt(corruptRange{shard: g.shard, from: g.first, to: g.first + uint64(g.count), file: seg.file(), block: st.id})
	}
}

// segment finds a segment by its number.
func (l *commitLog) segment(num uint64) *segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].num >= num })
	if i < len(l.segs) && l.segs[i].num == num {
		return l.segs[i]
	}
	return nil
}
