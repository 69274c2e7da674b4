package spool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

// batchBytes is about how much one step of a reader yields.
const batchBytes = 1 << 20

// A Start says where a reader begins.
type Start struct {
	kind startKind
	seq  uint64
	at   time.Time
}

type startKind uint8

const (
	startOldest startKind = iota
	startNewest
	startAfter
	startSince
	startSinceEvent
)

// Oldest begins at the oldest record that is kept.
func Oldest() Start { return Start{} }

// Newest begins behind the newest record of this moment.
func Newest() Start { return Start{kind: startNewest} }

// After begins behind sequence number seq. After(0) is the first record ever:
// what is no longer kept of it is reported as a *record.TrimmedError.
func After(seq uint64) Start { return Start{kind: startAfter, seq: seq} }

// Since begins at the first record that arrived at t or later, by our wall
// clock. Order is by sequence number: where the clock went backwards, earlier
// arrivals may follow.
func Since(t time.Time) Start { return Start{kind: startSince, at: t} }

// SinceEvent begins at the first record, in sequence order, whose own time
// (record.Record.At) is t or later; a record without one counts by its arrival.
// Senders' clocks differ and jump: earlier times may follow, and later ones may
// have gone before.
func SinceEvent(t time.Time) Start { return Start{kind: startSinceEvent, at: t} }

// A Reader follows one shard. It is used by one goroutine at a time, Pos and
// Behind included; Close may be called from another.
type Reader struct {
	sh     *shard
	pos    uint64 // sequence number wanted next
	limit  uint64 // sequence number to stop at, 0 for none
	cur    groupReader
	has    bool
	recs   []record.Record
	run    []stored     // read from a segment, not yet passed
	seg    *segment     // that run is from
	after  int64        // block number behind run
	feed   *feed        // what others bring; nil: it reads for itself alone
	fed    *atomic.Bool // feed stands in seg
	lost   func(kind lossKind, from, to uint64)
	saw    func([]record.Record) // what is yielded
	closed chan struct{}
	once   *sync.Once
}

type lossKind uint8

const (
	lossExpired lossKind = iota
	lossCorrupt
)

func newReader(sh *shard, pos uint64) Reader {
	return Reader{sh: sh, pos: pos, fed: &atomic.Bool{}, closed: make(chan struct{}), once: &sync.Once{}}
}

// Reader follows a shard without a durable place. record.ErrNoShard.
func (t *Stream) Reader(shard record.ShardID, from Start) (*Reader, error) {
	sh, err := t.shard(shard)
	if err != nil {
		return nil, err
	}
	pos, err := sh.resolve(context.Background(), from)
	if err != nil {
		return nil, err
	}
	r := newReader(sh, pos)
	return &r, nil
}

// Scan yields what is stored now, in order, and ends at the record that was
// newest when it was called. A batch is a view that is valid until the next
// step. *record.TrimmedError and *record.CorruptError are yielded once and the
// scan goes on behind the loss; after any other error it ends.
func (t *Stream) Scan(ctx context.Context, shard record.ShardID, from Start) iter.Seq2[record.Batch, error] {
	return func(yield func(record.Batch, error) bool) {
		sh, err := t.shard(shard)
		if err != nil {
			yield(record.Batch{}, err)
			return
		}
		pos, err := sh.resolve(ctx, from)
		if err != nil {
			yield(record.Batch{}, err)
			return
		}
		r := newReader(sh, pos)
		r.limit, _ = sh.end()
		defer r.Close()
		for {
			if err := ctx.Err(); err != nil {
				yield(record.Batch{}, context.Cause(ctx))
				return
			}
			b, err := r.Poll(ctx, 1<<20)
			switch {
			case err != nil && !isLoss(err):
				yield(record.Batch{}, err)
				return
			case err == nil && len(b.Recs) == 0:
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// isLoss reports whether a reader goes on behind the error.
func isLoss(err error) bool {
	if _, ok := errors.AsType[*record.TrimmedError](err); ok {
		return true
	}
	_, ok := errors.AsType[*record.CorruptError](err)
	return ok
}

// end is the next sequence number of the shard and the first that is kept.
func (sh *shard) end() (next, first uint64) {
	sh.log.mu.RLock()
	defer sh.log.mu.RUnlock()
	return sh.next, sh.first.next
}

// Next waits for records and yields at most max of them (at least one) and
// about 1 MiB. The
// batch is a view that is valid until the next call. A *record.TrimmedError or
// *record.CorruptError says what is lost; the reader goes on behind it at the
// next call. A *record.ShardEndError says, as often as it is asked, that the
// shard was split or merged and all of it was read; record.ErrNoStream that the
// stream was deleted; record.ErrClosed that the reader or the spool was closed.
func (r *Reader) Next(ctx context.Context, max int) (record.Batch, error) {
	for {
		b, err := r.Poll(ctx, max)
		if err != nil || len(b.Recs) > 0 {
			return b, err
		}
		wait := r.sh.wait(r.pos)
		if wait == nil {
			continue
		}
		select {
		case <-wait:
		case <-r.closed:
			return record.Batch{}, record.ErrClosed
		case <-r.sh.log.sp.closing:
			return record.Batch{}, record.ErrClosed
		case <-ctx.Done():
			return record.Batch{}, context.Cause(ctx)
		}
	}
}

// wait is a channel that closes with the next commit to the shard; nil if
// there is something at pos already.
func (sh *shard) wait(pos uint64) <-chan struct{} {
	sh.log.mu.Lock()
	defer sh.log.mu.Unlock()
	if pos < sh.next || sh.closed != 0 || sh.stream.shape.Load().gone {
		return nil
	}
	if sh.waiters == nil {
		sh.waiters = make(chan struct{})
	}
	return sh.waiters
}

// Poll is Next without waiting: an empty batch means that nothing is there
// now.
func (r *Reader) Poll(ctx context.Context, max int) (record.Batch, error) {
	sp := r.sh.log.sp
	if err := sp.enter(); err != nil {
		return record.Batch{}, err
	}
	defer sp.leave()
	select {
	case <-r.closed:
		return record.Batch{}, record.ErrClosed
	default:
	}
	if t := r.sh.stream; t.shape.Load().gone {
		return record.Batch{Shard: r.sh.id, Next: r.pos}, t.deleted()
	}
	for {
		if r.has && r.cur.left() > 0 {
			if e, gone := r.erasedSince(r.cur.b); gone {
				return record.Batch{Shard: r.sh.id, Next: r.pos}, r.erased(r.cur.g, e)
			}
			b, err := r.decode(max)
			if !errors.Is(err, errGone) {
				return b, err
			}
			r.has = false // retention took the segment; find out what is left
		}
		found, err := r.seek(ctx)
		if err == nil && !found {
			r.idle()
			err = r.ended()
		}
		if err != nil || !found {
			return record.Batch{Shard: r.sh.id, Next: r.pos}, err
		}
	}
}

// ended is why nothing comes behind what was read, if that is so: the shard was
// split or merged.
func (r *Reader) ended() error {
	if r.limit != 0 && r.pos >= r.limit {
		return nil // of a scan
	}
	return r.sh.ended(r.pos)
}

// idleRecords is how many records' room a reader keeps that waits for more.
const idleRecords = 256

// idle lets go of the blocks that were read: there may be a reader for every
// shard, and most of them wait most of the time.
func (r *Reader) idle() {
	r.cur = groupReader{}
	r.warm()
	if cap(r.recs) > idleRecords {
		r.recs = nil
	} else if len(r.recs) > 0 {
		clear(r.recs[:cap(r.recs)])
		r.recs = r.recs[:0]
	}
}

// enter keeps the spool's files open until leave.
func (s *Spool) enter() error {
	s.reading.RLock()
	select {
	case <-s.closing:
		s.reading.RUnlock()
		return record.ErrClosed
	default:
		return nil
	}
}

func (s *Spool) leave() { s.reading.RUnlock() }

// Pos is the sequence number that the reader reads next.
func (r *Reader) Pos() uint64 { return r.pos }

// Behind is how many records lie between the reader and the newest.
func (r *Reader) Behind() uint64 {
	next, first := r.sh.end()
	return next - min(next, max(r.pos, first))
}

// Close ends the reader; a Next that waits gets record.ErrClosed.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.closed)
		if r.feed != nil {
			r.sh.log.feeds.leave(r.feed)
		}
	})
	return nil
}

// decode yields records of the current block, at least one.
func (r *Reader) decode(limit int) (record.Batch, error) {
	limit = max(limit, 1)
	r.recs = r.recs[:0]
	size := 0
	for r.cur.left() > 0 && len(r.recs) < limit && size < batchBytes && (r.limit == 0 || r.pos < r.limit) {
		before := r.cur
		r.recs = append(r.recs, record.Record{})
		rec := &r.recs[len(r.recs)-1]
		out, err := r.cur.next(rec)
		whole := err == nil
		if whole && out.n > 0 {
			rec.Data, err = r.readOutside(out)
		}
		if err != nil {
			r.recs = r.recs[:len(r.recs)-1]
			if errors.Is(err, errGone) || len(r.recs) > 0 {
				r.cur = before
				if len(r.recs) > 0 {
					break // what is good first
				}
				return record.Batch{}, err
			}
			to := r.pos + 1
			if !whole { // the rest of the block cannot be found
				to = r.cur.g.first + uint64(r.cur.g.count)
				r.has = false
			}
			b := r.cur.b
			return record.Batch{}, r.damage(r.sh.log.segment(b.seg), b.id, to, err)
		}
		size += len(rec.Data) + len(rec.Key) + 64
		r.pos = rec.Pos.Seq + 1
	}
	if r.limit != 0 && r.pos >= r.limit {
		r.has = false
	}
	if r.saw != nil {
		r.saw(r.recs)
	}
	return record.Batch{Shard: r.sh.id, Recs: r.recs, Next: r.pos}, nil
}

func (r *Reader) readOutside(out outsideData) ([]byte, error) {
	seg := r.sh.log.segment(r.cur.b.seg)
	if seg == nil {
		return nil, errGone
	}
	b, err := seg.readChunk(out)
	r.sh.log.sp.handles.used(seg)
	return b, err
}

// use makes the block that holds pos the current one.
func (r *Reader) use(cur groupReader) {
	r.cur, r.has = cur, true
	if r.cur.origin = cur.b.origin; r.cur.origin == nil {
		r.cur.origin = &r.sh.log.sp.origin
	}
	var rec record.Record
	for seq := cur.g.first; seq < r.pos && r.cur.left() > 0; seq++ {
		if _, err := r.cur.next(&rec); err != nil {
			return // decode meets the same error and reports it
		}
	}
}

// damage counts a loss and moves behind it.
func (r *Reader) damage(seg *segment, id int64, to uint64, cause error) error {
	e := &record.CorruptError{Block: id, Shard: r.sh.id, From: r.pos, To: to, Err: cause, Hint: "the records before and after it are served; the file is kept for inspection until retention removes it"}
	if seg != nil {
		e.File = seg.file()
	}
	sp := r.sh.log.sp
	if sp.state.addCorrupt(corruptRange{shard: r.sh.id, from: e.From, to: e.To, file: e.File, block: id}) > 0 {
		sp.raise("corrupt", 2, e.Error())
	}
	r.pos = to
	if r.lost != nil {
		r.lost(lossCorrupt, e.From, e.To)
	}
	return e
}

// seek finds the block that holds pos. false: it is not written yet.
func (r *Reader) seek(ctx context.Context) (bool, error) {
	r.has = false
	l, sh := r.sh.log, r.sh
	for {
		l.mu.RLock()
		next, first, segs := sh.next, sh.first.next, l.segs
		g, b := sh.inCache(r.pos)
		l.mu.RUnlock()
		switch {
		case r.pos >= next, r.limit != 0 && r.pos >= r.limit:
			return false, nil
		case r.pos < first:
			e := &record.TrimmedError{Shard: sh.id, From: r.pos, To: first}
			r.pos = first
			if r.lost != nil {
				r.lost(lossExpired, e.From, e.To)
			}
			return false, e
		case b != nil:
			r.warm()
			r.use(newGroupReader(b, g, l.num))
			return true, nil
		}
		found, err := r.cold(ctx, segs, next)
		if errors.Is(err, errGone) {
			r.warm()
			if l.segment(segs[0].num) == segs[0] {
				return false, fmt.Errorf("read shard %d: %w", sh.id, err)
			}
			continue
		}
		if found || err != nil {
			return found, err
		}
	}
}

// inCache finds the committed block in memory that holds seq; log.mu is held.
func (sh *shard) inCache(seq uint64) (group, *block) {
	n := len(sh.tail)
	if n == 0 || sh.tail[0].g.first > seq {
		return group{}, nil
	}
	i := sort.Search(n, func(i int) bool { return sh.tail[i].g.first > seq }) - 1
	if e := sh.tail[i]; seq < e.g.first+uint64(e.g.count) {
		return e.g, e.b
	}
	return group{}, nil
}
