package spool_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// BenchmarkEncrypted appends the same records by turns to a plain and to an
// encrypted stream of one spool, and prints the median of encrypted to plain.
func BenchmarkEncrypted(b *testing.B) {
	for _, n := range []int{1, 100, 2500, 10_000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) { benchEncrypted(b, n) })
	}
}

func benchEncrypted(b *testing.B, n int) {
	key := filepath.Join(b.TempDir(), "master.key")
	if err := os.WriteFile(key, []byte(hex.EncodeToString(run(1, 32))), 0o600); err != nil {
		b.Fatal(err)
	}
	sp, err := spool.Open(b.Context(), b.TempDir(), spool.Config{KeyFile: key}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer sp.Close()
	rng := rand.NewChaCha8([32]byte{1})
	recs := make([]record.Record, n)
	for i := range recs {
		recs[i] = record.Record{Key: fmt.Sprintf("press/line-%d/temp", i%50), Source: "bench", Data: make([]byte, 100)}
		_, _ = rng.Read(recs[i].Data) // never fails
	}
	var streams [2]*spool.Stream
	for i, name := range []string{"plain", "sealed"} {
		st, err := sp.Ensure(b.Context(), spool.StreamConfig{Name: conf.Stream(name), Encrypt: i == 1, MaxBytes: 512 << 20})
		if err != nil {
			b.Fatal(err)
		}
		streams[i] = st
	}
	var took [2]time.Duration
	var ratios []float64
	slots := make(chan struct{}, 2) // one commit runs while the next is queued
	for round := 0; b.Loop(); round++ {
		var one [2]time.Duration
		for k := range 2 {
			i := (k + round) % 2 // neither is always the one that goes first
			var calls sync.WaitGroup
			start := time.Now()
			for range 8 {
				slots <- struct{}{}
				calls.Add(1)
				err := streams[i].Append(b.Context(), recs, func(res []record.Result) {
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
			one[i] = time.Since(start)
			took[i] += one[i]
		}
		ratios = append(ratios, float64(one[0])/float64(one[1]))
	}
	slices.Sort(ratios)
	total := float64(8 * n * len(ratios))
	b.ReportMetric(total/took[0].Seconds(), "plain-rec/s")
	b.ReportMetric(total/took[1].Seconds(), "sealed-rec/s")
	b.ReportMetric(ratios[len(ratios)/2], "sealed/plain")
}

// BenchmarkSeal is what sealing costs by itself.
func BenchmarkSeal(b *testing.B) {
	v, err := spool.NewVault(run(0, 32), 5, 9, run(64, 32))
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{200, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			plain := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, _, err := v.Seal(1, 1, plain, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
