// Package bench measures this machine: what the spool does here, each figure
// beside the plainest thing that is as safe, on the same bytes in the same run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// Options of the measurement; zero means the default of the short form.
type Options struct {
	Dir      string        // on the disk to measure; default the working directory
	Full     bool          // the sizes that the targets name, instead of a few minutes' worth
	Rounds   int           // of each append; default 5
	Payload  int           // bytes a record; default 100. The targets are for 100
	Slice    time.Duration // about how long one round of an append lasts; default 400 ms
	Duration time.Duration // of the sustained loads and the trickle; default 6 s, full 60 s
	Records  int           // in the spool that is read; default 2,000,000, full 10,000,000
	Size     int64         // bytes in the spool that is reopened; default 1 GB, full 10 GB
	Segments int           // small segments in the other one; default 500, full 8,000
	Idle     time.Duration // how long a reopened spool rests before its memory is counted; default 5 s
	Settle   bool          // let the disk come to rest before each round
	Cold     bool          // empty the page cache before reads and reopens, where we are root
	Only     []string      // kinds to measure, see Kinds; default all
	// Child makes a command that runs Fill or Reopen in a process of its own
	// with these arguments: what is killed, and whose memory is counted.
	// Without it the kind "open" is left out.
	Child func(ctx context.Context, args ...string) *exec.Cmd
	// Progress is told what is measured next; nil tells nobody.
	Progress func(string)
}

// Kinds of figures that Options.Only may name, in the order they are measured.
func Kinds() []string { return []string{"append", "sustained", "lone", "trickle", "read", "open"} }

// Check says which option is impossible; the error begins with its name.
func (o Options) Check() error {
	for _, k := range o.Only {
		if !slices.Contains(Kinds(), k) {
			return fmt.Errorf("only: %q is not one of %v", k, Kinds())
		}
	}
	switch {
	case o.Rounds < 0:
		return fmt.Errorf("rounds: %d is less than 1", o.Rounds)
	case o.Payload < 0 || o.Payload > 100_000:
		return fmt.Errorf("payload: %d is not 1 to 100000", o.Payload)
	case o.Slice < 0 || o.Duration < 0:
		return errors.New("slice and duration: must be above 0")
	case o.Records < 0 || o.Size < 0 || o.Segments < 0:
		return errors.New("records, size and segments: must be above 0")
	}
	return nil
}

func (o Options) withDefaults() Options {
	duration, records, size, segments := 6*time.Second, 2_000_000, int64(1e9), 500
	if o.Full {
		duration, records, size, segments = time.Minute, 10_000_000, 10e9, 8000
	}
	or := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	or(&o.Rounds, 5)
	or(&o.Payload, 100)
	or(&o.Records, records)
	or(&o.Segments, segments)
	if o.Slice == 0 {
		o.Slice = 400 * time.Millisecond
	}
	if o.Idle == 0 {
		o.Idle = 5 * time.Second
	}
	if o.Duration == 0 {
		o.Duration = duration
	}
	if o.Size == 0 {
		o.Size = size
	}
	if len(o.Only) == 0 {
		o.Only = Kinds()
	}
	return o
}

// A bench is one run.
type bench struct {
	Options
	dir string
	rep *Report
}

// Spool measures the spool. Everything it writes is in a directory of its own,
// removed at the end.
func Spool(ctx context.Context, opt Options) (rep Report, err error) {
	if err := opt.Check(); err != nil {
		return rep, err
	}
	opt = opt.withDefaults()
	dir, err := os.MkdirTemp(opt.Dir, "forebay-bench-")
	if err != nil {
		return rep, fmt.Errorf("make a directory to measure in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep = Report{
		Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Load: loadAverage(), Device: deviceOf(dir),
		Payload: opt.Payload, Rounds: opt.Rounds, Full: opt.Full,
	}
	b := &bench{Options: opt, dir: dir, rep: &rep}
	kinds := map[string]func(context.Context) error{
		"append": b.appends, "sustained": b.sustained, "lone": b.lone, "trickle": b.trickle, "read": b.reads, "open": b.opens,
	}
	for _, k := range Kinds() {
		if !slices.Contains(opt.Only, k) {
			continue
		}
		if err := kinds[k](ctx); err != nil {
			return rep, fmt.Errorf("measure %s: %w", k, err)
		}
	}
	return rep, nil
}

func (b *bench) tell(format string, args ...any) {
	if b.Progress != nil {
		b.Progress(fmt.Sprintf(format, args...))
	}
}

func (b *bench) settle() {
	if b.Settle {
		settle()
	}
}

func (b *bench) add(l Line) { b.rep.Lines = append(b.rep.Lines, l) }

// open makes a new spool in a directory of its own, or opens the one there.
func (b *bench) open(ctx context.Context, name string, cfg spool.Config) (*spool.Spool, error) {
	cfg.Gateway = "bench"
	s, err := spool.Open(ctx, filepath.Join(b.dir, name), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("open a spool to measure: %w", err)
	}
	return s, nil
}

func (b *bench) remove(name string) error { return os.RemoveAll(filepath.Join(b.dir, name)) }

func makeStream(ctx context.Context, s *spool.Spool, name string, shards int) (*spool.Stream, error) {
	st, err := s.Ensure(ctx, spool.StreamConfig{Name: streamName(name), Shards: shards, Class: record.ClassTelemetry})
	if err != nil {
		return nil, fmt.Errorf("make a stream to measure: %w", err)
	}
	return st, nil
}

// shardKeys is a partition key for each shard of the stream.
func shardKeys(st *spool.Stream) []string {
	shards := st.Shards()
	keys := make([]string, len(shards))
	for i, left := 0, len(keys); left > 0; i++ {
		k := fmt.Sprintf("line-%d/temp", i)
		h := record.HashOf(k)
		for j, sh := range shards {
			if keys[j] == "" && h.Compare(sh.From) >= 0 && h.Compare(sh.To) <= 0 {
				keys[j] = k
				left--
			}
		}
	}
	return keys
}

// put stores records and waits for the commit.
func put(ctx context.Context, st *spool.Stream, recs []record.Record) error {
	res, err := st.Put(ctx, recs)
	for i := range res {
		if res[i].Err != nil {
			return res[i].Err
		}
	}
	return err
}
