package rules

import (
	"context"
	"errors"
	"slices"
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

// lookAt starts to follow the shards of a stream that are not followed yet; all
// at once, so that each has its place from this moment on. It reports whether
// all that there are now are followed.
func (l *Loop) lookAt(ctx context.Context, wg *sync.WaitGroup, stream string) bool {
	l.lookMu.Lock()
	defer l.lookMu.Unlock()
	shards, err := l.log.Shards(ctx, stream)
	absent := errors.Is(err, record.ErrNoStream)
	if err != nil && !absent {
		l.fail(ctx, "list the shards of "+stream, err)
		return false
	}
	l.mu.Lock()
	known := l.streams[stream]
	open := l.unfollowed(stream, shards)
	l.forget(stream, shards)
	l.mu.Unlock()
	if known && len(open) == 0 {
		return true
	}
	for _, f := range open {
		// f.next-1 is Newest where f.next is 0.
		if f.rd, err = l.log.Follow(ctx, stream, f.at.shard, f.next-1); err != nil {
			if !gone(err) {
				l.fail(ctx, "follow "+stream, err)
			}
			for _, f := range open {
				if f.rd != nil {
					l.closeReader(f.rd)
				}
			}
			return gone(err) // else all of them again at the next look
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
		wg.Go(func() { l.follow(ctx, wg, f) })
	}
	l.trySave(ctx)
	return true
}

// unfollowed makes feeds of the shards that have none; mu is held.
func (l *Loop) unfollowed(stream string, shards []Shard) (open []*feed) {
	fresh := map[record.ShardID]*feed{}
	for _, sh := range shards {
		at := spot{stream, sh.ID}
		if l.feeds[at] != nil {
			continue
		}
		f := &feed{at: at, next: 1, done: make(chan struct{})}
		if n, ok := l.cursors[at]; ok {
			f.next, f.stored = n, n
		} else if !l.streams[stream] && !l.opts.FromOldest {
			f.next = 0 // the newest
		}
		for _, id := range sh.Parents {
			if parent := fresh[id]; parent != nil {
				f.parents = append(f.parents, parent)
			} else if parent := l.feeds[spot{stream, id}]; parent != nil {
				f.parents = append(f.parents, parent)
			}
		}
		fresh[sh.ID] = f
		open = append(open, f)
	}
	return open
}

// gone reports whether an error says that the stream was deleted.
func gone(err error) bool {
	return errors.Is(err, record.ErrNoStream) || errors.Is(err, record.ErrNoShard)
}

// held reports whether the feed waits for its parents to end; mu is held.
func (f *feed) held() bool {
	return slices.ContainsFunc(f.parents, func(p *feed) bool { return !p.ended })
}

// follow reads one shard to its end, or to the end of ctx.
func (l *Loop) follow(ctx context.Context, wg *sync.WaitGroup, f *feed) {
	rd := f.rd
	defer func() {
		if rd != nil {
			l.closeReader(rd)
		}
	}()
	for _, p := range f.parents {
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
	}
	wait := retryMin
	for ctx.Err() == nil {
		if rd == nil {
			var err error
			if rd, err = l.log.Follow(ctx, f.at.stream, f.at.shard, l.place(f)-1); err != nil {
				rd = nil
				if gone(err) {
					l.drop(f)
					return
				}
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
			l.end(ctx, wg, f)
			return
		}
		if gone(err) {
			l.drop(f)
			return
		}
		if ctx.Err() == nil {
			l.fail(ctx, "read "+f.at.stream, err)
			l.closeReader(rd)
			rd = nil
			f.waiting.Store(true) // what cannot be read must not hold the clock
			wait = pause(ctx, wait)
		}
	}
}

// end ends a feed whose shard is read to its end. Its children are followed by
// then, so that the clock does not pass what lies in them.
func (l *Loop) end(ctx context.Context, wg *sync.WaitGroup, f *feed) {
	for wait := retryMin; !l.lookAt(ctx, wg, f.at.stream) && ctx.Err() == nil; {
		wait = pause(ctx, wait)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f.ended = true
	close(f.done)
}

// drop ends the feed of a shard whose stream was deleted.
func (l *Loop) drop(f *feed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.ended = true
	close(f.done)
	l.slog.Info("stream was deleted; rules follow its shard no more", "stream", f.at.stream, "shard", uint32(f.at.shard))
}

// forget lets go of places in shards that are not in their stream any more; mu
// is held.
func (l *Loop) forget(stream string, shards []Shard) {
	there := func(at spot) bool {
		return at.stream != stream || slices.ContainsFunc(shards, func(sh Shard) bool { return sh.ID == at.shard })
	}
	for at, f := range l.feeds {
		if f.ended && !there(at) {
			delete(l.feeds, at)
			l.dropped = append(l.dropped, at)
		}
	}
	for at := range l.cursors {
		if l.feeds[at] == nil && !there(at) {
			delete(l.cursors, at)
			l.dropped = append(l.dropped, at)
		}
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
