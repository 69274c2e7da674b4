package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

func TestEveryFieldSurvives(t *testing.T) {
	b := newBox(t, spool.Config{Gateway: "edge-07"})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	hash := record.HashKey{1, 2, 3, 15: 9}
	at := time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC)
	want := []record.Record{
		{Key: "plain"},
		{
			Key: "all", HashKey: &hash, At: at, Arrived: at.Add(time.Second), Mono: 42 * time.Second, TimeQ: record.TimeUnsynchronised, Source: "press-1",
			SourceSeq: 7, Type: "application/json", Attrs: map[string]string{"topic": "a/b", "": "empty"}, Data: []byte(`{"value":1}`),
		},
		{Key: "old", At: time.Date(1, 1, 2, 0, 0, 0, 5, time.UTC), Arrived: at.Add(-time.Hour), Source: "press-1", SourceSeq: 3, Data: []byte{0, 255}},
		{Key: "far", At: time.Date(9999, 1, 2, 0, 0, 0, 999999999, time.UTC), Arrived: at, Mono: time.Second, Source: "press-2", Type: "text/plain"},
		{Key: "größe/é", Data: bytes.Repeat([]byte("x"), 256<<10)},
		{Key: "large", Data: bytes.Repeat([]byte("y"), 256<<10+1)},
	}
	res := put(t, st, slices.Clone(want)...)
	for _, where := range []string{"memory", "file", "reopened"} {
		switch where {
		case "file":
			spool.DropCache(st)
		case "reopened":
			b.reopen()
			st, _ = b.Stream("mqtt")
		}
		got, losses := scan(t, st, only(st), spool.Oldest())
		if len(got) != len(want) || len(losses) > 0 {
			t.Fatalf("%s: got %d records and losses %v", where, len(got), losses)
		}
		for i, w := range want {
			g := got[i]
			if g.Pos != res[i].Pos || g.Key != w.Key || !g.At.Equal(w.At) || g.TimeQ != w.TimeQ || g.Source != w.Source || g.SourceSeq != w.SourceSeq ||
				g.Type != w.Type || !maps.Equal(g.Attrs, w.Attrs) || !bytes.Equal(g.Data, w.Data) {
				t.Errorf("%s: record %d is %+v, want %+v", where, i, g, w)
			}
			if !w.Arrived.IsZero() && !g.Arrived.Equal(w.Arrived) {
				t.Errorf("%s: record %d arrived %v, want %v", where, i, g.Arrived, w.Arrived)
			}
			if g.Arrived.IsZero() || g.Boot == (record.BootID{}) || (w.Mono != 0 && g.Mono != w.Mono) || g.Mono == 0 {
				t.Errorf("%s: record %d has arrival %v, boot %v, mono %v", where, i, g.Arrived, g.Boot, g.Mono)
			}
			if (g.HashKey == nil) != (w.HashKey == nil) || g.HashKey != nil && *g.HashKey != *w.HashKey {
				t.Errorf("%s: record %d has hash key %v, want %v", where, i, g.HashKey, w.HashKey)
			}
		}
	}
	if id := b.Identity(); id.Gateway != "edge-07" || id.Epoch == 0 {
		t.Errorf("identity is %+v", id)
	}
}

func TestLimitsAreAnsweredPerRecord(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	res, err := st.Put(t.Context(), []record.Record{{Key: "a"}, {Key: ""}, {Key: "b", Arrived: time.Date(5000, 1, 1, 0, 0, 0, 0, time.UTC)}, {Key: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range []bool{false, true, true, false} {
		if _, ok := errors.AsType[*record.InvalidError](res[i].Err); ok != bad {
			t.Errorf("record %d: %v", i, res[i].Err)
		}
	}
	if res[0].Pos.Seq != 1 || res[3].Pos.Seq != 2 {
		t.Errorf("positions are %v and %v", res[0].Pos, res[3].Pos)
	}
	if res, err := st.Put(t.Context(), []record.Record{{Key: ""}}); err != nil || res[0].Err == nil {
		t.Errorf("a batch of nothing but a bad record: %v, %v", res, err)
	}
	if _, err := st.Put(t.Context(), nil); err == nil {
		t.Error("an empty batch was taken")
	}
}

func TestOneKeyOneShardInOrder(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 7})
	var wg sync.WaitGroup
	const producers, rounds, batch = 8, 30, 20
	for p := range producers {
		wg.Go(func() {
			source := fmt.Sprint("source-", p)
			for i := range rounds {
				var recs []record.Record
				for j := range batch {
					recs = append(recs, record.Record{Key: fmt.Sprintf("%s/%d", source, j%5), Source: source, SourceSeq: uint64(i*batch + j + 1)})
				}
				if _, err := st.Put(t.Context(), recs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.reopen()
	st, _ = b.Stream("mqtt")
	total := 0
	shardOf := map[string]record.ShardID{}
	for _, sh := range st.Shards() {
		last := map[string]uint64{}
		recs, _ := scan(t, st, sh.ID, spool.After(0))
		for _, r := range recs {
			if s, ok := shardOf[r.Key]; ok && s != sh.ID {
				t.Fatalf("key %s is in shards %d and %d", r.Key, s, sh.ID)
			}
			if h := record.HashOf(r.Key); h.Compare(sh.From) < 0 || h.Compare(sh.To) > 0 {
				t.Fatalf("key %s is in shard %d, whose range does not hold its hash", r.Key, sh.ID)
			}
			shardOf[r.Key] = sh.ID
			if r.SourceSeq <= last[r.Source] {
				t.Fatalf("source %s: %d after %d", r.Source, r.SourceSeq, last[r.Source])
			}
			last[r.Source] = r.SourceSeq
		}
		total += len(recs)
	}
	if total != producers*rounds*batch {
		t.Errorf("read %d records, want %d", total, producers*rounds*batch)
	}
	for p := range producers {
		if got := b.SourceSeq(fmt.Sprint("source-", p)); got != rounds*batch {
			t.Errorf("source %d goes on at %d", p, got)
		}
	}
}

func TestDoneComesInOrder(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 3})
	const calls = 500
	order := make(chan int, calls)
	for i := range calls {
		err := st.Append(t.Context(), []record.Record{{Key: fmt.Sprint(i), Source: "one"}}, func([]record.Result) { order <- i })
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range calls {
		if got := <-order; got != i {
			t.Fatalf("done %d came at place %d", got, i)
		}
	}
}

func TestStarts(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBox(t, spool.Config{Segment: 256 << 10})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	for i := range 60 {
		put(t, st, record.Record{Key: "k", Arrived: now.Add(time.Duration(i) * time.Second), Data: make([]byte, 20<<10)})
	}
	for _, cold := range []bool{false, true} {
		if cold {
			b.reopen()
			st, _ = b.Stream("mqtt")
		}
		for _, c := range []struct {
			name string
			from spool.Start
			want uint64
		}{
			{"oldest", spool.Oldest(), 1},
			{"newest", spool.Newest(), 0},
			{"after 0", spool.After(0), 1},
			{"after 17", spool.After(17), 18},
			{"after the end", spool.After(60), 0},
			{"behind the end", spool.After(600), 0},
			{"long ago", spool.Since(time.Time{}), 1},
			{"since the first", spool.Since(now), 1},
			{"since 30 s", spool.Since(now.Add(30 * time.Second)), 31},
			{"since 30.5 s", spool.Since(now.Add(30500 * time.Millisecond)), 32},
			{"since the last", spool.Since(now.Add(59 * time.Second)), 60},
			{"in the future", spool.Since(now.Add(time.Hour)), 0},
			{"in the far future", spool.Since(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), 0},
		} {
			recs, losses := scan(t, st, only(st), c.from)
			var got uint64
			if len(recs) > 0 {
				got = recs[0].Pos.Seq
			}
			if got != c.want || len(losses) > 0 {
				t.Errorf("%s (cold %v): begins at %d with losses %v, want %d", c.name, cold, got, losses, c.want)
			}
		}
	}
}

func TestSinceWithAClockThatGoesBackwards(t *testing.T) {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBox(t, spool.Config{Segment: 256 << 10})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 3})
	rng := rand.New(rand.NewPCG(1, 2))
	var arrivals []time.Time
	byShard := map[record.ShardID][]time.Time{}
	at := base
	for i := range 400 {
		switch rng.IntN(20) {
		case 0:
			at = at.Add(-time.Duration(rng.IntN(3600)) * time.Second)
		case 1:
			at = at.Add(time.Duration(rng.IntN(3600)) * time.Second)
		}
		at = at.Add(time.Second)
		res := put(t, st, record.Record{Key: fmt.Sprint(i), Arrived: at, Data: make([]byte, 5<<10)})
		arrivals = append(arrivals, at)
		byShard[res[0].Pos.Shard] = append(byShard[res[0].Pos.Shard], at)
		if i == 200 {
			b.reopen()
			st, _ = b.Stream("mqtt")
		}
	}
	spool.DropCache(st)
	for range 60 {
		since := arrivals[rng.IntN(len(arrivals))].Add(time.Duration(rng.IntN(3)-1) * time.Second)
		for id, all := range byShard {
			want := slices.IndexFunc(all, func(a time.Time) bool { return !a.Before(since) }) + 1
			r, err := st.Reader(id, spool.Since(since))
			if err != nil {
				t.Fatal(err)
			}
			if want == 0 {
				want = len(all) + 1
			}
			if r.Pos() != uint64(want) {
				t.Fatalf("shard %d since %v begins at %d, want %d", id, since, r.Pos(), want)
			}
			r.Close()
		}
	}
}

func TestBlobs(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	blobs := [][]byte{[]byte("x"), bytes.Repeat([]byte("frame"), 300_000), nil, make([]byte, 3<<20)}
	for i, blob := range blobs {
		put(t, st, record.Record{Key: "cam", Data: fmt.Appendf(nil, "index %d", i), Blob: blob})
	}
	b.reopen()
	st, _ = b.Stream("video")
	put(t, st, record.Record{Key: "cam", Blob: []byte("after")})
	blobs = append(blobs, []byte("after"))
	recs, _ := scan(t, st, only(st), spool.Oldest())
	for i, r := range recs {
		if r.Blob != nil || (len(blobs[i]) == 0) != r.Chunk.IsZero() {
			t.Fatalf("record %d has blob %d bytes, chunk %v", i, len(r.Blob), r.Chunk)
		}
		if r.Chunk.IsZero() {
			continue
		}
		c, err := st.OpenChunk(r.Chunk)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, blobs[i]) || c.Size != int64(len(got)) {
			t.Errorf("chunk %d: %d bytes, %v", i, len(got), err)
		}
		if _, err := c.Seek(-1, io.SeekEnd); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(c); err != nil || len(got) != 1 {
			t.Errorf("chunk %d after a seek: %d bytes, %v", i, len(got), err)
		}
		c.Close()
	}
	if _, err := st.OpenChunk(record.ChunkRef{Log: 99, Segment: 1, Off: 16, Len: 1}); err == nil {
		t.Error("a chunk of another log was opened")
	}
}

func TestStreamsAreMadeOnceAndKeepTheirShape(t *testing.T) {
	b := newBox(t, spool.Config{})
	ctx := t.Context()
	if _, err := b.CreateStream(ctx, spool.StreamConfig{Name: "bad name"}); err == nil {
		t.Error("a bad name was taken")
	}
	if _, err := b.CreateStream(ctx, spool.StreamConfig{Name: "a", Shards: -1}); err == nil {
		t.Error("-1 shards were taken")
	}
	a, err := b.CreateStream(ctx, spool.StreamConfig{Name: "a", Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateStream(ctx, spool.StreamConfig{Name: "a"}); !errors.Is(err, record.ErrStreamExists) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := b.Ensure(ctx, spool.StreamConfig{Name: "a", Shards: 3}); err == nil {
		t.Error("the number of shards was changed")
	}
	if _, err := b.Stream("b"); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("no such stream: %v", err)
	}
	if c := a.Config(); c.Class != record.ClassTelemetry || c.Shards != 2 {
		t.Errorf("defaults are %+v", c)
	}
	same, err := b.Ensure(ctx, spool.StreamConfig{Name: "a", MaxAge: conf.Duration(time.Hour)})
	if err != nil || same != a || a.Config().MaxAge.D() != time.Hour {
		t.Errorf("changed retention: %v, %+v", err, a.Config())
	}
	b.stream(spool.StreamConfig{Name: "z", Class: record.ClassAlarm})
	before := a.Shards()
	b.reopen()
	a, err = b.Stream("a")
	if err != nil || a.Config().MaxAge.D() != time.Hour || a.Created().IsZero() {
		t.Errorf("after reopening: %v, %+v", err, a.Config())
	}
	for i, sh := range a.Shards() {
		if sh.ID != before[i].ID || sh.From != before[i].From || sh.To != before[i].To {
			t.Errorf("shard %d is %+v, was %+v", i, sh, before[i])
		}
	}
	if all := b.Streams(); len(all) != 2 || all[0].Name() != "a" || all[1].Name() != "z" {
		t.Errorf("streams are %v", all)
	}
	if _, err := a.Reader(9999, spool.Oldest()); !errors.Is(err, record.ErrNoShard) {
		t.Errorf("no such shard: %v", err)
	}
}

func TestCloseWakesEverybody(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	r, err := st.Reader(only(st), spool.Newest())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() {
		_, err := r.Next(context.Background(), 10)
		ended <- err
	}()
	r2, _ := st.Reader(only(st), spool.Newest())
	go func() {
		_, err := r2.Next(context.Background(), 10)
		ended <- err
	}()
	r2.Close()
	b.close()
	for range 2 {
		if err := <-ended; !errors.Is(err, record.ErrClosed) {
			t.Errorf("a waiting reader got %v", err)
		}
	}
	if _, err := st.Put(t.Context(), []record.Record{{Key: "k"}}); !errors.Is(err, record.ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
	if _, err := r.Poll(t.Context(), 1); !errors.Is(err, record.ErrClosed) {
		t.Errorf("poll after close: %v", err)
	}
	if _, err := st.Cursor(t.Context(), "c", only(st), spool.Oldest()); !errors.Is(err, record.ErrClosed) {
		t.Errorf("cursor after close: %v", err)
	}
}

func TestReadersFollowWhileProducersWrite(t *testing.T) {
	b := newBox(t, spool.Config{Segment: 256 << 10})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
	const producers, calls, batch = 4, 60, 25
	var readers, writers sync.WaitGroup
	counts := make([]int, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	for range 3 {
		for i, sh := range st.Shards() {
			readers.Go(func() {
				r, err := st.Reader(sh.ID, spool.Oldest())
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				want := uint64(1)
				n := 0
				for {
					batch, err := r.Next(ctx, 40)
					if err != nil {
						t.Error(err)
						return
					}
					for _, rec := range batch.Recs {
						if rec.Pos.Seq != want {
							t.Errorf("got %d, want %d", rec.Pos.Seq, want)
							return
						}
						want++
						n++
						if string(rec.Data) == "end" {
							mu.Lock()
							counts[i] += n - 1
							mu.Unlock()
							return
						}
					}
				}
			})
		}
	}
	for p := range producers {
		writers.Go(func() {
			for range calls {
				var recs []record.Record
				for j := range batch {
					recs = append(recs, record.Record{Key: fmt.Sprint(p, j), Source: fmt.Sprint(p), Data: make([]byte, 400)})
				}
				if _, err := st.Put(ctx, recs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for _, sh := range st.Shards() {
		hash := sh.From
		put(t, st, record.Record{Key: "end", HashKey: &hash, Data: []byte("end")})
	}
	readers.Wait()
	if counts[0]+counts[1] != 3*producers*calls*batch {
		t.Errorf("readers saw %v, want %d in sum", counts, 3*producers*calls*batch)
	}
}
