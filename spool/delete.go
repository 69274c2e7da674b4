package spool

import (
	"context"
	"fmt"
	"strings"

	"forebay/spool/record"
)

// A deleted stream's row keeps its name with a number behind a space, which no
// stream's name has, so that the name is free again.

// plainName is a stream's name as it was.
func plainName(stored string) string {
	name, _, _ := strings.Cut(stored, " ")
	return name
}

// plainNameSQL is plainName of the table streams, as t.
const plainNameSQL = "substr(t.name, 1, instr(t.name||' ', ' ')-1)"

func (t *Stream) deleted() error {
	return fmt.Errorf("%w: %q was deleted", record.ErrNoStream, t.name)
}

// Delete deletes a stream with all that it holds; it is durable when Delete
// returns nil. What was appended before is settled first, what comes after gets
// record.ErrNoStream, and so do readers and cursors. Its cursors are dropped.
// The ledger counts the records as gone and says how many of them a cursor had
// not passed, and that by did it; by may be empty. An encrypted stream's keys are
// destroyed. Another stream may have the name at once.
//
// The room of its records comes free when nothing that is kept lies before them
// in their log.
func (s *Spool) Delete(ctx context.Context, name, by string) error {
	t, err := s.Stream(name)
	if err != nil {
		return err
	}
	s.create.Lock()
	defer s.create.Unlock()
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	old := t.shape.Load()
	switch {
	case closed:
		return record.ErrClosed
	case old.gone:
		return t.deleted()
	}
	if err := t.log.hold(ctx, old); err != nil {
		return fmt.Errorf("delete stream %q: %w", name, err)
	}
	defer t.log.resume(old)
	keys, trace, err := s.writeDeleted(ctx, t)
	if err != nil {
		return fmt.Errorf("delete stream %q: %w", name, storeError(err))
	}
	ctx = context.WithoutCancel(ctx) // what was begun is brought to its end
	if len(keys.keys) > 0 {
		s.state.addErased(keys.ranges)
		s.keys.replace(keys, nil)
		t.log.forgetCached()
	}
	gone := newShape(t, old.all)
	gone.gone = true
	t.shape.Store(gone)
	s.mu.Lock()
	delete(s.streams, name)
	s.mu.Unlock()
	undelivered := s.enterDeleted(t, by)
	t.log.reckon()
	if err := s.flushState(ctx); err != nil {
		s.log.Warn("deletion is not in the ledger's file yet; it is tried again", "stream", name, "error", err)
	}
	touch(s.state.moved)
	s.log.Warn("stream was deleted", "stream", name, "by", by, "undelivered", undelivered)
	s.writeShapes()
	if trace != nil && len(keys.keys) > 0 {
		return fmt.Errorf("stream %q is deleted, but a trace of its wrapped key may be left in state.db until the spool is opened again: %w", name, trace)
	}
	return nil
}

// writeDeleted writes a deletion to state.db, that of the stream's keys with it,
// in one transaction; nothing of the stream is on its way into its log. trace is
// why they may still lie in the WAL.
func (s *Spool) writeDeleted(ctx context.Context, t *Stream) (keys erasure, trace, err error) {
	at := s.now()
	keys = erasure{at: at, ranges: map[record.ShardID][]sealedRange{}}
	ends := map[record.ShardID]uint64{}
	for _, sh := range t.all() {
		ends[sh.id], _ = sh.end()
	}
	s.state.disk.Lock()
	defer s.state.disk.Unlock()
	err = s.state.txn(ctx, func() error {
		err := s.state.exec(ctx, "UPDATE streams SET name=?, deleted=? WHERE id=?", fmt.Sprintf("%s %d", t.name, t.id), at.UnixNano(), t.id)
		for id, next := range ends {
			if err == nil {
				err = s.state.exec(ctx, "UPDATE shards SET next=? WHERE id=?", int64(next), id)
			}
		}
		if err == nil {
			err = s.voidKeys(ctx, t, ends, &keys)
		}
		return err
	})
	if err != nil {
		return keys, nil, err
	}
	if trace = s.state.db.truncateWAL(context.WithoutCancel(ctx)); trace != nil { // as for a new stream
		s.log.Warn("deletion stays in the WAL of state.db for now", "stream", t.name, "error", trace)
	}
	return keys, trace, nil
}

// enterDeleted takes a deleted stream's records out of what is kept, and its
// cursors with them.
func (s *Spool) enterDeleted(t *Stream, by string) (undelivered uint64) {
	mins := s.state.mins()
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	of := map[record.ShardID]bool{}
	for _, sh := range t.all() {
		of[sh.id] = true
		if from, next := sh.first.next, sh.next; from < next {
			st := Step{
				Kind: StepDeleted, Stream: t.name, Shard: sh.id, First: from, Past: next, Count: next - from,
				Undelivered: undeliveredIn(mins, sh.id, from, next), Who: by, Reason: "the stream was deleted",
			}
			undelivered += st.Undelivered
			s.state.enterLocked(st)
		}
		sh.first = headRow{sh.next, sh.bytes, sh.newest}
		sh.wake()
	}
	s.state.forgetCursors(of)
	return undelivered
}

// forgetDeleted lets a shard of a stream that was deleted hold nothing, when the
// spool is opened.
func (sh *shard) forgetDeleted() {
	if sh.stream.isDeleted {
		sh.first = headRow{sh.next, sh.bytes, sh.newest}
	}
}

// forgetCursors drops the cursors of shards that are gone; mu is held. One that
// is open is told by its reader.
func (s *stateDB) forgetCursors(of map[record.ShardID]bool) {
	for k := range s.cursors {
		if of[k.shard] {
			delete(s.cursors, k)
			s.dirtyC[k] = struct{}{}
		}
	}
	touch(s.kick)
}

// dropDeleted forgets, at opening, cursors that a crash left on streams which
// were deleted.
func (s *stateDB) dropDeleted(streams map[int64]*Stream) {
	of := map[record.ShardID]bool{}
	for _, t := range streams {
		if t.isDeleted {
			for _, sh := range t.all() {
				of[sh.id] = true
			}
		}
	}
	if len(of) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetCursors(of)
}

// sweepDead removes the oldest segments of a log while nothing lies in them but
// what deleted streams held. roomMu is held.
func (s *Spool) sweepDead(ctx context.Context, l *commitLog, mins map[record.ShardID]uint64) {
	for {
		judged, _ := l.oldest()
		dead, err := l.oldestDead(ctx)
		if err != nil {
			s.cannotJudge(l, err)
		}
		if !dead || s.removeOldest(ctx, l, judged, mins, removal{StepDeleted, "the stream was deleted"}) == stuck {
			return
		}
	}
}

// oldestDead reports whether streams were deleted and the oldest segment holds
// nothing else.
func (l *commitLog) oldestDead(ctx context.Context) (bool, error) {
	l.mu.RLock()
	slots, segs := l.slots, l.segs
	firsts, ends := make([]uint64, len(slots)), make([]uint64, len(slots))
	deleted := false
	for i, sh := range slots {
		firsts[i], ends[i] = sh.first.next, sh.next
		deleted = deleted || sh.stream.shape.Load().gone
	}
	l.mu.RUnlock()
	if !deleted || len(segs) == 0 || len(segs) == 1 && segs[0].blocks.Load() <= 0 {
		return false, nil
	}
	for i, sh := range slots {
		end, err := sh.headAt(ctx, segs, 1, ends[i])
		if err != nil || end > firsts[i] {
			return false, err
		}
	}
	return true, nil
}
