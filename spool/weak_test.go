package spool_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// The weak box: every sync takes 10 ms longer than on this machine, and 40 MB/s
// pass. One core and 512 MB besides, which .ci/bench-weak also holds the whole
// process to.
const (
	weakSync   = 10 * time.Millisecond
	weakRate   = 40e6
	weakMemory = 512 << 20
)

func weakDuration(b *testing.B) time.Duration {
	s := os.Getenv("FOREBAY_BENCH_DURATION")
	if s == "" {
		return 6 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// A weakBox is a spool on a weak disk, one core and little memory.
type weakBox struct {
	*testing.B
	disk *faultdisk.Disk
	sp   *spool.Spool
	took []time.Duration
	mu   sync.Mutex
}

func newWeakBox(b *testing.B) *weakBox {
	disk, err := faultdisk.New(false)
	if err != nil {
		b.Fatal(err)
	}
	procs, memory := runtime.GOMAXPROCS(1), debug.SetMemoryLimit(weakMemory)
	b.Cleanup(func() {
		runtime.GOMAXPROCS(procs)
		debug.SetMemoryLimit(memory)
		if err := disk.Close(); err != nil {
			b.Error(err)
		}
	})
	w := &weakBox{B: b, disk: disk}
	w.sp, err = spool.OpenWith(b.Context(), b.TempDir(), spool.Config{Quota: 2 << 30}, nil, spool.Faults(disk))
	if err != nil {
		b.Fatal(err)
	}
	return w
}

func (w *weakBox) stream(name string, shards int) *spool.Stream {
	st, err := w.sp.Ensure(w.Context(), spool.StreamConfig{Name: conf.Stream(name), Shards: shards})
	if err != nil {
		w.Fatal(err)
	}
	return st
}

func (w *weakBox) close() {
	if err := w.sp.Close(); err != nil {
		w.Error(err)
	}
}

func (w *weakBox) acked(since time.Time, res []record.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range res {
		if res[i].Err != nil {
			w.Error(res[i].Err)
		}
	}
	w.took = append(w.took, time.Since(since))
}

func (w *weakBox) percentile(q float64) float64 {
	slices.Sort(w.took)
	return w.took[min(len(w.took)-1, int(float64(len(w.took))*q))].Seconds() * 1e3
}

func weakTarget(b *testing.B, text string, met bool) {
	b.Logf("%s: %s", text, map[bool]string{true: "met", false: "MISSED"}[met])
}

// BenchmarkWeakTrickle is 800 devices with a record a second each, none of
// which knows of the others.
func BenchmarkWeakTrickle(b *testing.B) {
	d := weakDuration(b)
	for b.Loop() {
		w := newWeakBox(b)
		feeds := w.devices(200, 4)
		w.disk.SetSlow(weakSync, weakRate)
		w.trickle(feeds, 2*time.Second) // warms up
		w.took = nil
		before, commits := w.disk.Counts(), w.sp.Stats().Commits
		w.trickle(feeds, d)
		commits = w.sp.Stats().Commits - commits
		w.close()
		bytes := float64(w.disk.Counts().Bytes-before.Bytes) / float64(len(w.took))
		p99 := w.percentile(0.99)
		b.ReportMetric(w.percentile(0.5), "ack-p50-ms")
		b.ReportMetric(p99, "ack-p99-ms")
		b.ReportMetric(bytes, "written-B/record")
		b.ReportMetric(float64(len(w.took))/float64(max(commits, 1)), "records/commit")
		weakTarget(b, "ack p99 < 250 ms", p99 < 250)
		weakTarget(b, "<= 600 bytes written per record (the final seal included)", bytes <= 600)
	}
}

type device struct {
	st    *spool.Stream
	key   string
	phase time.Duration // within the second
}

func (w *weakBox) devices(streams, shards int) []device {
	rng := rand.New(rand.NewPCG(3, 4))
	var out []device
	for i := range streams {
		st := w.stream(fmt.Sprintf("device-%d", i), shards)
		for _, sh := range st.Shards() {
			out = append(out, device{st, keyIn(sh), time.Duration(rng.Int64N(int64(time.Second)))})
		}
	}
	slices.SortFunc(out, func(a, b device) int { return int(a.phase - b.phase) })
	return out
}

func keyIn(sh spool.Shard) string {
	for i := 0; ; i++ {
		k := fmt.Sprintf("line-%d/temp", i)
		if h := record.HashOf(k); h.Compare(sh.From) >= 0 && h.Compare(sh.To) <= 0 {
			return k
		}
	}
}

func (w *weakBox) trickle(devices []device, d time.Duration) {
	data := weakPayload(len(devices) * 100)
	var wg sync.WaitGroup
	began := time.Now()
	for i := 0; ; i++ {
		dev := devices[i%len(devices)]
		due := began.Add(time.Duration(i/len(devices))*time.Second + dev.phase)
		if due.Sub(began) >= d {
			break
		}
		<-time.After(time.Until(due))
		wg.Add(1)
		at := i % len(devices) * 100
		err := dev.st.Append(w.Context(), []record.Record{{Key: dev.key, Source: dev.key, Data: data[at : at+100]}}, func(res []record.Result) {
			w.acked(due, res)
			wg.Done()
		})
		if err != nil {
			w.Fatal(err)
		}
	}
	wg.Wait()
}

func weakPayload(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p) // never fails
	return p
}

// BenchmarkWeakFlood is producers that wait for each acknowledgement, and by
// turns a plain file on the same disk, one group of what waits per sync: median
// of five rounds, the final seal included. So many records wait at most, so
// that many a sync is all that any store could do: the ceiling.
func BenchmarkWeakFlood(b *testing.B) {
	for _, l := range []struct{ producers, perCall int }{{64, 1}, {256, 1}, {4, 100}, {4, 2500}} {
		b.Run(fmt.Sprintf("%dx%d", l.producers, l.perCall), func(b *testing.B) {
			for b.Loop() {
				weakFlood(b, l.producers, l.perCall)
			}
		})
	}
}

func weakFlood(b *testing.B, producers, perCall int) {
	const rounds = 5
	var ours, plain, ratio, p99 []float64
	for range rounds {
		w := newWeakBox(b)
		st := w.stream("flood", 4)
		w.disk.SetSlow(weakSync, weakRate)
		rate := w.flood(producers, perCall, func(ctx context.Context, recs []record.Record) error {
			began := time.Now()
			res, err := st.Put(ctx, recs)
			w.acked(began, res)
			return err
		}, w.close)
		f := w.plain()
		rival := w.flood(producers, perCall, f.put, f.close)
		ours, plain, ratio, p99 = append(ours, rate), append(plain, rival), append(ratio, rate/rival), append(p99, w.percentile(0.99))
	}
	for _, v := range [][]float64{ours, plain, ratio, p99} {
		slices.Sort(v)
	}
	ceiling := float64(producers*perCall) / weakSync.Seconds()
	b.ReportMetric(ours[rounds/2], "records/s")
	b.ReportMetric(plain[rounds/2], "plain-records/s")
	b.ReportMetric(ratio[rounds/2], "of-plain")
	b.ReportMetric(p99[rounds/2], "ack-p99-ms")
	b.Logf("records/s %.0f [%.0f-%.0f], plain %.0f [%.0f-%.0f], ratio %.2f [%.2f-%.2f], ceiling %.0f", ours[rounds/2], ours[0], ours[rounds-1],
		plain[rounds/2], plain[0], plain[rounds-1], ratio[rounds/2], ratio[0], ratio[rounds-1], ceiling)
	if ceiling > 10_000 {
		weakTarget(b, ">= 10,000 records/s durable", ours[rounds/2] >= 10_000)
	}
}

func (w *weakBox) flood(producers, perCall int, put func(context.Context, []record.Record) error, seal func()) float64 {
	d := weakDuration(w.B) / 10
	calls := make([]int, producers)
	var wg sync.WaitGroup
	began := time.Now()
	for p := range producers {
		recs := make([]record.Record, perCall)
		data := weakPayload(100 * perCall)
		fresh := make([]record.Record, perCall)
		for i := range fresh {
			fresh[i] = record.Record{Key: fmt.Sprintf("line-%d/temp", p), Source: fmt.Sprintf("source-%d", p), Data: data[i*100 : i*100+100]}
		}
		wg.Go(func() {
			for time.Since(began) < d {
				copy(recs, fresh)
				if err := put(w.Context(), recs); err != nil {
					w.Error(err)
					return
				}
				calls[p]++
			}
		})
	}
	wg.Wait()
	seal()
	n := 0
	for _, c := range calls {
		n += c * perCall
	}
	return float64(n) / time.Since(began).Seconds()
}

// A weakFile is the rival on the same disk: what waits is written together and
// shares a sync.
type weakFile struct {
	*weakBox
	f       *faultdisk.File
	mu      sync.Mutex
	wake    *sync.Cond
	waiting []byte
	done    chan struct{} // of the group that waits
	ended   chan struct{}
	closed  bool
}

func (w *weakBox) plain() *weakFile {
	f, err := w.disk.OpenFile(filepath.Join(w.TempDir(), "plain"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		w.Fatal(err)
	}
	p := &weakFile{weakBox: w, f: f, done: make(chan struct{}), ended: make(chan struct{})}
	p.wake = sync.NewCond(&p.mu)
	go p.run()
	return p
}

func (p *weakFile) put(_ context.Context, recs []record.Record) error {
	p.mu.Lock()
	for i := range recs {
		p.waiting = append(p.waiting, recs[i].Data...)
	}
	done := p.done
	p.wake.Signal()
	p.mu.Unlock()
	<-done
	return nil
}

func (p *weakFile) run() {
	defer close(p.ended)
	off := int64(0)
	for {
		p.mu.Lock()
		for len(p.waiting) == 0 && !p.closed {
			p.wake.Wait()
		}
		group, done := p.waiting, p.done
		p.waiting, p.done = nil, make(chan struct{})
		p.mu.Unlock()
		if len(group) == 0 {
			return
		}
		_, err := p.f.WriteAt(group, off)
		if err == nil {
			err = p.f.Sync()
		}
		if err != nil {
			p.Error(err)
		}
		off += int64(len(group))
		close(done)
	}
}

func (p *weakFile) close() {
	p.mu.Lock()
	p.closed = true
	p.wake.Signal()
	p.mu.Unlock()
	<-p.ended
	if err := p.f.Close(); err != nil {
		p.Error(err)
	}
}
