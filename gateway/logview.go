package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"forebay/gateway/internal/points"
	"forebay/gateway/internal/rules"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// forRules is the log as the rules read and write it.
type forRules struct{ sp *spool.Spool }

func shardIDs(sp *spool.Spool, stream string) ([]record.ShardID, error) {
	t, err := sp.Stream(stream)
	if err != nil {
		return nil, err
	}
	ids := []record.ShardID{}
	for _, sh := range t.Shards() {
		ids = append(ids, sh.ID)
	}
	return ids, nil
}

func (l forRules) Shards(_ context.Context, stream string) ([]record.ShardID, error) {
	return shardIDs(l.sp, stream)
}

func (l forRules) Follow(_ context.Context, stream string, shard record.ShardID, after uint64) (rules.Reader, error) {
	t, err := l.sp.Stream(stream)
	if err != nil {
		return nil, err
	}
	from := spool.After(after)
	if after == rules.Newest {
		from = spool.Newest()
	}
	return unwrap(t.Reader(shard, from))
}

func (l forRules) Append(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	t, err := l.sp.Stream(stream)
	if err != nil {
		return err
	}
	return t.Append(ctx, recs, done)
}

// Tail is the newest n records of every shard of a stream, copied.
func (l forRules) Tail(ctx context.Context, stream string, n int) ([]record.Record, error) {
	t, err := l.sp.Stream(stream)
	if err != nil {
		return nil, err
	}
	out := []record.Record{}
	for _, sh := range t.Shards() {
		from := spool.Oldest()
		if sh.Next > sh.First+uint64(n) {
			from = spool.After(sh.Next - uint64(n) - 1)
		}
		for b, err := range t.Scan(ctx, sh.ID, from) {
			var lost *record.CorruptError
			var trimmed *record.TrimmedError
			if errors.As(err, &lost) || errors.As(err, &trimmed) {
				continue // what is left is the tail there is
			}
			if err != nil {
				return nil, fmt.Errorf("read the tail of %s: %w", stream, err)
			}
			for _, r := range b.Recs {
				r.Data = slices.Clone(r.Data)
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// forPoints is the log as the tiles and the camera keeper read it.
type forPoints struct{ sp *spool.Spool }

func (l forPoints) Shards(_ context.Context, stream string) ([]record.ShardID, error) {
	return shardIDs(l.sp, stream)
}

func (l forPoints) Follow(_ context.Context, stream string, shard record.ShardID, since time.Time) (points.Reader, error) {
	t, err := l.sp.Stream(stream)
	if err != nil {
		return nil, err
	}
	if stream == points.VideoStream {
		return t.Reader(shard, spool.Since(since)) // cameras of another gateway have their bytes there
	}
	return unwrap(t.Reader(shard, spool.Since(since)))
}

// forUplink is the log as one uplink reads it: every shard of the streams
// that its patterns name, each with one cursor that stays open.
type forUplink struct {
	sp   *spool.Spool
	cfg  uplink.Config
	open map[record.ShardID]*spool.Cursor
	seen bool // the streams were listed once: what is made later is handed on from its first record
}

// Lanes lists the lanes there are now. It is called from one goroutine.
func (l *forUplink) Lanes(ctx context.Context) ([]uplink.LaneCursor, error) {
	from := spool.Oldest()
	if l.cfg.From == "newest" && !l.seen {
		from = spool.Newest()
	}
	out := []uplink.LaneCursor{}
	for _, t := range l.sp.Streams() {
		if !l.cfg.Match(t.Name()) {
			continue
		}
		for _, sh := range t.Shards() {
			if l.open[sh.ID] == nil {
				cur, err := t.Cursor(ctx, string(l.cfg.ID), sh.ID, from)
				if err != nil {
					return nil, fmt.Errorf("open the cursor of uplink %s on %s: %w", l.cfg.ID, t.Name(), err)
				}
				l.open[sh.ID] = cur
			}
			out = append(out, uplink.LaneCursor{Lane: lane.Lane{Stream: t.Name(), Shard: sh.ID, Hash: laneHash(t.Name(), sh)}, Cursor: l.open[sh.ID]})
		}
	}
	l.seen = true
	return out, nil
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
		errs = append(errs, c.Close())
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

// still reads the picture that a camera keeper points at.
func still(sp *spool.Spool, ref record.ChunkRef, limit int64) ([]byte, error) {
	t, err := sp.Stream("video")
	if err != nil {
		return nil, err
	}
	c, err := t.OpenChunk(ref)
	if err != nil {
		return nil, fmt.Errorf("open the picture: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(c, limit))
	return b, errors.Join(err, c.Close())
}
