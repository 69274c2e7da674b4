// Package powertest measures what a disk does for a log: how long a sync takes
// and whether it seems to reach the disk, how fast bytes go down for longer
// than a moment, how soon the load wears the disk out; and says what follows
// in words. What it measured and what it says are apart: Measure makes Facts,
// and Judge, which touches nothing, makes sentences of them.
package powertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Options say what is measured; zero means the default.
type Options struct {
	Dir     string        // on the disk to measure; what is written there is removed again
	Slice   time.Duration // how long each latency is measured; default 1 s
	Sync    time.Duration // how long the sync is measured by which the disk is judged; default Slice
	Sustain time.Duration // how long the sustained rate is measured at most; default 5 s
	Bytes   int64         // that the sustained rate writes at most; default 512 MiB, and never more than a quarter of what is free
}

// A Latency is how long a step took, in milliseconds.
type Latency struct {
	N       int     `json:"n"`       // how often it was measured
	Seconds float64 `json:"seconds"` // in how long
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
}

// Facts is what was measured and looked up. A zero or empty value means that
// it was not measured, or that this system does not tell.
type Facts struct {
	Dir        string `json:"dir"`
	System     string `json:"system"` // operating system
	FileSystem string `json:"file_system,omitempty"`
	Options    string `json:"mount_options,omitempty"` // comma separated
	Total      int64  `json:"total_bytes"`             // of the file system
	Free       int64  `json:"free_bytes"`
	Device     Device `json:"device"`

	Grow      Latency `json:"sync_growing_file"` // 4 KiB appended and synced
	Overwrite Latency `json:"sync_written_file"` // 4 KiB written over and synced
	DSync     Latency `json:"o_dsync"`           // 4 KiB written over, opened with O_DSYNC
	Commit    Latency `json:"commit"`            // of one record of 100 bytes by the spool

	RecordBytes  float64 `json:"written_per_lone_record_bytes"`
	BurstRate    float64 `json:"burst_bytes_per_second"`     // 32 MiB written, then one sync: the slowest of some
	BurstS       float64 `json:"burst_seconds"`              // all of them
	SustainRate  float64 `json:"sustained_bytes_per_second"` // 1 MiB and a sync by turns
	LastRate     float64 `json:"last_quarter_bytes_per_second"`
	SustainBytes int64   `json:"sustained_bytes"`
	SustainS     float64 `json:"sustained_seconds"`
	Written      int64   `json:"written_bytes"` // by the test, about

	Load Load `json:"load"`
}

// A Device is the disk below, as far as the system tells.
type Device struct {
	Name       string `json:"name,omitempty"`
	Kind       string `json:"kind,omitempty"` // emmc, sd, nvme, ssd, disk, virtual, stacked
	Model      string `json:"model,omitempty"`
	WriteCache string `json:"write_cache,omitempty"` // "write back" or "write through"
	Bytes      int64  `json:"bytes,omitempty"`
	// LifeUsed is how much of its life an eMMC says is used, percent; -1 where
	// it does not tell.
	LifeUsed int `json:"life_used_percent"`
}

// A Load is what the disk has to bear.
type Load struct {
	From        string  `json:"from,omitempty"` // a gateway, flags; empty: not known
	BytesPerDay float64 `json:"written_bytes_per_day"`
	Over        float64 `json:"over_seconds,omitempty"` // how long the gateway was watched
	Rate        float64 `json:"records_per_second,omitempty"`
	Size        float64 `json:"record_bytes,omitempty"`
}

const (
	page      = 4 << 10
	region    = 1 << 20 // that is written over
	burst     = 32 << 20
	bursts    = 4
	stride    = 1 << 20
	maxRounds = 2_000  // of a latency
	maxSyncs  = 20_000 // of the one that is judged: a quick disk takes a second for so many
)

// Measure measures the disk that opt.Dir lies on. It takes about four slices
// and the sustained time. ctx ends it early; whatever way it ends, what it
// wrote is removed.
func Measure(ctx context.Context, opt Options) (f Facts, err error) {
	if opt.Slice <= 0 {
		opt.Slice = time.Second
	}
	if opt.Sync <= 0 {
		opt.Sync = opt.Slice
	}
	if opt.Sustain <= 0 {
		opt.Sustain = 5 * time.Second
	}
	if opt.Bytes <= 0 {
		opt.Bytes = 512 << 20
	}
	if f, err = look(opt.Dir); err != nil {
		return f, fmt.Errorf("look at %s: %w", opt.Dir, err)
	}
	if opt.Bytes < 2*burst {
		return f, fmt.Errorf("%s are too few to measure the disk with; at least %s are needed", bytesText(float64(opt.Bytes)), bytesText(2*burst))
	}
	opt.Bytes = min(opt.Bytes, f.Free/4)
	if opt.Bytes < 2*burst {
		return f, fmt.Errorf("%s has only %s free; at least %s are needed to measure it", opt.Dir, bytesText(float64(f.Free)), bytesText(8*burst))
	}
	dir, err := os.MkdirTemp(opt.Dir, "forebay-powertest-")
	if err != nil {
		return f, fmt.Errorf("write to the disk: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil {
			err = errors.Join(err, fmt.Errorf("remove what was written: %w", e))
		}
	}()
	m := &measurer{opt: opt, dir: dir, facts: &f}
	for _, step := range []func(context.Context) error{m.grow, m.overwrite, m.dsync, m.commit, m.burst, m.sustain} {
		if err := ctx.Err(); err != nil {
			return f, context.Cause(ctx)
		}
		if err := step(ctx); err != nil {
			return f, err
		}
	}
	return f, nil
}

type measurer struct {
	opt   Options
	dir   string
	facts *Facts
}

// rounds calls f until the slice is over and says how long the calls took.
func (m *measurer) rounds(ctx context.Context, f func(i int) error) (Latency, error) {
	return rounds(ctx, m.opt.Slice, maxRounds, f)
}

// rounds calls f for a time, but not more than so often, and at least five
// times.
func rounds(ctx context.Context, length time.Duration, most int, f func(i int) error) (Latency, error) {
	var took []time.Duration
	began := time.Now()
	for len(took) < most && (len(took) < 5 || time.Since(began) < length) {
		if err := ctx.Err(); err != nil {
			return Latency{}, context.Cause(ctx)
		}
		start := time.Now()
		if err := f(len(took)); err != nil {
			return Latency{}, err
		}
		took = append(took, time.Since(start))
	}
	return latencyOf(took, time.Since(began)), nil
}

func latencyOf(took []time.Duration, within time.Duration) Latency {
	slices.Sort(took)
	at := func(part float64) float64 {
		return took[min(int(part*float64(len(took))), len(took)-1)].Seconds() * 1e3
	}
	return Latency{N: len(took), Seconds: within.Seconds(), P50: at(0.5), P99: at(0.99)}
}

// noise is n bytes that cannot be packed.
func noise(n int) []byte {
	b := make([]byte, n)
	x := uint64(0x9e3779b97f4a7c15)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func (m *measurer) file(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(m.dir, name), os.O_RDWR|os.O_CREATE|flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write to the disk: %w", err)
	}
	return f, nil
}

func (m *measurer) grow(ctx context.Context) (err error) {
	f, err := m.file("grow", 0)
	if err != nil {
		return err
	}
	b := noise(page)
	m.facts.Grow, err = m.rounds(ctx, func(i int) error {
		m.facts.Written += page
		if _, err := f.WriteAt(b, int64(i)*page); err != nil {
			return err
		}
		return f.Sync()
	})
	return closing("sync a growing file", f, err)
}

func (m *measurer) overwrite(ctx context.Context) (err error) {
	f, err := m.written(0)
	if err != nil {
		return err
	}
	b := noise(page)
	m.facts.Overwrite, err = rounds(ctx, m.opt.Sync, maxSyncs, func(i int) error {
		m.facts.Written += page
		if _, err := f.WriteAt(b, int64(i)*page%region); err != nil {
			return err
		}
		return f.Sync()
	})
	return closing("sync a written file", f, err)
}

// written is a file that lies on the disk already.
func (m *measurer) written(flag int) (*os.File, error) {
	f, err := m.file("written", flag)
	if err != nil {
		return nil, err
	}
	m.facts.Written += region
	_, err = f.WriteAt(noise(region), 0)
	if err = errors.Join(err, f.Sync()); err != nil {
		return nil, closing("write a file", f, err)
	}
	return f, nil
}

func (m *measurer) dsync(ctx context.Context) error {
	if oDSync == 0 {
		return nil // this system has no such thing
	}
	f, err := m.written(oDSync)
	if err != nil {
		return err
	}
	b := noise(page)
	m.facts.DSync, err = m.rounds(ctx, func(i int) error {
		m.facts.Written += page
		_, err := f.WriteAt(b, int64(i)*page%region)
		return err
	})
	return closing("write with O_DSYNC", f, err)
}

// burst fills the system's cache and asks for all of it at once: a sync that
// returns sooner than the disk can write did not wait for it. One alone may meet
// a quiet moment of the disk: it is done some times, and the slowest counts.
func (m *measurer) burst(ctx context.Context) error {
	slowest := time.Duration(0)
	for i := int64(0); i < min(bursts, m.opt.Bytes/(2*burst)) && m.facts.BurstS < 2; i++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took, err := m.oneBurst()
		if err != nil {
			return err
		}
		slowest = max(slowest, took)
		m.facts.BurstS += took.Seconds()
	}
	m.facts.BurstRate = burst / slowest.Seconds()
	return nil
}

func (m *measurer) oneBurst() (took time.Duration, err error) {
	f, err := m.file("burst", 0)
	if err != nil {
		return 0, err
	}
	b := noise(stride)
	start := time.Now()
	for off := int64(0); off < burst && err == nil; off += stride {
		_, err = f.WriteAt(b, off)
	}
	if err == nil {
		err = f.Sync()
	}
	took = time.Since(start)
	m.facts.Written += burst
	return took, m.drop(closing("write a burst", f, err), "burst")
}

func (m *measurer) sustain(ctx context.Context) error {
	f, err := m.file("sustain", 0)
	if err != nil {
		return err
	}
	b := noise(stride)
	var marks []time.Duration // when each MiB was down
	start := time.Now()
	for off := int64(0); err == nil && off < m.opt.Bytes && time.Since(start) < m.opt.Sustain; off += stride {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		if _, err = f.WriteAt(b, off); err == nil {
			err = f.Sync()
		}
		marks = append(marks, time.Since(start))
	}
	if n := len(marks); err == nil && n > 0 {
		total := marks[n-1]
		m.facts.SustainBytes, m.facts.SustainS = int64(n)*stride, total.Seconds()
		m.facts.SustainRate = float64(n) * stride / total.Seconds()
		if from := n - n/4 - 1; n >= 16 {
			m.facts.LastRate = float64(n-1-from) * stride / (total - marks[from]).Seconds()
		}
	}
	m.facts.Written += int64(len(marks)) * stride
	return m.drop(closing("write for longer", f, err), "sustain")
}

// drop removes a file that takes room.
func (m *measurer) drop(err error, name string) error {
	if e := os.Remove(filepath.Join(m.dir, name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

func closing(what string, f *os.File, err error) error {
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
