package spool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// SQLite does not notice a flipped bit, and state.db has names and numbers that
// nothing else guards. So an orderly close writes a checksum of all of it, and
// the next opening compares. Between the two, after a crash, there is none.

// stateSum is the checksum of every table of state.db but of itself.
func stateSum(ctx context.Context, db *database) (string, error) {
	var tables []string
	err := each(ctx, db, "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%' ORDER BY name", func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		tables = append(tables, name)
		return err
	})
	if err != nil {
		return "", err
	}
	h := crc32.New(castagnoli)
	for _, t := range tables {
		query := "SELECT * FROM \"" + t + "\""
		if t == "meta" {
			query += " WHERE key<>'sum'"
		}
		rows, err := db.QueryContext(ctx, query)
		if err != nil {
			return "", err
		}
		if err := sumRows(h, rows); err != nil {
			return "", err
		}
	}
	return strconv.FormatUint(uint64(h.Sum32()), 16), nil
}

// sealState writes the checksum; it comes last in the transaction that closes
// the state.
func (s *stateDB) sealState(ctx context.Context) error {
	sum, err := stateSum(ctx, s.db)
	if err != nil {
		return err
	}
	return s.setMeta(ctx, "sum", sum)
}

// checkState compares the checksum of a state that was closed in order. A state
// of an older build has none.
func checkState(ctx context.Context, db *database) error {
	var want string
	err := db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key='sum'").Scan(&want)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return asDamage(err)
	}
	got, err := stateSum(ctx, db)
	if err == nil && got != want {
		err = fmt.Errorf("%w: its checksum is wrong; names of streams, cursors and counts in it may not be what they were", errDamaged)
	}
	return asDamage(err)
}
