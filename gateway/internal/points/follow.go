package points

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"forebay/spool/record"
)

const (
	// Back is how far back the keepers read when they start.
	Back = 10 * time.Minute

	batchMax  = 512
	lookEvery = time.Second // how often new streams and shards are looked for
	retryMin  = 250 * time.Millisecond
	retryMax  = 30 * time.Second
)

// A Log is what the keepers need of the spool.
type Log interface {
	// Shards lists a stream's shards; record.ErrNoStream if there is none yet.
	Shards(ctx context.Context, stream string) ([]record.ShardID, error)
	// Follow reads a shard from the first record that arrived at since or later.
	Follow(ctx context.Context, stream string, shard record.ShardID, since time.Time) (Reader, error)
}

// A Reader follows a shard; *spool.Reader is one.
type Reader interface {
	// Next waits for records, at most max. The batch is a view until the next
	// call. *record.TrimmedError and *record.CorruptError are told once; the
	// next call goes on behind the loss.
	Next(ctx context.Context, max int) (record.Batch, error)
	Close() error
}

// Options of a keeper; zero is the default.
type Options struct {
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
	// Logger takes what a person should see; nil discards it.
	Logger *slog.Logger
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// follow reads the streams until ctx ends, also shards that appear later, and
// waits for its readers. take is called by one goroutine per shard.
func follow(ctx context.Context, log Log, streams []string, opts Options, take func(stream string, recs []record.Record)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	type spot struct {
		stream string
		shard  record.ShardID
	}
	seen := map[spot]bool{}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	warned := false
	for {
		failed := false
		for _, stream := range streams {
			ids, err := log.Shards(ctx, stream)
			if err != nil && !errors.Is(err, record.ErrNoStream) && ctx.Err() == nil {
				failed = true
				if !warned {
					opts.Logger.Warn("points cannot list the shards; trying again", "stream", stream, "error", err)
				}
			}
			for _, id := range ids {
				if s := (spot{stream, id}); !seen[s] {
					seen[s] = true
					wg.Go(func() { read(ctx, log, stream, id, opts, take) })
				}
			}
		}
		warned = failed
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// read follows one shard to its end, or to the end of ctx.
func read(ctx context.Context, log Log, stream string, shard record.ShardID, opts Options, take func(string, []record.Record)) {
	since := opts.Now().Add(-Back)
	wait := retryMin
	for ctx.Err() == nil {
		rd, err := log.Follow(ctx, stream, shard, since)
		if err == nil {
			var last time.Time
			last, err = drain(ctx, rd, stream, take)
			if !last.IsZero() {
				// Once more from the last one: to take a value twice does no harm.
				since, wait = last, retryMin
			}
			if e := rd.Close(); e != nil {
				opts.Logger.Warn("closing a reader failed", "stream", stream, "error", e)
			}
		}
		var end *record.ShardEndError
		if ctx.Err() != nil || errors.As(err, &end) {
			return
		}
		opts.Logger.Warn("points cannot read the log; trying again", "stream", stream, "error", err)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, retryMax)
	}
}

// drain takes what a reader yields until it fails. Records that the log has
// lost are passed over: the newest value is what counts here.
func drain(ctx context.Context, rd Reader, stream string, take func(string, []record.Record)) (last time.Time, err error) {
	for {
		b, err := rd.Next(ctx, batchMax)
		var trimmed *record.TrimmedError
		var corrupt *record.CorruptError
		switch {
		case errors.As(err, &trimmed), errors.As(err, &corrupt):
			continue
		case err != nil:
			return last, err
		}
		if n := len(b.Recs); n > 0 {
			last = b.Recs[n-1].Arrived
			take(stream, b.Recs)
		}
	}
}
