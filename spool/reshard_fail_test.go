package spool_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// A sender submits records in order, several under way, and after a failure
// sends again from the first that was not stored, once all were answered. What
// it is about to submit when one fails it does not submit any more.
type sender struct {
	name   string
	mu     sync.Mutex
	under  int
	acked  uint64
	failed bool
	idle   *sync.Cond
}

func (p *sender) run(ctx context.Context, t *testing.T, st *spool.Stream) {
	p.idle = sync.NewCond(&p.mu)
	for ctx.Err() == nil {
		p.untilOneFails(ctx, t, st)
	}
}

func (p *sender) untilOneFails(ctx context.Context, t *testing.T, st *spool.Stream) {
	life, end := context.WithCancel(context.Background())
	defer end()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = false
	for n := p.acked; !p.failed && ctx.Err() == nil; n++ {
		for p.under >= 8 && !p.failed {
			p.idle.Wait()
		}
		if p.failed {
			break
		}
		p.under++
		p.mu.Unlock()
		err := st.Append(life, []record.Record{{Key: fmt.Sprintf("%s-%d", p.name, n%4), Data: binary.BigEndian.AppendUint64(nil, n/4), Source: p.name}}, func(res []record.Result) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if res[0].Err != nil {
				p.failed = true
				end()
			} else if p.acked == n {
				p.acked++
			} else {
				t.Errorf("%s: %d is stored behind %d", p.name, n, p.acked)
			}
			p.under--
			p.idle.Signal()
		})
		p.mu.Lock()
		if err != nil {
			p.failed = true
			p.under--
		}
	}
	for p.under > 0 {
		p.idle.Wait()
	}
}

// Commits that fail, changes that are given up and changes that are made: a
// sender's records stay in order, each once, over all of them.
func TestOrderOutlivesFailuresDuringChanges(t *testing.T) {
	var commits atomic.Uint64
	var bad atomic.Bool
	seam := spool.Seam{Commit: func() error {
		if !bad.Load() {
			return nil
		}
		switch n := commits.Add(1); {
		case n%41 == 0:
			return syscall.EIO
		case n%13 == 0:
			return syscall.ENOSPC
		}
		return nil
	}}
	b := newBox(t, spool.Config{}, seam)
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
	beside := b.stream(spool.StreamConfig{Name: "beside", Shards: 2})
	bad.Store(true)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var senders []*sender
	for _, to := range []*spool.Stream{st, st, st, beside} {
		p := &sender{name: fmt.Sprintf("p%d", len(senders))}
		senders = append(senders, p)
		all.Go(func() { p.run(ctx, t, to) })
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	made, left := 0, 0
	for end := time.Now().Add(time.Minute); (made < 60 || commits.Load() < 200) && time.Now().Before(end); {
		within, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(40))*time.Millisecond)
		switch err := reshapeAnyhow(within, b.Spool, st, rnd); {
		case err == nil:
			made++
		case errors.Is(err, context.DeadlineExceeded):
			left++
		default:
			t.Errorf("a change: %v", err)
		}
		cancel()
	}
	bad.Store(false)
	stop()
	all.Wait()
	if made < 60 || commits.Load() < 200 {
		t.Fatalf("%d changes were made, %d given up, %d commits: that was no test", made, left, commits.Load())
	}
	want := 0
	for _, p := range senders[:3] {
		want += int(p.acked)
	}
	for _, when := range []string{"running", "reopened"} {
		f := newFollower(st)
		if err := f.read(t.Context()); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if f.total != want {
			t.Errorf("%s: read %d records of %d", when, f.total, want)
		}
		b.reopen()
		st, _ = b.Stream("mqtt")
	}
}
