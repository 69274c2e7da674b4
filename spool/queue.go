package spool

import (
	"slices"

	"forebay/spool/record"
)

// quantum is how many bytes of one source go before the next source's turn.
const quantum = 64 << 10

// An item is one Append: its records, and what became of those that are
// settled.
type item struct {
	shape  *shape // that slots are of
	source string
	recs   []record.Record
	slots  []int32
	res    []record.Result
	arr    int64 // stamp of records that bring none
	mono   int64
	taken  int // records handed to the writer
	bytes  int64
	behind error // of the commit that failed while this one waited for room
	told   bool  // its caller knows what became of all before it
	done   func([]record.Result)
}

// A sourceQueue holds one source's items in the order they came.
type sourceQueue struct {
	name  string
	items []*item
	bytes int64
}

// A fairQueue holds what waits for a log, by source. When more waits than
// fits into the next commit, every source gets its turn; within a source the
// order stays.
type fairQueue struct {
	bySource map[string]*sourceQueue
	ring     []*sourceQueue // those that have something
	turn     int
	bytes    int64 // of items that are not settled
	limit    int64
	untaken  int64  // bytes of records that were not taken yet
	items    int    // that were not taken whole
	pushed   uint64 // items ever
}

func newFairQueue(limit int64) *fairQueue {
	return &fairQueue{bySource: map[string]*sourceQueue{}, limit: limit}
}

// admits reports whether n bytes of the source may come in. One source alone
// fills at most half of the queue, and a source that has nothing waiting finds
// a place behind the limit, so that a flood never keeps another's single
// record out.
func (q *fairQueue) admits(source string, n int64) bool {
	s := q.bySource[source]
	if s == nil || len(s.items) == 0 {
		return q.bytes < q.limit+q.limit/2
	}
	return q.bytes+n <= q.limit && s.bytes+n <= q.limit/2
}

func (q *fairQueue) push(it *item) {
	s := q.bySource[it.source]
	if s == nil {
		s = &sourceQueue{name: it.source}
		q.bySource[it.source] = s
	}
	if len(s.items) == 0 {
		q.ring = append(q.ring, s)
	}
	s.items = append(s.items, it)
	s.bytes += it.bytes
	q.bytes += it.bytes
	q.untaken += it.bytes
	q.items++
	q.pushed++
	it.shape.queued++
}

func (q *fairQueue) empty() bool { return len(q.ring) == 0 }

// A piece is a run of an item's records.
type piece struct {
	it       *item
	from, to int
}

// take removes at least one record and about limit bytes, round robin by
// source. The bytes of what is taken stay in the count until release.
func (q *fairQueue) take(limit int64, out []piece) []piece {
	var total int64
	for total < limit && len(q.ring) > 0 {
		if q.turn >= len(q.ring) {
			q.turn = 0
		}
		s := q.ring[q.turn]
		share := min(quantum, limit-total)
		for n := int64(0); n < share && len(s.items) > 0; {
			it := s.items[0]
			p := piece{it: it, from: it.taken}
			for it.taken < len(it.recs) && n < share {
				size := int64(it.recs[it.taken].Size())
				n += size
				q.untaken -= size
				it.taken++
			}
			p.to = it.taken
			out = append(out, p)
			if it.taken == len(it.recs) {
				s.items[0] = nil
				s.items = s.items[1:]
				s.bytes -= it.bytes
				q.items--
			}
			if n >= share || len(s.items) == 0 {
				total += n
				break
			}
		}
		if len(s.items) == 0 {
			s.items = nil
			q.ring = append(q.ring[:q.turn], q.ring[q.turn+1:]...)
			delete(q.bySource, s.name)
			continue
		}
		q.turn++
	}
	return out
}

// drop takes out all that waits of a source.
func (q *fairQueue) drop(source string) []*item {
	s := q.bySource[source]
	if s == nil {
		return nil
	}
	delete(q.bySource, source)
	q.items -= len(s.items)
	for _, it := range s.items {
		for i := it.taken; i < len(it.recs); i++ {
			q.untaken -= int64(it.recs[i].Size())
		}
	}
	if i := slices.Index(q.ring, s); i >= 0 {
		q.ring = slices.Delete(q.ring, i, i+1)
		if i < q.turn {
			q.turn--
		}
	}
	return s.items
}

// release gives back the room of a settled item.
func (q *fairQueue) release(it *item) {
	q.bytes -= it.bytes
	it.shape.queued--
}
