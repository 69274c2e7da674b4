package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"forebay/spool"
)

type spoolBackupCmd struct {
	door
	To    string `arg:"" help:"File to write, or a directory in which a file is made that is named by gateway and time; - is standard output." placeholder:"FILE"`
	Spool string `help:"Back up this spool, which no gateway has open, instead of asking a running gateway." type:"existingdir" placeholder:"DIR"`
	JSON  bool   `help:"Print the manifest as JSON."`
}

// Run writes to NAME.partial, syncs it and gives it its name only when the
// backup was read to its end and is whole.
func (c spoolBackupCmd) Run(ctx context.Context, e *env) error {
	if c.To == "-" {
		rep, err := c.write(ctx, e.out)
		if err == nil {
			fmt.Fprintln(e.err, summary("standard output", rep))
		}
		return err
	}
	to := c.To
	into := false
	if fi, err := os.Stat(to); err == nil {
		if into = fi.IsDir(); !into {
			return fmt.Errorf("%s is there already; a backup never overwrites another", to)
		}
		to = filepath.Join(to, time.Now().UTC().Format("forebay-20060102T150405Z")+".tar")
	}
	f, err := os.OpenFile(to+".partial", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write the backup: %w (another backup is writing it, or one broke off: then delete it)", err)
	}
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	rep, err := c.write(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if into {
		to = filepath.Join(c.To, rep.Gateway+rep.Taken.UTC().Format("-20060102T150405Z")+".tar")
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write the backup: %s is there already; this one is %s", to, f.Name())
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if c.JSON {
		return printJSON(e.out, rep)
	}
	_, err = fmt.Fprintln(e.out, summary(to, rep))
	return err
}

// write writes the backup and reads it while it passes, so that only what
// Restore would take counts as written.
func (c spoolBackupCmd) write(ctx context.Context, w io.Writer) (spool.BackupReport, error) {
	if c.Spool != "" {
		return spool.BackupDir(ctx, spoolDir(c.Spool), w)
	}
	cl, err := c.client()
	if err != nil {
		return spool.BackupReport{}, err
	}
	defer cl.Close()
	body, err := cl.Backup(ctx)
	if err != nil {
		return spool.BackupReport{}, err
	}
	defer body.Close()
	return spool.VerifyBackup(ctx, io.TeeReader(body, w))
}

// syncDir makes the names in a directory durable where the system can.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	_ = f.Sync() // not every system syncs directories
	return f.Close()
}

func summary(where string, r spool.BackupReport) string {
	s := fmt.Sprintf("%s: gateway %s, epoch %s, %d logs, %d files, %s, as of %s", where, r.Gateway, r.Epoch, r.Logs, len(r.Files), size(r.Bytes), r.Taken.Format(time.RFC3339))
	if r.Expired > 0 {
		s += fmt.Sprintf("; retention removed %d old segments meanwhile, they are not in it", r.Expired)
	}
	if len(r.Damaged) > 0 {
		s += "; damaged and in it as they lie: " + strings.Join(r.Damaged, ", ")
	}
	return s
}

// openBackup opens a backup's file; - is standard input.
func openBackup(path string, e *env) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(e.in), nil
	}
	return os.Open(path)
}

type spoolVerifyCmd struct {
	Backup string `arg:"" help:"Backup to read; - is standard input."`
	JSON   bool   `help:"Print the manifest as JSON."`
}

func (c spoolVerifyCmd) Run(ctx context.Context, e *env) error {
	f, err := openBackup(c.Backup, e)
	if err != nil {
		return err
	}
	defer f.Close()
	rep, err := spool.VerifyBackup(ctx, f)
	if _, ok := errors.AsType[*spool.BackupError](err); ok {
		fmt.Fprintf(e.out, "%s: %v\n", c.Backup, err)
		return errProblems
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, rep)
	}
	_, err = fmt.Fprintln(e.out, summary(c.Backup, rep))
	return err
}

type spoolRestoreCmd struct {
	Backup string `arg:"" help:"Backup to read; - is standard input."`
	To     string `help:"Directory to make, such as DATA/spool; it must not be there, or be empty." required:"" placeholder:"DIR"`
}

func (c spoolRestoreCmd) Run(ctx context.Context, e *env) error {
	f, err := openBackup(c.Backup, e)
	if err != nil {
		return err
	}
	defer f.Close()
	rep, err := spool.Restore(ctx, f, c.To)
	if err != nil {
		return err
	}
	fmt.Fprintln(e.out, summary(c.To, rep))
	_, err = fmt.Fprintln(e.out, "it gets a new epoch when it is opened; what it holds keeps its ids")
	return err
}

type spoolEpochCmd struct {
	Dir string `arg:"" help:"The spool's directory (DATA/spool)." type:"existingdir"`
}

func (c spoolEpochCmd) Run(ctx context.Context, e *env) error {
	if err := spool.NewEpoch(ctx, spoolDir(c.Dir)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.out, "%s gets a new epoch when it is opened; what it holds keeps its ids\n", spoolDir(c.Dir))
	return err
}
