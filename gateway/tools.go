package main

import (
	"context"
	"fmt"
	"time"

	"forebay/gateway/internal/bench"
	"forebay/spool"
)

type spoolCmd struct {
	Check spoolCheckCmd `cmd:"" help:"Read a whole spool and verify every checksum, sequence number and count. Changes nothing."`
	Rekey spoolRekeyCmd `cmd:"" help:"Wrap the keys of encrypted streams with another master key. The data is not touched."`
}

type spoolCheckCmd struct {
	Dir  string `arg:"" help:"The spool's directory (DATA/spool)." type:"existingdir"`
	JSON bool   `help:"Print JSON."`
}

func (c spoolCheckCmd) Run(ctx context.Context, e *env) error {
	rep, err := spool.Check(ctx, spoolDir(c.Dir))
	if err != nil {
		return err
	}
	if c.JSON {
		if err := printJSON(e.out, rep); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(e.out, "%s: format %d, %d streams, %d shards, %d segments, %d blocks, %d records, %d chunks, %s\n",
			rep.Dir, rep.Format, rep.Streams, rep.Shards, rep.Segments, rep.Blocks, rep.Records, rep.Chunks, size(rep.Bytes))
		for _, p := range rep.Problems {
			fmt.Fprintf(e.out, "problem: %s\n", p)
		}
		if len(rep.Problems) == 0 {
			fmt.Fprintln(e.out, "no problems")
		}
	}
	if len(rep.Problems) > 0 {
		return errProblems
	}
	return nil
}

type benchCmd struct {
	Spool benchSpoolCmd `cmd:"" help:"Measure durable appends beside a plain file that is appended to and synced."`
}

type benchSpoolCmd struct {
	Dir     string        `help:"Directory on the disk to measure; what is written there is removed again." default:"." type:"existingdir"`
	Payload int           `help:"Bytes a record." default:"100"`
	Slice   time.Duration `help:"How long each figure is measured." default:"700ms"`
	Rounds  int           `help:"How often each figure is measured." default:"5"`
	JSON    bool          `help:"Print JSON."`
}

func (c benchSpoolCmd) Run(ctx context.Context, e *env) error {
	if c.Payload < 1 || c.Payload > 100_000 || c.Rounds < 1 || c.Slice <= 0 {
		return fmt.Errorf("%w: --payload is 1 to 100000, --rounds at least 1, --slice above 0", errUsage)
	}
	rep, err := bench.Spool(ctx, bench.Options{Dir: c.Dir, Payload: c.Payload, Slice: c.Slice, Rounds: c.Rounds})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, rep)
	}
	fmt.Fprintf(e.out, "records of %d bytes, one caller that waits for the sync; median [min-max] of %d rounds\n", rep.Payload, rep.Rounds)
	err = table(e.out, "RECORDS/CALL\tSPOOL RECORDS/S\tPLAIN FILE RECORDS/S\tRATIO\tCALL P50\tP99", func(row func(string, ...any)) {
		for _, l := range rep.Lines {
			row("%d\t%.0f [%.0f-%.0f]\t%.0f [%.0f-%.0f]\t%.2f [%.2f-%.2f]\t%.2f ms\t%.2f ms", l.PerCall,
				l.Spool.Median, l.Spool.Min, l.Spool.Max, l.Plain.Median, l.Plain.Min, l.Plain.Max,
				l.Ratio.Median, l.Ratio.Min, l.Ratio.Max, l.CommitMS, l.P99MS)
		}
	})
	fmt.Fprintf(e.out, "replay %.0f records/s [%.0f-%.0f]; 4 KiB append+sync %.2f ms p50; %.0f bytes written per record\n",
		rep.Reads.Median, rep.Reads.Min, rep.Reads.Max, rep.FsyncMS.Median, rep.Written.Median)
	return err
}
