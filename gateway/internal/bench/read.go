package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// Arrival times in the spool that is read: the i-th record came i steps after
// the start.
const arrivalStep = 100 * time.Microsecond

func arrivalStart() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// reads measures replay and seek in a spool that was closed and opened again,
// so that nothing is in its own memory. Where we may, the page cache is
// emptied too.
func (b *bench) reads(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, b.remove("read"), b.remove("plain")) }()
	b.tell("fill a spool with %d records to read", b.Records)
	if err := b.fillToRead(ctx, "one", 1); err != nil {
		return err
	}
	if err := b.fillToRead(ctx, "four", 4); err != nil {
		return err
	}
	if err := b.plainToRead(); err != nil {
		return err
	}
	b.tell("replay")
	if err := b.replays(ctx); err != nil {
		return err
	}
	b.tell("seek")
	for _, cold := range []bool{true, false} {
		if err := b.seeks(ctx, cold); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fillToRead(ctx context.Context, stream string, shards int) (err error) {
	s, err := b.open(ctx, "read", spool.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	st, err := makeStream(ctx, s, stream, shards)
	if err != nil {
		return err
	}
	keys, p := shardKeys(st), randomPayloads(b.Payload)
	recs := make([]record.Record, min(10_000, max(1, (1<<20)/b.Payload)))
	start := arrivalStart()
	for n := 0; n < b.Records; n += len(recs) {
		recs = recs[:min(len(recs), b.Records-n)]
		data := p.take(n/len(recs), len(recs))
		for i := range recs {
			recs[i] = record.Record{
				Key: keys[(n+i)%len(keys)], Source: "bench", Arrived: start.Add(time.Duration(n+i) * arrivalStep), Data: data[i*p.size : (i+1)*p.size],
			}
		}
		if err := put(ctx, st, recs); err != nil {
			return fmt.Errorf("fill a spool to read: %w", err)
		}
	}
	return nil
}

func (b *bench) plainToRead() error {
	f, err := os.Create(b.path("plain"))
	if err != nil {
		return err
	}
	p := randomPayloads(b.Payload)
	for left := int64(b.Records) * int64(b.Payload); left > 0; left -= int64(len(p.all)) {
		if _, err := f.Write(p.all[:min(left, int64(len(p.all)))]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// dropCaches empties the page cache if it may, and reports whether it did.
func (b *bench) dropCaches() bool { return b.Cold && dropCaches() }

// replays reads everything: one reader of one shard, cold and warm, beside a
// plain file that is read and summed; many readers at once; and the four
// shards of a stream whose records lie in shared blocks.
func (b *bench) replays(ctx context.Context) error {
	cold := b.dropCaches()
	for _, emptied := range []bool{true, false} {
		if emptied && !cold {
			continue
		}
		var ours, plain []float64
		for range b.Rounds {
			v, err := b.replay(ctx, "one", 1, emptied)
			if err != nil {
				return err
			}
			w, err := b.readPlain(emptied)
			if err != nil {
				return err
			}
			ours, plain = append(ours, v), append(plain, w)
		}
		name := map[bool]string{true: "page cache emptied", false: "page cache warm"}[emptied]
		l := Line{
			Work: "replay, 1 reader, " + name, Payload: "random", Unit: "records/s", Figure: spread(ours),
			Rival: &Rival{Name: "read and CRC32C of a plain file", Figure: spread(plain), Ratio: over(ours, plain)},
		}
		if b.Payload == 100 {
			l.Targets = []Target{atLeast("replay >= 6 M records/s", l.Figure.Median, 6e6)}
		}
		b.add(l)
	}
	for _, w := range []struct {
		work, stream string
		readers      int
	}{{"replay, 8 readers of one shard at once", "one", 8}, {"replay, 4 shards in shared blocks, a reader each", "four", 4}} {
		var rates []float64
		for range b.Rounds {
			v, err := b.replay(ctx, w.stream, w.readers, false)
			if err != nil {
				return err
			}
			rates = append(rates, v)
		}
		b.add(Line{Work: w.work, Payload: "random", Unit: "records/s together", Figure: spread(rates)})
	}
	return nil
}

// replay opens the spool and reads the stream with so many readers, which take
// its shards in turn; the rate is of all of them together.
func (b *bench) replay(ctx context.Context, stream string, readers int, cold bool) (rate float64, err error) {
	s, err := b.open(ctx, "read", spool.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	st, err := s.Stream(stream)
	if err != nil {
		return 0, err
	}
	shards := st.Shards()
	if cold {
		b.dropCaches()
	}
	got, errs := make([]int64, readers), make([]error, readers)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range readers {
		wg.Go(func() {
			sh := shards[i%len(shards)]
			var size int
			for batch, err := range st.Scan(ctx, sh.ID, spool.Oldest()) {
				if err != nil {
					errs[i] = err
					return
				}
				for j := range batch.Recs {
					size += len(batch.Recs[j].Data)
				}
				got[i] += int64(len(batch.Recs))
			}
			if want := int64(sh.Next - sh.First); got[i] != want || int64(size) != want*int64(b.Payload) { //nolint:gosec // G115: far below 2^63
				errs[i] = fmt.Errorf("shard %d gave %d records of %d", sh.ID, got[i], want)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	var sum int64
	for _, n := range got {
		sum += n
	}
	return float64(sum) / took.Seconds(), errors.Join(errs...)
}

// readPlain reads the plain file and sums it up, because bytes that nobody
// checked are not a replay.
func (b *bench) readPlain(cold bool) (rate float64, err error) {
	f, err := os.Open(b.path("plain"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if cold {
		b.dropCaches()
	}
	table, buf := crc32.MakeTable(crc32.Castagnoli), make([]byte, 1<<20)
	var sum uint32
	began := time.Now()
	for {
		n, err := io.ReadFull(f, buf)
		sum = crc32.Update(sum, table, buf[:n])
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			return 0, err
		}
	}
	return float64(b.Records) / time.Since(began).Seconds(), nil
}

// seeks opens readers at random places, by sequence number and by time, until
// each has its first record.
func (b *bench) seeks(ctx context.Context, cold bool) (err error) {
	s, err := b.open(ctx, "read", spool.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	st, err := s.Stream("one")
	if err != nil {
		return err
	}
	name, tries := "warm", 3000
	if cold {
		if !b.dropCaches() {
			return nil
		}
		name, tries = "first after an emptied page cache", 300
	}
	rng := rand.New(rand.NewPCG(5, 6)) //nolint:gosec // G404: not for secrets
	for _, by := range []string{"sequence", "time"} {
		if !cold { // the index of the segments is read once
			if _, err := seek(ctx, st, spool.After(1), 2); err != nil {
				return err
			}
		}
		var took []time.Duration
		for began := time.Now(); len(took) < tries && (len(took) < 100 || time.Since(began) < 3*time.Second); {
			n := rng.IntN(b.Records - 1)
			from, want := spool.After(uint64(n)), uint64(n+1) //nolint:gosec // G115: not negative
			if by == "time" {
				from = spool.Since(arrivalStart().Add(time.Duration(n) * arrivalStep))
			}
			d, err := seek(ctx, st, from, want)
			if err != nil {
				return err
			}
			took = append(took, d)
		}
		p99 := percentile(took, 0.99)
		b.add(Line{
			Work: fmt.Sprintf("seek p99 by %s among %s, %s", by, number(float64(b.Records)), name), Unit: "ms", Figure: one(p99),
			Note:    fmt.Sprintf("p50 %.3f, max %.2f of %d", percentile(took, 0.5), percentile(took, 1), len(took)),
			Targets: []Target{below("seek p99 < 5 ms", p99, 5)},
		})
	}
	return nil
}

func seek(ctx context.Context, st *spool.Stream, from spool.Start, want uint64) (took time.Duration, err error) {
	began := time.Now()
	r, err := st.Reader(st.Shards()[0].ID, from)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	batch, err := r.Next(ctx, 1)
	took = time.Since(began)
	if err == nil && (len(batch.Recs) == 0 || batch.Recs[0].Pos.Seq != want) {
		err = fmt.Errorf("a seek to record %d came out elsewhere", want)
	}
	return took, err
}
