// Package lane holds the words in which a pump and a sink talk: a lane, a
// batch of it, and the outcome of sending one. A lane is the unit of order:
// its records go out one batch at a time, in sequence, and a later record
// never overtakes an earlier one.
package lane

import (
	"time"

	"forebay/spool/record"
)

// A Lane is one shard of one local stream on its way to one target.
type Lane struct {
	Stream string
	Shard  record.ShardID
	// Hash is a point within the shard's range; sinks that route by hash send
	// everything of the lane there, so that a lane stays on one target shard.
	Hash record.HashKey
}

// A Batch is consecutive records of one lane. At most one is in flight. The
// records belong to the pump; a sink copies what it keeps beyond Send.
type Batch struct {
	Lane Lane
	Recs []record.Record
	// Backlog reports that more records are waiting behind this batch, so a
	// sink may choose larger units over lower delay.
	Backlog bool
}

// A Class says what kind of failure an outcome is, and so what the pump does.
type Class uint8

const (
	// OK: nothing failed.
	OK Class = iota
	// Throttled: the target asked for less; the pump slows the lane down.
	Throttled
	// Transient: not committed, worth trying again.
	Transient
	// Ambiguous: it may have been committed; it is sent again with the same ids.
	Ambiguous
	// Auth: credentials are refused; tried again, slowly, and shown.
	Auth
	// ClockSkew: the target says our clock is wrong.
	ClockSkew
	// Misconfigured: no such stream, no permission; tried again, slowly, and shown.
	Misconfigured
	// Poison: the record at the front can never be taken. The pump moves it to
	// the stream "refused" and goes on.
	Poison
	// Offline: the target cannot be reached.
	Offline
)

func (c Class) String() string {
	return [...]string{"ok", "throttled", "transient", "ambiguous", "auth", "clock-skew", "misconfigured", "poison", "offline"}[c]
}

// An Outcome says how many records from the front of a batch are safe at the
// far side, and why the rest is not.
type Outcome struct {
	// Done counts the records from the front that the far side acknowledged.
	Done int
	// Class and Err tell about the first record that is not done; OK and nil
	// when Done is the whole batch.
	Class Class
	Err   error
	// RetryAfter is the target's own wish, if it gave one.
	RetryAfter time.Duration
	// Bytes is what went over the link for this batch, headers not counted.
	Bytes int
}
