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
	// Shards lists a stream's shards, the closed ones too, parents before their
	// children; record.ErrNoStream if there is none yet.
	Shards(ctx context.Context, stream string) ([]Shard, error)
	// Follow reads a shard from the first record that arrived at since or later.
	Follow(ctx context.Context, stream string, shard record.ShardID, since time.Time) (Reader, error)
}

// A Shard is one of a stream's, and those that it came of by a split or a merge.
type Shard struct {
	ID      record.ShardID
	Parents []record.ShardID
}

// A Reader follows a shard; *spool.Reader is one.
type Reader interface {
	// Next waits for records, at most max. The batch is a view until the next
	// call. *record.TrimmedError and *record.CorruptError are told once; the
	// next call goes on behind the loss. *record.ShardEndError is the end of a
	// shard that was split or merged, record.ErrNoStream that of a stream.
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
// waits for its readers. take is called by one goroutine per shard; a shard that
// came of others begins when they are read to their ends.
func follow(ctx context.Context, log Log, streams []string, opts Options, take func(stream string, recs []record.Record)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := map[record.ShardID]chan struct{}{} // by shard that was seen; it closes at the shard's end
	look := make(chan struct{}, 1)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	warned := false
	for {
		failed := false
		for _, stream := range streams {
			shards, err := log.Shards(ctx, stream)
			if err != nil && !errors.Is(err, record.ErrNoStream) && ctx.Err() == nil {
				failed = true
				if !warned {
					opts.Logger.Warn("points cannot list the shards; trying again", "stream", stream, "error", err)
				}
			}
			for _, sh := range shards {
				if ended[sh.ID] != nil {
					continue
				}
				end := make(chan struct{})
				ended[sh.ID] = end
				f := feed{log: log, stream: stream, shard: sh.ID, since: opts.Now().Add(-Back), opts: opts, take: take}
				for _, id := range sh.Parents {
					if before := ended[id]; before != nil {
						f.after = append(f.after, before)
					}
				}
				wg.Go(func() {
					f.read(ctx)
					close(end)
					select {
					case look <- struct{}{}: // there are others in its place
					default:
					}
				})
			}
		}
		warned = failed
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-ticker.C:
		}
	}
}

// A feed is a shard that is read.
type feed struct {
	log    Log
	stream string
	shard  record.ShardID
	since  time.Time
	after  []chan struct{} // of its parents
	opts   Options
	take   func(string, []record.Record)
}

// read follows the shard to its end, or to the end of ctx.
func (f *feed) read(ctx context.Context) {
	for _, end := range f.after {
		select {
		case <-end:
		case <-ctx.Done():
			return
		}
	}
	wait := retryMin
	for ctx.Err() == nil {
		rd, err := f.log.Follow(ctx, f.stream, f.shard, f.since)
		if err == nil {
			var last time.Time
			last, err = drain(ctx, rd, f.stream, f.take)
			if !last.IsZero() {
				// Once more from the last one: to take a value twice does no harm.
				f.since, wait = last, retryMin
			}
			if e := rd.Close(); e != nil {
				f.opts.Logger.Warn("closing a reader failed", "stream", f.stream, "error", e)
			}
		}
		_, end := errors.AsType[*record.ShardEndError](err)
		if ctx.Err() != nil || end || errors.Is(err, record.ErrNoStream) || errors.Is(err, record.ErrNoShard) {
			return // the stream was deleted, where it is not the end of the shard
		}
		f.opts.Logger.Warn("points cannot read the log; trying again", "stream", f.stream, "error", err)
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
