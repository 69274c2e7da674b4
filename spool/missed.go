package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"forebay/spool/record"
)

// loadChain reads the ledger's steps and verifies them.
func (s *stateDB) loadChain(ctx context.Context) error {
	c, err := readChain(ctx, s.db)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	s.head, s.told, s.sums, s.broken = c.head, c.head, c.sums, c.broken
	if c.broken != nil {
		told := slices.ContainsFunc(c.steps, func(st Step) bool { return st.Kind == StepBroken && st.Reason == c.broken.Error() })
		if !told {
			s.enter(Step{Kind: StepBroken, Count: 1, Reason: c.broken.Error()})
		}
	}
	return nil
}

// name notes whose shards a stream's are.
func (s *stateDB) name(t *Stream) { s.nameShards(t.name, t.all()) }

func (s *stateDB) nameShards(stream string, shards []*shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range shards {
		s.names[sh.id] = stream
	}
}

// enterMissed enters, before anything is written, what the ledger does not say
// yet: what a crash kept out of it, and what was lost before it began.
// migrated is the version of state.db that had none, else 0.
func (s *Spool) enterMissed(ctx context.Context, clean bool, migrated int, epoch string) error {
	st := s.state
	if s.state.broken != nil {
		s.raise("ledger", 2, "the loss ledger was changed by another hand: "+s.state.broken.Error())
	}
	if st.head.id == 0 && epoch == "" {
		epoch = "the spool was created"
	}
	if migrated > 0 && s.salvagedAt == nil {
		epoch = fmt.Sprintf("this ledger begins for a spool of format version %d", migrated)
	}
	if epoch != "" {
		st.enter(Step{Kind: StepEpoch, Who: s.identity.Epoch.String(), Reason: epoch})
	}
	gone := uint64(0)
	for _, l := range s.allLogs() {
		gone += st.enterMissedRemovals(l.slots, migrated > 0)
	}
	if gone > 0 {
		s.raise("ledger", 2, "found missing at opening, and nothing had said that they go: "+counted(gone)+"; forebay ledger --steps tells which")
	}
	if !clean || migrated > 0 {
		st.enterMissedCounts(migrated > 0)
	}
	if migrated > 0 {
		if err := st.setMeta(ctx, "migrated", 0); err != nil {
			return fmt.Errorf("write state.db: %w", storeError(err))
		}
	}
	err := s.flushState(ctx)
	if errors.Is(err, record.ErrFull) || errors.Is(err, record.ErrReadOnly) {
		s.raise("state", 1, "cursors and counts could not be written: "+err.Error())
		return nil // they stay in memory and are tried again
	}
	return err
}

// enterMissedRemovals compares where shards begin with what the ledger says is
// gone, and returns how many records are gone that it did not know of. A
// removal is entered before it is done. begins says that this ledger does.
func (s *stateDB) enterMissedRemovals(shards []*shard, begins bool) (gone uint64) {
	mins := s.mins()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range shards {
		told, first := s.removedLocked(sh.stream.name, sh.id)+1, sh.first.next
		st := Step{Stream: sh.stream.name, Shard: sh.id, First: told, Past: first}
		switch {
		case told < first && sh.stream.isDeleted:
			st.Kind, st.Reason = StepDeleted, "the stream was deleted; entered at opening, after a crash"
		case told < first && begins:
			st.Kind, st.Reason = StepExpired, "removed before this ledger began; why was not written down"
		case told < first:
			st.Kind, st.Reason = StepGone, "found missing at opening: a crash kept the reason out of the ledger, or the files were removed by another hand"
			gone += first - told
		case told > first:
			st.Kind, st.First, st.Past = StepKept, first, told
			st.Reason = "entered as removed, and still there at opening: a crash came first, or the files could not be removed"
		default:
			continue
		}
		st.Count = st.Past - st.First
		if st.Kind != StepKept {
			st.Undelivered = undeliveredIn(mins, sh.id, told, first)
		}
		s.enterLocked(st)
	}
	return gone
}

// enterMissedCounts enters the counts that are in state.db but not in the
// ledger: small parts are gathered in memory for a while.
func (s *stateDB) enterMissedCounts(begins bool) {
	reason := "entered at opening, after a crash"
	if begins {
		reason = "counted before this ledger began"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.shed {
		st := Step{Kind: StepShed, Who: name, Reason: reason}
		if told := s.sums[st.keyOf()].count; n > told {
			st.Count = n - told
			s.enterLocked(st)
		}
	}
	for k, p := range s.cursors {
		st := Step{Kind: StepRefused, Stream: s.names[k.shard], Shard: k.shard, First: p.start, Past: p.next, Who: k.name, Reason: reason}
		if told := s.sums[st.keyOf()].count - p.refusedBefore; p.refused > told {
			st.Count = p.refused - told
			s.enterLocked(st)
		}
	}
	if !begins {
		return
	}
	for shard, ranges := range s.corrupt {
		for _, r := range ranges {
			s.enterLocked(Step{Kind: StepCorrupt, Shard: shard, First: r.from, Past: r.to, Count: r.to - r.from, Reason: reason + ": block of " + r.file})
		}
	}
}

// undeliveredIn is how many of a shard's records from..to a cursor has not
// passed.
func undeliveredIn(mins map[record.ShardID]uint64, shard record.ShardID, from, to uint64) uint64 {
	place, ok := mins[shard]
	if from = max(from, place); !ok || from >= to {
		return 0
	}
	return to - from
}

// settleNumbers accepts, where damage was met, that the log's numbers are more
// than its sources' counts: the difference is what damage hid. Where none was
// met a difference stays, and the ledger does not balance. It is called before
// the log writes anything; torn says that damage was met.
func (l *commitLog) settleNumbers(ctx context.Context, torn bool) error {
	hidden := uncountedOf(l.slots, l.sources)
	if l.uncounted >= 0 && (!torn || hidden == l.uncounted) {
		return nil
	}
	l.uncounted = hidden
	if err := l.sp.state.exec(ctx, "UPDATE logs SET uncounted=? WHERE id=?", l.uncounted, l.num); err != nil {
		return fmt.Errorf("write state.db: %w", storeError(err))
	}
	return nil
}

// uncountedOf is how many numbers were given to records that the sources'
// counts do not have.
func uncountedOf(shards []*shard, sources map[string]sourceTotal) (n int64) {
	for _, sh := range shards {
		n += int64(sh.next - 1)
	}
	for _, t := range sources {
		n -= int64(t.taken)
	}
	return n
}

// flushState is flush; on a full disk the reserve is given up for it.
func (s *Spool) flushState(ctx context.Context) error {
	err := s.state.flush(ctx)
	if errors.Is(err, record.ErrFull) && s.releaseReserve() {
		err = s.state.flush(ctx)
	}
	return err
}
