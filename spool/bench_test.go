package spool_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// BenchmarkAppend stores 100-byte records and, in the same run, does two things
// without SQLite: a plain log, which makes the same blocks, appends them to a
// file and syncs after each call's worth, and a bare append and sync of as many
// bytes that are there already. It prints the ratio of our rate to each.
func BenchmarkAppend(b *testing.B) {
	for _, shards := range []int{1, 4} {
		for _, n := range []int{1, 100, 1000, 10_000} {
			b.Run(fmt.Sprintf("shards=%d/records=%d", shards, n), func(b *testing.B) { benchAppend(b, shards, n) })
		}
	}
}

func benchAppend(b *testing.B, shards, n int) {
	st := benchStream(b, shards)
	recs := make([]record.Record, n)
	rng := rand.NewChaCha8([32]byte{1}) // disks and hosts treat zeros specially
	for i := range recs {
		recs[i] = record.Record{Key: fmt.Sprintf("press/line-%d/temp", i%50), Source: "bench", Data: make([]byte, 100)}
		_, _ = rng.Read(recs[i].Data) // never fails
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	bare := make([]byte, n*120)
	_, _ = rng.Read(bare) // never fails
	var ours, plain, raw time.Duration
	slots := make(chan struct{}, 2) // one commit runs while the next is queued
	var calls sync.WaitGroup
	write := func(bytes ...[]byte) {
		for _, p := range bytes {
			if _, err := f.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		if err := spool.Datasync(f); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		// Several calls in a row for each of the two, so that neither pays for
		// the other's writes alone.
		const row = 8
		start := time.Now()
		for range row {
			slots <- struct{}{}
			calls.Add(1)
			err := st.Append(b.Context(), recs, func(res []record.Result) {
				if res[len(res)-1].Err != nil {
					b.Error(res[len(res)-1].Err)
				}
				<-slots
				calls.Done()
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		calls.Wait()
		ours += time.Since(start)
		start = time.Now()
		for range row {
			write(spool.EncodeBlock(1, 1, recs))
		}
		plain += time.Since(start)
		start = time.Now()
		for range row {
			write(bare)
		}
		raw += time.Since(start)
	}
	b.ReportMetric(float64(8*n*b.N)/ours.Seconds(), "records/s")
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "of-plain-log")
	b.ReportMetric(raw.Seconds()/ours.Seconds(), "of-bare-append")
}

func benchStream(b *testing.B, shards int) *spool.Stream {
	b.Helper()
	s, err := spool.Open(b.Context(), b.TempDir(), spool.Config{Quota: 2 << 30}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	st, err := s.Ensure(b.Context(), spool.StreamConfig{Name: "mqtt", Shards: shards})
	if err != nil {
		b.Fatal(err)
	}
	return st
}

// BenchmarkReplay reads a shard of 2 million records from its files.
func BenchmarkReplay(b *testing.B) {
	st := benchStream(b, 1)
	recs := make([]record.Record, 10_000)
	for i := range recs {
		recs[i] = record.Record{Key: fmt.Sprintf("press/line-%d/temp", i%50), Source: "bench", Data: make([]byte, 100)}
	}
	const total = 2_000_000
	for range total / len(recs) {
		if _, err := st.Put(b.Context(), recs); err != nil {
			b.Fatal(err)
		}
	}
	spool.DropCache(st)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for batch, err := range st.Scan(b.Context(), st.Shards()[0].ID, spool.Oldest()) {
			if err != nil {
				b.Fatal(err)
			}
			n += len(batch.Recs)
		}
	}
	if n != total*b.N {
		b.Fatalf("read %d records of %d", n, total*b.N)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkSeekTime finds the first record since a time among a million.
func BenchmarkSeekTime(b *testing.B) {
	st := benchStream(b, 1)
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		recs := make([]record.Record, 1000)
		for j := range recs {
			recs[j] = record.Record{Key: "k", Arrived: base.Add(time.Duration(i*1000+j) * time.Millisecond), Data: make([]byte, 100)}
		}
		if _, err := st.Put(b.Context(), recs); err != nil {
			b.Fatal(err)
		}
	}
	spool.DropCache(st)
	i := 0
	for b.Loop() {
		i = (i + 7919) % 1_000_000
		r, err := st.Reader(st.Shards()[0].ID, spool.Since(base.Add(time.Duration(i)*time.Millisecond)))
		if err != nil || r.Pos() != uint64(i+1) {
			b.Fatalf("since %d: at %d, %v", i, r.Pos(), err)
		}
		r.Close()
	}
}
