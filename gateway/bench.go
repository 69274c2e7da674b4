package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/bench"
)

type benchCmd struct {
	Spool  benchSpoolCmd `cmd:"" help:"Measure the spool beside a plain file that is appended to and synced."`
	Fill   benchFillCmd  `cmd:"" hidden:"" help:"Fill a spool until killed."`
	Reopen benchOpenCmd  `cmd:"" hidden:"" help:"Open a spool and say how long it took."`
}

type benchSpoolCmd struct {
	Dir      string        `help:"Directory on the disk to measure; what is written there is removed again." default:"." type:"existingdir"`
	Only     []string      `help:"Measure only these: append, sustained, lone, trickle, read, open." placeholder:"KIND"`
	Full     bool          `help:"The sizes the targets name: a minute of each load, 10 million records to read, 10 GB and 8,000 segments to reopen. Needs half an hour and 25 GB."`
	Payload  int           `help:"Bytes a record." default:"100"`
	Rounds   int           `help:"How often each append and replay is measured." default:"5"`
	Slice    time.Duration `help:"How long about a round of an append takes." default:"400ms"`
	Duration time.Duration `help:"How long the sustained loads and the trickle take (6s; full: 1m)." placeholder:"D"`
	Records  int           `help:"Records in the spool that is read (2000000; full: 10000000)." placeholder:"N"`
	Size     conf.Size     `help:"Bytes in the spool that is reopened (1GB; full: 10GB)." placeholder:"SIZE"`
	Segments int           `help:"Segments in the spool of small ones that is reopened (500; full: 8000)." placeholder:"N"`
	Warm     bool          `help:"Leave the page cache as it is; otherwise root empties it before reading and reopening."`
	JSON     bool          `help:"Print JSON."`
}

func (c benchSpoolCmd) Run(ctx context.Context, e *env) error {
	opt := bench.Options{
		Dir: c.Dir, Only: c.Only, Full: c.Full, Payload: c.Payload, Rounds: c.Rounds, Slice: c.Slice, Duration: c.Duration,
		Records: c.Records, Size: int64(c.Size), Segments: c.Segments, Settle: true, Cold: !c.Warm,
	}
	if err := opt.Check(); err != nil {
		return fmt.Errorf("%w: --%w", errUsage, err)
	}
	if c.Payload < 1 || c.Rounds < 1 || c.Slice <= 0 {
		return fmt.Errorf("%w: --payload and --rounds are at least 1, --slice is above 0", errUsage)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	opt.Child = func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, self, append([]string{"bench"}, args...)...)
	}
	opt.Progress = func(s string) { fmt.Fprintf(e.err, "%s %s\n", time.Now().Format(time.TimeOnly), s) }
	rep, err := bench.Spool(ctx, opt)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, rep)
	}
	return c.print(e, &rep)
}

// print writes two tables: the figures with their rivals and targets, and what
// each load cost in passing.
func (c benchSpoolCmd) print(e *env, rep *bench.Report) error {
	fmt.Fprintf(e.out, "%s, %d cores, load average %.2f at the start; records of %d bytes; median [min-max] of %d rounds, the final seal included\n",
		rep.System, rep.Cores, rep.Load, rep.Payload, rep.Rounds)
	err := table(e.out, "WORK\tFIGURE\tUNIT\tRIVAL\tRATIO\tTARGET\tVERDICT\tNOTE", func(row func(string, ...any)) {
		for i := range rep.Lines {
			l := &rep.Lines[i]
			rival, ratio, note := "", "", l.Note
			if r := l.Rival; r != nil {
				rival, ratio = r.Name+" "+r.Figure.String(), r.Ratio.String()
				for _, o := range r.Others {
					note += fmt.Sprintf("; ratio to a %s %v", o.Name, o.Ratio)
				}
			}
			row("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", l.Name(), l.Figure, l.Unit, rival, ratio, l.TargetText(), l.Verdict(), strings.TrimPrefix(note, "; "))
		}
	})
	if err != nil || !slices.ContainsFunc(rep.Lines, func(l bench.Line) bool { return l.Cost != nil }) {
		return err
	}
	fmt.Fprintln(e.out, "\nwhat each load cost; bytes written as handed to write calls / pages made dirty / told to the device (other programs included)")
	return table(e.out, "WORK\tCALL P50\tP99\tMAX\tCPU/RECORD\tWRITTEN/RECORD\tPER BYTE TAKEN\tRSS", func(row func(string, ...any)) {
		for i := range rep.Lines {
			l := &rep.Lines[i]
			if l.Cost == nil {
				continue
			}
			k := l.Cost
			row("%s\t%.2f ms\t%.2f ms\t%.1f ms\t%.0f ns\t%.0f / %.0f / %.0f\t%.2f / %.2f / %.2f\t%.0f MB", l.Name(), k.CallP50MS, k.CallP99MS, k.CallMaxMS, k.CPUNS,
				k.PerRecord.Calls, k.PerRecord.Process, k.PerRecord.Device, k.PerByte.Calls, k.PerByte.Process, k.PerByte.Device, k.PeakMB)
		}
	})
}

type benchFillCmd struct {
	Args []string `arg:""`
}

func (c benchFillCmd) Run(ctx context.Context, e *env) error { return bench.Fill(ctx, e.out, c.Args) }

type benchOpenCmd struct {
	Args []string `arg:""`
}

func (c benchOpenCmd) Run(ctx context.Context, e *env) error { return bench.Reopen(ctx, e.out, c.Args) }
