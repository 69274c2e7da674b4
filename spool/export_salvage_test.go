package spool

import (
	"context"
	"errors"

	"forebay/spool/record"
)

// Unname takes a shard out of a segment's head, as if it could not be written
// there.
func Unname(ctx context.Context, path string, shard record.ShardID) error {
	db, err := openDatabase(ctx, path, openWrite, "")
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "DELETE FROM heads WHERE shard=?", shard)
	var sum uint32
	if err == nil {
		sum, err = metaSum(ctx, db)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, "UPDATE meta SET crc=?", int64(sum))
	}
	return errors.Join(err, db.truncateWAL(ctx), db.Close())
}
