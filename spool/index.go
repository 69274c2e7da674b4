package spool

import (
	"slices"
	"sort"
	"sync"

	"forebay/spool/record"
)

// maxIndexEntries bounds the memory of one segment's index, 16 bytes each.
const maxIndexEntries = 16 << 10

type indexEntry struct {
	seq   uint64 // first sequence number of the shard in the block
	block int64
}

type timeEntry struct {
	block  int64
	maxArr int64 // greatest arrival in the segment's blocks up to and with block
}

// A segIndex is a sparse index of one segment: for every shard some of the
// blocks that hold it, and for some blocks the greatest arrival so far. A
// lookup names a block at or before the one wanted; the reader walks on from
// there. When it grows too large every second entry goes.
type segIndex struct {
	mu     sync.Mutex
	stride int64
	n      int
	shards map[record.ShardID][]indexEntry
	times  []timeEntry
	maxArr int64
}

func newSegIndex() *segIndex {
	return &segIndex{stride: 1, shards: map[record.ShardID][]indexEntry{}, maxArr: minTime}
}

// add takes up a block; blocks come in order.
func (x *segIndex) add(b *block) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.maxArr = max(x.maxArr, b.maxArr)
	if n := len(x.times); n == 0 || b.id-x.times[n-1].block >= x.stride {
		x.times = append(x.times, timeEntry{b.id, x.maxArr})
		x.n++
	}
	for _, g := range b.groups {
		e := x.shards[g.shard]
		if n := len(e); n == 0 || b.id-e[n-1].block >= x.stride {
			x.shards[g.shard] = append(e, indexEntry{g.first, b.id})
			x.n++
		}
	}
	for x.n > maxIndexEntries+len(x.shards) {
		x.thin()
	}
}

func (x *segIndex) thin() {
	x.stride *= 2
	x.n = 0
	for s, e := range x.shards {
		kept := e[:0]
		for i, v := range e {
			if i%2 == 0 {
				kept = append(kept, v)
			}
		}
		x.shards[s] = slices.Clip(kept)
		x.n += len(kept)
	}
	// Of the times the later one of a pair stays: an entry promises that
	// everything up to its block is below its maximum.
	kept := x.times[:0]
	for i, v := range x.times {
		if i%2 == 1 {
			kept = append(kept, v)
		}
	}
	x.times = kept
	x.n += len(kept)
}

// bySeq is the last known block that begins at or before seq in the shard; 1
// where none is known.
func (x *segIndex) bySeq(s record.ShardID, seq uint64) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.shards[s]
	i := sort.Search(len(e), func(i int) bool { return e[i].seq > seq })
	if i == 0 {
		return 1
	}
	return e[i-1].block
}

// byTime is a block such that all before it hold only arrivals before t.
func (x *segIndex) byTime(t int64) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := sort.Search(len(x.times), func(i int) bool { return x.times[i].maxArr >= t })
	if i == 0 {
		return 1
	}
	return x.times[i-1].block + 1
}
