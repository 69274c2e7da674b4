package spool

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sort"
	"sync/atomic"

	"forebay/spool/record"
)

// A shape is a stream's shards between two changes of them: which there are and
// which takes a record. It never changes; a split or a merge puts another in
// its place.
type shape struct {
	stream *Stream
	all    []*shard // by index
	open   []*shard // by hash range, which leave no gap
	keys   keyCache
	gone   bool // the stream was deleted

	// Guarded by the log's qmu.
	held   bool // nothing is let in, because another shape is on its way
	queued int  // items that are not settled
}

func newShape(t *Stream, all []*shard) *shape {
	s := &shape{stream: t, all: all}
	for _, sh := range all {
		if sh.closed == 0 {
			s.open = append(s.open, sh)
		}
	}
	slices.SortFunc(s.open, func(a, b *shard) int { return a.from.Compare(b.from) })
	if len(s.open) > 1 {
		s.keys.seed = maphash.MakeSeed()
		s.keys.make(fewKeys)
	}
	return s
}

// covers reports whether shards, by hash range, cover the ring once.
func covers(open []*shard) bool {
	var next record.HashKey
	for i, sh := range open {
		if sh.from != next || sh.from.Compare(sh.to) > 0 || i > 0 && next == (record.HashKey{}) {
			return false
		}
		next = hashAfter(sh.to)
	}
	return len(open) > 0 && next == record.HashKey{}
}

// all is every shard of the stream, open and closed, by index.
func (t *Stream) all() []*shard { return t.shape.Load().all }

// slotOf picks the shard of a record.
func (s *shape) slotOf(r *record.Record) int32 {
	if len(s.open) == 1 {
		return s.open[0].slot
	}
	if r.HashKey != nil {
		return s.slotOfHash(*r.HashKey)
	}
	at := s.keys.place(r.Key)
	if k := at.Load(); k != nil && k.key == r.Key {
		return k.slot
	}
	slot := s.slotOfHash(record.HashOf(r.Key))
	s.keys.missed()
	at.Store(&keySlot{key: string(append([]byte(nil), r.Key...)), slot: slot})
	return slot
}

func (s *shape) slotOfHash(h record.HashKey) int32 {
	i := sort.Search(len(s.open), func(i int) bool { return bytes.Compare(s.open[i].to[:], h[:]) >= 0 })
	return s.open[i].slot
}

// errReshaped says that the stream has other shards by now than those that an
// item's records were given to.
var errReshaped = errors.New("stream has other shards now")

// fit gives an item's records to the shards of this moment.
func (it *item) fit(s *shape) {
	it.shape = s
	if s.gone {
		return
	}
	for i := range it.recs {
		if it.slots[i] >= 0 {
			it.slots[i] = s.slotOf(&it.recs[i])
		}
	}
}

// hold lets nothing more of a shape into the log and waits until all that was
// let in is settled, so that what its shards hold is final. The caller lets it
// in again with resume, or puts another shape in its place before that.
func (l *commitLog) hold(ctx context.Context, s *shape) error {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	s.held = true
	for s.queued > 0 {
		room := l.room
		l.qmu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		}
		l.qmu.Lock()
		if ctx.Err() != nil {
			s.held = false
			l.wake()
			return context.Cause(ctx)
		}
	}
	return nil
}

// resume ends hold.
func (l *commitLog) resume(s *shape) {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	s.held = false
	l.wake()
}

// A keyCache remembers the shards of keys seen lately, because the MD5 of a
// key costs more than all else that appending a record does. It begins small,
// there may be hundreds of streams, and grows with the keys that it misses.
type keyCache struct {
	seed   maphash.Seed
	table  atomic.Pointer[[]atomic.Pointer[keySlot]]
	misses atomic.Uint32 // since it grew
}

const (
	fewKeys  = 64
	manyKeys = 4096
)

func (c *keyCache) make(n int) {
	table := make([]atomic.Pointer[keySlot], n)
	c.table.Store(&table)
}

// place is where the key is remembered, if it is.
func (c *keyCache) place(key string) *atomic.Pointer[keySlot] {
	table := *c.table.Load()
	return &table[maphash.String(c.seed, key)%uint64(len(table))]
}

// missed notes a key that was not there.
func (c *keyCache) missed() {
	n := len(*c.table.Load())
	if c.misses.Add(1) > uint32(2*n) && n < manyKeys {
		c.misses.Store(0)
		c.make(4 * n)
	}
}

type keySlot struct {
	key  string
	slot int32
}
