package spool_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// A follower reads a stream as a client does: a shard to its end, then its
// children, once all of their parents were read. It checks that the numbers
// behind every key rise by one.
type follower struct {
	st    *spool.Stream
	ended map[record.ShardID]bool
	taken map[record.ShardID]bool
	next  map[string]uint64
	total int
}

func newFollower(st *spool.Stream) *follower {
	return &follower{st: st, ended: map[record.ShardID]bool{}, taken: map[record.ShardID]bool{}, next: map[string]uint64{}}
}

// readable is the shards whose parents were read to their ends.
func (f *follower) readable() (out []spool.Shard) {
	for _, sh := range f.st.Shards() {
		if !f.ended[sh.ID] && !slices.ContainsFunc(sh.Parents, func(id record.ShardID) bool { return !f.ended[id] }) {
			out = append(out, sh)
		}
	}
	return out
}

// read takes all there is and fails where a key's numbers do not follow.
func (f *follower) read(ctx context.Context) error {
	places := map[record.ShardID]*spool.Reader{}
	for progress := true; progress; {
		progress = false
		for _, sh := range f.readable() {
			rd := places[sh.ID]
			if rd == nil {
				var err error
				if rd, err = f.st.Reader(sh.ID, spool.Oldest()); err != nil {
					return err
				}
				places[sh.ID] = rd
			}
			b, err := rd.Poll(ctx, 1000)
			if end, ok := errors.AsType[*record.ShardEndError](err); ok {
				if len(end.Children) == 0 || end.Shard != sh.ID {
					return fmt.Errorf("the end of shard %d is %v", sh.ID, end.Children)
				}
				f.ended[sh.ID], progress = true, true
				continue
			}
			if err != nil {
				return err
			}
			for _, r := range b.Recs {
				progress = true
				if got := binary.BigEndian.Uint64(r.Data); got != f.next[r.Key] {
					return fmt.Errorf("key %s has %d in shard %d behind %d", r.Key, got, sh.ID, f.next[r.Key])
				}
				f.next[r.Key]++
				f.total++
				if h := record.HashOf(r.Key); h.Compare(sh.From) < 0 || h.Compare(sh.To) > 0 {
					return fmt.Errorf("key %s is in shard %d, which is not its", r.Key, sh.ID)
				}
			}
		}
	}
	return nil
}

// reshapeAnyhow splits, merges or rescales.
func reshapeAnyhow(ctx context.Context, s *spool.Spool, st *spool.Stream, rnd *rand.Rand) error {
	var open []spool.Shard
	for _, sh := range st.Shards() {
		if sh.Open() {
			open = append(open, sh)
		}
	}
	slices.SortFunc(open, func(a, b spool.Shard) int { return a.From.Compare(b.From) })
	switch i := rnd.IntN(len(open)); {
	case rnd.IntN(4) == 0:
		return s.Rescale(ctx, st, 1+rnd.IntN(7))
	case len(open) > 1 && (len(open) > 6 || rnd.IntN(2) == 0):
		i = min(i, len(open)-2)
		return s.Merge(ctx, st, open[i+1].ID, open[i].ID)
	default:
		at := open[i].To // the last hash alone is the smallest child there is
		if rnd.IntN(8) > 0 {
			at[0] = open[i].From[0] + (at[0]-open[i].From[0])/2 + 1
			clear(at[1:])
		}
		err := s.Split(ctx, st, open[i].ID, at)
		if _, bad := errors.AsType[*record.InvalidError](err); bad {
			return nil // the range is too narrow by now
		}
		return err
	}
}

func TestOrderOfAKeyOutlivesSplitsAndMerges(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 3})
	ctx, stop := context.WithCancel(t.Context())
	var producers sync.WaitGroup
	var mu sync.Mutex
	acked := 0
	for p := range 4 {
		producers.Go(func() {
			var under sync.WaitGroup
			for n := uint64(0); ctx.Err() == nil; n++ {
				var recs []record.Record
				for k := range 8 {
					recs = append(recs, record.Record{Key: fmt.Sprintf("p%d-k%d", p, k), Data: binary.BigEndian.AppendUint64(nil, n), Source: fmt.Sprintf("p%d", p)})
				}
				under.Add(1)
				err := st.Append(context.Background(), recs, func(res []record.Result) {
					defer under.Done()
					mu.Lock()
					defer mu.Unlock()
					for _, r := range res {
						if r.Err != nil {
							t.Errorf("not stored: %v", r.Err)
						}
						acked++
					}
				})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
			}
			under.Wait()
		})
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		if err := reshapeAnyhow(t.Context(), b.Spool, st, rnd); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	producers.Wait()
	for _, when := range []string{"running", "reopened"} {
		f := newFollower(st)
		if err := f.read(t.Context()); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if f.total != acked {
			t.Fatalf("%s: read %d records of %d", when, f.total, acked)
		}
		b.reopen()
		st, _ = b.Stream("mqtt")
	}
	if st.Config().Shards == 0 || len(st.Shards()) < 40 {
		t.Errorf("%d shards, %d of them open: that was no test", len(st.Shards()), st.Config().Shards)
	}
}

func TestAChangeOfShardsOutlivesAKill(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 1})
	rnd := rand.New(rand.NewPCG(3, 4))
	n := uint64(0)
	for range 12 {
		for range 5 {
			put(t, st, record.Record{Key: "a", Data: binary.BigEndian.AppendUint64(nil, n)}, record.Record{Key: "b", Data: binary.BigEndian.AppendUint64(nil, n)})
			n++
		}
		if err := reshapeAnyhow(t.Context(), b.Spool, st, rnd); err != nil {
			t.Fatal(err)
		}
		// What a kill leaves.
		killed, err := spool.Open(t.Context(), copyTree(t, b.dir), spool.Config{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := killed.Stream("mqtt")
		if err != nil {
			t.Fatal(err)
		}
		was, is := st.Shards(), again.Shards()
		if len(was) != len(is) {
			t.Fatalf("%d shards, were %d", len(is), len(was))
		}
		for i := range was {
			if fmt.Sprint(was[i].From, was[i].To, was[i].Parents, was[i].Children, was[i].Closed, was[i].Created, was[i].Next) !=
				fmt.Sprint(is[i].From, is[i].To, is[i].Parents, is[i].Children, is[i].Closed, is[i].Created, is[i].Next) {
				t.Fatalf("shard is %+v, was %+v", is[i], was[i])
			}
			for _, id := range is[i].Parents {
				if at := slices.IndexFunc(is, func(sh spool.Shard) bool { return sh.ID == id }); is[at].Created.Unix() >= is[i].Created.Unix() || is[at].Index >= is[i].Index {
					t.Fatalf("shard %+v is not younger than its parent %+v", is[i], is[at])
				}
			}
		}
		f := newFollower(again)
		if err := f.read(t.Context()); err != nil || f.total != int(2*n) {
			t.Fatalf("read %d of %d: %v", f.total, 2*n, err)
		}
		put(t, again, record.Record{Key: "a", Data: []byte("12345678")})
		if err := killed.Ledger().Balanced(); err != nil {
			t.Fatal(err)
		}
		if err := killed.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheEndOfAShard(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"})
	c, err := st.Cursor(t.Context(), "cloud", only(st), spool.Oldest())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if batch, err := c.Next(t.Context(), 10); err != nil || len(batch.Recs) != 2 {
		t.Fatalf("%d records, %v", len(batch.Recs), err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := c.Next(context.Background(), 10)
		waited <- err
	}()
	if err := b.Split(t.Context(), st, only(st), record.HashKey{0x80}); err != nil {
		t.Fatal(err)
	}
	shards := st.Shards()
	for range 3 {
		err := <-waited
		end, ok := errors.AsType[*record.ShardEndError](err)
		if !ok || !slices.Equal(end.Children, []record.ShardID{shards[1].ID, shards[2].ID}) {
			t.Fatalf("the end is told as %v", err)
		}
		_, err = c.Poll(t.Context(), 10)
		waited <- err
	}
	if err := c.Commit(2, record.Tally{Delivered: 2}); err != nil {
		t.Fatal(err)
	}
	if got, _ := scan(t, st, only(st), spool.Oldest()); len(got) != 2 {
		t.Errorf("a scan finds %d", len(got))
	}
	if at := shards[1].To; at != (record.HashKey{0x7f, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}) || shards[2].From != (record.HashKey{0x80}) {
		t.Errorf("the ranges meet at %x and %x", at, shards[2].From)
	}
	var invalid *record.InvalidError
	for name, err := range map[string]error{
		"closed":     b.Split(t.Context(), st, shards[0].ID, record.HashKey{1}),
		"unknown":    b.Split(t.Context(), st, 99, record.HashKey{1}),
		"first hash": b.Split(t.Context(), st, shards[2].ID, shards[2].From),
		"outside":    b.Split(t.Context(), st, shards[1].ID, shards[2].From),
		"itself":     b.Merge(t.Context(), st, shards[1].ID, shards[1].ID),
		"none":       b.Rescale(t.Context(), st, 0),
	} {
		if !errors.As(err, &invalid) && !errors.Is(err, record.ErrShardClosed) && !errors.Is(err, record.ErrNoShard) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(st.Shards()); n != 3 {
		t.Errorf("%d shards after refused changes", n)
	}
}

func TestRescaleDividesEvenly(t *testing.T) {
	b := newBox(t, spool.Config{})
	for from := 1; from <= 6; from++ {
		for to := 1; to <= 6; to++ {
			st := b.stream(spool.StreamConfig{Name: conf.Stream(fmt.Sprintf("s-%d-%d", from, to)), Shards: from})
			even := b.stream(spool.StreamConfig{Name: conf.Stream(fmt.Sprintf("even-%d-%d", from, to)), Shards: to})
			if err := b.Rescale(t.Context(), st, to); err != nil {
				t.Fatal(err)
			}
			var open []spool.Shard
			all := st.Shards()
			for _, sh := range all {
				if sh.Open() {
					open = append(open, sh)
				}
				if sh.Open() != (len(sh.Children) == 0) {
					t.Errorf("%d to %d: shard %+v", from, to, sh)
				}
			}
			slices.SortFunc(open, func(a, b spool.Shard) int { return a.From.Compare(b.From) })
			if len(open) != to {
				t.Fatalf("%d to %d: %d are open", from, to, len(open))
			}
			for i, want := range even.Shards() {
				if open[i].From != want.From || open[i].To != want.To {
					t.Errorf("%d to %d: shard %d has %x to %x, want %x to %x", from, to, i, open[i].From, open[i].To, want.From, want.To)
				}
			}
			if from == to && len(all) != from {
				t.Errorf("%d to %d: %d shards", from, to, len(all))
			}
		}
	}
}

func TestAHeldProducerIsLetInAgain(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var err error
	stored := make(chan struct{})
	// The writer cannot settle what waits while done runs: so the change waits too.
	if err := st.Append(t.Context(), []record.Record{{Key: "a"}}, func([]record.Result) {
		err = b.Split(ctx, st, only(st), record.HashKey{0x80})
		close(stored)
	}); err != nil {
		t.Fatal(err)
	}
	<-stored
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("split: %v", err)
	}
	put(t, st, record.Record{Key: "b"})
}

func TestADeletedStreamIsGone(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 64 << 20, Segment: 256 << 10})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
	other := b.stream(spool.StreamConfig{Name: "other"})
	if err := b.SetNote(t.Context(), st, "mine"); err != nil {
		t.Fatal(err)
	}
	fill(t, st, 2000, 1000)
	c, err := st.Cursor(t.Context(), "cloud", st.Shards()[0].ID, spool.Oldest())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rd, err := st.Reader(st.Shards()[1].ID, spool.Oldest())
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		for {
			if _, err := rd.Next(context.Background(), 10000); err != nil {
				waited <- err
				return
			}
		}
	}()
	if err := b.Delete(t.Context(), "mqtt", "ken"); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, record.ErrNoStream) {
		t.Errorf("its reader gets %v", err)
	}
	if _, err := c.Next(t.Context(), 1); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("its cursor gets %v", err)
	}
	if _, err := st.Cursor(t.Context(), "late", st.Shards()[0].ID, spool.Oldest()); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("a new cursor gets %v", err)
	}
	if err := st.Append(t.Context(), []record.Record{{Key: "a"}}, func([]record.Result) {}); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("an append gets %v", err)
	}
	if err := b.Delete(t.Context(), "mqtt", ""); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("deleting again gets %v", err)
	}
	line := streamLine(t, b.Spool, "mqtt")
	if line.In != 2000 || line.Expired != 2000 || line.Kept != 0 {
		t.Errorf("the ledger says %+v", line)
	}
	steps, err := b.Steps(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(steps, func(s spool.Step) bool { return s.Kind == spool.StepDeleted })
	if i < 0 || steps[i].Who != "ken" {
		t.Errorf("the steps are %+v", steps)
	}
	again := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 3})
	if again.Note() != "" || len(again.Shards()) != 3 {
		t.Errorf("the namesake has the note %q and %d shards", again.Note(), len(again.Shards()))
	}
	put(t, again, record.Record{Key: "x", Data: []byte("new")})
	put(t, other, record.Record{Key: "y"})
	for _, when := range []string{"running", "killed", "reopened"} {
		s := b.Spool
		if when == "killed" {
			if s, err = spool.Open(t.Context(), copyTree(t, b.dir), b.cfg, nil); err != nil {
				t.Fatal(err)
			}
		}
		if when == "reopened" {
			b.reopen()
			s = b.Spool
		}
		now, err := s.Stream("mqtt")
		if err != nil || len(now.Shards()) != 3 {
			t.Fatalf("%s: %v", when, err)
		}
		if line := streamLine(t, s, "mqtt"); line.In != 2001 || line.Kept != 1 {
			t.Errorf("%s: the ledger says %+v", when, line)
		}
		if err := s.Ledger().Balanced(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if when == "killed" {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestTheRoomOfADeletedStreamComesFree(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 64 << 20, Segment: 256 << 10})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	noise := make([]byte, 1000)
	for range 3000 {
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		put(t, st, record.Record{Key: "k", Data: slices.Clone(noise)})
	}
	before := b.Stats().Used
	if err := b.Delete(t.Context(), "mqtt", ""); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); b.Stats().Used > before-2500*1000; {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are in use, %d were", b.Stats().Used, before)
		}
		spool.Keep(b.Spool)
	}
}

func TestShapesOutliveTheLossOfStateDB(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
	gone := b.stream(spool.StreamConfig{Name: "gone"})
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"}, record.Record{Key: "c"})
	put(t, gone, record.Record{Key: "a"})
	if err := b.Rescale(t.Context(), st, 3); err != nil {
		t.Fatal(err)
	}
	put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"}, record.Record{Key: "c"})
	if err := b.SetNote(t.Context(), st, "tags"); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	was := st.Shards()
	b.close()
	if err := os.Remove(filepath.Join(b.dir, "state.db")); err != nil {
		t.Fatal(err)
	}
	b.open()
	st, err := b.Stream("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	is := st.Shards()
	if len(is) != len(was) || st.Note() != "tags" {
		t.Fatalf("%d shards and the note %q", len(is), st.Note())
	}
	for i := range was {
		if was[i].From != is[i].From || was[i].To != is[i].To || was[i].Open() != is[i].Open() || !slices.Equal(was[i].Parents, is[i].Parents) || was[i].Next != is[i].Next {
			t.Errorf("shard is %+v, was %+v", is[i], was[i])
		}
	}
	if _, err := b.Stream("gone"); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("the deleted stream is back: %v", err)
	}
	if text := condition(b.Spool, "salvaged"); !strings.Contains(text, "mqtt") {
		t.Errorf("it tells %q", text)
	}
}

func TestNotesAreBounded(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	long := strings.Repeat("x", 256<<10)
	if err := b.SetNote(t.Context(), st, long); err != nil {
		t.Fatal(err)
	}
	if _, ok := errors.AsType[*record.InvalidError](b.SetNote(t.Context(), st, long+"x")); !ok {
		t.Error("a longer one is kept")
	}
	b.reopen()
	if st, _ = b.Stream("mqtt"); st.Note() != long {
		t.Errorf("%d bytes are left", len(st.Note()))
	}
}

func streamLine(t *testing.T, s *spool.Spool, name string) spool.StreamLedger {
	t.Helper()
	for _, l := range s.Ledger().Streams {
		if l.Stream == name {
			return l
		}
	}
	t.Fatalf("the ledger has no stream %q", name)
	return spool.StreamLedger{}
}

// What goes because a stream was deleted takes nothing along that is stored
// between the moment when that was found and the one when it goes.
func TestWhatIsStoredBesideADeletedStreamStays(t *testing.T) {
	b := newBox(t, spool.Config{Quota: 64 << 20})
	st := b.stream(spool.StreamConfig{Name: "gone"})
	put(t, st, record.Record{Key: "a"})
	kept := b.stream(spool.StreamConfig{Name: "kept"})
	spool.DeleteAndSweep(t, b.Spool, st, func() { put(t, kept, record.Record{Key: "k"}) })
	if sh := kept.Shards()[0]; sh.First != 1 || sh.Next != 2 {
		t.Errorf("the record is gone: %+v", sh)
	}
}
