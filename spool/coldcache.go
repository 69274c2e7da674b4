package spool

import "sync"

// coldBytes bounds the blocks that readers behind the tail share, over all
// logs.
const coldBytes = 8 << 20

// A coldCache holds blocks that were read from segments lately. Readers of
// several shards of a log pass the same blocks one after the other; so each is
// read, verified and unpacked once.
type coldCache struct {
	mu     sync.Mutex
	blocks map[coldKey]*block
	order  []coldKey // as they came
	bytes  int64
}

type coldKey struct {
	log uint32
	seg uint64
	id  int64
}

// readerBytes is about how much a reader behind the tail holds on to by itself,
// at least one block; there may be a reader per shard.
const readerBytes = 128 << 10

// run is the blocks from..to as far as they are there, without a gap, and about
// readerBytes of them; nil if the first is not.
func (c *coldCache) run(s *segment, from, to int64) []stored {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []stored
	for size := int64(0); from <= to && size < readerBytes; from++ {
		b := c.blocks[coldKey{s.log, s.num, from}]
		if b == nil {
			break
		}
		size += b.size()
		out = append(out, stored{id: from, blk: b})
	}
	return out
}

// add keeps the sound ones of a run.
func (c *coldCache) add(s *segment, run []stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks == nil {
		c.blocks = map[coldKey]*block{}
	}
	for _, st := range run {
		k := coldKey{s.log, s.num, st.id}
		if st.err != nil || c.blocks[k] != nil {
			continue
		}
		c.blocks[k] = st.blk
		c.order = append(c.order, k)
		c.bytes += st.blk.size() + 512
	}
	drop := 0
	for c.bytes > coldBytes && drop < len(c.order)-1 {
		c.bytes -= c.blocks[c.order[drop]].size() + 512
		delete(c.blocks, c.order[drop])
		drop++
	}
	c.order = append(c.order[:0], c.order[drop:]...)
}
