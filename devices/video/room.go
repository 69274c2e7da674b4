package video

import (
	"context"
	"sync"
)

// A room is the memory that chunks may fill on their way to the log, in bytes.
type room struct {
	mu    sync.Mutex
	free  int64
	freed chan struct{} // closed and renewed whenever bytes come back
}

func newRoom(size int64) *room { return &room{free: size, freed: make(chan struct{})} }

// try takes n bytes if they are there.
func (r *room) try(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free < n {
		return false
	}
	r.free -= n
	return true
}

// take waits for n bytes until ctx ends.
func (r *room) take(ctx context.Context, n int64) error {
	for {
		r.mu.Lock()
		if r.free >= n {
			r.free -= n
			r.mu.Unlock()
			return nil
		}
		freed := r.freed
		r.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *room) give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free += n
	close(r.freed)
	r.freed = make(chan struct{})
}
