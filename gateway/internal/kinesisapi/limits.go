package kinesisapi

import (
	"maps"
	"sync"

	"forebay/spool"
)

const (
	// shardLimit is how many open shards a box may have in all.
	shardLimit = 1024
	// knownShardLimit is how many shards a box may list in all, the closed ones
	// that are still within their stream's retention counted.
	knownShardLimit = 8 * shardLimit

	defaultRecordKiB = 1024 // MaxRecordSizeInKiB, where nobody set it
	leastRecordKiB   = 1024
	mostRecordKiB    = 10240
)

// recordLimits remembers what the notes of streams say about the size of a
// record: every put asks.
type recordLimits struct {
	mu sync.RWMutex
	of map[*spool.Stream]recordLimit
}

type recordLimit struct {
	note  string // that the limit was read from
	bytes int
}

// recordLimit is how many bytes a record of the stream may have, data and key.
func (s *Server) recordLimit(st *spool.Stream) int {
	text := st.Note()
	if text == "" {
		return defaultRecordKiB << 10
	}
	l := &s.limits
	l.mu.RLock()
	known, ok := l.of[st]
	l.mu.RUnlock()
	if ok && known.note == text { // the same bytes, so that comparing them is free
		return known.bytes
	}
	n, err := s.noteOf(st)
	if err != nil {
		s.log.Error("note of a stream cannot be read; its records may have the default size", "stream", st.Name(), "error", err)
	}
	known = recordLimit{note: text, bytes: n.recordKiB() << 10}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[*spool.Stream]recordLimit)
	}
	if !ok {
		maps.DeleteFunc(l.of, func(other *spool.Stream, _ recordLimit) bool { return !s.knows(other) })
	}
	l.of[st] = known
	return known.bytes
}

// recordKiB is MaxRecordSizeInKiB.
func (n note) recordKiB() int {
	if n.MaxRecordKiB == 0 {
		return defaultRecordKiB
	}
	return n.MaxRecordKiB
}

// setRecordKiB keeps MaxRecordSizeInKiB; the default leaves no trace.
func (n *note) setRecordKiB(kib *int) {
	n.MaxRecordKiB = 0
	if kib != nil && *kib != defaultRecordKiB {
		n.MaxRecordKiB = *kib
	}
}

// knows reports whether the spool still has this very stream, and not one of
// the same name that was made later.
func (s *Server) knows(st *spool.Stream) bool {
	now, err := s.spool.Stream(st.Name())
	return err == nil && now == st
}

// openShards counts the open shards of all streams, and those that are listed.
func (s *Server) openShards() (open, listed int) {
	for _, st := range s.spool.Streams() {
		v := s.view(st)
		open += v.open()
		listed += len(v.listed)
	}
	return open, listed
}

// roomFor refuses where more open shards, or more shards in all, would be
// beyond what a box may have.
func (s *Server) roomFor(open, made int) error {
	have, listed := s.openShards()
	if have+open > shardLimit {
		return refuse("LimitExceededException", "This request would exceed the shard limit for the account %s in %s. Current shard count for the account: %d. Limit: %d. Number of additional shards that would have resulted from this request: %d.",
			s.cfg.Account, s.cfg.Region, have, shardLimit, open)
	}
	if listed+made > knownShardLimit {
		return refuse("LimitExceededException", "This request would exceed the limit of %d shards for the account %s in %s, closed shards counted.",
			knownShardLimit, s.cfg.Account, s.cfg.Region)
	}
	return nil
}
