package spool

import (
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
		for _, statements := range stateSchema[version+1:] {
			if err := db.run(ctx, statements...); err != nil {
				return err
			}
		}
		if err := s.exec(ctx, "UPDATE logs SET uncounted=-1"); err != nil {
			return err
		}
		if err := s.setMeta(ctx, "migrated", version); err != nil {
			return err
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
