package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// versionOf is the format version of a file that is open.
func versionOf(ctx context.Context, db *database) (int, error) {
	var v int
	err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v)
	return v, err
}

// migrateState brings state.db to the version that this program writes: first
// it is copied to state.db.v and the old version's number, then it is changed
// in one transaction. A crash anywhere leaves a state.db of either version.
func migrateState(ctx context.Context, sm seam, db *database, path string) error {
	version, err := versionOf(ctx, db)
	if err != nil || version >= stateVersion {
		return err
	}
	if err := db.truncateWAL(ctx); err != nil {
		return fmt.Errorf("prepare the change from version %d: %w", version, storeError(err))
	}
	if err := sm.backup(path, fmt.Sprintf("%s.v%d", path, version)); err != nil {
		return fmt.Errorf("back up version %d: %w", version, storeError(err))
	}
	s := &stateDB{db: db}
	err = s.txn(ctx, func() error {
		// The checksum of an orderly close is over the old columns. Where it is
		// wrong it stays, and opening tells of it.
		if version >= 2 && checkState(ctx, db) == nil {
			if err := s.exec(ctx, "DELETE FROM meta WHERE key='sum'"); err != nil {
				return err
			}
		}
		for _, statements := range stateSchema[version+1:] {
			if err := db.run(ctx, statements...); err != nil {
				return err
			}
		}
		if version < 2 { // it had no ledger
			if err := s.exec(ctx, "UPDATE logs SET uncounted=-1"); err != nil {
				return err
			}
			if err := s.setMeta(ctx, "migrated", version); err != nil {
				return err
			}
		}
		return db.run(ctx, fmt.Sprintf("PRAGMA user_version=%d", stateVersion))
	})
	if err != nil {
		return fmt.Errorf("change version %d to %d: %w", version, stateVersion, storeError(err))
	}
	return nil
}

// backup copies a file that nobody writes, whole or not at all.
func (sm seam) backup(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return sm.replaceFrom(to, in)
}

// replace writes a file, whole or not at all.
func (sm seam) replace(to string, b []byte) error { return sm.replaceFrom(to, bytes.NewReader(b)) }

func (sm seam) replaceFrom(to string, in io.Reader) error {
	tmp := to + ".new"
	out, err := sm.disk.open(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(out, 0), in)
	if err == nil {
		err = out.sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, sm.disk.remove(tmp))
	}
	if err := sm.disk.rename(tmp, to); err != nil {
		return err
	}
	return sm.disk.syncDir(filepath.Dir(to))
}
