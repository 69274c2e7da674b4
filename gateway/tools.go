package main

import (
	"context"
	"fmt"

	"forebay/spool"
)

type spoolCmd struct {
	Check   spoolCheckCmd   `cmd:"" help:"Read a whole spool that no gateway has open and verify every checksum, sequence number and count. Changes nothing."`
	Backup  spoolBackupCmd  `cmd:"" help:"Write a running gateway's spool, or a closed one, to one file."`
	Verify  spoolVerifyCmd  `cmd:"" help:"Read a backup to its end and compare every file with its manifest."`
	Epoch   spoolEpochCmd   `cmd:"" name:"new-epoch" help:"Give a closed spool a new epoch when it is opened next: after its machine or disk was set back to a snapshot."`
	Restore spoolRestoreCmd `cmd:"" help:"Make a spool of a backup. It gets a new epoch when it is opened."`
	Rekey   spoolRekeyCmd   `cmd:"" help:"Wrap the keys of encrypted streams with another master key. The data is not touched."`
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
