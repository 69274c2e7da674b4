package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"forebay/spool/record"
)

// erasedOf counts the records that a stream keeps and whose keys were erased.
func (s *Spool) erasedOf(t *Stream) (n uint64) {
	for _, sh := range t.all() {
		next, kept := sh.end()
		n += s.state.erasedIn(sh.id, kept, next)
	}
	return n
}

// ErrNotEncrypted is returned where a stream has no key that could be erased.
var ErrNotEncrypted = errors.New("stream is not encrypted")

// Erased is what Erase made unreadable.
type Erased struct {
	Stream  string
	Records uint64 // that were kept until now
	Keys    int
	At      time.Time
}

// Erase makes everything that an encrypted stream holds unreadable, at once and
// for good: its data key is deleted and the deletion is durable when Erase
// returns. The stream goes on with a new key. What lies below is answered to
// readers with a *record.ErasedError once, and its room comes free with
// retention. The ledger says that by did it; by may be empty.
//
// A backup that was made before still holds the wrapped key: destroy it, or
// change the master key (Rekey) and destroy the old one.
func (s *Spool) Erase(ctx context.Context, stream, by string) (Erased, error) {
	s.create.Lock()
	defer s.create.Unlock()
	t, err := s.Stream(stream)
	if err != nil {
		return Erased{}, err
	}
	if s.keys.newest(t.id) == nil {
		return Erased{}, fmt.Errorf("erase stream %q: %w", stream, ErrNotEncrypted)
	}
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return Erased{}, record.ErrClosed
	}
	l := t.log
	l.lockEmpty() // every commit with the old key is done, and none begins
	defer l.wmu.Unlock()
	out := Erased{Stream: stream, At: s.now()}
	first := map[record.ShardID]uint64{}
	for _, sh := range t.all() {
		first[sh.id], _ = sh.end()
	}
	before := s.erasedOf(t)
	fresh, old, err := s.eraseKeys(ctx, t, first, out.At, by)
	if fresh == nil {
		return Erased{}, fmt.Errorf("erase stream %q: %w", stream, err)
	}
	out.Keys = len(old.keys)
	s.state.addErased(old.ranges)
	s.keys.replace(old, fresh)
	out.Records = max(s.erasedOf(t), before) - before
	l.key.Store(fresh)
	l.forgetCached()
	if told := s.flushState(context.WithoutCancel(ctx)); told != nil {
		s.log.Warn("what else is new is not in the ledger's file yet; it is tried again", "stream", stream, "error", told)
	}
	s.log.Warn("stream was erased: its key is deleted", "stream", stream, "records", out.Records, "keys", out.Keys)
	if err != nil {
		return out, fmt.Errorf("stream %q is erased, but a trace of the wrapped key may be left in state.db; erase it again when the disk works: %w", stream, err)
	}
	return out, nil
}

// erasedSteps is what the ledger says of an erasure.
func (s *Spool) erasedSteps(t *Stream, old erasure, by string) (out []Step) {
	if by != "" {
		by = " by " + by
	}
	mins := s.state.mins()
	for _, sh := range t.all() {
		next, kept := sh.end()
		for _, g := range old.ranges[sh.id] {
			from, to := max(g.first, kept), min(g.past, next)
			if from >= to {
				continue
			}
			out = append(out, Step{
				Kind: StepErased, Stream: t.name, Shard: sh.id, First: from, Past: to, Count: to - from,
				Undelivered: undeliveredIn(mins, sh.id, from, to), Reason: fmt.Sprintf("key %d was deleted%s", g.key, by),
			})
		}
	}
	return out
}

// erasure is what was erased.
type erasure struct {
	keys   []uint32
	at     time.Time
	ranges map[record.ShardID][]sealedRange
}

// eraseKeys replaces a stream's keys in state.db, and enters it in the ledger, in
// one transaction. When it returns no error, no
// byte of the old ones is left in state.db or its WAL. With an error and a
// fresh key they are out of use, but may be left in the WAL.
func (s *Spool) eraseKeys(ctx context.Context, t *Stream, first map[record.ShardID]uint64, at time.Time, by string) (fresh *dataKey, old erasure, err error) {
	s.state.disk.Lock()
	defer s.state.disk.Unlock()
	old = erasure{at: at, ranges: map[record.ShardID][]sealedRange{}}
	var entered func()
	err = s.state.txn(ctx, func() error {
		err := s.voidKeys(ctx, t, first, &old)
		if err == nil {
			fresh, err = s.makeKey(ctx, t.id, first)
		}
		if err == nil {
			entered, err = s.state.enterWithin(ctx, s.erasedSteps(t, old, by))
		}
		return err
	})
	if err != nil {
		return nil, old, storeError(err)
	}
	entered()
	return fresh, old, s.state.db.truncateWAL(context.WithoutCancel(ctx))
}

// voidKeys deletes a stream's keys, within a transaction of state.db; what they
// sealed ends before first.
func (s *Spool) voidKeys(ctx context.Context, t *Stream, first map[record.ShardID]uint64, old *erasure) error {
	err := each(ctx, s.state.db, "SELECT id FROM keys WHERE stream=? AND wrapped IS NOT NULL", func(scan func(...any) error) error {
		var id uint32
		err := scan(&id)
		old.keys = append(old.keys, id)
		return err
	}, t.id)
	if err != nil {
		return err
	}
	for _, id := range old.keys {
		if err := s.state.exec(ctx, "UPDATE keys SET wrapped=NULL, erased=? WHERE id=?", old.at.UnixNano(), id); err != nil {
			return err
		}
		for shard, next := range first {
			if err := s.state.exec(ctx, "UPDATE sealed SET past=? WHERE key=? AND shard=? AND past=0", int64(next), id, shard); err != nil {
				return err
			}
		}
		if err := readSealed(ctx, s.state.db, old.ranges, "WHERE key=?", id); err != nil {
			return err
		}
	}
	return nil
}

// readSealed adds ranges from the table sealed.
func readSealed(ctx context.Context, db *database, to map[record.ShardID][]sealedRange, where string, args ...any) error {
	return each(ctx, db, "SELECT key, shard, first, past FROM sealed "+where, func(scan func(...any) error) error {
		var g sealedRange
		var shard record.ShardID
		err := scan(&g.key, &shard, &g.first, &g.past)
		to[shard] = append(to[shard], g)
		return err
	}, args...)
}

// replace puts a fresh key in the place of erased ones; nil where no more is
// sealed.
func (r *keyring) replace(old erasure, fresh *dataKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range old.keys {
		if k := r.live[id]; k != nil {
			clear(k.secret)
		}
		delete(r.live, id)
		delete(r.last, id)
		delete(r.lastOf, id)
		r.erased[id] = old.at
	}
	if fresh != nil {
		r.live[fresh.id] = fresh
	}
}

// loadErased reads which records were erased. A state.db of before has no such
// tables.
func (s *stateDB) loadErased(ctx context.Context) error {
	s.erased = map[record.ShardID][]sealedRange{}
	var tables int
	if err := s.db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name IN ('keys', 'sealed')").Scan(&tables); err != nil || tables < 2 {
		return err
	}
	return readSealed(ctx, s.db, s.erased, "WHERE key IN (SELECT id FROM keys WHERE wrapped IS NULL)")
}

// addErased takes up what was erased.
func (s *stateDB) addErased(ranges map[record.ShardID][]sealedRange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for shard, g := range ranges {
		s.erased[shard] = append(s.erased[shard], g...)
	}
}

// erasedIn counts the records of a shard in [from, to) whose key was erased and
// that are not known as damaged.
func (s *stateDB) erasedIn(shard record.ShardID, from, to uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.erasedInLocked(shard, from, to)
}

func (s *stateDB) erasedInLocked(shard record.ShardID, from, to uint64) (n uint64) {
	for _, g := range s.erased[shard] {
		a, b := max(g.first, from), min(g.past, to)
		if a >= b {
			continue
		}
		n += b - a
		for _, c := range s.corrupt[shard] {
			if x, y := max(c.from, a), min(c.to, b); x < y {
				n -= y - x
			}
		}
	}
	return n
}

// erasedPast is where the records of a shard end that were sealed with an
// erased key.
func (s *stateDB) erasedPast(shard record.ShardID, key uint32) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.erased[shard] {
		if g.key == key {
			return g.past
		}
	}
	return 0
}

// forget drops the blocks of a log.
func (c *coldCache) forget(log uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = slices.DeleteFunc(c.order, func(k coldKey) bool {
		if k.log != log {
			return false
		}
		c.bytes -= c.blocks[k].size() + 512
		delete(c.blocks, k)
		return true
	})
}

// forgetCached drops the blocks that are kept in memory for readers.
func (l *commitLog) forgetCached() {
	l.sp.cold.forget(l.num)
	l.feeds.forget()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cached, l.cachedLen = nil, 0
	for _, sh := range l.slots {
		sh.tail = nil
	}
}

// encrypt turns encryption on for a stream that was made without. What it
// holds already stays as it is. It must be alone in its log: the blocks of a
// log are sealed whole.
func (s *Spool) encrypt(ctx context.Context, t *Stream) error {
	l := t.log
	s.mu.Lock()
	alone := true
	for _, other := range s.streams {
		alone = alone && (other == t || other.log != l)
	}
	if alone { // nobody joins it any more
		for key, num := range s.logKeys {
			if num == l.num {
				delete(s.logKeys, key)
			}
		}
	}
	s.mu.Unlock()
	if !alone {
		return fmt.Errorf("encrypt: stream %q was made without encryption and shares its log with others; give a stream of another name encrypt = true, or set it before the spool is made", t.name)
	}
	l.lockEmpty()
	defer l.wmu.Unlock()
	first := map[record.ShardID]uint64{}
	for _, sh := range t.all() {
		first[sh.id], _ = sh.end()
	}
	s.state.disk.Lock()
	defer s.state.disk.Unlock()
	var k *dataKey
	err := s.state.txn(ctx, func() (err error) {
		k, err = s.makeKey(ctx, t.id, first)
		return err
	})
	if err != nil {
		return fmt.Errorf("encrypt stream %q: %w", t.name, err)
	}
	s.keys.add(k)
	l.key.Store(k)
	return nil
}

// Rekey wraps the data keys of a spool that no process has open with another
// master key, and returns how many there are. The data is not touched. old and
// fresh tell where the master keys lie.
func Rekey(ctx context.Context, dir string, old, fresh Config) (n int, err error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("change the master key: %w", err) }
	if err := checkFormats(dir); err != nil {
		return fail(err)
	}
	path, err := fresh.keyPath()
	if err != nil {
		return fail(err)
	}
	master, err := loadMasterKey(path, dir, fresh.KeyCredential != "")
	if err != nil {
		return fail(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	db, err := openState(ctx, systemSeam(), dir)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	r, err := openKeyring(ctx, db, old, dir)
	if err != nil {
		return fail(err)
	}
	st := &stateDB{db: db}
	err = st.txn(ctx, func() error {
		if err := st.exec(ctx, "DELETE FROM meta WHERE key='sum'"); err != nil { // it was of what stood here before
			return err
		}
		for id, k := range r.live {
			if err := st.exec(ctx, "UPDATE keys SET wrapped=?, master=? WHERE id=?", master.wrap(id, k.stream, k.secret), master.name, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = db.truncateWAL(ctx)
	}
	if err != nil {
		return fail(storeError(err))
	}
	return len(r.live), nil
}
