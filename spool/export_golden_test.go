package spool

import (
	"context"

	"forebay/spool/record"
)

// Place is where a cursor stands, without opening it.
func Place(s *Spool, name string, shard record.ShardID) (next uint64, ok bool) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	p := s.state.cursors[cursorKey{name, shard}]
	if p == nil {
		return 0, false
	}
	return p.next, true
}

// Flush makes cursors and counts durable now.
func Flush(s *Spool) error { return s.state.flush(context.Background()) }
