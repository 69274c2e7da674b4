package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/proof"
)

const (
	feeders    = 32      // producers at a time
	maxTimings = 200_000 // of acknowledgements; beyond that a random choice
)

// numbered is the payload of a record of the test.
type numbered struct {
	N    uint64 `json:"n"`
	Fill string `json:"fill"`
}

// A feeder writes numbered records evenly over a time, each until it is
// acknowledged, and remembers which ones were.
type feeder struct {
	client  *api.Client
	stream  string
	records uint64
	length  time.Duration
	began   time.Time
	ended   time.Time
	next    atomic.Uint64
	again   atomic.Uint64
	over    chan struct{} // closed when all have ended

	mu      sync.Mutex
	budget  proof.Budget
	acked   *proof.Set
	timings []float64 // ms
	slowest float64
	err     error // why records could not be remembered
}

func newFeeder(client *api.Client, stream string, records uint64, length time.Duration) *feeder {
	f := &feeder{client: client, stream: stream, records: records, length: length, began: time.Now(), over: make(chan struct{})}
	f.acked = f.budget.NewSet()
	return f
}

func (f *feeder) start(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range feeders {
		wg.Go(func() { f.run(ctx, fmt.Sprintf("prove-%d", i)) })
	}
	go func() { // whoever called start waits for over
		wg.Wait()
		f.ended = time.Now()
		close(f.over)
	}()
}

func (f *feeder) run(ctx context.Context, key string) {
	for {
		n := f.next.Add(1)
		if n > f.records {
			return
		}
		due := f.began.Add(time.Duration(float64(f.length) * float64(n) / float64(f.records)))
		if wait := time.Until(due); wait > 0 {
			if linger(ctx, wait) != nil {
				return
			}
		}
		if !f.put(ctx, key, n) {
			return
		}
	}
}

// put writes a record until it is acknowledged; false where ctx has ended.
func (f *feeder) put(ctx context.Context, key string, n uint64) bool {
	data := fmt.Appendf(nil, `{"n":%d,"fill":"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"}`, n)
	for {
		began := time.Now()
		asked, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := f.client.Put(asked, f.stream, key, data)
		cancel()
		if err == nil {
			f.note(n, float64(time.Since(began).Microseconds())/1e3)
			return true
		}
		f.again.Add(1)
		if linger(ctx, 50*time.Millisecond) != nil { // it is being killed
			return false
		}
	}
}

func (f *feeder) note(n uint64, ms float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.acked.Add(n); err != nil {
		f.err = err
	}
	f.slowest = max(f.slowest, ms)
	if len(f.timings) < maxTimings {
		f.timings = append(f.timings, ms)
	} else if i := rand.Uint64N(f.acked.Len()); i < maxTimings {
		f.timings[i] = ms
	}
}

// figures are what the producers saw. They are over.
func (f *feeder) figures(to *proof.Figures) {
	to.Seconds = f.ended.Sub(f.began).Seconds()
	to.Written, to.Acknowledged, to.Again = min(f.next.Load(), f.records), f.acked.Len(), f.again.Load()
	slices.Sort(f.timings)
	if n := len(f.timings); n > 0 {
		to.AckP50, to.AckP99, to.AckMax = f.timings[n/2], f.timings[min(n*99/100, n-1)], f.slowest
	}
}

// lost is how many of the acknowledged records a log does not have.
func (f *feeder) lost(have *proof.Set) (n uint64) {
	for v := uint64(1); v <= f.records; v++ {
		if f.acked.Has(v) && !have.Has(v) {
			n++
		}
	}
	return n
}
