package spool

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"forebay/spool/record"
)

// OpenStill opens a spool that is there, for somebody who only reads it: no
// retention, no quota. What opening always does is done: the directory is
// locked, what a crash left unfinished is put in order, and a copy that wakes
// on another machine gets a new epoch. keyFile holds the master key where
// streams are encrypted; it may be empty where none is. Errors are those of Open; a directory
// that holds no spool is a *record.FormatError.
func OpenStill(ctx context.Context, dir, keyFile string, log *slog.Logger) (*Spool, error) {
	there, err := exists(filepath.Join(dir, "state.db"))
	if err == nil && !there {
		err = &record.FormatError{Path: dir, Reason: "is not a spool", Hint: "give the directory that holds state.db"}
	}
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	sm := systemSeam()
	sm.still = true
	return open(ctx, dir, Config{Quota: 1 << 60, FreeFloor: 1, KeyFile: keyFile}, log, sm)
}
