package spool_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// A sight is what a reader was shown: a record, or a loss.
type sight struct {
	from, to uint64 // to is 0 for a record
	sum      uint32 // of the record's data
}

func sightOf(r *record.Record) sight {
	return sight{from: r.Pos.Seq, sum: crc32.ChecksumIEEE(append([]byte(r.Key), r.Data...))}
}

// lossOf is the loss that an error of reading tells of.
func lossOf(t *testing.T, err error) sight {
	t.Helper()
	if e, ok := errors.AsType[*record.CorruptError](err); ok {
		return sight{from: e.From, to: e.To}
	}
	if e, ok := errors.AsType[*record.TrimmedError](err); ok {
		return sight{from: e.From, to: e.To}
	}
	t.Fatal(err)
	return sight{}
}

// merged joins losses that touch.
func merged(all []sight) (out []sight) {
	for _, s := range all {
		if n := len(out); n > 0 && s.to > 0 && out[n-1].to == s.from {
			out[n-1].to = s.to
			continue
		}
		out = append(out, s)
	}
	return out
}

// spread appends records to all shards, most of them many shards in a block.
func spread(t *testing.T, st *spool.Stream, n int, rnd *rand.Rand) {
	t.Helper()
	shards := st.Shards()
	for n > 0 {
		var recs []record.Record
		each := 1 + rnd.IntN(200)
		at := rnd.IntN(len(shards))
		for i := range min(n, each) {
			if rnd.IntN(20) > 0 {
				at = rnd.IntN(len(shards))
			}
			size := rnd.IntN(150)
			if rnd.IntN(3000) == 0 {
				size = 260 << 10 // in the chunk file
			}
			recs = append(recs, record.Record{
				Key: fmt.Sprint(n, "-", i), HashKey: &shards[at].From, Source: fmt.Sprint("s", rnd.IntN(3)), Data: slices.Repeat([]byte{byte(n), byte(i)}, size),
			})
		}
		put(t, st, recs...)
		n -= len(recs)
	}
}

// Cursors far behind share what they read. Each of them is shown what a reader
// is that reads for itself alone, whatever is damaged, and whatever the others
// do.
func TestCursorsThatShareReadingSeeWhatOneAloneSees(t *testing.T) {
	const shards = 12
	src := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	s, err := spool.Open(t.Context(), src, spool.Config{NoPacking: true, Quota: 64 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: shards})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		spread(t, st, 4000, rnd)
		if err := spool.Roll(st); err != nil {
			t.Fatal(err)
		}
	}
	spread(t, st, 1000, rnd)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string][2]string{
		"sound":            {},
		"a body":           {"0000000001.seg", "UPDATE block SET body = substr(body, 1, 100) || x'00' || substr(body, 102) WHERE id = 3"},
		"some heads":       {"0000000002.seg", "UPDATE block SET head = x'00' || substr(head, 2) WHERE id % 7 = 3"},
		"some blocks":      {"0000000002.seg", "DELETE FROM block WHERE id % 5 = 4"},
		"all of a segment": {"0000000002.seg", "DELETE FROM block"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &box{t: t, dir: copyTree(t, src), cfg: spool.Config{NoPacking: true, Quota: 64 << 20}, damage: damage[0] != ""}
			if b.damage {
				edit(t, filepath.Join(b.dir, "log-00001", damage[0]), damage[1])
			}
			b.open()
			t.Cleanup(b.finish)
			st, err := b.Stream("mqtt")
			if err != nil {
				t.Fatal(err)
			}
			want := make([][]sight, shards)
			cursors := make([]*spool.Cursor, shards)
			open := func(i int) {
				var err error
				if cursors[i], err = st.Cursor(t.Context(), "up", st.Shards()[i].ID, spool.Oldest()); err != nil {
					t.Fatal(err)
				}
			}
			for i, sh := range st.Shards() {
				for batch, err := range st.Scan(t.Context(), sh.ID, spool.Oldest()) {
					if err != nil {
						want[i] = append(want[i], lossOf(t, err))
						continue
					}
					for k := range batch.Recs {
						want[i] = append(want[i], sightOf(&batch.Recs[k]))
					}
				}
				open(i)
			}
			rnd := rand.New(rand.NewPCG(3, 4))
			got := make([][]sight, shards)
			for left := shards; left > 0; {
				i := rnd.IntN(shards)
				if cursors[i] == nil {
					continue
				}
				batch, err := cursors[i].Poll(t.Context(), 1+rnd.IntN(60))
				switch {
				case err != nil:
					got[i] = append(got[i], lossOf(t, err))
					continue
				case len(batch.Recs) == 0:
					cursors[i] = nil
					left--
					continue
				}
				for k := range batch.Recs {
					got[i] = append(got[i], sightOf(&batch.Recs[k]))
				}
				switch rnd.IntN(100) {
				case 0: // a newcomer at the same place
					if err := cursors[i].Commit(batch.Next-1, record.Tally{Delivered: cursors[i].Pos() - cursors[i].Committed() - lostIn(got[i], cursors[i].Committed())}); err != nil {
						t.Fatal(err)
					}
					if err := cursors[i].Close(); err != nil {
						t.Fatal(err)
					}
					open(i)
				case 1:
					spool.ForgetRead(st)
				}
			}
			for i := range shards {
				if g, w := merged(got[i]), merged(want[i]); !slices.Equal(g, w) {
					n := 0
					for n < min(len(g), len(w)) && g[n] == w[n] {
						n++
					}
					t.Errorf("shard %d: %d were shown instead of %d; from the %dth on %+v instead of %+v", i, len(g), len(w), n, g[n:min(n+3, len(g))], w[n:min(n+3, len(w))])
				}
			}
		})
	}
}

// lostIn is how many records of the losses lie at or behind a number.
func lostIn(all []sight, from uint64) (n uint64) {
	for _, s := range all {
		if s.to > from {
			n += s.to - max(s.from, from)
		}
	}
	return n
}

// hundred is a spool with a stream of a hundred shards, each in every one of 300
// blocks, none of which is in memory.
func hundred(t *testing.T) (*box, []*spool.Cursor) {
	t.Helper()
	b := newBox(t, spool.Config{NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 100})
	shards := st.Shards()
	for n := range 300 {
		recs := make([]record.Record, 200)
		for i := range recs {
			recs[i] = record.Record{Key: fmt.Sprint(n, i), HashKey: &shards[i%len(shards)].From, Data: make([]byte, 500)}
		}
		put(t, st, recs...)
	}
	b.reopen()
	st, _ = b.Stream("mqtt")
	var all []*spool.Cursor
	for _, sh := range st.Shards() {
		c, err := st.Cursor(t.Context(), "up", sh.ID, spool.Oldest())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return b, all
}

// However many cursors are behind, the log is read about once where they keep
// pace, as the lanes of an uplink do, and never by each for itself.
func TestManyCursorsReadTheLogAboutOnce(t *testing.T) {
	b, all := hundred(t)
	before := b.Stats().BlocksRead
	next := make([]uint64, len(all))
	for ended := 0; ended < len(all); {
		ended = 0
		for i, c := range all {
			for had := 0; had < 32<<10; {
				n, bytes := follow(t, c, next[i])
				if n == 0 {
					ended++
					break
				}
				next[i] += n
				had += bytes
			}
		}
	}
	for i := range next {
		if next[i] != 600 {
			t.Errorf("%d records of shard %d", next[i], i)
		}
	}
	if read := b.Stats().BlocksRead - before; read > 2*300 {
		t.Errorf("300 blocks were read %d times", read)
	}
}

// Shards that have more and fewer records drift apart, over the ends of segments
// and over what a feed holds; still most is read for several, and each is shown
// all of its own.
func TestCursorsOfUnevenShards(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 100})
	shards := st.Shards()
	rnd := rand.New(rand.NewPCG(3, 4))
	want := make([]uint64, len(shards))
	const blocks = 300
	for n := range blocks {
		recs := make([]record.Record, 400)
		for i := range recs {
			at := rnd.IntN(len(shards))
			if rnd.IntN(3) == 0 {
				at /= 4
			}
			want[at]++
			recs[i] = record.Record{Key: fmt.Sprint(n, i), HashKey: &shards[at].From, Data: make([]byte, 500)}
		}
		put(t, st, recs...)
		if n%100 == 80 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.reopen()
	st, _ = b.Stream("mqtt")
	before := b.Stats().BlocksRead
	next := make([]uint64, len(shards))
	all := make([]*spool.Cursor, len(shards))
	for i, sh := range st.Shards() {
		c, err := st.Cursor(t.Context(), "up", sh.ID, spool.Oldest())
		if err != nil {
			t.Fatal(err)
		}
		all[i] = c
	}
	for ended := 0; ended < len(all); {
		ended = 0
		for i, c := range all {
			n, _ := follow(t, c, next[i])
			if next[i] += n; n == 0 {
				ended++
			}
		}
	}
	if !slices.Equal(next, want) {
		t.Errorf("read %v, want %v", next, want)
	}
	if read := b.Stats().BlocksRead - before; read > 10*blocks {
		t.Errorf("%d blocks were read %d times", blocks, read)
	}
}

// What was read is forgotten while cursors read, as an erasure does it: each is
// shown all of its own all the same, once.
func TestCursorsReadOnWhatIsForgotten(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 64})
	shards := st.Shards()
	const rounds = 60
	for n := range rounds {
		recs := make([]record.Record, 4*len(shards))
		for i := range recs {
			recs[i] = record.Record{Key: fmt.Sprint(n, i), HashKey: &shards[i%len(shards)].From, Data: make([]byte, 300)}
		}
		put(t, st, recs...)
		if n%3 == 2 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.reopen()
	st, _ = b.Stream("mqtt")
	for again := range 3 {
		var left atomic.Int64
		left.Store(int64(len(shards)))
		var wg sync.WaitGroup
		for _, sh := range st.Shards() {
			c, err := st.Cursor(t.Context(), fmt.Sprint("up", again), sh.ID, spool.Oldest())
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer left.Add(-1)
				n := uint64(0)
				for n < 4*rounds {
					more, _ := follow(t, c, n)
					if n += more; more == 0 {
						t.Errorf("shard %d ends behind %d records", sh.ID, n)
						return
					}
				}
			})
		}
		for left.Load() > 0 {
			spool.ForgetRead(st)
			runtime.Gosched()
		}
		wg.Wait()
	}
}

// follow reads on behind n records, and gives how many there were and their bytes.
func follow(t *testing.T, c *spool.Cursor, n uint64) (count uint64, bytes int) {
	t.Helper()
	batch, err := c.Poll(context.Background(), 20)
	if err != nil {
		t.Error(err)
	}
	for i := range batch.Recs {
		if want := n + uint64(i) + 1; batch.Recs[i].Pos.Seq != want {
			t.Errorf("record %d stands where %d should", batch.Recs[i].Pos.Seq, want)
		}
		bytes += len(batch.Recs[i].Data)
	}
	return uint64(len(batch.Recs)), bytes
}

// Cursors that run as they like, and end in the middle, leave the others what
// is theirs.
func TestCursorsReadTogetherAndApart(t *testing.T) {
	_, all := hundred(t)
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			n := uint64(0)
			for {
				more, _ := follow(t, c, n)
				n += more
				if more == 0 || i%10 == 0 && n > 300 {
					break
				}
			}
			if n < 600 && i%10 > 0 {
				t.Errorf("%d records of shard %d", n, i)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
