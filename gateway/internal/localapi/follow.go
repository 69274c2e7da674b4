package localapi

import (
	"context"
	"errors"
	"sync"

	"forebay/spool"
	"forebay/spool/record"
)

// A following serves the records of a stream's shards as they come. A shard that
// came of a split or a merge begins when its parents are served to their ends,
// so that a key's records come in order. Where one shard was asked for, its end
// is the end of the answer.
type following struct {
	s      *Server
	q      question
	out    *lines
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	ended map[record.ShardID]chan struct{} // by shard that is served; it closes at the shard's end
}

func (s *Server) follow(ctx context.Context, q question, out *lines) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &following{s: s, q: q, out: out, cancel: cancel, ended: map[record.ShardID]chan struct{}{}}
	f.mu.Lock()
	f.start(ctx, q.shards, q.from)
	f.mu.Unlock()
	f.wg.Wait()
}

// start serves those of the shards that are not served yet; parents come before
// their children. mu is held.
func (f *following) start(ctx context.Context, shards []spool.Shard, from spool.Start) {
	for _, sh := range shards {
		if f.ended[sh.ID] != nil {
			continue
		}
		end := make(chan struct{})
		f.ended[sh.ID] = end
		rd, err := f.q.stream.Reader(sh.ID, from) // all from this moment on
		if err != nil {
			f.out.batch(sh, record.Batch{}, err)
			f.cancel()
			return
		}
		var parents []chan struct{}
		for _, id := range sh.Parents {
			if before := f.ended[id]; before != nil {
				parents = append(parents, before)
			}
		}
		f.wg.Go(func() {
			defer func() {
				if err := rd.Close(); err != nil {
					f.s.log.Warn("reader not closed", "error", err)
				}
			}()
			for _, before := range parents {
				select {
				case <-before:
				case <-ctx.Done():
					return
				}
			}
			if !f.serve(ctx, sh, rd) || !f.q.one && !f.children(ctx) {
				f.cancel()
				return
			}
			close(end)
		})
	}
}

// serve writes the records of one shard; true at its end, false where the answer
// ends.
func (f *following) serve(ctx context.Context, sh spool.Shard, rd *spool.Reader) bool {
	for {
		b, err := rd.Next(ctx, batchOf)
		if ctx.Err() != nil {
			return false
		}
		if _, end := errors.AsType[*record.ShardEndError](err); end {
			return true
		}
		if !f.out.batch(sh, b, err) || errors.Is(err, record.ErrClosed) || errors.Is(err, record.ErrNoStream) {
			return false
		}
		if !f.out.flush() {
			return false
		}
	}
}

// children begins with the shards that came of others which have ended.
func (f *following) children(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start(ctx, f.q.stream.Shards(), spool.After(0))
	return ctx.Err() == nil
}
