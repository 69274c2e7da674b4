package spool_test

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// A hasty producer keeps several appends on their way. When one fails it ends
// the context of all that follow, waits until it was told of what was taken,
// and goes on behind the last that was acknowledged.
type hasty struct {
	t      *testing.T
	st     *spool.Stream
	source string
	size   int
	window int
	acked  uint64 // all up to here
}

type told struct {
	seq uint64
	err error
}

func (h *hasty) run(until uint64) {
	for h.acked < until && !h.t.Failed() {
		h.session(until)
	}
}

// session appends until something fails or all is acknowledged.
func (h *hasty) session(until uint64) {
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	back := make(chan told, h.window)
	open, failed := 0, false
	settle := func(a told) {
		open--
		switch {
		case a.err != nil:
			failed = true
		case failed:
			h.t.Errorf("%s: %d was stored although one before it failed", h.source, a.seq)
		case a.seq != h.acked+1:
			h.t.Errorf("%s: told of %d behind %d", h.source, a.seq, h.acked)
		default:
			h.acked = a.seq
		}
	}
	for next := h.acked + 1; next <= until && !failed; next++ {
		seq := next
		recs := []record.Record{{Key: h.source, Source: h.source, SourceSeq: seq, Data: make([]byte, h.size)}}
		rand.New(rand.NewSource(int64(seq))).Read(recs[0].Data)
		err := h.st.Append(ctx, recs, func(res []record.Result) {
			if res[0].Err != nil {
				cancel()
			}
			back <- told{seq, res[0].Err}
		})
		if err != nil {
			break // nothing was taken
		}
		if open++; open == h.window {
			settle(<-back)
		}
	}
	for open > 0 {
		settle(<-back)
	}
}

// Commits and syncs fail at random while several are on their way, of many
// sources at once. Whatever fails takes along what came after it: each
// source's records are stored in order, and what was acknowledged is there.
func TestOrderWhateverFails(t *testing.T) {
	for name, cause := range map[string]error{"fsync": syscall.EIO, "disk full": syscall.ENOSPC} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			dice := rand.New(rand.NewSource(7))
			left := 16 // failures
			roll := func() error {
				mu.Lock()
				defer mu.Unlock()
				if left == 0 || dice.Intn(5) > 0 {
					return nil
				}
				left--
				return cause
			}
			b := newBox(t, spool.Config{}, spool.Seam{Commit: roll, Sync: roll})
			st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
			var producers sync.WaitGroup
			for i := range 6 {
				h := &hasty{t: t, st: st, source: fmt.Sprint("press", i), size: 1000 + 30000*i, window: 1 + 3*i}
				producers.Go(func() { h.run(80) })
			}
			producers.Wait()
			first := map[string]uint64{} // greatest number met
			for _, sh := range st.Shards() {
				recs, losses := scan(t, st, sh.ID, spool.Oldest())
				if len(losses) > 0 {
					t.Error(losses)
				}
				for _, r := range recs {
					if r.SourceSeq > first[r.Source]+1 {
						t.Errorf("%s: %d is stored behind %d", r.Source, r.SourceSeq, first[r.Source])
					}
					first[r.Source] = max(first[r.Source], r.SourceSeq)
				}
			}
			for source, n := range first {
				if n != 80 {
					t.Errorf("%s: %d of 80 are stored", source, n)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if left > 8 {
				t.Errorf("only %d failures were met", 16-left)
			}
		})
	}
}
