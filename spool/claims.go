package spool

import (
	"cmp"
	"slices"

	"forebay/spool/record"
)

// A Claim is what a cursor says of one shard: which records it has passed, from
// Start up to Next, Next not included, and what became of them:
// Next - Start = Delivered + Filtered + Refused + Expired + Corrupt.
type Claim struct {
	Stream      string
	Shard       record.ShardID
	Start, Next uint64
	Delivered   uint64
	Filtered    uint64
	Refused     uint64
	Expired     uint64
	Corrupt     uint64
}

// Claims lists what the cursors of a name say, by stream and shard. Each is of
// one moment; records that are passed meanwhile are in some and not in others.
// Deleted streams are not among them.
func (s *Spool) Claims(name string) []Claim {
	var out []Claim
	for _, t := range s.Streams() {
		for _, sh := range t.Shards() {
			s.state.mu.Lock()
			if p := s.state.cursors[cursorKey{name, sh.ID}]; p != nil {
				out = append(out, Claim{
					Stream: t.name, Shard: sh.ID, Start: p.start, Next: p.next,
					Delivered: p.delivered, Filtered: p.filtered, Refused: p.refused, Expired: p.expired, Corrupt: p.corrupt,
				})
			}
			s.state.mu.Unlock()
		}
	}
	slices.SortFunc(out, func(a, b Claim) int { return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Shard, b.Shard)) })
	return out
}
