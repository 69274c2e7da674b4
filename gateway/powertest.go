package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/powertest"
)

type powertestCmd struct {
	door
	Dir     string        `arg:"" optional:"" help:"Directory on the disk to measure. Default: ./forebay-data if it is there, else the working directory." placeholder:"DIR"`
	Slice   time.Duration `help:"How long each latency is measured." default:"1s"`
	Sustain time.Duration `help:"How long the sustained rate is measured at most." default:"5s"`
	Bytes   conf.Size     `help:"How many bytes the sustained rate writes at most; never more than a quarter of what is free." default:"512MiB"`
	Rate    float64       `help:"Wear at a load of so many records a second, instead of a running gateway's." placeholder:"N"`
	Size    float64       `help:"Bytes of a record, with --rate." default:"100"`
	JSON    bool          `help:"Print JSON."`
}

func (c powertestCmd) Run(ctx context.Context, e *env) error {
	if c.Rate < 0 || c.Size < 0 || c.Slice <= 0 || c.Sustain <= 0 || c.Bytes < 0 {
		return fmt.Errorf("%w: --rate, --size and --bytes are at least 0, --slice and --sustain above 0", errUsage)
	}
	dir := c.Dir
	if dir == "" {
		dir = "."
		if fi, err := os.Stat("forebay-data"); err == nil && fi.IsDir() {
			dir = "forebay-data"
		}
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return fmt.Errorf("%w: %s is not a directory", errUsage, dir)
	}
	load, problem := c.present(ctx)
	if !c.JSON {
		fmt.Fprintf(e.err, "measuring the disk of %s for about %s\n", dir, (4*c.Slice + c.Sustain).Round(time.Second))
	}
	facts, err := powertest.Measure(ctx, powertest.Options{Dir: dir, Slice: c.Slice, Sustain: c.Sustain, Bytes: int64(c.Bytes)})
	if err != nil {
		return err
	}
	if facts.Load = load; c.Rate > 0 {
		facts.Load = facts.Modelled(c.Rate, c.Size)
	}
	said := powertest.Judge(facts)
	if c.JSON {
		err = printJSON(e.out, struct {
			powertest.Facts
			Findings []powertest.Finding `json:"findings"`
		}{facts, said})
	} else {
		err = c.print(e, facts, said, problem)
	}
	for _, s := range said {
		if s.Level == powertest.Danger && err == nil {
			err = errProblems
		}
	}
	return err
}

// present is what a running gateway's spool writes, on average since it was
// started.
func (c powertestCmd) present(ctx context.Context) (powertest.Load, error) {
	if c.Rate > 0 {
		return powertest.Load{}, nil
	}
	cl, err := c.client()
	if err != nil {
		return powertest.Load{}, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := cl.Status(ctx)
	if err != nil {
		return powertest.Load{}, err
	}
	written, err := cl.Metric(ctx, "forebay_disk_written_bytes_total")
	if err != nil { // where the kernel does not count
		written, err = cl.Metric(ctx, "forebay_spool_written_bytes_total")
	}
	if err != nil {
		return powertest.Load{}, err
	}
	up := max(st.Now.Sub(st.Started).Seconds(), 1)
	return powertest.Load{From: "The gateway " + st.Gateway, BytesPerDay: written / up * 86_400, Over: up}, nil
}

func (c powertestCmd) print(e *env, f powertest.Facts, said []powertest.Finding, problem error) error {
	or := func(s string) string {
		if s == "" {
			return "not known here"
		}
		return s
	}
	d := f.Device
	fmt.Fprintf(e.out, "%s: file system %s (%s), %s of %s free\n", f.Dir, or(f.FileSystem), or(f.Options), size(f.Free), size(f.Total))
	fmt.Fprintf(e.out, "disk: %s\n", or(strings.Join(strings.Fields(fmt.Sprint(d.Name, " ", d.Kind, " ", d.Model, " ", d.WriteCache)), " ")))
	err := table(e.out, "STEP\tTIMES\tP50\tP99", func(row func(string, ...any)) {
		for _, l := range []struct {
			what string
			powertest.Latency
		}{
			{"4 KiB appended and synced", f.Grow},
			{"4 KiB written over and synced", f.Overwrite},
			{"4 KiB written over with O_DSYNC", f.DSync},
			{"a lone record of 100 bytes, acknowledged", f.Commit},
		} {
			if l.N > 0 {
				row("%s\t%d\t%.3f ms\t%.3f ms", l.what, l.N, l.P50, l.P99)
			}
		}
	})
	fmt.Fprintf(e.out, "sustained %s/s over %.1f s (last quarter %s/s), 32 MiB and one sync %s/s, %s written per lone record; %s written in all\n",
		size(int64(f.SustainRate)), f.SustainS, size(int64(f.LastRate)), size(int64(f.BurstRate)), size(int64(f.RecordBytes)), size(f.Written))
	if problem != nil {
		fmt.Fprintf(e.out, "no load of a running gateway: %v\n", problem)
	}
	for _, s := range said {
		fmt.Fprintf(e.out, "%-7s  %s\n", s.Level, s.Text)
	}
	return err
}
