package kinesisapi

import (
	"maps"
	"sync"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// A place is what stands in the sequence numbers of a shard, besides its
// counter.
type place struct {
	index   int       // of the shard in its stream
	created time.Time // of the shard
	// epoch is that in which its records were stored; 0 for the numbers that
	// are of no record.
	epoch record.Epoch
}

// placeOf gives a shard's place. A shard counts as created a second after its
// parents or later, so that along a line of shards the numbers rise.
func placeOf(_ *spool.Stream, sh spool.Shard) place {
	return place{index: sh.Index, created: sh.Created}
}

// moveTo takes over the epoch of a record, and reports whether it is another.
func (p *place) moveTo(r *record.Record) bool {
	if r.Origin == nil || r.Origin.Epoch == p.epoch {
		return false
	}
	p.epoch = r.Origin.Epoch
	return true
}

// sequence is the number that a client knows a record of the shard by.
func (p place) sequence(seq uint64) sequence { return newSequence(p, seq) }

// shardOf is the shard of a stream that a hash key belongs to now.
func shardOf(st *spool.Stream, h record.HashKey) spool.Shard { return shardOfHash(st.Shards(), h) }

// shardOfHash is the open one of a stream's shards that a hash key belongs to.
func shardOfHash(shards []spool.Shard, h record.HashKey) spool.Shard {
	for _, sh := range shards {
		if sh.Open() && h.Compare(sh.From) >= 0 && h.Compare(sh.To) <= 0 {
			return sh
		}
	}
	return spool.Shard{} // the open shards leave no gap
}

// epoch is that of what is stored from now on.
func (s *Server) epoch() record.Epoch { return s.spool.Identity().Epoch }

// layouts remembers the places of shards, so that a put does not ask the
// stream for all that it knows of them.
type layouts struct {
	live  func(*spool.Stream) bool // reports whether a stream has not been deleted
	epoch func() record.Epoch      // of what is stored now

	mu sync.Mutex
	of map[*spool.Stream]map[record.ShardID]place
}

// place gives a shard's place in its stream; false if it is of another. A shard
// that is not known is looked for again: a split may have made it.
func (l *layouts) place(st *spool.Stream, id record.ShardID) (place, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.of[st]
	if p, ok := known[id]; ok {
		return p, true
	}
	if l.of == nil {
		l.of = make(map[*spool.Stream]map[record.ShardID]place)
	}
	if known == nil { // a new stream, so that others may have gone
		maps.DeleteFunc(l.of, func(other *spool.Stream, _ map[record.ShardID]place) bool { return !l.live(other) })
	}
	m := make(map[record.ShardID]place)
	for _, sh := range st.Shards() {
		at := placeOf(st, sh)
		at.epoch = l.epoch()
		m[sh.ID] = at
	}
	l.of[st] = m
	p, ok := m[id]
	return p, ok
}
