package points

import "forebay/spool/record"

// Take feeds records without a log.
func (k *Keeper) Take(stream string, recs []record.Record) { k.take(stream, recs) }
