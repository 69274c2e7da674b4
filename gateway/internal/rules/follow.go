package rules

import (
	"context"
	"errors"
	"sync"

	"forebay/spool/record"
)

// look starts to follow shards that are not followed yet.
func (l *Loop) look(ctx context.Context, wg *sync.WaitGroup) {
	for _, stream := range l.engine.Streams() { // fixed after Compile
		l.lookAt(ctx, wg, stream)
	}
	l.mu.Lock()
	l.looked = true
	l.mu.Unlock()
}

func (l *Loop) lookAt(ctx context.Context, wg *sync.WaitGroup, stream string) {
	ids, err := l.log.Shards(ctx, stream)
	absent := errors.Is(err, record.ErrNoStream)
	if err != nil && !absent {
		l.fail(ctx, "list the shards of "+stream, err)
		return
	}
	l.mu.Lock()
	known := l.streams[stream]
	var open []*feed
	for _, id := range ids {
		at := spot{stream, id}
		if l.feeds[at] != nil {
			continue
		}
		f := &feed{at: at, next: 1}
		if n, ok := l.cursors[at]; ok {
			f.next, f.stored = n, n
		} else if !known && !l.opts.FromOldest {
			f.next = 0 // the newest
		}
		open = append(open, f)
	}
	l.mu.Unlock()
	if known && len(open) == 0 {
		return
	}
	for _, f := range open {
		// f.next-1 is Newest where f.next is 0.
		if f.rd, err = l.log.Follow(ctx, stream, f.at.shard, f.next-1); err != nil {
			l.fail(ctx, "follow "+stream, err)
			for _, f := range open {
				if f.rd != nil {
					l.closeReader(f.rd)
				}
			}
			return // all of them again at the next look
		}
		if f.next == 0 {
			f.next = f.rd.Pos()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !known {
		l.streams[stream] = true
		l.newName = append(l.newName, stream)
	}
	for _, f := range open {
		l.feeds[f.at] = f
		wg.Go(func() { l.follow(ctx, f) })
	}
	l.trySave(ctx)
}

// follow reads one shard to the end of ctx.
func (l *Loop) follow(ctx context.Context, f *feed) {
	rd := f.rd
	wait := retryMin
	for ctx.Err() == nil {
		if rd == nil {
			var err error
			if rd, err = l.log.Follow(ctx, f.at.stream, f.at.shard, l.place(f)-1); err != nil {
				rd = nil
				l.fail(ctx, "follow "+f.at.stream, err)
				wait = pause(ctx, wait)
				continue
			}
		}
		f.waiting.Store(true)
		b, err := rd.Next(ctx, batchMax)
		f.waiting.Store(false)
		if err == nil {
			wait = retryMin
			l.apply(ctx, f, b)
			continue
		}
		if l.lost(f, err) {
			continue
		}
		if _, end := errors.AsType[*record.ShardEndError](err); end {
			l.mu.Lock()
			f.ended = true
			l.mu.Unlock()
			break
		}
		if ctx.Err() == nil {
			l.fail(ctx, "read "+f.at.stream, err)
			l.closeReader(rd)
			rd = nil
			f.waiting.Store(true) // what cannot be read must not hold the clock
			wait = pause(ctx, wait)
		}
	}
	if rd != nil {
		l.closeReader(rd)
	}
}

func (l *Loop) place(f *feed) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.next
}

func (l *Loop) closeReader(rd Reader) {
	if err := rd.Close(); err != nil {
		l.slog.Warn("closing a reader failed", "error", err)
	}
}

// lost takes note of records that the log no longer has.
func (l *Loop) lost(f *feed, err error) bool {
	var trimmed *record.TrimmedError
	var corrupt *record.CorruptError
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.As(err, &trimmed):
		l.counts.trimmed += trimmed.To - trimmed.From
		f.next = max(f.next, trimmed.To)
	case errors.As(err, &corrupt):
		l.counts.corrupt++
		f.next = max(f.next, corrupt.To)
	default:
		return false
	}
	l.slog.Warn("rules missed records", "stream", f.at.stream, "error", err)
	return true
}
