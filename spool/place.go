package spool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"forebay/spool/record"
)

// settleEpoch gives the spool a new epoch where its directory may be a copy:
// on another machine, at another place, or restored from a backup. Numbers
// that two copies give to different records then never make the same id. It
// returns the place, to be stored together with the epoch, and why there is a
// new one; empty where there is none. there is false where the spool was made
// just now.
func (s *Spool) settleEpoch(ctx context.Context, sameMachine, there bool) (place, reborn string, err error) {
	place = placeOf(s.dir)
	if !there {
		return place, "", nil
	}
	was, err := s.state.meta(ctx, "place")
	if err != nil || sameMachine && was == place {
		return place, "", err
	}
	restored, err := s.state.meta(ctx, "restored")
	if err != nil {
		return place, "", err
	}
	why := "the spool was copied or moved"
	switch {
	case was == "" && restored != "":
		why = "the spool was restored from a backup"
	case !sameMachine:
		why = "the spool woke on another machine"
	case was == "":
		why = "it was not known where the spool lay"
	}
	old := s.identity.Epoch
	s.identity.Epoch = newEpoch()
	s.log.Info("spool has a new epoch; what was stored before keeps its ids", "epoch", s.identity.Epoch.String(), "was", old.String(), "because", why)
	return place, why, nil
}

// NewEpoch lets the spool in dir, which no process has open, have a new epoch
// when it is opened next. It is for copies that cannot be told from outside: a
// machine or a disk that was set back to a snapshot. A spool in use is answered
// with a *LockedError.
func NewEpoch(ctx context.Context, dir string) error {
	if err := newEpochOf(ctx, dir); err != nil {
		return fmt.Errorf("give the spool a new epoch: %w", err)
	}
	return nil
}

func newEpochOf(ctx context.Context, dir string) error {
	there, err := exists(filepath.Join(dir, "state.db"))
	if err == nil && !there {
		err = &record.FormatError{Path: dir, Reason: "is not a spool", Hint: "give the directory that holds state.db"}
	}
	if err == nil {
		err = checkFormats(dir)
	}
	if err != nil {
		return err
	}
	unlock, err := lockForCheck(dir)
	if err != nil {
		return err
	}
	defer unlock()
	db, err := openState(ctx, systemSeam(), dir)
	if err != nil {
		return err
	}
	return errors.Join(db.run(ctx, "DELETE FROM meta WHERE key IN ('place', 'sum')"), db.Close())
}

// meta reads one value of the table meta as text; empty where there is none.
func (s *stateDB) meta(ctx context.Context, key string) (string, error) {
	var v string
	err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key=?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, err
}

func parseEpoch(text string) (record.Epoch, error) {
	var e record.Epoch
	if _, err := fmt.Sscanf(text, "%016x", (*uint64)(&e)); err != nil {
		return 0, fmt.Errorf("read the epoch %q: %w", text, err)
	}
	return e, nil
}

// placeOf tells where a spool lies, so that a copy of it does not look the
// same: its path and, as far as the system tells, its file of state, its file
// system and its disk. It is one line of text and is only compared.
func placeOf(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		abs = dir
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	parts := append([]string{abs}, fileMarks(filepath.Join(abs, "state.db"))...)
	return strings.Join(parts, "; ")
}

// firstLine is the trimmed content of a small file of the system, empty where
// there is none.
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(strings.Trim(line, "\x00"))
}

// ours reports whether the newest segment was begun under the name and epoch
// that count now. A segment's records have one origin.
func (l *commitLog) ours() bool {
	m := l.segs[len(l.segs)-1].knownMeta()
	return m != nil && m.origin == l.sp.origin
}

// beginOrigin opens a new segment for a new origin; the older ones are never
// written again. On a disk that takes no writes the writer tries again. wmu is
// held.
func (l *commitLog) beginOrigin(ctx context.Context) {
	old := l.segs[len(l.segs)-1]
	if l.written != 0 {
		old.closed.Store(l.written)
	}
	if err := l.openNext(ctx); err != nil {
		l.suspect = storeError(err)
		l.sp.raise("segment", 1, "a new segment of "+logDir(l.num)+" could not be opened: "+err.Error())
	}
}
