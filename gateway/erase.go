package main

import (
	"context"
	"fmt"

	"forebay/spool"
)

type streamCmd struct {
	Erase streamEraseCmd `cmd:"" help:"Erase all records of an encrypted stream by deleting its key. Cannot be undone."`
}

type streamEraseCmd struct {
	door
	Stream string `arg:"" help:"Name of the stream."`
	Yes    bool   `help:"Yes, erase; without it nothing is done."`
	By     string `help:"Who erases." env:"USER" default:"operator"`
	JSON   bool   `help:"Print JSON."`
}

func (c streamEraseCmd) Run(ctx context.Context, e *env) error {
	if !c.Yes {
		return fmt.Errorf("%w: erasing cannot be undone; give --yes to erase all records of stream %q", errUsage, c.Stream)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	res, err := cl.Erase(ctx, c.Stream, c.By)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, res)
	}
	_, err = fmt.Fprintf(e.out, "stream %s: %s erased; backups made before hold their key still, wrapped: destroy them, or change the master key\n", res.Stream, count(res.Records, "record is", "records are"))
	return err
}

type spoolRekeyCmd struct {
	Dir string `arg:"" help:"The spool's directory (DATA/spool)." type:"existingdir"`
	Old string `help:"File with the master key that is in use." type:"existingfile" required:"" placeholder:"FILE"`
	New string `help:"File with the new master key: 32 bytes or 64 hexadecimal digits, mode 0600." type:"existingfile" required:"" placeholder:"FILE"`
}

func (c spoolRekeyCmd) Run(ctx context.Context, e *env) error {
	n, err := spool.Rekey(ctx, spoolDir(c.Dir), spool.Config{KeyFile: c.Old}, spool.Config{KeyFile: c.New})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.out, "%s wrapped with the new master key; set key_file to it, and destroy the old one when no backup needs it\n", count(n, "key is", "keys are"))
	return err
}
