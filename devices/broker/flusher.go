package broker

import (
	"runtime"
	"sync"
)

const (
	// mostFlushers bounds the goroutines that send for all connections.
	mostFlushers = 4
	// flushShare is how many connections one of them takes at a time, at most,
	// and from how many that wait on another one helps.
	flushShare = 32
)

// A flusher sends what commits have queued for many connections, without a
// goroutine for each: a commit that answers hundreds of clients wakes one or
// two goroutines, and those write to one socket after the other. They never
// wait for a client. They end when there is nothing to do.
type flusher struct {
	mu      sync.Mutex
	due     []*writer // in order; from head on
	head    int
	running int
	most    int
	wg      sync.WaitGroup
}

func newFlusher() *flusher {
	return &flusher{most: min(runtime.GOMAXPROCS(0), mostFlushers)}
}

// add has w sent; w is not added again before that.
func (f *flusher) add(w *writer) {
	f.mu.Lock()
	f.due = append(f.due, w)
	if f.running == 0 || (f.running < f.most && len(f.due)-f.head > f.running*flushShare) {
		f.running++
		f.wg.Go(f.run)
	}
	f.mu.Unlock()
}

func (f *flusher) run() {
	var mine [flushShare]*writer
	for {
		n := f.take(mine[:])
		if n == 0 {
			return
		}
		for i, w := range mine[:n] {
			w.now()
			mine[i] = nil
		}
	}
}

// take moves the first of due to mine; 0 if there are none, and then who calls
// it ends.
func (f *flusher) take(mine []*writer) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := len(f.due) - f.head
	if wait == 0 {
		f.running--
		return 0
	}
	n := copy(mine[:min(len(mine), (wait+f.running-1)/f.running)], f.due[f.head:])
	clear(f.due[f.head : f.head+n])
	if f.head += n; f.head == len(f.due) {
		f.due, f.head = f.due[:0], 0
	}
	return n
}

// wait blocks until nothing is sent any more; nothing may be added meanwhile.
func (f *flusher) wait() { f.wg.Wait() }
