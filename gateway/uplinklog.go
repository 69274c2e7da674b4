package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// forUplink is the log as one uplink reads it: every shard of the streams
// that its patterns name, each with one cursor. A shard that came of a split or
// a merge has its cursor from the first look on, so that what lies in it
// counts as not delivered; its lane is listed when all that its parents hold
// was delivered by this uplink. As places are durable together, the order holds
// over a restart.
type forUplink struct {
	sp    *spool.Spool
	cfg   uplink.Config
	log   *slog.Logger
	ahead string                           // the file of what was delivered ahead of the cursors
	open  map[record.ShardID]*spool.Cursor // nil where nothing is to deliver
	done  map[record.ShardID]bool          // closed shards that are delivered; their cursors are closed
	wait  []*spool.Cursor                  // of lanes that wait for their parents
	read  map[*spool.Stream]bool           // streams that are followed
	shape *shaping                         // what is done to records before they are sent; nil for nothing
	way   *way                             // since when it goes on as it does now
	seen  bool                             // the streams were listed once: what is made later is handed on from its first record
}

func newForUplink(sp *spool.Spool, cfg uplink.Config, log *slog.Logger) *forUplink {
	return &forUplink{sp: sp, cfg: cfg, log: log, open: map[record.ShardID]*spool.Cursor{}, done: map[record.ShardID]bool{}, read: map[*spool.Stream]bool{}}
}

// Lanes lists the lanes there are now. It is called from one goroutine.
func (l *forUplink) Lanes(ctx context.Context) ([]uplink.LaneCursor, error) {
	out := []uplink.LaneCursor{}
	there, read := map[record.ShardID]bool{}, map[*spool.Stream]bool{}
	l.wait = l.wait[:0]
	for _, t := range l.sp.Streams() {
		if !l.cfg.Match(t.Name()) {
			continue
		}
		shards := t.Shards()
		read[t] = true
		begun := l.begun(t.Name(), shards)
		for _, sh := range shards {
			there[sh.ID] = true
			cur, err := l.cursor(ctx, t, sh, begun)
			if err != nil {
				return nil, fmt.Errorf("open the cursor of uplink %s on %s: %w", l.cfg.ID, t.Name(), err)
			}
			switch ready := l.delivered(sh.Parents); {
			case ready && !sh.Open() && (cur == nil || cur.Committed() >= sh.Next):
				if err := l.finish(sh.ID); err != nil {
					return nil, fmt.Errorf("close the cursor of uplink %s on %s: %w", l.cfg.ID, t.Name(), err)
				}
			case cur == nil: // it waits without holding anything
			case ready:
				out = append(out, uplink.LaneCursor{Lane: lane.Lane{Stream: t.Name(), Shard: sh.ID, Hash: laneHash(t.Name(), sh)}, Class: t.Config().Class, Cursor: l.shaped(t, sh.ID, cur), Place: l.way.at(sh.ID, cur)})
			default:
				l.wait = append(l.wait, cur)
			}
		}
	}
	for t := range l.read {
		if !read[t] {
			l.log.Info("stream was deleted; the uplink follows it no more", "uplink", string(l.cfg.ID), "stream", t.Name())
		}
	}
	l.seen, l.read = true, read
	l.shape.save(there)
	l.way.save(there)
	return out, l.forget(there)
}

// begun reports whether the uplink has read the stream before. A shard that is
// new to it then, and has parents, is a child of what it has read.
func (l *forUplink) begun(stream string, shards []spool.Shard) bool {
	if l.seen || len(shards[len(shards)-1].Parents) == 0 { // where no shard has parents it makes no difference
		return l.seen
	}
	for _, c := range l.sp.Ledger().Cursors {
		if c.Name == string(l.cfg.ID) && c.Stream == stream {
			return true
		}
	}
	return false
}

// cursor is the uplink's place in a shard; nil where nothing is there to
// deliver, and nothing comes.
func (l *forUplink) cursor(ctx context.Context, t *spool.Stream, sh spool.Shard, begun bool) (*spool.Cursor, error) {
	if cur, known := l.open[sh.ID]; known || l.done[sh.ID] {
		return cur, nil
	}
	from := spool.Oldest()
	switch {
	case !sh.Open() && sh.Next == 1:
		l.open[sh.ID] = nil // a change to many shards leaves such behind
		return nil, nil
	case begun && len(sh.Parents) > 0:
		from = spool.After(0) // from the first record it ever had: what is lost of it is told
	case l.cfg.From == "newest" && !l.seen:
		from = spool.Newest()
	}
	cur, err := t.Cursor(ctx, string(l.cfg.ID), sh.ID, from)
	if err != nil {
		return nil, err
	}
	l.open[sh.ID] = cur
	return cur, nil
}

// finish ends with a closed shard; its cursor's place stays.
func (l *forUplink) finish(id record.ShardID) error {
	cur := l.open[id]
	delete(l.open, id)
	l.done[id] = true
	if cur == nil {
		return nil
	}
	return cur.Close()
}

// delivered reports whether these shards were handed on to their ends.
func (l *forUplink) delivered(shards []record.ShardID) bool {
	for _, id := range shards {
		if !l.done[id] {
			return false
		}
	}
	return true
}

// forget lets go of shards that are not there any more, because their streams
// were deleted.
func (l *forUplink) forget(there map[record.ShardID]bool) error {
	var errs []error
	for id, cur := range l.open {
		if there[id] {
			continue
		}
		delete(l.open, id)
		if cur != nil {
			errs = append(errs, cur.Close())
		}
	}
	for id := range l.done {
		if !there[id] {
			delete(l.done, id)
		}
	}
	return errors.Join(errs...)
}

// Held is what waits in shards whose parents are not delivered yet.
func (l *forUplink) Held() record.Backlog {
	var sum record.Backlog
	for _, cur := range l.wait {
		b := cur.Backlog()
		sum.Records += b.Records
		sum.Bytes += b.Bytes
		if !b.Oldest.IsZero() && (sum.Oldest.IsZero() || b.Oldest.Before(sum.Oldest)) {
			sum.Oldest = b.Oldest
		}
	}
	return sum
}

// laneHash is a point within the shard's range that differs from stream to
// stream, so that the many streams of one shard do not all land on the far
// side's first one. It is the same after any restart: a lane stays where it is.
func laneHash(stream string, sh spool.Shard) record.HashKey {
	for i := range 4096 {
		h := record.HashOf(fmt.Sprintf("%s/%d/%d", stream, sh.Index, i))
		if sh.From.Compare(h) <= 0 && h.Compare(sh.To) <= 0 {
			return h
		}
	}
	return sh.From // a range so narrow that any point in it will do
}

// close ends the cursors; their places stay.
func (l *forUplink) close() error {
	var errs []error
	for _, c := range l.open {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	clear(l.open)
	return errors.Join(errs...)
}

// Refuse keeps a copy of a record that the far side can never take.
func (l *forUplink) Refuse(ctx context.Context, stream string, r record.Record, reason string) error {
	t, err := l.sp.Stream(uplink.RefusedStream)
	if err != nil {
		return err
	}
	attrs := map[string]string{"stream": stream, "uplink": string(l.cfg.ID), "reason": reason, "id": l.sp.Identity().Of(&r), "source": r.Source}
	size := 0
	for k, v := range attrs {
		size += len(k) + len(v)
	}
	for k, v := range r.Attrs { // as far as there is room
		if n := len("was."+k) + len(v); len(attrs) < record.MaxAttrs && size+n <= record.MaxAttrBytes {
			attrs["was."+k] = v
			size += n
		}
	}
	// The copy is not the source's: the ledger has counted the record already.
	r.Source, r.SourceSeq = "uplink/"+string(l.cfg.ID), 0
	r.Attrs, r.Pos, r.Blob, r.Chunk = attrs, record.Pos{}, nil, record.ChunkRef{}
	res, err := t.Put(ctx, []record.Record{r})
	if err != nil {
		return fmt.Errorf("keep a refused record: %w", err)
	}
	return res[0].Err
}
