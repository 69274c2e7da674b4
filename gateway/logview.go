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
)

// forRules is the log as the rules read and write it.
type forRules struct{ sp *spool.Spool }

func (l forRules) Shards(_ context.Context, stream string) ([]rules.Shard, error) {
	t, err := l.sp.Stream(stream)
	if err != nil {
		return nil, err
	}
	out := []rules.Shard{}
	for _, sh := range t.Shards() {
		out = append(out, rules.Shard{ID: sh.ID, Parents: sh.Parents})
	}
	return out, nil
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

func (l forPoints) Shards(_ context.Context, stream string) ([]points.Shard, error) {
	t, err := l.sp.Stream(stream)
	if err != nil {
		return nil, err
	}
	out := []points.Shard{}
	for _, sh := range t.Shards() {
		out = append(out, points.Shard{ID: sh.ID, Parents: sh.Parents})
	}
	return out, nil
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
