// Package bench measures this machine: how fast the spool takes records here,
// beside the plainest thing that is as safe, a file that is appended to and
// synced.
package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// Options of the spool's measurement; zero means the default.
type Options struct {
	Dir     string        // on the disk to measure; default: a new directory in the working directory
	Payload int           // bytes a record; default 100
	Slice   time.Duration // how long one figure is measured; default 700 ms
	Rounds  int           // how often; default 5
}

// A Line is one figure: records handed over per call, and how fast. Rates are
// records per second, acknowledged after the sync; medians with the least and
// the greatest of the rounds.
type Line struct {
	PerCall  int     `json:"records_per_call"`
	Spool    Spread  `json:"spool_records_per_second"`
	Plain    Spread  `json:"plain_records_per_second"`
	Ratio    Spread  `json:"ratio"`
	CommitMS float64 `json:"spool_call_ms_p50"`
	P99MS    float64 `json:"spool_call_ms_p99"`
}

// A Spread is a median and what lies around it.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// A Report is what `forebay bench spool --json` prints.
type Report struct {
	Dir     string `json:"dir"`
	Payload int    `json:"payload_bytes"`
	Rounds  int    `json:"rounds"`
	Lines   []Line `json:"lines"`
	Reads   Spread `json:"replay_records_per_second"`
	FsyncMS Spread `json:"fsync_ms_p50"`
	Written Spread `json:"bytes_written_per_record"`
}

// Spool measures appends of 1, 100, 1,000 and 10,000 records per call, each
// acknowledged after the commit, by one caller that waits, beside an append of
// the same bytes to a plain file and fdatasync, by turns in the same run.
// Everything it writes is in a directory of its own, removed at the end.
func Spool(ctx context.Context, opt Options) (rep Report, err error) {
	opt.Payload, opt.Rounds = max(opt.Payload, 1), max(opt.Rounds, 1)
	dir, err := os.MkdirTemp(opt.Dir, "forebay-bench-")
	if err != nil {
		return rep, fmt.Errorf("make a directory to measure in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep = Report{Dir: dir, Payload: opt.Payload, Rounds: opt.Rounds}
	quiet := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(ctx, filepath.Join(dir, "spool"), spool.Config{Gateway: "bench"}, quiet)
	if err != nil {
		return rep, fmt.Errorf("open a spool to measure: %w", err)
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	stream, err := sp.CreateStream(ctx, spool.StreamConfig{Name: "bench", Shards: 1, Class: record.ClassTelemetry})
	if err != nil {
		return rep, fmt.Errorf("make a stream to measure: %w", err)
	}
	for _, n := range []int{1, 100, 1000, 10000} {
		l, err := appends(ctx, dir, stream, n, opt)
		if err != nil {
			return rep, err
		}
		rep.Lines = append(rep.Lines, l)
	}
	st := sp.Stats()
	if st.Records > 0 {
		w := float64(st.Written) / float64(st.Records)
		rep.Written = Spread{w, w, w}
	}
	reads := []float64{}
	for range opt.Rounds {
		v, err := replay(ctx, stream, opt.Slice)
		if err != nil {
			return rep, err
		}
		reads = append(reads, v)
	}
	rep.Reads = spread(reads)
	syncs := []float64{}
	for range opt.Rounds {
		v, err := fsyncs(dir, opt.Slice/4)
		if err != nil {
			return rep, err
		}
		syncs = append(syncs, v)
	}
	rep.FsyncMS = spread(syncs)
	return rep, nil
}

// appends measures one size of call, spool and plain by turns.
func appends(ctx context.Context, dir string, stream *spool.Stream, n int, opt Options) (Line, error) {
	recs := make([]record.Record, n)
	data := make([]byte, n*opt.Payload)
	fill(data)
	calls := []time.Duration{}
	inSpool := func() (time.Duration, error) {
		for i := range recs {
			recs[i] = record.Record{Key: "bench", Data: data[i*opt.Payload : (i+1)*opt.Payload]}
		}
		t := time.Now()
		res, err := stream.Put(ctx, recs)
		for _, r := range res {
			err = errors.Join(err, r.Err)
		}
		return time.Since(t), err
	}
	f, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		return Line{}, fmt.Errorf("make a plain file: %w", err)
	}
	inFile := func() (time.Duration, error) {
		t := time.Now()
		if _, err := f.Write(data); err != nil {
			return 0, err
		}
		err := datasync(f)
		return time.Since(t), err
	}
	var a, b, ratio []float64
	for range opt.Rounds {
		x, err := rate(ctx, n, opt.Slice, inSpool, &calls)
		if err != nil {
			return Line{}, errors.Join(fmt.Errorf("append to the spool: %w", err), f.Close())
		}
		y, err := rate(ctx, n, opt.Slice, inFile, nil)
		if err != nil {
			return Line{}, errors.Join(fmt.Errorf("append to a plain file: %w", err), f.Close())
		}
		a, b, ratio = append(a, x), append(b, y), append(ratio, x/y)
	}
	slices.Sort(calls)
	l := Line{PerCall: n, Spool: spread(a), Plain: spread(b), Ratio: spread(ratio)}
	if len(calls) > 0 {
		l.CommitMS = calls[len(calls)/2].Seconds() * 1e3
		l.P99MS = calls[len(calls)*99/100].Seconds() * 1e3
	}
	if err := f.Close(); err != nil {
		return l, fmt.Errorf("close the plain file: %w", err)
	}
	return l, os.Remove(f.Name())
}

func rate(ctx context.Context, n int, slice time.Duration, call func() (time.Duration, error), all *[]time.Duration) (float64, error) {
	var spent time.Duration
	done := 0
	for spent < slice {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		d, err := call()
		if err != nil {
			return 0, err
		}
		spent += d
		done += n
		if all != nil {
			*all = append(*all, d)
		}
	}
	return float64(done) / spent.Seconds(), nil
}

func replay(ctx context.Context, stream *spool.Stream, slice time.Duration) (float64, error) {
	began, n := time.Now(), 0
	for b, err := range stream.Scan(ctx, stream.Shards()[0].ID, spool.Oldest()) {
		if err != nil {
			return 0, fmt.Errorf("replay: %w", err)
		}
		n += len(b.Recs)
		if time.Since(began) > slice {
			break
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func fsyncs(dir string, slice time.Duration) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, fmt.Errorf("make a file to sync: %w", err)
	}
	buf := make([]byte, 4096)
	times := []time.Duration{}
	for began := time.Now(); time.Since(began) < slice || len(times) < 8; {
		t := time.Now()
		if _, err := f.Write(buf); err != nil {
			return 0, errors.Join(err, f.Close())
		}
		if err := datasync(f); err != nil {
			return 0, errors.Join(err, f.Close())
		}
		times = append(times, time.Since(t))
	}
	slices.Sort(times)
	return times[len(times)/2].Seconds() * 1e3, errors.Join(f.Close(), os.Remove(f.Name()))
}

// fill makes bytes that no disk compresses away (xorshift).
func fill(b []byte) {
	x := uint64(88172645463325252)
	for i := 0; i+8 <= len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
}

func spread(v []float64) Spread {
	s := slices.Sorted(slices.Values(v))
	return Spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}
