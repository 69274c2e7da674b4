package spool

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"forebay/spool/record"
)

// maxClosed bounds how many closed shards a stream may have: each stands in
// every segment's head.
const maxClosed = 8 * MaxShards

// Split closes an open shard and opens two in its place: the upper one takes
// the hashes from at on. When it returns nil the change is durable and whole:
// everything that was appended before is in the parent, and everything after it
// in the children. Appends wait meanwhile. The parent's cursors get places at
// the beginning of the children, which count as undelivered. record.ErrNoShard,
// record.ErrShardClosed, a *record.InvalidError where at is not inside of the
// shard's range; after any error nothing has changed.
func (s *Spool) Split(ctx context.Context, t *Stream, id record.ShardID, at record.HashKey) error {
	err := s.reshape(ctx, t, func(p *reshaping) error {
		sh, err := p.open(id)
		if err != nil {
			return err
		}
		if at.Compare(sh.from) <= 0 || at.Compare(sh.to) > 0 {
			return &record.InvalidError{Field: "hash key", Reason: fmt.Sprintf("%x is not inside of the range of shard %d, %x to %x", at, id, sh.from, sh.to)}
		}
		p.split(sh, at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("split shard %d of stream %q: %w", id, t.name, err)
	}
	return nil
}

// Merge closes two open shards whose hash ranges meet and opens one in their
// place; as Split otherwise.
func (s *Spool) Merge(ctx context.Context, t *Stream, a, b record.ShardID) error {
	err := s.reshape(ctx, t, func(p *reshaping) error {
		one, err := p.open(a)
		if err != nil {
			return err
		}
		two, err := p.open(b)
		if err != nil {
			return err
		}
		if one.from.Compare(two.from) > 0 {
			one, two = two, one
		}
		if one == two || hashAfter(one.to) != two.from {
			return &record.InvalidError{Field: "hash range", Reason: fmt.Sprintf("of shard %d does not meet that of shard %d", a, b)}
		}
		p.merge(one, two)
		return nil
	})
	if err != nil {
		return fmt.Errorf("merge shards %d and %d of stream %q: %w", a, b, t.name, err)
	}
	return nil
}

// Rescale splits and merges until n open shards divide the hashes evenly, all in
// one change; as Split otherwise. Shards that come and go on the way stay
// without records. It does nothing where the shards are so already.
func (s *Spool) Rescale(ctx context.Context, t *Stream, n int) error {
	err := s.reshape(ctx, t, func(p *reshaping) error {
		if n < 1 || n > MaxShards {
			return &record.InvalidError{Field: "number of shards", Reason: fmt.Sprintf("%d is not from 1 to %d", n, MaxShards)}
		}
		p.rescale(n)
		return nil
	})
	if err != nil {
		return fmt.Errorf("rescale stream %q to %d shards: %w", t.name, n, err)
	}
	return nil
}

// A reshaping is a change of a stream's shards, planned and then carried out.
type reshaping struct {
	t       *Stream
	old     *shape
	all     []*shard // the old ones and those to be made
	closing []*shard
	fresh   []*shard
	parents map[*shard][]*shard
	now     int64
	heirs   map[cursorKey]*place // as they were written, see inherited
}

func (p *reshaping) open(id record.ShardID) (*shard, error) {
	for _, sh := range p.old.all {
		switch {
		case sh.id != id:
		case sh.closed != 0:
			return nil, fmt.Errorf("%w: shard %d", record.ErrShardClosed, id)
		default:
			return sh, nil
		}
	}
	return nil, fmt.Errorf("%w: stream %q has no shard %d", record.ErrNoShard, p.t.name, id)
}

func (p *reshaping) child(from, to record.HashKey, parents ...*shard) *shard {
	sh := &shard{stream: p.t, index: len(p.all), from: from, to: to, opened: p.now}
	for _, parent := range parents {
		sh.opened = max(sh.opened, parent.opened+int64(time.Second))
		p.closing = append(p.closing, parent)
	}
	p.all, p.fresh, p.parents[sh] = append(p.all, sh), append(p.fresh, sh), parents
	return sh
}

func (p *reshaping) split(sh *shard, at record.HashKey) (lower, upper *shard) {
	lower, upper = p.child(sh.from, hashBefore(at), sh), p.child(at, sh.to, sh)
	p.closing = p.closing[:len(p.closing)-1] // it is the parent of both
	return lower, upper
}

func (p *reshaping) merge(a, b *shard) *shard { return p.child(a.from, b.to, a, b) }

// rescale cuts the open shards where one of n even ranges begins, and merges
// what lies within one.
func (p *reshaping) rescale(n int) {
	rest := slices.Clone(p.old.open)
	for i := range n {
		from, to := hashRange(i, n)
		var whole *shard
		for len(rest) > 0 && rest[0].from.Compare(to) <= 0 {
			piece := rest[0]
			rest = rest[1:]
			if piece.from.Compare(from) < 0 { // begins in a range before: cannot be, it was cut there
				continue
			}
			if piece.to.Compare(to) > 0 {
				lower, upper := p.split(piece, hashAfter(to))
				piece, rest = lower, slices.Insert(rest, 0, upper)
			}
			if whole == nil {
				whole = piece
			} else {
				whole = p.merge(whole, piece)
			}
		}
	}
}

// reshape carries out a plan. The order is what keeps a key's records in order
// over it: nothing is let in, what was let in is committed, the change is made
// durable, and only then do the children take records.
func (s *Spool) reshape(ctx context.Context, t *Stream, plan func(*reshaping) error) error {
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
	p := &reshaping{t: t, old: old, all: slices.Clone(old.all), parents: map[*shard][]*shard{}, now: s.now().UnixNano()}
	if err := plan(p); err != nil {
		return err
	}
	if len(p.fresh) == 0 {
		return nil
	}
	if n := len(p.all) - len(old.open); n > maxClosed {
		return &record.InvalidError{Field: "number of closed shards", Reason: fmt.Sprintf("would be %d, and %d are allowed", n, maxClosed)}
	}
	if err := t.log.hold(ctx, old); err != nil {
		return err
	}
	defer t.log.resume(old) // by then another shape has its place, unless this failed
	if err := s.writeShards(ctx, p); err != nil {
		return err
	}
	p.publish(context.WithoutCancel(ctx))
	s.log.Info("stream has other shards", "stream", t.name, "closed", len(p.closing), "opened", len(p.fresh), "open", len(t.shape.Load().open))
	s.writeShapes()
	return nil
}

// writeShards writes the change to state.db in one transaction; all that the
// closing shards hold is committed.
func (s *Spool) writeShards(ctx context.Context, p *reshaping) error {
	s.state.disk.Lock()
	defer s.state.disk.Unlock()
	key := s.keys.newest(p.t.id)
	err := s.state.txn(ctx, func() error {
		for _, sh := range p.fresh {
			if err := s.insertShard(ctx, sh, p.parents[sh]); err != nil {
				return err
			}
			if key == nil {
				continue
			}
			if err := s.state.exec(ctx, "INSERT INTO sealed VALUES(?,?,1,0)", key.id, sh.id); err != nil {
				return err
			}
		}
		p.heirs = p.inherited()
		for k, at := range p.heirs {
			if err := s.state.writeCursor(ctx, k, at); err != nil {
				return err
			}
		}
		for _, sh := range p.closing {
			next := uint64(1) // of one that is closed before it was ever open
			if sh.log != nil {
				next, _ = sh.end()
			}
			if err := s.state.exec(ctx, "UPDATE shards SET closed=?, next=? WHERE id=?", max(p.now, sh.opened), int64(next), sh.id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return storeError(err)
	}
	if err := s.state.db.truncateWAL(context.WithoutCancel(ctx)); err != nil { // as for a new stream
		s.log.Warn("split or merge stays in the WAL of state.db for now", "stream", p.t.name, "error", err)
	}
	return nil
}

// insertShard writes a new shard to state.db and gives it its id.
func (s *Spool) insertShard(ctx context.Context, sh *shard, parents []*shard) error {
	var ids [2]record.ShardID
	sh.parents = nil
	for i, parent := range parents {
		ids[i] = parent.id
		sh.parents = append(sh.parents, parent.id)
	}
	res, err := s.state.db.ExecContext(ctx, "INSERT INTO shards(stream, idx, hash_from, hash_to, next, opened, closed, parent, adjacent) VALUES(?,?,?,?,1,?,0,?,?)",
		sh.stream.id, sh.index, sh.from[:], sh.to[:], sh.opened, ids[0], ids[1])
	if err != nil {
		return err
	}
	id, err := res.LastInsertId()
	sh.id = record.ShardID(id)
	return err
}

// publish puts the new shards into the log and in the place of the old ones, and
// tells the readers of those that they have ended.
func (p *reshaping) publish(ctx context.Context) {
	t, l := p.t, p.t.log
	l.lockEmpty()
	for _, sh := range p.fresh {
		l.addShard(sh)
	}
	l.mu.Lock()
	for _, sh := range p.fresh {
		for _, parent := range p.parents[sh] {
			parent.children = append(slices.Clip(parent.children), sh.id)
		}
	}
	for _, sh := range p.closing {
		sh.closed = max(p.now, sh.opened)
		sh.wake()
	}
	p.bequeath()
	// In one step with the end of the parents: who reads that sees the children.
	next := newShape(t, p.all)
	t.shape.Store(next)
	l.mu.Unlock()
	t.sp.state.nameShards(t.name, p.fresh)
	if err := l.nameShards(ctx); err != nil {
		t.sp.log.Warn("the active segment does not list new shards; the next one does", "stream", t.name, "error", err)
	}
	l.wmu.Unlock()
	t.mu.Lock()
	t.cfg.Shards = len(next.open)
	t.mu.Unlock()
}

// inherited is the places that the cursors of the parents get in their children:
// what comes into those is as undelivered as what is left in the parents, and
// must not go because nobody has come to it yet.
func (p *reshaping) inherited() map[cursorKey]*place {
	st := p.t.sp.state
	st.mu.Lock()
	defer st.mu.Unlock()
	return p.inheritedLocked()
}

func (p *reshaping) inheritedLocked() map[cursorKey]*place {
	st := p.t.sp.state
	names := map[record.ShardID]map[string]bool{}
	for k := range st.cursors {
		if names[k.shard] == nil {
			names[k.shard] = map[string]bool{}
		}
		names[k.shard][k.name] = true
	}
	out := map[cursorKey]*place{}
	for _, sh := range p.fresh { // parents before their children
		all := map[string]bool{}
		for _, parent := range p.parents[sh] {
			maps.Copy(all, names[parent.id])
		}
		names[sh.id] = all
		if slices.Contains(p.closing, sh) {
			continue // it never takes a record
		}
		for name := range all {
			out[cursorKey{name, sh.id}] = &place{start: 1, next: 1, moved: p.t.sp.clock.now()}
		}
	}
	return out
}

// bequeath takes up the inherited places, of the cursors that there are now.
func (p *reshaping) bequeath() {
	st := p.t.sp.state
	st.mu.Lock()
	defer st.mu.Unlock()
	heirs := p.inheritedLocked()
	maps.Copy(st.cursors, heirs)
	for k := range heirs {
		st.dirtyC[k] = struct{}{}
	}
	for k := range p.heirs { // dropped since it was written, or the same
		st.dirtyC[k] = struct{}{}
	}
	touch(st.kick)
}

// wake lets the shard's readers look again; the log's mu is held.
func (sh *shard) wake() {
	if sh.waiters != nil {
		close(sh.waiters)
		sh.waiters = nil
	}
}

// ended is the end of a closed shard for a reader that stands at pos; nil where
// there is more, or may be.
func (sh *shard) ended(pos uint64) error {
	sh.log.mu.RLock()
	defer sh.log.mu.RUnlock()
	if sh.closed == 0 || pos < sh.next {
		return nil
	}
	return &record.ShardEndError{Shard: sh.id, Children: slices.Clone(sh.children)}
}

// hashAfter is the hash key that follows, 0 after the last.
func hashAfter(h record.HashKey) record.HashKey { return hashPlus(h, 1) }

func hashBefore(h record.HashKey) record.HashKey { return hashPlus(h, -1) }

func hashPlus(h record.HashKey, n int64) record.HashKey {
	ring := new(big.Int).Lsh(big.NewInt(1), 128)
	v := new(big.Int).SetBytes(h[:])
	v.Add(v, big.NewInt(n)).Mod(v, ring)
	v.FillBytes(h[:])
	return h
}

// maxNote bounds what a door may keep with a stream, bytes.
const maxNote = 256 << 10

// Note is what a door keeps with the stream; "" at first.
func (t *Stream) Note() string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.note
}

// SetNote puts another note in the place of the stream's; it is durable when it
// returns nil. It is for what belongs to the stream and is no record, such as
// its tags: at most 256 KiB, else a *record.InvalidError.
func (s *Spool) SetNote(ctx context.Context, t *Stream, note string) error {
	if len(note) > maxNote {
		return &record.InvalidError{Field: "note", Reason: fmt.Sprintf("has %d bytes, and %d are allowed", len(note), maxNote), TooLarge: true}
	}
	s.create.Lock()
	defer s.create.Unlock()
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	switch {
	case closed:
		return record.ErrClosed
	case t.shape.Load().gone:
		return t.deleted()
	}
	s.state.disk.Lock()
	err := s.state.txn(ctx, func() error {
		return s.state.exec(ctx, "UPDATE streams SET note=? WHERE id=?", note, t.id)
	})
	s.state.disk.Unlock()
	if err != nil {
		return fmt.Errorf("keep a note with stream %q: %w", t.name, storeError(err))
	}
	t.mu.Lock()
	t.note = note
	t.mu.Unlock()
	s.writeShapes()
	return nil
}
