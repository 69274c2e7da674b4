package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

const (
	trickleStreams = 200
	trickleShards  = 4 // each
)

// trickle is a factory's normal state: 800 devices with one record a second
// each, none of which knows of the others.
func (b *bench) trickle(ctx context.Context) (err error) {
	b.tell("trickle for %v", b.Duration)
	s, err := b.open(ctx, "trickle", spool.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove("trickle")) }()
	open := true
	defer func() {
		if open {
			err = errors.Join(err, s.Close())
		}
	}()
	heap, files := heapInUse(), openFiles()
	streams := make([]*spool.Stream, trickleStreams)
	for i := range streams {
		if streams[i], err = makeStream(ctx, s, fmt.Sprintf("device-%d", i), trickleShards); err != nil {
			return err
		}
	}
	t := newTrickle(streams, randomPayloads(b.Payload))
	if err := t.run(ctx, min(b.Duration, 2*time.Second)); err != nil { // warms up
		return err
	}
	idle := (heapInUse() - heap) / (trickleStreams * trickleShards)
	t.took = nil
	b.settle()
	commits := s.Stats().Commits
	m := b.meter()
	if err := t.run(ctx, b.Duration); err != nil {
		return err
	}
	commits = s.Stats().Commits - commits
	rss, more := residentMB("self"), openFiles()-files
	open = false
	if err := s.Close(); err != nil {
		return err
	}
	b.settle()
	c := m.since(b)
	records := int64(len(t.took))
	cost := costOf(t.took, c, records, int64(b.Payload), rss)
	work := fmt.Sprintf("trickle, 800 shards x 1 record/s for %v", b.Duration)
	b.add(Line{
		Work: work, Payload: "random", Unit: "ms, ack p99", Figure: one(cost.CallP99MS), Cost: cost,
		Note: fmt.Sprintf("p50 %.2f, max %.1f; %.1f records a commit; CPU %.1f %% of a core", cost.CallP50MS, cost.CallMaxMS, float64(records)/float64(max(commits, 1)), c.cpu.Seconds()/b.Duration.Seconds()*100),
	})
	b.add(Line{Work: work, Payload: "random", Unit: "bytes written per record", Figure: one(cost.PerRecord.Process), Note: "the seal's share included; the target is for a disk with fsync + 10 ms, see the weak disk"})
	b.add(Line{Work: "idle shard of 800", Unit: "bytes of heap", Figure: one(float64(idle)), Targets: []Target{below("< 16 KB per idle shard", float64(idle), 16_000)}})
	b.add(Line{Work: "open files, 800 shards", Unit: "files more", Figure: one(float64(more)), Targets: []Target{below("no file per shard", float64(more), trickleShards*trickleStreams/4)}})
	return nil
}

// A trickler appends one record to every shard every second, each at its own
// moment of the second.
type trickler struct {
	feeds []feed
	data  payloads

	mu   sync.Mutex
	took []time.Duration
	errs []error
}

type feed struct {
	st    *spool.Stream
	key   string
	name  string
	phase time.Duration // within the second
}

func newTrickle(streams []*spool.Stream, p payloads) *trickler {
	t := &trickler{data: p}
	rng := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // G404: not for secrets
	for i, st := range streams {
		for j, key := range shardKeys(st) {
			phase := time.Duration(rng.Int64N(int64(time.Second)))
			t.feeds = append(t.feeds, feed{st, key, fmt.Sprintf("device-%d-%d", i, j), phase})
		}
	}
	slices.SortFunc(t.feeds, func(a, b feed) int { return int(a.phase - b.phase) })
	return t
}

// run appends for a while and waits for the last acknowledgement. Times count
// from when a record was due, so that a producer that was held up hides
// nothing.
func (t *trickler) run(ctx context.Context, d time.Duration) error {
	began := time.Now()
	var wg sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		f := t.feeds[i%len(t.feeds)]
		due := began.Add(time.Duration(i/len(t.feeds))*time.Second + f.phase)
		if due.Sub(began) >= d {
			break
		}
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				wg.Wait()
				return ctx.Err()
			}
		}
		wg.Add(1)
		recs := []record.Record{{Key: f.key, Source: f.name, Data: t.data.take(i, 1)}}
		err := f.st.Append(ctx, recs, func(res []record.Result) {
			t.mu.Lock()
			t.took = append(t.took, time.Since(due))
			if res[0].Err != nil {
				t.errs = append(t.errs, res[0].Err)
			}
			t.mu.Unlock()
			wg.Done()
		})
		if err != nil {
			wg.Done()
			wg.Wait()
			return err
		}
	}
	wg.Wait()
	return errors.Join(t.errs...)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // G115: below 2^63
}
