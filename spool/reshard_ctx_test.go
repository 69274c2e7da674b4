package spool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// A still context has no end and no values.
type still struct{}

func (still) Deadline() (at time.Time, ok bool) { return at, false }
func (still) Done() <-chan struct{}             { return nil }
func (still) Err() error                        { return nil }
func (still) Value(any) any                     { return nil }

// An endsAt is a context that ends when it is asked for the n-th time whether
// it has.
type endsAt struct {
	still
	mu   sync.Mutex
	left int
	done chan struct{}
}

func newEndsAt(n int) *endsAt { return &endsAt{left: n, done: make(chan struct{})} }

func (e *endsAt) ask() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left--; e.left == 0 {
		close(e.done)
	}
}

func (e *endsAt) Done() <-chan struct{} {
	e.ask()
	return e.done
}

func (e *endsAt) Err() error {
	select {
	case <-e.done:
		return context.Canceled
	default:
		return nil
	}
}

// ended tells whether it came so far.
func (e *endsAt) ended() bool { return e.Err() != nil }

// whole checks that a change that was answered with err is there or is not, in
// memory and on the disk, and that the stream goes on.
func whole(t *testing.T, b *box, what string, n int, st *spool.Stream, before []spool.Shard, err error) {
	t.Helper()
	after := st.Shards()
	if err != nil && len(after) != len(before) {
		t.Fatalf("%s, ended at %d: %v, but there are %d shards for %d", what, n, err, len(after), len(before))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	res, perr := st.Put(ctx, []record.Record{{Key: "a"}, {Key: "b"}})
	if perr != nil || slices.ContainsFunc(res, func(r record.Result) bool { return r.Err != nil }) {
		t.Fatalf("%s, ended at %d (%v): a put gets %v, %v", what, n, err, res, perr)
	}
	if err := spool.FlushState(b.Spool); err != nil {
		t.Fatalf("%s, ended at %d (%v): state.db: %v", what, n, err, err)
	}
	killed, kerr := spool.Open(t.Context(), copyTree(t, b.dir), b.cfg, nil)
	if kerr != nil {
		t.Fatalf("%s, ended at %d (%v): after a kill: %v", what, n, err, kerr)
	}
	defer killed.Close()
	again, kerr := killed.Stream(st.Name())
	if kerr != nil {
		t.Fatalf("%s, ended at %d (%v): after a kill: %v", what, n, err, kerr)
	}
	if got := again.Shards(); fmt.Sprint(got) != fmt.Sprint(st.Shards()) || again.Note() != st.Note() {
		t.Fatalf("%s, ended at %d (%v): after a kill\n%v\n%v", what, n, err, got, st.Shards())
	}
}

// Whoever asks for a change may go away at any moment: it was made or it was
// not, nobody waits for ever, and nothing is left in the way of the next one.
func TestWhoAsksForAChangeMayGoAwayAtAnyMoment(t *testing.T) {
	changes := map[string]func(context.Context, *spool.Spool, *spool.Stream, int) error{
		"split": func(ctx context.Context, s *spool.Spool, st *spool.Stream, _ int) error {
			all := st.Shards()
			lower := all[max(len(all)-2, 0)] // children come in the order of their ranges
			return s.Split(ctx, st, lower.ID, lower.To)
		},
		"rescale": func(ctx context.Context, s *spool.Spool, st *spool.Stream, _ int) error {
			return s.Rescale(ctx, st, 1+st.Config().Shards%3)
		},
		"note": func(ctx context.Context, s *spool.Spool, st *spool.Stream, n int) error {
			return s.SetNote(ctx, st, fmt.Sprint(n))
		},
		"create": func(ctx context.Context, s *spool.Spool, _ *spool.Stream, n int) error {
			_, err := s.CreateStream(ctx, spool.StreamConfig{Name: conf.Stream(fmt.Sprintf("new-%d", n)), Shards: 2})
			return err
		},
		"cursor": func(ctx context.Context, _ *spool.Spool, st *spool.Stream, n int) error {
			c, err := st.Cursor(ctx, fmt.Sprintf("up-%d", n), only(st), spool.Oldest())
			if err == nil {
				err = c.Close()
			}
			return err
		},
	}
	for what, change := range changes {
		t.Run(what, func(t *testing.T) {
			b := newBox(t, spool.Config{})
			st := b.stream(spool.StreamConfig{Name: "mqtt"})
			put(t, st, record.Record{Key: "a"})
			for n := 1; ; n++ {
				ctx := newEndsAt(n)
				before := st.Shards()
				err := change(ctx, b.Spool, st, n)
				if err != nil && !ctx.ended() {
					t.Fatalf("asked for the %d. time: %v", n, err)
				}
				whole(t, b, what, n, st, before, err)
				if !ctx.ended() {
					if n < 4 {
						t.Fatalf("it is asked %d times: that was no test", n)
					}
					return
				}
			}
		})
	}
}

// A trap does something when it is asked for the first time whether it has
// ended.
type trap struct {
	still
	once sync.Once
	do   func()
}

func (c *trap) Done() <-chan struct{} {
	c.once.Do(c.do)
	return nil
}

func (c *trap) Err() error {
	c.once.Do(c.do)
	return nil
}

// A cursor that is being opened while its stream is deleted is none: it would
// claim what is not there any more.
func TestACursorOfAStreamThatIsDeletedMeanwhile(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"})
	begun := time.Now()
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	put(t, st, record.Record{Key: "a"})
	ctx := &trap{}
	sprung := false
	ctx.do = func() {
		sprung = true
		if err := b.Delete(context.Background(), "mqtt", ""); err != nil {
			t.Error(err)
		}
	}
	_, err := st.Cursor(ctx, "up", only(st), spool.Since(begun.Add(-time.Hour)))
	if !sprung {
		t.Fatal("nothing was deleted: that was no test")
	}
	if !errors.Is(err, record.ErrNoStream) {
		t.Errorf("it is opened: %v", err)
	}
	for _, c := range b.Ledger().Cursors {
		t.Errorf("the ledger has the cursor %+v", c)
	}
}
